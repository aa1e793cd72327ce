//! Vector indexes over datasets: builds generations for the indexing worker, opens the one that
//! answers, and searches it so that no deleted row is ever found.
//!
//! Visibility: a hit is shown when its row is visible in the catalog's snapshot. Rows deleted since
//! the generation was built are hidden by their slots; after a replacement only keys that are still
//! there are shown.

mod build;
pub mod measure;
pub mod quality;

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

use super::{
    embedder::{
        StaticEmbedder,
        cache::{CacheStats, EmbeddingCache},
    },
    index_files::IndexFiles,
    object_store::Buckets,
    tables::of_query,
    usearch::HnswIndex,
    vectors::{self, Found, HnswConfig, Quantization, VectorError, Visible},
};
use crate::query::{QueryEngine, SessionTables, row_key::names};

/// Bytes that embeddings of queries may take in memory.
const CACHE_BYTES: u64 = 64 << 20;
/// Most hits of one search.
pub const HITS_MAX: usize = 10_000;

/// Builds and searches the lake's vector indexes.
pub struct LakeIndexes {
    staging: PathBuf,
    buckets: Arc<Buckets>,
    files: IndexFiles,
    query: Arc<QueryEngine>,
    key_hash: KeyHash,
    open: Mutex<HashMap<(String, u64), Arc<OpenGeneration>>>,
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

/// A generation that is open, and which of its rows are hidden.
pub struct OpenGeneration {
    /// The engine's index.
    pub index: HnswIndex,
    source_seq: Seq,
    /// For the catalog as of these positions (tombstones, rows): what may be shown.
    visible: Mutex<Option<(Seq, Seq, Shown)>>,
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
            open: Mutex::default(),
            cache: EmbeddingCache::new(CACHE_BYTES),
        }
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
            SearchQuery::Text(text) => self.embed(&index.spec.model, text)?,
        };
        let shown = self.shown(catalog, index, dataset, &open).await?;
        let shown = match request.filter {
            None => shown,
            Some(filter) => {
                let passing = self
                    .slots_where(catalog, index, &open, Some(filter))
                    .await?;
                Shown::Only(Arc::new(shown.within(passing)))
            }
        };
        let visible = match &shown {
            Shown::All => Visible::All,
            Shown::Except(hidden) => Visible::Except(hidden),
            Shown::Only(only) => Visible::Only(only),
        };
        let found = if request.exact {
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
    ) -> Result<Option<(Arc<OpenGeneration>, u64)>, PortError> {
        let (_, open) = self.live(index).await?;
        let dataset = dataset_of(&catalog.state, index)?;
        let Some(slot) = open.index.slot_of(key) else {
            return Ok(None);
        };
        let shown = self.shown(catalog, index, dataset, &open).await?;
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

    fn embed(&self, model: &str, text: &str) -> Result<Vec<f32>, PortError> {
        let embed = || StaticEmbedder::built_in().embed(text).map(Vec::from);
        let vector = self.cache.get(model, text, embed).ok_or_else(|| {
            PortError::new(
                ErrorKind::Unprocessable,
                "text_without_vector",
                "the text has no word that the embedder knows",
            )
        })?;
        Ok(vector.to_vec())
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
        let open = Arc::new(self.open_generation(index, generation).await?);
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
            visible: Mutex::new(None),
        })
    }

    /// What of a generation the snapshot shows; remembered until the dataset changes.
    async fn shown(
        &self,
        catalog: &Fold<CatalogState>,
        index: &Index,
        dataset: &Dataset,
        open: &OpenGeneration,
    ) -> Result<Shown, PortError> {
        let position = (dataset.last_tombstone_seq(), dataset.rows_seq);
        if let Some((tombstones, rows, shown)) = &*open.visible.lock()
            && (*tombstones, *rows) == position
        {
            return Ok(shown.clone());
        }
        let replaced = dataset
            .lineage
            .iter()
            .any(|step| step.mode == IngestMode::Replace && step.journal_seq > open.source_seq);
        let shown = if replaced {
            Shown::Only(Arc::new(
                self.slots_where(catalog, index, open, None).await?,
            ))
        } else {
            hidden_slots(dataset, open, &self.key_hash)
        };
        *open.visible.lock() = Some((position.0, position.1, shown.clone()));
        Ok(shown)
    }

    /// Slots of the rows that are visible and pass the filter.
    async fn slots_where(
        &self,
        catalog: &Fold<CatalogState>,
        index: &Index,
        open: &OpenGeneration,
        filter: Option<&str>,
    ) -> Result<RoaringBitmap, PortError> {
        let mut sql = format!(
            "SELECT {} FROM {}",
            quoted_columns(index.spec.key.columns()),
            quoted(&index.spec.source)
        );
        if let Some(filter) = filter {
            sql.push_str(" WHERE ");
            sql.push_str(filter);
        }
        let tables = SessionTables::all(Arc::new(catalog.state.clone()), catalog.seq);
        let mut rows = self.rows(tables, &sql).await?;
        let mut slots = RoaringBitmap::new();
        while let Some(batch) = rows.next().await {
            let batch = batch.map_err(|error| of_query(&error))?;
            let keys =
                names(batch.columns()).map_err(|error| PortError::internal(error.to_string()))?;
            for key in keys.iter().flatten() {
                let slot = open
                    .index
                    .slot_of(key)
                    .and_then(|slot| u32::try_from(slot).ok());
                slots.extend(slot);
            }
        }
        Ok(slots)
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

fn dataset_of<'a>(state: &'a CatalogState, index: &Index) -> Result<&'a Dataset, PortError> {
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
