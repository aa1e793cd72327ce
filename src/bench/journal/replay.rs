//! How long a start takes over a journal of many events: opening the log, then the replay, with a
//! snapshot as old as the daemon lets one become and without any. Files are in the page cache.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use lakehouse_actors::{Journal, RebuildError, Replayed, SNAPSHOT_EVENTS};
use lakehouse_journal::{
    log::{CommitterConfig, LogConfig, RealIo, SledLog},
    model::LakeState,
    record::{Draft, Record, Seq},
    snapshot::SnapshotStore,
};
use serde_json::{Value, json};

use super::{
    super::{
        BenchError,
        report::{Series, float, number, print, progress},
    },
    story::Story,
};
use crate::cli::output;

/// Events of one batch while the journal is written.
const BATCH: u64 = 2_000;

/// What was measured.
pub(super) struct Replays {
    /// Every repetition.
    pub json: Value,
    /// Opening and replaying with a snapshot, in seconds.
    pub open_and_replay_s: f64,
}

/// A journal that is written and closed.
struct Written {
    events: u64,
    snapshot_seq: Seq,
    snapshot_bytes: u64,
    journal_bytes: u64,
    seconds: f64,
    /// Hash of the state that every replay must come to.
    state: String,
}

#[derive(Default)]
struct Starts {
    open_s: Series,
    replay_s: Series,
    total_s: Series,
    records: u64,
}

pub(super) fn measure(dir: &Path, events: u64, repeat: u32) -> Result<Replays, BenchError> {
    progress(&format!("replay: writing {events} events"));
    let written = write(dir, events)?;
    progress("replay: with a snapshot");
    let with = starts(dir, &written, repeat, Journal::replay)?;
    progress("replay: without a snapshot");
    let without = starts(dir, &written, repeat, Journal::replay_fully)?;
    let row = |name: &str, starts: &Starts| {
        vec![
            name.to_owned(),
            output::thousands(starts.records),
            number(starts.open_s.median()),
            number(starts.replay_s.median()),
            number(starts.total_s.median()),
            number(float(starts.records) / starts.replay_s.median()),
        ]
    };
    let headers = [
        "replay",
        "records",
        "open s",
        "replay s",
        "total s",
        "records /s",
    ];
    let rows = [row("with a snapshot", &with), row("without", &without)];
    print(&output::table(&headers, &rows))?;
    let json = json!({
        "events": written.events, "journal_bytes": written.journal_bytes,
        "write_s": written.seconds,
        "snapshot": { "seq": written.snapshot_seq, "bytes": written.snapshot_bytes },
        "with_snapshot": with.json(), "without_snapshot": without.json(),
        "state_hash": written.state,
    });
    Ok(Replays {
        json,
        open_and_replay_s: with.total_s.median(),
    })
}

impl Starts {
    fn json(&self) -> Value {
        json!({
            "records": self.records, "open_s": self.open_s.json(),
            "replay_s": self.replay_s.json(), "total_s": self.total_s.json(),
        })
    }
}

fn open(dir: &Path) -> Result<Journal, BenchError> {
    let log = SledLog::open(dir.join("journal"), &LogConfig::default(), Arc::new(RealIo))?;
    let snapshots = Arc::new(SnapshotStore::new(dir.join("snapshots")));
    let config = CommitterConfig::default();
    Ok(Journal::spawn(Box::new(log), config, Some(snapshots))?)
}

/// Writes the journal, with a snapshot that is as old at its end as one may become.
fn write(dir: &Path, events: u64) -> Result<Written, BenchError> {
    let clock = Instant::now();
    let journal = open(dir)?;
    let snapshot_seq = events - SNAPSHOT_EVENTS.min(events / 2);
    let mut lake = LakeState::default();
    let mut story = Story::new();
    let mut snapshot = PathBuf::new();
    let (mut written, mut stop) = (0, snapshot_seq);
    while written < events {
        let count = BATCH.min(stop - written);
        let size = usize::try_from(count).unwrap_or(usize::MAX);
        for record in commit(&journal, story.by_ref().take(size).collect())? {
            written = record.seq;
            lake.apply(&record)
                .map_err(|error| BenchError::wrong("replay", error.to_string()))?;
        }
        if written == snapshot_seq {
            journal.write_snapshot(&lake, snapshot_seq)?;
            snapshot = SnapshotStore::new(dir.join("snapshots")).path(snapshot_seq);
            stop = events;
        }
    }
    let journal_bytes = journal.reader().stats().bytes;
    journal.committer().close();
    let file = snapshot.metadata();
    Ok(Written {
        events,
        snapshot_seq,
        snapshot_bytes: file.map_err(|e| BenchError::file(&snapshot, e))?.len(),
        journal_bytes,
        seconds: clock.elapsed().as_secs_f64(),
        state: lake.hash(),
    })
}

fn commit(journal: &Journal, drafts: Vec<Draft>) -> Result<Vec<Record>, BenchError> {
    match journal.committer().commit(drafts) {
        Ok(answer) => Ok(answer?),
        // Only one batch is ever on its way.
        Err(refused) => Err(BenchError::wrong("replay", refused.to_string())),
    }
}

fn starts(
    dir: &Path,
    written: &Written,
    repeat: u32,
    replay: fn(&Journal) -> Result<Replayed, RebuildError>,
) -> Result<Starts, BenchError> {
    let mut starts = Starts::default();
    for _ in 0..repeat {
        let clock = Instant::now();
        let journal = open(dir)?;
        let opened = clock.elapsed().as_secs_f64();
        let replayed = replay(&journal)?;
        let total = clock.elapsed().as_secs_f64();
        journal.committer().close();
        if replayed.seq != written.events || replayed.lake.hash() != written.state {
            let found = format!("another state at {} than at the end", replayed.seq);
            return Err(BenchError::wrong("replay", found));
        }
        starts.open_s.push(opened);
        starts.replay_s.push(total - opened);
        starts.total_s.push(total);
        starts.records = replayed.records;
    }
    Ok(starts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_journal_replays_to_its_state_with_and_without_a_snapshot() {
        let dir = tempfile::tempdir().expect("a directory");
        let replays = measure(dir.path(), 3_000, 1).expect("it replays");
        assert_eq!(replays.json["with_snapshot"]["records"], 1_500);
        assert_eq!(replays.json["without_snapshot"]["records"], 3_000);
    }
}
