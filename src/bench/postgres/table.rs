//! One table taken in, beside the same table copied and thrown away, in turns.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{
    super::{
        BenchError,
        daemon::Daemon,
        make_dir,
        report::{Limit, Report, Series, ms, number, print, progress},
    },
    peers::Peers,
    source::{SMALL_ROWS, Source},
};
use crate::cli::output;

/// The small table is read so many times for each repetition.
const SMALL_READS: u32 = 10;
/// Milliseconds that the public system that is followed takes for the small table.
const SMALL_MS_MAX: f64 = 196.0;

/// The large table: the time to Parquet as a ratio to the limit.
pub(super) fn large(
    source: &Source,
    dir: &Path,
    repeat: u32,
    mut peers: Option<&mut Peers>,
    report: &mut Report,
) -> Result<(), BenchError> {
    progress("postgres: the large table");
    let daemon = Daemon::start(&make_dir(dir, "large")?)?;
    let (mut limit, mut taken, mut ratio) = <(Series, Series, Series)>::default();
    let mut bytes = 0;
    for turn in 0..repeat {
        let name = format!("mixed{turn}");
        let (copied, thrown) = source.thrown_away(&source.large)?;
        let time = source.taken_in(&daemon, &source.large, &name)?;
        source.drop_dataset(&daemon, &name)?;
        if let Some(peers) = &mut peers {
            peers.round()?;
        }
        bytes = copied;
        limit.push(thrown.as_secs_f64());
        taken.push(time.as_secs_f64());
        ratio.push(time.as_secs_f64() / thrown.as_secs_f64());
    }
    let row = vec![
        output::thousands(source.large.rows),
        output::bytes(bytes),
        number(limit.median()),
        number(taken.median()),
        number(ratio.median()),
    ];
    let headers = [
        "rows",
        "binary COPY",
        "thrown away, s",
        "to Parquet, s",
        "ratio",
    ];
    print(&output::table(&headers, &[row]))?;
    report.set(
        "large",
        json!({
            "rows": source.large.rows, "copy_bytes": bytes, "thrown_away_s": limit.json(),
            "to_parquet_s": taken.json(), "ratio": ratio.json(),
        }),
    );
    if let Some(peers) = peers {
        beside(peers, &taken, report)?;
    }
    let what = "a table to Parquet, ratio to binary COPY thrown away";
    report.gate(what, ratio.median(), Limit::AtMost(1.25));
    Ok(())
}

/// What the peers took for the same, and ours as a ratio to each.
fn beside(peers: &Peers, taken: &Series, report: &mut Report) -> Result<(), BenchError> {
    let ratio = |seconds: &Series| taken.median() / seconds.median();
    let rows: Vec<_> = peers
        .taken
        .iter()
        .map(|(name, seconds)| {
            let figures = [seconds.median(), ratio(seconds)].map(number);
            vec![name.clone(), figures[0].clone(), figures[1].clone()]
        })
        .chain(peers.absent.iter().map(|(name, reason)| {
            let why = format!("not to be had: {reason}");
            vec![name.clone(), why, String::new()]
        }))
        .collect();
    print(&output::table(
        &["peer", "to Parquet, s", "ours to it"],
        &rows,
    ))?;
    let of = |(name, seconds): &(String, Series)| {
        let figures = json!({ "to_parquet_s": seconds.json(), "ours_to_it": ratio(seconds) });
        (name.clone(), figures)
    };
    let absent = peers.absent.iter();
    let figures: Map<String, Value> = peers
        .taken
        .iter()
        .map(of)
        .chain(absent.map(|(name, reason)| (name.clone(), json!({ "absent": reason }))))
        .collect();
    report.set("peers", figures.into());
    Ok(())
}

/// The small table, as somebody sees it who asks for it once.
pub(super) fn small(
    source: &Source,
    dir: &Path,
    repeat: u32,
    report: &mut Report,
) -> Result<(), BenchError> {
    progress("postgres: the small table");
    let daemon = Daemon::start(&make_dir(dir, "small")?)?;
    let mut times = Series::default();
    for turn in 0..repeat * SMALL_READS {
        let time = source.taken_in(&daemon, &source.small, &format!("small{turn}"))?;
        times.push(ms(time));
    }
    let row = vec![
        output::thousands(SMALL_ROWS),
        number(times.median()),
        number(times.quantile(0.99)),
    ];
    print(&output::table(&["rows", "p50, ms", "p99, ms"], &[row]))?;
    report.set("small", json!({ "rows": SMALL_ROWS, "ms": times.json() }));
    let what = "586 rows of 13 columns to Parquet, ms (p50)";
    report.gate(what, times.median(), Limit::AtMost(SMALL_MS_MAX));
    Ok(())
}
