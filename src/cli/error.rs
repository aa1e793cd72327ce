//! Why a verb failed, and the exit status that says so.
//! Every verb returns it; `cli::main` prints it once as `error: …`.

use std::io;

use super::client::ClientError;
use crate::{
    config::ConfigError,
    demo::DemoError,
    exit::{ERROR, Exit, USAGE},
};

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The arguments do not fit together.
    #[error("{0}")]
    Usage(String),
    /// The configuration is not valid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The daemon refused, or is not there.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The daemon of this process ended with an error.
    #[error("{0:#}")]
    Daemon(anyhow::Error),
    /// A step of the demo failed.
    #[error(transparent)]
    Demo(#[from] DemoError),
    /// Standard output is closed or full.
    #[error("standard output: {0}")]
    Output(#[from] io::Error),
    /// What was asked could not be done.
    #[error("{0}")]
    Failed(String),
}

impl CliError {
    /// The status that the process ends with.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Config(_) => USAGE,
            Self::Daemon(error) => Exit::code_of(error.as_ref()),
            Self::Client(_) | Self::Demo(_) | Self::Output(_) | Self::Failed(_) => ERROR,
        }
    }

    /// Whether nobody reads the output any more, as in `lakehouse sql … | head`: not an error.
    pub fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Output(e) if e.kind() == io::ErrorKind::BrokenPipe)
    }
}
