//! `lakehouse bench`: measurements against a baseline in the same run, one name each.
//! Which ones this version has stands in `RUNNERS`; each reads its own options.

use std::{io::Write as _, path::PathBuf};

use clap::{Args, ValueEnum};
use serde_json::Value;

use super::CliError;
use crate::bench::{deletes, ingest, journal, postgres, refresh, sql};

/// Runs one benchmark with its own options, prints its table, and returns what goes into the JSON.
type Runner = fn(&[String]) -> anyhow::Result<Value>;

/// The benchmarks of this version.
const RUNNERS: &[(What, Runner)] = &[
    (What::Journal, |options| Ok(journal::run(options)?)),
    (What::Sql, |options| Ok(sql::run(options)?)),
    (What::Ingest, |options| Ok(ingest::run(options)?)),
    (What::Deletes, |options| Ok(deletes::run(options)?)),
    (What::Postgres, |options| Ok(postgres::run(options)?)),
    (What::Refresh, |options| Ok(refresh::run(options)?)),
];

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
    /// Recall and latency of vector indexes
    Vectors,
    /// Deleting rows, and queries over what is left beside clean ones
    Deletes,
    /// Rows out of `PostgreSQL`
    Postgres,
    /// Texts a second of the default embedder
    Refresh,
}

impl BenchArgs {
    pub(super) fn run(self) -> Result<(), CliError> {
        let Some((_, runner)) = RUNNERS.iter().find(|(what, _)| *what == self.what) else {
            return Err(CliError::Usage(self.what.not_here()));
        };
        let figures = runner(&self.options).map_err(CliError::Daemon)?;
        if let Some(out) = &self.out {
            std::fs::write(out, format!("{figures:#}\n"))
                .map_err(|e| CliError::Failed(format!("`{}`: {e}", out.display())))?;
            writeln!(std::io::stdout().lock(), "Written to {}.", out.display())?;
        }
        Ok(())
    }
}

impl What {
    fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }

    fn not_here(self) -> String {
        let name = self.name();
        let known: Vec<String> = RUNNERS.iter().map(|(what, _)| what.name()).collect();
        let known = if known.is_empty() {
            "none".to_owned()
        } else {
            known.join(", ")
        };
        format!("this version of lakehouse has no benchmark `{name}`; it has: {known}")
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

    #[test]
    fn a_benchmark_that_is_not_here_is_a_usage_error_that_names_it() {
        let absent = What::Vectors;
        let args = BenchArgs {
            what: absent,
            out: None,
            options: Vec::new(),
        };
        let error = args.run().expect_err("it comes with a later version");
        assert_eq!(error.exit_code(), 2);
        assert!(
            error.to_string().contains("no benchmark `vectors`"),
            "{error}"
        );
    }
}
