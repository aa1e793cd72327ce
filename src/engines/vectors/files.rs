//! Files of a generation: digests, and the proof that a file is the one that was built.
//! Builders call it last, `open` calls it first: no engine reads a byte before it was checked.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use blake3::hazmat::{
    ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root,
};

use super::{FileDigest, VectorError, processors};

/// Bytes that one thread hashes at a time: a power of two, so that each is a subtree of blake3's.
const PIECE_BYTES: usize = 4 << 20;
const READ_BYTES: usize = 256 << 10;

/// Opens `name` below `dir`, and refuses it unless length and content are the expected ones.
///
/// # Errors
/// `Corrupt` when it is missing or different, `Io` when it cannot be read.
pub fn open_verified(dir: &Path, expected: &FileDigest) -> Result<File, VectorError> {
    let name = expected.name.as_str();
    let file = match File::open(dir.join(name)) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(VectorError::corrupt(name, "is missing"));
        }
        Err(error) => return Err(VectorError::io(name)(error)),
    };
    let bytes = file.metadata().map_err(VectorError::io(name))?.len();
    if bytes != expected.bytes {
        let reason = format!("has {bytes} bytes, {} were written", expected.bytes);
        return Err(VectorError::corrupt(name, reason));
    }
    let hash = hash_file(&file, bytes).map_err(VectorError::io(name))?;
    if hash.to_hex().as_str() != expected.blake3 {
        return Err(VectorError::corrupt(
            name,
            "does not have the content that was written",
        ));
    }
    Ok(file)
}

/// Checks that a file is there and of its size, for one that nothing is read of.
///
/// # Errors
/// `Corrupt` when it is missing or of another size.
pub fn same_size(dir: &Path, expected: &FileDigest) -> Result<(), VectorError> {
    let name = expected.name.as_str();
    match std::fs::metadata(dir.join(name)) {
        Ok(found) if found.len() == expected.bytes => Ok(()),
        Ok(found) => {
            let reason = format!("has {} bytes, {} were written", found.len(), expected.bytes);
            Err(VectorError::corrupt(name, reason))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(VectorError::corrupt(name, "is missing"))
        }
        Err(error) => Err(VectorError::io(name)(error)),
    }
}

/// Makes `name` below `dir` durable and measures it.
///
/// # Errors
/// `Io`.
pub fn seal(dir: &Path, name: &str) -> Result<FileDigest, VectorError> {
    let seal = || {
        let file = File::open(dir.join(name))?;
        file.sync_all()?;
        let bytes = file.metadata()?.len();
        Ok(FileDigest {
            name: name.to_owned(),
            bytes,
            blake3: hash_file(&file, bytes)?.to_hex().to_string(),
        })
    };
    seal().map_err(VectorError::io(name))
}

/// Writes a small file in one go; [`seal`] makes it durable.
///
/// # Errors
/// `Io`, also when the file is there already.
pub fn write_new(dir: &Path, name: &str, content: &[u8]) -> Result<(), VectorError> {
    let write = || File::create_new(dir.join(name))?.write_all(content);
    write().map_err(VectorError::io(name))
}

/// Reads a small file that was opened by [`open_verified`].
///
/// # Errors
/// `Io`.
pub fn read_all(mut file: &File, name: &str) -> Result<Vec<u8>, VectorError> {
    let mut content = Vec::new();
    file.read_to_end(&mut content)
        .map_err(VectorError::io(name))?;
    Ok(content)
}

/// Makes the names in `dir` durable.
///
/// # Errors
/// `Io`.
pub fn sync_dir(dir: &Path) -> Result<(), VectorError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(VectorError::io("."))
}

/// The names of all files below `dir`, in order.
///
/// # Errors
/// `Io`.
pub fn files_below(dir: &Path) -> Result<Vec<String>, VectorError> {
    let mut names = Vec::new();
    walk(dir, "", &mut |name, is_dir| {
        if !is_dir {
            names.push(name.to_owned());
        }
        Ok(())
    })?;
    names.sort();
    Ok(names)
}

/// Makes the names in `dir` and in all directories below it durable.
///
/// # Errors
/// `Io`.
pub fn sync_dirs_below(dir: &Path) -> Result<(), VectorError> {
    walk(dir, "", &mut |name, is_dir| {
        if is_dir {
            sync_dir(&dir.join(name))
        } else {
            Ok(())
        }
    })?;
    sync_dir(dir)
}

/// Calls `visit` with the name of everything below `dir`, and whether it is a directory.
fn walk(
    dir: &Path,
    prefix: &str,
    visit: &mut impl FnMut(&str, bool) -> Result<(), VectorError>,
) -> Result<(), VectorError> {
    for entry in std::fs::read_dir(dir).map_err(VectorError::io(prefix))? {
        let entry = entry.map_err(VectorError::io(prefix))?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        let is_dir = entry.file_type().map_err(VectorError::io(&name))?.is_dir();
        if is_dir {
            walk(&entry.path(), &format!("{name}/"), visit)?;
        }
        visit(&name, is_dir)?;
    }
    Ok(())
}

/// blake3 of a file, read and hashed by all processors.
fn hash_file(file: &File, bytes: u64) -> std::io::Result<blake3::Hash> {
    let length = usize::try_from(bytes).map_err(std::io::Error::other)?;
    if length <= PIECE_BYTES {
        let mut hasher = blake3::Hasher::new();
        read_into(&mut hasher, file, 0, length)?;
        return Ok(hasher.finalize());
    }
    let pieces = hash_pieces(file, length)?;
    let left = left_pieces(pieces.len());
    Ok(merge_subtrees_root(
        &merged(&pieces[..left]),
        &merged(&pieces[left..]),
        Mode::Hash,
    ))
}

fn hash_pieces(file: &File, length: usize) -> std::io::Result<Vec<ChainingValue>> {
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut hashed = Vec::new();
        loop {
            let piece = next.fetch_add(1, Ordering::Relaxed);
            let start = piece * PIECE_BYTES;
            if start >= length {
                return std::io::Result::Ok(hashed);
            }
            let mut piece_hasher = blake3::Hasher::new();
            piece_hasher.set_input_offset(start as u64);
            read_into(
                &mut piece_hasher,
                file,
                start,
                PIECE_BYTES.min(length - start),
            )?;
            hashed.push((piece, piece_hasher.finalize_non_root()));
        }
    };
    let mut pieces = vec![ChainingValue::default(); length.div_ceil(PIECE_BYTES)];
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..processors()).map(|_| scope.spawn(worker)).collect();
        for worker in workers {
            for (piece, value) in worker.join().expect("hashing does not panic")? {
                pieces[piece] = value;
            }
        }
        Ok(pieces)
    })
}

fn read_into(
    hasher: &mut blake3::Hasher,
    file: &File,
    start: usize,
    length: usize,
) -> std::io::Result<()> {
    let mut buffer = vec![0; READ_BYTES.min(length)];
    let mut done = 0;
    while done < length {
        let part = (length - done).min(buffer.len());
        file.read_exact_at(&mut buffer[..part], (start + done) as u64)?;
        hasher.update(&buffer[..part]);
        done += part;
    }
    Ok(())
}

/// The chaining value over whole pieces (the last may be short), by the shape of blake3's tree.
fn merged(pieces: &[ChainingValue]) -> ChainingValue {
    if let [piece] = pieces {
        *piece
    } else {
        let (left, right) = pieces.split_at(left_pieces(pieces.len()));
        merge_subtrees_non_root(&merged(left), &merged(right), Mode::Hash)
    }
}

/// How many of `count` pieces the left subtree holds: the largest power of two below it.
fn left_pieces(count: usize) -> usize {
    count.next_power_of_two() / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_in_pieces_is_blake3() {
        let dir = tempfile::tempdir().unwrap();
        for length in [
            0,
            1,
            PIECE_BYTES,
            PIECE_BYTES + 1,
            2 * PIECE_BYTES,
            3 * PIECE_BYTES,
            5 * PIECE_BYTES + 777,
        ] {
            let content: Vec<u8> = (0..length)
                .map(|i| u8::try_from((i * 7 + i / 251) % 256).unwrap())
                .collect();
            let name = format!("{length}");
            write_new(dir.path(), &name, &content).unwrap();
            let digest = seal(dir.path(), &name).unwrap();
            assert_eq!(
                digest.blake3,
                blake3::hash(&content).to_hex().as_str(),
                "{length}"
            );
            assert!(open_verified(dir.path(), &digest).is_ok());
        }
    }

    #[test]
    fn a_missing_a_shorter_and_a_changed_file_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        write_new(dir.path(), "a", b"content").unwrap();
        let digest = seal(dir.path(), "a").unwrap();
        let refuse = |content: &[u8]| {
            std::fs::write(dir.path().join("a"), content).unwrap();
            open_verified(dir.path(), &digest).unwrap_err().to_string()
        };
        assert_eq!(
            refuse(b"cantent"),
            "index file `a` does not have the content that was written"
        );
        assert_eq!(
            refuse(b"conten"),
            "index file `a` has 6 bytes, 7 were written"
        );
        std::fs::remove_file(dir.path().join("a")).unwrap();
        assert_eq!(
            open_verified(dir.path(), &digest).unwrap_err().to_string(),
            "index file `a` is missing"
        );
    }
}
