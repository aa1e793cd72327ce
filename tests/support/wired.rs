//! The lake without its edge, in the test's own process: real actors, engines and files, and a clock
//! that the test moves. For what a caller of the daemon cannot do: let time jump, ask for chores.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use lakehouse::engines::buckets::LakeBuckets;
use lakehouse::engines::egress::EgressPolicy;
use lakehouse::engines::indexes::LakeIndexes;
use lakehouse::engines::ingest::{FileFormat, IngestLimits};
use lakehouse::engines::object_store::{Bucket, Buckets};
use lakehouse::engines::repair::LakeInspector;
use lakehouse::engines::row_keys;
use lakehouse::engines::secrets::SecretsInOrder;
use lakehouse::engines::sidecar::LakeSidecar;
use lakehouse::engines::tables::{FileSource, LakeTables};
use lakehouse::query::{QueryConfig, QueryEngine};
use lakehouse_actors::ports::{BucketStore, Clock, IndexBuilder, IndexDeltas, Readers};
use lakehouse_actors::{Caller, IngestRequest, Ingested, Journal, Lake, LakeError, Parts, start};
use lakehouse_journal::log::{CommitterConfig, LogConfig, RealIo, SledLog};
use lakehouse_journal::model::bucket::{BucketCommand, BucketSpec};
use lakehouse_journal::model::catalog::IngestMode;
use lakehouse_journal::record::Micros;

/// The one bucket.
pub const BUCKET: &str = "primary";

/// The system's clock, set wrong by as much as the test says.
#[derive(Default)]
pub struct WrongClock(AtomicI64);

impl WrongClock {
    /// Sets it wrong by so many seconds.
    pub fn wrong_by(&self, seconds: i64) {
        self.0.store(seconds * 1_000_000, Ordering::SeqCst);
    }
}

impl Clock for WrongClock {
    fn now(&self) -> Micros {
        chrono::Utc::now().timestamp_micros() + self.0.load(Ordering::SeqCst)
    }
}

/// How long things are kept.
pub struct Times {
    /// Objects without an event.
    pub orphan_grace: Duration,
    /// Files that left their dataset.
    pub retention: Duration,
    /// Between a deletion and its erasure.
    pub erasure_delay: Duration,
    /// A query that reads what is to be deleted.
    pub query_deadline: Duration,
}

/// A lake in a directory.
pub struct Wired {
    pub lake: Lake,
    pub clock: Arc<WrongClock>,
    pub query: Arc<QueryEngine>,
    pub tables: LakeTables,
    pub indexes: Arc<LakeIndexes>,
    dir: PathBuf,
    work: Option<tokio::runtime::Runtime>,
}

impl Wired {
    /// Starts it; call it inside an actix system.
    pub async fn start(dir: &Path, times: &Times) -> Self {
        let staging = dir.join("staging");
        std::fs::create_dir_all(&staging).unwrap();
        let root = dir.join(BUCKET);
        let buckets = Arc::new(Buckets::new());
        buckets.register(Bucket::local(BUCKET, &root).unwrap());
        let store = Arc::new(LakeBuckets::new(
            Arc::clone(&buckets),
            Arc::new(SecretsInOrder(Vec::new())),
            EgressPolicy::default(),
            staging.clone(),
        ));
        let inspector = Arc::new(LakeInspector::new(Arc::clone(&buckets)));
        let config = QueryConfig::new(dir.join("spill"));
        let query = Arc::new(QueryEngine::new(config, Arc::clone(&buckets)).unwrap());
        let (limits, engine) = (IngestLimits::default(), Arc::clone(&query));
        let tables = LakeTables::new(staging.clone(), limits, Arc::clone(&buckets), engine);
        let key_hash = row_keys::hasher(dir).unwrap();
        let indexes = Arc::new(LakeIndexes::new(
            staging.clone(),
            dir.join("cache"),
            Arc::clone(&buckets),
            Arc::clone(&query),
            Arc::clone(&key_hash),
        ));
        let sidecar = LakeSidecar::new(staging, buckets, Arc::clone(&key_hash));
        let log = SledLog::open(dir.join("journal"), &LogConfig::default(), Arc::new(RealIo));
        let log = Box::new(log.unwrap());
        let journal = Journal::spawn(log, CommitterConfig::default(), None).unwrap();
        let work = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let clock = Arc::new(WrongClock::default());
        let (lake, _) = start(Parts {
            journal,
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            lookup: Arc::new(tables.clone()),
            compactor: Arc::new(tables.clone()),
            sidecar: Arc::new(sidecar),
            readers: Arc::clone(&query) as Arc<dyn Readers>,
            ledger: None,
            key_hash,
            builder: Arc::clone(&indexes) as Arc<dyn IndexBuilder>,
            deltas: Arc::clone(&indexes) as Arc<dyn IndexDeltas>,
            buckets: store as Arc<dyn BucketStore>,
            inspector,
            runtime: work.handle().clone(),
            primary: BUCKET.to_owned(),
            orphan_grace: times.orphan_grace,
            retention: times.retention,
            erasure_delay: times.erasure_delay,
            query_deadline: times.query_deadline,
            triggers: Vec::new(),
        })
        .unwrap();
        let register = BucketCommand::Register {
            bucket: BUCKET.to_owned(),
            spec: BucketSpec::Local {
                root: root.to_str().unwrap().to_owned(),
                rescue_bucket: None,
            },
        };
        lake.ask_bucket(BUCKET, register, Caller::daemon("test"))
            .await
            .unwrap();
        Self {
            lake,
            clock,
            query,
            tables,
            indexes,
            dir: dir.to_owned(),
            work: Some(work),
        }
    }

    /// Where the bucket's objects lie.
    pub fn root(&self) -> PathBuf {
        self.dir.join(BUCKET)
    }

    /// Takes CSV text in; a dataset that is made has the key `id`.
    pub async fn ingest(
        &self,
        dataset: &str,
        mode: IngestMode,
        csv: String,
    ) -> Result<Ingested, LakeError> {
        let source = FileSource {
            body: Box::new(std::io::Cursor::new(csv)),
            format: Some(FileFormat::Csv),
            file_name: None,
        };
        let job = uuid::Uuid::new_v4().to_string();
        let request = IngestRequest {
            dataset: dataset.to_owned(),
            mode,
            key: (mode == IngestMode::Create).then(|| vec!["id".to_owned()]),
            bucket: None,
            source_kind: "file".to_owned(),
            source_name: "test".to_owned(),
            since: None,
            stage: self.tables.stage(source),
            job: self.lake.jobs().open(&job, "ingest", dataset),
            caller: Caller::daemon("test"),
        };
        self.lake.ingest(request).await
    }
}

impl Drop for Wired {
    fn drop(&mut self) {
        if let Some(work) = self.work.take() {
            work.shutdown_background();
        }
    }
}
