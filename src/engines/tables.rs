//! The table ports on Parquet: staged rows of an ingest, and rows found by key. Ingest and tombstones
//! reach the files through this; `compaction` and `sidecar` are ports of the same tables.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
};

use arrow::{array::ArrayRef, datatypes::SchemaRef, record_batch::RecordBatch};
use async_trait::async_trait;
use futures::{Stream, StreamExt};
use lakehouse_actors::{
    PortError,
    ports::{KeyTest, Progress, ResolvedRows, RowLookup, StageFn, StagedTable},
};
use lakehouse_journal::model::{
    ErrorKind,
    catalog::{Dataset, DeletionVector, FileEntry, Proposal, SchemaDoc},
    event::DeletedRows,
};
use parquet::arrow::{ProjectionMask, arrow_reader::ParquetRecordBatchReaderBuilder};

use super::{
    buckets::{of_bucket, of_store},
    ingest::{
        self, FileFormat, IngestError, IngestErrorKind, IngestLimits, IngestOptions, Staged,
        StagedFile,
    },
    object_store::Buckets,
    postgres::{PostgresError, PostgresSource, ReadOptions, Relation, Watermark},
};
use crate::query::{
    QueryEngine, QueryError, arrow_schema,
    row_key::{names, spelled},
    schema_doc,
};

/// Batches that wait for the writer before their source does.
const BATCHES_WAITING: usize = 8;
/// Keys looked up at a time when rows are replaced.
const KEYS_AT_A_TIME: usize = 100_000;

/// The tables of the lake: staging, buckets, and the engine that reads them.
#[derive(Clone)]
pub struct LakeTables {
    pub(super) staging: PathBuf,
    limits: IngestLimits,
    pub(super) buckets: Arc<Buckets>,
    query: Arc<QueryEngine>,
}

/// What a file is read as.
pub struct FileSource {
    /// Its bytes.
    pub body: Box<dyn Read + Send>,
    /// Its format, when it is known.
    pub format: Option<FileFormat>,
    /// Its name, when it has one.
    pub file_name: Option<String>,
}

impl LakeTables {
    /// Tables that stage in this directory.
    pub fn new(
        staging: PathBuf,
        limits: IngestLimits,
        buckets: Arc<Buckets>,
        query: Arc<QueryEngine>,
    ) -> Self {
        Self {
            staging,
            limits,
            buckets,
            query,
        }
    }

    /// How a file becomes staged rows.
    pub fn stage(&self, source: FileSource) -> StageFn {
        let tables = self.clone();
        Box::new(move |options| {
            let expected = options.expected.as_ref().map(arrow_schema).transpose();
            let progress = Arc::new(ingest::Progress::default());
            let watched = Watched::start(Arc::clone(&progress), options.progress);
            let staged = ingest::ingest_reader(
                source.body,
                &IngestOptions {
                    format: source.format,
                    file_name: source.file_name,
                    expected: expected.map_err(|error| of_query(&error))?,
                    key: options.key.clone(),
                    limits: tables.limits.clone(),
                    progress,
                    ..IngestOptions::new(&tables.staging)
                },
            );
            drop(watched);
            let staged = staged.map_err(|error| of_ingest(&error))?;
            Ok(Box::new(LakeStaged::new(tables, staged, options.key)) as Box<dyn StagedTable>)
        })
    }
}

impl LakeTables {
    /// How a `PostgreSQL` table or query becomes staged rows.
    pub fn stage_postgres(
        &self,
        source: PostgresSource,
        relation: Relation,
        mut read: ReadOptions,
    ) -> StageFn {
        let tables = self.clone();
        Box::new(move |options| {
            let key = options.key.clone();
            read.since = options.since.map(|since| Watermark {
                column: since.column,
                value: since.value,
                inclusive: since.inclusive,
            });
            let expected = options.expected.as_ref().map(arrow_schema).transpose();
            let ingest = IngestOptions {
                expected: expected.map_err(|error| of_query(&error))?,
                key: options.key,
                limits: tables.limits.clone(),
                ..IngestOptions::new(&tables.staging)
            };
            let (staged, mut notes, end) = tokio::runtime::Handle::current().block_on(async {
                let rows = source
                    .read(relation, read)
                    .await
                    .map_err(|error| of_postgres(&error))?;
                let schema = Arc::clone(&rows.schema);
                let (notes, end) = (rows.notes.clone(), rows.ending());
                let progress = options.progress;
                let batches = rows.map(move |batch| {
                    let batch = batch.map_err(|error| of_postgres(&error))?;
                    let bytes = batch.get_array_memory_size() as u64;
                    progress.done.fetch_add(bytes, Ordering::Relaxed);
                    Ok(batch)
                });
                let staged = stage_batches(schema, batches, ingest).await?;
                Ok::<_, PortError>((staged, notes, end))
            })?;
            let mut staged = LakeStaged::new(tables, staged, key);
            if let Some(end) = end.get() {
                notes.extend(end.notes.iter().cloned());
                staged.watermark.clone_from(&end.watermark_after);
            }
            staged.notes = notes;
            Ok(Box::new(staged) as Box<dyn StagedTable>)
        })
    }
}

fn of_postgres(error: &PostgresError) -> PortError {
    PortError::new(error.kind(), error.code(), error.to_string())
}

/// Copies an ingest's counters to its job until it is dropped.
struct Watched {
    ended: std::sync::mpsc::Sender<()>,
}

impl Watched {
    fn start(from: Arc<ingest::Progress>, to: Arc<Progress>) -> Self {
        let (ended, end) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            loop {
                to.done
                    .store(from.bytes_in.load(Ordering::Relaxed), Ordering::Relaxed);
                if to.is_cancelled() {
                    from.cancel();
                }
                let waited = end.recv_timeout(std::time::Duration::from_millis(100));
                if waited != Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                    to.done
                        .store(from.bytes_in.load(Ordering::Relaxed), Ordering::Relaxed);
                    return;
                }
            }
        });
        Self { ended }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // The watcher that is gone needs no word.
        let _ = self.ended.send(());
    }
}

/// Files in staging.
pub(super) struct LakeStaged {
    tables: LakeTables,
    schema: SchemaDoc,
    key: Vec<String>,
    staged: Staged,
    /// How far the source was read, when it was asked for newer rows.
    watermark: Option<String>,
    /// What the caller should know of the source's values.
    notes: Vec<String>,
    /// The rows' keys by file, once they are loaded.
    keys: parking_lot::Mutex<Arc<Vec<Vec<String>>>>,
}

impl LakeStaged {
    /// The port on these files.
    pub(super) fn new(tables: LakeTables, staged: Staged, key: Vec<String>) -> Self {
        Self {
            tables,
            schema: schema_doc(&staged.schema),
            key,
            staged,
            watermark: None,
            notes: Vec::new(),
            keys: parking_lot::Mutex::default(),
        }
    }

    fn entry(file: &StagedFile, bucket: &str, key: String) -> FileEntry {
        let superseded: DeletionVector = file
            .superseded
            .iter()
            .map(|position| u32::try_from(position).expect("a file is split before 2^32 rows"))
            .collect();
        FileEntry {
            bucket: bucket.to_owned(),
            key,
            rows: file.rows,
            bytes: file.bytes,
            blake3: file.blake3.clone(),
            sorted_by_key: file.sorted_by_key,
            superseded,
            erased: DeletionVector::default(),
        }
    }
}

#[async_trait]
impl StagedTable for LakeStaged {
    fn schema(&self) -> &SchemaDoc {
        &self.schema
    }

    fn rows(&self) -> u64 {
        self.staged.rows
    }

    fn batches(&self) -> u64 {
        self.staged.batches
    }

    fn source_bytes(&self) -> u64 {
        self.staged.source_bytes
    }

    fn content_hash(&self) -> &str {
        &self.staged.source_blake3
    }

    fn watermark(&self) -> Option<&str> {
        self.watermark.as_deref()
    }

    fn notes(&self) -> &[String] {
        &self.notes
    }

    fn proposals(&self) -> BTreeMap<String, Proposal> {
        self.staged.proposals.clone()
    }

    async fn load_keys(&self) -> Result<(), PortError> {
        if self.key.is_empty() || !self.keys.lock().is_empty() {
            return Ok(());
        }
        let mut all = Vec::new();
        for file in &self.staged.files {
            let (path, key) = (file.path.clone(), self.key.clone());
            let keys = tokio::task::spawn_blocking(move || read_keys(&path, &key))
                .await
                .map_err(|error| PortError::internal(error.to_string()))??;
            all.push(keys);
        }
        *self.keys.lock() = Arc::new(all);
        Ok(())
    }

    async fn replaced_rows(&self, dataset: &Dataset) -> Result<Vec<DeletedRows>, PortError> {
        let keys = Arc::clone(&self.keys.lock());
        let mut deleted = Vec::new();
        for chunk in keys.iter().flat_map(|keys| keys.chunks(KEYS_AT_A_TIME)) {
            deleted.extend(self.tables.resolve(dataset, chunk).await?.deleted);
        }
        Ok(merged(deleted))
    }

    async fn rows_where(&self, test: KeyTest) -> Result<Vec<DeletionVector>, PortError> {
        let keys = Arc::clone(&self.keys.lock());
        let files = self.staged.files.len();
        let passing = move || {
            let of_file = |keys: &Vec<String>| {
                let rows = (0_u32..).zip(keys).filter(|(_, key)| test(key));
                rows.map(|(position, _)| position).collect()
            };
            let mut passing: Vec<DeletionVector> = keys.iter().map(of_file).collect();
            passing.resize(files, DeletionVector::default());
            passing
        };
        tokio::task::spawn_blocking(passing)
            .await
            .map_err(|error| PortError::internal(error.to_string()))
    }

    async fn publish(&self, bucket: &str, dataset_id: &str) -> Result<Vec<FileEntry>, PortError> {
        let opened = self
            .tables
            .buckets
            .get(bucket)
            .map_err(|e| of_bucket(bucket, &e))?;
        let mut entries = Vec::new();
        let mut moves = Vec::new();
        for file in &self.staged.files {
            // Content and ingest in the name: the same bytes ingested twice are two objects.
            let ingest = uuid::Uuid::new_v4().simple().to_string();
            let key = format!(
                "datasets/{dataset_id}/{}-{}.parquet",
                &file.blake3[..32],
                &ingest[..8]
            );
            moves.push((file.path.clone(), key.clone()));
            entries.push(Self::entry(file, bucket, key));
        }
        for (path, key) in moves {
            opened
                .put_file(path, &key)
                .await
                .map_err(|error| of_store(bucket, &error))?;
        }
        Ok(entries)
    }
}

fn merged(deleted: Vec<DeletedRows>) -> Vec<DeletedRows> {
    let mut by_file = std::collections::BTreeMap::<String, DeletionVector>::new();
    for rows in deleted {
        by_file.entry(rows.file).or_default().add(&rows.positions);
    }
    by_file
        .into_iter()
        .map(|(file, positions)| DeletedRows { file, positions })
        .collect()
}

#[async_trait]
impl RowLookup for LakeTables {
    async fn resolve(&self, dataset: &Dataset, keys: &[String]) -> Result<ResolvedRows, PortError> {
        if dataset.key.is_empty() {
            return Ok(ResolvedRows::default());
        }
        // Rows are named as their columns spell them: indexes and lists know them by that name.
        let spelled = spelled(dataset, keys).map_err(|error| of_query(&error))?;
        let names: BTreeSet<&String> = spelled.iter().flatten().collect();
        let names: Vec<String> = names.into_iter().cloned().collect();
        let found = self
            .query
            .resolve_keys(&Arc::new(dataset.clone()), &dataset.key, &names)
            .await
            .map_err(|error| of_query(&error))?;
        let lost: BTreeSet<&String> = found.missing.iter().collect();
        let is_missing = |name: &Option<String>| name.as_ref().is_none_or(|n| lost.contains(n));
        let missing = keys.iter().zip(&spelled);
        let missing = missing.filter(|(_, name)| is_missing(name));
        let missing = missing.map(|(key, _)| key.clone()).collect();
        let mut by_file = std::collections::BTreeMap::<String, Vec<u32>>::new();
        let mut rows = Vec::with_capacity(found.found.len());
        for (key, positions) in found.found {
            for position in positions {
                by_file
                    .entry(position.file.to_string())
                    .or_default()
                    .push(position.row);
            }
            rows.push(key);
        }
        Ok(ResolvedRows {
            found: rows,
            deleted: by_file
                .into_iter()
                .map(|(file, positions)| DeletedRows {
                    file,
                    positions: positions.into_iter().collect(),
                })
                .collect(),
            missing,
        })
    }
}

/// Batches as staged rows.
async fn stage_batches(
    schema: SchemaRef,
    batches: impl Stream<Item = Result<RecordBatch, PortError>>,
    options: IngestOptions,
) -> Result<Staged, PortError> {
    let internal = |error: &dyn std::fmt::Display| PortError::internal(error.to_string());
    let (sender, mut waiting) = tokio::sync::mpsc::channel(BATCHES_WAITING);
    let ingest = tokio::task::spawn_blocking(move || {
        // A sender that goes without saying that it was all has failed.
        let next = || match waiting.blocking_recv() {
            Some(batch) => Ok(batch),
            None => Err(IngestError::Disconnected(
                std::io::ErrorKind::UnexpectedEof.into(),
            )),
        };
        ingest::ingest_batches(&schema, next, &options)
    });
    let mut batches = std::pin::pin!(batches);
    while let Some(batch) = batches.next().await {
        if sender.send(Some(batch?)).await.is_err() {
            // The ingest has failed and says why below.
            break;
        }
    }
    // One that is gone needs no end.
    let _ = sender.send(None).await;
    ingest
        .await
        .map_err(|error| internal(&error))?
        .map_err(|error| of_ingest(&error))
}

/// The keys of a staged file's rows, spelled: a key is never null.
fn read_keys(path: &Path, key: &[String]) -> Result<Vec<String>, PortError> {
    let internal = |error: &dyn std::fmt::Display| PortError::internal(error.to_string());
    let file = std::fs::File::open(path).map_err(|error| internal(&error))?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|e| internal(&e))?;
    let columns = key.iter().map(String::as_str);
    let columns = ProjectionMask::columns(builder.parquet_schema(), columns);
    let reader = builder
        .with_projection(columns)
        .build()
        .map_err(|error| internal(&error))?;
    let mut keys = Vec::new();
    for batch in reader {
        let batch = batch.map_err(|error| internal(&error))?;
        let column = |name: &String| batch.column_by_name(name).cloned();
        let columns: Option<Vec<ArrayRef>> = key.iter().map(column).collect();
        let columns = columns.ok_or_else(|| internal(&"a staged file lacks a key column"))?;
        let names = names(&columns).map_err(|error| internal(&error))?;
        keys.extend(names.iter().flatten().map(str::to_owned));
    }
    Ok(keys)
}

/// A query's failure as the actors speak of it.
pub fn of_query(error: &QueryError) -> PortError {
    PortError::new(error.kind(), error.code(), error.to_string())
}

/// A failure of the staging directory as the actors speak of it.
pub(super) fn of_staging(error: &std::io::Error) -> PortError {
    if is_full(error) {
        let text = "there is no room left where files are staged";
        return PortError::new(ErrorKind::Unavailable, "disk_full", text);
    }
    PortError::internal(format!("the staging directory failed: {error}"))
}

/// Whether a lack of room is among the causes.
fn is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    let kind = error.downcast_ref().map(std::io::Error::kind);
    matches!(kind, Some(StorageFull | QuotaExceeded | FileTooLarge))
        || error.source().is_some_and(is_full)
}

impl From<IngestError> for PortError {
    fn from(error: IngestError) -> Self {
        of_ingest(&error)
    }
}

/// An ingest's failure as the actors speak of it.
pub(super) fn of_ingest(error: &IngestError) -> PortError {
    if is_full(error) {
        let text = "there is no room left where files are staged";
        return PortError::new(ErrorKind::Unavailable, "disk_full", text);
    }
    let (kind, code) = match error.kind() {
        IngestErrorKind::Invalid => (ErrorKind::Invalid, "malformed_file"),
        IngestErrorKind::Conflict => (ErrorKind::Conflict, "schema_mismatch"),
        IngestErrorKind::TooLarge => (ErrorKind::TooLarge, "body_too_large"),
        IngestErrorKind::Cancelled => (ErrorKind::Timeout, "cancelled"),
        IngestErrorKind::Disconnected => (ErrorKind::Invalid, "body_incomplete"),
        IngestErrorKind::Internal => (ErrorKind::Internal, "internal"),
    };
    if kind == ErrorKind::Internal {
        let cause = std::error::Error::source(error).map(ToString::to_string);
        tracing::error!(%error, cause, "ingest failed");
    }
    PortError::new(kind, code, error.to_string())
}
