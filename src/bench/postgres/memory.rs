//! What a table costs in memory: a fresh daemon for one table, another for one with four times the rows.

use std::path::Path;

use serde_json::json;

use super::{
    super::{
        BenchError,
        daemon::Daemon,
        make_dir,
        report::{Limit, Report, float, number, print, progress},
    },
    source::{Source, Table},
};
use crate::cli::output;

/// How much more memory four times the rows may take.
const GROWTH_MAX: f64 = 1.25;

/// Compares the peaks of both daemons.
pub(super) fn measure(source: &Source, dir: &Path, report: &mut Report) -> Result<(), BenchError> {
    progress("postgres: memory");
    let one = peak(source, &make_dir(dir, "memory-1")?, &source.large)?;
    let four = peak(source, &make_dir(dir, "memory-4")?, &source.fourfold)?;
    let growth = float(four) / float(one);
    let row = vec![output::bytes(one), output::bytes(four), number(growth)];
    let headers = ["peak resident", "with four times the rows", "ratio"];
    print(&output::table(&headers, &[row]))?;
    report.set(
        "memory",
        json!({ "peak_rss_bytes": one, "peak_rss_bytes_fourfold": four, "ratio": growth }),
    );
    let what = "peak memory with four times the rows, ratio";
    report.gate(what, growth, Limit::AtMost(GROWTH_MAX));
    Ok(())
}

fn peak(source: &Source, dir: &Path, table: &Table) -> Result<u64, BenchError> {
    let daemon = Daemon::start(dir)?;
    source.taken_in(&daemon, table, "mixed")?;
    let found = "this system does not tell a process's memory";
    daemon
        .peak_rss_bytes()
        .ok_or_else(|| BenchError::wrong("postgres", found))
}
