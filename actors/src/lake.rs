//! `Lake`: the one handle the edge holds. Finds an actor, asks with a deadline, reads published
//! state, and carries the operations that need more than one of them.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use actix::{Addr, dev::SendError};
use arc_swap::Guard;
use lakehouse_journal::{
    model::{
        Aggregate, Fold, ModelError, Work,
        access::{AccessCommand, AccessState},
        bucket::{BucketCommand, BucketSpec, BucketState},
        catalog::{CatalogCommand, CatalogState},
        error::near_names,
        event::OwnerHash,
        lake::OwnerId,
        scheduler::{SchedulerCommand, SchedulerState},
    },
    record::{Micros, Seq},
};
use parking_lot::RwLock;
use tokio::sync::oneshot;

#[cfg(any(test, feature = "testing"))]
use crate::owner::Crash;
use crate::{
    compaction::{Compacted, CompactionDuty, CompactionTask},
    erasure::{Erased, ErasureDuty, ErasureTask},
    error::LakeError,
    gate::Gates,
    history::Past,
    housekeeping::{Chore, HousekeepingDuty},
    indexing::IndexingDuty,
    ingest::{IngestDuty, IngestRequest, IngestTask, Ingested},
    jobs::Jobs,
    owner::{Ask, Caller, CatchUp, Committed, Owner, Published},
    places::PlacesDuty,
    ports::{Clock, DeletionLedger, KeyHash, RowLookup},
    refresh::RefreshDuty,
    rescue::RescueDuty,
    scheduler::Trigger,
    supervision::{ActorHealth, Tree, Vital},
    worker::{Claims, Do, Duty, Worker},
    writer::Journal,
};

/// How long a caller waits for a decision.
const ASK_TIMEOUT: Duration = Duration::from_secs(30);
/// An owner's address, state and life signs.
pub(crate) struct OwnerHandle<A: Aggregate> {
    pub addr: Addr<Owner<A>>,
    pub published: Published<A>,
    pub vital: Arc<Vital>,
}

impl<A: Aggregate> Clone for OwnerHandle<A> {
    fn clone(&self) -> Self {
        Self {
            addr: self.addr.clone(),
            published: Arc::clone(&self.published),
            vital: Arc::clone(&self.vital),
        }
    }
}

/// A worker's address and life signs.
pub(crate) struct WorkerHandle<D: Duty> {
    pub addr: Addr<Worker<D>>,
    pub vital: Arc<Vital>,
}

/// Starts a bucket's actor; given by whoever wires the actors together.
pub(crate) type StartBucket = Box<dyn Fn(&str) -> OwnerHandle<BucketState> + Send + Sync>;

pub(crate) struct Inner {
    pub journal: Journal,
    pub clock: Arc<dyn Clock>,
    pub tree: Tree,
    pub jobs: Jobs,
    pub primary: String,
    pub catalog: OwnerHandle<CatalogState>,
    pub access: OwnerHandle<AccessState>,
    pub scheduler: OwnerHandle<SchedulerState>,
    pub buckets: RwLock<BTreeMap<String, OwnerHandle<BucketState>>>,
    pub start_bucket: StartBucket,
    pub lookup: Arc<dyn RowLookup>,
    pub key_hash: KeyHash,
    pub ledger: Option<Arc<dyn DeletionLedger>>,
    pub erasure_delay: Duration,
    pub claims: Claims,
    /// Who may exchange files of a dataset, by its name.
    pub gates: Gates,
    /// Who has objects in a dataset's folder that are not committed yet, by its id.
    pub publishing: Gates,
    pub past: Past,
    /// The daemon's own schedules.
    pub triggers: std::sync::OnceLock<Vec<Trigger>>,
    pub workers: std::sync::OnceLock<Workers>,
}

pub(crate) struct Workers {
    pub ingest: WorkerHandle<IngestDuty>,
    pub indexing: WorkerHandle<IndexingDuty>,
    pub refresh: WorkerHandle<RefreshDuty>,
    pub compaction: WorkerHandle<CompactionDuty>,
    pub erasure: WorkerHandle<ErasureDuty>,
    pub rescue: WorkerHandle<RescueDuty>,
    pub places: WorkerHandle<PlacesDuty>,
    pub housekeeping: WorkerHandle<HousekeepingDuty>,
}

/// The lake, to everybody outside the actors. Cheap to copy.
#[derive(Clone)]
pub struct Lake {
    pub(crate) inner: Arc<Inner>,
}

/// Whether the live state is what the journal's events add up to.
#[derive(Debug, Clone)]
pub struct StateReport {
    /// Whether every owner's hashes agree.
    pub ok: bool,
    /// Hash over the live owners' hashes.
    pub live: String,
    /// The same after a full replay to the same positions.
    pub replayed: String,
    /// Owners whose states differ.
    pub differing: Vec<OwnerId>,
}

impl Lake {
    /// The time.
    pub fn now(&self) -> Micros {
        self.inner.clock.now()
    }

    /// The journal's reading side and snapshots.
    pub fn journal(&self) -> &Journal {
        &self.inner.journal
    }

    /// Long operations.
    pub fn jobs(&self) -> &Jobs {
        &self.inner.jobs
    }

    /// Name of the primary bucket.
    pub fn primary(&self) -> &str {
        &self.inner.primary
    }

    /// The catalog as it is published. Immutable; the next commit publishes another.
    pub fn catalog(&self) -> Arc<Fold<CatalogState>> {
        self.inner.catalog.published.load_full()
    }

    /// The tokens as they are published.
    pub fn access(&self) -> Guard<Arc<Fold<AccessState>>> {
        self.inner.access.published.load()
    }

    /// The daemon's own state as it is published.
    pub fn scheduler(&self) -> Arc<Fold<SchedulerState>> {
        self.inner.scheduler.published.load_full()
    }

    /// Every registered bucket.
    pub fn buckets(&self) -> BTreeMap<String, BucketSpec> {
        self.inner
            .buckets
            .read()
            .iter()
            .filter_map(|(name, bucket)| {
                Some((name.clone(), bucket.published.load().state.spec.clone()?))
            })
            .collect()
    }

    /// Refuses a bucket that is not registered.
    ///
    /// # Errors
    /// `NotFound` with the names there are.
    pub fn known_bucket(&self, name: &str) -> Result<(), LakeError> {
        let buckets = self.buckets();
        if buckets.contains_key(name) {
            return Ok(());
        }
        let mut near = near_names(name, buckets.keys());
        near.extend(
            buckets
                .keys()
                .filter(|known| !near.contains(known))
                .cloned()
                .collect::<Vec<_>>(),
        );
        Err(ModelError::NotFound {
            what: "bucket",
            name: name.to_owned(),
            near,
        }
        .into())
    }

    /// The supervision tree.
    pub fn actors(&self) -> Vec<ActorHealth> {
        self.inner.tree.health()
    }

    /// Whether an actor has failed for good.
    pub fn degraded(&self) -> bool {
        self.inner.tree.degraded()
    }

    /// Whether the catalog has already carried out a request with this key.
    pub fn is_repeated(&self, caller: &Caller) -> bool {
        let key = caller.idempotency.as_ref().map(|(key, _)| key);
        key.is_some_and(|key| self.catalog().remembered(key).is_some())
    }

    /// Asks the catalog for a mutation.
    ///
    /// # Errors
    /// The catalog's refusal, or why it could not decide.
    pub async fn ask_catalog(
        &self,
        command: CatalogCommand,
        caller: Caller,
    ) -> Result<Committed, LakeError> {
        ask(&self.inner.catalog, command, caller).await
    }

    /// Asks for a mutation of tokens.
    ///
    /// # Errors
    /// As [`Lake::ask_catalog`].
    pub async fn ask_access(
        &self,
        command: AccessCommand,
        caller: Caller,
    ) -> Result<Committed, LakeError> {
        ask(&self.inner.access, command, caller).await
    }

    /// Asks the scheduler to note something.
    ///
    /// # Errors
    /// As [`Lake::ask_catalog`].
    pub async fn ask_scheduler(
        &self,
        command: SchedulerCommand,
        caller: Caller,
    ) -> Result<Committed, LakeError> {
        ask(&self.inner.scheduler, command, caller).await
    }

    /// Asks a bucket's owner for a mutation; a new bucket's actor is started.
    ///
    /// # Errors
    /// As [`Lake::ask_catalog`].
    pub async fn ask_bucket(
        &self,
        bucket: &str,
        command: BucketCommand,
        caller: Caller,
    ) -> Result<Committed, LakeError> {
        let handle = {
            let mut buckets = self.inner.buckets.write();
            if let Some(handle) = buckets.get(bucket) {
                handle.clone()
            } else {
                let handle = (self.inner.start_bucket)(bucket);
                buckets.insert(bucket.to_owned(), handle.clone());
                handle
            }
        };
        ask(&handle, command, caller).await
    }

    /// Takes rows in.
    ///
    /// # Errors
    /// Why nothing was taken in.
    pub async fn ingest(&self, request: IngestRequest) -> Result<Ingested, LakeError> {
        let (reply, answer) = oneshot::channel();
        self.give(|workers| &workers.ingest, IngestTask { request, reply })?;
        answer.await.unwrap_or_else(|_| {
            Err(LakeError::Overloaded {
                actor: "ingest".to_owned(),
            })
        })
    }

    /// Rewrites a dataset's files without the rows that are gone.
    ///
    /// # Errors
    /// Why nothing was rewritten.
    pub async fn compact(&self, dataset: &str, caller: Caller) -> Result<Compacted, LakeError> {
        self.catalog().state.dataset(dataset)?;
        let (reply, answer) = oneshot::channel();
        let task = CompactionTask {
            dataset: dataset.to_owned(),
            asked: Some((caller, reply)),
            claim: None,
        };
        self.give(|workers| &workers.compaction, task)?;
        answer.await.unwrap_or_else(|_| {
            Err(LakeError::Overloaded {
                actor: "compaction".to_owned(),
            })
        })
    }

    /// Takes what is left of deleted rows out of every place now, and says when nothing is left.
    ///
    /// # Errors
    /// Why something is left.
    pub async fn erase(&self, dataset: &str) -> Result<Erased, LakeError> {
        self.catalog().state.dataset(dataset)?;
        let (reply, answer) = oneshot::channel();
        let task = ErasureTask::Rows {
            dataset: dataset.to_owned(),
            reply: Some(reply),
            claim: None,
        };
        self.give(|workers| &workers.erasure, task)?;
        answer.await.unwrap_or_else(|_| {
            Err(LakeError::Overloaded {
                actor: "erasure".to_owned(),
            })
        })
    }

    /// Gives the workers what is due. A full worker is asked again at the scheduler's next tick.
    pub fn poke_pending(&self) {
        for work in self.catalog().state.pending() {
            match &work {
                Work::BuildGeneration { index, job, .. } => {
                    self.jobs().open(job, "index_build", index);
                    let _ = self.give(|workers| &workers.indexing, work);
                }
                Work::CompactFiles { dataset } => self.compact_when_free(dataset),
                Work::RefreshEmbeddings { dataset } => self.refresh_when_free(dataset),
                Work::EraseRows { dataset } if self.erasure_is_due(dataset) => {
                    let dataset = dataset.clone();
                    if let Some(claim) = self.inner.claims.claim(work, self.now()) {
                        let task = ErasureTask::Rows {
                            dataset,
                            reply: None,
                            claim: Some(claim),
                        };
                        let _ = self.give(|workers| &workers.erasure, task);
                    }
                }
                Work::EraseRows { .. } => {}
                Work::DeleteObjects => {
                    if let Some(claim) = self.inner.claims.claim(work, self.now()) {
                        let task = ErasureTask::Objects { claim };
                        let _ = self.give(|workers| &workers.erasure, task);
                    }
                }
            }
        }
    }

    /// Lets the compaction worker merge a dataset's files, unless it is at it already.
    pub(crate) fn compact_when_free(&self, dataset: &str) {
        let dataset = dataset.to_owned();
        let work = Work::CompactFiles {
            dataset: dataset.clone(),
        };
        if let Some(claim) = self.inner.claims.claim(work, self.now()) {
            let task = CompactionTask {
                dataset,
                asked: None,
                claim: Some(claim),
            };
            // A full worker is asked again at the scheduler's next tick.
            let _ = self.give(|workers| &workers.compaction, task);
        }
    }

    /// Whether the last deletion is old enough: several in a row are carried out together.
    fn erasure_is_due(&self, dataset: &str) -> bool {
        let delay = i64::try_from(self.inner.erasure_delay.as_micros()).unwrap_or(Micros::MAX);
        let catalog = self.catalog();
        let last = catalog
            .state
            .datasets
            .get(dataset)
            .and_then(|dataset| dataset.tombstone_batches.get_max())
            .map_or(0, |(_, batch)| batch.at);
        last.saturating_add(delay) <= self.now()
    }

    /// Asks for a chore now.
    ///
    /// # Errors
    /// When the worker is full or gone.
    pub fn chore(&self, chore: Chore) -> Result<(), LakeError> {
        self.give(|workers| &workers.housekeeping, chore)
    }

    /// Every owner's position and state hash, as published.
    pub fn hashes(&self) -> BTreeMap<OwnerId, OwnerHash> {
        fn one<A: Aggregate>(published: &Published<A>) -> OwnerHash {
            let fold = published.load_full();
            OwnerHash {
                seq: fold.seq,
                hash: fold.hash(),
            }
        }
        let mut hashes = BTreeMap::from([
            (OwnerId::Catalog, one(&self.inner.catalog.published)),
            (OwnerId::Access, one(&self.inner.access.published)),
            (OwnerId::Scheduler, one(&self.inner.scheduler.published)),
        ]);
        for (name, bucket) in self.inner.buckets.read().iter() {
            hashes.insert(OwnerId::Bucket(name.clone()), one(&bucket.published));
        }
        hashes
    }

    /// Replays everything and compares with the live state. Blocking, and as long as a replay.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn verify_state(&self) -> Result<StateReport, crate::writer::RebuildError> {
        let live = self.hashes();
        let replayed = self.inner.journal.hashes_at(&live)?;
        let differing: Vec<OwnerId> = live
            .iter()
            .filter(|(owner, hash)| replayed.get(owner) != Some(hash))
            .map(|(owner, _)| owner.clone())
            .collect();
        Ok(StateReport {
            ok: differing.is_empty(),
            live: hash_of(&live),
            replayed: hash_of(&replayed),
            differing,
        })
    }

    /// Lets every owner read what became durable without an answer.
    pub fn catch_up(&self) {
        self.inner.catalog.addr.do_send_checked(CatchUp);
        self.inner.access.addr.do_send_checked(CatchUp);
        self.inner.scheduler.addr.do_send_checked(CatchUp);
        for bucket in self.inner.buckets.read().values() {
            bucket.addr.do_send_checked(CatchUp);
        }
    }

    /// Makes the named actor panic, for tests of supervision.
    #[cfg(any(test, feature = "testing"))]
    pub fn crash(&self, actor: &str) {
        let workers = self
            .inner
            .workers
            .get()
            .expect("workers are wired at start");
        match actor {
            "catalog" => self.inner.catalog.addr.do_send_checked(Crash),
            "access" => self.inner.access.addr.do_send_checked(Crash),
            "scheduler" => self.inner.scheduler.addr.do_send_checked(Crash),
            "ingest" => workers.ingest.addr.do_send_checked(Crash),
            "indexing" => workers.indexing.addr.do_send_checked(Crash),
            "refresh" => workers.refresh.addr.do_send_checked(Crash),
            "compaction" => workers.compaction.addr.do_send_checked(Crash),
            "erasure" => workers.erasure.addr.do_send_checked(Crash),
            "housekeeping" => workers.housekeeping.addr.do_send_checked(Crash),
            bucket => {
                let buckets = self.inner.buckets.read();
                let bucket = bucket.trim_start_matches("bucket:");
                buckets
                    .get(bucket)
                    .expect("a known actor")
                    .addr
                    .do_send_checked(Crash);
            }
        }
    }

    pub(crate) fn nothing_done(&self) -> Committed {
        let seq = self.catalog().seq;
        Committed {
            seq,
            at: self.now(),
            events: Vec::new(),
            repeated: false,
        }
    }

    pub(crate) fn give<D: Duty>(
        &self,
        worker: impl Fn(&Workers) -> &WorkerHandle<D>,
        task: D::Task,
    ) -> Result<(), LakeError> {
        let Some(workers) = self.inner.workers.get() else {
            return Err(LakeError::Unavailable {
                actor: "workers".to_owned(),
            });
        };
        let handle = worker(workers);
        let actor = handle.vital.name().to_owned();
        if handle.vital.has_failed() {
            return Err(LakeError::Unavailable { actor });
        }
        handle.vital.waiting.fetch_add(1, Ordering::Relaxed);
        handle.addr.try_send(Do(task)).map_err(|error| {
            handle.vital.waiting.fetch_sub(1, Ordering::Relaxed);
            refused(&error, actor)
        })
    }
}

/// `try_send` that ignores a full mailbox, for messages that are only hints.
trait HintAddr<M> {
    fn do_send_checked(&self, hint: M);
}

impl<A, M> HintAddr<M> for Addr<A>
where
    A: actix::Actor + actix::Handler<M>,
    A::Context: actix::dev::ToEnvelope<A, M>,
    M: actix::Message<Result = ()> + Send + 'static,
{
    fn do_send_checked(&self, hint: M) {
        if self.try_send(hint).is_err() {
            tracing::warn!("a hint to an actor was not taken");
        }
    }
}

async fn ask<A: Aggregate>(
    owner: &OwnerHandle<A>,
    command: A::Command,
    caller: Caller,
) -> Result<Committed, LakeError> {
    let actor = || owner.vital.name().to_owned();
    if owner.vital.has_failed() {
        return Err(LakeError::Unavailable { actor: actor() });
    }
    let (reply, answer) = oneshot::channel();
    owner.vital.waiting.fetch_add(1, Ordering::Relaxed);
    owner
        .addr
        .try_send(Ask {
            command,
            caller,
            reply,
        })
        .map_err(|error| {
            owner.vital.waiting.fetch_sub(1, Ordering::Relaxed);
            refused(&error, actor())
        })?;
    match tokio::time::timeout(ASK_TIMEOUT, answer).await {
        Ok(Ok(result)) => result,
        // The owner died with our message in hand: the journal knows what became of it.
        Ok(Err(_)) => Err(LakeError::Unknown),
        Err(_) => Err(LakeError::Timeout {
            seconds: ASK_TIMEOUT.as_secs(),
        }),
    }
}

fn refused<M>(error: &SendError<M>, actor: String) -> LakeError {
    match error {
        SendError::Full(_) => LakeError::Overloaded { actor },
        SendError::Closed(_) => LakeError::Unavailable { actor },
    }
}

fn hash_of(hashes: &BTreeMap<OwnerId, OwnerHash>) -> String {
    let text = serde_json::to_vec(hashes).expect("hashes are plain strings");
    blake3::hash(&text).to_hex().to_string()
}

/// Where an owner's events end, for a replay that must stop there.
pub(crate) fn position_of(owners: &BTreeMap<OwnerId, OwnerHash>, owner: &OwnerId) -> Seq {
    owners.get(owner).map_or(0, |hash| hash.seq)
}
