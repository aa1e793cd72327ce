//! Which generation of an index answers: another by promotion, when it reaches what the index must; the
//! one before by rollback, whatever it reaches. Searches in flight end on the one they began with.

use actix_web::{HttpResponse, web};
use lakehouse_actors::Caller;
use lakehouse_journal::model::{
    Event, ModelError,
    catalog::{CatalogCommand, PromoteGeneration, Trial},
    event::CatalogEvent,
};
use serde::Deserialize;
use serde_json::json;

use crate::rest::{
    Edge,
    auth::{May, Write},
    body::Body,
    past::Snapshot,
    problem::Problem,
};

/// Which generation shall answer.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Promote {
    generation: u64,
}

/// Lets a generation answer from here on, when it reaches what its index must.
#[utoipa::path(post, path = "/vectors/indexes/{name}/promote", tag = "vectors", params(("name" = String, Path)),
    responses((status = 200, description = "{index, generation, journal_seq}"),
        (status = 404, body = Problem), (status = 409, body = Problem)))]
pub async fn promote(
    edge: web::Data<Edge>,
    may: May<Write>,
    name: web::Path<String>,
    body: Body<Promote>,
) -> Result<HttpResponse, Problem> {
    let caller = may.caller(&body.bytes);
    let generation = body.value.generation;
    let command = CatalogCommand::PromoteGeneration(PromoteGeneration {
        index: name.to_string(),
        generation,
        trial: measured(&edge, &name, generation).await?,
    });
    answered_by(&edge, &name, command, caller).await
}

/// What a generation reaches, where its index must reach something and nobody knows yet.
async fn measured(edge: &Edge, name: &str, generation: u64) -> Result<Option<Trial>, Problem> {
    let snapshot = Snapshot::of(edge, None).await?;
    let state = &snapshot.catalog.state;
    let index = state.index(name)?;
    let mut built = index.generations.iter();
    let Some(built) = built.find(|built| built.generation == generation) else {
        return Ok(None);
    };
    let is_bound = state.quality.slos.contains_key(name) && index.live != Some(generation);
    if !is_bound || state.trial_of(index, built).is_some() {
        return Ok(None);
    }
    let eval = state.valid_eval(name).cloned();
    Ok(Some(edge.indexes.check_kept(index, built, eval).await?))
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
    let refused = committed.events.iter().find_map(|event| match event {
        Event::Catalog(CatalogEvent::TrialRecorded(event)) => {
            event.trial.refused.as_ref().and(event.trial.generation)
        }
        _ => None,
    });
    if let Some(generation) = refused {
        let missed = ModelError::FloorMissed {
            index: name.to_owned(),
            generation,
            reason: "it was measured and misses its floor".to_owned(),
        };
        return Err(missed.into());
    }
    // Without an event the generation asked for was live already.
    let generation = promoted.or(edge.lake.catalog().state.index(name)?.live);
    Ok(HttpResponse::Ok().json(json!({
        "index": name, "generation": generation, "journal_seq": committed.seq,
    })))
}
