//! Embeddings brought up to date by call, how the last run ended, what was refused, and what is behind.

use actix_web::{HttpResponse, web};
use lakehouse_actors::{Caller, Refreshed};
use lakehouse_journal::model::catalog::{
    CatalogState, Dataset, Generation, IngestMode, RefreshCause,
};
use serde_json::{Value, json};

use super::must_show_all;
use crate::rest::{
    Edge,
    auth::{May, ReadCatalog, ReadData, Write},
    problem::Problem,
    times,
};

/// Rows of one answer about refused ones.
const FAILURES_MAX: usize = 1_000;

/// Brings every index over a dataset up to date. Goes on when whoever asked hangs up.
#[utoipa::path(post, path = "/vectors/refresh/{dataset}", tag = "vectors", params(("dataset" = String, Path)),
    responses((status = 200, description = "{dataset, rows, embedded, unchanged, removed, skipped, refused, texts_sent, provider_calls, tokens, models, elapsed_ms, journal_seq}"),
        (status = 404, body = Problem), (status = 422, body = Problem), (status = 503, body = Problem)))]
pub async fn refresh(
    edge: web::Data<Edge>,
    may: May<Write>,
    dataset: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let done = refreshed(&edge, &dataset, RefreshCause::Call, may.caller(&[])).await?;
    Ok(HttpResponse::Ok().json(answer(&dataset, &done)))
}

/// Tries rows again whose texts a provider refused.
#[utoipa::path(post, path = "/vectors/refresh/{dataset}/retry", tag = "vectors", params(("dataset" = String, Path)),
    responses((status = 200, description = "as `/vectors/refresh/{dataset}`, with `retried`: texts that were forgotten to be refused"),
        (status = 404, body = Problem), (status = 422, body = Problem), (status = 503, body = Problem)))]
pub async fn retry(
    edge: web::Data<Edge>,
    may: May<Write>,
    dataset: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let catalog = edge.lake.catalog();
    catalog.state.dataset(&dataset)?;
    let retried = edge
        .indexes
        .forget_refusals(&catalog.state, &dataset)
        .await?;
    let done = refreshed(&edge, &dataset, RefreshCause::Retry, may.caller(&[])).await?;
    let mut answer = answer(&dataset, &done);
    answer["retried"] = json!(retried);
    Ok(HttpResponse::Ok().json(answer))
}

async fn refreshed(
    edge: &Edge,
    dataset: &str,
    cause: RefreshCause,
    caller: Caller,
) -> Result<Refreshed, Problem> {
    let (lake, name) = (edge.lake.clone(), dataset.to_owned());
    let task = tokio::spawn(async move { lake.refresh(&name, cause, caller).await });
    Ok(task.await.map_err(|error| Problem::internal(&error))??)
}

fn answer(dataset: &str, done: &Refreshed) -> Value {
    let counts = &done.counts;
    json!({
        "dataset": dataset,
        "rows": counts.rows,
        "embedded": counts.embedded,
        "unchanged": counts.unchanged,
        "removed": counts.removed,
        "skipped": counts.skipped,
        "refused": counts.refused,
        "texts_sent": counts.texts_sent,
        "provider_calls": counts.provider_calls,
        "tokens": counts.tokens,
        "models": counts.models,
        "elapsed_ms": done.elapsed_ms,
        "journal_seq": done.seq,
    })
}

/// Rows that indexes do not have because a model has no vector for their text, with the reasons; for who
/// sees every row of those indexes.
#[utoipa::path(get, path = "/vectors/refresh/{dataset}/failures", tag = "vectors", params(("dataset" = String, Path)),
    responses((status = 200, description = "{items: [{index, key, code, error}], next: null, truncated}"),
        (status = 403, body = Problem), (status = 404, body = Problem)))]
pub async fn failures(
    edge: web::Data<Edge>,
    may: May<ReadData>,
    dataset: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let catalog = edge.lake.catalog();
    catalog.state.dataset(&dataset)?;
    let mut items = Vec::new();
    for index in catalog.state.indexes_over(&dataset) {
        must_show_all(&edge, &catalog.state, index, &may.reader())?;
        let most = FAILURES_MAX + 1 - items.len();
        let rows = edge.indexes.refused_rows(&catalog, index, most).await?;
        items.extend(rows.into_iter().map(|row| {
            json!({ "index": index.name, "key": row.key, "code": row.code, "error": row.reason })
        }));
    }
    let truncated = items.len() > FAILURES_MAX;
    items.truncate(FAILURES_MAX);
    let body = json!({ "items": items, "next": null, "truncated": truncated });
    Ok(HttpResponse::Ok().json(body))
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
