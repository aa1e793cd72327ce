//! The thread that writes the audit: takes what waits, writes it in one go, syncs once, answers all.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use lakehouse_journal::record::Micros;
use tokio::sync::{mpsc, oneshot};

use super::{
    AuditError,
    chain::Head,
    entry::{AuditEntry, AuditLine},
    files::{lines, segment, segments},
};

/// A segment is ended behind the line that makes it so large.
const SEGMENT_BYTES: u64 = 16 << 20;
/// Lines written together at most.
const GROUP_MAX: usize = 512;

/// A line to be written, with the way back.
pub(super) struct Job {
    pub at: Micros,
    pub entry: AuditEntry,
    pub reply: oneshot::Sender<Result<u64, AuditError>>,
}

/// The end of the audit, open for more. Without a file it takes nothing any more.
pub(super) struct Writer {
    dir: PathBuf,
    head: Head,
    file: Option<File>,
    bytes: u64,
    written: Arc<AtomicU64>,
}

impl Writer {
    /// Goes to the end of what is there. Only the last segment is followed: `verify` follows all.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)?;
        let all = segments(dir)?;
        let mut writer = Self {
            dir: dir.to_owned(),
            head: Head::default(),
            file: None,
            bytes: 0,
            written: Arc::default(),
        };
        let Some(last) = all.last() else {
            writer.begin_segment()?;
            return Ok(writer);
        };
        if let Some(before) = all.len().checked_sub(2) {
            let line = lines(&all[before])?.last().transpose()?;
            writer.head = line.as_deref().and_then(head_of).unwrap_or_default();
        }
        let followed = writer.follow(last)?;
        writer.written.store(writer.head.seq, Ordering::Relaxed);
        match followed {
            Ok(()) => writer.reopen(last)?,
            Err(reason) => tracing::error!(
                seq = writer.head.seq + 1,
                reason,
                "the audit is damaged; agents are refused until it is looked at"
            ),
        }
        Ok(writer)
    }

    /// Number of the last line that is on disk, as it grows.
    pub(super) fn written(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.written)
    }

    fn follow(&mut self, segment: &Path) -> io::Result<Result<(), &'static str>> {
        for line in lines(segment)? {
            let line = line?;
            if let Err(reason) = self.head.follow(&line) {
                return Ok(Err(reason));
            }
            self.bytes += line.len() as u64 + 1;
        }
        Ok(Ok(()))
    }

    /// Opens a segment behind its last whole line; what is left of another is cut off.
    fn reopen(&mut self, last: &Path) -> io::Result<()> {
        let file = OpenOptions::new().append(true).open(last)?;
        let torn = file.metadata()?.len().saturating_sub(self.bytes);
        if torn > 0 {
            tracing::warn!(bytes = torn, "a line of the audit was not whole: cut off");
            file.set_len(self.bytes)?;
            file.sync_all()?;
        }
        self.file = Some(file);
        Ok(())
    }

    fn begin_segment(&mut self) -> io::Result<()> {
        let path = segment(&self.dir, self.head.seq + 1);
        let file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        File::open(&self.dir)?.sync_all()?;
        self.file = Some(file);
        self.bytes = 0;
        Ok(())
    }

    /// Writes until nobody can append any more.
    pub(super) fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut group = Vec::new();
        while jobs.blocking_recv_many(&mut group, GROUP_MAX) > 0 {
            let first = self.head.seq + 1;
            let written = self.write(&group);
            if let Err(error) = &written {
                tracing::error!(%error, "the audit cannot be written; agents are refused");
                // Whether the lines are on disk is not known, and a later sync does not tell.
                self.file = None;
            }
            for (seq, job) in (first..).zip(group.drain(..)) {
                let answer = written.as_ref().map(|()| seq);
                // Whoever asked may have gone; the line stands.
                let _ = job.reply.send(answer.map_err(|_| AuditError::Closed));
            }
        }
    }

    /// A file that cannot be written stands in the place of the segment.
    #[cfg(test)]
    pub(super) fn fail_from_now_on(&mut self) {
        self.file = File::open("/dev/null").ok();
    }

    fn write(&mut self, group: &[Job]) -> io::Result<()> {
        if self.bytes >= SEGMENT_BYTES {
            self.begin_segment()?;
        }
        let Some(file) = &mut self.file else {
            return Err(io::Error::other("it was closed after a failure"));
        };
        let mut text = String::new();
        let mut head = self.head.clone();
        for job in group {
            let line = AuditLine {
                seq: head.seq + 1,
                at: job.at,
                previous: head.hash.clone(),
                entry: job.entry.clone(),
            };
            let (written, hash) = Head::line(&serde_json::to_string(&line)?);
            text.push_str(&written);
            head = Head {
                seq: line.seq,
                hash,
            };
        }
        file.write_all(text.as_bytes())?;
        file.sync_data()?;
        self.bytes += text.len() as u64;
        self.written.store(head.seq, Ordering::Relaxed);
        self.head = head;
        Ok(())
    }
}

/// The head that a line leaves, when it is one.
fn head_of(line: &str) -> Option<Head> {
    let (hash, json) = super::files::parts(line)?;
    let line: AuditLine = serde_json::from_str(json).ok()?;
    Some(Head {
        seq: line.seq,
        hash: hash.to_owned(),
    })
}
