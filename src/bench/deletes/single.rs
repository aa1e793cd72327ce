//! One row: deleted by its key, and read by its key.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    super::{
        BenchError,
        report::{Limit, Report, Series, float, number, print, progress},
    },
    lake::Lake,
    table::{self, random_keys},
    written::Written,
};
use crate::cli::output;

/// Keys of one repetition.
const KEYS: u64 = 200;
/// Requests before the first measured one: connections, caches and threads are there then.
const WARM_UP: usize = 20;
/// How long to wait before the bytes are read: what is written behind the answers belongs to them.
const WRITE_BEHIND: Duration = Duration::from_secs(2);
const DATASET: &str = "single";
const KIB: f64 = 1024.0;

/// Deletes single rows of a copy of the table and reads others, `repeat` times.
pub(super) fn measure(lake: &Lake, repeat: u32, report: &mut Report) -> Result<(), BenchError> {
    progress("deletes: single rows");
    lake.ingest(DATASET)?;
    let keys = KEYS.min(lake.rows / (8 * u64::from(repeat))).max(2);
    let all = random_keys(lake.rows, 2 * keys * u64::from(repeat) + WARM_UP as u64, 1);
    let (warm_up, all) = all.split_at(WARM_UP);
    let (gone, kept) = all.split_at(all.len() / 2);
    for key in warm_up {
        lake.tombstone(DATASET, &[*key])?;
    }
    deletes(lake, gone, report)?;
    let absent: Vec<u64> = warm_up.iter().chain(gone).copied().collect();
    lake.check(DATASET, &absent)?;
    reads(lake, &absent, kept, report)
}

/// Deletes one key after the other.
fn deletes(lake: &Lake, keys: &[u64], report: &mut Report) -> Result<(), BenchError> {
    std::thread::sleep(WRITE_BEHIND);
    let before = Written::now(&lake.daemon)?;
    let times = keys
        .iter()
        .map(|key| lake.tombstone(DATASET, &[*key]))
        .collect::<Result<Series, _>>()?;
    std::thread::sleep(WRITE_BEHIND);
    let written = Written::now(&lake.daemon)?.since(before);
    let each = |bytes: u64| float(bytes) / float(keys.len() as u64);
    let (disk, filled) = (each(written.disk), each(written.filled));
    show("one row deleted by key", &times)?;
    let line = vec![number(disk), number(filled)];
    let headers = ["bytes to the disk, each", "growth of the directory, each"];
    print(&output::table(&headers, &[line]))?;
    report.set(
        "single_delete",
        json!({
            "keys": keys.len(), "ms": figures(&times), "disk_bytes": disk,
            "directory_bytes": filled,
        }),
    );
    let what = "deletes: one row by key, p50, ms";
    report.gate(what, times.quantile(0.5), Limit::AtMost(10.0));
    let what = "deletes: one row by key, written to the disk, KiB";
    report.gate(what, disk / KIB, Limit::AtMost(8.0));
    let what = "deletes: one row by key, growth of the data directory, KiB";
    report.gate(what, filled / KIB, Limit::AtMost(8.0));
    Ok(())
}

/// Reads rows by key: those that are there whole, those that were deleted not at all.
fn reads(lake: &Lake, gone: &[u64], kept: &[u64], report: &mut Report) -> Result<(), BenchError> {
    let mut times = Series::default();
    for (key, there) in (gone.iter().take(WARM_UP).map(|key| (key, false)))
        .chain(kept.iter().map(|key| (key, true)))
    {
        let (time, rows) = lake.sql(&format!("SELECT * FROM {DATASET} WHERE id = {key}"))?;
        if !right(&rows, *key, there) {
            return Err(BenchError::wrong(format!("row {key}"), format!("{rows}")));
        }
        if there {
            times.push(time);
        }
    }
    show("a row by key", &times)?;
    let found = json!({ "keys": kept.len(), "ms": figures(&times) });
    report.set("row_by_key", found);
    let what = "deletes: a row read by key, p50, ms";
    report.gate(what, times.quantile(0.5), Limit::AtMost(10.0));
    Ok(())
}

/// Whether an answer is the row of a key, or none when it is gone.
fn right(rows: &Value, key: u64, there: bool) -> bool {
    let rows = rows.as_array().map_or(&[][..], Vec::as_slice);
    match rows {
        [] => !there,
        [row] => there && row[0] == key && row[6] == table::row(key).branch,
        _ => false,
    }
}

fn show(what: &str, times: &Series) -> Result<(), BenchError> {
    let line = [0.5, 0.99, 1.0].map(|part| number(times.quantile(part)));
    let headers = [what, "p50 ms", "p99 ms", "max ms"];
    let line = [vec!["through REST".to_owned()], line.to_vec()].concat();
    print(&output::table(&headers, &[line]))
}

fn figures(times: &Series) -> Value {
    json!({ "p50": times.quantile(0.5), "p99": times.quantile(0.99), "raw": times.json()["raw"] })
}
