//! Indexes in service, on both engines, over a dataset in a temporary bucket: what answers after
//! deltas, deletions, filters and folds, held against a comparison of every row.

mod chunked;
mod deltas;

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{ArrayRef, FixedSizeListArray, Float32Array, Int64Array, StringArray},
    datatypes::{DataType, Field},
    record_batch::RecordBatch,
};
use lakehouse_actors::ports::{
    BuildTask, DeltaRows, IndexBuilder, IndexChanges, IndexDeltas, Progress,
};
use lakehouse_journal::{
    model::{
        Aggregate, Fold, Meta, Stamp,
        catalog::{
            Backend, CatalogCommand, CatalogState, CommitGeneration, CommitIndexDelta, DefineIndex,
            DeletionVector, IndexConfig, IndexSpec, TextSpec, TombstoneRows,
        },
        event::{DeletedRows, IndexDelta},
    },
    record::Actor,
};
use tempfile::TempDir;

use super::*;
use crate::{
    engines::vectors::contract::{Random, Rows},
    query::{QuerySession, SessionTables, testing::Lake},
};

const DIMENSIONS: usize = 16;
const ROWS: usize = 3_000;

/// An index over 3,000 rows, as the daemon would have it.
struct Served {
    _folder: TempDir,
    indexes: LakeIndexes,
    catalog: Fold<CatalogState>,
    rows: Rows,
    /// Every row that should answer: key → vector.
    truth: BTreeMap<String, Vec<f32>>,
}

fn batch(rows: &Rows) -> RecordBatch {
    let item = Arc::new(Field::new("item", DataType::Float32, false));
    let width = i32::try_from(DIMENSIONS).unwrap();
    let numbers = Arc::new(Float32Array::from(rows.vectors.clone()));
    let count = i64::try_from(rows.keys.len()).unwrap();
    RecordBatch::try_from_iter_with_nullable([
        (
            "id",
            Arc::new(StringArray::from(rows.keys.clone())) as ArrayRef,
            true,
        ),
        (
            "nr",
            Arc::new((0..count).collect::<Int64Array>()) as ArrayRef,
            true,
        ),
        (
            "body",
            Arc::new(StringArray::from(rows.texts.clone())) as ArrayRef,
            true,
        ),
        (
            "v",
            Arc::new(FixedSizeListArray::new(item, width, numbers, None)) as ArrayRef,
            true,
        ),
    ])
    .unwrap()
}

fn words(row: usize) -> String {
    let topics = [
        "amber lantern",
        "basalt column",
        "copper kettle",
        "dune grass",
    ];
    format!("{} number{row}", topics[row % topics.len()])
}

fn actor() -> Actor {
    Actor {
        name: "tester".to_owned(),
        role: "admin".to_owned(),
    }
}

impl Served {
    async fn on(backend: Backend) -> Self {
        let mut rows = Rows::clustered(ROWS, DIMENSIONS);
        rows.texts = (0..ROWS).map(words).collect();
        let mut lake = Lake::new();
        lake.add("notes", &[(batch(&rows), Vec::new())], 1_000);
        let staging = lake.folder.path().join("staging");
        std::fs::create_dir_all(&staging).unwrap();
        let hash: KeyHash = Arc::new(str::to_owned);
        let mut catalog: Fold<CatalogState> = Fold::default();
        catalog.state = lake.state;
        catalog.seq = 10;
        let keys = rows.keys.iter().enumerate();
        let truth = keys.map(|(row, key)| (key.clone(), rows.row(row).to_vec()));
        let mut served = Self {
            truth: truth.collect(),
            indexes: LakeIndexes::new(
                staging,
                lake.folder.path().join("cache"),
                lake.buckets,
                Arc::new(lake.engine),
                hash,
            ),
            _folder: lake.folder,
            catalog,
            rows,
        };
        served.ask(&CatalogCommand::DefineIndex(DefineIndex {
            slo: None,
            index: "idx".to_owned(),
            spec: IndexSpec {
                source: "notes".to_owned(),
                key: "id".into(),
                text: TextSpec::Columns(vec!["body".to_owned()]),
                vector_column: Some("v".to_owned()),
                chunk: None,
                provider: "column".to_owned(),
                model: "v".to_owned(),
                dimensions: u32::try_from(DIMENSIONS).unwrap(),
                backend,
                config: IndexConfig::default(),
                bucket: "primary".to_owned(),
            },
        }));
        served.build().await;
        served
    }

    fn ask(&mut self, command: &CatalogCommand) {
        let stamp = Stamp {
            at: 1,
            id: format!("job-{}", self.catalog.seq),
            actor: actor(),
        };
        for event in self.catalog.state.decide(command, &stamp).unwrap() {
            self.catalog.seq += 1;
            let meta = Meta {
                seq: self.catalog.seq,
                at: 1,
                actor: &actor(),
            };
            self.catalog.state.apply(meta, &event);
        }
    }

    fn index(&self) -> Arc<lakehouse_journal::model::catalog::Index> {
        Arc::clone(&self.catalog.state.indexes["idx"])
    }

    fn snapshot(&self) -> Arc<Fold<CatalogState>> {
        let mut catalog: Fold<CatalogState> = Fold::default();
        catalog.state = self.catalog.state.clone();
        catalog.seq = self.catalog.seq;
        Arc::new(catalog)
    }

    /// Carries out the build that is due.
    async fn build(&mut self) {
        let index = self.index();
        let (generation, job) = index.building.clone().unwrap();
        let progress = Arc::new(Progress::default());
        let task = BuildTask {
            snapshot: self.snapshot(),
            index,
            generation,
            job: job.clone(),
        };
        let source_seq = task.snapshot.seq;
        let built = self.indexes.build(task, progress).await.unwrap();
        self.ask(&CatalogCommand::CommitGeneration(CommitGeneration {
            index: "idx".to_owned(),
            generation,
            job,
            source_seq,
            prefix: built.prefix,
            files: built.files,
            vectors: built.vectors,
            rows: built.rows,
            skipped: built.skipped,
            reused: built.reused,
            changed: built.changed,
            making: Some(Box::new(built.making)),
            build_ms: 1,
            trial: None,
            rows_seq: built.rows_seq,
            folded_through: built.folded_through,
        }));
    }

    async fn ride(&mut self, rows: DeltaRows) {
        for key in &rows.removed {
            self.truth.remove(key);
        }
        for (key, vector) in rows.keys.iter().zip(rows.vectors.chunks(DIMENSIONS)) {
            self.truth.insert(key.clone(), vector.to_vec());
        }
        let index = self.index();
        let file = self.indexes.write_delta(&index, rows).await.unwrap();
        self.ask(&CatalogCommand::CommitIndexDelta(CommitIndexDelta {
            dataset: "notes".to_owned(),
            source_seq: self.catalog.seq,
            deltas: vec![IndexDelta {
                index: "idx".to_owned(),
                generation: index.live.unwrap(),
                file: Some(file),
            }],
        }));
    }

    fn delete(&mut self, row: u32) {
        let key = self.rows.keys[row as usize].clone();
        self.truth.remove(&key);
        let file = self.catalog.state.datasets["notes"].files[0]
            .entry
            .key
            .clone();
        self.ask(&CatalogCommand::TombstoneRows(TombstoneRows {
            dataset: "notes".to_owned(),
            read_seq: self.catalog.seq,
            rows: vec![key],
            deleted: vec![DeletedRows {
                file,
                positions: [row].into_iter().collect::<DeletionVector>(),
            }],
            missing: Vec::new(),
            reason: "asked".to_owned(),
            on_behalf_of: None,
        }));
    }

    fn session(&self) -> QuerySession {
        let state = Arc::new(self.catalog.state.clone());
        let tables = SessionTables::all(state, self.catalog.seq);
        self.indexes.query.session(tables)
    }

    async fn search(&self, request: &Wanted<'_>) -> Result<Searched, PortError> {
        let session = || self.session();
        let request = request.through(Sight::of_all("notes", &session));
        let index = self.index();
        self.indexes.search(&self.catalog, &index, &request).await
    }

    async fn found(&self, request: &Wanted<'_>) -> Vec<String> {
        let found = self.search(request).await;
        found.unwrap().hits.into_iter().map(|hit| hit.key).collect()
    }

    /// Keys of the true nearest among those that pass.
    fn nearest(&self, query: &[f32], k: usize, passes: impl Fn(&str) -> bool) -> Vec<String> {
        let cosine = |row: &[f32]| {
            let dot: f64 = query.iter().zip(row).map(|(a, b)| f64::from(a * b)).sum();
            let norm: f64 = row.iter().map(|x| f64::from(x * x)).sum();
            dot / norm.sqrt()
        };
        let rows = self.truth.iter().filter(|(key, _)| passes(key));
        let mut all: Vec<(f64, &String)> = rows.map(|(key, row)| (cosine(row), key)).collect();
        all.sort_by(|a, b| b.0.total_cmp(&a.0));
        all.iter().take(k).map(|(_, key)| (*key).clone()).collect()
    }

    /// Searches like a comparison of every row, over some queries.
    async fn assert_true(&self) {
        let (mut right, mut all) = (0, 0);
        for query in self.rows.queries(20) {
            let truth = self.nearest(&query, 10, |_| true);
            let mut request = by_vector(&query, 10);
            let found = self.found(&request).await;
            assert_eq!(found.len(), truth.len());
            right += found.iter().filter(|key| truth.contains(key)).count();
            all += truth.len();
            request.exact = true;
            assert_eq!(self.found(&request).await, truth);
        }
        assert!(right * 100 >= all * 98, "{right} of {all}");
    }
}

/// A request without the one who asks.
struct Wanted<'a> {
    query: SearchQuery<'a>,
    mode: SearchMode,
    k: usize,
    filter: Option<&'a str>,
    exact: bool,
}

impl<'a> Wanted<'a> {
    fn through(&self, sight: Sight<'a>) -> SearchRequest<'a> {
        SearchRequest {
            query: self.query,
            mode: self.mode,
            k: self.k,
            filter: self.filter,
            ef_search: None,
            exact: self.exact,
            sight,
        }
    }
}

fn by_vector(query: &[f32], k: usize) -> Wanted<'_> {
    Wanted {
        query: SearchQuery::Vector(query),
        mode: SearchMode::Vector,
        k,
        filter: None,
        exact: false,
    }
}

fn by_words(query: &str, mode: SearchMode) -> Wanted<'_> {
    Wanted {
        query: SearchQuery::Text(query),
        mode,
        ..by_vector(&[], 10)
    }
}

fn local(served: &Served) -> Arc<crate::engines::object_store::DurableLocal> {
    let bucket = served.indexes.buckets.get("primary").unwrap();
    bucket.local.clone().unwrap()
}

/// New rows beside old ones, some old ones elsewhere, some gone.
fn changes(rows: &Rows) -> DeltaRows {
    let mut random = Random(7);
    let keys: Vec<String> = (0..100).map(|row| format!("new-{row}")).collect();
    let keys: Vec<String> = keys
        .into_iter()
        .chain(rows.keys[..50].iter().cloned())
        .collect();
    let near = |random: &mut Random| {
        let row = rows.row(random.below(ROWS));
        row.iter().map(|x| x * 1.1 + 0.01).collect::<Vec<f32>>()
    };
    DeltaRows {
        chunks: Vec::new(),
        texts: keys.iter().map(|key| format!("emerald {key}")).collect(),
        vectors: keys.iter().flat_map(|_| near(&mut random)).collect(),
        keys,
        removed: rows.keys[50..80].to_vec(),
    }
}

async fn deltas_deletions_and_folds(backend: Backend) {
    let mut served = Served::on(backend).await;
    served.assert_true().await;
    let change = changes(&served.rows);
    served.ride(change).await;
    served.assert_true().await;
    // A second one changes the first: the newest row of a key answers.
    let again = DeltaRows {
        keys: vec!["new-1".to_owned()],
        texts: vec!["topaz".to_owned()],
        chunks: Vec::new(),
        vectors: served.rows.row(9).to_vec(),
        removed: vec!["new-2".to_owned(), served.rows.keys[1].clone()],
    };
    served.ride(again).await;
    served.delete(100);
    served.delete(2);
    served.assert_true().await;
    let all = served.found(&by_vector(served.rows.row(0), HITS_MAX)).await;
    let mut keys = all.clone();
    keys.sort();
    keys.dedup();
    assert_eq!(
        (all.len(), keys.len()),
        (served.truth.len(), served.truth.len())
    );
    fold(&mut served).await;
}

/// A fold embeds nothing and answers the same, without the rows that are gone.
async fn fold(served: &mut Served) {
    let mut index = served.index().as_ref().clone();
    index.building = Some((2, "fold".to_owned()));
    index.folding = true;
    served
        .catalog
        .state
        .indexes
        .insert("idx".to_owned(), Arc::new(index));
    served.build().await;
    let index = served.index();
    let live = index.live_generation().unwrap();
    assert_eq!((live.generation, live.deltas.len()), (2, 0));
    assert_eq!(live.vectors, served.truth.len() as u64);
    served.assert_true().await;
    let query = by_words("topaz", SearchMode::Text);
    assert_eq!(served.found(&query).await, ["new-1"]);
}

async fn filters(backend: Backend) {
    let mut served = Served::on(backend).await;
    let removed = served.rows.keys[2_990..].to_vec();
    let keys = vec![served.rows.keys[0].clone()];
    let vectors = served.rows.row(2_995).to_vec();
    served
        .ride(DeltaRows {
            texts: vec!["emerald".to_owned()],
            chunks: Vec::new(),
            keys,
            vectors,
            removed,
        })
        .await;
    for (filter, share) in [
        ("nr >= 0", 3_000),
        ("nr < 1500", 1_500),
        ("nr < 300", 300),
        ("nr < 30", 30),
        ("nr < 3", 3),
    ] {
        let passes = |key: &str| key[4..].parse::<usize>().unwrap() < share;
        let (mut right, mut all) = (0, 0);
        for query in served.rows.queries(20) {
            let truth = served.nearest(&query, 10, passes);
            let request = Wanted {
                filter: Some(filter),
                ..by_vector(&query, 10)
            };
            let found = served.found(&request).await;
            assert_eq!(found.len(), truth.len(), "{filter}");
            assert!(found.iter().all(|key| passes(key)), "{filter}");
            right += found.iter().filter(|key| truth.contains(key)).count();
            all += truth.len();
        }
        assert!(right * 100 >= all * 99, "{right} of {all} where {filter}");
    }
}

async fn words_and_meaning(backend: Backend) {
    let mut served = Served::on(backend).await;
    let text = served
        .found(&by_words("number17 lantern", SearchMode::Text))
        .await;
    assert_eq!(text[0], "key-17", "its word is the rarest: {text:?}");
    assert_eq!(text.len(), 10);
    let change = changes(&served.rows);
    served.ride(change).await;
    let emerald = served.found(&by_words("emerald", SearchMode::Text)).await;
    assert_eq!(emerald.len(), 10, "of the delta: {emerald:?}");
    assert!(
        served
            .found(&by_words("number1", SearchMode::Text))
            .await
            .is_empty()
    );
    served.delete(200);
    let gone = served.found(&by_words("number200", SearchMode::Text)).await;
    assert!(gone.is_empty(), "{gone:?}");
    let filtered = Wanted {
        filter: Some("nr < 300"),
        ..by_words("basalt", SearchMode::Text)
    };
    let found = served.found(&filtered).await;
    assert_eq!(found.len(), 10);
    assert!(
        found
            .iter()
            .all(|key| key[4..].parse::<usize>().unwrap() < 300)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn deltas_deletions_and_folds_answer_like_a_comparison_on_usearch() {
    deltas_deletions_and_folds(Backend::Hnsw).await;
}

#[cfg(feature = "lance")]
#[tokio::test(flavor = "multi_thread")]
async fn deltas_deletions_and_folds_answer_like_a_comparison_on_lance() {
    deltas_deletions_and_folds(Backend::Lance).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_lets_few_or_many_through_gives_k_hits_on_usearch() {
    filters(Backend::Hnsw).await;
}

#[cfg(feature = "lance")]
#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_lets_few_or_many_through_gives_k_hits_on_lance() {
    filters(Backend::Lance).await;
}

#[cfg(feature = "lance")]
#[tokio::test(flavor = "multi_thread")]
async fn words_are_found_in_generations_and_deltas_on_both_engines() {
    words_and_meaning(Backend::Hnsw).await;
    words_and_meaning(Backend::Lance).await;
}
