//! The queries that run, by the snapshot of the catalog that they read. Erasure asks here before it
//! removes files: it waits for old queries, and ends those that overrun. `session` registers each
//! query from the moment that it has its tables until its task and its answer are gone; a new query
//! never waits for anything here.

use std::{
    collections::BTreeMap,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use lakehouse_journal::record::Seq;
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::{QueryError, cancel::CancelFlag};

/// How long queries that were told to end may take to be gone.
const ENDING_MAX: Duration = Duration::from_secs(5);

/// What became of the queries that stood in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// How many were ended at the deadline.
    pub ended: usize,
    /// How many did not end even so; their next read of a removed file fails.
    pub left: usize,
    /// How long it took.
    pub waited: Duration,
}

/// The queries of one engine.
#[derive(Debug, Default)]
pub(super) struct ActiveQueries {
    running: Mutex<Running>,
    /// Told whenever a query is gone.
    gone: Notify,
    /// Snapshots before this one may lack files.
    drained_before: AtomicU64,
}

#[derive(Debug, Default)]
struct Running {
    /// Makes the keys of queries on one snapshot different.
    next: u64,
    queries: BTreeMap<(Seq, u64), Query>,
}

#[derive(Debug)]
struct Query {
    ending: Ending,
    /// Whether it may read files: it was begun and its plan is not gone.
    reads: bool,
}

/// The ways to tell a query to end.
#[derive(Debug, Clone, Default)]
struct Ending {
    /// Wakes who waits for its rows.
    token: CancellationToken,
    /// Stops joins that do not give their thread back.
    flag: CancelFlag,
}

impl ActiveQueries {
    /// Registers a query that reads the snapshot at `snapshot`, until the lease is dropped.
    #[cfg(test)]
    pub fn register(self: &Arc<Self>, snapshot: Seq) -> Arc<Lease> {
        self.register_for(snapshot, false)
    }

    /// As `register`; a guarded query's errors are told in fixed words.
    pub fn register_for(self: &Arc<Self>, snapshot: Seq, guarded: bool) -> Arc<Lease> {
        let ending = Ending::default();
        let mut running = self.running.lock();
        running.next += 1;
        let key = (snapshot, running.next);
        let query = Query {
            ending: ending.clone(),
            reads: false,
        };
        running.queries.insert(key, query);
        Arc::new(Lease {
            registry: Arc::clone(self),
            key,
            ending,
            guarded,
        })
    }

    /// How many queries there are.
    pub fn len(&self) -> usize {
        self.running.lock().queries.len()
    }

    /// Returns when no query has a snapshot before `before`: ends those that are left after
    /// `deadline`, and gives them five seconds more.
    pub async fn drain(&self, before: Seq, deadline: Duration) -> Drained {
        self.drain_in(before, deadline, ENDING_MAX).await
    }

    async fn drain_in(&self, before: Seq, deadline: Duration, ending_max: Duration) -> Drained {
        let started = Instant::now();
        self.drained_before.fetch_max(before, Ordering::Relaxed);
        let mut ended = 0;
        if tokio::time::timeout(deadline, self.none_before(before))
            .await
            .is_err()
        {
            ended = self.end_before(before);
            // Those that are still there are counted below.
            let _ = tokio::time::timeout(ending_max, self.none_before(before)).await;
        }
        let drained = Drained {
            ended,
            left: self.count_before(before),
            waited: started.elapsed(),
        };
        if drained.ended > 0 {
            let (ended, left) = (drained.ended, drained.left);
            tracing::warn!(before, ended, left, "queries of an old snapshot were ended");
        }
        drained
    }

    async fn none_before(&self, before: Seq) {
        loop {
            // Listens before it looks, so that no end is missed in between.
            let mut gone = pin!(self.gone.notified());
            gone.as_mut().enable();
            if self.count_before(before) == 0 {
                return;
            }
            gone.await;
        }
    }

    fn count_before(&self, before: Seq) -> usize {
        self.running.lock().queries.range(..(before, 0)).count()
    }

    /// Tells the old ones to end. One that reads nothing is gone at once: whoever holds its answer
    /// gets no row out of it any more.
    fn end_before(&self, before: Seq) -> usize {
        let old: Vec<Ending> = self
            .running
            .lock()
            .queries
            .range(..(before, 0))
            .map(|(_, query)| query.ending.clone())
            .collect();
        for ending in &old {
            ending.flag.cancel();
            ending.token.cancel();
        }
        let ended = |query: &Query| query.ending.token.is_cancelled();
        let mut running = self.running.lock();
        running
            .queries
            .retain(|_, query| query.reads || !ended(query));
        old.len()
    }
}

/// Keeps the files of a snapshot, and of all newer ones, where they are until it is dropped. Taken before a
/// snapshot is, it leaves no moment in which somebody has the snapshot and no drain knows of it.
#[derive(Debug)]
pub struct Pinned(#[allow(dead_code, reason = "held, never looked at")] Arc<Lease>);

impl ActiveQueries {
    /// Pins the snapshot at `snapshot`.
    pub fn pin(self: &Arc<Self>, snapshot: Seq) -> Pinned {
        Pinned(self.register_for(snapshot, false))
    }
}

/// One query's place among those that run. Shared by its task and its answer: the query is gone when
/// both are.
#[derive(Debug)]
pub(super) struct Lease {
    registry: Arc<ActiveQueries>,
    key: (Seq, u64),
    ending: Ending,
    guarded: bool,
}

impl Lease {
    /// The flag that the query's joins look at.
    pub fn flag(&self) -> &CancelFlag {
        &self.ending.flag
    }

    /// Says that the query reads from now on.
    ///
    /// # Errors
    /// [`QueryError::SnapshotExpired`] when it was told to end before.
    pub fn begin(&self) -> Result<(), QueryError> {
        let mut running = self.registry.running.lock();
        match running.queries.get_mut(&self.key) {
            Some(query) if !self.ending.token.is_cancelled() => query.reads = true,
            _ => return Err(QueryError::SnapshotExpired),
        }
        Ok(())
    }

    /// Says that the query reads no more; its rows may still wait for their reader.
    pub fn has_read(&self) {
        let mut running = self.registry.running.lock();
        if self.ending.token.is_cancelled() {
            running.queries.remove(&self.key);
            drop(running);
            self.registry.gone.notify_waiters();
        } else if let Some(query) = running.queries.get_mut(&self.key) {
            query.reads = false;
        }
    }

    /// Ends when the query was told to.
    pub fn expired(&self) -> WaitForCancellationFutureOwned {
        self.ending.token.clone().cancelled_owned()
    }

    /// The error as it is told: what fails because the query was ended, or because a file of its
    /// snapshot was removed after a drain, is the snapshot's end; a guarded query's is in fixed words.
    pub fn told(&self, error: QueryError) -> QueryError {
        let ended = self.ending.token.is_cancelled();
        let drained_before = self.registry.drained_before.load(Ordering::Relaxed);
        let told = match error {
            QueryError::Cancelled if ended => QueryError::SnapshotExpired,
            QueryError::Missing { .. } if ended || self.key.0 < drained_before => {
                QueryError::SnapshotExpired
            }
            other => other,
        };
        if self.guarded {
            told.in_fixed_words()
        } else {
            told
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.registry.running.lock().queries.remove(&self.key);
        self.registry.gone.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_hours(1);
    const SHORT: Duration = Duration::from_millis(20);

    fn missing() -> QueryError {
        QueryError::Missing {
            place: "bucket `b`".to_owned(),
        }
    }

    #[tokio::test]
    async fn only_older_snapshots_are_waited_for() {
        let active = Arc::new(ActiveQueries::default());
        let _same = active.register(7);
        let _newest = active.register(Seq::MAX);
        let drained = active.drain(7, LONG).await;
        assert_eq!((drained.ended, drained.left), (0, 0));
        assert_eq!(active.len(), 2);
    }

    #[tokio::test]
    async fn what_is_pinned_before_its_snapshot_is_read_is_waited_for() {
        let active = Arc::new(ActiveQueries::default());
        let pinned = active.pin(6);
        let drain = active.drain(7, LONG);
        let mut drain = pin!(drain);
        let soon = tokio::time::timeout(SHORT, &mut drain).await;
        assert!(soon.is_err(), "the session of the snapshot may still come");
        drop(pinned);
        let drained = drain.await;
        assert_eq!((drained.ended, drained.left), (0, 0));
    }

    #[tokio::test]
    async fn the_last_of_the_old_ones_ends_the_wait() {
        let active = Arc::new(ActiveQueries::default());
        let olds = [active.register(3), active.register(6), active.register(6)];
        let waiting = tokio::spawn({
            let active = Arc::clone(&active);
            async move { active.drain(7, LONG).await }
        });
        for (index, old) in olds.into_iter().enumerate() {
            tokio::time::sleep(SHORT).await;
            assert!(!waiting.is_finished(), "query {index} is still there");
            drop(old);
        }
        let drained = waiting.await.expect("it does not panic");
        assert_eq!((drained.ended, drained.left), (0, 0));
        assert!(drained.waited >= 3 * SHORT, "{drained:?}");
    }

    #[tokio::test]
    async fn one_that_does_not_end_is_told_and_then_left() {
        let active = Arc::new(ActiveQueries::default());
        let (stubborn, new) = (active.register(6), active.register(7));
        stubborn.begin().expect("nobody told it to end");
        let drained = active.drain_in(7, SHORT, SHORT).await;
        assert_eq!((drained.ended, drained.left), (1, 1));
        assert!(drained.waited >= 2 * SHORT, "{drained:?}");
        assert!(stubborn.flag().is_cancelled() && !new.flag().is_cancelled());
        stubborn.expired().await;
        let told = stubborn.told(QueryError::Cancelled);
        assert_eq!(told.code(), "snapshot_expired");
        assert_eq!(new.told(QueryError::Cancelled).code(), "query_cancelled");
    }

    #[tokio::test]
    async fn one_that_reads_nothing_is_gone_once_it_is_told_to_end() {
        let active = Arc::new(ActiveQueries::default());
        let (not_begun, read, reading) =
            (active.register(4), active.register(5), active.register(6));
        for query in [&read, &reading] {
            query.begin().expect("nobody told it to end");
        }
        read.has_read();
        let drained = active.drain_in(7, SHORT, SHORT).await;
        assert_eq!((drained.ended, drained.left), (3, 1));
        let error = not_begun.begin().expect_err("it was told to end");
        assert_eq!(error.code(), "snapshot_expired");
        reading.has_read();
        assert_eq!(active.len(), 0);
    }

    #[tokio::test]
    async fn a_file_is_missed_only_by_snapshots_that_were_drained() {
        let active = Arc::new(ActiveQueries::default());
        let early = active.register(6);
        assert_eq!(early.told(missing()).code(), "bucket_unavailable");
        drop(early);
        active.drain(7, LONG).await;
        let late = active.register(6);
        assert_eq!(late.told(missing()).code(), "snapshot_expired");
        assert_eq!(late.told(QueryError::Memory).code(), "memory_limit");
        let new = active.register(7);
        assert_eq!(new.told(missing()).code(), "bucket_unavailable");
    }
}
