//! Parquet and Arrow IPC bodies: what is kept, what is made plain, and that broken ones are errors.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, DictionaryArray, Int32Builder, Int64Array, ListBuilder, MapBuilder, RecordBatch,
    StringArray, StringBuilder, StringViewArray, StructArray, TimestampNanosecondArray,
    UInt64Array,
};
use arrow::datatypes::{DataType, Field, Int32Type};
use arrow::ipc::CompressionType;
use arrow::ipc::writer::{FileWriter, IpcWriteOptions, StreamWriter};
use parquet::arrow::ArrowWriter;
use parquet::basic::Encoding;
use parquet::file::properties::WriterProperties;

use crate::engines::ingest::tests::{columns, ingest_text, lines};
use crate::engines::ingest::{FileFormat, IngestError, IngestErrorKind, Staged};

fn sample() -> RecordBatch {
    let dictionary: DictionaryArray<Int32Type> =
        vec![Some("x"), None, Some("x")].into_iter().collect();
    RecordBatch::try_from_iter_with_nullable([
        (
            "n",
            Arc::new(UInt64Array::from(vec![1, u64::MAX, 3])) as ArrayRef,
            false,
        ),
        (
            "s",
            Arc::new(StringViewArray::from(vec![
                "a",
                "b",
                "a string longer than twelve",
            ])) as _,
            true,
        ),
        ("d", Arc::new(dictionary) as _, true),
        (
            "t",
            Arc::new(TimestampNanosecondArray::from(vec![1, 2, 3]).with_timezone("+01:00")) as _,
            true,
        ),
    ])
    .unwrap()
}

fn parquet_of(batch: &RecordBatch) -> Vec<u8> {
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
    writer.write(batch).unwrap();
    writer.into_inner().unwrap()
}

fn stream_of(batch: &RecordBatch, compression: Option<CompressionType>) -> Vec<u8> {
    let options = IpcWriteOptions::default()
        .try_with_compression(compression)
        .unwrap();
    let mut writer =
        StreamWriter::try_new_with_options(Vec::new(), &batch.schema(), options).unwrap();
    writer.write(batch).unwrap();
    writer.finish().unwrap();
    writer.into_inner().unwrap()
}

fn file_of(batch: &RecordBatch) -> Vec<u8> {
    let mut writer = FileWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    writer.write(batch).unwrap();
    writer.finish().unwrap();
    writer.into_inner().unwrap()
}

fn check_sample(staged: &Staged) {
    let types: Vec<String> = staged
        .schema
        .fields()
        .iter()
        .map(|field| field.data_type().to_string())
        .collect();
    assert_eq!(
        types,
        [
            "UInt64",
            "Utf8",
            "Dictionary(Int32, Utf8)",
            "Timestamp(ns, \"+01:00\")"
        ]
    );
    assert_eq!(
        lines(staged),
        [
            "1|a|x|1970-01-01T01:00:00.000000001+01:00",
            "18446744073709551615|b|~|1970-01-01T01:00:00.000000002+01:00",
            "3|a string longer than twelve|x|1970-01-01T01:00:00.000000003+01:00",
        ]
    );
}

#[test]
fn types_are_kept_and_views_made_plain() {
    let batch = sample();
    check_sample(&ingest_text(&parquet_of(&batch), FileFormat::Parquet).unwrap());
    check_sample(&ingest_text(&file_of(&batch), FileFormat::ArrowIpc).unwrap());
    for compression in [
        None,
        Some(CompressionType::LZ4_FRAME),
        Some(CompressionType::ZSTD),
    ] {
        check_sample(&ingest_text(&stream_of(&batch, compression), FileFormat::ArrowIpc).unwrap());
    }
}

#[test]
fn nested_strings_and_values_written_as_differences_are_read() {
    let mut list = ListBuilder::new(StringBuilder::new());
    list.append_value([Some("a"), None, Some("a string longer than twelve")]);
    list.append_null();
    let inner: ArrayRef = Arc::new(StringArray::from(vec![Some("x"), None]));
    let fields = vec![Field::new("s", DataType::LargeUtf8, true)];
    let large = arrow::compute::cast(&inner, &DataType::LargeUtf8).unwrap();
    let nested = StructArray::new(fields.into(), vec![large], None);
    let batch = RecordBatch::try_from_iter([
        ("l", Arc::new(list.finish()) as ArrayRef),
        ("o", Arc::new(nested) as _),
    ])
    .unwrap();
    let properties = WriterProperties::builder()
        .set_dictionary_enabled(false)
        .set_encoding(Encoding::DELTA_BYTE_ARRAY)
        .build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    for body in [writer.into_inner().unwrap(), parquet_of(&batch)] {
        let staged = ingest_text(&body, FileFormat::Parquet).unwrap();
        let types: Vec<String> = staged
            .schema
            .fields()
            .iter()
            .map(|field| field.data_type().to_string())
            .collect();
        assert_eq!(types, ["List(Utf8)", "Struct(\"s\": LargeUtf8)"]);
        assert_eq!(
            lines(&staged),
            ["[a, ~, a string longer than twelve]|{s: x}", "~|{s: ~}"]
        );
    }
}

#[test]
fn files_without_rows_have_a_schema_and_no_file() {
    let empty = sample().slice(0, 0);
    for (body, format) in [
        (parquet_of(&empty), FileFormat::Parquet),
        (stream_of(&empty, None), FileFormat::ArrowIpc),
    ] {
        let staged = ingest_text(&body, format).unwrap();
        assert_eq!((staged.rows, staged.files.len()), (0, 0));
        assert!(columns(&staged.schema).starts_with("n:uint64 s:string"));
    }
}

#[test]
fn names_and_types_that_a_dataset_cannot_have_are_refused() {
    let one: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    for name in ["", "a"] {
        let batch = RecordBatch::try_from_iter([("a", one.clone()), (name, one.clone())]).unwrap();
        let error = ingest_text(&stream_of(&batch, None), FileFormat::ArrowIpc).unwrap_err();
        assert!(matches!(error, IngestError::ColumnName { .. }), "{error:?}");
    }
    let mut map = MapBuilder::new(None, StringBuilder::new(), Int32Builder::new());
    map.keys().append_value("k");
    map.values().append_value(1);
    map.append(true).unwrap();
    let batch = RecordBatch::try_from_iter([("m", Arc::new(map.finish()) as ArrayRef)]).unwrap();
    let error = ingest_text(&parquet_of(&batch), FileFormat::Parquet).unwrap_err();
    assert!(
        matches!(&error, IngestError::UnsupportedType { column, .. } if column == "m"),
        "{error:?}"
    );
}

#[test]
fn a_parquet_bomb_of_one_long_string_is_cut_into_parts_or_refused() {
    let long = "x".repeat(1 << 20);
    let batch = RecordBatch::try_from_iter([(
        "s",
        Arc::new(StringArray::from_iter_values(std::iter::repeat_n(
            &long, 64,
        ))) as ArrayRef,
    )])
    .unwrap();
    let staged = ingest_text(&parquet_of(&batch), FileFormat::Parquet).unwrap();
    assert_eq!(staged.rows, 64);
    assert!(staged.batches >= 4);
}

#[test]
fn every_byte_changed_and_every_cut_gives_rows_or_an_error_and_never_a_panic() {
    let batch = sample();
    let bodies = [
        (parquet_of(&batch), FileFormat::Parquet),
        (
            stream_of(&batch, Some(CompressionType::ZSTD)),
            FileFormat::ArrowIpc,
        ),
        (file_of(&batch), FileFormat::ArrowIpc),
    ];
    for (body, format) in bodies {
        for at in (0..body.len()).step_by(5) {
            for value in [0, 0xFF, body[at] ^ 0x10] {
                let mut changed = body.clone();
                changed[at] = value;
                match ingest_text(&changed, format) {
                    Ok(staged) => drop(staged),
                    Err(error) => assert_ne!(
                        error.kind(),
                        IngestErrorKind::Internal,
                        "byte {at}: {error:?}"
                    ),
                }
            }
        }
        for length in (1..body.len()).step_by(17) {
            if let Err(error) = ingest_text(&body[..length], format) {
                assert_eq!(
                    error.kind(),
                    IngestErrorKind::Invalid,
                    "{length} bytes: {error:?}"
                );
            } else {
                assert_eq!(
                    format,
                    FileFormat::ArrowIpc,
                    "a stream may end between two messages"
                );
            }
        }
    }
}
