//! `GET /vectors/hnsw/trials/{idx}/best`: the trial whose configuration is to be promoted.

use actix_web::{HttpRequest, HttpResponse, web};
use lakehouse_journal::model::catalog::{KeptTrial, Trial};
use serde::Deserialize;

use super::{answering, share, trial_view};
use crate::rest::{
    Edge,
    auth::{May, ReadData},
    body::query,
    problem::Problem,
};

/// What the best is judged by.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BestOf {
    #[serde(default = "most")]
    min_recall: f64,
    #[serde(default)]
    by: By,
}

fn most() -> f64 {
    0.99
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum By {
    #[default]
    P50,
    P95,
    P99,
    Memory,
    Build,
}

/// The trial to promote: the best that reaches the recall.
#[utoipa::path(get, path = "/vectors/hnsw/trials/{idx}/best", tag = "quality",
    params(("idx" = String, Path), ("min_recall" = Option<f64>, Query), ("by" = Option<String>, Query, description = "p50, p95, p99, memory or build")),
    responses((status = 200, description = "trial"), (status = 404, body = Problem)))]
pub async fn best(
    edge: web::Data<Edge>,
    may: May<ReadData>,
    index: web::Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let asked: BestOf = query(&request)?;
    let catalog = edge.lake.catalog();
    let found = answering(&edge, &catalog.state, &may, &index)?;
    // What was measured on an index of that name before this one was of other rows.
    let of_this = |kept: &KeptTrial| kept.at >= found.created_at && kept.trial.refused.is_none();
    let reached = catalog
        .state
        .trials_of(&index)
        .filter(|(_, kept)| of_this(kept) && share(kept.trial.recall_ppm) >= asked.min_recall);
    let cost = |trial: &Trial| match asked.by {
        By::P50 => trial.latency_ns.p50,
        By::P95 => trial.latency_ns.p95,
        By::P99 => trial.latency_ns.p99,
        By::Memory => trial.memory_bytes,
        By::Build => trial.build_ms,
    };
    let best = reached.min_by_key(|(_, kept)| cost(&kept.trial));
    let Some((_, kept)) = best else {
        let detail = format!(
            "no trial of `{index}` reaches a recall of {}",
            asked.min_recall
        );
        let missing = Problem::not_found("trial", &index);
        return Err(Problem { detail, ..missing });
    };
    Ok(HttpResponse::Ok().json(trial_view(kept)))
}
