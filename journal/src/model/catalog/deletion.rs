//! Deletion vectors: which row positions of a file are no longer there.
//! Kept as roaring bitmaps; in events and snapshots as base64 of the portable roaring format.

use base64::{Engine, prelude::BASE64_STANDARD};
use roaring::RoaringBitmap;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// Row positions (from 0) of one file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DeletionVector(RoaringBitmap);

impl Eq for DeletionVector {}

impl DeletionVector {
    /// Whether no position is in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many positions are in it.
    pub fn len(&self) -> u64 {
        self.0.len()
    }

    /// Whether the row at `position` is gone.
    pub fn contains(&self, position: u32) -> bool {
        self.0.contains(position)
    }

    /// Adds every position of `other`.
    pub fn add(&mut self, other: &Self) {
        self.0 |= &other.0;
    }

    /// The positions of `self` that are not in `other`.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        Self(&self.0 - &other.0)
    }

    /// Where these rows lie once the rows of `removed` are out of the file; rows of `removed`
    /// themselves are nowhere.
    #[must_use]
    pub fn after_removal_of(&self, removed: &Self) -> Self {
        // Both ascend, so one pass counts the removed rows before each.
        let mut gone = removed.0.iter().peekable();
        let mut before = 0;
        let mut moved = RoaringBitmap::new();
        for position in &(&self.0 - &removed.0) {
            while gone.next_if(|row| *row < position).is_some() {
                before += 1;
            }
            moved.try_push(position - before).expect(
                "positions ascend, and stay so when as many are taken from each as went before",
            );
        }
        Self(moved)
    }

    /// The positions from `start` on, `rows` of them, counted from 0.
    #[must_use]
    pub fn slice(&self, start: u64, rows: u64) -> Self {
        let end = start + rows;
        self.0
            .iter()
            .map(u64::from)
            .filter(|position| (start..end).contains(position))
            .map(|position| u32::try_from(position - start).expect("below the position itself"))
            .collect()
    }

    /// The greatest position.
    pub fn max(&self) -> Option<u32> {
        self.0.max()
    }

    /// The bitmap itself.
    pub fn bitmap(&self) -> &RoaringBitmap {
        &self.0
    }
}

impl From<RoaringBitmap> for DeletionVector {
    fn from(bitmap: RoaringBitmap) -> Self {
        Self(bitmap)
    }
}

impl FromIterator<u32> for DeletionVector {
    fn from_iter<I: IntoIterator<Item = u32>>(positions: I) -> Self {
        Self(positions.into_iter().collect())
    }
}

impl Serialize for DeletionVector {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut bytes = Vec::with_capacity(self.0.serialized_size());
        self.0
            .serialize_into(&mut bytes)
            .map_err(serde::ser::Error::custom)?;
        serializer.serialize_str(&BASE64_STANDARD.encode(bytes))
    }
}

impl<'de> Deserialize<'de> for DeletionVector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        let bytes = BASE64_STANDARD
            .decode(text.as_bytes())
            .map_err(D::Error::custom)?;
        RoaringBitmap::deserialize_from(bytes.as_slice())
            .map(Self)
            .map_err(D::Error::custom)
    }
}
