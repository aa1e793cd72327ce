//! `TestLake`: the real actors over a journal in memory, with fakes behind every port. For tests of
//! this crate and of others; it can panic actors, fail appends and restart on the same journal.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use lakehouse_journal::{
    log::{CommitterConfig, MemoryLog, MemoryStore},
    model::{
        ErrorKind,
        bucket::BucketSpec,
        catalog::{
            Backend, Column, DataFile, Dataset, DeletionVector, FileEntry, HASHED_KEY_PREFIX,
            IndexConfig, IndexSpec, IngestMode, SchemaDoc, TextSpec,
        },
        event::DeletedRows,
    },
    record::{Actor, Micros, Seq},
};
use parking_lot::Mutex;

use crate::{
    Caller, IngestRequest, Ingested, Journal, Lake, LakeError, Parts, PortError, StartReport,
    ports::{
        BucketStore, Clock, Compactor, FileInspector, IndexBuilder, IndexDeltas, Inspected,
        KeyTest, ObjectCopy, ObjectInfo, Progress, Readers, ResolvedRows, Rewritten, RowLookup,
        RowMap, Sidecar, StageFn, StageOptions, StagedTable,
    },
};

mod builder;
mod deltas;

pub use builder::FakeBuilder;
pub use deltas::FakeDeltas;

/// A clock that stands still until it is told to go on.
#[derive(Debug, Default)]
pub struct TestClock(AtomicI64);

impl TestClock {
    /// Lets time pass.
    pub fn advance(&self, by: Duration) {
        let micros = Micros::try_from(by.as_micros()).expect("a test's time is short");
        self.0.fetch_add(micros, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Micros {
        self.0.load(Ordering::SeqCst)
    }
}

/// Files in memory: object key → the rows' keys.
#[derive(Debug, Default)]
pub struct FakeTables {
    files: Mutex<BTreeMap<String, Vec<String>>>,
    next: AtomicU64,
    /// Where the files lie, as [`FakeBuckets`] shows them.
    objects: Arc<Mutex<Objects>>,
    clock: Mutex<Option<Arc<TestClock>>>,
    /// While set, a rewrite does not end.
    pub stalled: AtomicBool,
    /// What the lists of deleted rows say, by dataset.
    pub listed: Mutex<BTreeMap<String, Vec<String>>>,
}

impl FakeTables {
    fn now(&self) -> Micros {
        self.clock.lock().as_ref().map_or(0, |clock| clock.now())
    }

    /// Keys of the rows of a dataset that are visible.
    pub fn visible(&self, dataset: &Dataset) -> Vec<String> {
        let files = self.files.lock();
        let rows = dataset.files.iter().flat_map(|file| {
            files[&file.entry.key]
                .iter()
                .enumerate()
                .filter_map(|(position, key)| {
                    let position = u32::try_from(position).expect("few rows");
                    (!file.deleted.contains(position)).then(|| key.clone())
                })
        });
        rows.collect()
    }

    fn positions(&self, dataset: &Dataset, wanted: &[String]) -> Vec<DeletedRows> {
        let files = self.files.lock();
        dataset
            .files
            .iter()
            .map(|file| DeletedRows {
                file: file.entry.key.clone(),
                positions: files[&file.entry.key]
                    .iter()
                    .zip(0_u32..)
                    .filter(|(key, position)| {
                        wanted.contains(key) && !file.deleted.contains(*position)
                    })
                    .map(|(_, position)| position)
                    .collect(),
            })
            .filter(|rows| !rows.positions.is_empty())
            .collect()
    }
}

struct FakeStaged {
    tables: Arc<FakeTables>,
    schema: SchemaDoc,
    rows: Vec<String>,
    content_hash: String,
}

#[async_trait]
impl StagedTable for FakeStaged {
    fn schema(&self) -> &SchemaDoc {
        &self.schema
    }

    fn rows(&self) -> u64 {
        self.rows.len() as u64
    }

    fn batches(&self) -> u64 {
        1
    }

    fn source_bytes(&self) -> u64 {
        self.rows.iter().map(|row| row.len() as u64).sum()
    }

    fn content_hash(&self) -> &str {
        &self.content_hash
    }

    async fn load_keys(&self) -> Result<(), PortError> {
        Ok(())
    }

    async fn replaced_rows(&self, dataset: &Dataset) -> Result<Vec<DeletedRows>, PortError> {
        Ok(self.tables.positions(dataset, &self.rows))
    }

    async fn rows_where(&self, test: KeyTest) -> Result<Vec<DeletionVector>, PortError> {
        let rows = self.rows.iter().zip(0_u32..);
        Ok(vec![
            rows.filter(|(key, _)| test(key))
                .map(|(_, at)| at)
                .collect(),
        ])
    }

    async fn publish(&self, bucket: &str, dataset_id: &str) -> Result<Vec<FileEntry>, PortError> {
        let number = self.tables.next.fetch_add(1, Ordering::SeqCst);
        let key = format!("datasets/{dataset_id}/{number:08}.parquet");
        self.tables
            .files
            .lock()
            .insert(key.clone(), self.rows.clone());
        self.tables.objects.lock().insert(
            (bucket.to_owned(), key.clone()),
            (self.rows.join("\n").into_bytes(), self.tables.now()),
        );
        Ok(vec![FileEntry {
            bucket: bucket.to_owned(),
            key,
            rows: self.rows(),
            bytes: self.source_bytes(),
            blake3: self.content_hash.clone(),
            sorted_by_key: false,
            superseded: DeletionVector::default(),
            erased: DeletionVector::default(),
        }])
    }
}

#[async_trait]
impl RowLookup for FakeTables {
    async fn resolve(&self, dataset: &Dataset, keys: &[String]) -> Result<ResolvedRows, PortError> {
        let visible = self.visible(dataset);
        let (found, missing) = keys.iter().cloned().partition(|key| visible.contains(key));
        Ok(ResolvedRows {
            deleted: self.positions(dataset, keys),
            found,
            missing,
        })
    }
}

struct FakeCompactor(Arc<FakeTables>);

#[async_trait]
impl Compactor for FakeCompactor {
    async fn rewrite(
        &self,
        dataset: &Dataset,
        files: &[Arc<DataFile>],
        _: Arc<Progress>,
    ) -> Result<Rewritten, PortError> {
        while self.0.stalled.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let some = Dataset {
            files: files.to_vec(),
            ..dataset.clone()
        };
        let rows = self.0.visible(&some);
        let tables = Arc::clone(&self.0);
        let content_hash = blake3::hash(rows.join("\n").as_bytes())
            .to_hex()
            .to_string();
        Ok(Rewritten {
            moved: Arc::new(Concatenated(files.to_vec())),
            content_hash: content_hash.clone(),
            staged: Box::new(FakeStaged {
                tables,
                schema: dataset.schema.clone(),
                rows,
                content_hash,
            }),
        })
    }
}

/// Rows of files that were put one after the other into a single new one.
struct Concatenated(Vec<Arc<DataFile>>);

#[async_trait]
impl RowMap for Concatenated {
    async fn locate(&self, rows: &[DeletedRows]) -> Result<Vec<DeletionVector>, PortError> {
        let mut start = 0;
        let mut moved = Vec::new();
        for file in &self.0 {
            for rows in rows.iter().filter(|rows| rows.file == file.entry.key) {
                let here = rows.positions.after_removal_of(&file.deleted);
                moved.extend(here.bitmap().iter().map(|position| position + start));
            }
            start += u32::try_from(file.live_rows()).expect("few rows");
        }
        Ok(vec![moved.into_iter().collect()])
    }
}

/// Remembers what the lists beside the files say.
#[async_trait]
impl Sidecar for FakeTables {
    async fn write(&self, dataset: &Dataset) -> Result<(), PortError> {
        let files = self.files.lock();
        let listed: Vec<String> = dataset
            .files
            .iter()
            .flat_map(|file| {
                let rows = &files[&file.entry.key];
                let erased = file.erased.bitmap().iter();
                erased
                    .map(|at| rows[at as usize].clone())
                    .collect::<Vec<_>>()
            })
            .collect();
        self.listed.lock().insert(dataset.name.clone(), listed);
        Ok(())
    }
}

/// No query runs.
struct NoReaders;

#[async_trait]
impl Readers for NoReaders {
    async fn drain(&self, _: Seq, _: Duration) {}

    fn forget(&self, _: &str, _: &str) {}
}

/// (bucket, key) → bytes and time.
pub type Objects = BTreeMap<(String, String), (Vec<u8>, Micros)>;

/// Objects in memory.
#[derive(Debug, Default)]
pub struct FakeBuckets {
    /// (bucket, key) → bytes and time.
    pub objects: Arc<Mutex<Objects>>,
}

#[async_trait]
impl BucketStore for FakeBuckets {
    fn open(&self, _: &str, _: &BucketSpec) -> Result<(), PortError> {
        Ok(())
    }

    async fn put_if_absent(
        &self,
        bucket: &str,
        key: &str,
        bytes: Vec<u8>,
    ) -> Result<(), PortError> {
        let name = (bucket.to_owned(), key.to_owned());
        self.objects.lock().entry(name).or_insert((bytes, 0));
        Ok(())
    }

    async fn list(&self, bucket: &str, prefix: &str) -> Result<Vec<ObjectInfo>, PortError> {
        let objects = self.objects.lock();
        Ok(objects
            .iter()
            .filter(|((name, key), _)| name == bucket && key.starts_with(prefix))
            .map(|((_, key), (bytes, modified))| ObjectInfo {
                key: key.clone(),
                bytes: bytes.len() as u64,
                modified: *modified,
            })
            .collect())
    }

    async fn delete(&self, bucket: &str, key: &str) -> Result<(), PortError> {
        self.objects
            .lock()
            .remove(&(bucket.to_owned(), key.to_owned()));
        Ok(())
    }

    async fn probe(&self, _: &str) -> Result<Duration, PortError> {
        Ok(Duration::ZERO)
    }

    fn close(&self, _: &str) {}

    async fn look_after(&self, _: &str, _: &BucketSpec) {}

    async fn copy(&self, copy: &ObjectCopy) -> Result<(), PortError> {
        let mut objects = self.objects.lock();
        let from = objects.get(&(copy.from.clone(), copy.key.clone()));
        let Some(object) = from.cloned() else {
            let text = "no such object";
            return Err(PortError::new(
                ErrorKind::NotFound,
                "object_not_found",
                text,
            ));
        };
        objects
            .entry((copy.to.clone(), copy.key.clone()))
            .or_insert(object);
        Ok(())
    }
}

/// Says what the catalog says.
struct FakeInspector;

#[async_trait]
impl FileInspector for FakeInspector {
    async fn inspect(&self, _: &str, _: &str) -> Result<Option<Inspected>, PortError> {
        Ok(None)
    }
}

/// What outlives a restart: the journal and the objects.
#[derive(Clone)]
pub struct TestDisk {
    /// The journal's records.
    pub journal: MemoryStore,
    /// Table files.
    pub tables: Arc<FakeTables>,
    /// Other objects.
    pub buckets: Arc<FakeBuckets>,
}

impl Default for TestDisk {
    fn default() -> Self {
        let buckets = Arc::new(FakeBuckets::default());
        Self {
            journal: MemoryStore::default(),
            tables: Arc::new(FakeTables {
                objects: Arc::clone(&buckets.objects),
                ..FakeTables::default()
            }),
            buckets,
        }
    }
}

/// The actors on fakes.
pub struct TestLake {
    /// The handle.
    pub lake: Lake,
    /// The time.
    pub clock: Arc<TestClock>,
    /// What outlives it.
    pub disk: TestDisk,
    /// The index builder.
    pub builder: Arc<FakeBuilder>,
    /// The writer of deltas.
    pub deltas: Arc<FakeDeltas>,
    /// How the start went.
    pub report: StartReport,
}

/// A caller for tests.
pub fn caller() -> Caller {
    Caller {
        actor: Actor {
            name: "tester".to_owned(),
            role: "admin".to_owned(),
        },
        request_id: "test".to_owned(),
        idempotency: None,
    }
}

impl TestLake {
    /// A lake over `disk`. Call it inside an actix system.
    pub fn start(disk: TestDisk) -> Self {
        let clock = Arc::new(TestClock::default());
        clock.advance(Duration::from_hours(500_000));
        *disk.tables.clock.lock() = Some(Arc::clone(&clock));
        let builder = Arc::new(FakeBuilder::default());
        let deltas = Arc::new(FakeDeltas::default());
        let log = Box::new(MemoryLog::open(disk.journal.clone()));
        let config = CommitterConfig {
            retry_interval: Duration::from_millis(20),
            ..Default::default()
        };
        let journal = Journal::spawn(log, config, None).expect("a log in memory opens");
        let (lake, report) = crate::start(Parts {
            journal,
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            lookup: Arc::clone(&disk.tables) as Arc<dyn RowLookup>,
            compactor: Arc::new(FakeCompactor(Arc::clone(&disk.tables))),
            sidecar: Arc::clone(&disk.tables) as Arc<dyn Sidecar>,
            readers: Arc::new(NoReaders),
            ledger: None,
            key_hash: Arc::new(|key| {
                format!(
                    "{HASHED_KEY_PREFIX}{}",
                    blake3::hash(key.as_bytes()).to_hex()
                )
            }),
            builder: Arc::clone(&builder) as Arc<dyn IndexBuilder>,
            deltas: Arc::clone(&deltas) as Arc<dyn IndexDeltas>,
            buckets: Arc::clone(&disk.buckets) as Arc<dyn BucketStore>,
            inspector: Arc::new(FakeInspector),
            runtime: tokio::runtime::Handle::current(),
            primary: "primary".to_owned(),
            orphan_grace: Duration::from_hours(1),
            retention: Duration::from_hours(24),
            erasure_delay: Duration::from_secs(10),
            query_deadline: Duration::from_secs(1),
            triggers: Vec::new(),
        })
        .expect("a journal in memory replays");
        Self {
            lake,
            clock,
            disk,
            builder,
            deltas,
            report,
        }
    }

    /// The fake way to stage these rows.
    pub fn stage(&self, rows: &[&str]) -> StageFn {
        let tables = Arc::clone(&self.disk.tables);
        let rows: Vec<String> = rows.iter().map(|row| (*row).to_owned()).collect();
        Box::new(move |options: StageOptions| {
            let schema = options.expected.unwrap_or_else(schema);
            let content_hash = blake3::hash(rows.join("\n").as_bytes())
                .to_hex()
                .to_string();
            Ok(Box::new(FakeStaged {
                tables,
                schema,
                rows,
                content_hash,
            }) as Box<dyn StagedTable>)
        })
    }

    /// Takes rows in.
    ///
    /// # Errors
    /// As [`Lake::ingest`].
    pub async fn ingest(
        &self,
        dataset: &str,
        mode: IngestMode,
        rows: &[&str],
        caller: Caller,
    ) -> Result<Ingested, LakeError> {
        let job = uuid::Uuid::new_v4().to_string();
        let request = IngestRequest {
            dataset: dataset.to_owned(),
            mode,
            key: (mode == IngestMode::Create).then(|| vec!["id".to_owned()]),
            bucket: None,
            source_kind: "file".to_owned(),
            source_name: "test".to_owned(),
            since: None,
            stage: self.stage(rows),
            job: self.lake.jobs().open(&job, "ingest", dataset),
            caller,
        };
        self.lake.ingest(request).await
    }

    /// Keys of the visible rows.
    pub fn rows(&self, dataset: &str) -> Vec<String> {
        self.disk
            .tables
            .visible(&self.lake.catalog().state.datasets[dataset])
    }
}

/// The schema of every fake table: one key column.
pub fn schema() -> SchemaDoc {
    SchemaDoc {
        columns: vec![Column {
            name: "id".to_owned(),
            data_type: "Utf8".to_owned(),
            nullable: false,
        }],
        arrow_ipc: String::new(),
        fingerprint: "one".to_owned(),
    }
}

/// An index over a fake table.
pub fn index_spec(dataset: &str) -> IndexSpec {
    IndexSpec {
        source: dataset.to_owned(),
        key: "id".into(),
        text: TextSpec::Columns(vec!["id".to_owned()]),
        vector_column: None,
        chunk: None,
        provider: "in-process".to_owned(),
        model: "fake".to_owned(),
        dimensions: 4,
        backend: Backend::Hnsw,
        config: IndexConfig::default(),
        bucket: "primary".to_owned(),
    }
}
