//! New data directories are made once and copied after that.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Context as _, Result};
use crate::place::Place;
use crate::programs::run;

/// A data directory named `name` in `place`, made by `make` into the path given to it, or copied from
/// what that made before with the same `recipe`: the program's version and its options.
pub(crate) fn data_directory(
    place: &Place,
    name: &str,
    recipe: &[&str],
    make: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    recipe.hash(&mut hasher);
    let templates = directory()?;
    let template = templates.join(format!("{:016x}", hasher.finish()));
    // One at a time, whichever process: the others find it made.
    let lock = File::create(templates.join("lock")).context(|| "cannot write a lock".to_owned())?;
    lock.lock().context(|| "cannot lock the templates".to_owned())?;
    if !template.exists() {
        let made = place.file("template");
        make(&made)?;
        let unfinished = templates.join("unfinished");
        run(Command::new("rm").arg("-rf").arg(&unfinished))?;
        run(Command::new("cp").arg("-a").arg(&made).arg(&unfinished))?;
        fs::rename(&unfinished, &template).context(|| format!("cannot rename {}", unfinished.display()))?;
        fs::remove_dir_all(&made).context(|| format!("cannot remove {}", made.display()))?;
    }
    drop(lock);
    place.copy_in(&template, name)
}

fn directory() -> Result<PathBuf> {
    let directory = crate::state::directory().join("templates");
    fs::create_dir_all(&directory).context(|| format!("cannot create {}", directory.display()))?;
    Ok(directory)
}
