//! Proof that the journal is what was written: every hash recomputed, every number in place.
//! Called by `journal verify`, by tests, and after a restore; repairs nothing.

use std::path::Path;

use crate::log::frame::Frame;
use crate::log::mirror;
use crate::log::{Head, LogError, LogReader};
use crate::record::Seq;

/// What a check of the chain found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainReport {
    /// Whether everything fits.
    pub ok: bool,
    /// How many events were checked.
    pub checked: u64,
    /// The first event that does not fit.
    pub first_bad_seq: Option<Seq>,
    /// What does not fit, or could not be checked; empty when all is well.
    pub detail: String,
}

impl ChainReport {
    /// All `checked` events fit.
    pub fn sound(checked: u64) -> Self {
        Self {
            ok: true,
            checked,
            first_bad_seq: None,
            detail: String::new(),
        }
    }

    /// The event `seq` does not fit; `checked` before it did.
    pub fn broken(checked: u64, seq: Seq, detail: impl Into<String>) -> Self {
        Self {
            ok: false,
            checked,
            first_bad_seq: Some(seq),
            detail: detail.into(),
        }
    }
}

/// Recomputes every hash of a running log and compares the mirror with the index.
///
/// # Errors
/// `Io` when something cannot be read.
pub fn verify_chain(reader: &dyn LogReader) -> Result<ChainReport, LogError> {
    reader.verify()
}

/// Recomputes every hash of the mirror in the journal's directory `dir`, without opening or changing anything.
///
/// # Errors
/// `Io` when something cannot be read.
pub fn verify_dir(dir: &Path) -> Result<ChainReport, LogError> {
    match mirror::check_dir(&dir.join("mirror")) {
        Ok(head) => Ok(ChainReport::sound(head.seq)),
        Err(LogError::Corrupt { file, seq, detail }) => {
            let detail = format!("`{}`: {detail}", file.display());
            Ok(ChainReport::broken(seq.saturating_sub(1), seq, detail))
        }
        Err(error) => Err(error),
    }
}

/// Why `frame` is not the successor of `head`, or the head after it.
pub(crate) fn advance(head: Head, frame: &Frame<'_>) -> Result<Head, String> {
    if frame.seq != head.seq + 1 {
        return Err(format!("event {} follows event {}", frame.seq, head.seq));
    }
    if !frame.follows(&head.hash) {
        return Err(format!("the hash of event {} does not fit", frame.seq));
    }
    Ok(Head {
        seq: frame.seq,
        hash: frame.hash,
    })
}
