//! The error journal: every bucket operation that failed, whichever path it was of.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    engines::errors::ErrorFilter,
    rest::{
        Edge,
        auth::{May, ReadCatalog, Write},
        body::query,
        problem::Problem,
        times,
    },
};

/// Failures of a page unless asked otherwise.
const PAGE: usize = 100;
/// Most failures of a page.
const PAGE_MAX: usize = 10_000;

/// `/storage/errors…`
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/storage/errors", web::get().to(list))
        .route("/storage/errors/flush", web::post().to(flush))
        .route("/storage/errors/compact", web::post().to(compact));
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ErrorQuery {
    bucket: Option<String>,
    since: Option<String>,
    limit: Option<usize>,
}

/// Failed bucket operations, newest first.
#[utoipa::path(get, path = "/storage/errors", tag = "storage",
    params(("bucket" = Option<String>, Query), ("since" = Option<String>, Query), ("limit" = Option<usize>, Query)),
    responses((status = 200, description = "[{at, bucket, operation, key, error, rescued, times}]"), (status = 400, body = Problem)))]
pub async fn list(
    edge: web::Data<Edge>,
    _: May<ReadCatalog>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let asked: ErrorQuery = query(&request)?;
    let filter = ErrorFilter {
        bucket: asked.bucket,
        since: asked.since.as_deref().map(times::parse).transpose()?,
        limit: asked.limit.unwrap_or(PAGE).min(PAGE_MAX),
    };
    let found = edge.buckets.errors().list(&filter);
    let shown: Vec<Value> = found
        .into_iter()
        .map(|noted| {
            json!({
                "at": times::text(noted.at),
                "bucket": noted.bucket,
                "operation": noted.operation,
                "key": noted.key,
                "error": noted.error,
                "rescued": noted.rescued,
                "times": noted.times,
            })
        })
        .collect();
    Ok(HttpResponse::Ok().json(shown))
}

/// Writes what is only in memory yet.
#[utoipa::path(post, path = "/storage/errors/flush", tag = "storage",
    responses((status = 200, description = "{batches_written}"), (status = 503, body = Problem)))]
pub async fn flush(edge: web::Data<Edge>, _: May<Write>) -> Result<HttpResponse, Problem> {
    let errors = edge.buckets.errors().clone();
    let written = web::block(move || errors.flush())
        .await
        .map_err(|error| Problem::internal(&error))?
        .map_err(|error| unwritable(&error))?;
    Ok(HttpResponse::Ok().json(json!({ "batches_written": written })))
}

/// Merges the batches.
#[utoipa::path(post, path = "/storage/errors/compact", tag = "storage",
    responses((status = 200, description = "{batches_before, batches_after}"), (status = 503, body = Problem)))]
pub async fn compact(edge: web::Data<Edge>, _: May<Write>) -> Result<HttpResponse, Problem> {
    let errors = edge.buckets.errors().clone();
    let (before, after) = web::block(move || errors.compact())
        .await
        .map_err(|error| Problem::internal(&error))?
        .map_err(|error| unwritable(&error))?;
    let answer = json!({ "batches_before": before, "batches_after": after });
    Ok(HttpResponse::Ok().json(answer))
}

fn unwritable(error: &std::io::Error) -> Problem {
    tracing::error!(%error, "the error journal cannot be written");
    Problem::new(
        actix_web::http::StatusCode::SERVICE_UNAVAILABLE,
        "errors_unavailable",
        "the error journal cannot be written",
    )
}
