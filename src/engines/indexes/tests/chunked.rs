//! Rows of many vectors, on both engines, in a generation and in a delta: each is found once, by the
//! nearest of its vectors, and hidden with all of them.

use std::{collections::HashSet, ops::Range};

use lakehouse_actors::ports::ChunkSpan;
use lakehouse_journal::model::catalog::Chunker;
use roaring::RoaringBitmap;

use super::*;
use crate::engines::{
    indexes::{builder::Builder, chunks::NearRows, open::open_engine, source, text::LazyText},
    lance::text::TEXTS,
    vectors::{BuildOptions, FileDigest, at_rest::RowsAtRest, spans::CHUNKS_FILE, spans::Spans},
};

const VECTORS: usize = 4_000;
/// How many vectors rows have, one after the other.
const COUNTS: [usize; 7] = [1, 2, 1, 20, 3, 1, 90];

/// Rows of many vectors, and what is held of them.
struct Long {
    _dir: TempDir,
    live: Live,
    vectors: Rows,
    /// The vectors of each row.
    rows: Vec<Range<usize>>,
}

fn spans_of(rows: &[Range<usize>]) -> Vec<ChunkSpan> {
    let of_row = |(row, vectors): (usize, &Range<usize>)| {
        let row = u32::try_from(row).unwrap();
        let numbers = 0..u32::try_from(vectors.len()).unwrap();
        numbers.map(move |number| ChunkSpan {
            row,
            number,
            start: number * 5,
            end: number * 5 + 9,
        })
    };
    rows.iter().enumerate().flat_map(of_row).collect()
}

fn key(row: usize) -> String {
    format!("row-{row}")
}

impl Long {
    async fn on(backend: Backend) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let vectors = Rows::clustered(VECTORS, DIMENSIONS);
        let mut rows = Vec::new();
        let mut start = 0;
        while start < VECTORS {
            let end = (start + COUNTS[rows.len() % COUNTS.len()]).min(VECTORS);
            rows.push(start..end);
            start = end;
        }
        let config = IndexConfig::default();
        let spec = IndexSpec {
            source: "notes".to_owned(),
            key: "id".into(),
            text: TextSpec::Columns(vec!["body".to_owned()]),
            vector_column: None,
            chunk: Some(Chunker {
                tokens: 8,
                overlap: 0,
            }),
            provider: "p".to_owned(),
            model: "m".to_owned(),
            dimensions: u32::try_from(DIMENSIONS).unwrap(),
            backend,
            config: config.clone(),
            bucket: "primary".to_owned(),
        };
        let builder = Builder::new(dir.path(), &spec, &config, BuildOptions::default()).unwrap();
        let fed = source::Rows {
            keys: (0..rows.len()).map(key).collect(),
            texts: Some((0..rows.len()).map(words).collect()),
            vectors: vectors.vectors.clone(),
            chunks: spans_of(&rows),
            skipped: 0,
        };
        let built = builder.add(fed).await.unwrap().finish().await.unwrap();
        assert_eq!(
            (built.vectors, built.rows),
            (VECTORS as u64, Some(rows.len() as u64))
        );
        let (mut own, mut texts): (Vec<FileDigest>, Vec<FileDigest>) = Default::default();
        for (_, file) in built.files {
            match file.name.split('/').next() {
                Some(CHUNKS_FILE) => {}
                Some(TEXTS) => texts.push(file),
                _ => own.push(file),
            }
        }
        let place = dir.path().join("vectors");
        let opened = open_engine(backend, place, own).await.unwrap();
        let file = std::fs::File::open(dir.path().join(CHUNKS_FILE)).unwrap();
        let base = Base {
            chunks: Some(Spans::read(file, opened.index.rows()).unwrap()),
            index: opened.index,
            hnsw: opened.hnsw,
            source_seq: 1,
            text: LazyText::new(dir.path().join("texts"), texts),
        };
        Self {
            live: Live::new(1, Arc::new(base), 1),
            _dir: dir,
            vectors,
            rows,
        }
    }

    /// Keys of the true nearest of the rows that pass, each by its nearest vector.
    fn nearest(&self, query: &[f32], k: usize, passes: impl Fn(usize) -> bool) -> Vec<String> {
        let cosine = |row: &[f32]| {
            let dot: f64 = query.iter().zip(row).map(|(a, b)| f64::from(a * b)).sum();
            let norm: f64 = row.iter().map(|x| f64::from(x * x)).sum();
            dot / norm.sqrt()
        };
        let best = |vectors: &Range<usize>| {
            let all = vectors.clone().map(|at| cosine(self.vectors.row(at)));
            all.fold(f64::MIN, f64::max)
        };
        let rows = self.rows.iter().enumerate().filter(|(row, _)| passes(*row));
        let mut all: Vec<(f64, usize)> = rows.map(|(row, vectors)| (best(vectors), row)).collect();
        all.sort_by(|a, b| b.0.total_cmp(&a.0));
        all.iter().take(k).map(|(_, row)| key(*row)).collect()
    }

    async fn found(&self, query: &[f32], k: usize, exact: bool, shown: &Shown) -> NearRows {
        let found = self.live.nearest(query, k, None, exact, shown).await;
        found.unwrap()
    }

    /// Finds what a comparison of every row finds, and each row once.
    async fn assert_true(&self, shown: &Shown, passes: impl Fn(usize) -> bool) {
        let (mut right, mut all) = (0, 0);
        for query in self.vectors.queries(20) {
            for k in [1, 10, 120] {
                let truth = self.nearest(&query, k, &passes);
                let exact = self.found(&query, k, true, shown).await.hits;
                let mut exact: Vec<String> = exact.into_iter().map(|hit| hit.key).collect();
                if k <= 10 {
                    assert_eq!(exact, truth);
                }
                let mut sorted = truth.clone();
                sorted.sort();
                exact.sort();
                assert_eq!(exact, sorted);
                let found = self.found(&query, k, false, shown).await.hits;
                let once: HashSet<&String> = found.iter().map(|hit| &hit.key).collect();
                assert_eq!((found.len(), once.len()), (truth.len(), truth.len()));
                right += truth.iter().filter(|key| once.contains(key)).count();
                all += truth.len();
                let chunk = found[0].chunk.unwrap();
                assert_eq!(
                    (chunk.start, chunk.end),
                    (chunk.number * 5, chunk.number * 5 + 9)
                );
            }
        }
        assert!(right * 100 >= all * 97, "{right} of {all}");
    }
}

fn slots(live: &Live, rows: impl Iterator<Item = usize>) -> RoaringBitmap {
    let slot = |row: usize| u32::try_from(live.slot_of(&key(row)).unwrap()).unwrap();
    rows.map(slot).collect()
}

async fn rows_of_many_vectors(backend: Backend) {
    let mut long = Long::on(backend).await;
    long.assert_true(&Shown::All, |_| true).await;
    let count = long.rows.len();
    let query = long.vectors.row(100).to_vec();
    let all = long.found(&query, HITS_MAX, false, &Shown::All).await;
    assert_eq!(all.hits.len(), count);
    // The row with most vectors is hidden with all of them, and so is any other.
    let most = long.rows.iter().position(|row| row.contains(&100)).unwrap();
    let hidden = |row: usize| row == most || row % 5 == 2;
    let except = slots(&long.live, (0..count).filter(|row| hidden(*row)));
    let except = Shown::Except(Arc::new(except));
    long.assert_true(&except, |row| !hidden(row)).await;
    let only = slots(&long.live, (0..count).filter(|row| row % 50 == 6));
    let only = Shown::Only(Arc::new(only));
    long.assert_true(&only, |row| row % 50 == 6).await;
    // Words find rows, whatever their vectors are.
    if cfg!(feature = "lance") {
        let found = long.live.matching("number8", 5, &Shown::All).await.unwrap();
        assert_eq!(long.live.key_of(found[0].0), Some("row-8"));
        let found = long.live.matching("number7", 5, &except).await.unwrap();
        assert!(found.is_empty(), "it is hidden");
    }
    // What is held of a row is all of it.
    let slot = long.live.slot_of(&key(3)).unwrap();
    let whole = long.live.whole(&[slot]).await.unwrap().remove(0);
    assert_eq!((whole.key, whole.text), (key(3), Some(words(3))));
    let vectors = long.rows[3].clone().flat_map(|at| long.vectors.row(at));
    assert_eq!(whole.vectors, vectors.copied().collect::<Vec<f32>>());
    assert_eq!(whole.chunks.len(), 20);
    assert_eq!(long.live.rows_of(&Shown::All).len(), count as u64);
    replaced_by_a_delta(&mut long).await;
}

/// A delta replaces some rows, leaves others out and has one more: none of the old vectors answers.
async fn replaced_by_a_delta(long: &mut Long) {
    let count = long.rows.len();
    let newer = [6, 3, 0, count];
    let mut rows = RowsAtRest {
        removed: vec![key(1), key(10)],
        ..RowsAtRest::default()
    };
    let mut ranges = Vec::new();
    for (nth, row) in newer.into_iter().enumerate() {
        // With vectors of others, so that they lie elsewhere.
        let range = nth * 30..nth * 30 + COUNTS[nth];
        rows.keys.push(key(row));
        rows.texts.push(Some(format!("emerald {row}")));
        let numbers = range.clone().flat_map(|at| long.vectors.row(at));
        rows.vectors.extend(numbers);
        if row < count {
            long.rows[row] = range.clone();
        } else {
            long.rows.push(range.clone());
        }
        ranges.push(range);
    }
    rows.chunks = spans_of(&ranges);
    long.live = long.live.with_delta("d".to_owned(), 2, rows);
    let shown = Shown::All.without(long.live.superseded());
    long.assert_true(&shown, |row| row != 1 && row != 10).await;
    let slot = long.live.slot_of(&key(3)).unwrap();
    let whole = long.live.whole(&[slot]).await.unwrap().remove(0);
    assert_eq!(whole.text.unwrap(), "emerald 3");
    assert_eq!(whole.chunks.len(), COUNTS[1]);
    if cfg!(feature = "lance") {
        let found = long.live.matching("emerald", 9, &shown).await.unwrap();
        assert_eq!(found.len(), 4, "one document a row");
    }
    assert_eq!(long.live.rows_of(&shown).len(), count as u64 - 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_of_many_vectors_is_found_once_and_hidden_whole_on_usearch() {
    rows_of_many_vectors(Backend::Hnsw).await;
}

#[cfg(feature = "lance")]
#[tokio::test(flavor = "multi_thread")]
async fn a_row_of_many_vectors_is_found_once_and_hidden_whole_on_lance() {
    rows_of_many_vectors(Backend::Lance).await;
}
