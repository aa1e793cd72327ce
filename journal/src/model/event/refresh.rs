//! Runs of the refresh: asked for, done, failed. Counts and models, never a text.

use serde::{Deserialize, Serialize};

use crate::{
    model::catalog::{RefreshCause, RefreshCounts},
    record::Seq,
};

/// A refresh of a dataset's embeddings was asked for; carrying it out is pending work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RefreshRequested {
    /// The dataset.
    pub dataset: String,
    /// The run.
    pub run: String,
    /// Why.
    pub cause: RefreshCause,
}

/// The indexes of a dataset say what its rows said at `source_seq`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RefreshCompleted {
    /// The dataset.
    pub dataset: String,
    /// The run.
    pub run: String,
    /// Why.
    pub cause: RefreshCause,
    /// The position whose rows were embedded.
    pub source_seq: Seq,
    /// What was done.
    pub counts: RefreshCounts,
    /// How long it took.
    pub elapsed_ms: u64,
}

/// A refresh could not be carried out; the indexes answer as before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RefreshFailed {
    /// The dataset.
    pub dataset: String,
    /// The run.
    pub run: String,
    /// Why it ran.
    pub cause: RefreshCause,
    /// The stable word of the error.
    pub code: String,
    /// The error.
    pub error: String,
    /// Whether it is tried again without being asked.
    pub comes_again: bool,
    /// How long it took.
    pub elapsed_ms: u64,
}
