//! Every file of a site, looked at raw and unpacked: where something still stands that should be gone.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayData, RecordBatch};
use lance_core::cache::LanceCache;
use lance_index::scalar::IndexStore as _;
use lance_index::scalar::inverted::{TOKEN_FST_BYTES_COL, TokenSet, TokenSetFormat};
use lance_index::scalar::lance_format::LanceIndexStore;
use lance_io::object_store::ObjectStore;
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

/// All the buffers of a column, those of its children too: values stand in them one after the other.
fn buffers(column: &ArrayData, into: &mut Vec<u8>) {
    for buffer in column.buffers() {
        into.extend_from_slice(buffer.as_slice());
        into.push(0);
    }
    for child in column.child_data() {
        buffers(child, into);
    }
}

/// The columns of a file of Lance's, data or index, and the words of a dictionary; `None` when it is
/// none that can be read.
fn lance_columns(path: &Path) -> Option<Vec<u8>> {
    let directory = object_store_014::path::Path::from_absolute_path(path.parent()?).ok()?;
    let name = path.file_name()?.to_str()?.to_owned();
    let read = async move {
        let cache = Arc::new(LanceCache::no_cache());
        let files = LanceIndexStore::new(Arc::new(ObjectStore::local()), directory, cache);
        let reader = files.open_index_file(&name).await.ok()?;
        let rows = reader.read_range(0..reader.num_rows(), None).await.ok()?;
        let words = match rows.column_by_name(TOKEN_FST_BYTES_COL) {
            Some(_) => {
                let words = TokenSet::load(reader, TokenSetFormat::Fst).await.ok()?;
                words.to_batch(TokenSetFormat::Arrow).ok()
            }
            None => None,
        };
        Some([Some(rows), words].into_iter().flatten().collect())
    };
    // The caller stands on a runtime already, on which nobody may wait.
    let batches: Vec<RecordBatch> = std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(read)
    })
    .join()
    .unwrap()?;
    let mut bytes = Vec::new();
    for column in batches.iter().flat_map(RecordBatch::columns) {
        buffers(&column.to_data(), &mut bytes);
    }
    Some(bytes)
}

/// What a file holds: its bytes, and its rows or its text when those are packed.
fn contents(path: &Path) -> Vec<Vec<u8>> {
    // A file that goes while it is looked at is gone.
    let Ok(bytes) = fs::read(path) else {
        return Vec::new();
    };
    let mut all = vec![bytes.clone()];
    let extension = path.extension().and_then(|extension| extension.to_str());
    if let Some("lance" | "idx") = extension {
        all.extend(lance_columns(path));
    } else if extension == Some("parquet") {
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

/// The files in which needles stand, and how many of them do: raw, and once more unpacked.
pub fn found(site: &Site, needles: &[Vec<u8>]) -> Vec<(String, usize)> {
    let finders: Vec<_> = needles.iter().map(memchr::memmem::Finder::new).collect();
    let mut hits = Vec::new();
    for path in files(site.scratch()) {
        for content in contents(&path) {
            let found = finders
                .iter()
                .filter(|finder| finder.find(&content).is_some());
            let count = found.count();
            if count > 0 {
                hits.push((path.display().to_string(), count));
            }
        }
    }
    hits
}

/// Files in which one of the needles stands.
pub fn places_of(site: &Site, needles: &[Vec<u8>]) -> Vec<String> {
    let hits = found(site, needles).into_iter();
    hits.map(|(path, count)| format!("{path}: {count} needles"))
        .collect()
}
