//! hnswlib and faiss as peers in the same run: a Python process that has them builds both over the
//! same rows and answers round by round. Without an interpreter there are no peers.

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use serde_json::Value;

use super::{
    super::{BenchError, python::Python},
    contest::{Contender, Round},
    data::Set,
    engine::{EF, config},
};
use crate::engines::vectors::{Quantization, processors};

const SCRIPT: &str = include_str!("peers.py");

/// One of the libraries.
pub(super) struct Peer {
    /// Its name.
    pub name: String,
    /// Seconds of its build.
    pub build_s: f64,
    process: Arc<Mutex<Python>>,
}

/// Builds every peer that the interpreter has.
pub(super) fn start(python: &Path, set: &Set, dir: &Path) -> Result<Vec<Peer>, BenchError> {
    let truth: Vec<u8> = set
        .truth
        .iter()
        .flatten()
        .flat_map(|slot| slot.to_le_bytes())
        .collect();
    let numbers = |values: &[f32]| -> Vec<u8> {
        values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect()
    };
    let files = [
        ("rows.f32", numbers(&set.rows)),
        ("queries.f32", numbers(&set.queries)),
        ("truth.u64", truth),
    ];
    for (name, content) in &files {
        let path = dir.join(name);
        std::fs::write(&path, content).map_err(|error| BenchError::file(&path, error))?;
    }
    let config = config(Quantization::F32);
    let settings = [
        set.dimensions,
        config.connectivity,
        config.expansion_add,
        processors(),
    ];
    let names = files.iter().map(|(name, _)| (*name).to_owned());
    let arguments: Vec<String> = names
        .chain(settings.iter().map(ToString::to_string))
        .collect();
    let process = Arc::new(Mutex::new(Python::start(python, dir, SCRIPT, &arguments)?));
    let mut peers = Vec::new();
    loop {
        let line = process.lock().expect("no thread panics with it").line()?;
        if line["ready"] == true {
            return Ok(peers);
        }
        if let (Some(name), Some(build_s)) = (line["peer"].as_str(), line["build_s"].as_f64()) {
            peers.push(Peer {
                name: name.to_owned(),
                build_s,
                process: Arc::clone(&process),
            });
        }
    }
}

impl Contender for &mut Peer {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn settings(&self) -> Vec<usize> {
        EF.to_vec()
    }

    fn search(&mut self, _: &[f32], _: usize) -> Result<Vec<u64>, BenchError> {
        Err(BenchError::wrong(
            "peers",
            "a peer is asked round by round".to_owned(),
        ))
    }

    fn round(&mut self, _: &Set, setting: usize) -> Result<Round, BenchError> {
        let mut process = self.process.lock().expect("no thread panics with it");
        let line = process.ask(&format!("{} {setting}", self.name))?;
        let times = line["us"].as_array().map_or(&[][..], Vec::as_slice);
        Ok(Round {
            recall: line["recall"].as_f64().unwrap_or_default(),
            us: times.iter().filter_map(Value::as_f64).collect(),
        })
    }
}
