//! Directories that are still there after a power cut: each one that gains or loses an entry is
//! flushed. The steps that `DurableLocal` is made of; they know nothing of keys.

use std::{
    fs::{self, File},
    io,
    path::Path as FsPath,
};

use super::BucketError;

/// Makes the directory and those above it, flushing each one that gains an entry.
pub(super) fn make_dirs(path: &FsPath) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        make_dirs(parent)?;
    }
    match fs::create_dir(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        Err(error) => return Err(error),
    }
    sync_parent(path)
}

/// Makes the directory that `file` is to lie in.
pub(super) fn make_parent(file: &FsPath) -> io::Result<()> {
    file.parent().map_or(Ok(()), make_dirs)
}

/// Flushes the directory that holds `path`.
pub(super) fn sync_parent(path: &FsPath) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// Whether two files hold the same bytes.
pub(super) fn same_content(a: &FsPath, b: &FsPath) -> Result<(), BucketError> {
    let hash = |path: &FsPath| -> io::Result<blake3::Hash> {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(File::open(path)?)?;
        Ok(hasher.finalize())
    };
    if fs::metadata(a)?.len() == fs::metadata(b)?.len() && hash(a)? == hash(b)? {
        Ok(())
    } else {
        Err(BucketError::Taken)
    }
}
