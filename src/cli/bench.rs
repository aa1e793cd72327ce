//! `lakehouse bench`: measurements against a baseline in the same run, one name each.
//! Which ones there are stands in `What`; each reads its own options.

use std::{io::Write as _, path::PathBuf};

use clap::{Args, ValueEnum};
use serde_json::Value;

use super::CliError;
use crate::bench::{access, deletes, ingest, journal, postgres, refresh, search, sql};

/// What `bench` takes.
#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    /// What to measure
    #[arg(value_enum)]
    what: What,
    /// Write the figures there as JSON, too
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Options of the benchmark itself
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "OPTIONS"
    )]
    options: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// Durable events a second beside raw group commit
    Journal,
    /// TPC-H beside plain `DataFusion` on the same files
    Sql,
    /// Files to Parquet beside plain `DataFusion`
    Ingest,
    #[cfg(feature = "lance")]
    /// Vector indexes beside the raw libraries: recall, latency and the cells of ADR-019
    Vectors,
    /// Deleting rows, and queries over what is left beside clean ones
    Deletes,
    /// Rows out of `PostgreSQL`
    Postgres,
    /// Texts a second of the embedders in the process
    Refresh,
    /// Searches of an agent through a view beside the same filter
    Search,
    /// Whether the time of a look-up tells secrets apart, and how soon a revoked token ends
    Access,
}

impl BenchArgs {
    pub(super) fn run(self) -> Result<(), CliError> {
        let figures = self.what.run(&self.options).map_err(CliError::Daemon)?;
        if let Some(out) = &self.out {
            std::fs::write(out, format!("{figures:#}\n"))
                .map_err(|e| CliError::Failed(format!("`{}`: {e}", out.display())))?;
            writeln!(std::io::stdout().lock(), "Written to {}.", out.display())?;
        }
        Ok(())
    }
}

impl What {
    /// Runs it with its own options, prints its table, and returns what goes into the JSON.
    fn run(self, options: &[String]) -> anyhow::Result<Value> {
        let run = match self {
            Self::Journal => journal::run,
            Self::Sql => sql::run,
            Self::Ingest => ingest::run,
            #[cfg(feature = "lance")]
            Self::Vectors => crate::bench::vectors::run,
            Self::Deletes => deletes::run,
            Self::Postgres => postgres::run,
            Self::Refresh => refresh::run,
            Self::Search => search::run,
            Self::Access => access::run,
        };
        Ok(run(options)?)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: BenchArgs,
    }

    #[test]
    fn what_follows_the_name_is_the_benchmarks_own() {
        let line = ["bench", "sql", "--out", "f", "--scale", "1", "--help"];
        let args = Line::parse_from(line).args;
        assert_eq!(args.what, What::Sql);
        assert_eq!(args.out, Some(PathBuf::from("f")));
        assert_eq!(args.options, ["--scale", "1", "--help"]);
    }
}
