//! What a large body costs in memory: 2 GB of CSV, made while they are sent, into a fresh daemon.

use std::{path::Path, time::Instant};

use bytes::Bytes;
use serde_json::json;

use super::super::{
    BenchError,
    daemon::{Daemon, client_runtime, generated},
    report::{Limit, Report, float, number, print, progress},
};
use crate::{
    cli::output,
    demo::data::{DEFAULT_ROWS, DEFAULT_SEED, Table, csv_chunks},
};

/// The body ends with the first record behind so many bytes.
const BODY_BYTES: u64 = 2_000_000_000;
/// Makes the table far longer than the body.
const ROWS: u64 = 1_000 * DEFAULT_ROWS;
const GIB: f64 = 1_073_741_824.0;

/// Streams the body and reports the daemon's peak memory.
pub(super) fn measure(dir: &Path, report: &mut Report) -> Result<(), BenchError> {
    progress("ingest: 2 GB of CSV");
    let daemon = Daemon::start(dir)?;
    let before = daemon.peak_rss_bytes();
    let clock = Instant::now();
    let answer = client_runtime()?.block_on(async {
        let body = generated(body());
        daemon.ingest("large", Some("id"), "text/csv", body).await
    })?;
    let seconds = clock.elapsed().as_secs_f64();
    let Some(peak) = daemon.peak_rss_bytes() else {
        let found = "this system does not tell a process's memory";
        return Err(BenchError::wrong("ingest", found));
    };
    let sent = answer["bytes"].as_u64().unwrap_or_default();
    if sent < BODY_BYTES {
        return Err(BenchError::wrong(
            "ingest",
            format!("the answer is {answer}"),
        ));
    }
    let row = vec![
        output::bytes(sent),
        number(seconds),
        before.map_or_else(String::new, output::bytes),
        output::bytes(peak),
    ];
    let headers = ["one body", "s", "resident before", "peak resident"];
    print(&output::table(&headers, &[row]))?;
    report.set(
        "memory",
        json!({
            "body_bytes": sent, "rows": answer["rows"], "seconds": seconds,
            "rss_before_bytes": before, "peak_rss_bytes": peak,
        }),
    );
    let gibibytes = float(peak) / GIB;
    report.gate(
        "ingest: peak resident memory, GiB",
        gibibytes,
        Limit::AtMost(1.0),
    );
    Ok(())
}

fn body() -> impl Iterator<Item = Bytes> + Send + 'static {
    let mut sent = 0;
    csv_chunks(Table::Emails, ROWS, DEFAULT_SEED).take_while(move |chunk| {
        let more = sent < BODY_BYTES;
        sent += chunk.len() as u64;
        more
    })
}
