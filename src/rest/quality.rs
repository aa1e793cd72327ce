//! `/vectors/hnsw/…`: evaluation sets, trials, the best of them, their plot; what an index must reach
//! before a generation of it answers. The work is the engines', what stays is the catalog's.

mod best;
mod floor;
mod plot;
mod tune;

use actix_web::{HttpRequest, HttpResponse, web};
use lakehouse_actors::Caller;
use lakehouse_journal::model::{
    catalog::{
        CatalogCommand, CatalogState, EvalSet, Index, IndexConfig, KeptTrial, QualityCommand, Tail,
        Trial,
    },
    error::check_name,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Edge,
    auth::{May, Needs, ReadCatalog, ReadData, Write},
    body::{Body, query},
    catalog::{Page, page},
    past::Snapshot,
    problem::Problem,
    times,
    vectors::must_show_all,
};
use crate::engines::indexes::quality::{Draw, Workbench};

// The paths of the OpenAPI document are the handlers' own.
pub use best::{__path_best, best};
pub use floor::{__path_set_slo, __path_slo, NewSlo, set_slo, slo};
pub(super) use floor::{floor, slo_of};
pub use plot::{__path_plot, plot};
pub use tune::{__path_tune, tune};

/// Most queries of a set and hits of each.
const QUERIES_MAX: usize = 10_000;
const K_MAX: usize = 1_000;
const REPEATS_MAX: u32 = 100;

/// `/vectors/hnsw/…` and `/vectors/indexes/{name}/slo`
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/vectors/hnsw/evals", web::get().to(evals))
        .route(
            "/vectors/hnsw/evals/{name}/autogen",
            web::post().to(autogen),
        )
        .route("/vectors/hnsw/trial", web::post().to(trial))
        .route("/vectors/hnsw/trials/{idx}", web::get().to(trials))
        .route("/vectors/hnsw/trials/{idx}/best", web::get().to(best))
        .route("/vectors/hnsw/trials/{idx}/plot.svg", web::get().to(plot))
        .route("/vectors/hnsw/cache/stats", web::get().to(cache))
        .route("/vectors/hnsw/tune", web::post().to(tune))
        .route("/vectors/indexes/{name}/slo", web::put().to(set_slo))
        .route("/vectors/indexes/{name}/slo", web::get().to(slo));
}

/// The index of that name, for who may be answered by it: what was measured on rows is for their
/// readers only.
fn answering<'a, P: Needs>(
    edge: &Edge,
    state: &'a CatalogState,
    may: &May<P>,
    name: &str,
) -> Result<&'a Index, Problem> {
    let index = state.index(name)?;
    must_show_all(edge, state, index, &may.reader())?;
    Ok(index)
}

/// What an evaluation set is drawn as.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Autogen {
    index: String,
    #[serde(default = "hundred")]
    queries: usize,
    #[serde(default = "ten")]
    k: usize,
    #[serde(default)]
    seed: u64,
}

fn hundred() -> usize {
    100
}

fn ten() -> usize {
    10
}

/// Draws held-out queries with their exact answers.
#[utoipa::path(post, path = "/vectors/hnsw/evals/{name}/autogen", tag = "quality", params(("name" = String, Path)),
    responses((status = 200, description = "{eval, index, queries, k, brute_force_p50_us, journal_seq}"),
        (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
pub async fn autogen(
    edge: web::Data<Edge>,
    may: May<Write>,
    name: web::Path<String>,
    body: Body<Autogen>,
) -> Result<HttpResponse, Problem> {
    let asked = &body.value;
    in_range("queries", asked.queries, QUERIES_MAX)?;
    in_range("k", asked.k, K_MAX)?;
    let draw = Draw {
        queries: asked.queries,
        k: asked.k,
        seed: asked.seed,
    };
    answering(&edge, &edge.lake.catalog().state, &may, &asked.index)?;
    let caller = may.caller(&body.bytes);
    let seq = draw_eval(&edge, &name, &asked.index, draw, caller).await?;
    let catalog = edge.lake.catalog();
    let mut answer = eval_view(catalog.state.eval(&name)?);
    answer["journal_seq"] = seq.into();
    Ok(HttpResponse::Ok().json(answer))
}

/// Draws a set and keeps it under a name; returns the position of the event.
async fn draw_eval(
    edge: &Edge,
    name: &str,
    index: &str,
    draw: Draw,
    caller: Caller,
) -> Result<u64, Problem> {
    // Known before the work is done.
    check_name("eval", name)?;
    let catalog = edge.lake.catalog();
    let over = &catalog.state.index(index)?.spec.source;
    let source = catalog.state.dataset_under(over);
    let source = source.ok_or_else(|| Problem::not_found("dataset", over))?;
    let source = source.name.clone();
    let drawn = async {
        // Read inside: what was deleted before the gate was passed is not drawn.
        let turn = edge.indexes.turn().await;
        let snapshot = Snapshot::of(edge, None).await?;
        let catalog = &snapshot.catalog;
        let index = catalog.state.index(index)?;
        let drawn = edge.indexes.draw_eval(catalog, index, draw).await;
        drop(turn);
        Ok::<_, Problem>(drawn?)
    };
    let committed = edge
        .lake
        .keep_eval(&source, name.to_owned(), drawn, caller)
        .await?;
    Ok(committed.seq)
}

fn in_range(what: &str, value: usize, max: usize) -> Result<(), Problem> {
    if (1..=max).contains(&value) {
        Ok(())
    } else {
        Err(Problem::invalid(format!("`{what}` may be 1 to {max}")))
    }
}

/// Every evaluation set over rows that the caller reads.
#[utoipa::path(get, path = "/vectors/hnsw/evals", tag = "quality",
    params(("limit" = Option<usize>, Query), ("after" = Option<String>, Query)),
    responses((status = 200, description = "{items: [{eval, index, queries, k, seed, valid, brute_force_p50_us, created_at}], next}")))]
pub async fn evals(
    edge: web::Data<Edge>,
    may: May<ReadData>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let asked: Page = query(&request)?;
    let catalog = edge.lake.catalog();
    let evals = catalog.state.quality.evals.iter();
    let entries = evals
        .filter(|(_, eval)| answering(&edge, &catalog.state, &may, &eval.spec.index).is_ok())
        .filter(|(name, _)| asked.after().is_none_or(|after| name.as_str() > after))
        .take(asked.limit() + 1)
        .map(|(name, eval)| (name.clone(), eval_view(eval)))
        .collect();
    Ok(HttpResponse::Ok().json(page(entries, asked.limit())))
}

fn eval_view(eval: &EvalSet) -> Value {
    json!({
        "eval": eval.name,
        "index": eval.spec.index,
        "queries": eval.spec.queries,
        "k": eval.spec.k,
        "seed": eval.spec.seed,
        "generation": eval.spec.generation,
        "brute_force_p50_us": eval.spec.brute_force_p50_ns / 1_000,
        "valid": eval.invalid_since.is_none(),
        "invalid_since": eval.invalid_since,
        "created_at": times::text(eval.created_at),
    })
}

/// A configuration to be tried.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewTrial {
    index: String,
    eval: String,
    #[serde(default)]
    config: IndexConfig,
    #[serde(default = "three")]
    repeats: u32,
    note: Option<String>,
}

fn three() -> u32 {
    3
}

/// Builds a graph of a configuration, measures it, and keeps what came out.
#[utoipa::path(post, path = "/vectors/hnsw/trial", tag = "quality",
    responses((status = 200, description = "{id, index, eval, config, recall_at_k, latency_us: {p50, p95, p99, least, most}, brute_force_us: {p50}, build_s, memory_bytes, vectors, machine, commit, at, journal_seq}"),
        (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
pub async fn trial(
    edge: web::Data<Edge>,
    may: May<Write>,
    body: Body<NewTrial>,
) -> Result<HttpResponse, Problem> {
    let caller = may.caller(&body.bytes);
    let asked = body.value;
    if !(1..=REPEATS_MAX).contains(&asked.repeats) {
        let text = format!("`repeats` may be 1 to {REPEATS_MAX}");
        return Err(Problem::invalid(text));
    }
    answering(&edge, &edge.lake.catalog().state, &may, &asked.index)?;
    let turn = edge.indexes.turn().await;
    let snapshot = Snapshot::of(&edge, None).await?;
    let catalog = &snapshot.catalog;
    let index = answering(&edge, &catalog.state, &may, &asked.index)?;
    let eval = catalog.state.eval(&asked.eval)?;
    let workbench = edge.indexes.workbench(catalog, index, eval).await?;
    let config = merged(&index.spec.config, &asked.config);
    drop(snapshot);
    let repeats = asked.repeats;
    let mut measured = web::block(move || {
        let measured = measure(&workbench, &config, repeats);
        drop((workbench, turn));
        measured
    })
    .await
    .map_err(|error| Problem::internal(&error))??;
    measured.note = asked.note;
    let id = measured.id.clone();
    let command = CatalogCommand::Quality(QualityCommand::RecordTrial(measured));
    let committed = edge.lake.ask_catalog(command, caller).await?;
    let catalog = edge.lake.catalog();
    let kept = catalog.state.trials_of(&asked.index);
    // A request that was carried out before is answered with the trial of then.
    let kept = kept
        .filter(|(seq, kept)| kept.trial.id == id || *seq == committed.seq)
        .map(|(_, kept)| trial_view(kept))
        .next();
    let mut answer = kept.unwrap_or_default();
    answer["journal_seq"] = committed.seq.into();
    Ok(HttpResponse::Ok().json(answer))
}

fn measure(
    workbench: &Workbench,
    config: &IndexConfig,
    repeats: u32,
) -> Result<Trial, lakehouse_actors::PortError> {
    let graph = workbench.build(config)?;
    workbench.measure(&graph, graph.ef(), repeats)
}

/// What is set in `over`, else in `base`.
pub(super) fn merged(base: &IndexConfig, over: &IndexConfig) -> IndexConfig {
    let text = |over: &Option<String>, base: &Option<String>| over.clone().or_else(|| base.clone());
    IndexConfig {
        connectivity: over.connectivity.or(base.connectivity),
        ef_construction: over.ef_construction.or(base.ef_construction),
        ef_search: over.ef_search.or(base.ef_search),
        quantization: text(&over.quantization, &base.quantization),
        metric: text(&over.metric, &base.metric),
        kind: text(&over.kind, &base.kind),
        partitions: over.partitions.or(base.partitions),
        sub_vectors: over.sub_vectors.or(base.sub_vectors),
        nprobes: over.nprobes.or(base.nprobes),
        refine_factor: over.refine_factor.or(base.refine_factor),
    }
}

/// The cache of query embeddings.
#[utoipa::path(get, path = "/vectors/hnsw/cache/stats", tag = "quality",
    responses((status = 200, description = "{entries, bytes, capacity_bytes, hits, misses, evictions}")))]
pub async fn cache(edge: web::Data<Edge>, _: May<ReadCatalog>) -> HttpResponse {
    HttpResponse::Ok().json(edge.indexes.cache_stats())
}

/// A share of a million as a fraction.
pub(super) fn share(ppm: u32) -> f64 {
    f64::from(ppm) / 1e6
}

/// Nanoseconds as microseconds with their fraction.
#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
fn micros(ns: u64) -> f64 {
    ns as f64 / 1e3
}

fn tail(tail: &Tail) -> Value {
    json!({ "p50": micros(tail.p50), "p95": micros(tail.p95), "p99": micros(tail.p99) })
}

fn trial_view(kept: &KeptTrial) -> Value {
    let trial = &kept.trial;
    let mut latency = tail(&trial.latency_ns);
    latency["least"] = tail(&trial.least_ns);
    latency["most"] = tail(&trial.most_ns);
    json!({
        "id": trial.id,
        "index": trial.index,
        "eval": trial.eval,
        "config": trial.config,
        "generation": trial.generation,
        "k": trial.k,
        "recall_at_k": share(trial.recall_ppm),
        "latency_us": latency,
        "repeats": trial.repeats,
        "brute_force_us": { "p50": micros(trial.brute_force_p50_ns) },
        "build_s": micros(trial.build_ms),
        "memory_bytes": trial.memory_bytes,
        "vectors": trial.vectors,
        "machine": trial.machine,
        "commit": trial.commit,
        "note": trial.note,
        "refused": trial.refused,
        "at": times::text(kept.at),
    })
}

/// Every trial of an index, newest first.
#[utoipa::path(get, path = "/vectors/hnsw/trials/{idx}", tag = "quality",
    params(("idx" = String, Path), ("limit" = Option<usize>, Query), ("after" = Option<String>, Query)),
    responses((status = 200, description = "{items: [trial], next}"), (status = 404, body = Problem)))]
pub async fn trials(
    edge: web::Data<Edge>,
    may: May<ReadData>,
    index: web::Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let asked: Page = query(&request)?;
    let after: Option<u64> = asked
        .after()
        .map(str::parse)
        .transpose()
        .map_err(|_| Problem::invalid("`after` is no cursor of this list"))?;
    let catalog = edge.lake.catalog();
    answering(&edge, &catalog.state, &may, &index)?;
    let entries = catalog
        .state
        .trials_of(&index)
        .filter(|(seq, _)| after.is_none_or(|after| *seq < after))
        .take(asked.limit() + 1)
        .map(|(seq, kept)| (seq.to_string(), trial_view(kept)))
        .collect();
    Ok(HttpResponse::Ok().json(page(entries, asked.limit())))
}
