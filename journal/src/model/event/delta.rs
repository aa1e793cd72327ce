//! What happens to an index: generations that are built, and between two builds rows that were
//! embedded since, which ride on it as deltas.

use serde::{Deserialize, Serialize};

use crate::{
    model::catalog::{DeltaFile, FileDigest},
    record::Seq,
};

/// A new generation of an index was asked for; building it is pending work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GenerationRequested {
    /// The index.
    pub index: String,
    /// The generation's number.
    pub generation: u64,
    /// The job that builds it.
    pub job: String,
    /// Whether it is made of the generation that answers and its deltas, and not of the dataset.
    #[serde(default, skip_serializing_if = "is_false")]
    pub fold: bool,
}

/// A generation of an index is built and lies in its bucket.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GenerationBuilt {
    /// The index.
    pub index: String,
    /// Its number.
    pub generation: u64,
    /// The job that built it.
    pub job: String,
    /// The position whose snapshot it was built from.
    pub source_seq: Seq,
    /// Folder of its files in the index's bucket.
    pub prefix: String,
    /// Its files.
    pub files: Vec<FileDigest>,
    /// How many vectors.
    pub vectors: u64,
    /// Rows that had no vector: no known word in their text.
    #[serde(default)]
    pub skipped: u64,
    /// How long it took.
    pub build_ms: u64,
    /// Position of the snapshot whose rows it has, when it is older than what was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows_seq: Option<Seq>,
    /// Position of the last delta that it has, when it was made of a generation and its deltas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folded_through: Option<Seq>,
}

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
