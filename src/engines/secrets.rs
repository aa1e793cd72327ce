//! Secrets by handle: an S3 bucket's keys, a database's connection string, an embedder's key. The
//! configuration, the journal and every request name the handle; the value is read here when it is
//! used and goes nowhere else. Nothing here writes.

use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use lakehouse_journal::model::{ErrorKind, error::check_name};

/// The file of secrets, below the data directory.
pub const SECRETS_FILE: &str = "secrets.toml";
/// What variables with secrets begin with; `__` separates handle and field.
const PREFIX: &str = "LAKEHOUSE_SECRET__";
/// The field of a secret that is one text.
const VALUE: &str = "value";
/// The largest file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A secret: fields by name. Never shown, also not by `Debug`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(BTreeMap<String, String>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(***)")
    }
}

impl Secret {
    /// A field of it.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The text of a secret that is one, or a field of it.
    pub fn text(&self, field: &str) -> Option<&str> {
        self.field(VALUE).or_else(|| self.field(field))
    }
}

/// Why there is no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// Nobody has one of that handle.
    #[error("no secret with the handle `{handle}`")]
    NotFound {
        /// The handle.
        handle: String,
    },
    /// It lacks what it is needed for.
    #[error("the secret `{handle}` has no `{field}`")]
    Incomplete {
        /// The handle.
        handle: String,
        /// What is missing.
        field: &'static str,
    },
    /// Others could read or replace the file.
    #[error("`{path}` {reason}")]
    Exposed {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what helps.
        reason: String,
    },
    /// It cannot be read, or is no table of secrets.
    #[error("`{path}`: {reason}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why, without any of its content.
        reason: String,
    },
}

impl SecretError {
    /// The kind.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } | Self::Incomplete { .. } => ErrorKind::Unprocessable,
            Self::Exposed { .. } | Self::Unreadable { .. } => ErrorKind::Unavailable,
        }
    }

    /// The stable word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "secret_not_found",
            Self::Incomplete { .. } => "secret_incomplete",
            Self::Exposed { .. } | Self::Unreadable { .. } => "secrets_unavailable",
        }
    }
}

/// Gives secrets by handle.
pub trait SecretsProvider: Send + Sync {
    /// The secret of this handle.
    ///
    /// # Errors
    /// [`SecretError`].
    fn secret(&self, handle: &str) -> Result<Secret, SecretError>;
}

/// Secrets in a file that nobody but its owner may read. Read anew each time, so that a changed secret
/// needs no restart.
#[derive(Debug)]
pub struct FileSecrets {
    path: PathBuf,
    /// Whether the file must be there.
    required: bool,
}

impl FileSecrets {
    /// Secrets in this file, which is looked at now; one that is not `required` may be missing.
    ///
    /// # Errors
    /// As [`SecretsProvider::secret`] of it.
    pub fn open(path: PathBuf, required: bool) -> Result<Self, SecretError> {
        let secrets = Self { path, required };
        secrets.read()?;
        Ok(secrets)
    }

    fn read(&self) -> Result<BTreeMap<String, Secret>, SecretError> {
        let unreadable = |reason: &str| SecretError::Unreadable {
            path: self.path.clone(),
            reason: reason.to_owned(),
        };
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(&self.path);
        let mut file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !self.required => {
                return Ok(BTreeMap::new());
            }
            Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
                return Err(self.exposed("is a symbolic link; secrets are read from a plain file"));
            }
            Err(error) => return Err(unreadable(&error.kind().to_string())),
        };
        let metadata = file
            .metadata()
            .map_err(|e| unreadable(&e.kind().to_string()))?;
        self.check(&metadata)?;
        let mut text = String::new();
        file.read_to_string(&mut text)
            .map_err(|_| unreadable("it is not text"))?;
        // The parser's own words would show the line, and the line is the secret.
        parse(&text).map_err(|reason| unreadable(&reason))
    }

    fn check(&self, metadata: &std::fs::Metadata) -> Result<(), SecretError> {
        if !metadata.is_file() {
            return Err(self.exposed("is no plain file"));
        }
        // SAFETY: asks the system for a number and touches no memory.
        #[expect(unsafe_code, reason = "the standard library cannot tell who we are")]
        let own = unsafe { libc::geteuid() };
        if metadata.uid() != own {
            let reason = format!(
                "belongs to user {}, not to the daemon's own {own}",
                metadata.uid()
            );
            return Err(self.exposed(&reason));
        }
        let mode = metadata.mode() & 0o7777;
        if mode != 0o600 {
            let reason = format!("has mode {mode:o}; others must not read it: set it to 600");
            return Err(self.exposed(&reason));
        }
        if metadata.len() > FILE_BYTES_MAX {
            return Err(self.exposed("is larger than 1 MiB"));
        }
        Ok(())
    }

    fn exposed(&self, reason: &str) -> SecretError {
        SecretError::Exposed {
            path: self.path.clone(),
            reason: reason.to_owned(),
        }
    }
}

fn parse(text: &str) -> Result<BTreeMap<String, Secret>, String> {
    let table: toml::Table = toml::from_str(text).map_err(|error| {
        let end = error.span().map_or(0, |span| span.start.min(text.len()));
        let line = text.get(..end).unwrap_or_default().matches('\n').count() + 1;
        format!("line {line} is no TOML")
    })?;
    let mut secrets = BTreeMap::new();
    for (handle, value) in table {
        check_name("secret", &handle).map_err(|_| "a handle is not a name".to_owned())?;
        let wrong = || format!("the secret `{handle}` is neither a text nor a table of texts");
        let fields = match value {
            toml::Value::String(text) => BTreeMap::from([(VALUE.to_owned(), text)]),
            toml::Value::Table(fields) => fields
                .into_iter()
                .map(|(name, value)| match value {
                    toml::Value::String(text) => Ok((name, text)),
                    _ => Err(wrong()),
                })
                .collect::<Result<_, _>>()?,
            _ => return Err(wrong()),
        };
        secrets.insert(handle, Secret(fields));
    }
    Ok(secrets)
}

impl SecretsProvider for FileSecrets {
    fn secret(&self, handle: &str) -> Result<Secret, SecretError> {
        self.read()?.remove(handle).ok_or_else(|| not_found(handle))
    }
}

/// Secrets in the environment: `LAKEHOUSE_SECRET__HANDLE`, or `LAKEHOUSE_SECRET__HANDLE__FIELD`.
/// Letters of handles have no case here, and `-` is `_`.
#[derive(Debug, Default)]
pub struct EnvironmentSecrets(BTreeMap<String, Secret>);

impl EnvironmentSecrets {
    /// The secrets among these variables.
    pub fn of(variables: impl Iterator<Item = (String, String)>) -> Self {
        let mut secrets = BTreeMap::<String, Secret>::new();
        for (name, value) in variables {
            let Some(rest) = name.strip_prefix(PREFIX) else {
                continue;
            };
            let (handle, field) = rest.split_once("__").unwrap_or((rest, VALUE));
            let fields = &mut secrets.entry(folded(handle)).or_default().0;
            fields.insert(field.to_ascii_lowercase(), value);
        }
        Self(secrets)
    }

    /// Those of this process.
    pub fn of_this_process() -> Self {
        let texts = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        Self::of(texts)
    }
}

fn folded(handle: &str) -> String {
    handle.to_ascii_lowercase().replace('-', "_")
}

impl SecretsProvider for EnvironmentSecrets {
    fn secret(&self, handle: &str) -> Result<Secret, SecretError> {
        self.0
            .get(&folded(handle))
            .cloned()
            .ok_or_else(|| not_found(handle))
    }
}

/// Several providers: the first that has a handle gives it.
pub struct SecretsInOrder(pub Vec<Box<dyn SecretsProvider>>);

impl SecretsProvider for SecretsInOrder {
    fn secret(&self, handle: &str) -> Result<Secret, SecretError> {
        for provider in &self.0 {
            match provider.secret(handle) {
                Err(SecretError::NotFound { .. }) => {}
                other => return other,
            }
        }
        Err(not_found(handle))
    }
}

fn not_found(handle: &str) -> SecretError {
    SecretError::NotFound {
        handle: handle.to_owned(),
    }
}

/// The daemon's secrets: the environment's before those of the file.
///
/// # Errors
/// When the file is there and may not be used.
pub fn open(data_dir: &Path, file: Option<&Path>) -> Result<SecretsInOrder, SecretError> {
    let path = data_dir.join(file.unwrap_or(Path::new(SECRETS_FILE)));
    let file = FileSecrets::open(path, file.is_some())?;
    let environment = EnvironmentSecrets::of_this_process();
    Ok(SecretsInOrder(vec![Box::new(environment), Box::new(file)]))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    fn file(mode: u32, text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secrets.toml");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        (dir, path)
    }

    const TEXT: &str =
        "openai = \"k-1\"\n[cold]\naccess_key_id = \"a\"\nsecret_access_key = \"CANARY\"\n";

    #[test]
    fn a_file_of_its_owner_alone_gives_secrets_and_shows_none() {
        let (_dir, path) = file(0o600, TEXT);
        let secrets = FileSecrets::open(path, true).unwrap();
        let cold = secrets.secret("cold").unwrap();
        assert_eq!(cold.field("secret_access_key"), Some("CANARY"));
        assert_eq!(secrets.secret("openai").unwrap().text("key"), Some("k-1"));
        assert!(!format!("{cold:?}").contains("CANARY"));
        assert_eq!(
            secrets.secret("warm").unwrap_err().code(),
            "secret_not_found"
        );
    }

    #[test]
    fn a_file_that_others_could_read_is_refused_and_says_what_helps() {
        for mode in [0o640, 0o644, 0o660, 0o604, 0o700, 0o400] {
            let (_dir, path) = file(mode, TEXT);
            let error = FileSecrets::open(path, true).unwrap_err();
            assert!(error.to_string().contains("600"), "{mode:o}: {error}");
        }
    }

    #[test]
    fn a_symbolic_link_is_refused() {
        let (dir, path) = file(0o600, TEXT);
        let link = dir.path().join("link.toml");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let error = FileSecrets::open(link, true).unwrap_err();
        assert!(error.to_string().contains("symbolic link"), "{error}");
    }

    #[test]
    fn a_malformed_file_is_told_by_its_line_and_not_by_its_content() {
        let (_dir, path) = file(0o600, "ok = \"x\"\nbad = CANARY\n");
        let error = FileSecrets::open(path, true).unwrap_err().to_string();
        assert!(
            error.contains("line 2") && !error.contains("CANARY"),
            "{error}"
        );
    }

    #[test]
    fn the_environment_gives_secrets_by_the_same_handles() {
        let variables = [
            ("LAKEHOUSE_SECRET__COLD_STORE__ACCESS_KEY_ID", "a"),
            ("LAKEHOUSE_SECRET__COLD_STORE__SECRET_ACCESS_KEY", "b"),
            ("LAKEHOUSE_SECRET__PG", "postgres://"),
        ];
        let owned = variables
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
        let secrets = EnvironmentSecrets::of(owned);
        let cold = secrets.secret("cold-store").unwrap();
        assert_eq!(cold.field("access_key_id"), Some("a"));
        assert_eq!(
            secrets.secret("pg").unwrap().text("dsn"),
            Some("postgres://")
        );
    }
}
