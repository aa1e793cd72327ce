//! What actors need from outside, as roles. `src/engines` implements them on real libraries,
//! `testing` with fakes; both pass the same contract suites.

mod embedding;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use lakehouse_journal::{
    model::{
        Fold,
        bucket::BucketSpec,
        catalog::{
            CatalogState, DataFile, Dataset, DeletionVector, DeltaFile, EmbeddingSpec, EvalSet,
            FileDigest, FileEntry, Index, IndexSpec, Making, Proposal, SchemaDoc, Trial,
        },
        event::{DeletedRows, FileRepair},
    },
    record::{Micros, Seq},
};

use serde::{Deserialize, Serialize};

pub use self::embedding::{
    ChunkSpan, EmbedLimits, Embedded, Embedder, TextVector, Tokenizer, Tokens,
};
use crate::error::PortError;

/// Tells the time; nothing else in this ring does.
pub trait Clock: Send + Sync {
    /// Microseconds since 1970.
    fn now(&self) -> Micros;
}

/// How far a long operation is, and whether it should stop. Shared with whoever watches.
#[derive(Debug, Default)]
pub struct Progress {
    /// Units done: bytes of an ingest, rows of a build.
    pub done: AtomicU64,
    /// Units in all, 0 while unknown.
    pub total: AtomicU64,
    /// Set when the operation should give up.
    pub cancelled: AtomicBool,
}

impl Progress {
    /// Whether the operation should give up.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

/// What a source must be turned into.
#[derive(Debug, Clone)]
pub struct StageOptions {
    /// The schema that the rows must have, when the dataset has one.
    pub expected: Option<SchemaDoc>,
    /// Key columns.
    pub key: Vec<String>,
    /// Only the rows that are newer than this, of a source that can tell.
    pub since: Option<Since>,
    /// Watched by the job.
    pub progress: Arc<Progress>,
}

/// Where a read of newer rows begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Since {
    /// The column that grows.
    pub column: String,
    /// Its highest value when it was last read; nothing reads everything.
    pub value: Option<String>,
    /// Whether rows of just that value are read again: a clock's time may have got more rows since.
    pub inclusive: bool,
}

/// Rows that lie in files of our own, durable, but in no bucket yet. Dropped = removed.
#[async_trait]
pub trait StagedTable: Send + Sync {
    /// Their schema.
    fn schema(&self) -> &SchemaDoc;
    /// Rows in all.
    fn rows(&self) -> u64;
    /// Batches read.
    fn batches(&self) -> u64;
    /// Bytes of the source as received, or of a database's rows in memory.
    fn source_bytes(&self) -> u64;
    /// blake3 (hex) of the same.
    fn content_hash(&self) -> &str;
    /// How far the source was read, as it writes it, when only its newer rows were asked for.
    fn watermark(&self) -> Option<&str> {
        None
    }
    /// What whoever asked should know: columns that are carried as text, values that became null.
    fn notes(&self) -> &[String] {
        &[]
    }
    /// What the columns look like that hold data about people, as a proposal of their classes.
    fn proposals(&self) -> BTreeMap<String, Proposal> {
        BTreeMap::new()
    }
    /// Reads the rows' keys, for `replaced_rows`; the files are out of reach once published.
    ///
    /// # Errors
    /// When the staged files cannot be read.
    async fn load_keys(&self) -> Result<(), PortError>;
    /// The rows of `dataset` that these replace, by key. Empty when there is no key.
    ///
    /// # Errors
    /// When files of the dataset cannot be read.
    async fn replaced_rows(&self, dataset: &Dataset) -> Result<Vec<DeletedRows>, PortError>;
    /// The rows whose key passes the test, by file in the order of `publish`; a vector may be empty.
    /// `load_keys` comes first. Without a key no row has one.
    ///
    /// # Errors
    /// When the keys cannot be read.
    async fn rows_where(&self, test: KeyTest) -> Result<Vec<DeletionVector>, PortError>;
    /// Whether the rows lay in files of a bucket already, which stay there whatever comes of this.
    fn lies_in_bucket(&self) -> bool {
        false
    }
    /// Puts the files into a bucket under `datasets/<dataset_id>/`; durable when it returns.
    ///
    /// # Errors
    /// When the bucket refuses; what was put is an orphan, collected later.
    async fn publish(&self, bucket: &str, dataset_id: &str) -> Result<Vec<FileEntry>, PortError>;
}

/// Whether a row of this key is meant.
pub type KeyTest = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// A row key's keyed hash, as it stands in the journal of a dataset that asks for hashes.
pub type KeyHash = Arc<dyn Fn(&str) -> String + Send + Sync>;

/// Reads a source to its end; blocking, run on a thread of its own.
pub type StageFn = Box<dyn FnOnce(StageOptions) -> Result<Box<dyn StagedTable>, PortError> + Send>;

/// Keys turned into positions.
#[derive(Debug, Clone, Default)]
pub struct ResolvedRows {
    /// Keys that visible rows have.
    pub found: Vec<String>,
    /// Where.
    pub deleted: Vec<DeletedRows>,
    /// Keys that no visible row has.
    pub missing: Vec<String>,
}

/// Finds rows by key in a dataset's files.
#[async_trait]
pub trait RowLookup: Send + Sync {
    /// Positions of the rows with these keys.
    ///
    /// # Errors
    /// When files cannot be read.
    async fn resolve(&self, dataset: &Dataset, keys: &[String]) -> Result<ResolvedRows, PortError>;
}

/// Files of a dataset, rewritten.
pub struct Rewritten {
    /// The new files, in staging.
    pub staged: Box<dyn StagedTable>,
    /// Where the rows went.
    pub moved: Arc<dyn RowMap>,
    /// Hash (hex) over the contents of the rows, whatever their order: the same in and out.
    pub content_hash: String,
}

/// Where the rows of files lie after those were rewritten.
#[async_trait]
pub trait RowMap: Send + Sync {
    /// Rows of the old files as positions in the new ones, by new file in the order of `publish`.
    /// Rows that were left out are nowhere.
    ///
    /// # Errors
    /// When what was noted of the rewrite cannot be read.
    async fn locate(&self, rows: &[DeletedRows]) -> Result<Vec<DeletionVector>, PortError>;
}

/// Rewrites files of a dataset without the rows that are gone.
#[async_trait]
pub trait Compactor: Send + Sync {
    /// The rows of these files that are not in their deletion vectors, as new files in staging:
    /// sorted by key when every input is, else file after file in the order of their rows. Memory is
    /// bounded whatever the size. Fails when rows or their contents are not the same in and out.
    ///
    /// # Errors
    /// When files cannot be read or written; `Corrupt` when in and out differ.
    async fn rewrite(
        &self,
        dataset: &Dataset,
        files: &[Arc<DataFile>],
        progress: Arc<Progress>,
    ) -> Result<Rewritten, PortError>;
}

/// The list of deleted rows that lies beside a dataset's files, for readers other than this daemon.
#[async_trait]
pub trait Sidecar: Send + Sync {
    /// Makes `{dataset}_tombstones.parquet` say what the state says: the rows of live files that are
    /// deleted for good and not yet out of them. Without any there is no object.
    ///
    /// # Errors
    /// When the rows cannot be read or the bucket refuses.
    async fn write(&self, dataset: &Dataset) -> Result<(), PortError>;
}

/// A deletion as the ledger lists it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ListedDeletion {
    /// The dataset's name.
    pub dataset: String,
    /// Its lasting id.
    pub dataset_id: String,
    /// Position of the event.
    pub seq: Seq,
    /// When.
    pub at: Micros,
    /// The rows' keys, as they stand in the journal.
    pub rows: Vec<String>,
    /// Why.
    pub reason: String,
    /// Who.
    pub actor: String,
}

/// A list of what was deleted, kept apart from everything that a backup brings back.
#[async_trait]
pub trait DeletionLedger: Send + Sync {
    /// Lists a deletion; durable when it returns. The same one again changes nothing.
    ///
    /// # Errors
    /// `Unavailable` when the ledger cannot be written.
    async fn list(&self, deletion: &ListedDeletion) -> Result<(), PortError>;
    /// Everything that is listed, oldest first.
    ///
    /// # Errors
    /// `Unavailable` when it cannot be read.
    async fn listed(&self) -> Result<Vec<ListedDeletion>, PortError>;
}

/// The queries that run.
#[async_trait]
pub trait Readers: Send + Sync {
    /// Waits until no query reads a snapshot of the catalog older than `before`; those that still do
    /// at the deadline are ended. New queries read newer snapshots and do not matter.
    async fn drain(&self, before: Seq, deadline: Duration);

    /// Lets go of what is kept in memory of an object that is deleted: a footer has bounds, and bounds
    /// are values of rows.
    fn forget(&self, bucket: &str, key: &str);
}

/// A generation that is to be built.
#[derive(Debug, Clone)]
pub struct BuildTask {
    /// The catalog as it is now.
    pub snapshot: Arc<Fold<CatalogState>>,
    /// The index in it. While it is `folding`, the rows are those of the generation that answers.
    pub index: Arc<Index>,
    /// The generation's number.
    pub generation: u64,
    /// The job: the same when a build that was broken off is taken up again.
    pub job: String,
}

/// A generation that is built and durable in its bucket.
#[derive(Debug, Clone)]
pub struct BuiltGeneration {
    /// Folder of its files.
    pub prefix: String,
    /// Its files.
    pub files: Vec<FileDigest>,
    /// Vectors in it.
    pub vectors: u64,
    /// Rows in it, where one may have several vectors.
    pub rows: Option<u64>,
    /// Rows whose text has no vector.
    pub skipped: u64,
    /// Rows whose vector was taken from the generation before: their text is the same.
    pub reused: u64,
    /// Rows that the generation before had with another text.
    pub changed: u64,
    /// Who made its vectors, and what that took.
    pub making: Making,
    /// Position of the snapshot whose rows it has, when it is older than the task's.
    pub rows_seq: Option<Seq>,
    /// Position of the last delta that was folded in, when it is made of a generation.
    pub folded_through: Option<Seq>,
}

/// Builds a generation of an index from a snapshot of the dataset or view that it is over.
#[async_trait]
pub trait IndexBuilder: Send + Sync {
    /// Embeds, builds and stores; shows rows done in `progress`.
    ///
    /// # Errors
    /// When rows cannot be read or embedded, or the bucket refuses.
    async fn build(
        &self,
        task: BuildTask,
        progress: Arc<Progress>,
    ) -> Result<BuiltGeneration, PortError>;
    /// The index that says what a dataset's own embedding asks for.
    ///
    /// # Errors
    /// When nobody here can make it, or a provider that must be asked does not answer.
    async fn index_of(
        &self,
        dataset: &Dataset,
        wanted: &EmbeddingSpec,
    ) -> Result<IndexSpec, PortError>;
    /// Whether the generation that answers has vectors as they would be made today.
    fn is_made_as_today(&self, index: &Index) -> bool;
    /// Removes kept vectors of texts that no visible row of the dataset has: true of all deletions up to
    /// `through`. Returns how many files were looked at.
    ///
    /// # Errors
    /// When rows cannot be read or files not be written.
    async fn sweep_vectors(
        &self,
        catalog: Arc<Fold<CatalogState>>,
        dataset: &str,
        through: Seq,
    ) -> Result<u64, PortError>;
    /// Measures a generation that is built and not yet committed, by an evaluation set or, without
    /// one, by queries drawn from its own rows.
    ///
    /// # Errors
    /// When its files or those of the set cannot be read.
    async fn check(
        &self,
        index: Arc<Index>,
        generation: u64,
        built: &BuiltGeneration,
        eval: Option<EvalSet>,
    ) -> Result<Trial, PortError>;
    /// Closes what is open of generations that the catalog does not keep any more, once what is
    /// measured on their rows has ended.
    async fn release(&self, catalog: &CatalogState);
}

/// What became of an index's rows since it was last current.
#[derive(Debug, Clone, Default)]
pub struct DeltaRows {
    /// Keys of new and changed rows.
    pub keys: Vec<String>,
    /// Their texts, one a key; empty when vectors stand for no text.
    pub texts: Vec<String>,
    /// Their vectors, `[keys, dimensions]`, row-major; `[chunks, dimensions]` where texts are cut.
    pub vectors: Vec<f32>,
    /// Whose vectors these are, row after row, one at least for each key; empty where a row has one.
    pub chunks: Vec<ChunkSpan>,
    /// Keys of rows that left, or whose text has no vector any more.
    pub removed: Vec<String>,
}

impl DeltaRows {
    /// Whether nothing became of them.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.removed.is_empty()
    }
}

/// What an index lacks of a snapshot's rows.
#[derive(Debug, Clone, Default)]
pub struct IndexChanges {
    /// The difference. Keys of deleted rows are not in it: they are hidden without.
    pub rows: DeltaRows,
    /// Rows that the index has as they are.
    pub unchanged: u64,
    /// New and changed rows that have no vector.
    pub skipped: u64,
    /// Rows that were deleted since the index was last told of any: hidden without, and counted.
    pub deleted: u64,
    /// What the vectors took; nothing when nobody made any.
    pub making: Option<Making>,
}

/// Finds what an index lacks, and writes what rides on it. See `Lake::commit_index_delta`.
#[async_trait]
pub trait IndexDeltas: Send + Sync {
    /// What the generation that answers, with its deltas, lacks of the rows of this snapshot; only
    /// new and changed texts are embedded. `None` when that is more than `most` rows.
    ///
    /// # Errors
    /// `Conflict` while nothing answers; what reading and embedding say.
    async fn changes(
        &self,
        catalog: &Fold<CatalogState>,
        index: &Index,
        most: u64,
    ) -> Result<Option<IndexChanges>, PortError>;
    /// Writes a delta of the index into its bucket; durable when it returns, and an orphan until it
    /// is committed. A key in `keys` and `removed` is refused, as is one that comes twice.
    ///
    /// # Errors
    /// `Invalid` for a vector that the index does not take; when the bucket refuses.
    async fn write_delta(&self, index: &Index, rows: DeltaRows) -> Result<DeltaFile, PortError>;
}

/// An object as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its key.
    pub key: String,
    /// Its size.
    pub bytes: u64,
    /// When it was last written.
    pub modified: Micros,
}

/// An object to be copied from one bucket to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectCopy {
    /// The bucket it is in.
    pub from: String,
    /// The bucket it is to be in as well.
    pub to: String,
    /// Its key in both.
    pub key: String,
    /// Its size.
    pub bytes: u64,
    /// blake3 (hex) of its bytes.
    pub blake3: String,
}

/// What a file really is.
#[derive(Debug, Clone)]
pub struct Inspected {
    /// Its place, rows, size and hash.
    pub file: FileRepair,
    /// Its columns.
    pub schema: SchemaDoc,
}

/// Reads what files say of themselves.
#[async_trait]
pub trait FileInspector: Send + Sync {
    /// Reads the footer and all bytes of the file that lies in `bucket` under `key`; nothing when there
    /// is none.
    ///
    /// # Errors
    /// `Unavailable` when the bucket does not answer, `Corrupt` when it is no Parquet file.
    async fn inspect(&self, bucket: &str, key: &str) -> Result<Option<Inspected>, PortError>;
}

/// The buckets' objects.
#[async_trait]
pub trait BucketStore: Send + Sync {
    /// Makes a bucket usable under its name.
    ///
    /// # Errors
    /// When it cannot be opened.
    fn open(&self, bucket: &str, spec: &BucketSpec) -> Result<(), PortError>;
    /// Writes an object unless it is there; durable when it returns. Equal bytes are no error.
    ///
    /// # Errors
    /// `Conflict` when another object has the key; `Unavailable` when the bucket does not answer.
    async fn put_if_absent(&self, bucket: &str, key: &str, bytes: Vec<u8>)
    -> Result<(), PortError>;
    /// Every object below `prefix`, leftovers of broken writes too.
    ///
    /// # Errors
    /// When the bucket does not answer.
    async fn list(&self, bucket: &str, prefix: &str) -> Result<Vec<ObjectInfo>, PortError>;
    /// Removes an object; one that is not there is no error.
    ///
    /// # Errors
    /// When the bucket does not answer.
    async fn delete(&self, bucket: &str, key: &str) -> Result<(), PortError>;
    /// Forgets a bucket that is no longer registered.
    fn close(&self, bucket: &str);
    /// Looks whether a bucket answers, when that is due, and notes it; opens one that could not be
    /// opened before. Called often; ends soon, whatever the bucket does.
    async fn look_after(&self, bucket: &str, spec: &BucketSpec);
    /// Copies an object to another bucket, under the same key, unless it is there; reads it back and
    /// compares. Durable when it returns.
    ///
    /// # Errors
    /// `NotFound` when it is not there, `Corrupt` when it is not what is expected, `Conflict` when other
    /// bytes have the key, `Unavailable` when one of the buckets does not answer.
    async fn copy(&self, copy: &ObjectCopy) -> Result<(), PortError>;
    /// Writes, reads and removes a small object.
    ///
    /// # Errors
    /// When any of the three fails.
    async fn probe(&self, bucket: &str) -> Result<Duration, PortError>;
}
