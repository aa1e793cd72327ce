//! Buckets as object stores: a directory made durable ([`DurableLocal`]), S3, and the registry of both.
//! The edge, ingest and queries reach bytes through this; nothing here knows what the bytes mean,
//! and nothing here deletes on its own account.

mod broken;
mod circuit;
mod disk;
pub mod failure;
mod files;
mod health;
mod keys;
mod local;
mod multipart;
mod nothing;
mod registry;
mod rescued;
mod s3;
#[cfg(test)]
mod tests;
mod watched;

pub use circuit::{CircuitState, FAILURES_TO_OPEN};
pub use files::fetch;
pub use health::{BucketHealth, HealthView};
pub use keys::check_key;
pub use local::{DurableLocal, PutOutcome};
pub use registry::{Bucket, Buckets, Leftover, Opening, S3Keys};
pub use rescued::{RescueUse, Rescued};

/// Why a bucket could not be opened or did not take a file.
#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    /// No bucket of that name is registered.
    #[error("no bucket `{name}`; there are: {}", .known.join(", "))]
    NotFound {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: Vec<String>,
    },
    /// A key that no object may have.
    #[error("the object key is not allowed: {reason}")]
    BadKey {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Another object of that name and other content is there.
    #[error("an object with that key and other content is already there")]
    Taken,
    /// A staged file without any bytes.
    #[error("the staged file is empty")]
    Empty,
    /// A setting that does not name a store.
    #[error("bucket `{name}`: {reason}")]
    BadSpec {
        /// The bucket.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// The file system refused.
    #[error("the bucket's directory does not answer")]
    Io(#[from] std::io::Error),
}

impl BucketError {
    /// The kind, for status codes and retries.
    pub fn kind(&self) -> lakehouse_journal::model::ErrorKind {
        use lakehouse_journal::model::ErrorKind;
        match self {
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::BadKey { .. } | Self::BadSpec { .. } | Self::Empty => ErrorKind::Invalid,
            Self::Taken => ErrorKind::Conflict,
            Self::Io(_) => ErrorKind::Unavailable,
        }
    }
}

impl From<BucketError> for object_store::Error {
    fn from(error: BucketError) -> Self {
        match error {
            BucketError::Io(source) if source.kind() == std::io::ErrorKind::NotFound => {
                Self::NotFound {
                    path: String::new(),
                    source: source.into(),
                }
            }
            BucketError::Io(source) if source.kind() == std::io::ErrorKind::AlreadyExists => {
                Self::AlreadyExists {
                    path: String::new(),
                    source: source.into(),
                }
            }
            BucketError::Taken => Self::AlreadyExists {
                path: String::new(),
                source: Box::new(BucketError::Taken),
            },
            other => Self::Generic {
                store: "DurableLocal",
                source: Box::new(other),
            },
        }
    }
}
