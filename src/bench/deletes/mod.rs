//! `lakehouse bench deletes`: rows deleted by key through REST, one and many; queries over what is
//! left beside the same queries on a copy without deletions; compaction beside plain `DataFusion`;
//! and a row read by its key. Every answer is checked against the table that was sent.

mod lake;
mod share;
mod single;
pub(super) mod table;
mod written;

use std::path::PathBuf;

use clap::Parser;
use serde_json::{Value, json};

use super::{BenchError, daemon::Daemon, make_dir, options, report::Report, scratch};
use lake::Lake;

/// Measures deletions.
#[derive(Debug, Parser)]
#[command(bin_name = "lakehouse bench deletes")]
struct Options {
    /// Rows of the table; one in a hundred is deleted
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1_000..=100_000_000))]
    rows: u64,
    /// Repetitions of everything
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    repeat: u32,
    /// Where to write; a directory in it is made and removed [default: the system's for temporary files]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Runs the benchmark that `words` describe and returns its figures.
///
/// # Errors
/// [`BenchError`]; among them [`BenchError::Wrong`] when a deleted row is seen or another one is not.
/// A missed gate is no error.
pub fn run(words: &[String]) -> Result<Value, BenchError> {
    let options: Options = options(words);
    let dir = scratch(options.dir.as_deref())?;
    let mut report = Report::new("deletes", dir.path());
    report.set(
        "options",
        json!({ "rows": options.rows, "repeat": options.repeat }),
    );
    let daemon = Daemon::start(&make_dir(dir.path(), "data")?)?;
    let lake = Lake::new(daemon, options.rows)?;
    single::measure(&lake, options.repeat, &mut report)?;
    share::measure(&lake, dir.path(), options.repeat, &mut report)?;
    report.set("daemon_peak_rss_bytes", json!(lake.daemon.peak_rss_bytes()));
    report.finish()
}
