//! What goes in: the seven tables as CSV and the knowledge base as NDJSON, generated while they are
//! sent, and the index over the knowledge base.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt as _;
use indicatif::ProgressBar;
use reqwest::{Body, Method, header::CONTENT_TYPE};
use serde_json::{Value, json};
use tokio_stream::wrappers::ReceiverStream;

use super::{
    DemoError, Doing as _,
    data::{self, DEFAULT_SEED, TableSpec, WORDNET_BYTES, WORDNET_ROWS},
    script::bar,
};
use crate::cli::{client::Client, output};

/// The knowledge base's dataset.
pub(super) const KNOWLEDGE: &str = "wordnet";
/// The index over it.
pub(super) const INDEX: &str = "kb";
/// What is embedded of a row.
const TEXT: &str = "{lemmas}: {gloss}";
/// Chunks of about a mebibyte that wait to be sent.
const CHUNKS_WAITING: usize = 4;
const JOB_POLL: Duration = Duration::from_millis(200);
/// A job that does nothing for so long is given up.
const JOB_PATIENCE: Duration = Duration::from_mins(5);

/// One stream into one new dataset.
struct Load<'a> {
    dataset: &'a str,
    key: &'a str,
    content_type: &'a str,
    rows: u64,
}

/// Generates one table and sends it; returns the line that tells of it.
pub(super) async fn table(
    client: &Client,
    spec: &TableSpec,
    all_rows: u64,
) -> Result<String, DemoError> {
    let load = Load {
        dataset: spec.name,
        key: spec.key,
        content_type: "text/csv",
        rows: spec.rows,
    };
    let bar = bar(None, "    {spinner} {msg} {bytes} {bytes_per_sec}");
    let chunks = data::csv_chunks(spec.table, all_rows, DEFAULT_SEED);
    load.send(client, chunks, bar).await
}

/// Sends the knowledge base; returns the line that tells of it.
pub(super) async fn knowledge(client: &Client) -> Result<String, DemoError> {
    let load = Load {
        dataset: KNOWLEDGE,
        key: "id",
        content_type: "application/x-ndjson",
        rows: WORDNET_ROWS,
    };
    let bar = bar(
        Some(WORDNET_BYTES),
        "    {msg} {wide_bar} {bytes}/{total_bytes}",
    );
    load.send(client, data::wordnet_chunks(), bar).await
}

impl Load<'_> {
    async fn send(
        &self,
        client: &Client,
        chunks: impl Iterator<Item = Bytes> + Send + 'static,
        bar: ProgressBar,
    ) -> Result<String, DemoError> {
        let began = Instant::now();
        bar.set_message(self.dataset.to_owned());
        let query = [
            ("dataset", self.dataset),
            ("key", self.key),
            ("mode", "create"),
        ];
        let request = client
            .request(Method::POST, &["ingest", "file"])
            .query(&query)
            .header(CONTENT_TYPE, self.content_type)
            .body(generated(chunks, bar.clone()));
        let doing = format!("ingest of `{}`", self.dataset);
        let answer = client.answer(request).await;
        let sent = bar.position();
        bar.finish_and_clear();
        let answer = answer.doing(&doing)?;
        if answer["rows"] != self.rows {
            let found = format!("{} rows were sent, the answer is {answer}", self.rows);
            return Err(DemoError::wrong(doing, found));
        }
        Ok(format!(
            "{:<11}{:>10} rows {:>11} in {}",
            self.dataset,
            output::thousands(self.rows),
            output::bytes(sent),
            output::duration(began.elapsed()),
        ))
    }
}

/// A body whose chunks are made on a thread of their own while the earlier ones are sent.
fn generated(chunks: impl Iterator<Item = Bytes> + Send + 'static, bar: ProgressBar) -> Body {
    let (sender, receiver) = tokio::sync::mpsc::channel(CHUNKS_WAITING);
    std::thread::spawn(move || {
        for chunk in chunks {
            if sender.blocking_send(chunk).is_err() {
                return;
            }
        }
    });
    let stream = ReceiverStream::new(receiver).map(move |chunk| {
        bar.inc(chunk.len() as u64);
        Ok::<_, std::convert::Infallible>(chunk)
    });
    Body::wrap_stream(stream)
}

/// Builds the index over the knowledge base and watches the job; returns the line that tells of it.
pub(super) async fn index(client: &Client) -> Result<String, DemoError> {
    let doing = format!("index `{INDEX}`");
    let definition = json!({
        "name": INDEX, "source": KNOWLEDGE, "key": "id", "text": TEXT, "backend": "hnsw",
    });
    let accepted = client
        .post(&["vectors", "index"], &definition)
        .await
        .doing(&doing)?;
    let Some(job) = accepted["job"].as_str() else {
        return Err(DemoError::wrong(doing, format!("no job in {accepted}")));
    };
    watch(client, job, &doing).await?;
    let built = client
        .get(&["vectors", "indexes", INDEX], &[])
        .await
        .doing(&doing)?;
    if built["vectors"] != WORDNET_ROWS {
        return Err(DemoError::wrong(
            doing,
            format!("{WORDNET_ROWS} texts, but {built}"),
        ));
    }
    Ok(format!(
        "{} texts embedded in process ({} dimensions) and indexed, {}",
        output::thousands(WORDNET_ROWS),
        output::cell(&built["dimensions"]),
        output::bytes(built["bytes"].as_u64().unwrap_or_default()),
    ))
}

/// Asks for a job until it is done.
async fn watch(client: &Client, job: &str, doing: &str) -> Result<(), DemoError> {
    let bar = bar(
        Some(WORDNET_ROWS),
        "    {wide_bar} {human_pos}/{human_len} {per_sec} {eta}",
    );
    let mut moved = (Instant::now(), Value::Null);
    loop {
        let status = client.get(&["jobs", job], &[]).await.doing(doing)?;
        bar.set_position(status["done"].as_u64().unwrap_or_default());
        match status["state"].as_str() {
            Some("done") => break,
            Some("queued" | "running") => {}
            _ => return Err(DemoError::wrong(doing, format!("the job says {status}"))),
        }
        if status["done"] != moved.1 {
            moved = (Instant::now(), status["done"].clone());
        } else if moved.0.elapsed() > JOB_PATIENCE {
            return Err(DemoError::wrong(
                doing,
                format!("the job stands still: {status}"),
            ));
        }
        tokio::time::sleep(JOB_POLL).await;
    }
    bar.finish_and_clear();
    Ok(())
}
