//! Rows to send, in every format that an ingest takes: the same small table as CSV, NDJSON, JSON, Parquet and Arrow IPC.
//! Pure, but for compressing.

use std::fmt::Write as _;
use std::sync::Arc;

use arrow::array::{Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use async_compression::tokio::write::{GzipEncoder, ZstdEncoder};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;

/// One row of the small table.
pub type Person = (i64, &'static str, f64);

/// The small table: `id`, `name`, `score`.
pub const PEOPLE: [Person; 4] = [
    (1, "ada", 1.5),
    (2, "grace", 2.5),
    (3, "edsger", 3.5),
    (4, "barbara", 4.5),
];

/// As CSV with a header.
pub fn csv(rows: &[Person]) -> String {
    let mut text = String::from("id,name,score\n");
    for (id, name, score) in rows {
        writeln!(text, "{id},{name},{score}").unwrap();
    }
    text
}

/// As one JSON object a line.
pub fn ndjson(rows: &[Person]) -> String {
    let mut text = String::new();
    for (id, name, score) in rows {
        writeln!(text, "{}", json!({"id": id, "name": name, "score": score})).unwrap();
    }
    text
}

/// As one JSON array.
pub fn json_array(rows: &[Person]) -> String {
    let item = |(id, name, score): &Person| json!({"id": id, "name": name, "score": score});
    serde_json::Value::Array(rows.iter().map(item).collect()).to_string()
}

/// As a Parquet file.
pub fn parquet(rows: &[Person]) -> Vec<u8> {
    let batch = batch(rows);
    let mut bytes = Vec::new();
    let mut writer =
        parquet::arrow::ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    bytes
}

/// As an Arrow IPC stream.
pub fn arrow_stream(rows: &[Person]) -> Vec<u8> {
    let batch = batch(rows);
    let mut bytes = Vec::new();
    let mut writer =
        arrow::ipc::writer::StreamWriter::try_new(&mut bytes, &batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
    drop(writer);
    bytes
}

/// The batches of an Arrow IPC stream.
pub fn read_arrow_stream(bytes: &[u8]) -> Vec<RecordBatch> {
    let reader = arrow::ipc::reader::StreamReader::try_new(bytes, None).unwrap();
    reader.map(Result::unwrap).collect()
}

/// Compressed with gzip.
pub async fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzipEncoder::new(Vec::new());
    encoder.write_all(bytes).await.unwrap();
    encoder.shutdown().await.unwrap();
    encoder.into_inner()
}

/// Compressed with zstd.
pub async fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZstdEncoder::new(Vec::new());
    encoder.write_all(bytes).await.unwrap();
    encoder.shutdown().await.unwrap();
    encoder.into_inner()
}

fn batch(rows: &[Person]) -> RecordBatch {
    let schema = Schema::new(vec![
        Field::new("id", DataType::Int64, true),
        Field::new("name", DataType::Utf8, true),
        Field::new("score", DataType::Float64, true),
    ]);
    let ids: Int64Array = rows.iter().map(|row| Some(row.0)).collect();
    let names: StringArray = rows.iter().map(|row| Some(row.1)).collect();
    let scores: Float64Array = rows.iter().map(|row| Some(row.2)).collect();
    RecordBatch::try_new(
        Arc::new(schema),
        vec![Arc::new(ids), Arc::new(names), Arc::new(scores)],
    )
    .unwrap()
}
