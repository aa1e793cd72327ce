//! What rows hold as one number: the sum of a 128-bit hash of each row, the same whatever their order.
//! Taken of the rows that are read and of the files that are written; a difference stops a compaction.
//! The hash finds mistakes; it is no proof against somebody who makes rows to deceive it.

use std::{
    fs::File,
    sync::atomic::{AtomicUsize, Ordering},
};

use arrow::{
    array::RecordBatch,
    datatypes::{Field, Schema},
    error::ArrowError,
    row::{RowConverter, SortField},
};
use parking_lot::Mutex;
use parquet::{
    arrow::{
        ProjectionMask,
        arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder},
    },
    errors::ParquetError,
};
use xxhash_rust::xxh3::xxh3_128;

use crate::engines::{data_file::read_type, ingest::StagedFile};

/// Rows encoded at a time: what they become stays in a processor's cache.
const ROWS_AT_A_TIME: usize = 1_024;
/// Threads that read files back.
const THREADS_MAX: usize = 4;

/// How many rows, and the sum of their hashes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sum {
    pub rows: u64,
    hash: u128,
}

impl Sum {
    /// The sum of the hashes, in hex.
    pub fn hex(self) -> String {
        format!("{:032x}", self.hash)
    }
}

/// Adds up rows of one schema, on any thread and in any order.
pub(super) struct Content {
    converter: RowConverter,
    sum: Mutex<Sum>,
}

impl Content {
    /// No rows yet, of this schema (as it is read).
    pub fn new(schema: &Schema) -> Result<Self, ArrowError> {
        let field = |field: &std::sync::Arc<Field>| SortField::new(field.data_type().clone());
        Ok(Self {
            converter: RowConverter::new(schema.fields().iter().map(field).collect())?,
            sum: Mutex::default(),
        })
    }

    /// Adds rows. Each is hashed as the bytes that `arrow::row` orders it by: those say apart null and
    /// empty, keep every bit of a number, and do not depend on how the array holds the value.
    pub fn add(&self, batch: &RecordBatch) -> Result<(), ArrowError> {
        let mut hash = 0_u128;
        let mut rows = self.converter.empty_rows(ROWS_AT_A_TIME, 0);
        let mut offset = 0;
        while offset < batch.num_rows() {
            let length = (batch.num_rows() - offset).min(ROWS_AT_A_TIME);
            let part = batch.slice(offset, length);
            rows.clear();
            self.converter.append(&mut rows, part.columns())?;
            for row in &rows {
                hash = hash.wrapping_add(xxh3_128(row.data()));
            }
            offset += length;
        }
        let mut sum = self.sum.lock();
        sum.rows += batch.num_rows() as u64;
        sum.hash = sum.hash.wrapping_add(hash);
        Ok(())
    }

    /// What was added so far.
    pub fn sum(&self) -> Sum {
        *self.sum.lock()
    }

    /// Adds every row of files on this machine, row group by row group on a few threads; gives up when
    /// `stop` says so.
    pub fn add_files(
        &self,
        files: &[StagedFile],
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<(), ParquetError> {
        let mut parts = Vec::new();
        for file in files {
            let footer = footer(file)?;
            let groups = footer.metadata().num_row_groups();
            parts.extend((0..groups).map(|group| (file, footer.clone(), group)));
        }
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some((file, footer, group)) = parts.get(next.fetch_add(1, Ordering::Relaxed))
                && !stop()
            {
                self.add_group(file, footer, *group)?;
            }
            Ok(())
        };
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads.min(THREADS_MAX))
                .map(|_| scope.spawn(work))
                .collect();
            workers.into_iter().try_for_each(|worker| {
                worker.join().unwrap_or_else(|_| {
                    Err(ParquetError::General(
                        "a file could not be decoded".to_owned(),
                    ))
                })
            })
        })
    }

    fn add_group(
        &self,
        file: &StagedFile,
        footer: &ArrowReaderMetadata,
        group: usize,
    ) -> Result<(), ParquetError> {
        let input = File::open(&file.path)?;
        let rows = ParquetRecordBatchReaderBuilder::new_with_metadata(input, footer.clone())
            .with_projection(ProjectionMask::all())
            .with_row_groups(vec![group])
            .with_batch_size(ROWS_AT_A_TIME)
            .build()?;
        for batch in rows {
            self.add(&batch?)?;
        }
        Ok(())
    }
}

/// The footer of a file that was just written, so that its rows are read as they were before.
fn footer(file: &StagedFile) -> Result<ArrowReaderMetadata, ParquetError> {
    let input = File::open(&file.path)?;
    let options = ArrowReaderOptions::new();
    let found = ArrowReaderMetadata::load(&input, options.clone())?;
    let fields = found.schema().fields().iter().map(|field| {
        let read = read_type(field.data_type());
        field.as_ref().clone().with_data_type(read)
    });
    let schema = Schema::new(fields.collect::<Vec<_>>());
    let options = options.with_schema(std::sync::Arc::new(schema));
    ArrowReaderMetadata::try_new(std::sync::Arc::clone(found.metadata()), options)
}
