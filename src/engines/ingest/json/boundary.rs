//! Where JSON text may be cut into blocks: after a line, or after an element of the outer array.
//! Pure, and total on malformed text: the parser says what is wrong with it.

use crate::engines::ingest::blocks::Boundary;

/// How the rows of a JSON body follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rows {
    /// One object a line.
    Lines,
    /// The elements of one array.
    Elements,
    /// One object after the other, with white space between them.
    Sequence,
}

/// Finds the cuts, over blocks.
pub(super) struct JsonBoundary {
    rows: Rows,
    depth: u64,
    in_string: bool,
    escaped: bool,
}

impl JsonBoundary {
    pub fn new(rows: Rows) -> Self {
        Self {
            rows,
            depth: 0,
            in_string: false,
            escaped: false,
        }
    }

    fn structure(&mut self, bytes: &[u8], from: usize) -> Option<usize> {
        let mut cut = None;
        let mut at = from;
        while at < bytes.len() {
            if self.in_string {
                at = self.string(bytes, at);
                continue;
            }
            match bytes[at] {
                b'"' => self.in_string = true,
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 && self.rows == Rows::Sequence {
                        cut = Some(at + 1);
                    }
                }
                b',' if self.depth == 1 && self.rows == Rows::Elements => cut = Some(at + 1),
                _ => {}
            }
            at += 1;
        }
        cut
    }

    /// Passes over string content from `at` on; gives where it ends or the text does.
    fn string(&mut self, bytes: &[u8], at: usize) -> usize {
        if self.escaped {
            self.escaped = false;
            return at + 1;
        }
        match memchr::memchr2(b'"', b'\\', &bytes[at..]) {
            None => bytes.len(),
            Some(found) => {
                self.escaped = bytes[at + found] == b'\\';
                self.in_string = self.escaped;
                at + found + 1
            }
        }
    }
}

impl Boundary for JsonBoundary {
    fn scan(&mut self, bytes: &[u8], from: usize) -> Option<usize> {
        match self.rows {
            Rows::Lines => memchr::memrchr(b'\n', &bytes[from..]).map(|at| from + at + 1),
            Rows::Elements | Rows::Sequence => self.structure(bytes, from),
        }
    }
}
