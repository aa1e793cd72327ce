//! Files of a dataset rewritten without the rows that are gone, through the writer that ingest uses.
//! The compaction worker calls it by the `Compactor` port and swaps the files; nothing is published or
//! removed here. Rows are read, merged and written in streams; what is written is read back and compared.

mod content;
mod merge;
mod moves;
#[cfg(test)]
mod tests;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use arrow::{
    array::AsArray, datatypes::SchemaRef, datatypes::UInt32Type, record_batch::RecordBatch,
};
use async_trait::async_trait;
use futures::StreamExt;
use lakehouse_actors::{
    PortError,
    ports::{Compactor, Progress, Rewritten},
};
use lakehouse_journal::model::{
    ErrorKind,
    catalog::{DataFile, Dataset},
};
use tokio::runtime::Handle;

use self::{
    content::Content,
    merge::{concatenated, merged},
    moves::{MoveLog, Moves},
};
use super::{
    data_file::{OpenFile, Rows, read_schema},
    ingest::{IngestError, Layout, Rewrite, Seen, Staged},
    object_store::Buckets,
    tables::{LakeStaged, LakeTables, of_ingest, of_query, of_staging},
};
use crate::query::{QueryError, arrow_schema};

/// What files that are merged may hold in memory together. More files become several outputs, each of
/// them sorted.
const MERGE_BYTES: usize = 384 << 20;

/// How large the parts of the work are.
#[derive(Clone, Copy)]
struct Sizes {
    merge_bytes: usize,
    layout: Layout,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            merge_bytes: MERGE_BYTES,
            layout: Layout::default(),
        }
    }
}

#[async_trait]
impl Compactor for LakeTables {
    async fn rewrite(
        &self,
        dataset: &Dataset,
        files: &[Arc<DataFile>],
        progress: Arc<Progress>,
    ) -> Result<Rewritten, PortError> {
        rewrite(self, dataset, files, progress, Sizes::default()).await
    }
}

async fn rewrite(
    tables: &LakeTables,
    dataset: &Dataset,
    files: &[Arc<DataFile>],
    progress: Arc<Progress>,
    sizes: Sizes,
) -> Result<Rewritten, PortError> {
    let schema = arrow_schema(&dataset.schema).map_err(|error| of_query(&error))?;
    let rows = files.iter().map(|file| file.live_rows()).sum();
    progress.total.store(rows, Ordering::Relaxed);
    let stop = Stop(Arc::default());
    let job = Job {
        buckets: Arc::clone(&tables.buckets),
        staging: tables.staging.clone(),
        read: read_schema(&schema),
        schema,
        key: dataset.key.clone(),
        files: files.to_vec(),
        rows,
        progress,
        stopped: Arc::clone(&stop.0),
        handle: Handle::current(),
        sizes,
    };
    let (staged, moves, content_hash) = tokio::task::spawn_blocking(move || job.run())
        .await
        .map_err(|error| PortError::internal(error.to_string()))??;
    Ok(Rewritten {
        staged: Box::new(LakeStaged::new(tables.clone(), staged, dataset.key.clone())),
        moved: Arc::new(moves),
        content_hash,
    })
}

/// Ends the work of one who waits no longer.
struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One compaction, on a thread that may block.
struct Job {
    buckets: Arc<Buckets>,
    staging: PathBuf,
    schema: SchemaRef,
    /// What rows are read as.
    read: SchemaRef,
    key: Vec<String>,
    files: Vec<Arc<DataFile>>,
    /// Rows that are to be kept.
    rows: u64,
    progress: Arc<Progress>,
    stopped: Arc<AtomicBool>,
    handle: Handle,
    sizes: Sizes,
}

/// What the runs of a compaction have in common.
struct Output {
    rewrite: Rewrite,
    moves: MoveLog,
    content: Arc<Content>,
}

impl Job {
    fn run(&self) -> Result<(Staged, Moves, String), PortError> {
        let content = Content::new(&self.read);
        let content = Arc::new(content.map_err(|e| PortError::internal(e.to_string()))?);
        let mut output = Output {
            rewrite: Rewrite::start(&self.staging, Arc::clone(&self.schema), self.sizes.layout)?,
            moves: MoveLog::create(&self.staging).map_err(|error| of_staging(&error))?,
            content: Arc::clone(&content),
        };
        let kept = (0_u32..).zip(self.files.iter().cloned());
        let kept: Vec<_> = kept.filter(|(_, file)| file.live_rows() > 0).collect();
        let sorted = !self.key.is_empty() && kept.iter().all(|(_, file)| file.entry.sorted_by_key);
        if sorted {
            self.merge(kept, &mut output)?;
        } else {
            let rows = concatenated(&self.buckets, kept, &self.read);
            self.write(rows, &[], &mut output)?;
        }
        let read = content.sum();
        let source_bytes = self.files.iter().map(|file| file.entry.bytes).sum();
        let staged = output.rewrite.finish(source_bytes, read.hex());
        self.compare(read, &staged)?;
        let new = staged.files.iter().map(|file| file.rows).collect();
        let moves = output.moves.finish(&self.files, new);
        Ok((
            staged,
            moves.map_err(|error| of_staging(&error))?,
            read.hex(),
        ))
    }

    /// Merges as many files at a time as memory is set aside for.
    fn merge(
        &self,
        files: Vec<(u32, Arc<DataFile>)>,
        output: &mut Output,
    ) -> Result<(), PortError> {
        let mut open = Vec::new();
        let mut bytes = 0;
        for (number, file) in files {
            let opening = OpenFile::open(&self.buckets, &file, &self.read);
            let opened = self
                .handle
                .block_on(opening)
                .map_err(|error| of_query(&error))?;
            let more = opened.memory_bytes();
            if bytes + more > self.sizes.merge_bytes && !open.is_empty() {
                self.write_merged(std::mem::take(&mut open), output)?;
                bytes = 0;
            }
            bytes += more;
            open.push((number, opened));
        }
        if open.is_empty() {
            return Ok(());
        }
        self.write_merged(open, output)
    }

    fn write_merged(
        &self,
        open: Vec<(u32, OpenFile)>,
        output: &mut Output,
    ) -> Result<(), PortError> {
        let rows = merged(open, &self.read, &self.key);
        let rows = rows.map_err(|error| self.of_engine(&error))?;
        self.write(rows, &self.key, output)
    }

    /// Writes numbered rows in their order, and notes where each is from.
    fn write(&self, mut rows: Rows, key: &[String], output: &mut Output) -> Result<(), PortError> {
        let content = Arc::clone(&output.content);
        let seen: Seen = Arc::new(move |batch| {
            let added = content.add(batch);
            added.map_err(|error| IngestError::Internal(error.to_string()))
        });
        let moves = &mut output.moves;
        output.rewrite.run(&self.read, key, &seen, || {
            self.must_go_on()?;
            let Some(batch) = self.handle.block_on(rows.next()) else {
                return Ok(None);
            };
            let batch = batch.map_err(|error| self.of_engine(&error))?;
            let numbers = batch.column(batch.num_columns() - 1);
            let noted = moves.note(numbers.as_primitive::<UInt32Type>());
            noted.map_err(|error| of_staging(&error))?;
            let done = batch.num_rows() as u64;
            self.progress.done.fetch_add(done, Ordering::Relaxed);
            self.without_number(&batch).map(Some)
        })
    }

    fn without_number(&self, batch: &RecordBatch) -> Result<RecordBatch, PortError> {
        let columns = batch.columns()[..batch.num_columns() - 1].to_vec();
        RecordBatch::try_new(Arc::clone(&self.read), columns)
            .map_err(|error| PortError::internal(error.to_string()))
    }

    /// Reads back what was written: it has to be what was read, and that all there was to keep.
    fn compare(&self, read: content::Sum, staged: &Staged) -> Result<(), PortError> {
        let internal = |error: &dyn std::fmt::Display| PortError::internal(error.to_string());
        let written = Content::new(&self.read).map_err(|error| internal(&error))?;
        let back = written.add_files(&staged.files, &|| self.must_go_on().is_err());
        self.must_go_on()?;
        let mismatch = |text| PortError::new(ErrorKind::Corrupt, "compaction_mismatch", text);
        back.map_err(|error| {
            tracing::error!(%error, "files of a compaction cannot be read back");
            mismatch("compaction wrote files that cannot be read back".to_owned())
        })?;
        let written = written.sum();
        if read.rows != self.rows || written.rows != self.rows || staged.rows != self.rows {
            let text = format!(
                "compaction read {} rows and wrote {} where {} are visible",
                read.rows, written.rows, self.rows
            );
            return Err(mismatch(text));
        }
        if read != written {
            let text = format!(
                "compaction read rows of hash {} and wrote rows of hash {}",
                read.hex(),
                written.hex()
            );
            return Err(mismatch(text));
        }
        Ok(())
    }

    fn must_go_on(&self) -> Result<(), PortError> {
        if self.progress.is_cancelled() || self.stopped.load(Ordering::Relaxed) {
            return Err(of_ingest(&IngestError::Cancelled));
        }
        Ok(())
    }

    fn of_engine(&self, error: &datafusion::error::DataFusionError) -> PortError {
        let mut buckets: Vec<String> = Vec::new();
        for file in &self.files {
            if !buckets.contains(&file.entry.bucket) {
                buckets.push(file.entry.bucket.clone());
            }
        }
        of_query(&QueryError::from_engine(error, &buckets))
    }
}
