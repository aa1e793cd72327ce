//! Evaluation sets and trials of the lake's indexes: sets are drawn from what answers and kept as
//! objects; a configuration is tried on a graph of its own over the same rows, built in the staging
//! directory and removed again. The routes and the indexing worker call it; what comes out is for the
//! catalog to keep.

use std::{collections::BTreeSet, future::Future, sync::Arc};

use lakehouse_actors::{PortError, ports::BuiltGeneration};
use lakehouse_journal::model::{
    ErrorKind, Fold,
    catalog::{
        CatalogState, EvalSet, EvalSpec, FileDigest, Generation, Index, IndexConfig, Trial,
        row_mark,
    },
};

use super::{
    Base, LakeIndexes, Live, hnsw_config, internal,
    measure::{Measured, Queries},
    of_vector,
    sets::Shown,
    text::LazyText,
};
use crate::engines::{
    buckets::of_bucket,
    usearch::{HnswBuilder, HnswIndex},
    vectors::{self, BuildOptions, Chunk, Quantization, VectorError, Visible, files},
};

const EVAL_FILE: &str = "eval.json";
/// Queries of a check when there is no evaluation set.
const CHECK_QUERIES: usize = 100;
const CHECK_K: usize = 10;
/// How often a check asks every query.
const CHECK_REPEATS: u32 = 3;
/// Rows of a chunk on their way into a trial's graph.
const CHUNK_ROWS: usize = 4_096;

/// What an evaluation set is drawn as.
#[derive(Debug, Clone, Copy)]
pub struct Draw {
    /// How many queries.
    pub queries: usize,
    /// How many true rows each.
    pub k: usize,
    /// What they are drawn with.
    pub seed: u64,
}

/// Rows and queries that configurations of an index are tried on.
pub struct Workbench {
    index: String,
    eval: String,
    live: Arc<Live>,
    shown: Shown,
    queries: Queries,
    brute_force_p50_ns: u64,
    staging: std::path::PathBuf,
}

/// A graph to be measured.
pub struct TrialGraph {
    live: Live,
    config: IndexConfig,
    build_ms: u64,
    /// Where it lies, until it is dropped.
    _dir: tempfile::TempDir,
}

fn impossible(text: impl Into<String>) -> PortError {
    PortError::new(ErrorKind::Unprocessable, "impossible", text)
}

fn corrupt(text: impl Into<String>) -> PortError {
    PortError::new(ErrorKind::Corrupt, "index_corrupt", text)
}

/// Comparing every row takes its time: on a thread where nobody waits behind it.
async fn aside<T: Send + 'static>(
    work: impl Future<Output = Result<T, VectorError>> + Send + 'static,
) -> Result<T, PortError> {
    let handle = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || handle.block_on(work))
        .await
        .map_err(|error| internal(&error))?
        .map_err(|error| match error {
            VectorError::Config { reason } => impossible(reason),
            other => of_vector(&other),
        })
}

impl LakeIndexes {
    /// Draws an evaluation set from what answers and puts it into the index's bucket.
    ///
    /// # Errors
    /// `Conflict` while the index is not built; `Unprocessable` when it has no rows; when the bucket
    /// refuses.
    pub async fn draw_eval(
        &self,
        catalog: &Fold<CatalogState>,
        index: &Index,
        name: &str,
        draw: Draw,
    ) -> Result<EvalSpec, PortError> {
        let live = self.live(index).await?;
        let generation = live.generation;
        let shown = self.shown(catalog, index, &live, None, None).await?;
        let Draw { queries, k, seed } = draw;
        let drawn = async move { Queries::draw(&live, shown.visible(), queries, k, seed).await };
        let (queries, brute_force_p50_ns) = aside(drawn).await?;
        let keys = queries.truth.iter().flatten().chain(&queries.drawn_from);
        let marks = keys.flat_map(|key| [row_mark(key), row_mark(&(self.key_hash)(key))]);
        let marks: BTreeSet<u32> = marks.collect();
        let unique = uuid::Uuid::new_v4().simple().to_string();
        let prefix = format!("vectors/{}/eval-{name}-{}", index.name, &unique[..12]);
        let files = self.publish_eval(index, &prefix, &queries).await?;
        Ok(EvalSpec {
            index: index.name.clone(),
            source: index.spec.source.clone(),
            queries: u32::try_from(queries.vectors.len()).unwrap_or(u32::MAX),
            k: u32::try_from(k).unwrap_or(u32::MAX),
            seed,
            bucket: index.spec.bucket.clone(),
            prefix,
            files,
            rows: marks.into_iter().collect(),
            generation,
            source_seq: catalog.seq,
            brute_force_p50_ns,
        })
    }

    async fn publish_eval(
        &self,
        index: &Index,
        prefix: &str,
        queries: &Queries,
    ) -> Result<Vec<FileDigest>, PortError> {
        let work = tempfile::Builder::new()
            .prefix("eval-")
            .tempdir_in(&self.staging)
            .map_err(|error| internal(&error))?;
        let json = serde_json::to_vec(queries).map_err(|error| internal(&error))?;
        let bucket = index.spec.bucket.clone();
        let local = self.local_bucket(&bucket)?;
        let key = format!("{prefix}/{EVAL_FILE}");
        tokio::task::spawn_blocking(move || {
            let sealed = files::write_new(work.path(), EVAL_FILE, &json)
                .and_then(|()| files::seal(work.path(), EVAL_FILE));
            let digest = sealed.map_err(|error| of_vector(&error))?;
            local
                .put_file(&work.path().join(EVAL_FILE), &key)
                .map_err(|error| of_bucket(&bucket, &error))?;
            Ok(vec![FileDigest {
                name: digest.name,
                bytes: digest.bytes,
                blake3: digest.blake3,
            }])
        })
        .await
        .map_err(|error| internal(&error))?
    }

    fn queries_of(&self, eval: &EvalSet) -> Result<Queries, PortError> {
        let dir = self.local_dir(&eval.spec.bucket, &eval.spec.prefix)?;
        let file = eval.spec.files.first();
        let file =
            file.ok_or_else(|| corrupt(format!("evaluation set `{}` has no file", eval.name)))?;
        let expected = vectors::FileDigest {
            name: file.name.clone(),
            bytes: file.bytes,
            blake3: file.blake3.clone(),
        };
        let open = files::open_verified(&dir, &expected).map_err(|error| of_vector(&error))?;
        let json = files::read_all(&open, EVAL_FILE).map_err(|error| of_vector(&error))?;
        serde_json::from_slice(&json).map_err(|error| corrupt(error.to_string()))
    }

    /// Rows and queries to try configurations on. Where the set was drawn from other rows, the truth
    /// is found anew.
    ///
    /// # Errors
    /// `Unprocessable` for a set that deletions have touched or of another index; as a search.
    pub async fn workbench(
        &self,
        catalog: &Fold<CatalogState>,
        index: &Index,
        eval: &EvalSet,
    ) -> Result<Workbench, PortError> {
        if eval.spec.index != index.name {
            let text = format!(
                "evaluation set `{}` is of index `{}`",
                eval.name, eval.spec.index
            );
            return Err(impossible(text));
        }
        if eval.invalid_since.is_some() {
            let text = format!("rows of evaluation set `{}` were deleted", eval.name);
            return Err(PortError::new(
                ErrorKind::Unprocessable,
                "eval_invalid",
                text,
            ));
        }
        let live = self.live(index).await?;
        let shown = self.shown(catalog, index, &live, None, None).await?;
        // With the same generation and nothing riding on it since, the rows are those of then.
        let same = live.generation == eval.spec.generation
            && index
                .live_generation()
                .is_some_and(|built| built.embedded_through() <= eval.spec.source_seq);
        let mut workbench = Workbench {
            index: index.name.clone(),
            eval: eval.name.clone(),
            live,
            shown,
            queries: self.queries_of(eval)?,
            brute_force_p50_ns: eval.spec.brute_force_p50_ns,
            staging: self.staging.clone(),
        };
        if same {
            return Ok(workbench);
        }
        aside(async move {
            let Workbench {
                queries,
                live,
                shown,
                ..
            } = &mut workbench;
            workbench.brute_force_p50_ns = queries.find_truth(live, shown.visible()).await?;
            Ok(workbench)
        })
        .await
    }

    /// Measures a generation that no event points at yet.
    pub(super) async fn check_built(
        &self,
        index: &Index,
        generation: u64,
        built: &BuiltGeneration,
        eval: Option<EvalSet>,
    ) -> Result<Trial, PortError> {
        let as_built = Generation {
            generation,
            job: String::new(),
            source_seq: built.source_seq,
            config: None,
            prefix: built.prefix.clone(),
            files: built.files.clone(),
            vectors: built.vectors,
            skipped: built.skipped,
            build_ms: 0,
            built_at: 0,
            rows_seq: built.rows_seq,
            deltas: Vec::new(),
        };
        let base = self.base(index, &as_built).await?;
        let live = Live::new(generation, base, built.source_seq);
        let drawn = match &eval {
            Some(eval) => Some(self.queries_of(eval)?),
            None => None,
        };
        let config = index.config_to_build().clone();
        let (name, eval) = (index.name.clone(), eval.map(|eval| eval.name));
        aside(async move {
            let (queries, brute_force) = match drawn {
                Some(mut queries) => {
                    let took = queries.find_truth(&live, Visible::All).await?;
                    (queries, took)
                }
                None => {
                    let (count, seed) = (CHECK_QUERIES, generation);
                    Queries::draw(&live, Visible::All, count, CHECK_K, seed).await?
                }
            };
            let asked = queries.ask(&live, Visible::All, None, CHECK_REPEATS);
            let measured = asked.await?;
            let mut trial = trial_of(&live, &queries, measured, config, CHECK_REPEATS);
            trial.index = name;
            trial.eval = eval.unwrap_or_default();
            trial.generation = Some(generation);
            trial.brute_force_p50_ns = brute_force;
            Ok(trial)
        })
        .await
    }
}

impl Workbench {
    /// Builds a graph of a configuration over the visible rows. Blocks for as long as that takes.
    ///
    /// # Errors
    /// `Unprocessable` for a configuration out of range; when the disk refuses.
    pub fn build(
        &self,
        config: &IndexConfig,
        handle: &tokio::runtime::Handle,
    ) -> Result<TrialGraph, PortError> {
        let failed = |error: VectorError| of_vector(&error);
        let dir = tempfile::Builder::new()
            .prefix("trial-")
            .tempdir_in(&self.staging)
            .map_err(|error| internal(&error))?;
        let place = dir.path().join("generation");
        let live = &self.live;
        let options = BuildOptions::default();
        let mut builder =
            HnswBuilder::new(&place, live.dimensions(), hnsw_config(config)?, options)
                .map_err(failed)?;
        let slots = self.shown.to_set(live.rows());
        let slots: Vec<u64> = slots.iter().map(u64::from).collect();
        for part in slots.chunks(CHUNK_ROWS) {
            let stored = handle.block_on(live.stored(part)).map_err(failed)?;
            let (mut keys, mut numbers) = (Vec::new(), Vec::new());
            for row in stored {
                keys.push(row.key);
                numbers.extend(row.vector);
            }
            builder
                .add_chunk(Chunk {
                    keys: &keys,
                    texts: None,
                    vectors: &numbers,
                })
                .map_err(failed)?;
        }
        let built = builder.finish().map_err(failed)?;
        let index = HnswIndex::open(&place, &built.files).map_err(failed)?;
        let base = Base {
            index: Arc::new(index),
            source_seq: 0,
            text: LazyText::new(place, Vec::new()),
        };
        Ok(TrialGraph {
            live: Live::new(0, Arc::new(base), 0),
            config: config.clone(),
            build_ms: built.stats.build_ms,
            _dir: dir,
        })
    }

    /// Asks the queries of a graph, with other candidates than its configuration has when they are
    /// given. Blocks.
    ///
    /// # Errors
    /// What the search says.
    pub fn measure(
        &self,
        graph: &TrialGraph,
        ef: Option<usize>,
        repeats: u32,
        handle: &tokio::runtime::Handle,
    ) -> Result<Trial, PortError> {
        let asked = self.queries.ask(&graph.live, Visible::All, ef, repeats);
        let measured = handle.block_on(asked).map_err(|error| of_vector(&error))?;
        let mut config = graph.config.clone();
        if let Some(ef) = ef {
            config.ef_search = u32::try_from(ef).ok();
        }
        let mut trial = trial_of(&graph.live, &self.queries, measured, config, repeats);
        trial.index.clone_from(&self.index);
        trial.eval.clone_from(&self.eval);
        trial.brute_force_p50_ns = self.brute_force_p50_ns;
        trial.build_ms = graph.build_ms;
        Ok(trial)
    }
}

/// The configuration with what it leaves to the engine filled in.
fn filled(mut config: IndexConfig) -> IndexConfig {
    let Ok(hnsw) = hnsw_config(&config) else {
        return config;
    };
    let number = |value: usize| u32::try_from(value).ok();
    let quantization = match hnsw.quantization {
        Quantization::F32 => "f32",
        Quantization::F16 => "f16",
        Quantization::Bf16 => "bf16",
        Quantization::I8 => "i8",
    };
    config.connectivity = number(hnsw.connectivity);
    config.ef_construction = number(hnsw.expansion_add);
    config.ef_search = number(hnsw.expansion_search);
    config.quantization = Some(quantization.to_owned());
    config
}

/// A trial of what was measured; whose it is the caller fills in.
fn trial_of(
    live: &Live,
    queries: &Queries,
    measured: Measured,
    config: IndexConfig,
    repeats: u32,
) -> Trial {
    let index = &live.base.index;
    Trial {
        id: uuid::Uuid::new_v4().to_string(),
        index: String::new(),
        eval: String::new(),
        config: filled(config),
        generation: None,
        k: u32::try_from(queries.k).unwrap_or(u32::MAX),
        recall_ppm: measured.recall_ppm,
        latency_ns: measured.latency,
        p50_spread_ns: measured.p50_spread,
        repeats,
        brute_force_p50_ns: 0,
        build_ms: index.stats().build_ms,
        memory_bytes: index.memory_bytes(),
        vectors: index.rows(),
        machine: machine(),
        commit: env!("CARGO_PKG_VERSION").to_owned(),
        note: None,
        refused: None,
    }
}

/// What the measurement ran on, in a few words.
fn machine() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo")
        .ok()
        .and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("model name"))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        });
    let cpu = cpu.unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    format!("{cpu}, {} processors", vectors::processors())
}
