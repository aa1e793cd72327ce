//! `lakehouse bench refresh`: how fast the embedders in the process make vectors, one thread and all cores;
//! a refresh beside embedding alone; and what comparing a large table takes in memory. The texts are
//! the glosses of the packed knowledge base, as the demo embeds them.

mod difference;
mod embedder;
mod local;
mod overhead;
mod table;

pub(super) use embedder::glosses;

use std::path::PathBuf;

use clap::Parser;
use serde_json::{Value, json};

use super::{BenchError, make_dir, options, report::Report, scratch};

/// Measures what a refresh is made of.
#[derive(Debug, Parser)]
#[command(bin_name = "lakehouse bench refresh")]
struct Options {
    /// Texts of one repetition, taken from the knowledge base again and again
    #[arg(long, default_value_t = 117_791, value_parser = clap::value_parser!(u64).range(1_000..=10_000_000))]
    texts: u64,
    /// Repetitions of everything
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    repeat: u32,
    /// The local model's wheel, or a directory that holds it; without, it is left out
    #[arg(long, value_name = "FILE|DIR")]
    minilm: Option<PathBuf>,
    /// Rows of the table whose refresh is measured in memory; 0 leaves it out
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(0..=10_000_000))]
    rows: u64,
    /// Where to write; a directory in it is made and removed [default: the system's for temporary files]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Runs the benchmark that `words` describe and returns its figures.
///
/// # Errors
/// [`BenchError`]. A missed gate is no error.
pub fn run(words: &[String]) -> Result<Value, BenchError> {
    let options: Options = options(words);
    let dir = scratch(options.dir.as_deref())?;
    let mut report = Report::new("refresh", dir.path());
    report.set(
        "options",
        json!({ "texts": options.texts, "repeat": options.repeat, "rows": options.rows }),
    );
    embedder::measure(options.texts, options.repeat, &mut report)?;
    if let Some(source) = &options.minilm {
        let models = make_dir(dir.path(), "models")?;
        local::measure(source, &models, options.repeat, &mut report)?;
        overhead::measure(source, dir.path(), options.repeat, &mut report)?;
    }
    if options.rows > 0 {
        difference::measure(options.rows, dir.path(), &mut report)?;
    }
    report.finish()
}
