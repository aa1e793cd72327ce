//! Where a dataset's files lie and what is true of them: moves to another bucket, and entries that
//! are put right. Pure; `decide` and `apply` call it.

use std::sync::Arc;

use super::{CatalogState, DataFile, Dataset, FileEntry, IngestMode, MoveDataset, RetainedFile};
use crate::model::{
    Meta, ModelError,
    event::{CatalogEvent, DatasetMoved, FileRepair, FilesRepaired},
};

impl CatalogState {
    /// Whether an event points at this object of this bucket: a file, or one of a generation.
    pub fn points_at(&self, bucket: &str, key: &str) -> bool {
        let is_it = |file: &DataFile| file.entry.bucket == bucket && file.entry.key == key;
        let of_dataset = |dataset: &Arc<Dataset>| dataset.all_files().any(is_it);
        self.datasets.values().any(of_dataset)
            || self.indexes.values().any(|index| {
                let of_generation = || {
                    index.generations.iter().any(|built| {
                        let rest = key.strip_prefix(built.prefix.as_str());
                        rest.is_some_and(|rest| rest.starts_with('/'))
                    })
                };
                let of_delta = || index.deltas().any(|delta| delta.file.key == key);
                index.spec.bucket == bucket && (of_generation() || of_delta())
            })
    }

    /// Whether a file of a dataset is this object and still holds rows that were deleted for good.
    pub fn holds_erased_rows(&self, bucket: &str, key: &str) -> bool {
        let files = self
            .datasets
            .values()
            .flat_map(|dataset| dataset.all_files());
        let mut held = files.filter(|file| !file.erased.is_empty());
        held.any(|file| file.entry.bucket == bucket && file.entry.key == key)
    }

    pub(super) fn move_dataset(
        &self,
        command: &MoveDataset,
    ) -> Result<Vec<CatalogEvent>, ModelError> {
        let dataset = self.dataset(&command.dataset)?;
        let elsewhere = |file: &&DataFile| file.entry.bucket != command.bucket;
        let moving: Vec<&FileEntry> = dataset
            .all_files()
            .filter(elsewhere)
            .map(|file| &file.entry)
            .collect();
        if moving.is_empty() && dataset.bucket == command.bucket {
            return Ok(Vec::new());
        }
        // An object of that name that is on its way out would take the new one with it.
        let doomed = |key: &str| {
            self.doomed
                .contains_key(&format!("{}/{key}", command.bucket))
        };
        let unready = |entry: &&&FileEntry| !command.copied.contains(&entry.key);
        if moving.iter().any(|entry| doomed(&entry.key)) || moving.iter().find(unready).is_some() {
            return Err(ModelError::Stale {
                dataset: dataset.name.clone(),
                read_seq: 0,
                now_seq: dataset.files_seq,
            });
        }
        Ok(vec![
            DatasetMoved {
                dataset: dataset.name.clone(),
                bucket: command.bucket.clone(),
                bytes: moving.iter().map(|entry| entry.bytes).sum(),
                files: moving.into_iter().map(|entry| entry.key.clone()).collect(),
            }
            .into(),
        ])
    }

    pub(super) fn repair_files(
        &self,
        command: &FilesRepaired,
    ) -> Result<Vec<CatalogEvent>, ModelError> {
        let dataset = self.dataset(&command.dataset)?;
        let mut event = command.clone();
        event.repaired.retain(|repair| {
            let mut files = dataset.all_files();
            files.any(|file| file.entry.key == repair.key && !repair.is_said_of(&file.entry))
        });
        event
            .missing
            .retain(|key| dataset.all_files().any(|file| file.entry.key == *key));
        event.schema = event
            .schema
            .filter(|schema| schema.fingerprint != dataset.schema.fingerprint);
        let lost = dataset.wrongly_retired();
        event.relisted.retain(|key| lost.contains(key));
        for repair in &event.repaired {
            dataset.must_keep_positions(repair)?;
        }
        // Missing files alone change nothing; whoever asked is told.
        if event.repaired.is_empty() && event.relisted.is_empty() && event.schema.is_none() {
            return Ok(Vec::new());
        }
        Ok(vec![event.into()])
    }

    pub(super) fn dataset_moved(&mut self, meta: Meta<'_>, event: &DatasetMoved) {
        let mut left = Vec::new();
        self.change_dataset(&event.dataset, |dataset| {
            if dataset.bucket != event.bucket {
                left.push((dataset.bucket.clone(), dataset.sidecar_key()));
            }
            dataset.bucket.clone_from(&event.bucket);
            dataset.change_entries(|entry| {
                if event.files.contains(&entry.key) {
                    left.push((entry.bucket.clone(), entry.key.clone()));
                    entry.bucket.clone_from(&event.bucket);
                }
            });
            dataset.files_seq = meta.seq;
            dataset.updated_at = meta.at;
        });
        for (bucket, key) in left {
            self.doom(meta.seq, &bucket, &key);
        }
    }

    pub(super) fn files_repaired(&mut self, meta: Meta<'_>, event: &FilesRepaired) {
        self.change_dataset(&event.dataset, |dataset| {
            dataset.change_entries(|entry| {
                let about_it = |repair: &&FileRepair| repair.key == entry.key;
                if let Some(repair) = event.repaired.iter().find(about_it) {
                    entry.bucket.clone_from(&repair.bucket);
                    entry.rows = repair.rows;
                    entry.bytes = repair.bytes;
                    entry.blake3.clone_from(&repair.blake3);
                }
            });
            if let Some(schema) = &event.schema {
                dataset.schema = schema.clone();
            }
            let back = |kept: &RetainedFile| event.relisted.contains(&kept.file.entry.key);
            for kept in dataset.retained.iter().filter(|kept| back(kept)) {
                dataset.files.push(Arc::new(kept.file.clone()));
            }
            dataset.retained.retain(|kept| !back(kept));
            dataset.files.sort_by_key(|file| file.added_seq);
            dataset.files_seq = meta.seq;
            dataset.rows_seq = meta.seq;
            dataset.updated_at = meta.at;
        });
    }
}

impl FileRepair {
    /// Whether the catalog says so already.
    pub fn is_said_of(&self, entry: &FileEntry) -> bool {
        self.bucket == entry.bucket
            && self.rows == entry.rows
            && self.bytes == entry.bytes
            && self.blake3 == entry.blake3
    }
}

impl Dataset {
    fn change_entries(&mut self, mut change: impl FnMut(&mut FileEntry)) {
        for file in &mut self.files {
            change(&mut Arc::make_mut(file).entry);
        }
        for kept in &mut self.retained {
            change(&mut Arc::make_mut(kept).file.entry);
        }
    }

    /// Whether the deleted rows of a file mean the same rows after this repair: they are known by their
    /// positions, which say nothing of a file with other content.
    pub fn keeps_positions(&self, repair: &FileRepair) -> bool {
        let Some(file) = self.all_files().find(|file| file.entry.key == repair.key) else {
            return true;
        };
        let last = file.deleted.bitmap().max().map(u64::from);
        let within = last.is_none_or(|last| last < repair.rows);
        file.deleted.is_empty() || (within && file.entry.blake3 == repair.blake3)
    }

    /// Keys of files that left by a commit that takes no file out: only a replacement does, and what
    /// rewrites files. Where rows may have been replaced since, a file would bring old ones back; it is
    /// left out then.
    pub fn wrongly_retired(&self) -> Vec<String> {
        let wrong = |kept: &RetainedFile| {
            let mut steps = self.lineage.iter();
            let by = steps.find(|step| step.journal_seq == kept.retired_seq);
            by.is_some_and(|step| step.mode != IngestMode::Replace)
        };
        let lost = |kept: &&Arc<RetainedFile>| {
            wrong(kept) && (self.key.is_empty() || self.rows_seq == kept.retired_seq)
        };
        let lost = self.retained.iter().filter(lost);
        lost.map(|kept| kept.file.entry.key.clone()).collect()
    }

    fn must_keep_positions(&self, repair: &FileRepair) -> Result<(), ModelError> {
        if !self.keeps_positions(repair) {
            return Err(ModelError::Impossible {
                what: "repair",
                reason: format!(
                    "a file of dataset `{}` has deleted rows and other content than when they were \
                     deleted: their positions mean nothing in it",
                    self.name
                ),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
