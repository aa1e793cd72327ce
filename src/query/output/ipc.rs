//! Answers as an Arrow IPC stream, with the types that a dataset says it has: strings and bytes that
//! the engine keeps as views leave as plain ones, which every reader of Arrow knows.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray},
    compute::cast,
    datatypes::{DataType, Field, Schema, SchemaRef},
    error::ArrowError,
    ipc::writer::StreamWriter,
    record_batch::{RecordBatch, RecordBatchOptions},
};
use bytes::Bytes;
use futures::StreamExt;

use super::{ByteStream, CHUNKS_WAITING, QueryError, QueryStream, handed_on};

/// Bytes of text that one plain column may hold: its offsets have 32 bits.
const TEXT_BYTES_MAX: usize = 1 << 30;

/// Every row as an Arrow IPC stream.
pub fn arrow_ipc(mut stream: QueryStream) -> ByteStream {
    let (sender, receiver) = tokio::sync::mpsc::channel(CHUNKS_WAITING);
    stream.runtime().spawn(async move {
        let schema = plain_schema(stream.schema());
        let mut writer = match StreamWriter::try_new(Vec::new(), &schema) {
            Ok(writer) => writer,
            Err(error) => return drop(sender.send(Err(internal(&error))).await),
        };
        loop {
            let batch = tokio::select! {
                batch = stream.next() => batch,
                () = sender.closed() => return,
            };
            let last = batch.is_none();
            let written = match batch {
                None => writer.finish().map_err(|error| internal(&error)),
                Some(Ok(batch)) => write(&batch, &schema, &mut writer),
                Some(Err(error)) => Err(error),
            };
            let chunk = std::mem::take(writer.get_mut());
            if !chunk.is_empty() && !handed_on(Bytes::from(chunk), &sender, &mut stream).await {
                return;
            }
            if let Err(error) = written {
                return drop(sender.send(Err(error)).await);
            }
            if last {
                return;
            }
        }
    });
    Box::pin(tokio_stream::wrappers::ReceiverStream::new(receiver))
}

fn internal(error: &ArrowError) -> QueryError {
    QueryError::Internal(error.to_string())
}

/// Writes a batch, in halves where its text is too long for one.
fn write(
    batch: &RecordBatch,
    schema: &SchemaRef,
    writer: &mut StreamWriter<Vec<u8>>,
) -> Result<(), QueryError> {
    let rows = batch.num_rows();
    if rows > 1 && text_bytes(batch) > TEXT_BYTES_MAX {
        write(&batch.slice(0, rows / 2), schema, writer)?;
        return write(&batch.slice(rows / 2, rows - rows / 2), schema, writer);
    }
    let columns: Vec<ArrayRef> = batch
        .columns()
        .iter()
        .zip(schema.fields())
        .map(|(column, field)| {
            if column.data_type() == field.data_type() {
                Ok(Arc::clone(column))
            } else {
                cast(column, field.data_type())
            }
        })
        .collect::<Result<_, _>>()
        .map_err(|error| internal(&error))?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    let plain = RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
        .map_err(|error| internal(&error))?;
    writer.write(&plain).map_err(|error| internal(&error))
}

/// Bytes of the longest column of text.
fn text_bytes(batch: &RecordBatch) -> usize {
    let long = batch
        .columns()
        .iter()
        .map(|column| match column.data_type() {
            DataType::Utf8View => column.as_string_view().total_bytes_len(),
            DataType::BinaryView => column.as_binary_view().total_bytes_len(),
            _ => 0,
        });
    long.max().unwrap_or_default()
}

/// The schema with plain strings and bytes in the place of views.
fn plain_schema(schema: &Schema) -> SchemaRef {
    let fields: Vec<Field> = schema
        .fields()
        .iter()
        .map(|field| {
            let plain = match field.data_type() {
                DataType::Utf8View => DataType::Utf8,
                DataType::BinaryView => DataType::Binary,
                other => other.clone(),
            };
            field.as_ref().clone().with_data_type(plain)
        })
        .collect();
    Arc::new(Schema::new(fields))
}
