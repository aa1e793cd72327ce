//! The same searches through a daemon: the rows taken in as a dataset, indexed, and asked by vector
//! over one kept-alive connection. Where the daemon takes no column of vectors, only texts are measured.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::{
    super::{
        BenchError,
        daemon::{Daemon, client_runtime, generated},
        error::Doing as _,
        http::Connection,
        tpch::ipc_chunks,
    },
    contest::Contender,
    data::{K, Set},
    engine::{EF, config, spelled},
    lance::batch_of,
};
use crate::engines::vectors::Quantization;

const ARROW_STREAM: &str = "application/vnd.apache.arrow.stream";
/// Its dataset and its index.
pub(super) const DATASET: &str = "bench";
/// Rows of a batch that is sent.
const BATCH_ROWS: usize = 1_024;

/// An index in a daemon.
pub(super) struct OverRest {
    pub daemon: Daemon,
    pub quantization: Quantization,
    /// Seconds from the request to the index that answers.
    pub build_s: f64,
    /// What drives the connections.
    pub client: Runtime,
    connection: Connection,
}

impl OverRest {
    /// Takes the set in and builds its index.
    pub(super) fn start(
        daemon: Daemon,
        set: &Set,
        quantization: Quantization,
    ) -> Result<Self, BenchError> {
        let client = client_runtime()?;
        let batches: Vec<_> = (0..set.len())
            .step_by(BATCH_ROWS)
            .map(|first| {
                let last = (first + BATCH_ROWS).min(set.len());
                let rows = &set.rows[first * set.dimensions..last * set.dimensions];
                batch_of(rows, set.dimensions, first, set.texts.as_deref())
            })
            .collect::<Result<_, _>>()?;
        let schema = batches[0].schema();
        let body = generated(ipc_chunks(&schema, Box::new(batches.into_iter())));
        let config = config(quantization);
        let mut index = json!({
            "name": DATASET, "source": DATASET, "key": "key", "backend": "hnsw",
            "config": {
                "connectivity": config.connectivity, "ef_construction": config.expansion_add,
                "ef_search": config.expansion_search, "quantization": spelled(quantization),
            },
        });
        if set.texts.is_some() {
            index["text"] = json!(["text"]);
        } else {
            index["vector_column"] = json!("vector");
        }
        let (build_s, connection) = client.block_on(async {
            daemon
                .ingest(DATASET, Some("key"), ARROW_STREAM, body)
                .await?;
            let clock = Instant::now();
            let path = ["vectors", "index"];
            let asked = daemon.client().post(&path, &index).await.doing("index")?;
            built(&daemon, &asked).await?;
            let build_s = clock.elapsed().as_secs_f64();
            let to = daemon.address();
            let connection = Connection::to(to, daemon.token(), "POST /vectors/search").await?;
            Ok::<_, BenchError>((build_s, connection))
        })?;
        Ok(Self {
            daemon,
            quantization,
            build_s,
            client,
            connection,
        })
    }
}

/// Waits for the job of an answer.
pub(super) async fn built(daemon: &Daemon, asked: &Value) -> Result<(), BenchError> {
    let job = asked["job"].as_str().unwrap_or_default().to_owned();
    loop {
        let path = ["jobs", job.as_str()];
        let state = daemon.client().get(&path, &[]).await.doing("job")?;
        match state["state"].as_str() {
            Some("done") => return Ok(()),
            Some("failed") => return Err(BenchError::wrong("index", state.to_string())),
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

impl Contender for &mut OverRest {
    fn name(&self) -> String {
        format!("REST hnsw {}", spelled(self.quantization))
    }

    fn settings(&self) -> Vec<usize> {
        EF.to_vec()
    }

    fn search(&mut self, query: &[f32], setting: usize) -> Result<Vec<u64>, BenchError> {
        let body = body(query, setting);
        self.asked(&body)
    }

    /// The request is written before the clock starts: that is the client's work.
    fn timed(&mut self, query: &[f32], setting: usize) -> Result<(Vec<u64>, Duration), BenchError> {
        let body = body(query, setting);
        let clock = Instant::now();
        let answer = self.client.block_on(self.connection.post(&body))?;
        let time = clock.elapsed();
        Ok((slots(answer)?, time))
    }
}

impl OverRest {
    fn asked(&mut self, body: &str) -> Result<Vec<u64>, BenchError> {
        slots(self.client.block_on(self.connection.post(body))?)
    }
}

/// A search.
pub(super) fn body(query: &[f32], ef: usize) -> String {
    json!({ "index": DATASET, "vector": query, "k": K, "ef_search": ef }).to_string()
}

fn slots(answer: &[u8]) -> Result<Vec<u64>, BenchError> {
    let answer: Value = serde_json::from_slice(answer)
        .map_err(|error| BenchError::wrong("search", error.to_string()))?;
    let hits = answer["hits"].as_array().map_or(&[][..], Vec::as_slice);
    let slot = |hit: &Value| hit["key"].as_str()?.strip_prefix("row-")?.parse().ok();
    Ok(hits.iter().filter_map(slot).collect())
}
