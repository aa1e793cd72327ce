//! Tests of the whole log: the contract that both logs keep, and what the one on disk survives.

mod committer;
mod contract;
mod disk;
mod faults;
mod rot;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub(crate) use super::testing::scratch;

use super::io::{Io, RealIo};
use super::{Log, LogConfig, LogError, LogReader, SledLog};
use crate::record::Record;

/// A configuration that never seals or flushes by time, so that tests see what they ask for.
pub fn config() -> LogConfig {
    LogConfig {
        segment_age: Duration::from_hours(1),
        ..LogConfig::default()
    }
}

pub fn open(dir: &Path) -> Result<SledLog, LogError> {
    open_with(dir, Arc::new(RealIo))
}

pub fn open_with(dir: &Path, io: Arc<dyn Io>) -> Result<SledLog, LogError> {
    SledLog::open(dir.to_path_buf(), &config(), io)
}

/// All records, in a form that can be compared.
pub fn dump(reader: &dyn LogReader) -> Vec<String> {
    let mut all = Vec::new();
    reader
        .for_each(0, &mut |record| {
            all.push(line(&record));
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    all
}

pub fn lines(records: &[Record]) -> Vec<String> {
    records.iter().map(line).collect()
}

fn line(record: &Record) -> String {
    let draft = serde_json::to_string(&record.draft).unwrap();
    let hash = blake3::Hash::from_bytes(record.hash).to_hex();
    format!("{} {hash} {draft}", record.seq)
}

/// Copies a journal, as a crash would leave it for the next process: without what this one still holds.
pub fn copy(from: &Path) -> tempfile::TempDir {
    let to = scratch();
    copy_into(from, to.path());
    to
}

fn copy_into(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            std::fs::create_dir_all(&target).unwrap();
            copy_into(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}

/// The index directories of a journal.
pub fn generations(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.is_dir() && p.file_name().unwrap().to_str().unwrap().starts_with("gen-"))
        .collect();
    found.sort();
    found
}

/// The files of the mirror, sorted.
pub fn segments(dir: &Path) -> Vec<PathBuf> {
    super::mirror::files(&dir.join("mirror")).unwrap()
}

/// What histories and pages say must be what the replay says.
pub fn assert_index_agrees(log: &SledLog) {
    let reader = log.reader();
    let all = dump(&*reader);
    assert_eq!(lines(&reader.scan(0, usize::MAX).unwrap()), all);
    let report = reader.verify().unwrap();
    assert!(report.ok, "{report:?}");
    assert_eq!(report.checked, all.len() as u64);
}
