//! Embeddings brought up to date by call, how the last run ended, and what is behind.

use actix_web::{HttpResponse, web};
use lakehouse_journal::model::catalog::{
    CatalogState, Dataset, Generation, IngestMode, RefreshCause,
};
use serde_json::{Value, json};

use crate::rest::{
    Edge,
    auth::{May, ReadCatalog, Write},
    problem::Problem,
    times,
};

/// Brings every index over a dataset up to date. Goes on when whoever asked hangs up.
#[utoipa::path(post, path = "/vectors/refresh/{dataset}", tag = "vectors", params(("dataset" = String, Path)),
    responses((status = 200, description = "{dataset, rows, embedded, unchanged, removed, skipped, provider_calls, models, elapsed_ms, journal_seq}"),
        (status = 404, body = Problem), (status = 422, body = Problem)))]
pub async fn refresh(
    edge: web::Data<Edge>,
    may: May<Write>,
    dataset: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let (lake, name, caller) = (edge.lake.clone(), dataset.clone(), may.caller(&[]));
    let task = tokio::spawn(async move { lake.refresh(&name, RefreshCause::Call, caller).await });
    let done = task.await.map_err(|error| Problem::internal(&error))??;
    let counts = &done.counts;
    Ok(HttpResponse::Ok().json(json!({
        "dataset": *dataset,
        "rows": counts.rows,
        "embedded": counts.embedded,
        "unchanged": counts.unchanged,
        "removed": counts.removed,
        "skipped": counts.skipped,
        // The embedder is in the process.
        "provider_calls": 0,
        "models": counts.models,
        "elapsed_ms": done.elapsed_ms,
        "journal_seq": done.seq,
    })))
}

/// How the last refresh of a dataset ended.
#[utoipa::path(get, path = "/vectors/refresh/{dataset}", tag = "vectors", params(("dataset" = String, Path)),
    responses((status = 200, description = "{dataset, last_run: {run, cause, at, elapsed_ms, code?, error?} | null, due}"),
        (status = 404, body = Problem)))]
pub async fn last_run(
    edge: web::Data<Edge>,
    _: May<ReadCatalog>,
    dataset: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let catalog = edge.lake.catalog();
    let found = catalog.state.dataset(&dataset)?;
    let last = found.last_refresh.as_ref().map(|last| {
        json!({
            "run": last.run,
            "cause": last.cause,
            "at": times::text(last.at),
            "elapsed_ms": last.elapsed_ms,
            "code": last.error.as_ref().map(|(code, _)| code),
            "error": last.error.as_ref().map(|(_, error)| error),
        })
    });
    Ok(HttpResponse::Ok().json(json!({
        "dataset": *dataset, "last_run": last, "due": found.refresh_due.is_some(),
    })))
}

/// Datasets whose indexes are behind their rows.
#[utoipa::path(get, path = "/vectors/stale", tag = "vectors",
    responses((status = 200, description = "{items: [{dataset, embedding_stale_since, stale_for_s, last_embedded_at, rows_to_embed, policy, next_run_at, last_error}], next: null}")))]
pub async fn stale(edge: web::Data<Edge>, _: May<ReadCatalog>) -> HttpResponse {
    let now = edge.lake.now();
    let catalog = edge.lake.catalog();
    let items: Vec<Value> = catalog
        .state
        .datasets
        .values()
        .filter_map(|dataset| {
            let since = dataset.embedding_stale_since?;
            let next = edge.lake.refresh_of(dataset);
            let last = dataset.last_refresh.as_ref();
            Some(json!({
                "dataset": dataset.name,
                "embedding_stale_since": times::text(since),
                "stale_for_s": (now - since).max(0) / 1_000_000,
                "last_embedded_at": times::maybe(dataset.last_embedded_at),
                "rows_to_embed": to_embed(&catalog.state, dataset),
                "policy": dataset.embedding_refresh_policy,
                "next_run_at": times::maybe(next.and_then(|schedule| schedule.next_due)),
                "last_error": last.and_then(|last| last.error.as_ref()).map(|(_, error)| error),
            }))
        })
        .collect();
    HttpResponse::Ok().json(json!({ "items": items, "next": null }))
}

/// How many rows the index that is furthest behind has not seen, by what was taken in since.
fn to_embed(state: &CatalogState, dataset: &Dataset) -> u64 {
    let seen = state
        .indexes_over(&dataset.name)
        .map(|index| {
            index
                .live_generation()
                .map_or(0, Generation::embedded_through)
        })
        .min()
        .unwrap_or(0);
    let later = dataset
        .lineage
        .iter()
        .filter(|step| step.journal_seq > seen);
    let taken_in = later.fold(0, |rows, step| match step.mode {
        IngestMode::Append | IngestMode::Upsert => rows + step.rows,
        IngestMode::Create | IngestMode::Replace => step.rows,
    });
    taken_in.min(dataset.row_count())
}
