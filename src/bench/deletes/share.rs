//! One row in a hundred: deleted in one call, then counted and added up beside the whole table, then
//! compacted away beside plain `DataFusion` that reads and writes the same files.

use std::{path::Path, time::Instant};

use serde_json::{Value, json};

use super::{
    super::{
        BenchError, make_dir,
        plain::Plain,
        report::{Limit, Report, Series, ms, number, print, progress},
    },
    lake::{Lake, aggregate_sql, count_sql, filtered_sql},
    table::random_keys,
};
use crate::cli::output;

/// One row in so many is deleted.
const SHARE: u64 = 100;
/// The whole table, in the daemon and for the baseline.
const CLEAN: &str = "clean";
/// How the daemon compresses.
const COMPRESSION: &str = "zstd(1)";
/// Times that a query is run on every side in one round; the first runs are not counted.
const COUNTS: u32 = 60;
const AGGREGATES: u32 = 15;
const NOT_COUNTED: u32 = 3;

/// One query on three sides, in milliseconds.
#[derive(Default)]
struct Compared {
    deleted: Series,
    clean: Series,
    plain: Series,
}

/// What the rounds gave.
#[derive(Default)]
struct Found {
    /// Milliseconds of the call.
    call: Series,
    count: Compared,
    aggregate: Compared,
    /// Shown, and held to nothing.
    filtered: Compared,
    /// Seconds.
    compaction: Series,
    rewrite: Series,
}

/// Runs `repeat` rounds, each on a fresh copy of the table.
pub(super) fn measure(
    lake: &Lake,
    dir: &Path,
    repeat: u32,
    report: &mut Report,
) -> Result<(), BenchError> {
    let plain = Plain::new(&make_dir(dir, "spill")?)?;
    let manifest = lake.ingest(CLEAN)?;
    lake.check(CLEAN, &[])?;
    let files = manifest["files"].as_array().map_or(&[][..], Vec::as_slice);
    let paths: Vec<_> = files.iter().map(|file| lake.daemon.object(file)).collect();
    let registered = async { plain.register(CLEAN, &paths).await };
    super::super::daemon::client_runtime()?.block_on(registered)?;
    let mut found = Found::default();
    for round in 0..repeat {
        progress(&format!("deletes: round {} of {repeat}", round + 1));
        let name = format!("swept_{round}");
        let keys = random_keys(lake.rows, lake.rows / SHARE, 100 + u64::from(round));
        lake.ingest(&name)?;
        found.call.push(lake.tombstone(&name, &keys)?);
        lake.check(&name, &keys)?;
        compare(lake, &plain, &name, count_sql, COUNTS, &mut found.count)?;
        compare(
            lake,
            &plain,
            &name,
            aggregate_sql,
            AGGREGATES,
            &mut found.aggregate,
        )?;
        let filtered = &mut found.filtered;
        compare(lake, &plain, &name, filtered_sql, AGGREGATES, filtered)?;
        // Who comes first changes, as the disk may still be busy with what came before.
        for ours in [round % 2 == 0, round % 2 == 1] {
            if ours {
                found.compaction.push(compacted(lake, &name, &keys)?);
            } else {
                let folder = make_dir(dir, &format!("plain-{round}"))?;
                found.rewrite.push(rewritten(lake, &plain, &folder)?);
            }
        }
    }
    summarise(lake, &found, report)
}

/// Runs a query on all sides in turn.
fn compare(
    lake: &Lake,
    plain: &Plain,
    name: &str,
    query: fn(&str) -> String,
    times: u32,
    found: &mut Compared,
) -> Result<(), BenchError> {
    let (deleted, clean) = (query(name), query(CLEAN));
    for turn in 0..NOT_COUNTED + times {
        let counted = turn >= NOT_COUNTED;
        for first in [turn % 2 == 0, turn % 2 == 1] {
            let sql = if first { &deleted } else { &clean };
            let (time, _) = lake.sql(sql)?;
            let side = if first {
                &mut found.deleted
            } else {
                &mut found.clean
            };
            if counted {
                side.push(time);
            }
        }
        let clock = Instant::now();
        plain.answer(&clean)?;
        if counted {
            found.plain.push(ms(clock.elapsed()));
        }
    }
    Ok(())
}

/// Compacts the dataset, and looks at what is left.
fn compacted(lake: &Lake, name: &str, gone: &[u64]) -> Result<f64, BenchError> {
    let (seconds, answer) = lake.compact(name)?;
    let after = lake.rows - gone.len() as u64;
    if answer["rows"]["after"] != after || answer["tombstones_materialized"] != gone.len() {
        return Err(BenchError::wrong(
            "compaction",
            format!("the answer is {answer}"),
        ));
    }
    lake.check(name, gone)?;
    Ok(seconds)
}

/// Reads the whole table and writes it, in plain `DataFusion`.
fn rewritten(lake: &Lake, plain: &Plain, folder: &Path) -> Result<f64, BenchError> {
    let clock = Instant::now();
    let rows = plain.rewrite(CLEAN, folder, COMPRESSION)?;
    let seconds = clock.elapsed().as_secs_f64();
    if rows == lake.rows {
        return Ok(seconds);
    }
    let found = format!("{rows} rows of {}", lake.rows);
    Err(BenchError::wrong("plain DataFusion", found))
}

fn summarise(lake: &Lake, found: &Found, report: &mut Report) -> Result<(), BenchError> {
    let keys = lake.rows / SHARE;
    let line = |name: &str, side: &Compared| {
        let (deleted, clean) = (side.deleted.median(), side.clean.median());
        let plain = side.plain.median();
        let figures = [deleted, clean, deleted / clean, plain, deleted / plain];
        [vec![name.to_owned()], figures.map(number).to_vec()].concat()
    };
    let lines = [
        line("COUNT(*)", &found.count),
        line("aggregate", &found.aggregate),
        line("aggregate WHERE", &found.filtered),
    ];
    let headers = [
        "ms",
        "1 % deleted",
        "clean",
        "ratio",
        "plain DataFusion, clean",
        "ratio to it",
    ];
    print(&output::table(&headers, &lines))?;
    let (compaction, rewrite) = (found.compaction.median(), found.rewrite.median());
    let line = vec![
        number(found.call.median()),
        number(compaction),
        number(rewrite),
        number(compaction / rewrite),
    ];
    let call = format!("{keys} keys in one call, ms");
    let headers = [
        &call,
        "compaction s",
        "plain DataFusion reads and writes s",
        "ratio",
    ];
    print(&output::table(&headers, &[line]))?;
    report.set("call", json!({ "keys": keys, "ms": found.call.json() }));
    report.set("count", found.count.json());
    report.set("aggregate", found.aggregate.json());
    report.set("aggregate_where", found.filtered.json());
    let figures = json!({
        "ours_s": found.compaction.json(), "plain_s": found.rewrite.json(),
        "ratio": compaction / rewrite,
    });
    report.set("compaction", figures);
    gates(keys, found, report);
    Ok(())
}

fn gates(keys: u64, found: &Found, report: &mut Report) {
    let most = Limit::AtMost;
    let what = format!("deletes: {keys} keys in one call, ms");
    report.gate(what, found.call.median(), most(100.0));
    let what = "deletes: COUNT(*) with 1 % deleted, ratio to the clean table";
    report.gate(what, found.count.ratio(), most(1.15));
    let what = "deletes: aggregate with 1 % deleted, ratio to the clean table";
    report.gate(what, found.aggregate.ratio(), most(1.15));
    let ratio = found.compaction.median() / found.rewrite.median();
    let what = "deletes: compaction, ratio to plain DataFusion";
    report.gate(what, ratio, most(1.5));
}

impl Compared {
    /// With deleted rows, as a multiple of without.
    fn ratio(&self) -> f64 {
        self.deleted.median() / self.clean.median()
    }

    fn json(&self) -> Value {
        json!({
            "deleted_ms": self.deleted.json(), "clean_ms": self.clean.json(),
            "plain_clean_ms": self.plain.json(), "ratio": self.ratio(),
            "ratio_to_plain": self.deleted.median() / self.plain.median(),
        })
    }
}
