//! The files of the error journal: write-once batches of JSON lines, named by number. A batch appears
//! whole and durable or not at all.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use super::Noted;

/// Ending of a batch's name.
const ENDING: &str = "errors";

/// All batches, oldest first.
pub(super) fn list(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == ENDING) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Every failure in the directory, oldest first. What a crash left half-written is removed.
pub(super) fn read_all(dir: &Path) -> io::Result<Vec<Noted>> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "new") {
            fs::remove_file(path)?;
        }
    }
    let mut all = Vec::new();
    for batch in list(dir)? {
        let text = fs::read_to_string(&batch)?;
        for line in text.lines() {
            if let Ok(noted) = serde_json::from_str(line) {
                all.push(noted);
            } else {
                tracing::warn!("a line of the error journal cannot be read");
            }
        }
    }
    Ok(all)
}

fn next_number(dir: &Path) -> io::Result<u64> {
    let last = list(dir)?.pop();
    let number = last
        .as_ref()
        .and_then(|path| path.file_stem()?.to_str()?.parse::<u64>().ok());
    Ok(number.unwrap_or(0) + 1)
}

/// Writes the next batch.
pub(super) fn write(dir: &Path, batch: &[Noted]) -> io::Result<PathBuf> {
    let path = dir.join(format!("{:020}.{ENDING}", next_number(dir)?));
    let new = path.with_extension("new");
    let mut text = Vec::new();
    for noted in batch {
        serde_json::to_writer(&mut text, noted)?;
        text.push(b'\n');
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(&text)?;
    file.sync_all()?;
    fs::rename(&new, &path)?;
    File::open(dir)?.sync_all()?;
    Ok(path)
}

/// Puts one batch in the place of all: it is there before the others go.
pub(super) fn replace_all(dir: &Path, kept: &[Noted]) -> io::Result<()> {
    let old = list(dir)?;
    if old.is_empty() {
        return Ok(());
    }
    if !kept.is_empty() {
        write(dir, kept)?;
    }
    for batch in old {
        fs::remove_file(batch)?;
    }
    File::open(dir)?.sync_all()
}
