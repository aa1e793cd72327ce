//! What can go wrong while a byte stream becomes Parquet files, with the place in the input.
//! Every module of the ingest engine returns these; the REST edge maps `kind()` to a status.
//! No message holds row content or a server path.

use std::fmt;

/// The class of an [`IngestError`], from which a caller chooses a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IngestErrorKind {
    /// The input is malformed: the sender has to change it.
    Invalid,
    /// The input is well formed and does not match the schema of the dataset.
    Conflict,
    /// The input is over a limit.
    TooLarge,
    /// The caller cancelled the ingest.
    Cancelled,
    /// The body stopped before its end, or could not be read.
    Disconnected,
    /// This side failed: disk, or a defect.
    Internal,
}

/// How one column differs from the schema that was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ColumnDifference {
    /// The dataset has this column and the input does not.
    Missing {
        /// Name of the column.
        column: String,
        /// Type that the dataset has.
        expected: String,
    },
    /// The input has this column and the dataset does not.
    Extra {
        /// Name of the column.
        column: String,
        /// Type found in the input.
        found: String,
    },
    /// Both have the column, with types that do not fit.
    Type {
        /// Name of the column.
        column: String,
        /// Type that the dataset has.
        expected: String,
        /// Type found in the input.
        found: String,
    },
}

impl fmt::Display for ColumnDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { column, expected } => {
                write!(f, "`{column}` is missing (expected {expected})")
            }
            Self::Extra { column, found } => {
                write!(f, "`{column}` is not expected (found {found})")
            }
            Self::Type {
                column,
                expected,
                found,
            } => write!(f, "`{column}` is {found}, expected {expected}"),
        }
    }
}

fn listed(differences: &[ColumnDifference]) -> String {
    let parts: Vec<String> = differences.iter().map(ToString::to_string).collect();
    parts.join("; ")
}

/// Why an ingest stopped. Lines and columns count from 1; a line is a physical line of the
/// (decompressed) input, a column a character of that line.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// The body holds no byte, or nothing but white space.
    #[error("the body is empty")]
    Empty,
    /// The format was neither named nor recognised.
    #[error(
        "the format of the body was not recognised: name one of csv, ndjson, json, parquet, arrow"
    )]
    UnknownFormat,
    /// The CSV header holds only values, so it seems to be a row.
    #[error("line {line}: the header is missing, the first line holds only values")]
    HeaderMissing {
        /// Line of the header.
        line: u64,
    },
    /// A column of the input has no name.
    #[error("line {line}: column {position} of the header has no name")]
    HeaderUnnamed {
        /// Line of the header.
        line: u64,
        /// Number of the column, from 1.
        position: usize,
    },
    /// Two columns of a CSV header have one name.
    #[error("line {line}: column `{column}` stands twice in the header")]
    HeaderDuplicate {
        /// Line of the header.
        line: u64,
        /// The name that stands twice.
        column: String,
    },
    /// A CSV row has more or fewer fields than the header.
    #[error("line {line}: expected {expected} fields, found {found}")]
    RaggedRow {
        /// Line on which the row starts.
        line: u64,
        /// Fields of the header.
        expected: usize,
        /// Fields of the row.
        found: usize,
    },
    /// Bytes that are not UTF-8.
    #[error("line {line}, column {column}: invalid UTF-8")]
    InvalidUtf8 {
        /// Line of the first bad byte.
        line: u64,
        /// Column of the first bad byte.
        column: u64,
    },
    /// A NUL byte in text.
    #[error("line {line}, column {column}: NUL byte in text")]
    NulByte {
        /// Line of the byte.
        line: u64,
        /// Column of the byte.
        column: u64,
    },
    /// A quoted CSV field that never ends.
    #[error("line {line}: a quote opened here is never closed")]
    UnterminatedQuote {
        /// Line on which the quote opens.
        line: u64,
    },
    /// Text between a closing quote and the next separator.
    #[error("line {line}, column {column}: text after a closing quote")]
    TextAfterQuote {
        /// Line of the text.
        line: u64,
        /// Column of the text.
        column: u64,
    },
    /// JSON that does not parse, or is no object where a row should be.
    #[error("line {line}, column {column}: {reason}")]
    JsonSyntax {
        /// Line of the error.
        line: u64,
        /// Column of the error.
        column: u64,
        /// What was wrong.
        reason: &'static str,
    },
    /// The input defines no column.
    #[error("the body defines no column")]
    NoColumns,
    /// A row is longer than the limit.
    #[error("line {line}: a row is longer than {limit_bytes} bytes")]
    RowTooLong {
        /// Line on which the row starts.
        line: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// More columns than the limit.
    #[error("more than {limit} columns")]
    TooManyColumns {
        /// The limit.
        limit: usize,
    },
    /// The body, as received or decompressed, is larger than the limit.
    #[error("the {what} is larger than {limit_bytes} bytes")]
    TooLarge {
        /// What was too large.
        what: &'static str,
        /// The limit.
        limit_bytes: u64,
    },
    /// A small body that decompresses to a huge one.
    #[error("the body decompresses to more than {ratio} times its size")]
    Bomb {
        /// The limit.
        ratio: u64,
    },
    /// Compressed data that does not decompress.
    #[error("the {codec} stream is corrupt or cut short")]
    Compression {
        /// `gzip` or `zstd`.
        codec: &'static str,
    },
    /// Parquet or Arrow IPC that does not decode, or rows that do not fit.
    #[error("invalid {format}: {reason}")]
    Columnar {
        /// `Parquet`, `Arrow IPC` or `rows`.
        format: &'static str,
        /// What the decoder said.
        reason: String,
    },
    /// A column of a type that a dataset cannot hold.
    #[error("column `{column}` has the unsupported type {found}")]
    UnsupportedType {
        /// Name of the column.
        column: String,
        /// Its type.
        found: String,
    },
    /// Two columns have one name, or one has none (Parquet, Arrow IPC).
    #[error("column name `{column}` is empty or stands twice")]
    ColumnName {
        /// The name.
        column: String,
    },
    /// The columns do not match the expected schema.
    #[error("the columns do not match the dataset: {}", listed(.differences))]
    SchemaMismatch {
        /// One entry a column that differs, in the order of the dataset, extra columns last.
        differences: Vec<ColumnDifference>,
    },
    /// A key column that the input does not have.
    #[error("the key column `{column}` is not among the columns")]
    KeyColumnMissing {
        /// Name of the key column.
        column: String,
    },
    /// A row without a key.
    #[error("{}the key column `{column}` is NULL in row {row}", line_prefix(*.line))]
    NullKey {
        /// Name of the key column.
        column: String,
        /// Number of the row, from 1.
        row: u64,
        /// Line of the row, for text formats.
        line: Option<u64>,
    },
    /// The caller set the cancel flag.
    #[error("the ingest was cancelled")]
    Cancelled,
    /// The body could not be read to its end.
    #[error("the body ended early or could not be read")]
    Disconnected(#[source] std::io::Error),
    /// The staging directory could not be written or read.
    #[error("the staging directory failed")]
    Staging(#[source] std::io::Error),
    /// The Parquet writer failed on valid rows.
    #[error("the Parquet writer failed")]
    Write(#[source] parquet::errors::ParquetError),
    /// A defect of this engine.
    #[error("internal: {0}")]
    Internal(String),
}

fn line_prefix(line: Option<u64>) -> String {
    line.map(|line| format!("line {line}: "))
        .unwrap_or_default()
}

impl IngestError {
    /// The class of this error.
    pub fn kind(&self) -> IngestErrorKind {
        use IngestErrorKind as Kind;
        match self {
            Self::Empty
            | Self::UnknownFormat
            | Self::HeaderMissing { .. }
            | Self::HeaderUnnamed { .. }
            | Self::HeaderDuplicate { .. }
            | Self::RaggedRow { .. }
            | Self::InvalidUtf8 { .. }
            | Self::NulByte { .. }
            | Self::UnterminatedQuote { .. }
            | Self::TextAfterQuote { .. }
            | Self::JsonSyntax { .. }
            | Self::NoColumns
            | Self::Compression { .. }
            | Self::Columnar { .. }
            | Self::UnsupportedType { .. }
            | Self::ColumnName { .. }
            | Self::KeyColumnMissing { .. }
            | Self::NullKey { .. } => Kind::Invalid,
            Self::SchemaMismatch { .. } => Kind::Conflict,
            Self::RowTooLong { .. }
            | Self::TooManyColumns { .. }
            | Self::TooLarge { .. }
            | Self::Bomb { .. } => Kind::TooLarge,
            Self::Cancelled => Kind::Cancelled,
            Self::Disconnected(_) => Kind::Disconnected,
            Self::Staging(_) | Self::Write(_) | Self::Internal(_) => Kind::Internal,
        }
    }

    /// The line (from 1) of the input that is to blame, when there is one.
    pub fn line(&self) -> Option<u64> {
        match self {
            Self::HeaderMissing { line }
            | Self::HeaderUnnamed { line, .. }
            | Self::HeaderDuplicate { line, .. }
            | Self::RaggedRow { line, .. }
            | Self::InvalidUtf8 { line, .. }
            | Self::NulByte { line, .. }
            | Self::UnterminatedQuote { line }
            | Self::TextAfterQuote { line, .. }
            | Self::JsonSyntax { line, .. }
            | Self::RowTooLong { line, .. } => Some(*line),
            Self::NullKey { line, .. } => *line,
            _ => None,
        }
    }

    /// Moves a place that was relative to a block to where the block starts in the input.
    /// `lines` are the lines before the block, `columns` the characters before it on its line.
    pub(super) fn shifted(mut self, lines: u64, columns: u64) -> Self {
        match &mut self {
            Self::InvalidUtf8 { line, column }
            | Self::NulByte { line, column }
            | Self::TextAfterQuote { line, column }
            | Self::JsonSyntax { line, column, .. } => {
                if *line == 1 {
                    *column += columns;
                }
                *line += lines;
            }
            Self::RaggedRow { line, .. }
            | Self::UnterminatedQuote { line }
            | Self::RowTooLong { line, .. }
            | Self::NullKey {
                line: Some(line), ..
            } => *line += lines,
            _ => {}
        }
        self
    }
}

/// A source error carried through `std::io::Read` and found again on the other side.
pub(super) fn from_read(error: std::io::Error) -> IngestError {
    if error
        .get_ref()
        .is_some_and(<dyn std::error::Error + Send + Sync>::is::<IngestError>)
    {
        let inner = error.into_inner().expect("get_ref was Some just above");
        return match inner.downcast::<IngestError>() {
            Ok(found) => *found,
            Err(other) => IngestError::Internal(other.to_string()),
        };
    }
    IngestError::Disconnected(error)
}

/// Wraps an engine error so that it passes through `std::io::Read`.
pub(super) fn into_read(error: IngestError) -> std::io::Error {
    std::io::Error::other(error)
}
