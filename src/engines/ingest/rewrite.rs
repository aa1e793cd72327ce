//! Rows of our own files, written anew: by the same threads and in the same layout as rows that come
//! in, but without a body, without limits that are meant for strangers, and without a search for rows
//! that replace others. Compaction calls this on a thread that may block; it reads no file itself.

use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};

use super::columnar::Rewriter;
use super::error::IngestError;
use super::parallel::Threads;
use super::staging::{Staged, StagedFile, StagingDir};
use super::{BLOCK_BYTES, IngestLimits, Layout, Progress, Setup, threads};

/// Looks at every batch as it was read, on any thread and in any order.
pub type Seen = Arc<dyn Fn(&RecordBatch) -> Result<(), IngestError> + Send + Sync>;

/// Files in the making.
pub struct Rewrite {
    // First, so that no thread writes into a directory that is gone.
    threads: Threads,
    dir: StagingDir,
    schema: SchemaRef,
    layout: Layout,
    runs: u32,
    files: Vec<StagedFile>,
    rows: u64,
    batches: u64,
}

impl Rewrite {
    /// Files of this schema, in a directory of their own beneath `staging`.
    ///
    /// # Errors
    /// `Internal` when the directory or the threads cannot be made.
    pub fn start(staging: &Path, schema: SchemaRef, layout: Layout) -> Result<Self, IngestError> {
        Ok(Self {
            threads: threads()?,
            dir: StagingDir::create(staging)?,
            schema,
            layout,
            runs: 0,
            files: Vec::new(),
            rows: 0,
            batches: 0,
        })
    }

    /// Writes all rows that `next` gives, in their order, to files of their own. The batches have the
    /// columns of the schema by name, as `read` says. With a `key`, files are marked as sorted as far as
    /// the rows ascend by it; without one, none is.
    ///
    /// # Errors
    /// Those of `next` and `seen`; `Internal` when files cannot be written; `Conflict` and `Invalid` when
    /// the rows do not fit the schema.
    pub fn run<E: From<IngestError>>(
        &mut self,
        read: &Schema,
        key: &[String],
        seen: &Seen,
        mut next: impl FnMut() -> Result<Option<RecordBatch>, E>,
    ) -> Result<(), E> {
        self.runs += 1;
        let setup = self.setup(key);
        let mut rewriter = Rewriter::new("Parquet", read, &setup)?;
        while let Some(batch) = next()? {
            let permit = setup.pool.permit()?;
            let (seen, looked_at) = (Arc::clone(seen), batch.clone());
            setup.pool.submit(false, move || {
                let result = seen(&looked_at);
                drop(permit);
                result
            });
            rewriter.push(&batch)?;
        }
        let written = rewriter.finish()?;
        self.files.extend(written.files);
        self.rows += written.rows;
        self.batches += written.batches;
        Ok(())
    }

    fn setup(&self, key: &[String]) -> Setup {
        Setup {
            expected: Some(Arc::clone(&self.schema)),
            key: key.to_vec(),
            limits: IngestLimits {
                uncompressed_bytes_max: u64::MAX,
                row_bytes_max: usize::MAX,
                columns_max: usize::MAX,
                ..IngestLimits::default()
            },
            progress: Arc::new(Progress::default()),
            pool: self.threads.pool(),
            dir: self.dir.path().join(format!("run-{}", self.runs)),
            block_bytes: BLOCK_BYTES,
            layout: self.layout,
        }
    }

    /// The files of all runs, in their order; none when there were no rows. `source_bytes` and
    /// `source_hash` say what they were made of.
    pub fn finish(self, source_bytes: u64, source_hash: String) -> Staged {
        Staged {
            schema: self.schema,
            files: self.files,
            rows: self.rows,
            superseded_rows: 0,
            batches: self.batches,
            proposals: std::collections::BTreeMap::new(),
            source_bytes,
            source_blake3: source_hash,
            dir: self.dir,
        }
    }
}
