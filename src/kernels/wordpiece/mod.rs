//! Texts as words, words as `WordPiece` tokens, and the vector that the embedder in the binary makes of
//! them. Embedding, cutting texts into chunks and the local model ask here; the weights are theirs.

mod categories;
mod model;
mod vocabulary;
mod words;

pub use categories::is_cjk;
pub use model::{DIMENSIONS, ROWS_PER_CARRY, StaticModel};
pub use vocabulary::{TokenId, Vocabulary};
pub use words::letters_of;

use words::{for_each_word, for_each_word_at};

/// Room for the letters of a word and for its pieces; longer ones find more.
const WORD_ROOM: usize = 32;
const PIECES_ROOM: usize = 16;

/// A word of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Word {
    /// The byte of the text that it begins at.
    pub start: usize,
    /// How many tokens it is: one that the vocabulary does not have is one.
    pub tokens: usize,
}

impl Vocabulary {
    /// The tokens of a text in their order, with `unknown` for a word that is not all known.
    pub fn tokens_of(&self, text: &str, unknown: TokenId) -> Vec<TokenId> {
        let mut tokens = Vec::new();
        let mut pieces = Vec::with_capacity(PIECES_ROOM);
        for_each_word(text, &mut String::with_capacity(WORD_ROOM), |word| {
            if self.split(word, &mut pieces) {
                tokens.extend_from_slice(&pieces);
            } else {
                tokens.push(unknown);
            }
        });
        tokens
    }

    /// The words of a text in their order.
    pub fn words_of(&self, text: &str) -> Vec<Word> {
        let mut words = Vec::new();
        let mut pieces = Vec::with_capacity(PIECES_ROOM);
        for_each_word_at(
            text,
            &mut String::with_capacity(WORD_ROOM),
            |word, start| {
                let known = self.split(word, &mut pieces);
                let tokens = if known { pieces.len() } else { 1 };
                words.push(Word { start, tokens });
            },
        );
        words
    }
}
