//! `/vectors/refresh/…` and `/vectors/stale`: embeddings brought up to date, what was left out, and
//! what is behind.

use actix_web::{HttpResponse, web};
use lakehouse_actors::{Caller, Refreshed, ports::EmbeddingWork};
use lakehouse_journal::model::catalog::RefreshCause;
use serde_json::{Value, json};

use crate::rest::{
    Edge,
    auth::{May, ReadCatalog, ReadData, Write},
    problem::Problem,
    times,
};

/// Embeds what is new or changed in a dataset, takes out what left, and leaves the rest.
#[utoipa::path(post, path = "/vectors/refresh/{dataset}", tag = "vectors", params(("dataset" = String, Path)),
    responses((status = 200, description = "{dataset, rows, embedded, unchanged, removed, refused, texts_sent, provider_calls, tokens, models, elapsed_ms, journal_seq}"),
        (status = 404, body = Problem), (status = 422, body = Problem), (status = 503, body = Problem)))]
pub async fn refresh(
    edge: web::Data<Edge>,
    may: May<Write>,
    dataset: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let done = refreshed(&edge, &dataset, RefreshCause::Call, may.caller(&[])).await?;
    Ok(HttpResponse::Ok().json(answer(&dataset, &done)))
}

/// Tries rows again whose texts the provider refused.
#[utoipa::path(post, path = "/vectors/refresh/{dataset}/retry", tag = "vectors", params(("dataset" = String, Path)),
    responses((status = 200, description = "as `/vectors/refresh/{dataset}`, with `retried`"),
        (status = 404, body = Problem), (status = 422, body = Problem), (status = 503, body = Problem)))]
pub async fn retry(
    edge: web::Data<Edge>,
    may: May<Write>,
    dataset: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let catalog = edge.lake.catalog();
    catalog.state.dataset(&dataset)?;
    let retried = edge.indexes.forget_refusals(&catalog, &dataset).await?;
    let done = refreshed(&edge, &dataset, RefreshCause::Retry, may.caller(&[])).await?;
    let mut answer = answer(&dataset, &done);
    answer["retried"] = json!(retried);
    Ok(HttpResponse::Ok().json(answer))
}

/// A refresh goes on when whoever asked for it hangs up.
async fn refreshed(
    edge: &Edge,
    dataset: &str,
    cause: RefreshCause,
    caller: Caller,
) -> Result<Refreshed, Problem> {
    let (lake, dataset) = (edge.lake.clone(), dataset.to_owned());
    let task = tokio::spawn(async move { lake.refresh(&dataset, cause, caller).await });
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
        "refused": counts.refused,
        "texts_sent": counts.texts_sent,
        "provider_calls": counts.provider_calls,
        "tokens": counts.tokens,
        "models": counts.models,
        "elapsed_ms": done.elapsed_ms,
        "journal_seq": done.seq,
    })
}

/// Rows that have no vector because their text is refused, with the reasons.
#[utoipa::path(get, path = "/vectors/refresh/{dataset}/failures", tag = "vectors", params(("dataset" = String, Path)),
    responses((status = 200, description = "{items: [{index, key, code, error}], next: null, last_run}"),
        (status = 404, body = Problem)))]
pub async fn failures(
    edge: web::Data<Edge>,
    _: May<ReadData>,
    dataset: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let catalog = edge.lake.catalog();
    let found = catalog.state.dataset(&dataset)?;
    let behind = edge.indexes.behind(&catalog, &dataset).await?;
    let items: Vec<Value> = behind
        .refused
        .iter()
        .map(|row| {
            json!({ "index": row.index, "key": row.key, "code": row.code, "error": row.reason })
        })
        .collect();
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
    let body = json!({ "items": items, "next": null, "last_run": last });
    Ok(HttpResponse::Ok().json(body))
}

/// Datasets whose indexes are behind their rows.
#[utoipa::path(get, path = "/vectors/stale", tag = "vectors",
    responses((status = 200, description = "{items: [{dataset, embedding_stale_since, stale_for_s, last_embedded_at, rows_to_embed, rows_to_remove, policy, next_run_at, last_error}], next: null}")))]
pub async fn stale(edge: web::Data<Edge>, _: May<ReadCatalog>) -> Result<HttpResponse, Problem> {
    let now = edge.lake.now();
    let catalog = edge.lake.catalog();
    let mut items = Vec::new();
    for dataset in catalog.state.datasets.values() {
        let Some(since) = dataset.embedding_stale_since else {
            continue;
        };
        // What cannot be told is not guessed: the rest of the list is right.
        let behind = edge.indexes.behind(&catalog, &dataset.name).await;
        let behind = behind.inspect_err(|error| {
            tracing::warn!(dataset = dataset.name, %error, "not known how far it is behind");
        });
        let behind = behind.ok();
        let schedule = edge.lake.refresh_of(dataset);
        let next = schedule.and_then(|schedule| schedule.next_due);
        let last = dataset.last_refresh.as_ref();
        items.push(json!({
            "dataset": dataset.name,
            "embedding_stale_since": times::text(since),
            "stale_for_s": (now - since).max(0) / 1_000_000,
            "last_embedded_at": times::maybe(dataset.last_embedded_at),
            "rows_to_embed": behind.as_ref().map(|behind| behind.to_embed),
            "rows_to_remove": behind.as_ref().map(|behind| behind.to_remove),
            "policy": dataset.embedding_refresh_policy,
            "next_run_at": times::maybe(next),
            "last_error": last.and_then(|last| last.error.as_ref()).map(|(_, error)| error),
        }));
    }
    Ok(HttpResponse::Ok().json(json!({ "items": items, "next": null })))
}
