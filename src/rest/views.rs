//! AI-safe views: made, shown, compared with what they might become, dropped. What a caller may not see
//! is answered as what is not there.

mod diff;

use std::collections::BTreeMap;

use actix_web::{HttpRequest, HttpResponse, http::StatusCode, web};
use lakehouse_journal::model::{
    access::Role,
    catalog::{CatalogCommand, CatalogState, ColumnRedaction, DefineView, View, ViewSpec},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Edge,
    auth::{Ask, Delete, May, Needs, ReadData, Write, ceiling},
    body::{Body, query},
    catalog::{Page, page},
    problem::Problem,
    times,
};
use crate::{
    engines::indexes::quoted,
    query::{
        QueryError, Reader, SessionTables,
        policy::{Described, described},
        rows_json, type_text,
    },
};

// The path of the OpenAPI document is the handler's own.
pub use diff::{__path_diff, diff};

/// Rows of a preview unless asked otherwise, and at most.
const PREVIEW: usize = 20;
const PREVIEW_MAX: usize = 1_000;

/// `/catalog/views…`
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .service(
            web::resource("/catalog/views")
                .route(web::post().to(define))
                .route(web::get().to(list)),
        )
        .service(
            web::resource("/catalog/views/{name}")
                .route(web::get().to(show))
                .route(web::delete().to(remove)),
        )
        .route("/catalog/views/{name}/preview", web::get().to(preview))
        .route("/catalog/views/{name}/diff", web::post().to(diff));
}

/// A view that is asked for.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewView {
    name: Option<String>,
    base_dataset: String,
    columns: Vec<String>,
    row_filter: Option<String>,
    #[serde(default)]
    column_redactions: Vec<ColumnRedaction>,
    min_group_size: Option<u64>,
    #[serde(default)]
    description: String,
    #[serde(default)]
    column_meanings: BTreeMap<String, String>,
    #[serde(default)]
    replace: bool,
}

impl NewView {
    fn spec(self) -> ViewSpec {
        ViewSpec {
            base: self.base_dataset,
            columns: self.columns,
            row_filter: self.row_filter,
            redactions: self.column_redactions,
            min_group_size: self.min_group_size,
            description: self.description,
            meanings: self.column_meanings,
            filter_columns: Vec::new(),
            per_caller: false,
        }
    }
}

/// Types a definition on a thread with a large stack, as the filter is anybody's text.
async fn typed(
    edge: &Edge,
    state: &CatalogState,
    spec: &ViewSpec,
    reader: Reader,
) -> Result<Described, Problem> {
    let (state, asked) = (state.clone(), spec.clone());
    let typing = edge
        .query
        .handle()
        .spawn(async move { described(&state, &asked, &reader) });
    let described = typing.await.map_err(|error| Problem::internal(&error))?;
    described.map_err(|error| match error {
        QueryError::DatasetNotFound { name, .. } => Problem::new(
            StatusCode::NOT_FOUND,
            "dataset_not_found",
            format!("no dataset or view `{name}`"),
        ),
        QueryError::ColumnNotFound(text) => {
            Problem::new(StatusCode::NOT_FOUND, "column_not_found", text)
        }
        other => other.into(),
    })
}

/// Makes a view; with `replace`, it takes the place of one of that name at once.
#[utoipa::path(post, path = "/catalog/views", tag = "catalog",
    responses((status = 201, description = "the definition with `sql` and `journal_seq`"),
        (status = 400, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
pub async fn define(
    edge: web::Data<Edge>,
    may: May<Write>,
    body: Body<NewView>,
) -> Result<HttpResponse, Problem> {
    let caller = may.caller(&body.bytes);
    let asked = body.value;
    let replace = asked.replace;
    let missing = || Problem::invalid("`name` says what the view is called");
    let name = asked.name.clone().ok_or_else(missing)?;
    let mut spec = asked.spec();
    let described = typed(&edge, &edge.lake.catalog().state, &spec, may.reader()).await?;
    spec.filter_columns = described.filter_columns;
    spec.per_caller = described.per_caller;
    let command = CatalogCommand::DefineView(DefineView {
        view: name.clone(),
        spec,
        replace,
    });
    let committed = edge.lake.ask_catalog(command, caller).await?;
    edge.lake.poke_pending();
    let catalog = edge.lake.catalog();
    let mut answer = definition(&catalog.state, catalog.state.view(&name)?);
    answer["journal_seq"] = json!(committed.seq);
    Ok(HttpResponse::Created().json(answer))
}

/// The views that the caller may read.
#[utoipa::path(get, path = "/catalog/views", tag = "catalog",
    params(("limit" = Option<usize>, Query), ("after" = Option<String>, Query)),
    responses((status = 200, description = "{items: [view], next}; agents see columns and meanings only")))]
pub async fn list(
    edge: web::Data<Edge>,
    may: May<Ask>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let asked: Page = query(&request)?;
    let catalog = edge.lake.catalog();
    let reader = may.reader();
    let names = may.token.role == Role::Auditor;
    let entries = catalog
        .state
        .views
        .iter()
        .filter(|(name, _)| names || reader.sees_view(name))
        .filter(|(name, _)| asked.after().is_none_or(|after| name.as_str() > after))
        .take(asked.limit() + 1)
        .map(|(name, view)| (name.clone(), shown(&edge, &may, &catalog.state, view)))
        .collect();
    Ok(HttpResponse::Ok().json(page(entries, asked.limit())))
}

/// One view.
#[utoipa::path(get, path = "/catalog/views/{name}", tag = "catalog", params(("name" = String, Path)),
    responses((status = 200, description = "the definition with `sql`; agents see columns and meanings only"),
        (status = 404, body = Problem)))]
pub async fn show(
    edge: web::Data<Edge>,
    may: May<Ask>,
    name: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let catalog = edge.lake.catalog();
    let view = readable(&may, &catalog.state, &name)?;
    Ok(HttpResponse::Ok().json(shown(&edge, &may, &catalog.state, view)))
}

/// The view of a name that the caller may read. For an agent a hidden one and a missing one are the
/// same, to the byte.
fn readable<'a, P: Needs>(
    may: &May<P>,
    state: &'a CatalogState,
    name: &str,
) -> Result<&'a View, Problem> {
    if may.token.role == Role::Agent && !may.reader().sees_view(name) {
        return Err(no_such_view());
    }
    match state.view(name) {
        Ok(view) => Ok(view),
        Err(_) if may.token.role == Role::Agent => Err(no_such_view()),
        Err(error) => Err(error.into()),
    }
}

fn no_such_view() -> Problem {
    let text = "no view of that name, or none that you may read";
    Problem::new(StatusCode::NOT_FOUND, "view_not_found", text)
}

#[derive(Debug, Deserialize)]
struct Cascade {
    #[serde(default)]
    cascade: bool,
}

/// Drops a view; what is built on it only with `?cascade=true`.
#[utoipa::path(delete, path = "/catalog/views/{name}", tag = "catalog",
    params(("name" = String, Path), ("cascade" = Option<bool>, Query)),
    responses((status = 200, description = "{view, journal_seq}"),
        (status = 404, body = Problem), (status = 409, body = Problem)))]
pub async fn remove(
    edge: web::Data<Edge>,
    may: May<Delete>,
    name: web::Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let asked: Cascade = query(&request)?;
    let command = CatalogCommand::DropView {
        view: name.to_string(),
        cascade: asked.cascade,
    };
    let committed = edge.lake.ask_catalog(command, may.caller(&[])).await?;
    edge.indexes.forget_dropped(&edge.lake.catalog().state);
    Ok(HttpResponse::Ok().json(json!({ "view": *name, "journal_seq": committed.seq })))
}

#[derive(Debug, Deserialize)]
struct Limit {
    limit: Option<usize>,
}

/// Rows as an agent would see them.
#[utoipa::path(get, path = "/catalog/views/{name}/preview", tag = "catalog",
    params(("name" = String, Path), ("limit" = Option<usize>, Query)),
    responses((status = 200, description = "{columns, rows, row_count, truncated}"),
        (status = 404, body = Problem), (status = 422, body = Problem)))]
pub async fn preview(
    edge: web::Data<Edge>,
    may: May<ReadData>,
    name: web::Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let asked: Limit = query(&request)?;
    let limit = asked.limit.unwrap_or(PREVIEW).min(PREVIEW_MAX);
    let catalog = edge.lake.catalog();
    readable(&may, &catalog.state, &name)?;
    let reader = Reader::of_everything(may.token.name.clone(), ceiling(Role::Agent))
        .only([name.to_string()]);
    let state = std::sync::Arc::new(catalog.state.clone());
    let session = edge
        .query
        .session(SessionTables::of_reader(state, catalog.seq, reader));
    let sql = format!("SELECT * FROM {}", quoted(&name));
    let rows = session.execute(&sql, Vec::new(), Some(limit)).await?;
    let rows = rows_json(rows, limit).await?;
    Ok(HttpResponse::Ok().json(json!({
        "columns": rows.columns,
        "rows": rows.rows,
        "row_count": rows.row_count,
        "truncated": rows.truncated,
    })))
}

/// A view as the caller may know it: an agent learns what it can ask for, and nothing of what lies
/// beneath.
fn shown<P: Needs>(edge: &Edge, may: &May<P>, state: &CatalogState, view: &View) -> Value {
    if may.token.role != Role::Agent {
        return definition(state, view);
    }
    let lens = crate::query::policy::Lens::of(
        state,
        &view.name,
        &may.reader(),
        &edge.query.redaction_key(),
    );
    let columns: Vec<Value> = match &lens {
        Ok(Some(lens)) => lens
            .schema
            .fields()
            .iter()
            .map(|field| {
                json!({
                    "name": field.name(),
                    "type": type_text(field.data_type()),
                    "meaning": view.spec.meanings.get(field.name()),
                })
            })
            .collect(),
        _ => Vec::new(),
    };
    json!({
        "name": view.name,
        "description": view.spec.description,
        "columns": columns,
        "min_group_size": view.spec.min_group_size,
    })
}

/// The whole definition.
fn definition(state: &CatalogState, view: &View) -> Value {
    let spec = &view.spec;
    json!({
        "name": view.name,
        "base_dataset": spec.base,
        "columns": spec.columns,
        "row_filter": spec.row_filter,
        "column_redactions": spec.redactions,
        "min_group_size": spec.min_group_size,
        "description": spec.description,
        "column_meanings": spec.meanings,
        "per_caller": spec.per_caller,
        "sql": sql(spec),
        "dataset": state.dataset_under(&view.name).map(|dataset| &dataset.name),
        "created_at": times::text(view.created_at),
        "updated_at": times::text(view.updated_at),
        "defined_by": view.defined_by,
        "policy_seq": view.seq,
    })
}

/// What a view stands for, as a statement with its rules as functions.
fn sql(spec: &ViewSpec) -> String {
    let columns: Vec<String> = spec
        .columns
        .iter()
        .map(|column| {
            let name = quoted(column);
            spec.rule(column).map_or_else(
                || name.clone(),
                |rule| format!("{}({name}) AS {name}", rule.as_str()),
            )
        })
        .collect();
    let mut text = format!("SELECT {} FROM {}", columns.join(", "), quoted(&spec.base));
    if let Some(filter) = &spec.row_filter {
        text.push_str(" WHERE ");
        text.push_str(filter);
    }
    text
}
