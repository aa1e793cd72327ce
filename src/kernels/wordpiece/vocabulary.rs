//! The `WordPiece` vocabulary and the greedy split of a word into its pieces.
//! Asked for every word of a text; it never allocates once it stands.

/// A token's number: its line in the vocabulary and its row in the weights.
pub type TokenId = u32;

/// The longest word, in characters, that is split at all; a longer one is unknown.
pub const WORD_CHARS_MAX: usize = 100;

/// Longest piece in bytes that the split looks for; the vocabulary must not hold a longer one.
const PIECE_BYTES_MAX: usize = 64;

const FREE: u32 = u32::MAX;

/// Two hash tables over the lines of a vocabulary: pieces that begin a word, and pieces that go on.
pub struct Vocabulary {
    text: &'static [u8],
    /// Where each token's letters lie in `text`, without the `##` of a continuation.
    spans: Vec<(u32, u32)>,
    starts: Table,
    continuations: Table,
}

impl Vocabulary {
    /// Indexes a vocabulary of one token a line.
    ///
    /// # Errors
    /// What is wrong with the list: a token is too long to be ever found.
    pub fn parse(text: &'static str) -> Result<Self, &'static str> {
        let count = text.lines().count();
        let mut vocabulary = Self {
            text: text.as_bytes(),
            spans: Vec::with_capacity(count),
            starts: Table::with_room_for(count),
            continuations: Table::with_room_for(count),
        };
        let mut offset = 0;
        for line in text.split_terminator('\n') {
            vocabulary.insert(offset, line)?;
            offset += line.len() + 1;
        }
        Ok(vocabulary)
    }

    fn insert(&mut self, offset: usize, line: &'static str) -> Result<(), &'static str> {
        let letters = line.strip_prefix("##").unwrap_or(line);
        let continues = letters.len() < line.len() && !letters.is_empty();
        let letters = if continues { letters } else { line };
        if letters.len() > PIECE_BYTES_MAX {
            return Err("a token is longer than the split looks");
        }
        let too_large = "the vocabulary is too large for its table";
        let start = u32::try_from(offset + line.len() - letters.len()).map_err(|_| too_large)?;
        let length = u32::try_from(letters.len()).map_err(|_| too_large)?;
        let token = TokenId::try_from(self.spans.len()).map_err(|_| too_large)?;
        self.spans.push((start, start + length));
        let hash = letters.bytes().fold(HASH_START, step);
        let table = if continues {
            &mut self.continuations
        } else {
            &mut self.starts
        };
        table.insert(hash, token);
        Ok(())
    }

    /// How many tokens there are.
    pub(super) fn len(&self) -> usize {
        self.spans.len()
    }

    /// Splits a normalised word into `pieces`, longest first; `false` when a part of it is unknown.
    pub fn split(&self, word: &str, pieces: &mut Vec<TokenId>) -> bool {
        pieces.clear();
        if word.len() > WORD_CHARS_MAX && word.chars().count() > WORD_CHARS_MAX {
            return false;
        }
        let mut rest = word.as_bytes();
        let mut table = &self.starts;
        while !rest.is_empty() {
            let Some((token, length)) = self.longest(table, rest) else {
                return false;
            };
            pieces.push(token);
            rest = &rest[length..];
            table = &self.continuations;
        }
        true
    }

    /// The longest token of `table` that `letters` begins with, and its length in bytes.
    fn longest(&self, table: &Table, letters: &[u8]) -> Option<(TokenId, usize)> {
        let reach = letters.len().min(PIECE_BYTES_MAX);
        let mut hashes = [0; PIECE_BYTES_MAX];
        let mut hash = HASH_START;
        for (slot, &byte) in hashes.iter_mut().zip(&letters[..reach]) {
            hash = step(hash, byte);
            *slot = hash;
        }
        (1..=reach).rev().find_map(|length| {
            let token = table.find(hashes[length - 1], |token| {
                self.letters(token) == &letters[..length]
            })?;
            Some((token, length))
        })
    }

    fn letters(&self, token: TokenId) -> &[u8] {
        let (start, end) = self.spans[token as usize];
        &self.text[start as usize..end as usize]
    }
}

/// FNV-1a, a byte at a time, so that one pass gives the hash of every prefix.
const HASH_START: u32 = 0x811c_9dc5;

fn step(hash: u32, byte: u8) -> u32 {
    (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
}

/// Open addressing with linear probing, at most a quarter full.
struct Table {
    slots: Vec<u32>,
}

impl Table {
    fn with_room_for(count: usize) -> Self {
        Self {
            slots: vec![FREE; (count * 4).next_power_of_two()],
        }
    }

    fn home(&self, hash: u32) -> usize {
        (hash ^ (hash >> 15)) as usize & (self.slots.len() - 1)
    }

    fn insert(&mut self, hash: u32, token: TokenId) {
        let mut at = self.home(hash);
        while self.slots[at] != FREE {
            at = (at + 1) & (self.slots.len() - 1);
        }
        self.slots[at] = token;
    }

    fn find(&self, hash: u32, is_it: impl Fn(TokenId) -> bool) -> Option<TokenId> {
        let mut at = self.home(hash);
        while self.slots[at] != FREE {
            if is_it(self.slots[at]) {
                return Some(self.slots[at]);
            }
            at = (at + 1) & (self.slots.len() - 1);
        }
        None
    }
}
