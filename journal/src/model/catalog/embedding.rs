//! How texts become vectors: which model makes them, and how long texts are cut. Pure data.

use serde::{Deserialize, Serialize};

use crate::model::ModelError;

/// A model: vectors may be compared only when these are equal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ModelIdentity {
    /// Where it runs: `in-process`, `local`, `ollama`, `openai`.
    pub provider: String,
    /// Its name there.
    pub model: String,
    /// The name with the version of weights and tokeniser, as far as they are known.
    pub version: String,
    /// Numbers in a vector.
    pub dimensions: u32,
}

/// How a long text is cut into parts that are embedded one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChunkSpec {
    /// Most tokens of a part.
    pub tokens: u32,
    /// Tokens that a part has in common with the one before it, at most.
    #[serde(default)]
    pub overlap: u32,
}

impl ChunkSpec {
    /// Fewest tokens of a part: less says nothing.
    pub const TOKENS_MIN: u32 = 8;
    /// Most tokens of a part.
    pub const TOKENS_MAX: u32 = 32_768;

    /// Refuses what cannot be carried out.
    ///
    /// # Errors
    /// [`ModelError::Impossible`] with the reason.
    pub fn validate(self) -> Result<(), ModelError> {
        let refuse = |reason: String| {
            Err(ModelError::Impossible {
                what: "chunk",
                reason,
            })
        };
        if !(Self::TOKENS_MIN..=Self::TOKENS_MAX).contains(&self.tokens) {
            let (min, max) = (Self::TOKENS_MIN, Self::TOKENS_MAX);
            return refuse(format!("`tokens` must be {min} to {max}"));
        }
        if self.overlap > self.tokens / 2 {
            return refuse("`overlap` may be half of `tokens` at most".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_that_makes_no_progress_is_refused() {
        let chunk = |tokens, overlap| ChunkSpec { tokens, overlap }.validate();
        assert!(chunk(256, 32).is_ok());
        assert!(chunk(256, 129).is_err());
        assert!(chunk(7, 0).is_err());
        assert!(chunk(100_000, 0).is_err());
    }
}
