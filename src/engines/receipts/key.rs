//! The daemon's signing key: a PKCS#8 file that nobody but its owner may read, made at the first start
//! and never made again. A key that others could have read is refused, not used. The private half never
//! leaves this file.

use std::{
    fmt,
    fs::{DirBuilder, File, Metadata, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use lakehouse_journal::{model::ErrorKind, record::Micros};
use ring::{
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair as _},
};
use serde_json::Value;

use super::{ALGORITHM, PublicKey, ReceiptError, SignedReceipt, canonical, to_hex};

/// The directory of keys, below the data directory.
const KEYRING: &str = "keyring";
/// The key's file in it.
const FILE: &str = "receipt.key";
/// The longest key file that is read, many times a key's length.
const FILE_BYTES_MAX: u64 = 4_096;

/// A key that receipts are signed with.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    public: PublicKey,
    created_at: Option<Micros>,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey")
            .field("key_id", &self.public.key_id)
            .finish_non_exhaustive()
    }
}

/// Why there is no key to sign with.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Others than its owner have rights to it.
    #[error(
        "`{path}` has mode {mode:o}: others than its owner could read or replace the signing key; \
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
    /// It holds no Ed25519 key.
    #[error("`{path}` holds no Ed25519 key in PKCS#8; it is left as it is")]
    Malformed {
        /// The file.
        path: PathBuf,
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

impl KeyError {
    /// The kind.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Exposed { .. } | Self::WrongFile { .. } => ErrorKind::Denied,
            Self::Malformed { .. } => ErrorKind::Corrupt,
            Self::Io { .. } | Self::NoRandom => ErrorKind::Unavailable,
        }
    }
}

impl SigningKey {
    /// The key in `<data_dir>/keyring/receipt.key`; made when it is not there. Only the process that
    /// holds the data directory may call this.
    ///
    /// # Errors
    /// [`KeyError::Exposed`] and [`KeyError::WrongFile`] of the file or its directory,
    /// [`KeyError::Malformed`], [`KeyError::Io`], [`KeyError::NoRandom`].
    pub fn open_or_make(data_dir: &Path) -> Result<Self, KeyError> {
        let keyring = data_dir.join(KEYRING);
        if make_dir(&keyring)? {
            sync_dir(data_dir)?;
        }
        let path = keyring.join(FILE);
        match std::fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => make(&keyring, &path)?,
            Err(source) => return Err(KeyError::Io { path, source }),
            Ok(_) => {}
        }
        open(&path)
    }

    /// The public half.
    pub fn public_key(&self) -> &PublicKey {
        &self.public
    }

    /// When the key's file was written.
    pub fn created_at(&self) -> Option<Micros> {
        self.created_at
    }

    /// Signs a receipt, as [`canonical::encode`] writes it.
    ///
    /// # Errors
    /// [`ReceiptError::Float`].
    pub fn sign(&self, receipt: &Value) -> Result<SignedReceipt, ReceiptError> {
        let signature = self.pair.sign(&canonical::encode(receipt)?);
        Ok(SignedReceipt {
            receipt: receipt.clone(),
            algorithm: ALGORITHM,
            public_key: self.public.hex.clone(),
            key_id: self.public.key_id.clone(),
            signature: to_hex(signature.as_ref()),
        })
    }
}

/// Makes the directory of keys; true when it was not there.
fn make_dir(keyring: &Path) -> Result<bool, KeyError> {
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

/// Makes a key under another name first: what has the key's name is whole and on disk.
fn make(keyring: &Path, path: &Path) -> Result<(), KeyError> {
    let pkcs8 =
        Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| KeyError::NoRandom)?;
    let new = path.with_extension("key.new");
    let written = || -> io::Result<()> {
        // What a start left that was killed here is no key of anybody's.
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
        file.write_all(pkcs8.as_ref())?;
        file.sync_all()?;
        std::fs::rename(&new, path)
    };
    written().map_err(|source| failed(path, source))?;
    sync_dir(keyring)
}

fn open(path: &Path) -> Result<SigningKey, KeyError> {
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
    let mut pkcs8 = Vec::new();
    file.take(FILE_BYTES_MAX)
        .read_to_end(&mut pkcs8)
        .map_err(io)?;
    let pair = Ed25519KeyPair::from_pkcs8(&pkcs8).map_err(|_| KeyError::Malformed {
        path: path.to_owned(),
    })?;
    Ok(SigningKey {
        public: PublicKey::of(pair.public_key().as_ref()),
        pair,
        created_at: written_at(&metadata),
    })
}

fn written_at(metadata: &Metadata) -> Option<Micros> {
    let since = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Micros::try_from(since.as_micros()).ok()
}

fn refuse_exposed(path: &Path, metadata: &Metadata, wanted: u32) -> Result<(), KeyError> {
    let mode = metadata.permissions().mode() & 0o7777;
    let of_others = mode & 0o077;
    if of_others == 0 {
        return Ok(());
    }
    Err(KeyError::Exposed {
        path: path.to_owned(),
        mode,
        wanted,
    })
}

fn wrong(path: &Path, metadata: &Metadata, wanted: &'static str) -> KeyError {
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
    KeyError::WrongFile {
        path: path.to_owned(),
        found,
        wanted,
    }
}

fn failed(path: &Path, source: io::Error) -> KeyError {
    KeyError::Io {
        path: path.to_owned(),
        source,
    }
}

fn sync_dir(dir: &Path) -> Result<(), KeyError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(|source| failed(dir, source))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path)
            .expect("it is there")
            .permissions()
            .mode()
            & 0o777
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is ours");
    }

    fn refused(data_dir: &Path) -> String {
        let error = SigningKey::open_or_make(data_dir).expect_err("it is refused");
        error.to_string()
    }

    #[test]
    fn a_key_is_made_once_and_only_its_owner_may_read_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let made = SigningKey::open_or_make(dir.path()).expect("a key");
        let keyring = dir.path().join("keyring");
        assert_eq!(mode(&keyring), 0o700);
        assert_eq!(mode(&keyring.join("receipt.key")), 0o600);
        let left: Vec<_> = fs::read_dir(&keyring).expect("it is ours").collect();
        assert_eq!(left.len(), 1, "nothing beside the key: {left:?}");
        let opened = SigningKey::open_or_make(dir.path()).expect("the key");
        assert_eq!(opened.public_key(), made.public_key());
        assert_eq!(opened.created_at(), made.created_at());
        let other = tempfile::tempdir().expect("a directory");
        let other = SigningKey::open_or_make(other.path()).expect("a key");
        assert_ne!(other.public_key(), made.public_key());
        let shown = format!("{made:?}");
        assert!(shown.contains(&made.public_key().key_id), "{shown}");
    }

    #[test]
    fn what_a_killed_start_left_is_replaced_and_does_not_widen_the_mode() {
        let dir = tempfile::tempdir().expect("a directory");
        SigningKey::open_or_make(dir.path()).expect("a key");
        let path = dir.path().join("keyring/receipt.key");
        fs::remove_file(&path).expect("it is ours");
        let left = dir.path().join("keyring/receipt.key.new");
        fs::write(&left, b"half").expect("it is ours");
        set_mode(&left, 0o666);
        SigningKey::open_or_make(dir.path()).expect("a new key");
        assert_eq!(mode(&path), 0o600);
        assert!(!left.exists());
    }

    #[test]
    fn a_key_that_others_could_have_read_or_replaced_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        SigningKey::open_or_make(dir.path()).expect("a key");
        let keyring = dir.path().join("keyring");
        let path = keyring.join("receipt.key");
        for bits in [0o640, 0o604, 0o620, 0o610, 0o601] {
            set_mode(&path, bits);
            let said = refused(dir.path());
            assert!(said.contains(&format!("mode {bits:o}")), "{said}");
            assert!(said.contains("receipt.key"), "{said}");
        }
        set_mode(&path, 0o400);
        SigningKey::open_or_make(dir.path()).expect("a key that is read only is a key");
        set_mode(&keyring, 0o770);
        assert!(refused(dir.path()).contains("set it to 700"));
    }

    #[test]
    fn a_link_is_refused_and_not_followed() {
        let dir = tempfile::tempdir().expect("a directory");
        SigningKey::open_or_make(dir.path()).expect("a key");
        let path = dir.path().join("keyring/receipt.key");
        let elsewhere = dir.path().join("elsewhere.key");
        fs::rename(&path, &elsewhere).expect("it is ours");
        symlink(&elsewhere, &path).expect("a link");
        assert!(refused(dir.path()).contains("is a symbolic link, not a file"));
        fs::remove_file(&elsewhere).expect("it is ours");
        assert!(refused(dir.path()).contains("is a symbolic link"));
        assert!(!elsewhere.exists(), "no key is made through a broken link");
        fs::remove_dir_all(dir.path().join("keyring")).expect("it is ours");
        let outside = tempfile::tempdir().expect("a directory");
        symlink(outside.path(), dir.path().join("keyring")).expect("a link");
        assert!(refused(dir.path()).contains("is a symbolic link, not a directory"));
    }

    #[test]
    fn a_file_that_holds_no_key_is_refused_and_left_as_it_is() {
        let dir = tempfile::tempdir().expect("a directory");
        SigningKey::open_or_make(dir.path()).expect("a key");
        let path = dir.path().join("keyring/receipt.key");
        let whole = fs::read(&path).expect("it is ours");
        for bytes in [&b""[..], b"no key", &whole[..whole.len() - 1]] {
            fs::write(&path, bytes).expect("it is ours");
            assert!(refused(dir.path()).contains("holds no Ed25519 key"));
            assert_eq!(fs::read(&path).expect("it is ours"), bytes);
        }
    }
}
