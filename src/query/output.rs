//! Answers as bytes: JSON rows for a page, CSV and Arrow as streams without an end in memory.
//! Called by the edge with a `QueryStream`; the work is done on the query threads, and stops when
//! nobody takes the bytes.

mod cells;
mod ipc;

use std::pin::Pin;

use arrow::{datatypes::Schema, record_batch::RecordBatch};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use self::cells::Cells;
use super::{QueryError, QueryStream, schema::type_text};

pub use ipc::arrow_ipc;

/// Most bytes of rows in one JSON answer.
const JSON_BYTES_MAX: usize = 64 << 20;
/// Chunks that wait for a slow client before the query does.
const CHUNKS_WAITING: usize = 4;
/// Bytes of a CSV chunk, about.
const CHUNK_BYTES: usize = 64 << 10;

/// Bytes of an answer, chunk by chunk.
pub type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes, QueryError>> + Send>>;

/// A column of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ColumnDoc {
    /// Its name.
    pub name: String,
    /// Its Arrow type, in Arrow's words.
    #[serde(rename = "type")]
    pub data_type: String,
}

/// A page of rows.
#[derive(Debug, Serialize)]
pub struct JsonRows {
    /// The columns.
    pub columns: Vec<ColumnDoc>,
    /// The rows: an array of arrays of cells.
    pub rows: Box<RawValue>,
    /// How many rows.
    pub row_count: usize,
    /// Whether there are more than `limit`, or more than fits into one answer.
    pub truncated: bool,
}

/// The columns of a schema.
pub fn column_docs(schema: &Schema) -> Vec<ColumnDoc> {
    schema
        .fields()
        .iter()
        .map(|field| ColumnDoc {
            name: field.name().clone(),
            data_type: type_text(field.data_type()),
        })
        .collect()
}

/// Reads up to `limit` rows, and at most 64 MiB of them, as JSON.
///
/// # Errors
/// Whatever the query fails with.
pub async fn rows_json(mut stream: QueryStream, limit: usize) -> Result<JsonRows, QueryError> {
    let columns = column_docs(stream.schema());
    let mut page = Page {
        text: b"[".to_vec(),
        rows: 0,
        limit,
    };
    let mut truncated = false;
    while let Some(batch) = stream.next().await {
        if page.add(&batch?)? {
            truncated = true;
            break;
        }
    }
    page.text.push(b']');
    let text = String::from_utf8(page.text)
        .map_err(|_| QueryError::Internal("a cell that is not text".to_owned()))?;
    let rows = RawValue::from_string(text)
        .map_err(|error| QueryError::Internal(format!("rows as JSON: {error}")))?;
    Ok(JsonRows {
        columns,
        rows,
        row_count: page.rows,
        truncated,
    })
}

/// The cells of a batch as JSON, row by row.
///
/// # Errors
/// For a column that has no JSON form.
pub fn json_cells(batch: &RecordBatch) -> Result<Vec<Vec<serde_json::Value>>, QueryError> {
    let cells = Cells::of(batch)?;
    let row = |row: usize| {
        let mut text = Vec::new();
        cells.json_row(row, &mut text)?;
        serde_json::from_slice(&text)
            .map_err(|error| QueryError::Internal(format!("a row as JSON: {error}")))
    };
    (0..batch.num_rows()).map(row).collect()
}

/// Hands each row of a batch over as the JSON that a page has for it.
///
/// # Errors
/// [`QueryError::Internal`] when a cell has no JSON.
pub fn row_texts(batch: &RecordBatch, mut take: impl FnMut(&[u8])) -> Result<(), QueryError> {
    let cells = Cells::of(batch)?;
    let mut text = Vec::new();
    for row in 0..batch.num_rows() {
        text.clear();
        cells.json_row(row, &mut text)?;
        take(&text);
    }
    Ok(())
}

struct Page {
    text: Vec<u8>,
    rows: usize,
    limit: usize,
}

impl Page {
    /// Adds a batch; true when a row did not fit any more.
    fn add(&mut self, batch: &RecordBatch) -> Result<bool, QueryError> {
        let cells = Cells::of(batch)?;
        for row in 0..batch.num_rows() {
            if self.rows >= self.limit || self.text.len() >= JSON_BYTES_MAX {
                return Ok(true);
            }
            if self.rows > 0 {
                self.text.push(b',');
            }
            cells.json_row(row, &mut self.text)?;
            self.rows += 1;
        }
        Ok(false)
    }
}

/// How CSV is written.
#[derive(Debug, Clone, Copy, Default)]
pub struct CsvOptions {
    /// Put a `'` before text that a spreadsheet would take for a formula.
    pub escape_formulas: bool,
}

/// Every row as CSV: a header line once, CRLF, null as nothing and empty text as `""`.
pub fn csv(stream: QueryStream, options: CsvOptions) -> ByteStream {
    let mut text = Vec::new();
    let names = stream.schema().fields().iter().map(|field| field.name());
    for (index, name) in names.enumerate() {
        if index > 0 {
            text.push(b',');
        }
        cells::write_csv_text(name, options, &mut text);
    }
    text.extend_from_slice(b"\r\n");
    chunks(stream, text, move |batch, text| {
        let cells = Cells::of(batch)?;
        for row in 0..batch.num_rows() {
            cells.csv_row(row, options, text)?;
        }
        Ok(())
    })
}

/// Encodes a stream on the query threads; `head` goes first.
fn chunks(
    mut stream: QueryStream,
    head: Vec<u8>,
    mut encode: impl FnMut(&RecordBatch, &mut Vec<u8>) -> Result<(), QueryError> + Send + 'static,
) -> ByteStream {
    let (sender, receiver) = mpsc::channel(CHUNKS_WAITING);
    stream.runtime().spawn(async move {
        let mut text = head;
        loop {
            let batch = tokio::select! {
                batch = stream.next() => batch,
                () = sender.closed() => return,
            };
            let encoded = match &batch {
                None => Ok(()),
                Some(Ok(batch)) => encode(batch, &mut text),
                Some(Err(error)) => Err(error.clone()),
            };
            let done = batch.is_none() || encoded.is_err();
            if text.len() >= CHUNK_BYTES || (done && !text.is_empty()) {
                let chunk = Bytes::from(std::mem::take(&mut text));
                if !handed_on(chunk, &sender, &mut stream).await {
                    return;
                }
            }
            if let Err(error) = encoded {
                return drop(sender.send(Err(error)).await);
            }
            if done {
                return;
            }
        }
    });
    Box::pin(ReceiverStream::new(receiver))
}

/// Hands a chunk on; false when the answer ends here. A query that is told to end while its client
/// does not read lets its snapshot go first, and breaks the answer off, so that nobody takes it for
/// a whole one.
async fn handed_on(
    chunk: Bytes,
    sender: &mpsc::Sender<Result<Bytes, QueryError>>,
    stream: &mut QueryStream,
) -> bool {
    tokio::select! {
        sent = sender.send(Ok(chunk)) => sent.is_ok(),
        () = stream.expired() => {
            stream.end();
            drop(sender.send(Err(QueryError::SnapshotExpired)).await);
            false
        }
    }
}

#[cfg(test)]
mod tests;
