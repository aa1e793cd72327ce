//! Rows in: CSV, NDJSON, JSON, Parquet, Arrow IPC streams and batches of a database become Parquet files.
//! The ingest worker calls `ingest_reader`, or `ingest_batches`, on a blocking thread and commits what is
//! staged; this engine knows no catalog, no HTTP and no journal, and leaves nothing behind when it fails.
//!
//! A body is hashed and spooled while it arrives, cut into blocks at record boundaries, parsed by
//! a few threads straight into Arrow, and encoded column by column by the same threads. The types
//! come from the first block; a later value that does not fit widens them, and the body is read
//! once more from the spool: the result is that of an inference over the whole file.
//!
//! - CSV: a header, a separator out of `, ; tab |`, empty fields are NULL (`""` in a text column is
//!   the empty string), blank lines are left out.
//! - JSON: objects become structs, arrays lists; a string column of nothing but dates or times
//!   becomes one; where values of several types meet, the column is text: strings as they are,
//!   anything else as its JSON text. A field that a row leaves out is NULL.

mod blocks;
mod classes;
mod columnar;
mod csv;
mod error;
mod format;
mod json;
mod keys;
mod kinds;
mod parallel;
mod rewrite;
mod schema;
mod source;
mod staging;
mod thrift;
mod values;
mod writer;

#[cfg(test)]
mod dataset_tests;
#[cfg(test)]
mod equality_tests;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arrow::datatypes::SchemaRef;

pub use columnar::ingest_batches;
pub use error::{ColumnDifference, IngestError, IngestErrorKind};
pub use format::{FileFormat, UnknownFormatName};
pub use rewrite::{Rewrite, Seen};
pub use source::{BodyRefused, BodySender, ChannelReader};
pub use staging::{Staged, StagedFile, StagingDir};
pub use writer::Layout;

use keys::KeyPlan;
use parallel::{Pool, Threads};
use source::{Received, Replay, Source};
use writer::Sink;

/// Bytes of text that one thread parses at a time: what it makes of them stays in a cache of a few
/// MiB (on 244 MiB of CSV, 2 cores: 1.75 s of processor time; 2.1 s with blocks of 4 MiB).
const BLOCK_BYTES: usize = 1 << 20;

/// Blocks in flight for each thread.
const BLOCKS_A_THREAD: usize = 6;

/// The threads of one ingest.
fn threads() -> Result<Threads, IngestError> {
    let threads = worker_threads();
    Threads::start(threads, threads * BLOCKS_A_THREAD)
}

/// Their number.
fn worker_threads() -> usize {
    std::thread::available_parallelism()
        .map_or(2, usize::from)
        .clamp(2, 8)
}

/// What a body is held to.
#[derive(Clone, Debug)]
pub struct IngestLimits {
    /// Bytes of the body as received.
    pub body_bytes_max: u64,
    /// Bytes of the body decompressed, or decoded.
    pub uncompressed_bytes_max: u64,
    /// Decompressed bytes for each byte received, after the first MiB.
    pub ratio_max: u64,
    /// Bytes of a row.
    pub row_bytes_max: usize,
    /// Columns, nested ones counted.
    pub columns_max: usize,
    /// Bytes of a Parquet footer, or of an Arrow IPC message header.
    pub footer_bytes_max: u64,
    /// Bytes of an Arrow IPC message, decompressed.
    pub message_bytes_max: u64,
}

impl Default for IngestLimits {
    fn default() -> Self {
        Self {
            body_bytes_max: 64 << 30,
            uncompressed_bytes_max: 256 << 30,
            ratio_max: 1_000,
            row_bytes_max: 16 << 20,
            columns_max: 10_000,
            footer_bytes_max: 16 << 20,
            message_bytes_max: 512 << 20,
        }
    }
}

/// How far an ingest is, and the flag that stops it. Shared with whoever watches.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes of the body received.
    pub bytes_in: AtomicU64,
    /// Rows handed to the writer; starts again when the body is read a second time.
    pub rows_out: AtomicU64,
    cancelled: AtomicBool,
}

impl Progress {
    /// Makes the ingest stop with `Cancelled` at its next read.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
    }

    /// Whether `cancel` was called.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }
}

/// What to make of a body.
#[derive(Clone, Debug)]
pub struct IngestOptions {
    /// The format; recognised by the first bytes and `file_name` when none is named.
    pub format: Option<FileFormat>,
    /// Name of the file that the body comes from.
    pub file_name: Option<String>,
    /// The schema that the rows have to have (append, upsert); columns are matched by name.
    pub expected: Option<SchemaRef>,
    /// Names of the key columns; none for a dataset without a key.
    pub key: Vec<String>,
    /// Directory in which a directory for this ingest is made.
    pub staging: PathBuf,
    /// What the body is held to.
    pub limits: IngestLimits,
    /// Counters and the cancel flag.
    pub progress: Arc<Progress>,
}

impl IngestOptions {
    /// Options that recognise the format, expect no schema and no key, with the default limits.
    pub fn new(staging: impl Into<PathBuf>) -> Self {
        Self {
            format: None,
            file_name: None,
            expected: None,
            key: Vec::new(),
            staging: staging.into(),
            limits: IngestLimits::default(),
            progress: Arc::default(),
        }
    }
}

/// What the format readers share.
struct Setup {
    expected: Option<SchemaRef>,
    key: Vec<String>,
    limits: IngestLimits,
    progress: Arc<Progress>,
    pool: Pool,
    dir: PathBuf,
    block_bytes: usize,
    layout: Layout,
}

impl Setup {
    fn new(
        options: &IngestOptions,
        threads: &Threads,
        dir: &StagingDir,
        block_bytes: usize,
    ) -> Self {
        Self {
            expected: options.expected.clone(),
            key: options.key.clone(),
            limits: options.limits.clone(),
            progress: Arc::clone(&options.progress),
            pool: threads.pool(),
            dir: dir.path().to_owned(),
            block_bytes,
            layout: Layout::default(),
        }
    }

    /// A sink for the rows of a pass.
    fn sink(
        &self,
        schema: &SchemaRef,
        key: Option<Arc<KeyPlan>>,
        pass: u32,
    ) -> Result<Sink, IngestError> {
        let dir = self.pass_dir(pass);
        std::fs::create_dir_all(&dir).map_err(IngestError::Staging)?;
        let progress = Arc::clone(&self.progress);
        Ok(Sink::new(
            self.pool.clone(),
            self.layout,
            Arc::clone(schema),
            key,
            dir,
            progress,
        ))
    }

    /// Removes what a pass wrote.
    fn discard(&self, pass: u32) -> Result<(), IngestError> {
        self.progress.rows_out.store(0, Ordering::Relaxed);
        match std::fs::remove_dir_all(self.pass_dir(pass)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(IngestError::Staging(error))
            }
            _ => Ok(()),
        }
    }

    fn pass_dir(&self, pass: u32) -> PathBuf {
        self.dir.join(format!("pass-{pass}"))
    }
}

/// All rows are with the sink, and the body was read to its end.
struct Ready {
    sink: Sink,
    schema: SchemaRef,
    received: Received,
}

/// A panic while foreign arrays are written is the fault of what they hold, which passed the checks.
fn blame_input(format: FileFormat, error: IngestError) -> IngestError {
    match (format, error) {
        (FileFormat::Parquet | FileFormat::ArrowIpc, IngestError::Internal(reason)) => {
            tracing::warn!(
                reason,
                "a file that passed its checks could not be rewritten"
            );
            IngestError::Columnar {
                format: format.name(),
                reason: "its values cannot be read".to_owned(),
            }
        }
        (_, error) => error,
    }
}

/// Turns a body into Parquet files. Blocks: call it where blocking is allowed.
///
/// # Errors
/// Whatever is wrong with the body (`Invalid`, `TooLarge`), a schema that does not match the
/// expected one (`Conflict`), `Cancelled`, `Disconnected`, or `Internal`. Nothing stays in staging.
pub fn ingest_reader(
    input: impl Read + Send,
    options: &IngestOptions,
) -> Result<Staged, IngestError> {
    let dir = StagingDir::create(&options.staging)?;
    let replay = Replay {
        path: dir.path().join("body"),
        spooled: true,
    };
    let spool = File::create_new(&replay.path).map_err(IngestError::Staging)?;
    let source = Source::open(
        Box::new(input),
        Some(spool),
        &options.limits,
        &options.progress,
    )?;
    ingest_source(source, &replay, dir, options, BLOCK_BYTES)
}

/// Turns a file into Parquet files, without a copy of it.
///
/// # Errors
/// As `ingest_reader`; `Disconnected` when the file cannot be read.
pub fn ingest_file(path: &Path, options: &IngestOptions) -> Result<Staged, IngestError> {
    let dir = StagingDir::create(&options.staging)?;
    let replay = Replay {
        path: path.to_owned(),
        spooled: false,
    };
    let input = File::open(path).map_err(IngestError::Disconnected)?;
    let source = Source::open(Box::new(input), None, &options.limits, &options.progress)?;
    let mut options = options.clone();
    if options.file_name.is_none() {
        options.file_name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
    }
    ingest_source(source, &replay, dir, &options, BLOCK_BYTES)
}

fn ingest_source(
    source: Source<'_>,
    replay: &Replay,
    dir: StagingDir,
    options: &IngestOptions,
    block_bytes: usize,
) -> Result<Staged, IngestError> {
    let format = format_of(&source, options)?;
    let threads = threads()?;
    let setup = Setup::new(options, &threads, &dir, block_bytes);
    let ready = match format {
        FileFormat::Csv => csv::ingest(source, &setup, replay),
        FileFormat::Ndjson => json::ingest_lines(source, &setup, replay),
        FileFormat::JsonArray => json::ingest_array(source, &setup, replay),
        FileFormat::Parquet => columnar::ingest_parquet(source, &setup, replay),
        FileFormat::ArrowIpc => columnar::ingest_ipc(source, &setup),
    };
    let staged = ready
        .and_then(|ready| finish(ready, &setup, dir))
        .map_err(|error| blame_input(format, error))?;
    replay.remove()?;
    Ok(staged)
}

fn finish(ready: Ready, setup: &Setup, dir: StagingDir) -> Result<Staged, IngestError> {
    let Ready {
        sink,
        schema,
        received,
    } = ready;
    let key = KeyPlan::new(&schema, &setup.key)?;
    let mut written = sink.finish()?;
    let superseded_rows = match &key {
        Some(key) if !written.keys_are_unique => keys::mark_superseded(&mut written.files, key)?,
        _ => 0,
    };
    if setup.progress.is_cancelled() {
        return Err(IngestError::Cancelled);
    }
    Ok(Staged {
        schema,
        files: written.files,
        rows: written.rows,
        superseded_rows,
        batches: written.batches,
        proposals: written.proposals,
        source_bytes: received.bytes,
        source_blake3: received.blake3,
        dir,
    })
}

fn format_of(source: &Source<'_>, options: &IngestOptions) -> Result<FileFormat, IngestError> {
    if source.head().iter().all(u8::is_ascii_whitespace) && source.head().len() < source::HEAD_BYTES
    {
        return Err(IngestError::Empty);
    }
    options
        .format
        .or_else(|| FileFormat::sniff(source.head(), options.file_name.as_deref()))
        .ok_or(IngestError::UnknownFormat)
}
