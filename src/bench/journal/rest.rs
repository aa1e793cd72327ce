//! Durable mutations per second through REST: 64 clients, each describing a dataset of its own
//! again and again. The clients share the machine with the daemon, on one thread.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::super::{
    BenchError,
    daemon::{Daemon, client_runtime},
    error::Doing as _,
    http::{Connection, PLACE},
    report::{Series, float, ms, number, print, progress},
};
use crate::cli::output;

const CLIENTS: u64 = 64;
/// The first second is not measured.
const WARM_UP: Duration = Duration::from_secs(1);

/// What was measured.
pub(super) struct Mutations {
    /// Every repetition.
    pub json: Value,
    /// Acknowledged mutations per second.
    pub per_s: f64,
}

/// One repetition.
struct Run {
    mutations: u64,
    elapsed: Duration,
    /// Ascending.
    latencies: Vec<Duration>,
    last_seq: u64,
}

pub(super) fn measure(dir: &Path, seconds: u64, repeat: u32) -> Result<Mutations, BenchError> {
    let daemon = Daemon::start(dir)?;
    client_runtime()?.block_on(async {
        progress(&format!("rest: {CLIENTS} clients, {repeat} × {seconds} s"));
        for client in 0..CLIENTS {
            let row = Bytes::from_static(b"id,name\n1,one\n");
            let name = dataset(client);
            daemon
                .ingest(&name, Some("id"), "text/csv", row.into())
                .await?;
        }
        let mut next = 0;
        drive(&daemon, WARM_UP, &mut next).await?;
        let mut runs = Vec::new();
        for _ in 0..repeat {
            let before = durable_seq(&daemon).await?;
            let run = drive(&daemon, Duration::from_secs(seconds), &mut next).await?;
            let events = durable_seq(&daemon).await? - before;
            if events < run.mutations || run.last_seq < before + run.mutations {
                let found = format!("{} answers, but {events} events", run.mutations);
                return Err(BenchError::wrong("rest", found));
            }
            runs.push(run);
        }
        summary(&runs)
    })
}

fn dataset(client: u64) -> String {
    format!("bench_{client:02}")
}

async fn durable_seq(daemon: &Daemon) -> Result<u64, BenchError> {
    let health = daemon
        .client()
        .get(&["health"], &[])
        .await
        .doing("health")?;
    let seq = health["journal"]["durable_seq"].as_u64();
    seq.ok_or_else(|| BenchError::wrong("health", health.to_string()))
}

/// All clients for `time`; `next` is the number that no request has had yet.
async fn drive(daemon: &Daemon, time: Duration, next: &mut u64) -> Result<Run, BenchError> {
    let mut connections = Vec::new();
    for client in 0..CLIENTS {
        let path = format!("PATCH /catalog/datasets/{}", dataset(client));
        let body = json!({ "description": format!("change {PLACE}") }).to_string();
        connections.push(Connection::open(daemon.address(), daemon.token(), &path, &body).await?);
    }
    let clock = Instant::now();
    let mut clients = JoinSet::new();
    for connection in connections {
        clients.spawn(one_client(connection, *next, clock + time));
    }
    let (mut latencies, mut last_seq) = (Vec::new(), 0);
    while let Some(client) = clients.join_next().await {
        let client = client.map_err(|error| BenchError::wrong("rest", error.to_string()))?;
        let (own, seq) = client?;
        latencies.extend(own);
        last_seq = last_seq.max(seq);
    }
    let elapsed = clock.elapsed();
    latencies.sort_unstable();
    let mutations = latencies.len() as u64;
    *next += mutations;
    Ok(Run {
        mutations,
        elapsed,
        latencies,
        last_seq,
    })
}

/// One request after the other; returns how long each took, and the position of the last one.
async fn one_client(
    mut connection: Connection,
    first: u64,
    end: Instant,
) -> Result<(Vec<Duration>, u64), BenchError> {
    let (mut number, mut latencies) = (first, Vec::new());
    let mut first_seq = None;
    loop {
        let clock = Instant::now();
        let body = connection.exchange(number).await?;
        latencies.push(clock.elapsed());
        number += 1;
        let over = Instant::now() >= end;
        // Reading every answer would cost what is to be measured; the first and the last must do.
        if over || first_seq.is_none() {
            let seq = journal_seq(body)?;
            first_seq.get_or_insert(seq);
            if over {
                return Ok((latencies, seq));
            }
        }
    }
}

fn journal_seq(body: &[u8]) -> Result<u64, BenchError> {
    let answer: Value = serde_json::from_slice(body).unwrap_or_default();
    let odd = || BenchError::wrong("rest", format!("no journal_seq in {answer}"));
    answer["journal_seq"].as_u64().ok_or_else(odd)
}

impl Run {
    fn per_s(&self) -> f64 {
        float(self.mutations) / self.elapsed.as_secs_f64()
    }

    /// So many of a hundred answers came within this time, in milliseconds.
    fn percentile_ms(&self, percent: usize) -> f64 {
        let last = self.latencies.len().saturating_sub(1);
        let at = (self.latencies.len() * percent / 100).min(last);
        ms(self.latencies.get(at).copied().unwrap_or_default())
    }
}

fn summary(runs: &[Run]) -> Result<Mutations, BenchError> {
    let series = |value: &dyn Fn(&Run) -> f64| -> Series { runs.iter().map(value).collect() };
    let per_s = series(&Run::per_s);
    let (p50, p99) = (
        series(&|run| run.percentile_ms(50)),
        series(&|run| run.percentile_ms(99)),
    );
    let rows = [vec![
        CLIENTS.to_string(),
        number(per_s.median()),
        number(p50.median()),
        number(p99.median()),
    ]];
    let headers = ["clients through REST", "durable /s", "p50 ms", "p99 ms"];
    print(&output::table(&headers, &rows))?;
    let mutations: Vec<u64> = runs.iter().map(|run| run.mutations).collect();
    Ok(Mutations {
        json: json!({
            "clients": CLIENTS, "mutations": mutations, "per_s": per_s.json(),
            "p50_ms": p50.json(), "p99_ms": p99.json(),
        }),
        per_s: per_s.median(),
    })
}
