//! SQL over the published snapshot: JSON pages, CSV and Arrow streams.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use actix_web::{HttpRequest, HttpResponse, http::StatusCode, http::header, web};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Edge,
    auth::{May, Needs, Permission, ReadCatalog},
    body::Body,
    past::Snapshot,
    peer,
    problem::Problem,
    system,
};
use crate::query::{
    CsvOptions, QueryError, QuerySession, QueryStream, SessionTables, arrow_ipc, csv, rows_json,
};

/// Arrow's media type.
const ARROW_STREAM: &str = "application/vnd.apache.arrow.stream";

/// `/query/…`
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/query/sql", web::post().to(sql))
        .route("/query/explain", web::post().to(explain));
}

/// A query.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SqlRequest {
    sql: String,
    #[serde(default)]
    params: Vec<Value>,
    limit: Option<usize>,
    as_of: Option<Value>,
}

/// Runs one query.
#[utoipa::path(post, path = "/query/sql", tag = "query",
    responses((status = 200, description = "{columns, rows, row_count, truncated, elapsed_ms, datasets, as_of}; CSV or an Arrow stream by `Accept`"),
        (status = 400, body = Problem), (status = 404, body = Problem), (status = 422, body = Problem)))]
pub async fn sql(
    edge: web::Data<Edge>,
    may: May<ReadCatalog>,
    request: HttpRequest,
    body: Body<SqlRequest>,
) -> Result<HttpResponse, Problem> {
    let asked = body.value;
    let started = Instant::now();
    let snapshot = Snapshot::of(&edge, asked.as_of.as_ref()).await?;
    let session = session(&edge, &may, &asked.sql, &snapshot)?;
    edge.metrics.queries.fetch_add(1, Ordering::Relaxed);
    let accept = request
        .headers()
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    if accept.contains(ARROW_STREAM) {
        let rows = started_query(&request, session, &asked, &snapshot).await?;
        return Ok(HttpResponse::Ok()
            .content_type(ARROW_STREAM)
            .streaming(arrow_ipc(rows)));
    }
    if accept.contains("text/csv") {
        let rows = started_query(&request, session, &asked, &snapshot).await?;
        let text = csv(rows, CsvOptions::default());
        return Ok(HttpResponse::Ok()
            .content_type("text/csv; charset=utf-8")
            .streaming(text));
    }
    let most = edge.query.config().rows_json_max;
    let limit = asked.limit.unwrap_or(most);
    let answer = async {
        let rows = session
            .execute(&asked.sql, asked.params.clone(), Some(limit))
            .await
            .map_err(|error| of_query(error, &snapshot))?;
        let datasets = rows.datasets().to_vec();
        Ok::<_, Problem>((rows_json(rows, limit).await?, datasets))
    };
    // Dropping the answer cancels the query.
    let (rows, datasets) = tokio::select! {
        answer = answer => answer?,
        () = peer::gone(&request) => return Err(hung_up()),
    };
    Ok(HttpResponse::Ok().json(json!({
        "columns": rows.columns,
        "rows": rows.rows,
        "row_count": rows.row_count,
        "truncated": rows.truncated,
        "elapsed_ms": u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        "datasets": datasets,
        "as_of": snapshot.as_of,
    })))
}

/// A query's plan.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainRequest {
    sql: String,
}

/// The plans of a query, without running it.
#[utoipa::path(post, path = "/query/explain", tag = "query",
    responses((status = 200, description = "{logical, physical}"), (status = 422, body = Problem)))]
pub async fn explain(
    edge: web::Data<Edge>,
    may: May<ReadCatalog>,
    body: Body<ExplainRequest>,
) -> Result<HttpResponse, Problem> {
    let snapshot = Snapshot::of(&edge, None).await?;
    let session = session(&edge, &may, &body.value.sql, &snapshot)?;
    Ok(HttpResponse::Ok().json(session.explain(&body.value.sql).await?))
}

async fn started_query(
    request: &HttpRequest,
    session: QuerySession,
    asked: &SqlRequest,
    snapshot: &Snapshot,
) -> Result<QueryStream, Problem> {
    tokio::select! {
        rows = session.execute(&asked.sql, asked.params.clone(), None) => {
            rows.map_err(|error| of_query(error, snapshot))
        }
        () = peer::gone(request) => Err(hung_up()),
    }
}

/// A dataset whose past is over is told so, not as one that never was.
fn of_query(error: QueryError, snapshot: &Snapshot) -> Problem {
    match &error {
        QueryError::DatasetNotFound { name, .. } => {
            let name = name.clone();
            snapshot.explain_missing(&name, error.into())
        }
        _ => error.into(),
    }
}

/// A session that sees what the caller's role may: rows for readers of data, `system` for readers
/// of the journal. What it may not see does not exist in it.
fn session<P: Needs>(
    edge: &Edge,
    may: &May<P>,
    sql: &str,
    snapshot: &Snapshot,
) -> Result<QuerySession, Problem> {
    let reads_rows = may.also(Permission::ReadData);
    let reads_system = may.also(Permission::ReadJournal);
    if !reads_rows && !reads_system {
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "forbidden",
            "the role may not query",
        ));
    }
    // Making these tables reads the journal: only for a statement that names the schema.
    let names_system = sql.to_ascii_lowercase().contains("system");
    let catalog = &snapshot.catalog;
    let tables = SessionTables {
        state: Arc::new(catalog.state.clone()),
        seq: catalog.seq,
        visible: Arc::new(move |_| reads_rows),
        system: if reads_system && names_system {
            system::tables(edge)?
        } else {
            Vec::new()
        },
    };
    Ok(edge.query.session(tables))
}

fn hung_up() -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "client_gone", "the client hung up")
}
