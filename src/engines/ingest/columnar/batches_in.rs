//! Record batches in, as a database hands them out: they go to the writer as they are, without a body
//! that would have to be spelled, kept and read again. `LakeTables` calls it with rows of `PostgreSQL`.

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;

use super::{Rewriter, plain_bytes};
use crate::engines::ingest::error::IngestError;
use crate::engines::ingest::parallel::Threads;
use crate::engines::ingest::source::Received;
use crate::engines::ingest::staging::{Staged, StagingDir};
use crate::engines::ingest::{BLOCK_BYTES, IngestOptions, Ready, Setup, finish, threads};

/// Turns all batches that `next` gives, of columns as `found` has them, into Parquet files. Blocks: call
/// it where blocking is allowed. The hash of the source is made of what is written: the same rows in the
/// same order have the same.
///
/// # Errors
/// Those of `next`, and as [`super::super::ingest_reader`]. Nothing stays in staging.
pub fn ingest_batches(
    found: &Schema,
    mut next: impl FnMut() -> Result<Option<RecordBatch>, IngestError>,
    options: &IngestOptions,
) -> Result<Staged, IngestError> {
    let dir = StagingDir::create(&options.staging)?;
    let threads: Threads = threads()?;
    let setup = Setup::new(options, &threads, &dir, BLOCK_BYTES);
    let mut rewriter = Rewriter::new("rows", found, &setup)?;
    let mut bytes = 0;
    while let Some(batch) = next()? {
        bytes += batch.columns().iter().map(plain_bytes).sum::<usize>() as u64;
        rewriter.push(&batch)?;
    }
    let ready = Ready {
        sink: rewriter.sink,
        schema: rewriter.schema,
        received: Received {
            bytes,
            blake3: String::new(),
        },
    };
    let mut staged = finish(ready, &setup, dir)?;
    let mut hasher = blake3::Hasher::new();
    hasher.update(staged.schema.to_string().as_bytes());
    for file in &staged.files {
        hasher.update(file.blake3.as_bytes());
    }
    staged.source_blake3 = hasher.finalize().to_hex().to_string();
    Ok(staged)
}
