//! The HNSW side: raw usearch as its own documentation uses it, and this engine over the same rows,
//! each built, opened cold, and searched. `contest` puts their searches side by side.

use std::{
    path::{Path, PathBuf},
    sync::atomic::AtomicUsize,
    time::Instant,
};

use usearch::{Index, IndexOptions, MetricKind, ScalarKind};

use super::{
    super::BenchError,
    contest::Contender,
    data::{K, Set},
    system::{self, Peak},
};
use crate::engines::{
    usearch::HnswIndex,
    vectors::{
        BuildOptions, Built, Chunk, FileDigest, HnswConfig, Metric, Quantization, Visible,
        processors,
    },
};

/// Candidates kept while a graph is searched, tried from the cheapest.
pub(super) const EF: &[usize] = &[
    10, 12, 16, 20, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 256, 320, 384, 512, 768,
];
/// Rows of a chunk on their way into a builder.
const CHUNK_ROWS: usize = 4_096;

/// How long a build took and what it held in memory beyond the rows.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct BuildCost {
    pub seconds: f64,
    pub peak_bytes: u64,
}

pub(super) fn config(quantization: Quantization) -> HnswConfig {
    HnswConfig {
        connectivity: 16,
        expansion_add: 128,
        expansion_search: 64,
        quantization,
        metric: Metric::Cosine,
    }
}

pub(super) fn spelled(quantization: Quantization) -> &'static str {
    match quantization {
        Quantization::F32 => "f32",
        Quantization::F16 => "f16",
        Quantization::Bf16 => "bf16",
        Quantization::I8 => "i8",
    }
}

/// The library alone: normalised vectors, inner product, searched from its own memory.
pub(super) struct Raw {
    index: Index,
    quantization: Quantization,
}

#[expect(clippy::needless_pass_by_value, reason = "the shape of `map_err`")]
fn failed(error: impl ToString) -> BenchError {
    BenchError::wrong("raw usearch", error.to_string())
}

fn raw_index(quantization: Quantization, dimensions: usize) -> Result<Index, BenchError> {
    let config = config(quantization);
    Index::new(&IndexOptions {
        dimensions,
        metric: MetricKind::IP,
        quantization: match quantization {
            Quantization::F32 => ScalarKind::F32,
            Quantization::F16 => ScalarKind::F16,
            Quantization::Bf16 => ScalarKind::BF16,
            Quantization::I8 => ScalarKind::I8,
        },
        connectivity: config.connectivity,
        expansion_add: config.expansion_add,
        expansion_search: config.expansion_search,
        multi: false,
    })
    .map_err(failed)
}

impl Raw {
    /// Links every row on all cores and saves the file.
    pub(super) fn build(
        set: &Set,
        quantization: Quantization,
        file: &Path,
    ) -> Result<(Self, BuildCost), BenchError> {
        let peak = Peak::start();
        let clock = Instant::now();
        let index = raw_index(quantization, set.dimensions)?;
        index
            .reserve_capacity_and_threads(set.len(), processors())
            .map_err(failed)?;
        let next = AtomicUsize::new(0);
        let worker = || -> Result<(), BenchError> {
            loop {
                let slot = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                if slot >= set.len() {
                    return Ok(());
                }
                index.add(slot as u64, set.row(slot)).map_err(failed)?;
            }
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..processors()).map(|_| scope.spawn(worker)).collect();
            let mut ended = workers.into_iter();
            ended.try_for_each(|worker| worker.join().expect("usearch does not panic"))
        })?;
        let name = file
            .to_str()
            .ok_or_else(|| failed("a name that is not UTF-8"))?;
        index.save(name).map_err(failed)?;
        system::sync(file)?;
        let cost = BuildCost {
            seconds: clock.elapsed().as_secs_f64(),
            peak_bytes: peak.bytes(),
        };
        Ok((
            Self {
                index,
                quantization,
            },
            cost,
        ))
    }

    /// Milliseconds from nothing in memory to the first answer of a saved file.
    pub(super) fn cold(
        file: &Path,
        quantization: Quantization,
        set: &Set,
    ) -> Result<f64, BenchError> {
        system::forget(file)?;
        let clock = Instant::now();
        let index = raw_index(quantization, set.dimensions)?;
        let name = file
            .to_str()
            .ok_or_else(|| failed("a name that is not UTF-8"))?;
        index.view(name).map_err(failed)?;
        let query = set.each_query().next().unwrap_or_default();
        index.search(query, K).map_err(failed)?;
        Ok(clock.elapsed().as_secs_f64() * 1e3)
    }
}

impl Contender for &Raw {
    fn name(&self) -> String {
        format!("raw usearch {}", spelled(self.quantization))
    }

    fn settings(&self) -> Vec<usize> {
        EF.to_vec()
    }

    fn search(&mut self, query: &[f32], setting: usize) -> Result<Vec<u64>, BenchError> {
        self.index.change_expansion_search(setting);
        let found = self.index.search(query, K).map_err(failed)?;
        Ok(found.keys)
    }
}

/// This engine.
pub(super) struct Ours {
    pub index: HnswIndex,
    pub built: Built,
    dir: PathBuf,
}

impl Ours {
    /// Builds a generation of every row that passes.
    pub(super) fn build(
        set: &Set,
        quantization: Quantization,
        dir: &Path,
        passes: &dyn Fn(usize) -> bool,
    ) -> Result<(Self, BuildCost), BenchError> {
        Self::build_as(set, config(quantization), dir, passes)
    }

    /// The same with a configuration of its own.
    pub(super) fn build_as(
        set: &Set,
        config: HnswConfig,
        dir: &Path,
        passes: &dyn Fn(usize) -> bool,
    ) -> Result<(Self, BuildCost), BenchError> {
        let peak = Peak::start();
        let clock = Instant::now();
        let options = BuildOptions::default();
        let mut builder =
            crate::engines::usearch::HnswBuilder::new(dir, set.dimensions, config, options)?;
        each_chunk(set, passes, |chunk| Ok(builder.add_chunk(chunk)?))?;
        let built = builder.finish()?;
        let index = HnswIndex::open(dir, &built.files)?;
        let cost = BuildCost {
            seconds: clock.elapsed().as_secs_f64(),
            peak_bytes: peak.bytes(),
        };
        let dir = dir.to_owned();
        Ok((Self { index, built, dir }, cost))
    }

    /// Milliseconds from nothing in memory to the first answer, every file's hash checked.
    pub(super) fn cold(&self, set: &Set) -> Result<f64, BenchError> {
        self.forget()?;
        let clock = Instant::now();
        let index = HnswIndex::open(&self.dir, &self.built.files)?;
        let query = set.each_query().next().unwrap_or_default();
        index.search(query, K, None, Visible::All)?;
        Ok(clock.elapsed().as_secs_f64() * 1e3)
    }

    fn forget(&self) -> Result<(), BenchError> {
        let mut files = self.built.files.iter();
        files.try_for_each(|FileDigest { name, .. }| system::forget(&self.dir.join(name)))
    }

    /// Microseconds for the vector and the text of a row, by its key.
    pub(super) fn row_us(&self, slot: usize) -> Result<f64, BenchError> {
        let key = Set::key(slot);
        let clock = Instant::now();
        let found = self
            .index
            .slot_of(&key)
            .and_then(|slot| self.index.vector_of(slot).map(<[f32]>::to_vec));
        let us = clock.elapsed().as_secs_f64() * 1e6;
        match found {
            Some(_) => Ok(us),
            None => Err(BenchError::wrong("row by key", format!("no `{key}`"))),
        }
    }
}

/// The searches of a generation.
pub(super) struct OurSearch<'a>(pub &'a Ours);

impl Contender for OurSearch<'_> {
    fn name(&self) -> String {
        format!(
            "engine hnsw {}",
            spelled(self.0.index.config().quantization)
        )
    }

    fn settings(&self) -> Vec<usize> {
        EF.to_vec()
    }

    fn search(&mut self, query: &[f32], setting: usize) -> Result<Vec<u64>, BenchError> {
        let found = self.0.index.search(query, K, Some(setting), Visible::All)?;
        Ok(found.hits.iter().map(|hit| hit.slot).collect())
    }
}

/// Brute force in this engine, over the stored vectors.
pub(super) struct Brute<'a>(pub &'a Ours);

impl Contender for Brute<'_> {
    fn name(&self) -> String {
        "brute force".to_owned()
    }

    fn settings(&self) -> Vec<usize> {
        vec![K]
    }

    fn queries(&self) -> usize {
        50
    }

    fn search(&mut self, query: &[f32], _: usize) -> Result<Vec<u64>, BenchError> {
        let found = self.0.index.search_exact(query, K, Visible::All)?;
        Ok(found.hits.iter().map(|hit| hit.slot).collect())
    }
}

/// Hands out the rows that pass, with keys and a short text each.
pub(super) fn each_chunk(
    set: &Set,
    passes: &dyn Fn(usize) -> bool,
    mut take: impl FnMut(Chunk) -> Result<(), BenchError>,
) -> Result<(), BenchError> {
    let slots: Vec<usize> = (0..set.len()).filter(|&slot| passes(slot)).collect();
    for part in slots.chunks(CHUNK_ROWS) {
        let keys: Vec<String> = part.iter().map(|&slot| Set::key(slot)).collect();
        let text = |slot: &usize| match &set.texts {
            Some(texts) => texts[*slot].clone(),
            None => format!("text of row {slot}"),
        };
        let texts: Vec<String> = part.iter().map(text).collect();
        let vectors: Vec<&[f32]> = part.iter().map(|&slot| set.row(slot)).collect();
        let vectors = vectors.concat();
        take(Chunk {
            keys: &keys,
            texts: Some(&texts),
            vectors: &vectors,
        })?;
    }
    Ok(())
}
