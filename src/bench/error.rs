//! Why a benchmark has no figures to show.
//! Every runner returns it; the command line prints it and ends with status 1.

use std::{
    io,
    path::{Path, PathBuf},
};

use arrow::error::ArrowError;
use datafusion::common::DataFusionError;
use lakehouse_actors::RebuildError;
use lakehouse_journal::log::LogError;

use super::tpch::AnswerDiffers;
use crate::{cli::client::ClientError, engines::vectors::VectorError};

/// Why a benchmark broke off.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A file or directory of the benchmark cannot be read or written.
    #[error("`{path}`: {source}")]
    File {
        /// The file or directory.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// Standard output is closed, or the system gives no thread.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The child daemon does not start.
    #[error("the daemon does not start: {0}")]
    Daemon(String),
    /// The child daemon refused a request.
    #[error("{doing}: {source}")]
    Refused {
        /// What was asked for.
        doing: String,
        /// What it said.
        source: ClientError,
    },
    /// The journal failed.
    #[error("the journal: {0}")]
    Log(#[from] LogError),
    /// The journal could not be replayed.
    #[error("the replay: {0}")]
    Replay(#[from] RebuildError),
    /// The baseline failed.
    #[error("plain DataFusion: {0}")]
    Plain(#[from] DataFusionError),
    /// A vector engine failed.
    #[error("the index: {0}")]
    Vectors(#[from] VectorError),
    /// An answer cannot be read.
    #[error("the answer: {0}")]
    Arrow(#[from] ArrowError),
    /// A query's answer is not the published one.
    #[error("{side}: {source}")]
    Answer {
        /// Who answered.
        side: &'static str,
        /// How it differs.
        source: AnswerDiffers,
    },
    /// What was measured did not do what it was measured for: there is no figure for it.
    #[error("{doing}: {found}")]
    Wrong {
        /// What was measured.
        doing: String,
        /// What it did instead.
        found: String,
    },
}

impl BenchError {
    pub(super) fn file(path: &Path, source: io::Error) -> Self {
        Self::File {
            path: path.to_owned(),
            source,
        }
    }

    pub(super) fn wrong(doing: impl Into<String>, found: impl Into<String>) -> Self {
        Self::Wrong {
            doing: doing.into(),
            found: found.into(),
        }
    }
}

/// Says what was asked for when a request was refused.
pub(super) trait Doing<T> {
    fn doing(self, doing: &str) -> Result<T, BenchError>;
}

impl<T> Doing<T> for Result<T, ClientError> {
    fn doing(self, doing: &str) -> Result<T, BenchError> {
        self.map_err(|source| BenchError::Refused {
            doing: doing.to_owned(),
            source,
        })
    }
}
