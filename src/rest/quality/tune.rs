//! `POST /vectors/hnsw/tune`: a job that tries configurations within a budget, keeps every trial, and
//! proposes the best or has a generation of it built, which answers when it reaches what it must. The
//! job is nobody's after a restart; its trials stay.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use actix_web::{HttpResponse, web};
use lakehouse_actors::{Caller, Job};
use lakehouse_journal::model::catalog::{CatalogCommand, IndexConfig, QualityCommand, Slo, Trial};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use super::{NewSlo, answering, draw_eval, in_range, merged, share, slo_of};
use crate::{
    engines::{
        indexes::{
            Turn,
            quality::{Draw, TrialGraph, Workbench, must_be_graph},
        },
        vectors::{
            Quantization,
            tune::{Best, Outcome, Shape, tune as search},
        },
    },
    rest::{
        Edge,
        auth::{May, Write},
        body::Body,
        past::Snapshot,
        problem::Problem,
    },
};

/// Queries of the set that is drawn when there is none.
const QUERIES: usize = 200;
const REPEATS: u32 = 3;
/// Longest name of a set.
const NAME_MAX: usize = 128;
/// Most trials and seconds of a budget.
const TRIALS_MAX: usize = 1_000;
const SECONDS_MAX: usize = 86_400;
/// Between two looks at the build of the winner.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What is searched for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tune {
    index: String,
    #[serde(default = "most")]
    min_recall: f64,
    #[serde(default)]
    budget: Budget,
    #[serde(default)]
    promote: bool,
}

fn most() -> f64 {
    0.99
}

/// How much may be tried.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Budget {
    trials: usize,
    seconds: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            trials: 40,
            seconds: 900,
        }
    }
}

/// Searches configurations; the job's result is the best, and what became of it.
#[utoipa::path(post, path = "/vectors/hnsw/tune", tag = "quality",
    responses((status = 202, description = "{index, job}; the job's result is {eval, best: {config, recall_at_k, p50_us}?, trials, promoted, error?}"),
        (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
pub async fn tune(
    edge: web::Data<Edge>,
    may: May<Write>,
    body: Body<Tune>,
) -> Result<HttpResponse, Problem> {
    let asked = body.value;
    let min_recall = Some(asked.min_recall);
    let target = slo_of(&NewSlo {
        min_recall,
        max_p99_us: None,
    })?;
    let target = target.ok_or_else(|| Problem::invalid("`min_recall` is needed"))?;
    in_range("budget.trials", asked.budget.trials, TRIALS_MAX)?;
    in_range("budget.seconds", asked.budget.seconds, SECONDS_MAX)?;
    let catalog = edge.lake.catalog();
    must_be_graph(answering(&edge, &catalog.state, &may, &asked.index)?)?;
    let mut caller = may.caller(&body.bytes);
    let id = match caller.idempotency.take() {
        None => uuid::Uuid::new_v4().to_string(),
        // The same request again is the same job.
        Some((key, fingerprint)) => {
            let hash = blake3::hash(format!("{key}/{fingerprint}").as_bytes());
            hash.to_hex()[..32].to_owned()
        }
    };
    if edge.lake.jobs().find(&id).is_some() {
        let answer = json!({ "index": asked.index, "job": id });
        return Ok(HttpResponse::Accepted().json(answer));
    }
    let job = edge.lake.jobs().open(&id, "tune", &asked.index);
    job.progress
        .total
        .store(asked.budget.trials as u64, Ordering::Relaxed);
    let answer = json!({ "index": asked.index, "job": id });
    actix_web::rt::spawn(async move {
        job.runs();
        match run(&edge, &asked, target, &caller, &job).await {
            Ok(result) => job.done(Some(result)),
            Err(problem) => job.failed(problem.detail),
        }
    });
    Ok(HttpResponse::Accepted().json(answer))
}

async fn run(
    edge: &web::Data<Edge>,
    asked: &Tune,
    target: Slo,
    caller: &Caller,
    job: &Arc<Job>,
) -> Result<Value, Problem> {
    let name = &asked.index;
    let until = Instant::now() + Duration::from_secs(asked.budget.seconds as u64);
    if edge.lake.catalog().state.valid_eval(name).is_none() {
        let draw = Draw {
            queries: QUERIES,
            k: 10,
            seed: 0,
        };
        let eval: String = format!("tune-{name}").chars().take(NAME_MAX).collect();
        draw_eval(edge, &eval, name, draw, caller.clone()).await?;
    }
    let catalog = edge.lake.catalog();
    let eval = catalog.state.valid_eval(name).map(|eval| eval.name.clone());
    let eval = eval.ok_or_else(|| Problem::not_found("eval", name))?;
    let (asks, asked_for) = mpsc::channel(1);
    let tries = Tries {
        asks,
        job: Arc::clone(job),
        until,
        built_in: Duration::ZERO,
        bench: None,
    };
    let trials = asked.budget.trials;
    let search = web::block(move || tries.search(target, trials));
    let answers = answers(edge, name, &eval, caller, asked_for);
    let (best, ()) = futures::join!(search, answers);
    let best = best.map_err(|error| Problem::internal(&error))??;
    let mut result = json!({
        "eval": eval,
        "trials": job.progress.done.load(Ordering::Relaxed),
        "best": null,
        "promoted": false,
    });
    let Some(best) = best else {
        return Ok(result);
    };
    let config = config_of(best.shape, best.ef_search);
    let config = merged(&edge.lake.catalog().state.index(name)?.spec.config, &config);
    result["best"] = json!({
        "config": config,
        "recall_at_k": share(best.outcome.recall_ppm),
        "p50_us": super::micros(best.outcome.p50_ns),
    });
    if asked.promote {
        // What was found is told, also when it could not be promoted.
        match promote(edge, name, &config, caller).await {
            Ok(promoted) => result["promoted"] = promoted.into(),
            Err(problem) => result["error"] = problem.detail.into(),
        }
    }
    Ok(result)
}

/// What the search asks of the lake from its thread; it ends when nobody answers any more.
enum Ask {
    /// Rows to build graphs of; nothing when the set is of no use any more.
    Rows(oneshot::Sender<Result<Option<(Workbench, Turn)>, Problem>>),
    /// To keep a trial.
    Keep(Box<Trial>, oneshot::Sender<Result<(), Problem>>),
}

async fn answers(
    edge: &Edge,
    index: &str,
    eval: &str,
    caller: &Caller,
    mut asks: mpsc::Receiver<Ask>,
) {
    while let Some(ask) = asks.recv().await {
        // Who asked has gone when an answer is not taken.
        match ask {
            Ask::Rows(answer) => {
                let _ = answer.send(rows(edge, index, eval).await);
            }
            Ask::Keep(trial, answer) => {
                let command = CatalogCommand::Quality(QualityCommand::RecordTrial(*trial));
                let kept = edge.lake.ask_catalog(command, caller.clone()).await;
                let _ = answer.send(kept.map(|_| ()).map_err(Problem::from));
            }
        }
    }
}

/// The rows of now: what was deleted since the last graph is in no further one.
async fn rows(edge: &Edge, index: &str, eval: &str) -> Result<Option<(Workbench, Turn)>, Problem> {
    let turn = edge.indexes.turn().await;
    let snapshot = Snapshot::of(edge, None).await?;
    let catalog = &snapshot.catalog;
    let index = catalog.state.index(index)?;
    let eval = catalog.state.eval(eval).ok();
    let Some(eval) = eval.filter(|eval| eval.invalid_since.is_none()) else {
        return Ok(None);
    };
    let workbench = edge.indexes.workbench(catalog, index, eval).await?;
    Ok(Some((workbench, turn)))
}

/// Builds and measures what the search asks for, on a thread that may block.
struct Tries {
    asks: mpsc::Sender<Ask>,
    job: Arc<Job>,
    until: Instant,
    /// How long the last graph took to build.
    built_in: Duration,
    /// The last graph: its candidates are tried one after the other.
    bench: Option<Bench>,
}

/// A graph with the rows that it was built of. An erasure waits for its turn to end.
struct Bench {
    shape: Shape,
    graph: TrialGraph,
    workbench: Workbench,
    _turn: Turn,
}

impl Tries {
    fn search(mut self, target: Slo, trials: usize) -> Result<Option<Best>, Problem> {
        search(target.min_recall_ppm, trials, |shape, ef| {
            self.trial(shape, ef)
        })
    }

    /// What a configuration gives; nothing when the time is over, or when rows of the set were deleted.
    fn trial(&mut self, shape: Shape, ef: usize) -> Result<Option<Outcome>, Problem> {
        let bench = match self.bench.take() {
            Some(bench) if bench.shape == shape && Instant::now() < self.until => bench,
            other => {
                drop(other);
                match self.build(shape, ef)? {
                    Some(bench) => bench,
                    None => return Ok(None),
                }
            }
        };
        let trial = bench.workbench.measure(&bench.graph, ef, REPEATS)?;
        self.bench = Some(bench);
        let outcome = Outcome {
            recall_ppm: trial.recall_ppm,
            p50_ns: trial.latency_ns.p50,
        };
        self.ask(|answer| Ask::Keep(Box::new(trial), answer))?;
        self.job.progress.done.fetch_add(1, Ordering::Relaxed);
        Ok(Some(outcome))
    }

    fn build(&mut self, shape: Shape, ef: usize) -> Result<Option<Bench>, Problem> {
        if Instant::now() + self.built_in >= self.until {
            return Ok(None);
        }
        let Some((workbench, turn)) = self.ask(Ask::Rows)? else {
            return Ok(None);
        };
        let clock = Instant::now();
        let graph = workbench.build(&config_of(shape, ef))?;
        self.built_in = clock.elapsed();
        Ok(Some(Bench {
            shape,
            graph,
            workbench,
            _turn: turn,
        }))
    }

    fn ask<T>(
        &self,
        ask: impl FnOnce(oneshot::Sender<Result<T, Problem>>) -> Ask,
    ) -> Result<T, Problem> {
        let (answer, answered) = oneshot::channel();
        let left = || Problem::internal(&"nobody answers the search any more");
        self.asks.blocking_send(ask(answer)).map_err(|_| left())?;
        answered.blocking_recv().map_err(|_| left())?
    }
}

fn config_of(shape: Shape, ef: usize) -> IndexConfig {
    let number = |value: usize| u32::try_from(value).ok();
    let quantization = match shape.quantization {
        Quantization::F32 => "f32",
        Quantization::F16 => "f16",
        Quantization::Bf16 => "bf16",
        Quantization::I8 => "i8",
    };
    IndexConfig {
        connectivity: number(shape.connectivity),
        ef_construction: number(shape.ef_construction),
        ef_search: number(ef),
        quantization: Some(quantization.to_owned()),
        ..IndexConfig::default()
    }
}

/// Has a generation of the winner built, and says whether it answers.
async fn promote(
    edge: &Edge,
    name: &str,
    config: &IndexConfig,
    caller: &Caller,
) -> Result<bool, Problem> {
    // A build that is under way is of another configuration.
    ended(edge, name).await?;
    let command = CatalogCommand::RequestGeneration {
        index: name.to_owned(),
        config: Some(config.clone()),
    };
    edge.lake.ask_catalog(command, caller.clone()).await?;
    ended(edge, name).await?;
    let catalog = edge.lake.catalog();
    let index = catalog.state.index(name)?;
    let live = index.live_generation();
    Ok(live.is_some_and(|live| index.config_of(live) == config))
}

/// Waits until no build of the index is due.
async fn ended(edge: &Edge, name: &str) -> Result<(), Problem> {
    while edge.lake.catalog().state.index(name)?.building.is_some() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}
