//! What the catalog can be asked to do. Commands come with everything that had to be looked up:
//! files written, keys resolved to positions, and the position of the snapshot they were read at.

use std::collections::BTreeMap;

use super::{
    CommitIndexDelta, CompactionPolicy, CompleteRefresh, DatasetSpec, DefineView, EmbeddingSpec,
    ErasedKeys, FailRefresh, FileDigest, FileEntry, IndexConfig, IndexSpec, IngestMode,
    JournalKeys, Making, Obstacle, OtherModel, Proposal, QualityCommand, RefreshCause,
    RefreshPolicy, SchemaDoc, Sensitivity, Slo, Source, Trial,
};
use crate::{
    model::event::{DeletedRows, FilesRepaired, GenerationCorrupted, Scrub},
    record::{Micros, Seq},
};

/// A request to the catalog.
#[derive(Debug, Clone)]
pub enum CatalogCommand {
    /// See [`CreateDataset`].
    CreateDataset(CreateDataset),
    /// See [`CommitFiles`].
    CommitFiles(CommitFiles),
    /// See [`CompactFiles`].
    CompactFiles(CompactFiles),
    /// See [`ScrubFiles`].
    ScrubFiles(ScrubFiles),
    /// No longer keep files that left a dataset at `horizon` or before.
    PurgeFiles {
        /// The dataset.
        dataset: String,
        /// The time.
        horizon: Micros,
    },
    /// Report objects that are gone from their buckets.
    ForgetObjects {
        /// `<bucket>/<key>` of each, as in the state.
        objects: Vec<String>,
    },
    /// Report that nothing is left of rows deleted for good.
    ConfirmErasure {
        /// The dataset.
        dataset: String,
        /// Position of the last tombstone that this is true of.
        through: Seq,
        /// Places that were looked at.
        checked: BTreeMap<String, u64>,
    },
    /// See [`MoveDataset`].
    MoveDataset(MoveDataset),
    /// Put right what is said of files.
    RepairFiles(FilesRepaired),
    /// See [`PatchDataset`].
    PatchDataset(PatchDataset),
    /// See [`DropDataset`].
    DropDataset(DropDataset),
    /// See [`TombstoneRows`].
    TombstoneRows(TombstoneRows),
    /// See [`DefineIndex`].
    DefineIndex(DefineIndex),
    /// Build an index anew beside the generation that answers.
    RequestGeneration {
        /// The index.
        index: String,
        /// With another tuning than the index has.
        config: Option<IndexConfig>,
    },
    /// Bring the embeddings of a dataset up to date.
    RequestRefresh {
        /// The dataset.
        dataset: String,
        /// Why.
        cause: RefreshCause,
    },
    /// See [`CompleteRefresh`].
    CompleteRefresh(CompleteRefresh),
    /// See [`FailRefresh`].
    FailRefresh(FailRefresh),
    /// See [`QualityCommand`].
    Quality(QualityCommand),
    /// Build an index anew with another model, beside the generation that answers.
    RemakeIndex {
        /// The index.
        index: String,
        /// The model.
        model: OtherModel,
    },
    /// See [`CommitGeneration`].
    CommitGeneration(CommitGeneration),
    /// See [`FailGeneration`].
    FailGeneration(FailGeneration),
    /// See [`PromoteGeneration`].
    PromoteGeneration(PromoteGeneration),
    /// See [`CommitIndexDelta`].
    CommitIndexDelta(CommitIndexDelta),
    /// Report a file that is not what was built; the index is built anew.
    ReportCorruption(GenerationCorrupted),
    /// No longer keep generations that were built before a position, but for the one that answers.
    RetireGenerations {
        /// The index.
        index: String,
        /// Generations of an older source go.
        older_than: Seq,
    },
    /// Let the generation before the live one answer searches.
    RollbackIndex {
        /// The index.
        index: String,
    },
    /// Remove an index.
    DropIndex {
        /// The index.
        index: String,
    },
    /// See [`DefineView`].
    DefineView(DefineView),
    /// Remove a view.
    DropView {
        /// The view.
        view: String,
        /// Whether what is built on it goes along; without, that is a conflict.
        cascade: bool,
    },
}

/// Make a dataset with its first files.
#[derive(Debug, Clone)]
pub struct CreateDataset {
    /// What it is.
    pub spec: DatasetSpec,
    /// Its first files.
    pub commit: CommitFiles,
}

/// Add files to a dataset.
#[derive(Debug, Clone)]
pub struct CommitFiles {
    /// The dataset.
    pub dataset: String,
    /// How.
    pub mode: IngestMode,
    /// Position of the catalog snapshot that `deleted` was resolved on.
    pub read_seq: Seq,
    /// The files, already durable in their buckets.
    pub added: Vec<FileEntry>,
    /// Rows that the new ones replace.
    pub deleted: Vec<DeletedRows>,
    /// The schema of the new files.
    pub schema: SchemaDoc,
    /// Where the rows came from.
    pub source: Source,
    /// Rows taken in.
    pub rows: u64,
    /// Batches taken in.
    pub batches: u64,
    /// Bytes as received.
    pub source_bytes: u64,
    /// How long it took.
    pub elapsed_ms: u64,
    /// Rows that are not let in, as `added` says.
    pub erased_skipped: u64,
    /// What columns look like.
    pub proposals: BTreeMap<String, Proposal>,
}

/// Swap files for their rewritten form.
#[derive(Debug, Clone)]
pub struct CompactFiles {
    /// The dataset.
    pub dataset: String,
    /// Position of the catalog snapshot that was rewritten.
    pub read_seq: Seq,
    /// The new files, already durable in their buckets.
    pub added: Vec<FileEntry>,
    /// The files that they stand for.
    pub retired: Vec<RewrittenFile>,
    /// Hash over the contents of the rows.
    pub content_hash: String,
}

/// A file as it was when it was rewritten: of its rows, only more can be deleted since.
#[derive(Debug, Clone)]
pub struct RewrittenFile {
    /// Object key.
    pub key: String,
    /// How many of its rows were deleted.
    pub deleted: u64,
    /// How many of them for good.
    pub erased: u64,
}

/// Swap files for ones without the rows that are deleted for good.
#[derive(Debug, Clone)]
pub struct ScrubFiles {
    /// The dataset.
    pub dataset: String,
    /// The files.
    pub scrubs: Vec<Scrub>,
}

/// Describe a dataset or set its policies.
#[derive(Debug, Clone, Default)]
pub struct PatchDataset {
    /// The dataset.
    pub dataset: String,
    /// New description.
    pub description: Option<String>,
    /// New owner.
    pub owner: Option<String>,
    /// New tags.
    pub tags: Option<Vec<String>>,
    /// New classes of columns.
    pub sensitivity: BTreeMap<String, Sensitivity>,
    /// New refresh policy.
    pub embedding_refresh_policy: Option<RefreshPolicy>,
    /// New embedding.
    pub embedding: Option<EmbeddingSpec>,
    /// What becomes of rows whose keys were erased.
    pub erased_keys: Option<ErasedKeys>,
    /// How row keys stand in the journal.
    pub journal_keys: Option<JournalKeys>,
    /// When files are merged.
    pub compaction: Option<CompactionPolicy>,
    /// Rows that an aggregate must be over; 0 lifts it.
    pub min_group_size: Option<u64>,
}

/// Remove a dataset.
#[derive(Debug, Clone)]
pub struct DropDataset {
    /// The dataset.
    pub dataset: String,
    /// Whether its views and indexes go along; without, they are a conflict.
    pub cascade: bool,
}

/// Delete rows for good.
#[derive(Debug, Clone)]
pub struct TombstoneRows {
    /// The dataset.
    pub dataset: String,
    /// Position of the catalog snapshot that the keys were resolved on.
    pub read_seq: Seq,
    /// Keys that were found.
    pub rows: Vec<String>,
    /// Where.
    pub deleted: Vec<DeletedRows>,
    /// Keys that no visible row has.
    pub missing: Vec<String>,
    /// Why.
    pub reason: String,
    /// On whose behalf, when not the caller's own.
    pub on_behalf_of: Option<String>,
}

/// Ask for an index.
#[derive(Debug, Clone)]
pub struct DefineIndex {
    /// Its name.
    pub index: String,
    /// What it is.
    pub spec: IndexSpec,
    /// What its generations must reach.
    pub slo: Option<Slo>,
}

/// Let a dataset lie in another bucket: its files are there already.
#[derive(Debug, Clone)]
pub struct MoveDataset {
    /// The dataset.
    pub dataset: String,
    /// The bucket.
    pub bucket: String,
    /// Keys of the files that are there, byte for byte.
    pub copied: Vec<String>,
}

/// Report a generation that is built and durable.
#[derive(Debug, Clone)]
pub struct CommitGeneration {
    /// The index.
    pub index: String,
    /// The generation.
    pub generation: u64,
    /// The job that built it.
    pub job: String,
    /// Position of the snapshot it was built from.
    pub source_seq: Seq,
    /// Folder of its files in the index's bucket.
    pub prefix: String,
    /// Its files.
    pub files: Vec<FileDigest>,
    /// How many vectors.
    pub vectors: u64,
    /// How many rows, where one may have several vectors.
    pub rows: Option<u64>,
    /// Rows without a vector.
    pub skipped: u64,
    /// Rows whose vector was taken from the generation before.
    pub reused: u64,
    /// Rows that the generation before had with another text.
    pub changed: u64,
    /// Who made its vectors, and what that took.
    pub making: Option<Box<Making>>,
    /// How long it took.
    pub build_ms: u64,
    /// What it reached, where the index must reach something.
    pub trial: Option<Trial>,
    /// Position of the snapshot whose rows it has, when it is older than what was read.
    pub rows_seq: Option<Seq>,
    /// Position of the last delta that was folded in, when it is made of a generation.
    pub folded_through: Option<Seq>,
}

/// Let a generation of an index answer searches.
#[derive(Debug, Clone)]
pub struct PromoteGeneration {
    /// The index.
    pub index: String,
    /// The generation.
    pub generation: u64,
    /// What it reached, measured for this; without it, what was measured when it was built counts.
    pub trial: Option<Trial>,
}

/// Report a generation that could not be built.
#[derive(Debug, Clone)]
pub struct FailGeneration {
    /// The index.
    pub index: String,
    /// The generation.
    pub generation: u64,
    /// The job.
    pub job: String,
    /// Why.
    pub error: String,
    /// What kind of failure that is.
    pub obstacle: Option<Obstacle>,
}

impl SchemaDoc {
    /// What differs between this schema and `other`, or nothing.
    pub fn difference(&self, other: &Self) -> Option<String> {
        if self.fingerprint == other.fingerprint {
            return None;
        }
        let find = |schema: &Self, name: &str| {
            schema
                .columns
                .iter()
                .find(|column| column.name == name)
                .cloned()
        };
        let mut parts = Vec::new();
        for column in &self.columns {
            match find(other, &column.name) {
                None => parts.push(format!("`{}` is missing", column.name)),
                Some(found) if found.data_type != column.data_type => parts.push(format!(
                    "`{}` is {} where {} is expected",
                    column.name, found.data_type, column.data_type
                )),
                Some(_) => {}
            }
        }
        for column in &other.columns {
            if find(self, &column.name).is_none() {
                parts.push(format!("`{}` is new", column.name));
            }
        }
        if parts.is_empty() {
            parts.push("columns differ in order or nullability".to_owned());
        }
        Some(parts.join("; "))
    }
}
