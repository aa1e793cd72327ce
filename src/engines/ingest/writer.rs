//! Rows in, Parquet files out: every column of a row group is encoded by whichever thread is free,
//! and finished row groups are appended in order. Batches have to be pushed in the order of rows.
//! The layout (row groups, pages, compression) is chosen here and nowhere else.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::datatypes::{FieldRef, SchemaRef};
use parquet::arrow::arrow_writer::{
    ArrowColumnChunk, ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves,
};
use parquet::arrow::{ArrowSchemaConverter, add_encoded_arrow_schema_to_metadata};
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::SortingColumn;
use parquet::file::properties::{
    EnabledStatistics, WriterProperties, WriterPropertiesPtr, WriterVersion,
};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::{ColumnPath, SchemaDescriptor};
use roaring::RoaringTreemap;

use super::Progress;
use super::error::IngestError;
use super::keys::{KeyOrder, KeyPlan, KeySpan};
use super::parallel::{Permit, Pool, lock};
use super::schema::leaves;
use super::staging::StagedFile;

/// How large the parts of a file become.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
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
    /// Whether every key was greater than the one before it, so that none comes twice.
    pub keys_increase: bool,
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
        let mut writers = output
            .factory
            .create_column_writers(0)
            .map_err(IngestError::Write)?
            .into_iter();
        let sorted = self.key.is_some() && self.order.sorted;
        let group = Arc::new(Group {
            index: self.next_group,
            sorted,
            remaining: AtomicUsize::new(self.schema.fields().len()),
            chunks: Mutex::new(
                (0..self.schema.fields().len())
                    .map(|_| Vec::new())
                    .collect(),
            ),
            appender: Arc::clone(&output.appender),
        });
        self.next_group += 1;
        let lane = |(column, field): (usize, &FieldRef)| {
            Arc::new(Lane {
                column,
                field: Arc::clone(field),
                group: Arc::clone(&group),
                state: Mutex::new(LaneState {
                    writers: writers.by_ref().take(leaves(field.data_type())).collect(),
                    queue: VecDeque::new(),
                    running: false,
                }),
            })
        };
        Ok(OpenGroup {
            lanes: self.schema.fields().iter().enumerate().map(lane).collect(),
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
            keys_increase: self.order.strict,
        })
    }

    /// Gives up all that was pushed: what waits to be encoded is dropped.
    pub fn abandon(self) {
        if let Some(output) = &self.output {
            output.appender.abandoned.store(true, Ordering::Release);
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
        let appender = Arc::new(Appender {
            dir: self.dir.clone(),
            descriptor,
            plain,
            sorted,
            file_bytes: self.layout.file_bytes,
            abandoned: AtomicBool::new(false),
            state: Mutex::default(),
        });
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

fn sorting_columns(key: &KeyPlan, schema: &SchemaRef) -> Vec<SortingColumn> {
    let leaf = |column: &usize| {
        let before: usize = schema.fields()[..*column]
            .iter()
            .map(|field| leaves(field.data_type()))
            .sum();
        SortingColumn {
            column_idx: i32::try_from(before).unwrap_or(i32::MAX),
            descending: false,
            nulls_first: false,
        }
    };
    key.columns.iter().map(leaf).collect()
}

/// The layout of every file: see the figures in the module's report on why these values.
fn properties(
    schema: &SchemaRef,
    first: &RecordBatch,
    sorting: Option<Vec<SortingColumn>>,
) -> WriterProperties {
    let level = ZstdLevel::try_new(1).expect("1 is a level of zstd");
    let mut builder = WriterProperties::builder()
        .set_writer_version(WriterVersion::PARQUET_1_0)
        .set_compression(Compression::ZSTD(level))
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_bloom_filter_enabled(false)
        .set_max_row_group_row_count(None)
        .set_sorting_columns(sorting)
        .set_created_by(concat!("lakehouse ", env!("CARGO_PKG_VERSION")).to_owned());
    for (field, column) in schema.fields().iter().zip(first.columns()) {
        if mostly_distinct(column) {
            let path = ColumnPath::new(vec![field.name().clone()]);
            builder = builder.set_column_dictionary_enabled(path, false);
        }
    }
    let mut built = builder.build();
    add_encoded_arrow_schema_to_metadata(schema, &mut built);
    built
}

/// Whether a dictionary would only cost time: nearly every value of the first rows is another.
fn mostly_distinct(column: &ArrayRef) -> bool {
    const SAMPLE: usize = 4_096;
    let sample = column.slice(0, column.len().min(SAMPLE));
    let valid = sample.len() - sample.null_count();
    if valid < SAMPLE / 4 || column.data_type().is_nested() {
        return false;
    }
    let field = arrow::row::SortField::new(column.data_type().clone());
    let Ok(rows) = arrow::row::RowConverter::new(vec![field])
        .and_then(|converter| converter.convert_columns(&[sample]))
    else {
        return false;
    };
    let distinct: std::collections::HashSet<&[u8]> = rows.iter().map(|row| row.data()).collect();
    distinct.len() * 10 > valid * 9
}

enum Item {
    Write(ArrayRef, Arc<Permit>),
    Close,
}

/// One column of one row group: its arrays are encoded one after the other, by any thread.
struct Lane {
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
    fn push(self: &Arc<Self>, item: Item, pool: &Pool) {
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
                match state.queue.pop_front() {
                    Some(item) => item,
                    None => {
                        state.writers = writers;
                        state.running = false;
                        return Ok(());
                    }
                }
            };
            match item {
                _ if self.group.appender.abandoned.load(Ordering::Acquire) => {}
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

struct FinishedGroup {
    chunks: Vec<ArrowColumnChunk>,
    sorted: bool,
}

/// Puts finished row groups into files, in order.
struct Appender {
    dir: PathBuf,
    descriptor: SchemaDescriptor,
    plain: WriterPropertiesPtr,
    sorted: WriterPropertiesPtr,
    file_bytes: u64,
    /// Nobody wants the rows any more.
    abandoned: AtomicBool,
    state: Mutex<AppenderState>,
}

#[derive(Default)]
struct AppenderState {
    next: u64,
    waiting: BTreeMap<u64, FinishedGroup>,
    file: Option<OpenFile>,
    files: Vec<StagedFile>,
}

struct OpenFile {
    path: PathBuf,
    sorted: bool,
    writer: SerializedFileWriter<HashedFile>,
}

impl Appender {
    fn append(&self, index: u64, group: FinishedGroup) -> Result<(), IngestError> {
        let mut state = lock(&self.state);
        state.waiting.insert(index, group);
        loop {
            let next = state.next;
            let Some(group) = state.waiting.remove(&next) else {
                return Ok(());
            };
            self.append_next(&mut state, group)?;
            state.next += 1;
        }
    }

    fn append_next(
        &self,
        state: &mut AppenderState,
        group: FinishedGroup,
    ) -> Result<(), IngestError> {
        let other_order = |file: &mut OpenFile| file.sorted != group.sorted;
        if let Some(file) = state.file.take_if(other_order) {
            state.files.push(file.finish()?);
        }
        let file = match &mut state.file {
            Some(file) => file,
            None => state
                .file
                .insert(self.open(state.files.len(), group.sorted)?),
        };
        let mut writer = file.writer.next_row_group().map_err(IngestError::Write)?;
        for chunk in group.chunks {
            chunk
                .append_to_row_group(&mut writer)
                .map_err(IngestError::Write)?;
        }
        writer.close().map_err(IngestError::Write)?;
        let full = |file: &mut OpenFile| file.writer.bytes_written() as u64 >= self.file_bytes;
        if let Some(file) = state.file.take_if(full) {
            state.files.push(file.finish()?);
        }
        Ok(())
    }

    fn open(&self, number: usize, sorted: bool) -> Result<OpenFile, IngestError> {
        let path = self.dir.join(format!("part-{number:05}.parquet"));
        let file = File::create_new(&path).map_err(IngestError::Staging)?;
        let output = HashedFile {
            file,
            hasher: blake3::Hasher::new(),
            bytes: 0,
        };
        let properties = if sorted { &self.sorted } else { &self.plain };
        let root = self.descriptor.root_schema_ptr();
        let writer = SerializedFileWriter::new(output, root, Arc::clone(properties))
            .map_err(IngestError::Write)?;
        Ok(OpenFile {
            path,
            sorted,
            writer,
        })
    }

    fn finish(&self) -> Result<Vec<StagedFile>, IngestError> {
        let mut state = lock(&self.state);
        if let Some(file) = state.file.take() {
            let staged = file.finish()?;
            state.files.push(staged);
        }
        Ok(std::mem::take(&mut state.files))
    }
}

impl OpenFile {
    fn finish(mut self) -> Result<StagedFile, IngestError> {
        let metadata = self.writer.finish().map_err(IngestError::Write)?;
        let rows = u64::try_from(metadata.file_metadata().num_rows()).unwrap_or_default();
        self.writer.flush().map_err(IngestError::Staging)?;
        let output = self.writer.inner();
        output.file.sync_all().map_err(IngestError::Staging)?;
        Ok(StagedFile {
            path: self.path,
            rows,
            bytes: output.bytes,
            blake3: output.hasher.finalize().to_hex().to_string(),
            sorted_by_key: self.sorted,
            superseded: RoaringTreemap::new(),
        })
    }
}

/// A file that hashes what is written to it.
struct HashedFile {
    file: File,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl Write for HashedFile {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let length = self.file.write(data)?;
        self.hasher.update(&data[..length]);
        self.bytes += length as u64;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
