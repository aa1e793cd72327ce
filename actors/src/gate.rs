//! Gates of datasets: many pass, one may go alone. Whoever prepares a commit on files again and again,
//! because others exchange them meanwhile, gets the right of way for one attempt; whoever sweeps a
//! folder waits until nobody has objects in it that are not committed yet.

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

    /// Leave to go beside others; waits while somebody goes alone.
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
        Some(self.alone(dataset).await)
    }

    /// Leave to go alone; waits for those that are at it, and new ones wait for this.
    pub async fn alone(&self, dataset: &str) -> Leave {
        let guard = self.of(dataset).write_owned().await;
        Leave::Sole { _guard: guard }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn in_time<T>(what: impl Future<Output = T>) -> Option<T> {
        tokio::time::timeout(Duration::from_millis(20), what)
            .await
            .ok()
    }

    #[tokio::test]
    async fn one_that_goes_alone_waits_for_the_others_and_they_for_it() {
        let gates = Gates::default();
        let (one, other) = (gates.pass("d").await, gates.pass("d").await);
        assert!(in_time(gates.alone("d")).await.is_none());
        drop((one, other));
        let alone = in_time(gates.alone("d")).await.expect("nobody is there");
        assert!(in_time(gates.pass("d")).await.is_none());
        assert!(in_time(gates.pass("another")).await.is_some());
        drop(alone);
        assert!(in_time(gates.pass("d")).await.is_some());
    }

    #[tokio::test]
    async fn the_fourth_attempt_gets_the_right_of_way() {
        let gates = Gates::default();
        for attempt in 0..POLITE_ATTEMPTS {
            assert!(gates.insist("d", attempt).await.is_none());
        }
        let _right = gates.insist("d", POLITE_ATTEMPTS).await.expect("insisted");
        assert!(in_time(gates.pass("d")).await.is_none());
    }
}
