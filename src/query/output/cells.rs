//! Cells as text, column by column: what each Arrow type looks like in JSON and in CSV.
//! Made per batch, so that a type is looked at once and not for every cell. Pure.

use std::{fmt::Write as _, io::Write as _};

use arrow::{
    array::{Array, ArrayRef, AsArray, cast::as_string_array},
    buffer::NullBuffer,
    compute::cast,
    datatypes::{
        DataType, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
        UInt8Type, UInt16Type, UInt32Type, UInt64Type,
    },
    record_batch::RecordBatch,
    util::display::{ArrayFormatter, FormatOptions},
};
use base64::{Engine, prelude::BASE64_STANDARD};

use super::{CsvOptions, QueryError};

const OPTIONS: FormatOptions<'static> = FormatOptions::new()
    .with_timestamp_format(Some("%Y-%m-%dT%H:%M:%S%.6f"))
    .with_timestamp_tz_format(Some("%Y-%m-%dT%H:%M:%S%.6fZ"))
    .with_datetime_format(Some("%Y-%m-%dT%H:%M:%S%.6f"));

type Writer<'a> = Box<dyn Fn(usize, &mut Vec<u8>) -> Result<(), QueryError> + Send + 'a>;

/// How the cells of one column are written.
enum Kind {
    /// As they are: numbers, booleans, lists, structs.
    Plain,
    /// In quotes, escaped.
    Text,
    /// In quotes only where they are not numbers: NaN and infinities.
    Float,
}

/// A column with the writer of its cells, without quotes and escapes.
struct Column<'a> {
    nulls: Option<NullBuffer>,
    kind: Kind,
    write: Writer<'a>,
}

/// The columns of a batch.
pub(super) struct Cells<'a>(Vec<Column<'a>>);

impl Cells<'_> {
    /// Prepares the writers.
    pub fn of(batch: &RecordBatch) -> Result<Self, QueryError> {
        let columns = batch.columns().iter().map(column);
        columns.collect::<Result<_, _>>().map(Self)
    }

    /// One row as a JSON array.
    pub fn json_row(&self, row: usize, out: &mut Vec<u8>) -> Result<(), QueryError> {
        out.push(b'[');
        for (index, column) in self.0.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            column.json(row, out)?;
        }
        out.push(b']');
        Ok(())
    }

    /// One row as a line of CSV.
    pub fn csv_row(
        &self,
        row: usize,
        options: CsvOptions,
        out: &mut Vec<u8>,
    ) -> Result<(), QueryError> {
        let mut text = Vec::new();
        for (index, column) in self.0.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            if column.is_null(row) {
                continue;
            }
            text.clear();
            (column.write)(row, &mut text)?;
            match column.kind {
                Kind::Float => out.extend_from_slice(&text),
                Kind::Plain if !text.contains(&b'"') && !text.contains(&b',') => {
                    out.extend_from_slice(&text);
                }
                Kind::Plain => write_csv_text(utf8(&text)?, CsvOptions::default(), out),
                Kind::Text => write_csv_text(utf8(&text)?, options, out),
            }
        }
        out.extend_from_slice(b"\r\n");
        Ok(())
    }
}

impl Column<'_> {
    fn is_null(&self, row: usize) -> bool {
        self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row))
    }

    fn json(&self, row: usize, out: &mut Vec<u8>) -> Result<(), QueryError> {
        if self.is_null(row) {
            out.extend_from_slice(b"null");
            return Ok(());
        }
        match self.kind {
            Kind::Plain => (self.write)(row, out),
            Kind::Text => {
                let mut text = Vec::new();
                (self.write)(row, &mut text)?;
                write_json_string(utf8(&text)?, out);
                Ok(())
            }
            Kind::Float => {
                let start = out.len();
                (self.write)(row, out)?;
                if !out[start..].last().is_some_and(u8::is_ascii_digit) {
                    out.insert(start, b'"');
                    out.push(b'"');
                }
                Ok(())
            }
        }
    }
}

fn utf8(text: &[u8]) -> Result<&str, QueryError> {
    std::str::from_utf8(text).map_err(|_| QueryError::Internal("a cell that is not text".into()))
}

fn display<T: std::fmt::Display>(value: T, out: &mut Vec<u8>) -> Result<(), QueryError> {
    write!(out, "{value}").map_err(|error| QueryError::Internal(error.to_string()))
}

/// The writer for numbers of one Arrow type.
macro_rules! number {
    ($array:expr, $type:ty, $kind:expr) => {{
        let values = $array.as_primitive::<$type>().clone();
        (
            $kind,
            Box::new(move |row, out: &mut Vec<u8>| display(values.value(row), out)) as Writer,
        )
    }};
}

fn column<'a>(array: &ArrayRef) -> Result<Column<'a>, QueryError> {
    use DataType as T;
    let (kind, write): (Kind, Writer<'a>) = match array.data_type() {
        T::Int8 => number!(array, Int8Type, Kind::Plain),
        T::Int16 => number!(array, Int16Type, Kind::Plain),
        T::Int32 => number!(array, Int32Type, Kind::Plain),
        T::Int64 => number!(array, Int64Type, Kind::Plain),
        T::UInt8 => number!(array, UInt8Type, Kind::Plain),
        T::UInt16 => number!(array, UInt16Type, Kind::Plain),
        T::UInt32 => number!(array, UInt32Type, Kind::Plain),
        T::UInt64 => number!(array, UInt64Type, Kind::Plain),
        T::Float16 => number!(array, Float16Type, Kind::Float),
        T::Float32 => number!(array, Float32Type, Kind::Float),
        T::Float64 => number!(array, Float64Type, Kind::Float),
        T::Boolean => {
            let values = array.as_boolean().clone();
            let write = move |row, out: &mut Vec<u8>| display(values.value(row), out);
            (Kind::Plain, Box::new(write))
        }
        T::Utf8 | T::LargeUtf8 | T::Utf8View => (Kind::Text, text(array)),
        T::Binary | T::LargeBinary | T::BinaryView | T::FixedSizeBinary(_) => {
            (Kind::Text, binary(array)?)
        }
        T::List(_)
        | T::LargeList(_)
        | T::FixedSizeList(..)
        | T::ListView(_)
        | T::LargeListView(_) => (Kind::Plain, list(array)?),
        T::Struct(_) => (Kind::Plain, structure(array)?),
        T::Map(..) => (Kind::Plain, map(array)?),
        T::Dictionary(_, values) => return decoded(array, values),
        T::RunEndEncoded(_, values) => return decoded(array, values.data_type()),
        _ => (Kind::Text, formatted(array)?),
    };
    Ok(Column {
        nulls: array.logical_nulls(),
        kind,
        write,
    })
}

/// A column that stands for another one.
fn decoded<'a>(array: &ArrayRef, values: &DataType) -> Result<Column<'a>, QueryError> {
    let plain = cast(array, values).map_err(|error| QueryError::Internal(error.to_string()))?;
    column(&plain)
}

fn text<'a>(array: &ArrayRef) -> Writer<'a> {
    let array = array.clone();
    match array.data_type() {
        DataType::Utf8View => Box::new(move |row, out| {
            out.extend_from_slice(array.as_string_view().value(row).as_bytes());
            Ok(())
        }),
        DataType::LargeUtf8 => Box::new(move |row, out| {
            out.extend_from_slice(array.as_string::<i64>().value(row).as_bytes());
            Ok(())
        }),
        _ => Box::new(move |row, out| {
            out.extend_from_slice(as_string_array(&array).value(row).as_bytes());
            Ok(())
        }),
    }
}

fn binary<'a>(array: &ArrayRef) -> Result<Writer<'a>, QueryError> {
    let views = cast(array, &DataType::BinaryView)
        .map_err(|error| QueryError::Internal(error.to_string()))?;
    Ok(Box::new(move |row, out| {
        let bytes = views.as_binary_view().value(row);
        out.extend_from_slice(BASE64_STANDARD.encode(bytes).as_bytes());
        Ok(())
    }))
}

fn list<'a>(array: &ArrayRef) -> Result<Writer<'a>, QueryError> {
    let child = match array.data_type() {
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::FixedSizeList(field, _)
        | DataType::ListView(field)
        | DataType::LargeListView(field) => field.clone(),
        other => return Err(QueryError::Internal(format!("{other} is no list"))),
    };
    let lists = cast(array, &DataType::LargeList(child))
        .map_err(|error| QueryError::Internal(error.to_string()))?;
    let lists = lists.as_list::<i64>().clone();
    let items = column(lists.values())?;
    Ok(Box::new(move |row, out| {
        let offsets = lists.value_offsets();
        out.push(b'[');
        for (index, item) in (offsets[row]..offsets[row + 1]).enumerate() {
            if index > 0 {
                out.push(b',');
            }
            let item = usize::try_from(item).expect("offsets of a list are not negative");
            items.json(item, out)?;
        }
        out.push(b']');
        Ok(())
    }))
}

fn structure<'a>(array: &ArrayRef) -> Result<Writer<'a>, QueryError> {
    let whole = array.as_struct();
    let mut fields = Vec::with_capacity(whole.num_columns());
    for (name, values) in whole.column_names().into_iter().zip(whole.columns()) {
        fields.push((name.to_owned(), column(values)?));
    }
    Ok(Box::new(move |row, out| {
        out.push(b'{');
        for (index, (name, values)) in fields.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            write_json_string(name, out);
            out.push(b':');
            values.json(row, out)?;
        }
        out.push(b'}');
        Ok(())
    }))
}

fn map<'a>(array: &ArrayRef) -> Result<Writer<'a>, QueryError> {
    let whole = array.as_map().clone();
    let keys = column(whole.keys())?;
    let values = column(whole.values())?;
    Ok(Box::new(move |row, out| {
        let offsets = whole.value_offsets();
        out.push(b'{');
        for (index, entry) in (offsets[row]..offsets[row + 1]).enumerate() {
            if index > 0 {
                out.push(b',');
            }
            let entry = usize::try_from(entry).expect("offsets of a map are not negative");
            let mut key = Vec::new();
            (keys.write)(entry, &mut key)?;
            write_json_string(utf8(&key)?, out);
            out.push(b':');
            values.json(entry, out)?;
        }
        out.push(b'}');
        Ok(())
    }))
}

/// Decimals, dates, times, intervals: as Arrow writes them; instants in UTC.
fn formatted<'a>(array: &ArrayRef) -> Result<Writer<'a>, QueryError> {
    let failed = |error: arrow::error::ArrowError| QueryError::Internal(error.to_string());
    let array = match array.data_type() {
        DataType::Timestamp(unit, Some(_)) => {
            cast(array, &DataType::Timestamp(*unit, Some("+00:00".into()))).map_err(failed)?
        }
        _ => array.clone(),
    };
    let formatter = ArrayFormatter::try_new(array.as_ref(), &OPTIONS).map_err(failed)?;
    let mut text = String::new();
    let mut ends = Vec::with_capacity(array.len());
    for row in 0..array.len() {
        if array.is_valid(row) {
            write!(text, "{}", formatter.value(row))
                .map_err(|_| QueryError::Execution("a time that has no date".to_owned()))?;
        }
        ends.push(text.len());
    }
    Ok(Box::new(move |row, out| {
        let start = row.checked_sub(1).map_or(0, |before| ends[before]);
        out.extend_from_slice(&text.as_bytes()[start..ends[row]]);
        Ok(())
    }))
}

/// A string as JSON.
pub(super) fn write_json_string(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("text can always be written to memory");
}

/// A text as a CSV field: in quotes where it has to be, or is empty.
pub(super) fn write_csv_text(text: &str, options: CsvOptions, out: &mut Vec<u8>) {
    let formula = options.escape_formulas
        && text.starts_with(['=', '+', '-', '@', '\t', '\r'])
        && text.parse::<f64>().is_err();
    let quoted = text.is_empty()
        || formula
        || text.contains([',', '"', '\n', '\r'])
        || text.starts_with(' ')
        || text.ends_with(' ');
    if !quoted {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    out.push(b'"');
    if formula {
        out.push(b'\'');
    }
    for byte in text.bytes() {
        if byte == b'"' {
            out.push(b'"');
        }
        out.push(byte);
    }
    out.push(b'"');
}
