//! `lakehouse bench refresh`: how fast the embedders make vectors, what a refresh costs beside them,
//! and what a difference over many rows takes of memory. The texts are the glosses of the packed
//! knowledge base, and lines of a made-up log.

mod embedder;
mod local;
mod memory;
mod overhead;

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
    /// Repetitions of everything but the difference over many rows
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    repeat: u32,
    /// The local model's wheel, or a directory that holds it; without, it is left out
    #[arg(long, value_name = "FILE|DIR")]
    minilm: Option<PathBuf>,
    /// Rows that are compared for the memory that it takes; 0 leaves it out
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(0..=100_000_000))]
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
    }
    let lake = make_dir(dir.path(), "overhead")?;
    overhead::measure(&lake, options.repeat, &mut report)?;
    if options.rows > 0 {
        let lake = make_dir(dir.path(), "memory")?;
        memory::measure(&lake, options.rows, &mut report)?;
    }
    report.finish()
}
