//! `GET /vectors/indexes/{name}/rows/{key}`: one row of an index, its vector and its text.

use actix_web::{HttpResponse, web};
use serde_json::json;

use super::allowed::{must_answer, sessions, sight};
use crate::{
    engines::indexes::of_vector,
    rest::{
        Edge,
        auth::{May, ReadData},
        problem::Problem,
        row_keys::row_name,
    },
};

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
    let missing = || Problem::not_found("row", &key);
    let session = sessions(&edge, &may, &catalog, &way);
    let sight = sight(&way, &session);
    let found = edge.indexes.visible_slot(&catalog, index, &key, &sight);
    let (live, slot) = found.await?.ok_or_else(missing)?;
    let stored = live.stored(&[slot]).await;
    let stored = stored.map_err(|error| of_vector(&error))?.pop();
    let stored = stored.ok_or_else(missing)?;
    Ok(HttpResponse::Ok().json(json!({
        "key": stored.key,
        "vector": stored.vector,
        "text": stored.text,
    })))
}
