//! Tokens as the journal knows them: by a keyed hash of their secret. Who reads the journal can neither use
//! a token nor try secrets against it; the key is in the keyring.

use std::{path::Path, sync::Arc};

use lakehouse_journal::{
    model::access::{AccessState, Token},
    record::Micros,
};

use super::keyring::{KeyringError, random_secret};

/// The secret's name in the keyring.
const SECRET: &str = "tokens.key";

/// Hashes the secrets of tokens.
pub struct TokenHashes {
    key: [u8; 32],
}

impl TokenHashes {
    /// With this data directory's key, which is made when it is not there.
    ///
    /// # Errors
    /// When the keyring cannot be used.
    pub fn open(data_dir: &Path) -> Result<Self, KeyringError> {
        let key = random_secret(data_dir, SECRET)?;
        Ok(Self { key })
    }

    /// The hash of a secret, as hexadecimal digits.
    pub fn of(&self, secret: &str) -> String {
        let hash = blake3::keyed_hash(&self.key, secret.as_bytes());
        hash.to_hex().to_string()
    }

    /// The token with this secret, when it is valid. What is compared are hashes that nobody can choose
    /// without the key, so that the time of it tells nothing. Tokens that were issued before hashes were
    /// keyed are known by plain ones.
    pub fn token<'a>(
        &self,
        access: &'a AccessState,
        secret: &str,
        now: Micros,
    ) -> Option<&'a Arc<Token>> {
        let keyed = access.token(&self.of(secret), now);
        keyed.or_else(|| access.token(&blake3::hash(secret.as_bytes()).to_hex(), now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_secret_has_another_hash_in_another_data_directory() {
        let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let hashes = [&dirs[0], &dirs[1], &dirs[0]]
            .map(|dir| TokenHashes::open(dir.path()).unwrap().of("secret"));
        assert_eq!(hashes[0], hashes[2]);
        assert_ne!(hashes[0], hashes[1]);
        assert_ne!(hashes[0], blake3::hash(b"secret").to_hex().to_string());
    }
}
