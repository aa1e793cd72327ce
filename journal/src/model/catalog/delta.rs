//! Deltas: rows embedded after a generation was built, and keys that left since. They ride on the
//! generation that answers and are searched with it, until a build folds them in. Pure.
//! `decide` and `apply` of the catalog call in here; the edge reads [`Generation::deltas`].

use serde::{Deserialize, Serialize};

use super::{CatalogState, Generation, Index};
use crate::{
    model::{
        Meta, ModelError, Stamp,
        event::{
            CatalogEvent, GenerationBuilt, GenerationCorrupted, GenerationRequested, IndexDelta,
            IndexDeltaCommitted,
        },
    },
    record::Seq,
};

/// Rows of deltas that are folded in at this share of the generation's vectors, in 1,000.
const FOLD_PER_MILLE: u64 = 200;
/// Rows of deltas that are never worth a build.
const FOLD_ROWS_MIN: u64 = 10_000;
/// Deltas that are folded in however few rows they have.
const FOLD_DELTAS_MAX: usize = 64;

/// A delta's file in its index's bucket: Parquet with the columns `key` (text), `text` (text, or
/// null) and `vector` (a fixed-size list of f32). A null vector says that the key left the index.
/// Where texts are cut, a line is a chunk: `chunk`, `start` and `end` say which of the row's, and the
/// text stands in the row's first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeltaFile {
    /// Its object key, unique for ever.
    pub key: String,
    /// Its size.
    pub bytes: u64,
    /// blake3 (hex) of its bytes.
    pub blake3: String,
    /// Rows with a vector: new ones, and ones that stand for an older row of the same key.
    pub rows: u64,
    /// Vectors, where a row may have several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vectors: Option<u64>,
    /// Keys that left.
    pub removed: u64,
}

/// A delta that rides on a generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delta {
    /// Its rows.
    #[serde(flatten)]
    pub file: DeltaFile,
    /// Position of the event that committed it.
    pub seq: Seq,
    /// Position of the snapshot that its rows are from: later tombstones hide them.
    pub source_seq: Seq,
}

/// Let new rows ride on the indexes of a dataset.
#[derive(Debug, Clone)]
pub struct CommitIndexDelta {
    /// The dataset.
    pub dataset: String,
    /// Position of the snapshot that the rows are from, and against whose indexes the difference was
    /// taken.
    pub source_seq: Seq,
    /// One an index; an index that is left out stays as it is.
    pub deltas: Vec<IndexDelta>,
}

impl DeltaFile {
    /// Vectors and keys that left.
    fn weight(&self) -> u64 {
        self.vectors.unwrap_or(self.rows) + self.removed
    }
}

fn ridden_max(all: u64) -> u64 {
    let share = all.saturating_mul(FOLD_PER_MILLE) / 1_000;
    share.max(FOLD_ROWS_MIN)
}

impl Generation {
    /// Position of the snapshot whose rows it answers with, its deltas included.
    pub fn embedded_through(&self) -> Seq {
        self.rows_seq.unwrap_or(self.source_seq)
    }

    /// The oldest snapshot that anything in it is from: rows deleted after it may be in its files.
    pub fn oldest_source(&self) -> Seq {
        let deltas = self.deltas.iter().map(|delta| delta.source_seq);
        deltas.fold(self.source_seq, Seq::min)
    }

    /// Rows and keys that may ride on it; more of them are folded in.
    pub fn delta_rows_max(&self) -> u64 {
        ridden_max(self.rows())
    }

    /// Vectors that may ride on it: a search compares every one of them.
    pub fn delta_vectors_max(&self) -> u64 {
        ridden_max(self.vectors)
    }

    /// Rows and keys in its deltas.
    pub fn delta_rows(&self) -> u64 {
        let rows = |delta: &Delta| delta.file.rows + delta.file.removed;
        self.deltas.iter().map(rows).sum()
    }
}

impl Index {
    /// Whether a delta is asked for by a generation that is kept.
    pub fn has_delta(&self, key: &str) -> bool {
        self.deltas().any(|delta| delta.file.key == key)
    }

    /// The deltas of all its generations.
    pub fn deltas(&self) -> impl Iterator<Item = &Delta> {
        self.generations.iter().flat_map(|built| &built.deltas)
    }

    fn wants_folding(&self, more: u64) -> bool {
        let Some(live) = self.live_generation() else {
            return false;
        };
        let ridden = live.deltas.iter().map(|delta| delta.file.weight());
        let vectors = ridden.sum::<u64>() + more;
        self.building.is_none()
            && (vectors > live.delta_vectors_max() || live.deltas.len() + 1 >= FOLD_DELTAS_MAX)
    }
}

impl CatalogState {
    pub(super) fn commit_index_delta(
        &self,
        command: &CommitIndexDelta,
        stamp: &Stamp,
    ) -> Result<Vec<CatalogEvent>, ModelError> {
        self.dataset(&command.dataset)?;
        let mut folds = Vec::new();
        for delta in &command.deltas {
            let index = self.index(&delta.index)?;
            let source = index.spec.source.as_str();
            let under = self.dataset_under(source);
            let live = index.live_generation();
            let overtaken = live.is_some_and(|live| {
                let mut riding = live.deltas.iter();
                live.source_seq > command.source_seq
                    || riding.any(|delta| delta.seq > command.source_seq)
            });
            let policy = self.policy_seq(source);
            let shows_otherwise = live.is_some_and(|live| live.oldest_source() < policy);
            // A delta is a difference to what answered in its snapshot: on another generation, or on
            // top of what came to ride since, it means nothing. Its rows, and those that it rides on,
            // are what views showed then.
            if under.is_none_or(|dataset| dataset.name != command.dataset)
                || policy > command.source_seq
                || shows_otherwise
                || index.live != Some(delta.generation)
                || overtaken
            {
                return Err(ModelError::Stale {
                    dataset: command.dataset.clone(),
                    read_seq: command.source_seq,
                    now_seq: live.map_or(0, Generation::embedded_through),
                });
            }
            let more = delta.file.as_ref().map(DeltaFile::weight);
            if more.is_some_and(|more| index.wants_folding(more)) {
                folds.push(self.requested(&delta.index, stamp, true)?);
            }
        }
        if command.deltas.is_empty() {
            return Ok(Vec::new());
        }
        let committed = IndexDeltaCommitted {
            dataset: command.dataset.clone(),
            source_seq: command.source_seq,
            deltas: command.deltas.clone(),
        };
        Ok(std::iter::once(committed.into())
            .chain(folds.into_iter().map(Into::into))
            .collect())
    }

    /// The build that follows the last one of an index.
    pub(super) fn requested(
        &self,
        name: &str,
        stamp: &Stamp,
        fold: bool,
    ) -> Result<GenerationRequested, ModelError> {
        let index = self.index(name)?;
        Ok(GenerationRequested {
            index: name.to_owned(),
            generation: index.next_generation(),
            job: if fold {
                // One command may ask for several builds.
                format!("{}-{name}", stamp.id)
            } else {
                stamp.id.clone()
            },
            config: None,
            model: None,
            fold,
        })
    }

    pub(super) fn report_corruption(
        &self,
        report: &GenerationCorrupted,
        stamp: &Stamp,
    ) -> Result<Vec<CatalogEvent>, ModelError> {
        let index = self.index(&report.index)?;
        // Whoever else found it was first, or it answers no more.
        if index.building.is_some() || index.live != Some(report.generation) {
            return Ok(Vec::new());
        }
        let rebuild = self.requested(&report.index, stamp, false)?;
        Ok(vec![report.clone().into(), rebuild.into()])
    }

    pub(super) fn index_delta_committed(&mut self, meta: Meta<'_>, event: &IndexDeltaCommitted) {
        for delta in &event.deltas {
            self.change_index(&delta.index, |index| {
                let number = delta.generation;
                let mut built = index.generations.iter_mut();
                let Some(built) = built.find(|built| built.generation == number) else {
                    return;
                };
                built.deltas.extend(delta.file.clone().map(|file| Delta {
                    file,
                    seq: meta.seq,
                    source_seq: event.source_seq,
                }));
                built.rows_seq = Some(event.source_seq.max(built.embedded_through()));
            });
        }
        self.note_embedded(meta, &event.dataset);
    }

    /// Whether an index over a dataset says what its own embedding asks for.
    pub(super) fn is_served(&self, name: &str) -> bool {
        let dataset = self.datasets.get(name);
        let wanted = dataset.and_then(|dataset| dataset.embedding.as_ref());
        wanted.is_none_or(|wanted| {
            let mut over = self.indexes_over(name);
            over.any(|index| index.spec.embeds(wanted))
        })
    }

    /// The embeddings of a dataset are current when every index over it, and over views of it, answers
    /// with its rows, and one says what its own embedding asks for. `source` is the dataset or a view of it.
    pub(super) fn note_embedded(&mut self, meta: Meta<'_>, source: &str) {
        let Some(dataset) = self.dataset_under(source) else {
            return;
        };
        let (name, rows_seq) = (dataset.name.clone(), dataset.rows_seq);
        let is_served = self.is_served(&name);
        let behind = |index: &std::sync::Arc<Index>| {
            let live = index.live_generation();
            live.is_none_or(|live| live.embedded_through() < rows_seq || live.left_out() > 0)
        };
        // One that was never built is not stale: it does not answer at all.
        let behind = self
            .indexes_over(&name)
            .any(|index| index.live.is_some() && behind(index));
        self.change_dataset(&name, |dataset| {
            if behind {
                dataset.embedding_stale_since.get_or_insert(meta.at);
            } else if is_served {
                dataset.last_embedded_at = Some(meta.at);
                dataset.embedding_stale_since = None;
            }
        });
    }
}

impl Index {
    /// The deltas that are newer than a build, which ride on it from its first moment.
    pub(super) fn carried(&self, event: &GenerationBuilt) -> Vec<Delta> {
        let Some(live) = self.live_generation() else {
            return Vec::new();
        };
        let newer = |delta: &&Delta| match event.folded_through {
            Some(folded) => delta.seq > folded,
            None => delta.source_seq > event.source_seq,
        };
        live.deltas.iter().filter(newer).cloned().collect()
    }
}

#[cfg(test)]
mod tests;
