//! `POST /vectors/search`: texts or vectors in, the visible rows that are nearest or fit the words out,
//! with their columns.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    sync::{Arc, atomic::Ordering},
};

use actix_web::{HttpResponse, http::StatusCode, web};
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
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    engines::{
        indexes::{HITS_MAX, SearchMode, SearchQuery, SearchRequest, Searched, quoted},
        vectors::VectorError,
    },
    query::{
        SessionTables, json_cells,
        row_key::{self, key_types, names, values},
    },
    rest::{
        Edge,
        auth::{May, ReadData},
        body::Body,
        past::Snapshot,
        predicate::predicate,
        problem::Problem,
    },
};

/// Most queries of one request.
const QUERIES_MAX: usize = 1_000;

/// A search.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchBody {
    index: String,
    query: Option<String>,
    vector: Option<Vec<f32>>,
    queries: Option<Vec<Asked>>,
    #[serde(default = "ten")]
    k: usize,
    filter: Option<String>,
    #[serde(default)]
    columns: Vec<String>,
    ef_search: Option<usize>,
    #[serde(default)]
    mode: Mode,
    #[serde(default)]
    exact: bool,
    as_of: Option<Value>,
}

/// One query of many: a text, or an object of one field.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Asked {
    Text(String),
    One(One),
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct One {
    query: Option<String>,
    vector: Option<Vec<f32>>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Mode {
    #[default]
    Vector,
    Text,
    Hybrid,
}

impl From<Mode> for SearchMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Vector => Self::Vector,
            Mode::Text => Self::Text,
            Mode::Hybrid => Self::Hybrid,
        }
    }
}

fn ten() -> usize {
    10
}

/// The rows whose text is nearest in meaning, or fits the words.
#[utoipa::path(post, path = "/vectors/search", tag = "vectors",
    responses((status = 200, description = "{index, generation, hits: [{key, score, distance, text?, row?}], elapsed_us, path}; with `queries`: {index, generation, results: [{hits, elapsed_us, path}]}"),
        (status = 400, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
pub async fn search(
    edge: web::Data<Edge>,
    _: May<ReadData>,
    body: Body<SearchBody>,
) -> Result<HttpResponse, Problem> {
    let asked = body.value;
    if asked.k > HITS_MAX {
        return Err(Problem::invalid(format!("`k` may be {HITS_MAX} at most")));
    }
    let queries = queries_of(&asked)?;
    let filter = asked
        .filter
        .as_deref()
        .map(|text| predicate("filter", text))
        .transpose()?;
    let snapshot = Snapshot::of(&edge, asked.as_of.as_ref()).await?;
    let catalog = &snapshot.catalog;
    let index = index_of(&edge, &snapshot, &asked.index)?;
    let mut results = Vec::with_capacity(queries.len());
    for query in queries {
        let request = SearchRequest {
            query,
            mode: asked.mode.into(),
            k: asked.k,
            filter: filter.as_deref(),
            ef_search: asked.ef_search,
            exact: asked.exact,
            reader: None,
        };
        let found = edge.indexes.search(catalog, index, &request).await?;
        edge.metrics.searches.fetch_add(1, Ordering::Relaxed);
        let hits = hits_of(&edge, catalog, index, &found, &asked.columns).await?;
        results.push((hits, found));
    }
    let mut answer = json!({
        "index": asked.index,
        "generation": results.first().map(|(_, found)| found.live.generation),
        "as_of": snapshot.as_of,
    });
    let mut results: Vec<Value> = results
        .into_iter()
        .map(|(hits, found)| {
            json!({ "hits": hits, "elapsed_us": found.elapsed_us, "path": found.path })
        })
        .collect();
    if asked.queries.is_some() {
        answer["results"] = results.into();
    } else if let (Some(Value::Object(only)), Value::Object(answer)) = (results.pop(), &mut answer)
    {
        answer.extend(only);
    }
    Ok(HttpResponse::Ok().json(answer))
}

fn queries_of(asked: &SearchBody) -> Result<Vec<SearchQuery<'_>>, Problem> {
    let exactly_one =
        || Problem::invalid("exactly one of `query`, `vector` and `queries` is needed");
    match (&asked.query, &asked.vector, &asked.queries) {
        (Some(text), None, None) => Ok(vec![SearchQuery::Text(text)]),
        (None, Some(vector), None) => Ok(vec![SearchQuery::Vector(vector)]),
        (None, None, Some(queries)) if queries.len() > QUERIES_MAX => Err(Problem::invalid(
            format!("`queries` may be {QUERIES_MAX} at most"),
        )),
        (None, None, Some(queries)) => queries
            .iter()
            .map(|query| match query {
                Asked::Text(text)
                | Asked::One(One {
                    query: Some(text),
                    vector: None,
                }) => Ok(SearchQuery::Text(text)),
                Asked::One(One {
                    query: None,
                    vector: Some(vector),
                }) => Ok(SearchQuery::Vector(vector)),
                Asked::One(_) => Err(exactly_one()),
            })
            .collect(),
        _ => Err(exactly_one()),
    }
}

async fn hits_of(
    edge: &Edge,
    catalog: &Fold<CatalogState>,
    index: &Index,
    found: &Searched,
    columns: &[String],
) -> Result<Vec<Value>, Problem> {
    let mut rows = rows_of(edge, catalog, index, found, columns).await?;
    let slots: Vec<u64> = found.hits.iter().map(|hit| hit.slot).collect();
    let failed = |error: VectorError| Problem::internal(&error);
    let texts = found.live.texts(&slots).await.map_err(failed)?;
    let hits = found.hits.iter().zip(texts).map(|(hit, text)| {
        let mut value = json!({
            "key": hit.key,
            "score": hit.score,
            "distance": hit.distance,
            "text": text,
        });
        if !columns.is_empty() {
            value["row"] = rows.remove(&hit.key).unwrap_or(Value::Null);
        }
        value
    });
    Ok(hits.collect())
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
    if !snapshot.catalog.state.datasets.contains_key(source) {
        return Err(snapshot.explain_missing(source, too_old()));
    }
    Ok(index)
}

/// The wanted columns of the hits' rows, by key: read like any query reads them.
async fn rows_of(
    edge: &Edge,
    catalog: &Fold<CatalogState>,
    index: &Index,
    found: &Searched,
    columns: &[String],
) -> Result<Map<String, Value>, Problem> {
    let mut rows = Map::new();
    if columns.is_empty() || found.hits.is_empty() {
        return Ok(rows);
    }
    let hits: BTreeSet<&str> = found.hits.iter().map(|hit| hit.key.as_str()).collect();
    let key = index.spec.key.columns();
    let selected = key.iter().chain(columns).map(|column| quoted(column));
    let sql = format!(
        "SELECT {} FROM {} WHERE {}",
        selected.collect::<Vec<_>>().join(", "),
        quoted(&index.spec.source),
        among(catalog, index, &hits)?
    );
    let tables = SessionTables::all(Arc::new(catalog.state.clone()), catalog.seq);
    let session = edge.query.session(tables);
    let mut stream = session.execute(&sql, Vec::new(), None).await?;
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
    let known = catalog.state.datasets.get(&index.spec.source);
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
