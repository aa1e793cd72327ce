//! What a daemon writes: bytes that it gave the disk, and how much its directory has grown.
//! The runner takes one before and one after; nothing here writes.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use super::super::{BenchError, daemon::Daemon, report::line_of};

/// Blocks of `st_blocks`, whatever the file system's own are.
const BLOCK_BYTES: u64 = 512;

/// A daemon's counters at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Written {
    /// Pages that it made dirty, in bytes: what goes to the disk, in units of the page cache.
    pub disk: u64,
    /// Room that its directory takes on the disk, in bytes.
    pub room: u64,
    /// Lengths of the files in its directory, in bytes.
    pub length: u64,
}

impl Written {
    /// Reads the counters.
    pub(super) fn now(daemon: &Daemon) -> Result<Self, BenchError> {
        let io = format!("/proc/{}/io", daemon.process());
        let disk = line_of(&io, "write_bytes").and_then(|bytes| bytes.parse().ok());
        let disk = disk.ok_or_else(|| {
            BenchError::wrong("deletes", "this system does not tell what a process writes")
        })?;
        let (room, length) = below(daemon.data_dir())?;
        Ok(Self { disk, room, length })
    }

    /// What came since `before`; a counter that fell counts as none.
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            disk: self.disk.saturating_sub(before.disk),
            room: self.room.saturating_sub(before.room),
            length: self.length.saturating_sub(before.length),
        }
    }
}

/// Room and length of all files below a directory. One that goes away meanwhile counts nothing.
fn below(dir: &Path) -> Result<(u64, u64), BenchError> {
    let (mut room, mut length) = (0, 0);
    for entry in fs::read_dir(dir).map_err(|error| BenchError::file(dir, error))? {
        let entry = entry.map_err(|error| BenchError::file(dir, error))?;
        let Ok(known) = entry.metadata() else {
            continue;
        };
        if known.is_dir() {
            let (inner_room, inner_length) = below(&entry.path())?;
            room += inner_room;
            length += inner_length;
        } else {
            room += known.blocks() * BLOCK_BYTES;
            length += known.len();
        }
    }
    Ok((room, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_in_folders_are_counted_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let inner = dir.path().join("a").join("b");
        fs::create_dir_all(&inner).expect("a directory");
        fs::write(dir.path().join("x"), [7; 1_000]).expect("a file");
        fs::write(inner.join("y"), [7; 30]).expect("a file");
        assert_eq!(below(dir.path()).expect("it can be read").1, 1_030);
    }
}
