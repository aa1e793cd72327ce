//! `GET /vectors/indexes/{name}/rows/{key}`: one row of an index, its vector and its text; where texts are
//! cut, its chunks with their vectors.

use actix_web::{HttpResponse, web};
use lakehouse_actors::ports::ChunkSpan;
use serde_json::{Value, json};

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

/// The vector and text of one row; of an index with chunks those of each chunk, and no other.
#[utoipa::path(get, path = "/vectors/indexes/{name}/rows/{key}", tag = "vectors",
    params(("name" = String, Path), ("key" = String, Path)),
    responses((status = 200, description = "{key, vector, text, chunks?: [{number, start, end, vector}]}"), (status = 404, body = Problem)))]
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
    let whole = live.whole(&[slot]).await;
    let whole = whole.map_err(|error| of_vector(&error))?.pop();
    let whole = whole.ok_or_else(missing)?;
    if whole.chunks.is_empty() {
        return Ok(HttpResponse::Ok().json(json!({
            "key": whole.key,
            "vector": whole.vectors,
            "text": whole.text,
        })));
    }
    let vectors = whole.vectors.chunks_exact(live.dimensions());
    let chunk = |(chunk, vector): (&ChunkSpan, &[f32])| {
        json!({
            "number": chunk.number,
            "start": chunk.start,
            "end": chunk.end,
            "vector": vector,
        })
    };
    let chunks: Vec<Value> = whole.chunks.iter().zip(vectors).map(chunk).collect();
    Ok(HttpResponse::Ok().json(json!({
        "key": whole.key,
        "vector": null,
        "text": whole.text,
        "chunks": chunks,
    })))
}
