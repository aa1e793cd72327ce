//! `POST /ingest/db`: a table or a query of a `PostgreSQL` database becomes rows of a dataset.
//! Reads the request and hands the source to the ingest worker; the password goes nowhere else.

use actix_web::{HttpRequest, HttpResponse, web};
use lakehouse_actors::IngestRequest;
use lakehouse_journal::model::catalog::IngestMode;
use serde::Deserialize;

use super::{answer, named, wanted_bucket};
use crate::{
    engines::{
        egress::EgressPolicy,
        postgres::{PostgresSource, ReadOptions, Relation},
        secrets::SecretError,
    },
    rest::{
        Edge,
        auth::{May, Write},
        body::Body,
        problem::Problem,
        row_keys::AskedKey,
    },
};

/// How a `PostgreSQL` table is taken in.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DbRequest {
    dsn: Option<String>,
    secret: Option<String>,
    table: Option<String>,
    query: Option<String>,
    dataset: String,
    key: Option<AskedKey>,
    mode: Option<IngestMode>,
    partitions: Option<usize>,
    batch_rows: Option<usize>,
    /// A column that grows: only rows newer than those of the last read are taken.
    since: Option<String>,
}

/// The connection string, out of the request or of a secret.
fn dsn_of(edge: &Edge, asked: &DbRequest) -> Result<String, Problem> {
    match (&asked.dsn, &asked.secret) {
        (Some(dsn), None) => Ok(dsn.clone()),
        (None, Some(handle)) => {
            let secret = edge.secrets.secret(handle)?;
            let missing = SecretError::Incomplete {
                handle: handle.clone(),
                field: "dsn",
            };
            Ok(secret.text("dsn").ok_or(missing)?.to_owned())
        }
        _ => Err(Problem::invalid(
            "exactly one of `dsn` and `secret` is needed",
        )),
    }
}

/// Takes a `PostgreSQL` table or query in, streamed by binary COPY in one snapshot.
#[utoipa::path(post, path = "/ingest/db", tag = "ingest",
    responses((status = 200, description = "as `/ingest/file`"), (status = 400, body = Problem),
        (status = 404, body = Problem), (status = 409, body = Problem), (status = 503, body = Problem)))]
pub async fn db(
    edge: web::Data<Edge>,
    may: May<Write>,
    request: HttpRequest,
    body: Body<DbRequest>,
) -> Result<HttpResponse, Problem> {
    let caller = may.caller(&body.bytes);
    let asked = body.value;
    let dsn = dsn_of(&edge, &asked)?;
    let relation = match (&asked.table, &asked.query) {
        (Some(table), None) => Relation::table(table)
            .map_err(|error| Problem::of_kind(error.kind(), error.code(), error.to_string()))?,
        (None, Some(sql)) => Relation::Query(sql.clone()),
        _ => {
            return Err(Problem::invalid(
                "exactly one of `table` and `query` is needed",
            ));
        }
    };
    let key = asked.key.map(AskedKey::columns).transpose()?;
    let policy = EgressPolicy {
        allow: edge.config.egress.allow.clone(),
        allow_loopback: edge.config.listens_on_loopback(),
    };
    let source = PostgresSource::parse(&dsn, &policy)
        .map_err(|error| Problem::of_kind(error.kind(), error.code(), error.to_string()))?;
    let mut options = ReadOptions {
        interval_as_text: true,
        ..ReadOptions::default()
    };
    options.partitions = asked.partitions;
    if let Some(rows) = asked.batch_rows {
        options.batch_rows = rows;
    }
    let lineage = source.lineage(&relation);
    let job = uuid::Uuid::new_v4().to_string();
    let ingest = IngestRequest {
        dataset: asked.dataset.clone(),
        mode: asked.mode.unwrap_or(IngestMode::Create),
        key: key.and_then(named),
        bucket: wanted_bucket(&request)?,
        source_kind: "postgres".to_owned(),
        source_name: lineage,
        since: asked.since,
        stage: edge.tables.stage_postgres(source, relation, options),
        job: edge.lake.jobs().open(&job, "ingest", &asked.dataset),
        caller,
    };
    let mode = ingest.mode;
    let lake = edge.lake.clone();
    let ingested = tokio::spawn(async move { lake.ingest(ingest).await });
    let done = ingested
        .await
        .map_err(|error| Problem::internal(&error))??;
    Ok(HttpResponse::Ok().json(answer(&edge, &asked.dataset, mode, &done)))
}
