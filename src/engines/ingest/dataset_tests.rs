//! What a dataset asks of its rows: keys that are there, the newest row of a key, its schema.

use std::fs::File;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::tests::{ingest_blocks, lines, options};
use super::{BLOCK_BYTES, IngestError, IngestErrorKind, ingest_reader};

#[test]
fn the_last_row_of_a_key_supersedes_those_before_it() {
    let (_dir, mut options) = options();
    options.key = vec!["id".into()];
    let staged = ingest_blocks(b"id,v\n1,a\n2,b\n1,c\n3,d\n1,e\n", &options, 8).unwrap();
    let superseded: Vec<u64> = staged
        .files
        .iter()
        .scan(0, |offset, file| {
            let positions: Vec<u64> = file
                .superseded
                .iter()
                .map(|position| position + *offset)
                .collect();
            *offset += file.rows;
            Some(positions)
        })
        .flatten()
        .collect();
    assert_eq!(superseded, [0, 2]);
    assert_eq!(staged.superseded_rows, 2);
}

#[test]
fn keys_in_order_are_recorded_and_keys_out_of_order_start_another_file() {
    let (_dir, mut options) = options();
    options.key = vec!["id".into()];
    let staged = ingest_blocks(b"id\n1\n2\n3\n4\n5\n", &options, 4).unwrap();
    assert_eq!(staged.files.len(), 1);
    assert!(staged.files[0].sorted_by_key);
    let input = File::open(&staged.files[0].path).unwrap();
    let metadata = ParquetRecordBatchReaderBuilder::try_new(input)
        .unwrap()
        .metadata()
        .clone();
    let sorting = metadata.row_group(0).sorting_columns().unwrap();
    assert_eq!((sorting[0].column_idx, sorting[0].descending), (0, false));
    let staged = ingest_blocks(b"id\n1\n2\n3\n4\n5\n6\n7\n8\n9\n0\n5\n", &options, 4).unwrap();
    assert!(staged.files[0].sorted_by_key);
    assert!(!staged.files.last().unwrap().sorted_by_key);
    assert_eq!(lines(&staged).concat(), "12345678905");
}

#[test]
fn long_and_composite_keys_are_told_apart() {
    let (_dir, mut options) = options();
    options.key = vec!["a".into(), "b".into()];
    let long = "x".repeat(40);
    let body = format!("a,b\n{long}1,2\n{long},12\n{long}1,2\n");
    let staged = ingest_reader(body.as_bytes(), &options).unwrap();
    assert_eq!(
        staged
            .files
            .iter()
            .map(|file| file.superseded.len())
            .sum::<u64>(),
        1
    );
    assert!(staged.files[0].superseded.contains(0));
}

#[test]
fn a_row_without_a_key_is_an_error_with_its_line() {
    let (_dir, mut options) = options();
    options.key = vec!["id".into()];
    for block_bytes in [8, BLOCK_BYTES] {
        let error =
            ingest_blocks(b"id,v\n1,\"a\nb\"\n2,b\n,c\n", &options, block_bytes).unwrap_err();
        assert!(
            matches!(&error, IngestError::NullKey { column, row: 3, line: Some(5) } if column == "id"),
            "{error:?}"
        );
        let error = ingest_blocks(b"{\"id\":1}\n\n{\"v\":2}\n", &options, block_bytes).unwrap_err();
        assert!(
            matches!(
                &error,
                IngestError::NullKey {
                    row: 2,
                    line: Some(3),
                    ..
                }
            ),
            "{error:?}"
        );
    }
    options.key = vec!["nope".into()];
    let error = ingest_blocks(b"id\n1\n", &options, 8).unwrap_err();
    assert!(matches!(error, IngestError::KeyColumnMissing { .. }));
}

#[test]
fn rows_go_into_the_expected_schema_by_name() {
    let (_dir, mut options) = options();
    options.expected = Some(Arc::new(Schema::new(vec![
        Field::new("name", DataType::Utf8, true),
        Field::new("small", DataType::Int16, true),
        Field::new("price", DataType::Decimal128(10, 2), true),
        Field::new("at", DataType::Timestamp(TimeUnit::Millisecond, None), true),
        Field::new("ratio", DataType::Float32, false),
    ])));
    let body = b"small,at,price,name,ratio\n7,2020-01-01T00:00:00,1.25,007,1\n,,,,2.5\n";
    let staged = ingest_reader(&body[..], &options).unwrap();
    assert_eq!(staged.schema, options.expected.clone().unwrap());
    assert_eq!(
        lines(&staged),
        ["007|7|1.25|2020-01-01T00:00:00|1.0", "~|~|~|~|2.5"]
    );
}

#[test]
fn every_column_that_differs_from_the_expected_schema_is_named() {
    let (_dir, mut options) = options();
    options.expected = Some(Arc::new(Schema::new(vec![
        Field::new("a", DataType::Int64, true),
        Field::new("b", DataType::Utf8, true),
        Field::new("d", DataType::Int64, false),
    ])));
    let missing_and_extra = ingest_blocks(b"a,c,d\n1,2.5,3\n", &options, 64).unwrap_err();
    assert_eq!(
        missing_and_extra.to_string(),
        "the columns do not match the dataset: `b` is missing (expected string); `c` is not expected (found float64)"
    );
    assert_eq!(missing_and_extra.kind(), IngestErrorKind::Conflict);
    let types = ingest_blocks(b"a,b,d\n1,x,1\n2,y,2\n3.5,z,\n", &options, 8).unwrap_err();
    assert_eq!(
        types.to_string(),
        "the columns do not match the dataset: `a` is float64, expected int64; `d` is int64 with NULL, expected int64"
    );
    let json = ingest_blocks(
        b"{\"a\":1,\"d\":1}\n{\"a\":\"x\",\"d\":2,\"e\":[1]}\n",
        &options,
        8,
    )
    .unwrap_err();
    assert_eq!(
        json.to_string(),
        "the columns do not match the dataset: `a` is string, expected int64; `e` is not expected (found list<int64>)"
    );
}
