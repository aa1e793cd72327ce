//! `lakehouse bench postgres`: a table of 13 mixed columns out of a `PostgreSQL` server that it starts
//! itself, through `POST /ingest/db` into Parquet, beside the raw binary COPY of the same table thrown
//! away, which is the limit, and beside peers in Python; a small table; and the daemon's memory for one table and one four times it.

mod memory;
mod peers;
mod source;
mod table;

use std::path::PathBuf;

use clap::Parser;
use serde_json::{Value, json};

use super::{BenchError, make_dir, options, report::Report, scratch};
use peers::Peers;
use source::Source;

/// Measures rows out of `PostgreSQL`.
#[derive(Debug, Parser)]
#[command(bin_name = "lakehouse bench postgres")]
struct Options {
    /// Rows of the large table
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1_000..=100_000_000))]
    rows: u64,
    /// Repetitions of everything
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    repeat: u32,
    /// A Python interpreter that has duckdb (with its postgres extension), adbc-driver-postgresql, connectorx
    /// and pyarrow: those it has are measured beside
    #[arg(long, value_name = "PATH")]
    python: Option<PathBuf>,
    /// Where to write; a directory in it is made and removed [default: the system's for temporary files]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Runs the benchmark that `words` describe and returns its figures.
///
/// # Errors
/// [`BenchError`]; among them [`BenchError::Wrong`] when no `PostgreSQL` is installed, or rows are
/// missing. A missed gate is no error.
pub fn run(words: &[String]) -> Result<Value, BenchError> {
    let options: Options = options(words);
    let dir = scratch(options.dir.as_deref())?;
    let mut report = Report::new("postgres", dir.path());
    report.set(
        "options",
        json!({ "rows": options.rows, "repeat": options.repeat }),
    );
    let source = Source::start(options.rows)?;
    let mut peers = match &options.python {
        Some(python) => {
            let dir = make_dir(dir.path(), "peers")?;
            Some(Peers::start(python, &source, &dir)?)
        }
        None => None,
    };
    let repeat = options.repeat;
    table::large(&source, dir.path(), repeat, peers.as_mut(), &mut report)?;
    table::small(&source, dir.path(), options.repeat, &mut report)?;
    memory::measure(&source, dir.path(), &mut report)?;
    report.finish()
}
