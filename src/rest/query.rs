//! SQL over the published snapshot: JSON pages, CSV and Arrow streams.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, http::StatusCode, http::header, web};
use serde::Deserialize;
use serde_json::Value;

use super::{
    Edge,
    ask::{self, Question},
    audited,
    auth::{Ask, May, Needs, Permission, ReadCatalog},
    body::Body,
    past::Snapshot,
    peer,
    problem::Problem,
    receipts::Asked,
    system,
};
use crate::query::{CsvOptions, QuerySession, SessionTables, arrow_ipc, csv};

/// Arrow's media type.
const ARROW_STREAM: &str = "application/vnd.apache.arrow.stream";
/// What CSV is called.
const CSV: &str = "text/csv; charset=utf-8";

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
    responses((status = 200, description = "{columns, rows, row_count, truncated, elapsed_ms, datasets, as_of, rescued: [{bucket, by}]}; CSV or an Arrow stream by `Accept`"),
        (status = 400, body = Problem), (status = 404, body = Problem), (status = 422, body = Problem)))]
pub async fn sql(
    edge: web::Data<Edge>,
    may: May<Ask>,
    request: HttpRequest,
    body: Body<SqlRequest>,
) -> Result<HttpResponse, Problem> {
    let asked = body.value;
    let mut told = ask::begun(&edge, &may, "query", &asked.sql);
    let question = Question {
        sql: &asked.sql,
        params: asked.params.clone().into(),
        limit: asked.limit,
        as_of: asked.as_of.as_ref(),
        only: None,
        kept: Some(Asked::Query {
            sql: asked.sql.clone(),
            params: asked.params.clone(),
            limit: None,
        }),
    };
    let answer = async {
        match wanted(&request) {
            Wanted::Page => {
                let page = ask::page(&edge, &may, question, &mut told).await?;
                Ok(HttpResponse::Ok().json(page.json()))
            }
            Wanted::Arrow => {
                let rows = ask::stream(&edge, &may, question, &mut told).await?;
                let mut answer = HttpResponse::Ok();
                Ok(answer.content_type(ARROW_STREAM).streaming(arrow_ipc(rows)))
            }
            Wanted::Csv => {
                let rows = ask::stream(&edge, &may, question, &mut told).await?;
                let text = csv(rows, CsvOptions::default());
                let mut answer = HttpResponse::Ok();
                Ok(answer.content_type(CSV).streaming(text))
            }
        }
    };
    // Dropping the answer cancels the query.
    let answer = tokio::select! {
        answer = answer => answer,
        () = peer::gone(&request) => Err(hung_up()),
    };
    audited::tell(&request, told);
    answer
}

/// In which form rows are asked for.
enum Wanted {
    Page,
    Arrow,
    Csv,
}

fn wanted(request: &HttpRequest) -> Wanted {
    let accept = request.headers().get(header::ACCEPT);
    let accept = accept
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    if accept.contains(ARROW_STREAM) {
        Wanted::Arrow
    } else if accept.contains("text/csv") {
        Wanted::Csv
    } else {
        Wanted::Page
    }
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
    let session = session(&edge, &may, &body.value.sql, &snapshot, None)?;
    Ok(HttpResponse::Ok().json(session.explain(&body.value.sql).await?))
}

/// A session that sees what the caller's role may: rows for readers of data, `system` for readers
/// of the journal. What it may not see does not exist in it; with `only`, nothing but that name does.
pub(super) fn session<P: Needs>(
    edge: &Edge,
    may: &May<P>,
    sql: &str,
    snapshot: &Snapshot,
    only: Option<&str>,
) -> Result<QuerySession, Problem> {
    let reads_system = may.also(Permission::ReadJournal);
    // Making these tables reads the journal: only for a statement that names the schema.
    let names_system = only.is_none() && sql.to_ascii_lowercase().contains("system");
    let catalog = &snapshot.catalog;
    let reader = match only {
        Some(name) => may.reader().and_only(name),
        None => may.reader(),
    };
    let tables = SessionTables {
        state: Arc::new(catalog.state.clone()),
        seq: catalog.seq,
        reader: Arc::new(reader),
        system: if reads_system && names_system {
            system::tables(edge, sql, &may.reader())?
        } else {
            Vec::new()
        },
    };
    Ok(edge.query.session(tables))
}

/// What nobody reads any more.
pub(super) fn hung_up() -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "client_gone", "the client hung up")
}
