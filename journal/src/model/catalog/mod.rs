//! Datasets and indexes: what there is, which files make it up, which rows are gone.
//! Pure. `actors::catalog` calls `decide`; replay calls `apply`; the edge reads the state.

mod apply;
mod chunk;
mod command;
mod compaction;
mod decide;
mod deletion;
mod delta;
mod embedding;
mod key;
mod objects;
mod past;
mod places;
mod quality;
mod refresh;
mod rules;
mod state;
#[cfg(test)]
mod tests;
mod tombstone;
mod view;

pub use chunk::{Chunker, Cutting};
pub use command::{
    CatalogCommand, CommitFiles, CommitGeneration, CompactFiles, CreateDataset, DefineIndex,
    DropDataset, FailGeneration, MoveDataset, PatchDataset, PromoteGeneration, RewrittenFile,
    ScrubFiles, TombstoneRows,
};
pub use deletion::DeletionVector;
pub use delta::{CommitIndexDelta, Delta, DeltaFile};
pub use embedding::{
    DueRefresh, EndedRefresh, Making, ModelIdentity, Obstacle, OtherModel, RefreshCause,
    RefreshCounts, RefreshPolicy, RefreshSchedule,
};
pub use key::{KEY_COLUMNS_MAX, KeyColumns};
pub use objects::OwnObject;
pub use quality::{
    EvalSet, EvalSpec, KeptTrial, Profile, Quality, QualityCommand, Slo, Tail, Trial, row_mark,
};
pub use refresh::{CompleteRefresh, FailRefresh};
pub use rules::SMALL_FILE_BYTES;
pub use state::{
    CatalogState, DataFile, Dataset, Doomed, Generation, HASHED_KEY_PREFIX, Index, LineageEntry,
    RetainedFile, Scrubbed, Tombstone, TombstoneBatch,
};
pub use view::{ColumnRedaction, DateUnit, DefineView, Proposal, Redaction, View, ViewSpec};

use serde::{Deserialize, Serialize};

/// How a commit relates to what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IngestMode {
    /// A new dataset.
    Create,
    /// More rows; where there is a key, the newer row of a key wins.
    Append,
    /// Rows by key, the newer one wins.
    Upsert,
    /// These rows instead of all before.
    Replace,
}

impl IngestMode {
    /// The word of the contract.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Append => "append",
            Self::Upsert => "upsert",
            Self::Replace => "replace",
        }
    }
}

/// How much a column may be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sensitivity {
    /// To everybody.
    Public,
    /// Inside the team.
    Internal,
    /// About a person.
    Pii,
    /// To nobody who does not have to.
    Secret,
}

/// What becomes of rows whose keys were deleted for good, when an ingest brings them again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErasedKeys {
    /// They are not let in, and counted.
    #[default]
    Refuse,
    /// They are rows like any other.
    Admit,
}

/// How row keys stand in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JournalKeys {
    /// As they are.
    #[default]
    Clear,
    /// As keyed hashes: history finds them, nobody can read them off.
    Hashed,
}

/// When files are merged without being asked; an absent part never is a reason.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompactionPolicy {
    /// At this many live files below `small_file_bytes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub small_files: Option<u64>,
    /// What a small file is; 64 MiB when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub small_file_bytes: Option<u64>,
    /// At this many deleted rows in 1,000 rows of the live files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted_per_mille: Option<u64>,
    /// By a cron expression with seconds, UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
}

/// One column, as people see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its Arrow type, in Arrow's words.
    #[serde(rename = "type")]
    pub data_type: String,
    /// Whether it may be null.
    pub nullable: bool,
}

/// A dataset's schema: readable columns, and the Arrow schema as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaDoc {
    /// The columns in order.
    pub columns: Vec<Column>,
    /// The Arrow schema as an IPC message, base64.
    pub arrow_ipc: String,
    /// blake3 (hex) over names, types and nullability.
    pub fingerprint: String,
}

/// What a dataset is made as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatasetSpec {
    /// Its lasting id, also the folder of its files.
    pub id: String,
    /// Its columns.
    pub schema: SchemaDoc,
    /// The columns that identify a row; empty when none do.
    pub key: Vec<String>,
    /// The bucket that new files go to.
    pub bucket: String,
    /// Who answers for it.
    pub owner: String,
}

/// Where rows came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// `file` or `postgres`.
    pub kind: String,
    /// A name that says where, without any secret.
    pub name: String,
    /// blake3 (hex) of the bytes as received, or of a database's rows.
    pub content_hash: String,
    /// How far it was read, when only its newer rows were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watermark: Option<SourceWatermark>,
}

/// How far a column of a source had come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceWatermark {
    /// The column.
    pub column: String,
    /// Where this read began; nothing means at the first row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Where the next read begins, as the source writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// A new file of a dataset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// The bucket that holds it.
    pub bucket: String,
    /// Its object key, unique for ever.
    pub key: String,
    /// Rows in it.
    pub rows: u64,
    /// Its size.
    pub bytes: u64,
    /// blake3 (hex) of its bytes.
    pub blake3: String,
    /// Whether its rows ascend by the dataset's key.
    #[serde(default)]
    pub sorted_by_key: bool,
    /// Rows that a later row of the same key in the same ingest replaces.
    #[serde(default, skip_serializing_if = "DeletionVector::is_empty")]
    pub superseded: DeletionVector,
    /// Rows that were deleted for good before the file was committed.
    #[serde(default, skip_serializing_if = "DeletionVector::is_empty")]
    pub erased: DeletionVector,
}

/// A file by name, size and checksum.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileDigest {
    /// Its name in its folder.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// blake3 (hex) of its bytes.
    pub blake3: String,
}

/// Which text of a row is embedded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TextSpec {
    /// A template with column names in braces: `{title}. {body}`.
    Template(String),
    /// Columns joined by a space.
    Columns(Vec<String>),
}

/// The embedding of a dataset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmbeddingSpec {
    /// The text.
    pub text: TextSpec,
    /// The columns whose values name a row.
    pub key: KeyColumns,
    /// Who embeds.
    pub provider: String,
    /// With what.
    pub model: String,
    /// Where indexes go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bucket: Option<String>,
    /// On which engine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<Backend>,
    /// How long texts are cut; none is embedded whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunk: Option<Chunker>,
}

/// The vector engines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backend {
    /// usearch HNSW in a memory-mapped file.
    Hnsw,
    /// Lance.
    Lance,
}

/// The tuning of a graph index; an absent field takes the engine's default.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexConfig {
    /// Neighbours a node keeps (M).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connectivity: Option<u32>,
    /// Candidates looked at when a node is added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ef_construction: Option<u32>,
    /// Candidates looked at in a search.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ef_search: Option<u32>,
    /// `f32`, `f16`, `bf16` or `i8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantization: Option<String>,
    /// `cosine`, `dot` or `l2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<String>,
    /// Lance: `auto`, `flat`, `ivf_pq` or `ivf_hnsw_sq`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Lance: partitions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitions: Option<u32>,
    /// Lance: parts that a vector is cut into for product quantisation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub_vectors: Option<u32>,
    /// Lance: partitions that a search looks into first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nprobes: Option<u32>,
    /// Lance: candidates for each hit that are compared in full precision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refine_factor: Option<u32>,
}

/// What an index is made as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexSpec {
    /// The dataset or view it is built over.
    pub source: String,
    /// The columns whose values name a row.
    pub key: KeyColumns,
    /// The text that is embedded, or that stands beside vectors of a column: possibly no columns.
    pub text: TextSpec,
    /// The column that holds the vectors, when nothing is embedded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vector_column: Option<String>,
    /// How long texts are cut; without it a row has one vector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunk: Option<Chunker>,
    /// Who embeds.
    pub provider: String,
    /// With what.
    pub model: String,
    /// Components of a vector.
    pub dimensions: u32,
    /// The engine.
    pub backend: Backend,
    /// Its tuning.
    #[serde(default)]
    pub config: IndexConfig,
    /// The bucket that its files go to.
    pub bucket: String,
}
