//! What broken writes left in a local bucket: half-written files that no key names. They go when the
//! daemon starts, before anything is written; later they could be those of a write that is under way.

use std::{fs, io, path::Path};

use super::{DurableLocal, keys::is_staging_name, local::STAGING};

/// The folder where index engines write with `object_store`'s own local store.
const INDEXES: &str = "vectors";

impl DurableLocal {
    /// Removes half-written files. Returns how many. Only the process that holds the data directory may
    /// call this, and only before the first write.
    ///
    /// # Errors
    /// When the directory cannot be read or a file not be removed.
    pub fn remove_broken(&self) -> io::Result<u64> {
        let staged = remove_below(&self.root().join(STAGING), &|_| true)?;
        let named = remove_below(&self.root().join(INDEXES), &|path| {
            path.to_str().is_some_and(is_staging_name)
        })?;
        Ok(staged + named)
    }
}

/// Removes the files below a folder that are broken.
fn remove_below(folder: &Path, broken: &dyn Fn(&Path) -> bool) -> io::Result<u64> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut removed = 0;
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            removed += remove_below(&entry.path(), broken)?;
        } else if broken(&entry.path()) {
            fs::remove_file(entry.path())?;
            removed += 1;
        }
    }
    if removed > 0 {
        fs::File::open(folder)?.sync_all()?;
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_written_files_go_and_objects_stay() {
        let folder = tempfile::tempdir().unwrap();
        let store = DurableLocal::open(folder.path()).unwrap();
        let write = |name: &str| {
            let path = store.root().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, b"rows").unwrap();
            path
        };
        let kept = [write("datasets/d/x.parquet"), write("vectors/i/1/graph#x")];
        let gone = [write(".staging/abc"), write("vectors/i/1/x.lance#3")];
        assert_eq!(store.remove_broken().unwrap(), 2);
        assert!(kept.iter().all(|path| path.exists()));
        assert!(gone.iter().all(|path| !path.exists()));
        assert_eq!(store.remove_broken().unwrap(), 0);
    }
}
