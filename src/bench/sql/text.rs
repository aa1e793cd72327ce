//! Answers as rows of text, so that a JSON page and record batches can be compared.
//! Pure. `bench sql` compares before it measures.

use arrow::{
    array::RecordBatch,
    error::ArrowError,
    util::display::{ArrayFormatter, FormatOptions},
};
use serde_json::Value;

/// Numbers agree when they differ by no more than this share of themselves: a sum of floats depends
/// on its order.
const TOLERANCE: f64 = 1e-9;

/// Rows of cells; null is the empty text.
pub(super) type Rows = Vec<Vec<String>>;

/// The rows of `POST /query/sql`.
pub(super) fn of_page(page: &Value) -> Rows {
    let rows = page["rows"].as_array().map_or(&[][..], Vec::as_slice);
    rows.iter()
        .map(|row| {
            let cells = row.as_array().map_or(&[][..], Vec::as_slice);
            cells.iter().map(crate::cli::output::cell).collect()
        })
        .collect()
}

/// The rows of batches.
pub(super) fn of_batches(batches: &[RecordBatch]) -> Result<Rows, ArrowError> {
    let options = FormatOptions::default();
    let mut rows = Rows::new();
    for batch in batches {
        let columns = batch
            .columns()
            .iter()
            .map(|column| ArrayFormatter::try_new(column, &options))
            .collect::<Result<Vec<_>, _>>()?;
        for row in 0..batch.num_rows() {
            rows.push(columns.iter().map(|c| c.value(row).to_string()).collect());
        }
    }
    Ok(rows)
}

/// The first difference between two answers; rows that an `ORDER BY` leaves equal may be swapped.
pub(super) fn difference(mut ours: Rows, mut plain: Rows) -> Option<String> {
    if ours.len() != plain.len() {
        return Some(format!("{} rows, plain {}", ours.len(), plain.len()));
    }
    ours.sort();
    plain.sort();
    let (ours, plain) = ours.iter().zip(&plain).find(|(ours, plain)| {
        ours.len() != plain.len() || !ours.iter().zip(*plain).all(|(a, b)| same(a, b))
    })?;
    Some(format!("`{}`, plain `{}`", ours.join("|"), plain.join("|")))
}

fn same(ours: &str, plain: &str) -> bool {
    if ours == plain {
        return true;
    }
    match (ours.parse::<f64>(), plain.parse::<f64>()) {
        (Ok(ours), Ok(plain)) => (ours - plain).abs() <= plain.abs() * TOLERANCE,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Date32Array, Decimal128Array, Float64Array, StringArray};
    use serde_json::json;

    use super::*;

    #[test]
    fn a_page_and_batches_of_the_same_rows_are_the_same() {
        let money = Decimal128Array::from(vec![Some(1_250), None]);
        let money = money
            .with_precision_and_scale(15, 2)
            .expect("a good decimal");
        let columns: [(&str, ArrayRef); 4] = [
            ("name", Arc::new(StringArray::from(vec!["a", "b"]))),
            ("money", Arc::new(money)),
            ("share", Arc::new(Float64Array::from(vec![0.1, 3.0]))),
            ("day", Arc::new(Date32Array::from(vec![0, 1]))),
        ];
        let batch = RecordBatch::try_from_iter_with_nullable(
            columns.map(|(name, column)| (name, column, true)),
        );
        let batches = [batch.expect("columns of one length")];
        let page = json!({ "rows": [
            ["b", null, 3.0, "1970-01-02"], ["a", "12.50", 0.100_000_000_000_01, "1970-01-01"],
        ]});
        let plain = of_batches(&batches).expect("every type can be shown");
        assert_eq!(difference(of_page(&page), plain.clone()), None);
        let other =
            json!({ "rows": [["b", null, 3.0, "1970-01-02"], ["a", "12.51", 0.1, "1970-01-01"]]});
        let found = difference(of_page(&other), plain.clone()).expect("they differ");
        assert_eq!(
            found,
            "`a|12.51|0.1|1970-01-01`, plain `a|12.50|0.1|1970-01-01`"
        );
        let short = difference(Rows::new(), plain).expect("they differ");
        assert_eq!(short, "0 rows, plain 2");
    }
}
