//! Parquet and Arrow IPC in: checked before they are decoded, then rewritten to our own layout.
//! `ingest::mod` calls `ingest_parquet` and `ingest_ipc`. Hostile input gives an error, never a
//! panic and never an allocation that its own size does not justify.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::ipc;
use arrow::ipc::reader::StreamDecoder;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader,
    ParquetRecordBatchReaderBuilder,
};
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData};

use super::error::{IngestError, from_read};
use super::keys::KeyPlan;
use super::parallel::panic_text;
use super::schema::{
    check_expected, leaf_total, plain_schema, to_type, type_difference, type_name,
};
use super::source::{Replay, Source, copy_to_file};
use super::thrift;
use super::writer::Sink;
use super::{Ready, Setup};

const PARQUET: &str = "Parquet";
const IPC: &str = "Arrow IPC";
/// Rows decoded at a time.
const BATCH_ROWS: usize = 8 * 1024;
/// Decoded bytes that are turned into plain arrays at a time.
const PART_BYTES: usize = 16 << 20;
/// Bytes that one page may decompress to.
const PAGE_BYTES_MAX: i64 = 256 << 20;
/// Bytes of a page beyond which the ratio limit holds.
const PAGE_RATIO_GRACE: i64 = 1 << 20;
/// Bytes read to find a page's header.
const PAGE_HEADER_BYTES: u64 = 64 * 1024;

/// What ends an IPC stream.
const END_OF_STREAM: [u8; 8] = [0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0];

fn invalid(format: &'static str, reason: impl ToString) -> IngestError {
    IngestError::Columnar {
        format,
        reason: reason.to_string(),
    }
}

/// Runs a decoder that may panic on hostile input.
fn guarded<T>(
    format: &'static str,
    decode: impl FnOnce() -> Result<T, IngestError>,
) -> Result<T, IngestError> {
    catch_unwind(AssertUnwindSafe(decode))
        .unwrap_or_else(|panic| Err(invalid(format, panic_text(panic.as_ref()))))
}

/// Takes decoded batches of one foreign schema and pushes them in the schema of the dataset.
struct Rewriter<'a> {
    format: &'static str,
    setup: &'a Setup,
    schema: SchemaRef,
    key: Option<KeyPlan>,
    sink: Sink,
    rows: u64,
    bytes: u64,
}

impl<'a> Rewriter<'a> {
    fn new(format: &'static str, found: &Schema, setup: &'a Setup) -> Result<Self, IngestError> {
        if found.fields().is_empty() {
            return Err(IngestError::NoColumns);
        }
        let plain = plain_schema(found)?;
        if leaf_total(plain.fields()) > setup.limits.columns_max {
            return Err(IngestError::TooManyColumns {
                limit: setup.limits.columns_max,
            });
        }
        let schema = match &setup.expected {
            Some(expected) => {
                check_expected(expected, &plain)?;
                Arc::clone(expected)
            }
            None => plain,
        };
        let key = KeyPlan::new(&schema, &setup.key)?;
        let sink = setup.sink(&schema, key.clone().map(Arc::new), 1)?;
        Ok(Self {
            format,
            setup,
            schema,
            key,
            sink,
            rows: 0,
            bytes: 0,
        })
    }

    fn push(&mut self, batch: &RecordBatch) -> Result<(), IngestError> {
        if self.setup.progress.is_cancelled() {
            return Err(IngestError::Cancelled);
        }
        let mut offset = 0;
        while offset < batch.num_rows() {
            let length = self.part_rows(batch, offset)?;
            self.push_part(&batch.slice(offset, length))?;
            offset += length;
        }
        Ok(())
    }

    /// Rows from `offset` on that hold about `PART_BYTES`: views and dictionaries grow when they
    /// are made plain, and a small file must not grow without bounds.
    fn part_rows(&mut self, batch: &RecordBatch, offset: usize) -> Result<usize, IngestError> {
        let mut length = batch.num_rows() - offset;
        loop {
            let bytes: usize = batch
                .columns()
                .iter()
                .map(|column| plain_bytes(&column.slice(offset, length)))
                .sum();
            if length == 1 && bytes > self.setup.limits.row_bytes_max.max(PART_BYTES) {
                return Err(IngestError::TooLarge {
                    what: "row",
                    limit_bytes: self.setup.limits.row_bytes_max as u64,
                });
            }
            if bytes <= PART_BYTES || length == 1 {
                self.bytes += bytes as u64;
                break;
            }
            length = (length / 2).max(1);
        }
        if self.bytes > self.setup.limits.uncompressed_bytes_max {
            return Err(IngestError::TooLarge {
                what: "decoded body",
                limit_bytes: self.setup.limits.uncompressed_bytes_max,
            });
        }
        Ok(length)
    }

    fn push_part(&mut self, part: &RecordBatch) -> Result<(), IngestError> {
        let permit = Arc::new(self.setup.pool.permit()?);
        let mut arrays = Vec::with_capacity(self.schema.fields().len());
        for field in self.schema.fields() {
            arrays.push(self.column(part, field)?);
        }
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), arrays)
            .map_err(|error| invalid(self.format, error))?;
        let span = match &self.key {
            Some(key) => Some(key.span(&batch).map_err(|error| self.with_row(error))?),
            None => None,
        };
        self.rows += batch.num_rows() as u64;
        self.sink.push(&batch, span.as_ref(), &permit)
    }

    fn column(&self, part: &RecordBatch, field: &FieldRef) -> Result<ArrayRef, IngestError> {
        let array = part
            .column_by_name(field.name())
            .ok_or_else(|| IngestError::Internal("a column went missing".to_owned()))?;
        let found = || type_name(array.data_type());
        let mismatch = |found: String| IngestError::SchemaMismatch {
            differences: vec![type_difference(field, found)],
        };
        let array_as = to_type(array, field.data_type()).map_err(|_| mismatch(found()))?;
        if !field.is_nullable() && array_as.null_count() > 0 {
            return Err(mismatch(format!("{} with NULL", found())));
        }
        Ok(array_as)
    }

    fn with_row(&self, error: IngestError) -> IngestError {
        match error {
            IngestError::NullKey { column, row, line } => IngestError::NullKey {
                column,
                row: row + self.rows,
                line,
            },
            other => other,
        }
    }
}

/// Bytes of an array once it is plain.
fn plain_bytes(array: &ArrayRef) -> usize {
    use arrow::array::AsArray;
    match array.data_type() {
        DataType::Utf8View => array
            .as_string_view()
            .lengths()
            .map(|length| length as usize + 4)
            .sum(),
        DataType::BinaryView => array
            .as_binary_view()
            .lengths()
            .map(|length| length as usize + 4)
            .sum(),
        DataType::Struct(_) => array.as_struct().columns().iter().map(plain_bytes).sum(),
        _ => array
            .to_data()
            .get_slice_memory_size()
            .unwrap_or_else(|_| array.get_array_memory_size()),
    }
}

/// Reads a Parquet body, from the spool or a file of its own.
pub(super) fn ingest_parquet(
    mut source: Source<'_>,
    setup: &Setup,
    replay: &Replay,
) -> Result<Ready, IngestError> {
    let unpacked = setup.dir.join("unpacked");
    let compressed = source.is_compressed();
    if compressed {
        copy_to_file(&mut source, &unpacked)?;
    }
    let received = source.finish()?;
    let path = if compressed { &unpacked } else { &replay.path };
    let (sink, schema) = guarded(PARQUET, || rewrite_parquet(path, setup))?;
    if compressed {
        std::fs::remove_file(&unpacked).map_err(IngestError::Staging)?;
    }
    Ok(Ready {
        sink,
        schema,
        received,
    })
}

fn rewrite_parquet(path: &Path, setup: &Setup) -> Result<(Sink, SchemaRef), IngestError> {
    let file = File::open(path).map_err(IngestError::Staging)?;
    check_footer(&file, setup.limits.footer_bytes_max)?;
    let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Skip);
    let metadata = ArrowReaderMetadata::load(&file, options.clone())
        .map_err(|error| invalid(PARQUET, error))?;
    let mut rewriter = Rewriter::new(PARQUET, metadata.schema(), setup)?;
    check_pages(&file, metadata.metadata(), setup.limits.ratio_max)?;
    for batch in parquet_reader(file, &metadata, options)? {
        rewriter.push(&batch.map_err(|error| invalid(PARQUET, error))?)?;
    }
    Ok((rewriter.sink, rewriter.schema))
}

/// A reader that leaves strings where the page has them, so that a page of references to one long
/// string stays small until it is cut into parts.
fn parquet_reader(
    file: File,
    metadata: &ArrowReaderMetadata,
    options: ArrowReaderOptions,
) -> Result<ParquetRecordBatchReader, IngestError> {
    let viewed = viewed_schema(metadata.schema());
    let metadata =
        ArrowReaderMetadata::try_new(Arc::clone(metadata.metadata()), options.with_schema(viewed))
            .map_err(|error| invalid(PARQUET, error))?;
    ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata)
        .with_batch_size(BATCH_ROWS)
        .build()
        .map_err(|error| invalid(PARQUET, error))
}

fn viewed_schema(schema: &Schema) -> SchemaRef {
    let viewed = |field: &FieldRef| match field.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 => {
            field.as_ref().clone().with_data_type(DataType::Utf8View)
        }
        DataType::Binary | DataType::LargeBinary => {
            field.as_ref().clone().with_data_type(DataType::BinaryView)
        }
        _ => field.as_ref().clone(),
    };
    let fields: Vec<Field> = schema.fields().iter().map(viewed).collect();
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

/// The footer has to be there, of a sensible size, and walk as Thrift.
fn check_footer(file: &File, footer_bytes_max: u64) -> Result<(), IngestError> {
    let length = file.metadata().map_err(IngestError::Staging)?.len();
    if length < 12 {
        return Err(invalid(PARQUET, "the file is too short"));
    }
    let mut tail = [0; 8];
    file.read_exact_at(&mut tail, length - 8)
        .map_err(IngestError::Staging)?;
    if &tail[4..] != b"PAR1" {
        return Err(invalid(PARQUET, "the footer is missing"));
    }
    let size = u64::from(u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]));
    if size > footer_bytes_max {
        return Err(IngestError::TooLarge {
            what: "Parquet footer",
            limit_bytes: footer_bytes_max,
        });
    }
    if size + 12 > length {
        return Err(invalid(PARQUET, "the footer is longer than the file"));
    }
    let mut footer = vec![0; usize::try_from(size).unwrap_or_default()];
    file.read_exact_at(&mut footer, length - 8 - size)
        .map_err(IngestError::Staging)?;
    thrift::walk(&footer).map_err(|_| invalid(PARQUET, "the footer is malformed"))?;
    Ok(())
}

/// Every page header of every column chunk has to be in place and promise a sensible size.
fn check_pages(file: &File, metadata: &ParquetMetaData, ratio_max: u64) -> Result<(), IngestError> {
    let length = file.metadata().map_err(IngestError::Staging)?.len();
    for group in metadata.row_groups() {
        for column in group.columns() {
            let start = column
                .dictionary_page_offset()
                .unwrap_or_else(|| column.data_page_offset());
            let start = start.min(column.data_page_offset());
            let (Ok(start), Ok(size)) = (
                u64::try_from(start),
                u64::try_from(column.compressed_size()),
            ) else {
                return Err(invalid(PARQUET, "a column chunk lies outside the file"));
            };
            let end = start.checked_add(size).filter(|end| *end <= length);
            let end =
                end.ok_or_else(|| invalid(PARQUET, "a column chunk lies outside the file"))?;
            check_chunk(file, start, end, ratio_max)?;
        }
    }
    Ok(())
}

fn check_chunk(file: &File, start: u64, end: u64, ratio_max: u64) -> Result<(), IngestError> {
    let mut at = start;
    let mut window = Vec::new();
    while at < end {
        window.resize(usize::try_from((end - at).min(256)).unwrap_or_default(), 0);
        file.read_exact_at(&mut window, at)
            .map_err(IngestError::Staging)?;
        let mut header = thrift::walk(&window);
        if header.is_err() {
            window.resize(
                usize::try_from((end - at).min(PAGE_HEADER_BYTES)).unwrap_or_default(),
                0,
            );
            file.read_exact_at(&mut window, at)
                .map_err(IngestError::Staging)?;
            header = thrift::walk(&window);
        }
        let header = header.map_err(|_| invalid(PARQUET, "a page header is malformed"))?;
        let (plain, packed) = (header.integers[2], header.integers[3]);
        let ratio = i64::try_from(ratio_max).unwrap_or(i64::MAX);
        if plain < 0 || packed < 0 {
            return Err(invalid(PARQUET, "a page has a negative size"));
        }
        if plain > PAGE_BYTES_MAX {
            return Err(IngestError::TooLarge {
                what: "Parquet page",
                limit_bytes: PAGE_BYTES_MAX.unsigned_abs(),
            });
        }
        if plain > PAGE_RATIO_GRACE && plain / packed.max(1) > ratio {
            return Err(IngestError::Bomb { ratio: ratio_max });
        }
        at += header.length as u64 + packed.unsigned_abs();
    }
    Ok(())
}

/// Reads an Arrow IPC body: a stream, or a file, which is a stream between magic and footer.
pub(super) fn ingest_ipc(mut source: Source<'_>, setup: &Setup) -> Result<Ready, IngestError> {
    let (sink, schema) = guarded(IPC, || rewrite_ipc(&mut source, setup))?;
    let received = source.finish()?;
    Ok(Ready {
        sink,
        schema,
        received,
    })
}

fn rewrite_ipc(source: &mut Source<'_>, setup: &Setup) -> Result<(Sink, SchemaRef), IngestError> {
    let mut magic = vec![0; magic_bytes(source.head())];
    read_exact(source, &mut magic)?;
    let mut stream = IpcStream {
        decoder: StreamDecoder::new(),
        rewriter: None,
        setup,
    };
    while let Some(message) = next_message(source, setup)? {
        stream.feed(message)?;
    }
    stream.feed(END_OF_STREAM.to_vec())?;
    let rewriter = stream
        .rewriter
        .ok_or_else(|| invalid(IPC, "the schema is missing"))?;
    Ok((rewriter.sink, rewriter.schema))
}

/// Bytes before the first message: none in a stream; in a file the magic and zeros, which fill it
/// up to 8 bytes or, as some writers align more, a multiple of that.
fn magic_bytes(head: &[u8]) -> usize {
    match head.strip_prefix(b"ARROW1") {
        None => 0,
        Some(rest) => {
            let zeros = rest.iter().take_while(|byte| **byte == 0).count();
            (b"ARROW1".len() + zeros) / 8 * 8
        }
    }
}

/// A decoder and where its batches go.
struct IpcStream<'a> {
    decoder: StreamDecoder,
    rewriter: Option<Rewriter<'a>>,
    setup: &'a Setup,
}

impl IpcStream<'_> {
    /// Decodes one message. The decoder takes in a message without a body with the one after it.
    fn feed(&mut self, message: Vec<u8>) -> Result<(), IngestError> {
        let mut buffer = Buffer::from_vec(message);
        while !buffer.is_empty() {
            let decoded = self.decoder.decode(&mut buffer);
            let decoded = decoded.map_err(|error| invalid(IPC, error))?;
            if let (None, Some(schema)) = (&self.rewriter, self.decoder.schema()) {
                self.rewriter = Some(Rewriter::new(IPC, &schema, self.setup)?);
            }
            if let (Some(batch), Some(rewriter)) = (decoded, &mut self.rewriter) {
                rewriter.push(&batch)?;
            }
        }
        Ok(())
    }
}

fn read_exact(source: &mut impl Read, out: &mut [u8]) -> Result<(), IngestError> {
    source
        .read_exact(out)
        .map_err(|error| match from_read(error) {
            IngestError::Disconnected(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                invalid(IPC, "the stream is cut short")
            }
            other => other,
        })
}

/// One whole, checked message with its framing; `None` at the end of the stream.
fn next_message(source: &mut impl Read, setup: &Setup) -> Result<Option<Vec<u8>>, IngestError> {
    let mut word = [0; 4];
    if !read_start(source, &mut word)? {
        return Ok(None);
    }
    let mut framed = word.to_vec();
    if word == [0xFF; 4] {
        read_exact(source, &mut word)?;
        framed.extend_from_slice(&word);
    }
    let size = u64::from(u32::from_le_bytes(word));
    if size == 0 {
        return Ok(None);
    }
    if size > setup.limits.footer_bytes_max {
        return Err(IngestError::TooLarge {
            what: "Arrow IPC message header",
            limit_bytes: setup.limits.footer_bytes_max,
        });
    }
    let header = framed.len();
    take_into(source, &mut framed, size)?;
    let body = {
        let message =
            ipc::root_as_message(&framed[header..]).map_err(|error| invalid(IPC, error))?;
        u64::try_from(message.bodyLength()).map_err(|_| invalid(IPC, "a negative body length"))?
    };
    if body > setup.limits.message_bytes_max {
        return Err(IngestError::TooLarge {
            what: "Arrow IPC message",
            limit_bytes: setup.limits.message_bytes_max,
        });
    }
    let start = framed.len();
    take_into(source, &mut framed, body)?;
    check_message(&framed[header..start], &framed[start..], setup)?;
    Ok(Some(framed))
}

/// Reads four bytes; false when the stream ends before the first.
fn read_start(source: &mut impl Read, word: &mut [u8; 4]) -> Result<bool, IngestError> {
    let length = source.read(&mut word[..1]).map_err(from_read)?;
    if length == 0 {
        return Ok(false);
    }
    read_exact(source, &mut word[1..])?;
    Ok(true)
}

/// Appends `length` bytes; memory grows with what arrives, not with what was promised.
fn take_into(source: &mut impl Read, out: &mut Vec<u8>, length: u64) -> Result<(), IngestError> {
    let before = out.len() as u64;
    source
        .by_ref()
        .take(length)
        .read_to_end(out)
        .map_err(from_read)?;
    if out.len() as u64 - before != length {
        return Err(invalid(IPC, "the stream is cut short"));
    }
    Ok(())
}

/// The buffers of a message lie in its body, and what they decompress to is within limits.
fn check_message(header: &[u8], body: &[u8], setup: &Setup) -> Result<(), IngestError> {
    let message = ipc::root_as_message(header).map_err(|error| invalid(IPC, error))?;
    let batch = match message.header_type() {
        ipc::MessageHeader::RecordBatch => message.header_as_record_batch(),
        ipc::MessageHeader::DictionaryBatch => message
            .header_as_dictionary_batch()
            .and_then(|batch| batch.data()),
        _ => None,
    };
    let Some(batch) = batch else {
        return Ok(());
    };
    let compressed = batch.compression().is_some();
    let mut total = 0u64;
    for buffer in batch.buffers().into_iter().flatten() {
        let range = usize::try_from(buffer.offset())
            .ok()
            .zip(usize::try_from(buffer.length()).ok());
        let bytes =
            range.and_then(|(offset, length)| body.get(offset..offset.checked_add(length)?));
        let bytes = bytes.ok_or_else(|| invalid(IPC, "a buffer lies outside its message"))?;
        if compressed && !bytes.is_empty() {
            total = total.saturating_add(decompressed_size(bytes)?);
        }
    }
    if total > setup.limits.message_bytes_max {
        return Err(IngestError::TooLarge {
            what: "Arrow IPC message",
            limit_bytes: setup.limits.message_bytes_max,
        });
    }
    if total > body.len() as u64 * setup.limits.ratio_max && total > 1 << 20 {
        return Err(IngestError::Bomb {
            ratio: setup.limits.ratio_max,
        });
    }
    Ok(())
}

/// The size that stands before a compressed buffer; -1 says that it is not compressed after all.
fn decompressed_size(bytes: &[u8]) -> Result<u64, IngestError> {
    let prefix = bytes
        .first_chunk::<8>()
        .ok_or_else(|| invalid(IPC, "a compressed buffer is too short"))?;
    match i64::from_le_bytes(*prefix) {
        -1 => Ok(bytes.len() as u64),
        size => u64::try_from(size).map_err(|_| invalid(IPC, "a negative buffer size")),
    }
}

#[cfg(test)]
#[path = "columnar_tests.rs"]
mod tests;
