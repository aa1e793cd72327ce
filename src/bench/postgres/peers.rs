//! `DuckDB`'s scanner, ADBC and connectorx as peers in the same run: each reads the large table into a
//! Parquet file, as far as the interpreter that an option names has them.

use std::path::Path;

use serde_json::json;

use super::{
    super::{BenchError, python::Python, report::Series},
    source::Source,
};
use crate::engines::vectors::processors;

const SCRIPT: &str = include_str!("peers.py");

/// The peers that there are, and what they took.
pub(super) struct Peers {
    process: Python,
    /// Name and seconds of each.
    pub taken: Vec<(String, Series)>,
    /// Name of each that is not to be had, and why.
    pub absent: Vec<(String, String)>,
    rows: u64,
}

impl Peers {
    /// Starts all that `python` has.
    pub(super) fn start(python: &Path, source: &Source, dir: &Path) -> Result<Self, BenchError> {
        let mut process = Python::start(python, dir, SCRIPT, &[])?;
        let asked = json!({
            "dsn": source.dsn(&source.large), "table": "mixed", "threads": processors(),
        });
        let (mut taken, mut absent) = (Vec::new(), Vec::new());
        let mut line = process.ask(&asked.to_string())?;
        while line["ready"] != true {
            let name = line["peer"].as_str().unwrap_or_default().to_owned();
            match line["absent"].as_str() {
                Some(reason) => absent.push((name, reason.to_owned())),
                None => taken.push((name, Series::default())),
            }
            line = process.line()?;
        }
        let rows = source.large.rows;
        Ok(Self {
            process,
            taken,
            absent,
            rows,
        })
    }

    /// Has every one of them read the table once.
    pub(super) fn round(&mut self) -> Result<(), BenchError> {
        for (name, seconds) in &mut self.taken {
            let answer = self.process.ask(name)?;
            if answer["rows"] != self.rows {
                return Err(BenchError::wrong(
                    "peers",
                    format!("{name} answers {answer}"),
                ));
            }
            seconds.push(answer["s"].as_f64().unwrap_or(f64::NAN));
        }
        Ok(())
    }
}
