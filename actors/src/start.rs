//! Wiring: replays the journal, starts every actor under its supervisor, joins them into a `Lake`.
//! The only place that knows all actors; read it top to bottom.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, OnceLock},
    time::Duration,
};

use actix::{Addr, Arbiter, Context, Supervised, Supervisor};
use arc_swap::ArcSwap;
use lakehouse_journal::{
    model::{
        Aggregate, Fold, LakeState, access::AccessState, bucket::BucketState,
        catalog::CatalogState, lake::OwnerId, scheduler::SchedulerState,
    },
    record::Seq,
};
use parking_lot::{Mutex, RwLock};
use tokio::runtime::Handle;

use crate::{
    background::Background,
    compaction::CompactionDuty,
    erasure::ErasureDuty,
    gate::Gates,
    history::Past,
    housekeeping::HousekeepingDuty,
    indexing::IndexingDuty,
    ingest::IngestDuty,
    jobs::Jobs,
    lake::{Inner, Lake, OwnerHandle, WorkerHandle, Workers},
    owner::{Owner, OwnerParts, Published},
    places::PlacesDuty,
    ports::{
        BucketStore, Clock, Compactor, DeletionLedger, FileInspector, IndexBuilder, IndexDeltas,
        KeyHash, Readers, RowLookup, Sidecar,
    },
    refresh::{REFRESHES_MAX, RefreshDuty},
    rescue::RescueDuty,
    scheduler::{self, Trigger},
    supervision::Tree,
    view_files::ViewFiles,
    worker::{Claims, Duty, Worker},
    writer::{Journal, RebuildError},
};

/// How often a bucket's owner considers whether to look at its bucket.
const LOOK_AFTER_EVERY: Duration = Duration::from_millis(250);

/// What the actors work with.
pub struct Parts {
    /// The journal.
    pub journal: Journal,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Finds rows by key.
    pub lookup: Arc<dyn RowLookup>,
    /// Rewrites files.
    pub compactor: Arc<dyn Compactor>,
    /// Keeps the lists of deleted rows beside the files.
    pub sidecar: Arc<dyn Sidecar>,
    /// The queries that run.
    pub readers: Arc<dyn Readers>,
    /// Where deletions are listed apart from all backups.
    pub ledger: Option<Arc<dyn DeletionLedger>>,
    /// Hashes row keys for datasets that keep theirs out of the journal.
    pub key_hash: KeyHash,
    /// Builds indexes.
    pub builder: Arc<dyn IndexBuilder>,
    /// Finds what indexes lack.
    pub deltas: Arc<dyn IndexDeltas>,
    /// The buckets' objects.
    pub buckets: Arc<dyn BucketStore>,
    /// Reads what files say of themselves.
    pub inspector: Arc<dyn FileInspector>,
    /// Where long work runs.
    pub runtime: Handle,
    /// Name of the primary bucket.
    pub primary: String,
    /// Age that an object without an event must reach before it is removed.
    pub orphan_grace: Duration,
    /// How long files that left a dataset are kept for queries of the past.
    pub retention: Duration,
    /// How long after the last deletion the rows' bytes are erased.
    pub erasure_delay: Duration,
    /// How long a query may go on reading what is to be deleted.
    pub query_deadline: Duration,
    /// The daemon's own schedules.
    pub triggers: Vec<Trigger>,
}

/// How the start went.
#[derive(Debug, Clone, Copy)]
pub struct StartReport {
    /// Position that the state stands at.
    pub seq: Seq,
    /// Records read; the rest came from a snapshot.
    pub records: u64,
    /// How long it took.
    pub replay_ms: u64,
}

/// Replays the journal and starts the actors. Call it inside an actix system.
///
/// # Errors
/// When the journal cannot be replayed: nothing is started then.
pub fn start(parts: Parts) -> Result<(Lake, StartReport), RebuildError> {
    let began = parts.clock.now();
    let replayed = parts.journal.replay()?;
    let report = StartReport {
        seq: replayed.seq,
        records: replayed.records,
        replay_ms: u64::try_from((parts.clock.now() - began) / 1000).unwrap_or(0),
    };
    let state = replayed.lake;
    let tree = Tree::new(Arc::clone(&parts.clock));
    let starter = Starter {
        parts: &parts,
        tree: &tree,
    };
    let weak: Arc<OnceLock<std::sync::Weak<Inner>>> = Arc::default();
    let pending = {
        let weak = Arc::clone(&weak);
        move |_: &CatalogState| {
            if let Some(inner) = weak.get().and_then(std::sync::Weak::upgrade) {
                Lake { inner }.poke_pending();
            }
        }
    };
    let catalog = starter.owner(
        OwnerId::Catalog,
        state.catalog.clone(),
        |lake, _| lake.catalog.clone(),
        Box::new(pending),
    );
    let access = starter.owner(
        OwnerId::Access,
        state.access.clone(),
        |lake, _| lake.access.clone(),
        Box::new(|_: &AccessState| {}),
    );
    let schedule = starter.owner(
        OwnerId::Scheduler,
        state.scheduler.clone(),
        |lake, _| lake.scheduler.clone(),
        Box::new(|_: &SchedulerState| {}),
    );
    let start_bucket = bucket_starter(&parts, &tree);
    let buckets: BTreeMap<String, OwnerHandle<BucketState>> = state
        .buckets
        .iter()
        .map(|(name, fold)| (name.clone(), start_bucket(name, fold.clone())))
        .collect();
    let lake = Lake {
        inner: Arc::new(Inner {
            journal: parts.journal.clone(),
            clock: Arc::clone(&parts.clock),
            tree: tree.clone(),
            jobs: Jobs::new(Arc::clone(&parts.clock)),
            primary: parts.primary.clone(),
            catalog,
            access,
            scheduler: schedule,
            buckets: RwLock::new(buckets),
            start_bucket: Box::new(move |name| start_bucket(name, Fold::default())),
            lookup: Arc::clone(&parts.lookup),
            key_hash: Arc::clone(&parts.key_hash),
            ledger: parts.ledger.clone(),
            erasure_delay: parts.erasure_delay,
            claims: Claims::default(),
            gates: Gates::default(),
            publishing: Gates::default(),
            past: Past::default(),
            triggers: OnceLock::new(),
            workers: OnceLock::new(),
        }),
    };
    let workers = start_workers(&starter, &lake, (state, report.seq));
    if lake.inner.workers.set(workers).is_err() {
        unreachable!("a new lake has no workers");
    }
    let _ = weak.set(Arc::downgrade(&lake.inner));
    let recovered = lake.clone();
    parts
        .journal
        .on_recovered(Box::new(move || recovered.catch_up()));
    lake.poke_pending();
    if lake.inner.triggers.set(parts.triggers).is_err() {
        unreachable!("a new lake has no schedules");
    }
    parts.runtime.spawn(scheduler::run(lake.clone()));
    Ok((lake, report))
}

fn start_workers(starter: &Starter<'_>, lake: &Lake, state: (LakeState, Seq)) -> Workers {
    let parts = starter.parts;
    Workers {
        ingest: starter.worker(
            "ingest",
            IngestDuty {
                lake: lake.clone(),
                store: Arc::clone(&parts.buckets),
            },
            2,
            64,
        ),
        indexing: starter.worker(
            "indexing",
            IndexingDuty {
                lake: lake.clone(),
                builder: Arc::clone(&parts.builder),
                store: Arc::clone(&parts.buckets),
                underway: Arc::new(Mutex::new(BTreeSet::new())),
            },
            1,
            64,
        ),
        refresh: starter.worker(
            "refresh",
            RefreshDuty {
                lake: lake.clone(),
                builder: Arc::clone(&parts.builder),
                deltas: Arc::clone(&parts.deltas),
                store: Arc::clone(&parts.buckets),
            },
            REFRESHES_MAX,
            256,
        ),
        compaction: starter.worker(
            "compaction",
            CompactionDuty {
                lake: lake.clone(),
                compactor: Arc::clone(&parts.compactor),
                store: Arc::clone(&parts.buckets),
            },
            1,
            64,
        ),
        erasure: starter.worker(
            "erasure",
            ErasureDuty {
                lake: lake.clone(),
                compactor: Arc::clone(&parts.compactor),
                store: Arc::clone(&parts.buckets),
                builder: Arc::clone(&parts.builder),
                sidecar: Arc::clone(&parts.sidecar),
                readers: Arc::clone(&parts.readers),
                query_deadline: parts.query_deadline,
            },
            2,
            64,
        ),
        rescue: starter.worker(
            "rescue",
            RescueDuty {
                lake: lake.clone(),
                store: Arc::clone(&parts.buckets),
            },
            1,
            1,
        ),
        places: starter.worker(
            "places",
            PlacesDuty {
                lake: lake.clone(),
                store: Arc::clone(&parts.buckets),
                inspector: Arc::clone(&parts.inspector),
            },
            2,
            64,
        ),
        housekeeping: starter.worker(
            "housekeeping",
            HousekeepingDuty {
                lake: lake.clone(),
                store: Arc::clone(&parts.buckets),
                sidecar: Arc::clone(&parts.sidecar),
                listed: Mutex::default(),
                view_files: ViewFiles::default(),
                orphan_grace: parts.orphan_grace,
                retention: parts.retention,
                shadow: Mutex::new(Some(state)),
                archived: Mutex::new(BTreeSet::new()),
            },
            1,
            64,
        ),
    }
}

struct Starter<'a> {
    parts: &'a Parts,
    tree: &'a Tree,
}

impl Starter<'_> {
    fn owner<A: Aggregate>(
        &self,
        id: OwnerId,
        fold: Fold<A>,
        part: fn(&LakeState, &OwnerId) -> Fold<A>,
        effects: Box<dyn Fn(&A) + Send>,
    ) -> OwnerHandle<A> {
        let owner = Starting {
            id,
            published: Arc::new(ArcSwap::from_pointee(fold)),
            part,
            effects,
            background: None,
        };
        start_owner(&self.parts.journal, &self.parts.clock, self.tree, owner)
    }

    fn worker<D: Duty>(
        &self,
        name: &str,
        duty: D,
        slots: usize,
        queue_max: usize,
    ) -> WorkerHandle<D> {
        let vital = self.tree.add(name, "lakehouse");
        let worker = Worker::new(
            Arc::new(duty),
            Arc::clone(&vital),
            self.parts.runtime.clone(),
            slots,
            queue_max,
        );
        WorkerHandle {
            addr: supervise(worker),
            vital,
        }
    }
}

type BucketStarter = Arc<dyn Fn(&str, Fold<BucketState>) -> OwnerHandle<BucketState> + Send + Sync>;

fn bucket_starter(parts: &Parts, tree: &Tree) -> BucketStarter {
    let (journal, clock, tree) = (
        parts.journal.clone(),
        Arc::clone(&parts.clock),
        tree.clone(),
    );
    let (store, runtime) = (Arc::clone(&parts.buckets), parts.runtime.clone());
    Arc::new(move |name, fold| {
        let (bucket_name, opener) = (name.to_owned(), Arc::clone(&store));
        let effects = Box::new(move |bucket: &BucketState| match &bucket.spec {
            Some(spec) => {
                if let Err(error) = opener.open(&bucket_name, spec) {
                    tracing::error!(bucket = bucket_name, %error, "bucket cannot be opened");
                }
            }
            None => opener.close(&bucket_name),
        });
        let published = Arc::new(ArcSwap::from_pointee(fold));
        let background = looking_after(name, &store, &published, &runtime);
        let owner = Starting {
            id: OwnerId::Bucket(name.to_owned()),
            published,
            part: bucket_part,
            effects,
            background: Some(background),
        };
        start_owner(&journal, &clock, &tree, owner)
    })
}

/// A bucket's owner looks after it while it is registered.
fn looking_after(
    name: &str,
    store: &Arc<dyn BucketStore>,
    published: &Published<BucketState>,
    runtime: &Handle,
) -> Background {
    let (name, store, published) = (name.to_owned(), Arc::clone(store), Arc::clone(published));
    Background {
        every: LOOK_AFTER_EVERY,
        runtime: runtime.clone(),
        work: Arc::new(move || {
            let (name, store) = (name.clone(), Arc::clone(&store));
            let spec = published.load().state.spec.clone();
            Box::pin(async move {
                if let Some(spec) = spec {
                    store.look_after(&name, &spec).await;
                }
            })
        }),
    }
}

fn bucket_part(lake: &LakeState, id: &OwnerId) -> Fold<BucketState> {
    match id {
        OwnerId::Bucket(name) => lake.buckets.get(name).cloned().unwrap_or_default(),
        OwnerId::Catalog | OwnerId::Access | OwnerId::Scheduler => Fold::default(),
    }
}

/// An owner that is about to be started.
struct Starting<A: Aggregate> {
    id: OwnerId,
    published: Published<A>,
    part: fn(&LakeState, &OwnerId) -> Fold<A>,
    effects: Box<dyn Fn(&A) + Send>,
    background: Option<Background>,
}

fn start_owner<A: Aggregate>(
    journal: &Journal,
    clock: &Arc<dyn Clock>,
    tree: &Tree,
    starting: Starting<A>,
) -> OwnerHandle<A> {
    let vital = tree.add(starting.id.to_string(), "lakehouse");
    let published = starting.published;
    (starting.effects)(&published.load().state);
    let owner = Owner::new(OwnerParts {
        id: starting.id,
        journal: journal.clone(),
        clock: Arc::clone(clock),
        vital: Arc::clone(&vital),
        published: Arc::clone(&published),
        part: starting.part,
        effects: starting.effects,
        background: starting.background,
    });
    OwnerHandle {
        addr: supervise(owner),
        published,
        vital,
    }
}

/// Starts an actor under actix's supervisor on a thread of its own, so that one which is busy
/// replaying keeps no other waiting.
fn supervise<A>(actor: A) -> Addr<A>
where
    A: Supervised<Context = Context<A>> + Send + 'static,
{
    Supervisor::start_in_arbiter(&Arbiter::new().handle(), move |_| actor)
}
