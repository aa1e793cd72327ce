//! Measuring a graph: queries that are no rows, their true nearest rows by brute force on every core,
//! and how many of those a graph finds in what time. `quality` keeps what comes out.

use std::time::Instant;

use lakehouse_journal::model::catalog::Tail;
use serde::{Deserialize, Serialize};

use crate::engines::{
    usearch::HnswIndex,
    vectors::{Found, VectorError, Visible, exact::norm},
};

/// How far a query is moved off the row that it is drawn from, as a part of the row's length.
const MOVED: f32 = 0.3;

/// Rows that queries are drawn from and that their true answers are found among. Never waits.
pub trait Measurable {
    /// How many slots there are.
    fn rows(&self) -> u64;
    /// The key of a slot.
    fn key_of(&self, slot: u64) -> Option<&str>;
    /// The vector of a slot, as it came.
    fn vector_of(&self, slot: u64) -> Option<&[f32]>;
    /// The `k` visible rows nearest to `query`, by comparing it with every one of them.
    ///
    /// # Errors
    /// `Dimensions` and the like for a query that does not fit.
    fn nearest_exact(
        &self,
        query: &[f32],
        k: usize,
        visible: Visible<'_>,
    ) -> Result<Found, VectorError>;
}

impl Measurable for HnswIndex {
    fn rows(&self) -> u64 {
        self.len()
    }

    fn key_of(&self, slot: u64) -> Option<&str> {
        self.key_of(slot)
    }

    fn vector_of(&self, slot: u64) -> Option<&[f32]> {
        self.vector_of(slot)
    }

    fn nearest_exact(
        &self,
        query: &[f32],
        k: usize,
        visible: Visible<'_>,
    ) -> Result<Found, VectorError> {
        self.search_exact(query, k, visible)
    }
}

/// Queries and their answers, as they are stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Queries {
    /// Hits of each.
    pub k: usize,
    /// The vectors that are asked for.
    pub vectors: Vec<Vec<f32>>,
    /// The keys of the nearest rows of each, nearest first.
    pub truth: Vec<Vec<String>>,
    /// How far the last of these is: another row at that distance is as right.
    pub farthest: Vec<f32>,
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
    /// The least of each over the repeats.
    pub least: Tail,
    /// The most of each over the repeats.
    pub most: Tail,
}

impl Queries {
    /// Draws queries from visible rows, and moves each off its row. Also says what the median query
    /// took by brute force, in nanoseconds.
    ///
    /// # Errors
    /// `Config` when there is no visible row to draw from.
    pub fn draw(
        index: &impl Measurable,
        visible: Visible,
        count: usize,
        k: usize,
        seed: u64,
    ) -> Result<(Self, u64), VectorError> {
        let mut random = Random(seed);
        let rows = index.rows();
        let mut queries = Self {
            k,
            vectors: Vec::new(),
            truth: Vec::new(),
            farthest: Vec::new(),
            drawn_from: Vec::new(),
        };
        // Rows that are hidden are passed over; a few tries each are plenty unless nearly all are.
        for _ in 0..count.saturating_mul(64) {
            if queries.vectors.len() == count || rows == 0 {
                break;
            }
            let slot = random.below(rows);
            if let (true, Some(row), Some(key)) = (
                visible.allows(slot),
                index.vector_of(slot),
                index.key_of(slot),
            ) {
                queries.vectors.push(moved(row, &mut random));
                queries.drawn_from.push(key.to_owned());
            }
        }
        if queries.vectors.is_empty() {
            return Err(VectorError::Config {
                reason: "the index has no visible row to draw queries from".to_owned(),
            });
        }
        let brute_force = queries.find_truth(index, visible)?;
        Ok((queries, brute_force))
    }

    /// Finds the true nearest rows in another generation; says what the median query took, in
    /// nanoseconds.
    ///
    /// # Errors
    /// `Dimensions` when the generation is of another model.
    pub fn find_truth(
        &mut self,
        index: &impl Measurable,
        visible: Visible,
    ) -> Result<u64, VectorError> {
        let mut times = Vec::with_capacity(self.vectors.len());
        self.truth.clear();
        self.farthest.clear();
        for query in &self.vectors {
            let clock = Instant::now();
            let found = index.nearest_exact(query, self.k, visible)?;
            times.push(nanos(clock));
            let farthest = found.hits.last().map(|hit| hit.distance);
            self.farthest.push(farthest.unwrap_or(f32::MIN));
            let keys = found.hits.into_iter().map(|hit| hit.key);
            self.truth.push(keys.collect());
        }
        Ok(quantile(&mut times, 50))
    }

    /// Asks every query `repeats` times, one after the other.
    ///
    /// # Errors
    /// What the search says.
    pub fn ask(
        &self,
        index: &HnswIndex,
        visible: Visible,
        ef: usize,
        repeats: u32,
    ) -> Result<Measured, VectorError> {
        let (mut tails, mut found, mut wanted) = (Vec::new(), 0_u64, 0_u64);
        for repeat in 0..repeats.max(1) {
            let mut times = Vec::with_capacity(self.vectors.len());
            let queries = self.vectors.iter().zip(&self.truth).zip(&self.farthest);
            for ((query, truth), farthest) in queries {
                let clock = Instant::now();
                let hits = index.search(query, self.k, Some(ef), visible)?.hits;
                times.push(nanos(clock));
                if repeat == 0 {
                    let right = hits
                        .iter()
                        .filter(|hit| hit.distance <= *farthest || truth.contains(&hit.key));
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
        let of = |percent: usize| {
            let part = |part: fn(&Tail) -> u64| {
                let mut values: Vec<u64> = tails.iter().map(part).collect();
                quantile(&mut values, percent)
            };
            Tail {
                p50: part(|tail| tail.p50),
                p95: part(|tail| tail.p95),
                p99: part(|tail| tail.p99),
            }
        };
        Ok(Measured {
            recall_ppm: u32::try_from(found * 1_000_000 / wanted.max(1)).unwrap_or(1_000_000),
            latency: of(50),
            least: of(0),
            most: of(100),
        })
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
    use super::*;
    use crate::engines::{
        usearch::HnswBuilder,
        vectors::{BuildOptions, Chunk, HnswConfig},
    };

    fn index(dir: &std::path::Path) -> HnswIndex {
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
        HnswIndex::open(dir, &built.files).unwrap()
    }

    #[test]
    fn queries_are_held_out_and_their_truth_is_exact() {
        let dir = tempfile::tempdir().unwrap();
        let index = index(dir.path());
        let (queries, _) = Queries::draw(&index, Visible::All, 40, 10, 1).unwrap();
        let (again, _) = Queries::draw(&index, Visible::All, 40, 10, 1).unwrap();
        assert_eq!(queries, again);
        for (query, truth) in queries.vectors.iter().zip(&queries.truth) {
            assert!((0..index.len()).all(|slot| index.vector_of(slot) != Some(query)));
            assert_eq!(truth.len(), 10);
        }
        let all = usize::try_from(index.len()).unwrap();
        let wide = queries.ask(&index, Visible::All, all, 2).unwrap();
        assert_eq!(wide.recall_ppm, 1_000_000);
        let narrow = queries.ask(&index, Visible::All, 10, 2).unwrap();
        assert!(narrow.recall_ppm < 1_000_000, "{narrow:?}");
    }

    #[test]
    fn a_row_as_near_as_the_last_true_one_is_right() {
        let dir = tempfile::tempdir().unwrap();
        let index = index(dir.path());
        let (mut queries, _) = Queries::draw(&index, Visible::All, 20, 10, 4).unwrap();
        for truth in &mut queries.truth {
            truth[9] = "a row of the same vector".to_owned();
        }
        let all = usize::try_from(index.len()).unwrap();
        let wide = queries.ask(&index, Visible::All, all, 1).unwrap();
        assert_eq!(wide.recall_ppm, 1_000_000);
        queries.farthest.fill(f32::MIN);
        let by_key = queries.ask(&index, Visible::All, all, 1).unwrap();
        assert_eq!(by_key.recall_ppm, 900_000);
    }

    #[test]
    fn hidden_rows_are_neither_asked_for_nor_true() {
        let dir = tempfile::tempdir().unwrap();
        let index = index(dir.path());
        let odd = |slot: u64| slot % 2 == 1;
        let (queries, _) = Queries::draw(&index, Visible::Where(&odd), 30, 5, 2).unwrap();
        let shown = |key: &String| odd(index.slot_of(key).unwrap());
        assert!(queries.drawn_from.iter().all(shown));
        assert!(queries.truth.iter().flatten().all(shown));
        let none = Queries::draw(&index, Visible::Where(&|_| false), 3, 5, 2);
        assert!(none.unwrap_err().to_string().contains("no visible row"));
    }
}
