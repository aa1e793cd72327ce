//! Distances in full precision and the k nearest of many: the truth that graphs are measured by.
//! The usearch engine rescores and scans with it, evaluations draw their ground truth from it.
//! Dot products run in numkong's kernels, which sum f32 in f64, so that the last bit of a distance
//! hardly ever depends on how wide a machine's vectors are.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use numkong::{Dot, Euclidean};

use super::Metric;

/// The dot product of two vectors of the same length.
pub fn dot(a: &[f32], b: &[f32]) -> f64 {
    <f32 as Dot>::dot(a, b).expect("both sides have the index's dimensions, checked at the door")
}

/// The sum of the squares of a vector's numbers.
pub fn square_sum(vector: &[f32]) -> f64 {
    dot(vector, vector)
}

/// The length of a vector.
#[expect(
    clippy::cast_possible_truncation,
    reason = "f64 to f32 rounds to nearest"
)]
pub fn norm(vector: &[f32]) -> f32 {
    square_sum(vector).sqrt() as f32
}

/// A query, ready to be compared with rows.
pub struct Measure<'a> {
    metric: Metric,
    query: &'a [f32],
    query_norm: f64,
}

impl<'a> Measure<'a> {
    /// For a query that passed [`super::check_vector`].
    pub fn new(metric: Metric, query: &'a [f32]) -> Self {
        Self {
            metric,
            query,
            query_norm: dot(query, query).sqrt(),
        }
    }

    /// The distance to a row whose length is `row_norm` (looked at for cosine only).
    #[expect(
        clippy::cast_possible_truncation,
        reason = "f64 to f32 rounds to nearest"
    )]
    pub fn distance(&self, row: &[f32], row_norm: f32) -> f32 {
        let distance = match self.metric {
            Metric::Cosine => (1.0
                - dot(self.query, row) / (self.query_norm * f64::from(row_norm)))
            .clamp(0.0, 2.0),
            Metric::Dot => 1.0 - dot(self.query, row),
            Metric::L2 => <f32 as Euclidean>::sqeuclidean(self.query, row)
                .expect("both sides have the index's dimensions, checked at the door"),
        };
        distance as f32
    }
}

/// A row and its distance; ordered by distance, then by slot.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// By the metric.
    pub distance: f32,
    /// The row.
    pub slot: u64,
}

impl Eq for Candidate {}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        self.distance
            .total_cmp(&other.distance)
            .then(self.slot.cmp(&other.slot))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The `k` nearest of the candidates offered.
pub struct Nearest {
    k: usize,
    heap: BinaryHeap<Candidate>,
}

impl Nearest {
    /// Keeps `k`.
    pub fn new(k: usize) -> Self {
        Self {
            k,
            heap: BinaryHeap::with_capacity(k.min(16_384)),
        }
    }

    /// Takes a candidate in if it is among the nearest so far.
    pub fn offer(&mut self, candidate: Candidate) {
        if self.heap.len() < self.k {
            self.heap.push(candidate);
        } else if self.heap.peek().is_some_and(|worst| candidate < *worst) {
            self.heap.pop();
            self.heap.push(candidate);
        }
    }

    /// The distance that a candidate must be below to be taken in; `None` while any is.
    pub fn worst(&self) -> Option<f32> {
        let full = self.heap.len() >= self.k;
        let worst = self.heap.peek().filter(|_| full)?;
        Some(worst.distance)
    }

    /// Those of `other` too.
    pub fn merge(&mut self, other: Self) {
        other
            .heap
            .into_iter()
            .for_each(|candidate| self.offer(candidate));
    }

    /// Nearest first.
    pub fn into_sorted(self) -> Vec<Candidate> {
        self.heap.into_sorted_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_those_of_the_definitions() {
        let (a, b) = ([3.0, 4.0], [4.0, 3.0]);
        let distance = |metric| Measure::new(metric, &a).distance(&b, norm(&b));
        assert!((distance(Metric::Cosine) - (1.0 - 24.0 / 25.0)).abs() < 1e-6);
        assert!((distance(Metric::Dot) - (1.0 - 24.0)).abs() < f32::EPSILON);
        assert!((distance(Metric::L2) - 2.0).abs() < f32::EPSILON);
        assert!(
            Measure::new(Metric::Cosine, &a)
                .distance(&a, norm(&a))
                .abs()
                < 1e-7
        );
    }

    #[test]
    fn the_nearest_are_kept_and_ties_go_to_the_lower_slot() {
        let mut left = Nearest::new(3);
        let mut right = Nearest::new(3);
        for slot in 0..10 {
            let distance = if slot % 2 == 0 {
                1.0
            } else {
                10.0 - f32::from(u16::try_from(slot).unwrap())
            };
            let side = if slot < 5 { &mut left } else { &mut right };
            side.offer(Candidate { distance, slot });
        }
        left.merge(right);
        let slots: Vec<u64> = left
            .into_sorted()
            .iter()
            .map(|candidate| candidate.slot)
            .collect();
        assert_eq!(slots, [0, 2, 4]);
    }

    #[test]
    fn nothing_is_kept_of_none() {
        let mut nearest = Nearest::new(0);
        nearest.offer(Candidate {
            distance: 0.0,
            slot: 0,
        });
        assert!(nearest.into_sorted().is_empty());
    }
}
