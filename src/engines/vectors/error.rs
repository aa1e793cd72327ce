//! What a vector engine refuses or fails at, and of what kind that is.
//! Engines return it, the indexing worker and search pass it on; it names keys and files of an
//! index. Only the reason of `Io` and `Engine`, which are for the log, may name a path.

use lakehouse_journal::model::ErrorKind;

/// What a vector engine refuses or fails at.
#[derive(Debug, thiserror::Error)]
pub enum VectorError {
    /// A setting is out of range.
    #[error("index configuration: {reason}")]
    Config {
        /// Which, and what it may be.
        reason: String,
    },
    /// Keys, texts and vectors differ in rows.
    #[error(
        "{rows} keys, {texts} texts and {numbers} numbers do not make rows of {dimensions} dimensions"
    )]
    Shape {
        /// Keys.
        rows: usize,
        /// Texts.
        texts: usize,
        /// Numbers in all vectors.
        numbers: usize,
        /// Numbers a vector must have.
        dimensions: usize,
    },
    /// A vector is too long or too short.
    #[error("vector{} has {found} dimensions, the index has {expected}", of_key(.key.as_ref()))]
    Dimensions {
        /// The row, when it is one.
        key: Option<String>,
        /// Of the index.
        expected: usize,
        /// Of the vector.
        found: usize,
    },
    /// A NaN or an infinity.
    #[error("vector{} holds a number that is not finite at position {position}", of_key(.key.as_ref()))]
    NotFinite {
        /// The row, when it is one.
        key: Option<String>,
        /// From 0.
        position: usize,
    },
    /// No direction to compare.
    #[error("vector{} is all zeros, which has no cosine", of_key(.key.as_ref()))]
    Zero {
        /// The row, when it is one.
        key: Option<String>,
    },
    /// The same key in one build twice.
    #[error("key `{key}` occurs twice")]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// More rows than an index holds.
    #[error("an index holds at most {max} rows")]
    TooMany {
        /// The limit.
        max: u64,
    },
    /// The build was stopped from outside.
    #[error("the build was cancelled")]
    Cancelled,
    /// A file of the generation is missing or does not have the content that was promised.
    #[error("index file `{name}` {reason}")]
    Corrupt {
        /// The file.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Reading or writing failed.
    #[error("index file `{name}`: {source}")]
    Io {
        /// The file.
        name: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The engine underneath failed.
    #[error("{engine}: {reason}")]
    Engine {
        /// `usearch` or `lance`.
        engine: &'static str,
        /// What it said.
        reason: String,
    },
}

fn of_key(key: Option<&String>) -> String {
    key.map_or_else(String::new, |key| format!(" of key `{key}`"))
}

impl VectorError {
    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Config { .. }
            | Self::Shape { .. }
            | Self::Dimensions { .. }
            | Self::NotFinite { .. }
            | Self::Zero { .. }
            | Self::TooMany { .. } => ErrorKind::Invalid,
            Self::DuplicateKey { .. } | Self::Cancelled => ErrorKind::Conflict,
            Self::Corrupt { .. } => ErrorKind::Corrupt,
            Self::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                ErrorKind::NotFound
            }
            Self::Io { .. } => ErrorKind::Unavailable,
            Self::Engine { .. } => ErrorKind::Internal,
        }
    }

    /// The same, said of a row.
    pub(super) fn at(self, row: &str) -> Self {
        match self {
            Self::NotFinite { position, .. } => Self::NotFinite {
                key: Some(row.to_owned()),
                position,
            },
            Self::Zero { .. } => Self::Zero {
                key: Some(row.to_owned()),
            },
            Self::Dimensions {
                expected, found, ..
            } => Self::Dimensions {
                key: Some(row.to_owned()),
                expected,
                found,
            },
            other => other,
        }
    }

    /// For `map_err` on a read or a write of `name`.
    pub(crate) fn io(name: &str) -> impl FnOnce(std::io::Error) -> Self {
        let name = name.to_owned();
        move |source| Self::Io { name, source }
    }

    pub(crate) fn corrupt(name: &str, reason: impl Into<String>) -> Self {
        Self::Corrupt {
            name: name.to_owned(),
            reason: reason.into(),
        }
    }
}
