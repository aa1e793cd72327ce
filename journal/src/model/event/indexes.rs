//! Events about vector indexes and their generations: what became of each build.

use serde::{Deserialize, Serialize};

use super::{is_false, is_zero};
use crate::{
    model::catalog::{FileDigest, IndexConfig, IndexSpec, Making, Obstacle, OtherModel},
    record::Seq,
};

/// An index was asked for; building it is pending work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IndexDefined {
    /// Its name.
    pub index: String,
    /// What it is.
    pub spec: IndexSpec,
    /// The job that builds the first generation.
    pub job: String,
}

/// A new generation of an index was asked for; building it is pending work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GenerationRequested {
    /// The index.
    pub index: String,
    /// The generation's number.
    pub generation: u64,
    /// The job that builds it.
    pub job: String,
    /// Its tuning, where that is not the index's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<IndexConfig>,
    /// Its model, where that is not the index's own: it becomes so with the first answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<OtherModel>,
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
    /// How many rows, where one may have several vectors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// Rows that had no vector: no known word in their text.
    #[serde(default)]
    pub skipped: u64,
    /// Rows whose vector was taken from the generation before.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub reused: u64,
    /// Rows that the generation before had with another text.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub changed: u64,
    /// Who made its vectors, and what that took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub making: Option<Making>,
    /// How long it took.
    pub build_ms: u64,
    /// Position of the snapshot whose rows it has, when it is older than what was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows_seq: Option<Seq>,
    /// Position of the last delta that it has, when it was made of a generation and its deltas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folded_through: Option<Seq>,
}

/// A generation could not be built.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GenerationFailed {
    /// The index.
    pub index: String,
    /// Its number.
    pub generation: u64,
    /// The job.
    pub job: String,
    /// Why.
    pub error: String,
    /// What kind of failure that is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub obstacle: Option<Obstacle>,
}

/// A generation answers searches from here on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IndexPromoted {
    /// The index.
    pub index: String,
    /// The generation.
    pub generation: u64,
}

/// Generations of an index are no longer kept; their files are to be deleted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GenerationsRetired {
    /// The index.
    pub index: String,
    /// Their numbers.
    pub generations: Vec<u64>,
}

/// An index is gone, with its generations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IndexDropped {
    /// The index.
    pub index: String,
}
