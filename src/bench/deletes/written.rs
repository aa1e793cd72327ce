//! What a daemon writes: bytes that it gave the disk, and how much its directory has grown.
//! The runner takes one before and one after; nothing here writes.

use std::{
    fs::{self, File},
    io::Read as _,
    path::Path,
};

use super::super::{BenchError, daemon::Daemon, report::line_of};

/// A page of the page cache, in bytes.
const PAGE_BYTES: usize = 4096;
/// Read at a time.
const PIECE_BYTES: usize = 256 * PAGE_BYTES;

/// A daemon's counters at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Written {
    /// Pages that it made dirty, in bytes: what goes to the disk, the same page again every time.
    pub disk: u64,
    /// Pages of its directory's files that hold anything, in bytes. The journal makes its segments
    /// before it fills them, so neither lengths nor blocks tell how much is in them.
    pub filled: u64,
}

impl Written {
    /// Reads the counters, and the whole directory.
    pub(super) fn now(daemon: &Daemon) -> Result<Self, BenchError> {
        let io = format!("/proc/{}/io", daemon.process());
        let disk = line_of(&io, "write_bytes").and_then(|bytes| bytes.parse().ok());
        let disk = disk.ok_or_else(|| {
            BenchError::wrong("deletes", "this system does not tell what a process writes")
        })?;
        let filled = filled_below(daemon.data_dir())?;
        Ok(Self { disk, filled })
    }

    /// What came since `before`; a counter that fell counts as none.
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            disk: self.disk.saturating_sub(before.disk),
            filled: self.filled.saturating_sub(before.filled),
        }
    }
}

/// Bytes of the filled pages of all files below a directory. A file that goes away meanwhile counts
/// nothing.
fn filled_below(dir: &Path) -> Result<u64, BenchError> {
    let failed = |error| BenchError::file(dir, error);
    let mut filled = 0;
    for entry in fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() {
            filled += filled_below(&path)?;
        } else if let Ok(file) = File::open(&path) {
            filled += filled_in(file).map_err(|error| BenchError::file(&path, error))?;
        }
    }
    Ok(filled)
}

fn filled_in(mut file: File) -> std::io::Result<u64> {
    let mut piece = vec![0; PIECE_BYTES];
    let mut pages = 0;
    loop {
        let mut length = 0;
        while length < PIECE_BYTES {
            match file.read(&mut piece[length..])? {
                0 => break,
                read => length += read,
            }
        }
        let filled = |page: &&[u8]| page.iter().any(|byte| *byte != 0);
        let found = piece[..length].chunks(PAGE_BYTES).filter(filled).count();
        pages += found as u64;
        if length < PIECE_BYTES {
            return Ok(pages * PAGE_BYTES as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_with_anything_in_them_are_counted_and_empty_ones_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let inner = dir.path().join("a").join("b");
        fs::create_dir_all(&inner).expect("a directory");
        let mut bytes = vec![0; 2 * PIECE_BYTES + 10];
        bytes[PAGE_BYTES] = 1;
        bytes[2 * PIECE_BYTES + 9] = 1;
        fs::write(dir.path().join("x"), bytes).expect("a file");
        fs::write(inner.join("y"), [7; 30]).expect("a file");
        let filled = filled_below(dir.path()).expect("it can be read");
        assert_eq!(filled, 3 * PAGE_BYTES as u64);
    }
}
