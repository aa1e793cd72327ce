//! Evaluation sets and trials of the lake's indexes: sets are drawn from the generation that answers
//! and kept as objects; a configuration is tried on a graph of its own over the same rows, built in
//! the staging directory and removed again. The routes and the indexing worker call it; what comes
//! out is for the catalog to keep.

use std::{path::PathBuf, sync::Arc};

use lakehouse_actors::PortError;
use lakehouse_journal::model::{
    ErrorKind, Fold,
    catalog::{
        Backend, CatalogState, Chunker, EvalSet, EvalSpec, FileDigest, Generation, Index,
        IndexConfig, Trial, row_mark,
    },
};

use super::{
    LakeIndexes, Live, Shown,
    config::{described, hnsw_config},
    live::MeasuredLive,
    measure::{Measurable, Measured, Queries},
    of_vector,
    open::{apart, digest},
    visible::dataset_of,
};
use crate::engines::{
    usearch::{HnswBuilder, HnswIndex},
    vectors::{self, BuildOptions, Chunk, HnswConfig, Visible, files},
};

const EVAL_FILE: &str = "eval.json";
/// Queries of a check when there is no evaluation set.
const CHECK_QUERIES: usize = 100;
const CHECK_K: usize = 10;
/// How often a check asks every query.
const CHECK_REPEATS: u32 = 3;
/// Rows of a chunk on their way into a trial's graph.
const CHUNK_ROWS: u64 = 4_096;

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
    staging: PathBuf,
}

/// A graph to be measured.
pub struct TrialGraph {
    index: HnswIndex,
    config: HnswConfig,
    build_ms: u64,
    /// Where it lies, until it is dropped.
    _dir: tempfile::TempDir,
}

fn impossible(text: impl Into<String>) -> PortError {
    PortError::new(ErrorKind::Unprocessable, "impossible", text)
}

/// What is measured is a graph of rows, and these are at hand without waiting.
///
/// # Errors
/// `Unprocessable` for an index on Lance, and for one whose texts are cut.
pub fn must_be_graph(index: &Index) -> Result<(), PortError> {
    // What it is being made as counts, too: it would be measured when it is built.
    let chunk = index.spec.chunk.or(index.spec_to_build().chunk);
    has_graph(index.spec.backend, chunk, &index.name)
}

/// As [`must_be_graph`], for one that is not defined yet.
///
/// # Errors
/// `Unprocessable` for an index on Lance, and for one whose texts are cut.
pub fn has_graph(backend: Backend, chunk: Option<Chunker>, index: &str) -> Result<(), PortError> {
    let what = match (backend, chunk) {
        (Backend::Hnsw, None) => return Ok(()),
        (Backend::Lance, _) => "is on `lance`",
        (Backend::Hnsw, Some(_)) => "has chunks",
    };
    let text = format!(
        "index `{index}` {what}: sets, trials, floors and tuning are of `hnsw` indexes with one vector a row"
    );
    Err(PortError::new(
        ErrorKind::Unprocessable,
        "unsupported",
        text,
    ))
}

fn measured(live: &Live) -> Result<MeasuredLive<'_>, PortError> {
    let rows = live.measurable();
    rows.ok_or_else(|| PortError::internal("rows without a graph are not measured"))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PortError> + Send + 'static,
) -> Result<T, PortError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| PortError::internal(error.to_string()))?
}

impl LakeIndexes {
    /// Draws an evaluation set from the generation that answers and puts it into the index's bucket.
    /// The caller holds a [`Turn`](super::Turn), and passes the gate of those that publish.
    ///
    /// # Errors
    /// `Conflict` while the index is not built; `Unprocessable` when it has no rows; when the bucket
    /// refuses.
    pub async fn draw_eval(
        &self,
        catalog: &Fold<CatalogState>,
        index: &Index,
        draw: Draw,
    ) -> Result<EvalSpec, PortError> {
        must_be_graph(index)?;
        let live = self.live(index).await?;
        let generation = live.generation;
        let shown = self.there(catalog, index, &live).await?;
        let source = dataset_of(&catalog.state, index)?.name.clone();
        let (queries, brute_force_p50_ns) = blocking(move || {
            Queries::draw(
                &measured(&live)?,
                shown.visible(),
                draw.queries,
                draw.k,
                draw.seed,
            )
            .map_err(|error| impossible(error.to_string()))
        })
        .await?;
        let keys = queries.truth.iter().flatten().chain(&queries.drawn_from);
        let marks = keys.flat_map(|key| [row_mark(key), row_mark(&(self.key_hash)(key))]);
        let rows = marks
            .map(u64::from)
            .collect::<std::collections::BTreeSet<_>>();
        let rows = rows.into_iter().filter_map(|mark| u32::try_from(mark).ok());
        let unique = uuid::Uuid::new_v4().simple().to_string();
        let prefix = format!("vectors/{}/eval-{}", index.name, &unique[..12]);
        let files = self.publish_eval(index, &prefix, &queries).await?;
        Ok(EvalSpec {
            index: index.name.clone(),
            source,
            queries: u32::try_from(queries.vectors.len()).unwrap_or(u32::MAX),
            k: u32::try_from(draw.k).unwrap_or(u32::MAX),
            seed: draw.seed,
            bucket: index.spec.bucket.clone(),
            prefix,
            files,
            rows: rows.collect(),
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
        let internal = |error: &dyn std::fmt::Display| PortError::internal(error.to_string());
        let work = self.work_dir("eval-")?;
        let json = serde_json::to_vec(queries).map_err(|error| internal(&error))?;
        files::write_new(work.path(), EVAL_FILE, &json).map_err(|error| of_vector(&error))?;
        let digest = files::seal(work.path(), EVAL_FILE).map_err(|error| of_vector(&error))?;
        let path = work.path().join(EVAL_FILE);
        self.publish_file(&index.spec.bucket, prefix, &path, &digest)
            .await?;
        Ok(vec![FileDigest {
            name: digest.name,
            bytes: digest.bytes,
            blake3: digest.blake3,
        }])
    }

    fn work_dir(&self, prefix: &str) -> Result<tempfile::TempDir, PortError> {
        tempfile::Builder::new()
            .prefix(prefix)
            .tempdir_in(&self.staging)
            .map_err(|error| PortError::internal(error.to_string()))
    }

    async fn queries_of(&self, eval: &EvalSet) -> Result<Queries, PortError> {
        let spec = &eval.spec;
        let dir = self
            .files
            .of_generation(&spec.bucket, &spec.prefix, &spec.files)
            .await?;
        let file = eval.spec.files.first().ok_or_else(|| {
            let text = format!("evaluation set `{}` has no file", eval.name);
            PortError::new(ErrorKind::Corrupt, "index_corrupt", text)
        })?;
        let open = files::open_verified(&dir, &digest(file)).map_err(|error| of_vector(&error))?;
        let json = files::read_all(&open, EVAL_FILE).map_err(|error| of_vector(&error))?;
        serde_json::from_slice(&json)
            .map_err(|error| PortError::new(ErrorKind::Corrupt, "index_corrupt", error.to_string()))
    }

    /// Rows and queries to try configurations on. Where rows have come or gone since the set was drawn,
    /// the truth is found anew. The caller holds a [`Turn`](super::Turn) since before it read `catalog`.
    ///
    /// # Errors
    /// `Unprocessable` for a set that deletions have touched or of another index; as a search.
    pub async fn workbench(
        &self,
        catalog: &Fold<CatalogState>,
        index: &Index,
        eval: &EvalSet,
    ) -> Result<Workbench, PortError> {
        must_be_graph(index)?;
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
        let dataset = dataset_of(&catalog.state, index)?;
        let shown = self.there(catalog, index, &live).await?;
        let same_generation = live.generation == eval.spec.generation;
        let queries = self.queries_of(eval).await?;
        let mut workbench = Workbench {
            index: index.name.clone(),
            eval: eval.name.clone(),
            live,
            shown,
            queries,
            brute_force_p50_ns: eval.spec.brute_force_p50_ns,
            staging: self.staging.clone(),
        };
        let drawn = eval.spec.source_seq;
        let generation = index.live_generation();
        let ridden = generation.map_or(&[][..], |live| &live.deltas);
        let same_rows = dataset.rows_seq <= drawn
            && dataset.last_tombstone_seq() <= drawn
            && ridden.iter().all(|delta| delta.seq <= drawn);
        if same_generation && same_rows {
            return Ok(workbench);
        }
        blocking(move || {
            let rows = measured(&workbench.live)?;
            let found = workbench
                .queries
                .find_truth(&rows, workbench.shown.visible());
            workbench.brute_force_p50_ns = found.map_err(|error| of_vector(&error))?;
            Ok(workbench)
        })
        .await
    }

    /// Measures a generation that is kept, for the moment in which it shall answer.
    ///
    /// # Errors
    /// When its files or those of the set cannot be read.
    pub async fn check_kept(
        &self,
        index: &Index,
        generation: &Generation,
        eval: Option<EvalSet>,
    ) -> Result<Trial, PortError> {
        let (number, prefix) = (generation.generation, &generation.prefix);
        self.check_files(index, number, prefix, &generation.files, eval)
            .await
    }

    /// Measures the files of a generation, whether an event points at it or not.
    pub(super) async fn check_files(
        &self,
        index: &Index,
        generation: u64,
        prefix: &str,
        kept: &[FileDigest],
        eval: Option<EvalSet>,
    ) -> Result<Trial, PortError> {
        must_be_graph(index)?;
        let turn = self.turn().await;
        let bucket = &index.spec.bucket;
        let dir = self.files.of_generation(bucket, prefix, kept).await?;
        let expected = apart(kept).engine;
        let drawn = match &eval {
            Some(eval) => Some(self.queries_of(eval).await?),
            None => None,
        };
        let (name, eval) = (index.name.clone(), eval.map(|eval| eval.name));
        blocking(move || {
            let opened = HnswIndex::open(&dir, &expected).map_err(|error| of_vector(&error))?;
            let failed = |error: vectors::VectorError| of_vector(&error);
            let (queries, brute_force) = match drawn {
                Some(mut queries) => {
                    let took = queries.find_truth(&opened, Visible::All).map_err(failed)?;
                    (queries, took)
                }
                None => Queries::draw(&opened, Visible::All, CHECK_QUERIES, CHECK_K, generation)
                    .map_err(failed)?,
            };
            let ef = opened.config().expansion_search;
            let measured = queries
                .ask(&opened, Visible::All, ef, CHECK_REPEATS)
                .map_err(failed)?;
            let mut trial = trial_of(&opened, &queries, measured, ef, CHECK_REPEATS);
            trial.index = name;
            trial.eval = eval.unwrap_or_default();
            trial.generation = Some(generation);
            trial.brute_force_p50_ns = brute_force;
            drop((opened, turn));
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
    pub fn build(&self, config: &IndexConfig) -> Result<TrialGraph, PortError> {
        let asked = config;
        let mut config = hnsw_config(asked)?;
        if asked.metric.is_some() && config.metric != self.live.metric() {
            // The true rows are those of the index's own distance.
            return Err(impossible("a trial has the distance of its index"));
        }
        config.metric = self.live.metric();
        let failed = |error: vectors::VectorError| of_vector(&error);
        let dir = tempfile::Builder::new()
            .prefix("trial-")
            .tempdir_in(&self.staging)
            .map_err(|error| PortError::internal(error.to_string()))?;
        let place = dir.path().join("generation");
        let from = measured(&self.live)?;
        let dimensions = self.live.dimensions();
        let options = BuildOptions::default();
        let mut builder = HnswBuilder::new(&place, dimensions, config, options).map_err(failed)?;
        let visible = self.shown.visible();
        for first in (0..from.rows()).step_by(usize::try_from(CHUNK_ROWS).unwrap_or(1)) {
            let slots = first..(first + CHUNK_ROWS).min(from.rows());
            let (mut keys, mut numbers) = (Vec::new(), Vec::new());
            for slot in slots.filter(|&slot| visible.allows(slot)) {
                if let (Some(key), Some(vector)) = (from.key_of(slot), from.vector_of(slot)) {
                    keys.push(key.to_owned());
                    numbers.extend_from_slice(vector);
                }
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
        Ok(TrialGraph {
            index,
            config,
            build_ms: built.stats.build_ms,
            _dir: dir,
        })
    }

    /// Asks the queries of a graph. Blocks.
    ///
    /// # Errors
    /// What the search says.
    pub fn measure(&self, graph: &TrialGraph, ef: usize, repeats: u32) -> Result<Trial, PortError> {
        let measured = self
            .queries
            .ask(&graph.index, Visible::All, ef, repeats)
            .map_err(|error| of_vector(&error))?;
        let mut trial = trial_of(&graph.index, &self.queries, measured, ef, repeats);
        trial.index.clone_from(&self.index);
        trial.eval.clone_from(&self.eval);
        trial.brute_force_p50_ns = self.brute_force_p50_ns;
        trial.build_ms = graph.build_ms;
        Ok(trial)
    }
}

impl TrialGraph {
    /// The candidates that its configuration asks for.
    pub fn ef(&self) -> usize {
        self.config.expansion_search
    }
}

/// A trial of what was measured; whose it is the caller fills in.
fn trial_of(
    graph: &HnswIndex,
    queries: &Queries,
    measured: Measured,
    ef: usize,
    repeats: u32,
) -> Trial {
    let number = |value: usize| u32::try_from(value).ok();
    Trial {
        id: uuid::Uuid::new_v4().to_string(),
        index: String::new(),
        eval: String::new(),
        config: described(graph.config(), ef),
        generation: None,
        k: number(queries.k).unwrap_or(u32::MAX),
        recall_ppm: measured.recall_ppm,
        latency_ns: measured.latency,
        least_ns: measured.least,
        most_ns: measured.most,
        repeats,
        brute_force_p50_ns: 0,
        build_ms: graph.stats().build_ms,
        memory_bytes: graph.memory_bytes() as u64,
        vectors: graph.len(),
        machine: machine(),
        commit: option_env!("LAKEHOUSE_COMMIT")
            .unwrap_or(env!("CARGO_PKG_VERSION"))
            .to_owned(),
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
