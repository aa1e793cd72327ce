//! Rows in: a file as the body of a request, streamed and never held whole, or a `PostgreSQL` table
//! (`postgres`). Both answer the same.

pub mod postgres;

use std::{str::FromStr, sync::atomic::Ordering};

use actix_multipart::Multipart;
use actix_web::{
    HttpMessage, HttpRequest, HttpResponse,
    http::{StatusCode, header},
    web,
};
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt};
use lakehouse_actors::{IngestRequest, Ingested};
use lakehouse_journal::model::{Event, catalog::IngestMode, event::CatalogEvent};
use serde::Deserialize;
use serde_json::json;

use super::{
    Edge,
    auth::{May, Write},
    body::query,
    problem::Problem,
    row_keys::key_columns,
    times,
};
use crate::engines::{
    ingest::{BodySender, ChannelReader, FileFormat},
    tables::FileSource,
};

/// Chunks of a body that wait for the parser before the network does.
const CHUNKS_WAITING: usize = 64;

/// `/ingest/file`, `/ingest/db`.
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/ingest/file", web::post().to(file))
        .route("/ingest/db", web::post().to(postgres::db));
}

/// How a file is taken in.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileQuery {
    dataset: String,
    key: Option<String>,
    mode: Option<IngestMode>,
    format: Option<String>,
}

/// Takes a file in: CSV, NDJSON, JSON array, Parquet or Arrow IPC stream.
#[utoipa::path(post, path = "/ingest/file", tag = "ingest",
    params(("dataset" = String, Query), ("key" = Option<String>, Query),
        ("mode" = Option<String>, Query), ("format" = Option<String>, Query)),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 200, description = "{dataset, mode, rows, columns, batches, bytes, elapsed_ms, schema_fingerprint, journal_seq, deduplicated?}"),
        (status = 400, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem),
        (status = 413, body = Problem)))]
pub async fn file(
    edge: web::Data<Edge>,
    may: May<Write>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let asked: FileQuery = query(&request)?;
    must_fit(&request, edge.config.ingest.body_limit.0)?;
    let multipart = is_multipart(&request);
    let format = format_of(&request, &asked, multipart)?;
    let (sender, body) = ChannelReader::bounded(CHUNKS_WAITING);
    let source = FileSource {
        body: Box::new(body),
        format,
        file_name: None,
    };
    let job = uuid::Uuid::new_v4().to_string();
    let job = edge.lake.jobs().open(&job, "ingest", &asked.dataset);
    if let Some(length) = content_length(&request) {
        job.progress.total.store(length, Ordering::Relaxed);
    }
    let ingest = IngestRequest {
        dataset: asked.dataset.clone(),
        mode: asked.mode.unwrap_or(IngestMode::Create),
        key: asked
            .key
            .as_deref()
            .map(key_columns)
            .transpose()?
            .and_then(named),
        bucket: wanted_bucket(&request)?,
        source_kind: "file".to_owned(),
        source_name: format.map_or("body", FileFormat::name).to_owned(),
        since: None,
        stage: edge.tables.stage(source),
        job,
        caller: may.caller(&[]),
    };
    let mode = ingest.mode;
    let lake = edge.lake.clone();
    // Its own task: a client that hangs up cancels no commit.
    let ingested = tokio::spawn(async move { lake.ingest(ingest).await });
    if multipart {
        feed_multipart(Multipart::new(request.headers(), payload), sender).await?;
    } else {
        feed(payload.map_err(|_| ()), sender).await;
    }
    let done = ingested
        .await
        .map_err(|error| Problem::internal(&error))??;
    Ok(HttpResponse::Ok().json(answer(&edge, &asked.dataset, mode, &done)))
}

/// A body that announces more than the limit is refused before it is read; one that does not
/// announce it is refused by the reader.
fn must_fit(request: &HttpRequest, limit: u64) -> Result<(), Problem> {
    match content_length(request) {
        Some(length) if length > limit => Err(Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body_too_large",
            format!("the body has {length} bytes, the limit is {limit}"),
        )),
        _ => Ok(()),
    }
}

fn content_length(request: &HttpRequest) -> Option<u64> {
    request
        .headers()
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

fn is_multipart(request: &HttpRequest) -> bool {
    request
        .content_type()
        .eq_ignore_ascii_case("multipart/form-data")
}

fn format_of(
    request: &HttpRequest,
    asked: &FileQuery,
    multipart: bool,
) -> Result<Option<FileFormat>, Problem> {
    if let Some(format) = &asked.format {
        return FileFormat::from_str(format)
            .map(Some)
            .map_err(|error| Problem::invalid(error.to_string()));
    }
    if multipart {
        return Ok(None);
    }
    Ok(FileFormat::from_content_type(request.content_type()))
}

/// The columns of a key; none when there are none.
fn named(columns: Vec<String>) -> Option<Vec<String>> {
    (!columns.is_empty()).then_some(columns)
}

/// The bucket that `X-Lakehouse-Bucket` names.
///
/// # Errors
/// 400 when it is no text.
pub fn wanted_bucket(request: &HttpRequest) -> Result<Option<String>, Problem> {
    let Some(value) = request.headers().get("x-lakehouse-bucket") else {
        return Ok(None);
    };
    let name = value
        .to_str()
        .map_err(|_| Problem::invalid("X-Lakehouse-Bucket is no text"))?;
    Ok(Some(name.to_owned()))
}

/// Hands a body to the parser. A body that breaks off drops the sender, and the parser fails.
async fn feed(body: impl Stream<Item = Result<Bytes, ()>>, sender: BodySender) {
    let mut body = std::pin::pin!(body);
    while let Some(chunk) = body.next().await {
        let Ok(chunk) = chunk else { return };
        if sender.send(chunk).await.is_err() {
            // The parser has its answer already; what is left of the body is read and dropped, so
            // that the client gets to see it.
            while let Some(Ok(_)) = body.next().await {}
            return;
        }
    }
    // The parser that is gone needs no end.
    let _ = sender.finish().await;
}

async fn feed_multipart(mut parts: Multipart, sender: BodySender) -> Result<(), Problem> {
    while let Some(field) = parts
        .try_next()
        .await
        .map_err(|error| Problem::invalid(format!("the multipart body: {error}")))?
    {
        if field.name() == Some("file") {
            feed(field.map_err(|_| ()), sender).await;
            return Ok(());
        }
    }
    Err(Problem::invalid("the multipart body has no part `file`"))
}

fn answer(edge: &Edge, dataset: &str, mode: IngestMode, done: &Ingested) -> serde_json::Value {
    let committed = done.committed.events.iter().find_map(|event| match event {
        Event::Catalog(CatalogEvent::FilesCommitted(event)) => Some(event),
        _ => None,
    });
    if committed.is_some() && !done.committed.repeated {
        edge.metrics
            .rows_ingested
            .fetch_add(done.rows, Ordering::Relaxed);
    }
    let catalog = edge.lake.catalog();
    let found = catalog.state.datasets.get(dataset);
    let mut answer = json!({
        "dataset": dataset,
        "mode": mode,
        "rows": done.rows,
        "columns": done.columns,
        "batches": done.batches,
        "bytes": done.source_bytes,
        "elapsed_ms": committed.map_or(0, |event| event.elapsed_ms),
        "schema_fingerprint": done.schema_fingerprint,
        "journal_seq": done.committed.seq,
    });
    if committed.is_none() {
        answer["deduplicated"] = json!(true);
    }
    if done.erased_skipped > 0 {
        answer["erased_skipped"] = json!(done.erased_skipped);
    }
    if let Some(mark) = &done.watermark {
        answer["watermark"] = json!({ "column": mark.column, "value": mark.value });
    }
    if !done.notes.is_empty() {
        answer["notes"] = json!(done.notes);
    }
    if let Some(since) = found.and_then(|dataset| dataset.embedding_stale_since) {
        answer["embedding_stale_since"] = json!(times::text(since));
    }
    answer
}
