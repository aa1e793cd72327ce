//! How long texts are cut into chunks that have a vector each: what is asked for, and what the texts of a
//! generation were cut with. Pure. `decide` refuses what is out of bounds; the edge cuts.

use serde::{Deserialize, Serialize};

use super::IndexSpec;
use crate::model::ModelError;

/// Fewest and most tokens of a chunk.
const TOKENS: std::ops::RangeInclusive<u32> = 8..=8_192;

/// How texts are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chunker {
    /// Most tokens of a chunk.
    pub tokens: u32,
    /// Most tokens at the end of a chunk that the next one begins with.
    #[serde(default)]
    pub overlap: u32,
}

/// What the texts of a generation were cut with: chunks of two of these are never compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cutting {
    /// Who counted the tokens, with a version.
    pub tokenizer: String,
    /// How they were cut.
    pub chunk: Chunker,
}

impl Chunker {
    /// Refuses what is out of bounds.
    ///
    /// # Errors
    /// `Impossible` with the field.
    pub fn check(&self) -> Result<(), ModelError> {
        let refuse = |reason: String| {
            let what = "chunk";
            Err(ModelError::Impossible { what, reason })
        };
        let Self { tokens, overlap } = *self;
        if !TOKENS.contains(&tokens) {
            let (least, most) = (TOKENS.start(), TOKENS.end());
            return refuse(format!("`tokens` is {tokens}, must be {least} to {most}"));
        }
        if overlap >= tokens.div_ceil(2) {
            return refuse(format!(
                "`overlap` is {overlap}, must be less than half of `tokens`, which is {tokens}"
            ));
        }
        Ok(())
    }
}

impl IndexSpec {
    /// Refuses chunks that cannot be made.
    pub(super) fn must_be_cut(&self) -> Result<(), ModelError> {
        let Some(chunk) = &self.chunk else {
            return Ok(());
        };
        if self.vector_column.is_some() {
            return Err(ModelError::Impossible {
                what: "chunk",
                reason:
                    "it cuts texts that are embedded, and vectors of a column are there already"
                        .to_owned(),
            });
        }
        chunk.check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_has_tokens_and_an_overlap_of_less_than_half() {
        let of = |tokens, overlap| Chunker { tokens, overlap }.check();
        for (tokens, overlap) in [(8, 0), (8, 3), (9, 4), (256, 127), (8_192, 4_095)] {
            assert_eq!(of(tokens, overlap), Ok(()), "{tokens} {overlap}");
        }
        for (tokens, overlap) in [(0, 0), (7, 0), (8_193, 0), (8, 4), (9, 5), (256, 128)] {
            let refused = of(tokens, overlap).expect_err("out of bounds");
            assert_eq!(refused.code(), "impossible", "{tokens} {overlap}");
        }
    }
}
