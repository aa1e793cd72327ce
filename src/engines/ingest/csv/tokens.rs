//! CSV text to fields: where records end, where fields start and stop, which rows are broken.
//! Pure; `super` turns the fields into columns. RFC 4180 with any one-byte separator, `\n` or
//! `\r\n` line ends, blank lines left out; a quote opens a field only as its first byte.

use memchr::{memchr, memchr2, memrchr};

use crate::engines::ingest::blocks::{Boundary, line_and_column};
use crate::engines::ingest::error::IngestError;

const FLAG: u32 = 1 << 31;

/// Where a field stands in its block, without its quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Field {
    /// The top bit says that the field was quoted.
    start: u32,
    /// The top bit says that it holds doubled quotes.
    end: u32,
}

impl Field {
    fn plain(start: usize, end: usize) -> Self {
        Self {
            start: narrow(start),
            end: narrow(end),
        }
    }

    fn quoted(start: usize, end: usize, doubled: bool) -> Self {
        Self {
            start: narrow(start) | FLAG,
            end: narrow(end) | if doubled { FLAG } else { 0 },
        }
    }

    /// The bytes between the quotes, or all of an unquoted field.
    #[inline]
    pub fn bytes(self, text: &[u8]) -> &[u8] {
        &text[(self.start & !FLAG) as usize..(self.end & !FLAG) as usize]
    }

    #[inline]
    pub fn is_quoted(self) -> bool {
        self.start & FLAG != 0
    }

    #[inline]
    pub fn has_doubled_quotes(self) -> bool {
        self.end & FLAG != 0
    }

    pub fn start(self) -> usize {
        (self.start & !FLAG) as usize
    }
}

fn narrow(position: usize) -> u32 {
    u32::try_from(position).expect("a block is far smaller than 2 GiB")
}

/// What a block is held to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub delimiter: u8,
    /// Fields of every row.
    pub width: usize,
    pub row_bytes_max: usize,
}

/// Splits a block into fields, row by row, `width` a row.
pub(super) fn tokenize(text: &[u8], rules: Rules) -> Result<Vec<Field>, IngestError> {
    let guess = text.len() / 8;
    let mut rows = Rows {
        text,
        rules,
        fields: Vec::with_capacity(guess),
        row_start: 0,
        row_fields: 0,
    };
    if memchr(b'"', text).is_none() {
        rows.split_unquoted()?;
    } else {
        rows.split_quoted()?;
    }
    Ok(rows.fields)
}

struct Rows<'a> {
    text: &'a [u8],
    rules: Rules,
    fields: Vec<Field>,
    /// Where the row starts in the text.
    row_start: usize,
    /// How many fields there were before the row.
    row_fields: usize,
}

impl Rows<'_> {
    /// Eight bytes at a time: separators and line ends are found with the exact zero-byte test.
    fn split_unquoted(&mut self) -> Result<(), IngestError> {
        let text = self.text;
        let delimiter = repeat(self.rules.delimiter);
        let newline = repeat(b'\n');
        let (words, tail) = text.as_chunks::<8>();
        let mut start = 0;
        for (number, word) in words.iter().enumerate() {
            let word = u64::from_le_bytes(*word);
            let mut hits = zero_bytes(word ^ delimiter) | zero_bytes(word ^ newline);
            while hits != 0 {
                let at = number * 8 + (hits.trailing_zeros() / 8) as usize;
                hits &= hits - 1;
                self.separate(start, at)?;
                start = at + 1;
            }
        }
        let rest = text.len() - tail.len();
        for (at, byte) in text.iter().enumerate().skip(rest) {
            if *byte == self.rules.delimiter || *byte == b'\n' {
                self.separate(start, at)?;
                start = at + 1;
            }
        }
        if self.row_start < text.len() {
            self.end_row(start, text.len())?;
        }
        Ok(())
    }

    #[inline]
    fn separate(&mut self, start: usize, at: usize) -> Result<(), IngestError> {
        if self.text[at] == b'\n' {
            self.end_row(start, at)
        } else {
            self.fields.push(Field::plain(start, at));
            Ok(())
        }
    }

    /// Ends a row whose last field is unquoted and stands at `start..end`.
    #[inline]
    fn end_row(&mut self, start: usize, end: usize) -> Result<(), IngestError> {
        let trimmed = if end > start && self.text[end - 1] == b'\r' {
            end - 1
        } else {
            end
        };
        let blank = trimmed == self.row_start;
        if !blank {
            self.fields.push(Field::plain(start, trimmed));
            self.check_row(end)?;
        }
        self.start_row(end + 1);
        Ok(())
    }

    fn start_row(&mut self, at: usize) {
        self.row_start = at;
        self.row_fields = self.fields.len();
    }

    #[inline]
    fn check_row(&self, end: usize) -> Result<(), IngestError> {
        let found = self.fields.len() - self.row_fields;
        if found == self.rules.width && end - self.row_start <= self.rules.row_bytes_max {
            return Ok(());
        }
        let (line, _) = line_and_column(self.text, self.row_start);
        if found == self.rules.width {
            return Err(IngestError::RowTooLong {
                line,
                limit_bytes: self.rules.row_bytes_max as u64,
            });
        }
        Err(IngestError::RaggedRow {
            line,
            expected: self.rules.width,
            found,
        })
    }

    fn split_quoted(&mut self) -> Result<(), IngestError> {
        let text = self.text;
        let mut start = 0;
        while start < text.len() {
            start = if text[start] == b'"' {
                self.quoted_field(start)?
            } else {
                let end = memchr2(self.rules.delimiter, b'\n', &text[start..])
                    .map_or(text.len(), |at| start + at);
                if end < text.len() && text[end] != b'\n' {
                    self.fields.push(Field::plain(start, end));
                } else {
                    self.end_row(start, end)?;
                }
                end + 1
            };
        }
        if self.row_start < text.len() {
            // The text ends with a separator: one more field, and it is empty.
            self.end_row(text.len(), text.len())?;
        }
        Ok(())
    }

    /// Reads the field whose opening quote is at `open`; gives where the next field starts.
    fn quoted_field(&mut self, open: usize) -> Result<usize, IngestError> {
        let text = self.text;
        let (close, doubled) = closing_quote(text, open + 1).ok_or_else(|| {
            let (line, _) = line_and_column(text, open);
            IngestError::UnterminatedQuote { line }
        })?;
        self.fields.push(Field::quoted(open + 1, close, doubled));
        let rest = &text[close + 1..];
        let line_end = match rest {
            [] => Some(0),
            [b'\n', ..] | [b'\r'] => Some(1),
            [b'\r', b'\n', ..] => Some(2),
            [byte, ..] if *byte == self.rules.delimiter => None,
            _ => {
                let (line, column) = line_and_column(text, close + 1);
                return Err(IngestError::TextAfterQuote { line, column });
            }
        };
        let Some(length) = line_end else {
            return Ok(close + 2);
        };
        self.check_row(close + 1)?;
        let next = close + 1 + length;
        self.start_row(next);
        Ok(next)
    }
}

/// The quote that ends a field whose content starts at `at`, and whether there are doubled ones.
fn closing_quote(text: &[u8], mut at: usize) -> Option<(usize, bool)> {
    let mut doubled = false;
    loop {
        let quote = at + memchr(b'"', text.get(at..)?)?;
        if text.get(quote + 1) != Some(&b'"') {
            return Some((quote, doubled));
        }
        doubled = true;
        at = quote + 2;
    }
}

fn repeat(byte: u8) -> u64 {
    u64::from_le_bytes([byte; 8])
}

/// The top bit of every byte that is zero, and of no other (H. S. Warren, Hacker's Delight 6-1).
#[inline]
fn zero_bytes(word: u64) -> u64 {
    const LOW: u64 = 0x7F7F_7F7F_7F7F_7F7F;
    !(((word & LOW) + LOW) | word | LOW)
}

/// Finds line ends outside quotes, over blocks.
pub(super) struct CsvBoundary {
    delimiter: u8,
    in_quotes: bool,
    /// The last byte seen is a quote inside quotes: the next one says whether it closes.
    pending: bool,
    outside: Vec<(usize, usize)>,
}

impl CsvBoundary {
    pub fn new(delimiter: u8) -> Self {
        Self {
            delimiter,
            in_quotes: false,
            pending: false,
            outside: Vec::new(),
        }
    }

    /// Notes the parts of `bytes[at..]` that stand outside quotes.
    fn walk(&mut self, bytes: &[u8], mut at: usize) {
        while let Some(quote) = memchr(b'"', &bytes[at..]).map(|found| at + found) {
            if self.in_quotes {
                match bytes.get(quote + 1) {
                    None => self.pending = true,
                    Some(b'"') => {
                        at = quote + 2;
                        continue;
                    }
                    Some(_) => self.in_quotes = false,
                }
            } else {
                self.outside.push((at, quote));
                let before = quote.checked_sub(1).map_or(b'\n', |before| bytes[before]);
                self.in_quotes = before == b'\n' || before == self.delimiter;
            }
            at = quote + 1;
        }
        if !self.in_quotes {
            self.outside.push((at, bytes.len()));
        }
    }
}

impl Boundary for CsvBoundary {
    fn scan(&mut self, bytes: &[u8], from: usize) -> Option<usize> {
        let mut at = from;
        if self.pending && at < bytes.len() {
            self.pending = false;
            if bytes[at] == b'"' {
                at += 1;
            } else {
                self.in_quotes = false;
            }
        }
        self.outside.clear();
        self.walk(bytes, at);
        let last = |(start, end): &(usize, usize)| {
            memrchr(b'\n', &bytes[*start..*end]).map(|at| start + at + 1)
        };
        self.outside.iter().rev().find_map(last)
    }
}

/// The first line with text on it: its fields, where the next line starts, and its number.
pub(super) struct Header {
    pub names: Vec<String>,
    pub end: usize,
    pub line: u64,
}

/// Reads the header at the start of the first block.
pub(super) fn header(
    text: &[u8],
    delimiter: u8,
    row_bytes_max: usize,
) -> Result<Header, IngestError> {
    let blank = text
        .iter()
        .take_while(|byte| matches!(byte, b'\n' | b'\r'))
        .count();
    let (line, _) = line_and_column(text, blank);
    let end = record_end(text, blank, delimiter);
    let record = &text[blank..end];
    let rules = Rules {
        delimiter,
        width: 0,
        row_bytes_max,
    };
    let mut rows = Rows {
        text: record,
        rules,
        fields: Vec::new(),
        row_start: 0,
        row_fields: 0,
    };
    match rows.split_quoted() {
        // A header may have any number of fields.
        Ok(()) | Err(IngestError::RaggedRow { .. }) => {}
        Err(error) => return Err(error.shifted(line - 1, 0)),
    }
    let names = rows
        .fields
        .iter()
        .map(|field| field_text(*field, record))
        .collect();
    Ok(Header { names, end, line })
}

fn record_end(text: &[u8], start: usize, delimiter: u8) -> usize {
    let mut boundary = CsvBoundary::new(delimiter);
    boundary.walk(&text[start..], 0);
    let first = |(from, to): &(usize, usize)| {
        memchr(b'\n', &text[start + from..start + to]).map(|at| from + at + 1)
    };
    let end = boundary.outside.iter().find_map(first);
    end.map_or(text.len(), |end| start + end)
}

fn field_text(field: Field, text: &[u8]) -> String {
    let raw = String::from_utf8_lossy(field.bytes(text));
    if field.has_doubled_quotes() {
        raw.replace("\"\"", "\"")
    } else if field.is_quoted() {
        raw.into_owned()
    } else {
        raw.trim().to_owned()
    }
}

/// The separator that stands most often in the first line outside quotes; a comma when none does.
pub(super) fn detect_delimiter(head: &[u8]) -> u8 {
    let candidates = *b",;\t|";
    let mut counts = [0usize; 4];
    let mut in_quotes = false;
    let start = head
        .iter()
        .take_while(|byte| matches!(byte, b'\n' | b'\r'))
        .count();
    for byte in &head[start..] {
        match byte {
            b'"' => in_quotes = !in_quotes,
            b'\n' if !in_quotes => break,
            _ if in_quotes => {}
            byte => {
                if let Some(index) = candidates.iter().position(|candidate| candidate == byte) {
                    counts[index] += 1;
                }
            }
        }
    }
    let most = counts.iter().max().copied().unwrap_or_default();
    let index = counts
        .iter()
        .position(|count| *count == most)
        .unwrap_or_default();
    candidates[index]
}
