//! `lakehouse demo`: the main job on real data, narrated.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;

use super::CliError;
use crate::demo::{self, Options, data::DEFAULT_ROWS};

/// What `demo` takes.
#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// Where the demo's daemon keeps its data
    #[arg(long, value_name = "DIR", default_value = "lakehouse-demo")]
    data_dir: PathBuf,
    /// The address of the demo's daemon; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:3100")]
    listen: SocketAddr,
    /// Rows of the seven staffing tables together
    #[arg(long, default_value_t = DEFAULT_ROWS, value_parser = clap::value_parser!(u64).range(1_000..))]
    rows: u64,
    /// Stop the daemon at the end instead of staying up
    #[arg(long)]
    exit: bool,
    /// Remove what an earlier demo left in the data directory and begin again
    #[arg(long)]
    fresh: bool,
}

impl DemoArgs {
    pub(super) async fn run(self) -> Result<(), CliError> {
        let options = Options {
            data_dir: self.data_dir,
            listen: self.listen,
            rows: self.rows,
            exit: self.exit,
            fresh: self.fresh,
        };
        Ok(demo::run(options).await?)
    }
}
