//! What is searched: rows, queries that are no rows, and the true nearest rows of each query.
//! Three sources: clustered vectors out of a seed, the packed knowledge base's glosses through the
//! embedder in the binary, or a file of f32. Integer arithmetic and single IEEE operations in a fixed
//! order make the first two the same on every machine. Nothing here measures.

use std::{io::BufRead as _, path::Path};

use super::super::BenchError;
use crate::{
    demo::data::wordnet_ndjson,
    engines::{
        embedder::{DIMENSIONS, StaticEmbedder},
        vectors::{
            Metric,
            exact::{Candidate, Measure, Nearest, norm},
            processors,
        },
    },
};

/// Hits of a search.
pub(super) const K: usize = 10;
/// Numbers that a clustered vector is made of before it is spread over its dimensions: about as many
/// as real embeddings vary in.
const LATENT: usize = 32;
const CLUSTERS: u64 = 1_000;

/// Rows, queries and truth.
pub(super) struct Set {
    /// For tables.
    pub name: String,
    pub dimensions: usize,
    /// `[rows, dimensions]`, row-major, each of length 1.
    pub rows: Vec<f32>,
    /// `[queries, dimensions]`.
    pub queries: Vec<f32>,
    /// The texts that the rows stand for, when they do.
    pub texts: Option<Vec<String>>,
    /// For each query the slots of its [`K`] nearest rows.
    pub truth: Vec<Vec<u64>>,
}

impl Set {
    /// Splits `all` into rows and the queries behind them, and finds the truth.
    fn new(name: String, dimensions: usize, mut all: Vec<f32>, rows: usize) -> Self {
        let queries = all.split_off(rows * dimensions);
        let mut set = Self {
            name,
            dimensions,
            rows: all,
            queries,
            texts: None,
            truth: Vec::new(),
        };
        set.truth = set.truth_where(&|_| true);
        set
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len() / self.dimensions
    }

    /// The same rows with fewer queries.
    pub(super) fn first_queries(&self, count: usize) -> Self {
        let count = count.min(self.truth.len());
        Self {
            name: self.name.clone(),
            dimensions: self.dimensions,
            rows: self.rows.clone(),
            queries: self.queries[..count * self.dimensions].to_vec(),
            texts: None,
            truth: self.truth[..count].to_vec(),
        }
    }

    pub(super) fn row(&self, slot: usize) -> &[f32] {
        &self.rows[slot * self.dimensions..(slot + 1) * self.dimensions]
    }

    pub(super) fn each_query(&self) -> impl Iterator<Item = &[f32]> {
        self.queries.chunks_exact(self.dimensions)
    }

    /// The key of a slot.
    pub(super) fn key(slot: usize) -> String {
        format!("row-{slot:07}")
    }

    /// The nearest of the rows that pass, for each query, by comparing all of them on every core.
    pub(super) fn truth_where(&self, passes: &(dyn Fn(usize) -> bool + Sync)) -> Vec<Vec<u64>> {
        let queries: Vec<&[f32]> = self.each_query().collect();
        let part = queries.len().div_ceil(processors()).max(1);
        std::thread::scope(|scope| {
            let workers: Vec<_> = queries
                .chunks(part)
                .map(|queries| {
                    scope.spawn(move || {
                        let near = queries.iter().map(|query| self.nearest(query, passes));
                        near.collect::<Vec<_>>()
                    })
                })
                .collect();
            let found = workers.into_iter();
            found
                .flat_map(|worker| worker.join().expect("comparing does not panic"))
                .collect()
        })
    }

    /// Brute force for one query, on this thread.
    pub(super) fn nearest(&self, query: &[f32], passes: &dyn Fn(usize) -> bool) -> Vec<u64> {
        let measure = Measure::new(Metric::Cosine, query);
        let mut nearest = Nearest::new(K);
        for (slot, row) in self.rows.chunks_exact(self.dimensions).enumerate() {
            if passes(slot) {
                nearest.offer(Candidate {
                    distance: measure.distance(row, 1.0),
                    slot: slot as u64,
                });
            }
        }
        let sorted = nearest.into_sorted().into_iter();
        sorted.map(|candidate| candidate.slot).collect()
    }
}

/// Clustered vectors: a centre in a space of [`LATENT`] numbers and a scatter around it, spread over
/// the dimensions by a random matrix, with a little noise in each.
pub(super) fn clustered(rows: usize, queries: usize, dimensions: usize, seed: u64) -> Set {
    let mut random = Random(seed);
    let matrix = random.normals(LATENT * dimensions);
    let count = usize::try_from(CLUSTERS).expect("a thousand");
    let centres = random.normals(count * LATENT);
    let mut all = vec![0.0_f32; (rows + queries) * dimensions];
    for row in all.chunks_exact_mut(dimensions) {
        let cluster = usize::try_from(random.next() % CLUSTERS).expect("below a thousand");
        for (latent, spread) in matrix.chunks_exact(dimensions).enumerate() {
            let at = centres[cluster * LATENT + latent] + 0.6 * random.normal();
            row.iter_mut()
                .zip(spread)
                .for_each(|(value, spread)| *value += at * spread);
        }
        for value in row.iter_mut() {
            *value += 0.5 * random.normal();
        }
        normalise(row);
    }
    let name = format!("clustered, {rows} x {dimensions}, seed {seed}");
    Set::new(name, dimensions, all, rows)
}

/// The glosses' vectors by the embedder in the binary; equal vectors occur once.
pub(super) fn texts(rows: usize, queries: usize) -> Result<Set, BenchError> {
    let mut all: Vec<f32> = Vec::with_capacity((rows + queries) * DIMENSIONS);
    let mut glosses = Vec::new();
    let mut seen = std::collections::HashSet::new();
    let reader = std::io::BufReader::new(wordnet_ndjson());
    for line in reader.lines() {
        let synset: serde_json::Value = serde_json::from_str(&line?)
            .map_err(|error| BenchError::wrong("texts", error.to_string()))?;
        let gloss = synset["gloss"].as_str().unwrap_or_default();
        if let Some(vector) = StaticEmbedder::built_in().embed(gloss)
            && seen.insert(vector.map(f32::to_bits))
        {
            all.extend_from_slice(&vector);
            glosses.push(gloss.to_owned());
        }
    }
    let name = format!("glosses, {rows} x {DIMENSIONS}, static-minilm-128");
    let order = draw(glosses.len(), rows, queries)?;
    let texts = order[..rows].iter().map(|&at| glosses[at].clone());
    let texts = Some(texts.collect());
    let mut set = Set::new(name, DIMENSIONS, picked(&all, DIMENSIONS, &order), rows);
    set.texts = texts;
    Ok(set)
}

/// Vectors of a file: f32, little-endian, row-major, nothing else.
pub(super) fn file(
    path: &Path,
    dimensions: usize,
    rows: usize,
    queries: usize,
) -> Result<Set, BenchError> {
    let bytes = std::fs::read(path).map_err(|error| BenchError::file(path, error))?;
    let mut all: Vec<f32> = bytes
        .as_chunks()
        .0
        .iter()
        .map(|&number| f32::from_le_bytes(number))
        .collect();
    let count = all.len() / dimensions;
    all.chunks_exact_mut(dimensions).for_each(normalise);
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let name = format!("{stem}, {rows} x {dimensions}");
    let order = draw(count, rows, queries)?;
    Ok(Set::new(
        name,
        dimensions,
        picked(&all, dimensions, &order),
        rows,
    ))
}

/// Which vectors are rows and, behind them, which are queries, drawn evenly: a file may be sorted.
fn draw(count: usize, rows: usize, queries: usize) -> Result<Vec<usize>, BenchError> {
    if count < rows + queries {
        let found = format!("{count} vectors are fewer than {rows} rows and {queries} queries");
        return Err(BenchError::wrong("vectors", found));
    }
    let mut order: Vec<usize> = (0..count).collect();
    let mut random = Random(2_026);
    for at in (1..count).rev() {
        let other = usize::try_from(random.next() % (at as u64 + 1)).expect("below a length");
        order.swap(at, other);
    }
    order.truncate(rows + queries);
    Ok(order)
}

fn picked(all: &[f32], dimensions: usize, order: &[usize]) -> Vec<f32> {
    let rows = order
        .iter()
        .flat_map(|&at| &all[at * dimensions..(at + 1) * dimensions]);
    rows.copied().collect()
}

fn normalise(row: &mut [f32]) {
    let length = norm(row);
    for value in row {
        *value /= length;
    }
}

/// `SplitMix64`.
pub(super) struct Random(pub u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }

    /// Close to a normal distribution: the sum of twelve even ones, exact in f32.
    #[expect(clippy::cast_precision_loss, reason = "at most 20 bits")]
    fn normal(&mut self) -> f32 {
        let mut sum = 0_u64;
        for _ in 0..3 {
            let bits = self.next();
            sum += (0..4)
                .map(|part| (bits >> (16 * part)) & 0xffff)
                .sum::<u64>();
        }
        sum as f32 / 65_536.0 - 6.0
    }

    fn normals(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.normal()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_unit_vectors_again_and_no_query_is_a_row() {
        let (set, again) = (clustered(300, 10, 64, 7), clustered(300, 10, 64, 7));
        assert_eq!(set.rows, again.rows);
        assert_ne!(set.rows, clustered(300, 10, 64, 8).rows);
        assert!((0..300).all(|slot| (norm(set.row(slot)) - 1.0).abs() < 1e-5));
        let row_is = |query: &[f32]| (0..300).any(|slot| set.row(slot) == query);
        assert!(!set.each_query().any(row_is));
        assert!(set.truth.iter().all(|near| near.len() == K));
    }

    #[test]
    fn texts_are_vectors_of_the_embedder_and_all_different() {
        let set = texts(500, 20).expect("the knowledge base has more");
        assert_eq!((set.len(), set.queries.len() / DIMENSIONS), (500, 20));
        let mut rows: Vec<Vec<u32>> = (0..500)
            .map(|slot| set.row(slot).iter().map(|value| value.to_bits()).collect())
            .collect();
        rows.sort();
        rows.dedup();
        assert_eq!(rows.len(), 500);
    }
}
