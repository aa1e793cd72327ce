//! What a store's error means: whether the bucket itself failed, and what may be said of it. An
//! error's own text may hold addresses, paths and parts of a request, so it goes nowhere.

use std::error::Error as StdError;

use object_store::{Error, client::HttpError, client::HttpErrorKind};

use super::BucketError;

/// That a bucket counts as down: nothing was tried.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the bucket counts as down")]
pub struct CountsAsDown;

/// That a bucket did not answer in time.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the bucket did not answer in time")]
pub struct NoAnswerInTime;

impl From<CountsAsDown> for Error {
    fn from(source: CountsAsDown) -> Self {
        Self::Generic {
            store: "bucket",
            source: Box::new(source),
        }
    }
}

impl From<NoAnswerInTime> for Error {
    fn from(source: NoAnswerInTime) -> Self {
        Self::Generic {
            store: "bucket",
            source: Box::new(source),
        }
    }
}

/// Looks for `T` along the chain of causes.
fn cause<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(current) = next {
        if let Some(found) = current.downcast_ref::<T>() {
            return Some(found);
        }
        next = current.source();
    }
    None
}

/// What a store of our own refuses, inside of the error that it travels in.
pub fn own(error: &Error) -> Option<&BucketError> {
    cause::<BucketError>(error)
}

/// Whether the bucket failed, and not the one who asked.
pub fn is_the_buckets(error: &Error) -> bool {
    match error {
        Error::NotFound { .. }
        | Error::AlreadyExists { .. }
        | Error::Precondition { .. }
        | Error::NotModified { .. }
        | Error::NotSupported { .. }
        | Error::NotImplemented { .. }
        | Error::InvalidPath { .. } => false,
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => true,
        other => !matches!(
            cause::<BucketError>(other),
            Some(BucketError::BadKey { .. } | BucketError::Taken | BucketError::Empty)
        ),
    }
}

/// The error in a few words that anybody may read.
pub fn words(error: &Error) -> &'static str {
    match error {
        Error::NotFound { .. } => "not found",
        Error::AlreadyExists { .. } => "another object has the key",
        Error::Precondition { .. } | Error::NotModified { .. } => "changed meanwhile",
        Error::NotSupported { .. } | Error::NotImplemented { .. } => "not supported",
        Error::InvalidPath { .. } => "the key is not allowed",
        Error::PermissionDenied { .. } => "permission denied",
        Error::Unauthenticated { .. } => "the credentials are refused",
        other => words_of_cause(other),
    }
}

fn words_of_cause(error: &Error) -> &'static str {
    if cause::<CountsAsDown>(error).is_some() {
        return "counts as down";
    }
    if cause::<NoAnswerInTime>(error).is_some() {
        return "no answer in time";
    }
    if let Some(http) = cause::<HttpError>(error) {
        return match http.kind() {
            HttpErrorKind::Connect => "no connection",
            HttpErrorKind::Timeout => "no answer in time",
            HttpErrorKind::Interrupted | HttpErrorKind::Request => "the connection broke",
            HttpErrorKind::Decode => "the answer makes no sense",
            _ => "the request failed",
        };
    }
    if let Some(io) = cause::<std::io::Error>(error) {
        return words_of_io(io);
    }
    // The crate does not let its status be asked for; its own words come first in the text.
    let text = error.to_string();
    if text.contains("Server returned") || text.contains("Server error") {
        return "the server answers with an error";
    }
    "failed"
}

fn words_of_io(error: &std::io::Error) -> &'static str {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => "its directory is not there",
        ErrorKind::PermissionDenied => "permission denied",
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "no space left",
        ErrorKind::ReadOnlyFilesystem => "read-only",
        ErrorKind::TimedOut => "no answer in time",
        ErrorKind::UnexpectedEof => "the object is shorter than it was",
        _ => "the file system failed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_for_what_is_not_allowed_brings_no_bucket_down() {
        let bad = Error::from(BucketError::BadKey { reason: "x" });
        assert!(!is_the_buckets(&bad));
        assert!(is_the_buckets(&Error::from(CountsAsDown)));
        let io = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let full = Error::from(BucketError::Io(io));
        assert!(is_the_buckets(&full));
        assert_eq!(words(&full), "no space left");
    }
}
