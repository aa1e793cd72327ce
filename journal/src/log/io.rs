//! The only door to the disk for everything that the journal writes, so that tests can make any operation fail.
//! Reads go past it. Never retries: what an error means is the caller's business.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::error::LogError;

/// Operations on names.
pub trait Io: Send + Sync + std::fmt::Debug {
    /// Creates a file that must not exist, mode 0600.
    fn create(&self, path: &Path) -> io::Result<Box<dyn IoFile>>;
    /// Renames, replacing what is there.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Creates a directory and its parents; one that exists is fine.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in `dir` durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Asked before the index does `operation`; an error stands for the index's own.
    fn index(&self, operation: IndexOperation) -> io::Result<()>;
}

/// A file being written.
pub trait IoFile: Send + std::fmt::Debug {
    /// Reserves space for the first `bytes`; the file grows to that length, filled with zeros.
    fn allocate(&mut self, bytes: u64) -> io::Result<()>;
    /// Writes all of `bytes` at `offset`.
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Cuts or grows the file.
    fn set_len(&mut self, bytes: u64) -> io::Result<()>;
    /// `fdatasync`: content and length are durable.
    fn sync_data(&mut self) -> io::Result<()>;
}

/// What the index is about to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IndexOperation {
    /// Open a generation.
    Open,
    /// Apply a batch.
    Apply,
    /// Flush and sync.
    Flush,
}

/// The operating system.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealIo;

impl Io for RealIo {
    fn create(&self, path: &Path) -> io::Result<Box<dyn IoFile>> {
        let mut options = OpenOptions::new();
        let file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        Ok(Box::new(RealFile(file)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        std::fs::create_dir_all(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn index(&self, _: IndexOperation) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
struct RealFile(File);

impl IoFile for RealFile {
    fn allocate(&mut self, bytes: u64) -> io::Result<()> {
        allocate(&self.0, bytes)
    }

    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn set_len(&mut self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }

    fn sync_data(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }
}

/// Reserves blocks, so that a later flush has no block map to write and a full disk shows early.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let length = libc::off_t::try_from(bytes).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open as long as `file` is borrowed, and fallocate touches no memory of ours.
    if unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, length) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        // A file system that cannot reserve: the length alone must do.
        Some(libc::EOPNOTSUPP | libc::ENOSYS) => file.set_len(bytes),
        _ => Err(error),
    }
}

#[cfg(not(target_os = "linux"))]
fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    file.set_len(bytes)
}

/// Writes a small file so that after a crash its old or its new content is there, never less.
pub(crate) fn replace_file(io: &dyn Io, path: &Path, bytes: &[u8]) -> Result<(), LogError> {
    let temporary = temporary_name(path);
    remove_if_there(io, &temporary)?;
    let fail = |op: &'static str| {
        let path = temporary.clone();
        move |e: io::Error| LogError::io(op, &path, &e)
    };
    let mut file = io.create(&temporary).map_err(fail("create"))?;
    file.write_at(bytes, 0).map_err(fail("write"))?;
    file.sync_data().map_err(fail("fdatasync"))?;
    drop(file);
    io.rename(&temporary, path).map_err(fail("rename"))?;
    let parent = path.parent().expect("a file lies in a directory");
    sync_dir(io, parent)
}

/// `<path>.tmp`; whatever has this name is left over from a crash.
pub(crate) fn temporary_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    PathBuf::from(name)
}

/// Removes a file that may not exist.
pub(crate) fn remove_if_there(io: &dyn Io, path: &Path) -> Result<(), LogError> {
    if !path.exists() {
        return Ok(());
    }
    io.remove(path)
        .map_err(|e| LogError::io("remove", path, &e))
}

/// [`Io::sync_dir`] with the log's error.
pub(crate) fn sync_dir(io: &dyn Io, dir: &Path) -> Result<(), LogError> {
    io.sync_dir(dir).map_err(|e| LogError::io("sync", dir, &e))
}

/// [`Io::create_dir`], and the name made durable.
pub(crate) fn create_dir(io: &dyn Io, dir: &Path) -> Result<(), LogError> {
    if dir.is_dir() {
        return Ok(());
    }
    io.create_dir(dir)
        .map_err(|e| LogError::io("create", dir, &e))?;
    match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_dir(io, parent),
        _ => Ok(()),
    }
}
