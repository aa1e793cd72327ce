//! What a compaction may do to a dataset, and what it comes to. Pure; `decide` asks.

use std::sync::Arc;

use super::{CompactFiles, DataFile, Dataset, FileEntry, rules::same_rows};
use crate::model::{ModelError, event::CompactionChange};

/// A compaction changes no visible row, so none may come or go.
pub(super) fn must_keep_rows(dataset: &Dataset, command: &CompactFiles) -> Result<(), ModelError> {
    let is_retired = |file: &&Arc<DataFile>| {
        let key = &file.entry.key;
        command.retired.iter().any(|retired| retired.key == *key)
    };
    let retired = dataset.files.iter().filter(is_retired);
    let before: u64 = retired.map(|file| file.live_rows()).sum();
    let visible = |entry: &FileEntry| {
        let mut gone = entry.superseded.clone();
        gone.add(&entry.erased);
        entry.rows - gone.len()
    };
    let after: u64 = command.added.iter().map(visible).sum();
    same_rows("compaction", before, after)
}

/// What a compaction changes of the dataset's files, in numbers.
pub(super) fn change(dataset: &Dataset, command: &CompactFiles) -> CompactionChange {
    let is_retired = |file: &&Arc<DataFile>| {
        let key = &file.entry.key;
        command.retired.iter().any(|retired| retired.key == *key)
    };
    let sum = |of: fn(&DataFile) -> u64| dataset.files.iter().map(|file| of(file)).sum::<u64>();
    let retired = |of: fn(&DataFile) -> u64| {
        dataset
            .files
            .iter()
            .filter(is_retired)
            .map(|file| of(file))
            .sum::<u64>()
    };
    let added = |of: fn(&FileEntry) -> u64| command.added.iter().map(of).sum::<u64>();
    let (files, rows, bytes) = (sum(|_| 1), sum(|f| f.entry.rows), sum(|f| f.entry.bytes));
    CompactionChange {
        files_before: files,
        files_after: files - retired(|_| 1) + added(|_| 1),
        rows_before: rows,
        rows_after: rows - retired(|f| f.entry.rows) + added(|f| f.rows),
        bytes_before: bytes,
        bytes_after: bytes - retired(|f| f.entry.bytes) + added(|f| f.bytes),
        rows_dropped: retired(|f| f.deleted.len()),
        erased_dropped: retired(|f| f.erased.len()),
    }
}
