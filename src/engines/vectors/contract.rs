//! What every vector engine promises, as tests: each engine's own test module runs all of them.
//! Truth is computed here, in f64 and one row at a time, by nothing that an engine uses.

use std::path::Path;

use roaring::RoaringBitmap;
use tempfile::TempDir;

use super::*;

#[expect(clippy::cast_precision_loss, reason = "24 bits fit an f32")]
fn unit(bits: u64) -> f32 {
    (bits >> 40) as f32 / 16_777_216.0
}

pub const DIMENSIONS: usize = 128;
pub const ROWS: usize = 10_000;

/// An engine as the suite drives it.
pub trait Engine: Sized + Send + Sync + 'static {
    /// Builds in `dir` with the engine's own approximate kind of index for this many rows.
    fn build(
        dir: &Path,
        rows: &Rows,
        metric: Metric,
        options: BuildOptions,
    ) -> Result<Built, VectorError>;
    fn open(dir: &Path, files: &[FileDigest]) -> Result<Self, VectorError>;
    fn len(&self) -> u64;
    fn search(&self, query: &[f32], k: usize, visible: Visible) -> Result<Found, VectorError>;
    fn search_exact(&self, query: &[f32], k: usize, visible: Visible)
    -> Result<Found, VectorError>;
    /// Slot, vector and text of a key.
    fn row(&self, key: &str) -> Option<(u64, Vec<f32>, Option<String>)>;
    /// A built and open index of [`Rows::clustered`], made once.
    fn fixture() -> &'static Fixture<Self>;
}

/// Rows to build from.
#[derive(Clone)]
pub struct Rows {
    pub dimensions: usize,
    pub keys: Vec<String>,
    pub texts: Vec<String>,
    pub vectors: Vec<f32>,
}

impl Rows {
    /// Points around 200 centres, the same on every run.
    pub fn clustered(rows: usize, dimensions: usize) -> Self {
        let mut random = Random(0x5eed);
        let centres: Vec<f32> = (0..200 * dimensions).map(|_| random.normal()).collect();
        let vectors = (0..rows)
            .flat_map(|_| random.around(&centres, dimensions))
            .collect();
        let name = |prefix: &str| (0..rows).map(|row| format!("{prefix}{row}")).collect();
        Self {
            dimensions,
            keys: name("key-"),
            texts: name("text of "),
            vectors,
        }
    }

    pub fn empty() -> Self {
        Self {
            dimensions: DIMENSIONS,
            keys: Vec::new(),
            texts: Vec::new(),
            vectors: Vec::new(),
        }
    }

    /// Points between two rows each: near the set, and in none of it.
    pub fn queries(&self, count: usize) -> Vec<Vec<f32>> {
        let mut random = Random(0x9e37);
        let mut row = || self.row(random.below(self.keys.len())).to_vec();
        let between = |(a, b): (Vec<f32>, Vec<f32>)| {
            a.iter().zip(&b).map(|(a, b)| a * 0.8 + b * 0.2).collect()
        };
        (0..count).map(|_| between((row(), row()))).collect()
    }

    pub fn row(&self, row: usize) -> &[f32] {
        &self.vectors[row * self.dimensions..(row + 1) * self.dimensions]
    }

    pub fn chunks(&self) -> impl Iterator<Item = Chunk<'_>> {
        let vectors = self.vectors.chunks(999 * self.dimensions);
        let parts = self
            .keys
            .chunks(999)
            .zip(self.texts.chunks(999))
            .zip(vectors);
        parts.map(|((keys, texts), vectors)| Chunk {
            keys,
            texts: Some(texts),
            vectors,
        })
    }

    /// Keys of the `k` nearest visible rows, by the metric's definition.
    pub fn truth(&self, metric: Metric, query: &[f32], k: usize, visible: Visible) -> Vec<String> {
        let mut all: Vec<(f64, usize)> = (0..self.keys.len())
            .filter(|&row| visible.allows(row as u64))
            .map(|row| (defined(metric, query, self.row(row)), row))
            .collect();
        all.sort_by(|a, b| a.0.total_cmp(&b.0));
        all.iter()
            .take(k)
            .map(|&(_, row)| self.keys[row].clone())
            .collect()
    }
}

fn defined(metric: Metric, a: &[f32], b: &[f32]) -> f64 {
    let sum = |term: fn(f64, f64) -> f64| {
        a.iter()
            .zip(b)
            .map(|(&a, &b)| term(a.into(), b.into()))
            .sum::<f64>()
    };
    let dot = sum(|a, b| a * b);
    match metric {
        Metric::Cosine => 1.0 - dot / (sum(|a, _| a * a).sqrt() * sum(|_, b| b * b).sqrt()),
        Metric::Dot => 1.0 - dot,
        Metric::L2 => sum(|a, b| (a - b) * (a - b)),
    }
}

/// `SplitMix64`: the tests' own numbers, the same for ever.
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }

    fn normal(&mut self) -> f32 {
        (0..12).map(|_| unit(self.next())).sum::<f32>() - 6.0
    }

    fn around(&mut self, centres: &[f32], dimensions: usize) -> Vec<f32> {
        let centre = self.below(centres.len() / dimensions) * dimensions;
        centres[centre..centre + dimensions]
            .iter()
            .map(|value| value + 0.5 * self.normal())
            .collect()
    }
}

/// An index that many tests only read.
pub struct Fixture<E> {
    pub rows: Rows,
    pub dir: TempDir,
    pub built: Built,
    pub index: E,
}

impl<E: Engine> Fixture<E> {
    pub fn build(rows: Rows, metric: Metric) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let built = E::build(dir.path(), &rows, metric, BuildOptions::default()).unwrap();
        let index = E::open(dir.path(), &built.files).unwrap();
        Self {
            rows,
            dir,
            built,
            index,
        }
    }
}

fn keys(found: &Found) -> Vec<String> {
    found.hits.iter().map(|hit| hit.key.clone()).collect()
}

/// The share of the true nearest that was found, over all queries.
fn recall<E: Engine>(
    fixture: &Fixture<E>,
    metric: Metric,
    queries: usize,
    k: usize,
    visible: Visible,
) -> f64 {
    let mut right = 0;
    for query in fixture.rows.queries(queries) {
        let truth = fixture.rows.truth(metric, &query, k, visible);
        let found = fixture.index.search(&query, k, visible).unwrap();
        assert_eq!(found.hits.len(), truth.len());
        assert!(
            found.hits.iter().all(|hit| visible.allows(hit.slot)),
            "a hidden row was found"
        );
        right += keys(&found)
            .iter()
            .filter(|key| truth.contains(key))
            .count();
    }
    share(right, queries * k)
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn share(part: usize, whole: usize) -> f64 {
    part as f64 / whole as f64
}

pub fn recall_at_10_is_at_least_99_of_100<E: Engine>() {
    let recall = recall(E::fixture(), Metric::Cosine, 100, 10, Visible::All);
    assert!(recall >= 0.99, "{recall}");
}

pub fn an_unfiltered_search_of_many_rows_is_not_a_scan<E: Engine>() {
    let fixture = E::fixture();
    let found = fixture
        .index
        .search(&fixture.rows.queries(1)[0], 10, Visible::All)
        .unwrap();
    assert_eq!(found.path, SearchPath::Ann);
}

pub fn an_exact_search_finds_the_truth_with_true_distances<E: Engine>() {
    let Fixture { rows, index, .. } = E::fixture();
    let odd = |slot: u64| slot % 2 == 1;
    for query in rows.queries(5) {
        for visible in [Visible::All, Visible::Where(&odd)] {
            let found = index.search_exact(&query, 25, visible).unwrap();
            assert_eq!(
                (keys(&found), found.path),
                (
                    rows.truth(Metric::Cosine, &query, 25, visible),
                    SearchPath::Exact
                )
            );
        }
    }
    let query = &rows.queries(1)[0];
    for hit in index.search(query, 25, Visible::All).unwrap().hits {
        let row = rows.keys.iter().position(|key| *key == hit.key).unwrap();
        let truth = defined(Metric::Cosine, query, rows.row(row));
        assert!(
            (f64::from(hit.distance) - truth).abs() < 1e-6,
            "{hit:?}, {truth}"
        );
        assert!((hit.score + hit.distance - 1.0).abs() < 1e-6);
    }
}

pub fn hidden_rows_are_never_found_and_k_hits_always_are<E: Engine>() {
    let fixture = E::fixture();
    for percent in [100.0, 99.9, 50.0, 10.0, 1.0, 0.1] {
        let shown: RoaringBitmap = (0..u32::try_from(ROWS).unwrap())
            .filter(|&slot| pick(slot) < percent)
            .collect();
        let hidden: RoaringBitmap = (0..u32::try_from(ROWS).unwrap())
            .filter(|slot| !shown.contains(*slot))
            .collect();
        let test = |slot: u64| shown.contains(u32::try_from(slot).unwrap());
        for visible in [
            Visible::Only(&shown),
            Visible::Except(&hidden),
            Visible::Where(&test),
        ] {
            let recall = recall(fixture, Metric::Cosine, 10, 10, visible);
            let expected = share(usize::try_from(shown.len()).unwrap(), 10).min(1.0);
            assert!(recall >= expected - 0.01, "{recall} at {percent} %");
        }
    }
}

/// A number from 0 to 100 for a slot, in step with nothing.
fn pick(slot: u32) -> f64 {
    f64::from(slot.wrapping_mul(2_654_435_761)) / f64::from(u32::MAX) * 100.0
}

pub fn every_k_is_answered<E: Engine>() {
    let Fixture { rows, index, .. } = E::fixture();
    let query = &rows.queries(1)[0];
    for k in [0, 1, 129, 3_000, ROWS, ROWS + 1, usize::MAX] {
        let found = index.search(query, k, Visible::All).unwrap();
        assert_eq!(found.hits.len(), k.min(ROWS));
        assert!(found.hits.is_sorted_by(|a, b| a.distance <= b.distance));
        let slots: RoaringBitmap = found
            .hits
            .iter()
            .map(|hit| u32::try_from(hit.slot).unwrap())
            .collect();
        assert_eq!(
            slots.len(),
            found.hits.len() as u64,
            "a row was found twice"
        );
    }
    let nothing = RoaringBitmap::new();
    assert!(
        index
            .search(query, 10, Visible::Only(&nothing))
            .unwrap()
            .hits
            .is_empty()
    );
    assert!(
        index
            .search(query, 10, Visible::Where(&|_| false))
            .unwrap()
            .hits
            .is_empty()
    );
    let last = |slot: u64| slot == ROWS as u64 - 1;
    assert_eq!(
        index
            .search(query, 10, Visible::Where(&last))
            .unwrap()
            .hits
            .len(),
        1
    );
}

pub fn rows_come_back_by_key_as_they_were<E: Engine>() {
    let Fixture { rows, index, .. } = E::fixture();
    assert_eq!(index.len(), ROWS as u64);
    for row in [0, 1, 998, 999, 5_000, ROWS - 1] {
        let (slot, vector, text) = index.row(&rows.keys[row]).unwrap();
        assert!(slot < ROWS as u64);
        assert_eq!(
            (vector.as_slice(), text.as_deref()),
            (rows.row(row), Some(rows.texts[row].as_str()))
        );
    }
    assert_eq!(index.row("key-"), None);
    assert_eq!(index.row("it's \"quoted\""), None);
}

pub fn an_index_opened_again_answers_the_same<E: Engine>() {
    let Fixture {
        rows,
        dir,
        built,
        index,
    } = E::fixture();
    let again = E::open(dir.path(), &built.files).unwrap();
    for query in rows.queries(20) {
        assert_eq!(
            index.search(&query, 10, Visible::All).unwrap(),
            again.search(&query, 10, Visible::All).unwrap()
        );
    }
}

pub fn bad_queries_are_refused<E: Engine>() {
    let index = &E::fixture().index;
    let mut query = vec![0.1; DIMENSIONS];
    assert!(matches!(
        index.search(&query[1..], 1, Visible::All),
        Err(VectorError::Dimensions { .. })
    ));
    query[3] = f32::NAN;
    assert!(matches!(
        index.search(&query, 1, Visible::All),
        Err(VectorError::NotFinite { position: 3, .. })
    ));
    let zero = vec![0.0; DIMENSIONS];
    assert!(matches!(
        index.search_exact(&zero, 1, Visible::All),
        Err(VectorError::Zero { .. })
    ));
}

pub fn an_index_of_no_rows_answers_with_none<E: Engine>() {
    let fixture = Fixture::<E>::build(Rows::empty(), Metric::Cosine);
    let Fixture { index, built, .. } = &fixture;
    let query = vec![1.0; DIMENSIONS];
    assert_eq!((index.len(), built.stats.vectors), (0, 0));
    assert!(
        index
            .search(&query, 10, Visible::All)
            .unwrap()
            .hits
            .is_empty()
    );
    assert!(
        index
            .search_exact(&query, 10, Visible::All)
            .unwrap()
            .hits
            .is_empty()
    );
    assert_eq!(index.row("key-0"), None);
}

pub fn few_rows_are_answered_whole<E: Engine>() {
    let fixture = Fixture::<E>::build(Rows::clustered(3, DIMENSIONS), Metric::L2);
    let Fixture { index, rows, .. } = &fixture;
    let query = &rows.queries(1)[0];
    assert_eq!(
        keys(&index.search(query, 10, Visible::All).unwrap()),
        rows.truth(Metric::L2, query, 3, Visible::All)
    );
}

pub fn the_other_metrics_find_their_nearest_too<E: Engine>() {
    for metric in [Metric::Dot, Metric::L2] {
        let fixture = Fixture::<E>::build(Rows::clustered(4_000, 32), metric);
        let recall = recall(&fixture, metric, 50, 10, Visible::All);
        assert!(recall >= 0.98, "{recall} for {metric:?}");
    }
}

pub fn a_changed_byte_in_any_file_and_it_is_not_opened<E: Engine>() {
    let rows = Rows::clustered(300, DIMENSIONS);
    let Fixture {
        dir, built, index, ..
    } = Fixture::<E>::build(rows, Metric::Cosine);
    drop(index);
    for file in &built.files {
        let path = dir.path().join(&file.name);
        let whole = std::fs::read(&path).unwrap();
        // No search reads the rows as other engines do: they are checked by their size.
        let looked_into = file.name != "vectors.parquet";
        for at in [0, whole.len() / 2, whole.len() - 1]
            .into_iter()
            .filter(|_| looked_into)
        {
            let mut changed = whole.clone();
            changed[at] ^= 0x10;
            std::fs::write(&path, &changed).unwrap();
            let error = E::open(dir.path(), &built.files).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
            assert!(error.to_string().contains(&file.name), "{error}");
        }
        std::fs::write(&path, &whole[1..]).unwrap();
        assert!(E::open(dir.path(), &built.files).is_err());
        std::fs::remove_file(&path).unwrap();
        assert!(E::open(dir.path(), &built.files).is_err());
        std::fs::write(&path, &whole).unwrap();
        let without: Vec<FileDigest> = built
            .files
            .iter()
            .filter(|other| *other != file)
            .cloned()
            .collect();
        let is_missed = E::open(dir.path(), &without).is_err();
        assert!(is_missed, "{} is not missed", file.name);
    }
    let more = FileDigest {
        name: "../elsewhere".to_owned(),
        bytes: 0,
        blake3: String::new(),
    };
    let more: Vec<FileDigest> = built.files.iter().cloned().chain([more]).collect();
    assert!(E::open(dir.path(), &more).is_err());
    assert!(E::open(dir.path(), &built.files).is_ok());
}

pub fn a_repeated_key_is_refused_or_the_last_row_wins<E: Engine>() {
    let mut rows = Rows::clustered(1_500, DIMENSIONS);
    rows.keys[1_200] = "key-7".to_owned();
    let dir = tempfile::tempdir().unwrap();
    let error = E::build(dir.path(), &rows, Metric::Cosine, BuildOptions::default()).unwrap_err();
    assert_eq!(
        (error.to_string().as_str(), error.kind()),
        ("key `key-7` occurs twice", ErrorKind::Conflict)
    );
    let dir = tempfile::tempdir().unwrap();
    let options = BuildOptions {
        duplicates: Duplicates::LastWins,
        ..BuildOptions::default()
    };
    let built = E::build(dir.path(), &rows, Metric::Cosine, options).unwrap();
    let index = E::open(dir.path(), &built.files).unwrap();
    assert_eq!((index.len(), built.stats.vectors), (1_499, 1_499));
    let (_, vector, text) = index.row("key-7").unwrap();
    assert_eq!(
        (vector.as_slice(), text.as_deref()),
        (rows.row(1_200), Some("text of 1200"))
    );
    for row in [6, 8, 1_199, 1_201, 1_499] {
        assert_eq!(index.row(&rows.keys[row]).unwrap().1, rows.row(row));
    }
    for file in &built.files {
        let content = std::fs::read(dir.path().join(&file.name)).unwrap();
        assert!(
            !content.windows(10).any(|part| part == b"text of 7t"),
            "the replaced text is still in {}",
            file.name
        );
    }
}

pub fn bad_rows_are_refused_by_key<E: Engine>() {
    let mut rows = Rows::clustered(10, DIMENSIONS);
    rows.vectors[3 * DIMENSIONS + 5] = f32::INFINITY;
    let dir = tempfile::tempdir().unwrap();
    let error = E::build(dir.path(), &rows, Metric::Cosine, BuildOptions::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "vector of key `key-3` holds a number that is not finite at position 5"
    );
}

pub fn a_build_stops_when_told<E: Engine>() {
    let rows = Rows::clustered(2_000, DIMENSIONS);
    let options = BuildOptions::default();
    let stop = options.cancel.clone();
    let progress: Progress = Arc::new(move |_, _| stop.store(true, Ordering::Relaxed));
    let options = BuildOptions {
        progress: Some(progress),
        ..options
    };
    let dir = tempfile::tempdir().unwrap();
    let error = E::build(dir.path(), &rows, Metric::Cosine, options).unwrap_err();
    assert!(matches!(error, VectorError::Cancelled), "{error}");
}

pub fn many_threads_search_at_once<E: Engine>() {
    let Fixture { rows, index, .. } = E::fixture();
    let queries = rows.queries(4);
    let expected: Vec<Found> = queries
        .iter()
        .map(|query| index.search(query, 10, Visible::All).unwrap())
        .collect();
    std::thread::scope(|scope| {
        for thread in 0..48 {
            let (query, expected) = (&queries[thread % 4], &expected[thread % 4]);
            scope.spawn(move || {
                for _ in 0..5 {
                    assert_eq!(index.search(query, 10, Visible::All).unwrap(), *expected);
                }
            });
        }
    });
}

pub fn rows_of_one_vector_are_all_found_and_hide_nothing_behind_them<E: Engine>() {
    let mut rows = Rows::clustered(6_000, 32);
    let heap = rows.row(0).to_vec();
    for row in (0..6_000).filter(|row| row % 3 == 0) {
        rows.vectors[row * 32..(row + 1) * 32].copy_from_slice(&heap);
    }
    let fixture = Fixture::<E>::build(rows, Metric::Cosine);
    let Fixture { index, rows, .. } = &fixture;
    let found = index.search(&heap, 1_999, Visible::All).unwrap();
    let slots: Vec<u64> = found.hits.iter().map(|hit| hit.slot).collect();
    assert_eq!(
        slots,
        (0..1_999).map(|index| index * 3).collect::<Vec<u64>>()
    );
    let hidden: RoaringBitmap = (0..6_000)
        .filter(|row| row % 3 == 0 && *row != 2_997)
        .collect();
    let found = index.search(&heap, 10, Visible::Except(&hidden)).unwrap();
    assert_eq!(
        keys(&found),
        rows.truth(Metric::Cosine, &heap, 10, Visible::Except(&hidden))
    );
    assert_eq!(found.hits[0].slot, 2_997);
    let queries = rows.queries(50);
    let right = queries.iter().map(|query| {
        let distance = rows
            .truth(Metric::Cosine, query, 10, Visible::All)
            .last()
            .cloned()
            .unwrap();
        let row = rows.keys.iter().position(|key| *key == distance).unwrap();
        let edge = defined(Metric::Cosine, query, rows.row(row)) + 1e-6;
        index
            .search(query, 10, Visible::All)
            .unwrap()
            .hits
            .iter()
            .filter(|hit| f64::from(hit.distance) <= edge)
            .count()
    });
    assert!(right.sum::<usize>() >= 495);
}
