//! A dataset's schema between its two forms: the document that the journal keeps and people read,
//! and the Arrow schema that the engine computes with. Pure; called by ingest and by tables.

use std::sync::Arc;

use arrow::{
    datatypes::{DataType, Field, Schema, SchemaRef},
    ipc::{
        convert::try_schema_from_flatbuffer_bytes,
        writer::{DictionaryTracker, IpcDataGenerator, IpcWriteOptions},
    },
};
use base64::{Engine, prelude::BASE64_STANDARD};
use lakehouse_journal::model::catalog::{Column, SchemaDoc};

use super::QueryError;

/// Writes a schema down: readable columns, the Arrow schema as a base64 IPC message, and a blake3
/// (hex) over names, types and nullability.
pub fn schema_doc(schema: &Schema) -> SchemaDoc {
    let columns: Vec<Column> = schema
        .fields()
        .iter()
        .map(|field| Column {
            name: field.name().clone(),
            data_type: type_text(field.data_type()),
            nullable: field.is_nullable(),
        })
        .collect();
    let message = IpcDataGenerator::default().schema_to_bytes_with_dictionary_tracker(
        schema,
        &mut DictionaryTracker::new(false),
        &IpcWriteOptions::default(),
    );
    SchemaDoc {
        fingerprint: fingerprint(&columns),
        columns,
        arrow_ipc: BASE64_STANDARD.encode(message.ipc_message),
    }
}

/// Reads a schema as it was written down.
///
/// # Errors
/// [`QueryError::Internal`] when the document does not hold an Arrow schema.
pub fn arrow_schema(doc: &SchemaDoc) -> Result<SchemaRef, QueryError> {
    let bytes = BASE64_STANDARD
        .decode(doc.arrow_ipc.as_bytes())
        .map_err(|error| QueryError::Internal(format!("schema document: {error}")))?;
    let schema = try_schema_from_flatbuffer_bytes(&bytes)
        .map_err(|error| QueryError::Internal(format!("schema document: {error}")))?;
    let fields = schema.fields().iter().map(|field| {
        let field = field.as_ref().clone();
        match field.data_type() {
            DataType::Dictionary(key, values) => {
                let data_type = DataType::Dictionary(wide_keys(key), values.clone());
                field.with_data_type(data_type)
            }
            _ => field,
        }
    });
    let fields: Vec<Field> = fields.collect();
    Ok(Arc::new(Schema::new_with_metadata(fields, schema.metadata)))
}

/// What a dictionary is kept with: keys of 8 or 16 bits count the values of the batch that came in, and
/// the rows of two files together may have more of them.
pub fn wide_keys(key: &DataType) -> Box<DataType> {
    Box::new(match key {
        DataType::Int8 | DataType::Int16 | DataType::UInt8 | DataType::UInt16 => DataType::Int32,
        wide => wide.clone(),
    })
}

/// A type in Arrow's words, the views as what they are views of.
pub fn type_text(data_type: &DataType) -> String {
    match data_type {
        DataType::Utf8View => DataType::Utf8.to_string(),
        DataType::BinaryView => DataType::Binary.to_string(),
        other => other.to_string(),
    }
}

/// The schema as it is read: strings and bytes as views, which the engine filters and groups faster.
pub(super) fn read_schema(schema: &Schema) -> SchemaRef {
    let fields: Vec<_> = schema
        .fields()
        .iter()
        .map(|field| {
            let data_type = match field.data_type() {
                DataType::Utf8 | DataType::LargeUtf8 => DataType::Utf8View,
                DataType::Binary | DataType::LargeBinary => DataType::BinaryView,
                other => other.clone(),
            };
            Field::new(field.name(), data_type, field.is_nullable())
        })
        .collect();
    Arc::new(Schema::new(fields))
}

fn fingerprint(columns: &[Column]) -> String {
    let mut hasher = blake3::Hasher::new();
    for column in columns {
        for part in [column.name.as_str(), column.data_type.as_str()] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        hasher.update(&[u8::from(column.nullable)]);
    }
    hasher.finalize().to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::TimeUnit;

    fn wide() -> Schema {
        let point = DataType::Struct(vec![Field::new("x", DataType::Float64, true)].into());
        Schema::new(vec![
            Field::new("id", DataType::Int64, false),
            Field::new("name", DataType::Utf8, true),
            Field::new("price", DataType::Decimal128(12, 2), true),
            Field::new(
                "at",
                DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
                true,
            ),
            Field::new_list("points", Field::new_list_field(point, true), true),
        ])
    }

    #[test]
    fn a_schema_comes_back_as_it_was_written_down() {
        let doc = schema_doc(&wide());
        assert_eq!(arrow_schema(&doc).unwrap().as_ref(), &wide());
        assert_eq!(doc.columns[2].data_type, "Decimal128(12, 2)");
    }

    #[test]
    fn a_dictionary_of_an_older_schema_gets_keys_for_the_values_of_all_files() {
        let words = |key| DataType::Dictionary(Box::new(key), Box::new(DataType::Utf8));
        let schema = |key| Schema::new(vec![Field::new("word", words(key), true)]);
        for narrow in [DataType::Int8, DataType::UInt16] {
            let read = arrow_schema(&schema_doc(&schema(narrow))).unwrap();
            assert_eq!(read.as_ref(), &schema(DataType::Int32));
        }
        let read = arrow_schema(&schema_doc(&schema(DataType::Int64))).unwrap();
        assert_eq!(read.as_ref(), &schema(DataType::Int64));
    }

    #[test]
    fn the_fingerprint_changes_with_name_type_and_nullability_only() {
        let base = schema_doc(&Schema::new(vec![Field::new("a", DataType::Int64, true)]));
        let meta = Field::new("a", DataType::Int64, true)
            .with_metadata([("k".to_owned(), "v".to_owned())].into());
        assert_eq!(
            schema_doc(&Schema::new(vec![meta])).fingerprint,
            base.fingerprint
        );
        for other in [
            Field::new("b", DataType::Int64, true),
            Field::new("a", DataType::Int32, true),
            Field::new("a", DataType::Int64, false),
        ] {
            let other = schema_doc(&Schema::new(vec![other]));
            assert_ne!(other.fingerprint, base.fingerprint);
        }
    }
}
