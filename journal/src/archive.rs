//! The names of archived segments, and the way back from an archive to a journal.
//! Pure naming and checking plus files under the journal's directory; never talks to a bucket.

use std::path::Path;

use crate::log::io::{create_dir, replace_file};
use crate::log::mirror;
use crate::log::scan::scan_sealed;
use crate::log::{Hash, Head, LogError, RealIo};
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

/// What a restore did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreReport {
    /// How many events were restored.
    pub events: u64,
    /// The last of them; 0 for none.
    pub last_seq: Seq,
    /// How many segments were written.
    pub segments: u64,
    /// What is missing before the next segment of the archive; nothing behind it was restored.
    pub gap: Option<RestoreGap>,
}

/// A hole in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreGap {
    /// The first event that is missing.
    pub first_missing: Seq,
    /// The last event that is missing, when a later segment shows it.
    pub last_missing: Option<Seq>,
    /// The segment that cannot be used, and why.
    pub key: String,
    /// What does not fit.
    pub detail: String,
}

/// Writes archived segments as the mirror of a new journal in `dir`, from which `SledLog::open` starts.
/// `segments` come in the order of their keys. Stops at the first one that is damaged or does not follow.
///
/// # Errors
/// `Io`, and `Corrupt` when the directory holds a mirror already.
pub fn restore_into(
    dir: &Path,
    segments: impl IntoIterator<Item = (String, Vec<u8>)>,
) -> Result<RestoreReport, LogError> {
    let io = RealIo;
    let mirror = dir.join("mirror");
    create_dir(&io, dir)?;
    create_dir(&io, &mirror)?;
    if let Some(file) = mirror::files(&mirror)?.first() {
        return Err(LogError::corrupt(
            file,
            0,
            "a restore needs an empty journal",
        ));
    }
    let mut head = Head::EMPTY;
    let mut report = RestoreReport {
        events: 0,
        last_seq: 0,
        segments: 0,
        gap: None,
    };
    for (key, bytes) in segments {
        match check_segment(&key, &bytes, head) {
            Ok(None) => {}
            Ok(Some(next)) => {
                let name = segment_name(head.seq + 1, next.seq, &next.hash);
                replace_file(&io, &mirror.join(name), &bytes)?;
                report.segments += 1;
                head = next;
            }
            Err(gap) => {
                report.gap = Some(gap);
                break;
            }
        }
    }
    (report.events, report.last_seq) = (head.seq, head.seq);
    Ok(report)
}

/// The head after a segment that follows `head`; `None` for one whose events are there already.
fn check_segment(key: &str, bytes: &[u8], head: Head) -> Result<Option<Head>, RestoreGap> {
    let gap = |last_missing, detail: String| RestoreGap {
        first_missing: head.seq + 1,
        last_missing,
        key: key.to_owned(),
        detail,
    };
    let Some(parsed) = parse_key(key) else {
        return Err(gap(None, "the key names no segment".to_owned()));
    };
    if parsed.last <= head.seq {
        return Ok(None);
    }
    if parsed.first > head.seq + 1 {
        let detail = format!("the next segment starts with event {}", parsed.first);
        return Err(gap(Some(parsed.first - 1), detail));
    }
    match scan_sealed(Path::new(key), bytes, &parsed, head) {
        Ok((length, next)) if length == bytes.len() => Ok(Some(next)),
        Ok((length, _)) => {
            let detail = format!("{} bytes follow its last event", bytes.len() - length);
            Err(gap(Some(parsed.last), detail))
        }
        Err(LogError::Corrupt { seq, detail, .. }) => {
            let detail = format!("at event {seq}: {detail}");
            Err(gap(Some(parsed.last), detail))
        }
        Err(other) => Err(gap(None, other.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::testing::{drafts, scratch};
    use crate::log::{Log, MemoryLog};

    fn archived() -> Vec<(String, Vec<u8>)> {
        let mut log = MemoryLog::default();
        for n in 0..4 {
            log.append(drafts(n * 10, 10)).unwrap();
            log.seal().unwrap();
        }
        let segments = log.sealed_segments(0);
        segments
            .iter()
            .map(|s| (s.key(), s.read().unwrap()))
            .collect()
    }

    #[test]
    fn keys_come_back_and_sort_like_their_events() {
        let keys: Vec<String> = archived().into_iter().map(|(key, _)| key).collect();
        assert!(keys.is_sorted());
        let key = parse_key(&keys[1]).unwrap();
        assert_eq!((key.first, key.last), (11, 20));
        assert_eq!(
            keys[1].len(),
            "_journal/v1/".len() + 20 + 1 + 20 + 1 + 8 + 4
        );
        let foreign = [
            "",
            "_journal/v1/1-2-ab.lhj",
            "x.lhj",
            "00000000000000000001.lhj",
        ];
        assert!(foreign.iter().all(|k| parse_key(k).is_none()));
        let reversed = format!("{:020}-{:020}-00000000.lhj", 5, 4);
        assert_eq!(parse_key(&reversed), None);
    }

    #[test]
    fn a_whole_archive_is_restored() {
        let dir = scratch();
        let report = restore_into(dir.path(), archived()).unwrap();
        assert_eq!(
            (report.events, report.segments, &report.gap),
            (40, 4, &None)
        );
        assert_eq!(
            mirror::check_dir(&dir.path().join("mirror")).unwrap().seq,
            40
        );
        assert!(matches!(
            restore_into(dir.path(), archived()),
            Err(LogError::Corrupt { .. })
        ));
    }

    #[test]
    fn a_gap_is_named_exactly() {
        let dir = scratch();
        let mut segments = archived();
        segments.remove(1);
        let report = restore_into(dir.path(), segments).unwrap();
        let gap = report.gap.unwrap();
        assert_eq!(report.last_seq, 10);
        assert_eq!((gap.first_missing, gap.last_missing), (11, Some(20)));
    }

    #[test]
    fn a_damaged_segment_ends_the_restore_before_it() {
        let dir = scratch();
        let mut segments = archived();
        segments[2].1[400] ^= 1;
        let report = restore_into(dir.path(), segments).unwrap();
        let gap = report.gap.unwrap();
        assert_eq!(report.last_seq, 20);
        assert_eq!((gap.first_missing, gap.last_missing), (21, Some(30)));
        assert!(gap.detail.contains("event 22"), "{}", gap.detail);
    }
}
