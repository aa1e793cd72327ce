//! Drafts made ready for the log on the thread of whoever submits them: encoded once, subjects hashed.
//! The log's own thread is left with numbering, chaining and writing.

use super::error::LogError;
use super::frame::{self, GENESIS, Hash, Place};
use crate::record::{Draft, Record, Seq};

/// Most records of one batch.
pub const BATCH_RECORDS_MAX: usize = 32_768;
/// Most records of one group, which is one write and one flush.
pub const GROUP_RECORDS_MAX: usize = 65_535;

/// About how long the JSON text of a draft is without its data.
const ENVELOPE_BYTES: usize = 320;

/// The first 16 bytes of a subject's blake3: how the index names it.
pub type SubjectKey = [u8; 16];

/// The index key of `subject`.
pub fn subject_key(subject: &str) -> SubjectKey {
    frame::fixed(&blake3::hash(subject.as_bytes()).as_bytes()[..16])
}

/// Drafts that are committed together or not at all.
#[derive(Debug, Default)]
pub struct Batch {
    drafts: Vec<Draft>,
    /// The JSON texts, one after the other.
    json: Vec<u8>,
    /// Where each text ends.
    ends: Vec<usize>,
    /// The subjects, with the place of their draft in the batch.
    subjects: Vec<(SubjectKey, usize)>,
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
        let about: usize = drafts
            .iter()
            .map(|d| d.data.get().len() + ENVELOPE_BYTES)
            .sum();
        let mut json = Vec::with_capacity(about);
        let mut ends = Vec::with_capacity(drafts.len());
        let mut subjects = Vec::with_capacity(drafts.iter().map(|d| d.subjects.len()).sum());
        for (place, draft) in drafts.iter().enumerate() {
            let start = json.len();
            serde_json::to_writer(&mut json, draft)
                .expect("strings, numbers and raw JSON always encode into memory");
            frame::check_body(json.len() - start)?;
            ends.push(json.len());
            subjects.extend(draft.subjects.iter().map(|s| (subject_key(s), place)));
        }
        Ok(Self {
            drafts,
            json,
            ends,
            subjects,
        })
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
        self.json.len() + self.drafts.len() * (frame::HEADER_BYTES + 28)
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
            let mut start = 0;
            let before = head.seq + 1;
            for (draft, end) in batch.drafts.into_iter().zip(batch.ends) {
                left -= 1;
                let seq = head.seq + 1;
                let place = Place { group, left };
                let json = &batch.json[start..end];
                let hash = frame::encode(&mut frames, seq, place, &head.hash, json)?;
                (group, start) = (group.wrapping_add(1), end);
                head = Head { seq, hash };
                own.push(Record { seq, draft, hash });
            }
            let numbered = batch.subjects.into_iter();
            postings.extend(numbered.map(|(key, place)| (key, before + place as Seq)));
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
