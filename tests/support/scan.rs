//! Every file of a site, looked at raw and unpacked: where something still stands that should be gone.

use std::fs;
use std::path::{Path, PathBuf};

use parquet::file::reader::{FileReader as _, SerializedFileReader};

use super::daemon::Site;

/// Every file below a directory.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}

/// What a file holds: its bytes, and its rows or its text when those are packed.
fn contents(path: &Path) -> Vec<Vec<u8>> {
    // A file that goes while it is looked at is gone.
    let Ok(bytes) = fs::read(path) else {
        return Vec::new();
    };
    let mut all = vec![bytes.clone()];
    if path
        .extension()
        .is_some_and(|extension| extension == "parquet")
    {
        let reader = SerializedFileReader::new(bytes::Bytes::from(bytes)).unwrap();
        let rows = reader.get_row_iter(None).unwrap();
        all.push(
            rows.map(|row| row.unwrap().to_string() + "\n")
                .collect::<String>()
                .into(),
        );
    } else if let Some(at) = bytes
        .windows(4)
        .position(|four| four == [0x28, 0xB5, 0x2F, 0xFD])
    {
        all.extend(zstd::decode_all(&bytes[at..]).ok());
    }
    all
}

/// Files in which one of the needles stands.
pub fn places_of(site: &Site, needles: &[Vec<u8>]) -> Vec<String> {
    let finders: Vec<_> = needles.iter().map(memchr::memmem::Finder::new).collect();
    let mut hits = Vec::new();
    for path in files(site.scratch()) {
        for content in contents(&path) {
            let found = finders
                .iter()
                .filter(|finder| finder.find(&content).is_some());
            let count = found.count();
            if count > 0 {
                hits.push(format!("{}: {count} needles", path.display()));
            }
        }
    }
    hits
}
