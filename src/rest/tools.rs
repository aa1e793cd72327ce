//! Tools: questions that were written down, called by name. A tool runs as its caller, sees nothing but the view
//! or dataset that it is bound to, and takes values, never text of a statement.

mod params;

use actix_web::{HttpRequest, HttpResponse, http::StatusCode, web};
use lakehouse_journal::model::{
    ModelError,
    access::{AccessCommand, Role, Tool, ToolPermission, ToolSpec},
    error::near_names,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    Edge,
    ask::{self, Question},
    audited::{self, Told},
    auth::{Ask, May, Needs, Permission, Write},
    body::Body,
    past::Snapshot,
    peer,
    problem::Problem,
    query::{hung_up, session},
    receipts::Asked,
    times,
};
use crate::query::column_docs;

pub use params::schema;

/// `/tools…`
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .service(
            web::resource("/tools")
                .route(web::post().to(register))
                .route(web::get().to(list)),
        )
        .route("/tools/{name}", web::delete().to(remove))
        .route("/tools/{name}/call", web::post().to(call));
}

/// Writes a tool down, or a new version of it. Its statement is planned against what it is bound to first.
#[utoipa::path(post, path = "/tools", tag = "access",
    responses((status = 201, description = "{name, version, columns, journal_seq}"),
        (status = 400, body = Problem), (status = 404, body = Problem), (status = 422, body = Problem)))]
pub async fn register(
    edge: web::Data<Edge>,
    may: May<Write>,
    body: Body<ToolSpec>,
) -> Result<HttpResponse, Problem> {
    let caller = may.caller(&body.bytes);
    let spec = body.value;
    params::check(&spec)?;
    let snapshot = Snapshot::of(&edge, None).await?;
    let state = &snapshot.catalog.state;
    // A statement that reads nothing plans over any name.
    if !state.views.contains_key(&spec.bind) {
        state.dataset(&spec.bind)?;
    }
    let session = session(&edge, &may, &spec.sql, &snapshot, Some(&spec.bind))?;
    let columns = session.columns(&spec.sql, params::nothing(&spec)?).await?;
    let name = spec.name.clone();
    let command = AccessCommand::RegisterTool(Box::new(spec));
    let committed = edge.lake.ask_access(command, caller).await?;
    let access = edge.lake.access();
    Ok(HttpResponse::Created().json(json!({
        "name": name,
        "version": access.state.tool(&name)?.version,
        "columns": column_docs(&columns),
        "journal_seq": committed.seq,
    })))
}

/// The tools that the caller may call.
#[utoipa::path(get, path = "/tools", tag = "access",
    responses((status = 200, description = "{items: [{name, description, bind, params, permission, version, at, sql?}], next: null}")))]
pub async fn list(edge: web::Data<Edge>, may: May<Ask>) -> HttpResponse {
    let writes = may.also(Permission::Write);
    let shown = |tool: &Tool| {
        let spec = &tool.spec;
        let mut value = json!({
            "name": spec.name,
            "description": spec.description,
            "bind": spec.bind,
            "params": spec.params,
            "permission": spec.permission,
            "version": tool.version,
            "at": times::text(tool.at),
        });
        if writes {
            value["sql"] = json!(spec.sql);
        }
        value
    };
    let items: Vec<Value> = callable(&edge, &may).iter().map(shown).collect();
    HttpResponse::Ok().json(json!({ "items": items, "next": null }))
}

/// Takes a tool away.
#[utoipa::path(delete, path = "/tools/{name}", tag = "access", params(("name" = String, Path)),
    responses((status = 200, description = "{name, journal_seq}"), (status = 404, body = Problem)))]
pub async fn remove(
    edge: web::Data<Edge>,
    may: May<Write>,
    name: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let command = AccessCommand::RemoveTool {
        name: name.to_string(),
    };
    let committed = edge.lake.ask_access(command, may.caller(&[])).await?;
    Ok(HttpResponse::Ok().json(json!({ "name": *name, "journal_seq": committed.seq })))
}

/// Values for a tool.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallBody {
    #[serde(default)]
    params: Map<String, Value>,
    limit: Option<usize>,
}

/// Calls a tool.
#[utoipa::path(post, path = "/tools/{name}/call", tag = "access", params(("name" = String, Path)),
    responses((status = 200, description = "{tool, version, columns, rows, row_count, truncated, elapsed_ms, as_of, receipt?}"),
        (status = 400, body = Problem), (status = 404, body = Problem), (status = 422, body = Problem), (status = 429, body = Problem)))]
pub async fn call(
    edge: web::Data<Edge>,
    may: May<Ask>,
    request: HttpRequest,
    name: web::Path<String>,
    body: Body<CallBody>,
) -> Result<HttpResponse, Problem> {
    let asked = body.value;
    let called = Called {
        name: &name,
        params: &asked.params,
        limit: asked.limit,
        as_of: None,
    };
    let mut told = begun(&edge, &may, &called);
    // Dropping the answer cancels the query.
    let answer = tokio::select! {
        answer = answer(&edge, &may, &called, &mut told) => answer,
        () = peer::gone(&request) => Err(hung_up()),
    };
    audited::tell(&request, told);
    Ok(HttpResponse::Ok().json(answer?))
}

/// A call, whatever the door.
pub struct Called<'a> {
    /// The tool.
    pub name: &'a str,
    /// Its values.
    pub params: &'a Map<String, Value>,
    /// Most rows of the answer.
    pub limit: Option<usize>,
    /// The position that it is asked of.
    pub as_of: Option<&'a Value>,
}

/// What is told of a call before it is known how it ends.
pub fn begun<P: Needs>(edge: &Edge, may: &May<P>, called: &Called<'_>) -> Told {
    let text = json!({ "tool": called.name, "params": called.params }).to_string();
    let mut told = ask::begun(edge, may, "tool", &text);
    // A tool that is none is not put down by the name that it was called.
    let known = edge.lake.access().state.tools.contains_key(called.name);
    told.tool = known.then(|| called.name.to_owned());
    told
}

/// Answers a call.
///
/// # Errors
/// The problem to answer with.
pub async fn answer<P: Needs>(
    edge: &web::Data<Edge>,
    may: &May<P>,
    called: &Called<'_>,
    told: &mut Told,
) -> Result<Value, Problem> {
    let tool = find(edge, may, called.name)?;
    let answer = ask::page(edge, may, question(&tool, called)?, told).await?;
    let mut body = answer.json();
    body["tool"] = json!(tool.spec.name);
    body["version"] = json!(tool.version);
    Ok(body)
}

/// Only marks the rows of a call's answer, and tells of these.
///
/// # Errors
/// As [`answer`].
pub async fn marks<P: Needs>(
    edge: &web::Data<Edge>,
    may: &May<P>,
    called: &Called<'_>,
    told: &mut Told,
) -> Result<(), Problem> {
    let tool = find(edge, may, called.name)?;
    ask::marks(edge, may, question(&tool, called)?, told).await
}

fn question<'a>(tool: &'a Tool, called: &Called<'a>) -> Result<Question<'a>, Problem> {
    let spec = &tool.spec;
    Ok(Question {
        sql: &spec.sql,
        params: params::bound(spec, called.params)?,
        limit: called.limit,
        as_of: called.as_of,
        only: Some(&spec.bind),
        kept: Some(Asked::Tool {
            name: spec.name.clone(),
            params: called.params.clone(),
            limit: None,
        }),
    })
}

/// The tools that a caller may call, by name.
pub fn callable<P: Needs>(edge: &Edge, may: &May<P>) -> Vec<Tool> {
    let access = edge.lake.access();
    let tools = access.state.tools.values();
    let mine = tools.filter(|tool| may_call(may, tool));
    mine.map(|tool| tool.as_ref().clone()).collect()
}

fn may_call<P: Needs>(may: &May<P>, tool: &Tool) -> bool {
    let spec = &tool.spec;
    if may.token.role == Role::Agent {
        return spec.permission == ToolPermission::Read && may.token.tools.contains(&spec.name);
    }
    may.also(Permission::ReadData)
        && match spec.permission {
            ToolPermission::Read => true,
            ToolPermission::Write => may.also(Permission::Write),
            ToolPermission::Administer => may.also(Permission::Administer),
        }
}

/// The tool of a name. One that the caller may not call is not there for an agent, and forbidden to others.
fn find<P: Needs>(edge: &Edge, may: &May<P>, name: &str) -> Result<Tool, Problem> {
    let mine = callable(edge, may);
    if let Some(tool) = mine.iter().find(|tool| tool.spec.name == name) {
        return Ok(tool.clone());
    }
    let there = edge.lake.access().state.tools.contains_key(name);
    if there && may.token.role != Role::Agent {
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "forbidden",
            format!(
                "the role `{}` may not call this tool",
                may.token.role.as_str()
            ),
        ));
    }
    let names: Vec<String> = mine.iter().map(|tool| tool.spec.name.clone()).collect();
    Err(ModelError::NotFound {
        what: "tool",
        name: name.to_owned(),
        near: near_names(name, names.iter()),
    }
    .into())
}
