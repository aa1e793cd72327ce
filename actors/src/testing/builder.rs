//! A builder of indexes for tests: it builds nothing, stalls and measures as it is told.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use lakehouse_journal::model::catalog::{
    CatalogState, Dataset, EmbeddingSpec, EvalSet, FileDigest, Index, IndexSpec, Trial,
};

use super::index_spec;
use crate::{
    PortError,
    ports::{BuildTask, BuiltGeneration, IndexBuilder, Progress},
};

/// Builds nothing, slowly enough to be killed.
#[derive(Debug, Default)]
pub struct FakeBuilder {
    /// While set, a build does not end.
    pub stalled: AtomicBool,
    /// Builds that ended well.
    pub built: AtomicU64,
    /// What a check finds: true rows of a million.
    pub recall_ppm: AtomicU32,
}

#[async_trait]
impl IndexBuilder for FakeBuilder {
    async fn build(&self, task: BuildTask, _: Arc<Progress>) -> Result<BuiltGeneration, PortError> {
        while self.stalled.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.built.fetch_add(1, Ordering::SeqCst);
        Ok(BuiltGeneration {
            prefix: format!("vectors/{}/{}", task.index.name, task.generation),
            files: Vec::<FileDigest>::new(),
            vectors: task
                .snapshot
                .state
                .dataset_under(&task.index.spec.source)
                .map_or(0, |dataset| dataset.row_count()),
            skipped: 0,
            reused: 0,
            changed: 0,
            rows_seq: None,
            folded_through: None,
        })
    }

    fn index_of(&self, dataset: &Dataset, wanted: &EmbeddingSpec) -> Result<IndexSpec, PortError> {
        Ok(IndexSpec {
            key: wanted.key.clone(),
            text: wanted.text.clone(),
            provider: wanted.provider.clone(),
            model: wanted.model.clone(),
            ..index_spec(&dataset.name)
        })
    }

    async fn check(
        &self,
        index: Arc<Index>,
        generation: u64,
        built: &BuiltGeneration,
        _: Option<EvalSet>,
    ) -> Result<Trial, PortError> {
        Ok(Trial {
            id: format!("{}-{generation}", index.name),
            index: index.name.clone(),
            eval: String::new(),
            config: index.config_to_build().clone(),
            generation: Some(generation),
            k: 10,
            recall_ppm: self.recall_ppm.load(Ordering::SeqCst),
            vectors: built.vectors,
            ..Trial::default()
        })
    }

    async fn release(&self, _: &CatalogState) {}
}
