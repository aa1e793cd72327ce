//! Events about what rides on a generation: rows that were embedded since it was built, as deltas, and
//! what is wrong with its files.

use serde::{Deserialize, Serialize};

use crate::{model::catalog::DeltaFile, record::Seq};

/// New and changed rows, and keys that left, ride on the generations that answer, in one step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IndexDeltaCommitted {
    /// The dataset.
    pub dataset: String,
    /// Position of the snapshot whose rows the indexes have from here on.
    pub source_seq: Seq,
    /// One an index.
    pub deltas: Vec<IndexDelta>,
}

/// What rides on one index.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IndexDelta {
    /// The index.
    pub index: String,
    /// The generation that it was made for.
    pub generation: u64,
    /// The rows; nothing when the index had them all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<DeltaFile>,
}

/// A file of a generation is not what was built, or a delta's is not what was committed: nothing
/// was loaded of it. A new build follows in the same decision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GenerationCorrupted {
    /// The index.
    pub index: String,
    /// The generation.
    pub generation: u64,
    /// Which file, and what is wrong with it.
    pub reason: String,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the shape that serde asks for"
)]
pub(in crate::model) fn is_false(flag: &bool) -> bool {
    !*flag
}
