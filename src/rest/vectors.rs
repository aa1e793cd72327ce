//! Vector indexes: defined, built as jobs, searched, refreshed, swapped.

mod allowed;
pub(crate) mod asked;
mod define;
mod refresh;
mod row;
pub(crate) mod search;

use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use lakehouse_actors::Caller;
use lakehouse_journal::model::{
    Event,
    catalog::{CatalogCommand, Generation, Index},
    event::CatalogEvent,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Edge,
    auth::{Delete, May, ReadCatalog, Write},
    body::{Body, query},
    catalog::{Page, page},
    problem::Problem,
    times,
};

// The paths of the OpenAPI document are the handlers' own.
pub use define::{__path_define, __path_define_lance, define, define_lance};
pub use refresh::{__path_last_run, __path_refresh, __path_stale, last_run, refresh, stale};
pub use row::{__path_row, row};
pub use search::{__path_search, search};

/// Between two looks at a build that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// `/vectors/…`
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/vectors/index", web::post().to(define))
        .route("/vectors/lance/index", web::post().to(define_lance))
        .route("/vectors/indexes", web::get().to(list))
        .service(
            web::resource("/vectors/indexes/{name}")
                .route(web::get().to(show))
                .route(web::delete().to(remove)),
        )
        .route(
            "/vectors/indexes/{name}/generations",
            web::post().to(build_generation),
        )
        .route("/vectors/indexes/{name}/promote", web::post().to(promote))
        .route("/vectors/indexes/{name}/rollback", web::post().to(rollback))
        .route("/vectors/indexes/{name}/rows/{key}", web::get().to(row))
        .route("/vectors/search", web::post().to(search))
        .service(
            web::resource("/vectors/refresh/{dataset}")
                .route(web::get().to(last_run))
                .route(web::post().to(refresh)),
        )
        .route("/vectors/stale", web::get().to(stale));
}

#[derive(Debug, Deserialize)]
struct Wait {
    #[serde(default)]
    wait: bool,
}

/// Waits until no build of the index is due.
async fn built(edge: &Edge, name: &str) -> Result<(), Problem> {
    loop {
        let catalog = edge.lake.catalog();
        let index = catalog.state.index(name)?;
        if index.building.is_none() {
            return match (&index.failed, index.live) {
                (Some((_, error)), None) => Err(Problem::new(
                    actix_web::http::StatusCode::UNPROCESSABLE_ENTITY,
                    "build_failed",
                    format!("index `{name}` could not be built: {error}"),
                )),
                _ => Ok(()),
            };
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Every index.
#[utoipa::path(get, path = "/vectors/indexes", tag = "vectors",
    params(("limit" = Option<usize>, Query), ("after" = Option<String>, Query)),
    responses((status = 200, description = "{items: [index], next}")))]
pub async fn list(
    edge: web::Data<Edge>,
    _: May<ReadCatalog>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let asked: Page = query(&request)?;
    let catalog = edge.lake.catalog();
    let entries = catalog
        .state
        .indexes
        .iter()
        .filter(|(name, _)| asked.after().is_none_or(|after| name.as_str() > after))
        .take(asked.limit() + 1)
        .map(|(name, index)| (name.clone(), view(index)))
        .collect();
    Ok(HttpResponse::Ok().json(page(entries, asked.limit())))
}

/// One index.
#[utoipa::path(get, path = "/vectors/indexes/{name}", tag = "vectors", params(("name" = String, Path)),
    responses((status = 200, description = "the index with its generations"), (status = 404, body = Problem)))]
pub async fn show(
    edge: web::Data<Edge>,
    _: May<ReadCatalog>,
    name: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let catalog = edge.lake.catalog();
    Ok(HttpResponse::Ok().json(view(catalog.state.index(&name)?)))
}

/// Removes an index.
#[utoipa::path(delete, path = "/vectors/indexes/{name}", tag = "vectors", params(("name" = String, Path)),
    responses((status = 200, description = "{index, journal_seq}"), (status = 404, body = Problem)))]
pub async fn remove(
    edge: web::Data<Edge>,
    may: May<Delete>,
    name: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let command = CatalogCommand::DropIndex {
        index: name.to_string(),
    };
    let committed = edge.lake.ask_catalog(command, may.caller(&[])).await?;
    edge.indexes.forget_dropped(&edge.lake.catalog().state);
    Ok(HttpResponse::Ok().json(json!({ "index": *name, "journal_seq": committed.seq })))
}

/// Builds a new generation beside the one that answers, and swaps.
#[utoipa::path(post, path = "/vectors/indexes/{name}/generations", tag = "vectors",
    params(("name" = String, Path), ("wait" = Option<bool>, Query)),
    responses((status = 202, description = "{index, job, journal_seq}; 200 with `wait`"), (status = 404, body = Problem)))]
pub async fn build_generation(
    edge: web::Data<Edge>,
    may: May<Write>,
    name: web::Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let asked: Wait = query(&request)?;
    let command = CatalogCommand::RequestGeneration {
        index: name.to_string(),
    };
    let committed = edge.lake.ask_catalog(command, may.caller(&[])).await?;
    let building = edge.lake.catalog().state.index(&name)?.building.clone();
    let mut answer = json!({
        "index": *name,
        "job": building.map(|(_, job)| job),
        "journal_seq": committed.seq,
    });
    if !asked.wait {
        return Ok(HttpResponse::Accepted().json(answer));
    }
    built(&edge, &name).await?;
    answer["built"] = view(edge.lake.catalog().state.index(&name)?);
    Ok(HttpResponse::Ok().json(answer))
}

/// Which generation shall answer.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Promote {
    generation: u64,
}

/// Lets a generation answer from here on.
#[utoipa::path(post, path = "/vectors/indexes/{name}/promote", tag = "vectors", params(("name" = String, Path)),
    responses((status = 200, description = "{index, generation, journal_seq}"), (status = 404, body = Problem)))]
pub async fn promote(
    edge: web::Data<Edge>,
    may: May<Write>,
    name: web::Path<String>,
    body: Body<Promote>,
) -> Result<HttpResponse, Problem> {
    let caller = may.caller(&body.bytes);
    let command = CatalogCommand::PromoteGeneration {
        index: name.to_string(),
        generation: body.value.generation,
    };
    answered_by(&edge, &name, command, caller).await
}

/// Lets the generation before the live one answer again.
#[utoipa::path(post, path = "/vectors/indexes/{name}/rollback", tag = "vectors", params(("name" = String, Path)),
    responses((status = 200, description = "{index, generation, journal_seq}"),
        (status = 404, body = Problem), (status = 422, body = Problem)))]
pub async fn rollback(
    edge: web::Data<Edge>,
    may: May<Write>,
    name: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let command = CatalogCommand::RollbackIndex {
        index: name.to_string(),
    };
    answered_by(&edge, &name, command, may.caller(&[])).await
}

/// Swaps, and says which generation answers by this decision.
async fn answered_by(
    edge: &Edge,
    name: &str,
    command: CatalogCommand,
    caller: Caller,
) -> Result<HttpResponse, Problem> {
    let committed = edge.lake.ask_catalog(command, caller).await?;
    let promoted = committed.events.iter().find_map(|event| match event {
        Event::Catalog(CatalogEvent::IndexPromoted(event)) => Some(event.generation),
        _ => None,
    });
    // Without an event the generation asked for was live already.
    let generation = promoted.or(edge.lake.catalog().state.index(name)?.live);
    Ok(HttpResponse::Ok().json(json!({
        "index": name, "generation": generation, "journal_seq": committed.seq,
    })))
}

/// An index as the contract shows it.
fn view(index: &Index) -> Value {
    let spec = &index.spec;
    let live = index.live_generation();
    let size = |files: &[lakehouse_journal::model::catalog::FileDigest]| {
        files.iter().map(|file| file.bytes).sum::<u64>()
    };
    let generations: Vec<Value> = index
        .generations
        .iter()
        .map(|built| {
            json!({
                "generation": built.generation,
                "config": spec.config,
                "vectors": built.vectors,
                "skipped": built.skipped,
                "deltas": built.deltas.len(),
                "delta_rows": built.delta_rows(),
                "bytes": size(&built.files),
                "build_ms": built.build_ms,
                "built_at": times::text(built.built_at),
                "live": index.live == Some(built.generation),
            })
        })
        .collect();
    json!({
        "name": index.name,
        "source": spec.source,
        "key": spec.key,
        "text": spec.text,
        "vector_column": spec.vector_column,
        "provider": spec.provider,
        "model": spec.model,
        "dimensions": spec.dimensions,
        "backend": spec.backend,
        "config": spec.config,
        "bucket": spec.bucket,
        "vectors": live.map_or(0, |live| live.vectors),
        "bytes": live.map_or(0, |live| size(&live.files) + delta_bytes(live)),
        "generation": index.live,
        "generations": generations,
        "building": index.building.as_ref().map(|(generation, job)| json!({ "generation": generation, "job": job })),
        "error": index.failed.as_ref().map(|(_, error)| error).or(index.corrupt.as_ref()),
    })
}

fn delta_bytes(live: &Generation) -> u64 {
    live.deltas.iter().map(|delta| delta.file.bytes).sum()
}
