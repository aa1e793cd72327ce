//! Vector indexes: builds generations for the indexing worker, opens the one that answers with its
//! deltas, and searches it so that no deleted row is ever found. On either engine, by meaning, by words
//! or both. The edge, SQL's `vector_search` and the refresh worker come in here.
//!
//! Visibility: a hit is shown when its row is visible in the catalog's snapshot. Rows deleted since
//! the generation or the delta was made are hidden by their slots; after a replacement only keys that
//! are still there are shown.

mod build;
mod builder;
mod config;
mod deltas;
mod live;
pub mod measure;
mod open;
pub mod quality;
mod search;
mod sets;
mod source;
mod sql;
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
use lakehouse_journal::model::{
    ErrorKind,
    catalog::{CatalogState, Index},
};
use parking_lot::Mutex;

use super::{
    embedder::cache::{CacheStats, EmbeddingCache},
    object_store::Buckets,
    vectors::VectorError,
};
use crate::query::QueryEngine;

pub use config::{check_config, hnsw_config};
pub use live::{Base, Live};
pub use search::{HITS_MAX, Reader, SearchHit, SearchMode, SearchQuery, SearchRequest, Searched};
pub use sets::Shown;

/// Told of an index whose generation is not what was built: its name, the generation, what is wrong.
pub type OnCorrupt = Box<dyn Fn(&str, u64, &str) + Send + Sync>;

/// Bytes that embeddings of queries may take in memory.
const CACHE_BYTES: u64 = 64 << 20;

/// Builds and searches the lake's vector indexes.
pub struct LakeIndexes {
    staging: PathBuf,
    buckets: Arc<Buckets>,
    query: Arc<QueryEngine>,
    key_hash: KeyHash,
    open: Mutex<Opened>,
    /// Held while something is opened, so that many searches open it once.
    opening: tokio::sync::Mutex<()>,
    on_corrupt: OnceLock<OnCorrupt>,
    /// Vectors of texts that searches asked for.
    cache: EmbeddingCache,
}

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
    /// Indexes that are built in this staging directory.
    pub fn new(
        staging: PathBuf,
        buckets: Arc<Buckets>,
        query: Arc<QueryEngine>,
        key_hash: KeyHash,
    ) -> Self {
        Self {
            staging,
            buckets,
            query,
            key_hash,
            open: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
            on_corrupt: OnceLock::new(),
            cache: EmbeddingCache::new(CACHE_BYTES),
        }
    }

    /// What the cache of query embeddings holds and how it did.
    pub fn cache_stats(&self) -> CacheStats {
        self.cache.stats()
    }

    /// Opens what answers and has it brought into memory.
    ///
    /// # Errors
    /// As [`LakeIndexes::search`].
    pub async fn warm(&self, index: &Index) -> Result<Warm, PortError> {
        let live = self.live(index).await?;
        let (generation, vectors) = (live.generation, live.rows());
        let index = Arc::clone(&live.base.index);
        let bytes = index.memory_bytes();
        let touched = tokio::task::spawn_blocking(move || index.touch());
        touched.await.map_err(|error| internal(&error))?;
        Ok(Warm {
            generation,
            vectors,
            bytes,
        })
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
            let name = prefix.split('/').nth(1).unwrap_or_default();
            kept.iter().any(|kept| kept == name)
        });
        released.into_iter().collect()
    }

    /// Who is told of generations that are not what was built; once, at start.
    pub fn tell_corruption(&self, told: OnCorrupt) {
        let _ = self.on_corrupt.set(told);
    }

    /// Lets go of generations that no index has any more.
    pub fn forget_dropped(&self, state: &CatalogState) {
        let mut open = self.open.lock();
        open.live.retain(|(name, number), _| {
            let index = state.indexes.get(name);
            index.is_some_and(|index| {
                let mut built = index.generations.iter();
                built.any(|built| built.generation == *number)
            })
        });
        open.bases.retain(|(_, prefix), _| {
            let name = prefix.split('/').nth(1).unwrap_or_default();
            // A build that is not committed yet is kept for the moment after.
            state.indexes.get(name).is_some_and(|index| {
                index.building.is_some()
                    || index
                        .generations
                        .iter()
                        .any(|built| built.prefix == *prefix)
            })
        });
    }
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
pub(super) fn of_vector(error: &VectorError) -> PortError {
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
