//! Measures the journal against a plain group commit of the same bytes on the same disk.
//! `journal_bench [DIR] [EVENTS] [both|raw|journal] [WRITERS]`: rounds alternate, since a disk has its moods.

use std::path::{Path, PathBuf};

use lakehouse_journal::log::LogError;
use lakehouse_journal::log::bench::{Throughput, journal_commit, raw_group_commit};

const EVENT_BYTES: usize = 315;
const ROUNDS: usize = 9;

type Measure = fn(&Path, u64, u64, usize) -> Result<Throughput, LogError>;
type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let base = arguments
        .next()
        .map_or_else(std::env::temp_dir, PathBuf::from);
    let events: u64 = arguments.next().map_or(Ok(20_000), |n| n.parse())?;
    let side = arguments.next().unwrap_or_else(|| "both".to_owned());
    let writers: Option<u64> = arguments.next().map(|n| n.parse()).transpose()?;
    let sides: Vec<(&str, Measure)> = match side.as_str() {
        "raw" => vec![("raw", raw_group_commit)],
        "journal" => vec![("journal", journal_commit)],
        _ => vec![("raw", raw_group_commit), ("journal", journal_commit)],
    };
    for writers in writers.map_or(vec![1, 16, 64], |n| vec![n]) {
        compare(&base, &sides, writers, events * writers / 64)?;
    }
    Ok(())
}

/// Prints every round, and the medians of all.
fn compare(
    base: &Path,
    sides: &[(&str, Measure)],
    writers: u64,
    events: u64,
) -> Result<(), Failure> {
    let mut reached = vec![Vec::new(); sides.len()];
    for _ in 0..ROUNDS {
        for ((name, measure), reached) in sides.iter().zip(&mut reached) {
            let dir = tempfile::tempdir_in(base)?;
            let run = measure(dir.path(), writers, events, EVENT_BYTES)?;
            reached.push((run.acknowledged_per_s, run.with_drain_per_s));
            println!(
                "{writers:>2} writers {name:>7}: {:>7.0}/s, with drain {:>7.0}/s, drain {:>6} ms, p50 {:>6} µs, p99 {:>6} µs",
                run.acknowledged_per_s,
                run.with_drain_per_s,
                run.drain.as_millis(),
                run.p50.as_micros(),
                run.p99.as_micros(),
            );
        }
    }
    let medians: Vec<(f64, f64)> = reached.into_iter().map(median).collect();
    if let [raw, journal] = medians[..] {
        let (ratio, drained) = (journal.0 / raw.0, journal.1 / raw.0);
        println!(
            "{writers:>2} writers, medians: raw {:.0}/s, journal {:.0}/s, ratio {ratio:.2}, with drain {drained:.2}",
            raw.0, journal.0
        );
    }
    Ok(())
}

fn median(mut rounds: Vec<(f64, f64)>) -> (f64, f64) {
    rounds.sort_by(|a, b| a.0.total_cmp(&b.0));
    rounds[rounds.len() / 2]
}
