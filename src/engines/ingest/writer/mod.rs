//! Rows in, Parquet files out: every column of a row group is encoded by whichever thread is free,
//! and finished row groups are appended in order. Batches have to be pushed in the order of rows.
//! Format readers own the `Sink`; `layout` alone chooses how the files look.

mod files;
mod lanes;
mod layout;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::SchemaRef;
use lakehouse_journal::model::catalog::Proposal;
use parquet::arrow::ArrowSchemaConverter;
use parquet::arrow::arrow_writer::ArrowRowGroupWriterFactory;
use parquet::errors::ParquetError;
use parquet::file::writer::SerializedFileWriter;

use super::Progress;
use super::classes::Detector;
use super::error::IngestError;
use super::keys::{KeyOrder, KeyPlan, KeySpan};
use super::parallel::{Permit, Pool};
use super::staging::StagedFile;
use files::Appender;
use lanes::{Item, Lane};
use layout::{properties, sorting_columns};

/// How large the parts of a file become.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Rows of a row group at most.
    pub group_rows: usize,
    /// Arrow bytes of a row group, after which it is closed early.
    pub group_bytes: usize,
    /// Bytes of a file, after which the next row group starts a new one.
    pub file_bytes: u64,
}

impl Default for Layout {
    fn default() -> Self {
        Self {
            group_rows: 256 * 1024,
            group_bytes: 128 << 20,
            file_bytes: 512 << 20,
        }
    }
}

/// What the writer made of all that was pushed.
pub(super) struct Written {
    pub files: Vec<StagedFile>,
    pub rows: u64,
    pub batches: u64,
    pub proposals: BTreeMap<String, Proposal>,
    /// Whether the order of the keys shows that none comes twice.
    pub keys_are_unique: bool,
}

/// Takes batches in the order of their rows.
pub(super) struct Sink {
    pool: Pool,
    layout: Layout,
    schema: SchemaRef,
    dir: PathBuf,
    progress: Arc<Progress>,
    key: Option<Arc<KeyPlan>>,
    order: KeyOrder,
    output: Option<Output>,
    group: Option<OpenGroup>,
    next_group: u64,
    rows: u64,
    batches: u64,
    detector: Detector,
}

struct Output {
    factory: ArrowRowGroupWriterFactory,
    appender: Arc<Appender>,
}

struct OpenGroup {
    lanes: Vec<Arc<Lane>>,
    rows: usize,
    bytes: usize,
    sorted: bool,
}

impl Sink {
    pub fn new(
        pool: Pool,
        layout: Layout,
        schema: SchemaRef,
        key: Option<Arc<KeyPlan>>,
        dir: PathBuf,
        progress: Arc<Progress>,
    ) -> Self {
        Self {
            pool,
            layout,
            schema,
            dir,
            progress,
            key,
            order: KeyOrder::default(),
            output: None,
            group: None,
            next_group: 0,
            rows: 0,
            batches: 0,
            detector: Detector::default(),
        }
    }

    /// Takes the next rows; `span` says how their keys lie when there is a key.
    pub fn push(
        &mut self,
        batch: &RecordBatch,
        span: Option<&KeySpan>,
        permit: &Arc<Permit>,
    ) -> Result<(), IngestError> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        if self.output.is_none() {
            self.output = Some(self.start_output(batch)?);
        }
        if let Some(span) = span {
            self.order.push(span);
            // A row group says one thing of its order: the rows before this stay sorted.
            if self
                .group
                .as_ref()
                .is_some_and(|group| group.sorted != self.order.sorted)
            {
                self.close_group();
            }
        }
        self.detector.see(batch);
        let mut offset = 0;
        while offset < batch.num_rows() {
            let taken = self.push_part(batch, offset, permit)?;
            offset += taken;
        }
        self.rows += batch.num_rows() as u64;
        self.batches += 1;
        self.progress
            .rows_out
            .fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn push_part(
        &mut self,
        batch: &RecordBatch,
        offset: usize,
        permit: &Arc<Permit>,
    ) -> Result<usize, IngestError> {
        if self.group.is_none() {
            self.group = Some(self.open_group()?);
        }
        let group = self.group.as_mut().expect("opened just above");
        let length = (batch.num_rows() - offset).min(self.layout.group_rows - group.rows);
        for (lane, column) in group.lanes.iter().zip(batch.columns()) {
            let column = column.slice(offset, length);
            group.bytes += column.to_data().get_slice_memory_size().unwrap_or_default();
            lane.push(Item::Write(column, Arc::clone(permit)), &self.pool);
        }
        group.rows += length;
        if group.rows >= self.layout.group_rows || group.bytes >= self.layout.group_bytes {
            self.close_group();
        }
        Ok(length)
    }

    fn open_group(&mut self) -> Result<OpenGroup, IngestError> {
        let output = self
            .output
            .as_ref()
            .expect("the output is started by the first rows");
        let sorted = self.key.is_some() && self.order.sorted;
        let lanes = Lane::open_group(
            self.next_group,
            sorted,
            &self.schema,
            &output.factory,
            &output.appender,
        )?;
        self.next_group += 1;
        Ok(OpenGroup {
            lanes,
            rows: 0,
            bytes: 0,
            sorted,
        })
    }

    fn close_group(&mut self) {
        if let Some(group) = self.group.take() {
            for lane in &group.lanes {
                lane.push(Item::Close, &self.pool);
            }
        }
    }

    /// Writes what is left and gives the finished files. Called with no other job outstanding.
    pub fn finish(mut self) -> Result<Written, IngestError> {
        self.close_group();
        self.pool.wait()?;
        let files = match self.output {
            Some(output) => output.appender.finish()?,
            None => Vec::new(),
        };
        Ok(Written {
            files,
            rows: self.rows,
            batches: self.batches,
            proposals: self.detector.proposals(),
            keys_are_unique: self.order.shows_unique(),
        })
    }

    /// Gives up all that was pushed: what waits to be encoded is dropped.
    pub fn abandon(self) {
        if let Some(output) = &self.output {
            output.appender.abandon();
        }
    }

    fn start_output(&self, first: &RecordBatch) -> Result<Output, IngestError> {
        let descriptor = ArrowSchemaConverter::new()
            .convert(&self.schema)
            .map_err(|error| self.unsupported(&error))?;
        let plain = Arc::new(properties(&self.schema, first, None));
        let sorting = self
            .key
            .as_ref()
            .map(|key| sorting_columns(key, &self.schema));
        let sorted = Arc::new(properties(&self.schema, first, sorting));
        // Column writers need a file writer's schema and properties, and nothing of its file.
        let template =
            SerializedFileWriter::new(io::sink(), descriptor.root_schema_ptr(), Arc::clone(&plain))
                .map_err(IngestError::Write)?;
        let factory = ArrowRowGroupWriterFactory::new(&template, Arc::clone(&self.schema));
        let dir = self.dir.clone();
        let appender = Appender::new(dir, descriptor, plain, sorted, self.layout.file_bytes);
        let appender = Arc::new(appender);
        Ok(Output { factory, appender })
    }

    fn unsupported(&self, error: &ParquetError) -> IngestError {
        IngestError::UnsupportedType {
            column: self
                .schema
                .fields()
                .iter()
                .map(|field| field.name().as_str())
                .collect::<Vec<_>>()
                .join(", "),
            found: error.to_string(),
        }
    }
}
