//! hnswlib and faiss as peers in the same run: a Python process that has them builds both over the
//! same rows and answers round by round. The interpreter is named by an option; without it there are
//! no peers. Nothing is installed here.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{Arc, Mutex},
};

use serde_json::Value;

use super::{
    super::BenchError,
    contest::{Contender, Round},
    data::Set,
    engine::{EF, config},
};
use crate::engines::vectors::{Quantization, processors};

const SCRIPT: &str = include_str!("peers.py");

/// The process and its pipes; it ends when they are closed.
struct Process {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Process {
    fn line(&mut self) -> Result<Value, BenchError> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        serde_json::from_str(&line)
            .map_err(|_| BenchError::wrong("peers", "the Python process ended".to_owned()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.input.take());
        // One that has ended by itself needs no kill; both are waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One of the libraries.
pub(super) struct Peer {
    /// Its name.
    pub name: String,
    /// Seconds of its build.
    pub build_s: f64,
    process: Arc<Mutex<Process>>,
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
        ("peers.py", SCRIPT.as_bytes().to_vec()),
        ("rows.f32", numbers(&set.rows)),
        ("queries.f32", numbers(&set.queries)),
        ("truth.u64", truth),
    ];
    for (name, content) in &files {
        let path = dir.join(name);
        std::fs::write(&path, content).map_err(|error| BenchError::file(&path, error))?;
    }
    let config = config(Quantization::F32);
    let mut child = Command::new(python)
        .current_dir(dir)
        .args(files.map(|(name, _)| name))
        .args(
            [
                set.dimensions,
                config.connectivity,
                config.expansion_add,
                processors(),
            ]
            .map(|value| value.to_string()),
        )
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| BenchError::file(python, error))?;
    let input = child.stdin.take();
    let output = BufReader::new(child.stdout.take().expect("standard output is piped"));
    let process = Arc::new(Mutex::new(Process {
        child,
        input,
        output,
    }));
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
        if let Some(input) = &mut process.input {
            writeln!(input, "{} {setting}", self.name)?;
            input.flush()?;
        }
        let line = process.line()?;
        let times = line["us"].as_array().map_or(&[][..], Vec::as_slice);
        Ok(Round {
            recall: line["recall"].as_f64().unwrap_or_default(),
            us: times.iter().filter_map(Value::as_f64).collect(),
        })
    }
}
