//! Why a query fails, in words that a caller may read: no path, no plan, no internals.
//! Everything in `query` returns this; the edge maps `kind` to a status and `code` to a stable word.

use std::{error::Error, time::Duration};

use arrow::error::ArrowError;
use datafusion::{common::SchemaError, error::DataFusionError, parquet::errors::ParquetError};
use lakehouse_journal::model::ErrorKind;

/// Why a query fails.
#[derive(Debug, Clone, thiserror::Error)]
pub enum QueryError {
    /// It does not parse, or does not make sense against the tables.
    #[error("{0}")]
    Invalid(String),
    /// A parameter that is missing or cannot be bound.
    #[error("{0}")]
    BadParameter(String),
    /// No such dataset, or none that the caller may know of.
    #[error("no dataset `{name}`{}", near_text(.near))]
    DatasetNotFound {
        /// The name asked for.
        name: String,
        /// Names like it that the caller may read.
        near: Vec<String>,
    },
    /// No such column.
    #[error("{0}")]
    ColumnNotFound(String),
    /// Something other than one plain query.
    #[error("only queries are allowed: {0}")]
    NotAllowed(String),
    /// A view whose definition no longer fits its dataset, or that failed beneath its barrier.
    #[error("view `{0}` cannot be read as it is defined")]
    ViewBroken(String),
    /// Single rows of a table that tells of groups only.
    #[error(
        "only counts, sums, averages and deviations over at least {0} rows are told, of plain columns"
    )]
    GroupsOnly(u64),
    /// What an agent is told: fixed words, whatever the cause.
    #[error("{text}")]
    Fixed {
        /// The kind.
        kind: ErrorKind,
        /// The stable word.
        code: &'static str,
        /// The words.
        text: &'static str,
    },
    /// Longer, deeper or wider than is planned safely.
    #[error("the statement is too complex: {what} {found}, at most {limit} allowed")]
    TooComplex {
        /// What there is too much of.
        what: &'static str,
        /// How much.
        found: usize,
        /// How much may be.
        limit: usize,
    },
    /// The deadline passed.
    #[error("the query took longer than {} s", .0.as_secs_f64())]
    Timeout(Duration),
    /// It needs more memory, or more room to spill, than queries have.
    #[error("the query needs more memory than queries may use; narrow it, or aggregate earlier")]
    Memory,
    /// A row made it fail: a division by zero, a cast of something that is none.
    #[error("{0}")]
    Execution(String),
    /// A bucket does not give the bytes.
    #[error("{place} does not answer or lacks a file of the dataset")]
    Unavailable {
        /// Which bucket, as far as is known.
        place: String,
    },
    /// A bucket answers and has no such file; told like a bucket that does not answer.
    #[error("{place} does not answer or lacks a file of the dataset")]
    Missing {
        /// Which bucket, as far as is known.
        place: String,
    },
    /// Stored bytes are not what was written.
    #[error("a file of the dataset in {place} is damaged")]
    Corrupt {
        /// Which bucket, as far as is known.
        place: String,
    },
    /// The query was given up.
    #[error("the query was cancelled")]
    Cancelled,
    /// It read a snapshot of which rows were erased, and was ended or missed a file.
    #[error("the query read rows that were erased meanwhile; ask again")]
    SnapshotExpired,
    /// More rows than the caller may read at once.
    #[error("the answer has more than the {0} rows that this token may read at once")]
    TooManyRows(u64),
    /// The audit does not take what is to be answered.
    #[error("the audit cannot be written, so that nothing can be answered")]
    Unaudited,
    /// A defect of ours; the cause is for the log only.
    #[error("the query failed inside the engine")]
    Internal(String),
}

impl QueryError {
    /// The kind, for status codes and retries.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Invalid(_) | Self::BadParameter(_) | Self::TooComplex { .. } => {
                ErrorKind::Invalid
            }
            Self::DatasetNotFound { .. } => ErrorKind::NotFound,
            Self::ColumnNotFound(_) => ErrorKind::Invalid,
            Self::NotAllowed(_)
            | Self::Memory
            | Self::Execution(_)
            | Self::TooManyRows(_)
            | Self::ViewBroken(_)
            | Self::GroupsOnly(_) => ErrorKind::Unprocessable,
            Self::Fixed { kind, .. } => *kind,
            Self::Timeout(_) => ErrorKind::Timeout,
            Self::Unavailable { .. }
            | Self::Missing { .. }
            | Self::Cancelled
            | Self::Unaudited
            | Self::SnapshotExpired => ErrorKind::Unavailable,
            Self::Corrupt { .. } => ErrorKind::Corrupt,
            Self::Internal(_) => ErrorKind::Internal,
        }
    }

    /// The stable word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "invalid_sql",
            Self::BadParameter(_) => "invalid_parameter",
            Self::DatasetNotFound { .. } => "dataset_not_found",
            Self::ColumnNotFound(_) => "column_not_found",
            Self::NotAllowed(_) => "statement_not_allowed",
            Self::ViewBroken(_) => "view_broken",
            Self::GroupsOnly(_) => "groups_only",
            Self::Fixed { code, .. } => code,
            Self::TooComplex { .. } => "statement_too_complex",
            Self::Timeout(_) => "query_timeout",
            Self::Memory => "memory_limit",
            Self::Execution(_) => "execution_failed",
            Self::Unavailable { .. } | Self::Missing { .. } => "bucket_unavailable",
            Self::Corrupt { .. } => "file_corrupt",
            Self::Cancelled => "query_cancelled",
            Self::SnapshotExpired => "snapshot_expired",
            Self::TooManyRows(_) => "row_limit",
            Self::Unaudited => "audit_unavailable",
            Self::Internal(_) => "internal",
        }
    }

    /// The same in words that depend on the kind of error only: no name, value, type or number of the
    /// statement or of what it read is in them.
    #[must_use]
    pub fn in_fixed_words(self) -> Self {
        let text = match &self {
            Self::Invalid(_) => "the statement does not parse, or does not fit the views",
            Self::BadParameter(_) => "the parameters do not fit the statement",
            Self::DatasetNotFound { .. } => "no view of that name, or none that you may read",
            Self::ColumnNotFound(_) => "a view has no column of that name",
            Self::NotAllowed(_) => "only plain queries over views are allowed",
            Self::TooComplex { .. } => "the statement is too complex",
            Self::Timeout(_) => "the query took too long",
            Self::Memory => "the query needs more memory than queries may use",
            Self::Execution(_) => "the data does not allow the query",
            Self::ViewBroken(_) => "a view cannot be read as it is defined",
            Self::GroupsOnly(_) => "a view tells of groups of rows only",
            Self::Unavailable { .. } | Self::Missing { .. } => "a bucket does not answer",
            Self::Corrupt { .. } => "a file is damaged",
            Self::Cancelled => "the query was cancelled",
            Self::SnapshotExpired => "the query read rows that were erased meanwhile; ask again",
            Self::Internal(cause) => {
                tracing::error!(%cause, "a query failed inside the engine");
                "the query failed inside the engine"
            }
            Self::TooManyRows(_) | Self::Unaudited | Self::Fixed { .. } => return self,
        };
        Self::Fixed {
            kind: self.kind(),
            code: self.code(),
            text,
        }
    }

    /// Reads an error of the engine. `buckets` are those that the query reads: they name the place
    /// when a file is missing or damaged.
    pub fn from_engine(error: &DataFusionError, buckets: &[String]) -> Self {
        if let Some(own) = find::<Self>(error) {
            return own.clone();
        }
        if let Some(failure) = find::<BucketFailure>(error) {
            let place = format!("bucket `{}`", failure.bucket);
            return match failure.source {
                object_store::Error::NotFound { .. } => Self::Missing { place },
                _ => Self::Unavailable { place },
            };
        }
        match error.find_root() {
            DataFusionError::ObjectStore(_) | DataFusionError::IoError(_) => Self::Unavailable {
                place: place_of(buckets),
            },
            DataFusionError::ParquetError(source) => from_parquet(source, buckets),
            DataFusionError::SQL(source, _) => Self::Invalid(scrub(&source.to_string())),
            DataFusionError::SchemaError(source, _) => match source.as_ref() {
                SchemaError::FieldNotFound { .. } => {
                    Self::ColumnNotFound(first_line(&source.to_string()))
                }
                other => Self::Invalid(first_line(&other.to_string())),
            },
            DataFusionError::Plan(text)
            | DataFusionError::NotImplemented(text)
            | DataFusionError::Configuration(text) => Self::Invalid(first_line(text)),
            DataFusionError::ResourcesExhausted(text) => {
                tracing::info!(detail = %scrub(text), "a query ran out of memory");
                Self::Memory
            }
            DataFusionError::Execution(text) => Self::Execution(first_line(text)),
            DataFusionError::ArrowError(source, _) => from_arrow(source, buckets),
            DataFusionError::ExecutionJoin(source) if source.is_cancelled() => Self::Cancelled,
            // The optimiser reads patterns before anything runs, and hands on what their parser says.
            DataFusionError::External(source)
                if source.to_string().starts_with("regex parse error") =>
            {
                Self::Invalid("the pattern is no regular expression".to_owned())
            }
            other => Self::Internal(other.to_string()),
        }
    }
}

/// A bucket that failed under a query; travels inside the engine's errors.
#[derive(Debug, thiserror::Error)]
#[error("bucket `{bucket}`: {source}")]
pub struct BucketFailure {
    /// The bucket.
    pub bucket: String,
    /// What it said.
    pub source: object_store::Error,
}

/// Looks for `T` along the chain of causes.
fn find<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    let mut cause = Some(error);
    while let Some(current) = cause {
        if let Some(found) = current.downcast_ref::<T>() {
            return Some(found);
        }
        cause = match current.downcast_ref::<DataFusionError>() {
            Some(DataFusionError::External(inner)) => Some(inner.as_ref()),
            Some(DataFusionError::ParquetError(inner)) => Some(inner.as_ref()),
            Some(DataFusionError::ArrowError(inner, _)) => Some(inner.as_ref()),
            Some(DataFusionError::ObjectStore(inner)) => Some(inner.as_ref()),
            Some(DataFusionError::Shared(inner)) => Some(inner.as_ref()),
            Some(DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner)) => {
                Some(inner.as_ref())
            }
            Some(DataFusionError::Collection(all)) => all.first().map(|e| e as _),
            Some(_) | None => match current.downcast_ref::<ParquetError>() {
                Some(ParquetError::External(inner)) => Some(inner.as_ref()),
                Some(_) => None,
                None => match current.downcast_ref::<ArrowError>() {
                    Some(ArrowError::ExternalError(inner)) => Some(inner.as_ref()),
                    _ => current.source(),
                },
            },
        };
    }
    None
}

fn from_parquet(error: &ParquetError, buckets: &[String]) -> QueryError {
    let place = place_of(buckets);
    tracing::warn!(%place, "a Parquet file could not be read");
    match error {
        ParquetError::External(_) => QueryError::Unavailable { place },
        _ => QueryError::Corrupt { place },
    }
}

fn from_arrow(error: &ArrowError, buckets: &[String]) -> QueryError {
    match error {
        ArrowError::ParquetError(_) | ArrowError::IpcError(_) => QueryError::Corrupt {
            place: place_of(buckets),
        },
        ArrowError::IoError(..) => QueryError::Unavailable {
            place: place_of(buckets),
        },
        ArrowError::MemoryError(_) | ArrowError::OffsetOverflowError(_) => QueryError::Memory,
        ArrowError::ExternalError(inner) => inner.downcast_ref::<DataFusionError>().map_or_else(
            || QueryError::Internal(inner.to_string()),
            |inner| QueryError::from_engine(inner, buckets),
        ),
        other => QueryError::Execution(first_line(&other.to_string())),
    }
}

fn place_of(buckets: &[String]) -> String {
    match buckets {
        [] => "a bucket".to_owned(),
        [one] => format!("bucket `{one}`"),
        more => format!("one of the buckets `{}`", more.join("`, `")),
    }
}

/// The first line of a message, without addresses of files.
fn first_line(text: &str) -> String {
    scrub(text.lines().next().unwrap_or_default())
}

/// Takes addresses of files and object keys out of a text.
pub(super) fn scrub(text: &str) -> String {
    if !text.contains("lake:") && !text.contains(".parquet") {
        return text.to_owned();
    }
    let is_end =
        |c: char| c.is_whitespace() || matches!(c, '\'' | '"' | '`' | ',' | ']' | '[' | ')');
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(is_end).unwrap_or(rest.len());
        let (word, tail) = rest.split_at(end);
        if word.contains("lake:") || word.contains(".parquet") {
            clean.push_str("(file)");
        } else {
            clean.push_str(word);
        }
        let next = tail.chars().next().map_or(0, char::len_utf8);
        clean.push_str(&tail[..next]);
        rest = &tail[next..];
    }
    clean
}

fn near_text(near: &[String]) -> String {
    if near.is_empty() {
        String::new()
    } else {
        format!("; near: {}", near.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_files_never_leave_in_a_message() {
        let text = "cannot open 'lake://lake/primary/datasets/x/abc.parquet' at row 3";
        assert_eq!(scrub(text), "cannot open '(file)' at row 3");
    }

    #[test]
    fn an_own_error_survives_the_way_through_the_engine() {
        let own = QueryError::DatasetNotFound {
            name: "x".to_owned(),
            near: vec![],
        };
        let wrapped = DataFusionError::External(Box::new(own)).context("while planning");
        assert_eq!(
            QueryError::from_engine(&wrapped, &[]).code(),
            "dataset_not_found"
        );
    }

    #[test]
    fn a_bucket_that_fails_is_named_without_a_path() {
        let failure = BucketFailure {
            bucket: "cold".to_owned(),
            source: object_store::Error::NotFound {
                path: "/secret/place".to_owned(),
                source: "gone".into(),
            },
        };
        let inner = object_store::Error::Generic {
            store: "lake",
            source: Box::new(failure),
        };
        let parquet = ParquetError::External(Box::new(inner));
        let error = QueryError::from_engine(&DataFusionError::from(parquet), &[]);
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains("`cold`"));
        assert!(!error.to_string().contains("secret"));
    }
}
