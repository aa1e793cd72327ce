//! Right of way on a dataset: whoever prepares a commit on its files again and again, because others
//! exchange them meanwhile, may keep the others waiting for one attempt. Nobody else ever waits here.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

/// Attempts that go without right of way.
const POLITE_ATTEMPTS: usize = 3;

/// One gate a dataset.
#[derive(Default)]
pub(crate) struct Gates(Mutex<BTreeMap<String, Arc<RwLock<()>>>>);

/// Leave to commit; given back when dropped.
pub(crate) enum Leave {
    /// Beside others.
    Shared { _guard: OwnedRwLockReadGuard<()> },
    /// While others wait.
    Sole { _guard: OwnedRwLockWriteGuard<()> },
}

impl Gates {
    fn of(&self, dataset: &str) -> Arc<RwLock<()>> {
        let mut gates = self.0.lock();
        Arc::clone(gates.entry(dataset.to_owned()).or_default())
    }

    /// Leave to exchange files of a dataset; waits while somebody has the right of way.
    pub async fn pass(&self, dataset: &str) -> Leave {
        let guard = self.of(dataset).read_owned().await;
        Leave::Shared { _guard: guard }
    }

    /// Right of way for attempt number `attempt`, from 0: from the fourth on nobody else exchanges
    /// files of the dataset until it is given back.
    pub async fn insist(&self, dataset: &str, attempt: usize) -> Option<Leave> {
        if attempt < POLITE_ATTEMPTS {
            return None;
        }
        let guard = self.of(dataset).write_owned().await;
        Some(Leave::Sole { _guard: guard })
    }
}
