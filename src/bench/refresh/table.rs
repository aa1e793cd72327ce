//! The embedded table that refreshes are measured on.

use std::fmt::Write as _;

use bytes::Bytes;
use reqwest::{Method, header::CONTENT_TYPE};
use serde_json::{Value, json};

use super::super::{
    BenchError,
    daemon::{Daemon, generated},
    error::Doing as _,
};

const NAME: &str = "notes";
const NDJSON: &str = "application/x-ndjson";
/// Rows of a chunk of a body.
const CHUNK_ROWS: usize = 10_000;

/// A dataset with an index over its one column of text.
pub(super) struct Table<'a> {
    daemon: &'a Daemon,
    /// Provider and model of the index, when they are not the default.
    model: Value,
}

impl<'a> Table<'a> {
    pub(super) fn new(daemon: &'a Daemon, model: Value) -> Self {
        Self { daemon, model }
    }

    /// Takes texts in as rows numbered from `first`, and has them indexed.
    pub(super) async fn create(&self, texts: &[String], first: usize) -> Result<(), BenchError> {
        let chunks = bodies(texts, first);
        let body = generated(chunks.into_iter());
        self.daemon.ingest(NAME, Some("id"), NDJSON, body).await?;
        let mut index = json!({ "name": NAME, "source": NAME, "key": "id", "text": ["text"] });
        if let (Some(index), Some(model)) = (index.as_object_mut(), self.model.as_object()) {
            index.extend(model.clone());
        }
        let client = self.daemon.client();
        let request = client.request(Method::POST, &["vectors", "index"]);
        let built = client.answer(request.query(&[("wait", "true")]).json(&index));
        built.await.doing("the index")?;
        Ok(())
    }

    /// Takes texts in as rows numbered from `first`, in the place of those that are there.
    pub(super) async fn upsert(&self, texts: &[String], first: usize) -> Result<(), BenchError> {
        let client = self.daemon.client();
        let request = client
            .request(Method::POST, &["ingest", "file"])
            .query(&[("dataset", NAME), ("mode", "upsert")])
            .header(CONTENT_TYPE, NDJSON)
            .body(generated(bodies(texts, first).into_iter()));
        client.answer(request).await.doing("upsert")?;
        Ok(())
    }

    /// Refreshes it; returns the answer.
    pub(super) async fn refresh(&self) -> Result<Value, BenchError> {
        let path = ["vectors", "refresh", NAME];
        let answer = self.daemon.client().post(&path, &json!({})).await;
        answer.doing("refresh")
    }
}

/// Texts that a refresh embedded.
pub(super) fn embedded(told: &Value) -> u64 {
    told["embedded"].as_u64().unwrap_or_default()
}

fn bodies(texts: &[String], first: usize) -> Vec<Bytes> {
    let chunk = |(number, texts): (usize, &[String])| {
        let first = first + number * CHUNK_ROWS;
        let rows = texts.iter().enumerate();
        let lines = rows.fold(String::new(), |mut lines, (row, text)| {
            // Text takes all that is written.
            let _ = writeln!(lines, "{}", json!({ "id": first + row, "text": text }));
            lines
        });
        lines.into()
    };
    texts.chunks(CHUNK_ROWS).enumerate().map(chunk).collect()
}
