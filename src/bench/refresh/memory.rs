//! What a difference over many rows costs in memory: a daemon that was just started compares them all
//! with an index that has them, and a few that are new.

use std::{path::Path, time::Instant};

use bytes::Bytes;
use serde_json::json;

use super::{
    super::{
        BenchError,
        daemon::{Daemon, client_runtime, generated},
        error::Doing as _,
        report::{Limit, Report, float, number, print, progress},
    },
    overhead::{append, define, table},
};
use crate::cli::output;

/// Rows of a chunk of the body.
const CHUNK_ROWS: u64 = 10_000;
/// Rows that are new.
const NEW: u64 = 1_000;
const GIB: f64 = 1_073_741_824.0;

/// Builds an index over `rows` rows, starts the daemon anew, and refreshes.
pub(super) fn measure(dir: &Path, rows: u64, report: &mut Report) -> Result<(), BenchError> {
    progress(&format!("refresh: a difference over {rows} rows"));
    let runtime = client_runtime()?;
    let daemon = Daemon::start(dir)?;
    runtime.block_on(async {
        let body = generated(chunks(rows));
        daemon.ingest("runs", Some("id"), "text/csv", body).await?;
        // The graph is not what is measured.
        let config = json!({ "connectivity": 4, "ef_construction": 8 });
        let index = json!({ "name": "runs_idx", "source": "runs", "key": "id",
            "text": "{title}. {body}", "config": config });
        define(&daemon, &index).await?;
        append(&daemon, table(rows, rows + NEW)).await
    })?;
    drop(daemon);
    let daemon = Daemon::start(dir)?;
    let before = daemon.peak_rss_bytes();
    let clock = Instant::now();
    let path = ["vectors", "refresh", "runs"];
    let done = runtime.block_on(daemon.client().post(&path, &json!({})));
    let done = done.doing("refresh")?;
    let seconds = clock.elapsed().as_secs_f64();
    if done["embedded"] != NEW || done["unchanged"] != rows {
        return Err(BenchError::wrong("the refresh", done.to_string()));
    }
    let Some(peak) = daemon.peak_rss_bytes() else {
        let found = "this system does not tell a process's memory";
        return Err(BenchError::wrong("refresh", found));
    };
    let row = vec![
        output::thousands(rows),
        number(seconds),
        before.map_or_else(String::new, output::bytes),
        output::bytes(peak),
    ];
    let headers = ["rows compared", "s", "resident before", "peak resident"];
    print(&output::table(&headers, &[row]))?;
    report.set(
        "memory",
        json!({ "rows": rows, "new": NEW, "seconds": seconds,
            "rss_before_bytes": before, "peak_rss_bytes": peak }),
    );
    let what = "refresh: peak resident memory of a difference, GiB";
    report.gate(what, float(peak) / GIB, Limit::AtMost(1.0));
    Ok(())
}

fn chunks(rows: u64) -> impl Iterator<Item = Bytes> + Send + 'static {
    (0..rows.div_ceil(CHUNK_ROWS)).map(move |chunk| {
        let (first, last) = (chunk * CHUNK_ROWS, rows.min((chunk + 1) * CHUNK_ROWS));
        let text = table(first, last);
        // One header is enough.
        let rest = if chunk == 0 {
            text
        } else {
            text.split_once('\n')
                .map_or(String::new(), |(_, rest)| rest.to_owned())
        };
        Bytes::from(rest)
    })
}
