//! Receipts that a row is gone: what one says, how it is signed with the daemon's Ed25519 key, and how
//! anybody checks it without the daemon. The edge signs, the command line verifies. Whether a row is
//! gone is not decided here.

pub mod canonical;
mod key;

use std::fmt::Write as _;

use lakehouse_journal::{model::ErrorKind, record::Seq};
use ring::signature::{ED25519, ED25519_PUBLIC_KEY_LEN, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

pub use key::SigningKey;

/// The only algorithm that receipts are signed with.
pub const ALGORITHM: &str = "Ed25519";
/// The version of [`ErasureReceipt`] that this program writes and reads.
pub const RECEIPT_VERSION: u32 = 1;
/// Bytes of a signature.
const SIGNATURE_BYTES: usize = 64;
/// Hex digits of a key id.
const KEY_ID_DIGITS: usize = 16;
/// The members of a signed document, all needed, no others allowed: others would look signed.
const MEMBERS: [&str; 5] = ["receipt", "algorithm", "public_key", "key_id", "signature"];

/// That a row deleted for good is in none of the places where the lakehouse keeps bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErasureReceipt {
    /// [`RECEIPT_VERSION`].
    pub version: u32,
    /// The dataset's name.
    pub dataset: String,
    /// Its id, which no other dataset ever has.
    pub dataset_id: String,
    /// The row's key as it was given; absent where keys are journaled as hashes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub row_key: Option<String>,
    /// The keyed hash of the row's key, where keys are journaled so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub row_key_hash: Option<String>,
    /// When it was deleted, RFC 3339 in UTC.
    pub tombstoned_at: String,
    /// The event that deleted it.
    pub tombstone_seq: Seq,
    /// Why.
    pub reason: String,
    /// Who asked for it.
    pub actor: String,
    /// When nothing was left of it, RFC 3339 in UTC.
    pub erased_at: String,
    /// The event that says so.
    pub erased_seq: Seq,
    /// Where it was looked for.
    pub places: Vec<PlaceChecked>,
    /// Every event that touched the row, oldest first.
    pub events: Vec<Seq>,
    /// The journal's position when the receipt was issued.
    pub journal_seq: Seq,
    /// The hash of the event at that position (hex), which the journal's chain leads up to.
    pub journal_head_hash: String,
    /// When the receipt was issued, RFC 3339 in UTC.
    pub issued_at: String,
}

/// One place where the bytes of a row may lie.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaceChecked {
    /// Its name.
    pub place: String,
    /// What is there of the row.
    pub state: PlaceState,
    /// How many things of this kind were looked at.
    pub checked: u64,
    /// What there is to say about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// What is in a place of a row deleted for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PlaceState {
    /// Nothing.
    Absent,
    /// Its bytes, which no answer shows.
    Hidden,
    /// Its bytes.
    Present,
}

impl PlaceState {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Hidden => "hidden",
            Self::Present => "present",
        }
    }
}

impl ErasureReceipt {
    /// The receipt in the signed part of a document.
    ///
    /// # Errors
    /// [`ReceiptError::OtherVersion`]; [`ReceiptError::NoErasure`] when a field is missing or of
    /// another type.
    pub fn read(receipt: &Value) -> Result<Self, ReceiptError> {
        let version = &receipt["version"];
        if !version.is_null() && *version != json!(RECEIPT_VERSION) {
            return Err(ReceiptError::OtherVersion(version.to_string()));
        }
        Self::deserialize(receipt).map_err(|error| ReceiptError::NoErasure(error.to_string()))
    }
}

/// The public half of a signing key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    /// Its 32 bytes as 64 hex digits.
    pub hex: String,
    /// A name for it: the first 16 hex digits of blake3 over its bytes.
    pub key_id: String,
}

impl PublicKey {
    fn of(bytes: &[u8]) -> Self {
        let hash = blake3::hash(bytes).to_hex();
        Self {
            hex: to_hex(bytes),
            key_id: hash[..KEY_ID_DIGITS].to_owned(),
        }
    }
}

/// A receipt with its signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SignedReceipt {
    /// What is signed, as [`canonical::encode`] writes it.
    pub receipt: Value,
    /// [`ALGORITHM`].
    pub algorithm: &'static str,
    /// The key that it verifies under, in hex.
    pub public_key: String,
    /// That key's name.
    pub key_id: String,
    /// The signature, 128 hex digits.
    pub signature: String,
}

/// What a document proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// What was signed.
    pub receipt: Value,
    /// The key that signed it.
    pub key: PublicKey,
}

/// Why a receipt cannot be signed, or a document proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    /// It does not parse, or names one member twice.
    #[error("the document is not JSON: {0}")]
    NotJson(String),
    /// A member that every signed receipt has is not there.
    #[error("the document has no `{0}`")]
    MissingField(&'static str),
    /// A member has another type or length.
    #[error("`{field}` is not {wanted}")]
    BadField {
        /// The member.
        field: &'static str,
        /// What it should be.
        wanted: &'static str,
    },
    /// A member that nothing signs.
    #[error("the document has `{0}` beside the receipt, which nothing signs")]
    UnknownField(String),
    /// A number with a fraction or beyond 64 bits has more than one spelling.
    #[error("`{0}` is no whole number of 64 bits, and others are not signed")]
    Float(String),
    /// It is signed in a way that this program does not know.
    #[error("the algorithm `{0}` is not known, only `Ed25519` is")]
    UnknownAlgorithm(String),
    /// The key's name is not that of the key.
    #[error("`key_id` is `{found}`, but the name of the document's key is `{expected}`")]
    KeyIdMismatch {
        /// What the document says.
        found: String,
        /// What its key has.
        expected: String,
    },
    /// The caller's key is none.
    #[error("the expected key is not 64 hex digits")]
    BadExpectedKey,
    /// It is signed by somebody else.
    #[error("the document is signed by the key `{found}`, not by the expected `{expected}`")]
    OtherKey {
        /// The document's key.
        found: String,
        /// The caller's.
        expected: String,
    },
    /// The receipt, the key or the signature was changed.
    #[error("the signature does not fit: the receipt is not what was signed")]
    SignatureMismatch,
    /// The receipt is of a version that this program does not read.
    #[error("the receipt has version {0}, and this program reads version 1")]
    OtherVersion(String),
    /// What is signed is something else.
    #[error("what is signed is no receipt of an erasure: {0}")]
    NoErasure(String),
}

impl ReceiptError {
    /// The kind, for status codes.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotJson(_)
            | Self::MissingField(_)
            | Self::BadField { .. }
            | Self::UnknownField(_)
            | Self::Float(_)
            | Self::UnknownAlgorithm(_)
            | Self::BadExpectedKey
            | Self::OtherVersion(_)
            | Self::NoErasure(_) => ErrorKind::Invalid,
            Self::KeyIdMismatch { .. } | Self::OtherKey { .. } | Self::SignatureMismatch => {
                ErrorKind::Corrupt
            }
        }
    }
}

/// Checks a signed document, offline. Without an expected key (64 hex digits) it proves only that
/// whoever has the document's own key signed it.
///
/// # Errors
/// A [`ReceiptError`] that says what is wrong.
pub fn verify(
    document: &[u8],
    expected_public_key: Option<&str>,
) -> Result<Verified, ReceiptError> {
    let Value::Object(mut members) = canonical::parse(document)? else {
        return Err(ReceiptError::NotJson("it is no object".to_owned()));
    };
    let receipt = members
        .remove("receipt")
        .ok_or(ReceiptError::MissingField("receipt"))?;
    let algorithm = text(&members, "algorithm")?;
    if algorithm != ALGORITHM {
        return Err(ReceiptError::UnknownAlgorithm(algorithm.to_owned()));
    }
    let public = bytes::<ED25519_PUBLIC_KEY_LEN>(&members, "public_key", "64 hex digits")?;
    let signature = bytes::<SIGNATURE_BYTES>(&members, "signature", "128 hex digits")?;
    let key = PublicKey::of(&public);
    check_names(&members, &key, expected_public_key)?;
    let signed = canonical::encode(&receipt)?;
    UnparsedPublicKey::new(&ED25519, public)
        .verify(&signed, &signature)
        .map_err(|_| ReceiptError::SignatureMismatch)?;
    Ok(Verified { receipt, key })
}

/// Whether the document's key has the name that it says, and is the one expected.
fn check_names(
    members: &Map<String, Value>,
    key: &PublicKey,
    expected: Option<&str>,
) -> Result<(), ReceiptError> {
    if let Some(other) = members
        .keys()
        .find(|name| !MEMBERS.contains(&name.as_str()))
    {
        return Err(ReceiptError::UnknownField(other.clone()));
    }
    let named = text(members, "key_id")?;
    if named != key.key_id {
        return Err(ReceiptError::KeyIdMismatch {
            found: named.to_owned(),
            expected: key.key_id.clone(),
        });
    }
    let Some(expected) = expected else {
        return Ok(());
    };
    let expected = from_hex::<ED25519_PUBLIC_KEY_LEN>(expected.trim())
        .map(|bytes| to_hex(&bytes))
        .ok_or(ReceiptError::BadExpectedKey)?;
    if expected != key.hex {
        return Err(ReceiptError::OtherKey {
            found: key.hex.clone(),
            expected,
        });
    }
    Ok(())
}

fn text<'a>(members: &'a Map<String, Value>, field: &'static str) -> Result<&'a str, ReceiptError> {
    let member = members
        .get(field)
        .ok_or(ReceiptError::MissingField(field))?;
    let wanted = "a text";
    member
        .as_str()
        .ok_or(ReceiptError::BadField { field, wanted })
}

fn bytes<const N: usize>(
    members: &Map<String, Value>,
    field: &'static str,
    wanted: &'static str,
) -> Result<[u8; N], ReceiptError> {
    from_hex(text(members, field)?).ok_or(ReceiptError::BadField { field, wanted })
}

fn to_hex(bytes: &[u8]) -> String {
    let mut hex = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        write!(hex, "{byte:02x}").expect("a text takes what is written to it");
    }
    hex
}

/// Exactly `N` bytes out of hex digits, of either case.
fn from_hex<const N: usize>(hex: &str) -> Option<[u8; N]> {
    let digits: Vec<u8> = hex
        .chars()
        .map(|digit| digit.to_digit(16).and_then(|value| value.try_into().ok()))
        .collect::<Option<_>>()?;
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = pair[0] << 4 | pair[1];
    }
    Some(bytes)
}

#[cfg(test)]
mod tests;
