//! Vector indexes over datasets: builds generations for the indexing worker, opens the one that
//! answers, and searches it so that no deleted row is ever found.
//!
//! Visibility: a hit is shown when its row is visible in the catalog's snapshot, and to the caller. Rows
//! deleted since the generation was built are hidden by their slots; after a replacement only keys that
//! are still there are shown; through a view, only the rows that it shows now, with the text that they
//! have now.

mod build;
mod damage;
mod making;
pub mod measure;
pub mod quality;
mod refused;
mod sight;

use std::{
    collections::{BTreeSet, HashMap},
    path::PathBuf,
    sync::Arc,
    time::Instant,
};

use futures::StreamExt;
use lakehouse_actors::{PortError, ports::KeyHash};
use lakehouse_journal::{
    model::{
        ErrorKind, Fold,
        catalog::{CatalogState, Dataset, Generation, Index, IndexConfig, IngestMode},
    },
    record::Seq,
};
use parking_lot::Mutex;
use roaring::RoaringBitmap;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    embedder::{
        Embedders,
        cache::{CacheStats, EmbeddingCache},
    },
    index_files::IndexFiles,
    object_store::Buckets,
    tables::of_query,
    usearch::HnswIndex,
    vectors::{self, Found, HnswConfig, Quantization, VectorError, Visible},
};
use crate::query::{QueryEngine, SessionTables, row_key::names};
use damage::Damage;
pub use making::Embedding;
pub use refused::RefusedRow;
pub use sight::Sight;
use sight::{Remembered, Sights};

/// Bytes that embeddings of queries may take in memory.
const CACHE_BYTES: u64 = 64 << 20;
/// Most hits of one search.
pub const HITS_MAX: usize = 10_000;
/// Numbers that are compared at most so that an answer depends on nothing but rows that are shown: 200,000
/// rows of 128 dimensions, which takes some 10 ms.
const SETTLED_MAX: u64 = 200_000 * 128;

/// Builds and searches the lake's vector indexes.
pub struct LakeIndexes {
    staging: PathBuf,
    buckets: Arc<Buckets>,
    files: IndexFiles,
    query: Arc<QueryEngine>,
    key_hash: KeyHash,
    embedding: Embedding,
    open: Mutex<HashMap<(String, u64), Arc<OpenGeneration>>>,
    /// Vectors of texts that searches asked for.
    cache: EmbeddingCache,
    /// One at a time is measured: two would slow each other.
    measuring: Arc<Semaphore>,
    damage: Damage,
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

/// A generation that is open, and which of its rows are hidden.
pub struct OpenGeneration {
    /// The engine's index.
    pub index: HnswIndex,
    source_seq: Seq,
    visible: Mutex<Sights>,
}

#[derive(Clone)]
enum Shown {
    All,
    Except(Arc<RoaringBitmap>),
    Only(Arc<RoaringBitmap>),
}

/// What a search asks for.
pub struct SearchRequest<'a> {
    /// The text or the vector itself.
    pub query: SearchQuery<'a>,
    /// How many hits.
    pub k: usize,
    /// A predicate over the source, already parsed and printed again.
    pub filter: Option<&'a str>,
    /// Candidates looked at.
    pub ef_search: Option<usize>,
    /// Whether to compare every row.
    pub exact: bool,
    /// What the caller sees of the rows.
    pub sight: Sight<'a>,
}

/// The query of a search.
pub enum SearchQuery<'a> {
    /// A text, embedded like the rows were.
    Text(&'a str),
    /// A vector.
    Vector(&'a [f32]),
}

/// What a search found.
pub struct Searched {
    /// The generation that answered.
    pub generation: u64,
    /// It, for texts and vectors of hits.
    pub open: Arc<OpenGeneration>,
    /// The hits.
    pub found: Found,
    /// How long it took, in microseconds.
    pub elapsed_us: u64,
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
            cache: EmbeddingCache::new(CACHE_BYTES),
            measuring: Arc::new(Semaphore::new(1)),
            damage: Damage::default(),
        }
    }

    /// Tells of an index whose files are not what was built, so that another generation is asked for.
    pub fn tell_of_damage(&self, tell: impl Fn(&str) + Send + Sync + 'static) {
        self.damage.tell(tell);
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

    /// Opens the generation that answers and has its graph brought into memory.
    ///
    /// # Errors
    /// As [`LakeIndexes::search`].
    pub async fn warm(&self, index: &Index) -> Result<Warm, PortError> {
        let (generation, open) = self.live(index).await?;
        tokio::task::spawn_blocking(move || {
            open.index.touch();
            Warm {
                generation,
                vectors: open.index.len(),
                bytes: open.index.memory_bytes() as u64,
            }
        })
        .await
        .map_err(|error| PortError::internal(error.to_string()))
    }

    /// Closes every index but these; a search opens what it needs again. Says which were open.
    pub fn release_others(&self, kept: &[String]) -> Vec<String> {
        let mut released = BTreeSet::new();
        self.open.lock().retain(|(name, _), _| {
            let stays = kept.contains(name);
            if !stays {
                released.insert(name.clone());
            }
            stays
        });
        released.into_iter().collect()
    }

    /// Searches the generation of `index` that answers.
    ///
    /// # Errors
    /// `Conflict` while the index is not built, `Invalid` for a bad query, `Corrupt` or
    /// `Unavailable` when its files are not what was built.
    pub async fn search(
        &self,
        catalog: &Fold<CatalogState>,
        index: &Index,
        request: &SearchRequest<'_>,
    ) -> Result<Searched, PortError> {
        let started = Instant::now();
        let (generation, open) = self.live(index).await?;
        let dataset = dataset_of(&catalog.state, index)?;
        let vector = match &request.query {
            SearchQuery::Vector(vector) => vector.to_vec(),
            SearchQuery::Text(text) => self.query_vector(index, text).await?,
        };
        let sight = &request.sight;
        let shown = self.shown(catalog, index, dataset, &open, sight).await?;
        // What a hidden row does to the graph must not be told by which rows are found.
        let settled = match &shown {
            Shown::Only(only) if sight.is_restricted => {
                only.len() * u64::from(index.spec.dimensions) <= SETTLED_MAX
            }
            _ => false,
        };
        let shown = match request.filter {
            None => shown,
            Some(filter) => {
                let passing = slots_where(index, &open, sight, Some(filter)).await?;
                Shown::Only(Arc::new(shown.within(passing)))
            }
        };
        let visible = match &shown {
            Shown::All => Visible::All,
            Shown::Except(hidden) => Visible::Except(hidden),
            Shown::Only(only) => Visible::Only(only),
        };
        let found = if request.exact || settled {
            open.index.search_exact(&vector, request.k, visible)
        } else {
            open.index
                .search(&vector, request.k, request.ef_search, visible)
        }
        .map_err(|error| of_vector(&error))?;
        Ok(Searched {
            generation,
            open: Arc::clone(&open),
            found,
            elapsed_us: u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX),
        })
    }

    /// Whether a key of the live generation may be shown, and its slot.
    ///
    /// # Errors
    /// As [`LakeIndexes::search`].
    pub async fn visible_slot(
        &self,
        catalog: &Fold<CatalogState>,
        index: &Index,
        key: &str,
        sight: &Sight<'_>,
    ) -> Result<Option<(Arc<OpenGeneration>, u64)>, PortError> {
        let (_, open) = self.live(index).await?;
        let dataset = dataset_of(&catalog.state, index)?;
        let Some(slot) = open.index.slot_of(key) else {
            return Ok(None);
        };
        let shown = self.shown(catalog, index, dataset, &open, sight).await?;
        Ok(shown.allows(slot).then_some((open, slot)))
    }

    /// Whether the generation that answers has a row of this key, hidden or not. One that cannot be
    /// opened may have it.
    pub async fn live_holds(&self, index: &Index, key: &str) -> bool {
        if index.live.is_none() {
            return false;
        }
        self.live(index)
            .await
            .map_or(true, |(_, open)| open.index.slot_of(key).is_some())
    }

    /// Lets go of generations that no index has any more.
    pub fn forget_dropped(&self, state: &CatalogState) {
        self.files.forget_dropped(state);
        self.open.lock().retain(|(name, number), _| {
            state.indexes.get(name).is_some_and(|index| {
                index
                    .generations
                    .iter()
                    .any(|generation| generation.generation == *number)
            })
        });
    }

    async fn live(&self, index: &Index) -> Result<(u64, Arc<OpenGeneration>), PortError> {
        let Some(generation) = index.live_generation() else {
            let text = match &index.failed {
                Some((_, error)) => format!("index `{}` could not be built: {error}", index.name),
                None => format!("index `{}` is not built yet", index.name),
            };
            return Err(PortError::new(ErrorKind::Conflict, "index_not_ready", text));
        };
        let name = (index.name.clone(), generation.generation);
        if let Some(open) = self.open.lock().get(&name)
            && open.source_seq == generation.source_seq
        {
            return Ok((generation.generation, Arc::clone(open)));
        }
        let open = self.open_generation(index, generation).await;
        let open = open.map_err(|error| self.damage.seen(index, generation.generation, error))?;
        let open = Arc::new(open);
        self.open.lock().insert(name, Arc::clone(&open));
        Ok((generation.generation, open))
    }

    async fn open_generation(
        &self,
        index: &Index,
        generation: &Generation,
    ) -> Result<OpenGeneration, PortError> {
        let (bucket, prefix) = (&index.spec.bucket, &generation.prefix);
        let files = self.files.of_generation(bucket, prefix, &generation.files);
        let dir = files.await?;
        let expected: Vec<vectors::FileDigest> = generation
            .files
            .iter()
            .map(|file| vectors::FileDigest {
                name: file.name.clone(),
                bytes: file.bytes,
                blake3: file.blake3.clone(),
            })
            .collect();
        let opened = HnswIndex::open(&dir, &expected).map_err(|error| {
            tracing::error!(index = index.name, %error, "generation cannot be opened");
            of_vector(&error)
        })?;
        Ok(OpenGeneration {
            index: opened,
            source_seq: generation.source_seq,
            visible: Mutex::default(),
        })
    }

    /// What of a generation the snapshot shows to a caller; remembered until the dataset changes.
    async fn shown(
        &self,
        catalog: &Fold<CatalogState>,
        index: &Index,
        dataset: &Dataset,
        open: &OpenGeneration,
        sight: &Sight<'_>,
    ) -> Result<Shown, PortError> {
        let remembered = Remembered {
            through: sight.is_restricted.then(|| sight.id.clone()),
            tombstones: dataset.last_tombstone_seq(),
            rows: dataset.rows_seq,
        };
        if let Some(shown) = open.visible.lock().get(&remembered) {
            return Ok(shown);
        }
        let replaced = dataset
            .lineage
            .iter()
            .any(|step| step.mode == IngestMode::Replace && step.journal_seq > open.source_seq);
        let shown = if sight.is_restricted {
            let changed = dataset.rows_seq > open.source_seq;
            let slots = if changed {
                sight::slots_as_built(index, open, sight).await?
            } else {
                slots_where(index, open, sight, None).await?
            };
            Shown::Only(Arc::new(slots))
        } else if replaced {
            let session = || {
                let state = Arc::new(catalog.state.clone());
                self.query.session(SessionTables::all(state, catalog.seq))
            };
            let whole = Sight::of_all(&index.spec.source, &session);
            Shown::Only(Arc::new(slots_where(index, open, &whole, None).await?))
        } else {
            hidden_slots(dataset, open, &self.key_hash)
        };
        open.visible.lock().keep(remembered, shown.clone());
        Ok(shown)
    }

    async fn rows(
        &self,
        tables: SessionTables,
        sql: &str,
    ) -> Result<crate::query::QueryStream, PortError> {
        let session = self.query.session(tables).with_timeout(BUILD_TIMEOUT);
        session
            .execute(sql, Vec::new(), None)
            .await
            .map_err(|error| of_query(&error))
    }
}

/// A build reads its dataset in one query; this is for those that hang.
const BUILD_TIMEOUT: std::time::Duration = std::time::Duration::from_hours(6);

/// Slots of the rows that are seen and pass the filter.
async fn slots_where(
    index: &Index,
    open: &OpenGeneration,
    sight: &Sight<'_>,
    filter: Option<&str>,
) -> Result<RoaringBitmap, PortError> {
    let mut sql = format!(
        "SELECT {} FROM {}",
        quoted_columns(index.spec.key.columns()),
        quoted(sight.through)
    );
    if let Some(filter) = filter {
        sql.push_str(" WHERE ");
        sql.push_str(filter);
    }
    let mut rows = sight.rows(&sql).await?;
    let mut slots = RoaringBitmap::new();
    while let Some(batch) = rows.next().await {
        let batch = batch.map_err(|error| of_query(&error))?;
        let keys =
            names(batch.columns()).map_err(|error| PortError::internal(error.to_string()))?;
        let slot_of = |key| u32::try_from(open.index.slot_of(key)?).ok();
        slots.extend(keys.iter().flatten().filter_map(slot_of));
    }
    Ok(slots)
}

impl Shown {
    fn allows(&self, slot: u64) -> bool {
        let Ok(slot) = u32::try_from(slot) else {
            return false;
        };
        match self {
            Self::All => true,
            Self::Except(hidden) => !hidden.contains(slot),
            Self::Only(only) => only.contains(slot),
        }
    }

    fn within(&self, slots: RoaringBitmap) -> RoaringBitmap {
        match self {
            Self::All => slots,
            Self::Except(hidden) => slots - hidden.as_ref(),
            Self::Only(only) => slots & only.as_ref(),
        }
    }
}

/// Slots of the rows that were deleted after the generation was built.
fn hidden_slots(dataset: &Dataset, open: &OpenGeneration, key_hash: &KeyHash) -> Shown {
    if dataset.last_tombstone_seq() <= open.source_seq {
        return Shown::All;
    }
    let mut hidden: RoaringBitmap = dataset
        .tombstones
        .iter()
        .filter(|(_, seq)| **seq > open.source_seq)
        .filter_map(|(key, _)| u32::try_from(open.index.slot_of(key)?).ok())
        .collect();
    if dataset.has_hashed_keys() {
        // A hash does not lead to its key: every key of the index is hashed and looked up.
        hidden.extend((0..open.index.len()).filter_map(|slot| {
            let hashed = key_hash(open.index.key_of(slot)?);
            let deleted = *dataset.tombstones.get(&hashed)? > open.source_seq;
            deleted.then(|| u32::try_from(slot).ok()).flatten()
        }));
    }
    Shown::Except(Arc::new(hidden))
}

/// The dataset whose rows an index holds, under the view that it is over.
fn dataset_of<'a>(state: &'a CatalogState, index: &'a Index) -> Result<&'a Dataset, PortError> {
    if let Some(dataset) = state.dataset_under(&index.spec.source) {
        return Ok(dataset);
    }
    state
        .dataset(&index.spec.source)
        .map_err(|error| PortError::new(error.kind(), error.code(), error.to_string()))
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

/// The engine's settings out of an index's; refuses what it does not have.
///
/// # Errors
/// `Unprocessable` with the field.
pub fn hnsw_config(config: &IndexConfig) -> Result<HnswConfig, PortError> {
    let refuse = |text: String| PortError::new(ErrorKind::Unprocessable, "bad_config", text);
    let mut hnsw = HnswConfig::default();
    if let Some(value) = config.connectivity {
        hnsw.connectivity = value as usize;
    }
    if let Some(value) = config.ef_construction {
        hnsw.expansion_add = value as usize;
    }
    if let Some(value) = config.ef_search {
        hnsw.expansion_search = value as usize;
    }
    if let Some(value) = &config.quantization {
        hnsw.quantization = match value.as_str() {
            "f32" => Quantization::F32,
            "f16" => Quantization::F16,
            "bf16" => Quantization::Bf16,
            "i8" => Quantization::I8,
            other => return Err(refuse(format!("`{other}` is none of f32, f16, bf16, i8"))),
        };
    }
    hnsw.validate().map_err(|error| refuse(error.to_string()))?;
    Ok(hnsw)
}

fn of_vector(error: &VectorError) -> PortError {
    let code = match error.kind() {
        ErrorKind::Corrupt => "index_corrupt",
        ErrorKind::Invalid => "bad_vector",
        _ => "index_failed",
    };
    PortError::new(error.kind(), code, error.to_string())
}
