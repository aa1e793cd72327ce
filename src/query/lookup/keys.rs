//! Keys as a column's type has them, ready to be looked up: each as its row encoding, whose bytes
//! compare as the values do. Pure.

use std::{collections::HashMap, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, StringArray},
    compute::{CastOptions, cast, cast_with_options},
    datatypes::DataType,
    row::{Row, RowConverter, Rows, SortField},
};

use crate::query::QueryError;

/// The distinct values of the keys that were asked for; a slot is the number of one.
#[derive(Debug)]
pub(super) struct KeySet {
    data_type: DataType,
    converter: RowConverter,
    slots: HashMap<Box<[u8]>, u32>,
    /// The values in order.
    sorted: Vec<Box<[u8]>>,
    /// The slot of each key that was asked for.
    slot_of_key: Vec<Option<u32>>,
    /// The first key of each slot.
    first_key: Vec<usize>,
}

impl KeySet {
    /// Reads keys as values of `data_type`; what cannot be read has no slot.
    pub fn new(data_type: &DataType, keys: &[String]) -> Result<Self, QueryError> {
        let data_type = match data_type {
            DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
            other => other.clone(),
        };
        let failed = |error: arrow::error::ArrowError| {
            QueryError::Invalid(format!("the key column cannot be looked up: {error}"))
        };
        let texts: ArrayRef = Arc::new(keys.iter().map(Some).collect::<StringArray>());
        let lenient = CastOptions {
            safe: true,
            ..CastOptions::default()
        };
        let values = cast_with_options(&texts, &data_type, &lenient).map_err(failed)?;
        let converter =
            RowConverter::new(vec![SortField::new(data_type.clone())]).map_err(failed)?;
        let rows = converter
            .convert_columns(&[Arc::clone(&values)])
            .map_err(failed)?;
        let mut set = Self {
            data_type,
            converter,
            slots: HashMap::with_capacity(keys.len()),
            sorted: Vec::new(),
            slot_of_key: Vec::with_capacity(keys.len()),
            first_key: Vec::new(),
        };
        for (index, row) in rows.iter().enumerate() {
            let slot = (!values.is_null(index)).then(|| set.slot(row.as_ref(), index));
            set.slot_of_key.push(slot);
        }
        set.sorted = set.slots.keys().cloned().collect();
        set.sorted.sort_unstable();
        Ok(set)
    }

    fn slot(&mut self, row: &[u8], key: usize) -> u32 {
        if let Some(slot) = self.slots.get(row) {
            return *slot;
        }
        let slot = u32::try_from(self.first_key.len()).expect("keys come in one request");
        self.slots.insert(row.into(), slot);
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

    /// For each value of a column its slot; none where nobody asked for it, or it is null.
    pub fn slots(&self, column: &ArrayRef) -> Result<Vec<Option<u32>>, QueryError> {
        let (column, rows) = self.encoded(column)?;
        let slot = |(index, row): (usize, Row<'_>)| {
            let known = self.slots.get(row.as_ref()).copied();
            known.filter(|_| !column.is_null(index))
        };
        Ok(rows.iter().enumerate().map(slot).collect())
    }

    /// Whether a value of the set lies between the bounds, for each pair; an unknown bound may hold any.
    pub fn between(&self, mins: &ArrayRef, maxes: &ArrayRef) -> Result<Vec<bool>, QueryError> {
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

    /// A column as the set's type, and its values encoded.
    fn encoded(&self, column: &ArrayRef) -> Result<(ArrayRef, Rows), QueryError> {
        let failed = |error: arrow::error::ArrowError| QueryError::Internal(error.to_string());
        let column = if column.data_type() == &self.data_type {
            Arc::clone(column)
        } else {
            cast(column, &self.data_type).map_err(failed)?
        };
        let rows = self
            .converter
            .convert_columns(&[Arc::clone(&column)])
            .map_err(failed)?;
        Ok((column, rows))
    }
}
