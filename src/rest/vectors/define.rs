//! `POST /vectors/index` and `POST /vectors/lance/index`: an index is asked for, checked whole before
//! anything is noted, and built as a job.

use actix_web::{HttpRequest, HttpResponse, web};
use lakehouse_journal::model::{
    Event,
    catalog::{Backend, CatalogCommand, Chunker, DefineIndex, IndexConfig, IndexSpec, TextSpec},
    event::CatalogEvent,
};
use serde::Deserialize;
use serde_json::json;

use super::{Wait, built, view};
use crate::{
    engines::indexes::{check_config, quality::has_graph},
    rest::{
        Edge,
        auth::{May, Write},
        body::{Body, query},
        ingest::wanted_bucket,
        problem::Problem,
        quality::{NewSlo, merged, slo_of},
        row_keys::AskedKey,
    },
};

/// What the provider of vectors of a column is called.
const COLUMN: &str = "column";

/// An index that is asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewIndex {
    name: String,
    source: String,
    key: AskedKey,
    text: Option<TextSpec>,
    vector_column: Option<String>,
    chunk: Option<Chunker>,
    provider: Option<String>,
    model: Option<String>,
    backend: Option<Backend>,
    #[serde(default)]
    config: IndexConfig,
    bucket: Option<String>,
    slo: Option<NewSlo>,
}

/// Defines an index; building it is a job. What is not asked for of its tuning and bucket is that of the
/// active profile. With `chunk` ({tokens, overlap}) long texts are cut, and a row is found by the best of its
/// chunks.
#[utoipa::path(post, path = "/vectors/index", tag = "vectors", params(("wait" = Option<bool>, Query)),
    responses((status = 202, description = "{index, job, journal_seq}; 200 with `wait`"),
        (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
pub async fn define(
    edge: web::Data<Edge>,
    may: May<Write>,
    request: HttpRequest,
    body: Body<NewIndex>,
) -> Result<HttpResponse, Problem> {
    let backend = body.value.backend.unwrap_or(Backend::Hnsw);
    defined(&edge, &may, &request, body, backend).await
}

/// The same, on Lance.
#[utoipa::path(post, path = "/vectors/lance/index", tag = "vectors", params(("wait" = Option<bool>, Query)),
    responses((status = 202, description = "{index, job, journal_seq}; 200 with `wait`"),
        (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
pub async fn define_lance(
    edge: web::Data<Edge>,
    may: May<Write>,
    request: HttpRequest,
    body: Body<NewIndex>,
) -> Result<HttpResponse, Problem> {
    if body
        .value
        .backend
        .is_some_and(|backend| backend != Backend::Lance)
    {
        return Err(Problem::invalid("`backend` is `lance` here"));
    }
    defined(&edge, &may, &request, body, Backend::Lance).await
}

async fn defined(
    edge: &Edge,
    may: &May<Write>,
    request: &HttpRequest,
    body: Body<NewIndex>,
    backend: Backend,
) -> Result<HttpResponse, Problem> {
    let asked: Wait = query(request)?;
    let caller = may.caller(&body.bytes);
    let bucket = wanted_bucket(request)?;
    let name = body.value.name.clone();
    let slo = body.value.slo.as_ref().map(slo_of).transpose()?.flatten();
    if slo.is_some() {
        has_graph(backend, body.value.chunk, &name)?;
    }
    let define = DefineIndex {
        slo,
        index: name.clone(),
        spec: spec_of(edge, body.value, backend, bucket).await?,
    };
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
    built(edge, &name).await?;
    let catalog = edge.lake.catalog();
    answer["built"] = view(edge, &catalog.state, may, catalog.state.index(&name)?);
    Ok(HttpResponse::Ok().json(answer))
}

async fn spec_of(
    edge: &Edge,
    asked: NewIndex,
    backend: Backend,
    bucket: Option<String>,
) -> Result<IndexSpec, Problem> {
    if let Some(chunk) = &asked.chunk {
        // Before a server is asked for its dimensions.
        chunk.check()?;
    }
    let made = match &asked.vector_column {
        Some(column) => of_column(edge, &asked, column).await?,
        None => of_text(edge, &asked).await?,
    };
    let catalog = edge.lake.catalog();
    let profile = catalog.state.active_profile();
    let tuning = profile.filter(|profile| profile.backend == backend);
    let tuning = tuning.and_then(|profile| profile.hnsw_config.clone());
    let config = merged(&tuning.unwrap_or_default(), &asked.config);
    check_config(backend, &config, made.dimensions as usize)?;
    let bucket = asked
        .bucket
        .or(bucket)
        .or_else(|| profile?.bucket.clone())
        .unwrap_or_else(|| edge.lake.primary().to_owned());
    edge.lake.known_bucket(&bucket)?;
    let spec = IndexSpec {
        source: asked.source,
        key: asked.key.try_into()?,
        text: made.text,
        vector_column: asked.vector_column,
        chunk: asked.chunk,
        provider: made.provider,
        model: made.model,
        dimensions: made.dimensions,
        backend,
        config,
        bucket,
    };
    if spec.vector_column.is_none() {
        edge.indexes.must_embed(&catalog.state, &spec)?;
    }
    Ok(spec)
}

/// Where an index's vectors come from.
struct Made {
    text: TextSpec,
    provider: String,
    model: String,
    dimensions: u32,
}

async fn of_text(edge: &Edge, asked: &NewIndex) -> Result<Made, Problem> {
    let text = asked.text.clone();
    let text = text.ok_or_else(|| Problem::invalid("`text` says what is embedded"))?;
    let embedders = edge.indexes.embedders();
    let name = embedders.name(asked.provider.as_deref(), asked.model.as_deref())?;
    let embedder = embedders.find(&name).await?;
    Ok(Made {
        text,
        provider: name.provider,
        model: name.model,
        dimensions: embedder.identity().dimensions,
    })
}

async fn of_column(edge: &Edge, asked: &NewIndex, column: &str) -> Result<Made, Problem> {
    if asked.provider.is_some() || asked.model.is_some() {
        return Err(Problem::invalid(
            "`vector_column` needs no `provider` and no `model`: nothing is embedded",
        ));
    }
    let catalog = edge.lake.catalog();
    let dimensions = edge
        .indexes
        .dimensions_of(&catalog, &asked.source, column)
        .await?;
    let none = TextSpec::Columns(Vec::new());
    Ok(Made {
        text: asked.text.clone().unwrap_or(none),
        provider: COLUMN.to_owned(),
        model: column.to_owned(),
        dimensions,
    })
}
