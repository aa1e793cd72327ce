//! Deletion by predicate: the keys of the rows that pass it, deleted for good like any others.

use std::sync::Arc;

use actix_web::{HttpResponse, http::StatusCode, web};
use futures::StreamExt;
use lakehouse_journal::model::{Fold, catalog::CatalogState};
use serde::Deserialize;
use serde_json::json;

use super::{
    Edge,
    auth::{Delete, May, Permission},
    body::Body,
    predicate::predicate,
    problem::Problem,
};
use crate::{
    engines::indexes::quoted,
    query::{QueryError, SessionTables, policy::Lens, row_key::names},
};

/// Most rows of one deletion.
pub const ROW_KEYS_MAX: usize = 1_000_000;

/// `/catalog/datasets/{name}/delete`
pub fn routes(config: &mut web::ServiceConfig) {
    config.route(
        "/catalog/datasets/{name}/delete",
        web::post().to(delete_where),
    );
}

/// Rows to delete, by what they hold.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeleteWhere {
    #[serde(rename = "where")]
    predicate: String,
    reason: String,
    actor: Option<String>,
    #[serde(default)]
    dry_run: bool,
}

/// Deletes the rows that pass a predicate for good; `dry_run` counts them only.
#[utoipa::path(post, path = "/catalog/datasets/{name}/delete", tag = "catalog",
    params(("name" = String, Path)),
    responses((status = 200, description = "{matched, tombstoned, dry_run, journal_seq}"),
        (status = 400, body = Problem), (status = 404, body = Problem), (status = 422, body = Problem)))]
pub async fn delete_where(
    edge: web::Data<Edge>,
    may: May<Delete>,
    name: web::Path<String>,
    body: Body<DeleteWhere>,
) -> Result<HttpResponse, Problem> {
    let caller = may.caller(&body.bytes);
    let asked = body.value;
    if asked.reason.trim().is_empty() {
        return Err(Problem::invalid("`reason` must say why"));
    }
    if !may.also(Permission::ReadData) {
        let text = "the role may not read rows, so it cannot choose them by what they hold";
        return Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", text));
    }
    let pinned = edge.query.pin(edge.lake.catalog().seq);
    let catalog = edge.lake.catalog();
    // A repeated request gets the first answer out of the journal: its rows are gone by now.
    let repeated = !asked.dry_run && edge.lake.is_repeated(&caller);
    let keys = if repeated {
        Vec::new()
    } else {
        keys_where(&edge, &may, &catalog, &name, &asked.predicate).await?
    };
    drop(pinned);
    if asked.dry_run || (keys.is_empty() && !repeated) {
        return Ok(HttpResponse::Ok().json(json!({
            "matched": keys.len(),
            "tombstoned": 0,
            "dry_run": asked.dry_run,
            "journal_seq": catalog.seq,
        })));
    }
    let done = edge
        .lake
        .tombstone(&name, &keys, asked.reason, asked.actor, caller)
        .await?;
    edge.metrics
        .rows_tombstoned
        .fetch_add(done.rows.len() as u64, std::sync::atomic::Ordering::Relaxed);
    Ok(HttpResponse::Ok().json(json!({
        "matched": done.rows.len() + done.missing.len(),
        "tombstoned": done.rows.len(),
        "dry_run": false,
        "journal_seq": done.committed.seq,
    })))
}

/// Keys of the visible rows that pass the predicate, in their order and each once. It may ask of columns
/// that the caller sees as they are: by counts of others it would tell what they hold.
async fn keys_where(
    edge: &Edge,
    may: &May<Delete>,
    catalog: &Fold<CatalogState>,
    name: &str,
    text: &str,
) -> Result<Vec<String>, Problem> {
    let impossible = |text: String| {
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        Problem::new(status, "impossible", text)
    };
    let dataset = catalog.state.dataset(name)?;
    if dataset.key.is_empty() {
        let text = format!("dataset `{name}` has no key, so no row of it has a name");
        return Err(impossible(text));
    }
    let lens = Lens::of(
        &catalog.state,
        name,
        &may.reader(),
        &edge.query.redaction_key(),
    )?;
    let lens = lens.ok_or_else(|| Problem::not_found("dataset", name))?;
    if let Some(column) = dataset.key.iter().find(|column| !lens.shows_plain(column)) {
        return Err(column_denied(column));
    }
    let key: Vec<String> = dataset.key.iter().map(|column| quoted(column)).collect();
    let seen: Vec<String> = lens.plain_columns().iter().map(|c| quoted(c)).collect();
    let sql = format!(
        "SELECT {} FROM (SELECT {} FROM {name}) AS {name} WHERE {} AND {} IS NOT NULL",
        key.join(", "),
        seen.join(", "),
        predicate("where", text)?,
        key.join(" IS NOT NULL AND "),
        name = quoted(name),
    );
    let reader = may.reader().and_only(name);
    let tables = SessionTables::of_reader(Arc::new(catalog.state.clone()), catalog.seq, reader);
    let session = edge.query.session(tables);
    let mut rows = session.execute(&sql, Vec::new(), None).await?;
    let mut keys = Vec::new();
    while let Some(batch) = rows.next().await {
        let texts =
            names(batch?.columns()).map_err(|error| QueryError::Internal(error.to_string()))?;
        keys.extend(texts.iter().flatten().map(str::to_owned));
        if keys.len() > ROW_KEYS_MAX {
            let text = format!("more than {ROW_KEYS_MAX} rows pass; delete them in parts");
            return Err(impossible(text));
        }
    }
    keys.sort_unstable();
    keys.dedup();
    Ok(keys)
}

/// 403 for what tells of a column that the caller does not see as it is.
pub(super) fn column_denied(column: &str) -> Problem {
    let text = format!("`{column}` is of a class that your role does not see as it is");
    Problem::new(StatusCode::FORBIDDEN, "column_denied", text)
}
