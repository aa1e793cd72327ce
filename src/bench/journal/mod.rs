//! `lakehouse bench journal`: durable mutations beside raw group commit, replay, and mutations
//! through REST. The parts are measured one after the other, never at the same time.

mod commit;
mod replay;
mod rest;
mod story;

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use serde_json::{Value, json};

use super::{
    BenchError, make_dir, options,
    report::{Limit, Report},
    scratch,
};

/// Measures the journal.
#[derive(Debug, Parser)]
#[command(bin_name = "lakehouse bench journal")]
struct Options {
    /// Where to write; a directory in it is made and removed [default: the system's for temporary files]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Events of the journal that is replayed
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1_000..))]
    events: u64,
    /// Events that 64 writers commit in one repetition; fewer writers commit fewer
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1_000..))]
    commits: u64,
    /// Seconds of one repetition through REST
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Repetitions of everything
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    repeat: u32,
    /// Measure this part alone
    #[arg(long, value_enum)]
    only: Option<Part>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Commit,
    Replay,
    Rest,
}

/// Measures the parts that `words` ask for and returns their figures.
///
/// # Errors
/// [`BenchError`] when a part breaks off; a missed gate is no error.
pub fn run(words: &[String]) -> Result<Value, BenchError> {
    let options: Options = options(words);
    let dir = scratch(options.dir.as_deref())?;
    let mut report = Report::new("journal", dir.path());
    report.set(
        "options",
        json!({
            "events": options.events, "commits": options.commits,
            "seconds": options.seconds, "repeat": options.repeat,
        }),
    );
    let wanted = |part| options.only.is_none_or(|only| only == part);
    if wanted(Part::Commit) {
        let dir = make_dir(dir.path(), "commit")?;
        let figures = commit::measure(&dir, options.commits, options.repeat)?;
        report.gate(
            "commit: ratio to raw group commit, 64 writers",
            figures.ratio_at_most_writers,
            Limit::AtLeast(0.6),
        );
        report.set("commit", figures.json);
    }
    if wanted(Part::Replay) {
        let dir = make_dir(dir.path(), "replay")?;
        let figures = replay::measure(&dir, options.events, options.repeat)?;
        report.gate(
            format!(
                "replay: open and replay with a snapshot, {} events, s",
                options.events
            ),
            figures.open_and_replay_s,
            Limit::AtMost(10.0),
        );
        report.set("replay", figures.json);
    }
    if wanted(Part::Rest) {
        let dir = make_dir(dir.path(), "rest")?;
        let figures = rest::measure(&dir, options.seconds, options.repeat)?;
        report.gate(
            "rest: durable mutations per second, 64 clients",
            figures.per_s,
            Limit::AtLeast(5_000.0),
        );
        report.set("rest", figures.json);
    }
    report.finish()
}
