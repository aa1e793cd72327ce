//! The Lance side: each kind of index built by this engine, searched through the engine and by the
//! library alone, appended to, and rid of one row. One runtime drives it, as in the daemon.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use arrow::{
    array::{
        Array, ArrayRef, FixedSizeListArray, Float32Array, RecordBatch, RecordBatchIterator,
        StringArray,
    },
    datatypes::{DataType, Field, Schema},
};
use lance::{
    Dataset,
    dataset::{
        InsertBuilder, WriteMode, WriteParams,
        cleanup::CleanupPolicyBuilder,
        optimize::{CompactionOptions, compact_files},
    },
};
use tokio::runtime::{Builder, Runtime};

use super::{
    super::BenchError,
    contest::Contender,
    data::{K, Set},
    engine::{BuildCost, each_chunk},
    system::{self, Peak},
};
use crate::engines::{
    lance::{LanceBuilder, LanceConfig, LanceIndex, LanceKind, LanceSearch},
    vectors::{BuildOptions, Built, Found, Visible},
};

/// Where the engine keeps Lance's own dataset within a generation.
const ROWS: &str = "rows.lance";
/// Partitions probed, tried from the cheapest.
pub(super) const NPROBES: &[usize] = &[1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 200, 316];
/// Candidates a hit that are compared in full precision by the library alone.
const REFINE: u32 = 10;

#[expect(clippy::needless_pass_by_value, reason = "the shape of `map_err`")]
fn failed(error: impl ToString) -> BenchError {
    BenchError::wrong("lance", error.to_string())
}

pub(super) fn spelled(kind: LanceKind) -> &'static str {
    match kind {
        LanceKind::Auto => "auto",
        LanceKind::Flat => "flat",
        LanceKind::IvfPq => "ivf_pq",
        LanceKind::IvfHnswSq => "ivf_hnsw_sq",
    }
}

/// A generation on Lance.
pub(super) struct OnLance {
    pub index: LanceIndex,
    pub built: Built,
    dir: PathBuf,
    runtime: Arc<Runtime>,
}

/// A runtime as the daemon has one.
pub(super) fn runtime() -> Result<Arc<Runtime>, BenchError> {
    Ok(Arc::new(Builder::new_multi_thread().enable_all().build()?))
}

impl OnLance {
    pub(super) fn build(
        set: &Set,
        kind: LanceKind,
        dir: &Path,
        runtime: &Arc<Runtime>,
    ) -> Result<(Self, BuildCost), BenchError> {
        let peak = Peak::start();
        let clock = Instant::now();
        let config = LanceConfig {
            kind,
            ..LanceConfig::default()
        };
        let mut builder = LanceBuilder::new(dir, set.dimensions, config, BuildOptions::default())?;
        each_chunk(set, &|_| true, |chunk| {
            Ok(runtime.block_on(builder.add_chunk(chunk))?)
        })?;
        let (built, index) = runtime.block_on(async {
            let built = builder.finish().await?;
            let index = LanceIndex::open(dir, &built.files).await?;
            Ok::<_, BenchError>((built, index))
        })?;
        let cost = BuildCost {
            seconds: clock.elapsed().as_secs_f64(),
            peak_bytes: peak.bytes(),
        };
        let (dir, runtime) = (dir.to_owned(), Arc::clone(runtime));
        Ok((
            Self {
                index,
                built,
                dir,
                runtime,
            },
            cost,
        ))
    }

    /// Milliseconds from nothing in memory to the first answer, every file's hash checked.
    pub(super) fn cold(&self, set: &Set) -> Result<f64, BenchError> {
        for file in system::files_below(&self.dir)? {
            system::forget(&file)?;
        }
        let query = set.each_query().next().unwrap_or_default();
        let clock = Instant::now();
        self.runtime.block_on(async {
            let index = LanceIndex::open(&self.dir, &self.built.files).await?;
            index
                .search(query, K, LanceSearch::default(), Visible::All)
                .await
        })?;
        Ok(clock.elapsed().as_secs_f64() * 1e3)
    }

    /// Milliseconds from nothing in memory to the library's own first answer, nothing checked.
    pub(super) fn raw_cold(&self, set: &Set) -> Result<f64, BenchError> {
        for file in system::files_below(&self.dir)? {
            system::forget(&file)?;
        }
        let query = set.each_query().next().unwrap_or_default();
        let clock = Instant::now();
        let mut raw = RawLance::open(self)?;
        raw.search(query, 16)?;
        Ok(clock.elapsed().as_secs_f64() * 1e3)
    }

    /// Whether every search compares all rows.
    pub(super) fn is_flat(&self) -> bool {
        self.index.kind() == LanceKind::Flat
    }

    /// A search through the engine.
    pub(super) fn search(
        &self,
        query: &[f32],
        options: LanceSearch,
        visible: Visible,
    ) -> Result<Found, BenchError> {
        let search = self.index.search(query, K, options, visible);
        Ok(self.runtime.block_on(search)?)
    }

    /// Microseconds for the vector and the text of a row, by its key.
    pub(super) fn row_us(&self, slot: usize) -> Result<f64, BenchError> {
        let key = Set::key(slot);
        let clock = Instant::now();
        let found = self.runtime.block_on(self.index.find(&key))?;
        let us = clock.elapsed().as_secs_f64() * 1e6;
        match found {
            Some(_) => Ok(us),
            None => Err(BenchError::wrong("row by key", format!("no `{key}`"))),
        }
    }

    /// A copy of the dataset, for what changes it.
    pub(super) fn copy(&self, to: &Path) -> Result<LanceCopy, BenchError> {
        let from = self.dir.join(ROWS);
        for file in system::files_below(&from)? {
            let name = file.strip_prefix(&from).map_err(failed)?;
            let target = to.join(name);
            let parent = target.parent().unwrap_or(to);
            std::fs::create_dir_all(parent).map_err(|error| BenchError::file(parent, error))?;
            std::fs::copy(&file, &target).map_err(|error| BenchError::file(&target, error))?;
        }
        let dataset = self.runtime.block_on(Dataset::open(uri(to)?));
        Ok(LanceCopy {
            dataset: dataset.map_err(failed)?,
            dir: to.to_owned(),
            runtime: Arc::clone(&self.runtime),
        })
    }
}

/// The searches of a generation through the engine.
pub(super) struct LanceEngine<'a>(pub &'a OnLance);

impl Contender for LanceEngine<'_> {
    fn name(&self) -> String {
        format!("engine lance {}", spelled(self.0.index.kind()))
    }

    fn settings(&self) -> Vec<usize> {
        settings(self.0.index.kind())
    }

    fn queries(&self) -> usize {
        patience(self.0.index.kind())
    }

    fn search(&mut self, query: &[f32], setting: usize) -> Result<Vec<u64>, BenchError> {
        let options = LanceSearch {
            nprobes: Some(setting),
            ..LanceSearch::default()
        };
        let found = self.0.search(query, options, Visible::All)?;
        Ok(found.hits.iter().map(|hit| hit.slot).collect())
    }
}

fn settings(kind: LanceKind) -> Vec<usize> {
    match kind {
        LanceKind::Flat => vec![1],
        LanceKind::Auto | LanceKind::IvfPq | LanceKind::IvfHnswSq => NPROBES.to_vec(),
    }
}

/// A comparison of all rows takes a third of a second.
fn patience(kind: LanceKind) -> usize {
    match kind {
        LanceKind::Flat => 10,
        LanceKind::Auto | LanceKind::IvfPq | LanceKind::IvfHnswSq => 300,
    }
}

/// The library alone over the same files, with its own refinement.
pub(super) struct RawLance {
    dataset: Dataset,
    kind: LanceKind,
    runtime: Arc<Runtime>,
}

impl RawLance {
    pub(super) fn open(built: &OnLance) -> Result<Self, BenchError> {
        let dataset = built
            .runtime
            .block_on(Dataset::open(uri(&built.dir.join(ROWS))?));
        Ok(Self {
            dataset: dataset.map_err(failed)?,
            kind: built.index.kind(),
            runtime: Arc::clone(&built.runtime),
        })
    }
}

impl Contender for RawLance {
    fn name(&self) -> String {
        format!("raw lance {}", spelled(self.kind))
    }

    fn settings(&self) -> Vec<usize> {
        settings(self.kind)
    }

    fn queries(&self) -> usize {
        patience(self.kind)
    }

    fn search(&mut self, query: &[f32], setting: usize) -> Result<Vec<u64>, BenchError> {
        self.runtime
            .block_on(nearest(&self.dataset, query, setting))
    }
}

/// The row numbers that Lance finds; keys name them, as addresses change with every version.
async fn nearest(dataset: &Dataset, query: &[f32], nprobes: usize) -> Result<Vec<u64>, BenchError> {
    let mut scan = dataset.scan();
    let query = Float32Array::from(query.to_vec());
    scan.nearest("vector", &query, K).map_err(failed)?;
    scan.nprobes(nprobes).ef(128).refine(REFINE);
    scan.project(&["key"]).map_err(failed)?;
    let batch = scan.try_into_batch().await.map_err(failed)?;
    let keys = batch
        .column_by_name("key")
        .and_then(|keys| keys.as_any().downcast_ref::<StringArray>().cloned())
        .ok_or_else(|| failed("an answer without keys"))?;
    let slots =
        (0..keys.len()).filter_map(|row| keys.value(row).strip_prefix("row-")?.parse().ok());
    Ok(slots.collect())
}

/// A dataset that may be changed.
pub(super) struct LanceCopy {
    dataset: Dataset,
    dir: PathBuf,
    runtime: Arc<Runtime>,
}

impl LanceCopy {
    /// Appends rows and makes them durable; returns the milliseconds.
    pub(super) fn append(
        &mut self,
        rows: &[f32],
        dimensions: usize,
        first: usize,
    ) -> Result<f64, BenchError> {
        let before = system::files_below(&self.dir)?;
        let batch = batch_of(rows, dimensions, first, None)?;
        let clock = Instant::now();
        let schema = batch.schema();
        let params = WriteParams {
            mode: WriteMode::Append,
            ..WriteParams::default()
        };
        let destination = Arc::new(self.dataset.clone());
        let reader = RecordBatchIterator::new([Ok(batch)], schema);
        let written = self.runtime.block_on(
            InsertBuilder::new(destination)
                .with_params(&params)
                .execute_stream(reader),
        );
        self.dataset = written.map_err(failed)?;
        for file in system::files_below(&self.dir)? {
            if !before.contains(&file) {
                system::sync(&file)?;
            }
        }
        Ok(clock.elapsed().as_secs_f64() * 1e3)
    }

    /// The median of searches in microseconds, new rows and all.
    pub(super) fn search_us(&self, set: &Set, nprobes: usize) -> Result<f64, BenchError> {
        let mut times = super::super::report::Series::default();
        for query in set.each_query().take(100) {
            let clock = Instant::now();
            self.runtime
                .block_on(nearest(&self.dataset, query, nprobes))?;
            times.push(clock.elapsed().as_secs_f64() * 1e6);
        }
        Ok(times.median())
    }

    /// Deletes a row, writes its file anew without it, and removes every older version; returns the
    /// seconds.
    pub(super) fn erase(&mut self, slot: usize) -> Result<f64, BenchError> {
        let clock = Instant::now();
        let dataset = &mut self.dataset;
        self.runtime.block_on(async {
            let gone = format!("key = '{}'", Set::key(slot));
            dataset.delete(&gone).await.map_err(failed)?;
            let options = CompactionOptions {
                materialize_deletions: true,
                materialize_deletions_threshold: 0.0,
                ..CompactionOptions::default()
            };
            compact_files(dataset, options, None)
                .await
                .map_err(failed)?;
            let policy = CleanupPolicyBuilder::default()
                .before_timestamp(chrono::Utc::now())
                .delete_unverified(true)
                .build();
            dataset.cleanup_with_policy(policy).await.map_err(failed)?;
            Ok::<_, BenchError>(())
        })?;
        Ok(clock.elapsed().as_secs_f64())
    }

    /// Whether any file still holds these numbers as they came.
    pub(super) fn holds(&self, vector: &[f32]) -> Result<bool, BenchError> {
        let bytes: Vec<u8> = vector
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        let needle = memchr::memmem::Finder::new(&bytes);
        for file in system::files_below(&self.dir)? {
            let content = std::fs::read(&file).map_err(|error| BenchError::file(&file, error))?;
            if needle.find(&content).is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Rows with their keys from `first` on, and their texts out of all `texts`, as columns.
pub(super) fn batch_of(
    rows: &[f32],
    dimensions: usize,
    first: usize,
    texts: Option<&[String]>,
) -> Result<RecordBatch, BenchError> {
    let width = i32::try_from(dimensions).map_err(failed)?;
    let item = Arc::new(Field::new("item", DataType::Float32, true));
    let count = rows.len() / dimensions;
    let schema = Schema::new(vec![
        Field::new("key", DataType::Utf8, false),
        Field::new("text", DataType::Utf8, true),
        Field::new(
            "vector",
            DataType::FixedSizeList(Arc::clone(&item), width),
            false,
        ),
    ]);
    let keys: StringArray = (first..first + count)
        .map(|slot| Some(Set::key(slot)))
        .collect();
    let texts: StringArray = (first..first + count)
        .map(|slot| match texts {
            Some(texts) => Some(texts[slot].clone()),
            None => Some(format!("text of row {slot}")),
        })
        .collect();
    let numbers = Arc::new(Float32Array::from(rows.to_vec()));
    let vectors = FixedSizeListArray::try_new(item, width, numbers, None)?;
    let columns: Vec<ArrayRef> = vec![Arc::new(keys), Arc::new(texts), Arc::new(vectors)];
    Ok(RecordBatch::try_new(Arc::new(schema), columns)?)
}

fn uri(path: &Path) -> Result<&str, BenchError> {
    path.to_str()
        .ok_or_else(|| failed("a name that is not UTF-8"))
}
