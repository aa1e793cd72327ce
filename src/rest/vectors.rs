//! Vector indexes: defined, built as jobs, searched, refreshed, swapped.

mod allowed;
mod refresh;
pub(crate) mod search;
mod swap;

use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use lakehouse_journal::model::{
    Event,
    catalog::{
        Backend, CatalogCommand, CatalogState, DefineIndex, Generation, Index, IndexConfig,
        IndexSpec, TextSpec,
    },
    event::CatalogEvent,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Edge,
    auth::{Delete, May, Needs, ReadCatalog, ReadData, Write},
    body::{Body, query},
    catalog::{Page, page},
    ingest::wanted_bucket,
    problem::Problem,
    quality::{NewSlo, floor, merged, share, slo_of},
    row_keys::{AskedKey, row_name},
    times,
};
use crate::engines::indexes::hnsw_config;

pub(super) use allowed::must_show_all;
use allowed::{must_answer, sessions, sight};
// The path of the OpenAPI document is the handler's own.
pub use refresh::{
    __path_failures, __path_last_run, __path_refresh, __path_retry, __path_stale, failures,
    last_run, refresh, retry, stale,
};
pub use search::{__path_search, search};
pub use swap::{__path_promote, __path_rollback, promote, rollback};

/// Between two looks at a build that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// `/vectors/…`
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/vectors/index", web::post().to(define))
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
        .route(
            "/vectors/refresh/{dataset}/failures",
            web::get().to(failures),
        )
        .route("/vectors/refresh/{dataset}/retry", web::post().to(retry))
        .route("/vectors/stale", web::get().to(stale));
}

/// An index that is asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewIndex {
    name: String,
    source: String,
    key: AskedKey,
    text: Option<TextSpec>,
    vector_column: Option<String>,
    provider: Option<String>,
    model: Option<String>,
    #[serde(default = "hnsw")]
    backend: Backend,
    #[serde(default)]
    config: IndexConfig,
    bucket: Option<String>,
    slo: Option<NewSlo>,
}

fn hnsw() -> Backend {
    Backend::Hnsw
}

#[derive(Debug, Deserialize)]
struct Wait {
    #[serde(default)]
    wait: bool,
}

/// Defines an index; building it is a job. What is not asked for of its tuning and bucket is that of the
/// active profile.
#[utoipa::path(post, path = "/vectors/index", tag = "vectors", params(("wait" = Option<bool>, Query)),
    responses((status = 202, description = "{index, job, journal_seq}; 200 with `wait`"),
        (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
pub async fn define(
    edge: web::Data<Edge>,
    may: May<Write>,
    request: HttpRequest,
    body: Body<NewIndex>,
) -> Result<HttpResponse, Problem> {
    let asked: Wait = query(&request)?;
    let caller = may.caller(&body.bytes);
    let bucket = wanted_bucket(&request)?;
    let slo = body.value.slo.as_ref().map(slo_of).transpose()?.flatten();
    let define = DefineIndex {
        slo,
        index: body.value.name.clone(),
        spec: spec_of(&edge, body.value, bucket).await?,
    };
    let name = define.index.clone();
    let committed = edge
        .lake
        .ask_catalog(CatalogCommand::DefineIndex(define), caller)
        .await?;
    let job = committed.events.iter().find_map(|event| match event {
        Event::Catalog(CatalogEvent::IndexDefined(event)) => Some(event.job.clone()),
        _ => None,
    });
    let mut answer = json!({ "index": name, "job": job, "journal_seq": committed.seq });
    if !asked.wait {
        return Ok(HttpResponse::Accepted().json(answer));
    }
    built(&edge, &name).await?;
    let catalog = edge.lake.catalog();
    answer["built"] = view(&edge, &catalog.state, &may, catalog.state.index(&name)?);
    Ok(HttpResponse::Ok().json(answer))
}

async fn spec_of(
    edge: &Edge,
    asked: NewIndex,
    bucket: Option<String>,
) -> Result<IndexSpec, Problem> {
    if asked.vector_column.is_some() {
        return Err(Problem::unsupported("`vector_column`"));
    }
    if asked.backend != Backend::Hnsw {
        return Err(Problem::unsupported("the backend `lance`"));
    }
    let text = asked
        .text
        .ok_or_else(|| Problem::invalid("`text` says what is embedded"))?;
    let catalog = edge.lake.catalog();
    let profile = catalog.state.active_profile();
    let tuning = profile.and_then(|profile| profile.hnsw_config.clone());
    let config = merged(&tuning.unwrap_or_default(), &asked.config);
    hnsw_config(&config)?;
    let bucket = asked
        .bucket
        .or(bucket)
        .or_else(|| profile?.bucket.clone())
        .unwrap_or_else(|| edge.lake.primary().to_owned());
    edge.lake.known_bucket(&bucket)?;
    let embedders = edge.indexes.embedders();
    let name = embedders.name(asked.provider.as_deref(), asked.model.as_deref())?;
    let embedder = embedders.find(&name).await?;
    let spec = IndexSpec {
        source: asked.source,
        key: asked.key.try_into()?,
        text,
        provider: name.provider,
        model: name.model,
        dimensions: embedder.identity().dimensions,
        backend: asked.backend,
        config,
        bucket,
    };
    edge.indexes.must_embed(&catalog.state, &spec)?;
    Ok(spec)
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
    may: May<ReadCatalog>,
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
        .map(|(name, index)| (name.clone(), view(&edge, &catalog.state, &may, index)))
        .collect();
    Ok(HttpResponse::Ok().json(page(entries, asked.limit())))
}

/// One index.
#[utoipa::path(get, path = "/vectors/indexes/{name}", tag = "vectors", params(("name" = String, Path)),
    responses((status = 200, description = "the index with its generations"), (status = 404, body = Problem)))]
pub async fn show(
    edge: web::Data<Edge>,
    may: May<ReadCatalog>,
    name: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let catalog = edge.lake.catalog();
    let index = catalog.state.index(&name)?;
    Ok(HttpResponse::Ok().json(view(&edge, &catalog.state, &may, index)))
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

/// How a new generation differs.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewGeneration {
    /// Another tuning than the index has.
    #[serde(default)]
    config: Option<IndexConfig>,
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
    body: Body<NewGeneration>,
) -> Result<HttpResponse, Problem> {
    let asked: Wait = query(&request)?;
    let caller = may.caller(&body.bytes);
    let config = body.value.config;
    if let Some(config) = &config {
        hnsw_config(config)?;
    }
    let command = CatalogCommand::RequestGeneration {
        index: name.to_string(),
        config,
    };
    let committed = edge.lake.ask_catalog(command, caller).await?;
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
    let catalog = edge.lake.catalog();
    answer["built"] = view(&edge, &catalog.state, &may, catalog.state.index(&name)?);
    Ok(HttpResponse::Ok().json(answer))
}

/// The vector and text of one row.
#[utoipa::path(get, path = "/vectors/indexes/{name}/rows/{key}", tag = "vectors",
    params(("name" = String, Path), ("key" = String, Path)),
    responses((status = 200, description = "{key, vector, text}"), (status = 404, body = Problem)))]
pub async fn row(
    edge: web::Data<Edge>,
    may: May<ReadData>,
    path: web::Path<(String, String)>,
) -> Result<HttpResponse, Problem> {
    let (name, key) = path.into_inner();
    // Its files stay until the row is read.
    let _pinned = edge.query.pin(edge.lake.catalog().seq);
    let catalog = edge.lake.catalog();
    let index = catalog.state.index(&name)?;
    let way = must_answer(&edge, &catalog.state, index, &may.reader())?;
    let key = match catalog.state.dataset_under(&index.spec.source) {
        Some(dataset) => row_name(dataset, &key)?,
        None => key,
    };
    let session = sessions(&edge, &may, &catalog, &way);
    let sight = sight(&way, &session);
    let found = edge.indexes.visible_slot(&catalog, index, &key, &sight);
    let found = found.await?;
    let (open, slot) = found.ok_or_else(|| Problem::not_found("row", &key))?;
    Ok(HttpResponse::Ok().json(json!({
        "key": key,
        "vector": open.index.vector_of(slot),
        "text": open.index.text_of(slot),
    })))
}

/// An index as the contract shows it; what its generations reach is for readers of its rows.
fn view<P: Needs>(edge: &Edge, state: &CatalogState, may: &May<P>, index: &Index) -> Value {
    let spec = &index.spec;
    let answers = must_show_all(edge, state, index, &may.reader()).is_ok();
    let recall = |built: &Generation| {
        let trial = state.trial_of(index, built).filter(|_| answers)?;
        Some(share(trial.recall_ppm))
    };
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
                "config": index.config_of(built),
                "vectors": built.vectors,
                "skipped": built.skipped,
                "made_by": built.making.as_ref().map(|making| &making.model),
                "refused": built.making.as_ref().map_or(0, |making| making.refused),
                "left_out": built.left_out(),
                "bytes": size(&built.files),
                "build_ms": built.build_ms,
                "built_at": times::text(built.built_at),
                "recall": recall(built),
                "live": index.live == Some(built.generation),
            })
        })
        .collect();
    json!({
        "name": index.name,
        "source": spec.source,
        "key": spec.key,
        "text": spec.text,
        "provider": spec.provider,
        "model": spec.model,
        "dimensions": spec.dimensions,
        "backend": spec.backend,
        "config": spec.config,
        "slo": floor(state, &index.name),
        "bucket": spec.bucket,
        "vectors": live.map_or(0, |live| live.vectors),
        "bytes": live.map_or(0, |live| size(&live.files)),
        "generation": index.live,
        "generations": generations,
        "building": index.building.as_ref().map(|(generation, job)| json!({ "generation": generation, "job": job })),
        "error": index.failed.as_ref().map(|(_, error)| error),
    })
}
