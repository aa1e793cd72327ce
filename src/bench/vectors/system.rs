//! What the operating system is asked: to forget a file's pages, how much memory a phase took, which
//! files a directory has. The vector benchmark's parts call it. Linux only; elsewhere it says nothing.

use std::{
    fs::File,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
};

use super::super::{
    BenchError,
    report::{kib_in_bytes, line_of},
};

const STATUS: &str = "/proc/self/status";

/// Makes a file durable.
pub(super) fn sync(path: &Path) -> Result<(), BenchError> {
    let synced = File::open(path).and_then(|file| file.sync_all());
    synced.map_err(|error| BenchError::file(path, error))
}

/// Drops a file from the page cache, so that it is read from the disk again.
pub(super) fn forget(path: &Path) -> Result<(), BenchError> {
    let file = File::open(path).map_err(|error| BenchError::file(path, error))?;
    file.sync_all()
        .map_err(|error| BenchError::file(path, error))?;
    // SAFETY: the descriptor is open for the whole call, which changes no memory of ours.
    #[expect(unsafe_code, reason = "the standard library has no advice about files")]
    unsafe {
        libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED);
    }
    Ok(())
}

/// Every file below a directory.
pub(super) fn files_below(dir: &Path) -> Result<Vec<PathBuf>, BenchError> {
    let failed = |error| BenchError::file(dir, error);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() {
            files.extend(files_below(&path)?);
        } else {
            files.push(path);
        }
    }
    Ok(files)
}

/// The most memory since a moment, beyond what was resident then.
pub(super) struct Peak {
    before: u64,
}

impl Peak {
    pub(super) fn start() -> Self {
        // Resets the high-water mark; where that is not allowed the figure is too large, never too small.
        let _ = std::fs::write("/proc/self/clear_refs", "5");
        Self {
            before: resident("VmRSS"),
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        resident("VmHWM").saturating_sub(self.before)
    }
}

fn resident(name: &str) -> u64 {
    line_of(STATUS, name)
        .as_deref()
        .and_then(kib_in_bytes)
        .unwrap_or_default()
}
