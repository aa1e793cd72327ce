//! Measures the journal against a plain group commit of the same bytes on the same disk.
//! `journal_bench [DIR] [EVENTS]`: three rounds each at 1, 16 and 64 writers, alternating.

use std::path::PathBuf;

use lakehouse_journal::log::LogError;
use lakehouse_journal::log::bench::{Throughput, journal_commit, raw_group_commit};

const EVENT_BYTES: usize = 315;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let base = arguments
        .next()
        .map_or_else(std::env::temp_dir, PathBuf::from);
    let events: u64 = arguments.next().map_or(Ok(20_000), |n| n.parse())?;
    for writers in [1, 16, 64] {
        let events = events * writers / 64;
        for round in 0..3 {
            let raw = run(&base, writers, events, raw_group_commit)?;
            let own = run(&base, writers, events, journal_commit)?;
            println!(
                "{writers:>2} writers, round {round}: raw {:>7.0}/s p50 {:?} | journal {:>7.0}/s p50 {:?} p99 {:?} | ratio {:.2} | drain {:?}, ratio with it {:.2}",
                raw.acknowledged_per_s,
                raw.p50,
                own.acknowledged_per_s,
                own.p50,
                own.p99,
                own.acknowledged_per_s / raw.acknowledged_per_s,
                own.drain,
                own.with_drain_per_s / raw.acknowledged_per_s,
            );
        }
    }
    Ok(())
}

type Measure = fn(&std::path::Path, u64, u64, usize) -> Result<Throughput, LogError>;

fn run(
    base: &std::path::Path,
    writers: u64,
    events: u64,
    measure: Measure,
) -> Result<Throughput, Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir_in(base)?;
    Ok(measure(dir.path(), writers, events, EVENT_BYTES)?)
}
