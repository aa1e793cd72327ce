//! Telling rows apart by key while an index is built. Both builders note every row here.

use std::collections::HashMap;

use roaring::RoaringBitmap;

use super::{Duplicates, VectorError};

/// Rows in one generation at most: slots have 32 bits, and usearch keeps the highest for itself.
pub const ROWS_MAX: u64 = u32::MAX as u64 - 1;

/// The hash that rows are told apart and found by: 128 bits of blake3, so that nobody can make keys
/// that meet.
pub fn key_hash(key: &str) -> u128 {
    let hash = blake3::hash(key.as_bytes());
    u128::from_le_bytes(*hash.as_bytes().first_chunk().expect("a hash has 32 bytes"))
}

/// The keys of a build so far.
pub struct SeenKeys {
    duplicates: Duplicates,
    /// The newest row of each key.
    newest: HashMap<u128, u32>,
    replaced: RoaringBitmap,
    rows: u32,
}

impl SeenKeys {
    /// None yet.
    pub fn new(duplicates: Duplicates) -> Self {
        Self {
            duplicates,
            newest: HashMap::new(),
            replaced: RoaringBitmap::new(),
            rows: 0,
        }
    }

    /// Notes the next row, whose key has this [`key_hash`].
    ///
    /// # Errors
    /// `DuplicateKey` unless the last is to win; `TooMany`.
    pub fn note(&mut self, key: &str, hash: u128) -> Result<(), VectorError> {
        if u64::from(self.rows) >= ROWS_MAX {
            return Err(VectorError::TooMany { max: ROWS_MAX });
        }
        match (self.newest.insert(hash, self.rows), self.duplicates) {
            (None, _) => {}
            (Some(_), Duplicates::Refuse) => {
                return Err(VectorError::DuplicateKey {
                    key: key.to_owned(),
                });
            }
            (Some(earlier), Duplicates::LastWins) => {
                self.replaced.insert(earlier);
            }
        }
        self.rows += 1;
        Ok(())
    }

    /// How many rows were noted, the replaced ones too.
    pub fn rows(&self) -> u64 {
        u64::from(self.rows)
    }

    /// The rows whose key came again later.
    pub fn into_replaced(self) -> RoaringBitmap {
        self.replaced
    }
}
