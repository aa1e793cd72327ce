//! Times on the outside: RFC 3339 in UTC with microseconds. Inside they are microseconds.

use chrono::{DateTime, SecondsFormat, TimeZone, Utc};
use lakehouse_journal::record::Micros;

use super::problem::Problem;

/// A time as text.
pub fn text(at: Micros) -> String {
    Utc.timestamp_micros(at)
        .single()
        .unwrap_or_default()
        .to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// The same of a time that may be absent.
pub fn maybe(at: Option<Micros>) -> Option<String> {
    at.map(text)
}

/// A time out of text.
///
/// # Errors
/// 400 that quotes it.
pub fn parse(given: &str) -> Result<Micros, Problem> {
    DateTime::parse_from_rfc3339(given)
        .map(|at| at.timestamp_micros())
        .map_err(|_| Problem::invalid(format!("`{given}` is no RFC 3339 time")))
}
