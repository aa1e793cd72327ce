//! Events about what rides on a generation: rows that were embedded since it was built, as deltas.

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

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the shape that serde asks for"
)]
pub(in crate::model) fn is_false(flag: &bool) -> bool {
    !*flag
}
