//! The usearch engine as every engine is asked. Its searches are short and never wait: they run where
//! they are called.

use async_trait::async_trait;

use super::super::vectors::{
    Found, IndexStats, Metric, StoredRow, VectorError, VectorIndex, Visible,
};
use super::index::HnswIndex;

#[async_trait]
impl VectorIndex for HnswIndex {
    fn rows(&self) -> u64 {
        self.len()
    }

    fn dimensions(&self) -> usize {
        self.dimensions()
    }

    fn metric(&self) -> Metric {
        self.config().metric
    }

    fn stats(&self) -> IndexStats {
        self.stats()
    }

    fn memory_bytes(&self) -> u64 {
        self.memory_bytes() as u64
    }

    fn touch(&self) {
        self.touch();
    }

    fn key_of(&self, slot: u64) -> Option<&str> {
        self.key_of(slot)
    }

    fn slot_of(&self, key: &str) -> Option<u64> {
        self.slot_of(key)
    }

    async fn nearest(
        &self,
        query: &[f32],
        k: usize,
        ef: Option<usize>,
        visible: Visible<'_>,
    ) -> Result<Found, VectorError> {
        self.search(query, k, ef, visible)
    }

    async fn nearest_exact(
        &self,
        query: &[f32],
        k: usize,
        visible: Visible<'_>,
    ) -> Result<Found, VectorError> {
        self.search_exact(query, k, visible)
    }

    async fn stored(&self, slots: &[u64]) -> Result<Vec<StoredRow>, VectorError> {
        let row = |&slot: &u64| {
            Some(StoredRow {
                slot,
                key: self.key_of(slot)?.to_owned(),
                text: self.text_of(slot).map(str::to_owned),
                vector: self.vector_of(slot)?.to_vec(),
            })
        };
        Ok(slots.iter().filter_map(row).collect())
    }

    async fn texts(&self, slots: &[u64]) -> Result<Vec<Option<String>>, VectorError> {
        let text = |&slot: &u64| self.text_of(slot).map(str::to_owned);
        Ok(slots.iter().map(text).collect())
    }
}
