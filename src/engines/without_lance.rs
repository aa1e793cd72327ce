//! In Lance's place in a build without the feature `lance`: its settings are known, as they stand in
//! definitions, and what would need it is refused.

#![expect(
    clippy::unused_async,
    clippy::missing_errors_doc,
    reason = "the shape of what stands in its place"
)]

#[path = "lance/config.rs"]
mod config;

use std::path::Path;

use async_trait::async_trait;

use super::vectors::{
    BuildOptions, Built, Chunk, FileDigest, Found, IndexStats, Metric, StoredRow, VectorError,
    VectorIndex, Visible,
};

pub use config::{LanceConfig, LanceKind};

fn absent() -> VectorError {
    VectorError::Config {
        reason: "this build has no Lance".to_owned(),
    }
}

/// Never begun.
pub enum LanceBuilder {}

impl LanceBuilder {
    /// Refuses.
    pub fn new(_: &Path, _: usize, _: LanceConfig, _: BuildOptions) -> Result<Self, VectorError> {
        Err(absent())
    }

    /// Never called.
    pub async fn add_chunk(&mut self, _: Chunk<'_>) -> Result<(), VectorError> {
        match *self {}
    }

    /// Never called.
    pub async fn finish(self) -> Result<Built, VectorError> {
        match self {}
    }
}

/// Never opened.
pub enum LanceIndex {}

impl LanceIndex {
    /// Refuses.
    pub async fn open(_: &Path, _: &[FileDigest]) -> Result<Self, VectorError> {
        Err(absent())
    }
}

#[async_trait]
impl VectorIndex for LanceIndex {
    fn rows(&self) -> u64 {
        match *self {}
    }

    fn dimensions(&self) -> usize {
        match *self {}
    }

    fn metric(&self) -> Metric {
        match *self {}
    }

    fn stats(&self) -> IndexStats {
        match *self {}
    }

    fn memory_bytes(&self) -> u64 {
        match *self {}
    }

    fn touch(&self) {
        match *self {}
    }

    fn key_of(&self, _: u64) -> Option<&str> {
        match *self {}
    }

    fn slot_of(&self, _: &str) -> Option<u64> {
        match *self {}
    }

    async fn nearest(
        &self,
        _: &[f32],
        _: usize,
        _: Option<usize>,
        _: Visible<'_>,
    ) -> Result<Found, VectorError> {
        match *self {}
    }

    async fn nearest_exact(
        &self,
        _: &[f32],
        _: usize,
        _: Visible<'_>,
    ) -> Result<Found, VectorError> {
        match *self {}
    }

    async fn stored(&self, _: &[u64]) -> Result<Vec<StoredRow>, VectorError> {
        match *self {}
    }

    async fn texts(&self, _: &[u64]) -> Result<Vec<Option<String>>, VectorError> {
        match *self {}
    }
}

/// Full text is Lance's.
pub mod text {
    use roaring::RoaringBitmap;

    use super::{FileDigest, Path, VectorError, absent};
    use crate::engines::vectors::TextHit;

    /// The dataset's directory, beside the files of vectors: a build with Lance may have left one.
    pub const TEXTS: &str = "texts.lance";

    /// Never begun.
    pub enum TextBuilder {}

    impl TextBuilder {
        /// Refuses.
        pub fn new(_: &Path) -> Result<Self, VectorError> {
            Err(absent())
        }

        /// Never called.
        pub async fn push(&self, _: &[String]) -> Result<(), VectorError> {
            match *self {}
        }

        /// Never called.
        pub async fn finish(self) -> Result<(), VectorError> {
            match self {}
        }
    }

    /// Never opened.
    pub enum TextIndex {}

    impl TextIndex {
        /// Refuses.
        pub async fn open(_: &Path, _: &[FileDigest]) -> Result<Option<Self>, VectorError> {
            Err(absent())
        }

        /// Never called.
        pub async fn search(
            &self,
            _: &str,
            _: usize,
            _: Option<&RoaringBitmap>,
        ) -> Result<Vec<TextHit>, VectorError> {
            match *self {}
        }
    }

    /// Refuses.
    pub async fn score(
        _: Option<&TextIndex>,
        _: &str,
        _: Vec<(u64, String)>,
    ) -> Result<Vec<TextHit>, VectorError> {
        Err(absent())
    }
}
