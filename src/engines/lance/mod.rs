//! Vector indexes on Lance: a dataset of key, text and vector with an index over partitions.
//! For appends, random rows and sets larger than memory. The indexing worker builds a generation
//! with [`LanceBuilder`]; search opens it with [`LanceIndex`]. A generation is a directory whose
//! files are never changed, and none of them is read before its hash was checked.

mod builder;
mod config;
mod index;
mod port;
mod progress;
mod search;
#[cfg(test)]
mod tests;
pub mod text;

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use serde::{Deserialize, Serialize};

use super::vectors::{FileDigest, VectorError};

pub use builder::LanceBuilder;
pub use config::{LanceConfig, LanceKind};
pub use index::LanceIndex;
pub use search::LanceSearch;

/// The dataset's directory. Not there when there are no rows.
const DATASET: &str = "rows.lance";
/// The rows' keys, and where to find a key: Lance's own index over keys is for other readers.
const KEYS_FILE: &str = "rows.keys";
/// What the generation is.
const MANIFEST_FILE: &str = "manifest.json";
const FORMAT: &str = "lakehouse.lance/1";

const KEY: &str = "key";
const TEXT: &str = "text";
const VECTOR: &str = "vector";

/// Rows from which an index is worth its while, when the kind is left to us.
const INDEX_ROWS_MIN: u64 = 10_000;
/// Rows below which Lance cannot train a quantiser.
const TRAIN_ROWS_MIN: u64 = 256;

impl LanceConfig {
    /// The kind that an index of `rows` rows gets.
    fn kind_for(&self, rows: u64) -> LanceKind {
        match self.kind {
            LanceKind::Auto if rows >= INDEX_ROWS_MIN => LanceKind::IvfHnswSq,
            LanceKind::IvfPq | LanceKind::IvfHnswSq if rows >= TRAIN_ROWS_MIN => self.kind,
            LanceKind::Auto | LanceKind::Flat | LanceKind::IvfPq | LanceKind::IvfHnswSq => {
                LanceKind::Flat
            }
        }
    }

    fn refine_factor(&self, kind: LanceKind) -> usize {
        self.refine_factor
            .unwrap_or(if kind == LanceKind::IvfPq { 10 } else { 3 })
    }
}

/// `manifest.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Manifest {
    format: String,
    dimensions: usize,
    config: LanceConfig,
    /// What was built: never `Auto`.
    kind: LanceKind,
    vectors: u64,
    build_ms: u64,
    files: Vec<FileDigest>,
}

fn schema(dimensions: usize) -> Arc<Schema> {
    let width = i32::try_from(dimensions).expect("dimensions were checked to be at most 65,536");
    Arc::new(Schema::new(vec![
        Field::new(KEY, DataType::Utf8, false),
        Field::new(TEXT, DataType::Utf8, true),
        Field::new(VECTOR, DataType::FixedSizeList(item(), width), false),
    ]))
}

/// The numbers of a vector, as a field.
fn item() -> Arc<Field> {
    Arc::new(Field::new("item", DataType::Float32, true))
}

#[expect(clippy::needless_pass_by_value, reason = "the shape of `map_err`")]
fn engine(error: impl ToString) -> VectorError {
    VectorError::Engine {
        engine: "lance",
        reason: error.to_string(),
    }
}
