//! Snapshots of the state: zstd with a checksum, written so that a crash leaves the old or the new one.
//! A cache: a damaged one is skipped, and all may be deleted at any time. What is inside is the caller's.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::log::io::{Io, create_dir, remove_if_there, replace_file, sync_dir};
use crate::log::{LogError, RealIo};
use crate::record::Seq;

/// How many snapshots are kept.
const KEPT: usize = 2;
const MAGIC: &[u8; 8] = b"LHSNAP02";
/// Magic, sequence number, length of the plain bytes, blake3 over both numbers and the compressed bytes.
const HEADER_BYTES: usize = 8 + 8 + 8 + 32;
/// The largest plain snapshot, in bytes: a damaged length must not ask for all memory.
const PLAIN_BYTES_MAX: u64 = 16 << 30;
const LEVEL: i32 = 3;

/// The snapshots in one directory.
#[derive(Debug, Clone)]
pub struct SnapshotStore {
    dir: PathBuf,
    io: Arc<dyn Io>,
}

impl SnapshotStore {
    /// The snapshots in `dir`, which is created by the first write.
    pub fn new(dir: PathBuf) -> Self {
        Self::with_io(dir, Arc::new(RealIo))
    }

    /// The same over another way to the disk.
    pub fn with_io(dir: PathBuf, io: Arc<dyn Io>) -> Self {
        Self { dir, io }
    }

    /// Stores the state after `seq`, and deletes all but the newest two.
    ///
    /// # Errors
    /// `Io`; older snapshots are then untouched.
    pub fn write(&self, seq: Seq, bytes: &[u8]) -> Result<PathBuf, LogError> {
        create_dir(&*self.io, &self.dir)?;
        let path = self.path(seq);
        let file = encode(seq, bytes).map_err(|e| LogError::io("compress", &path, &e))?;
        replace_file(&*self.io, &path, &file)?;
        let mut numbers = self.all()?;
        numbers.retain(|n| *n != seq);
        for old in numbers.iter().rev().skip(KEPT - 1) {
            self.delete(*old)?;
        }
        Ok(path)
    }

    /// The newest snapshot that is whole; damaged ones are skipped and logged.
    ///
    /// # Errors
    /// `Io` when the directory cannot be listed.
    pub fn newest_valid(&self) -> Result<Option<(Seq, Vec<u8>)>, LogError> {
        for seq in self.all()?.into_iter().rev() {
            match self.read(seq) {
                Ok(bytes) => return Ok(Some((seq, bytes))),
                Err(error) => tracing::warn!(seq, error, "skipping a damaged snapshot"),
            }
        }
        Ok(None)
    }

    /// The sequence numbers of all snapshots, ascending, damaged or not.
    ///
    /// # Errors
    /// `Io` when the directory cannot be listed.
    pub fn all(&self) -> Result<Vec<Seq>, LogError> {
        if !self.dir.is_dir() {
            return Ok(Vec::new());
        }
        let paths = crate::log::mirror::files(&self.dir)?;
        Ok(paths.iter().filter_map(|p| number(p)).collect())
    }

    /// Deletes the snapshot of `seq`; one that is not there is fine.
    ///
    /// # Errors
    /// `Io`.
    pub fn delete(&self, seq: Seq) -> Result<(), LogError> {
        remove_if_there(&*self.io, &self.path(seq))?;
        if self.dir.is_dir() {
            sync_dir(&*self.io, &self.dir)?;
        }
        Ok(())
    }

    /// The file of the snapshot of `seq`.
    pub fn path(&self, seq: Seq) -> PathBuf {
        self.dir.join(format!("{seq:020}.snap"))
    }

    fn read(&self, seq: Seq) -> Result<Vec<u8>, String> {
        let file = std::fs::read(self.path(seq)).map_err(|e| e.to_string())?;
        decode(seq, &file)
    }
}

fn encode(seq: Seq, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let compressed = zstd::bulk::compress(bytes, LEVEL)?;
    let mut file = Vec::with_capacity(HEADER_BYTES + compressed.len());
    file.extend_from_slice(MAGIC);
    file.extend_from_slice(&seq.to_le_bytes());
    file.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    file.extend_from_slice(digest(&file[8..24], &compressed).as_bytes());
    file.extend_from_slice(&compressed);
    Ok(file)
}

fn decode(seq: Seq, file: &[u8]) -> Result<Vec<u8>, String> {
    let (header, compressed) = file
        .split_at_checked(HEADER_BYTES)
        .ok_or_else(|| "it is cut short".to_owned())?;
    if &header[..8] != MAGIC {
        return Err("it is of another format".to_owned());
    }
    if digest(&header[8..24], compressed).as_bytes() != &header[24..] {
        return Err("its checksum does not fit".to_owned());
    }
    let field = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
    let (own, length) = (field(8), field(16));
    if own != seq || length > PLAIN_BYTES_MAX {
        return Err(format!("it is the snapshot of {own}"));
    }
    let length = usize::try_from(length).map_err(|e| e.to_string())?;
    let bytes = zstd::bulk::decompress(compressed, length).map_err(|e| e.to_string())?;
    if bytes.len() != length {
        return Err("its length does not fit".to_owned());
    }
    Ok(bytes)
}

fn digest(numbers: &[u8], compressed: &[u8]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(numbers);
    hasher.update(compressed);
    hasher.finalize()
}

fn number(path: &Path) -> Option<Seq> {
    let name = path.file_name()?.to_str()?.strip_suffix(".snap")?;
    (name.len() == 20).then(|| name.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::testing::scratch;

    fn store() -> (tempfile::TempDir, SnapshotStore) {
        let dir = scratch();
        let store = SnapshotStore::new(dir.path().join("snapshots"));
        (dir, store)
    }

    #[test]
    fn only_the_newest_two_are_kept() {
        let (_dir, store) = store();
        assert_eq!(store.newest_valid().unwrap(), None);
        for seq in [10, 20, 30] {
            store.write(seq, format!("state {seq}").as_bytes()).unwrap();
        }
        assert_eq!(store.all().unwrap(), [20, 30]);
        assert_eq!(
            store.newest_valid().unwrap(),
            Some((30, b"state 30".to_vec()))
        );
    }

    #[test]
    fn an_older_snapshot_written_late_does_not_drop_itself() {
        let (_dir, store) = store();
        for seq in [20, 30, 10] {
            store.write(seq, b"x").unwrap();
        }
        assert_eq!(store.all().unwrap(), [10, 30]);
    }

    #[test]
    fn a_damaged_one_is_skipped_for_the_one_before() {
        let (_dir, store) = store();
        store.write(1, &[7; 5000]).unwrap();
        let path = store
            .write(2, &(0..=250u8).cycle().take(9000).collect::<Vec<_>>())
            .unwrap();
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x40;
            std::fs::write(&path, &damaged).unwrap();
            assert_eq!(
                store.newest_valid().unwrap(),
                Some((1, vec![7; 5000])),
                "byte {at}"
            );
            std::fs::write(&path, &whole[..at]).unwrap();
            assert_eq!(store.newest_valid().unwrap().unwrap().0, 1, "cut at {at}");
        }
    }

    #[test]
    fn a_snapshot_under_the_name_of_another_is_not_taken() {
        let (_dir, store) = store();
        store.write(5, b"five").unwrap();
        std::fs::rename(store.path(5), store.path(6)).unwrap();
        assert_eq!(store.newest_valid().unwrap(), None);
        store.delete(6).unwrap();
        assert!(store.all().unwrap().is_empty());
    }
}
