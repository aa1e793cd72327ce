//! Parquet, Arrow IPC and record batches in: files are checked before they are decoded, and all is
//! rewritten to our own layout. `parquet_in` and `ipc_in` decode, `batches_in` takes what is decoded;
//! the `Rewriter` here takes their batches. Hostile input gives an error, never a panic and never an
//! allocation that its own size does not justify.

mod batches_in;
mod ipc_in;
mod parquet_in;

#[cfg(test)]
mod tests;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{ArrowNativeType, DataType, FieldRef, Schema, SchemaRef};

use super::Setup;
use super::error::IngestError;
use super::keys::KeyPlan;
use super::parallel::panic_text;
use super::schema::{
    check_expected, leaf_total, plain_schema, to_type, type_difference, type_name,
};
use super::writer::{Sink, Written};

pub use batches_in::ingest_batches;
pub(super) use ipc_in::ingest_ipc;
pub(super) use parquet_in::ingest_parquet;

/// Decoded bytes that are turned into plain arrays at a time.
const PART_BYTES: usize = 16 << 20;

#[allow(clippy::needless_pass_by_value)] // Errors go in as they come.
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
pub(super) struct Rewriter<'a> {
    format: &'static str,
    setup: &'a Setup,
    schema: SchemaRef,
    key: Option<KeyPlan>,
    sink: Sink,
    rows: u64,
    bytes: u64,
}

impl<'a> Rewriter<'a> {
    pub fn new(
        format: &'static str,
        found: &Schema,
        setup: &'a Setup,
    ) -> Result<Self, IngestError> {
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

    pub fn push(&mut self, batch: &RecordBatch) -> Result<(), IngestError> {
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

    /// Waits until all that was pushed is in files, and gives them.
    pub fn finish(self) -> Result<Written, IngestError> {
        self.sink.finish()
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
            arrays.push(stored(part, field)?);
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

/// A column of the batch in the type that it is stored in.
fn stored(part: &RecordBatch, field: &FieldRef) -> Result<ArrayRef, IngestError> {
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

/// Bytes of an array once it is plain; for a dictionary, what it would be at most.
fn plain_bytes(array: &ArrayRef) -> usize {
    let of_range =
        |values: &ArrayRef, from: usize, to: usize| plain_bytes(&values.slice(from, to - from));
    match array.data_type() {
        DataType::Utf8View => view_bytes(array.as_string_view().lengths()),
        DataType::BinaryView => view_bytes(array.as_binary_view().lengths()),
        DataType::Struct(_) => array.as_struct().columns().iter().map(plain_bytes).sum(),
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            let (from, to) = (list.offsets()[0], list.offsets()[list.len()]);
            of_range(list.values(), from.as_usize(), to.as_usize())
        }
        DataType::LargeList(_) => {
            let list = array.as_list::<i64>();
            let (from, to) = (list.offsets()[0], list.offsets()[list.len()]);
            of_range(list.values(), from.as_usize(), to.as_usize())
        }
        DataType::FixedSizeList(..) => plain_bytes(array.as_fixed_size_list().values()),
        DataType::Dictionary(..) => {
            let values = array.as_any_dictionary().values();
            let longest = (0..values.len())
                .map(|at| memory(&values.slice(at, 1)))
                .max();
            array.len() * longest.unwrap_or_default()
        }
        _ => memory(array),
    }
}

fn view_bytes(lengths: impl Iterator<Item = u32>) -> usize {
    lengths
        .map(|length| length as usize + size_of::<i32>())
        .sum()
}

fn memory(array: &ArrayRef) -> usize {
    let slice = array.to_data().get_slice_memory_size();
    slice.unwrap_or_else(|_| array.get_array_memory_size())
}
