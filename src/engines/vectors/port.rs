//! What a generation that stands can be asked, whichever engine built it. `usearch` and `lance`
//! implement it; search, deltas and folds speak it and know neither.

use async_trait::async_trait;

use super::{Found, IndexStats, Metric, VectorError, Visible};

/// A row as it was given.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredRow {
    /// Its number in the generation.
    pub slot: u64,
    /// Its key.
    pub key: String,
    /// What its vector stands for, if that was given.
    pub text: Option<String>,
    /// The vector.
    pub vector: Vec<f32>,
}

/// One generation of an index: never changed, shared by any number of threads.
#[async_trait]
pub trait VectorIndex: Send + Sync {
    /// How many rows there are; slots go from 0 to this.
    fn rows(&self) -> u64;
    /// Numbers in a vector.
    fn dimensions(&self) -> usize;
    /// The distance.
    fn metric(&self) -> Metric;
    /// Its measures.
    fn stats(&self) -> IndexStats;
    /// Bytes in memory once everything that searches touch was touched.
    fn memory_bytes(&self) -> u64;
    /// Brings what searches touch into memory, where that is a file that is mapped. Blocks.
    fn touch(&self);
    /// The key of a slot.
    fn key_of(&self, slot: u64) -> Option<&str>;
    /// The slot of a key.
    fn slot_of(&self, key: &str) -> Option<u64>;
    /// The `k` visible rows nearest to `query`: always `k` when so many are visible. `ef` candidates
    /// are looked at on the way, the configuration's when `None`, and never fewer than `k`.
    ///
    /// # Errors
    /// What [`super::check_vector`] says of the query; `Engine`.
    async fn nearest(
        &self,
        query: &[f32],
        k: usize,
        ef: Option<usize>,
        visible: Visible<'_>,
    ) -> Result<Found, VectorError>;
    /// The `k` visible rows nearest to `query`, by comparing it with every one of them.
    ///
    /// # Errors
    /// As [`VectorIndex::nearest`].
    async fn nearest_exact(
        &self,
        query: &[f32],
        k: usize,
        visible: Visible<'_>,
    ) -> Result<Found, VectorError>;
    /// The rows of slots, in the same order. All slots must be below [`VectorIndex::rows`].
    ///
    /// # Errors
    /// `Io` or `Engine`.
    async fn stored(&self, slots: &[u64]) -> Result<Vec<StoredRow>, VectorError>;
    /// The texts of slots, in the same order.
    ///
    /// # Errors
    /// `Io` or `Engine`.
    async fn texts(&self, slots: &[u64]) -> Result<Vec<Option<String>>, VectorError>;
}
