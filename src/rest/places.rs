//! Where datasets lie and whether the catalog is right about it: moves, repair from the files, and
//! files of others that become a dataset where they lie.

use actix_web::{HttpResponse, http::StatusCode, web};
use lakehouse_actors::{IngestRequest, Repaired};
use lakehouse_journal::model::catalog::IngestMode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Edge,
    auth::{Administer, May, Write},
    body::Body,
    problem::Problem,
    storage::objects::is_own,
};
use crate::engines::adopt::{Adoption, adopt as adopt_files};

/// `/catalog/datasets/{name}/move`, `resync`, `/catalog/resync-missing`, `/catalog/adopt`
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/catalog/datasets/{name}/move", web::post().to(move_to))
        .route("/catalog/datasets/{name}/resync", web::post().to(resync))
        .route("/catalog/resync-missing", web::post().to(resync_missing))
        .route("/catalog/adopt", web::post().to(adopt));
}

/// Where to.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MoveRequest {
    bucket: String,
}

/// Copies a dataset's files to another bucket, compares them, and swaps by one event.
#[utoipa::path(post, path = "/catalog/datasets/{name}/move", tag = "catalog", params(("name" = String, Path)),
    responses((status = 200, description = "{dataset, bucket, files, bytes, journal_seq}"), (status = 404, body = Problem),
        (status = 409, body = Problem), (status = 503, body = Problem)))]
pub async fn move_to(
    edge: web::Data<Edge>,
    may: May<Write>,
    name: web::Path<String>,
    body: Body<MoveRequest>,
) -> Result<HttpResponse, Problem> {
    let (lake, caller) = (edge.lake.clone(), may.caller(&body.bytes));
    let (name, bucket) = (name.into_inner(), body.value.bucket);
    let (dataset, to) = (name.clone(), bucket.clone());
    // Its own task: a client that hangs up cancels no move.
    let moved = tokio::spawn(async move { lake.move_dataset(&dataset, &to, caller).await });
    let moved = moved.await.map_err(|error| Problem::internal(&error))??;
    Ok(HttpResponse::Ok().json(json!({
        "dataset": name,
        "bucket": bucket,
        "files": moved.files,
        "bytes": moved.bytes,
        "journal_seq": moved.seq,
    })))
}

fn shown(dataset: &str, report: &Repaired) -> Value {
    let pair = |(before, after): (u64, u64)| json!({ "before": before, "after": after });
    let unreadable: Vec<Value> = report
        .unreadable
        .iter()
        .map(|(key, reason)| json!({ "key": key, "reason": reason }))
        .collect();
    json!({
        "dataset": dataset,
        "row_count": pair(report.rows),
        "columns": pair(report.columns),
        "changed": report.changed(),
        "files_checked": report.checked,
        "repaired": report.repaired,
        "relisted": report.relisted,
        "restored": report.restored,
        "missing": report.missing,
        "unreadable": unreadable,
        "journal_seq": report.seq,
    })
}

/// Reads a dataset's files again and puts right what the catalog says of them.
#[utoipa::path(post, path = "/catalog/datasets/{name}/resync", tag = "catalog", params(("name" = String, Path)),
    responses((status = 200, description = "{dataset, row_count: {before, after}, columns: {before, after}, changed, files_checked, repaired, relisted, restored, missing, unreadable, journal_seq}"),
        (status = 404, body = Problem), (status = 409, body = Problem)))]
pub async fn resync(
    edge: web::Data<Edge>,
    may: May<Write>,
    name: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let report = edge.lake.repair(&name, may.caller(&[])).await?;
    Ok(HttpResponse::Ok().json(shown(&name, &report)))
}

/// The same for every dataset.
#[utoipa::path(post, path = "/catalog/resync-missing", tag = "catalog",
    responses((status = 200, description = "as `/catalog/datasets/{name}/resync`, a list")))]
pub async fn resync_missing(
    edge: web::Data<Edge>,
    may: May<Write>,
) -> Result<HttpResponse, Problem> {
    let caller = lakehouse_actors::Caller {
        // Each dataset is a decision of its own, and the same again changes nothing.
        idempotency: None,
        ..may.caller(&[])
    };
    let names: Vec<String> = edge.lake.catalog().state.datasets.keys().cloned().collect();
    let mut reports = Vec::with_capacity(names.len());
    for name in names {
        match edge.lake.repair(&name, caller.clone()).await {
            Ok(report) => reports.push(shown(&name, &report)),
            // One that cannot be read keeps no other from being put right.
            Err(error) => {
                let problem = Problem::from(error);
                reports.push(json!({
                    "dataset": name,
                    "changed": false,
                    "error": { "code": problem.code, "detail": problem.detail },
                }));
            }
        }
    }
    Ok(HttpResponse::Ok().json(reports))
}

/// Files that are to be a dataset.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdoptRequest {
    bucket: String,
    prefix: String,
    dataset: String,
    key: Option<String>,
}

/// Takes in Parquet files that lie in a bucket already, where they lie.
#[utoipa::path(post, path = "/catalog/adopt", tag = "catalog",
    responses((status = 200, description = "{dataset, rows, columns, files, bytes, schema_fingerprint, journal_seq}"),
        (status = 403, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
pub async fn adopt(
    edge: web::Data<Edge>,
    may: May<Administer>,
    body: Body<AdoptRequest>,
) -> Result<HttpResponse, Problem> {
    let caller = may.caller(&body.bytes);
    let asked = body.value;
    edge.lake.known_bucket(&asked.bucket)?;
    let prefix = asked.prefix.trim_end_matches('/').to_owned();
    if is_own(&prefix) || is_own(&format!("{prefix}/")) {
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "key_reserved",
            "the lakehouse's own files belong to datasets already, or to none",
        ));
    }
    let (lake, bucket) = (edge.lake.clone(), asked.bucket.clone());
    let adoption = Adoption {
        buckets: std::sync::Arc::clone(&edge.buckets),
        bucket: asked.bucket.clone(),
        prefix: prefix.clone(),
        is_taken: std::sync::Arc::new(move |key| lake.catalog().state.points_at(&bucket, key)),
    };
    let job = uuid::Uuid::new_v4().to_string();
    let ingest = IngestRequest {
        dataset: asked.dataset.clone(),
        mode: IngestMode::Create,
        key: asked.key.map(|key| vec![key]),
        bucket: Some(asked.bucket.clone()),
        source_kind: "adopt".to_owned(),
        source_name: format!("{}/{prefix}", asked.bucket),
        since: None,
        stage: adopt_files(adoption),
        job: edge.lake.jobs().open(&job, "adopt", &asked.dataset),
        caller,
    };
    let lake = edge.lake.clone();
    let adopted = tokio::spawn(async move { lake.ingest(ingest).await });
    let done = adopted.await.map_err(|error| Problem::internal(&error))??;
    let catalog = edge.lake.catalog();
    let dataset = catalog.state.dataset(&asked.dataset)?;
    Ok(HttpResponse::Ok().json(json!({
        "dataset": asked.dataset,
        "rows": dataset.row_count(),
        "columns": done.columns,
        "files": dataset.files.len(),
        "bytes": done.source_bytes,
        "schema_fingerprint": done.schema_fingerprint,
        "journal_seq": done.committed.seq,
    })))
}
