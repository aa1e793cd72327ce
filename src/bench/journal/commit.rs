//! Durable mutations per second through the journal's committer beside a raw group commit of the
//! same bytes. Repetitions of both sides alternate, since a disk has its moods.

use std::path::Path;

use lakehouse_journal::log::bench::{Throughput, journal_commit, raw_group_commit};
use serde_json::{Value, json};

use super::super::{
    BenchError,
    report::{Series, ms, number, print, progress},
    scratch,
};
use crate::cli::output;

/// An event as large as the one that the reference was measured with.
const EVENT_BYTES: usize = 315;
/// Writers, and the share of the events that they commit: few writers are slow.
const LOADS: [(u64, u64); 3] = [(1, 16), (16, 2), (64, 1)];

/// What was measured.
pub(super) struct Commits {
    /// Every repetition.
    pub json: Value,
    /// Acknowledged events per second beside the raw ones, with the most writers.
    pub ratio_at_most_writers: f64,
}

/// One side at one number of writers.
#[derive(Default)]
struct Side {
    acknowledged_per_s: Series,
    with_drain_per_s: Series,
    drain_ms: Series,
    p50_ms: Series,
    p99_ms: Series,
}

impl Side {
    fn push(&mut self, run: Throughput) {
        self.acknowledged_per_s.push(run.acknowledged_per_s);
        self.with_drain_per_s.push(run.with_drain_per_s);
        self.drain_ms.push(ms(run.drain));
        self.p50_ms.push(ms(run.p50));
        self.p99_ms.push(ms(run.p99));
    }

    fn json(&self) -> Value {
        json!({
            "acknowledged_per_s": self.acknowledged_per_s.json(),
            "with_drain_per_s": self.with_drain_per_s.json(),
            "drain_ms": self.drain_ms.json(),
            "p50_ms": self.p50_ms.json(),
            "p99_ms": self.p99_ms.json(),
        })
    }
}

pub(super) fn measure(dir: &Path, commits: u64, repeat: u32) -> Result<Commits, BenchError> {
    let (mut rows, mut loads, mut last_ratio) = (Vec::new(), Vec::new(), 0.0);
    for (writers, share) in LOADS {
        let events = (commits / share).max(writers);
        progress(&format!("commit: {events} events from {writers} writers"));
        let (mut raw, mut journal) = (Side::default(), Side::default());
        for _ in 0..repeat {
            raw.push(once(dir, raw_group_commit, writers, events)?);
            journal.push(once(dir, journal_commit, writers, events)?);
        }
        let raw_per_s = raw.acknowledged_per_s.median();
        let ratio = journal.acknowledged_per_s.median() / raw_per_s;
        let drained = journal.with_drain_per_s.median() / raw_per_s;
        let best = journal.acknowledged_per_s.max() / raw.acknowledged_per_s.max();
        rows.push(vec![
            writers.to_string(),
            number(raw_per_s),
            number(journal.acknowledged_per_s.median()),
            number(ratio),
            number(best),
            number(journal.drain_ms.median()),
            number(drained),
            number(journal.p50_ms.median()),
            number(journal.p99_ms.median()),
        ]);
        loads.push(json!({
            "writers": writers, "events": events, "event_bytes": EVENT_BYTES,
            "raw": raw.json(), "journal": journal.json(),
            "ratio": ratio, "ratio_of_best": best, "ratio_with_drain": drained,
        }));
        last_ratio = ratio;
    }
    let headers = [
        "writers",
        "raw /s",
        "journal /s",
        "ratio",
        "ratio of best",
        "drain ms",
        "ratio with drain",
        "p50 ms",
        "p99 ms",
    ];
    print(&output::table(&headers, &rows))?;
    Ok(Commits {
        json: json!(loads),
        ratio_at_most_writers: last_ratio,
    })
}

type Measure = fn(&Path, u64, u64, usize) -> Result<Throughput, lakehouse_journal::log::LogError>;

/// One repetition in an empty directory.
fn once(dir: &Path, measure: Measure, writers: u64, events: u64) -> Result<Throughput, BenchError> {
    let dir = scratch(Some(dir))?;
    Ok(measure(dir.path(), writers, events, EVENT_BYTES)?)
}
