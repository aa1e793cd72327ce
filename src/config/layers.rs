//! Where settings come from and which of them wins: defaults < file < environment < flags.
//! Each layer is checked by itself, so that an unknown key is reported with the place it stands in.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use toml::{Table, Value};

use super::{Config, ConfigError};

/// The file that is read when it exists and no other one is named.
pub const DEFAULT_FILE: &str = "lakehouse.toml";
/// Environment variables that begin so are settings; `__` separates section and key.
const PREFIX: &str = "LAKEHOUSE__";

/// The layers above the defaults.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The file to read; it must exist. Without one, `lakehouse.toml` in the working directory is
    /// read if it is there.
    pub file: Option<PathBuf>,
    /// Environment variables; those that begin with `LAKEHOUSE__` are settings.
    pub environment: Vec<(String, String)>,
    /// The data directory, by flag.
    pub data_dir: Option<PathBuf>,
    /// The address, by flag.
    pub listen: Option<SocketAddr>,
}

impl Sources {
    /// No file or flag yet, and the settings in this process's environment.
    pub fn of_this_process() -> Self {
        let environment = std::env::vars_os()
            .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)));
        Self {
            environment: environment.collect(),
            ..Self::default()
        }
    }
}

impl Config {
    /// The configuration that the layers make together, valid.
    ///
    /// # Errors
    /// [`ConfigError::Unreadable`] for a file that is not there, [`ConfigError::Malformed`] for an
    /// unknown key or a value of another type, and what [`Config::validate`] says.
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        let mut merged = match file_text(sources.file.as_deref())? {
            Some((path, text)) => file_layer(&path, &text)?,
            None => Table::new(),
        };
        for (variable, value) in &sources.environment {
            if let Some(path) = variable.strip_prefix(PREFIX) {
                merge(&mut merged, environment_layer(variable, path, value)?);
            }
        }
        let mut config: Self = merged.try_into().map_err(|e| ConfigError::Malformed {
            origin: "configuration".to_owned(),
            reason: one_line(&e),
        })?;
        if let Some(listen) = sources.listen {
            config.server.listen = listen;
        }
        if let Some(data_dir) = &sources.data_dir {
            config.data_dir.clone_from(data_dir);
        }
        config.data_dir = absolute(&config.data_dir)?;
        config.fill_in_primary();
        config.validate()?;
        Ok(config)
    }
}

fn absolute(path: &Path) -> Result<PathBuf, ConfigError> {
    std::path::absolute(path).map_err(|e| ConfigError::Invalid {
        key: "--data-dir".to_owned(),
        reason: e.to_string(),
    })
}

fn file_text(named: Option<&Path>) -> Result<Option<(PathBuf, String)>, ConfigError> {
    let path = named.unwrap_or(Path::new(DEFAULT_FILE));
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some((path.to_path_buf(), text))),
        Err(e) if named.is_none() && e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(ConfigError::Unreadable {
            path: path.to_path_buf(),
            reason: e.to_string(),
        }),
    }
}

/// The file's table, after its keys and types were checked.
fn file_layer(path: &Path, text: &str) -> Result<Table, ConfigError> {
    let malformed = |e: &toml::de::Error| {
        let before = e
            .span()
            .map_or("", |span| &text[..span.start.min(text.len())]);
        let line = before.matches('\n').count() + 1;
        ConfigError::Malformed {
            origin: format!("`{}` line {line}", path.display()),
            reason: one_line(e),
        }
    };
    toml::from_str::<Config>(text).map_err(|e| malformed(&e))?;
    toml::from_str(text).map_err(|e| malformed(&e))
}

/// One variable as a table. The value is read as TOML where that gives what the key takes, else as
/// text: so `30`, `true` and `["a", "b"]` work, and so does an address without quotes.
fn environment_layer(variable: &str, path: &str, value: &str) -> Result<Table, ConfigError> {
    let keys: Vec<String> = path.split("__").map(str::to_ascii_lowercase).collect();
    let as_text = nested(&keys, Value::String(value.to_owned()));
    let typed = toml::from_str::<Table>(&format!("value = {value}"))
        .ok()
        .filter(|table| table.len() == 1)
        .and_then(|mut table| table.remove("value"));
    let Some(typed) = typed else {
        return checked(variable, &keys, as_text);
    };
    checked(variable, &keys, nested(&keys, typed)).or_else(|typed_error| {
        let checked = checked(variable, &keys, as_text);
        checked.map_err(|_| typed_error)
    })
}

fn checked(variable: &str, keys: &[String], table: Table) -> Result<Table, ConfigError> {
    let parsed: Result<Config, _> = table.clone().try_into();
    match parsed {
        Ok(_) => Ok(table),
        // What is missing may be in another layer: that is seen when all are together.
        Err(e) if e.message().starts_with("missing field") => Ok(table),
        Err(e) => Err(ConfigError::Malformed {
            origin: format!("environment variable `{variable}` (`{}`)", keys.join(".")),
            reason: one_line(&e),
        }),
    }
}

fn nested(keys: &[String], value: Value) -> Table {
    let mut keys = keys.iter().rev();
    let last = keys.next().cloned().unwrap_or_default();
    let innermost = Table::from_iter([(last, value)]);
    keys.fold(innermost, |inner, key| {
        Table::from_iter([(key.clone(), Value::Table(inner))])
    })
}

/// Lays one table over another: tables are merged, everything else is replaced.
fn merge(under: &mut Table, over: Table) {
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => merge(below, above),
            (_, value) => {
                under.insert(key, value);
            }
        }
    }
}

/// The error without the drawing of the line; keys are called keys here, not fields.
fn one_line(error: &toml::de::Error) -> String {
    let text = error.message().replace("unknown field", "unknown key");
    text.lines().collect::<Vec<_>>().join(", ")
}
