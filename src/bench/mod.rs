//! Benchmarks: each measures the lakehouse beside a baseline in the same run and on the same disk.
//! `lakehouse bench NAME` calls one of the `run` functions; each reads its own options, prints its
//! tables, and returns all repetitions as JSON. Daemons are child processes on the loopback address.

pub mod access;
pub mod deletes;
pub mod ingest;
pub mod journal;
pub mod postgres;
pub mod refresh;
pub mod search;
pub mod sql;
pub mod tpch;
#[cfg(feature = "lance")]
pub mod vectors;

mod daemon;
mod error;
mod http;
mod plain;
mod python;
mod report;

pub use error::BenchError;

use std::path::{Path, PathBuf};

use clap::Parser;
use tempfile::TempDir;

/// Reads a benchmark's own options, the words behind its name. As for the verbs, `--help` and a
/// wrong word end the process here.
fn options<T: Parser>(words: &[String]) -> T {
    let words = std::iter::once("lakehouse bench").chain(words.iter().map(String::as_str));
    T::parse_from(words)
}

/// A directory for everything that a benchmark writes; it is removed with the value.
fn scratch(parent: Option<&Path>) -> Result<TempDir, BenchError> {
    let parent = parent.map_or_else(std::env::temp_dir, PathBuf::from);
    tempfile::Builder::new()
        .prefix("lakehouse-bench-")
        .tempdir_in(&parent)
        .map_err(|error| BenchError::file(&parent, error))
}

/// A directory below `parent`, made.
fn make_dir(parent: &Path, name: &str) -> Result<PathBuf, BenchError> {
    let dir = parent.join(name);
    std::fs::create_dir_all(&dir).map_err(|error| BenchError::file(&dir, error))?;
    Ok(dir)
}
