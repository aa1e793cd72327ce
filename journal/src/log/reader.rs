//! The reading side of the log on disk: pages and histories from the index, replays straight from the mirror.
//! Any thread may hold one. While the index is being rebuilt everything comes from the mirror: slower, and the same.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};

use super::batch::{Head, subject_key};
use super::error::LogError;
use super::frame::Frame;
use super::index::{IndexState, Message, Reply};
use super::queue::Queue;
use super::scan::Frames;
use super::table::SegmentTable;
use super::{LogReader, LogStats, Order, SealedSegment};
use crate::record::{Record, Seq};
use crate::verify::{ChainReport, advance};

/// How many bytes of events one question to the index may answer; a larger page is asked for in parts.
const PAGE_BYTES: usize = 4 << 20;

/// In a report on a log whose index is away.
const INDEX_MISSING: &str = "the index is being rebuilt; only the mirror was checked";

/// Reads what a [`super::SledLog`] has acknowledged.
#[derive(Debug)]
pub struct SledReader {
    table: Arc<SegmentTable>,
    queue: Arc<Queue<Message>>,
    state: Arc<IndexState>,
}

impl SledReader {
    pub(crate) fn new(
        table: Arc<SegmentTable>,
        queue: Arc<Queue<Message>>,
        state: Arc<IndexState>,
    ) -> Self {
        Self {
            table,
            queue,
            state,
        }
    }

    /// Asks the index; `None` when it cannot answer and the mirror must.
    fn ask(&self, question: impl FnOnce(Reply) -> Message) -> Result<Option<Vec<u8>>, LogError> {
        let healthy = self.state.healthy.load(Ordering::Acquire);
        if !healthy {
            return Ok(None);
        }
        let (reply, answer) = sync_channel(1);
        if self.queue.offer(question(reply), 0, usize::MAX).is_err() {
            return Ok(None);
        }
        let patience = self.state.progress.patience();
        match answer.recv_timeout(patience) {
            Ok(frames) => Ok(frames),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => Err(LogError::Stuck {
                seconds: patience.as_secs(),
            }),
        }
    }

    /// Whole frames after `after`, as [`super::sled::SledStore::frames_after`] gives them; `None` when the index cannot answer.
    pub(crate) fn page(
        &self,
        after: Seq,
        limit: usize,
        bytes: usize,
    ) -> Result<Option<Vec<u8>>, LogError> {
        self.ask(|reply| Message::Scan {
            after,
            limit,
            bytes,
            reply,
        })
    }

    fn history_by_scan(
        &self,
        subject: &str,
        cursor: Seq,
        limit: usize,
        order: Order,
    ) -> Result<Vec<Record>, LogError> {
        let (after, below) = match order {
            Order::OldestFirst => (cursor, Seq::MAX),
            Order::NewestFirst => (0, if cursor == 0 { Seq::MAX } else { cursor }),
        };
        let mut found = std::collections::VecDeque::new();
        self.for_each(after, &mut |record| {
            if record.seq >= below {
                return ControlFlow::Break(());
            }
            if record.draft.subjects.iter().any(|s| s == subject) {
                found.push_back(record);
            }
            if found.len() <= limit {
                return ControlFlow::Continue(());
            }
            match order {
                Order::OldestFirst => ControlFlow::Break(()),
                Order::NewestFirst => {
                    found.pop_front();
                    ControlFlow::Continue(())
                }
            }
        })?;
        found.truncate(limit);
        let mut found = Vec::from(found);
        if order == Order::NewestFirst {
            found.reverse();
        }
        Ok(found)
    }

    /// Compares the mirror's `frame` with the index; refills the page when it is used up.
    fn compare(
        &self,
        page: &mut IndexPage,
        frame: &Frame<'_>,
    ) -> Result<Result<(), String>, LogError> {
        if !page.missing && page.used == page.frames.len() {
            *page = match self.page(frame.seq - 1, usize::MAX, PAGE_BYTES)? {
                Some(frames) => IndexPage {
                    frames,
                    ..IndexPage::default()
                },
                None => IndexPage {
                    missing: true,
                    ..IndexPage::default()
                },
            };
        }
        if page.missing {
            return Ok(Ok(()));
        }
        if !page.frames[page.used..].starts_with(frame.whole()) {
            return Ok(Err(format!("the index holds another event {}", frame.seq)));
        }
        page.used += frame.bytes();
        Ok(Ok(()))
    }
}

/// What the index holds of the events that come next.
#[derive(Default)]
struct IndexPage {
    frames: Vec<u8>,
    used: usize,
    /// It is being rebuilt: only the mirror can be checked.
    missing: bool,
}

impl LogReader for SledReader {
    fn sealed_segments(&self, after: Seq) -> Vec<SealedSegment> {
        let table = self.table.read();
        let start = table.sealed.partition_point(|s| s.last <= after);
        table.sealed[start..].to_vec()
    }

    fn scan(&self, after: Seq, limit: usize) -> Result<Vec<Record>, LogError> {
        let mut records = Vec::new();
        let mut last = after;
        while records.len() < limit {
            let Some(frames) = self.page(last, limit - records.len(), PAGE_BYTES)? else {
                let missing = limit - records.len();
                records.extend(scan_mirror(&self.table, last, missing)?);
                break;
            };
            if frames.is_empty() {
                break;
            }
            records.extend(decode(&frames)?);
            last = records.last().map_or(last, |r: &Record| r.seq);
        }
        Ok(records)
    }

    fn for_each(
        &self,
        after: Seq,
        each: &mut dyn FnMut(Record) -> ControlFlow<()>,
    ) -> Result<Seq, LogError> {
        let mut last = after;
        self.table.walk(after, &mut |frame| {
            let record = match decode_frame(frame) {
                Ok(record) => record,
                Err(error) => return ControlFlow::Break(Err(error)),
            };
            last = record.seq;
            each(record).map_break(Ok)
        })?;
        Ok(last)
    }

    fn history(
        &self,
        subject: &str,
        cursor: Seq,
        limit: usize,
        order: Order,
    ) -> Result<Vec<Record>, LogError> {
        let key = subject_key(subject);
        let answer = self.ask(|reply| Message::History {
            subject: key,
            cursor,
            limit,
            order,
            reply,
        })?;
        match answer {
            Some(frames) => {
                let mut records = decode(&frames)?;
                records.retain(|r| r.draft.subjects.iter().any(|s| s == subject));
                Ok(records)
            }
            None => self.history_by_scan(subject, cursor, limit, order),
        }
    }

    fn stats(&self) -> LogStats {
        let table = self.table.read();
        LogStats {
            events: table.head.seq,
            bytes: table.bytes,
            segments: table.sealed.len() as u64 + u64::from(table.open.is_some()),
            generation: self.state.generation.load(Ordering::Acquire),
            indexed_seq: self.state.indexed_seq.load(Ordering::Acquire),
            index_healthy: self.state.healthy.load(Ordering::Acquire),
            index_rebuilds: self.state.rebuilds.load(Ordering::Acquire),
        }
    }

    fn verify(&self) -> Result<ChainReport, LogError> {
        let mut head = Head::EMPTY;
        let mut page = IndexPage::default();
        let mut bad = None;
        let walked = self.table.walk(0, &mut |frame| {
            let checked = match advance(head, frame) {
                Ok(next) => self
                    .compare(&mut page, frame)
                    .map(|same| same.map(|()| next)),
                Err(detail) => Ok(Err(detail)),
            };
            match checked {
                Ok(Ok(next)) => head = next,
                Ok(Err(detail)) => {
                    bad = Some(detail);
                    return ControlFlow::Break(Ok(()));
                }
                Err(error) => return ControlFlow::Break(Err(error)),
            }
            ControlFlow::Continue(())
        });
        match walked {
            Ok(()) => {}
            Err(error @ LogError::Corrupt { .. }) => bad = Some(error.to_string()),
            Err(error) => return Err(error),
        }
        Ok(match bad {
            None => ChainReport {
                detail: if page.missing {
                    INDEX_MISSING.to_owned()
                } else {
                    String::new()
                },
                ..ChainReport::sound(head.seq)
            },
            Some(detail) => ChainReport::broken(head.seq, head.seq + 1, detail),
        })
    }
}

fn scan_mirror(table: &SegmentTable, after: Seq, limit: usize) -> Result<Vec<Record>, LogError> {
    let mut records = Vec::new();
    if limit == 0 {
        return Ok(records);
    }
    table.walk(after, &mut |frame| {
        match decode_frame(frame) {
            Ok(record) => records.push(record),
            Err(error) => return ControlFlow::Break(Err(error)),
        }
        if records.len() == limit {
            return ControlFlow::Break(Ok(()));
        }
        ControlFlow::Continue(())
    })?;
    Ok(records)
}

fn decode(frames: &[u8]) -> Result<Vec<Record>, LogError> {
    let mut records = Vec::new();
    for parsed in Frames::new(frames) {
        let frame = parsed.map_err(|e| LogError::corrupt(Path::new("index"), 0, e.to_string()))?;
        records.push(decode_frame(&frame)?);
    }
    Ok(records)
}

fn decode_frame(frame: &Frame<'_>) -> Result<Record, LogError> {
    let file = || PathBuf::from("journal");
    frame
        .record()
        .map_err(|e| LogError::corrupt(&file(), frame.seq, e))
}
