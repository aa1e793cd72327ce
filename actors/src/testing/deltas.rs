//! A fake of what rides on indexes: it counts, and waits when it is told to.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use lakehouse_journal::model::{
    Fold,
    catalog::{CatalogState, DeltaFile, Index},
};
use parking_lot::Mutex;
use tokio::sync::Barrier;

use crate::{
    PortError,
    ports::{DeltaRows, IndexChanges, IndexDeltas},
};

/// Every row of a dataset that came since the generation that answers was built, up to the limit.
#[derive(Debug, Default)]
pub struct FakeDeltas {
    /// While set, no difference is taken.
    pub stalled: AtomicBool,
    /// While set, a difference is always too large: the index is built anew.
    pub too_large: AtomicBool,
    /// Differences that were asked for.
    pub asked: AtomicU64,
    /// Deltas that were written.
    pub written: AtomicU64,
    /// Waited for twice when a difference was taken, before it is committed; once.
    pub between: Mutex<Option<Arc<Barrier>>>,
}

#[async_trait]
impl IndexDeltas for FakeDeltas {
    async fn changes(
        &self,
        catalog: &Fold<CatalogState>,
        index: &Index,
        most: u64,
    ) -> Result<Option<IndexChanges>, PortError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        while self.stalled.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let live = index.live_generation().expect("an index that answers");
        let held = live.rows() + live.deltas.iter().map(|delta| delta.file.rows).sum::<u64>();
        let under = catalog.state.dataset_under(&index.spec.source);
        let rows = under.map_or(0, |dataset| dataset.row_count());
        let hidden = under.map_or(0, |dataset| {
            let since = dataset.tombstones.values();
            since.filter(|seq| **seq > live.oldest_source()).count() as u64
        });
        let has = held - hidden;
        let new = rows.saturating_sub(has);
        let keys: Vec<String> = (has..rows).map(|row| row.to_string()).collect();
        let between = self.between.lock().take();
        if let Some(between) = between {
            between.wait().await;
            between.wait().await;
        }
        let fits = new <= most && !self.too_large.load(Ordering::SeqCst);
        Ok(fits.then(|| IndexChanges {
            making: None,
            unchanged: has,
            skipped: 0,
            deleted: 0,
            rows: DeltaRows {
                vectors: vec![1.0; keys.len()],
                keys,
                ..DeltaRows::default()
            },
        }))
    }

    async fn write_delta(&self, index: &Index, rows: DeltaRows) -> Result<DeltaFile, PortError> {
        let number = self.written.fetch_add(1, Ordering::SeqCst);
        Ok(DeltaFile {
            key: format!("vectors/{}/delta-{number}/rows.parquet", index.name),
            bytes: 1,
            blake3: number.to_string(),
            rows: rows.keys.len() as u64,
            vectors: None,
            removed: rows.removed.len() as u64,
        })
    }
}
