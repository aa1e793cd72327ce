//! What an agent asked, kept so that a receipt can ask it again, and readable by the daemon alone: a question
//! may hold a value of a row, and no value stands in the audit.

use base64::{Engine as _, prelude::BASE64_STANDARD_NO_PAD};
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand::{SecureRandom as _, SystemRandom},
};

/// What separates this key from the one of the hashes.
const CONTEXT: &str = "lakehouse 2026-11 audit: what was asked";

/// The key that questions are sealed with.
pub(super) struct Seal(LessSafeKey);

impl Seal {
    pub(super) fn new(secret: &[u8; 32]) -> Self {
        let key = blake3::derive_key(CONTEXT, secret);
        let key =
            UnboundKey::new(&AES_256_GCM, &key).expect("the key has the length of the algorithm");
        Self(LessSafeKey::new(key))
    }

    /// Seals a text under the id of its receipt; nothing when the system gives no random bytes.
    pub(super) fn close(&self, receipt: &str, text: &str) -> Option<String> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).ok()?;
        let mut bytes = text.as_bytes().to_vec();
        let aad = Aad::from(receipt.as_bytes());
        self.0
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut bytes)
            .ok()?;
        let whole = [nonce.as_slice(), &bytes].concat();
        Some(BASE64_STANDARD_NO_PAD.encode(whole))
    }

    /// The text, if it was sealed here under this id.
    pub(super) fn open(&self, receipt: &str, sealed: &str) -> Option<String> {
        let whole = BASE64_STANDARD_NO_PAD.decode(sealed).ok()?;
        let (nonce, bytes) = whole.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut bytes = bytes.to_vec();
        let aad = Aad::from(receipt.as_bytes());
        let text = self.0.open_in_place(nonce, aad, &mut bytes).ok()?;
        String::from_utf8(text.to_vec()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_under_its_own_id_and_key_only_and_shows_nothing() {
        let seal = Seal::new(&[7; 32]);
        let sealed = seal.close("r-1", "SELECT 'canary'").expect("random bytes");
        assert_eq!(
            seal.open("r-1", &sealed).as_deref(),
            Some("SELECT 'canary'")
        );
        assert_eq!(seal.open("r-2", &sealed), None);
        assert_eq!(Seal::new(&[8; 32]).open("r-1", &sealed), None);
        assert!(
            !BASE64_STANDARD_NO_PAD
                .decode(&sealed)
                .expect("base64")
                .windows(6)
                .any(|part| part == b"canary")
        );
        assert_ne!(
            seal.close("r-1", "SELECT 'canary'").expect("random bytes"),
            sealed
        );
    }
}
