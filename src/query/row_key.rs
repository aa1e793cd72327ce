//! How a row is named: the one spelling of its key, which the journal, indexes, lists and answers share.
//! A key of one column is that column's text; a key of several is a JSON array of their texts, so that
//! no value can be taken for a border. Pure; lookups, ingest, indexes and the edge all spell by this.

use std::sync::Arc;

use arrow::{
    array::{
        Array, ArrayRef, AsArray, BinaryBuilder, FixedSizeBinaryBuilder, StringArray, StringBuilder,
    },
    compute::{CastOptions, cast, cast_with_options},
    datatypes::{DataType, Schema},
    error::ArrowError,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use lakehouse_journal::model::catalog::Dataset;
use serde_json::Value;
use uuid::Uuid;

use super::{QueryError, arrow_schema};

/// Bytes of a value that is a UUID.
const UUID_BYTES: i32 = 16;

/// The names of rows, of their key columns; null where a column is null.
///
/// # Errors
/// For a column whose values have no text.
pub fn names(columns: &[ArrayRef]) -> Result<StringArray, ArrowError> {
    if let [column] = columns {
        return texts(column);
    }
    let texts = columns.iter().map(texts).collect::<Result<Vec<_>, _>>()?;
    let rows = texts.first().map_or(0, Array::len);
    let mut names = StringBuilder::with_capacity(rows, rows * 16);
    for row in 0..rows {
        let whole = texts.iter().all(|texts| texts.is_valid(row));
        let parts = || texts.iter().map(|texts| texts.value(row));
        names.append_option(whole.then(|| joined(parts())));
    }
    Ok(names.finish())
}

/// Keys as values of columns of these types; a key that no row can have is null in all of them.
///
/// # Errors
/// For a type whose values cannot be read from text.
pub fn values(types: &[DataType], keys: &[String]) -> Result<Vec<ArrayRef>, ArrowError> {
    if let [data_type] = types {
        let texts: StringArray = keys.iter().map(Some).collect();
        return Ok(vec![read(texts, data_type)?]);
    }
    let parts: Vec<Option<Vec<String>>> = keys.iter().map(|key| split(key, types.len())).collect();
    let column = |nth: usize| -> StringArray {
        let part = parts.iter();
        part.map(|parts| parts.as_ref().map(|parts| parts[nth].as_str()))
            .collect()
    };
    let columns = types.iter().enumerate();
    columns
        .map(|(nth, data_type)| read(column(nth), data_type))
        .collect()
}

/// Keys as they are spelled: `007` of a column of integers is `7`. Nothing for a key that no row of the
/// dataset can have.
///
/// # Errors
/// [`QueryError::ColumnNotFound`]; [`QueryError::Invalid`] for a column that cannot be looked up.
pub fn spelled(dataset: &Dataset, keys: &[String]) -> Result<Vec<Option<String>>, QueryError> {
    let types = key_types(dataset, &dataset.key)?;
    let failed = |error: ArrowError| not_looked_up(&error);
    let columns = values(&types, keys).map_err(failed)?;
    let names = names(&columns).map_err(failed)?;
    Ok(names.iter().map(|name| name.map(str::to_owned)).collect())
}

/// The types of key columns.
///
/// # Errors
/// [`QueryError::ColumnNotFound`].
pub fn key_types(dataset: &Dataset, columns: &[String]) -> Result<Vec<DataType>, QueryError> {
    let schema = arrow_schema(&dataset.schema)?;
    let of_column = |name: &String| type_of(dataset, &schema, name);
    columns.iter().map(of_column).collect()
}

fn type_of(dataset: &Dataset, schema: &Schema, name: &str) -> Result<DataType, QueryError> {
    let field = schema.field_with_name(name).map_err(|_| {
        QueryError::ColumnNotFound(format!("dataset `{}` has no column `{name}`", dataset.name))
    })?;
    Ok(field.data_type().clone())
}

/// A failure of the columns of a key.
pub(super) fn not_looked_up(error: &ArrowError) -> QueryError {
    QueryError::Invalid(format!("the key cannot be looked up: {error}"))
}

/// The key that a request means by a JSON value, not yet spelled: a scalar for a key of one column; for
/// several an array in their order, an object by their names, or the text of such an array. Nothing for
/// a value that is no key of these columns.
pub fn asked(columns: &[String], value: &Value) -> Option<String> {
    let by_name = |value: &Value| match value {
        Value::Object(fields) if fields.len() == columns.len() => columns
            .iter()
            .map(|name| scalar(fields.get(name)?))
            .collect(),
        Value::Array(parts) if parts.len() == columns.len() => parts.iter().map(scalar).collect(),
        _ => None,
    };
    let parts: Option<Vec<String>> = by_name(value);
    match (columns, parts, value) {
        ([_], Some(mut parts), _) => parts.pop(),
        ([_], None, value) => scalar(value),
        (_, Some(parts), _) => Some(joined(parts.iter().map(String::as_str))),
        (_, None, Value::String(text)) => {
            let parts = by_name(&serde_json::from_str(text).ok()?)?;
            Some(joined(parts.iter().map(String::as_str)))
        }
        _ => None,
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// The texts of key columns as one name.
fn joined<'a>(parts: impl Iterator<Item = &'a str>) -> String {
    let parts: Vec<&str> = parts.collect();
    serde_json::to_string(&parts).expect("text is JSON")
}

/// The texts that a name is made of.
fn split(name: &str, columns: usize) -> Option<Vec<String>> {
    let parts: Vec<Value> = serde_json::from_str(name).ok()?;
    if parts.len() != columns {
        return None;
    }
    parts.iter().map(scalar).collect()
}

/// The text of each value of a column: bytes as base64, 16 bytes as a UUID, all else as Arrow writes it.
fn texts(column: &ArrayRef) -> Result<StringArray, ArrowError> {
    let text = match column.data_type() {
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => {
            let bytes = cast(column, &DataType::LargeBinary)?;
            let bytes = bytes.as_binary::<i64>().iter();
            return Ok(bytes
                .map(|bytes| Some(BASE64_STANDARD.encode(bytes?)))
                .collect());
        }
        DataType::FixedSizeBinary(size) => {
            let bytes = column.as_fixed_size_binary().iter();
            let text = |bytes: &[u8]| match Uuid::from_slice(bytes) {
                Ok(uuid) if *size == UUID_BYTES => uuid.to_string(),
                _ => BASE64_STANDARD.encode(bytes),
            };
            return Ok(bytes.map(|bytes| bytes.map(text)).collect());
        }
        DataType::Dictionary(_, values) => {
            return texts(&cast(column, values)?);
        }
        _ => cast(column, &DataType::Utf8)?,
    };
    Ok(text.as_string::<i32>().clone())
}

/// Texts as values of a type; null for what is no value of it.
fn read(texts: StringArray, data_type: &DataType) -> Result<ArrayRef, ArrowError> {
    let lenient = CastOptions {
        safe: true,
        ..CastOptions::default()
    };
    match data_type {
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => {
            let mut bytes = BinaryBuilder::new();
            for text in &texts {
                bytes.append_option(text.and_then(|text| BASE64_STANDARD.decode(text).ok()));
            }
            let bytes: ArrayRef = Arc::new(bytes.finish());
            cast(&bytes, data_type)
        }
        DataType::FixedSizeBinary(size) => {
            let mut bytes = FixedSizeBinaryBuilder::new(*size);
            for text in &texts {
                match text.and_then(|text| fixed_bytes(text, *size)) {
                    Some(value) => bytes.append_value(value)?,
                    None => bytes.append_null(),
                }
            }
            Ok(Arc::new(bytes.finish()))
        }
        DataType::Dictionary(_, values) => {
            let values = read(texts, values)?;
            cast(&values, data_type)
        }
        other => {
            let texts: ArrayRef = Arc::new(texts);
            cast_with_options(&texts, other, &lenient)
        }
    }
}

/// So many bytes: a UUID in any of its forms when they are 16, base64 whatever they are.
fn fixed_bytes(text: &str, size: i32) -> Option<Vec<u8>> {
    if size == UUID_BYTES
        && let Ok(uuid) = Uuid::try_parse(text)
    {
        return Some(uuid.into_bytes().to_vec());
    }
    let bytes = BASE64_STANDARD.decode(text).ok()?;
    (i32::try_from(bytes.len()) == Ok(size)).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use arrow::array::{BinaryArray, DictionaryArray, FixedSizeBinaryArray, Int64Array};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn columns(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_key_of_several_columns_is_a_json_array_of_their_texts() {
        let words: ArrayRef = Arc::new(StringArray::from(vec![Some("a\",\"b"), None, Some("")]));
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![Some(-7), Some(1), Some(0)]));
        let names = names(&[words, numbers]).unwrap();
        assert_eq!(names.value(0), r#"["a\",\"b","-7"]"#);
        assert!(names.is_null(1));
        assert_eq!(names.value(2), r#"["","0"]"#);
    }

    #[test]
    fn bytes_are_base64_and_sixteen_of_them_a_uuid() {
        let bytes: ArrayRef = Arc::new(BinaryArray::from_vec(vec![b"\xff\x00", b"ok"]));
        let id = "67e55044-10b1-426f-9247-bb680e5fe0c8";
        let uuid = Uuid::try_parse(id).unwrap();
        let fixed = |bytes: Vec<Vec<u8>>| -> ArrayRef {
            Arc::new(FixedSizeBinaryArray::try_from_iter(bytes.into_iter()).unwrap())
        };
        assert_eq!(texts(&bytes).unwrap().value(0), "/wA=");
        let uuids = fixed(vec![uuid.as_bytes().to_vec()]);
        assert_eq!(texts(&uuids).unwrap().value(0), id);
        assert_eq!(texts(&fixed(vec![vec![1, 2]])).unwrap().value(0), "AQI=");
        let asked = [
            id.to_uppercase(),
            uuid.simple().to_string(),
            "no".to_owned(),
        ];
        let read = values(&[DataType::FixedSizeBinary(16)], &asked).unwrap();
        let back = texts(&read[0]).unwrap();
        assert_eq!((back.value(0), back.value(1)), (id, id));
        assert!(back.is_null(2));
        let words: ArrayRef = Arc::new(
            ["x", "y", "x"]
                .into_iter()
                .collect::<DictionaryArray<arrow::datatypes::Int32Type>>(),
        );
        assert_eq!(texts(&words).unwrap().value(2), "x");
    }

    #[test]
    fn a_request_names_a_row_in_any_of_four_ways() {
        let key = columns(&["region", "id"]);
        let name = r#"["eu","17"]"#;
        for value in [
            json!(["eu", 17]),
            json!(["eu", "17"]),
            json!({ "id": 17, "region": "eu" }),
            json!(r#"["eu", 17]"#),
        ] {
            assert_eq!(asked(&key, &value).as_deref(), Some(name), "{value}");
        }
        for bad in [
            json!("eu"),
            json!(["eu"]),
            json!(["eu", 1, 2]),
            json!(["eu", null]),
            json!({ "id": 17 }),
            json!({ "id": 17, "land": "eu" }),
            json!(17),
        ] {
            assert_eq!(asked(&key, &bad), None, "{bad}");
        }
        let one = columns(&["id"]);
        for value in [json!(17), json!("17"), json!([17]), json!({ "id": 17 })] {
            assert_eq!(asked(&one, &value).as_deref(), Some("17"), "{value}");
        }
        assert_eq!(asked(&one, &json!(["a", "b"])), None);
    }

    proptest! {
        #[test]
        fn a_name_leads_back_to_its_row_whatever_it_holds(
            words in proptest::collection::vec(any::<String>(), 1..20),
            seed: i64,
        ) {
            let numbers: Vec<i64> = (0..).map(|n| seed.wrapping_mul(n)).take(words.len()).collect();
            let rows: Vec<ArrayRef> = vec![
                Arc::new(StringArray::from(words)),
                Arc::new(Int64Array::from(numbers)),
            ];
            let spelled: Vec<String> =
                names(&rows).unwrap().iter().flatten().map(str::to_owned).collect();
            let back = values(&[DataType::Utf8, DataType::Int64], &spelled).unwrap();
            prop_assert_eq!(back, rows);
        }
    }
}
