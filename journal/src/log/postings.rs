//! The subject index as blocks: which events are about which subject, packed so that an event costs little to add.
//! Pure: the store keeps the blocks under `bucket, first event`. A subject has one bucket; a bucket's blocks follow each other
//! in event order without overlap, and its last block is rewritten until it is full.

use super::batch::{Posting, SubjectKey};
use crate::record::Seq;

/// How many buckets there are.
pub const BUCKETS: u8 = 64;
/// The largest block, in bytes.
const BLOCK_BYTES_MAX: usize = 4096;
/// How many bytes of a subject's key stand in a block; a reader compares the subject itself anyway.
const SUBJECT_BYTES: usize = 8;
/// So many postings fit a block even when each has another subject and the longest numbers.
const CHUNK_POSTINGS: usize = 200;

/// The last block of a bucket, which takes more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tail {
    /// Its first event; 0 while the bucket is empty.
    pub first: Seq,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// A block to be stored.
#[derive(Debug, PartialEq, Eq)]
pub struct BlockWrite<'a> {
    /// The bucket.
    pub bucket: u8,
    /// The block's first event: with the bucket its key.
    pub first: Seq,
    /// What was stored under this key before; empty for a new block.
    pub before: &'a [u8],
    /// What is to be stored now.
    pub now: &'a [u8],
}

/// The bucket of a subject.
pub fn bucket_of(subject: &SubjectKey) -> u8 {
    subject[SUBJECT_BYTES] % BUCKETS
}

/// Adds postings of events later than all before, and calls `write` with each block that changed.
pub fn add(tails: &mut [Tail], postings: &mut [Posting], mut write: impl FnMut(&BlockWrite<'_>)) {
    postings.sort_unstable_by_key(|(subject, seq)| (bucket_of(subject), *seq));
    for of_bucket in postings.chunk_by_mut(|a, b| bucket_of(&a.0) == bucket_of(&b.0)) {
        let bucket = bucket_of(&of_bucket[0].0);
        let tail = &mut tails[usize::from(bucket)];
        let mut before = tail.bytes.clone();
        for chunk in by_event(of_bucket) {
            let first = chunk[0].1;
            chunk.sort_unstable();
            let start = if tail.bytes.is_empty() {
                first
            } else {
                tail.first
            };
            let kept = tail.bytes.len();
            encode(&mut tail.bytes, start, chunk);
            if tail.bytes.len() > BLOCK_BYTES_MAX {
                tail.bytes.truncate(kept);
                flush(bucket, tail, &before, &mut write);
                before.clear();
                tail.bytes.clear();
                encode(&mut tail.bytes, first, chunk);
                tail.first = first;
            } else {
                tail.first = start;
            }
        }
        flush(bucket, tail, &before, &mut write);
    }
}

fn flush(bucket: u8, tail: &Tail, before: &[u8], write: &mut impl FnMut(&BlockWrite<'_>)) {
    if tail.bytes != before {
        write(&BlockWrite {
            bucket,
            first: tail.first,
            before,
            now: &tail.bytes,
        });
    }
}

/// Cuts postings that are sorted by event into chunks that share no event.
fn by_event(mut rest: &mut [Posting]) -> Vec<&mut [Posting]> {
    let mut chunks = Vec::new();
    while !rest.is_empty() {
        let mut end = rest.len().min(CHUNK_POSTINGS);
        // An event with more subjects than a chunk takes stays whole as far as a block can hold it.
        while end < rest.len() && rest[end].1 == rest[end - 1].1 {
            end += 1;
        }
        let (chunk, later) = rest.split_at_mut(end);
        chunks.push(chunk);
        rest = later;
    }
    chunks
}

/// Appends runs of `subject, count, gaps` to a block that starts with the event `first`.
fn encode(block: &mut Vec<u8>, first: Seq, sorted: &[Posting]) {
    for run in sorted.chunk_by(|a, b| a.0 == b.0) {
        block.extend_from_slice(&run[0].0[..SUBJECT_BYTES]);
        push_number(block, run.len() as u64);
        let mut last = first;
        for (_, seq) in run {
            push_number(block, seq - last);
            last = *seq;
        }
    }
}

/// The events about `subject` in the block that starts with `first`, ascending; `None` for a block that cannot be read.
pub fn find(block: &[u8], first: Seq, subject: &SubjectKey) -> Option<Vec<Seq>> {
    let mut found = Vec::new();
    let mut rest = block;
    while !rest.is_empty() {
        let (own, after) = rest.split_at_checked(SUBJECT_BYTES)?;
        let wanted = *own == subject[..SUBJECT_BYTES];
        rest = after;
        let count = take_number(&mut rest)?;
        let mut seq = first;
        for _ in 0..count {
            seq = seq.checked_add(take_number(&mut rest)?)?;
            if wanted {
                found.push(seq);
            }
        }
    }
    Some(found)
}

/// Seven bits a byte, the lowest first; the top bit says that more follow.
fn push_number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

fn take_number(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::super::batch::subject_key;
    use super::*;

    type Blocks = BTreeMap<(u8, Seq), Vec<u8>>;

    fn apply(tails: &mut [Tail], blocks: &mut Blocks, mut postings: Vec<Posting>) {
        add(tails, &mut postings, |write| {
            let before = blocks.insert((write.bucket, write.first), write.now.to_vec());
            assert_eq!(before.unwrap_or_default(), write.before);
        });
    }

    fn history(blocks: &Blocks, subject: &SubjectKey) -> Vec<Seq> {
        let bucket = bucket_of(subject);
        let own = blocks.range((bucket, 0)..=(bucket, Seq::MAX));
        own.flat_map(|((_, first), block)| find(block, *first, subject).unwrap())
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_posting_is_found_in_order_whatever_the_batches(
            batches in proptest::collection::vec((1_u64..900, 1_u64..60, 1_u64..5), 1..12),
        ) {
            let mut tails = vec![Tail::default(); usize::from(BUCKETS)];
            let (mut blocks, mut model) = (Blocks::new(), BTreeMap::<u64, Vec<Seq>>::new());
            let mut seq = 0;
            for (events, subjects, each) in batches {
                let mut postings = Vec::new();
                for _ in 0..events {
                    seq += 1;
                    for n in 0..each {
                        let subject = (seq * 7 + n) % subjects;
                        let seen = model.entry(subject).or_default();
                        if seen.last() != Some(&seq) {
                            seen.push(seq);
                            postings.push((subject_key(&subject.to_string()), seq));
                        }
                    }
                }
                apply(&mut tails, &mut blocks, postings);
            }
            for (subject, expected) in model {
                prop_assert_eq!(history(&blocks, &subject_key(&subject.to_string())), expected);
            }
            prop_assert!(blocks.values().all(|b| b.len() <= BLOCK_BYTES_MAX));
            for ((bucket, first), block) in &blocks {
                let next = blocks.range((*bucket, first + 1)..=(*bucket, Seq::MAX)).next();
                let last = (0..60).filter_map(|n| find(block, *first, &subject_key(&n.to_string()))?.pop()).max();
                prop_assert!(next.is_none_or(|((_, next), _)| last.is_none_or(|last| last < *next)));
            }
        }

        #[test]
        fn an_unreadable_block_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), first in any::<u64>()) {
            let _ = find(&bytes, first, &subject_key("x"));
        }
    }
}
