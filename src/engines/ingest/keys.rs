//! Row keys: present in every row, in order or not, and which rows a later row replaces.
//! Parsers ask for a `KeySpan` per block, the writer joins the spans in file order, and
//! `mark_superseded` reads the key columns back when the spans do not show that no key comes twice.

use std::fs::File;
use std::hash::{BuildHasher, RandomState};

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::Schema;
use arrow::row::{RowConverter, Rows, SortField};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::errors::ParquetError;

use super::error::IngestError;
use super::staging::StagedFile;

/// Bytes of keys that are kept to show that none comes twice.
const ENDS_BYTES_MAX: usize = 32 << 20;
/// Rows whose keys are compared in one pass: 24 bytes each, 96 MiB.
const PASS_ROWS: u64 = 4 << 20;

/// Which columns of the written schema are the key.
#[derive(Clone, Debug)]
pub(super) struct KeyPlan {
    pub columns: Vec<usize>,
    names: Vec<String>,
    fields: Vec<SortField>,
}

/// A key in the bytes of `arrow::row`, which compare as the values do.
type Key = Box<[u8]>;

/// What the keys of one block look like, in the order of its rows.
#[derive(Clone, Debug)]
pub(super) struct KeySpan {
    /// No key is smaller than the one before it.
    sorted: bool,
    /// Every key is greater than the one before it.
    strict: bool,
    /// The first key and the last.
    ends: Option<(Key, Key)>,
}

impl KeyPlan {
    /// Finds the key columns; `None` when there is no key.
    pub fn new(schema: &Schema, key: &[String]) -> Result<Option<Self>, IngestError> {
        if key.is_empty() {
            return Ok(None);
        }
        let mut columns = Vec::with_capacity(key.len());
        let mut fields = Vec::with_capacity(key.len());
        for name in key {
            let (index, field) =
                schema
                    .column_with_name(name)
                    .ok_or_else(|| IngestError::KeyColumnMissing {
                        column: name.clone(),
                    })?;
            let field = SortField::new(field.data_type().clone());
            if !RowConverter::supports_fields(std::slice::from_ref(&field)) {
                return Err(IngestError::UnsupportedType {
                    column: name.clone(),
                    found: schema.field(index).data_type().to_string(),
                });
            }
            columns.push(index);
            fields.push(field);
        }
        Ok(Some(Self {
            columns,
            names: key.to_vec(),
            fields,
        }))
    }

    fn rows(&self, columns: &[arrow::array::ArrayRef]) -> Result<Rows, IngestError> {
        RowConverter::new(self.fields.clone())
            .and_then(|converter| converter.convert_columns(columns))
            .map_err(|error| IngestError::Internal(error.to_string()))
    }

    /// Looks at the keys of one block.
    ///
    /// # Errors
    /// `NullKey` with the row counted from 1 within the block.
    pub fn span(&self, batch: &RecordBatch) -> Result<KeySpan, IngestError> {
        let columns: Vec<_> = self
            .columns
            .iter()
            .map(|index| batch.column(*index).clone())
            .collect();
        for (column, name) in columns.iter().zip(&self.names) {
            if let Some(row) = first_null(column.as_ref()) {
                return Err(IngestError::NullKey {
                    column: name.clone(),
                    row: row as u64 + 1,
                    line: None,
                });
            }
        }
        let rows = self.rows(&columns)?;
        let (mut sorted, mut strict) = (true, true);
        let mut previous: Option<&[u8]> = None;
        let mut ends = None;
        for row in &rows {
            if let Some(before) = previous {
                strict &= before < row.data();
                sorted &= strict || before <= row.data();
            }
            previous = Some(row.data());
            if !sorted {
                break;
            }
        }
        if rows.num_rows() > 0 {
            let last = rows.row(rows.num_rows() - 1);
            ends = Some((rows.row(0).data().into(), last.data().into()));
        }
        Ok(KeySpan {
            sorted,
            strict,
            ends,
        })
    }
}

fn first_null(column: &dyn Array) -> Option<usize> {
    // Logical, for a dictionary whose values hold the NULL.
    let nulls = column.logical_nulls()?;
    (nulls.null_count() > 0).then(|| (0..nulls.len()).find(|row| nulls.is_null(*row)))?
}

/// The order of all keys so far, block by block in file order.
#[derive(Debug)]
pub(super) struct KeyOrder {
    last: Option<Key>,
    pub sorted: bool,
    /// First and last key of every block; nothing once the keys of a block did not increase, or these
    /// became too many.
    blocks: Option<Vec<(Key, Key)>>,
    /// Bytes of them.
    held: usize,
}

impl Default for KeyOrder {
    fn default() -> Self {
        Self {
            last: None,
            sorted: true,
            blocks: Some(Vec::new()),
            held: 0,
        }
    }
}

impl KeyOrder {
    /// Takes in the next block.
    pub fn push(&mut self, span: &KeySpan) {
        let Some((first, last)) = &span.ends else {
            return;
        };
        let before = self.last.as_deref();
        self.sorted &= span.sorted && before.is_none_or(|before| before <= &**first);
        self.held += first.len() + last.len() + size_of::<(Key, Key)>();
        if !span.strict || self.held > ENDS_BYTES_MAX {
            self.blocks = None;
        }
        if let Some(blocks) = &mut self.blocks {
            blocks.push((first.clone(), last.clone()));
        }
        self.last = Some(last.clone());
    }

    /// Whether it shows that no key came twice: keys increase in every block, and the blocks, in whatever
    /// order they came (a table is copied over several connections), lie apart.
    pub fn shows_unique(self) -> bool {
        self.blocks.is_some_and(|mut blocks| {
            blocks.sort_unstable();
            blocks.windows(2).all(|pair| pair[0].1 < pair[1].0)
        })
    }
}

/// A key in 16 bytes: itself when it is short, else a keyed 128-bit hash of it.
fn digest(key: &[u8], seeds: &(RandomState, RandomState)) -> (u64, u64) {
    if key.len() < 16 {
        let mut bytes = [0; 16];
        bytes[..key.len()].copy_from_slice(key);
        bytes[15] = u8::try_from(key.len()).expect("checked to be below 16");
        let (high, low) = bytes.split_at(8);
        let word = |half: &[u8]| u64::from_be_bytes(half.try_into().expect("half of 16 bytes"));
        return (word(high), word(low));
    }
    (seeds.0.hash_one(key), seeds.1.hash_one(key))
}

/// Marks in every file the rows whose key comes again later, in the same file or a later one.
/// Memory: 24 bytes for at most `PASS_ROWS` rows; more rows take more passes over the key columns.
pub(super) fn mark_superseded(
    files: &mut [StagedFile],
    plan: &KeyPlan,
) -> Result<u64, IngestError> {
    let rows: u64 = files.iter().map(|file| file.rows).sum();
    let passes = rows.div_ceil(PASS_ROWS);
    let seeds = (RandomState::new(), RandomState::new());
    let mut superseded = 0;
    for pass in 0..passes {
        let capacity = usize::try_from(rows / passes + rows / passes / 16).unwrap_or_default();
        let mut seen: Vec<(u64, u64, u64)> = Vec::with_capacity(capacity);
        let mut position = 0u64;
        for file in files.iter() {
            read_keys(file, plan, |key| {
                let (high, low) = digest(key, &seeds);
                // Mixed, as a short key is its own digest.
                let mixed = (high ^ low.rotate_left(29)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
                if (mixed >> 32) % passes == pass {
                    seen.push((high, low, position));
                }
                position += 1;
            })?;
        }
        seen.sort_unstable();
        for pair in seen.windows(2) {
            if (pair[0].0, pair[0].1) == (pair[1].0, pair[1].1) {
                insert_position(files, pair[0].2);
                superseded += 1;
            }
        }
    }
    Ok(superseded)
}

fn insert_position(files: &mut [StagedFile], position: u64) {
    let mut offset = position;
    for file in files {
        if offset < file.rows {
            file.superseded.insert(offset);
            return;
        }
        offset -= file.rows;
    }
}

fn read_keys(
    file: &StagedFile,
    plan: &KeyPlan,
    mut each: impl FnMut(&[u8]),
) -> Result<(), IngestError> {
    let input = File::open(&file.path).map_err(IngestError::Staging)?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(input).map_err(IngestError::Write)?;
    let mask = ProjectionMask::roots(builder.parquet_schema(), plan.columns.iter().copied());
    let reader = builder
        .with_projection(mask)
        .with_batch_size(16 * 1024)
        .build()
        .map_err(IngestError::Write)?;
    for batch in reader {
        let batch = batch.map_err(|error| IngestError::Write(ParquetError::from(error)))?;
        let columns = plan
            .names
            .iter()
            .filter_map(|name| batch.column_by_name(name).cloned())
            .collect::<Vec<_>>();
        for row in &plan.rows(&columns)? {
            each(row.data());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(blocks: &[(bool, u8, u8)]) -> KeyOrder {
        let mut order = KeyOrder::default();
        for &(strict, first, last) in blocks {
            order.push(&KeySpan {
                sorted: true,
                strict,
                ends: Some(([first].into(), [last].into())),
            });
        }
        order
    }

    #[test]
    fn keys_are_known_to_come_once_where_blocks_increase_and_lie_apart() {
        for (blocks, unique) in [
            (&[][..], true),
            (&[(true, 1, 4), (true, 5, 9)], true),
            (
                &[(true, 50, 54), (true, 1, 4), (true, 55, 59), (true, 5, 9)],
                true,
            ),
            (&[(true, 7, 7)], true),
            (&[(true, 1, 4), (true, 4, 9)], false),
            (&[(true, 50, 54), (true, 1, 51)], false),
            (&[(true, 50, 54), (true, 1, 90)], false),
            (&[(true, 1, 4), (true, 1, 4)], false),
            (&[(true, 1, 4), (false, 5, 9)], false),
            (&[(false, 1, 4), (true, 5, 9)], false),
        ] {
            assert_eq!(order(blocks).shows_unique(), unique, "{blocks:?}");
        }
        assert!(!order(&[(true, 5, 9), (true, 1, 4)]).sorted);
    }

    #[test]
    fn keys_that_are_large_are_not_kept_without_end() {
        let mut order = KeyOrder::default();
        let key = |number: u8| {
            let mut key = vec![0; ENDS_BYTES_MAX / 8];
            key[0] = number;
            key.into_boxed_slice()
        };
        for number in 0..4 {
            order.push(&KeySpan {
                sorted: true,
                strict: true,
                ends: Some((key(number), key(number))),
            });
        }
        assert!(order.blocks.is_none(), "they hold {} bytes", order.held);
        assert!(order.sorted);
    }
}
