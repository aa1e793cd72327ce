//! Drafts made ready for the log on the thread of whoever submits them: encoded once, subjects hashed.
//! The log's own thread is left with numbering, chaining and writing.

use super::error::LogError;
use super::frame::{self, GENESIS, Hash, Place};
use crate::record::{Draft, Record, Seq};

/// Most records of one batch.
pub const BATCH_RECORDS_MAX: usize = 32_768;
/// Most records of one group, which is one write and one flush.
pub const GROUP_RECORDS_MAX: usize = 65_535;

/// The first 16 bytes of a subject's blake3: how the index names it.
pub type SubjectKey = [u8; 16];

/// The index key of `subject`.
pub fn subject_key(subject: &str) -> SubjectKey {
    frame::fixed(&blake3::hash(subject.as_bytes()).as_bytes()[..16])
}

/// Drafts that are committed together or not at all.
#[derive(Debug, Default)]
pub struct Batch {
    drafts: Vec<Prepared>,
    bytes: usize,
}

#[derive(Debug)]
struct Prepared {
    draft: Draft,
    json: Vec<u8>,
    subjects: Vec<SubjectKey>,
}

impl Batch {
    /// Encodes `drafts`.
    ///
    /// # Errors
    /// `TooLarge` for an event above 64 MiB or more than [`BATCH_RECORDS_MAX`] of them.
    pub fn new(drafts: Vec<Draft>) -> Result<Self, LogError> {
        if drafts.len() > BATCH_RECORDS_MAX {
            return Err(LogError::TooLarge {
                what: "a batch in records",
                size: drafts.len() as u64,
                max: BATCH_RECORDS_MAX as u64,
            });
        }
        let mut batch = Self::default();
        batch.drafts.reserve_exact(drafts.len());
        for draft in drafts {
            let json =
                serde_json::to_vec(&draft).expect("strings, numbers and raw JSON always encode");
            frame::check_body(json.len())?;
            let subjects = draft.subjects.iter().map(|s| subject_key(s)).collect();
            batch.bytes += json.len() + frame::HEADER_BYTES + 28;
            batch.drafts.push(Prepared {
                draft,
                json,
                subjects,
            });
        }
        Ok(batch)
    }

    /// How many records it will make.
    pub fn len(&self) -> usize {
        self.drafts.len()
    }

    /// Whether there is nothing to append.
    pub fn is_empty(&self) -> bool {
        self.drafts.is_empty()
    }

    /// About how many bytes it will take in the mirror.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// The end of the chain: the number and the hash of the last event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The last event's number; 0 for an empty log.
    pub seq: Seq,
    /// The last event's hash; [`GENESIS`] for an empty log.
    pub hash: Hash,
}

impl Head {
    /// The head of an empty log.
    pub const EMPTY: Self = Self {
        seq: 0,
        hash: GENESIS,
    };
}

/// One subject of one event.
pub type Posting = (SubjectKey, Seq);

/// A numbered, chained and encoded group, ready to be written.
#[derive(Debug)]
pub struct Group {
    /// The frames, one after the other.
    pub frames: Vec<u8>,
    /// What the subject index has to learn.
    pub postings: Vec<Posting>,
    /// The records, by batch.
    pub records: Vec<Vec<Record>>,
    /// The head after it.
    pub head: Head,
}

impl Group {
    /// Numbers and chains `batches` after `head`.
    ///
    /// # Errors
    /// `TooLarge` for more than [`GROUP_RECORDS_MAX`] records.
    pub fn encode(batches: Vec<Batch>, mut head: Head) -> Result<Self, LogError> {
        let total: usize = batches.iter().map(Batch::len).sum();
        if total > GROUP_RECORDS_MAX {
            return Err(LogError::TooLarge {
                what: "a group in records",
                size: total as u64,
                max: GROUP_RECORDS_MAX as u64,
            });
        }
        let mut frames = Vec::with_capacity(batches.iter().map(Batch::bytes).sum());
        let mut postings = Vec::with_capacity(total * 2);
        let mut records = Vec::with_capacity(batches.len());
        let mut group: u16 = 0;
        for batch in batches {
            let mut left = u16::try_from(batch.len()).expect("a batch has at most 32,768 records");
            let mut own = Vec::with_capacity(batch.len());
            for Prepared {
                draft,
                json,
                subjects,
            } in batch.drafts
            {
                left -= 1;
                let seq = head.seq + 1;
                let hash =
                    frame::encode(&mut frames, seq, Place { group, left }, &head.hash, &json)?;
                group = group.wrapping_add(1);
                head = Head { seq, hash };
                postings.extend(subjects.into_iter().map(|key| (key, seq)));
                own.push(Record { seq, draft, hash });
            }
            records.push(own);
        }
        Ok(Self {
            frames,
            postings,
            records,
            head,
        })
    }
}
