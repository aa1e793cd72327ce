//! Fakes behind the roles of embedding: an index is a set of row keys, a vector costs nothing, and
//! the provider is down on demand.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use lakehouse_journal::{
    model::{
        ErrorKind, Fold,
        catalog::{
            CatalogState, Dataset, DeltaFile, EmbeddingSpec, Index, IndexSpec, RefreshCounts,
        },
    },
    record::Seq,
};
use parking_lot::Mutex;

use super::FakeTables;
use crate::{
    PortError,
    ports::{Behind, CatchUp, DeltaRows, EachRow, EmbeddingWork, IndexDeltas, Progress},
};

/// Embeds rows of [`FakeTables`].
#[derive(Debug, Default)]
pub struct FakeEmbedding {
    tables: Arc<FakeTables>,
    /// Keys by index.
    indexed: Mutex<BTreeMap<String, BTreeSet<String>>>,
    files: AtomicU64,
    /// Texts that were sent.
    pub sent: AtomicU64,
    /// Runs at the same time, now and at most.
    pub running: (AtomicU64, AtomicU64),
    /// While set, the provider does not answer.
    pub down: AtomicBool,
    /// While set, a run does not end.
    pub stalled: AtomicBool,
}

impl FakeEmbedding {
    /// Embeds the rows of these tables.
    pub fn of(tables: &Arc<FakeTables>) -> Self {
        Self {
            tables: Arc::clone(tables),
            ..Self::default()
        }
    }

    /// Keys that an index has.
    pub fn keys(&self, index: &str) -> BTreeSet<String> {
        self.indexed.lock().get(index).cloned().unwrap_or_default()
    }
}

#[async_trait]
impl IndexDeltas for FakeEmbedding {
    async fn each_row(&self, index: &Index, each: EachRow<'_>) -> Result<(), PortError> {
        for key in self.keys(&index.name) {
            each(&key, Some(&key));
        }
        Ok(())
    }

    async fn write_delta(&self, index: &Index, rows: DeltaRows) -> Result<DeltaFile, PortError> {
        let number = self.files.fetch_add(1, Ordering::SeqCst);
        let mut indexed = self.indexed.lock();
        let keys = indexed.entry(index.name.clone()).or_default();
        for key in &rows.removed {
            keys.remove(key);
        }
        keys.extend(rows.keys.iter().cloned());
        Ok(DeltaFile {
            key: format!("vectors/{}/deltas/{number}.parquet", index.name),
            bytes: 1,
            blake3: String::new(),
            rows: rows.keys.len() as u64,
            removed: rows.removed.len() as u64,
        })
    }
}

#[async_trait]
impl EmbeddingWork for FakeEmbedding {
    async fn catch_up(
        &self,
        snapshot: &Arc<Fold<CatalogState>>,
        index: &Index,
        _: &Arc<Progress>,
    ) -> Result<CatchUp, PortError> {
        let running = self.running.0.fetch_add(1, Ordering::SeqCst) + 1;
        self.running.1.fetch_max(running, Ordering::SeqCst);
        while self.stalled.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        self.running.0.fetch_sub(1, Ordering::SeqCst);
        if self.down.load(Ordering::SeqCst) {
            let (kind, code) = (ErrorKind::Unavailable, "embedder_unavailable");
            return Err(PortError::new(kind, code, "the embedder does not answer"));
        }
        let dataset = snapshot.state.dataset(&index.spec.source);
        let dataset = dataset.map_err(|error| PortError::internal(error.to_string()))?;
        let visible: BTreeSet<String> = self.tables.visible(dataset).into_iter().collect();
        let known = self.keys(&index.name);
        let new: Vec<String> = visible.difference(&known).cloned().collect();
        let removed: Vec<String> = known.difference(&visible).cloned().collect();
        self.sent.fetch_add(new.len() as u64, Ordering::SeqCst);
        let done = RefreshCounts {
            embedded: new.len() as u64,
            unchanged: visible.intersection(&known).count() as u64,
            removed: removed.len() as u64,
            texts_sent: new.len() as u64,
            ..RefreshCounts::default()
        };
        Ok(CatchUp::Delta {
            rows: DeltaRows {
                texts: new.clone(),
                vectors: vec![1.0; new.len() * index.spec.dimensions as usize],
                keys: new,
                removed,
            },
            done,
        })
    }

    async fn behind(&self, _: &Arc<Fold<CatalogState>>, _: &str) -> Result<Behind, PortError> {
        Ok(Behind::default())
    }

    async fn forget_refusals(
        &self,
        _: &Arc<Fold<CatalogState>>,
        _: &str,
    ) -> Result<u64, PortError> {
        Ok(0)
    }

    async fn index_of(
        &self,
        dataset: &Dataset,
        wanted: &EmbeddingSpec,
    ) -> Result<IndexSpec, PortError> {
        Ok(IndexSpec {
            text: wanted.text.clone(),
            key: wanted.key.clone(),
            provider: wanted.provider.clone(),
            model: wanted.model.clone(),
            ..super::index_spec(&dataset.name)
        })
    }

    fn built(&self, _: &str) -> Option<RefreshCounts> {
        None
    }

    async fn sweep(&self, _: &Arc<Fold<CatalogState>>, _: &str, _: Seq) -> Result<u64, PortError> {
        Ok(0)
    }

    async fn forget_dropped(&self, _: &CatalogState) -> Result<(), PortError> {
        Ok(())
    }
}
