//! The embedder inside the daemon: one int8 row a `WordPiece` token, summed and normalised.
//! Indexing and search ask it for vectors. It reads no file and no network: the weights are in the
//! binary. The same text gives the same bits on every machine, since the sums are integers and the
//! few steps after them are single IEEE operations in a fixed order.
//! English, small: it knows what words mean, not what a sentence says.

pub mod batches;
pub mod cache;
mod categories;
pub mod chunker;
mod in_process;
pub mod minilm;
mod registry;
pub mod remote;
pub mod standin;
pub mod store;
#[cfg(test)]
mod tests;
mod vocabulary;
mod words;

use std::sync::LazyLock;

pub use in_process::InProcess;
pub use registry::{EmbedderName, Embedders, IN_PROCESS, LOCAL};
use vocabulary::{TokenId, Vocabulary};

/// How many numbers a vector has.
pub const DIMENSIONS: usize = 128;

/// Who makes the vectors of an index; two indexes may be compared only when these are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmbedderIdentity {
    /// Where it runs.
    pub provider: &'static str,
    /// Its name in requests and configuration.
    pub model: &'static str,
    /// The name with the version of weights and tokeniser: a change of either changes this.
    pub version: &'static str,
    /// Numbers in a vector.
    pub dimensions: usize,
}

/// The static sentence embedding `static-minilm-128`.
pub struct StaticEmbedder {
    vocabulary: Vocabulary,
    /// What one step of a row is worth, in units of 2^-45: every scale is a whole number of them.
    scales: Vec<i64>,
    /// `[tokens, DIMENSIONS]`, row-major, bytes of i8.
    rows: &'static [u8],
}

static WEIGHTS: &[u8] = include_bytes!("static-minilm-128/static-minilm-128.i8");
static VOCABULARY: &str = include_str!("static-minilm-128/vocab.txt");

static BUILT_IN: LazyLock<StaticEmbedder> = LazyLock::new(|| {
    StaticEmbedder::parse(WEIGHTS, VOCABULARY)
        .expect("the model in the binary is whole, as a test reads it")
});

const HEADER_BYTES: usize = 12;
/// 2^45.
const SCALE_UNITS: f64 = 35_184_372_088_832.0;
/// Rows summed in integers before they are carried over: 127 times the largest scale times this
/// many stays below 2^63.
const ROWS_PER_CARRY: usize = 1 << 16;

impl StaticEmbedder {
    /// The one in the binary, indexed at first use (a few milliseconds).
    pub fn built_in() -> &'static Self {
        &BUILT_IN
    }

    /// Who makes the vectors.
    pub fn identity(&self) -> EmbedderIdentity {
        EmbedderIdentity {
            provider: "in-process",
            model: "static-minilm-128",
            version: "static-minilm-128@1",
            dimensions: DIMENSIONS,
        }
    }

    /// The vector of `text`, of length 1; `None` when it has no word that the model knows.
    pub fn embed(&self, text: &str) -> Option<[f32; DIMENSIONS]> {
        let mut sum = Sum::default();
        let mut pieces = Vec::with_capacity(16);
        words::for_each_word(text, &mut String::with_capacity(32), |word| {
            if self.vocabulary.split(word, &mut pieces) {
                for &token in &pieces {
                    sum.add(self.row(token), self.scales[token as usize]);
                }
            }
        });
        sum.normalised()
    }

    /// How many tokens a word is: one that the vocabulary does not have is one.
    fn tokens_of(&self, word: &str, pieces: &mut Vec<TokenId>) -> usize {
        if self.vocabulary.split(word, pieces) {
            pieces.len()
        } else {
            1
        }
    }

    /// The vectors of `texts`, in order.
    pub fn embed_batch(&self, texts: &[&str]) -> Vec<Option<Vec<f32>>> {
        texts
            .iter()
            .map(|text| self.embed(text).map(|vector| vector.to_vec()))
            .collect()
    }

    /// Reads the weights: `LHSE`, u16 version, u16 dimensions, u32 rows, a f32 scale a row, then
    /// the rows of i8; all little-endian.
    fn parse(weights: &'static [u8], vocabulary: &'static str) -> Result<Self, &'static str> {
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
        for (total, &value) in self.exact.iter_mut().zip(row) {
            *total += i64::from(value.cast_signed()) * scale;
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
