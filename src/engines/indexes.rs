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
mod config;
mod deltas;
mod held;
mod live;
mod open;
mod search;
mod shown;
mod sight;
mod source;
#[cfg(test)]
mod tests;
mod text;
mod visible;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use lakehouse_actors::{PortError, ports::KeyHash};
use lakehouse_journal::model::{ErrorKind, catalog::CatalogState};
use parking_lot::Mutex;

use super::{index_files::IndexFiles, object_store::Buckets, vectors::VectorError};
use crate::query::QueryEngine;

pub use config::{check_config, hnsw_config};
pub use live::{Base, Live};
pub use search::{HITS_MAX, SearchHit, SearchMode, SearchQuery, SearchRequest, Searched};
pub use shown::Shown;
pub use sight::Sight;

/// Told of an index whose generation is not what was built: its name, the generation, what is wrong.
pub type OnCorrupt = Box<dyn Fn(&str, u64, &str) + Send + Sync>;

/// Builds and searches the lake's vector indexes.
pub struct LakeIndexes {
    staging: PathBuf,
    buckets: Arc<Buckets>,
    files: IndexFiles,
    query: Arc<QueryEngine>,
    key_hash: KeyHash,
    open: Mutex<Opened>,
    /// Held while something is opened, so that many searches open it once.
    opening: tokio::sync::Mutex<()>,
    on_corrupt: OnceLock<OnCorrupt>,
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
            open: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
            on_corrupt: OnceLock::new(),
        }
    }

    /// Who is told of generations that are not what was built; once, at start.
    pub fn tell_corruption(&self, told: OnCorrupt) {
        let _ = self.on_corrupt.set(told);
    }

    /// Lets go of generations that no index has any more.
    pub fn forget_dropped(&self, state: &CatalogState) {
        self.files.forget_dropped(state);
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
