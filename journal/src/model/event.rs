//! The closed set of events: everything that can ever have happened, in one file and those below it.
//! An event carries results (sizes, checksums, chosen ids, times), never an instruction to compute
//! again, and no row content. A new optional field is `#[serde(default)]`; any other change is a
//! new schema version with an upcaster in `upcast`. No variant is ever removed or reused.

mod daemon;
mod delta;
mod indexes;
mod policy;
mod quality;
mod refresh;
mod storage;
mod subjects;
mod tools;

use std::collections::BTreeMap;

pub(super) use delta::is_false;
pub use delta::{GenerationCorrupted, IndexDelta, IndexDeltaCommitted};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

pub use daemon::{
    CheckpointTaken, DaemonStarted, OwnerHash, TriggerFired, TriggerPaused, TriggerResumed,
};
pub use indexes::{
    GenerationBuilt, GenerationFailed, GenerationRequested, GenerationsRetired, IndexDefined,
    IndexDropped, IndexPromoted,
};
pub use policy::{ViewDefined, ViewDropped};
pub use quality::{
    EvalCreated, EvalsRetired, IndexSloSet, ProfileActivated, ProfileSaved, TrialRecorded,
};
pub use refresh::{RefreshCompleted, RefreshFailed, RefreshRequested};
pub use storage::{
    DatasetMoved, FileRepair, FilesRepaired, ObjectRemoved, ObjectStored, ObjectsRescued,
    RescueCopiesDropped,
};

use super::{
    access::{Role, TokenLimits},
    bucket::BucketSpec,
    catalog::{
        CompactionPolicy, DatasetSpec, DeletionVector, EmbeddingSpec, ErasedKeys, FileEntry,
        IngestMode, JournalKeys, Proposal, RefreshPolicy, SchemaDoc, Sensitivity, Source,
    },
};
use crate::{
    record::{Micros, Seq},
    upcast,
};

pub use tools::{ToolRegistered, ToolRemoved};

/// A stored event that this version cannot read: replay stops here, nothing is skipped.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EventError {
    /// No event of that name is known.
    #[error("unknown event `{kind}`")]
    UnknownKind {
        /// The name found.
        kind: String,
    },
    /// Written by a newer version.
    #[error("event `{kind}` has schema {found}, this version reads up to {known}")]
    Newer {
        /// The event's name.
        kind: String,
        /// The schema found.
        found: u16,
        /// The newest schema known here.
        known: u16,
    },
    /// Its data does not have the event's shape.
    #[error("event `{kind}` schema {schema} cannot be read: {detail}")]
    Malformed {
        /// The event's name.
        kind: String,
        /// Its schema.
        schema: u16,
        /// What the decoder says.
        detail: String,
    },
}

macro_rules! events {
    ($( $(#[$owner_doc:meta])* $owner:ident($inner:ident) { $( $kind:ident = $schema:literal, )+ } )+) => {
        /// Anything that can have happened.
        #[derive(Debug, Clone, PartialEq)]
        #[allow(clippy::large_enum_variant, reason = "an event is moved once or twice; how large one is differs")]
        pub enum Event {
            $( $(#[$owner_doc])* $owner($inner), )+
        }
        $(
            $(#[$owner_doc])*
            #[derive(Debug, Clone, PartialEq)]
            pub enum $inner {
                $( #[doc = concat!("See [`", stringify!($kind), "`].")] $kind($kind), )+
            }
            impl From<$inner> for Event {
                fn from(event: $inner) -> Self {
                    Self::$owner(event)
                }
            }
            $( impl From<$kind> for $inner {
                fn from(event: $kind) -> Self {
                    Self::$kind(event)
                }
            } )+
        )+
        impl Event {
            /// Every event's name and newest schema version.
            pub const KINDS: &'static [(&'static str, u16)] =
                &[ $( $( (stringify!($kind), $schema), )+ )+ ];

            /// The event's name.
            pub fn kind(&self) -> &'static str {
                match self { $( $( Self::$owner($inner::$kind(_)) => stringify!($kind), )+ )+ }
            }

            /// The schema version that this program writes.
            pub fn schema(&self) -> u16 {
                match self { $( $( Self::$owner($inner::$kind(_)) => $schema, )+ )+ }
            }

            /// The event's data as JSON text.
            pub fn encode(&self) -> Box<RawValue> {
                let text = match self { $( $(
                    Self::$owner($inner::$kind(event)) => serde_json::value::to_raw_value(event),
                )+ )+ };
                text.expect("an event's fields are plain values, which JSON can hold")
            }

            /// The event of stored data, upcast to the newest schema.
            ///
            /// # Errors
            /// [`EventError`] for an unknown name, a newer schema, or data of another shape.
            pub fn decode(kind: &str, schema: u16, data: &RawValue) -> Result<Self, EventError> {
                match kind {
                    $( $( stringify!($kind) => {
                        let event: $kind = read(kind, schema, $schema, data)?;
                        Ok(Self::$owner($inner::$kind(event)))
                    } )+ )+
                    _ => Err(EventError::UnknownKind { kind: kind.to_owned() }),
                }
            }
        }
    };
}

events! {
    /// What happens to datasets and indexes.
    Catalog(CatalogEvent) {
        DatasetCreated = 1,
        FilesCommitted = 1,
        FilesCompacted = 1,
        FilesScrubbed = 1,
        FilesPurged = 1,
        ObjectsDeleted = 1,
        DatasetMoved = 1,
        FilesRepaired = 1,
        DatasetPatched = 1,
        DatasetDropped = 1,
        RowsTombstoned = 1,
        RowsErased = 1,
        IndexDefined = 1,
        GenerationRequested = 1,
        GenerationBuilt = 1,
        GenerationFailed = 1,
        GenerationCorrupted = 1,
        IndexPromoted = 1,
        IndexDeltaCommitted = 1,
        GenerationsRetired = 1,
        IndexDropped = 1,
        RefreshRequested = 1,
        RefreshCompleted = 1,
        RefreshFailed = 1,
        ViewDefined = 1,
        ViewDropped = 1,
        EvalCreated = 1,
        EvalsRetired = 1,
        TrialRecorded = 1,
        IndexSloSet = 1,
        ProfileSaved = 1,
        ProfileActivated = 1,
    }
    /// What happens to a bucket.
    Bucket(BucketEvent) {
        BucketRegistered = 1,
        BucketUnregistered = 1,
        OrphansCollected = 1,
        ObjectStored = 1,
        ObjectRemoved = 1,
        ObjectsRescued = 1,
        RescueCopiesDropped = 1,
    }
    /// What happens to tokens.
    Access(AccessEvent) {
        TokenIssued = 1,
        TokenRevoked = 1,
        ToolRegistered = 1,
        ToolRemoved = 1,
    }
    /// What the daemon does by itself.
    Scheduler(SchedulerEvent) {
        DaemonStarted = 1,
        TriggerFired = 1,
        TriggerPaused = 1,
        TriggerResumed = 1,
        CheckpointTaken = 1,
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the shape that serde asks for"
)]
pub(super) fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn read<T: serde::de::DeserializeOwned>(
    kind: &str,
    schema: u16,
    known: u16,
    data: &RawValue,
) -> Result<T, EventError> {
    if schema > known {
        return Err(EventError::Newer {
            kind: kind.to_owned(),
            found: schema,
            known,
        });
    }
    let malformed = |detail: String| EventError::Malformed {
        kind: kind.to_owned(),
        schema,
        detail,
    };
    if schema == known {
        return serde_json::from_str(data.get()).map_err(|e| malformed(e.to_string()));
    }
    let old = serde_json::from_str(data.get()).map_err(|e| malformed(e.to_string()))?;
    let new = upcast::upcast(kind, schema, known, old).map_err(malformed)?;
    serde_json::from_value(new).map_err(|e| malformed(e.to_string()))
}

/// A dataset came to be; its first files follow in the same decision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DatasetCreated {
    /// Its name.
    pub dataset: String,
    /// What it is.
    pub spec: DatasetSpec,
}

/// Files were added to and taken from a dataset, in one step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FilesCommitted {
    /// The dataset.
    pub dataset: String,
    /// How.
    pub mode: IngestMode,
    /// The position whose snapshot the commit was prepared on.
    pub read_seq: Seq,
    /// New files.
    pub added: Vec<FileEntry>,
    /// Object keys of files that are no longer part of it.
    #[serde(default)]
    pub retired: Vec<String>,
    /// Rows of remaining files that newer rows replace.
    #[serde(default)]
    pub deleted: Vec<DeletedRows>,
    /// The schema, when it is new.
    #[serde(default)]
    pub schema: Option<SchemaDoc>,
    /// Where the rows came from.
    pub source: Source,
    /// Rows taken in.
    pub rows: u64,
    /// Record batches taken in.
    pub batches: u64,
    /// Bytes of the source as received.
    pub source_bytes: u64,
    /// How long reading and writing took.
    pub elapsed_ms: u64,
    /// Rows that were not let in because their keys were erased before.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub erased_skipped: u64,
    /// What columns look like.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub proposals: BTreeMap<String, Proposal>,
}

/// Files were rewritten without the rows that are gone; no visible row changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FilesCompacted {
    /// The dataset.
    pub dataset: String,
    /// The position whose snapshot was rewritten.
    pub read_seq: Seq,
    /// The new files.
    pub added: Vec<FileEntry>,
    /// Object keys of the files that they stand for.
    pub retired: Vec<String>,
    /// Sizes before and after.
    pub change: CompactionChange,
    /// Hash (hex) over the contents of the rows in whatever order: the same in and out.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub content_hash: String,
}

/// Files were rewritten without rows that are deleted for good, one by one and in the order of
/// their rows. The old files are to be deleted at once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FilesScrubbed {
    /// The dataset.
    pub dataset: String,
    /// The files.
    pub scrubs: Vec<Scrub>,
}

/// One file that was rewritten without some of its rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scrub {
    /// Object key of the file as it was.
    pub file: String,
    /// The rows that were left out.
    pub removed: DeletionVector,
    /// The files that stand for it, with the other rows in their order; none when none are left.
    pub added: Vec<FileEntry>,
}

/// Files that were kept for queries of the past are no longer kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FilesPurged {
    /// The dataset.
    pub dataset: String,
    /// Their object keys.
    pub files: Vec<String>,
}

/// Objects that nothing points at any more are gone from their buckets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ObjectsDeleted {
    /// `<bucket>/<key>` of each; a folder ends in `/`.
    pub objects: Vec<String>,
}

/// What a compaction changed in size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompactionChange {
    /// Live files before.
    pub files_before: u64,
    /// Live files after.
    pub files_after: u64,
    /// Rows in live files before, the deleted ones too.
    pub rows_before: u64,
    /// Rows in live files after.
    pub rows_after: u64,
    /// Bytes of live files before.
    pub bytes_before: u64,
    /// Bytes of live files after.
    pub bytes_after: u64,
    /// Deleted rows that are in no live file any more.
    pub rows_dropped: u64,
    /// Those of them that were deleted for good.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub erased_dropped: u64,
}

/// Rows of one file, by position.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeletedRows {
    /// Object key of the file.
    pub file: String,
    /// Row positions from 0.
    pub positions: DeletionVector,
}

/// Somebody described a dataset or set its policies; an absent field did not change.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct DatasetPatched {
    /// The dataset.
    pub dataset: String,
    /// New description.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// New owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// New tags.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<Vec<String>>,
    /// New classes of columns.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sensitivity: BTreeMap<String, Sensitivity>,
    /// New refresh policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedding_refresh_policy: Option<RefreshPolicy>,
    /// New embedding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedding: Option<EmbeddingSpec>,
    /// What becomes of rows whose keys were erased, when they come again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub erased_keys: Option<ErasedKeys>,
    /// How row keys stand in the journal from here on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub journal_keys: Option<JournalKeys>,
    /// When files are merged without being asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compaction: Option<CompactionPolicy>,
    /// Rows that an aggregate must be over; 0 lifts it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_group_size: Option<u64>,
}

/// A dataset is gone, with its files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DatasetDropped {
    /// The dataset.
    pub dataset: String,
}

/// Rows were deleted for good.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RowsTombstoned {
    /// The dataset.
    pub dataset: String,
    /// Keys of the rows that are gone, or keyed hashes of them.
    pub rows: Vec<String>,
    /// Where they lie, in live files and in those that are kept for queries of the past.
    pub deleted: Vec<DeletedRows>,
    /// Keys asked for that no visible row has.
    #[serde(default)]
    pub missing: Vec<String>,
    /// Why.
    pub reason: String,
    /// On whose behalf, when not the caller's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_behalf_of: Option<String>,
}

/// Nothing of rows that were deleted for good is left in any place that the daemon writes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RowsErased {
    /// The dataset.
    pub dataset: String,
    /// Position of the last tombstone that this is true of.
    pub through: Seq,
    /// Places that were looked at, and how many of each there were.
    #[serde(default)]
    pub checked: BTreeMap<String, u64>,
}

/// A bucket is known, or its settings changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BucketRegistered {
    /// Its name.
    pub bucket: String,
    /// Where it is.
    pub spec: BucketSpec,
}

/// A bucket is no longer used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BucketUnregistered {
    /// Its name.
    pub bucket: String,
}

/// Objects that no event points at were removed from a bucket.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OrphansCollected {
    /// The bucket.
    pub bucket: String,
    /// How many objects.
    pub objects: u64,
    /// How many bytes.
    pub bytes: u64,
}

/// A token was given out. The secret itself is nowhere, only its hash.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenIssued {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// blake3 (hex) of the secret.
    pub secret_hash: String,
    /// When it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Micros>,
    /// The views that an agent reads.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub views: Vec<String>,
    /// The tools that an agent may call.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<String>,
    /// What it may use at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<TokenLimits>,
}

/// A token is no longer valid.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenRevoked {
    /// Its id.
    pub id: String,
}
