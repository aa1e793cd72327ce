//! `lakehouse serve`: configuration, log, and then the daemon.
//! Nothing of the daemon itself is here.

use std::{io::IsTerminal as _, net::SocketAddr, path::PathBuf};

use clap::Args;
use tracing_subscriber::EnvFilter;

use super::CliError;
use crate::{
    config::{Config, LogConfig, LogFormat, Sources},
    daemon,
};

/// Where the configuration comes from, for the verbs that read it.
#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    /// The configuration file; without it, lakehouse.toml in the working directory if it is there
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the daemon keeps its data [default: lakehouse-data]
    #[arg(long, env = "LAKEHOUSE_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// What `serve` takes.
#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The address to listen on; port 0 takes a free one [default: 127.0.0.1:3100]
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
}

impl ConfigArgs {
    pub(super) fn load(self, listen: Option<SocketAddr>) -> Result<Config, CliError> {
        let sources = Sources {
            file: self.config,
            data_dir: self.data_dir,
            listen,
            ..Sources::of_this_process()
        };
        Ok(Config::load(&sources)?)
    }
}

impl ServeArgs {
    pub(super) fn run(self) -> Result<(), CliError> {
        let config = self.config.load(self.listen)?;
        start_log(&config.log)?;
        daemon::run(config).map_err(CliError::Daemon)
    }
}

/// Sends log lines to standard error, so that standard output holds the `listening on` line alone.
pub(super) fn start_log(config: &LogConfig) -> Result<(), CliError> {
    let filter = EnvFilter::try_new(&config.level)
        .map_err(|e| CliError::Failed(format!("log.level: {e}")))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let started = match config.format {
        LogFormat::Text => log.try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
    started.map_err(|e| CliError::Failed(format!("the log cannot be started: {e}")))
}
