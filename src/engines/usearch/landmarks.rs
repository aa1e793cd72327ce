//! Landmarks: rows that a walk from the graph's entry does not come to. Where nearly all rows are alike they
//! link among themselves alone, and nothing leads from them to the few others. The builder looks for such
//! rows once the graph is linked; walks begin at those that are near the query, too. Most graphs have none.

use std::fs::File;
use std::panic::resume_unwind;
use std::path::Path;
use std::thread::ScopedJoinHandle;

use lakehouse_kernels::hnsw::Scratch;

use super::super::vectors::files::{read_all, write_new};
use super::super::vectors::{BuildOptions, VectorError};
use super::LANDMARKS_FILE;
use super::graph::Graph;
use super::matrix::Matrix;

/// Rows that are tried because they lie far from those before them, at least and at most, and distances
/// spent on choosing them. Every one of them reads all of the graph's rows.
const FAR_MIN: usize = 32;
const FAR_MAX: usize = 128;
const FAR_DISTANCES: usize = 1 << 22;
/// Rows that are tried because few links lead to them, at most, and rows that are tried wherever they lie.
const LOOSE: usize = 4_096;
const SAMPLED: usize = 4_096;
/// Landmarks at most: every search measures all of them.
const KEPT_MAX: usize = 256;
/// Times that all are tried: what a search came to before, it may not come to once it keeps landmarks and
/// their neighbours instead of what led there.
const ROUNDS_MAX: usize = 8;
/// Nodes that are measured between two looks at whether the build goes on.
const BLOCK: usize = 4_096;

/// Finds the landmarks of a graph of the rows of `matrix` and writes them. A row is one when a search for
/// it that keeps `ef` candidates, and begins at those found so far too, ends with nothing as near.
///
/// # Errors
/// `Cancelled`; `Io`.
pub fn find(
    dir: &Path,
    mut graph: Graph,
    matrix: &Matrix,
    ef: usize,
    options: &BuildOptions,
) -> Result<(), VectorError> {
    let nodes = graph.layers.tape.nodes;
    let mut tried = farthest(&graph, matrix, options)?;
    let mut loose = graph.layers.tape.unreached();
    loose.extend(graph.layers.tape.unreturned());
    tried.extend(loose.iter().step_by(loose.len().div_ceil(LOOSE).max(1)));
    let sampled = (0..nodes).step_by(nodes.div_ceil(SAMPLED).max(1));
    tried.extend(sampled.map(node_number));
    let mut scratch = Scratch::default();
    for _ in 0..ROUNDS_MAX {
        let before = graph.layers.landmarks.len();
        for node in unreached(&graph, matrix, &tried, ef, options)? {
            options.check_cancelled()?;
            if graph.layers.landmarks.len() < KEPT_MAX
                && !is_reached(&graph, matrix, node, ef, &mut scratch)
            {
                graph.layers.landmarks.push(node);
            }
        }
        if graph.layers.landmarks.len() == before {
            break;
        }
    }
    let count = node_number(graph.layers.landmarks.len());
    let bytes: Vec<u8> = std::iter::once(&count)
        .chain(&graph.layers.landmarks)
        .flat_map(|node| node.to_le_bytes())
        .collect();
    write_new(dir, LANDMARKS_FILE, &bytes)
}

/// Those of `tried`, in their order, that no search from the graph's entry comes to.
fn unreached(
    graph: &Graph,
    matrix: &Matrix,
    tried: &[u32],
    ef: usize,
    options: &BuildOptions,
) -> Result<Vec<u32>, VectorError> {
    let part = |part: &[u32]| -> Result<Vec<u32>, VectorError> {
        let (mut scratch, mut found) = (Scratch::default(), Vec::new());
        for &node in part {
            options.check_cancelled()?;
            if !is_reached(graph, matrix, node, ef, &mut scratch) {
                found.push(node);
            }
        }
        Ok(found)
    };
    let share = tried.len().div_ceil(options.threads()).max(1);
    std::thread::scope(|scope| {
        let parts = tried.chunks(share).map(|chunk| scope.spawn(|| part(chunk)));
        let parts: Vec<_> = parts.collect();
        let found = parts.into_iter().map(joined);
        let found: Vec<Vec<u32>> = found.collect::<Result<_, _>>()?;
        Ok(found.concat())
    })
}

/// Whether a search for the row of `node` that keeps `ef` candidates ends with something as near.
fn is_reached(graph: &Graph, matrix: &Matrix, node: u32, ef: usize, scratch: &mut Scratch) -> bool {
    let (query, mut own) = (graph.query_at(node, matrix), Vec::new());
    let layers = &graph.layers;
    let rows = layers.tape.rows();
    layers.distances.measure(&query, rows, &[node], &mut own);
    layers.nearest(&query, ef, scratch);
    let nearest = scratch.pool.first();
    nearest.is_some_and(|nearest| nearest.distance <= own[0])
}

fn joined<T>(part: ScopedJoinHandle<'_, Result<T, VectorError>>) -> Result<T, VectorError> {
    part.join().unwrap_or_else(|panic| resume_unwind(panic))
}

/// The entry, then each time the node that is farthest from those before.
fn farthest(
    graph: &Graph,
    matrix: &Matrix,
    options: &BuildOptions,
) -> Result<Vec<u32>, VectorError> {
    let nodes = graph.layers.tape.nodes;
    let count = (FAR_DISTANCES / nodes).clamp(FAR_MIN, FAR_MAX).min(nodes);
    let mut picked = vec![graph.layers.tape.entry];
    let mut to_picked = vec![f32::INFINITY; nodes];
    while picked.len() < count {
        let query = graph.query_at(picked[picked.len() - 1], matrix);
        let part = |first: usize, part: &mut [f32]| -> Result<(), VectorError> {
            let mut measured = Vec::with_capacity(BLOCK);
            for (at, block) in part.chunks_mut(BLOCK).enumerate() {
                options.check_cancelled()?;
                let begin = first + at * BLOCK;
                let there: Vec<u32> = (begin..begin + block.len()).map(node_number).collect();
                let rows = graph.layers.tape.rows();
                graph
                    .layers
                    .distances
                    .measure(&query, rows, &there, &mut measured);
                for (nearest, distance) in block.iter_mut().zip(&measured) {
                    *nearest = nearest.min(*distance);
                }
            }
            Ok(())
        };
        let share = nodes.div_ceil(options.threads());
        std::thread::scope(|scope| {
            let parts: Vec<_> = to_picked
                .chunks_mut(share)
                .enumerate()
                .map(|(at, chunk)| scope.spawn(move || part(at * share, chunk)))
                .collect();
            parts.into_iter().try_for_each(joined)
        })?;
        let last = to_picked
            .iter()
            .enumerate()
            .max_by(|a, b| a.1.total_cmp(b.1));
        picked.extend(last.map(|(node, _)| node_number(node)));
    }
    Ok(picked)
}

fn node_number(node: usize) -> u32 {
    u32::try_from(node).expect("a builder takes no more rows than a slot has bits for")
}

/// Reads what [`find`] wrote for a graph of `nodes` nodes.
///
/// # Errors
/// `Io`, or `Corrupt` when it names a node that is not there.
pub fn read(file: &File, nodes: usize) -> Result<Vec<u32>, VectorError> {
    let bytes = read_all(file, LANDMARKS_FILE)?;
    let (numbers, rest) = bytes.as_chunks();
    let mut numbers = numbers.iter().map(|&number| u32::from_le_bytes(number));
    let count = numbers.next();
    let landmarks: Vec<u32> = numbers.collect();
    let sound = rest.is_empty()
        && count.is_some_and(|count| count as usize == landmarks.len())
        && landmarks.iter().all(|&node| (node as usize) < nodes);
    if sound {
        Ok(landmarks)
    } else {
        let reason = format!("does not name nodes among {nodes}");
        Err(VectorError::corrupt(LANDMARKS_FILE, reason))
    }
}
