//! What a refresh costs beside the embedding in it: 1,000 rows appended to 586 and refreshed through
//! the daemon, beside the same number of texts sent to the same server and nothing else.

use std::{fmt::Write as _, path::Path, sync::Arc, time::Duration, time::Instant};

use lakehouse_actors::ports::Embedder;
use reqwest::{Method, header::CONTENT_TYPE};
use serde_json::{Value, json};

use super::super::{
    BenchError,
    daemon::{Daemon, client_runtime},
    error::Doing as _,
    report::{Limit, Report, Series, number, print, progress},
};
use crate::{
    cli::output,
    config::ProviderConfig,
    engines::{
        egress::EgressPolicy,
        embedder::{
            remote::{Client, RemoteEmbedder, Wire},
            standin::StandIn,
        },
    },
};

const ROWS_BEFORE: u64 = 586;
const ROWS_NEW: u64 = 1_000;
const DIMENSIONS: usize = 384;
/// How long the server takes for a batch: a small model on a good machine.
const PACE: Duration = Duration::from_millis(100);
const OVERHEAD_MAX: f64 = 1.1;

/// Compares both in alternating repetitions.
pub(super) fn measure(dir: &Path, repeat: u32, report: &mut Report) -> Result<(), BenchError> {
    progress("refresh: 1,000 rows beside their embedding alone");
    let server = StandIn::start(DIMENSIONS)?;
    let settings = format!("[embedding.ollama]\nurl = \"{}\"\n", server.ollama_url());
    std::fs::write(dir.join("lakehouse.toml"), settings)?;
    let daemon = Daemon::start(dir)?;
    let runtime = client_runtime()?;
    runtime.block_on(prepare(&daemon))?;
    server.pace(PACE);
    let (mut refreshed, mut alone) = (Series::default(), Series::default());
    let mut next = ROWS_BEFORE;
    for round in 0..repeat {
        for first in [round % 2 == 0, round % 2 == 1] {
            if first {
                let rows = table(next, next + ROWS_NEW);
                next += ROWS_NEW;
                runtime.block_on(append(&daemon, rows))?;
                server.forget();
                refreshed.push(runtime.block_on(refresh(&daemon))?);
                if server.texts() != ROWS_NEW {
                    let found = format!("{} texts were sent", server.texts());
                    return Err(BenchError::wrong("the refresh", found));
                }
            } else {
                alone.push(runtime.block_on(embed(&server, round))?);
            }
        }
    }
    let ratio = refreshed.median() / alone.median();
    let row = vec![
        number(refreshed.median()),
        number(alone.median()),
        number(ratio),
    ];
    let headers = ["refresh of 1,000 rows, s", "1,000 texts alone, s", "ratio"];
    print(&output::table(&headers, &[row]))?;
    report.set(
        "overhead",
        json!({ "rows_before": ROWS_BEFORE, "rows_new": ROWS_NEW, "pace_ms": PACE.as_millis(),
            "refresh_s": refreshed.json(), "embedding_s": alone.json(), "ratio": ratio }),
    );
    let what = "refresh of 1,000 rows beside embedding them, ratio";
    report.gate(what, ratio, Limit::AtMost(OVERHEAD_MAX));
    Ok(())
}

/// Rows of `id,title,body`, each with a text of its own.
pub(super) fn table(first: u64, last: u64) -> String {
    let mut csv = String::from("id,title,body\n");
    for id in first..last {
        let _ = writeln!(
            csv,
            "{id},run {id} of the nightly build,it compiled {id} files and wrote a report"
        );
    }
    csv
}

async fn prepare(daemon: &Daemon) -> Result<(), BenchError> {
    let rows = table(0, ROWS_BEFORE);
    daemon
        .ingest("runs", Some("id"), "text/csv", rows.into())
        .await?;
    let index = json!({ "name": "runs_idx", "source": "runs", "key": "id",
        "text": "{title}. {body}", "provider": "ollama", "model": "m" });
    define(daemon, &index).await
}

/// Defines an index and waits until it is built.
pub(super) async fn define(daemon: &Daemon, index: &Value) -> Result<(), BenchError> {
    let request = daemon
        .client()
        .request(Method::POST, &["vectors", "index"])
        .query(&[("wait", "true")])
        .json(index);
    let answer = daemon.client().answer(request).await;
    answer.doing("index").map(|_| ())
}

/// Appends rows.
pub(super) async fn append(daemon: &Daemon, rows: String) -> Result<(), BenchError> {
    let request = daemon
        .client()
        .request(Method::POST, &["ingest", "file"])
        .query(&[("dataset", "runs"), ("mode", "append")])
        .header(CONTENT_TYPE, "text/csv")
        .body(rows);
    let answer = daemon.client().answer(request).await;
    answer.doing("append").map(|_| ())
}

/// Seconds that a refresh takes, as whoever asks for it sees it.
async fn refresh(daemon: &Daemon) -> Result<f64, BenchError> {
    let clock = Instant::now();
    let path = ["vectors", "refresh", "runs"];
    let done = daemon.client().post(&path, &json!({})).await;
    let done = done.doing("refresh")?;
    let seconds = clock.elapsed().as_secs_f64();
    if done["embedded"] != ROWS_NEW {
        return Err(BenchError::wrong("the refresh", done.to_string()));
    }
    Ok(seconds)
}

/// Seconds that the same number of texts takes by itself, sent as the daemon sends them.
async fn embed(server: &StandIn, round: u32) -> Result<f64, BenchError> {
    let config: ProviderConfig = serde_json::from_value(json!({ "url": server.ollama_url() }))
        .map_err(|error| BenchError::wrong("the settings", error.to_string()))?;
    let egress = EgressPolicy {
        allow: Vec::new(),
        allow_loopback: true,
    };
    let failed = |error: lakehouse_actors::PortError| BenchError::wrong("embedding", error.message);
    let client = Client::new(config.client(Wire::Ollama), egress, Arc::new(|_| None));
    let client = Arc::new(client.map_err(failed)?);
    let embedder = RemoteEmbedder::probe(client, "m").await.map_err(failed)?;
    let texts: Vec<String> = (0..ROWS_NEW)
        .map(|id| format!("run {round}-{id} of the nightly build. it compiled {id} files"))
        .collect();
    let clock = Instant::now();
    for batch in texts.chunks(embedder.limits().batch_texts) {
        embedder.embed(batch).await.map_err(failed)?;
    }
    Ok(clock.elapsed().as_secs_f64())
}
