//! The catalog's state. Its large parts are persistent maps (`imbl`): a copy costs nothing, so the
//! state is published whole after every batch. Iteration order is the keys' order.

use std::{collections::BTreeMap, sync::Arc};

use imbl::{OrdMap, Vector};
use serde::{Deserialize, Serialize};

use super::{
    Chunker, CompactionPolicy, Cutting, DeletionVector, Delta, DueRefresh, EmbeddingSpec,
    EndedRefresh, ErasedKeys, FileDigest, FileEntry, IndexConfig, IndexSpec, IngestMode,
    JournalKeys, Making, ModelIdentity, Obstacle, OtherModel, Proposal, Quality, RefreshPolicy,
    SchemaDoc, Sensitivity, Source, View,
};
use crate::{
    model::event::{is_false, is_zero},
    record::{Actor, Micros, Seq},
};

/// What a keyed hash of a row key begins with.
pub const HASHED_KEY_PREFIX: &str = "blake3:";

/// Everything the catalog owns.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CatalogState {
    /// Datasets by name.
    pub datasets: OrdMap<String, Arc<Dataset>>,
    /// Indexes by name.
    pub indexes: OrdMap<String, Arc<Index>>,
    /// Views by name; none has the name of a dataset.
    #[serde(default, skip_serializing_if = "OrdMap::is_empty")]
    pub views: OrdMap<String, Arc<View>>,
    /// Objects that nothing points at and that are to be deleted, by `<bucket>/<key>`.
    pub doomed: OrdMap<String, Doomed>,
    /// How good indexes are.
    #[serde(default, skip_serializing_if = "Quality::is_empty")]
    pub quality: Quality,
    /// Position of the last event that changed what is shown: a view, one that went, a class.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub policy_seq: Seq,
}

/// An object, or a folder of them, that is to be deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doomed {
    /// Its bucket.
    pub bucket: String,
    /// Its key; a folder's ends in `/`.
    pub key: String,
    /// Position of the event that let go of it: older snapshots still read it.
    pub since: Seq,
}

/// A table: immutable files, and which of their rows are still there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Dataset {
    /// Lasting id.
    pub id: String,
    /// Name.
    pub name: String,
    /// Columns.
    pub schema: SchemaDoc,
    /// Key columns, possibly none.
    pub key: Vec<String>,
    /// Where new files go.
    pub bucket: String,
    /// Who answers for it.
    pub owner: String,
    /// What it is.
    pub description: String,
    /// Words to find it by.
    pub tags: Vec<String>,
    /// Classes of columns; what is absent is internal.
    pub sensitivity: BTreeMap<String, Sensitivity>,
    /// What columns look like that nobody has classified.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub proposals: BTreeMap<String, Proposal>,
    /// With this, only aggregates over at least so many rows are told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_group_size: Option<u64>,
    /// Live files, in the order they were added.
    pub files: Vec<Arc<DataFile>>,
    /// Position of the last change of files.
    pub files_seq: Seq,
    /// Position of the last change of rows by an ingest.
    pub rows_seq: Seq,
    /// Rows deleted for good up to here are in no live file any more.
    pub materialized_seq: Seq,
    /// Rows deleted for good up to here are in no place at all.
    pub erased_seq: Seq,
    /// Files that are no longer part of it and are kept for queries of the past.
    pub retained: Vec<Arc<RetainedFile>>,
    /// Files that were rewritten without erased rows: what stands for them.
    pub scrubbed: OrdMap<String, Scrubbed>,
    /// The oldest position that can be queried.
    pub history_from: Seq,
    /// What becomes of rows whose keys were erased, when they come again.
    pub erased_keys: ErasedKeys,
    /// How row keys stand in the journal.
    pub journal_keys: JournalKeys,
    /// When its files are merged.
    pub compaction: CompactionPolicy,
    /// Hashes of the contents taken in since the last replacement.
    pub contents: OrdMap<String, Seq>,
    /// Hash of the content of the last commit.
    pub last_content: String,
    /// Where its rows came from, oldest first.
    pub lineage: Vector<LineageEntry>,
    /// Keys of rows deleted for good → the batch that did it.
    pub tombstones: OrdMap<String, Seq>,
    /// The batches, by position.
    pub tombstone_batches: OrdMap<Seq, TombstoneBatch>,
    /// When it was made.
    pub created_at: Micros,
    /// When it last changed.
    pub updated_at: Micros,
    /// When its embeddings were last current.
    pub last_embedded_at: Option<Micros>,
    /// Since when they are not.
    pub embedding_stale_since: Option<Micros>,
    /// When they are refreshed.
    pub embedding_refresh_policy: RefreshPolicy,
    /// What is embedded.
    pub embedding: Option<EmbeddingSpec>,
    /// When the policy of refreshes was set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_policy_at: Option<Micros>,
    /// The refresh that is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_due: Option<DueRefresh>,
    /// How the last one ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_refresh: Option<EndedRefresh>,
}

/// A live file of a dataset.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DataFile {
    /// The file as committed.
    #[serde(flatten)]
    pub entry: FileEntry,
    /// Position of the commit that added it.
    pub added_seq: Seq,
    /// Rows that are gone.
    pub deleted: DeletionVector,
    /// Those of them that were deleted for good: they are on their way out of the file.
    #[serde(default, skip_serializing_if = "DeletionVector::is_empty")]
    pub erased: DeletionVector,
}

/// A file that is no longer part of its dataset.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RetainedFile {
    /// The file as it was when it left.
    pub file: DataFile,
    /// Position of the event that took it out.
    pub retired_seq: Seq,
    /// When.
    pub retired_at: Micros,
}

/// What stands for a file that was rewritten without erased rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scrubbed {
    /// Position of the event.
    pub seq: Seq,
    /// The rows that were left out.
    pub removed: DeletionVector,
    /// Object key and rows of the files with the other rows, in their order.
    pub files: Vec<(String, u64)>,
}

impl DataFile {
    /// Rows that are still there.
    pub fn live_rows(&self) -> u64 {
        self.entry.rows - self.deleted.len()
    }
}

/// One step of a dataset's origin.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LineageEntry {
    /// Where the rows came from.
    pub source: Source,
    /// How.
    pub mode: IngestMode,
    /// Rows taken in.
    pub rows: u64,
    /// When.
    pub at: Micros,
    /// Position of the event.
    pub journal_seq: Seq,
}

/// Who deleted rows, when and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TombstoneBatch {
    /// When.
    pub at: Micros,
    /// Who.
    pub actor: Actor,
    /// On whose behalf.
    pub on_behalf_of: Option<String>,
    /// Why.
    pub reason: String,
    /// How many rows.
    pub rows: u64,
}

/// One deleted row with its batch.
#[derive(Debug, Clone, Copy)]
pub struct Tombstone<'a> {
    /// The row's key.
    pub row_key: &'a str,
    /// Position of the event.
    pub seq: Seq,
    /// Who, when, why.
    pub batch: &'a TombstoneBatch,
}

impl Dataset {
    /// Rows that are visible.
    pub fn row_count(&self) -> u64 {
        self.files.iter().map(|file| file.live_rows()).sum()
    }

    /// Live files and those that are kept for queries of the past.
    pub fn all_files(&self) -> impl Iterator<Item = &DataFile> {
        self.files
            .iter()
            .map(AsRef::as_ref)
            .chain(self.retained.iter().map(|kept| &kept.file))
    }

    /// Object key of the list of deleted rows beside its files.
    pub fn sidecar_key(&self) -> String {
        format!("datasets/{}/{}_tombstones.parquet", self.id, self.name)
    }

    /// Whether some keys of deleted rows are known as hashes only.
    pub fn has_hashed_keys(&self) -> bool {
        self.journal_keys == JournalKeys::Hashed
            || self.tombstones.get_max().is_some_and(|_| {
                let from = HASHED_KEY_PREFIX.to_owned();
                self.tombstones
                    .range(from..)
                    .next()
                    .is_some_and(|(key, _)| key.starts_with(HASHED_KEY_PREFIX))
            })
    }

    /// Position of the last tombstone.
    pub fn last_tombstone_seq(&self) -> Seq {
        self.tombstone_batches.get_max().map_or(0, |(seq, _)| *seq)
    }

    /// Bytes of its live files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.entry.bytes).sum()
    }

    /// Deleted rows in the order of their keys, those after `after` only.
    pub fn tombstones_after<'a>(
        &'a self,
        after: Option<&str>,
    ) -> impl Iterator<Item = Tombstone<'a>> + use<'a> {
        use std::ops::Bound;
        let from = after.map_or(Bound::Unbounded, |key| Bound::Excluded(key.to_owned()));
        self.tombstones
            .range((from, Bound::Unbounded))
            .filter_map(|(key, seq)| {
                let batch = self.tombstone_batches.get(seq)?;
                Some(Tombstone {
                    row_key: key,
                    seq: *seq,
                    batch,
                })
            })
    }
}

/// A vector index: generations, one of which answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Index {
    /// Name.
    pub name: String,
    /// What it is.
    pub spec: IndexSpec,
    /// Generations that are built, oldest first.
    pub generations: Vec<Generation>,
    /// The one that answers.
    pub live: Option<u64>,
    /// The build that is due: generation and job.
    pub building: Option<(u64, String)>,
    /// Its tuning, where that is not the index's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub building_config: Option<IndexConfig>,
    /// Its model, where that is not the index's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub building_model: Option<OtherModel>,
    /// Whether that build is made of the generation that answers and its deltas.
    #[serde(default, skip_serializing_if = "is_false")]
    pub folding: bool,
    /// Why the last build failed.
    pub failed: Option<(String, String)>,
    /// What kind of failure that was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub obstacle: Option<Obstacle>,
    /// What is wrong with the files of the generation that answers, until it is built anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corrupt: Option<String>,
    /// When it was asked for.
    pub created_at: Micros,
}

/// One immutable build of an index.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Generation {
    /// Its number, from 1.
    pub generation: u64,
    /// The job that built it.
    pub job: String,
    /// Position of the snapshot it was built from: later tombstones hide its rows.
    pub source_seq: Seq,
    /// Its tuning, where that is not the index's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<IndexConfig>,
    /// Folder of its files.
    pub prefix: String,
    /// Its files.
    pub files: Vec<FileDigest>,
    /// Vectors in it.
    pub vectors: u64,
    /// Rows in it, where one may have several vectors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// Rows without one.
    pub skipped: u64,
    /// Rows whose vector was taken from the generation before.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub reused: u64,
    /// Rows that the generation before had with another text.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub changed: u64,
    /// Who made its vectors, and what that took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub making: Option<Making>,
    /// How long it took.
    pub build_ms: u64,
    /// When.
    pub built_at: Micros,
    /// Position of the snapshot whose rows it has with its deltas; that of its build when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows_seq: Option<Seq>,
    /// What rides on it, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deltas: Vec<Delta>,
}

impl IndexSpec {
    fn take_model(
        &mut self,
        [provider, model]: [&str; 2],
        dimensions: u32,
        chunk: Option<Chunker>,
    ) {
        provider.clone_into(&mut self.provider);
        model.clone_into(&mut self.model);
        self.dimensions = dimensions;
        self.chunk = chunk;
    }
}

impl Generation {
    /// Rows in it.
    pub fn rows(&self) -> u64 {
        self.rows.unwrap_or(self.vectors)
    }

    /// What the texts of its rows were cut with.
    pub fn cutting(&self) -> Option<&Cutting> {
        self.making.as_ref()?.cutting.as_ref()
    }

    /// Rows that have no vector yet.
    pub fn left_out(&self) -> u64 {
        self.making.as_ref().map_or(0, |making| making.left_out)
    }
}

impl Index {
    /// How many generations have anything from a state before `seq`.
    pub fn generations_before(&self, seq: Seq) -> u64 {
        let older = self
            .generations
            .iter()
            .filter(|built| built.oldest_source() < seq);
        older.count() as u64
    }

    /// The number of the next one to be built.
    pub fn next_generation(&self) -> u64 {
        let last = self.generations.iter().map(|built| built.generation).max();
        last.unwrap_or(0) + 1
    }

    /// The tuning of the build that is due.
    pub fn config_to_build(&self) -> &IndexConfig {
        self.building_config.as_ref().unwrap_or(&self.spec.config)
    }

    /// What the build that is due is made as.
    pub fn spec_to_build(&self) -> IndexSpec {
        let mut spec = self.spec.clone();
        if let Some(other) = &self.building_model {
            let names = [other.provider.as_str(), other.model.as_str()];
            spec.take_model(names, other.dimensions, other.chunk);
        }
        spec
    }

    /// Makes the model of the generation that answers, and how texts were cut for it, the index's own; what was built by the one before
    /// keeps that by name.
    pub(super) fn take_model_over(&mut self) {
        let live = self.live_generation();
        let Some(making) = live.and_then(|live| live.making.clone()) else {
            return;
        };
        let before = self.spec.clone();
        let model = &making.model;
        let names = [model.provider.as_str(), model.model.as_str()];
        let chunk = making.cutting.as_ref().map(|cutting| cutting.chunk);
        self.spec.take_model(names, model.dimensions, chunk);
        if self.spec == before {
            return;
        }
        for built in &mut self.generations {
            built.making.get_or_insert_with(|| Making {
                model: ModelIdentity {
                    version: before.model.clone(),
                    provider: before.provider.clone(),
                    model: before.model.clone(),
                    dimensions: before.dimensions,
                },
                cutting: None,
                refused: 0,
                left_out: 0,
                texts_sent: 0,
                provider_calls: 0,
                tokens: None,
            });
        }
    }

    /// The tuning of a generation.
    pub fn config_of<'a>(&'a self, generation: &'a Generation) -> &'a IndexConfig {
        generation.config.as_ref().unwrap_or(&self.spec.config)
    }

    /// Makes a tuning the index's own; what was built with the one before keeps that by name.
    pub(super) fn take_over(&mut self, config: IndexConfig) {
        if self.spec.config == config {
            return;
        }
        let before = std::mem::replace(&mut self.spec.config, config);
        for built in &mut self.generations {
            built.config.get_or_insert_with(|| before.clone());
        }
        if self.building.is_some() {
            self.building_config.get_or_insert(before);
        }
    }

    /// The generation that answers searches.
    pub fn live_generation(&self) -> Option<&Generation> {
        let live = self.live?;
        self.generations
            .iter()
            .find(|generation| generation.generation == live)
    }
}

impl Dataset {
    /// The class of a column: what nobody classified is internal.
    pub fn class(&self, column: &str) -> Sensitivity {
        let class = self.sensitivity.get(column).copied();
        class.unwrap_or(Sensitivity::Internal)
    }
}
