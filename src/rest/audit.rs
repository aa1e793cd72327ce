//! The audit: who read what or was refused it, who has seen a row, and whether all of it still stands.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Edge,
    auth::{May, ReadJournal},
    body::query,
    problem::Problem,
    times,
};
use crate::{
    engines::audit::{AuditError, AuditFilter, AuditLine},
    query::row_key,
};

/// Lines of an answer unless asked otherwise, and at most.
const PAGE: usize = 100;
const PAGE_MAX: usize = 10_000;

/// `/audit…`
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/audit", web::get().to(list))
        .route("/audit/verify", web::post().to(verify))
        .route("/audit/subject/{dataset}/{key}", web::get().to(subject));
}

impl From<AuditError> for Problem {
    fn from(error: AuditError) -> Self {
        Self::of_kind(error.kind(), error.code(), error.to_string())
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AuditQuery {
    principal: Option<String>,
    view: Option<String>,
    since: Option<String>,
    until: Option<String>,
    allowed: Option<bool>,
    after: Option<u64>,
    limit: Option<usize>,
}

/// Lines of the audit, newest first.
#[utoipa::path(get, path = "/audit", tag = "access",
    params(("principal" = Option<String>, Query), ("view" = Option<String>, Query), ("since" = Option<String>, Query),
        ("until" = Option<String>, Query), ("allowed" = Option<bool>, Query), ("after" = Option<u64>, Query), ("limit" = Option<usize>, Query)),
    responses((status = 200, description = "[{seq, at, principal, role, on_behalf_of?, action, object, objects, tool?, statement?, rows?, allowed, code?, request_id, journal_seq?, generation?, policy_seq?, receipt?, goes_on?}]"),
        (status = 503, body = Problem)))]
pub async fn list(
    edge: web::Data<Edge>,
    _: May<ReadJournal>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let asked: AuditQuery = query(&request)?;
    let time = |text: &Option<String>| text.as_deref().map(times::parse).transpose();
    let lines = edge.audit.read(AuditFilter {
        principal: asked.principal,
        object: asked.view,
        since: time(&asked.since)?,
        until: time(&asked.until)?,
        allowed: asked.allowed,
        row: None,
        before: asked.after,
        limit: asked.limit.unwrap_or(PAGE).min(PAGE_MAX),
    });
    Ok(shown(&lines.await?))
}

/// Follows the chain of the audit.
#[utoipa::path(post, path = "/audit/verify", tag = "access",
    responses((status = 200, description = "{ok, checked, head, broken?: {seq, reason}}"), (status = 503, body = Problem)))]
pub async fn verify(edge: web::Data<Edge>, _: May<ReadJournal>) -> Result<HttpResponse, Problem> {
    Ok(HttpResponse::Ok().json(edge.audit.verify().await?))
}

/// Who has been shown a row (`seen: "named"`: its key was in the answer), and who may have been
/// (`"possibly"`: the answer was made of rows of the dataset without naming them).
#[utoipa::path(get, path = "/audit/subject/{dataset}/{key}", tag = "access",
    params(("dataset" = String, Path), ("key" = String, Path)),
    responses((status = 200, description = "as `/audit`, with `seen`: \"named\" or \"possibly\""), (status = 404, body = Problem), (status = 503, body = Problem)))]
pub async fn subject(
    edge: web::Data<Edge>,
    _: May<ReadJournal>,
    path: web::Path<(String, String)>,
) -> Result<HttpResponse, Problem> {
    let (dataset, key) = path.into_inner();
    let snapshot = edge.lake.catalog();
    let found = snapshot.state.dataset(&dataset)?;
    // A key as it is spelled in the dataset; one that no row can have was in no answer.
    let spelled = row_key::spelled(found, std::slice::from_ref(&key))?;
    let key = spelled.into_iter().next().flatten().unwrap_or(key);
    let hash = edge.audit.row_hash(&found.id, &key);
    let lines = edge.audit.read(AuditFilter {
        row: Some((found.id.clone(), hash.clone())),
        limit: PAGE_MAX,
        ..AuditFilter::default()
    });
    let lines = lines.await?;
    let shown = lines.iter().map(|told| {
        let mut value = line(told);
        let named = told.entry.names(&found.id, &hash);
        value["seen"] = json!(if named { "named" } else { "possibly" });
        value
    });
    Ok(HttpResponse::Ok().json(shown.collect::<Vec<Value>>()))
}

fn shown(lines: &[AuditLine]) -> HttpResponse {
    let lines: Vec<Value> = lines.iter().map(line).collect();
    HttpResponse::Ok().json(lines)
}

fn line(line: &AuditLine) -> Value {
    let entry = &line.entry;
    let mut shown = json!({
        "seq": line.seq,
        "at": times::text(line.at),
        "principal": entry.principal,
        "role": entry.role,
        "action": entry.action,
        "object": entry.objects.first(),
        "objects": entry.objects,
        "rows": entry.rows,
        "allowed": entry.allowed,
        "request_id": entry.request_id,
    });
    let more = [
        ("on_behalf_of", json!(entry.on_behalf_of)),
        ("tool", json!(entry.tool)),
        ("statement", json!(entry.statement)),
        ("code", json!(entry.code)),
        ("journal_seq", json!(entry.journal_seq)),
        ("generation", json!(entry.generation)),
        ("policy_seq", json!(entry.policy_seq)),
        ("receipt", json!(entry.receipt)),
        ("goes_on", json!(entry.goes_on.then_some(true))),
    ];
    for (name, value) in more {
        if !value.is_null() {
            shown[name] = value;
        }
    }
    shown
}
