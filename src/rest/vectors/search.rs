//! `POST /vectors/search`: texts or vectors in, the visible rows that are nearest or fit the words out,
//! with their columns.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    sync::{Arc, atomic::Ordering},
};

use actix_web::{HttpRequest, HttpResponse, http::StatusCode, web};
use arrow::{
    array::{ArrayRef, AsArray},
    compute::cast,
    datatypes::DataType,
};
use futures::StreamExt;
use lakehouse_actors::ports::ChunkSpan;
use lakehouse_journal::model::{
    Fold,
    catalog::{CatalogState, Index},
};
use serde_json::{Map, Value, json};

use super::{
    allowed::{must_answer, sessions, sight},
    asked::{SearchAsked, SearchBody, row_limit},
};
use crate::{
    engines::{
        audit::SeenRows,
        indexes::{SearchHit, SearchRequest, Searched, of_vector, quoted},
    },
    query::{
        QuerySession, Reader, json_cells,
        row_key::{self, key_types, names, values},
    },
    rest::{
        Edge, ask,
        audited::{self, Told},
        auth::{self, May, Needs, Permission, Search},
        past::Snapshot,
        predicate::predicate,
        problem::Problem,
        receipts::{self, Asked},
    },
};

/// Steps from 0 to 1 of a score that an agent is told.
const SCORE_STEPS: f64 = 1_000.0;

/// The rows whose text is nearest in meaning, or fits the words.
#[utoipa::path(post, path = "/vectors/search", tag = "vectors",
    responses((status = 200, description = "{index, generation, hits: [{key, score, distance, text?, chunk?: {number, start, end, text}, row?}], elapsed_us, path}; with `queries`: {index, generation, results: [{hits, elapsed_us, path}]}"),
        (status = 400, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
pub async fn search(
    edge: web::Data<Edge>,
    may: May<Search>,
    request: HttpRequest,
    body: SearchAsked,
) -> Result<HttpResponse, Problem> {
    // JSON that could be read is UTF-8.
    let text = std::str::from_utf8(&body.bytes).unwrap_or_default();
    let mut told = ask::begun(&edge, &may, "search", text);
    let answer = answer(&edge, &may, &body.value, &mut told).await;
    audited::tell(&request, told);
    Ok(HttpResponse::Ok().json(answer?))
}

/// Searches for a caller, whatever the door. What is to be told stands in `told`, also when it fails.
///
/// # Errors
/// The problem to answer with.
pub(crate) async fn answer<P: Needs>(
    edge: &web::Data<Edge>,
    may: &May<P>,
    asked: &SearchBody,
    told: &mut Told,
) -> Result<Value, Problem> {
    if !may.also(Permission::Search) {
        return Err(Problem::not_found("index", &asked.index));
    }
    let queries = asked.queries()?;
    let k = row_limit(asked, queries.len(), may.limits().rows())?;
    let reader = may.reader();
    if reader.is_guarded() && asked.has_vectors() {
        // Vectors of one's own making find out others' texts by trying.
        let text = "`vector`: an agent asks by `query`";
        return Err(Problem::new(StatusCode::FORBIDDEN, "vector_denied", text));
    }
    let filter = asked
        .filter
        .as_deref()
        .map(|text| predicate("filter", text))
        .transpose()?;
    if edge.lake.catalog().state.indexes.contains_key(&asked.index) {
        told.objects = vec![asked.index.clone()];
    }
    known(edge, &reader, &asked.index)?;
    let snapshot = Snapshot::of(edge, asked.as_of.as_ref()).await?;
    let catalog = &snapshot.catalog;
    let index = index_of(edge, &snapshot, &asked.index)?;
    told.journal_seq = Some(snapshot.as_of);
    let way = must_answer(edge, &catalog.state, index, &reader)?;
    told.objects = vec![asked.index.clone(), way.through.clone()];
    let session = sessions(edge, may, catalog, &way);
    let sight = sight(&way, &session);
    let kept = || Asked::Search(json!(asked));
    receipts::keep(edge, &may.token, kept, told);
    let _slot = may.limits().slot()?;
    // Many queries in one are no way around a limit of requests.
    for _ in 1..queries.len() {
        may.limits().request()?;
    }
    let mut found = Vec::with_capacity(queries.len());
    for query in queries {
        let request = SearchRequest {
            query,
            mode: asked.mode.unwrap_or_default().into(),
            k,
            filter: filter.as_deref(),
            ef_search: asked
                .ef_search
                .or_else(|| catalog.state.profile_ef(&asked.index)),
            exact: asked.exact,
            sight: sight.clone(),
        };
        found.push(tokio::select! {
            found = edge.indexes.search(catalog, index, &request) => found?,
            () = auth::ended(edge, &may.token) => return Err(auth::unauthorized()),
        });
        edge.metrics.searches.fetch_add(1, Ordering::Relaxed);
    }
    let generation = found.first().map(|found| found.live.generation);
    told.generation = generation;
    seen(edge, catalog, index, &found, told);
    let (through, columns) = (way.through.as_str(), &asked.columns);
    let rows = rows_of(catalog, index, &found, through, columns, &session).await?;
    // What an agent could reckon a text's vector from is told it roughly.
    let is_guarded = reader.is_guarded();
    let told_as = |number: f32| {
        if is_guarded {
            (f64::from(number) * SCORE_STEPS).round() / SCORE_STEPS
        } else {
            f64::from(number)
        }
    };
    let rows = (!columns.is_empty()).then_some(&rows);
    let mut results = results_of(&found, rows, told_as).await?;
    let mut body = json!({
        "index": asked.index,
        "generation": generation,
        "as_of": snapshot.as_of,
    });
    if asked.is_batch() {
        body["results"] = results.into();
    } else if let (Some(Value::Object(only)), Value::Object(body)) = (results.pop(), &mut body) {
        body.extend(only);
    }
    if may.asked().is_audited() {
        body["receipt"] = json!(told.receipt);
    }
    Ok(body)
}

/// What each query found, as it is answered: numbers as `told_as` gives them, and the rows' columns, when
/// some are wanted.
async fn results_of(
    found: &[Searched],
    rows: Option<&Map<String, Value>>,
    told_as: impl Fn(f32) -> f64,
) -> Result<Vec<Value>, Problem> {
    let mut results = Vec::with_capacity(found.len());
    for found in found {
        let slots: Vec<u64> = found.hits.iter().map(|hit| hit.slot).collect();
        let texts = found.live.texts(&slots).await;
        let texts = texts.map_err(|error| of_vector(&error))?;
        let hit = |(hit, text): (&SearchHit, Option<String>)| {
            let mut value = json!({
                "key": hit.key,
                "score": told_as(hit.score),
                "distance": hit.distance.map(&told_as),
                "text": text,
            });
            if let Some(chunk) = &hit.chunk {
                value["chunk"] = shown_chunk(chunk, text.as_deref());
            }
            if let Some(rows) = rows {
                value["row"] = rows.get(&hit.key).cloned().unwrap_or(Value::Null);
            }
            value
        };
        let hits: Vec<Value> = found.hits.iter().zip(texts).map(hit).collect();
        results.push(json!({
            "hits": hits,
            "elapsed_us": found.elapsed_us,
            "path": found.path,
        }));
    }
    Ok(results)
}

/// The chunk that a row was found by: a part of the text that stands beside it, in bytes of that.
fn shown_chunk(chunk: &ChunkSpan, text: Option<&str>) -> Value {
    let bytes = chunk.start as usize..chunk.end as usize;
    json!({
        "number": chunk.number,
        "start": chunk.start,
        "end": chunk.end,
        "text": text.and_then(|text| text.get(bytes)),
    })
}

/// The rows that a search found, as the audit has them.
fn seen(
    edge: &Edge,
    catalog: &Fold<CatalogState>,
    index: &Index,
    found: &[Searched],
    told: &mut Told,
) {
    let hits = found.iter().flat_map(|found| &found.hits);
    let keys: Vec<&String> = hits.map(|hit| &hit.key).collect();
    told.rows = Some(keys.len() as u64);
    let contents = keys
        .iter()
        .map(|key| edge.audit.content_hash(key.as_bytes()));
    let sum = contents.fold(0_u128, u128::wrapping_add);
    told.content = Some(format!("{sum:032x}"));
    if let Some(dataset) = catalog.state.dataset_under(&index.spec.source) {
        let keys: BTreeSet<&String> = keys.into_iter().collect();
        let hashes = keys.iter().map(|key| edge.audit.row_hash(&dataset.id, key));
        told.row_keys = vec![SeenRows {
            dataset: dataset.id.clone(),
            keys: hashes.collect(),
        }];
    }
}

/// Refuses an index that is not there for the caller, in the same words whether there is one or not.
fn known(edge: &Edge, reader: &Reader, name: &str) -> Result<(), Problem> {
    let now = edge.lake.catalog();
    if let Some(index) = now.state.indexes.get(name) {
        return must_answer(edge, &now.state, index, reader).map(|_| ());
    }
    if reader.is_guarded() {
        return Err(Problem::not_found("index", name));
    }
    Ok(())
}

/// The index as it was; one whose generation or rows of then are no longer kept is told so.
fn index_of<'a>(edge: &Edge, snapshot: &'a Snapshot, name: &str) -> Result<&'a Index, Problem> {
    let now = edge.lake.catalog();
    let today = now.state.index(name)?;
    let too_old = || {
        Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "as_of_too_old",
            format!("no generation of index `{name}` is kept that answered then"),
        )
    };
    let index = snapshot
        .catalog
        .state
        .indexes
        .get(name)
        .ok_or_else(too_old)?;
    let source = &today.spec.source;
    if snapshot.catalog.state.dataset_under(source).is_none() {
        return Err(snapshot.explain_missing(source, too_old()));
    }
    Ok(index)
}

/// The wanted columns of the hits' rows, by key: read through `through` in the caller's session, like any
/// query reads them.
async fn rows_of(
    catalog: &Fold<CatalogState>,
    index: &Index,
    found: &[Searched],
    through: &str,
    columns: &[String],
    session: &(dyn Fn() -> QuerySession + Send + Sync),
) -> Result<Map<String, Value>, Problem> {
    let mut rows = Map::new();
    let hits = found.iter().flat_map(|found| &found.hits);
    let hits: BTreeSet<&str> = hits.map(|hit| hit.key.as_str()).collect();
    if columns.is_empty() || hits.is_empty() {
        return Ok(rows);
    }
    let key = index.spec.key.columns();
    // A column may be asked for that is of the key as well.
    let aliased = |(nth, column): (usize, &String)| format!("{} AS row_key_{nth}", quoted(column));
    let selected = key.iter().enumerate().map(aliased);
    let selected = selected.chain(columns.iter().map(|column| quoted(column)));
    let sql = format!(
        "SELECT {} FROM {} WHERE {}",
        selected.collect::<Vec<_>>().join(", "),
        quoted(through),
        among(catalog, index, &hits)?
    );
    let mut stream = session().execute(&sql, Vec::new(), None).await?;
    while let Some(batch) = stream.next().await {
        let batch = batch?;
        let names = names(&batch.columns()[..key.len()]).map_err(|e| Problem::internal(&e))?;
        let cells: Vec<usize> = (key.len()..batch.num_columns()).collect();
        let cells = batch.project(&cells).map_err(|e| Problem::internal(&e))?;
        for (name, cells) in names.iter().zip(json_cells(&cells)?) {
            if let Some(name) = name.filter(|name| hits.contains(name)) {
                let row = columns.iter().cloned().zip(cells);
                rows.insert(name.to_owned(), row.collect::<Map<_, _>>().into());
            }
        }
    }
    Ok(rows)
}

/// A predicate that the rows of the hits pass: for a key of several columns others may pass, too, whose
/// values are each in some hit.
fn among(
    catalog: &Fold<CatalogState>,
    index: &Index,
    hits: &BTreeSet<&str>,
) -> Result<String, Problem> {
    let key = index.spec.key.columns();
    let known = catalog.state.dataset_under(&index.spec.source);
    let types = match known {
        Some(dataset) => key_types(dataset, key)?,
        None => vec![DataType::Utf8; key.len()],
    };
    let names: Vec<String> = hits.iter().map(|hit| (*hit).to_owned()).collect();
    let values = values(&types, &names).map_err(|error| Problem::internal(&error))?;
    let one_of = |(column, values): (&String, ArrayRef)| -> Result<String, Problem> {
        let texts = row_key::names(&[Arc::clone(&values)]).map_err(|e| Problem::internal(&e))?;
        let texts: BTreeSet<String> = texts
            .iter()
            .flatten()
            .map(|text| format!("'{}'", text.replace('\'', "''")))
            .collect();
        let texts: Vec<String> = texts.into_iter().collect();
        Ok(match values.data_type() {
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View if known.is_some() => {
                format!("{} IN ({})", quoted(column), texts.join(", "))
            }
            integer if integer.is_integer() => {
                format!(
                    "{} IN ({})",
                    quoted(column),
                    texts.join(", ").replace('\'', "")
                )
            }
            DataType::Binary | DataType::LargeBinary | DataType::FixedSizeBinary(_) => {
                let bytes = cast(&values, &DataType::LargeBinary)
                    .map_err(|error| Problem::internal(&error))?;
                let bytes: BTreeSet<String> = bytes
                    .as_binary::<i64>()
                    .iter()
                    .flatten()
                    .map(|bytes| format!("X'{}'", hex(bytes)))
                    .collect();
                let bytes: Vec<String> = bytes.into_iter().collect();
                format!("{} IN ({})", quoted(column), bytes.join(", "))
            }
            _ => format!(
                "CAST({} AS VARCHAR) IN ({})",
                quoted(column),
                texts.join(", ")
            ),
        })
    };
    let columns = key.iter().zip(values).map(one_of);
    Ok(columns.collect::<Result<Vec<_>, _>>()?.join(" AND "))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Text takes all that is written.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
