//! What an index is built from: the visible rows of its source as keys and texts, and as vectors where
//! these are a column. `making` has the texts embedded.
//! Reads through the query engine like everybody else.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, StringArray},
    compute::cast,
    datatypes::{DataType, Field, Float32Type},
    record_batch::RecordBatch,
};
use futures::StreamExt;
use lakehouse_actors::{PortError, ports::ChunkSpan};
use lakehouse_journal::model::{
    ErrorKind, Fold,
    catalog::{CatalogState, Index, TextSpec},
};

use super::{LakeIndexes, internal, of_vector, quoted};
use crate::{
    engines::{tables::of_query, vectors::VectorError},
    query::{SessionTables, row_key::names},
};

/// Rows on their way into a builder.
#[derive(Debug, Default, PartialEq)]
pub struct Rows {
    /// Their keys.
    pub keys: Vec<String>,
    /// Their texts; none where vectors stand for no text.
    pub texts: Option<Vec<String>>,
    /// `[keys, dimensions]`, row-major; `[chunks, dimensions]` where texts are cut.
    pub vectors: Vec<f32>,
    /// Whose vectors these are, row after row, one at least for each key; empty where a row has one.
    pub chunks: Vec<ChunkSpan>,
    /// Rows that have no vector.
    pub skipped: u64,
}

/// Key columns, columns of the text, and the column of vectors if there is one, of every visible row of a
/// dataset or view.
pub fn rows_query(index: &Index, source: &str) -> Result<String, PortError> {
    let key = index.spec.key.columns();
    let mut selected: Vec<String> = key.iter().map(|column| quoted(column)).collect();
    let named: Vec<String> = selected
        .iter()
        .map(|key| format!("{key} IS NOT NULL"))
        .collect();
    for (number, column) in text_columns(&index.spec.text)?.iter().enumerate() {
        let column = quoted(column);
        selected.push(format!("CAST({column} AS VARCHAR) AS text_{number}"));
    }
    if let Some(column) = &index.spec.vector_column {
        selected.push(format!("{} AS vector", quoted(column)));
    }
    Ok(format!(
        "SELECT {} FROM {} WHERE {}",
        selected.join(", "),
        quoted(source),
        named.join(" AND ")
    ))
}

fn text_columns(text: &TextSpec) -> Result<Vec<String>, PortError> {
    if text.is_none() {
        return Ok(Vec::new());
    }
    text.columns()
        .map_err(|reason| PortError::new(ErrorKind::Unprocessable, "impossible", reason))
}

/// The keys of the rows of an answer to [`rows_query`], and their texts where there are any.
///
/// # Errors
/// `Internal` for columns that are no text.
pub fn texts_of(
    index: &Index,
    batch: &RecordBatch,
) -> Result<(StringArray, Option<Vec<String>>), PortError> {
    let key = index.spec.key.columns().len();
    let keys = names(&batch.columns()[..key]).map_err(|error| internal(&error))?;
    let columns = text_columns(&index.spec.text)?.len();
    let parts = (key..key + columns)
        .map(|column| text_column(batch, column))
        .collect::<Result<Vec<_>, _>>()?;
    let texts = (columns > 0).then(|| {
        (0..batch.num_rows())
            .map(|row| render(&index.spec.text, parts.iter().map(|part| cell(part, row))))
            .collect()
    });
    Ok((keys, texts))
}

/// The rows of an answer to [`rows_query`] of an index whose vectors are a column.
///
/// # Errors
/// `Invalid` for a vector of another length, with its row's key.
pub fn rows_with_vectors(index: &Index, batch: &RecordBatch) -> Result<Rows, PortError> {
    let (keys, texts) = texts_of(index, batch)?;
    let dimensions = index.spec.dimensions as usize;
    let vectors = batch.column(batch.num_columns() - 1);
    with_vectors(&keys, texts.as_deref(), vectors, dimensions)
}

fn cell(part: &ArrayRef, row: usize) -> &str {
    let part = part.as_string::<i32>();
    if part.is_null(row) {
        ""
    } else {
        part.value(row)
    }
}

impl LakeIndexes {
    /// How many numbers the vectors of a column have: as many as the first one.
    ///
    /// # Errors
    /// What the query says of source and column; `Unprocessable` when it holds no lists of numbers, or
    /// no vector at all.
    pub async fn dimensions_of(
        &self,
        catalog: &Fold<CatalogState>,
        source: &str,
        column: &str,
    ) -> Result<u32, PortError> {
        let column = quoted(column);
        let sql = format!(
            "SELECT {column} FROM {} WHERE {column} IS NOT NULL LIMIT 1",
            quoted(source)
        );
        let state = Arc::new(catalog.state.clone());
        let mut batches = self
            .rows(SessionTables::all(state, catalog.seq), &sql)
            .await?;
        while let Some(batch) = batches.next().await {
            let batch = batch.map_err(|error| of_query(&error))?;
            if batch.num_rows() > 0 {
                let lists = lists_of_numbers(batch.column(0))?;
                let length = lists.as_list::<i64>().value(0).len();
                return u32::try_from(length).map_err(|error| internal(&error));
            }
        }
        let text = format!("column {column} holds no vector yet, so that nobody knows its length");
        Err(PortError::new(ErrorKind::Unprocessable, "bad_vector", text))
    }
}

/// The vectors of an answer to [`rows_query`], whose last column they are.
pub struct Lists(ArrayRef);

impl Lists {
    /// Whether a row has this vector.
    pub fn is(&self, row: usize, vector: &[f32]) -> bool {
        let lists = self.0.as_list::<i64>();
        lists.is_valid(row) && {
            let numbers = lists.value(row);
            let numbers = numbers.as_primitive::<Float32Type>();
            numbers.null_count() == 0 && **numbers.values() == *vector
        }
    }
}

/// See [`Lists`].
///
/// # Errors
/// `Unprocessable` when the column holds no lists of numbers.
pub fn vectors_of(batch: &RecordBatch) -> Result<Lists, PortError> {
    lists_of_numbers(batch.column(batch.num_columns() - 1)).map(Lists)
}

fn lists_of_numbers(column: &ArrayRef) -> Result<ArrayRef, PortError> {
    // A text would become a list of one.
    let (DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..)) =
        column.data_type()
    else {
        let text = format!(
            "the column of vectors holds no lists of numbers but {}",
            column.data_type()
        );
        return Err(PortError::new(ErrorKind::Unprocessable, "bad_vector", text));
    };
    let list = DataType::LargeList(Arc::new(Field::new("item", DataType::Float32, true)));
    cast(column, &list).map_err(|error| {
        let text = format!("the column of vectors holds no lists of numbers: {error}");
        PortError::new(ErrorKind::Unprocessable, "bad_vector", text)
    })
}

/// Rows whose vectors are a column: lists of numbers of any width, each of the index's length.
fn with_vectors(
    keys: &StringArray,
    texts: Option<&[String]>,
    column: &ArrayRef,
    dimensions: usize,
) -> Result<Rows, PortError> {
    let column = lists_of_numbers(column)?;
    let column = column.as_list::<i64>();
    let mut rows = Rows {
        texts: texts.map(|_| Vec::new()),
        ..Rows::default()
    };
    for row in 0..keys.len() {
        if column.is_null(row) {
            rows.skipped += 1;
            continue;
        }
        let value = column.value(row);
        let numbers = value.as_primitive::<Float32Type>();
        let key = keys.value(row);
        if numbers.len() != dimensions {
            return Err(of_vector(&VectorError::Dimensions {
                key: Some(key.to_owned()),
                expected: dimensions,
                found: numbers.len(),
            }));
        }
        rows.keys.push(key.to_owned());
        // What is no number is refused at the engine's door, by its key.
        let numbers = numbers.iter().map(|number| number.unwrap_or(f32::NAN));
        rows.vectors.extend(numbers);
        if let (Some(kept), Some(texts)) = (&mut rows.texts, texts) {
            kept.push(texts[row].clone());
        }
    }
    Ok(rows)
}

/// The text of a row out of its template and the values of the template's columns.
fn render<'a>(template: &TextSpec, mut values: impl Iterator<Item = &'a str>) -> String {
    match template {
        TextSpec::Columns(_) => values.collect::<Vec<_>>().join(" "),
        TextSpec::Template(template) => {
            let mut text = String::new();
            let mut rest = template.as_str();
            while let Some((before, after)) = rest.split_once('{') {
                text.push_str(before);
                text.push_str(values.next().unwrap_or_default());
                rest = after.split_once('}').map_or("", |(_, rest)| rest);
            }
            text.push_str(rest);
            text
        }
    }
}

fn text_column(batch: &RecordBatch, column: usize) -> Result<ArrayRef, PortError> {
    cast(batch.column(column), &DataType::Utf8).map_err(|error| internal(&error))
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        FixedSizeListArray, Float64Array, ListArray, StringArray, types::Int32Type,
    };

    use super::*;

    #[test]
    fn a_template_takes_its_columns_in_order() {
        let template = TextSpec::Template("{title}. {body}!".to_owned());
        assert_eq!(render(&template, ["A", "b"].into_iter()), "A. b!");
        let columns = TextSpec::Columns(vec!["title".to_owned(), "body".to_owned()]);
        assert_eq!(render(&columns, ["A", "b"].into_iter()), "A b");
    }

    #[test]
    fn an_identifier_cannot_end_its_quotes() {
        assert_eq!(quoted("a\"b"), "\"a\"\"b\"");
    }

    #[test]
    fn lists_of_any_numbers_are_vectors_and_none_is_skipped() {
        let keys = StringArray::from(vec!["a", "b", "c"]);
        let lists = vec![
            Some(vec![Some(1), Some(2)]),
            None,
            Some(vec![Some(3), Some(4)]),
        ];
        let lists: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(lists));
        let rows = with_vectors(&keys, None, &lists, 2).unwrap();
        assert_eq!(
            (rows.keys, rows.skipped),
            (vec!["a".to_owned(), "c".to_owned()], 1)
        );
        assert_eq!(rows.vectors, [1.0, 2.0, 3.0, 4.0]);
        let item = Arc::new(Field::new("item", DataType::Float64, true));
        let numbers = Arc::new(Float64Array::from(vec![0.5; 6]));
        let fixed: ArrayRef = Arc::new(FixedSizeListArray::new(item, 2, numbers, None));
        assert_eq!(
            with_vectors(&keys, None, &fixed, 2).unwrap().vectors,
            [0.5; 6]
        );
        let refused = with_vectors(&keys, None, &fixed, 3).unwrap_err().message;
        assert_eq!(
            refused,
            "vector of key `a` has 2 dimensions, the index has 3"
        );
        let texts: ArrayRef = Arc::new(keys.clone());
        let refused = with_vectors(&keys, None, &texts, 2).unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Unprocessable);
    }
}
