//! Keys as the types of their columns have them, ready to be looked up: each as its row encoding, whose
//! bytes compare as the values do. Pure.

use std::{collections::HashMap, sync::Arc};

use arrow::{
    array::{Array, ArrayRef},
    compute::cast,
    datatypes::DataType,
    error::ArrowError,
    row::{RowConverter, Rows, SortField},
};

use crate::query::{
    QueryError,
    row_key::{not_looked_up, values},
};

/// The distinct values of the keys that were asked for; a slot is the number of one.
#[derive(Debug)]
pub(super) struct KeySet {
    /// The columns that a key is of, in order.
    columns: Vec<KeyColumn>,
    converter: RowConverter,
    slots: HashMap<Box<[u8]>, u32>,
    sieve: Sieve,
    /// The slot of each key that was asked for.
    slot_of_key: Vec<Option<u32>>,
    /// The first key of each slot.
    first_key: Vec<usize>,
}

/// One column of the keys that were asked for.
#[derive(Debug)]
struct KeyColumn {
    data_type: DataType,
    converter: RowConverter,
    /// The distinct values in order.
    sorted: Vec<Box<[u8]>>,
}

impl KeySet {
    /// Reads keys as values of columns of these types; what cannot be read has no slot.
    pub fn new(types: &[DataType], keys: &[String]) -> Result<Self, QueryError> {
        let types: Vec<DataType> = types.iter().map(looked_up_as).collect();
        let failed = |error: ArrowError| not_looked_up(&error);
        let columns = values(&types, keys).map_err(failed)?;
        let fields = types.iter().cloned().map(SortField::new).collect();
        let converter = RowConverter::new(fields).map_err(failed)?;
        let rows = converter.convert_columns(&columns).map_err(failed)?;
        let mut set = Self {
            columns: Vec::new(),
            converter,
            slots: HashMap::with_capacity(keys.len()),
            sieve: Sieve::new(keys.len()),
            slot_of_key: Vec::with_capacity(keys.len()),
            first_key: Vec::new(),
        };
        for (index, row) in rows.iter().enumerate() {
            let whole = columns.iter().all(|column| column.is_valid(index));
            let slot = whole.then(|| set.slot(row.as_ref(), index));
            set.slot_of_key.push(slot);
        }
        let whole = |index: usize| set.slot_of_key[index].is_some();
        let of_column = types.into_iter().zip(&columns);
        set.columns = of_column
            .map(|(data_type, column)| KeyColumn::new(data_type, column, &whole))
            .collect::<Result<_, _>>()
            .map_err(failed)?;
        Ok(set)
    }

    fn slot(&mut self, row: &[u8], key: usize) -> u32 {
        if let Some(slot) = self.slots.get(row) {
            return *slot;
        }
        let slot = u32::try_from(self.first_key.len()).expect("keys come in one request");
        self.slots.insert(row.into(), slot);
        self.sieve.add(row);
        self.first_key.push(key);
        slot
    }

    /// How many slots there are.
    pub fn len(&self) -> usize {
        self.first_key.len()
    }

    /// Whether no key could be read.
    pub fn is_empty(&self) -> bool {
        self.first_key.is_empty()
    }

    /// The slot of the key at `index` of those asked for.
    pub fn slot_of(&self, index: usize) -> Option<u32> {
        self.slot_of_key[index]
    }

    /// Which of the keys asked for came first in a slot.
    pub fn first_key(&self, slot: u32) -> usize {
        self.first_key[slot as usize]
    }

    /// For each row of key columns its slot; none where nobody asked for it, or a column is null.
    pub fn slots(&self, columns: &[ArrayRef]) -> Result<Vec<Option<u32>>, QueryError> {
        let typed = self.columns.iter().zip(columns);
        let columns = typed
            .map(|(key, column)| as_type(column, &key.data_type))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| internal(&error))?;
        let rows = self
            .converter
            .convert_columns(&columns)
            .map_err(|error| internal(&error))?;
        let slot = |(index, row): (usize, arrow::row::Row<'_>)| {
            let row = row.data();
            if !self.sieve.may_have(row) {
                return None;
            }
            let known = self.slots.get(row).copied();
            known.filter(|_| columns.iter().all(|column| column.is_valid(index)))
        };
        Ok(rows.iter().enumerate().map(slot).collect())
    }

    /// Whether the keys have a value of column `nth` between the bounds, for each pair; an unknown bound
    /// may hold any.
    pub fn between(
        &self,
        nth: usize,
        mins: &ArrayRef,
        maxes: &ArrayRef,
    ) -> Result<Vec<bool>, QueryError> {
        self.columns[nth]
            .between(mins, maxes)
            .map_err(|error| internal(&error))
    }
}

impl KeyColumn {
    /// The values of a column in the rows that are `whole`.
    fn new(
        data_type: DataType,
        column: &ArrayRef,
        whole: &dyn Fn(usize) -> bool,
    ) -> Result<Self, ArrowError> {
        let converter = RowConverter::new(vec![SortField::new(data_type.clone())])?;
        let rows = converter.convert_columns(std::slice::from_ref(column))?;
        let values = rows.iter().enumerate().filter(|(index, _)| whole(*index));
        let mut sorted: Vec<Box<[u8]>> = values.map(|(_, row)| row.data().into()).collect();
        sorted.sort_unstable();
        sorted.dedup();
        Ok(Self {
            data_type,
            converter,
            sorted,
        })
    }

    fn between(&self, mins: &ArrayRef, maxes: &ArrayRef) -> Result<Vec<bool>, ArrowError> {
        let inexact = self.data_type.is_floating() || self.data_type.is_nested();
        if inexact {
            return Ok(vec![true; mins.len()]);
        }
        let (mins, lowest) = self.encoded(mins)?;
        let (maxes, highest) = self.encoded(maxes)?;
        let pairs = lowest.iter().zip(&highest).enumerate();
        Ok(pairs
            .map(|(index, (min, max))| {
                if mins.is_null(index) || maxes.is_null(index) {
                    return true;
                }
                let at = self
                    .sorted
                    .partition_point(|key| key.as_ref() < min.as_ref());
                self.sorted
                    .get(at)
                    .is_some_and(|key| key.as_ref() <= max.as_ref())
            })
            .collect())
    }

    /// A column as the key's type, and its values encoded.
    fn encoded(&self, column: &ArrayRef) -> Result<(ArrayRef, Rows), ArrowError> {
        let column = as_type(column, &self.data_type)?;
        let rows = self.converter.convert_columns(&[Arc::clone(&column)])?;
        Ok((column, rows))
    }
}

/// The type that keys of a column are compared in.
fn looked_up_as(data_type: &DataType) -> DataType {
    match data_type {
        DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::LargeBinary | DataType::BinaryView => DataType::Binary,
        DataType::Dictionary(_, values) => looked_up_as(values),
        other => other.clone(),
    }
}

fn as_type(column: &ArrayRef, data_type: &DataType) -> Result<ArrayRef, ArrowError> {
    if column.data_type() == data_type {
        return Ok(Arc::clone(column));
    }
    cast(column, data_type)
}

fn internal(error: &ArrowError) -> QueryError {
    QueryError::Internal(error.to_string())
}

/// Tells most values that nobody asked for from the others, at a tenth of what a look into the map
/// costs: one bit for each hash. Who makes its hashes collide makes it useless and nothing else.
#[derive(Debug)]
struct Sieve {
    bits: Vec<u64>,
    /// How far a hash is shifted to number a bit.
    shift: u32,
}

impl Sieve {
    /// Bits for each key: one other value in so many passes.
    const BITS_OF_KEY: usize = 16;

    /// A sieve for so many keys.
    fn new(keys: usize) -> Self {
        let bits = keys
            .saturating_mul(Self::BITS_OF_KEY)
            .clamp(1 << 10, 1 << 27)
            .next_power_of_two();
        Self {
            bits: vec![0; bits / 64],
            shift: 64 - bits.ilog2(),
        }
    }

    /// The word and the bit in it.
    fn place(&self, row: &[u8]) -> (usize, u64) {
        // The multiplier is 2^64 over the golden ratio: its upper bits depend on all lower ones.
        const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut hash = row.len() as u64;
        let (words, rest) = row.as_chunks::<8>();
        for word in words {
            hash = (hash.rotate_left(29) ^ u64::from_le_bytes(*word)).wrapping_mul(GOLDEN);
        }
        for byte in rest {
            hash = (hash.rotate_left(29) ^ u64::from(*byte)).wrapping_mul(GOLDEN);
        }
        let bit = hash >> self.shift;
        let word = usize::try_from(bit / 64).expect("there are as many words in memory");
        (word, 1 << (bit % 64))
    }

    fn add(&mut self, row: &[u8]) {
        let (word, bit) = self.place(row);
        self.bits[word] |= bit;
    }

    fn may_have(&self, row: &[u8]) -> bool {
        let (word, bit) = self.place(row);
        self.bits[word] & bit != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sieve_lets_every_key_pass_and_few_others() {
        for count in [1, 10_000] {
            let row = |number: u64| [&[1_u8][..], &number.to_be_bytes()].concat();
            let mut sieve = Sieve::new(count);
            let keys: Vec<u64> = (0..count as u64).map(|key| key * 97).collect();
            for key in &keys {
                sieve.add(&row(*key));
            }
            assert!(keys.iter().all(|key| sieve.may_have(&row(*key))));
            let others = (0..100_000).map(|other| other * 97 + 1);
            let passed = others.filter(|other| sieve.may_have(&row(*other))).count();
            assert!(passed < 15_000, "{passed} of 100,000 pass for {count} keys");
        }
    }
}
