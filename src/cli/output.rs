//! How the command line shows things: tables, numbers, sizes and times for people.
//! The verbs, the demo and the benchmarks print through it. What comes out of data is cleaned of
//! control characters first, so that a cell cannot steer the terminal.

use std::time::Duration;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde_json::Value;

use super::client::items;

/// The largest part of a text that is shown in one cell of a listing, in characters.
const CELL_CHARS: usize = 96;

/// A table with a header line. Columns of which every cell is a number stand to the right.
pub fn table(headers: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table
        .load_preset(presets::UTF8_FULL_CONDENSED)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(headers.iter().map(|h| clean(h)));
    for row in rows {
        table.add_row(row.iter().map(|cell| clean(cell)));
    }
    for (n, column) in table.column_iter_mut().enumerate() {
        let mut cells = rows.iter().filter_map(|row| row.get(n)).peekable();
        if cells.peek().is_some() && cells.all(|cell| is_number(cell)) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.to_string()
}

/// The answer of `POST /query/sql` as a table.
pub fn result_table(answer: &Value) -> String {
    let columns = answer["columns"].as_array().map_or(&[][..], Vec::as_slice);
    let headers: Vec<&str> = columns
        .iter()
        .map(|c| c["name"].as_str().unwrap_or(""))
        .collect();
    let rows = answer["rows"].as_array().map_or(&[][..], Vec::as_slice);
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            row.as_array()
                .map_or(&[][..], Vec::as_slice)
                .iter()
                .map(cell)
                .collect()
        })
        .collect();
    table(&headers, &rows)
}

/// A JSON value as one cell: text without quotes, null as nothing.
pub fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The beginning of a text that is too long for a line of a listing.
pub fn shortened(text: &str) -> String {
    match text.char_indices().nth(CELL_CHARS) {
        Some((end, _)) => format!("{}…", text[..end].trim_end()),
        None => text.to_owned(),
    }
}

/// The text without control characters: line breaks become spaces, the rest is escaped.
pub fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\r' | '\t' => out.push(' '),
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

/// An event on one line: number, time, kind, what it touched, who asked for it, and why if it says.
pub fn event_line(event: &Value) -> String {
    let word = |name: &str| clean(&cell(&event[name]));
    let subjects = items(&event["subjects"]).iter().map(cell);
    let subjects = clean(&subjects.collect::<Vec<_>>().join(", "));
    let reason = event["data"]["reason"].as_str();
    format!(
        "{:>8}  {}  {:<20}  {}  by {}{}",
        word("seq"),
        word("at"),
        word("kind"),
        shortened(&subjects),
        actor(&event["actor"]),
        reason.map_or_else(String::new, |why| format!(": {}", clean(&shortened(why)))),
    )
}

/// Who asked: a name, or the name out of a description.
fn actor(actor: &Value) -> String {
    let name = if actor.is_object() {
        &actor["name"]
    } else {
        actor
    };
    clean(&cell(name))
}

/// A whole number with a comma every three digits.
pub fn thousands(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A size in the largest binary unit, with one decimal place.
pub fn bytes(count: u64) -> String {
    for (unit, name) in [(1_u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")] {
        if count >= unit {
            let tenths = u128::from(count) * 10 / u128::from(unit);
            return format!("{}.{} {name}", tenths / 10, tenths % 10);
        }
    }
    format!("{count} B")
}

/// A time: milliseconds below a second, else seconds with two decimal places.
pub fn duration(time: Duration) -> String {
    let ms = time.as_millis();
    if ms < 1000 {
        return format!("{ms} ms");
    }
    format!("{}.{:02} s", ms / 1000, ms % 1000 / 10)
}

fn is_number(cell: &str) -> bool {
    let digits = cell.strip_prefix('-').unwrap_or(cell);
    cell.is_empty() || (digits.starts_with(|c: char| c.is_ascii_digit()) && plain_number(digits))
}

fn plain_number(digits: &str) -> bool {
    digits.replace(',', "").parse::<f64>().is_ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_sizes_and_times_are_shown_for_people() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(2_469_278), "2,469,278");
        assert_eq!(thousands(123), "123");
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(21_985_146), "20.9 MiB");
        assert_eq!(duration(Duration::from_millis(7)), "7 ms");
        assert_eq!(duration(Duration::from_millis(12_345)), "12.34 s");
    }

    #[test]
    fn a_cell_cannot_steer_the_terminal() {
        assert_eq!(clean("a\nb\u{1b}[31mc"), "a b\\u{1b}[31mc");
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let text = "ä".repeat(200);
        assert_eq!(shortened(&text).chars().count(), CELL_CHARS + 1);
        assert_eq!(shortened("short"), "short");
    }

    #[test]
    fn an_answer_becomes_a_table_with_numbers_to_the_right() {
        let answer = json!({
            "columns": [{"name": "name"}, {"name": "rows"}],
            "rows": [["a", 1], ["b", 1234], [null, null]],
        });
        let shown = result_table(&answer);
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines[1], "│ name ┆ rows │");
        assert_eq!(lines[3], "│ a    ┆    1 │");
        assert_eq!(lines[4], "│ b    ┆ 1234 │");
        assert_eq!(lines[5], "│      ┆      │");
    }

    #[test]
    fn an_event_is_one_line() {
        let event = json!({
            "seq": 12, "at": "2026-01-01T00:00:00.000000Z", "kind": "RowsTombstoned",
            "subjects": ["wordnet", "n1\n"], "actor": {"name": "admin", "role": "admin"},
            "data": {"reason": "they asked"},
        });
        let line = event_line(&event);
        assert!(!line.contains('\n'));
        assert!(
            line.contains("12  2026-01-01T00:00:00.000000Z  RowsTombstoned        wordnet, n1")
        );
        assert!(line.ends_with("by admin: they asked"));
    }
}
