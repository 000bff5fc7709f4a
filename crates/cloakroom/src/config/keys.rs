//! Keys, as text and in a file that only its owner may read.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use cloakroom_core::{KEY_COMMAND, KeyError, OsRandom, SecretKey};
use zeroize::Zeroizing;

use super::error::Refusal;

/// Reads keys, the first being the primary.
pub(super) fn parse<'a>(texts: impl Iterator<Item = &'a str>) -> Result<Vec<SecretKey>, Refusal> {
    let texts: Vec<_> = texts.collect();
    let mut keys = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        let key = SecretKey::parse(text).map_err(|error| {
            let refusal = Refusal::of(&error);
            let which = if texts.len() > 1 { format!("key {} of {}: ", index + 1, texts.len()) } else { String::new() };
            Refusal { why: format!("{which}{}", refusal.why), ..refusal }
        })?;
        keys.push(key);
    }
    Ok(keys)
}

/// The keys in the file, the first being the primary.
pub(super) fn read(path: &Path, shown: &Path) -> Result<Vec<SecretKey>, Refusal> {
    let file = File::open(path).map_err(|error| {
        // A key where its file should be named must not end up in the message about the missing file.
        if shown.to_str().is_some_and(|text| text.split(',').any(looks_like_a_key)) {
            Refusal::new("this is a key, not the path of a file", "name the file, or move the key to `keys`")
        } else {
            unusable(shown, &error)
        }
    })?;
    keys_of(file, shown)
}

/// The key in the file, which is made with a fresh one where there is none. Returns whether it was.
///
/// However many processes do this at once, all get the one key: the file is locked while it is
/// looked at and written.
pub(crate) fn read_or_generate(path: &Path, shown: &Path) -> Result<(Vec<SecretKey>, bool), Refusal> {
    let refuse = |error| unusable(shown, &error);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path).map_err(refuse)?;
    // Released when the file is closed, also by a crash.
    file.lock().map_err(refuse)?;
    let metadata = owner_only(&file, shown)?;
    if metadata.len() > 0 {
        return Ok((keys_of(file, shown)?, false));
    }
    let no_randomness = "give this process access to the system's random generator";
    let key =
        SecretKey::generate(&OsRandom::default()).map_err(|error| Refusal::new(error.to_string(), no_randomness))?;
    file.write_all(key.expose_base64().as_bytes()).map_err(refuse)?;
    file.write_all(b"\n").map_err(refuse)?;
    file.sync_all().map_err(refuse)?;
    Ok((vec![key], true))
}

/// The directory for what is made where nothing is configured: for its owner only, and never to be committed.
pub(crate) fn make_directory(path: &Path, shown: &Path) -> Result<(), Refusal> {
    let refuse = |error| unusable(shown, &error);
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).map_err(refuse)?;
    match OpenOptions::new().write(true).create_new(true).open(path.join(".gitignore")) {
        Ok(mut file) => file.write_all(b"*\n").map_err(refuse),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(refuse(error)),
    }
}

fn keys_of(mut file: File, shown: &Path) -> Result<Vec<SecretKey>, Refusal> {
    owner_only(&file, shown)?;
    let mut text = Zeroizing::new(String::new());
    file.read_to_string(&mut text).map_err(|error| unusable(shown, &error))?;
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    parse(lines.filter(|line| !line.is_empty()))
}

fn owner_only(file: &File, shown: &Path) -> Result<fs::Metadata, Refusal> {
    let metadata = file.metadata().map_err(|error| unusable(shown, &error))?;
    if is_open_to_others(&metadata) {
        let shown = shown.display();
        return Err(Refusal::new(
            format!("{shown} can be read or written by others than its owner"),
            format!("run `chmod 600 {shown}`; if others had access to it, replace its keys"),
        ));
    }
    Ok(metadata)
}

fn looks_like_a_key(text: &str) -> bool {
    match SecretKey::parse(text) {
        Ok(_) | Err(KeyError::Weak(_)) => true,
        Err(KeyError::Length(bytes)) => bytes >= 16,
        Err(_) => false,
    }
}

/// Whether anybody but the owner may do anything with the file.
pub(super) fn is_open_to_others(metadata: &fs::Metadata) -> bool {
    #[cfg(unix)]
    return std::os::unix::fs::MetadataExt::mode(metadata) & 0o077 != 0;
    #[cfg(not(unix))]
    {
        let _ = metadata;
        false
    }
}

fn unusable(shown: &Path, error: &io::Error) -> Refusal {
    let shown = shown.display();
    Refusal::new(
        format!("{shown} cannot be used: {error}"),
        format!("name a file that this process can read, with keys made by `{KEY_COMMAND}`"),
    )
}
