//! Deleted rows dropped behind the decoder: where a few rows are gone all over a row group, it is
//! cheaper to decode the group whole and to leave those rows out of the batches than to have the
//! decoder step over each. `scan` opens a partition through this when its files have such groups.
//! A group that is read whole is a scan of its own, without predicate, so that a row's place in its
//! stream is its position; everything else is read by its access plan. Never reads a file itself.

mod fill;

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use arrow::{
    array::{BooleanArray, BooleanBufferBuilder},
    compute::filter_record_batch,
    datatypes::SchemaRef,
    record_batch::RecordBatch,
};
use datafusion::{
    common::{Result, ScalarValue, internal_err},
    datasource::{
        listing::PartitionedFile,
        physical_plan::{
            FileGroup, FileScanConfig, FileSource, ParquetSource,
            parquet::{ParquetAccessPlan, RowGroupAccess},
        },
        source::DataSource,
    },
    execution::{RecordBatchStream, SendableRecordBatchStream, TaskContext},
    parquet::{
        arrow::arrow_reader::RowSelection,
        file::metadata::{ParquetMetaData, RowGroupMetaData},
    },
    physical_expr::{
        expressions::{Literal, lit},
        split_conjunction,
    },
    physical_expr_common::physical_expr::{is_dynamic_physical_expr, snapshot_physical_expr},
};
use futures::{Stream, StreamExt};
use lakehouse_journal::model::catalog::DataFile;

/// Rows of a stretch up to which stepping over a deleted row costs more than decoding it and taking it
/// out: an aggregate over three columns of 1,000,000 rows, of which 1 % were gone, took 1.26 times as
/// long as over all of them when it stepped over each.
const STRETCH_ROWS: usize = 256;

/// A row group as a scan meets it.
#[derive(Debug, Clone)]
pub(super) struct GroupRows {
    /// Its rows, the deleted ones too.
    rows: u64,
    /// Where its first page begins, in bytes: a scan of a part of the file reads the row groups that
    /// begin in the part.
    begins: i64,
    /// Whether its deleted rows are few and scattered.
    scattered: bool,
}

/// The row groups of a file, under its access plan where it has one.
pub(super) fn group_rows(
    footer: &ParquetMetaData,
    plan: Option<&ParquetAccessPlan>,
) -> Arc<[GroupRows]> {
    let access = |index: usize| plan.map(|plan| &plan.inner()[index]);
    let group = |(index, group): (usize, &RowGroupMetaData)| {
        let rows = group.num_rows().unsigned_abs();
        let first = group.column(0);
        GroupRows {
            rows,
            begins: first
                .dictionary_page_offset()
                .unwrap_or_else(|| first.data_page_offset()),
            scattered: match access(index) {
                Some(RowGroupAccess::Selection(selection)) => scattered(selection, rows),
                _ => false,
            },
        }
    };
    footer.row_groups().iter().enumerate().map(group).collect()
}

/// Whether a selection leaves most rows and is of short stretches.
fn scattered(selection: &RowSelection, rows: u64) -> bool {
    let rows = usize::try_from(rows).unwrap_or(usize::MAX);
    let short = selection.iter().count().saturating_mul(STRETCH_ROWS) > rows;
    short && selection.row_count() >= rows / 2
}

/// What rides on a file of a scan beside its access plan.
#[derive(Debug)]
pub(super) struct FileRows {
    file: Arc<DataFile>,
    groups: Arc<[GroupRows]>,
}

impl FileRows {
    /// The rows of a file.
    pub(super) fn new(file: Arc<DataFile>, groups: Arc<[GroupRows]>) -> Self {
        Self { file, groups }
    }

    /// Whether some of its row groups are better sifted.
    pub(super) fn is_scattered(&self) -> bool {
        self.groups.iter().any(|group| group.scattered)
    }
}

/// Some rows of a partition, read by a scan of their own.
#[derive(Debug)]
struct Part {
    /// The file, or some of it, with the access plan that steps over its deleted rows.
    file: PartitionedFile,
    /// For a scattered row group the way to read it whole.
    whole: Option<Whole>,
}

/// A row group that is read whole.
#[derive(Debug)]
struct Whole {
    /// The file with an access plan for this group alone.
    file: PartitionedFile,
    sift: Sift,
}

/// The parts of the files of a partition, in their order. `None` when a file does not say where its
/// rows lie.
fn parts(group: &FileGroup) -> Option<VecDeque<Part>> {
    let mut parts = VecDeque::new();
    for file in group.iter() {
        let rows = file.extensions.get::<FileRows>()?;
        match file.extensions.get::<ParquetAccessPlan>() {
            Some(plan) if rows.is_scattered() => parts.extend(groups(file, rows, plan)),
            _ => parts.push_back(Part {
                file: file.clone(),
                whole: None,
            }),
        }
    }
    Some(parts)
}

/// Each row group of a file, or of the part of it that a scan reads, as a part.
fn groups(file: &PartitionedFile, rows: &FileRows, plan: &ParquetAccessPlan) -> Vec<Part> {
    let alone = |index: usize, access: RowGroupAccess| {
        let mut plan = ParquetAccessPlan::new_none(rows.groups.len());
        plan.set(index, access);
        let mut alone = file.clone();
        // The plan says what is read; a range would say it again.
        alone.range = None;
        alone.extensions.insert(plan);
        alone
    };
    let mut parts = Vec::new();
    let mut first = 0;
    for (index, (group, access)) in rows.groups.iter().zip(plan.inner()).enumerate() {
        let range = file.range.as_ref();
        let here = range.is_none_or(|range| range.contains(group.begins));
        if here && access.should_scan() {
            parts.push(Part {
                file: alone(index, access.clone()),
                whole: group.scattered.then(|| Whole {
                    file: alone(index, RowGroupAccess::Scan),
                    sift: Sift {
                        of: Arc::clone(&rows.file),
                        next: first,
                        end: first + group.rows,
                    },
                }),
            });
        }
        first += group.rows;
    }
    parts
}

/// Whether row groups of a scan may be read whole at all: nothing but what other operators learn while
/// they run can leave out rows of it, and these operators leave them out themselves, too.
pub(super) fn may_be_sifted(scan: &FileScanConfig) -> bool {
    let Some(source) = scan.file_source.downcast_ref::<ParquetSource>() else {
        return false;
    };
    let evaluates = source.table_parquet_options().global.pushdown_filters;
    let learnt = |predicate| {
        let parts = split_conjunction(predicate);
        !evaluates && parts.into_iter().all(is_dynamic_physical_expr)
    };
    scan.limit.is_none()
        && !scan.partitioned_by_file_group
        && source.filter().as_ref().is_none_or(learnt)
}

/// Whether a scan's predicate, as it is now, leaves out nothing.
fn idle(source: &ParquetSource) -> Result<bool> {
    let Some(predicate) = source.filter() else {
        return Ok(true);
    };
    let now = snapshot_physical_expr(predicate)?;
    Ok(split_conjunction(&now).into_iter().all(|part| {
        let value = part.downcast_ref::<Literal>().map(Literal::value);
        matches!(value, Some(ScalarValue::Boolean(Some(true))))
    }))
}

/// Leaves the deleted rows out of a row group that is read whole.
#[derive(Debug)]
struct Sift {
    of: Arc<DataFile>,
    /// Position of the next row in the file.
    next: u64,
    /// Position behind the last row of the group.
    end: u64,
}

impl Sift {
    /// The next rows of the group without the deleted ones; in their order when that matters.
    fn batch(&mut self, batch: RecordBatch, ordered: bool) -> Result<RecordBatch> {
        let rows = batch.num_rows();
        let gone = self.gone(rows)?;
        if gone.is_empty() {
            return Ok(batch);
        }
        if !ordered {
            return Ok(fill::without(batch, &gone)?);
        }
        let mut mask = BooleanBufferBuilder::new(rows);
        mask.append_n(rows, true);
        for row in gone {
            mask.set_bit(row, false);
        }
        let mask = BooleanArray::new(mask.finish(), None);
        Ok(filter_record_batch(&batch, &mask)?)
    }

    /// Which of the next `rows` rows are gone, from 0.
    fn gone(&mut self, rows: usize) -> Result<Vec<usize>> {
        let (first, end) = (self.next, self.next + rows as u64);
        if end > self.end {
            return internal_err!("a row group gives more rows than it has");
        }
        self.next = end;
        let position = |row: u64| u32::try_from(row).unwrap_or(u32::MAX);
        let deleted = self.of.deleted.bitmap();
        let gone = deleted.range(position(first)..position(end));
        let row = |gone: u32| usize::try_from(u64::from(gone) - first);
        Ok(gone
            .map(|gone| row(gone).expect("it is a row of the batch"))
            .collect())
    }

    fn finish(&self) -> Result<()> {
        if self.next == self.end {
            return Ok(());
        }
        internal_err!("a row group gives fewer rows than it has")
    }
}

/// The visible rows of one partition, part after part.
pub(super) struct Sifted {
    /// The scan without its files.
    scan: FileScanConfig,
    source: ParquetSource,
    context: Arc<TaskContext>,
    parts: VecDeque<Part>,
    open: Option<(SendableRecordBatchStream, Option<Sift>)>,
    schema: SchemaRef,
    ordered: bool,
}

impl Sifted {
    /// Opens a partition of a scan that may be sifted and has no order of its own. When it is
    /// `ordered`, rows come as they lie in the files.
    ///
    /// # Errors
    /// `Internal` for a scan whose files do not say where their rows lie.
    pub(super) fn open(
        scan: &FileScanConfig,
        partition: usize,
        context: Arc<TaskContext>,
        ordered: bool,
    ) -> Result<SendableRecordBatchStream> {
        let source = scan.file_source.downcast_ref::<ParquetSource>();
        let parts = scan.file_groups.get(partition).and_then(parts);
        let (Some(source), Some(parts)) = (source, parts) else {
            return internal_err!("a file that does not say where its rows lie");
        };
        let mut scan = scan.clone();
        scan.file_groups.clear();
        // Only where the order of rows is free, the opener prunes for a LIMIT.
        scan.preserve_order = true;
        let schema = scan.projected_schema()?;
        Ok(Box::pin(Self {
            source: source.clone(),
            scan,
            context,
            parts,
            open: None,
            schema,
            ordered,
        }))
    }

    /// Opens the next part: whole, while there is nothing to prune it by. What another thread learns
    /// meanwhile cannot prune it any more, as its predicate is taken away.
    fn part(&self, part: Part) -> Result<(SendableRecordBatchStream, Option<Sift>)> {
        let mut scan = self.scan.clone();
        let (file, sift) = match part.whole {
            Some(whole) if idle(&self.source)? => {
                scan.file_source = Arc::new(self.source.with_predicate(lit(true)));
                (whole.file, Some(whole.sift))
            }
            _ => (part.file, None),
        };
        scan.file_groups = vec![FileGroup::new(vec![file])];
        Ok((scan.open(0, Arc::clone(&self.context))?, sift))
    }

    fn next_batch(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<RecordBatch>>> {
        loop {
            let Some((stream, sift)) = &mut self.open else {
                let Some(part) = self.parts.pop_front() else {
                    return Poll::Ready(None);
                };
                self.open = Some(self.part(part)?);
                continue;
            };
            let Some(batch) = ready!(stream.poll_next_unpin(context)) else {
                sift.as_ref().map_or(Ok(()), Sift::finish)?;
                self.open = None;
                continue;
            };
            let batch = match sift {
                Some(sift) => sift.batch(batch?, self.ordered)?,
                None => batch?,
            };
            if batch.num_rows() > 0 {
                return Poll::Ready(Some(Ok(batch)));
            }
        }
    }
}

impl Stream for Sifted {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = ready!(self.next_batch(context));
        if next.as_ref().is_some_and(Result::is_err) {
            self.open = None;
            self.parts.clear();
        }
        Poll::Ready(next)
    }
}

impl RecordBatchStream for Sifted {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}

#[cfg(test)]
mod tests {
    use arrow::{
        array::{ArrayRef, AsArray, Int32Array},
        datatypes::Int32Type,
    };
    use datafusion::parquet::arrow::arrow_reader::RowSelector;
    use lakehouse_journal::model::catalog::{DeletionVector, FileEntry};

    use super::*;

    fn file(deleted: &[u32]) -> Arc<DataFile> {
        Arc::new(DataFile {
            entry: FileEntry {
                bucket: "primary".to_owned(),
                key: "datasets/t/0.parquet".to_owned(),
                rows: 100,
                bytes: 1,
                blake3: String::new(),
                sorted_by_key: true,
                superseded: DeletionVector::default(),
                erased: DeletionVector::default(),
            },
            added_seq: 1,
            deleted: deleted.iter().copied().collect(),
            erased: DeletionVector::default(),
        })
    }

    /// What is left of the row group 50..70 of a file, of which `rows` rows come in batches of seven.
    fn sifted(deleted: &[u32], rows: i32, ordered: bool) -> Result<Vec<i32>> {
        let mut sift = Sift {
            of: file(deleted),
            next: 50,
            end: 70,
        };
        let mut left = Vec::new();
        for first in (50..50 + rows).step_by(7) {
            let end = (50 + rows).min(first + 7);
            let rows: ArrayRef = Arc::new((first..end).collect::<Int32Array>());
            let batch = RecordBatch::try_from_iter([("row", rows)])?;
            let batch = sift.batch(batch, ordered)?;
            left.extend_from_slice(batch.column(0).as_primitive::<Int32Type>().values());
        }
        sift.finish()?;
        Ok(left)
    }

    #[test]
    fn rows_are_left_out_by_their_position_in_the_file() {
        let deleted = [3, 49, 50, 56, 57, 69, 70, 71];
        let expected: Vec<i32> = (50..70).filter(|r| ![50, 56, 57, 69].contains(r)).collect();
        assert_eq!(sifted(&deleted, 20, true).unwrap(), expected);
        let mut left = sifted(&deleted, 20, false).unwrap();
        left.sort_unstable();
        assert_eq!(left, expected);
        for ordered in [true, false] {
            let all: Vec<i32> = (50..70).collect();
            assert_eq!(sifted(&[], 20, ordered).unwrap(), all);
        }
    }

    #[test]
    fn a_row_group_of_another_length_is_an_error_and_never_a_wrong_answer() {
        for rows in [19, 21] {
            let error = sifted(&[50], rows, false).unwrap_err();
            assert!(error.to_string().contains("rows than it has"), "{error}");
        }
    }

    #[test]
    fn a_row_here_and_there_is_sifted_and_long_gaps_are_stepped_over() {
        let selection = |parts: &[(usize, bool)]| -> RowSelection {
            let parts = parts.iter().map(|(rows, skip)| RowSelector {
                row_count: *rows,
                skip: *skip,
            });
            parts.collect::<Vec<_>>().into()
        };
        let few = [(50, false), (1, true), (49, false)];
        assert!(scattered(&selection(&few), 100));
        assert!(!scattered(&selection(&[(40, false), (60, true)]), 100));
        let gap = [(60_000, false), (40_000, true)];
        assert!(!scattered(&selection(&gap), 100_000));
    }
}
