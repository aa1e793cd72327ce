//! O-05: whatever removes objects runs without a pause while others write, read and search, and the
//! clock jumps. No query misses a file, and in the end the bucket holds what the journal says.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use futures::StreamExt as _;
use lakehouse::engines::indexes::{SearchMode, SearchQuery, SearchRequest, Sight};
use lakehouse::query::{QueryError, SessionTables};
use lakehouse_actors::{Caller, Chore, LakeError};
use lakehouse_journal::model::ErrorKind;
use lakehouse_journal::model::catalog::{
    Backend, CatalogCommand, DefineIndex, DropDataset, ErasedKeys, IndexConfig, IndexSpec,
    IngestMode, PatchDataset, RefreshCause, TextSpec,
};

use crate::support::wired::{BUCKET, Times, Wired};
use crate::support::{number_from_env, until};

/// Rows of a part of the large dataset.
const PART_ROWS: usize = 30_000;
/// How often things are removed.
const EVERY: Duration = Duration::from_millis(100);

/// What was seen.
#[derive(Default)]
struct Seen {
    held: AtomicU64,
    queries: AtomicU64,
    expired: AtomicU64,
    searches: AtomicU64,
    writes: AtomicU64,
    busy: AtomicU64,
    sweeps: AtomicU64,
}

struct Race {
    wired: Wired,
    seen: Seen,
    ended: AtomicBool,
    hold: Duration,
}

impl Race {
    fn goes_on(&self) -> bool {
        !self.ended.load(Ordering::Relaxed)
    }

    /// Counts a write; one that others overtook is no failure.
    fn wrote<T>(&self, what: &str, result: Result<T, LakeError>) {
        match result {
            Ok(_) => self.seen.writes.fetch_add(1, Ordering::Relaxed),
            Err(error) if matches!(error.kind(), ErrorKind::Conflict | ErrorKind::Overloaded) => {
                self.seen.busy.fetch_add(1, Ordering::Relaxed)
            }
            Err(error) => panic!("{what}: {} {error}", error.code()),
        };
    }

    async fn ingest(&self, dataset: &str, mode: IngestMode, csv: String) {
        let done = self.wired.ingest(dataset, mode, csv).await;
        self.wrote(&format!("{mode:?} {dataset}"), done);
    }

    /// Four parts whose rows all hold the same number, again and again.
    async fn write_large(&self) {
        for round in 1_i64.. {
            self.ingest("large", IngestMode::Replace, part(0, round))
                .await;
            for number in 1..4 {
                if !self.goes_on() {
                    return;
                }
                self.ingest("large", IngestMode::Append, part(number, round))
                    .await;
            }
        }
    }

    async fn write_keyed(&self) {
        let mut random = 88_172_645_463_325_252_u64;
        while self.goes_on() {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let first = random % 1_000;
            if random.is_multiple_of(5) {
                let keys: Vec<String> = (first..first + 5).map(|id| id.to_string()).collect();
                let caller = Caller::daemon("test");
                let gone =
                    self.wired
                        .lake
                        .tombstone("keyed", &keys, "race".to_owned(), None, caller);
                let gone = gone.await;
                self.wrote("tombstone", gone);
            } else {
                self.ingest("keyed", IngestMode::Upsert, texts(first, 20, random))
                    .await;
            }
        }
    }

    async fn write_passing(&self) {
        while self.goes_on() {
            self.ingest("passing", IngestMode::Create, texts(0, 50, 1))
                .await;
            self.ingest("passing", IngestMode::Append, texts(50, 50, 2))
                .await;
            let drop = CatalogCommand::DropDataset(DropDataset {
                dataset: "passing".to_owned(),
                cascade: true,
            });
            let dropped = self.wired.lake.ask_catalog(drop, Caller::daemon("test"));
            let dropped = dropped.await;
            self.wrote("drop", dropped);
        }
    }

    async fn rewrite(&self) {
        for round in 0_u64.. {
            if !self.goes_on() {
                return;
            }
            for dataset in ["keyed", "large"] {
                let merged = self.wired.lake.compact(dataset, Caller::daemon("test"));
                let merged = merged.await;
                self.wrote("compact", merged);
            }
            if round % 4 == 0 {
                let refreshed =
                    self.wired
                        .lake
                        .refresh("keyed", RefreshCause::Call, Caller::daemon("test"));
                let refreshed = refreshed.await;
                self.wrote("refresh", refreshed);
            }
        }
    }

    /// Holds a query of the large dataset open; every row of it is of one moment.
    async fn hold_queries(&self) {
        while self.goes_on() {
            let catalog = self.wired.lake.catalog();
            let tables = SessionTables::all(Arc::new(catalog.state.clone()), catalog.seq);
            let session = self.wired.query.session(tables).with_partitions(1);
            let sql = "SELECT id, round FROM large";
            let began = Instant::now();
            let (mut rows, mut rounds) = (0, BTreeSet::new());
            let read = async {
                let mut stream = session.execute(sql, Vec::new(), None).await?;
                while let Some(batch) = stream.next().await {
                    let batch = batch?;
                    rows += batch.num_rows();
                    let values = batch.column(1).as_primitive::<Int64Type>().values();
                    rounds.extend(values.iter().copied());
                    // As long as a slow reader takes for this share of the rows.
                    let share = u32::try_from(4 * PART_ROWS / 8_192).unwrap();
                    let pause = (self.hold / share).min(self.hold.saturating_sub(began.elapsed()));
                    tokio::time::sleep(pause).await;
                }
                Ok::<_, QueryError>(())
            };
            match read.await {
                Ok(()) => {
                    assert_eq!(rounds.len(), 1, "rows of {rounds:?} in one snapshot");
                    assert!(rows > 0 && rows.is_multiple_of(PART_ROWS), "{rows} rows");
                    self.seen.held.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => self.failed(sql, &error),
            }
        }
    }

    async fn query(&self) {
        while self.goes_on() {
            let catalog = self.wired.lake.catalog();
            let tables = SessionTables::all(Arc::new(catalog.state.clone()), catalog.seq);
            let sql = "SELECT count(*), count(DISTINCT id) FROM keyed";
            let read = async {
                let session = self.wired.query.session(tables);
                let mut stream = session.execute(sql, Vec::new(), None).await?;
                let mut counts: Vec<i64> = Vec::new();
                while let Some(batch) = stream.next().await {
                    let batch = batch?;
                    for column in batch.columns() {
                        counts.extend(column.as_primitive::<Int64Type>().values());
                    }
                }
                Ok::<_, QueryError>(counts)
            };
            match read.await {
                Ok(counts) => {
                    let expected = catalog.state.datasets["keyed"].row_count();
                    assert_eq!(counts, [expected.cast_signed(); 2]);
                    self.seen.queries.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => self.failed(sql, &error),
            }
            self.search(&self.wired.lake.catalog()).await;
        }
    }

    async fn search(
        &self,
        catalog: &lakehouse_journal::model::Fold<lakehouse_journal::model::catalog::CatalogState>,
    ) {
        let session = || {
            let tables = SessionTables::all(Arc::new(catalog.state.clone()), catalog.seq);
            self.wired.query.session(tables)
        };
        let index = &catalog.state.indexes["idx"];
        let request = SearchRequest {
            query: SearchQuery::Text("a letter about the garden"),
            mode: SearchMode::Vector,
            k: 10,
            filter: None,
            ef_search: None,
            exact: false,
            sight: Sight {
                through: &index.spec.source,
                is_restricted: false,
                id: String::new(),
                session: &session,
            },
        };
        match self.wired.indexes.search(catalog, index, &request).await {
            Ok(found) => {
                assert_eq!(found.hits.len(), 10);
                self.seen.searches.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) if error.code == "index_not_ready" => {}
            Err(error) => panic!("search: {} {error}", error.code),
        }
    }

    /// An expired snapshot is an answer that a caller tries again after; a missing file is none.
    fn failed(&self, sql: &str, error: &QueryError) {
        assert_eq!(error.code(), "snapshot_expired", "`{sql}`: {error}");
        self.seen.expired.fetch_add(1, Ordering::Relaxed);
    }

    /// Removes whatever may be removed, at wrong times too, and leaves orphans to be found.
    async fn remove(&self) {
        for round in 0_i64.. {
            if !self.goes_on() {
                return;
            }
            if round % 10 == 0 {
                self.wired
                    .clock
                    .wrong_by([0, 3_600, -3_600][usize::try_from(round / 10 % 3).unwrap()]);
                let id = self.wired.lake.catalog().state.datasets["large"].id.clone();
                for folder in [
                    format!("datasets/{id}"),
                    "datasets/none".into(),
                    "vectors/none/1".into(),
                ] {
                    let folder = self.wired.root().join(folder);
                    std::fs::create_dir_all(&folder).unwrap();
                    std::fs::write(folder.join(format!("left-{round}.parquet")), b"rows").unwrap();
                }
            }
            let bucket = BUCKET.to_owned();
            // A worker with a full queue is at it anyhow.
            if self
                .wired
                .lake
                .chore(Chore::SweepOrphans { bucket })
                .is_ok()
            {
                self.seen.sweeps.fetch_add(1, Ordering::Relaxed);
            }
            let _ = self.wired.lake.chore(Chore::Purge);
            self.wired.lake.poke_pending();
            tokio::time::sleep(EVERY).await;
        }
    }

    /// Every object of ours.
    fn objects(&self) -> BTreeSet<String> {
        let root = self.wired.root();
        let mut found = BTreeSet::new();
        for folder in ["datasets", "vectors", ".staging"] {
            below(&root.join(folder), &mut |path| {
                let key = path.strip_prefix(&root).unwrap().to_str().unwrap();
                found.insert(key.to_owned());
            });
        }
        found
    }

    /// Every object that the state points at.
    fn pointed_at(&self) -> BTreeSet<String> {
        let catalog = self.wired.lake.catalog();
        let datasets = catalog.state.datasets.values();
        let files = datasets.flat_map(|dataset| {
            let files = dataset.all_files().map(|file| file.entry.key.clone());
            files.collect::<Vec<_>>()
        });
        let generations = catalog.state.indexes.values().flat_map(|index| {
            let built = index.generations.iter();
            let file = |prefix: &str, name: &str| format!("{prefix}/{name}");
            let files = built.flat_map(|built| {
                let names = built.files.iter();
                names
                    .map(|digest| file(&built.prefix, &digest.name))
                    .collect::<Vec<_>>()
            });
            let deltas = index.deltas().map(|delta| delta.file.key.clone());
            files.chain(deltas).collect::<Vec<_>>()
        });
        files.chain(generations).collect()
    }

    /// Nobody writes any more: what is due is done, and nothing is left over.
    async fn settles(&self) {
        let lake = &self.wired.lake;
        self.wired.clock.wrong_by(7_200);
        until("what left its dataset to go", || async {
            let _ = lake.chore(Chore::Purge);
            lake.poke_pending();
            let catalog = lake.catalog();
            let kept =
                |dataset: &lakehouse_journal::model::catalog::Dataset| dataset.retained.len();
            let kept: usize = catalog
                .state
                .datasets
                .values()
                .map(|dataset| kept(dataset))
                .sum();
            (kept == 0 && catalog.state.doomed.is_empty()).then_some(())
        })
        .await;
        until("the erasure to end", || async {
            lake.erase("keyed").await.ok()
        })
        .await;
        until("every orphan to be gone", || async {
            let bucket = BUCKET.to_owned();
            let _ = lake.chore(Chore::SweepOrphans { bucket });
            tokio::time::sleep(EVERY).await;
            (self.objects() == self.pointed_at()).then_some(())
        })
        .await;
    }
}

fn below(folder: &Path, each: &mut dyn FnMut(&Path)) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            below(&path, each);
        } else {
            each(&path);
        }
    }
}

fn part(number: usize, round: i64) -> String {
    let mut csv = String::from("id,round\n");
    for row in 0..PART_ROWS {
        writeln!(csv, "{},{round}", number * PART_ROWS + row).unwrap();
    }
    csv
}

fn texts(first: u64, rows: u64, mark: u64) -> String {
    let mut csv = String::from("id,body\n");
    for id in first..first + rows {
        writeln!(csv, "{id},a letter about the garden number {id} and {mark}").unwrap();
    }
    csv
}

async fn prepared(dir: &Path, hold: Duration) -> Race {
    let times = Times {
        orphan_grace: Duration::from_secs(2),
        retention: Duration::from_secs(1),
        erasure_delay: Duration::from_secs(1),
        query_deadline: Duration::from_secs(30),
    };
    let race = Race {
        wired: Wired::start(dir, &times).await,
        seen: Seen::default(),
        ended: AtomicBool::new(false),
        hold,
    };
    race.ingest("large", IngestMode::Create, part(0, 0)).await;
    race.ingest("keyed", IngestMode::Create, texts(0, 1_000, 0))
        .await;
    let lake = &race.wired.lake;
    let admit = CatalogCommand::PatchDataset(PatchDataset {
        dataset: "keyed".to_owned(),
        erased_keys: Some(ErasedKeys::Admit),
        ..PatchDataset::default()
    });
    lake.ask_catalog(admit, Caller::daemon("test"))
        .await
        .unwrap();
    let define = CatalogCommand::DefineIndex(DefineIndex {
        slo: None,
        index: "idx".to_owned(),
        spec: IndexSpec {
            source: "keyed".to_owned(),
            key: "id".into(),
            text: TextSpec::Template("{body}".to_owned()),
            vector_column: None,
            chunk: None,
            provider: "in-process".to_owned(),
            model: "static-minilm-128".to_owned(),
            dimensions: 128,
            backend: Backend::Hnsw,
            config: IndexConfig::default(),
            bucket: BUCKET.to_owned(),
        },
    });
    lake.ask_catalog(define, Caller::daemon("test"))
        .await
        .unwrap();
    race
}

#[test]
fn nothing_is_removed_that_somebody_still_needs_and_nothing_is_left_over() {
    let seconds = number_from_env("LAKEHOUSE_GC_RACE_SECONDS", 6);
    // Queries are held 5 s in a long run.
    let hold = Duration::from_millis((seconds * 200).min(5_000));
    let dir = tempfile::tempdir().unwrap();
    actix_web::rt::System::new().block_on(async {
        let race = prepared(dir.path(), hold).await;
        let timer = async {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            race.ended.store(true, Ordering::Relaxed);
        };
        futures::join!(
            timer,
            race.write_large(),
            race.write_keyed(),
            race.write_passing(),
            race.rewrite(),
            race.hold_queries(),
            race.hold_queries(),
            race.hold_queries(),
            race.query(),
            race.remove(),
        );
        race.settles().await;
        let report = race.wired.lake.verify_state().unwrap();
        assert!(report.ok, "{report:?}");
        let seen = &race.seen;
        let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
        eprintln!(
            "O-05: {seconds} s, {} queries held {hold:?}, {} short ones, {} searches, {} expired, \
             {} writes, {} busy, {} sweeps; 0 missing, 0 left over",
            count(&seen.held),
            count(&seen.queries),
            count(&seen.searches),
            count(&seen.expired),
            count(&seen.writes),
            count(&seen.busy),
            count(&seen.sweeps),
        );
        assert!(count(&seen.held) > 0 && count(&seen.queries) > 0 && count(&seen.searches) > 0);
    });
}
