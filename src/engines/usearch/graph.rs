//! usearch's index as this engine uses it: which numbers it gets, how it is saved, mapped and asked.
//! `builder` has it built, `search` asks it. It knows slots and rounded vectors, but no keys.
//! A search walks the mapped file itself (`kernels::hnsw`); one that keeps very many candidates is usearch's.
//!
//! What is minded here of usearch 2.26: it forgets `expansion_search` on reload, and to change that
//! while others search is a race, so it stays at 1 and a search asks for as many results as it wants
//! candidates; a search beyond the reserved threads fails, so searches take a permit; cosine costs
//! three sums a distance and a dot product one, so unit vectors go in; its own rounding to i8 uses a
//! tenth of the range, so ours scales first.

use std::fs::{self, File};
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::slice::Chunks;
use std::sync::atomic::{AtomicU64, Ordering};

use lakehouse_kernels::hnsw::{Distances, Form, Layers, Number, Query, Scratch, Tape};
use lakehouse_kernels::scaling;
use parking_lot::{Condvar, Mutex};
use usearch::{Index, IndexOptions, MetricKind, ScalarKind};

use super::super::vectors::mapped::map;
use super::super::vectors::{
    BuildOptions, HnswConfig, Metric, Quantization, VectorError, processors,
};
use super::GRAPH_FILE;
use super::matrix::{Matrix, Range, graph_scale};

/// Bytes before usearch's own in the file: its rows, which come after 8 of its own, then begin on a
/// cache line's boundary, and a row of 768 bytes is read in 12 lines, not 13.
pub const START_BYTES: usize = 56;
/// As usearch writes it, before it is moved to where it begins right.
const UNALIGNED_FILE: &str = "index.unaligned";
/// Candidates above which usearch's own queue is quicker than one sorted array.
pub const WALKED_MAX: usize = 1_024;

/// Rows that a building thread takes at a time.
const BATCH_ROWS: usize = 64;

/// How a vector becomes what the graph keeps.
#[derive(Debug, Clone, Copy)]
pub struct Rounding {
    metric: Metric,
    quantization: Quantization,
    scale: f32,
}

/// A vector on its way into the graph.
enum Rounded {
    Floats(Vec<f32>),
    Bytes(Vec<i8>),
}

impl Rounding {
    /// With the factor that a manifest holds.
    pub fn new(config: &HnswConfig, scale: f32) -> Self {
        Self {
            metric: config.metric,
            quantization: config.quantization,
            scale,
        }
    }

    /// The factor for vectors whose numbers spread over `range`. It changes no order of distances.
    pub fn scale_for(config: &HnswConfig, range: &Range) -> f32 {
        let largest = range.largest();
        if largest == 0.0 {
            return 1.0;
        }
        match config.quantization {
            Quantization::F32 | Quantization::Bf16 => 1.0,
            // An f16 ends at 65,504 and thins out below 0.0001.
            Quantization::F16 if config.metric == Metric::Cosine => 1.0,
            Quantization::F16 => (-largest.log2().ceil()).exp2(),
            // Five times the typical value: the few beyond are cut, the rest get finer steps.
            Quantization::I8 => 127.0 / largest.min(5.0 * range.typical()),
        }
    }

    /// A distance between rounded vectors, as [`Distances::measure`] has it, in terms of the metric.
    fn restored(self, distance: f32) -> f32 {
        let distance = distance / (self.scale * self.scale);
        match self.metric {
            Metric::Cosine | Metric::Dot => 1.0 + distance,
            Metric::L2 => distance,
        }
    }

    fn round(self, vector: &[f32], norm: f32) -> Rounded {
        let factor = graph_scale(self.metric, norm) * self.scale;
        match self.quantization {
            Quantization::I8 => Rounded::Bytes(scaling::in_bytes(vector, factor)),
            _ => Rounded::Floats(scaling::scaled(vector, factor)),
        }
    }
}

/// Links the rows `order` of `matrix`, more or less in this order, and saves the graph in `dir`, not
/// yet durable.
pub fn build(
    dir: &Path,
    matrix: &Matrix,
    order: &[u32],
    config: &HnswConfig,
    scale: f32,
    options: &BuildOptions,
) -> Result<(), VectorError> {
    let rounding = Rounding::new(config, scale);
    let threads = options.threads();
    let index = Index::new(&index_options(config, matrix.dimensions())).map_err(engine)?;
    index
        .reserve_capacity_and_threads(order.len(), threads)
        .map_err(engine)?;
    let shares = Shares::new(order, threads);
    let done = AtomicU64::new(0);
    let worker = |own: usize| -> Result<(), VectorError> {
        while let Some(batch) = shares.next(own) {
            options.check_cancelled()?;
            for &row in batch {
                add(&index, row, rounding, matrix)?;
            }
            let linked = batch.len() as u64;
            options.report(
                done.fetch_add(linked, Ordering::Relaxed) + linked,
                order.len() as u64,
            );
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let start = |own| scope.spawn(move || worker(own));
        let workers: Vec<_> = (0..threads).map(start).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })?;
    link_again(&index, order, rounding, matrix, options)?;
    let path = dir.join(UNALIGNED_FILE);
    let name = path
        .to_str()
        .ok_or_else(|| engine("the data directory's name is not UTF-8"))?;
    index.save(name).map_err(engine)?;
    drop(index);
    let move_over = || {
        let mut out = File::create_new(dir.join(GRAPH_FILE))?;
        out.write_all(&[0; START_BYTES])?;
        std::io::copy(&mut File::open(&path)?, &mut out)?;
        fs::remove_file(&path)
    };
    move_over().map_err(VectorError::io(GRAPH_FILE))
}

/// Links those rows anew that were lost. usearch lets a node be found in the upper layers before it has links
/// in the lowest; a row that another thread links meanwhile finds nothing but that node, which then drops
/// the link to it. It has one link, and none leads to it.
fn link_again(
    index: &Index,
    order: &[u32],
    rounding: Rounding,
    matrix: &Matrix,
    options: &BuildOptions,
) -> Result<(), VectorError> {
    let lost = |row: &&u32| index.neighbors(u64::from(**row), 0).total() <= 1;
    let lost: Vec<u32> = order.iter().filter(lost).copied().collect();
    for row in lost {
        options.check_cancelled()?;
        index.remove(u64::from(row)).map_err(engine)?;
        add(index, row, rounding, matrix)?;
    }
    Ok(())
}

/// Rows dealt out to threads: each begins with a share of its own and helps the others from their ends after
/// it. Threads that link near rows at a time lose the more of them ([`link_again`]).
struct Shares<'a>(Vec<Mutex<Chunks<'a, u32>>>);

impl<'a> Shares<'a> {
    fn new(rows: &'a [u32], threads: usize) -> Self {
        let shares = rows.chunks(rows.len().div_ceil(threads).max(1));
        Self(
            shares
                .map(|share| Mutex::new(share.chunks(BATCH_ROWS)))
                .collect(),
        )
    }

    /// The next rows for the thread whose share is number `own`.
    fn next(&self, own: usize) -> Option<&'a [u32]> {
        let mine = self.0.get(own).and_then(|share| share.lock().next());
        mine.or_else(|| self.0.iter().find_map(|share| share.lock().next_back()))
    }
}

fn add(index: &Index, row: u32, rounding: Rounding, matrix: &Matrix) -> Result<(), VectorError> {
    let (slot, row) = (u64::from(row), row as usize);
    match rounding.round(matrix.row(row), matrix.norm(row)) {
        Rounded::Floats(vector) => index.add(slot, &vector),
        Rounded::Bytes(vector) => index.add(slot, &vector),
    }
    .map_err(engine)
}

/// A row that the graph proposes.
#[derive(Debug, Clone, Copy)]
pub struct Proposal {
    /// Its slot.
    pub slot: u64,
    /// Its distance by the metric, as far as rounded vectors tell; `None` when it was not said.
    pub distance: Option<f32>,
}

/// A saved graph, mapped.
pub struct Graph {
    /// Points into the tape of `layers`, so it is declared, and dropped, before it.
    index: Index,
    pub(super) layers: Layers,
    rounding: Rounding,
    permits: Permits,
    /// Room for searches, of those that ended.
    scratches: Mutex<Vec<Scratch>>,
}

impl Graph {
    /// Maps a file that [`build`] saved and whose hash was checked; usearch's own begins at `start`.
    ///
    /// # Errors
    /// `Io`; `Corrupt` when it does not hold `linked` rows; `Engine` when usearch does not read it.
    pub fn open(
        file: &File,
        start: usize,
        linked: u64,
        dimensions: usize,
        rounding: Rounding,
        config: &HnswConfig,
    ) -> Result<Self, VectorError> {
        let map = map(file).map_err(VectorError::io(GRAPH_FILE))?;
        let tape = Tape::open(map, start)
            .ok_or_else(|| VectorError::corrupt(GRAPH_FILE, "is no graph of usearch"))?;
        let form = match config.metric {
            Metric::Cosine | Metric::Dot => Form::Dot,
            Metric::L2 => Form::SquaredEuclidean,
        };
        let number = match config.quantization {
            Quantization::F32 => Number::F32,
            Quantization::F16 => Number::F16,
            Quantization::Bf16 => Number::Bf16,
            Quantization::I8 => Number::I8,
        };
        let distances = Distances::new(form, number, dimensions);
        let threads = (processors() * 4).clamp(8, 64);
        let index = Index::new(&index_options(config, dimensions)).map_err(engine)?;
        index
            .reserve_capacity_and_threads(0, threads)
            .map_err(engine)?;
        // SAFETY: `tape` holds the mapping and outlives the index (they are dropped in this order), never moves in memory
        // and is not written: the file is immutable, and usearch writes to no index it only views.
        #[expect(unsafe_code, reason = "usearch keeps a pointer into the mapping")]
        unsafe {
            index.view_from_buffer(tape.content()).map_err(engine)?;
        }
        index.change_expansion_search(1);
        let read = (tape.nodes as u64, tape.stride);
        if (index.size() as u64, index.dimensions()) != (linked, dimensions)
            || read != (linked, distances.stride())
        {
            let reason = format!(
                "has {} rows of {} dimensions",
                index.size(),
                index.dimensions()
            );
            return Err(VectorError::corrupt(GRAPH_FILE, reason));
        }
        Ok(Self {
            index,
            layers: Layers {
                tape,
                distances,
                landmarks: Vec::new(),
            },
            rounding,
            permits: Permits::new(threads),
            scratches: Mutex::default(),
        })
    }

    /// The `wanted` slots that seem nearest, nearest first; they may be fewer.
    pub fn candidates(
        &self,
        query: &[f32],
        norm: f32,
        wanted: usize,
    ) -> Result<Vec<Proposal>, VectorError> {
        if wanted <= WALKED_MAX {
            let walk = |query: &Query, scratch: &mut Scratch| {
                self.layers.nearest(query, wanted, scratch);
                true
            };
            return Ok(self.walked(query, norm, walk).unwrap_or_default());
        }
        let _permit = self.permits.take();
        let matches = match self.rounding.round(query, norm) {
            Rounded::Floats(query) => self.index.search(&query, wanted),
            Rounded::Bytes(query) => self.index.search(&query, wanted),
        };
        Ok(unmeasured(matches.map_err(engine)?))
    }

    /// The `wanted` slots that seem nearest among those that pass `test`, nearest first; they may be fewer.
    /// `None` once looking at more than `budget` rows was not enough.
    pub fn candidates_passing(
        &self,
        query: &[f32],
        norm: f32,
        wanted: usize,
        test: &dyn Fn(u64) -> bool,
        budget: usize,
    ) -> Result<Option<Vec<Proposal>>, VectorError> {
        if wanted <= WALKED_MAX {
            let test = |node| test(self.layers.tape.key(node));
            let walk = |query: &Query, scratch: &mut Scratch| {
                self.layers
                    .nearest_passing(query, wanted, &test, budget, scratch)
            };
            return Ok(self.walked(query, norm, walk));
        }
        let _permit = self.permits.take();
        let matches = guarded(test, |test| match self.rounding.round(query, norm) {
            Rounded::Floats(query) => self.index.filtered_search(&query, wanted, test),
            Rounded::Bytes(query) => self.index.filtered_search(&query, wanted, test),
        });
        Ok(Some(unmeasured(matches.map_err(engine)?)))
    }

    /// The `wanted` slots that seem nearest of those of `nodes`, nearest first.
    pub fn candidates_among(
        &self,
        query: &[f32],
        norm: f32,
        wanted: usize,
        nodes: impl Iterator<Item = u32>,
    ) -> Vec<Proposal> {
        let scan = |query: &Query, scratch: &mut Scratch| {
            self.layers.nearest_of(query, wanted, nodes, scratch);
            true
        };
        self.walked(query, norm, scan).unwrap_or_default()
    }

    /// The slot that each node stands for, in the order of the nodes.
    pub fn slots(&self) -> impl Iterator<Item = u64> {
        (0_u32..)
            .take(self.layers.tape.nodes)
            .map(|node| self.layers.tape.key(node))
    }

    /// What a walk of our own leaves, unless it gives up.
    fn walked(
        &self,
        query: &[f32],
        norm: f32,
        walk: impl FnOnce(&Query, &mut Scratch) -> bool,
    ) -> Option<Vec<Proposal>> {
        let query = self.rounded(query, norm);
        let mut scratch = self.scratches.lock().pop().unwrap_or_default();
        let ended = walk(&query, &mut scratch);
        let proposed = scratch.pool.iter().map(|met| Proposal {
            slot: self.layers.tape.key(met.node),
            distance: Some(self.rounding.restored(met.distance)),
        });
        let proposed = ended.then(|| proposed.collect());
        self.scratches.lock().push(scratch);
        proposed
    }

    /// A search for the row of `matrix` that a node stands for.
    pub(super) fn query_at(&self, node: u32, matrix: &Matrix) -> Query {
        let row =
            usize::try_from(self.layers.tape.key(node)).expect("a slot is the number of a row");
        self.rounded(matrix.row(row), matrix.norm(row))
    }

    fn rounded(&self, query: &[f32], norm: f32) -> Query {
        match self.rounding.round(query, norm) {
            Rounded::Floats(query) => self.layers.distances.floats(query),
            Rounded::Bytes(query) => Query::I8(query),
        }
    }

    /// Reads a byte of every page of the file.
    pub fn touch(&self) {
        let pages = self.layers.tape.content().iter().step_by(4_096);
        std::hint::black_box(pages.map(|byte| u64::from(*byte)).sum::<u64>());
    }

    /// Bytes in memory when all of the graph has been touched: the file and what points into it.
    pub fn memory_bytes(&self) -> usize {
        self.layers.tape.memory_bytes() + self.index.memory_usage()
    }
}

/// What usearch found, without the distances that its search has of rounded vectors.
fn unmeasured(matches: usearch::ffi::Matches) -> Vec<Proposal> {
    let unmeasured = |slot| Proposal {
        slot,
        distance: None,
    };
    matches.keys.into_iter().map(unmeasured).collect()
}

/// Runs a search whose filter is called from C++, where a panic must not pass: it passes afterwards.
fn guarded<T>(test: &dyn Fn(u64) -> bool, search: impl FnOnce(&dyn Fn(u64) -> bool) -> T) -> T {
    let panic = Mutex::new(None);
    let found = search(&|slot| {
        catch_unwind(AssertUnwindSafe(|| test(slot))).unwrap_or_else(|payload| {
            *panic.lock() = Some(payload);
            false
        })
    });
    match panic.into_inner() {
        Some(payload) => resume_unwind(payload),
        None => found,
    }
}

fn index_options(config: &HnswConfig, dimensions: usize) -> IndexOptions {
    IndexOptions {
        dimensions,
        metric: match config.metric {
            Metric::Cosine | Metric::Dot => MetricKind::IP,
            Metric::L2 => MetricKind::L2sq,
        },
        quantization: match config.quantization {
            Quantization::F32 => ScalarKind::F32,
            Quantization::F16 => ScalarKind::F16,
            Quantization::Bf16 => ScalarKind::BF16,
            Quantization::I8 => ScalarKind::I8,
        },
        connectivity: config.connectivity,
        expansion_add: config.expansion_add,
        expansion_search: 1,
        multi: false,
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the shape of `map_err`")]
fn engine(error: impl ToString) -> VectorError {
    VectorError::Engine {
        engine: "usearch",
        reason: error.to_string(),
    }
}

/// As many at a time as threads were reserved; the rest wait.
struct Permits {
    free: Mutex<usize>,
    given_back: Condvar,
}

impl Permits {
    fn new(count: usize) -> Self {
        Self {
            free: Mutex::new(count),
            given_back: Condvar::new(),
        }
    }

    fn take(&self) -> Permit<'_> {
        let mut free = self.free.lock();
        self.given_back.wait_while(&mut free, |free| *free == 0);
        *free -= 1;
        Permit { permits: self }
    }
}

struct Permit<'a> {
    permits: &'a Permits,
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        *self.permits.free.lock() += 1;
        self.permits.given_back.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thread_begins_with_a_share_of_its_own_and_every_row_is_dealt_once() {
        let rows: Vec<u32> = (0..1_000).collect();
        for threads in [1, 2, 3, 7] {
            let shares = Shares::new(&rows, threads);
            let begun: Vec<u32> = (0..threads)
                .filter_map(|own| shares.next(own))
                .map(|batch| batch[0])
                .collect();
            let apart = 1_000_u32.div_ceil(u32::try_from(threads).unwrap());
            let expected: Vec<u32> = (0..1_000).step_by(apart as usize).collect();
            assert_eq!(begun, expected);
            let mut dealt: Vec<u32> = std::iter::from_fn(|| shares.next(threads - 1))
                .flatten()
                .copied()
                .collect();
            dealt.extend(begun.iter().flat_map(|&first| {
                let end = (first + apart).min(1_000);
                first..end.min(first + 64)
            }));
            dealt.sort_unstable();
            assert_eq!(dealt, rows);
        }
        assert_eq!(Shares::new(&[], 2).next(1), None);
        assert_eq!(Shares::new(&[5], 4).next(3), Some(&[5][..]));
    }
}
