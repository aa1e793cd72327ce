//! What a change of a view would newly show or hide: columns, rules and counts of rows, and how often the
//! view was asked so far. Reads the lake as it is; nothing is changed.

use std::sync::Arc;

use actix_web::{HttpResponse, web};
use lakehouse_journal::{
    model::catalog::{CatalogState, ColumnRedaction, View, ViewSpec},
    record::Seq,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{NewView, typed};
use crate::{
    engines::{audit::AuditFilter, indexes::quoted},
    query::{Reader, SessionTables, rows_json},
    rest::{
        Edge,
        auth::{May, Write},
        body::Body,
        problem::Problem,
    },
};

/// Lines of the audit that are looked through.
const CALLS_MAX: usize = 10_000;
/// Names of views for counting, which no view can have.
const BEFORE: &str = "1 before";
const AFTER: &str = "2 after";
const BOTH: &str = "3 both";

/// What a view might become.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proposed {
    proposed: NewView,
}

/// Compares a view with what it might become.
#[utoipa::path(post, path = "/catalog/views/{name}/diff", tag = "catalog", params(("name" = String, Path)),
    responses((status = 200, description = "{columns: {exposed, hidden}, redactions: [{column, from, to}], rows: {before, after, exposed, hidden}, min_group_size: {from, to}, calls: {lines, rows, principals}}"),
        (status = 400, body = Problem), (status = 404, body = Problem)))]
pub async fn diff(
    edge: web::Data<Edge>,
    may: May<Write>,
    name: web::Path<String>,
    body: Body<Proposed>,
) -> Result<HttpResponse, Problem> {
    let _pinned = edge.query.pin(edge.lake.catalog().seq);
    let catalog = edge.lake.catalog();
    let view = catalog.state.view(&name)?;
    let proposed = body.value.proposed;
    if proposed
        .name
        .as_deref()
        .is_some_and(|other| other != view.name)
    {
        return Err(Problem::invalid("`proposed.name` is another view"));
    }
    let (from, to) = (&view.spec, proposed.spec());
    typed(&edge, &catalog.state, &to, may.reader()).await?;
    let rows = counts(
        &edge,
        &catalog.state,
        catalog.seq,
        view,
        &to,
        &may.token.name,
    )
    .await?;
    Ok(HttpResponse::Ok().json(json!({
        "view": view.name,
        "columns": {
            "exposed": missing(&to.columns, &from.columns),
            "hidden": missing(&from.columns, &to.columns),
        },
        "redactions": rules(from, &to),
        "rows": rows,
        "min_group_size": { "from": from.min_group_size, "to": to.min_group_size },
        "calls": calls(&edge, &view.name).await?,
    })))
}

fn missing<'a>(of: &'a [String], from: &[String]) -> Vec<&'a String> {
    of.iter().filter(|name| !from.contains(name)).collect()
}

/// Columns that both show, with another rule.
fn rules(from: &ViewSpec, to: &ViewSpec) -> Vec<Value> {
    let shown = to.columns.iter().filter(|name| from.columns.contains(name));
    shown
        .filter(|name| from.rule(name) != to.rule(name))
        .map(|name| json!({ "column": name, "from": from.rule(name), "to": to.rule(name) }))
        .collect()
}

/// The same rows, with every column of the base as it is, so that filters can stand on one another.
fn rows_only(state: &CatalogState, spec: &ViewSpec, base: &str) -> ViewSpec {
    ViewSpec {
        base: base.to_owned(),
        columns: state.columns_of(&spec.base).unwrap_or_default(),
        redactions: Vec::<ColumnRedaction>::new(),
        min_group_size: None,
        ..spec.clone()
    }
}

async fn counts(
    edge: &Edge,
    state: &CatalogState,
    seq: Seq,
    view: &View,
    to: &ViewSpec,
    principal: &str,
) -> Result<Value, Problem> {
    let mut counted = state.clone();
    let same_base = view.spec.base == to.base;
    let mut specs = vec![
        (BEFORE, rows_only(state, &view.spec, &view.spec.base)),
        (AFTER, rows_only(state, to, &to.base)),
    ];
    if same_base {
        specs.push((BOTH, rows_only(state, to, BEFORE)));
    }
    for (name, spec) in specs {
        let view = View {
            name: name.to_owned(),
            spec,
            ..view.clone()
        };
        counted.views.insert(name.to_owned(), Arc::new(view));
    }
    let counted = Arc::new(counted);
    let count = |name: &'static str| {
        let reader = Reader::of_everything(principal, None);
        let tables = SessionTables::of_reader(Arc::clone(&counted), seq, reader);
        count_of(edge, tables, name)
    };
    let (before, after) = (count(BEFORE).await?, count(AFTER).await?);
    if !same_base {
        return Ok(json!({ "before": before, "after": after, "exposed": null, "hidden": null }));
    }
    let both = count(BOTH).await?;
    Ok(json!({
        "before": before,
        "after": after,
        "exposed": after.saturating_sub(both),
        "hidden": before.saturating_sub(both),
    }))
}

async fn count_of(edge: &Edge, tables: SessionTables, name: &str) -> Result<u64, Problem> {
    let sql = format!("SELECT count(*) FROM {}", quoted(name));
    let stream = edge
        .query
        .session(tables)
        .execute(&sql, Vec::new(), Some(1));
    let page = rows_json(stream.await?, 1).await?;
    let rows: Vec<[u64; 1]> =
        serde_json::from_str(page.rows.get()).map_err(|error| Problem::internal(&error))?;
    Ok(rows.first().map_or(0, |row| row[0]))
}

/// How often the view was read, how many rows that were, and by whom.
async fn calls(edge: &Edge, view: &str) -> Result<Value, Problem> {
    let lines = edge.audit.read(AuditFilter {
        object: Some(view.to_owned()),
        limit: CALLS_MAX,
        ..AuditFilter::default()
    });
    let lines = lines.await?;
    let mut principals: Vec<&str> = lines.iter().map(|l| l.entry.principal.as_str()).collect();
    principals.sort_unstable();
    principals.dedup();
    let rows: u64 = lines.iter().filter_map(|line| line.entry.rows).sum();
    Ok(json!({ "lines": lines.len(), "rows": rows, "principals": principals }))
}
