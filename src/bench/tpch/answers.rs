//! Whether a query's answer at scale factor 1 is the one that the TPC publishes.
//! `bench sql` asks before it reports a time; the published answers come with the crate `tpchgen`.

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use thiserror::Error;
use tpchgen::q_and_a::answers_sf1;

/// Numbers agree when they differ by less than a hundredth, the last place of the published ones,
/// or by this share of themselves.
const TOLERANCE: f64 = 1e-6;

/// How an answer differs from the published one.
#[derive(Debug, Error)]
pub enum AnswerDiffers {
    /// There is no such query.
    #[error("there is no query {0}")]
    NoSuchQuery(usize),
    /// The answer is longer or shorter.
    #[error("query {query} answers {found} rows, not {expected}")]
    Rows {
        /// The query's number.
        query: usize,
        /// Rows of the answer.
        found: usize,
        /// Rows of the published answer.
        expected: usize,
    },
    /// A row is another one.
    #[error("row {row} of query {query} is `{found}`, not `{expected}`")]
    Row {
        /// The query's number.
        query: usize,
        /// The row, from 0.
        row: usize,
        /// Its fields, joined by `|`.
        found: String,
        /// The published fields, joined by `|`.
        expected: String,
    },
    /// The answer cannot be shown as text.
    #[error("the answer cannot be shown: {0}")]
    Arrow(#[from] ArrowError),
}

/// Compares the answer to a query (from 1 to 22) at scale factor 1 with the published one, row by
/// row in order.
///
/// # Errors
/// [`AnswerDiffers`], naming the first difference.
pub fn check_answer(query: usize, answer: &[RecordBatch]) -> Result<(), AnswerDiffers> {
    let published = i32::try_from(query).ok().and_then(answers_sf1::answer);
    let published = published.ok_or(AnswerDiffers::NoSuchQuery(query))?;
    let lines = published
        .lines()
        .filter(|line| !line.trim().is_empty())
        .skip(1);
    let expected: Vec<Vec<&str>> = lines
        .map(|line| line.split('|').map(str::trim).collect())
        .collect();
    let found = text_rows(answer)?;
    if found.len() != expected.len() {
        return Err(AnswerDiffers::Rows {
            query,
            found: found.len(),
            expected: expected.len(),
        });
    }
    for (row, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let mut fields = found
            .iter()
            .map(|field| field.trim())
            .zip(expected.iter().copied());
        // The crate's copy of the answer to query 11 has the first four digits of its keys only.
        let key_is_right = query != 11
            || fields
                .next()
                .is_some_and(|(found, key)| found.starts_with(key));
        let same = found.len() == expected.len() && key_is_right && fields.all(same_field);
        if !same {
            let (found, expected) = (found.join("|"), expected.join("|"));
            return Err(AnswerDiffers::Row {
                query,
                row,
                found,
                expected,
            });
        }
    }
    Ok(())
}

fn text_rows(answer: &[RecordBatch]) -> Result<Vec<Vec<String>>, ArrowError> {
    let options = FormatOptions::default();
    let mut rows = Vec::new();
    for batch in answer {
        let columns = batch
            .columns()
            .iter()
            .map(|column| ArrayFormatter::try_new(column, &options));
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        rows.extend((0..batch.num_rows()).map(|row| {
            columns
                .iter()
                .map(|column| column.value(row).to_string())
                .collect()
        }));
    }
    Ok(rows)
}

fn same_field((found, expected): (&str, &str)) -> bool {
    match (found.parse::<f64>(), expected.parse::<f64>()) {
        (Ok(found), Ok(expected)) => {
            (found - expected).abs() <= (expected.abs() * TOLERANCE).max(0.0101)
        }
        _ => found == expected,
    }
}
