//! What a large table costs in memory when few of its rows changed: it is embedded by one daemon, and
//! refreshed by a fresh one on the same directory, whose peak is measured.

use std::{path::Path, time::Instant};

use serde_json::json;

use super::{
    super::{
        BenchError,
        daemon::{Daemon, client_runtime},
        make_dir,
        report::{Limit, Report, number, print, progress},
    },
    table::{Table, embedded},
};
use crate::cli::output;

/// Rows that changed.
const CHANGED: usize = 1_000;
/// MiB that the daemon may have had at most.
const PEAK_MIB_MAX: f64 = 1_024.0;

/// Refreshes a table of `rows` rows with the default embedder.
pub(super) fn measure(rows: u64, dir: &Path, report: &mut Report) -> Result<(), BenchError> {
    progress("refresh: the rows of a large table");
    let data = make_dir(dir, "difference")?;
    let client = client_runtime()?;
    let text = |row: usize| format!("note {row} of {}", row % 1_000);
    let rows_usize = usize::try_from(rows).unwrap_or(usize::MAX);
    {
        let daemon = Daemon::start(&data)?;
        let table = Table::new(&daemon, json!({}));
        let texts: Vec<String> = (0..rows_usize).map(text).collect();
        client.block_on(table.create(&texts, 0))?;
    }
    let daemon = Daemon::start(&data)?;
    let table = Table::new(&daemon, json!({}));
    let changed: Vec<String> = (0..CHANGED).map(|row| format!("changed {row}")).collect();
    client.block_on(table.upsert(&changed, 0))?;
    let clock = Instant::now();
    let told = client.block_on(table.refresh())?;
    let seconds = clock.elapsed().as_secs_f64();
    if embedded(&told) != CHANGED as u64 {
        return Err(BenchError::wrong("the refresh", told.to_string()));
    }
    let peak = daemon.peak_rss_bytes().ok_or_else(|| {
        BenchError::wrong("refresh", "this system does not tell a process's memory")
    })?;
    let row = vec![
        output::thousands(rows),
        number(seconds),
        output::bytes(peak),
    ];
    let headers = ["rows to compare", "refresh, s", "peak resident"];
    print(&output::table(&headers, &[row]))?;
    report.set(
        "difference",
        json!({ "rows": rows, "changed": CHANGED, "refresh_s": seconds, "peak_rss_bytes": peak }),
    );
    let mib = f64::from(u32::try_from(peak >> 20).unwrap_or(u32::MAX));
    let what = "peak memory of a refresh, MiB";
    report.gate(what, mib, Limit::AtMost(PEAK_MIB_MAX));
    Ok(())
}
