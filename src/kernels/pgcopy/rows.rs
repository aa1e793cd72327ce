//! The binary `COPY` format: bytes in chunks of any size become record batches.
//! It holds one batch and at most one cut field.

use std::collections::VecDeque;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;

use super::CopyError;
use super::columns::ColumnBuilder;
use super::text::FieldError;
use super::wire::Wire;

const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";
/// Signature, flags, length of the extension.
const HEADER_BYTES: usize = 19;
/// A batch is handed on when it holds this much, however few rows that are.
const BATCH_BYTES: usize = 16 << 20;
/// How many rows pass between two looks at what the builders hold, in rows.
const WEIGH_EVERY: usize = 64;

/// Decodes one `COPY … TO STDOUT (FORMAT binary)` after the other into batches of one schema.
pub struct RowDecoder {
    schema: SchemaRef,
    columns: Vec<ColumnBuilder>,
    batch_rows: usize,
    /// Rows and bytes in the builders, and rows handed over since the beginning.
    rows: usize,
    bytes: usize,
    rows_before: u64,
    at: At,
    /// The beginning of a field whose end is in the next chunk.
    cut: Vec<u8>,
    ready: VecDeque<RecordBatch>,
}

/// What the next byte begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Header,
    Row,
    Field(usize),
    End,
}

impl RowDecoder {
    /// A decoder for columns of these types, in the order of the schema.
    pub fn new(schema: SchemaRef, wires: &[Wire], batch_rows: usize) -> Self {
        // Builders grow as needed: a small table must not cost the room of a large batch.
        const FIRST_ROWS: usize = 1024;
        let room = batch_rows.min(FIRST_ROWS);
        Self {
            schema,
            columns: wires
                .iter()
                .map(|wire| ColumnBuilder::new(wire, room))
                .collect(),
            batch_rows: batch_rows.max(1),
            rows: 0,
            bytes: 0,
            rows_before: 0,
            at: At::Header,
            cut: Vec::new(),
            ready: VecDeque::new(),
        }
    }

    /// Rows decoded since the beginning.
    pub fn rows(&self) -> u64 {
        self.rows_before + self.rows as u64
    }

    /// The next batch that is full.
    pub fn take_ready(&mut self) -> Option<RecordBatch> {
        self.ready.pop_front()
    }

    /// Whether a batch is full.
    pub fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Takes the next chunk of the stream.
    ///
    /// # Errors
    /// [`CopyError::Protocol`] and [`CopyError::Value`].
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), CopyError> {
        if self.cut.is_empty() {
            let used = self.consume(chunk)?;
            self.cut.extend_from_slice(&chunk[used..]);
            return Ok(());
        }
        let mut joined = std::mem::take(&mut self.cut);
        joined.extend_from_slice(chunk);
        let used = self.consume(&joined)?;
        joined.drain(..used);
        self.cut = joined;
        Ok(())
    }

    /// Ends one `COPY`; the next one may follow.
    ///
    /// # Errors
    /// [`CopyError::Protocol`] when the trailer is missing.
    pub fn end_of_copy(&mut self) -> Result<(), CopyError> {
        if self.at != At::End {
            return Err(protocol("it ended without its trailer"));
        }
        self.at = At::Header;
        Ok(())
    }

    /// The rows that are left, if there are any.
    ///
    /// # Errors
    /// [`CopyError::Value`] for text that is no UTF-8.
    pub fn flush(&mut self) -> Result<Option<RecordBatch>, CopyError> {
        if self.rows > 0 {
            self.finish_batch()?;
        }
        Ok(self.ready.pop_front())
    }

    /// Columns of which values became null on the way, and how many did.
    pub fn nulled(&self) -> Vec<(String, u64)> {
        let fields = self.schema.fields().iter().zip(&self.columns);
        fields
            .map(|(field, column)| (field.name().clone(), column.unrepresentable()))
            .filter(|(_, count)| *count > 0)
            .collect()
    }

    /// Decodes as far as `bytes` reaches and returns how many of them it needs no more.
    fn consume(&mut self, bytes: &[u8]) -> Result<usize, CopyError> {
        let mut rest = bytes;
        loop {
            let more = match self.at {
                At::Header => self.header(&mut rest)?,
                At::Row => self.row(&mut rest)?,
                At::Field(first) => self.fields(first, &mut rest)?,
                At::End if rest.is_empty() => false,
                At::End => return Err(protocol("bytes follow its trailer")),
            };
            if !more {
                return Ok(bytes.len() - rest.len());
            }
        }
    }

    fn header(&mut self, rest: &mut &[u8]) -> Result<bool, CopyError> {
        let Some((head, after)) = rest.split_at_checked(HEADER_BYTES) else {
            return Ok(false);
        };
        let (signature, numbers) = head.split_at(SIGNATURE.len());
        // The upper half of the flags are those that a reader must know; it knows none.
        if signature != SIGNATURE || numbers[..2] != [0, 0] {
            return Err(protocol("it does not begin like a binary COPY"));
        }
        let extension = u32::from_be_bytes([numbers[4], numbers[5], numbers[6], numbers[7]]);
        let Some(after) = after.get(extension as usize..) else {
            return Ok(false);
        };
        *rest = after;
        self.at = At::Row;
        Ok(true)
    }

    fn row(&mut self, rest: &mut &[u8]) -> Result<bool, CopyError> {
        let Some((head, after)) = rest.split_first_chunk::<2>() else {
            return Ok(false);
        };
        *rest = after;
        let count = i16::from_be_bytes(*head);
        if count == -1 {
            self.at = At::End;
        } else if usize::try_from(count) == Ok(self.columns.len()) {
            self.at = At::Field(0);
        } else {
            return Err(protocol("a row has another number of columns"));
        }
        Ok(true)
    }

    fn fields(&mut self, first: usize, rest: &mut &[u8]) -> Result<bool, CopyError> {
        for index in first..self.columns.len() {
            let Some((head, after)) = rest.split_first_chunk::<4>() else {
                self.at = At::Field(index);
                return Ok(false);
            };
            let length = i32::from_be_bytes(*head);
            let (field, after) = if length == -1 {
                (None, after)
            } else {
                let length =
                    usize::try_from(length).map_err(|_| protocol("a field has no length"))?;
                let Some((field, after)) = after.split_at_checked(length) else {
                    self.at = At::Field(index);
                    return Ok(false);
                };
                (Some(field), after)
            };
            if let Err(reason) = self.columns[index].append(field) {
                return Err(self.value_error(index, reason));
            }
            self.bytes += field.map_or(0, <[u8]>::len);
            *rest = after;
        }
        self.at = At::Row;
        self.rows += 1;
        if self.is_full() {
            self.finish_batch()?;
        }
        Ok(true)
    }

    /// Some values are much larger decoded than sent, so now and then the builders are asked too.
    fn is_full(&self) -> bool {
        self.rows >= self.batch_rows
            || self.bytes >= BATCH_BYTES
            || (self.rows.is_multiple_of(WEIGH_EVERY)
                && self.columns.iter().map(ColumnBuilder::bytes).sum::<usize>() >= BATCH_BYTES)
    }

    fn finish_batch(&mut self) -> Result<(), CopyError> {
        let mut arrays: Vec<ArrayRef> = Vec::with_capacity(self.columns.len());
        for index in 0..self.columns.len() {
            match self.columns[index].finish() {
                Ok(array) => arrays.push(array),
                Err(reason) => return Err(self.value_error(index, reason)),
            }
        }
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows));
        let batch = RecordBatch::try_new_with_options(self.schema.clone(), arrays, &options)
            .map_err(|error| protocol(&error.to_string()))?;
        self.ready.push_back(batch);
        self.rows_before += self.rows as u64;
        self.rows = 0;
        self.bytes = 0;
        Ok(())
    }

    fn value_error(&self, index: usize, reason: FieldError) -> CopyError {
        CopyError::Value {
            column: self.schema.field(index).name().clone(),
            reason,
        }
    }
}

fn protocol(reason: &str) -> CopyError {
    CopyError::Protocol {
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::AsArray;
    use arrow::compute::concat_batches;
    use arrow::datatypes::{Field, Int32Type, Schema};

    use super::super::wire::TextWire;
    use super::*;

    fn decoder(batch_rows: usize) -> RowDecoder {
        let wires = [
            Wire::Int4,
            Wire::Text(TextWire::Plain),
            Wire::List(Box::new(Wire::Int4)),
        ];
        let fields = wires.iter().zip(["id", "name", "list"]);
        let fields: Vec<Field> = fields
            .map(|(wire, name)| Field::new(name, wire.arrow(), true))
            .collect();
        RowDecoder::new(Arc::new(Schema::new(fields)), &wires, batch_rows)
    }

    fn field(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
        let length = bytes.map_or(-1, |bytes| i32::try_from(bytes.len()).expect("short"));
        out.extend(length.to_be_bytes());
        out.extend(bytes.unwrap_or_default());
    }

    fn list(items: &[Option<i32>]) -> Vec<u8> {
        let mut out = Vec::new();
        for word in [1, 1, 23, i32::try_from(items.len()).expect("short"), 1] {
            out.extend(word.to_be_bytes());
        }
        for item in items {
            field(
                &mut out,
                item.map(i32::to_be_bytes).as_ref().map(<[u8; 4]>::as_slice),
            );
        }
        out
    }

    fn stream() -> Vec<u8> {
        let mut out = SIGNATURE.to_vec();
        out.extend([0, 0, 0, 0, 0, 0, 0, 3, b'e', b'x', b't']);
        for id in 0..100_i32 {
            out.extend(3_i16.to_be_bytes());
            field(
                &mut out,
                (id % 7 != 0)
                    .then_some(id.to_be_bytes())
                    .as_ref()
                    .map(<[u8; 4]>::as_slice),
            );
            let name = "ö".repeat(usize::try_from(id % 5).expect("small"));
            field(&mut out, (id % 3 != 0).then_some(name.as_bytes()));
            field(
                &mut out,
                (id % 4 != 0).then(|| list(&[Some(id), None])).as_deref(),
            );
        }
        out.extend((-1_i16).to_be_bytes());
        out
    }

    fn decode(chunks: impl Iterator<Item = Vec<u8>>, batch_rows: usize) -> RecordBatch {
        let mut decoder = decoder(batch_rows);
        for chunk in chunks {
            decoder.push(&chunk).expect("a well formed chunk");
        }
        decoder.end_of_copy().expect("the trailer");
        let mut batches = Vec::new();
        while let Some(batch) = decoder
            .take_ready()
            .or_else(|| decoder.flush().expect("a batch"))
        {
            assert!(batch.num_rows() <= batch_rows);
            batches.push(batch);
        }
        assert_eq!(decoder.rows(), 100);
        concat_batches(&batches[0].schema(), &batches).expect("one schema")
    }

    #[test]
    fn a_stream_cut_anywhere_decodes_to_the_same_rows() {
        let bytes = stream();
        let whole = decode(std::iter::once(bytes.clone()), 1000);
        assert_eq!(whole.num_rows(), 100);
        assert_eq!(whole.column(0).as_primitive::<Int32Type>().value(99), 99);
        assert_eq!(whole.column(1).as_string::<i32>().value(4), "öööö");
        assert_eq!(whole.column(1).null_count(), 34);
        for size in 1..40 {
            let chunks = bytes.chunks(size).map(<[u8]>::to_vec);
            assert_eq!(decode(chunks, 17), whole, "chunks of {size}");
        }
        for cut in 0..bytes.len() {
            let halves = [bytes[..cut].to_vec(), bytes[cut..].to_vec()];
            assert_eq!(decode(halves.into_iter(), 64), whole, "cut at {cut}");
        }
    }

    #[test]
    fn a_stream_without_its_trailer_is_an_error() {
        let bytes = stream();
        for cut in 0..bytes.len() {
            let mut decoder = decoder(10);
            decoder
                .push(&bytes[..cut])
                .expect("what is there is well formed");
            assert!(decoder.end_of_copy().is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn a_damaged_stream_is_an_error_and_never_a_panic() {
        let bytes = stream();
        let mut refused = 0;
        for at in 0..bytes.len() {
            for bit in [0, 5, 7] {
                let mut bytes = bytes.clone();
                bytes[at] ^= 1 << bit;
                let mut decoder = decoder(10);
                let pushed = decoder.push(&bytes).and_then(|()| decoder.end_of_copy());
                refused += usize::from(pushed.and_then(|()| decoder.flush().map(|_| ())).is_err());
            }
        }
        assert!(refused > bytes.len(), "most damage is noticed: {refused}");
    }
}
