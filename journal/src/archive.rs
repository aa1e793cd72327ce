//! The names of archived segments, and the way back from an archive to a journal.
//! Pure naming and checking plus files under the journal's directory; never talks to a bucket.

use crate::log::Hash;
use crate::record::Seq;

const PREFIX: &str = "_journal/v1/";
const SUFFIX: &str = ".lhj";

/// What an archive key says about its segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArchiveKey {
    /// The first event.
    pub first: Seq,
    /// The last event.
    pub last: Seq,
    /// The first four bytes of the last event's hash.
    pub hash4: [u8; 4],
}

/// The key of the segment from `first` to `last`, whose last event has `hash`.
pub fn archive_key(first: Seq, last: Seq, hash: &Hash) -> String {
    format!("{PREFIX}{}", segment_name(first, last, hash))
}

/// The file name of a sealed segment.
pub fn segment_name(first: Seq, last: Seq, hash: &Hash) -> String {
    let [a, b, c, d] = [hash[0], hash[1], hash[2], hash[3]];
    format!("{first:020}-{last:020}-{a:02x}{b:02x}{c:02x}{d:02x}{SUFFIX}")
}

/// Reads an archive key or a segment's file name back; `None` for anything that this module did not write.
pub fn parse_key(key: &str) -> Option<ArchiveKey> {
    let name = key.strip_prefix(PREFIX).unwrap_or(key);
    let mut parts = name.strip_suffix(SUFFIX)?.split('-');
    let (first, last, hash) = (parts.next()?, parts.next()?, parts.next()?);
    let canonical = |text: &str, length: usize| {
        text.len() == length
            && text
                .bytes()
                .all(|b| b.is_ascii_digit() || matches!(b, b'a'..=b'f'))
    };
    if parts.next().is_some()
        || !canonical(first, 20)
        || !canonical(last, 20)
        || !canonical(hash, 8)
    {
        return None;
    }
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    let hash4 = u32::from_str_radix(hash, 16).ok()?.to_be_bytes();
    (first > 0 && first <= last).then_some(ArchiveKey { first, last, hash4 })
}
