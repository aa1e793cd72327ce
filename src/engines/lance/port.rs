//! The Lance engine as every engine is asked.

use arrow::array::Array;
use async_trait::async_trait;

use super::super::vectors::{
    Found, IndexStats, Metric, StoredRow, VectorError, VectorIndex, Visible,
};
use super::TEXT;
use super::index::{LanceIndex, strings};
use super::search::LanceSearch;

#[async_trait]
impl VectorIndex for LanceIndex {
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
        self.memory_bytes()
    }

    fn touch(&self) {
        // What it reads it keeps in caches of its own.
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
        let options = LanceSearch {
            ef,
            ..LanceSearch::default()
        };
        self.search(query, k, options, visible).await
    }

    async fn nearest_exact(
        &self,
        query: &[f32],
        k: usize,
        visible: Visible<'_>,
    ) -> Result<Found, VectorError> {
        self.search_exact(query, k, visible).await
    }

    async fn stored(&self, slots: &[u64]) -> Result<Vec<StoredRow>, VectorError> {
        self.rows(slots).await
    }

    async fn texts(&self, slots: &[u64]) -> Result<Vec<Option<String>>, VectorError> {
        let Some(batch) = self.take(slots, &[TEXT]).await? else {
            return Ok(Vec::new());
        };
        let texts = strings(&batch, TEXT)?;
        let text = |row| texts.is_valid(row).then(|| texts.value(row).to_owned());
        Ok((0..texts.len()).map(text).collect())
    }
}
