//! Measuring a graph: queries that are no rows, their true nearest rows by brute force on every core,
//! and how many of those a graph finds in what time. `quality` keeps what comes out.

use std::time::Instant;

use lakehouse_journal::model::catalog::Tail;
use serde::{Deserialize, Serialize};

use super::Live;
use crate::engines::vectors::{StoredRow, VectorError, Visible, exact::norm};

/// How far a query is moved off the row that it is drawn from, as a part of the row's length.
const MOVED: f32 = 0.3;

/// Queries and their answers, as they are stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Queries {
    /// Hits of each.
    pub k: usize,
    /// The vectors that are asked for.
    pub vectors: Vec<Vec<f32>>,
    /// The keys of the nearest rows of each, nearest first.
    pub truth: Vec<Vec<String>>,
    /// The keys of the rows that the queries were drawn from.
    pub drawn_from: Vec<String>,
}

/// What a graph did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    /// True rows found, of a million.
    pub recall_ppm: u32,
    /// Medians over the repeats.
    pub latency: Tail,
    /// The quickest and the slowest repeat's median, in nanoseconds.
    pub p50_spread: (u64, u64),
}

impl Queries {
    /// Draws queries from visible rows, and moves each off its row. Also says what the median query
    /// took by brute force, in nanoseconds.
    ///
    /// # Errors
    /// `Config` when there is no visible row to draw from; `Io` or `Engine`.
    pub async fn draw(
        live: &Live,
        visible: Visible<'_>,
        count: usize,
        k: usize,
        seed: u64,
    ) -> Result<(Self, u64), VectorError> {
        let mut random = Random(seed);
        let rows = live.rows();
        let mut slots = Vec::new();
        // Rows that are hidden are passed over; a few tries each are plenty unless nearly all are.
        for _ in 0..count.saturating_mul(64) {
            if slots.len() == count || rows == 0 {
                break;
            }
            let slot = random.below(rows);
            if visible.allows(slot) {
                slots.push(slot);
            }
        }
        if slots.is_empty() {
            return Err(VectorError::Config {
                reason: "the index has no visible row to draw queries from".to_owned(),
            });
        }
        let stored = live.stored(&slots).await?;
        let moved = |row: &StoredRow| moved(&row.vector, &mut random);
        let mut queries = Self {
            k,
            vectors: stored.iter().map(moved).collect(),
            truth: Vec::new(),
            drawn_from: stored.into_iter().map(|row| row.key).collect(),
        };
        let brute_force = queries.find_truth(live, visible).await?;
        Ok((queries, brute_force))
    }

    /// Finds the true nearest rows in other rows; says what the median query took, in nanoseconds.
    ///
    /// # Errors
    /// `Dimensions` when they are of another model; `Io` or `Engine`.
    pub async fn find_truth(
        &mut self,
        live: &Live,
        visible: Visible<'_>,
    ) -> Result<u64, VectorError> {
        let mut times = Vec::with_capacity(self.vectors.len());
        self.truth.clear();
        for query in &self.vectors {
            let clock = Instant::now();
            let found = live.nearest(query, self.k, None, true, visible).await?;
            times.push(nanos(clock));
            let keys = found.hits.into_iter().map(|hit| hit.key);
            self.truth.push(keys.collect());
        }
        Ok(quantile(&mut times, 50))
    }

    /// Asks every query `repeats` times, one after the other, with so many candidates or as many as
    /// the index's configuration says.
    ///
    /// # Errors
    /// What the search says.
    pub async fn ask(
        &self,
        live: &Live,
        visible: Visible<'_>,
        ef: Option<usize>,
        repeats: u32,
    ) -> Result<Measured, VectorError> {
        let (mut tails, mut found, mut wanted) = (Vec::new(), 0_u64, 0_u64);
        for repeat in 0..repeats.max(1) {
            let mut times = Vec::with_capacity(self.vectors.len());
            for (query, truth) in self.vectors.iter().zip(&self.truth) {
                let clock = Instant::now();
                let hits = live.nearest(query, self.k, ef, false, visible).await?.hits;
                times.push(nanos(clock));
                if repeat == 0 {
                    let right = hits.iter().filter(|hit| truth.contains(&hit.key));
                    found += right.count() as u64;
                    wanted += truth.len() as u64;
                }
            }
            tails.push(Tail {
                p50: quantile(&mut times, 50),
                p95: quantile(&mut times, 95),
                p99: quantile(&mut times, 99),
            });
        }
        Ok(Measured::of(&tails, found, wanted))
    }
}

impl Measured {
    fn of(tails: &[Tail], found: u64, wanted: u64) -> Self {
        let of = |part: fn(&Tail) -> u64| {
            let mut values: Vec<u64> = tails.iter().map(part).collect();
            quantile(&mut values, 50)
        };
        let medians = || tails.iter().map(|tail| tail.p50);
        Self {
            recall_ppm: u32::try_from(found * 1_000_000 / wanted.max(1)).unwrap_or(1_000_000),
            latency: Tail {
                p50: of(|tail| tail.p50),
                p95: of(|tail| tail.p95),
                p99: of(|tail| tail.p99),
            },
            p50_spread: (
                medians().min().unwrap_or_default(),
                medians().max().unwrap_or_default(),
            ),
        }
    }
}

/// A vector beside `row`, which is none of the index: a row's own vector would find itself.
fn moved(row: &[f32], random: &mut Random) -> Vec<f32> {
    let noise: Vec<f32> = row.iter().map(|_| random.normal()).collect();
    let scale = MOVED * norm(row) / norm(&noise).max(f32::MIN_POSITIVE);
    let pairs = row.iter().zip(&noise);
    pairs.map(|(value, noise)| value + scale * noise).collect()
}

fn nanos(clock: Instant) -> u64 {
    u64::try_from(clock.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// The value that `percent` of 100 are not above; 0 of none.
fn quantile(values: &mut [u64], percent: usize) -> u64 {
    values.sort_unstable();
    let rank = (values.len() * percent).div_ceil(100).max(1) - 1;
    values.get(rank).copied().unwrap_or_default()
}

/// `SplitMix64`: the same queries for the same seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        let wide = u128::from(self.next()) * u128::from(end);
        u64::try_from(wide >> 64).expect("a fraction of `end` is below it")
    }

    /// Close to a normal distribution: four even numbers added up.
    #[expect(clippy::cast_precision_loss, reason = "18 bits")]
    fn normal(&mut self) -> f32 {
        let bits = self.next();
        let sum: u64 = (0..4).map(|part| (bits >> (16 * part)) & 0xffff).sum();
        sum as f32 / 65_536.0 - 2.0
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc};

    use super::{
        super::{Base, text::LazyText},
        *,
    };
    use crate::engines::{
        usearch::{HnswBuilder, HnswIndex},
        vectors::{BuildOptions, Chunk, HnswConfig},
    };

    fn live(dir: &Path) -> Live {
        let mut random = Random(3);
        let keys: Vec<String> = (0..2_000).map(|row| format!("key-{row}")).collect();
        let vectors: Vec<f32> = (0..2_000 * 24).map(|_| random.normal()).collect();
        let options = BuildOptions::default();
        let mut builder = HnswBuilder::new(dir, 24, HnswConfig::default(), options).unwrap();
        let texts = None;
        let chunk = Chunk {
            keys: &keys,
            texts,
            vectors: &vectors,
        };
        builder.add_chunk(chunk).unwrap();
        let built = builder.finish().unwrap();
        let index = Arc::new(HnswIndex::open(dir, &built.files).unwrap());
        let base = Base {
            index,
            source_seq: 1,
            text: LazyText::new(dir.to_owned(), Vec::new()),
        };
        Live::new(1, Arc::new(base), 1)
    }

    #[tokio::test]
    async fn queries_are_held_out_and_their_truth_is_exact() {
        let dir = tempfile::tempdir().unwrap();
        let live = live(dir.path());
        let (queries, _) = Queries::draw(&live, Visible::All, 40, 10, 1).await.unwrap();
        let (again, _) = Queries::draw(&live, Visible::All, 40, 10, 1).await.unwrap();
        assert_eq!(queries, again);
        let slots: Vec<u64> = (0..live.rows()).collect();
        let rows = live.stored(&slots).await.unwrap();
        for (query, truth) in queries.vectors.iter().zip(&queries.truth) {
            assert!(rows.iter().all(|row| row.vector != *query));
            assert_eq!(truth.len(), 10);
        }
        let all = Some(slots.len());
        let wide = queries.ask(&live, Visible::All, all, 2).await.unwrap();
        assert_eq!(wide.recall_ppm, 1_000_000);
        let narrow = queries.ask(&live, Visible::All, Some(10), 2).await.unwrap();
        assert!(narrow.recall_ppm < 1_000_000, "{narrow:?}");
    }

    #[tokio::test]
    async fn hidden_rows_are_neither_asked_for_nor_true() {
        let dir = tempfile::tempdir().unwrap();
        let live = live(dir.path());
        let odd = |slot: u64| slot % 2 == 1;
        let visible = Visible::Where(&odd);
        let (queries, _) = Queries::draw(&live, visible, 30, 5, 2).await.unwrap();
        let shown = |key: &String| odd(live.slot_of(key).unwrap());
        assert!(queries.drawn_from.iter().all(shown));
        assert!(queries.truth.iter().flatten().all(shown));
        let none = Queries::draw(&live, Visible::Where(&|_| false), 3, 5, 2).await;
        assert!(none.unwrap_err().to_string().contains("no visible row"));
    }
}
