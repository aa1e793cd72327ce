//! Vector indexes on usearch: an HNSW graph over quantised vectors, mapped from immutable files.
//! The indexing worker builds a generation with [`HnswBuilder`]; search opens it with [`HnswIndex`].
//! A generation is a directory of files that are never changed: the graph, the rows' keys and texts,
//! the vectors as they came, and a manifest. None of them is read before its hash was checked.

mod builder;
mod graph;
mod index;
mod landmarks;
mod matrix;
mod order;
mod port;
mod search;
#[cfg(test)]
mod tests;
mod twins;

use serde::{Deserialize, Serialize};

use super::vectors::{FileDigest, HnswConfig};

pub use builder::HnswBuilder;
pub use index::HnswIndex;

/// The graph and its quantised vectors, in usearch's own format. Not there when there are no rows.
const GRAPH_FILE: &str = "index.usearch";
/// The vectors as they came, then their lengths.
const VECTORS_FILE: &str = "vectors.f32";
/// The rows as other engines read them. No search reads it, so that it is checked by its size alone.
const AT_REST_FILE: &str = "vectors.parquet";
/// The rows' keys, and where to find a key.
const KEYS_FILE: &str = "rows.keys";
/// The rows' texts.
const TEXTS_FILE: &str = "rows.texts";
/// Which rows have the same vector. Not there when there are no rows.
const TWINS_FILE: &str = "rows.twins";
/// Rows that the graph does not lead to. Not there when there are no rows.
const LANDMARKS_FILE: &str = "index.landmarks";
/// What the generation is.
const MANIFEST_FILE: &str = "manifest.json";

const FORMAT: &str = "lakehouse.hnsw/1";

/// `manifest.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Manifest {
    format: String,
    dimensions: usize,
    config: HnswConfig,
    /// Factor that brought the vectors into the range of the graph's number format.
    scale: f32,
    vectors: u64,
    /// Rows in the graph: the first of each vector.
    linked: u64,
    /// Bytes before usearch's own in the graph's file.
    #[serde(default)]
    graph_start: usize,
    build_ms: u64,
    files: Vec<FileDigest>,
}
