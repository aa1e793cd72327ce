//! The static model: one int8 row a token, summed and normalised. The same text gives the same bits on
//! every machine, since the sums are integers and the few steps after them are single IEEE operations
//! in a fixed order.

use super::words::for_each_word;
use super::{PIECES_ROOM, TokenId, Vocabulary, WORD_ROOM};

/// How many numbers a vector has.
pub const DIMENSIONS: usize = 128;

/// Rows summed in integers before they are carried over: 127 times the largest scale times this
/// many stays below 2^63.
pub const ROWS_PER_CARRY: usize = 1 << 16;

const HEADER_BYTES: usize = 12;
/// 2^45.
const SCALE_UNITS: f64 = 35_184_372_088_832.0;

/// A vocabulary with a row for each of its tokens.
pub struct StaticModel {
    vocabulary: Vocabulary,
    /// What one step of a row is worth, in units of 2^-45: every scale is a whole number of them.
    scales: Vec<i64>,
    /// `[tokens, DIMENSIONS]`, row-major, bytes of i8.
    rows: &'static [u8],
}

impl StaticModel {
    /// Reads the weights: `LHSE`, u16 version, u16 dimensions, u32 rows, a f32 scale a row, then
    /// the rows of i8; all little-endian. The vocabulary is one token a line.
    ///
    /// # Errors
    /// What does not fit.
    pub fn parse(weights: &'static [u8], vocabulary: &'static str) -> Result<Self, &'static str> {
        let vocabulary = Vocabulary::parse(vocabulary)?;
        let count = vocabulary.len();
        let (header, body) = weights.split_at_checked(HEADER_BYTES).ok_or("no header")?;
        let mut expected = b"LHSE\x01\0\x80\0".to_vec();
        expected.extend(
            u32::try_from(count)
                .map_err(|_| "too many tokens")?
                .to_le_bytes(),
        );
        if header != expected {
            return Err("the header does not fit the vocabulary");
        }
        let (scales, rows) = body
            .split_at_checked(count * size_of::<f32>())
            .ok_or("scales are cut off")?;
        if rows.len() != count * DIMENSIONS {
            return Err("rows are cut off");
        }
        let scales = scales
            .as_chunks()
            .0
            .iter()
            .map(|&bytes| whole_units(f32::from_le_bytes(bytes)));
        let scales = scales
            .collect::<Option<_>>()
            .ok_or("a scale is out of range")?;
        Ok(Self {
            vocabulary,
            scales,
            rows,
        })
    }

    /// Its tokens.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// The vector of `text`, of length 1; `None` when it has no word that the model knows.
    pub fn embed(&self, text: &str) -> Option<[f32; DIMENSIONS]> {
        let mut sum = Sum::default();
        let mut pieces = Vec::with_capacity(PIECES_ROOM);
        for_each_word(text, &mut String::with_capacity(WORD_ROOM), |word| {
            if self.vocabulary.split(word, &mut pieces) {
                for &token in &pieces {
                    sum.add(self.row(token), self.scales[token as usize]);
                }
            }
        });
        sum.normalised()
    }

    fn row(&self, token: TokenId) -> &[u8; DIMENSIONS] {
        &self.rows.as_chunks().0[token as usize]
    }
}

/// `scale` in units of 2^-45; `None` when that is no whole number or too large to be summed.
fn whole_units(scale: f32) -> Option<i64> {
    let units = f64::from(scale) * SCALE_UNITS;
    let fits = units.fract() == 0.0 && (0.0..1_099_511_627_776.0).contains(&units);
    #[expect(clippy::cast_possible_truncation, reason = "a whole number below 2^40")]
    fits.then_some(units as i64)
}

/// The running sum of token rows.
struct Sum {
    exact: [i64; DIMENSIONS],
    carried: [f64; DIMENSIONS],
    rows: usize,
}

impl Default for Sum {
    fn default() -> Self {
        Self {
            exact: [0; DIMENSIONS],
            carried: [0.0; DIMENSIONS],
            rows: 0,
        }
    }
}

impl Sum {
    fn add(&mut self, row: &[u8; DIMENSIONS], scale: i64) {
        // No sum wraps: see `ROWS_PER_CARRY`. Said so that it is compiled without looking.
        for (total, &value) in self.exact.iter_mut().zip(row) {
            *total = total.wrapping_add(i64::from(value.cast_signed()).wrapping_mul(scale));
        }
        self.rows += 1;
        if self.rows.is_multiple_of(ROWS_PER_CARRY) {
            self.carry();
        }
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "one rounding, the same everywhere"
    )]
    fn carry(&mut self) {
        for (total, exact) in self.carried.iter_mut().zip(&mut self.exact) {
            *total += *exact as f64;
            *exact = 0;
        }
    }

    /// The sum at length 1; `None` when nothing was added or it cancelled out.
    fn normalised(mut self) -> Option<[f32; DIMENSIONS]> {
        self.carry();
        let mut square = 0.0;
        for value in self.carried {
            square += value * value;
        }
        let length = square.sqrt();
        #[expect(
            clippy::cast_possible_truncation,
            reason = "f64 to f32 rounds to nearest"
        )]
        (length > 0.0).then(|| self.carried.map(|value| (value / length) as f32))
    }
}
