//! How fast the journal commits, and how fast the same bytes could be committed without it.
//! Called by `lakehouse bench journal` and the `journal_bench` example. Both sides have the same threads, queue and answers.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};

use super::committer::{Committer, CommitterConfig};
use super::durable::{LogConfig, SledLog};
use super::error::LogError;
use super::io::{Io, IoFile, RealIo};
use super::queue::Queue;
use crate::record::{Actor, Draft};

/// Caps of one group, the same as the committer's.
const GROUP_BYTES: usize = 1 << 20;
const GROUP_SUBMISSIONS: usize = 1024;

/// What a run reached.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Throughput {
    /// Events acknowledged per second, from the first submission to the last answer.
    pub acknowledged_per_s: f64,
    /// The same with the time that closing takes, until the index is flushed too.
    pub with_drain_per_s: f64,
    /// The time that closing took.
    pub drain: Duration,
    /// Half of the answers came within this time.
    pub p50: Duration,
    /// 99 of 100 answers came within this time.
    pub p99: Duration,
}

/// Commits `events` events of `event_bytes` from `writers` threads, each waiting for its own answer, with a plain
/// preallocated file: one write and one `fdatasync` for all that wait.
///
/// # Errors
/// `Io`.
pub fn raw_group_commit(
    dir: &Path,
    writers: u64,
    events: u64,
    event_bytes: usize,
) -> Result<Throughput, LogError> {
    let path = dir.join("raw.bin");
    let fail = |op: &'static str| {
        let path = path.clone();
        move |e: std::io::Error| LogError::io(op, &path, &e)
    };
    let mut file = RealIo.create(&path).map_err(fail("create"))?;
    file.allocate(events * event_bytes as u64)
        .map_err(fail("allocate"))?;
    file.sync_data().map_err(fail("fdatasync"))?;
    let queue: Arc<Queue<(Vec<u8>, SyncSender<()>)>> = Arc::default();
    let taken = queue.clone();
    let committer = std::thread::spawn(move || commit_raw(&taken, &mut *file));
    let submit = |n: u64| {
        let (reply, answer) = sync_channel(1);
        let mut bytes = vec![b'x'; event_bytes];
        bytes[..8].copy_from_slice(&n.to_le_bytes());
        queue
            .offer((bytes, reply), event_bytes, usize::MAX)
            .map_err(|_| LogError::Closed)?;
        answer.recv().map_err(|_| LogError::Closed)
    };
    let run = drive(writers, events, &submit);
    queue.close();
    let written = committer.join().map_err(|_| LogError::Closed)?;
    written.map_err(fail("write"))?;
    run.map(|run| run.finish(Duration::ZERO))
}

fn commit_raw(
    queue: &Queue<(Vec<u8>, SyncSender<()>)>,
    file: &mut dyn IoFile,
) -> std::io::Result<()> {
    let mut offset = 0;
    let mut group = Vec::new();
    while let Some(taken) = queue.take(GROUP_BYTES, GROUP_SUBMISSIONS, None) {
        group.clear();
        for (bytes, _) in &taken {
            group.extend_from_slice(bytes);
        }
        file.write_at(&group, offset)?;
        file.sync_data()?;
        offset += group.len() as u64;
        for (_, reply) in taken {
            // The writer waits for it.
            let _ = reply.send(());
        }
    }
    Ok(())
}

/// The same through the whole journal in `dir`: encoded, numbered, chained, durable, indexed, answered as records.
///
/// # Errors
/// The log's.
pub fn journal_commit(
    dir: &Path,
    writers: u64,
    events: u64,
    event_bytes: usize,
) -> Result<Throughput, LogError> {
    let log = SledLog::open(dir.to_path_buf(), &LogConfig::default(), Arc::new(RealIo))?;
    let handle = Committer::spawn(Box::new(log), CommitterConfig::default())?;
    let submit = |n: u64| {
        let answer = handle.commit(vec![event(n, event_bytes)]);
        answer.map_err(|_| LogError::Closed)?.map(|_| ())
    };
    let run = drive(writers, events, &submit)?;
    let clock = Instant::now();
    handle.close();
    Ok(run.finish(clock.elapsed()))
}

struct Run {
    events: u64,
    elapsed: Duration,
    latencies: Vec<Duration>,
}

impl Run {
    #[allow(clippy::cast_precision_loss)]
    fn finish(mut self, drain: Duration) -> Throughput {
        self.latencies.sort_unstable();
        let at = |percent: usize| {
            let index = self.latencies.len() * percent / 100;
            let last = self.latencies.len().saturating_sub(1);
            self.latencies
                .get(index.min(last))
                .copied()
                .unwrap_or_default()
        };
        let per_s = |time: Duration| self.events as f64 / time.as_secs_f64();
        Throughput {
            acknowledged_per_s: per_s(self.elapsed),
            with_drain_per_s: per_s(self.elapsed + drain),
            drain,
            p50: at(50),
            p99: at(99),
        }
    }
}

fn drive(
    writers: u64,
    events: u64,
    submit: &(dyn Fn(u64) -> Result<(), LogError> + Sync),
) -> Result<Run, LogError> {
    let own = events / writers.max(1);
    let clock = Instant::now();
    let answers: Vec<Result<Vec<Duration>, LogError>> = std::thread::scope(|scope| {
        let write = |writer: u64| {
            move || {
                let mut latencies = Vec::new();
                for n in 0..own {
                    let clock = Instant::now();
                    submit(writer * own + n)?;
                    latencies.push(clock.elapsed());
                }
                Ok(latencies)
            }
        };
        let threads: Vec<_> = (0..writers.max(1)).map(|w| scope.spawn(write(w))).collect();
        let joined = threads
            .into_iter()
            .map(|t| t.join().unwrap_or(Err(LogError::Closed)));
        joined.collect()
    });
    let elapsed = clock.elapsed();
    let mut latencies = Vec::new();
    for answer in answers {
        latencies.extend(answer?);
    }
    Ok(Run {
        events: latencies.len() as u64,
        elapsed,
        latencies,
    })
}

/// An event as a mutation of one row makes it: about two subjects, and `bytes` long when encoded.
pub fn event(n: u64, bytes: usize) -> Draft {
    let mut draft = Draft {
        at: 1_763_800_000_000_000,
        request_id: format!("01JD{n:022}"),
        actor: Actor {
            name: "loader".to_owned(),
            role: "writer".to_owned(),
        },
        idempotency: None,
        subjects: vec!["dataset/people".to_owned(), format!("row/people/{n}")],
        kind: "RowsTombstoned".to_owned(),
        schema: 1,
        data: raw("{}".to_owned()),
    };
    // The envelope around the padding, as the frame encodes it.
    let envelope = 208 + draft.request_id.len() + 2 * n.to_string().len();
    let pad = "x".repeat(bytes.saturating_sub(envelope));
    draft.data = raw(format!("{{\"n\":{n},\"pad\":\"{pad}\"}}"));
    draft
}

fn raw(json: String) -> Box<serde_json::value::RawValue> {
    serde_json::value::RawValue::from_string(json).expect("written as JSON")
}
