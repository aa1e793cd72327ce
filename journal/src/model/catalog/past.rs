//! Datasets as they were: an old state of a dataset, read from the files that are there today.
//! Pure. Files that were rewritten since are followed to what stands for them, and rows that were
//! deleted for good are in no past.

use std::sync::Arc;

use super::{DataFile, Dataset, DeletionVector};
use crate::record::Seq;

impl Dataset {
    /// The dataset as it was in `then`, an older state of the same dataset, less the rows that were
    /// deleted for good since. Names, classes and policies are today's.
    ///
    /// # Errors
    /// The oldest position that can be queried, when files of `then` are no longer kept.
    pub fn as_it_was(&self, then: &Self) -> Result<Self, Seq> {
        let mut files = Vec::new();
        for file in &then.files {
            self.follow(&file.entry.key, file.deleted.clone(), &mut files)
                .ok_or(self.history_from)?;
        }
        Ok(Self {
            schema: then.schema.clone(),
            key: then.key.clone(),
            files,
            files_seq: then.files_seq,
            rows_seq: then.rows_seq,
            lineage: then.lineage.clone(),
            ..self.clone()
        })
    }

    /// Adds what stands for the file `key` today, with these rows gone.
    fn follow(
        &self,
        key: &str,
        mut deleted: DeletionVector,
        into: &mut Vec<Arc<DataFile>>,
    ) -> Option<()> {
        if let Some(file) = self.all_files().find(|file| file.entry.key == key) {
            deleted.add(&file.erased);
            into.push(Arc::new(DataFile {
                entry: file.entry.clone(),
                added_seq: file.added_seq,
                deleted,
                erased: file.erased.clone(),
            }));
            return Some(());
        }
        let scrubbed = self.scrubbed.get(key)?;
        let deleted = deleted.after_removal_of(&scrubbed.removed);
        let mut start = 0;
        for (key, rows) in &scrubbed.files {
            self.follow(key, deleted.slice(start, *rows), into)?;
            start += rows;
        }
        Some(())
    }
}

#[cfg(test)]
pub(super) mod tests;
