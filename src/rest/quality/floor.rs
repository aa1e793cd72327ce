//! `/vectors/indexes/{name}/slo`: what a generation of an index must reach before it answers.

use actix_web::{HttpResponse, web};
use lakehouse_journal::model::catalog::{CatalogCommand, CatalogState, QualityCommand, Slo};
use serde::Deserialize;
use serde_json::{Value, json};

use super::share;
use crate::{
    engines::indexes::quality::must_be_graph,
    rest::{
        Edge,
        auth::{May, ReadCatalog, Write},
        body::Body,
        problem::Problem,
    },
};

/// What an index must reach.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewSlo {
    pub(super) min_recall: Option<f64>,
    pub(super) max_p99_us: Option<u64>,
}

/// Sets what a generation of an index must reach before it answers; an empty object takes it away.
#[utoipa::path(put, path = "/vectors/indexes/{name}/slo", tag = "quality", params(("name" = String, Path)),
    responses((status = 200, description = "{index, slo: {min_recall, max_p99_us?}, journal_seq}"),
        (status = 400, body = Problem), (status = 404, body = Problem), (status = 422, body = Problem)))]
pub async fn set_slo(
    edge: web::Data<Edge>,
    may: May<Write>,
    name: web::Path<String>,
    body: Body<NewSlo>,
) -> Result<HttpResponse, Problem> {
    let slo = slo_of(&body.value)?;
    if slo.is_some() {
        must_be_graph(edge.lake.catalog().state.index(&name)?)?;
    }
    let index = name.to_string();
    let command = CatalogCommand::Quality(QualityCommand::SetSlo { index, slo });
    let committed = edge
        .lake
        .ask_catalog(command, may.caller(&body.bytes))
        .await?;
    let mut answer = slo_view(&edge, &name)?;
    answer["journal_seq"] = committed.seq.into();
    Ok(HttpResponse::Ok().json(answer))
}

pub(in crate::rest) fn slo_of(asked: &NewSlo) -> Result<Option<Slo>, Problem> {
    if asked.min_recall.is_none() && asked.max_p99_us.is_none() {
        return Ok(None);
    }
    let recall = asked.min_recall.unwrap_or(0.0);
    if !(0.0..=1.0).contains(&recall) {
        return Err(Problem::invalid("`min_recall` may be 0 to 1"));
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "0 to a million"
    )]
    let min_recall_ppm = (recall * 1e6).round() as u32;
    Ok(Some(Slo {
        min_recall_ppm,
        max_p99_us: asked.max_p99_us,
    }))
}

/// What a generation of an index must reach.
#[utoipa::path(get, path = "/vectors/indexes/{name}/slo", tag = "quality", params(("name" = String, Path)),
    responses((status = 200, description = "{index, slo}"), (status = 404, body = Problem)))]
pub async fn slo(
    edge: web::Data<Edge>,
    _: May<ReadCatalog>,
    name: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    Ok(HttpResponse::Ok().json(slo_view(&edge, &name)?))
}

fn slo_view(edge: &Edge, name: &str) -> Result<Value, Problem> {
    let catalog = edge.lake.catalog();
    catalog.state.index(name)?;
    Ok(json!({ "index": name, "slo": floor(&catalog.state, name) }))
}

/// The floor of an index, if it has one.
pub(in crate::rest) fn floor(state: &CatalogState, index: &str) -> Option<Value> {
    let slo = state.quality.slos.get(index)?;
    Some(json!({ "min_recall": share(slo.min_recall_ppm), "max_p99_us": slo.max_p99_us }))
}
