//! Column builders: one field of a binary `COPY` after the other becomes an Arrow array.
//! Called by `rows` for every field of every row, so a field costs no allocation of its own.
//! Knows nothing of rows, chunks or connections.

use std::sync::Arc;

use arrow::array::builder::NullBufferBuilder;
use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, BooleanBufferBuilder, Date32Array, Decimal128Array,
    Float32Array, Float64Array, Int16Array, Int32Array, Int64Array, IntervalMonthDayNanoArray,
    ListArray, StringArray, Time64MicrosecondArray, TimestampMicrosecondArray, UInt32Array,
};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::IntervalMonthDayNano;

use super::text::{self, FieldError, Numeric};
use super::wire::{TextWire, Wire};

/// From 1970-01-01 to Postgres's epoch, 2000-01-01.
const EPOCH_DAYS: i32 = 10_957;
const EPOCH_MICROS: i64 = 946_684_800_000_000;
const DAY_MICROS: i64 = 86_400_000_000;

/// Collects the fields of one column.
pub(super) struct ColumnBuilder {
    values: Values,
    valid: NullBufferBuilder,
    unrepresentable: u64,
}

enum Values {
    Bool(BooleanBufferBuilder),
    Int2(Vec<i16>),
    Int4(Vec<i32>),
    Int8(Vec<i64>),
    Oid(Vec<u32>),
    Float4(Vec<f32>),
    Float8(Vec<f64>),
    Decimal {
        values: Vec<i128>,
        precision: u8,
        scale: i8,
    },
    Text {
        how: TextWire,
        ends: Vec<i32>,
        bytes: Vec<u8>,
    },
    Bytea {
        ends: Vec<i32>,
        bytes: Vec<u8>,
    },
    Date(Vec<i32>),
    Time(Vec<i64>),
    Timestamp {
        values: Vec<i64>,
        utc: bool,
    },
    Interval(Vec<IntervalMonthDayNano>),
    List {
        item: Wire,
        ends: Vec<i32>,
        items: Box<ColumnBuilder>,
    },
}

/// What a field was.
#[derive(PartialEq)]
enum Field {
    Value,
    /// Infinity, NaN of a decimal, 24:00: Arrow has no value for it, so it becomes null.
    Unrepresentable,
}

impl ColumnBuilder {
    /// A builder with room for `rows` fields.
    pub(super) fn new(wire: &Wire, rows: usize) -> Self {
        Self {
            values: Values::new(wire, rows),
            valid: NullBufferBuilder::new(rows),
            unrepresentable: 0,
        }
    }

    /// Fields that were no null and became one since the beginning, items of lists among them.
    pub(super) fn unrepresentable(&self) -> u64 {
        let items = match &self.values {
            Values::List { items, .. } => items.unrepresentable(),
            _ => 0,
        };
        self.unrepresentable + items
    }

    /// Bytes of variable length held for the batch at hand.
    pub(super) fn bytes(&self) -> usize {
        match &self.values {
            Values::Text { bytes, .. } | Values::Bytea { bytes, .. } => bytes.len(),
            Values::List { items, .. } => items.bytes() + items.valid.len() * 8,
            _ => 0,
        }
    }

    /// Takes a field over; `None` is SQL's null.
    ///
    /// # Errors
    /// What is wrong with the field, without its value.
    #[inline]
    pub(super) fn append(&mut self, field: Option<&[u8]>) -> Result<(), FieldError> {
        let Some(field) = field else {
            self.append_null();
            return Ok(());
        };
        match self.values.push(field)? {
            Field::Value => self.valid.append_non_null(),
            Field::Unrepresentable => {
                self.unrepresentable += 1;
                self.append_null();
            }
        }
        Ok(())
    }

    fn append_null(&mut self) {
        self.values.push_null();
        self.valid.append_null();
    }

    /// The fields so far as an array; the builder is empty again, with the capacity it had.
    ///
    /// # Errors
    /// When the bytes of a text column are no UTF-8.
    pub(super) fn finish(&mut self) -> Result<ArrayRef, FieldError> {
        let rows = self.valid.len();
        let nulls = self.valid.finish();
        self.values.finish(nulls, rows)
    }
}

impl Values {
    fn new(wire: &Wire, rows: usize) -> Self {
        /// A first guess at what a field of variable length takes.
        const FIELD_BYTES: usize = 16;
        match wire {
            Wire::Bool => Self::Bool(BooleanBufferBuilder::new(rows)),
            Wire::Int2 => Self::Int2(Vec::with_capacity(rows)),
            Wire::Int4 => Self::Int4(Vec::with_capacity(rows)),
            Wire::Int8 => Self::Int8(Vec::with_capacity(rows)),
            Wire::Oid => Self::Oid(Vec::with_capacity(rows)),
            Wire::Float4 => Self::Float4(Vec::with_capacity(rows)),
            Wire::Float8 => Self::Float8(Vec::with_capacity(rows)),
            Wire::Decimal { precision, scale } => Self::Decimal {
                values: Vec::with_capacity(rows),
                precision: *precision,
                scale: *scale,
            },
            Wire::Text(how) => Self::Text {
                how: *how,
                ends: ends(rows),
                bytes: Vec::with_capacity(rows * FIELD_BYTES),
            },
            Wire::Bytea => Self::Bytea {
                ends: ends(rows),
                bytes: Vec::with_capacity(rows * FIELD_BYTES),
            },
            Wire::Date => Self::Date(Vec::with_capacity(rows)),
            Wire::Time => Self::Time(Vec::with_capacity(rows)),
            Wire::Timestamp => Self::Timestamp {
                values: Vec::with_capacity(rows),
                utc: false,
            },
            Wire::TimestampTz => Self::Timestamp {
                values: Vec::with_capacity(rows),
                utc: true,
            },
            Wire::Interval => Self::Interval(Vec::with_capacity(rows)),
            Wire::List(item) => Self::List {
                item: (**item).clone(),
                ends: ends(rows),
                items: Box::new(ColumnBuilder::new(item, rows)),
            },
        }
    }

    #[inline]
    fn push(&mut self, field: &[u8]) -> Result<Field, FieldError> {
        match self {
            Self::Bool(values) => values.append(exact::<1>(field)? != [0]),
            Self::Int2(values) => values.push(i16::from_be_bytes(exact(field)?)),
            Self::Int4(values) => values.push(i32::from_be_bytes(exact(field)?)),
            Self::Int8(values) => values.push(i64::from_be_bytes(exact(field)?)),
            Self::Oid(values) => values.push(u32::from_be_bytes(exact(field)?)),
            Self::Float4(values) => values.push(f32::from_be_bytes(exact(field)?)),
            Self::Float8(values) => values.push(f64::from_be_bytes(exact(field)?)),
            Self::Decimal { values, scale, .. } => match Numeric::read(field)?.scaled(*scale)? {
                Some(value) => values.push(value),
                None => return Ok(Field::Unrepresentable),
            },
            Self::Text {
                how: TextWire::Plain,
                ends,
                bytes,
            }
            | Self::Bytea { ends, bytes } => {
                bytes.extend_from_slice(field);
                ends.push(end_of(bytes.len())?);
            }
            Self::Text { how, ends, bytes } => {
                text::write(*how, field, bytes)?;
                ends.push(end_of(bytes.len())?);
            }
            Self::Date(values) => return date(field, values),
            Self::Time(values) => return time(field, values),
            Self::Timestamp { values, .. } => return timestamp(field, values),
            Self::Interval(values) => return interval(field, values),
            Self::List { ends, items, .. } => {
                list(field, items)?;
                ends.push(end_of(items.valid.len())?);
            }
        }
        Ok(Field::Value)
    }

    fn push_null(&mut self) {
        match self {
            Self::Bool(values) => values.append(false),
            Self::Int2(values) => values.push(0),
            Self::Int4(values) | Self::Date(values) => values.push(0),
            Self::Int8(values) | Self::Time(values) | Self::Timestamp { values, .. } => {
                values.push(0);
            }
            Self::Oid(values) => values.push(0),
            Self::Float4(values) => values.push(0.0),
            Self::Float8(values) => values.push(0.0),
            Self::Decimal { values, .. } => values.push(0),
            Self::Interval(values) => values.push(IntervalMonthDayNano::ZERO),
            Self::Text { ends, .. } | Self::Bytea { ends, .. } | Self::List { ends, .. } => {
                ends.push(*ends.last().expect("offsets begin with a zero"));
            }
        }
    }

    fn finish(&mut self, nulls: Option<NullBuffer>, rows: usize) -> Result<ArrayRef, FieldError> {
        Ok(match self {
            Self::Bool(values) => {
                let values = std::mem::replace(values, BooleanBufferBuilder::new(rows)).finish();
                Arc::new(BooleanArray::new(values, nulls))
            }
            Self::Int2(values) => Arc::new(Int16Array::new(taken(values), nulls)),
            Self::Int4(values) => Arc::new(Int32Array::new(taken(values), nulls)),
            Self::Int8(values) => Arc::new(Int64Array::new(taken(values), nulls)),
            Self::Oid(values) => Arc::new(UInt32Array::new(taken(values), nulls)),
            Self::Float4(values) => Arc::new(Float32Array::new(taken(values), nulls)),
            Self::Float8(values) => Arc::new(Float64Array::new(taken(values), nulls)),
            Self::Decimal {
                values,
                precision,
                scale,
            } => Arc::new(
                Decimal128Array::new(taken(values), nulls)
                    .with_precision_and_scale(*precision, *scale)
                    .expect("a decimal has 1 to 38 digits"),
            ),
            Self::Text { ends, bytes, .. } => Arc::new(
                StringArray::try_new(taken_ends(ends), taken_bytes(bytes), nulls)
                    .map_err(|_| "text that is not UTF-8")?,
            ),
            Self::Bytea { ends, bytes } => Arc::new(BinaryArray::new(
                taken_ends(ends),
                taken_bytes(bytes),
                nulls,
            )),
            Self::Date(values) => Arc::new(Date32Array::new(taken(values), nulls)),
            Self::Time(values) => Arc::new(Time64MicrosecondArray::new(taken(values), nulls)),
            Self::Timestamp { values, utc } => {
                let array = TimestampMicrosecondArray::new(taken(values), nulls);
                Arc::new(array.with_timezone_opt(utc.then_some("UTC")))
            }
            Self::Interval(values) => {
                Arc::new(IntervalMonthDayNanoArray::new(taken(values), nulls))
            }
            Self::List { item, ends, items } => {
                let field = Arc::new(Wire::item_field(item));
                Arc::new(ListArray::new(
                    field,
                    taken_ends(ends),
                    items.finish()?,
                    nulls,
                ))
            }
        })
    }
}

/// The field's bytes, which must be `N`.
#[inline]
fn exact<const N: usize>(field: &[u8]) -> Result<[u8; N], FieldError> {
    field.try_into().map_err(|_| "a field of a wrong length")
}

#[inline]
fn end_of(length: usize) -> Result<i32, FieldError> {
    i32::try_from(length).map_err(|_| "more than 2 GiB in one batch")
}

fn ends(rows: usize) -> Vec<i32> {
    let mut ends = Vec::with_capacity(rows + 1);
    ends.push(0);
    ends
}

fn taken<T: arrow::datatypes::ArrowNativeType>(values: &mut Vec<T>) -> ScalarBuffer<T> {
    let room = Vec::with_capacity(values.len());
    ScalarBuffer::from(std::mem::replace(values, room))
}

fn taken_ends(values: &mut Vec<i32>) -> OffsetBuffer<i32> {
    let room = ends(values.len().saturating_sub(1));
    OffsetBuffer::new(ScalarBuffer::from(std::mem::replace(values, room)))
}

/// The next batch is likely as large: an eighth more saves it a copy.
fn taken_bytes(bytes: &mut Vec<u8>) -> Buffer {
    let room = Vec::with_capacity(bytes.len() + bytes.len() / 8);
    Buffer::from_vec(std::mem::replace(bytes, room))
}

fn date(field: &[u8], values: &mut Vec<i32>) -> Result<Field, FieldError> {
    let days = i32::from_be_bytes(exact(field)?);
    if matches!(days, i32::MAX | i32::MIN) {
        return Ok(Field::Unrepresentable);
    }
    // PostgreSQL's last day is in the year 5,874,897: far from overflowing.
    values.push(days.checked_add(EPOCH_DAYS).ok_or("a date out of range")?);
    Ok(Field::Value)
}

fn time(field: &[u8], values: &mut Vec<i64>) -> Result<Field, FieldError> {
    let micros = i64::from_be_bytes(exact(field)?);
    if !(0..DAY_MICROS).contains(&micros) {
        return Ok(Field::Unrepresentable);
    }
    values.push(micros);
    Ok(Field::Value)
}

fn timestamp(field: &[u8], values: &mut Vec<i64>) -> Result<Field, FieldError> {
    let micros = i64::from_be_bytes(exact(field)?);
    // The last millennia of PostgreSQL's calendar lie behind Arrow's, which counts from 1970.
    match micros.checked_add(EPOCH_MICROS) {
        Some(value) if micros != i64::MIN => values.push(value),
        _ => return Ok(Field::Unrepresentable),
    }
    Ok(Field::Value)
}

fn interval(field: &[u8], values: &mut Vec<IntervalMonthDayNano>) -> Result<Field, FieldError> {
    let [micros @ .., d0, d1, d2, d3, m0, m1, m2, m3] = exact::<16>(field)?;
    let micros = i64::from_be_bytes(micros);
    let days = i32::from_be_bytes([d0, d1, d2, d3]);
    let months = i32::from_be_bytes([m0, m1, m2, m3]);
    // PostgreSQL 17 writes its infinite intervals as the extremes of all three.
    let infinite = (days, months) == (i32::MAX, i32::MAX) || (days, months) == (i32::MIN, i32::MIN);
    match micros.checked_mul(1_000) {
        Some(nanos) if !infinite => values.push(IntervalMonthDayNano::new(months, days, nanos)),
        _ => return Ok(Field::Unrepresentable),
    }
    Ok(Field::Value)
}

/// An array as sent: dimensions, whether it has nulls, the type of its items; of each dimension its
/// length and lower bound; then each item with its length in front.
fn list(field: &[u8], items: &mut ColumnBuilder) -> Result<(), FieldError> {
    const SHORT: FieldError = "an array that ends too early";
    let (head, mut rest) = field.split_at_checked(12).ok_or(SHORT)?;
    match &head[..4] {
        [0, 0, 0, 0] => return Ok(()),
        [0, 0, 0, 1] => {}
        _ => return Err("an array of several dimensions; cast the column to text in a query"),
    }
    let count = take_i32(&mut rest).ok_or(SHORT)?;
    let _lower_bound = take_i32(&mut rest).ok_or(SHORT)?;
    for _ in 0..count {
        let length = take_i32(&mut rest).ok_or(SHORT)?;
        let Ok(length) = usize::try_from(length) else {
            items.append(None)?;
            continue;
        };
        let (item, after) = rest.split_at_checked(length).ok_or(SHORT)?;
        items.append(Some(item))?;
        rest = after;
    }
    if rest.is_empty() {
        Ok(())
    } else {
        Err("an array with bytes behind its end")
    }
}

fn take_i32(rest: &mut &[u8]) -> Option<i32> {
    let (head, after) = rest.split_first_chunk::<4>()?;
    *rest = after;
    Some(i32::from_be_bytes(*head))
}
