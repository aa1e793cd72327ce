//! `POST /vectors/hnsw/tune`: a job that tries configurations within a budget, keeps every trial, and
//! proposes the best or has a generation of it built, which answers when it reaches what it must.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use actix_web::{HttpResponse, web};
use lakehouse_actors::{Caller, Job, LakeError, PortError};
use lakehouse_journal::model::{
    ErrorKind,
    catalog::{Backend, CatalogCommand, IndexConfig, QualityCommand, Slo},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{NewSlo, draw_eval, share, slo_of};
use crate::{
    engines::{
        indexes::quality::{Draw, TrialGraph, Workbench},
        vectors::{
            Quantization,
            tune::{Best, Outcome, Shape, tune as search},
        },
    },
    rest::{
        Edge,
        auth::{May, Write},
        body::Body,
        problem::Problem,
    },
};

/// Queries of the set that is drawn when there is none.
const QUERIES: usize = 200;
const REPEATS: u32 = 3;
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
    seconds: u64,
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
    responses((status = 202, description = "{index, job}; the job's result is {best: {config, recall_at_k, p50_us}?, trials, promoted}"),
        (status = 404, body = Problem), (status = 409, body = Problem)))]
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
    let Some(target) = target else {
        return Err(Problem::invalid("`min_recall` is needed"));
    };
    let backend = edge.lake.catalog().state.index(&asked.index)?.spec.backend;
    if asked.promote && backend != Backend::Hnsw {
        return Err(Problem::unsupported(
            "`promote` for an index that is not `hnsw`",
        ));
    }
    let caller = Caller {
        idempotency: None,
        ..may.caller(&body.bytes)
    };
    let id = uuid::Uuid::new_v4().to_string();
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
    edge: &Edge,
    asked: &Tune,
    target: Slo,
    caller: &Caller,
    job: &Arc<Job>,
) -> Result<Value, Problem> {
    let name = &asked.index;
    if edge.lake.catalog().state.valid_eval(name).is_none() {
        let draw = Draw {
            queries: QUERIES,
            k: 10,
            seed: 0,
        };
        draw_eval(edge, &format!("tune-{name}"), name, draw, caller.clone()).await?;
    }
    let catalog = edge.lake.catalog();
    let index = catalog.state.index(name)?;
    let eval = catalog
        .state
        .valid_eval(name)
        .ok_or_else(|| Problem::not_found("eval", name))?;
    let workbench = edge.indexes.workbench(&catalog, index, eval).await?;
    let base = index.spec.config.clone();
    let tries = Tries {
        base: base.clone(),
        lake: edge.lake.clone(),
        caller: caller.clone(),
        workbench,
        job: Arc::clone(job),
        until: Instant::now() + Duration::from_secs(asked.budget.seconds),
        graph: None,
    };
    let trials = asked.budget.trials;
    let handle = tokio::runtime::Handle::current();
    let best = web::block(move || tries.search(target, trials, &handle))
        .await
        .map_err(|error| Problem::internal(&error))??;
    let count = job.progress.done.load(Ordering::Relaxed);
    let Some(best) = best else {
        return Ok(json!({ "best": null, "trials": count, "promoted": false }));
    };
    let config = config_of(&base, best.shape, best.ef_search);
    let promoted = asked.promote && promote(edge, name, &config, caller).await?;
    Ok(json!({
        "best": {
            "config": config,
            "recall_at_k": share(best.outcome.recall_ppm),
            "p50_us": super::micros(best.outcome.p50_ns),
        },
        "trials": count,
        "promoted": promoted,
    }))
}

/// Builds and measures what the search asks for.
struct Tries {
    /// What the search leaves as it is.
    base: IndexConfig,
    lake: lakehouse_actors::Lake,
    caller: Caller,
    workbench: Workbench,
    job: Arc<Job>,
    until: Instant,
    /// The last graph: its candidates are tried one after the other.
    graph: Option<(Shape, TrialGraph)>,
}

impl Tries {
    fn search(
        mut self,
        target: Slo,
        trials: usize,
        handle: &tokio::runtime::Handle,
    ) -> Result<Option<Best>, LakeError> {
        search(target.min_recall_ppm, trials, |shape, ef| {
            self.trial(shape, ef, handle)
        })
    }

    fn trial(
        &mut self,
        shape: Shape,
        ef: usize,
        handle: &tokio::runtime::Handle,
    ) -> Result<Option<Outcome>, LakeError> {
        if self.job.progress.is_cancelled() {
            let text = "the search was cancelled";
            return Err(PortError::new(ErrorKind::Timeout, "cancelled", text).into());
        }
        if Instant::now() >= self.until {
            return Ok(None);
        }
        let graph = match self.graph.take() {
            Some((built, graph)) if built == shape => graph,
            other => {
                drop(other);
                self.workbench
                    .build(&config_of(&self.base, shape, ef), handle)?
            }
        };
        let trial = self.workbench.measure(&graph, Some(ef), REPEATS, handle)?;
        self.graph = Some((shape, graph));
        let outcome = Outcome {
            recall_ppm: trial.recall_ppm,
            p50_ns: trial.latency_ns.p50,
        };
        let command = CatalogCommand::Quality(QualityCommand::RecordTrial(trial));
        handle.block_on(self.lake.ask_catalog(command, self.caller.clone()))?;
        self.job.progress.done.fetch_add(1, Ordering::Relaxed);
        Ok(Some(outcome))
    }
}

fn config_of(base: &IndexConfig, shape: Shape, ef: usize) -> IndexConfig {
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
        ..base.clone()
    }
}

/// Has a generation of the winner built, and says whether it answers.
async fn promote(
    edge: &Edge,
    name: &str,
    config: &IndexConfig,
    caller: &Caller,
) -> Result<bool, Problem> {
    let command = CatalogCommand::RequestGeneration {
        index: name.to_owned(),
        config: Some(config.clone()),
    };
    edge.lake.ask_catalog(command, caller.clone()).await?;
    loop {
        let catalog = edge.lake.catalog();
        let index = catalog.state.index(name)?;
        if index.building.is_none() {
            return Ok(index.spec.config == *config);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
