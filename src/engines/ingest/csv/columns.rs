//! Fields to Arrow columns: each column is parsed to its planned type in one tight loop, and says
//! exactly which kinds of value it saw. Pure; a value that does not fit turns the rest of its
//! column to classifying only, so that the kinds stay exact and nothing is built for nothing.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, BooleanBufferBuilder, Date32Array, Float64Array, Int64Array,
    NullBufferBuilder, StringArray, TimestampMicrosecondArray,
};
use arrow::buffer::{Buffer, OffsetBuffer, ScalarBuffer};

use super::tokens::Field;
use crate::engines::ingest::kinds::{Kinds, Scalar, int_kind};
use crate::engines::ingest::values::{
    classify, parse_bool, parse_date, parse_float, parse_int, parse_timestamp,
};

/// The fields of one column of a block.
#[derive(Clone, Copy)]
pub(super) struct Cells<'a> {
    text: &'a [u8],
    fields: &'a [Field],
    width: usize,
    column: usize,
}

impl<'a> Cells<'a> {
    pub fn new(text: &'a [u8], fields: &'a [Field], width: usize, column: usize) -> Self {
        Self {
            text,
            fields,
            width,
            column,
        }
    }

    fn rows(self) -> usize {
        self.fields.len() / self.width
    }

    fn iter(self) -> impl Iterator<Item = Field> + use<'a> {
        self.fields
            .get(self.column..)
            .unwrap_or_default()
            .iter()
            .step_by(self.width)
            .copied()
    }
}

/// A parsed column.
pub(super) struct Column {
    /// The values; `None` when one did not fit.
    pub array: Option<ArrayRef>,
    /// Every kind of value that the block holds in this column (of text columns only when asked).
    pub kinds: Kinds,
}

impl Column {
    fn unfit(kinds: Kinds, cells: Cells<'_>) -> Self {
        let mut kinds = kinds;
        kinds.add(kinds_of(cells));
        Self { array: None, kinds }
    }
}

/// The kinds of all values of a column; empty fields have none, quoted or not.
pub(super) fn kinds_of(cells: Cells<'_>) -> Kinds {
    let mut kinds = Kinds::NONE;
    for field in cells.iter() {
        let bytes = field.bytes(cells.text);
        if bytes.is_empty() {
            continue;
        }
        kinds.add(classify(bytes).kind());
        // More kinds only make more text of it.
        if kinds.scalar() == Scalar::Text {
            break;
        }
    }
    kinds
}

/// Parses a column to `scalar`; `classify_text` asks for the kinds of a text column too.
pub(super) fn parse_column(cells: Cells<'_>, scalar: Scalar, classify_text: bool) -> Column {
    match scalar {
        Scalar::Bool => bools(cells),
        Scalar::Int => primitive(
            cells,
            |bytes| parse_int(bytes).map(|value| (value, int_kind(value))),
            |values, nulls| Arc::new(Int64Array::new(values, nulls)),
        ),
        Scalar::Float => primitive(cells, float, |values, nulls| {
            Arc::new(Float64Array::new(values, nulls))
        }),
        Scalar::Date => primitive(
            cells,
            |bytes| parse_date(bytes).map(|days| (days, Kinds::DATE)),
            |values, nulls| Arc::new(Date32Array::new(values, nulls)),
        ),
        Scalar::Naive => primitive(
            cells,
            |bytes| timestamp(bytes, false).map(|micros| (micros, Kinds::NAIVE)),
            |values, nulls| Arc::new(TimestampMicrosecondArray::new(values, nulls)),
        ),
        Scalar::Zoned => primitive(
            cells,
            |bytes| timestamp(bytes, true).map(|micros| (micros, Kinds::ZONED)),
            |values, nulls| {
                Arc::new(TimestampMicrosecondArray::new(values, nulls).with_timezone("UTC"))
            },
        ),
        Scalar::Text => text(cells, classify_text),
    }
}

/// A float, or an integer that a float holds exactly.
#[inline]
fn float(bytes: &[u8]) -> Option<(f64, Kinds)> {
    if let Some(value) = parse_float(bytes) {
        return Some((value, Kinds::FLOAT));
    }
    let value = parse_int(bytes)?;
    #[allow(clippy::cast_precision_loss)]
    (int_kind(value) == Kinds::INT).then_some((value as f64, Kinds::INT))
}

#[inline]
fn timestamp(bytes: &[u8], zoned: bool) -> Option<i64> {
    match parse_timestamp(bytes) {
        Some((micros, found)) if found == zoned => Some(micros),
        _ => None,
    }
}

fn primitive<T: arrow::datatypes::ArrowNativeType>(
    cells: Cells<'_>,
    parse: impl Fn(&[u8]) -> Option<(T, Kinds)>,
    build: impl FnOnce(ScalarBuffer<T>, Option<arrow::buffer::NullBuffer>) -> ArrayRef,
) -> Column {
    let mut values: Vec<T> = Vec::with_capacity(cells.rows());
    let mut nulls = NullBufferBuilder::new(cells.rows());
    let mut kinds = Kinds::NONE;
    for field in cells.iter() {
        let bytes = field.bytes(cells.text);
        if bytes.is_empty() {
            values.push(T::default());
            nulls.append_null();
        } else if let Some((value, kind)) = parse(bytes) {
            kinds.add(kind);
            values.push(value);
            nulls.append_non_null();
        } else {
            return Column::unfit(kinds, cells);
        }
    }
    let array = build(ScalarBuffer::from(values), nulls.finish());
    Column {
        array: Some(array),
        kinds,
    }
}

fn bools(cells: Cells<'_>) -> Column {
    let mut values = BooleanBufferBuilder::new(cells.rows());
    let mut nulls = NullBufferBuilder::new(cells.rows());
    let mut kinds = Kinds::NONE;
    for field in cells.iter() {
        let bytes = field.bytes(cells.text);
        let value = parse_bool(bytes);
        if value.is_none() && !bytes.is_empty() {
            return Column::unfit(kinds, cells);
        }
        if value.is_some() {
            kinds.add(Kinds::BOOL);
        }
        values.append(value.unwrap_or_default());
        nulls.append(value.is_some());
    }
    Column {
        array: Some(Arc::new(BooleanArray::new(values.finish(), nulls.finish()))),
        kinds,
    }
}

fn text(cells: Cells<'_>, classify_text: bool) -> Column {
    let kinds = if classify_text {
        kinds_of(cells)
    } else {
        Kinds::NONE
    };
    let mut offsets: Vec<i32> = Vec::with_capacity(cells.rows() + 1);
    let mut bytes: Vec<u8> = Vec::with_capacity(cells.text.len() / cells.width.max(1));
    let mut nulls = NullBufferBuilder::new(cells.rows());
    offsets.push(0);
    for field in cells.iter() {
        let raw = field.bytes(cells.text);
        if field.has_doubled_quotes() {
            bytes.extend_from_slice(&undouble(raw));
        } else {
            bytes.extend_from_slice(raw);
        }
        offsets.push(i32::try_from(bytes.len()).expect("a block is far smaller than 2 GiB"));
        nulls.append(!raw.is_empty() || field.is_quoted());
    }
    let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
    let array = StringArray::try_new(offsets, Buffer::from_vec(bytes), nulls.finish())
        .expect("the block was checked to be UTF-8 and fields end at ASCII bytes");
    Column {
        array: Some(Arc::new(array)),
        kinds,
    }
}

fn undouble(raw: &[u8]) -> Cow<'_, [u8]> {
    let mut out = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(quote) = memchr::memchr(b'"', rest) {
        out.extend_from_slice(&rest[..=quote]);
        rest = rest.get(quote + 2..).unwrap_or_default();
    }
    out.extend_from_slice(rest);
    Cow::Owned(out)
}
