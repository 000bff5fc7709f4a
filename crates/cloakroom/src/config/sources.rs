//! Where settings come from: what the program says, then the file, then the environment.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use figment::providers::{Format as _, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};

use super::error::{Problem, Refusal};
use super::settings::{SETTINGS, is_known, setting_of, suggestion};

/// What a configuration is read from, the weakest first: what the program itself sets, the file
/// `cloakroom.toml` (or the one that `CLOAKROOM_CONFIG` names), the variables `CLOAKROOM_*`.
///
/// A value, so that a test, or a second configuration in one process, has sources of its own.
///
/// ```
/// use cloakroom::{Config, Sources};
///
/// let sources = Sources::new().with_variable("CLOAKROOM_STORE", "memory").with_variable("CLOAKROOM_IDLE", "forever");
/// let error = Config::load(&sources).unwrap_err();
/// assert_eq!(error.settings().collect::<Vec<_>>(), ["idle"]);
/// ```
#[derive(Clone, Default)]
pub struct Sources {
    directory: PathBuf,
    defaults: BTreeMap<String, String>,
    variables: BTreeMap<OsString, OsString>,
}

impl Sources {
    const FILE: &str = "cloakroom.toml";
    const FILE_VARIABLE: &str = "CLOAKROOM_CONFIG";

    /// No environment; files are those of the working directory.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The environment of this process, and its working directory.
    #[must_use]
    pub fn process() -> Self {
        Self { variables: std::env::vars_os().collect(), ..Self::default() }
    }

    /// A setting that the program makes, where neither file nor environment say otherwise.
    #[must_use]
    pub fn with_default(mut self, setting: impl Into<String>, value: impl Into<String>) -> Self {
        self.defaults.insert(setting.into(), value.into());
        self
    }

    /// An environment variable.
    #[must_use]
    pub fn with_variable(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.variables.insert(name.into(), value.into());
        self
    }

    /// What relative paths start from, instead of the working directory.
    #[must_use]
    pub fn in_directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = directory.into();
        self
    }

    pub(super) fn path(&self, path: &Path) -> PathBuf {
        self.directory.join(path)
    }

    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(OsStr::new(name))?.to_str()
    }

    /// All settings that anybody made, with what is wrong with them so far.
    pub(super) fn collect(&self) -> Settings {
        let mut settings = Settings { figment: Figment::new(), problems: Vec::new(), file: None };
        for (name, value) in &self.defaults {
            settings.add(name.clone(), Value::from(value.as_str()), "set by the program");
        }
        if let Err(problem) = self.read_file(&mut settings) {
            settings.problems.push(problem);
        }
        for (variable, value) in &self.variables {
            let Some(name) = variable.to_str() else { continue };
            let Some(setting) = setting_of(name).filter(|_| name != Self::FILE_VARIABLE) else { continue };
            let origin = format!("environment variable {name}");
            match value.to_str() {
                Some("") => {
                    let refusal = Refusal::new("the variable is set and empty", "give it a value, or unset it");
                    settings.problems.push(refusal.at(setting, origin));
                }
                Some(value) => settings.add(setting, Value::from(value), &origin),
                None => {
                    let refusal = Refusal::new("the value is not UTF-8", "write it in UTF-8");
                    settings.problems.push(refusal.at(setting, origin));
                }
            }
        }
        settings
    }

    fn read_file(&self, settings: &mut Settings) -> Result<(), Problem> {
        let named = self.variables.get(OsStr::new(Self::FILE_VARIABLE)).map(PathBuf::from);
        let shown = named.clone().unwrap_or_else(|| PathBuf::from(Self::FILE));
        let path = self.path(&shown);
        let origin = shown.display().to_string();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound && named.is_none() => return Ok(()),
            Err(error) => {
                let why = format!("the file cannot be read: {error}");
                let instead = "let this process read it, or name another in CLOAKROOM_CONFIG";
                let setting = if named.is_some() { Self::FILE_VARIABLE } else { "the configuration file" };
                return Err(Refusal::new(why, instead).at(setting, origin));
            }
        };
        // The parser's own message would quote the line, which may hold a key.
        let dict = Toml::from_str::<Dict>(&text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
            let why = format!("line {line}, column {column} is not TOML: {}", first_line(error.message()));
            let instead = "write `name = \"value\"`, and tables as `[cookie]`";
            Refusal::new(why, instead).at("the configuration file", origin.clone())
        })?;
        for (name, value) in leaves("", dict) {
            settings.add(name, value, &origin);
        }
        settings.file = Some((path, origin));
        Ok(())
    }
}

/// Hides the environment, which is full of secrets.
impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").field("directory", &self.directory).finish_non_exhaustive()
    }
}

/// The settings by name. What is not text yet becomes text when it is read, so that a setting means
/// the same wherever it is written.
pub(super) struct Settings {
    figment: Figment,
    pub(super) problems: Vec<Problem>,
    /// The configuration file, if there is one, and what it is called.
    pub(super) file: Option<(PathBuf, String)>,
}

impl Settings {
    fn add(&mut self, name: String, value: Value, origin: &str) {
        if is_known(&name) {
            let dict = figment::util::nest(&name, value).into_dict().unwrap_or_default();
            self.figment = std::mem::take(&mut self.figment).merge(Layer { origin: origin.to_owned(), dict });
            return;
        }
        let members: Vec<_> =
            SETTINGS.into_iter().map(|(known, _)| known).filter(|known| is_member(known, &name)).collect();
        let instead = match suggestion(&name) {
            _ if !members.is_empty() => format!("it is a table; its settings are {}", members.join(", ")),
            Some(known) => format!("did you mean `{known}`?"),
            None => "remove it; the guide lists the settings there are".to_owned(),
        };
        self.problems.push(Refusal::new("there is no such setting", instead).at(name, origin));
    }

    /// Whether anybody made this setting.
    pub(super) fn is_set(&self, name: &str) -> bool {
        self.figment.find_value(name).is_ok()
    }

    /// The values of a setting, and who set them. More than one only where the setting is a list.
    pub(super) fn values(&mut self, name: &str) -> Option<(Vec<String>, String)> {
        let value = self.figment.find_value(name).ok()?;
        let origin = self.figment.get_metadata(value.tag()).map_or("default", |metadata| &metadata.name).to_owned();
        let texts = match value.as_array() {
            Some(values) => values.iter().map(text).collect::<Option<Vec<_>>>(),
            None => text(&value).map(|text| vec![text]),
        };
        if texts.is_none() {
            let refusal = Refusal::new("the value is neither text, number, true or false", "write it in quotes");
            self.problems.push(refusal.at(name, origin.as_str()));
        }
        Some((texts?, origin))
    }

    /// The one value of a setting, and who set it.
    pub(super) fn value(&mut self, name: &str) -> Option<(String, String)> {
        let (mut values, origin) = self.values(name)?;
        if values.len() != 1 {
            let refusal = Refusal::new("the value is a list", "write one value");
            self.problems.push(refusal.at(name, origin));
            return None;
        }
        Some((values.pop()?, origin))
    }
}

fn is_member(setting: &str, table: &str) -> bool {
    setting.strip_prefix(table).is_some_and(|rest| rest.starts_with('.'))
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(_, text) => Some(text.clone()),
        Value::Char(_, char) => Some(char.to_string()),
        Value::Bool(_, bool) => Some(bool.to_string()),
        Value::Num(_, number) => match (number.to_u128(), number.to_i128()) {
            (Some(number), _) => Some(number.to_string()),
            (None, Some(number)) => Some(number.to_string()),
            (None, None) => number.to_f64().map(|number| number.to_string()),
        },
        Value::Empty(..) | Value::Dict(..) | Value::Array(..) => None,
    }
}

/// The settings in nested tables, under their dotted names. A known setting is never a table.
fn leaves(table: &str, dict: Dict) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    for (key, value) in dict {
        let name = if table.is_empty() { key } else { format!("{table}.{key}") };
        match value.as_dict() {
            Some(members) if !is_known(&name) && !members.is_empty() => found.extend(leaves(&name, members.clone())),
            Some(_) | None => found.push((name, value)),
        }
    }
    found
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// Settings of one origin.
struct Layer {
    origin: String,
    dict: Dict,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.origin.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.dict.clone()))
    }
}
