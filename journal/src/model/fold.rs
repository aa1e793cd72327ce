//! An owner's state as a fold of its records: the aggregate, how far it has read, and which
//! requests it has already carried out. Live owners and replay run the same code.

use imbl::{OrdMap, Vector};
use serde::{Deserialize, Serialize};

use super::{Aggregate, Meta};
use crate::record::{Draft, Micros, Seq};

/// How long an idempotency key is remembered: 24 hours.
pub const IDEMPOTENCY_WINDOW_MICROS: Micros = 24 * 3600 * 1_000_000;

/// Where the answer to a request lies in the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// Position of the first record of the decision.
    pub seq: Seq,
    /// How many records it has.
    pub records: u32,
    /// blake3 (hex) of the request.
    pub fingerprint: String,
}

/// An aggregate with its position and its memory of requests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(bound = "")]
pub struct Fold<A: Aggregate> {
    /// The aggregate.
    pub state: A,
    /// Position of the last record applied.
    pub seq: Seq,
    /// Requests carried out, by key.
    remembered: OrdMap<String, Remembered>,
    /// The same in order of time, so that old ones can be forgotten.
    by_time: Vector<(Micros, String)>,
}

impl<A: Aggregate> Default for Fold<A> {
    fn default() -> Self {
        Self {
            state: A::default(),
            seq: 0,
            remembered: OrdMap::new(),
            by_time: Vector::new(),
        }
    }
}

impl<A: Aggregate> Fold<A> {
    /// Applies one record; a record at or before `self.seq` is already in the state.
    pub fn apply(&mut self, seq: Seq, draft: &Draft, event: &A::Event) {
        if seq <= self.seq {
            return;
        }
        self.state.apply(
            Meta {
                seq,
                at: draft.at,
                actor: &draft.actor,
            },
            event,
        );
        self.seq = seq;
        if let Some(idempotency) = &draft.idempotency {
            self.forget_before(draft.at - IDEMPOTENCY_WINDOW_MICROS);
            let remembered = Remembered {
                seq,
                records: idempotency.records,
                fingerprint: idempotency.fingerprint.clone(),
            };
            self.remembered.insert(idempotency.key.clone(), remembered);
            self.by_time.push_back((draft.at, idempotency.key.clone()));
        }
    }

    /// The decision that a request with this key already led to.
    pub fn remembered(&self, key: &str) -> Option<&Remembered> {
        self.remembered.get(key)
    }

    /// blake3 over the canonical encoding: JSON with every map in the order of its keys.
    pub fn hash(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        serde_json::to_writer(&mut hasher, self)
            .expect("state is made of plain values, and a hasher takes every byte");
        hasher.finalize().to_hex().to_string()
    }

    fn forget_before(&mut self, horizon: Micros) {
        while let Some((at, key)) = self.by_time.front() {
            if *at >= horizon {
                return;
            }
            self.remembered.remove(key);
            self.by_time.pop_front();
        }
    }
}
