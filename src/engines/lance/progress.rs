//! Turns what Lance tells of an index build into rows done of rows in all.

use async_trait::async_trait;
use lance::index::IndexBuildProgress;

use super::super::vectors::BuildOptions;

/// The stages of a vector index, in their order; each counts for as much as another.
const STAGES: [&str; 4] = [
    "train_ivf",
    "train_quantizer",
    "shuffle",
    "merge_partitions",
];

/// Told by Lance, tells the build's listener.
#[derive(Debug)]
pub struct Stages {
    pub options: BuildOptions,
    pub rows: u64,
}

#[async_trait]
impl IndexBuildProgress for Stages {
    async fn stage_start(&self, _: &str, _: Option<u64>, _: &str) -> lance::Result<()> {
        Ok(())
    }

    async fn stage_progress(&self, _: &str, _: u64) -> lance::Result<()> {
        Ok(())
    }

    async fn stage_complete(&self, stage: &str) -> lance::Result<()> {
        if let Some(index) = STAGES.iter().position(|name| *name == stage) {
            self.options.report(
                self.rows * (index as u64 + 1) / STAGES.len() as u64,
                self.rows,
            );
        }
        Ok(())
    }
}
