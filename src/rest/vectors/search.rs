//! `POST /vectors/search`: a text or a vector in, the nearest visible rows out, with their columns.

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
use lakehouse_journal::model::{
    Fold,
    catalog::{CatalogState, Index},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::allowed::{must_answer, sessions, sight};
use crate::{
    engines::{
        audit::SeenRows,
        indexes::{HITS_MAX, SearchQuery, SearchRequest, Searched, quoted},
        vectors::{Hit, SearchPath},
    },
    query::{
        QuerySession, Reader, json_cells,
        row_key::{self, key_types, names, values},
    },
    rest::{
        Edge, ask,
        audited::{self, Told},
        auth::{self, May, Needs, Permission, Search},
        body::Body,
        past::Snapshot,
        predicate::predicate,
        problem::Problem,
        receipts::{self, Asked},
    },
};

/// Steps from 0 to 1 of a score that an agent is told.
const SCORE_STEPS: f64 = 1_000.0;

/// A search.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchBody {
    index: String,
    query: Option<String>,
    vector: Option<Vec<f32>>,
    #[serde(default = "ten")]
    k: usize,
    filter: Option<String>,
    #[serde(default)]
    columns: Vec<String>,
    ef_search: Option<usize>,
    mode: Option<String>,
    #[serde(default)]
    exact: bool,
    as_of: Option<Value>,
}

fn ten() -> usize {
    10
}

/// The rows whose text is nearest in meaning.
#[utoipa::path(post, path = "/vectors/search", tag = "vectors",
    responses((status = 200, description = "{index, generation, hits: [{key, score, distance, text?, row?}], elapsed_us, path}"),
        (status = 400, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
pub async fn search(
    edge: web::Data<Edge>,
    may: May<Search>,
    request: HttpRequest,
    body: Body<SearchBody>,
) -> Result<HttpResponse, Problem> {
    let text = String::from_utf8_lossy(&body.bytes);
    let mut told = ask::begun(&edge, &may, "search", &text);
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
    if asked.mode.as_deref().is_some_and(|mode| mode != "vector") {
        return Err(Problem::unsupported("a search mode other than `vector`"));
    }
    if asked.k > HITS_MAX {
        return Err(Problem::invalid(format!("`k` may be {HITS_MAX} at most")));
    }
    let wanted = match (&asked.query, &asked.vector) {
        (Some(text), None) => SearchQuery::Text(text),
        (None, Some(vector)) => SearchQuery::Vector(vector),
        _ => {
            return Err(Problem::invalid(
                "exactly one of `query` and `vector` is needed",
            ));
        }
    };
    let reader = may.reader();
    if reader.is_guarded() && asked.vector.is_some() {
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
    let request = SearchRequest {
        query: wanted,
        k: asked.k.min(
            may.limits()
                .rows()
                .map_or(HITS_MAX, |rows| usize::try_from(rows).unwrap_or(HITS_MAX)),
        ),
        filter: filter.as_deref(),
        ef_search: asked
            .ef_search
            .or_else(|| catalog.state.profile_ef(&asked.index)),
        exact: asked.exact,
        sight: sight(&way, &session),
    };
    let kept = serde_json::to_value(asked).map_err(|error| Problem::internal(&error))?;
    receipts::keep(edge, &may.token, Asked::Search(kept), told);
    let _slot = may.limits().slot()?;
    let found = tokio::select! {
        found = edge.indexes.search(catalog, index, &request) => found?,
        () = auth::ended(edge, &may.token) => return Err(auth::unauthorized()),
    };
    told.generation = Some(found.generation);
    edge.metrics.searches.fetch_add(1, Ordering::Relaxed);
    seen(edge, catalog, index, &found, told);
    let rows = rows_of(
        catalog,
        index,
        &found,
        &way.through,
        &asked.columns,
        &session,
    );
    let mut rows = rows.await?;
    let hits = shown(&found, &mut rows, asked, reader.is_guarded());
    let mut body = json!({
        "index": asked.index,
        "generation": found.generation,
        "hits": hits,
        "elapsed_us": found.elapsed_us,
        "as_of": snapshot.as_of,
        "path": match found.found.path { SearchPath::Ann => "ann", SearchPath::Exact => "exact" },
    });
    if may.asked().is_audited() {
        body["receipt"] = json!(told.receipt);
    }
    Ok(body)
}

/// The hits as the contract shows them.
fn shown(
    found: &Searched,
    rows: &mut Map<String, Value>,
    asked: &SearchBody,
    is_guarded: bool,
) -> Vec<Value> {
    // What an agent could reckon a text's vector from is told it roughly.
    let told_as = |number: f32| {
        if is_guarded {
            (f64::from(number) * SCORE_STEPS).round() / SCORE_STEPS
        } else {
            f64::from(number)
        }
    };
    let show = |hit: &Hit| {
        let mut value = json!({
            "key": hit.key,
            "score": told_as(hit.score),
            "distance": told_as(hit.distance),
            "text": found.open.index.text_of(hit.slot),
        });
        if !asked.columns.is_empty() {
            value["row"] = rows.remove(&hit.key).unwrap_or(Value::Null);
        }
        value
    };
    found.found.hits.iter().map(show).collect()
}

/// The rows that a search found, as the audit has them.
fn seen(
    edge: &Edge,
    catalog: &Fold<CatalogState>,
    index: &Index,
    found: &Searched,
    told: &mut Told,
) {
    let keys: Vec<&String> = found.found.hits.iter().map(|hit| &hit.key).collect();
    told.rows = Some(keys.len() as u64);
    let contents = keys
        .iter()
        .map(|key| edge.audit.content_hash(key.as_bytes()));
    let sum = contents.fold(0_u128, u128::wrapping_add);
    told.content = Some(format!("{sum:032x}"));
    if let Some(dataset) = catalog.state.dataset_under(&index.spec.source) {
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
    found: &Searched,
    through: &str,
    columns: &[String],
    session: &(dyn Fn() -> QuerySession + Send + Sync),
) -> Result<Map<String, Value>, Problem> {
    let mut rows = Map::new();
    if columns.is_empty() || found.found.hits.is_empty() {
        return Ok(rows);
    }
    let hits: BTreeSet<&str> = found
        .found
        .hits
        .iter()
        .map(|hit| hit.key.as_str())
        .collect();
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
