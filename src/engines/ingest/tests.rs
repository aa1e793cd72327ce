//! The engine from body to files: small inputs and what becomes of them, every error with its
//! place, compression, keys, and the proof that blocks and widening change nothing.

use std::io::Write;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, SchemaRef, TimeUnit, TimestampMicrosecondType};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::*;

/// Options with a staging directory that goes with them.
pub(crate) fn options() -> (tempfile::TempDir, IngestOptions) {
    let dir = tempfile::tempdir().unwrap();
    let options = IngestOptions::new(dir.path());
    (dir, options)
}

/// Ingests bytes in blocks of a size of the test's choice.
pub(crate) fn ingest_blocks(
    body: &[u8],
    options: &IngestOptions,
    block_bytes: usize,
) -> Result<Staged, IngestError> {
    let dir = StagingDir::create(&options.staging)?;
    let replay = Replay {
        path: dir.path().join("body"),
        spooled: true,
    };
    let spool = File::create_new(&replay.path).map_err(IngestError::Staging)?;
    let source = Source::open(
        Box::new(body),
        Some(spool),
        &options.limits,
        &options.progress,
    )?;
    ingest_source(source, &replay, dir, options, block_bytes)
}

/// All rows of all files, in order.
pub(crate) fn rows(staged: &Staged) -> RecordBatch {
    let mut batches = Vec::new();
    for file in &staged.files {
        let input = File::open(&file.path).unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(input)
            .unwrap()
            .build()
            .unwrap();
        let before = batches.len();
        batches.extend(reader.map(Result::unwrap));
        let rows: usize = batches[before..].iter().map(RecordBatch::num_rows).sum();
        assert_eq!(rows as u64, file.rows);
    }
    concat_batches(&staged.schema, &batches).unwrap()
}

/// The rows as text, cells between bars, NULL as `~`.
pub(crate) fn lines(staged: &Staged) -> Vec<String> {
    let batch = rows(staged);
    let format = FormatOptions::default().with_null("~");
    let arrays: Vec<_> = batch.columns().iter().map(with_offset).collect();
    let columns: Vec<_> = arrays
        .iter()
        .map(|column| ArrayFormatter::try_new(column.as_ref(), &format).unwrap())
        .collect();
    (0..batch.num_rows())
        .map(|row| {
            columns
                .iter()
                .map(|column| column.value(row).to_string())
                .collect::<Vec<_>>()
                .join("|")
        })
        .collect()
}

/// Formatting a named zone takes a database of zones that arrow need not have.
fn with_offset(array: &ArrayRef) -> ArrayRef {
    match array.data_type() {
        DataType::Timestamp(TimeUnit::Microsecond, Some(zone)) if &**zone == "UTC" => {
            let micros = array.as_primitive::<TimestampMicrosecondType>().clone();
            Arc::new(micros.with_timezone("+00:00"))
        }
        _ => Arc::clone(array),
    }
}

/// The columns as `name:type`.
pub(crate) fn columns(schema: &SchemaRef) -> String {
    let column =
        |field: &Arc<Field>| format!("{}:{}", field.name(), schema::type_name(field.data_type()));
    schema
        .fields()
        .iter()
        .map(column)
        .collect::<Vec<_>>()
        .join(" ")
}

/// A result, and the directory that it lies in.
#[derive(Debug)]
pub(crate) struct Kept {
    staged: Staged,
    _dir: tempfile::TempDir,
}

impl std::ops::Deref for Kept {
    type Target = Staged;

    fn deref(&self) -> &Staged {
        &self.staged
    }
}

/// Ingests text as a format; checks that an error leaves nothing behind.
pub(crate) fn ingest_text(body: &[u8], format: FileFormat) -> Result<Kept, IngestError> {
    let (dir, mut options) = options();
    options.format = Some(format);
    match ingest_blocks(body, &options, BLOCK_BYTES) {
        Ok(staged) => Ok(Kept { staged, _dir: dir }),
        Err(error) => {
            assert_eq!(
                std::fs::read_dir(dir.path()).unwrap().count(),
                0,
                "an error leaves nothing behind"
            );
            Err(error)
        }
    }
}

fn error_of(body: &[u8], format: FileFormat) -> IngestError {
    ingest_text(body, format).expect_err("the body is broken")
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_small_csv_becomes_typed_columns_and_one_file() {
    let (_dir, options) = options();
    let body = b"id,name,at\n1,ada,2020-01-01\n2,,2020-01-02\n";
    let staged = ingest_reader(&body[..], &options).unwrap();
    assert_eq!(columns(&staged.schema), "id:int64 name:string at:date32");
    assert_eq!(lines(&staged), ["1|ada|2020-01-01", "2|~|2020-01-02"]);
    assert_eq!((staged.rows, staged.files.len(), staged.batches), (2, 1, 1));
    assert_eq!(staged.source_bytes, body.len() as u64);
    assert_eq!(
        staged.source_blake3,
        blake3::hash(body).to_hex().to_string()
    );
    let bytes = std::fs::read(&staged.files[0].path).unwrap();
    assert_eq!(
        staged.files[0].blake3,
        blake3::hash(&bytes).to_hex().to_string()
    );
    assert_eq!(staged.files[0].bytes, bytes.len() as u64);
}

#[test]
fn the_files_go_with_the_result_unless_they_are_kept() {
    let (dir, options) = options();
    drop(ingest_reader(&b"a\n1\n"[..], &options).unwrap());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    let staged = ingest_reader(&b"a\n1\n"[..], &options).unwrap();
    let file = staged.files[0].path.clone();
    staged.dir.keep();
    assert!(file.exists());
}

#[test]
fn gzip_of_several_members_and_zstd_are_taken_off() {
    let (_dir, options) = options();
    let plain = b"a,b\n1,x\n2,y\n";
    let members = [gzip(&plain[..6]), gzip(&plain[6..])].concat();
    let zstd = zstd::encode_all(&plain[..], 3).unwrap();
    for body in [members, zstd] {
        let staged = ingest_reader(&body[..], &options).unwrap();
        assert_eq!(lines(&staged), ["1|x", "2|y"]);
        assert_eq!(
            staged.source_blake3,
            blake3::hash(&body).to_hex().to_string()
        );
    }
}

#[test]
fn a_compressed_body_is_read_again_when_its_types_widen() {
    let (_dir, options) = options();
    let mut plain = b"a\n".to_vec();
    for row in 0..1000 {
        plain.extend_from_slice(format!("{row}\n").as_bytes());
    }
    plain.extend_from_slice(b"x\n");
    let staged = ingest_blocks(&gzip(&plain), &options, 64).unwrap();
    assert_eq!(columns(&staged.schema), "a:string");
    assert_eq!(staged.rows, 1001);
}

#[test]
fn a_body_cut_short_in_its_compression_is_an_error() {
    let whole = gzip(&b"a,b\n1,2\n".repeat(100));
    let error = error_of(&whole[..whole.len() - 9], FileFormat::Csv);
    assert!(
        matches!(error, IngestError::Compression { codec: "gzip" }),
        "{error:?}"
    );
    let whole = zstd::encode_all(&b"a,b\n1,2\n".repeat(100)[..], 3).unwrap();
    let error = error_of(&whole[..whole.len() - 3], FileFormat::Csv);
    assert!(
        matches!(error, IngestError::Compression { codec: "zstd" }),
        "{error:?}"
    );
}

#[test]
fn a_bomb_is_refused_long_before_it_is_whole() {
    let bomb = zstd::encode_all(std::io::repeat(b'a').take(1 << 30), 1).unwrap();
    let error = error_of(&bomb, FileFormat::Csv);
    assert!(
        matches!(
            error,
            IngestError::Bomb { ratio: 1000 } | IngestError::RowTooLong { .. }
        ),
        "{error:?}"
    );
    assert_eq!(error.kind(), IngestErrorKind::TooLarge);
}

#[test]
fn the_limits_of_bytes_hold() {
    let (_dir, mut options) = options();
    options.limits.body_bytes_max = 8;
    let error = ingest_reader(&b"a,b\n1,2\n3,4\n"[..], &options).unwrap_err();
    assert!(matches!(
        error,
        IngestError::TooLarge {
            what: "body",
            limit_bytes: 8
        }
    ));
    options.limits.body_bytes_max = 1 << 20;
    options.limits.uncompressed_bytes_max = 100;
    let error = ingest_reader(&gzip(&b"a\n".repeat(100))[..], &options).unwrap_err();
    assert!(matches!(
        error,
        IngestError::TooLarge {
            what: "decompressed body",
            ..
        }
    ));
}

#[test]
fn a_body_without_content_is_empty() {
    for body in [&b""[..], b"\n \n", &gzip(b"")] {
        let (_dir, options) = options();
        assert!(matches!(
            ingest_reader(body, &options),
            Err(IngestError::Empty)
        ));
    }
    for format in [
        FileFormat::Csv,
        FileFormat::Ndjson,
        FileFormat::JsonArray,
        FileFormat::Parquet,
    ] {
        assert!(matches!(error_of(b"", format), IngestError::Empty));
    }
}

#[test]
fn a_cancelled_ingest_stops_and_leaves_nothing() {
    let (dir, options) = options();
    options.progress.cancel();
    let error = ingest_reader(&b"a\n1\n"[..], &options).unwrap_err();
    assert_eq!(error.kind(), IngestErrorKind::Cancelled);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_body_comes_through_a_channel_and_one_that_breaks_off_is_refused() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    for complete in [true, false] {
        let (_dir, options) = options();
        let (sender, reader) = ChannelReader::bounded(2);
        let worker =
            std::thread::spawn(move || ingest_reader(reader, &options).map(|staged| staged.rows));
        runtime.block_on(async move {
            for part in ["a,b\n1", ",2\n3,", "4\n"] {
                sender.send(part.into()).await.unwrap();
            }
            if complete {
                sender.finish().await.unwrap();
            }
        });
        let result = worker.join().unwrap();
        if complete {
            assert_eq!(result.unwrap(), 2);
        } else {
            assert_eq!(result.unwrap_err().kind(), IngestErrorKind::Disconnected);
        }
    }
}

#[test]
fn a_file_is_read_where_it_lies() {
    let (dir, options) = options();
    let path = dir.path().join("people.csv");
    std::fs::write(&path, "a;b\n1;2,5\n").unwrap();
    let staged = ingest_file(&path, &options).unwrap();
    assert_eq!(lines(&staged), ["1|2,5"]);
    drop(staged);
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        1,
        "the file itself stays"
    );
}

#[test]
fn errors_of_text_have_the_same_place_whatever_the_blocks() {
    let quoted = "a,b\n\"x\ny\",2\n3,4\n".to_owned() + &"5,6\n".repeat(50);
    for (body, expected) in [
        (
            quoted.clone() + "7\n8,9\n",
            "line 55: expected 2 fields, found 1",
        ),
        (
            quoted.clone() + "7,8,9\n",
            "line 55: expected 2 fields, found 3",
        ),
        (
            quoted.clone() + "7,\"8\n9,10\n",
            "line 55: a quote opened here is never closed",
        ),
        (
            quoted.clone() + "7,\"8\"9\n",
            "line 55, column 6: text after a closing quote",
        ),
        (
            quoted.clone() + "é,\0\n",
            "line 55, column 3: NUL byte in text",
        ),
    ] {
        for block_bytes in [8, 64, BLOCK_BYTES] {
            let (_dir, mut options) = options();
            options.format = Some(FileFormat::Csv);
            let error = ingest_blocks(body.as_bytes(), &options, block_bytes).unwrap_err();
            assert_eq!(error.to_string(), expected, "blocks of {block_bytes}");
        }
    }
    let mut bad = quoted.into_bytes();
    bad.extend_from_slice(b"\xC3\xA9\xFF,1\n");
    for block_bytes in [8, 64, BLOCK_BYTES] {
        let (_dir, options) = options();
        let error = ingest_blocks(&bad, &options, block_bytes).unwrap_err();
        assert_eq!(error.to_string(), "line 55, column 2: invalid UTF-8");
    }
}

#[test]
fn the_first_error_of_the_input_wins_over_later_ones() {
    for block_bytes in [4, 16, BLOCK_BYTES] {
        let (_dir, options) = options();
        let error =
            ingest_blocks(b"a,b\n1,2\n3\n4,5\n\xFF,1\n6\n", &options, block_bytes).unwrap_err();
        assert_eq!(error.line(), Some(3), "{error}");
    }
}

#[test]
fn a_large_input_makes_several_row_groups_in_order() {
    let (_dir, mut options) = options();
    options.key = vec!["n".into()];
    let mut body = b"n,s\n".to_vec();
    for row in 0..600_000 {
        body.extend_from_slice(format!("{row},{}\n", row % 7).as_bytes());
    }
    let staged = ingest_reader(&body[..], &options).unwrap();
    assert_eq!(staged.rows, 600_000);
    assert!(staged.files[0].sorted_by_key);
    let all = rows(&staged);
    let numbers = all.column(0).as_primitive::<arrow::datatypes::Int64Type>();
    assert!(
        numbers
            .values()
            .iter()
            .enumerate()
            .all(|(row, value)| usize::try_from(*value) == Ok(row))
    );
    let input = File::open(&staged.files[0].path).unwrap();
    let metadata = ParquetRecordBatchReaderBuilder::try_new(input)
        .unwrap()
        .metadata()
        .clone();
    assert!(metadata.num_row_groups() > 1);
    assert!(
        metadata
            .row_group(0)
            .column(0)
            .column_index_length()
            .is_some(),
        "the page index is there"
    );
    assert!(metadata.row_group(0).column(0).statistics().is_some());
}
