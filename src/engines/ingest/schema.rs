//! Schemas: what a dataset expects against what an input has, and Arrow types made plain.
//! Pure; every format reader ends here before rows reach the writer.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;

use crate::query::wide_keys;

use super::error::{ColumnDifference, IngestError};

/// A type as people write it.
pub(super) fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "string".to_owned(),
        DataType::Boolean => "bool".to_owned(),
        DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::UInt8
        | DataType::UInt16
        | DataType::UInt32
        | DataType::UInt64
        | DataType::Float16
        | DataType::Float32
        | DataType::Float64
        | DataType::Date32
        | DataType::Date64 => data_type.to_string().to_ascii_lowercase(),
        DataType::Timestamp(unit, zone) => match zone {
            Some(zone) => format!("timestamp[{}, {zone}]", unit_name(*unit)),
            None => format!("timestamp[{}]", unit_name(*unit)),
        },
        DataType::Decimal128(precision, scale) | DataType::Decimal256(precision, scale) => {
            format!("decimal({precision}, {scale})")
        }
        DataType::List(item) | DataType::LargeList(item) => {
            format!("list<{}>", type_name(item.data_type()))
        }
        DataType::Struct(fields) => {
            let field =
                |field: &FieldRef| format!("{}: {}", field.name(), type_name(field.data_type()));
            format!(
                "struct<{}>",
                fields.iter().map(field).collect::<Vec<_>>().join(", ")
            )
        }
        other => other.to_string().to_ascii_lowercase(),
    }
}

fn unit_name(unit: TimeUnit) -> &'static str {
    match unit {
        TimeUnit::Second => "s",
        TimeUnit::Millisecond => "ms",
        TimeUnit::Microsecond => "us",
        TimeUnit::Nanosecond => "ns",
    }
}

/// Refuses empty names and names that stand twice, at every level.
pub(super) fn check_names(fields: &Fields) -> Result<(), IngestError> {
    let mut seen = HashSet::new();
    for field in fields {
        if field.name().is_empty() || !seen.insert(field.name()) {
            return Err(IngestError::ColumnName {
                column: field.name().clone(),
            });
        }
        check_nested_names(field.data_type())?;
    }
    Ok(())
}

fn check_nested_names(data_type: &DataType) -> Result<(), IngestError> {
    match data_type {
        DataType::Struct(fields) => check_names(fields),
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            check_nested_names(item.data_type())
        }
        _ => Ok(()),
    }
}

/// Leaf columns of a schema.
pub(super) fn leaf_total(fields: &Fields) -> usize {
    fields.iter().map(|field| leaves(field.data_type())).sum()
}

/// Leaf columns that a type becomes in Parquet.
pub(super) fn leaves(data_type: &DataType) -> usize {
    match data_type {
        DataType::Struct(fields) => leaf_total(fields),
        DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => {
            leaves(field.data_type())
        }
        _ => 1,
    }
}

/// The schema that a foreign one is stored as: views made plain, everything nullable, no metadata.
pub(super) fn plain_schema(schema: &Schema) -> Result<SchemaRef, IngestError> {
    check_names(schema.fields())?;
    let plain = |field: &FieldRef| {
        let data_type =
            plain_type(field.data_type()).ok_or_else(|| IngestError::UnsupportedType {
                column: field.name().clone(),
                found: type_name(field.data_type()),
            })?;
        Ok(Field::new(field.name(), data_type, true))
    };
    let fields: Vec<Field> = schema
        .fields()
        .iter()
        .map(plain)
        .collect::<Result<_, IngestError>>()?;
    Ok(Arc::new(Schema::new(fields)))
}

/// The plain form of a type; `None` when a dataset cannot hold it.
fn plain_type(data_type: &DataType) -> Option<DataType> {
    let item = |field: &FieldRef| {
        Some(Arc::new(Field::new(
            field.name(),
            plain_type(field.data_type())?,
            true,
        )))
    };
    Some(match data_type {
        DataType::Utf8View | DataType::Null => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::List(field) | DataType::ListView(field) => DataType::List(item(field)?),
        DataType::LargeList(field) | DataType::LargeListView(field) => {
            DataType::LargeList(item(field)?)
        }
        DataType::FixedSizeList(field, size) => DataType::FixedSizeList(item(field)?, *size),
        DataType::Struct(fields) if !fields.is_empty() => {
            DataType::Struct(fields.iter().map(item).collect::<Option<Vec<_>>>()?.into())
        }
        DataType::Dictionary(key, value) if !value.is_nested() => {
            DataType::Dictionary(wide_keys(key), Box::new(plain_type(value)?))
        }
        DataType::Struct(_)
        | DataType::Dictionary(..)
        | DataType::Map(..)
        | DataType::Union(..)
        | DataType::RunEndEncoded(..)
        | DataType::Interval(_)
        | DataType::Duration(_) => return None,
        other => other.clone(),
    })
}

/// Whether rows of `found` can be stored as `expected` without a change of value: equal types, up
/// to nullability, string and list widths, dictionaries and metadata.
pub(super) fn same_type(expected: &DataType, found: &DataType) -> bool {
    use DataType as T;
    match (expected, found) {
        (T::Dictionary(_, expected), found) => same_type(expected, found),
        (expected, T::Dictionary(_, found)) => same_type(expected, found),
        (T::Utf8 | T::LargeUtf8 | T::Utf8View, T::Utf8 | T::LargeUtf8 | T::Utf8View)
        | (
            T::Binary | T::LargeBinary | T::BinaryView,
            T::Binary | T::LargeBinary | T::BinaryView,
        ) => true,
        (T::List(expected) | T::LargeList(expected), T::List(found) | T::LargeList(found)) => {
            same_type(expected.data_type(), found.data_type())
        }
        (T::FixedSizeList(expected, a), T::FixedSizeList(found, b)) => {
            a == b && same_type(expected.data_type(), found.data_type())
        }
        (T::Struct(expected), T::Struct(found)) => {
            expected.len() == found.len()
                && expected.iter().zip(found).all(|(expected, found)| {
                    expected.name() == found.name()
                        && same_type(expected.data_type(), found.data_type())
                })
        }
        (T::Timestamp(a, Some(_)), T::Timestamp(b, Some(_))) => a == b,
        (expected, found) => expected == found,
    }
}

/// Compares columns by name, whatever their order.
///
/// # Errors
/// `SchemaMismatch` with every difference.
pub(super) fn check_expected(expected: &Schema, found: &Schema) -> Result<(), IngestError> {
    let mut differences = Vec::new();
    for field in expected.fields() {
        match found.field_with_name(field.name()) {
            Err(_) => differences.push(missing(field)),
            Ok(other) if !same_type(field.data_type(), other.data_type()) => {
                differences.push(type_difference(field, type_name(other.data_type())));
            }
            Ok(_) => {}
        }
    }
    for field in found.fields() {
        if expected.field_with_name(field.name()).is_err() {
            differences.push(ColumnDifference::Extra {
                column: field.name().clone(),
                found: type_name(field.data_type()),
            });
        }
    }
    if differences.is_empty() {
        Ok(())
    } else {
        Err(IngestError::SchemaMismatch { differences })
    }
}

pub(super) fn missing(field: &Field) -> ColumnDifference {
    ColumnDifference::Missing {
        column: field.name().clone(),
        expected: type_name(field.data_type()),
    }
}

pub(super) fn type_difference(field: &Field, found: String) -> ColumnDifference {
    ColumnDifference::Type {
        column: field.name().clone(),
        expected: type_name(field.data_type()),
        found,
    }
}

/// Turns an array into `data_type`, exactly: a value that does not fit is an error.
pub(super) fn to_type(array: &ArrayRef, data_type: &DataType) -> Result<ArrayRef, ArrowError> {
    if array.data_type() == data_type {
        return Ok(Arc::clone(array));
    }
    let options = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    let cast = cast_with_options(array, data_type, &options)?;
    debug_assert_eq!(cast.len(), array.len(), "a cast keeps its rows");
    Ok(cast)
}
