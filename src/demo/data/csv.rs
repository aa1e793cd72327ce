//! CSV as it is streamed: one record after the other into chunks of about a mebibyte.
//! The demo feeds the chunks to a request body or reads them; a table is never held whole.

use std::io::{self, Read, Write};
use std::sync::LazyLock;

use bytes::Bytes;
use chrono::{Days, NaiveDate};

use super::random::as_index;
use super::tables::Table;
use super::world::World;

/// A chunk is cut at the first record that ends behind this many bytes.
const CHUNK_BYTES: usize = 1 << 20;
/// No record is longer; a chunk's buffer has this much room behind the cut.
const RECORD_BYTES_MAX: usize = 4 << 10;
/// Dates are written from a table that starts on this day and spans `CALENDAR_DAYS`.
const CALENDAR_START: (i32, u32, u32) = (2016, 1, 1);
const CALENDAR_DAYS: u64 = 12 * 366;

static CALENDAR: LazyLock<Vec<String>> = LazyLock::new(|| {
    let (year, month, day) = CALENDAR_START;
    let start = NaiveDate::from_ymd_opt(year, month, day).expect("the first of January exists");
    (0..CALENDAR_DAYS)
        .map(|n| (start + Days::new(n)).format("%Y-%m-%d").to_string())
        .collect()
});

/// One record under construction. Fields are written in the order of the table's columns.
pub(super) struct Record<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
}

impl<'a> Record<'a> {
    pub(super) fn new(out: &'a mut Vec<u8>) -> Self {
        let start = out.len();
        Self { out, start }
    }

    #[inline]
    fn separate(&mut self) {
        if self.out.len() > self.start {
            self.out.push(b',');
        }
    }

    /// A field that is known to need no quotes. It is not the first one when it may be empty.
    #[inline]
    pub(super) fn plain(&mut self, text: &str) -> &mut Self {
        self.separate();
        self.out.extend_from_slice(text.as_bytes());
        self
    }

    /// An empty field: a null.
    #[inline]
    pub(super) fn null(&mut self) -> &mut Self {
        self.plain("")
    }

    /// Any text, in quotes where it needs them.
    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        let bytes = text.as_bytes();
        if memchr::memchr3(b',', b'"', b'\n', bytes).is_none() {
            return self.plain(text);
        }
        self.separate();
        self.out.push(b'"');
        let mut rest = bytes;
        while let Some(at) = memchr::memchr(b'"', rest) {
            self.out.extend_from_slice(&rest[..=at]);
            self.out.push(b'"');
            rest = &rest[at + 1..];
        }
        self.out.extend_from_slice(rest);
        self.out.push(b'"');
        self
    }

    #[inline]
    pub(super) fn int(&mut self, value: u64) -> &mut Self {
        self.separate();
        push_int(self.out, value);
        self
    }

    /// Hundredths as a decimal with two places.
    #[inline]
    pub(super) fn hundredths(&mut self, value: u64) -> &mut Self {
        self.separate();
        push_hundredths(self.out, value);
        self
    }

    /// Days since 2016-01-01 as `YYYY-MM-DD`.
    #[inline]
    pub(super) fn date(&mut self, day: u64) -> &mut Self {
        self.separate();
        self.out
            .extend_from_slice(CALENDAR[as_index(day)].as_bytes());
        self
    }

    /// A day and the seconds since its midnight as `YYYY-MM-DDTHH:MM:SS` (UTC).
    #[inline]
    pub(super) fn time(&mut self, day: u64, second: u64) -> &mut Self {
        self.date(day);
        self.out.push(b'T');
        push_two(self.out, second / 3600);
        self.out.push(b':');
        push_two(self.out, second / 60 % 60);
        self.out.push(b':');
        push_two(self.out, second % 60);
        self
    }

    pub(super) fn end(&mut self) {
        self.out.push(b'\n');
    }
}

/// Appends a number in decimal digits.
#[inline]
pub(super) fn push_int(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b"0123456789"[as_index(value % 10)];
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Appends hundredths as a decimal with two places.
#[inline]
pub(super) fn push_hundredths(out: &mut Vec<u8>, value: u64) {
    push_int(out, value / 100);
    out.push(b'.');
    push_two(out, value % 100);
}

#[inline]
fn push_two(out: &mut Vec<u8>, value: u64) {
    let digit = |value: u64| b'0' + (value % 10) as u8;
    out.extend_from_slice(&[digit(value / 10), digit(value)]);
}

/// A table as CSV with a header line, in chunks of about 1 MiB that end at a record's end.
pub struct CsvChunks {
    world: World,
    table: Table,
    next_row: u64,
    rows: u64,
    header_sent: bool,
}

impl CsvChunks {
    pub(super) fn new(world: World, table: Table) -> Self {
        let rows = world.rows(table);
        Self {
            world,
            table,
            next_row: 0,
            rows,
            header_sent: false,
        }
    }

    fn push_header(&mut self, out: &mut Vec<u8>) {
        let mut record = Record::new(out);
        for column in self.table.columns() {
            record.plain(column.name);
        }
        record.end();
        self.header_sent = true;
    }
}

impl Iterator for CsvChunks {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.header_sent && self.next_row == self.rows {
            return None;
        }
        let mut out = Vec::with_capacity(CHUNK_BYTES + RECORD_BYTES_MAX);
        if !self.header_sent {
            self.push_header(&mut out);
        }
        while out.len() < CHUNK_BYTES && self.next_row < self.rows {
            self.world.push_row(self.table, self.next_row, &mut out);
            self.next_row += 1;
        }
        Some(Bytes::from(out))
    }
}

/// The same bytes as a reader, for code that pulls.
pub struct CsvReader {
    chunks: CsvChunks,
    current: Bytes,
}

impl CsvReader {
    pub(super) fn new(chunks: CsvChunks) -> Self {
        Self {
            chunks,
            current: Bytes::new(),
        }
    }
}

impl Read for CsvReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.current.is_empty() {
            match self.chunks.next() {
                Some(chunk) => self.current = chunk,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.current.len());
        buffer[..count].copy_from_slice(&self.current.split_to(count));
        Ok(count)
    }
}

/// Writes all chunks and returns the bytes written.
pub(super) fn write_all(chunks: CsvChunks, mut out: impl Write) -> io::Result<u64> {
    let mut bytes = 0;
    for chunk in chunks {
        out.write_all(&chunk)?;
        bytes += chunk.len() as u64;
    }
    out.flush()?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_quoted_only_where_they_must_be() {
        let mut out = Vec::new();
        let mut record = Record::new(&mut out);
        record
            .int(10)
            .text("plain")
            .null()
            .text("a, b")
            .text("said \"no\"");
        record.hundredths(1_205).date(59).time(366, 3_723).end();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "10,plain,,\"a, b\",\"said \"\"no\"\"\",12.05,2016-02-29,2017-01-01T01:02:03\n"
        );
    }
}
