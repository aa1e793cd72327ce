//! Runs of the refresh: what may be asked for, what a run has changed, and since when a dataset's
//! embeddings are behind its rows. `decide` and `apply` of the catalog call it.

use super::{
    CatalogState, Dataset, EmbeddingSpec, EndedRefresh, IndexSpec, OtherModel, PatchDataset,
    RefreshCause, RefreshCounts, RefreshPolicy,
};
use crate::{
    model::{
        Meta, ModelError, Stamp, Work,
        catalog::DueRefresh,
        event::{
            CatalogEvent, GenerationRequested, RefreshCompleted, RefreshFailed, RefreshRequested,
        },
    },
    record::{Micros, Seq},
};

type Decision = Result<Vec<CatalogEvent>, ModelError>;

/// Report that the indexes of a dataset say what its rows said.
#[derive(Debug, Clone)]
pub struct CompleteRefresh {
    /// The dataset.
    pub dataset: String,
    /// The run that was asked for; one that nobody asked for gets a name of its own.
    pub run: Option<String>,
    /// Why it ran.
    pub cause: RefreshCause,
    /// Position of the snapshot whose rows were embedded.
    pub source_seq: Seq,
    /// What was done.
    pub counts: RefreshCounts,
    /// How long it took.
    pub elapsed_ms: u64,
}

/// Report a refresh that could not be carried out.
#[derive(Debug, Clone)]
pub struct FailRefresh {
    /// The dataset.
    pub dataset: String,
    /// The run that was asked for.
    pub run: Option<String>,
    /// Why it ran.
    pub cause: RefreshCause,
    /// The stable word of the error.
    pub code: String,
    /// The error.
    pub error: String,
    /// Whether it is tried again without being asked.
    pub comes_again: bool,
    /// How long it took.
    pub elapsed_ms: u64,
}

impl IndexSpec {
    /// Whether an index of this kind is what the dataset's embedding asks for.
    pub fn embeds(&self, wanted: &EmbeddingSpec) -> bool {
        self.vector_column.is_none()
            && self.key == wanted.key
            && self.text == wanted.text
            && self.provider == wanted.provider
            && self.model == wanted.model
            && self.chunk == wanted.chunk
    }
}

impl CatalogState {
    pub(super) fn request_refresh(
        &self,
        name: &str,
        cause: RefreshCause,
        stamp: &Stamp,
    ) -> Decision {
        let dataset = self.dataset(name)?;
        if !self.is_embedded(dataset) {
            return Err(ModelError::Impossible {
                what: "refresh",
                reason: format!("dataset `{name}` has no embedding and no index"),
            });
        }
        if dataset.refresh_due.is_some() {
            return Ok(Vec::new());
        }
        let (dataset, run) = (name.to_owned(), stamp.id.clone());
        Ok(vec![
            RefreshRequested {
                dataset,
                run,
                cause,
            }
            .into(),
        ])
    }

    /// An index by another model: beside the one that answers, in its place when it is built.
    pub(super) fn remake_index(&self, name: &str, model: &OtherModel, stamp: &Stamp) -> Decision {
        let index = self.index(name)?;
        if index.building.is_some() {
            return Err(ModelError::InUse {
                what: "index",
                name: name.to_owned(),
                by: vec!["a build that is under way".to_owned()],
            });
        }
        if self.valid_eval(name).is_some() || self.quality.slos.contains_key(name) {
            return Err(ModelError::Impossible {
                what: "model",
                reason: format!(
                    "index `{name}` was measured with its own: drop it and define it anew"
                ),
            });
        }
        Ok(vec![
            GenerationRequested {
                index: name.to_owned(),
                generation: index.next_generation(),
                job: stamp.id.clone(),
                config: None,
                model: Some(model.clone()),
                fold: false,
            }
            .into(),
        ])
    }

    pub(super) fn complete_refresh(&self, command: &CompleteRefresh, stamp: &Stamp) -> Decision {
        self.dataset(&command.dataset)?;
        let command = command.clone();
        Ok(vec![
            RefreshCompleted {
                dataset: command.dataset,
                run: command.run.unwrap_or_else(|| stamp.id.clone()),
                cause: command.cause,
                source_seq: command.source_seq,
                counts: command.counts,
                elapsed_ms: command.elapsed_ms,
            }
            .into(),
        ])
    }

    pub(super) fn fail_refresh(&self, command: &FailRefresh, stamp: &Stamp) -> Decision {
        let dataset = self.dataset(&command.dataset)?;
        let known = dataset.last_refresh.as_ref().is_some_and(|last| {
            let same = last.error.as_ref().map(|(code, _)| code) == Some(&command.code);
            same && last.cause == command.cause
        });
        // One that is tried again and again is noted once a reason.
        if known && command.comes_again {
            return Ok(Vec::new());
        }
        let command = command.clone();
        Ok(vec![
            RefreshFailed {
                dataset: command.dataset,
                run: command.run.unwrap_or_else(|| stamp.id.clone()),
                cause: command.cause,
                code: command.code,
                error: command.error,
                comes_again: command.comes_again,
                elapsed_ms: command.elapsed_ms,
            }
            .into(),
        ])
    }

    /// Whether anything of a dataset is embedded, or is to be.
    pub fn is_embedded(&self, dataset: &Dataset) -> bool {
        dataset.embedding.is_some() || self.indexes_over(&dataset.name).next().is_some()
    }

    /// Refuses a policy that could never run.
    pub(super) fn check_policy(
        &self,
        dataset: &Dataset,
        command: &PatchDataset,
    ) -> Result<(), ModelError> {
        let idle = !self.is_embedded(dataset) && command.embedding.is_none();
        match &command.embedding_refresh_policy {
            Some(RefreshPolicy::OnAppend | RefreshPolicy::Scheduled(_)) if idle => {
                Err(ModelError::Impossible {
                    what: "embedding_refresh_policy",
                    reason: format!(
                        "nothing of dataset `{}` is embedded: set `embedding`, or build an index",
                        dataset.name
                    ),
                })
            }
            _ => Ok(()),
        }
    }

    /// Refreshes that are due: asked for, or by policy since rows were committed.
    pub(super) fn pending_refreshes(&self) -> impl Iterator<Item = Work> {
        let due = self.datasets.values().filter(|dataset| {
            let appended = dataset.embedding_refresh_policy == RefreshPolicy::OnAppend
                && dataset.embedding_stale_since.is_some();
            (dataset.refresh_due.is_some() || appended) && self.is_embedded(dataset)
        });
        due.map(|dataset| Work::RefreshEmbeddings {
            dataset: dataset.name.clone(),
        })
    }

    pub(super) fn refresh_requested(&mut self, meta: Meta<'_>, event: &RefreshRequested) {
        self.change_dataset(&event.dataset, |dataset| {
            dataset.refresh_due = Some(DueRefresh {
                run: event.run.clone(),
                cause: event.cause,
                seq: meta.seq,
                at: meta.at,
            });
        });
    }

    pub(super) fn refresh_completed(&mut self, meta: Meta<'_>, event: &RefreshCompleted) {
        // What was asked for while it ran is not done by it.
        let is_served = self.is_served(&event.dataset);
        self.change_dataset(&event.dataset, |dataset| {
            dataset.last_embedded_at = Some(meta.at);
            if is_served {
                dataset.embedded_as_of(event.source_seq);
            }
            dataset.end_refresh(&event.run);
            dataset.last_refresh = Some(EndedRefresh {
                run: event.run.clone(),
                cause: event.cause,
                at: meta.at,
                elapsed_ms: event.elapsed_ms,
                error: None,
            });
        });
    }

    pub(super) fn refresh_failed(&mut self, meta: Meta<'_>, event: &RefreshFailed) {
        self.change_dataset(&event.dataset, |dataset| {
            if !event.comes_again {
                dataset.end_refresh(&event.run);
            }
            dataset.last_refresh = Some(EndedRefresh {
                run: event.run.clone(),
                cause: event.cause,
                at: meta.at,
                elapsed_ms: event.elapsed_ms,
                error: Some((event.code.clone(), event.error.clone())),
            });
        });
    }
}

impl Dataset {
    /// Forgets the request that this run was.
    fn end_refresh(&mut self, run: &str) {
        if self.refresh_due.as_ref().is_some_and(|due| due.run == run) {
            self.refresh_due = None;
        }
    }

    /// Sets since when its embeddings are behind, after they say what the rows said at `seq`.
    fn embedded_as_of(&mut self, seq: Seq) {
        if self.rows_seq <= seq {
            self.embedding_stale_since = None;
        } else if let Some(at) = self.first_change_after(seq) {
            self.embedding_stale_since = Some(at);
        }
    }

    /// When rows were first committed after `seq`.
    fn first_change_after(&self, seq: Seq) -> Option<Micros> {
        let later = self.lineage.iter().rev();
        let later = later.take_while(|step| step.journal_seq > seq);
        later.last().map(|step| step.at)
    }
}

#[cfg(test)]
mod tests;
