//! A small client of the REST API, for tests: one call, one answer, and assertions that show the body when they fail.
//! It knows what every answer has in common (problem documents, lists), and nothing of single resources but the few that all tests use.

use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use super::PATIENCE;

/// Events that the daemon writes by itself, at times of its own.
const DAEMON_EVENTS: [&str; 10] = [
    "EvalsRetired",
    "FilesScrubbed",
    "FilesPurged",
    "ObjectsDeleted",
    "RowsErased",
    "GenerationsRetired",
    "DaemonStarted",
    "TriggerFired",
    "CheckpointTaken",
    "OrphansCollected",
];

/// A caller of one daemon.
#[derive(Clone)]
pub struct Api {
    http: reqwest::Client,
    base: String,
    token: Option<String>,
}

/// A request that is being put together.
pub struct Call {
    request: RequestBuilder,
    line: String,
}

/// A whole response.
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    line: String,
}

impl Api {
    /// A caller with this token, or with none.
    pub fn new(base: &str, token: Option<&str>) -> Self {
        let http = reqwest::Client::builder()
            .timeout(PATIENCE)
            .connect_timeout(Duration::from_secs(10))
            // A connection that the daemon is about to close fails the request that it is used for.
            .pool_idle_timeout(Duration::from_secs(2))
            .no_proxy()
            .build()
            .unwrap();
        Self {
            http,
            base: base.to_owned(),
            token: token.map(str::to_owned),
        }
    }

    /// A request with this method.
    pub fn call(&self, method: Method, path: &str) -> Call {
        let line = format!("{method} {path}");
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        Call { request, line }
    }

    /// `GET path`.
    pub async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path).send().await
    }

    /// `DELETE path`.
    pub async fn delete(&self, path: &str) -> Answer {
        self.call(Method::DELETE, path).send().await
    }

    /// `POST path` with a JSON body.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.call(Method::POST, path).json(body).send().await
    }

    /// `PATCH path` with a JSON body.
    pub async fn patch(&self, path: &str, body: &Value) -> Answer {
        self.call(Method::PATCH, path).json(body).send().await
    }

    /// `POST /ingest/file` with the rest of the query string and a body of this type.
    pub async fn ingest(
        &self,
        query: &str,
        content_type: &str,
        body: impl Into<Vec<u8>>,
    ) -> Answer {
        self.call(Method::POST, &format!("/ingest/file?{query}"))
            .header("content-type", content_type)
            .body(body)
            .send()
            .await
    }

    /// Makes a dataset from CSV text with the key column `id`.
    pub async fn create(&self, dataset: &str, csv: &str) -> Value {
        let query = format!("dataset={dataset}&mode=create&key=id");
        self.ingest(&query, "text/csv", csv).await.ok()
    }

    /// The answer to a query, as JSON.
    pub async fn sql(&self, sql: &str) -> Answer {
        self.post("/query/sql", &json!({ "sql": sql })).await
    }

    /// The rows of a query that must succeed.
    pub async fn rows(&self, sql: &str) -> Vec<Vec<Value>> {
        let answer = self.sql(sql).await.ok();
        let rows = answer["rows"]
            .as_array()
            .expect("`rows` is an array")
            .iter();
        rows.map(|row| row.as_array().expect("a row is an array").clone())
            .collect()
    }

    /// The one cell of a query that must succeed.
    pub async fn cell(&self, sql: &str) -> Value {
        let mut rows = self.rows(sql).await;
        assert_eq!(rows.len(), 1, "`{sql}` answers one row");
        rows.remove(0).remove(0)
    }

    /// Deletes rows for good.
    pub async fn tombstone(&self, dataset: &str, keys: &[&str], reason: &str) -> Answer {
        let path = format!("/catalog/datasets/{dataset}/tombstone");
        self.post(&path, &json!({ "row_keys": keys, "reason": reason }))
            .await
    }

    /// A client with a new token of this role.
    pub async fn with_role(&self, role: &str) -> Self {
        let issued = self
            .post("/auth/tokens", &json!({ "name": role, "role": role }))
            .await
            .ok();
        Self {
            token: Some(secret_of(&issued)),
            ..self.clone()
        }
    }

    /// A client with a new token, as this body asks for it.
    pub async fn with_token(&self, body: &Value) -> Self {
        let issued = self.post("/auth/tokens", body).await.ok();
        Self {
            token: Some(secret_of(&issued)),
            ..self.clone()
        }
    }

    /// The token that it shows.
    pub fn token(&self) -> &str {
        self.token.as_deref().unwrap_or_default()
    }

    /// The journal's position.
    pub async fn seq(&self) -> u64 {
        let health = self.get("/health").await.ok();
        health["journal"]["seq"]
            .as_u64()
            .expect("`journal.seq` is a number")
    }

    /// Every event after `after`, oldest first.
    pub async fn events(&self, after: u64) -> Vec<Value> {
        let mut events: Vec<Value> = Vec::new();
        let mut last = after;
        loop {
            let page = self
                .get(&format!("/journal/events?after={last}&limit=1000"))
                .await
                .ok();
            let page = list(&page);
            let Some(end) = page.last() else {
                return events;
            };
            last = end["seq"].as_u64().expect("an event has a `seq`");
            events.extend(page);
        }
    }

    /// What must stay the same when a request fails: the manifests, and what callers did to the journal after `seq`.
    pub async fn witness(&self, seq: u64) -> (Value, Vec<Value>) {
        let datasets = self.get("/catalog/datasets").await.ok();
        let events = self
            .events(seq)
            .await
            .into_iter()
            .filter(|event| !is_daemons_own(event));
        (datasets, events.collect())
    }
}

impl Call {
    /// Sets a header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.request = self.request.header(name, value);
        self
    }

    /// Sets the `Idempotency-Key`.
    pub fn key(self, key: &str) -> Self {
        self.header("idempotency-key", key)
    }

    /// Sets a JSON body.
    pub fn json(mut self, body: &Value) -> Self {
        self.request = self.request.json(body);
        self
    }

    /// Sets a body of bytes.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.request = self.request.body(body.into());
        self
    }

    /// Sends it and reads the whole answer.
    ///
    /// # Panics
    /// When no answer comes.
    pub async fn send(self) -> Answer {
        let line = self.line.clone();
        self.try_send()
            .await
            .unwrap_or_else(|error| panic!("{line}: {error:?}"))
    }

    /// Sends it and reads the whole answer.
    ///
    /// # Errors
    /// When the connection breaks or no answer comes in time: the outcome is not known.
    pub async fn try_send(self) -> Result<Answer, reqwest::Error> {
        let response = self.request.send().await?;
        Ok(Answer {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: response.bytes().await?,
            line: self.line,
        })
    }

    /// Sends it and hands the response over unread, for streams.
    pub async fn open(self) -> reqwest::Response {
        self.request
            .send()
            .await
            .unwrap_or_else(|error| panic!("{}: {error:?}", self.line))
    }
}

impl Answer {
    /// Whether it is a success.
    pub fn is_ok(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// A header's text, or nothing.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{}: {error} in {}", self.line, self.text()))
    }

    /// The body of a success.
    ///
    /// # Panics
    /// When it is a failure.
    pub fn ok(&self) -> Value {
        assert!(
            self.is_ok(),
            "{} answers {}: {}",
            self.line,
            self.status,
            self.text()
        );
        if self.body.is_empty() {
            Value::Null
        } else {
            self.json()
        }
    }

    /// The problem document of a failure with this status; checks that it is whole.
    ///
    /// # Panics
    /// When the status is another one or the document lacks a field.
    pub fn problem(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{} answers {}", self.line, self.text());
        self.problem_document()
    }

    /// The problem document of a failure with this status and code.
    ///
    /// # Panics
    /// As [`Answer::problem`], and when the code is another one.
    pub fn problem_code(&self, status: u16, code: &str) -> Value {
        let problem = self.problem(status);
        assert_eq!(problem["code"], code, "{}: {problem}", self.line);
        problem
    }

    /// The problem document of any failure of the caller's.
    ///
    /// # Panics
    /// When it is no 4xx or the document lacks a field.
    pub fn refused(&self) -> Value {
        assert!(
            (400..500).contains(&self.status),
            "{} answers {}: {}",
            self.line,
            self.status,
            self.text()
        );
        self.problem_document()
    }

    fn problem_document(&self) -> Value {
        let media = self.header(CONTENT_TYPE.as_str());
        assert!(
            media.starts_with("application/problem+json"),
            "{} answers {} as `{media}`: {}",
            self.line,
            self.status,
            self.text()
        );
        let problem = self.json();
        for field in ["type", "title", "detail", "instance", "code"] {
            let text = problem[field].as_str().unwrap_or_default();
            assert!(
                !text.is_empty(),
                "{}: a problem has a `{field}`: {problem}",
                self.line
            );
        }
        assert_eq!(problem["status"], self.status, "{}: {problem}", self.line);
        problem
    }
}

/// The items of a list answer.
///
/// # Panics
/// When it is no list.
pub fn list(answer: &Value) -> Vec<Value> {
    let items = answer.as_array().or_else(|| answer["items"].as_array());
    items
        .unwrap_or_else(|| panic!("this is a list: {answer}"))
        .clone()
}

/// The secret in the answer that issues a token.
///
/// # Panics
/// When there is none.
pub fn secret_of(issued: &Value) -> String {
    let secret = issued["secret"]
        .as_str()
        .or_else(|| issued["token"].as_str());
    secret
        .unwrap_or_else(|| panic!("the secret is shown once: {issued}"))
        .to_owned()
}

/// Whether the daemon wrote this event by itself.
pub fn is_daemons_own(event: &Value) -> bool {
    DAEMON_EVENTS.iter().any(|kind| event["kind"] == *kind)
}
