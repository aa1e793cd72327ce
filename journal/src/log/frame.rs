//! The bytes of one event, the same in the mirror, in the index and in the archive.
//! Header (48 bytes, little endian): magic 4, body length u32, crc32 u32 over the rest, group u16, left u16,
//! hash 32; then the body, the JSON text of `{seq, draft...}`. Pure: no I/O.

use std::ops::Range;

use serde::Deserialize;

use super::error::LogError;
use crate::record::{Draft, Record, Seq};

/// Starts every frame; the first and last byte never occur in UTF-8, so no body contains it.
pub const MAGIC: [u8; 4] = [0xFF, b'L', b'J', 0xFE];
/// Bytes before the body.
pub const HEADER_BYTES: usize = 48;
/// The longest body, in bytes.
pub const BODY_BYTES_MAX: usize = 64 << 20;
/// The predecessor's hash of the first event.
pub const GENESIS: Hash = [0; 32];

/// blake3 over the predecessor's hash and the body.
pub type Hash = [u8; 32];

const LENGTH: Range<usize> = 4..8;
const CHECKSUM: Range<usize> = 8..12;
const CHECKED_FROM: usize = 12;
const GROUP: Range<usize> = 12..14;
const LEFT: Range<usize> = 14..16;
const HASH: Range<usize> = 16..48;
const BODY_START: &[u8] = b"{\"seq\":";

/// Where a frame stands among those that were written with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// How many frames of the same write come before it: they became durable together.
    pub group: u16,
    /// How many frames of the same batch follow: without them it does not count.
    pub left: u16,
}

/// A whole, checksummed frame in a buffer.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// The event's number.
    pub seq: Seq,
    /// Its place in its group.
    pub place: Place,
    /// Its link of the hash chain.
    pub hash: Hash,
    /// The JSON text.
    pub body: &'a [u8],
    whole: &'a [u8],
}

/// Why bytes are not a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The buffer ends before the frame does.
    #[error("the frame is cut short")]
    Short,
    /// No frame starts here.
    #[error("no frame starts here")]
    Magic,
    /// The length cannot be right.
    #[error("the length is impossible")]
    Length,
    /// The checksum does not fit.
    #[error("the checksum does not fit")]
    Checksum,
    /// The body does not start with a sequence number.
    #[error("the body carries no sequence number")]
    Body,
}

/// Appends the frame of `seq` to `out`; `draft_json` is the text of a JSON object with at least one field.
///
/// # Errors
/// `TooLarge` for a body above [`BODY_BYTES_MAX`]; `out` is then unchanged.
pub fn encode(
    out: &mut Vec<u8>,
    seq: Seq,
    place: Place,
    previous: &Hash,
    draft_json: &[u8],
) -> Result<Hash, LogError> {
    check_body(draft_json.len())?;
    let start = out.len();
    out.reserve(HEADER_BYTES + BODY_START.len() + 21 + draft_json.len());
    out.resize(start + HEADER_BYTES, 0);
    out.extend_from_slice(BODY_START);
    push_decimal(out, seq);
    out.push(b',');
    out.extend_from_slice(&draft_json[1..]);
    let (header, body) = out[start..].split_at_mut(HEADER_BYTES);
    let hash = chain(previous, body);
    let length = u32::try_from(body.len()).expect("a body is at most 64 MiB");
    header[..4].copy_from_slice(&MAGIC);
    header[LENGTH].copy_from_slice(&length.to_le_bytes());
    header[GROUP].copy_from_slice(&place.group.to_le_bytes());
    header[LEFT].copy_from_slice(&place.left.to_le_bytes());
    header[HASH].copy_from_slice(&hash);
    let checksum = checksum(header, body);
    header[CHECKSUM].copy_from_slice(&checksum.to_le_bytes());
    Ok(hash)
}

/// Refuses a draft whose body would be above [`BODY_BYTES_MAX`].
///
/// # Errors
/// `TooLarge`.
pub fn check_body(draft_json_bytes: usize) -> Result<(), LogError> {
    let bytes = BODY_START.len() + 21 + draft_json_bytes;
    if bytes > BODY_BYTES_MAX {
        return Err(LogError::TooLarge {
            what: "an event in bytes",
            size: bytes as u64,
            max: BODY_BYTES_MAX as u64,
        });
    }
    Ok(())
}

/// The link of the hash chain that `body` makes after `previous`.
pub fn chain(previous: &Hash, body: &[u8]) -> Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(previous);
    hasher.update(body);
    *hasher.finalize().as_bytes()
}

/// The frame at the start of `bytes`, checksum verified, chain not.
///
/// # Errors
/// A [`FrameError`] that says what does not fit.
pub fn parse(bytes: &[u8]) -> Result<Frame<'_>, FrameError> {
    let length = body_length(bytes)?;
    let end = HEADER_BYTES + length;
    if bytes.len() < end {
        return Err(FrameError::Short);
    }
    let (header, body) = bytes[..end].split_at(HEADER_BYTES);
    let stored = u32::from_le_bytes(fixed(&header[CHECKSUM]));
    if checksum(header, body) != stored {
        return Err(FrameError::Checksum);
    }
    Ok(Frame {
        seq: body_seq(body).ok_or(FrameError::Body)?,
        place: Place {
            group: u16::from_le_bytes(fixed(&header[GROUP])),
            left: u16::from_le_bytes(fixed(&header[LEFT])),
        },
        hash: fixed(&header[HASH]),
        body,
        whole: &bytes[..end],
    })
}

/// Length of the whole frame that starts at `bytes`, read from its header alone.
///
/// # Errors
/// `Short`, `Magic` or `Length`.
pub fn frame_length(bytes: &[u8]) -> Result<usize, FrameError> {
    Ok(HEADER_BYTES + body_length(bytes)?)
}

fn body_length(bytes: &[u8]) -> Result<usize, FrameError> {
    if bytes.len() >= MAGIC.len() && bytes[..4] != MAGIC {
        return Err(FrameError::Magic);
    }
    if bytes.len() < HEADER_BYTES {
        return Err(FrameError::Short);
    }
    let length = u32::from_le_bytes(fixed(&bytes[LENGTH])) as usize;
    if length > BODY_BYTES_MAX {
        return Err(FrameError::Length);
    }
    Ok(length)
}

impl<'a> Frame<'a> {
    /// Header and body.
    pub fn whole(&self) -> &'a [u8] {
        self.whole
    }

    /// Length of header and body, in bytes.
    pub fn bytes(&self) -> usize {
        HEADER_BYTES + self.body.len()
    }

    /// Whether it is the successor of an event with the hash `previous`.
    pub fn follows(&self, previous: &Hash) -> bool {
        chain(previous, self.body) == self.hash
    }

    /// The record; `data` keeps its exact text.
    ///
    /// # Errors
    /// The JSON error's text, for a body that is no record.
    pub fn record(&self) -> Result<Record, String> {
        // A draft takes no notice of the `seq` in the body; it was read from there already.
        let draft: Draft = serde_json::from_slice(self.body).map_err(|e| e.to_string())?;
        Ok(Record {
            seq: self.seq,
            draft,
            hash: self.hash,
        })
    }

    /// The subjects alone.
    ///
    /// # Errors
    /// The JSON error's text, for a body that is no record.
    pub fn subjects(&self) -> Result<Vec<String>, String> {
        #[derive(Deserialize)]
        struct Subjects {
            subjects: Vec<String>,
        }
        serde_json::from_slice::<Subjects>(self.body)
            .map(|s| s.subjects)
            .map_err(|e| e.to_string())
    }
}

fn checksum(header: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&header[LENGTH]);
    hasher.update(&header[CHECKED_FROM..]);
    hasher.update(body);
    hasher.finalize()
}

fn body_seq(body: &[u8]) -> Option<Seq> {
    let rest = body.strip_prefix(BODY_START)?;
    let end = rest.iter().take(21).position(|b| *b == b',')?;
    let mut seq: Seq = 0;
    for digit in &rest[..end] {
        if !digit.is_ascii_digit() {
            return None;
        }
        seq = seq.checked_mul(10)?.checked_add(Seq::from(digit - b'0'))?;
    }
    (end > 0).then_some(seq)
}

fn push_decimal(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

pub(crate) fn fixed<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().expect("the range has this length")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::log::testing::draft;

    fn encoded(seq: Seq, place: Place, previous: &Hash, draft: &Draft) -> Vec<u8> {
        let json = serde_json::to_vec(draft).unwrap();
        let mut out = Vec::new();
        encode(&mut out, seq, place, previous, &json).unwrap();
        out
    }

    #[test]
    fn an_event_keeps_its_exact_text() {
        let mut event = draft(7);
        event.data = serde_json::value::RawValue::from_string(
            "{ \"b\":1.50,  \"a\":\"\\u00e9\"}".to_owned(),
        )
        .unwrap();
        let place = Place { group: 3, left: 9 };
        let bytes = encoded(42, place, &GENESIS, &event);
        let frame = parse(&bytes).unwrap();
        assert_eq!(
            (frame.seq, frame.place, frame.bytes()),
            (42, place, bytes.len())
        );
        assert!(frame.follows(&GENESIS));
        let record = frame.record().unwrap();
        assert_eq!(record.draft.data.get(), event.data.get());
        assert_eq!(record.draft.subjects, frame.subjects().unwrap());
    }

    #[test]
    fn a_body_above_the_limit_is_refused() {
        let error = check_body(BODY_BYTES_MAX).unwrap_err();
        assert!(matches!(error, LogError::TooLarge { .. }), "{error}");
        assert!(check_body(BODY_BYTES_MAX - 64).is_ok());
    }

    #[test]
    fn the_largest_number_fits() {
        let bytes = encoded(Seq::MAX, Place::default(), &GENESIS, &draft(1));
        assert_eq!(parse(&bytes).unwrap().seq, Seq::MAX);
    }

    proptest! {
        #[test]
        fn any_draft_comes_back_whole(
            at in any::<i64>(), request_id in ".{0,40}", kind in "[A-Z][a-zA-Z]{0,20}",
            subjects in proptest::collection::vec(".{0,30}", 0..4), schema in any::<u16>(),
            text in ".{0,300}", seq in any::<u64>(), group in any::<u16>(), left in any::<u16>(),
            previous in any::<[u8; 32]>(),
        ) {
            let mut event = draft(1);
            event.at = at;
            event.request_id = request_id;
            event.kind = kind;
            event.subjects = subjects;
            event.schema = schema;
            event.data = serde_json::value::to_raw_value(&text).unwrap();
            let bytes = encoded(seq, Place { group, left }, &previous, &event);
            let frame = parse(&bytes).unwrap();
            prop_assert_eq!(frame.seq, seq);
            prop_assert_eq!(frame.place, Place { group, left });
            prop_assert!(frame.follows(&previous));
            let back = frame.record().unwrap().draft;
            prop_assert_eq!(serde_json::to_string(&back).unwrap(), serde_json::to_string(&event).unwrap());
        }

        #[test]
        fn a_changed_byte_or_a_cut_is_seen(seed in 0_u64..1000, at in any::<prop::sample::Index>(), flip in 1_u8..=255) {
            let bytes = encoded(seed, Place::default(), &GENESIS, &draft(seed));
            let at = at.index(bytes.len());
            let mut damaged = bytes.clone();
            damaged[at] ^= flip;
            prop_assert!(parse(&damaged).is_err());
            prop_assert!(parse(&bytes[..at]).is_err());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse(&bytes);
            let mut with_magic = MAGIC.to_vec();
            with_magic.extend_from_slice(&bytes);
            prop_assert!(parse(&with_magic).is_err());
        }
    }
}
