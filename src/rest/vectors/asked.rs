//! What a search asks for, as it stands in its body: one query or many, and how many rows they may have
//! in all.

use std::{future::Future, pin::Pin};

use actix_web::{FromRequest, HttpRequest, dev::Payload, web};
use lakehouse_kernels::json::object_with_numbers;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    engines::indexes::{HITS_MAX, SearchMode, SearchQuery},
    rest::{
        body::{BODY_BYTES_MAX, json, unread, whole},
        problem::Problem,
    },
};

/// Most queries of one request.
const QUERIES_MAX: usize = 1_000;
/// Most hits of all queries of one request.
const HITS_TOGETHER_MAX: usize = 100_000;

/// A search.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchBody {
    pub(super) index: String,
    query: Option<String>,
    vector: Option<Vec<f32>>,
    queries: Option<Vec<Query>>,
    #[serde(default = "ten")]
    k: usize,
    pub(super) filter: Option<String>,
    #[serde(default)]
    pub(super) columns: Vec<String>,
    pub(super) ef_search: Option<usize>,
    pub(super) mode: Option<Mode>,
    #[serde(default)]
    pub(super) exact: bool,
    pub(super) as_of: Option<Value>,
}

/// The body of a search, and its bytes. Its vector is read in the kernels: a number at a time takes as long
/// as the search itself.
pub struct SearchAsked {
    pub(super) value: SearchBody,
    pub(super) bytes: web::Bytes,
}

impl FromRequest for SearchAsked {
    type Error = Problem;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Problem>>>>;

    fn from_request(_: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let payload = payload.take();
        Box::pin(async move {
            let bytes = whole(payload, BODY_BYTES_MAX).await?;
            let read = object_with_numbers(json(&bytes), "vector").and_then(|(fields, vector)| {
                let body: SearchBody = serde_json::from_value(Value::Object(fields))?;
                Ok(SearchBody { vector, ..body })
            });
            let value = read.map_err(|error| unread(&error))?;
            Ok(Self { value, bytes })
        })
    }
}

/// One query of many: a text, or an object of one field.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Query {
    Text(String),
    One(One),
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct One {
    #[serde(skip_serializing_if = "Option::is_none")]
    query: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vector: Option<Vec<f32>>,
}

/// How rows are found.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Mode {
    /// By meaning.
    #[default]
    Vector,
    /// By words.
    Text,
    /// By both.
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

impl SearchBody {
    /// Whether many queries are answered in one.
    pub(super) fn is_batch(&self) -> bool {
        self.queries.is_some()
    }

    /// Whether a query is a vector of the caller's own making.
    pub(super) fn has_vectors(&self) -> bool {
        let of_many = |query: &Query| {
            matches!(
                query,
                Query::One(One {
                    vector: Some(_),
                    ..
                })
            )
        };
        self.vector.is_some() || self.queries.iter().flatten().any(of_many)
    }

    /// The queries, one at least.
    ///
    /// # Errors
    /// 400 when there is none, or more than one way to ask.
    pub(super) fn queries(&self) -> Result<Vec<SearchQuery<'_>>, Problem> {
        match (&self.query, &self.vector, &self.queries) {
            (Some(text), None, None) => Ok(vec![SearchQuery::Text(text)]),
            (None, Some(vector), None) => Ok(vec![SearchQuery::Vector(vector)]),
            (None, None, Some(queries)) if queries.is_empty() || queries.len() > QUERIES_MAX => {
                let text = format!("`queries` are 1 to {QUERIES_MAX}");
                Err(Problem::invalid(text))
            }
            (None, None, Some(queries)) => queries.iter().map(Query::as_query).collect(),
            _ => Err(Problem::invalid(
                "exactly one of `query`, `vector` and `queries` is needed",
            )),
        }
    }
}

impl Query {
    fn as_query(&self) -> Result<SearchQuery<'_>, Problem> {
        match self {
            Self::Text(text)
            | Self::One(One {
                query: Some(text),
                vector: None,
            }) => Ok(SearchQuery::Text(text)),
            Self::One(One {
                query: None,
                vector: Some(vector),
            }) => Ok(SearchQuery::Vector(vector)),
            Self::One(_) => Err(Problem::invalid(
                "one of `queries` is a text, or has exactly one of `query` and `vector`",
            )),
        }
    }
}

/// How many rows each query may find: `k`, and together no more than the caller's rows.
///
/// # Errors
/// 400 for a `k` that is too large, by itself or taken together.
pub(super) fn row_limit(
    asked: &SearchBody,
    queries: usize,
    rows: Option<u64>,
) -> Result<usize, Problem> {
    if asked.k > HITS_MAX {
        return Err(Problem::invalid(format!("`k` may be {HITS_MAX} at most")));
    }
    let rows = rows.map_or(usize::MAX, |rows| {
        usize::try_from(rows).unwrap_or(usize::MAX)
    });
    if !asked.is_batch() {
        return Ok(asked.k.min(rows));
    }
    let most = rows.min(HITS_TOGETHER_MAX);
    if asked.k.saturating_mul(queries) > most {
        let text = format!("`queries` times `k` may be {most} at most");
        return Err(Problem::invalid(text));
    }
    Ok(asked.k)
}
