//! Parquet in: the footer and every page header are walked before the Parquet crate sees them.
//! `ingest::mod` calls `ingest_parquet`; decoding runs guarded against panics.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef};
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader,
    ParquetRecordBatchReaderBuilder,
};
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, RowGroupMetaData};

use super::{Rewriter, guarded, invalid};
use crate::engines::ingest::error::IngestError;
use crate::engines::ingest::source::{Replay, Source, copy_to_file};
use crate::engines::ingest::writer::Sink;
use crate::engines::ingest::{Ready, Setup, thrift};

const PARQUET: &str = "Parquet";
/// Rows decoded at a time.
const BATCH_ROWS: usize = 8 * 1024;
/// Bytes that one column of a batch may become where a page holds only what differs between values.
const DELTA_BATCH_BYTES: usize = 256 << 20;
/// `DELTA_BYTE_ARRAY` among the encodings of a page header.
const DELTA_BYTE_ARRAY: i64 = 7;
/// Values of a chunk of lists for each byte of it, after the first million.
const LIST_RATIO_MAX: i64 = 256;
/// Bytes that one page may decompress to.
const PAGE_BYTES_MAX: i64 = 256 << 20;
/// Bytes of a page beyond which the ratio limit holds.
const PAGE_RATIO_GRACE: i64 = 1 << 20;
/// Bytes read to find a page's header.
const PAGE_HEADER_BYTES: u64 = 64 * 1024;

/// Reads a Parquet body, from the spool or a file of its own.
pub(in crate::engines::ingest) fn ingest_parquet(
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
    let largest = check_pages(&file, metadata.metadata(), setup.limits.ratio_max)?;
    // Each value may repeat all but a byte of the one before, so it may be as long as the page.
    let batch_rows = (DELTA_BATCH_BYTES / largest.max(1)).clamp(1, BATCH_ROWS);
    for batch in parquet_reader(file, &metadata, options, batch_rows)? {
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
    batch_rows: usize,
) -> Result<ParquetRecordBatchReader, IngestError> {
    let viewed = viewed_schema(metadata.schema());
    let metadata =
        ArrowReaderMetadata::try_new(Arc::clone(metadata.metadata()), options.with_schema(viewed))
            .map_err(|error| invalid(PARQUET, error))?;
    ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata)
        .with_batch_size(batch_rows)
        .build()
        .map_err(|error| invalid(PARQUET, error))
}

fn viewed_schema(schema: &Schema) -> SchemaRef {
    let fields: Vec<FieldRef> = schema.fields().iter().map(viewed).collect();
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

fn viewed(field: &FieldRef) -> FieldRef {
    let data_type = match field.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 => DataType::Utf8View,
        DataType::Binary | DataType::LargeBinary => DataType::BinaryView,
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(viewed).collect()),
        DataType::List(item) => DataType::List(viewed(item)),
        DataType::LargeList(item) => DataType::LargeList(viewed(item)),
        DataType::FixedSizeList(item, size) => DataType::FixedSizeList(viewed(item), *size),
        other => other.clone(),
    };
    Arc::new(field.as_ref().clone().with_data_type(data_type))
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
    if size + 12 > length {
        return Err(invalid(PARQUET, "the footer is longer than the file"));
    }
    if size > footer_bytes_max {
        return Err(IngestError::TooLarge {
            what: "Parquet footer",
            limit_bytes: footer_bytes_max,
        });
    }
    let mut footer = vec![0; usize::try_from(size).unwrap_or_default()];
    file.read_exact_at(&mut footer, length - 8 - size)
        .map_err(IngestError::Staging)?;
    thrift::walk(&footer).map_err(|_| invalid(PARQUET, "the footer is malformed"))?;
    Ok(())
}

/// Every page header of every column chunk has to be in place and promise a sensible size. Gives
/// the size of the largest page of values that are written as differences, 0 without one.
fn check_pages(
    file: &File,
    metadata: &ParquetMetaData,
    ratio_max: u64,
) -> Result<usize, IngestError> {
    let length = file.metadata().map_err(IngestError::Staging)?.len();
    let outside = || invalid(PARQUET, "a column chunk lies outside the file");
    let mut largest = 0;
    for column in metadata
        .row_groups()
        .iter()
        .flat_map(RowGroupMetaData::columns)
    {
        let first = column.dictionary_page_offset().unwrap_or(i64::MAX);
        let start = u64::try_from(first.min(column.data_page_offset())).map_err(|_| outside())?;
        let size = u64::try_from(column.compressed_size()).map_err(|_| outside())?;
        let end = start.checked_add(size).filter(|end| *end <= length);
        largest = largest.max(check_chunk(
            file,
            start,
            end.ok_or_else(outside)?,
            ratio_max,
        )?);
        let values_max = column.compressed_size().saturating_mul(LIST_RATIO_MAX);
        let in_lists = column.column_descr().max_rep_level() > 0;
        if in_lists && column.num_values() > values_max.saturating_add(1 << 20) {
            return Err(IngestError::Bomb {
                ratio: LIST_RATIO_MAX.unsigned_abs(),
            });
        }
    }
    Ok(largest)
}

fn check_chunk(file: &File, start: u64, end: u64, ratio_max: u64) -> Result<usize, IngestError> {
    let mut at = start;
    let mut largest = 0;
    while at < end {
        let header = page_header(file, at, end)?;
        let (plain, packed) = (header.integers[2], header.integers[3]);
        check_page(plain, packed, ratio_max)?;
        let encodings = [header.nested[0][2], header.nested[1][4]];
        if encodings.contains(&DELTA_BYTE_ARRAY) {
            largest = largest.max(usize::try_from(plain).unwrap_or_default());
        }
        at += header.length as u64 + packed.unsigned_abs();
    }
    Ok(largest)
}

/// The header of the page at `at`. Most are short; those with statistics may be long.
fn page_header(file: &File, at: u64, end: u64) -> Result<thrift::Walk, IngestError> {
    let mut window = Vec::new();
    for size in [256, PAGE_HEADER_BYTES] {
        window.resize(usize::try_from((end - at).min(size)).unwrap_or_default(), 0);
        file.read_exact_at(&mut window, at)
            .map_err(IngestError::Staging)?;
        if let Ok(header) = thrift::walk(&window) {
            return Ok(header);
        }
    }
    Err(invalid(PARQUET, "a page header is malformed"))
}

fn check_page(plain: i64, packed: i64, ratio_max: u64) -> Result<(), IngestError> {
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
    Ok(())
}
