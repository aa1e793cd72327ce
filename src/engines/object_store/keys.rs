//! Which object keys there may be, and which path of a root each one stands for.
//! Called before any access to a local bucket; never touches the file system itself, except to see
//! that no symbolic link leads out of the root.

use std::path::{Path as FsPath, PathBuf};

use object_store::path::Path;

use super::BucketError;

/// Longest key, in bytes.
const KEY_BYTES_MAX: usize = 1024;
/// Longest part of a key: what file systems take, less the room for a staging suffix.
const SEGMENT_BYTES_MAX: usize = 240;

/// Reads a key as it came from outside.
///
/// # Errors
/// [`BucketError::BadKey`] for an empty key, one of more than 1,024 bytes, empty parts, `.` and `..`,
/// parts that begin with a dot, control characters, backslashes, and what looks like a staging name.
pub fn check_key(key: &str) -> Result<Path, BucketError> {
    let bad = |reason| Err(BucketError::BadKey { reason });
    if key.is_empty() {
        return bad("it is empty");
    }
    if key.len() > KEY_BYTES_MAX {
        return bad("it is longer than 1,024 bytes");
    }
    if key.chars().any(char::is_control) {
        return bad("control characters are not allowed");
    }
    if key.contains('\\') {
        return bad("backslashes are not allowed");
    }
    for segment in key.split('/') {
        if segment.is_empty() {
            return bad("it has an empty part");
        }
        if segment.starts_with('.') {
            return bad("no part may begin with a dot");
        }
        if segment.len() > SEGMENT_BYTES_MAX {
            return bad("a part of it is longer than 240 bytes");
        }
    }
    if is_staging_name(key) {
        return bad("names that end in `#` and digits are reserved");
    }
    Path::parse(key).map_err(|_| BucketError::BadKey {
        reason: "it is not a valid object path",
    })
}

/// Whether the last part is a name that `object_store`'s own local store writes to before it renames.
pub(super) fn is_staging_name(key: &str) -> bool {
    let name = key.rsplit('/').next().unwrap_or(key);
    name.split_once('#')
        .is_some_and(|(_, suffix)| !suffix.is_empty() && suffix.bytes().all(|b| b.is_ascii_digit()))
}

/// The file that stands for `key` under `root` (canonical).
///
/// # Errors
/// [`BucketError::BadKey`] when the key is not allowed or a symbolic link leads out of the root.
pub(super) fn file_of(root: &FsPath, key: &Path) -> Result<PathBuf, BucketError> {
    let key = check_key(key.as_ref())?;
    let file = root.join(key.as_ref());
    let mut deepest = file.as_path();
    loop {
        match deepest.canonicalize() {
            Ok(real) if real.starts_with(root) => return Ok(file),
            Ok(_) => break,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                if deepest.is_symlink() {
                    break;
                }
                deepest = deepest.parent().unwrap_or(root);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(BucketError::BadKey {
        reason: "it leads out of the bucket",
    })
}
