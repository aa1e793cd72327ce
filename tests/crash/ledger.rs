//! What was asked and what came back: every request is written down before it is sent.
//! A request without an answer is `Unknown`, never `failed`: only the journal can tell.

use super::model::Op;

/// What the writer knows of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Sent; nothing came back, or an answer that leaves it open.
    Unknown,
    /// Acknowledged, at this position.
    Ok { seq: u64 },
    /// Refused for certain.
    Refused { status: u16, body: String },
}

/// One request.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The request id and the idempotency key.
    pub id: String,
    /// Whose.
    pub writer: usize,
    /// What.
    pub op: Op,
    /// What came of it.
    pub outcome: Outcome,
}

/// The requests of one writer in one cycle, in order.
#[derive(Debug, Default)]
pub struct Ledger {
    /// In the order that they were sent.
    pub entries: Vec<Entry>,
}

impl Ledger {
    /// Notes a request that is about to be sent.
    pub fn invoke(&mut self, id: String, writer: usize, op: Op) {
        self.entries.push(Entry {
            id,
            writer,
            op,
            outcome: Outcome::Unknown,
        });
    }

    /// Notes what came of the last request.
    pub fn settle(&mut self, outcome: Outcome) {
        self.entries
            .last_mut()
            .expect("a request was noted before it was sent")
            .outcome = outcome;
    }
}
