//! What a dataset allows, and what it asks for: the rules that several decisions share.

use std::collections::BTreeMap;

use super::{DataFile, Dataset, IngestMode, Source};
use crate::{
    model::{
        ModelError,
        error::near_names,
        event::{DeletedRows, Scrub},
    },
    record::Seq,
};

/// What a small file is, unless the policy says: 64 MiB.
pub const SMALL_FILE_BYTES: u64 = 64 << 20;

/// Refuses a rewrite that would lose rows, or bring some.
pub(super) fn same_rows(what: &'static str, before: u64, after: u64) -> Result<(), ModelError> {
    if before == after {
        return Ok(());
    }
    Err(ModelError::Impossible {
        what,
        reason: format!("it would make {after} rows out of {before}"),
    })
}

impl Dataset {
    /// Whether a commit of this content would change nothing.
    pub fn already_has(&self, mode: IngestMode, content_hash: &str) -> bool {
        match mode {
            IngestMode::Create => false,
            IngestMode::Append => self.contents.contains_key(content_hash),
            IngestMode::Upsert => self.was_last(content_hash),
            // What came before it must not be there either.
            IngestMode::Replace => self.was_last(content_hash) && self.contents.len() == 1,
        }
    }

    fn was_last(&self, content_hash: &str) -> bool {
        self.last_content == content_hash && self.tombstone_batches.is_empty()
    }

    pub(super) fn must_be_as_read(&self, read_seq: Seq) -> Result<(), ModelError> {
        if self.files_seq > read_seq {
            let (dataset, now_seq) = (self.name.clone(), self.files_seq);
            return Err(ModelError::Stale {
                dataset,
                read_seq,
                now_seq,
            });
        }
        Ok(())
    }

    /// Whether a file holds rows that were deleted for good.
    pub fn holds_erased_rows(&self) -> bool {
        self.all_files().any(|file| !file.erased.is_empty())
    }

    /// Whether the policy says that its files are to be merged now.
    pub(super) fn wants_compaction(&self) -> bool {
        let policy = &self.compaction;
        let small = policy.small_file_bytes.unwrap_or(SMALL_FILE_BYTES);
        let small_files = self
            .files
            .iter()
            .filter(|file| file.entry.bytes < small)
            .count() as u64;
        let many = policy
            .small_files
            .is_some_and(|most| small_files > 1 && small_files >= most);
        let share = policy.deleted_per_mille.is_some_and(|most| {
            let rows: u64 = self.files.iter().map(|file| file.entry.rows).sum();
            let deleted: u64 = self.files.iter().map(|file| file.deleted.len()).sum();
            deleted > 0 && deleted * 1_000 >= rows * most
        });
        many || share
    }

    pub(super) fn must_know_tombstones(&self, read_seq: Seq) -> Result<(), ModelError> {
        if self.last_tombstone_seq() > read_seq {
            return Err(ModelError::Stale {
                dataset: self.name.clone(),
                read_seq,
                now_seq: self.last_tombstone_seq(),
            });
        }
        Ok(())
    }

    /// Rows that are newer than those read before are taken in once: of two reads that began at the
    /// same place, the second has rows of the first.
    pub(super) fn must_continue(&self, source: &Source) -> Result<(), ModelError> {
        match &source.watermark {
            Some(mark) if mark.from.as_deref() != self.watermark(&source.name, &mark.column) => {
                Err(ModelError::WatermarkMoved {
                    dataset: self.name.clone(),
                    column: mark.column.clone(),
                })
            }
            _ => Ok(()),
        }
    }

    /// How far `column` of a source was read into this dataset; nothing when never, or when all rows
    /// were replaced by those of another source since.
    pub fn watermark(&self, source: &str, column: &str) -> Option<&str> {
        for step in self.lineage.iter().rev() {
            let mark = step.source.watermark.as_ref();
            if step.source.name == source
                && let Some(mark) = mark.filter(|mark| mark.column == column)
            {
                return mark.value.as_deref();
            }
            if step.mode == IngestMode::Replace {
                return None;
            }
        }
        None
    }

    /// A scrub takes rows out that were deleted for good, and no others.
    pub(super) fn must_keep_others(&self, scrub: &Scrub) -> Result<(), ModelError> {
        let Some(old) = self.all_files().find(|file| file.entry.key == scrub.file) else {
            return Ok(());
        };
        let others = scrub.removed.without(&old.erased).len();
        same_rows("erasure", 0, others)?;
        let left = old.entry.rows - scrub.removed.len();
        let written: u64 = scrub.added.iter().map(|entry| entry.rows).sum();
        same_rows("erasure", left, written)
    }

    pub(super) fn must_have_column(&self, name: &str) -> Result<(), ModelError> {
        let names: Vec<String> = self.schema.columns.iter().map(|c| c.name.clone()).collect();
        if names.iter().any(|column| column == name) {
            return Ok(());
        }
        let near = near_names(name, names.iter());
        Err(ModelError::NotFound {
            what: "column",
            name: name.to_owned(),
            near,
        })
    }

    pub(super) fn must_have_text(&self, text: &super::TextSpec) -> Result<(), ModelError> {
        let columns = text.columns().map_err(|reason| ModelError::Impossible {
            what: "text",
            reason,
        })?;
        columns
            .iter()
            .try_for_each(|column| self.must_have_column(column))
    }

    /// Those of `deleted` that are not deleted for good already.
    pub(super) fn still_there(&self, deleted: &[DeletedRows]) -> Vec<DeletedRows> {
        let files = self.all_files().map(|file| (file.entry.key.as_str(), file));
        let files: BTreeMap<&str, &DataFile> = files.collect();
        let still_there = |rows: &DeletedRows| {
            let file = files.get(rows.file.as_str())?;
            let positions = rows.positions.without(&file.erased);
            (!positions.is_empty()).then(|| DeletedRows {
                file: rows.file.clone(),
                positions,
            })
        };
        deleted.iter().filter_map(still_there).collect()
    }
}

impl super::IndexSpec {
    /// Refuses text and vectors of columns that the source does not have. Beside a column of vectors
    /// no text is needed.
    pub(super) fn must_fit(&self, dataset: &Dataset) -> Result<(), ModelError> {
        if let Some(column) = &self.vector_column {
            dataset.must_have_column(column)?;
            if self.text.is_none() {
                return Ok(());
            }
        }
        dataset.must_have_text(&self.text)
    }
}

impl super::TextSpec {
    /// Whether it stands for no text at all.
    pub fn is_none(&self) -> bool {
        matches!(self, Self::Columns(columns) if columns.is_empty())
    }

    /// The columns that the text is made of, in order.
    ///
    /// # Errors
    /// Says so when a template has an open brace or names no column.
    pub fn columns(&self) -> Result<Vec<String>, String> {
        let template = match self {
            Self::Columns(columns) if columns.is_empty() => {
                return Err("it names no column".to_owned());
            }
            Self::Columns(columns) => return Ok(columns.clone()),
            Self::Template(template) => template,
        };
        let mut columns = Vec::new();
        let mut rest = template.as_str();
        while let Some(open) = rest.find('{') {
            let after = &rest[open + 1..];
            let close = after
                .find('}')
                .ok_or_else(|| format!("`{template}` has an open brace"))?;
            columns.push(after[..close].to_owned());
            rest = &after[close + 1..];
        }
        if columns.is_empty() {
            return Err(format!("`{template}` names no column in braces"));
        }
        Ok(columns)
    }
}
