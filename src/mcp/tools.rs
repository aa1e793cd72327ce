//! What a caller can ask through the protocol: `query`, `search`, and the tools that were written down for it.

use actix_web::web;
use rmcp::model::{JsonObject, Tool, ToolAnnotations};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::rest::{
    Edge,
    ask::{self, Question},
    audited::Told,
    auth::{Ask, May},
    problem::Problem,
    readable,
    receipts::Asked,
    tools::{self, Called},
    vectors,
};

/// Rows of an answer unless the model asks for more: it reads all of them.
const ROWS: usize = 100;

/// The tools of a caller.
pub(super) fn of(edge: &Edge, may: &May<Ask>) -> Vec<Tool> {
    let mut all = vec![tool("query", QUERY, object(&query_schema()))];
    let indexes = readable::indexes(edge, may);
    if !indexes.is_empty() {
        all.push(tool("search", SEARCH, object(&search_schema(&indexes))));
    }
    for written in tools::callable(edge, may) {
        let spec = &written.spec;
        all.push(tool(&spec.name, &spec.description, tools::schema(spec)));
    }
    all
}

const QUERY: &str = "Answers one SQL query (SELECT) over the tables that the resources list. Bind values with $1, $2, …";
const SEARCH: &str = "Finds the rows of an index whose text is nearest in meaning to `query`.";

fn tool(name: &str, description: &str, schema: JsonObject) -> Tool {
    let mut tool = Tool::new(name.to_owned(), description.to_owned(), schema);
    tool.annotations = Some(ToolAnnotations::new().read_only(true));
    tool
}

fn object(schema: &Value) -> JsonObject {
    schema.as_object().cloned().unwrap_or_default()
}

fn query_schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "sql": { "type": "string", "description": "one SELECT" },
            "params": { "type": "array", "description": "values for $1, $2, …" },
            "limit": { "type": "integer", "minimum": 1, "description": "most rows; 100 unless given" },
        },
        "required": ["sql"],
        "additionalProperties": false,
    })
}

fn search_schema(indexes: &[String]) -> Value {
    json!({
        "type": "object",
        "properties": {
            "index": { "type": "string", "enum": indexes },
            "query": { "type": "string", "description": "what the text should mean" },
            "k": { "type": "integer", "minimum": 1, "description": "how many rows; 10 unless given" },
            "filter": { "type": "string", "description": "a condition over the rows, in SQL" },
            "columns": { "type": "array", "items": { "type": "string" }, "description": "columns to show" },
        },
        "required": ["index", "query"],
        "additionalProperties": false,
    })
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct QueryArguments {
    sql: String,
    #[serde(default)]
    params: Vec<Value>,
    limit: Option<usize>,
}

/// Calls a tool. Returns what is to be told with the answer.
pub(super) async fn call(
    edge: &web::Data<Edge>,
    may: &May<Ask>,
    name: &str,
    arguments: JsonObject,
) -> (Told, Result<Value, Problem>) {
    match name {
        "query" => query(edge, may, arguments).await,
        "search" => search(edge, may, arguments).await,
        name => {
            let called = Called {
                name,
                params: &arguments,
                limit: None,
                as_of: None,
            };
            let mut told = tools::begun(edge, may, &called);
            let answer = tools::answer(edge, may, &called, &mut told).await;
            (told, answer)
        }
    }
}

async fn query(
    edge: &web::Data<Edge>,
    may: &May<Ask>,
    arguments: JsonObject,
) -> (Told, Result<Value, Problem>) {
    let asked: QueryArguments = match serde_json::from_value(Value::Object(arguments)) {
        Ok(asked) => asked,
        Err(error) => return (plain("query"), Err(malformed(&error))),
    };
    let limit = Some(asked.limit.unwrap_or(ROWS));
    let mut told = ask::begun(edge, may, "query", &asked.sql);
    let question = Question {
        sql: &asked.sql,
        params: asked.params.clone().into(),
        limit,
        as_of: None,
        only: None,
        kept: Some(Asked::Query {
            sql: asked.sql.clone(),
            params: asked.params,
            limit: None,
        }),
    };
    let answer = ask::page(edge, may, question, &mut told).await;
    (told, answer.map(|answer| answer.json()))
}

async fn search(
    edge: &web::Data<Edge>,
    may: &May<Ask>,
    arguments: JsonObject,
) -> (Told, Result<Value, Problem>) {
    // A model gives a text; a vector of its own making is a way to read others' texts out of an index.
    for field in ["vector", "queries"] {
        if arguments.contains_key(field) {
            let text = format!("`{field}` is not taken here");
            return (plain("search"), Err(Problem::invalid(text)));
        }
    }
    let arguments = Value::Object(arguments);
    let mut told = ask::begun(edge, may, "search", &arguments.to_string());
    let answer = match serde_json::from_value(arguments) {
        Ok(asked) => vectors::search::answer(edge, may, &asked, &mut told).await,
        Err(error) => Err(malformed(&error)),
    };
    (told, answer)
}

fn plain(action: &'static str) -> Told {
    Told {
        action,
        ..Told::default()
    }
}

fn malformed(error: &serde_json::Error) -> Problem {
    Problem::invalid(format!("the arguments: {error}"))
}
