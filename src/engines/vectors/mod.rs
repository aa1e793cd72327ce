//! What the vector engines share: configuration, checks at the door, visibility, hits and errors.
//! `usearch` and `lance` build and answer in these terms; the indexing worker and search speak them.
//! Nothing here opens a file or knows an engine.

pub mod at_rest;
pub mod column;
#[cfg(test)]
pub(crate) mod contract;
mod error;
pub mod exact;
pub mod files;
pub mod keys;
pub mod mapped;
mod port;
pub mod spans;
#[cfg(test)]
mod tests;
pub mod tune;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use roaring::RoaringBitmap;
use serde::{Deserialize, Serialize};

pub use error::VectorError;
pub use lakehouse_journal::model::ErrorKind;
pub use port::{StoredRow, VectorIndex};

/// How far apart two vectors are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// 1 − cosine of the angle: 0 to 2. A zero vector has none.
    #[default]
    Cosine,
    /// 1 − dot product.
    Dot,
    /// Squared Euclidean distance.
    L2,
}

impl Metric {
    /// What a caller ranks by, larger is nearer: cosine, dot product, or the negated distance.
    pub fn score(self, distance: f32) -> f32 {
        match self {
            Self::Cosine | Self::Dot => 1.0 - distance,
            Self::L2 => -distance,
        }
    }
}

/// How a graph keeps its copy of the vectors. The originals stay f32 beside it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quantization {
    /// 4 bytes a number.
    F32,
    /// 2 bytes a number, 11 bits of precision.
    #[default]
    F16,
    /// 2 bytes a number, 8 bits of precision.
    Bf16,
    /// 1 byte a number, scaled to the vector's or the set's range.
    I8,
}

/// How an HNSW graph is built and searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HnswConfig {
    /// Links a node keeps on the upper levels (twice as many on the lowest), usually `M`.
    pub connectivity: usize,
    /// Candidates kept while a node is linked in, usually `ef_construction`.
    #[serde(alias = "ef_construction")]
    pub expansion_add: usize,
    /// Candidates kept while a query runs, unless it says otherwise; usually `ef_search`.
    #[serde(alias = "ef_search")]
    pub expansion_search: usize,
    /// The graph's copy of the vectors.
    pub quantization: Quantization,
    /// The distance.
    pub metric: Metric,
}

impl Default for HnswConfig {
    fn default() -> Self {
        Self {
            connectivity: 16,
            expansion_add: 128,
            expansion_search: 128,
            quantization: Quantization::F16,
            metric: Metric::Cosine,
        }
    }
}

impl HnswConfig {
    /// # Errors
    /// `Config` names the field that is out of range.
    pub fn validate(&self) -> Result<(), VectorError> {
        let ranges = [
            ("connectivity", self.connectivity, 2, 256),
            ("expansion_add", self.expansion_add, 1, 65_536),
            ("expansion_search", self.expansion_search, 1, 65_536),
        ];
        match ranges
            .into_iter()
            .find(|&(_, value, min, max)| !(min..=max).contains(&value))
        {
            None => Ok(()),
            Some((name, value, min, max)) => Err(VectorError::Config {
                reason: format!("`{name}` is {value}, must be {min} to {max}"),
            }),
        }
    }
}

/// Rows on their way into an index: a chunk of a build's input.
#[derive(Debug, Clone, Copy)]
pub struct Chunk<'a> {
    /// The rows' keys.
    pub keys: &'a [String],
    /// The texts that the vectors stand for, when there are any.
    pub texts: Option<&'a [String]>,
    /// `[rows, dimensions]`, row-major.
    pub vectors: &'a [f32],
}

impl Chunk<'_> {
    /// Checks shape and values: every engine calls this before it takes a chunk.
    ///
    /// # Errors
    /// `Shape` when the parts differ in rows; what [`check_vector`] says of the first bad row.
    pub fn check(&self, dimensions: usize, metric: Metric) -> Result<(), VectorError> {
        let rows = self.keys.len();
        let texts = self.texts.map_or(rows, <[String]>::len);
        if self.vectors.len() != rows * dimensions || texts != rows {
            return Err(VectorError::Shape {
                rows,
                texts,
                numbers: self.vectors.len(),
                dimensions,
            });
        }
        for (key, vector) in self.keys.iter().zip(self.vectors.chunks_exact(dimensions)) {
            check_vector(vector, dimensions, metric).map_err(|error| error.at(key))?;
        }
        Ok(())
    }
}

/// Checks one vector, stored or asked for.
///
/// # Errors
/// `Dimensions`, `NotFinite` with the position, or `Zero` where the metric needs a direction.
pub fn check_vector(vector: &[f32], dimensions: usize, metric: Metric) -> Result<(), VectorError> {
    if vector.len() != dimensions {
        return Err(VectorError::Dimensions {
            key: None,
            expected: dimensions,
            found: vector.len(),
        });
    }
    // In f64, where squares of f32 neither overflow nor vanish.
    let squares = exact::square_sum(vector);
    if !squares.is_finite()
        && let Some(position) = vector.iter().position(|value| !value.is_finite())
    {
        return Err(VectorError::NotFinite {
            key: None,
            position,
        });
    }
    if metric == Metric::Cosine && squares == 0.0 {
        return Err(VectorError::Zero { key: None });
    }
    Ok(())
}

/// What a builder does with a key that it has seen before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Duplicates {
    /// Refuse, naming the key.
    #[default]
    Refuse,
    /// Keep the newest row of the key.
    LastWins,
}

/// Called with (rows done, rows in all) while a build runs, from any of its threads.
pub type Progress = Arc<dyn Fn(u64, u64) + Send + Sync>;

/// How a build runs; what it builds is in the engine's configuration.
#[derive(Clone, Default)]
pub struct BuildOptions {
    /// What a repeated key does.
    pub duplicates: Duplicates,
    /// Threads that link rows in; 0 means one for each processor.
    pub threads: usize,
    /// Told how far the build is.
    pub progress: Option<Progress>,
    /// Set from outside to stop the build with `Cancelled`.
    pub cancel: Arc<AtomicBool>,
}

impl fmt::Debug for BuildOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BuildOptions")
            .field("duplicates", &self.duplicates)
            .field("threads", &self.threads)
            .finish_non_exhaustive()
    }
}

impl BuildOptions {
    /// # Errors
    /// `Cancelled` once the flag is set.
    pub fn check_cancelled(&self) -> Result<(), VectorError> {
        if self.cancel.load(Ordering::Relaxed) {
            Err(VectorError::Cancelled)
        } else {
            Ok(())
        }
    }

    /// Tells the listener, if there is one.
    pub fn report(&self, done: u64, total: u64) {
        if let Some(progress) = &self.progress {
            progress(done, total);
        }
    }

    /// The threads to use: what was asked for, else the processors.
    pub fn threads(&self) -> usize {
        if self.threads > 0 {
            self.threads
        } else {
            processors()
        }
    }
}

/// How many processors this process may use.
pub fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// One file of a generation, relative to its directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileDigest {
    /// Path below the generation's directory, `/` between parts.
    pub name: String,
    /// Length.
    pub bytes: u64,
    /// blake3 of the content, in hexadecimal.
    pub blake3: String,
}

/// What a finished build left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// Every file of the generation, as `open` wants them back.
    pub files: Vec<FileDigest>,
    /// Its measures.
    pub stats: IndexStats,
}

/// The measures of a generation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexStats {
    /// Rows.
    pub vectors: u64,
    /// All files together.
    pub bytes: u64,
    /// From the first row to the last fsync, in milliseconds.
    pub build_ms: u64,
    /// Numbers in a vector.
    pub dimensions: usize,
}

/// A row that a search found.
#[derive(Debug, Clone, PartialEq)]
pub struct Hit {
    /// The row's number in its generation.
    pub slot: u64,
    /// The row's key.
    pub key: String,
    /// By the index's metric, computed in full precision; smaller is nearer.
    pub distance: f32,
    /// [`Metric::score`] of the distance; larger is nearer.
    pub score: f32,
}

/// How an answer was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SearchPath {
    /// Through the graph or the partitions: nearly always the nearest.
    Ann,
    /// Every visible row was compared: surely the nearest.
    Exact,
}

/// A search's answer, nearest first; rows of the same distance in order of their slots.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// As many as were asked for, or all visible rows when they are fewer.
    pub hits: Vec<Hit>,
    /// How they were found.
    pub path: SearchPath,
}

/// Which slots a search may answer with.
#[derive(Clone, Copy)]
pub enum Visible<'a> {
    /// Every row.
    All,
    /// Every row but these: tombstones on a live generation.
    Except(&'a RoaringBitmap),
    /// These rows only: what a filter let through.
    Only(&'a RoaringBitmap),
    /// The rows that a test lets through; called from several threads, and must not panic.
    Where(&'a (dyn Fn(u64) -> bool + Sync)),
}

impl Visible<'_> {
    /// Whether `slot` may be shown.
    pub fn allows(&self, slot: u64) -> bool {
        match self {
            Self::All => true,
            Self::Except(hidden) => !u32::try_from(slot).is_ok_and(|slot| hidden.contains(slot)),
            Self::Only(shown) => u32::try_from(slot).is_ok_and(|slot| shown.contains(slot)),
            Self::Where(test) => test(slot),
        }
    }

    /// How many of `rows` slots may be shown: exact, except that a test is tried on a sample.
    pub fn estimate(&self, rows: u64) -> u64 {
        let end = u32::try_from(rows).unwrap_or(u32::MAX);
        match self {
            Self::All => rows,
            Self::Except(hidden) => rows - hidden.range_cardinality(..end),
            Self::Only(shown) => shown.range_cardinality(..end),
            Self::Where(test) => sample(rows, test),
        }
    }
}

/// A row that words were found in, and how well they fit; larger is better.
pub type TextHit = (u64, f32);

/// The best `k`, best first; rows that fit equally well in order of their slots.
pub fn best(mut hits: Vec<TextHit>, k: usize) -> Vec<TextHit> {
    hits.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    hits.truncate(k);
    hits
}

const SAMPLES: u64 = 1_024;

/// How many of `rows` slots pass `test`, judged by slots scattered over them (all of few).
fn sample(rows: u64, test: &dyn Fn(u64) -> bool) -> u64 {
    if rows <= SAMPLES {
        return (0..rows).filter(|&slot| test(slot)).count() as u64;
    }
    // A Weyl sequence: evenly spread and in step with no pattern of the slots.
    let scattered = |index: u64| {
        let fraction = u128::from(index.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        u64::try_from((fraction * u128::from(rows)) >> 64)
            .expect("a fraction of `rows` is below it")
    };
    let passed = (1..=SAMPLES)
        .filter(|&index| test(scattered(index)))
        .count() as u64;
    passed * rows / SAMPLES
}
