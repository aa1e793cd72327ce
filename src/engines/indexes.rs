//! Vector indexes over datasets: builds generations for the indexing worker, opens the one that
//! answers, and searches it so that no deleted row is ever found.
//!
//! Visibility: a hit is shown when its row is visible in the catalog's snapshot. Rows deleted since
//! the generation was built are hidden by their slots; after a replacement only keys that are still
//! there are shown.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use arrow::{array::AsArray, compute::cast, datatypes::DataType, record_batch::RecordBatch};
use async_trait::async_trait;
use futures::StreamExt;
use lakehouse_actors::{
    PortError,
    ports::{BuiltGeneration, IndexBuilder, Progress},
};
use lakehouse_journal::{
    model::{
        ErrorKind,
        catalog::{
            Backend, CatalogState, Dataset, FileDigest, Generation, Index, IndexConfig, IngestMode,
            TextSpec,
        },
    },
    record::Seq,
};
use parking_lot::Mutex;
use roaring::RoaringBitmap;

use super::{
    buckets::of_bucket,
    embedder::StaticEmbedder,
    object_store::Buckets,
    tables::of_query,
    usearch::{HnswBuilder, HnswIndex},
    vectors::{self, BuildOptions, Chunk, Found, HnswConfig, Quantization, VectorError, Visible},
};
use crate::query::{QueryEngine, SessionTables};

/// Most hits of one search.
pub const HITS_MAX: usize = 10_000;

/// Builds and searches the lake's vector indexes.
pub struct LakeIndexes {
    staging: PathBuf,
    buckets: Arc<Buckets>,
    query: Arc<QueryEngine>,
    open: Mutex<HashMap<(String, u64), Arc<OpenGeneration>>>,
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
    /// Indexes that are built in this staging directory.
    pub fn new(staging: PathBuf, buckets: Arc<Buckets>, query: Arc<QueryEngine>) -> Self {
        Self { staging, buckets, query, open: Mutex::default() }
    }

    /// Searches the generation of `index` that answers.
    ///
    /// # Errors
    /// `Conflict` while the index is not built, `Invalid` for a bad query, `Corrupt` or
    /// `Unavailable` when its files are not what was built.
    pub async fn search(
        &self,
        state: &CatalogState,
        index: &Index,
        request: &SearchRequest<'_>,
    ) -> Result<Searched, PortError> {
        let started = Instant::now();
        let (generation, open) = self.live(index)?;
        let dataset = dataset_of(state, index)?;
        let vector = match &request.query {
            SearchQuery::Vector(vector) => vector.to_vec(),
            SearchQuery::Text(text) => embed_one(text)?,
        };
        let shown = self.shown(state, index, dataset, &open).await?;
        let shown = match request.filter {
            None => shown,
            Some(filter) => {
                let passing = self.slots_where(state, index, &open, Some(filter)).await?;
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
            open.index.search(&vector, request.k, request.ef_search, visible)
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
        state: &CatalogState,
        index: &Index,
        key: &str,
    ) -> Result<Option<(Arc<OpenGeneration>, u64)>, PortError> {
        let (_, open) = self.live(index)?;
        let dataset = dataset_of(state, index)?;
        let Some(slot) = open.index.slot_of(key) else { return Ok(None) };
        let shown = self.shown(state, index, dataset, &open).await?;
        Ok(shown.allows(slot).then_some((open, slot)))
    }

    /// Lets go of generations that no index has any more.
    pub fn forget_dropped(&self, state: &CatalogState) {
        self.open.lock().retain(|(name, number), _| {
            state.indexes.get(name).is_some_and(|index| {
                index.generations.iter().any(|generation| generation.generation == *number)
            })
        });
    }

    fn live(&self, index: &Index) -> Result<(u64, Arc<OpenGeneration>), PortError> {
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
        let open = Arc::new(self.open_generation(index, generation)?);
        self.open.lock().insert(name, Arc::clone(&open));
        Ok((generation.generation, open))
    }

    fn open_generation(
        &self,
        index: &Index,
        generation: &Generation,
    ) -> Result<OpenGeneration, PortError> {
        let dir = self.local_dir(&index.spec.bucket, &generation.prefix)?;
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

    fn local_dir(&self, bucket: &str, prefix: &str) -> Result<PathBuf, PortError> {
        let opened = self.buckets.get(bucket).map_err(|error| of_bucket(bucket, &error))?;
        let local = opened.local.ok_or_else(|| {
            let text = format!("bucket `{bucket}` is no directory; indexes are mapped from files");
            PortError::new(ErrorKind::Unprocessable, "unsupported", text)
        })?;
        local.file(prefix).map_err(|error| of_bucket(bucket, &error))
    }

    /// What of a generation the snapshot shows; remembered until the dataset changes.
    async fn shown(
        &self,
        state: &CatalogState,
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
            Shown::Only(Arc::new(self.slots_where(state, index, open, None).await?))
        } else {
            hidden_slots(dataset, open)
        };
        *open.visible.lock() = Some((position.0, position.1, shown.clone()));
        Ok(shown)
    }

    /// Slots of the rows that are visible and pass the filter.
    async fn slots_where(
        &self,
        state: &CatalogState,
        index: &Index,
        open: &OpenGeneration,
        filter: Option<&str>,
    ) -> Result<RoaringBitmap, PortError> {
        let mut sql = format!(
            "SELECT CAST({} AS VARCHAR) FROM {}",
            quoted(&index.spec.key),
            quoted(&index.spec.source)
        );
        if let Some(filter) = filter {
            sql.push_str(&format!(" WHERE {filter}"));
        }
        let mut rows = self.rows(state, &sql).await?;
        let mut slots = RoaringBitmap::new();
        while let Some(batch) = rows.next().await {
            let batch = batch.map_err(|error| of_query(&error))?;
            let keys = text_column(&batch, 0)?;
            for key in keys.as_string::<i32>().iter().flatten() {
                let slot = open.index.slot_of(key).and_then(|slot| u32::try_from(slot).ok());
                slots.extend(slot);
            }
        }
        Ok(slots)
    }

    async fn rows(
        &self,
        state: &CatalogState,
        sql: &str,
    ) -> Result<crate::query::QueryStream, PortError> {
        let tables = SessionTables::all(Arc::new(state.clone()));
        let session = self.query.session(tables).with_timeout(BUILD_TIMEOUT);
        session.execute(sql, Vec::new(), None).await.map_err(|error| of_query(&error))
    }
}

/// A build reads its dataset in one query; this is for those that hang.
const BUILD_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(6 * 3600);

impl Shown {
    fn allows(&self, slot: u64) -> bool {
        let Ok(slot) = u32::try_from(slot) else { return false };
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
fn hidden_slots(dataset: &Dataset, open: &OpenGeneration) -> Shown {
    if dataset.last_tombstone_seq() <= open.source_seq {
        return Shown::All;
    }
    let hidden: RoaringBitmap = dataset
        .tombstones
        .iter()
        .filter(|(_, seq)| **seq > open.source_seq)
        .filter_map(|(key, _)| u32::try_from(open.index.slot_of(key)?).ok())
        .collect();
    Shown::Except(Arc::new(hidden))
}

fn dataset_of<'a>(state: &'a CatalogState, index: &Index) -> Result<&'a Dataset, PortError> {
    state.dataset(&index.spec.source).map_err(|error| {
        PortError::new(error.kind(), error.code(), error.to_string())
    })
}

fn embed_one(text: &str) -> Result<Vec<f32>, PortError> {
    let vector = StaticEmbedder::built_in().embed(text).ok_or_else(|| {
        PortError::new(
            ErrorKind::Unprocessable,
            "text_without_vector",
            "the text has no word that the embedder knows",
        )
    })?;
    Ok(vector.to_vec())
}

#[async_trait]
impl IndexBuilder for LakeIndexes {
    async fn build(
        &self,
        dataset: Arc<Dataset>,
        index: Arc<Index>,
        generation: u64,
        progress: Arc<Progress>,
    ) -> Result<BuiltGeneration, PortError> {
        if index.spec.backend != Backend::Hnsw {
            let text = "this version builds `hnsw` indexes only";
            return Err(PortError::new(ErrorKind::Unprocessable, "unsupported", text));
        }
        let work = tempfile::Builder::new()
            .prefix("index-")
            .tempdir_in(&self.staging)
            .map_err(|error| PortError::internal(error.to_string()))?;
        let dir = work.path().join("generation");
        let config = hnsw_config(&index.spec.config)?;
        let dimensions = index.spec.dimensions as usize;
        let options = BuildOptions::default();
        let mut builder = HnswBuilder::new(&dir, dimensions, config, options)
            .map_err(|error| of_vector(&error))?;
        let mut state = CatalogState::default();
        state.datasets.insert(dataset.name.clone(), Arc::clone(&dataset));
        let template = index.spec.text.clone();
        let mut rows = self.rows(&state, &text_query(&index, &dataset)?).await?;
        let mut skipped = 0;
        while let Some(batch) = rows.next().await {
            let batch = batch.map_err(|error| of_query(&error))?;
            let count = batch.num_rows() as u64;
            let template = template.clone();
            let added = tokio::task::spawn_blocking(move || {
                let skipped = add_batch(&mut builder, &batch, &template)?;
                Ok::<_, PortError>((builder, skipped))
            });
            let (returned, without) = added.await.map_err(|error| PortError::internal(error.to_string()))??;
            builder = returned;
            skipped += without;
            progress.done.fetch_add(count, Ordering::Relaxed);
            if progress.is_cancelled() {
                return Err(PortError::new(ErrorKind::Timeout, "cancelled", "the build was cancelled"));
            }
        }
        let built = tokio::task::spawn_blocking(move || builder.finish())
            .await
            .map_err(|error| PortError::internal(error.to_string()))?
            .map_err(|error| of_vector(&error))?;
        let unique = uuid::Uuid::new_v4().simple().to_string();
        let prefix = format!("vectors/{}/{generation}-{}", index.name, &unique[..12]);
        self.publish(&index.spec.bucket, &prefix, &dir, &built.files).await?;
        Ok(BuiltGeneration {
            prefix,
            vectors: built.stats.vectors,
            skipped,
            files: built
                .files
                .into_iter()
                .map(|file| FileDigest { name: file.name, bytes: file.bytes, blake3: file.blake3 })
                .collect(),
        })
    }
}

impl LakeIndexes {
    async fn publish(
        &self,
        bucket: &str,
        prefix: &str,
        dir: &Path,
        files: &[vectors::FileDigest],
    ) -> Result<(), PortError> {
        let opened = self.buckets.get(bucket).map_err(|error| of_bucket(bucket, &error))?;
        let local = opened.local.ok_or_else(|| {
            let text = format!("bucket `{bucket}` is no directory; indexes are mapped from files");
            PortError::new(ErrorKind::Unprocessable, "unsupported", text)
        })?;
        let moves: Vec<(PathBuf, String)> = files
            .iter()
            .map(|file| (dir.join(&file.name), format!("{prefix}/{}", file.name)))
            .collect();
        let bucket = bucket.to_owned();
        tokio::task::spawn_blocking(move || {
            moves.iter().try_for_each(|(path, key)| {
                // An index of no text has an empty file of texts, which is no broken write.
                local.put_file(path, key).map(|_| ()).map_err(|error| of_bucket(&bucket, &error))
            })
        })
        .await
        .map_err(|error| PortError::internal(error.to_string()))?
    }
}

/// Key and text columns of every visible row, as text.
fn text_query(index: &Index, dataset: &Dataset) -> Result<String, PortError> {
    let columns = index.spec.text.columns().map_err(|reason| {
        PortError::new(ErrorKind::Unprocessable, "impossible", reason)
    })?;
    let mut selected = vec![format!("CAST({} AS VARCHAR)", quoted(&index.spec.key))];
    for (number, column) in columns.iter().enumerate() {
        selected.push(format!("CAST({} AS VARCHAR) AS text_{number}", quoted(column)));
    }
    Ok(format!(
        "SELECT {} FROM {} WHERE {} IS NOT NULL",
        selected.join(", "),
        quoted(&dataset.name),
        quoted(&index.spec.key)
    ))
}

/// Embeds a batch and adds it; says how many rows have no vector.
fn add_batch(
    builder: &mut HnswBuilder,
    batch: &RecordBatch,
    template: &TextSpec,
) -> Result<u64, PortError> {
    let keys = text_column(batch, 0)?;
    let parts = (1..batch.num_columns())
        .map(|column| text_column(batch, column))
        .collect::<Result<Vec<_>, _>>()?;
    let texts: Vec<String> = (0..batch.num_rows())
        .map(|row| {
            let values = parts.iter().map(|part| {
                let part = part.as_string::<i32>();
                if arrow::array::Array::is_null(part, row) { "" } else { part.value(row) }
            });
            render(template, values)
        })
        .collect();
    let embedded = embed_all(&texts);
    let mut chunk_keys = Vec::with_capacity(texts.len());
    let mut chunk_texts = Vec::with_capacity(texts.len());
    let mut numbers = Vec::new();
    for ((row, text), vector) in texts.into_iter().enumerate().zip(embedded) {
        if let Some(vector) = vector {
            chunk_keys.push(keys.as_string::<i32>().value(row).to_owned());
            chunk_texts.push(text);
            numbers.extend_from_slice(&vector);
        }
    }
    let skipped = batch.num_rows() - chunk_keys.len();
    builder
        .add_chunk(Chunk { keys: &chunk_keys, texts: Some(&chunk_texts), vectors: &numbers })
        .map_err(|error| of_vector(&error))?;
    Ok(skipped as u64)
}

/// The vectors of many texts, on every core.
fn embed_all(texts: &[String]) -> Vec<Option<[f32; super::embedder::DIMENSIONS]>> {
    let embedder = StaticEmbedder::built_in();
    let part = texts.len().div_ceil(vectors::processors()).max(256);
    std::thread::scope(|scope| {
        let workers: Vec<_> = texts
            .chunks(part)
            .map(|texts| {
                scope.spawn(move || texts.iter().map(|text| embedder.embed(text)).collect::<Vec<_>>())
            })
            .collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().expect("embedding takes any text"))
            .collect()
    })
}

/// The text of a row out of its template and the values of the template's columns.
fn render<'a>(template: &TextSpec, mut values: impl Iterator<Item = &'a str>) -> String {
    match template {
        TextSpec::Columns(_) => values.collect::<Vec<_>>().join(" "),
        TextSpec::Template(template) => {
            let mut text = String::new();
            let mut rest = template.as_str();
            while let Some((before, after)) = rest.split_once('{') {
                text.push_str(before);
                text.push_str(values.next().unwrap_or_default());
                rest = after.split_once('}').map_or("", |(_, rest)| rest);
            }
            text.push_str(rest);
            text
        }
    }
}

fn text_column(batch: &RecordBatch, column: usize) -> Result<arrow::array::ArrayRef, PortError> {
    cast(batch.column(column), &DataType::Utf8).map_err(|error| PortError::internal(error.to_string()))
}

/// An identifier as SQL has it.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_takes_its_columns_in_order() {
        let template = TextSpec::Template("{title}. {body}!".to_owned());
        assert_eq!(render(&template, ["A", "b"].into_iter()), "A. b!");
        let columns = TextSpec::Columns(vec!["title".to_owned(), "body".to_owned()]);
        assert_eq!(render(&columns, ["A", "b"].into_iter()), "A b");
    }

    #[test]
    fn an_identifier_cannot_end_its_quotes() {
        assert_eq!(quoted("a\"b"), "\"a\"\"b\"");
    }
}
