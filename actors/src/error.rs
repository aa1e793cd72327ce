//! Why an actor could not do what it was asked. The edge turns it into a status; the kinds are
//! those of the journal crate, so that every ring speaks of failure in the same words.

use lakehouse_journal::{
    log::LogError,
    model::{ErrorKind, ModelError},
};

/// A failure of something behind a port: an engine, a bucket, an embedder.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct PortError {
    /// The kind, for status codes and retries.
    pub kind: ErrorKind,
    /// The stable word for programs.
    pub code: String,
    /// What happened, without paths, secrets or row content.
    pub message: String,
}

impl PortError {
    /// An error of this kind, word and text.
    pub fn new(kind: ErrorKind, code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            kind,
            code: code.into(),
            message: message.into(),
        }
    }

    /// A defect of ours; the message goes to the log, not to the caller.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, "internal", message)
    }
}

impl LakeError {
    /// Whether nothing has come of the request for certain, and never will.
    pub fn is_definite(&self) -> bool {
        // A port fails before the owner is asked.
        matches!(
            self,
            Self::Refused(_) | Self::Port(_) | Self::JournalUnavailable
        )
    }
}

/// Why a request to the lake failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LakeError {
    /// The owner refuses it; nothing has changed.
    #[error(transparent)]
    Refused(#[from] ModelError),
    /// An engine could not do its part; nothing has changed.
    #[error(transparent)]
    Port(#[from] PortError),
    /// The owner's mailbox is full.
    #[error("`{actor}` has too much to do")]
    Overloaded {
        /// Whose mailbox.
        actor: String,
    },
    /// The owner is restarting or has failed for good; nothing was accepted.
    #[error("`{actor}` does not answer")]
    Unavailable {
        /// Which actor.
        actor: String,
    },
    /// The journal could not make it durable; nothing has changed.
    #[error("the journal takes no writes at the moment")]
    JournalUnavailable,
    /// It may have happened or not: the journal decides when it is open again.
    #[error("the outcome is not known; ask again with the same Idempotency-Key")]
    Unknown,
    /// No answer in time; it may still happen.
    #[error("no answer within {seconds} s")]
    Timeout {
        /// The deadline.
        seconds: u64,
    },
    /// The key was used for another request.
    #[error("Idempotency-Key `{key}` was used for another request")]
    KeyReused {
        /// The key.
        key: String,
    },
}

impl LakeError {
    /// The kind, for status codes and retries.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Refused(error) => error.kind(),
            Self::Port(error) => error.kind,
            Self::Overloaded { .. } => ErrorKind::Overloaded,
            Self::Unavailable { .. } | Self::JournalUnavailable | Self::Unknown => {
                ErrorKind::Unavailable
            }
            Self::Timeout { .. } => ErrorKind::Timeout,
            Self::KeyReused { .. } => ErrorKind::Conflict,
        }
    }

    /// The stable word for programs.
    pub fn code(&self) -> String {
        match self {
            Self::Refused(error) => error.code(),
            Self::Port(error) => error.code.clone(),
            Self::Overloaded { .. } => "overloaded".to_owned(),
            Self::Unavailable { .. } => "actor_unavailable".to_owned(),
            Self::JournalUnavailable => "journal_unavailable".to_owned(),
            Self::Unknown => "outcome_unknown".to_owned(),
            Self::Timeout { .. } => "timeout".to_owned(),
            Self::KeyReused { .. } => "idempotency_key_reused".to_owned(),
        }
    }

    /// What a failed append means for the request that it carried.
    pub(crate) fn of_log(error: &LogError) -> Self {
        match error {
            LogError::Unknown { .. } => Self::Unknown,
            LogError::TooLarge { .. } => Self::Port(PortError::new(
                ErrorKind::TooLarge,
                "event_too_large",
                error.to_string(),
            )),
            _ => Self::JournalUnavailable,
        }
    }
}
