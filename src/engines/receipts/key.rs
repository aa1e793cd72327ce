//! The daemon's signing key, out of its keyring. The private half never leaves it.

use std::{fmt, path::Path};

use lakehouse_journal::record::Micros;
use ring::{
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair as _},
};
use serde_json::Value;

use super::{ALGORITHM, PublicKey, ReceiptError, SignedReceipt, canonical, to_hex};
use crate::engines::keyring::{self, KeyringError};

/// The key's file in the keyring.
const FILE: &str = "receipt.key";

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

impl SigningKey {
    /// The key in `<data_dir>/keyring/receipt.key`; made when it is not there. Only the process that
    /// holds the data directory may call this.
    ///
    /// # Errors
    /// As [`keyring::open_or_make`]; [`KeyringError::Malformed`].
    pub fn open_or_make(data_dir: &Path) -> Result<Self, KeyringError> {
        let secret = keyring::open_or_make(data_dir, FILE, || {
            Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
                .map(|pkcs8| pkcs8.as_ref().to_vec())
                .map_err(|_| KeyringError::NoRandom)
        })?;
        let pair =
            Ed25519KeyPair::from_pkcs8(&secret.bytes).map_err(|_| KeyringError::Malformed {
                path: secret.path.clone(),
                wanted: "Ed25519 key in PKCS#8",
            })?;
        Ok(Self {
            public: PublicKey::of(pair.public_key().as_ref()),
            pair,
            created_at: secret.created_at,
        })
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

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{PermissionsExt, symlink},
    };

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
