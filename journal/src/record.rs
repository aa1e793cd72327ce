//! The envelope of an event: who, when, on whose request, in which order, and the hash chain.
//! Written by the log, read by everybody; knows nothing of what an event means.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Microseconds since 1970-01-01T00:00:00Z.
pub type Micros = i64;

/// Position in the journal; the first record is 1, and 0 means "before anything".
pub type Seq = u64;

/// Who asked for a mutation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// The token's name, or the name of the part of the daemon that acts by itself.
    pub name: String,
    /// The role that it acted in.
    pub role: String,
}

/// A caller's promise that requests with the same key are one request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Idempotency {
    /// The `Idempotency-Key`, scoped to the caller: `<actor>/<key>`.
    pub key: String,
    /// blake3 (hex) of method, path and body: the same key with another one is a conflict.
    pub fingerprint: String,
    /// How many records of the same decision there are, this one included.
    pub records: u32,
}

/// An event on its way into the journal: everything but its number and its hash.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Draft {
    /// When it was decided.
    pub at: Micros,
    /// The request that caused it.
    pub request_id: String,
    /// Who asked.
    pub actor: Actor,
    /// Present on the first record of a decision whose request carried a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency: Option<Idempotency>,
    /// What it is about: `dataset/people`, `row/people/17`, `index/kb`; the history index.
    pub subjects: Vec<String>,
    /// The event's name, past tense.
    pub kind: String,
    /// The schema version of `data`.
    pub schema: u16,
    /// The event, as JSON text that is never encoded again: its hash covers these bytes.
    pub data: Box<RawValue>,
}

/// A durable event.
#[derive(Debug, Clone)]
pub struct Record {
    /// Its position.
    pub seq: Seq,
    /// What was appended.
    pub draft: Draft,
    /// blake3 over the predecessor's hash and this record's bytes.
    pub hash: [u8; 32],
}
