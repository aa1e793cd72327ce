//! What the catalog lets happen. One function a command; reads state and command only.

use super::compaction::{change, must_keep_rows};
use super::key::check_key;
use super::{
    CatalogCommand, CatalogState, CommitFiles, CommitGeneration, CompactFiles, CreateDataset,
    Dataset, DropDataset, ErasedKeys, FailGeneration, Index, IndexConfig, IngestMode, PatchDataset,
    ScrubFiles,
};
use crate::{
    model::{
        Aggregate, Meta, ModelError, Stamp, Work,
        error::near_names,
        event::{
            CatalogEvent, DatasetCreated, DatasetDropped, DatasetPatched, FilesCommitted,
            FilesCompacted, FilesPurged, FilesScrubbed, GenerationBuilt, GenerationFailed,
            GenerationsRetired, IndexDropped, IndexPromoted, ObjectsDeleted, RowsErased,
        },
    },
    record::{Micros, Seq},
};

type Decision = Result<Vec<CatalogEvent>, ModelError>;

impl Aggregate for CatalogState {
    type Command = CatalogCommand;
    type Event = CatalogEvent;

    fn decide(&self, command: &CatalogCommand, stamp: &Stamp) -> Decision {
        match command {
            CatalogCommand::CreateDataset(c) => self.create_dataset(c),
            CatalogCommand::CommitFiles(c) => self.commit_files(c),
            CatalogCommand::CompactFiles(c) => self.compact_files(c),
            CatalogCommand::ScrubFiles(c) => self.scrub_files(c),
            CatalogCommand::PurgeFiles { dataset, horizon } => self.purge_files(dataset, *horizon),
            CatalogCommand::ForgetObjects { objects } => Ok(self.forget_objects(objects)),
            CatalogCommand::ConfirmErasure {
                dataset,
                through,
                checked,
            } => {
                let erased = RowsErased {
                    dataset: dataset.clone(),
                    through: *through,
                    checked: checked.clone(),
                };
                self.confirm_erasure(erased)
            }
            CatalogCommand::MoveDataset(c) => self.move_dataset(c),
            CatalogCommand::RepairFiles(c) => self.repair_files(c),
            CatalogCommand::PatchDataset(c) => self.patch_dataset(c),
            CatalogCommand::DropDataset(c) => self.drop_dataset(c),
            CatalogCommand::TombstoneRows(c) => self.tombstone_rows(c),
            CatalogCommand::DefineIndex(c) => {
                let mut events = self.define_index(c, stamp)?;
                events.extend(Self::first_floor(c));
                Ok(events)
            }
            CatalogCommand::RequestRefresh { dataset, cause } => {
                self.request_refresh(dataset, *cause, stamp)
            }
            CatalogCommand::CompleteRefresh(c) => self.complete_refresh(c, stamp),
            CatalogCommand::FailRefresh(c) => self.fail_refresh(c, stamp),
            CatalogCommand::RemakeIndex { index, model } => self.remake_index(index, model, stamp),
            CatalogCommand::RequestGeneration { index, config } => {
                self.request_generation(index, config.as_ref(), stamp)
            }
            CatalogCommand::Quality(c) => self.decide_quality(c),
            CatalogCommand::CommitGeneration(c) => self.commit_generation(c),
            CatalogCommand::FailGeneration(c) => self.fail_generation(c),
            CatalogCommand::PromoteGeneration(c) => self.promote_measured(c),
            CatalogCommand::CommitIndexDelta(c) => self.commit_index_delta(c, stamp),
            CatalogCommand::ReportCorruption(c) => self.report_corruption(c, stamp),
            CatalogCommand::RetireGenerations { index, older_than } => {
                self.retire_generations(index, *older_than)
            }
            CatalogCommand::DefineView(c) => self.define_view(c, stamp),
            CatalogCommand::DropView { view, cascade } => self.drop_view(view, *cascade),
            CatalogCommand::RollbackIndex { index } => self.rollback_index(index),
            CatalogCommand::DropIndex { index } => {
                self.index(index)?;
                Ok(vec![
                    IndexDropped {
                        index: index.clone(),
                    }
                    .into(),
                ])
            }
        }
    }

    fn apply(&mut self, meta: Meta<'_>, event: &CatalogEvent) {
        self.apply_event(meta, event);
    }

    fn pending(&self) -> Vec<Work> {
        let builds = self.indexes.values().filter_map(|index| {
            let (generation, job) = index.building.clone()?;
            Some(Work::BuildGeneration {
                index: index.name.clone(),
                generation,
                job,
            })
        });
        let datasets = || self.datasets.values();
        let name = |dataset: &std::sync::Arc<Dataset>| dataset.name.clone();
        let erasures = datasets()
            .filter(|dataset| self.owes_erasure(dataset))
            .map(|dataset| Work::EraseRows {
                dataset: name(dataset),
            });
        let compactions = datasets()
            .filter(|dataset| dataset.wants_compaction())
            .map(|dataset| Work::CompactFiles {
                dataset: name(dataset),
            });
        let doomed = (!self.doomed.is_empty()).then_some(Work::DeleteObjects);
        builds
            .chain(erasures)
            .chain(compactions)
            .chain(self.pending_refreshes())
            .chain(doomed)
            .collect()
    }
}

impl CatalogState {
    /// The dataset of that name.
    ///
    /// # Errors
    /// [`ModelError::NotFound`] with names like it.
    pub fn dataset(&self, name: &str) -> Result<&Dataset, ModelError> {
        self.datasets
            .get(name)
            .map(AsRef::as_ref)
            .ok_or_else(|| ModelError::NotFound {
                what: "dataset",
                name: name.to_owned(),
                near: near_names(name, self.datasets.keys()),
            })
    }

    /// The index of that name.
    ///
    /// # Errors
    /// [`ModelError::NotFound`] with names like it.
    pub fn index(&self, name: &str) -> Result<&Index, ModelError> {
        self.indexes
            .get(name)
            .map(AsRef::as_ref)
            .ok_or_else(|| ModelError::NotFound {
                what: "index",
                name: name.to_owned(),
                near: near_names(name, self.indexes.keys()),
            })
    }

    /// Whether anything may be left of rows of a dataset that were deleted for good.
    pub fn owes_erasure(&self, dataset: &Dataset) -> bool {
        let last = dataset.last_tombstone_seq();
        last > dataset.erased_seq
            || dataset.holds_erased_rows()
            || self.evals_hold_erased_rows(&dataset.name)
            || self
                .indexes_over(&dataset.name)
                .any(|index| index.generations_before(last) > 0)
    }

    fn create_dataset(&self, command: &CreateDataset) -> Decision {
        let name = &command.commit.dataset;
        self.name_is_free("dataset", name)?;
        check_key(&command.spec.key, &command.spec.schema.columns)?;
        let created = DatasetCreated {
            dataset: name.clone(),
            spec: command.spec.clone(),
        };
        Ok(vec![
            created.into(),
            committed(&command.commit, Vec::new(), false).into(),
        ])
    }

    fn commit_files(&self, command: &CommitFiles) -> Decision {
        let dataset = self.dataset(&command.dataset)?;
        if command.mode == IngestMode::Create {
            return Err(ModelError::Exists {
                what: "dataset",
                name: command.dataset.clone(),
            });
        }
        if dataset.already_has(command.mode, &command.source.content_hash) {
            return Ok(Vec::new());
        }
        dataset.must_continue(&command.source)?;
        if !dataset.key.is_empty() && dataset.erased_keys == ErasedKeys::Refuse {
            dataset.must_know_tombstones(command.read_seq)?;
        }
        if command.mode == IngestMode::Replace {
            check_key(&dataset.key, &command.schema.columns)?;
            let retired = dataset
                .files
                .iter()
                .map(|file| file.entry.key.clone())
                .collect();
            return Ok(vec![committed(command, retired, true).into()]);
        }
        if let Some(difference) = dataset.schema.difference(&command.schema) {
            return Err(ModelError::SchemaMismatch {
                dataset: dataset.name.clone(),
                difference,
            });
        }
        if command.mode == IngestMode::Upsert && dataset.key.is_empty() {
            return Err(ModelError::Impossible {
                what: "mode",
                reason: format!(
                    "`upsert` needs a key and dataset `{}` has none",
                    dataset.name
                ),
            });
        }
        if !dataset.key.is_empty() {
            dataset.must_be_as_read(command.read_seq)?;
        }
        Ok(vec![committed(command, Vec::new(), false).into()])
    }

    fn compact_files(&self, command: &CompactFiles) -> Decision {
        let dataset = self.dataset(&command.dataset)?;
        if command.retired.is_empty() {
            return Ok(Vec::new());
        }
        let as_rewritten = command.retired.iter().all(|rewritten| {
            dataset.files.iter().any(|file| {
                file.entry.key == rewritten.key
                    && file.deleted.len() == rewritten.deleted
                    && file.erased.len() == rewritten.erased
            })
        });
        if !as_rewritten {
            return Err(ModelError::Stale {
                dataset: dataset.name.clone(),
                read_seq: command.read_seq,
                now_seq: dataset.files_seq.max(dataset.last_tombstone_seq()),
            });
        }
        must_keep_rows(dataset, command)?;
        let retired = command.retired.iter().map(|file| file.key.clone());
        Ok(vec![
            FilesCompacted {
                dataset: command.dataset.clone(),
                read_seq: command.read_seq,
                added: command.added.clone(),
                retired: retired.collect(),
                change: change(dataset, command),
                content_hash: command.content_hash.clone(),
            }
            .into(),
        ])
    }

    fn scrub_files(&self, command: &ScrubFiles) -> Decision {
        let dataset = self.dataset(&command.dataset)?;
        let there = |file: &str| dataset.all_files().any(|known| known.entry.key == file);
        let scrubs: Vec<_> = command
            .scrubs
            .iter()
            .filter(|scrub| there(&scrub.file))
            .cloned()
            .collect();
        if scrubs.is_empty() {
            return Ok(Vec::new());
        }
        for scrub in &scrubs {
            dataset.must_keep_others(scrub)?;
        }
        let dataset = command.dataset.clone();
        Ok(vec![FilesScrubbed { dataset, scrubs }.into()])
    }

    fn purge_files(&self, name: &str, horizon: Micros) -> Decision {
        let files: Vec<String> = self
            .dataset(name)?
            .retained
            .iter()
            .filter(|kept| kept.retired_at <= horizon)
            .map(|kept| kept.file.entry.key.clone())
            .collect();
        if files.is_empty() {
            return Ok(Vec::new());
        }
        let dataset = name.to_owned();
        Ok(vec![FilesPurged { dataset, files }.into()])
    }

    fn forget_objects(&self, objects: &[String]) -> Vec<CatalogEvent> {
        let objects: Vec<String> = objects
            .iter()
            .filter(|object| self.doomed.contains_key(*object))
            .cloned()
            .collect();
        if objects.is_empty() {
            return Vec::new();
        }
        vec![ObjectsDeleted { objects }.into()]
    }

    fn confirm_erasure(&self, erased: RowsErased) -> Decision {
        let dataset = self.dataset(&erased.dataset)?;
        let known = erased.through <= dataset.erased_seq;
        let left = dataset.holds_erased_rows()
            || self.evals_hold_erased_rows(&erased.dataset)
            || self
                .indexes_over(&erased.dataset)
                .any(|index| index.generations_before(erased.through) > 0);
        if known || left || erased.through > dataset.last_tombstone_seq() {
            return Ok(Vec::new());
        }
        Ok(vec![erased.into()])
    }

    fn retire_generations(&self, name: &str, older_than: Seq) -> Decision {
        let index = self.index(name)?;
        let generations: Vec<u64> = index
            .generations
            .iter()
            .filter(|built| {
                built.oldest_source() < older_than && Some(built.generation) != index.live
            })
            .map(|built| built.generation)
            .collect();
        if generations.is_empty() {
            return Ok(Vec::new());
        }
        let index = name.to_owned();
        Ok(vec![GenerationsRetired { index, generations }.into()])
    }

    fn patch_dataset(&self, command: &PatchDataset) -> Decision {
        let dataset = self.dataset(&command.dataset)?;
        for column in command.sensitivity.keys() {
            dataset.must_have_column(column)?;
        }
        if let Some(embedding) = &command.embedding {
            dataset.must_have_key(&embedding.key)?;
            dataset.must_have_text(&embedding.text)?;
            embedding.chunk.map_or(Ok(()), |chunk| chunk.check())?;
        }
        self.check_policy(dataset, command)?;
        let command = command.clone();
        Ok(vec![
            DatasetPatched {
                dataset: command.dataset,
                description: command.description,
                owner: command.owner,
                tags: command.tags,
                sensitivity: command.sensitivity,
                embedding_refresh_policy: command.embedding_refresh_policy,
                embedding: command.embedding,
                erased_keys: command.erased_keys,
                journal_keys: command.journal_keys,
                compaction: command.compaction,
                min_group_size: command.min_group_size,
            }
            .into(),
        ])
    }

    fn drop_dataset(&self, command: &DropDataset) -> Decision {
        self.dataset(&command.dataset)?;
        let mut events = self.drop_dependents("dataset", &command.dataset, command.cascade)?;
        events.push(
            DatasetDropped {
                dataset: command.dataset.clone(),
            }
            .into(),
        );
        Ok(events)
    }

    fn request_generation(
        &self,
        name: &str,
        config: Option<&IndexConfig>,
        stamp: &Stamp,
    ) -> Decision {
        let index = self.index(name)?;
        if index.building.is_some() {
            return match config {
                None => Ok(Vec::new()),
                Some(_) => Err(ModelError::InUse {
                    what: "index",
                    name: name.to_owned(),
                    by: vec!["a build that is under way".to_owned()],
                }),
            };
        }
        let mut requested = self.requested(name, stamp, false)?;
        requested.config = config.cloned();
        Ok(vec![requested.into()])
    }

    fn commit_generation(&self, command: &CommitGeneration) -> Decision {
        let index = self.index(&command.index)?;
        if index.building.as_ref() != Some(&(command.generation, command.job.clone())) {
            return Ok(Vec::new());
        }
        let (trial, refused) = self.judged(index, command)?;
        if let Some(refused) = refused {
            return Ok(trial.into_iter().chain([refused]).collect());
        }
        let command = command.clone();
        let promoted = IndexPromoted {
            index: command.index.clone(),
            generation: command.generation,
        };
        let built = GenerationBuilt {
            index: command.index,
            generation: command.generation,
            job: command.job,
            source_seq: command.source_seq,
            prefix: command.prefix,
            files: command.files,
            vectors: command.vectors,
            rows: command.rows,
            skipped: command.skipped,
            reused: command.reused,
            changed: command.changed,
            making: command.making.map(|making| *making),
            build_ms: command.build_ms,
            rows_seq: command.rows_seq,
            folded_through: command.folded_through,
        };
        Ok(trial
            .into_iter()
            .chain([built.into(), promoted.into()])
            .collect())
    }

    fn fail_generation(&self, command: &FailGeneration) -> Decision {
        let index = self.index(&command.index)?;
        if index.building.as_ref() != Some(&(command.generation, command.job.clone())) {
            return Ok(Vec::new());
        }
        Ok(vec![
            GenerationFailed {
                index: command.index.clone(),
                generation: command.generation,
                job: command.job.clone(),
                error: command.error.clone(),
                obstacle: command.obstacle.clone(),
            }
            .into(),
        ])
    }

    fn rollback_index(&self, name: &str) -> Decision {
        let index = self.index(name)?;
        let live = index.live.unwrap_or(0);
        let built = index.generations.iter().map(|built| built.generation);
        match built.filter(|number| *number < live).max() {
            Some(generation) => self.promote_generation(name, generation),
            None => Err(ModelError::Impossible {
                what: "rollback",
                reason: format!("index `{name}` has no generation before the one that answers"),
            }),
        }
    }

    pub(super) fn promote_generation(&self, name: &str, generation: u64) -> Decision {
        let index = self.index(name)?;
        if !index
            .generations
            .iter()
            .any(|built| built.generation == generation)
        {
            return Err(ModelError::NotFound {
                what: "generation",
                name: generation.to_string(),
                near: index
                    .generations
                    .iter()
                    .map(|g| g.generation.to_string())
                    .collect(),
            });
        }
        if index.live == Some(generation) {
            return Ok(Vec::new());
        }
        Ok(vec![
            IndexPromoted {
                index: name.to_owned(),
                generation,
            }
            .into(),
        ])
    }
}

fn committed(command: &CommitFiles, retired: Vec<String>, new_schema: bool) -> FilesCommitted {
    let command = command.clone();
    FilesCommitted {
        dataset: command.dataset,
        mode: command.mode,
        read_seq: command.read_seq,
        added: command.added,
        retired,
        deleted: command.deleted,
        schema: new_schema.then_some(command.schema),
        source: command.source,
        rows: command.rows,
        batches: command.batches,
        source_bytes: command.source_bytes,
        elapsed_ms: command.elapsed_ms,
        erased_skipped: command.erased_skipped,
        proposals: command.proposals,
    }
}
