//! The actors' side of the journal: hands drafts to the one thread that owns the log, and replays.
//! Owners call it; nobody else writes. It decides nothing and keeps no state of the lake.

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    sync::{Arc, OnceLock},
    time::Duration,
};

use lakehouse_journal::{
    log::{Committer, CommitterConfig, CommitterHandle, Log, LogError, LogReader, Order},
    model::{
        LakeState,
        event::OwnerHash,
        lake::{OwnerId, ReplayError},
    },
    record::{Draft, Record, Seq},
    snapshot::SnapshotStore,
};
use tokio::sync::oneshot;

use crate::lake::position_of;

/// How long a restart waits for what is still on its way to the log.
const BARRIER_TIMEOUT: Duration = Duration::from_secs(10);

/// The journal, as an owner sees it. Cheap to copy.
#[derive(Clone)]
pub struct Journal {
    committer: CommitterHandle,
    reader: Arc<dyn LogReader>,
    snapshots: Option<Arc<SnapshotStore>>,
    recovered: Arc<OnceLock<Box<dyn Fn() + Send + Sync>>>,
}

/// Why state could not be rebuilt.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A record cannot be applied.
    #[error(transparent)]
    Replay(#[from] ReplayError),
}

/// A state and the position up to which it holds every event.
pub struct Replayed {
    /// The state.
    pub lake: LakeState,
    /// Everything up to here is in it.
    pub seq: Seq,
    /// How many records were read; the rest came from the snapshot.
    pub records: u64,
}

impl Journal {
    /// Gives the log to a thread of its own. Without a snapshot store every replay is a full one.
    ///
    /// # Errors
    /// When the log cannot be read or the thread cannot be started.
    pub fn spawn(
        log: Box<dyn Log>,
        config: CommitterConfig,
        snapshots: Option<Arc<SnapshotStore>>,
    ) -> Result<Self, LogError> {
        let recovered: Arc<OnceLock<Box<dyn Fn() + Send + Sync>>> = Arc::default();
        let called = Arc::clone(&recovered);
        let config = CommitterConfig {
            on_recovered: Box::new(move |_| {
                if let Some(call) = called.get() {
                    call();
                }
            }),
            ..config
        };
        let committer = Committer::spawn(log, config)?;
        Ok(Self {
            reader: committer.reader(),
            committer,
            snapshots,
            recovered,
        })
    }

    /// What to call when records turned out durable after their callers were told otherwise.
    pub(crate) fn on_recovered(&self, call: Box<dyn Fn() + Send + Sync>) {
        // Only the first lake over a journal gets it; there is one.
        let _ = self.recovered.set(call);
    }

    /// The reading side.
    pub fn reader(&self) -> &Arc<dyn LogReader> {
        &self.reader
    }

    /// Snapshots, when they are kept.
    pub fn snapshots(&self) -> Option<&Arc<SnapshotStore>> {
        self.snapshots.as_ref()
    }

    /// The thread that owns the log.
    pub fn committer(&self) -> &CommitterHandle {
        &self.committer
    }

    /// Hands over drafts that become durable together; the answer comes when they are.
    pub fn submit(&self, drafts: Vec<Draft>) -> oneshot::Receiver<Result<Vec<Record>, LogError>> {
        let (sender, receiver) = oneshot::channel();
        let reply = Box::new(move |result| {
            // A receiver that is gone belongs to an owner that restarted: it replays.
            let _ = sender.send(result);
        });
        if let Err(refused) = self.committer.submit(drafts, reply) {
            tracing::warn!(%refused, "the journal's queue is full");
        }
        receiver
    }

    /// Waits until everything handed over before is decided. Blocking.
    pub(crate) fn barrier(&self) {
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        let reply = Box::new(move |_| {
            let _ = sender.send(());
        });
        if self.committer.submit(Vec::new(), reply).is_ok() {
            let _ = receiver.recv_timeout(BARRIER_TIMEOUT);
        }
    }

    /// The state out of the newest snapshot and the records since. Blocking.
    ///
    /// # Errors
    /// When the log cannot be read or a record cannot be applied.
    pub fn replay(&self) -> Result<Replayed, RebuildError> {
        let (lake, seq) = self.load_snapshot().unwrap_or_default();
        self.replay_from(lake, seq)
    }

    /// The state out of the records alone. Blocking.
    ///
    /// # Errors
    /// As [`Journal::replay`].
    pub fn replay_fully(&self) -> Result<Replayed, RebuildError> {
        self.replay_from(LakeState::default(), 0)
    }

    /// The state after the record at `seq`. Blocking.
    ///
    /// # Errors
    /// As [`Journal::replay`].
    pub fn replay_to(&self, seq: Seq) -> Result<LakeState, RebuildError> {
        let (lake, from) = self
            .load_snapshot()
            .filter(|(_, at)| *at <= seq)
            .unwrap_or_default();
        self.replay_between(lake, from, seq)
            .map(|replayed| replayed.lake)
    }

    /// Brings a state that holds everything up to `seq` up to date. Blocking.
    ///
    /// # Errors
    /// As [`Journal::replay`].
    pub fn replay_from(&self, lake: LakeState, seq: Seq) -> Result<Replayed, RebuildError> {
        self.replay_between(lake, seq, Seq::MAX)
    }

    /// Applies the records after `from` up to `last` to a state that holds everything up to `from`.
    fn replay_between(
        &self,
        mut lake: LakeState,
        from: Seq,
        last: Seq,
    ) -> Result<Replayed, RebuildError> {
        let mut failed = None;
        let mut records = 0;
        let end = self.reader.for_each(from, &mut |record| {
            if record.seq > last {
                return ControlFlow::Break(());
            }
            match lake.apply(&record) {
                Ok(()) => {
                    records += 1;
                    ControlFlow::Continue(())
                }
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        match failed {
            Some(error) => Err(error.into()),
            None => Ok(Replayed {
                lake,
                seq: end,
                records,
            }),
        }
    }

    /// Every owner's hash after a full replay that stops, for each, where `live` stands. Blocking.
    ///
    /// # Errors
    /// As [`Journal::replay`].
    pub fn hashes_at(
        &self,
        live: &BTreeMap<OwnerId, OwnerHash>,
    ) -> Result<BTreeMap<OwnerId, OwnerHash>, RebuildError> {
        let mut lake = LakeState::default();
        let mut failed = None;
        let last = live.values().map(|hash| hash.seq).max().unwrap_or(0);
        self.reader.for_each(0, &mut |record| {
            if record.seq > last {
                return ControlFlow::Break(());
            }
            match lake.apply_until(&record, |owner| position_of(live, owner)) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        match failed {
            Some(error) => Err(error.into()),
            None => Ok(lake.hashes()),
        }
    }

    /// Writes a snapshot of a state that holds everything up to `seq`. Blocking.
    ///
    /// # Errors
    /// When the store cannot be written; the snapshots before it stay.
    pub fn write_snapshot(&self, lake: &LakeState, seq: Seq) -> Result<(), LogError> {
        let Some(store) = &self.snapshots else {
            return Ok(());
        };
        let bytes = serde_json::to_vec(lake).expect("state is made of plain values");
        store.write(seq, &bytes).map(|_| ())
    }

    /// The records of one decision. Blocking.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn decision(&self, seq: Seq, records: u32) -> Result<Vec<Record>, LogError> {
        self.reader.scan(seq - 1, records as usize)
    }

    /// Records about a subject, oldest first. Blocking.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn history(
        &self,
        subject: &str,
        after: Seq,
        limit: usize,
    ) -> Result<Vec<Record>, LogError> {
        self.reader
            .history(subject, after, limit, Order::OldestFirst)
    }

    fn load_snapshot(&self) -> Option<(LakeState, Seq)> {
        let newest = self.snapshots.as_ref()?.newest_valid();
        let (seq, bytes) = newest
            .inspect_err(
                |error| tracing::warn!(%error, "snapshots cannot be read: replaying without"),
            )
            .ok()??;
        match serde_json::from_slice(&bytes) {
            Ok(lake) => Some((lake, seq)),
            Err(error) => {
                tracing::warn!(seq, %error, "snapshot is of another shape: replaying without it");
                None
            }
        }
    }
}
