//! Vector indexes: builds generations for the indexing worker, opens the one that answers with its
//! deltas, and searches it so that no deleted row is ever found. On either engine, by meaning, by words
//! or both. The edge and the refresh worker come in here.
//!
//! Visibility: a hit is shown when its row is visible in the catalog's snapshot, and to the caller. Rows
//! deleted since the generation or the delta was made are hidden by their slots; after a replacement
//! only keys that are still there are shown; through a view, only the rows that it shows now, as they
//! are now.

mod build;
mod builder;
mod chunks;
mod config;
mod deltas;
mod held;
mod live;
mod making;
pub mod measure;
mod open;
pub mod quality;
mod refused;
mod search;
mod shown;
mod sight;
mod source;
#[cfg(test)]
mod tests;
mod text;
mod visible;

use std::{
    collections::{BTreeSet, HashMap},
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use lakehouse_actors::{PortError, ports::KeyHash};
use lakehouse_journal::{
    model::{
        ErrorKind,
        catalog::{CatalogState, Index},
    },
    record::Seq,
};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    embedder::{
        Embedders,
        cache::{CacheStats, EmbeddingCache},
    },
    index_files::{IndexFiles, is_being_built},
    object_store::Buckets,
    vectors::VectorError,
};
use crate::query::QueryEngine;

pub use chunks::{NearRows, RowHit, WholeRow};
pub use config::{check_config, hnsw_config};
pub use live::{Base, Live};
pub use making::Embedding;
pub use refused::RefusedRow;
pub use search::{HITS_MAX, SearchHit, SearchMode, SearchQuery, SearchRequest, Searched};
pub use shown::Shown;
pub use sight::Sight;

/// Bytes that embeddings of queries may take in memory.
const CACHE_BYTES: u64 = 64 << 20;

/// Told of an index whose generation is not what was built: its name, the generation, what is wrong.
pub type OnCorrupt = Box<dyn Fn(&str, u64, &str) + Send + Sync>;

/// Builds and searches the lake's vector indexes.
pub struct LakeIndexes {
    staging: PathBuf,
    buckets: Arc<Buckets>,
    files: IndexFiles,
    query: Arc<QueryEngine>,
    key_hash: KeyHash,
    embedding: Embedding,
    open: Mutex<Opened>,
    /// Each held while its index is opened, so that many searches open it once.
    opening: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    on_corrupt: OnceLock<OnCorrupt>,
    /// Vectors of texts that searches asked for.
    cache: EmbeddingCache,
    /// One at a time is measured: two would slow each other.
    measuring: Arc<Semaphore>,
    /// Numbers that a restricted search compares at most to be exact.
    settled_max: u64,
}

/// The right to measure, until it is dropped.
pub struct Turn(#[allow(dead_code, reason = "held, never looked at")] Option<OwnedSemaphorePermit>);

/// An index that is in memory.
pub struct Warm {
    /// The generation that answers.
    pub generation: u64,
    /// Its rows.
    pub vectors: u64,
    /// Bytes that searches touch.
    pub bytes: u64,
}

/// What is open.
#[derive(Default)]
struct Opened {
    /// Generations, by bucket and folder.
    bases: HashMap<(String, String), Arc<Base>>,
    /// Generations with their deltas, by the index's name and the generation's number.
    live: HashMap<(String, u64), Arc<Live>>,
}

impl LakeIndexes {
    /// Indexes that are built in this staging directory; files that cannot be mapped where they lie are
    /// fetched into `cache`.
    pub fn new(
        staging: PathBuf,
        cache: PathBuf,
        buckets: Arc<Buckets>,
        query: Arc<QueryEngine>,
        key_hash: KeyHash,
    ) -> Self {
        Self {
            staging,
            files: IndexFiles::new(cache, Arc::clone(&buckets)),
            buckets,
            query,
            key_hash,
            embedding: Embedding {
                embedders: Arc::new(Embedders::built_in_only()),
                kept: None,
            },
            open: Mutex::default(),
            opening: Mutex::default(),
            on_corrupt: OnceLock::new(),
            cache: EmbeddingCache::new(CACHE_BYTES),
            measuring: Arc::new(Semaphore::new(1)),
            settled_max: search::SETTLED_MAX,
        }
    }

    /// With these embedders in the place of the one in the binary.
    #[must_use]
    pub fn with_embedding(mut self, embedding: Embedding) -> Self {
        self.embedding = embedding;
        self
    }

    /// Who makes vectors.
    pub fn embedders(&self) -> &Embedders {
        &self.embedding.embedders
    }

    /// Whether vectors are kept of a dataset that were put there before the deletions up to `through`
    /// were swept out; and how many files of them there are.
    ///
    /// # Errors
    /// `Unavailable` when that cannot be seen.
    pub fn kept_vectors(&self, dataset_id: &str, through: Seq) -> Result<(u64, bool), PortError> {
        match &self.embedding.kept {
            Some(store) => store.may_hold(dataset_id, through),
            None => Ok((0, false)),
        }
    }

    /// Waits until nobody else measures. Rows that are read while it is held are waited for by an
    /// erasure: it is dropped after what was made of them.
    pub async fn turn(&self) -> Turn {
        Turn(Arc::clone(&self.measuring).acquire_owned().await.ok())
    }

    /// What the cache of query embeddings holds and how it did.
    pub fn cache_stats(&self) -> CacheStats {
        self.cache.stats()
    }

    /// Forgets every embedding of a query: a query may have been a row's text.
    pub fn forget_queries(&self) {
        self.cache.clear();
    }

    /// Opens the generation that answers and has brought into memory what its searches touch.
    ///
    /// # Errors
    /// As [`LakeIndexes::search`].
    pub async fn warm(&self, index: &Index) -> Result<Warm, PortError> {
        let live = self.live(index).await?;
        let warm = tokio::task::spawn_blocking(move || live.warm());
        warm.await.map_err(|error| internal(&error))
    }

    /// Closes every index but these; a search opens what it needs again. Says which were open.
    pub fn release_others(&self, kept: &[String]) -> Vec<String> {
        let mut released = BTreeSet::new();
        let mut open = self.open.lock();
        open.live.retain(|(name, _), _| {
            let stays = kept.contains(name);
            if !stays {
                released.insert(name.clone());
            }
            stays
        });
        open.bases.retain(|(_, prefix), _| {
            let name = index_of(prefix);
            let stays = kept.iter().any(|kept| kept == name);
            if !stays {
                released.insert(name.to_owned());
            }
            stays
        });
        released.into_iter().collect()
    }

    /// Who is told of generations that are not what was built; once, at start.
    pub fn tell_corruption(&self, told: OnCorrupt) {
        let _ = self.on_corrupt.set(told);
    }

    /// Lets go of generations that no index has any more.
    pub fn forget_dropped(&self, state: &CatalogState) {
        self.files.forget_dropped(state);
        let mut opening = self.opening.lock();
        opening.retain(|name, _| state.indexes.contains_key(name));
        drop(opening);
        let mut open = self.open.lock();
        open.bases.retain(|(_, prefix), _| {
            state.indexes.get(index_of(prefix)).is_some_and(|index| {
                let mut built = index.generations.iter();
                built.any(|built| built.prefix == *prefix) || is_being_built(index, prefix)
            })
        });
        let Opened { bases, live } = &mut *open;
        live.retain(|_, live| bases.values().any(|base| Arc::ptr_eq(base, &live.base)));
    }
}

/// The name of the index that a generation's folder is of.
fn index_of(prefix: &str) -> &str {
    prefix.split('/').nth(1).unwrap_or_default()
}

/// An identifier as SQL has it.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Columns as a `SELECT` has them.
fn quoted_columns(names: &[String]) -> String {
    let names: Vec<String> = names.iter().map(|name| quoted(name)).collect();
    names.join(", ")
}

/// What an engine refuses or fails at, as the actors know failures.
pub fn of_vector(error: &VectorError) -> PortError {
    let code = match error.kind() {
        ErrorKind::Corrupt => "index_corrupt",
        ErrorKind::Invalid => "bad_vector",
        _ => "index_failed",
    };
    PortError::new(error.kind(), code, error.to_string())
}

fn internal(error: &impl std::fmt::Display) -> PortError {
    PortError::internal(error.to_string())
}
