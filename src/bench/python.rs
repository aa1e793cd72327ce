//! Peers that live in Python: one process runs a script and answers line by line. The interpreter is named
//! by an option of the benchmark, and only what it has is measured; nothing is installed here.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use serde_json::Value;

use super::BenchError;

/// The process and its pipes; it ends when they are closed.
pub(super) struct Python {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Python {
    /// Starts `script` with arguments in `dir`, where it is written first.
    pub(super) fn start(
        python: &Path,
        dir: &Path,
        script: &str,
        arguments: &[String],
    ) -> Result<Self, BenchError> {
        let path = dir.join("peers.py");
        std::fs::write(&path, script).map_err(|error| BenchError::file(&path, error))?;
        let mut child = Command::new(python)
            .current_dir(dir)
            .arg("peers.py")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| BenchError::file(python, error))?;
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().expect("standard output is piped"));
        Ok(Self {
            child,
            input,
            output,
        })
    }

    /// Its next line.
    pub(super) fn line(&mut self) -> Result<Value, BenchError> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        serde_json::from_str(&line)
            .map_err(|_| BenchError::wrong("peers", "the Python process ended".to_owned()))
    }

    /// Its answer to a line.
    pub(super) fn ask(&mut self, words: &str) -> Result<Value, BenchError> {
        if let Some(input) = &mut self.input {
            writeln!(input, "{words}")?;
            input.flush()?;
        }
        self.line()
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        drop(self.input.take());
        // One that has ended by itself needs no kill; both are waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
