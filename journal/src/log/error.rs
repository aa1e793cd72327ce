//! What can go wrong with the log, in terms of what a caller may still believe.
//! `Io` means "certainly not committed", `Unknown` means "may turn out committed"; nothing here retries.

use std::path::{Path, PathBuf};

use crate::record::Seq;

pub use crate::model::ErrorKind;

/// Why the log did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// An earlier error makes appends impossible until `reopen` succeeds; nothing was written.
    #[error("the journal is poisoned: {reason}")]
    Poisoned {
        /// The error that poisoned it.
        reason: String,
    },
    /// The records may or may not be durable; `reopen` or the next start decides.
    #[error("outcome of events {first} to {last} is unknown: {reason}")]
    Unknown {
        /// First sequence number concerned.
        first: Seq,
        /// Last sequence number concerned.
        last: Seq,
        /// What failed.
        reason: String,
    },
    /// A file operation failed; nothing of the request is committed.
    #[error("{op} of `{path}` failed: {reason}")]
    Io {
        /// The operation.
        op: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The operating system's text.
        reason: String,
    },
    /// Stored bytes are damaged in a way that must not be cut away.
    #[error("`{file}` is damaged at event {seq}: {detail}")]
    Corrupt {
        /// The file.
        file: PathBuf,
        /// The first event that cannot be trusted.
        seq: Seq,
        /// What does not fit.
        detail: String,
    },
    /// An event or a batch is larger than the log takes.
    #[error("{what} of {size} is above the limit of {max}")]
    TooLarge {
        /// What was measured, with its unit.
        what: &'static str,
        /// Its size.
        size: u64,
        /// The limit.
        max: u64,
    },
    /// The index thread made no progress for too long; the process should exit and start anew.
    #[error("the journal's index made no progress for {seconds} s")]
    Stuck {
        /// For how long.
        seconds: u64,
    },
    /// The log was closed.
    #[error("the journal is closed")]
    Closed,
}

impl LogError {
    /// The kind that decides the HTTP status.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Poisoned { .. } | Self::Unknown { .. } | Self::Io { .. } | Self::Closed => {
                ErrorKind::Unavailable
            }
            Self::Corrupt { .. } => ErrorKind::Corrupt,
            Self::TooLarge { .. } => ErrorKind::TooLarge,
            Self::Stuck { .. } => ErrorKind::Timeout,
        }
    }

    /// An `Io` for `op` on `path`.
    pub(crate) fn io(op: &'static str, path: &Path, error: &std::io::Error) -> Self {
        Self::Io {
            op,
            path: path.to_path_buf(),
            reason: error.to_string(),
        }
    }

    /// A `Corrupt` at `seq` of `file`.
    pub(crate) fn corrupt(file: &Path, seq: Seq, detail: impl Into<String>) -> Self {
        Self::Corrupt {
            file: file.to_path_buf(),
            seq,
            detail: detail.into(),
        }
    }
}
