//! `lakehouse bench refresh`: how fast the embedders in the process make vectors, one thread and all cores.
//! The texts are the glosses of the packed knowledge base, as the demo embeds them; nothing is stored.

mod embedder;
mod local;

pub(super) use embedder::glosses;

use std::path::PathBuf;

use clap::Parser;
use serde_json::{Value, json};

use super::{BenchError, options, report::Report};

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
}

/// Runs the benchmark that `words` describe and returns its figures.
///
/// # Errors
/// [`BenchError`]. A missed gate is no error.
pub fn run(words: &[String]) -> Result<Value, BenchError> {
    let options: Options = options(words);
    let mut report = Report::new("refresh", &std::env::temp_dir());
    report.set(
        "options",
        json!({ "texts": options.texts, "repeat": options.repeat }),
    );
    embedder::measure(options.texts, options.repeat, &mut report)?;
    if let Some(source) = &options.minilm {
        let models = tempfile::tempdir()?;
        local::measure(source, models.path(), options.repeat, &mut report)?;
    }
    report.finish()
}
