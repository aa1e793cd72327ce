//! A builder of indexes for tests: it builds nothing, stalls and measures as it is told.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use lakehouse_journal::{
    model::{
        ErrorKind, Fold,
        catalog::{
            CatalogState, Cutting, Dataset, EmbeddingSpec, EvalSet, FileDigest, Index, IndexSpec,
            Making, ModelIdentity, Trial,
        },
    },
    record::Seq,
};

use parking_lot::Mutex;

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
    /// While set, a build fails as it does when the provider of vectors is down.
    pub provider_down: AtomicBool,
    /// Rows of each build whose text is refused.
    pub refused: AtomicU64,
    /// Rows of each build that nobody makes vectors of.
    pub left_out: AtomicU64,
    /// While set, generations are of a model that is another one today.
    pub made_otherwise: AtomicBool,
    /// Sweeps of kept vectors: the positions that they are true of.
    pub swept: Mutex<Vec<Seq>>,
}

#[async_trait]
impl IndexBuilder for FakeBuilder {
    async fn build(&self, task: BuildTask, _: Arc<Progress>) -> Result<BuiltGeneration, PortError> {
        while self.stalled.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if self.provider_down.load(Ordering::SeqCst) {
            let (kind, code) = (ErrorKind::Unavailable, "embedder_unavailable");
            return Err(PortError::new(kind, code, "the provider does not answer"));
        }
        self.built.fetch_add(1, Ordering::SeqCst);
        let refused = self.refused.load(Ordering::SeqCst);
        let spec = task.index.spec_to_build();
        let dataset = task.snapshot.state.dataset_under(&task.index.spec.source);
        let rows = dataset.map_or(0, |dataset| dataset.row_count());
        Ok(BuiltGeneration {
            prefix: format!("vectors/{}/{}", task.index.name, task.generation),
            files: Vec::<FileDigest>::new(),
            vectors: rows.saturating_sub(refused),
            rows: None,
            skipped: refused,
            reused: 0,
            changed: 0,
            making: Making {
                model: ModelIdentity {
                    provider: spec.provider,
                    model: spec.model.clone(),
                    version: spec.model,
                    dimensions: spec.dimensions,
                },
                cutting: spec.chunk.map(|chunk| Cutting {
                    tokenizer: "fake@1".to_owned(),
                    chunk,
                }),
                refused,
                left_out: self.left_out.load(Ordering::SeqCst),
                texts_sent: rows,
                provider_calls: 1,
                tokens: None,
            },
            rows_seq: None,
            folded_through: None,
        })
    }

    async fn index_of(
        &self,
        dataset: &Dataset,
        wanted: &EmbeddingSpec,
    ) -> Result<IndexSpec, PortError> {
        Ok(IndexSpec {
            key: wanted.key.clone(),
            text: wanted.text.clone(),
            provider: wanted.provider.clone(),
            model: wanted.model.clone(),
            chunk: wanted.chunk,
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

    fn is_made_as_today(&self, _: &Index) -> bool {
        !self.made_otherwise.load(Ordering::SeqCst)
    }

    async fn sweep_vectors(
        &self,
        _: Arc<Fold<CatalogState>>,
        _: &str,
        through: Seq,
    ) -> Result<u64, PortError> {
        self.swept.lock().push(through);
        Ok(1)
    }
}
