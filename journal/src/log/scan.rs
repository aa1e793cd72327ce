//! Reads the bytes of segments and says what they are worth: whole, torn at the end, or damaged.
//! Pure: works on buffers. The rule that it holds: only a provable tail may be cut, anything else is damage.

use std::path::Path;

use super::batch::Head;
use super::error::LogError;
use super::frame::{self, Frame, FrameError, MAGIC};
use crate::archive::ArchiveKey;
use crate::record::Seq;
use crate::verify::advance;

/// What an open segment holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenScan {
    /// How many bytes of it count.
    pub bytes: usize,
    /// The head after them.
    pub head: Head,
    /// Why bytes behind them were cut; `None` for a clean end.
    pub torn: Option<String>,
}

/// Checks a sealed segment after `head`, and answers how many bytes of it hold events and the head after them.
/// Only zeros may follow those: the cut that sealing makes need not survive a crash, as the name says where the end is.
///
/// # Errors
/// `Corrupt`: everything else in a sealed segment must fit.
pub fn scan_sealed(
    file: &Path,
    bytes: &[u8],
    key: &ArchiveKey,
    mut head: Head,
) -> Result<(usize, Head), LogError> {
    if key.first != head.seq + 1 {
        let detail = format!("it starts with event {}", key.first);
        return Err(LogError::corrupt(file, head.seq + 1, detail));
    }
    let mut at = 0;
    while at < bytes.len() && head.seq < key.last {
        let frame = frame::parse(&bytes[at..])
            .map_err(|e| LogError::corrupt(file, head.seq + 1, e.to_string()))?;
        head = advance(head, &frame).map_err(|e| LogError::corrupt(file, head.seq + 1, e))?;
        at += frame.bytes();
    }
    if head.seq != key.last || head.hash[..4] != key.hash4 {
        let detail = format!(
            "it ends with event {}, its name says {}",
            head.seq, key.last
        );
        return Err(LogError::corrupt(file, head.seq + 1, detail));
    }
    if bytes[at..].iter().any(|b| *b != 0) {
        return Err(LogError::corrupt(
            file,
            head.seq + 1,
            "something follows its last event",
        ));
    }
    Ok((at, head))
}

/// Checks an open segment after `head`, and finds where it ends.
///
/// # Errors
/// `Corrupt` for a hole: an event that was certainly durable once is damaged or gone.
pub fn scan_open(file: &Path, bytes: &[u8], head: Head) -> Result<OpenScan, LogError> {
    let mut at = 0;
    let mut now = head;
    let mut whole = OpenScan {
        bytes: 0,
        head,
        torn: None,
    };
    loop {
        let rest = &bytes[at..];
        if rest.iter().all(|b| *b == 0) {
            break;
        }
        let frame = match frame::parse(rest) {
            Ok(frame) => frame,
            Err(error) => {
                refuse_hole(file, rest, now)?;
                let seq = now.seq + 1;
                whole.torn = Some(format!("event {seq} at byte {at}: {error}"));
                break;
            }
        };
        now = advance(now, &frame).map_err(|e| LogError::corrupt(file, now.seq + 1, e))?;
        at += frame.bytes();
        if frame.place.left == 0 {
            (whole.bytes, whole.head) = (at, now);
        }
    }
    if whole.torn.is_none() && whole.bytes < at {
        whole.torn = Some(format!("the batch of event {} is incomplete", now.seq));
    }
    Ok(whole)
}

/// Refuses `rest`, which starts with a damaged frame, when a later group was written behind it:
/// the damaged one was durable by then. Frames of the same write may reach the disk in any order.
fn refuse_hole(file: &Path, rest: &[u8], head: Head) -> Result<(), LogError> {
    let expected = head.seq + 1;
    for at in 1..rest.len() {
        if rest[at] != MAGIC[0] || !rest[at..].starts_with(&MAGIC) {
            continue;
        }
        let Ok(later) = frame::parse(&rest[at..]) else {
            continue;
        };
        let group_first = later.seq.saturating_sub(Seq::from(later.place.group));
        if group_first > expected || later.seq <= head.seq {
            let detail = format!("it is unreadable, and event {} follows whole", later.seq);
            return Err(LogError::corrupt(file, expected, detail));
        }
    }
    Ok(())
}

/// Walks checked bytes frame by frame.
#[derive(Debug, Clone)]
pub struct Frames<'a> {
    rest: &'a [u8],
}

impl<'a> Frames<'a> {
    /// Over `bytes`, which hold whole frames.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<Frame<'a>, FrameError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let parsed = frame::parse(self.rest);
        self.rest = match &parsed {
            Ok(frame) => &self.rest[frame.bytes()..],
            Err(_) => &[],
        };
        Some(parsed)
    }
}
