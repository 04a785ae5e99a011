//! Where values come from, the stronger over the weaker: default, file, environment, flag.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use super::Fault;
use super::key::{ENV_PREFIX, KEYS, Key};
use super::value::duration;

/// Read when it is there and no other file is named.
pub(crate) const USUAL_FILE: &str = "/etc/cofferdam/config.toml";

/// A configuration file is small; a file far beyond that is not one.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

const PATIENCE: &str = "shutdown_drain_timeout";
const FOREIGN_PATIENCE: &str = "SHUTDOWN_DRAIN_TIMEOUT";

/// What the outside says, unread.
#[derive(Debug, Default)]
pub(crate) struct Inputs {
    /// From `--config`; it has to be there.
    pub(crate) file: Option<PathBuf>,
    pub(crate) env: Vec<(OsString, OsString)>,
    /// By key name.
    pub(crate) flags: Vec<(&'static str, String)>,
}

/// Who said it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    Default,
    File(PathBuf),
    Env(String),
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Env(name) => f.write_str(name),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

/// A value that counts, and who said it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) text: String,
    pub(crate) source: Source,
}

/// A name nobody knows. Harmless, so that a configuration written for a newer version still
/// starts this one; but never meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unknown {
    pub(crate) name: String,
    pub(crate) source: Source,
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Source::File(path) => write!(f, "unknown key `{}` in {}", self.name, path.display()),
            _ => write!(f, "unknown environment variable {}", self.name),
        }
    }
}

/// All layers laid over each other.
#[derive(Debug)]
pub(crate) struct Layers {
    pub(crate) said: BTreeMap<&'static str, Said>,
    pub(crate) unknown: Vec<Unknown>,
    pub(crate) faults: Vec<Fault>,
}

impl Layers {
    pub(crate) fn lay(inputs: &Inputs) -> Self {
        let defaults = KEYS
            .iter()
            .map(|key| (key.name, Said { text: key.default.to_owned(), source: Source::Default }));
        let mut layers = Self { said: defaults.collect(), unknown: Vec::new(), faults: Vec::new() };
        layers.add_file(inputs.file.as_deref());
        layers.add_env(&inputs.env);
        for (name, text) in &inputs.flags {
            if let Some(key) = KEYS.iter().find(|key| key.name == *name) {
                layers.say(key, text.clone(), Source::Flag(format!("--{}", key.flag())));
            }
        }
        layers
    }

    fn say(&mut self, key: &Key, text: String, source: Source) {
        self.said.insert(key.name, Said { text, source });
    }

    fn add_file(&mut self, named: Option<&Path>) {
        let path = named.unwrap_or_else(|| Path::new(USUAL_FILE));
        let text = match read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && named.is_none() => return,
            Err(error) => {
                let why = error.to_string();
                return self.faults.push(Fault::File { path: path.to_path_buf(), why });
            }
        };
        match text.parse::<toml::Table>() {
            Ok(table) => self.add_table(path, "", &table),
            Err(error) => {
                let why = error.to_string().trim_end().to_owned();
                self.faults.push(Fault::File { path: path.to_path_buf(), why });
            }
        }
    }

    fn add_table(&mut self, path: &Path, prefix: &str, table: &toml::Table) {
        for (name, value) in table {
            let name = format!("{prefix}{name}");
            let source = Source::File(path.to_path_buf());
            match (KEYS.iter().find(|key| key.name == name), value) {
                (Some(key), value) => match flat(value) {
                    Some(text) => self.say(key, text, source),
                    None => self
                        .faults
                        .push(Fault::Value { key, said: Said { text: value.to_string(), source } }),
                },
                (None, toml::Value::Table(inner)) if is_table(&name) => {
                    self.add_table(path, &format!("{name}."), inner);
                }
                (None, _) => self.unknown.push(Unknown { name, source }),
            }
        }
    }

    /// The variable that E2B's node reads, weaker than our own. No time at all means there that
    /// nothing is ever forced.
    fn add_foreign_patience(&mut self, env: &[(OsString, OsString)]) {
        let Some((_, value)) = env.iter().find(|(name, _)| name == FOREIGN_PATIENCE) else {
            return;
        };
        let Some(key) = KEYS.iter().find(|key| key.name == PATIENCE) else { return };
        let text = value.to_string_lossy();
        let is_zero = text == "0" || duration(&text).is_some_and(|time| time.is_zero());
        let text = if is_zero { "forever".to_owned() } else { text.into_owned() };
        self.say(key, text, Source::Env(FOREIGN_PATIENCE.to_owned()));
    }

    fn add_env(&mut self, env: &[(OsString, OsString)]) {
        self.add_foreign_patience(env);
        for (name, value) in env {
            let Some(name) = name.to_str().filter(|name| name.starts_with(ENV_PREFIX)) else {
                continue;
            };
            // Who sources the credentials file has these in the environment too.
            if crate::credentials::NAMES.contains(&name) {
                continue;
            }
            let source = Source::Env(name.to_owned());
            match (KEYS.iter().find(|key| key.env() == name), value.to_str()) {
                (Some(key), Some(text)) => self.say(key, text.to_owned(), source),
                (Some(key), None) => {
                    let text = value.to_string_lossy().into_owned();
                    self.faults.push(Fault::Value { key, said: Said { text, source } });
                }
                (None, _) => self.unknown.push(Unknown { name: name.to_owned(), source }),
            }
        }
    }
}

fn read(path: &Path) -> std::io::Result<String> {
    let size = std::fs::metadata(path)?.len();
    if size > MAX_FILE_BYTES {
        return Err(std::io::Error::other(format!("it is larger than {MAX_FILE_BYTES} bytes")));
    }
    std::fs::read_to_string(path)
}

fn is_table(name: &str) -> bool {
    KEYS.iter().any(|key| key.name.split_once('.').is_some_and(|(table, _)| table == name))
}

/// A value as it would be written on the command line.
fn flat(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Boolean(flag) => Some(flag.to_string()),
        toml::Value::Array(items) => {
            let items: Option<Vec<String>> = items.iter().map(flat).collect();
            items.map(|items| items.join(","))
        }
        toml::Value::Float(_) | toml::Value::Datetime(_) | toml::Value::Table(_) => None,
    }
}
