//! Our own search over usearch's graph: the same greedy descent and the same best-first walk on the
//! lowest level, over the file in place, with and without a filter.
//!
//! What it does otherwise than usearch 2.26, and why it is quicker: all unvisited neighbours of a
//! node are measured in one call (see `distances`); the links of the node that is likely next are on
//! their way meanwhile; visited nodes are bits that stay in the first cache, not a hash set; one
//! sorted array is both the queue and the answer. With a filter the queue is a heap of all that was met,
//! and the answer holds what passes; nothing calls back out of C++.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use super::distances::{Distances, Query, fetch};
use super::tape::Tape;

/// Nodes that are measured in one call where all of them are known before.
const MEASURED_AT_ONCE: usize = 32;

/// A node that was measured.
#[derive(Debug, Clone, Copy)]
pub struct Met {
    /// As [`Distances::measure`] has it.
    pub distance: f32,
    /// The node.
    pub node: u32,
    /// Its neighbours are still to be looked at.
    open: bool,
}

/// What a search needs room for; kept between searches.
#[derive(Debug, Default)]
pub struct Scratch {
    visited: Vec<u64>,
    touched: Vec<u32>,
    fresh: Vec<u32>,
    distances: Vec<f32>,
    /// The nearest nodes met, nearest first.
    pub pool: Vec<Met>,
    /// Nodes whose neighbours are still to be looked at, in a walk with a filter.
    queue: BinaryHeap<Reverse<Queued>>,
}

/// A node in a queue, in the order of its distance.
#[derive(Debug, Clone, Copy)]
struct Queued {
    distance: f32,
    node: u32,
}

impl Ord for Queued {
    fn cmp(&self, other: &Self) -> Ordering {
        let nearer = self.distance.total_cmp(&other.distance);
        nearer.then(self.node.cmp(&other.node))
    }
}

impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Queued {}

impl Scratch {
    fn begin(&mut self, nodes: usize) {
        self.visited.resize(nodes.div_ceil(64), 0);
        for node in self.touched.drain(..) {
            self.visited[node as usize / 64] = 0;
        }
        self.pool.clear();
        self.queue.clear();
    }

    /// Whether it is the first visit.
    fn visit(&mut self, node: u32) -> bool {
        let word = &mut self.visited[node as usize / 64];
        let bit = 1 << (node % 64);
        let first = *word & bit == 0;
        *word |= bit;
        if first {
            self.touched.push(node);
        }
        first
    }

    /// How far the last of the pool is, once `ef` are in it.
    fn worst(&self, ef: usize) -> Option<f32> {
        let last = self.pool.last().filter(|_| self.pool.len() == ef);
        last.map(|last| last.distance)
    }

    /// Takes a node into the pool of the `ef` nearest; says where.
    fn admit(&mut self, distance: f32, node: u32, ef: usize) -> Option<usize> {
        if self.pool.len() == ef {
            if self
                .pool
                .last()
                .is_none_or(|last| distance >= last.distance)
            {
                return None;
            }
            self.pool.pop();
        }
        let at = self.pool.partition_point(|met| met.distance <= distance);
        let open = true;
        self.pool.insert(
            at,
            Met {
                distance,
                node,
                open,
            },
        );
        Some(at)
    }
}

/// A graph as it is walked.
pub struct Layers {
    /// Its file.
    pub tape: Tape,
    /// How its rows are compared.
    pub distances: Distances,
    /// Nodes that walks begin at besides the entry.
    pub landmarks: Vec<u32>,
}

impl Layers {
    /// Leaves the `ef` nodes that seem nearest to the query in the scratch's pool.
    pub fn nearest(&self, query: &Query, ef: usize, scratch: &mut Scratch) {
        let (tape, distances) = (&self.tape, self.distances);
        scratch.begin(tape.nodes);
        for (node, distance) in self.beginnings(query, scratch) {
            if scratch.visit(node) {
                scratch.admit(distance, node, ef);
            }
        }
        let mut next = 0;
        while let Some(met) = scratch.pool.get_mut(next) {
            if !met.open {
                next += 1;
                continue;
            }
            met.open = false;
            let node = met.node;
            let mut fresh = std::mem::take(&mut scratch.fresh);
            fresh.clear();
            for link in tape.links(node, 0) {
                if (link as usize) < tape.nodes && scratch.visit(link) {
                    fresh.push(link);
                }
            }
            if let Some(met) = scratch.pool[next..].iter().find(|met| met.open) {
                fetch(tape.lowest(met.node));
            }
            let mut measured = std::mem::take(&mut scratch.distances);
            distances.measure(query, tape.rows(), &fresh, &mut measured);
            let mut lowest = next + 1;
            for (&node, &distance) in fresh.iter().zip(&measured) {
                if let Some(at) = scratch.admit(distance, node, ef) {
                    lowest = lowest.min(at);
                }
            }
            (scratch.fresh, scratch.distances) = (fresh, measured);
            next = lowest;
        }
    }

    /// Leaves the `ef` nodes that pass `test` and seem nearest in the scratch's pool. Gives up once `budget`
    /// nodes were measured, and says so: the pool is then of no use.
    pub fn nearest_passing(
        &self,
        query: &Query,
        ef: usize,
        test: &dyn Fn(u32) -> bool,
        budget: usize,
        scratch: &mut Scratch,
    ) -> bool {
        let (tape, distances) = (&self.tape, self.distances);
        scratch.begin(tape.nodes);
        for (node, distance) in self.beginnings(query, scratch) {
            if scratch.visit(node) {
                scratch.queue.push(Reverse(Queued { distance, node }));
                if test(node) {
                    scratch.admit(distance, node, ef);
                }
            }
        }
        let mut spent = 0;
        while let Some(Reverse(next)) = scratch.queue.pop() {
            if scratch.worst(ef).is_some_and(|worst| next.distance > worst) {
                return true;
            }
            let mut fresh = std::mem::take(&mut scratch.fresh);
            fresh.clear();
            for link in tape.links(next.node, 0) {
                if (link as usize) < tape.nodes && scratch.visit(link) {
                    fresh.push(link);
                }
            }
            if let Some(Reverse(soon)) = scratch.queue.peek() {
                fetch(tape.lowest(soon.node));
            }
            spent += fresh.len();
            let mut measured = std::mem::take(&mut scratch.distances);
            distances.measure(query, tape.rows(), &fresh, &mut measured);
            for (&node, &distance) in fresh.iter().zip(&measured) {
                if scratch.worst(ef).is_none_or(|worst| distance < worst) {
                    scratch.queue.push(Reverse(Queued { distance, node }));
                    if test(node) {
                        scratch.admit(distance, node, ef);
                    }
                }
            }
            (scratch.fresh, scratch.distances) = (fresh, measured);
            if spent > budget {
                return false;
            }
        }
        true
    }

    /// Leaves the `ef` of `nodes` that seem nearest in the scratch's pool, by measuring each once.
    pub fn nearest_of(
        &self,
        query: &Query,
        ef: usize,
        nodes: impl Iterator<Item = u32>,
        scratch: &mut Scratch,
    ) {
        scratch.begin(self.tape.nodes);
        let mut nodes = nodes.filter(|&node| (node as usize) < self.tape.nodes);
        let mut some = std::mem::take(&mut scratch.fresh);
        let mut measured = std::mem::take(&mut scratch.distances);
        loop {
            some.clear();
            let first_seen = nodes.by_ref().filter(|&node| scratch.visit(node));
            some.extend(first_seen.take(MEASURED_AT_ONCE));
            if some.is_empty() {
                break;
            }
            let rows = self.tape.rows();
            self.distances.measure(query, rows, &some, &mut measured);
            for (&node, &distance) in some.iter().zip(&measured) {
                scratch.admit(distance, node, ef);
            }
        }
        (scratch.fresh, scratch.distances) = (some, measured);
    }

    /// Where a walk begins: at what the descent comes to, and at the landmarks that are nearer.
    fn beginnings(&self, query: &Query, scratch: &mut Scratch) -> Vec<(u32, f32)> {
        let (entry, distance) = descend(&self.tape, self.distances, query, scratch);
        let mut beginnings = vec![(entry, distance)];
        if !self.landmarks.is_empty() {
            let rows = self.tape.rows();
            let measured = &mut scratch.distances;
            self.distances
                .measure(query, rows, &self.landmarks, measured);
            let landmarks = self.landmarks.iter().copied().zip(measured.iter().copied());
            beginnings.extend(landmarks.filter(|(_, nearer)| *nearer < distance));
        }
        beginnings
    }
}

/// From the entry down the upper levels, to the nearest node of each.
fn descend(tape: &Tape, distances: Distances, query: &Query, scratch: &mut Scratch) -> (u32, f32) {
    let (fresh, measured) = (&mut scratch.fresh, &mut scratch.distances);
    let rows = tape.rows();
    distances.measure(query, rows, &[tape.entry], measured);
    let (mut best, mut nearest) = (tape.entry, measured[0]);
    for level in (1..=tape.max_level).rev() {
        loop {
            fresh.clear();
            let there = tape.links(best, level);
            fresh.extend(there.filter(|&link| (link as usize) < tape.nodes));
            distances.measure(query, rows, fresh, measured);
            let before = best;
            for (&node, &distance) in fresh.iter().zip(measured.iter()) {
                if distance < nearest {
                    (best, nearest) = (node, distance);
                }
            }
            if best == before {
                break;
            }
        }
    }
    (best, nearest)
}
