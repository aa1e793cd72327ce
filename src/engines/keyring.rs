//! The keyring: secrets of the daemon's own, files that nobody but their owner may read, made at the
//! first start and never made again. One that others could have read is refused, not used.

use std::{
    fs::{DirBuilder, File, Metadata, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use lakehouse_journal::{model::ErrorKind, record::Micros};

/// The directory of keys, below the data directory.
const KEYRING: &str = "keyring";
/// The longest file that is read, many times a key's length.
const FILE_BYTES_MAX: u64 = 4_096;

/// Why a secret cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// Others than its owner have rights to it.
    #[error(
        "`{path}` has mode {mode:o}: others than its owner could read or replace the key; \
         if nobody did, set it to {wanted:o}"
    )]
    Exposed {
        /// The file or its directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// What they should be.
        wanted: u32,
    },
    /// It is a symbolic link, or something else that is no plain file or directory.
    #[error("`{path}` is a {found}, not a {wanted}")]
    WrongFile {
        /// The file or its directory.
        path: PathBuf,
        /// What it is.
        found: &'static str,
        /// What it should be.
        wanted: &'static str,
    },
    /// It holds no key of its kind.
    #[error("`{path}` holds no {wanted}; it is left as it is")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        wanted: &'static str,
    },
    /// The system refuses.
    #[error("`{path}`: {source}")]
    Io {
        /// The file or its directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The system gives no random bytes.
    #[error("the system gives no random bytes for a key")]
    NoRandom,
}

impl KeyringError {
    /// The kind.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Exposed { .. } | Self::WrongFile { .. } => ErrorKind::Denied,
            Self::Malformed { .. } => ErrorKind::Corrupt,
            Self::Io { .. } | Self::NoRandom => ErrorKind::Unavailable,
        }
    }
}

/// A secret out of the keyring.
pub struct Secret {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its file.
    pub path: PathBuf,
    /// When the file was written.
    pub created_at: Option<Micros>,
}

/// The secret in `<data_dir>/keyring/<name>`; made of what `make` gives when it is not there. Only the
/// process that holds the data directory may call this.
///
/// # Errors
/// [`KeyringError::Exposed`] and [`KeyringError::WrongFile`] of the file or its directory,
/// [`KeyringError::Io`], and what `make` fails with.
pub fn open_or_make(
    data_dir: &Path,
    name: &str,
    make: impl FnOnce() -> Result<Vec<u8>, KeyringError>,
) -> Result<Secret, KeyringError> {
    let keyring = data_dir.join(KEYRING);
    if make_dir(&keyring)? {
        sync_dir(data_dir)?;
    }
    let path = keyring.join(name);
    match std::fs::symlink_metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => write(&keyring, &path, &make()?)?,
        Err(source) => return Err(KeyringError::Io { path, source }),
        Ok(_) => {}
    }
    open(&path)
}

/// A secret of 32 random bytes.
///
/// # Errors
/// As [`open_or_make`]; [`KeyringError::Malformed`] when the file is of another length.
pub fn random_secret(data_dir: &Path, name: &str) -> Result<[u8; 32], KeyringError> {
    let made = || {
        let mut bytes = [0; 32];
        getrandom(&mut bytes)?;
        Ok(bytes.to_vec())
    };
    let secret = open_or_make(data_dir, name, made)?;
    secret
        .bytes
        .try_into()
        .map_err(|_| KeyringError::Malformed {
            path: secret.path,
            wanted: "secret of 32 bytes",
        })
}

fn getrandom(bytes: &mut [u8]) -> Result<(), KeyringError> {
    use ring::rand::{SecureRandom, SystemRandom};
    SystemRandom::new()
        .fill(bytes)
        .map_err(|_| KeyringError::NoRandom)
}

/// Makes the directory of keys; true when it was not there.
fn make_dir(keyring: &Path) -> Result<bool, KeyringError> {
    let made = match DirBuilder::new().mode(0o700).create(keyring) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
        Err(source) => return Err(failed(keyring, source)),
    };
    let found = std::fs::symlink_metadata(keyring).map_err(|source| failed(keyring, source))?;
    if !found.is_dir() {
        return Err(wrong(keyring, &found, "directory"));
    }
    refuse_exposed(keyring, &found, 0o700)?;
    Ok(made)
}

/// Writes a secret under another name first: what has its name is whole and on disk.
fn write(keyring: &Path, path: &Path, bytes: &[u8]) -> Result<(), KeyringError> {
    let new = path.with_extension("key.new");
    let written = || -> io::Result<()> {
        // What a start left that was killed here is no secret of anybody's.
        if let Err(error) = std::fs::remove_file(&new)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&new, path)
    };
    written().map_err(|source| failed(path, source))?;
    sync_dir(keyring)
}

fn open(path: &Path) -> Result<Secret, KeyringError> {
    let io = |source| failed(path, source);
    let found = std::fs::symlink_metadata(path).map_err(io)?;
    if !found.is_file() {
        return Err(wrong(path, &found, "file"));
    }
    // Between that look and this it may have become a link, which is not followed.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
        .map_err(io)?;
    let metadata = file.metadata().map_err(io)?;
    refuse_exposed(path, &metadata, 0o600)?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(io)?;
    Ok(Secret {
        bytes,
        path: path.to_owned(),
        created_at: written_at(&metadata),
    })
}

fn written_at(metadata: &Metadata) -> Option<Micros> {
    let since = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Micros::try_from(since.as_micros()).ok()
}

fn refuse_exposed(path: &Path, metadata: &Metadata, wanted: u32) -> Result<(), KeyringError> {
    let mode = metadata.permissions().mode() & 0o7777;
    let of_others = mode & 0o077;
    if of_others == 0 {
        return Ok(());
    }
    Err(KeyringError::Exposed {
        path: path.to_owned(),
        mode,
        wanted,
    })
}

fn wrong(path: &Path, metadata: &Metadata, wanted: &'static str) -> KeyringError {
    let kind = metadata.file_type();
    let found = if kind.is_symlink() {
        "symbolic link"
    } else if kind.is_dir() {
        "directory"
    } else if kind.is_file() {
        "file"
    } else {
        "special file"
    };
    KeyringError::WrongFile {
        path: path.to_owned(),
        found,
        wanted,
    }
}

fn failed(path: &Path, source: io::Error) -> KeyringError {
    KeyringError::Io {
        path: path.to_owned(),
        source,
    }
}

fn sync_dir(dir: &Path) -> Result<(), KeyringError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(|source| failed(dir, source))
}
