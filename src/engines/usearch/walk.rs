//! Our own search over usearch's graph: the same greedy descent and the same best-first walk on the
//! lowest level, over the file in place. `graph` calls it for searches without a filter.
//!
//! What it does otherwise than usearch 2.26, and why it is quicker: all unvisited neighbours of a
//! node are measured in one call (see `kernels`); the links of the node that is likely next are on
//! their way meanwhile; visited nodes are bits that stay in the first cache, not a hash set; one
//! sorted array is both the queue and the answer.

use super::graph::Graph;
use super::kernels::{Distances, Query, fetch};
use super::tape::Tape;

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
}

impl Scratch {
    fn begin(&mut self, nodes: usize) {
        self.visited.resize(nodes.div_ceil(64), 0);
        for node in self.touched.drain(..) {
            self.visited[node as usize / 64] = 0;
        }
        self.pool.clear();
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

/// Leaves the `ef` nodes that seem nearest to the query in the scratch's pool.
pub fn nearest(graph: &Graph, query: &Query, ef: usize, scratch: &mut Scratch) {
    let (tape, distances) = (&graph.tape, graph.distances);
    scratch.begin(tape.nodes);
    let (entry, distance) = descend(tape, distances, query, scratch);
    scratch.visit(entry);
    scratch.admit(distance, entry, ef);
    if !graph.landmarks.is_empty() {
        begin_at_landmarks(graph, query, distance, ef, scratch);
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

/// Takes in the landmarks that are nearer than what the descent came to.
fn begin_at_landmarks(graph: &Graph, query: &Query, entry: f32, ef: usize, scratch: &mut Scratch) {
    let mut measured = std::mem::take(&mut scratch.distances);
    let rows = graph.tape.rows();
    let landmarks = &graph.landmarks;
    graph
        .distances
        .measure(query, rows, landmarks, &mut measured);
    for (&node, &distance) in landmarks.iter().zip(&measured) {
        if distance < entry && scratch.visit(node) {
            scratch.admit(distance, node, ef);
        }
    }
    scratch.distances = measured;
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
