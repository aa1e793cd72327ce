//! The texts of the 22 queries, with the specification's validation parameters.
//! Each is one statement in the SQL that `DataFusion` accepts.

use std::borrow::Cow;

/// How many queries there are; they are numbered from 1.
pub const QUERY_COUNT: usize = 22;

/// The share of the stock that query 11 asks for at scale factor 1.
const STOCK_SHARE: f64 = 0.0001;

const TEXTS: [&str; QUERY_COUNT] = [
    include_str!("queries/q01.sql"),
    include_str!("queries/q02.sql"),
    include_str!("queries/q03.sql"),
    include_str!("queries/q04.sql"),
    include_str!("queries/q05.sql"),
    include_str!("queries/q06.sql"),
    include_str!("queries/q07.sql"),
    include_str!("queries/q08.sql"),
    include_str!("queries/q09.sql"),
    include_str!("queries/q10.sql"),
    include_str!("queries/q11.sql"),
    include_str!("queries/q12.sql"),
    include_str!("queries/q13.sql"),
    include_str!("queries/q14.sql"),
    include_str!("queries/q15.sql"),
    include_str!("queries/q16.sql"),
    include_str!("queries/q17.sql"),
    include_str!("queries/q18.sql"),
    include_str!("queries/q19.sql"),
    include_str!("queries/q20.sql"),
    include_str!("queries/q21.sql"),
    include_str!("queries/q22.sql"),
];

/// The text of a query (from 1 to 22) for a scale factor: query 11 is the one that depends on it.
/// `None` for any other number.
pub fn query(number: usize, scale_factor: f64) -> Option<Cow<'static, str>> {
    let text = *TEXTS.get(number.checked_sub(1)?)?;
    if number != 11 || (scale_factor - 1.0).abs() < f64::EPSILON {
        return Some(Cow::Borrowed(text));
    }
    let share = format!("* {:.10}", STOCK_SHARE / scale_factor);
    Some(Cow::Owned(text.replace("* 0.0001", &share)))
}
