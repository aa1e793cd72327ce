//! Profiles: named bindings of a model, views and indexes. Activating one loads and warms its indexes
//! and lets go of the memory of all others; while it is active, new indexes take its tuning and its
//! bucket where they name none, and searches of its indexes its `ef_search`. Agents may do none of this.

use actix_web::{HttpRequest, HttpResponse, web};
use lakehouse_journal::model::catalog::{
    Backend, CatalogCommand, CatalogState, IndexConfig, Profile, QualityCommand,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Edge,
    auth::{May, ReadCatalog, Write},
    body::{Body, query},
    catalog::{Page, page},
    past::Snapshot,
    problem::Problem,
};
use crate::engines::{embedder::StaticEmbedder, indexes::hnsw_config};

/// `/profiles…`
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/profiles", web::post().to(save))
        .route("/profiles", web::get().to(list))
        .route("/profiles/{id}/activate", web::post().to(activate));
}

/// A profile as it is asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewProfile {
    id: String,
    model: Option<String>,
    #[serde(default)]
    views: Vec<String>,
    #[serde(default)]
    indexes: Vec<String>,
    #[serde(default = "hnsw")]
    backend: Backend,
    hnsw_config: Option<IndexConfig>,
    bucket: Option<String>,
    #[serde(default)]
    tools: Vec<String>,
}

fn hnsw() -> Backend {
    Backend::Hnsw
}

/// Keeps a profile; one of the same id is replaced.
#[utoipa::path(post, path = "/profiles", tag = "profiles",
    responses((status = 200, description = "the profile, journal_seq"),
        (status = 404, body = Problem), (status = 422, body = Problem)))]
pub async fn save(
    edge: web::Data<Edge>,
    may: May<Write>,
    body: Body<NewProfile>,
) -> Result<HttpResponse, Problem> {
    let caller = may.caller(&body.bytes);
    let asked = body.value;
    if let Some(config) = &asked.hnsw_config {
        if asked.backend != Backend::Hnsw {
            return Err(Problem::invalid("`hnsw_config` is of the backend `hnsw`"));
        }
        hnsw_config(config)?;
    }
    if let Some(bucket) = &asked.bucket {
        edge.lake.known_bucket(bucket)?;
    }
    let access = edge.lake.access();
    let unknown = |tool: &&String| !access.state.tools.contains_key(*tool);
    if let Some(tool) = asked.tools.iter().find(unknown) {
        return Err(Problem::not_found("tool", tool));
    }
    let embedder = StaticEmbedder::built_in().identity();
    let model = asked.model.unwrap_or_else(|| embedder.model.to_owned());
    if model != embedder.model {
        return Err(Problem::unsupported(
            "a profile of a model other than `static-minilm-128`",
        ));
    }
    let profile = Profile {
        id: asked.id,
        model,
        views: asked.views,
        indexes: asked.indexes,
        backend: asked.backend,
        hnsw_config: asked.hnsw_config,
        bucket: asked.bucket,
        tools: asked.tools,
    };
    let id = profile.id.clone();
    let command = CatalogCommand::Quality(QualityCommand::SaveProfile(profile));
    let committed = edge.lake.ask_catalog(command, caller).await?;
    let catalog = edge.lake.catalog();
    let mut answer = view(&catalog.state, catalog.state.profile(&id)?);
    answer["journal_seq"] = committed.seq.into();
    Ok(HttpResponse::Ok().json(answer))
}

/// Every profile.
#[utoipa::path(get, path = "/profiles", tag = "profiles",
    params(("limit" = Option<usize>, Query), ("after" = Option<String>, Query)),
    responses((status = 200, description = "{items: [{id, model, views, indexes, backend, hnsw_config?, bucket?, tools, active}], next}")))]
pub async fn list(
    edge: web::Data<Edge>,
    _: May<ReadCatalog>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let asked: Page = query(&request)?;
    let catalog = edge.lake.catalog();
    let profiles = catalog.state.quality.profiles.iter();
    let entries = profiles
        .filter(|(id, _)| asked.after().is_none_or(|after| id.as_str() > after))
        .take(asked.limit() + 1)
        .map(|(id, profile)| (id.clone(), view(&catalog.state, profile)))
        .collect();
    Ok(HttpResponse::Ok().json(page(entries, asked.limit())))
}

/// Loads and warms a profile's indexes and releases the memory of the others'.
#[utoipa::path(post, path = "/profiles/{id}/activate", tag = "profiles", params(("id" = String, Path)),
    responses((status = 200, description = "{id, active, loaded: [{index, generation, vectors, bytes}], released: [index], journal_seq}"),
        (status = 404, body = Problem), (status = 409, body = Problem)))]
pub async fn activate(
    edge: web::Data<Edge>,
    may: May<Write>,
    id: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let snapshot = Snapshot::of(&edge, None).await?;
    let catalog = &snapshot.catalog;
    let profile = catalog.state.profile(&id)?;
    // Loaded first: a profile whose index cannot answer does not become the active one.
    let mut loaded = Vec::new();
    for name in &profile.indexes {
        let index = catalog.state.index(name)?;
        let warm = edge.indexes.warm(index).await?;
        loaded.push(json!({
            "index": name, "generation": warm.generation, "vectors": warm.vectors, "bytes": warm.bytes,
        }));
    }
    let profile = id.to_string();
    let command = CatalogCommand::Quality(QualityCommand::ActivateProfile { id: profile });
    let committed = edge.lake.ask_catalog(command, may.caller(&[])).await?;
    let released = edge
        .indexes
        .release_others(&catalog.state.profile(&id)?.indexes);
    Ok(HttpResponse::Ok().json(json!({
        "id": *id, "active": true, "loaded": loaded, "released": released,
        "journal_seq": committed.seq,
    })))
}

fn view(state: &CatalogState, profile: &Profile) -> Value {
    let mut shown = json!(profile);
    shown["active"] = (state.quality.active.as_ref() == Some(&profile.id)).into();
    shown
}
