//! The indexed store: events and the subject index in one sled tree. The only file that names sled.
//! Only the index thread calls it. It is never trusted: all of it can be rebuilt from the mirror, and is checked against it.
//!
//! Keys: `e` seq part = consecutive frames (one block of at most 4096 bytes, or the parts of one larger frame);
//! `s` bucket seq = a block of the subject index (`postings.rs`); `m` = the head and a checksum over all entries.
//! sled 0.34.7 is used as narrowly as its known faults demand: no flusher thread (it alone runs the rewriting collector),
//! small values (large ones go to files that are never synced), and our own sync after its flush (it does none).

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Order;
use super::batch::{Head, Posting, SubjectKey};
use super::frame::{self, FrameError, fixed};
use super::postings::{self, Tail};
use super::scan::Frames;
use crate::record::Seq;
use crate::verify::advance;

/// The largest value, in bytes.
const VALUE_BYTES_MAX: usize = 4096;
/// How long a lock that an earlier handle has not let go of yet is waited for.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

const EVENT: u8 = b'e';
const SUBJECT: u8 = b's';
const META: &[u8] = b"m";
const META_BYTES: usize = 56;

/// Why the store cannot be used any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StoreError(pub String);

impl From<sled::Error> for StoreError {
    fn from(error: sled::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<std::io::Error> for StoreError {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<FrameError> for StoreError {
    fn from(error: FrameError) -> Self {
        Self(error.to_string())
    }
}

/// One open generation.
#[derive(Debug)]
pub struct SledStore {
    db: sled::Db,
    file: File,
    meta: Meta,
    tails: Vec<Tail>,
}

/// What `m` holds: it changes in the same batch as the entries that it sums up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Meta {
    head: Head,
    sum: u64,
    entries: u64,
}

impl SledStore {
    /// Opens the generation in `dir`, or creates it.
    ///
    /// # Errors
    /// What sled says; it may also panic or hang, which is the caller's to handle.
    pub fn open(dir: &Path, cache_bytes: u64) -> Result<Self, StoreError> {
        remove_unfinished_snapshots(dir)?;
        let config = sled::Config::new()
            .path(dir)
            .cache_capacity(cache_bytes)
            .flush_every_ms(None)
            .mode(sled::Mode::HighThroughput);
        let db = open_patiently(&config)?;
        let file = File::open(dir.join("db"))?;
        file.sync_all()?;
        File::open(dir)?.sync_all()?;
        let meta = match db.get(META)? {
            Some(bytes) => Meta::decode(&bytes)?,
            None if db.is_empty() => Meta::EMPTY,
            None => return Err(StoreError("entries without a head".to_owned())),
        };
        let tails = read_tails(&db)?;
        Ok(Self {
            db,
            file,
            meta,
            tails,
        })
    }

    /// The last event in it.
    pub fn head(&self) -> Head {
        self.meta.head
    }

    /// Adds whole frames that follow the head, and their subjects, in one atomic batch.
    ///
    /// # Errors
    /// What sled says; the store must then be given up.
    pub fn apply(
        &mut self,
        frames: &[u8],
        postings: &mut [Posting],
        head: Head,
    ) -> Result<(), StoreError> {
        let mut writer = BatchWriter {
            batch: sled::Batch::default(),
            meta: self.meta,
        };
        writer.add_frames(frames)?;
        writer.add_postings(&mut self.tails, postings);
        writer.meta.head = head;
        writer.batch.insert(META, writer.meta.encode().as_slice());
        self.db.apply_batch(writer.batch)?;
        self.meta = writer.meta;
        Ok(())
    }

    /// Makes everything applied durable.
    ///
    /// # Errors
    /// What sled or the disk says.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.db.flush()?;
        self.file.sync_all()?;
        Ok(())
    }

    /// Reads everything: the sum over all entries must fit, and the events must be one unbroken chain up to the head.
    /// Calls `step` now and then, to show that it goes on.
    ///
    /// # Errors
    /// What does not fit.
    pub fn check(&self, step: &mut dyn FnMut()) -> Result<(), StoreError> {
        let (mut sum, mut entries) = (0_u64, 0_u64);
        let mut chain = Head::EMPTY;
        let mut stream = Vec::new();
        for entry in self.db.iter() {
            let (key, value) = entry?;
            if &key[..] == META {
                continue;
            }
            sum = sum.wrapping_add(entry_sum(&key, &value));
            entries += 1;
            if entries.is_multiple_of(1024) {
                step();
            }
            if key.first() == Some(&EVENT) {
                stream.extend_from_slice(&value);
                let used = whole_frames(&stream, |frame| {
                    chain = advance(chain, frame).map_err(StoreError)?;
                    Ok(())
                })?;
                stream.drain(..used);
            }
        }
        let Meta {
            head,
            sum: expected,
            entries: count,
        } = self.meta;
        if !stream.is_empty() || chain != head || sum != expected || entries != count {
            return Err(StoreError(format!(
                "entries {entries} of {count}, events up to {} of {}, or their sum do not fit",
                chain.seq, head.seq
            )));
        }
        Ok(())
    }

    /// Frames after `after`: at most `limit` of them, and no more once there are `bytes` of them.
    ///
    /// # Errors
    /// What sled says, or a gap.
    pub fn frames_after(
        &self,
        after: Seq,
        limit: usize,
        bytes: usize,
    ) -> Result<Vec<u8>, StoreError> {
        let mut out = Vec::new();
        let mut last = after;
        let mut taken = 0;
        if limit == 0 || after >= self.meta.head.seq {
            return Ok(out);
        }
        let mut stream = Vec::new();
        let start = self.block_of(after + 1)?;
        for entry in self
            .db
            .range(event_key(start, 0).as_slice()..&[EVENT + 1][..])
        {
            stream.extend_from_slice(&entry?.1);
            let used = whole_frames(&stream, |frame| {
                if frame.seq <= last || taken == limit || out.len() >= bytes {
                    return Ok(());
                }
                if frame.seq != last + 1 {
                    return Err(StoreError(format!("event {} is missing", last + 1)));
                }
                (last, taken) = (frame.seq, taken + 1);
                out.extend_from_slice(frame.whole());
                Ok(())
            })?;
            stream.drain(..used);
            if taken == limit || out.len() >= bytes {
                break;
            }
        }
        if taken == 0 {
            return Err(StoreError(format!("event {} is missing", after + 1)));
        }
        Ok(out)
    }

    /// Frames about the subject, beyond `cursor` in the direction of `order`, at most `limit`.
    ///
    /// # Errors
    /// What sled says, or a gap.
    pub fn history(
        &self,
        subject: &SubjectKey,
        cursor: Seq,
        limit: usize,
        order: Order,
    ) -> Result<Vec<u8>, StoreError> {
        let numbers = match order {
            Order::OldestFirst => self.postings_after(subject, cursor, limit)?,
            Order::NewestFirst => self.postings_before(subject, cursor, limit)?,
        };
        let mut out = Vec::new();
        for seq in numbers {
            out.extend_from_slice(&self.frames_after(seq - 1, 1, usize::MAX)?);
        }
        Ok(out)
    }

    fn postings_after(
        &self,
        subject: &SubjectKey,
        cursor: Seq,
        limit: usize,
    ) -> Result<Vec<Seq>, StoreError> {
        let bucket = postings::bucket_of(subject);
        let (lowest, at_cursor) = (block_key(bucket, 0), block_key(bucket, cursor));
        // The block that starts at or before the cursor may reach beyond it.
        let before = self
            .db
            .range(lowest.as_slice()..=at_cursor.as_slice())
            .next_back();
        let start = match before {
            Some(entry) => entry?.0.to_vec(),
            None => lowest.to_vec(),
        };
        let end = block_key(bucket, Seq::MAX);
        let mut found = Vec::new();
        for entry in self.db.range(start.as_slice()..=end.as_slice()) {
            let numbers = find(&entry?, subject)?;
            found.extend(numbers.into_iter().filter(|seq| *seq > cursor));
            if found.len() >= limit {
                break;
            }
        }
        found.truncate(limit);
        Ok(found)
    }

    fn postings_before(
        &self,
        subject: &SubjectKey,
        cursor: Seq,
        limit: usize,
    ) -> Result<Vec<Seq>, StoreError> {
        let below = if cursor == 0 { Seq::MAX } else { cursor };
        let bucket = postings::bucket_of(subject);
        let (low, high) = (block_key(bucket, 0), block_key(bucket, below));
        let mut found = Vec::new();
        for entry in self.db.range(low.as_slice()..high.as_slice()).rev() {
            let numbers = find(&entry?, subject)?;
            found.extend(numbers.into_iter().rev().filter(|seq| *seq < below));
            if found.len() >= limit {
                break;
            }
        }
        found.truncate(limit);
        Ok(found)
    }

    /// The first event of the block that holds `seq`.
    fn block_of(&self, seq: Seq) -> Result<Seq, StoreError> {
        let (low, high) = (event_key(0, 0), event_key(seq, u16::MAX));
        match self.db.range(low.as_slice()..=high.as_slice()).next_back() {
            Some(entry) => Ok(u64::from_be_bytes(fixed(&entry?.0[1..9]))),
            None => Err(StoreError(format!("event {seq} is missing"))),
        }
    }
}

struct BatchWriter {
    batch: sled::Batch,
    meta: Meta,
}

impl BatchWriter {
    fn put(&mut self, key: &[u8], value: &[u8]) {
        self.meta.sum = self.meta.sum.wrapping_add(entry_sum(key, value));
        self.meta.entries += 1;
        self.batch.insert(key, value);
    }

    fn add_frames(&mut self, frames: &[u8]) -> Result<(), StoreError> {
        let mut block = 0..0;
        let mut seq = self.meta.head.seq + 1;
        let first = frame::parse(frames)?.seq;
        if first != seq {
            return Err(StoreError(format!(
                "event {first} does not follow event {}",
                seq - 1
            )));
        }
        let mut block_seq = seq;
        while block.end < frames.len() {
            let length = frame::frame_length(&frames[block.end..])?;
            if !block.is_empty() && block.len() + length > VALUE_BYTES_MAX {
                self.put_block(block_seq, &frames[block.clone()]);
                (block.start, block_seq) = (block.end, seq);
            }
            block.end += length;
            seq += 1;
        }
        self.put_block(block_seq, &frames[block]);
        Ok(())
    }

    /// One block, or the parts of a frame that is larger than one.
    fn put_block(&mut self, seq: Seq, bytes: &[u8]) {
        for (part, chunk) in bytes.chunks(VALUE_BYTES_MAX).enumerate() {
            let part = u16::try_from(part).expect("64 MiB make at most 16,385 parts");
            self.put(&event_key(seq, part), chunk);
        }
    }

    fn add_postings(&mut self, tails: &mut [Tail], new: &mut [Posting]) {
        postings::add(tails, new, |write| {
            let key = block_key(write.bucket, write.first);
            if !write.before.is_empty() {
                self.meta.sum = self.meta.sum.wrapping_sub(entry_sum(&key, write.before));
                self.meta.entries -= 1;
            }
            self.put(&key, write.now);
        });
    }
}

impl Meta {
    const EMPTY: Self = Self {
        head: Head::EMPTY,
        sum: 0,
        entries: 0,
    };

    fn encode(self) -> [u8; META_BYTES] {
        let mut bytes = [0; META_BYTES];
        bytes[..8].copy_from_slice(&self.head.seq.to_le_bytes());
        bytes[8..40].copy_from_slice(&self.head.hash);
        bytes[40..48].copy_from_slice(&self.sum.to_le_bytes());
        bytes[48..].copy_from_slice(&self.entries.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        if bytes.len() != META_BYTES {
            return Err(StoreError("the head has another length".to_owned()));
        }
        let number = |at: usize| u64::from_le_bytes(fixed(&bytes[at..at + 8]));
        Ok(Self {
            head: Head {
                seq: number(0),
                hash: fixed(&bytes[8..40]),
            },
            sum: number(40),
            entries: number(48),
        })
    }
}

/// Calls `each` with the whole frames at the start of `stream`, and answers how many bytes they take.
fn whole_frames(
    stream: &[u8],
    mut each: impl FnMut(&frame::Frame<'_>) -> Result<(), StoreError>,
) -> Result<usize, StoreError> {
    let mut used = 0;
    for parsed in Frames::new(stream) {
        match parsed {
            Ok(frame) => {
                each(&frame)?;
                used += frame.bytes();
            }
            Err(FrameError::Short) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(used)
}

fn event_key(seq: Seq, part: u16) -> [u8; 11] {
    let mut key = [EVENT; 11];
    key[1..9].copy_from_slice(&seq.to_be_bytes());
    key[9..].copy_from_slice(&part.to_be_bytes());
    key
}

fn block_key(bucket: u8, first: Seq) -> [u8; 10] {
    let mut key = [SUBJECT; 10];
    key[1] = bucket;
    key[2..].copy_from_slice(&first.to_be_bytes());
    key
}

fn find(
    (key, value): &(sled::IVec, sled::IVec),
    subject: &SubjectKey,
) -> Result<Vec<Seq>, StoreError> {
    let first = u64::from_be_bytes(fixed(&key[2..10]));
    postings::find(value, first, subject)
        .ok_or_else(|| StoreError(format!("the subject index is unreadable at event {first}")))
}

/// The last block of every bucket.
fn read_tails(db: &sled::Db) -> Result<Vec<Tail>, StoreError> {
    let mut tails = Vec::new();
    for bucket in 0..postings::BUCKETS {
        let (low, high) = (block_key(bucket, 0), block_key(bucket, Seq::MAX));
        let last = db
            .range(low.as_slice()..=high.as_slice())
            .next_back()
            .transpose()?;
        tails.push(last.map_or_else(Tail::default, |(key, value)| Tail {
            first: u64::from_be_bytes(fixed(&key[2..10])),
            bytes: value.to_vec(),
        }));
    }
    Ok(tails)
}

fn entry_sum(key: &[u8], value: &[u8]) -> u64 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(value);
    u64::from(hasher.finalize())
}

/// A snapshot that a kill left half written would be taken for the newest one, and brick the directory.
fn remove_unfinished_snapshots(dir: &Path) -> Result<(), StoreError> {
    let mut unfinished: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path
            .file_name()
            .and_then(|n| n.to_str())
            .unwrap_or_default();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            unfinished.push(path);
        }
    }
    for path in unfinished {
        tracing::warn!(file = %path.display(), "removing a half-written snapshot of the index");
        std::fs::remove_file(&path)?;
    }
    Ok(())
}

fn open_patiently(config: &sled::Config) -> Result<sled::Db, StoreError> {
    let start = Instant::now();
    loop {
        match config.open() {
            Ok(db) => return Ok(db),
            Err(error) => {
                let locked = error.to_string().contains("could not acquire lock");
                if !locked || start.elapsed() > LOCK_PATIENCE {
                    return Err(error.into());
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}
