//! One column of one row group is a lane: its arrays are encoded in order, by whichever thread is
//! free. `super` pushes arrays; a finished row group goes on to `files`. Nothing here does I/O.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use arrow::array::ArrayRef;
use arrow::datatypes::{FieldRef, SchemaRef};
use parquet::arrow::arrow_writer::{
    ArrowColumnChunk, ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves,
};

use super::files::{Appender, FinishedGroup};
use crate::engines::ingest::error::IngestError;
use crate::engines::ingest::parallel::{Permit, Pool, lock};
use crate::engines::ingest::schema::leaves;

/// What a lane is told.
pub(super) enum Item {
    /// Encode the next values.
    Write(ArrayRef, Arc<Permit>),
    /// No more comes: finish the column chunk.
    Close,
}

/// One column of one row group: its arrays are encoded one after the other, by any thread.
pub(super) struct Lane {
    column: usize,
    field: FieldRef,
    group: Arc<Group>,
    state: Mutex<LaneState>,
}

struct LaneState {
    /// Empty while a thread has them, and after the lane is closed.
    writers: Vec<ArrowColumnWriter>,
    queue: VecDeque<Item>,
    running: bool,
}

impl Lane {
    /// The lanes of a new row group, one a column.
    pub(super) fn open_group(
        index: u64,
        sorted: bool,
        schema: &SchemaRef,
        factory: &ArrowRowGroupWriterFactory,
        appender: &Arc<Appender>,
    ) -> Result<Vec<Arc<Self>>, IngestError> {
        let writers = factory
            .create_column_writers(0)
            .map_err(IngestError::Write)?;
        let mut writers = writers.into_iter();
        let columns = schema.fields().len();
        let group = Arc::new(Group {
            index,
            sorted,
            remaining: AtomicUsize::new(columns),
            chunks: Mutex::new((0..columns).map(|_| Vec::new()).collect()),
            appender: Arc::clone(appender),
        });
        let lane = |(column, field): (usize, &FieldRef)| {
            let state = LaneState {
                writers: writers.by_ref().take(leaves(field.data_type())).collect(),
                queue: VecDeque::new(),
                running: false,
            };
            Arc::new(Self {
                column,
                field: Arc::clone(field),
                group: Arc::clone(&group),
                state: Mutex::new(state),
            })
        };
        Ok(schema.fields().iter().enumerate().map(lane).collect())
    }

    /// Adds to the queue, and has a thread come for it when none is there.
    pub(super) fn push(self: &Arc<Self>, item: Item, pool: &Pool) {
        let mut state = lock(&self.state);
        state.queue.push_back(item);
        if state.running {
            return;
        }
        state.running = true;
        drop(state);
        let lane = Arc::clone(self);
        pool.submit(true, move || lane.run());
    }

    fn run(&self) -> Result<(), IngestError> {
        let mut writers = std::mem::take(&mut lock(&self.state).writers);
        loop {
            let item = {
                let mut state = lock(&self.state);
                let Some(item) = state.queue.pop_front() else {
                    state.writers = writers;
                    state.running = false;
                    return Ok(());
                };
                item
            };
            match item {
                _ if self.group.appender.is_abandoned() => {}
                Item::Write(array, _permit) => self.encode(&mut writers, &array)?,
                Item::Close => return self.close(writers),
            }
        }
    }

    fn encode(
        &self,
        writers: &mut [ArrowColumnWriter],
        array: &ArrayRef,
    ) -> Result<(), IngestError> {
        let leaves = compute_leaves(&self.field, array).map_err(IngestError::Write)?;
        for (writer, leaf) in writers.iter_mut().zip(&leaves) {
            writer.write(leaf).map_err(IngestError::Write)?;
        }
        Ok(())
    }

    fn close(&self, writers: Vec<ArrowColumnWriter>) -> Result<(), IngestError> {
        let chunks = writers
            .into_iter()
            .map(ArrowColumnWriter::close)
            .collect::<Result<Vec<_>, _>>()
            .map_err(IngestError::Write)?;
        self.group.column_done(self.column, chunks)
    }
}

/// One row group on its way to the file.
struct Group {
    index: u64,
    sorted: bool,
    remaining: AtomicUsize,
    chunks: Mutex<Vec<Vec<ArrowColumnChunk>>>,
    appender: Arc<Appender>,
}

impl Group {
    fn column_done(&self, column: usize, chunks: Vec<ArrowColumnChunk>) -> Result<(), IngestError> {
        lock(&self.chunks)[column] = chunks;
        if self.remaining.fetch_sub(1, Ordering::AcqRel) > 1 {
            return Ok(());
        }
        let chunks = std::mem::take(&mut *lock(&self.chunks))
            .into_iter()
            .flatten()
            .collect();
        self.appender.append(
            self.index,
            FinishedGroup {
                chunks,
                sorted: self.sorted,
            },
        )
    }
}
