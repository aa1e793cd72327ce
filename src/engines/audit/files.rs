//! The files of the audit: lines in segments that are named by their first number, so that names in
//! order are lines in order.

use std::{
    fs::{self, File},
    io::{self, BufRead as _, BufReader},
    path::{Path, PathBuf},
};

use super::entry::{AuditFilter, AuditLine};

/// Ending of a segment's name.
const ENDING: &str = "audit";

/// The name of the segment that begins with this line.
pub(super) fn segment(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("{first:020}.{ENDING}"))
}

/// All segments, oldest first.
pub(super) fn segments(dir: &Path) -> io::Result<Vec<PathBuf>> {
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

/// A line's hash and JSON, as they stand there.
pub(super) fn parts(line: &str) -> Option<(&str, &str)> {
    let (hash, json) = line.split_once(' ')?;
    (hash.len() == 64).then_some((hash, json))
}

/// The lines of a segment that have their end, each without it. What is no text is kept as well as it
/// can be, for the hash to tell.
pub(super) fn lines(segment: &Path) -> io::Result<impl Iterator<Item = io::Result<String>>> {
    let mut reader = BufReader::with_capacity(256 << 10, File::open(segment)?);
    Ok(std::iter::from_fn(move || {
        let mut line = Vec::new();
        match reader.read_until(b'\n', &mut line) {
            Err(error) => Some(Err(error)),
            Ok(_) if line.pop() == Some(b'\n') => {
                Some(Ok(String::from_utf8_lossy(&line).into_owned()))
            }
            // The end of the file, or a line that is just being written.
            Ok(_) => None,
        }
    }))
}

/// The newest lines that pass the filter. A line that cannot be read is left out; `verify` tells of it.
pub(super) fn read(dir: &Path, filter: &AuditFilter) -> io::Result<Vec<AuditLine>> {
    let mut found = Vec::new();
    for segment in segments(dir)?.into_iter().rev() {
        let mut of_segment = Vec::new();
        for line in lines(&segment)? {
            let line = line?;
            let parsed = parts(&line).and_then(|(_, json)| serde_json::from_str(json).ok());
            of_segment.extend(parsed.filter(|line| filter.takes(line)));
        }
        let missing = filter.limit - found.len();
        found.extend(of_segment.into_iter().rev().take(missing));
        if found.len() == filter.limit {
            break;
        }
    }
    Ok(found)
}

/// The first line of an answer, which is not before line `from`.
pub(super) fn find(dir: &Path, from: u64, receipt: &str) -> io::Result<Option<AuditLine>> {
    let mut found = None;
    each_of(dir, from, receipt, &mut |line| {
        if line.entry.goes_on {
            return true;
        }
        found = Some(line);
        false
    })?;
    Ok(found)
}

/// The lines with an answer's further rows, which are not before line `from`.
pub(super) fn parts_of(dir: &Path, from: u64, receipt: &str) -> io::Result<Vec<AuditLine>> {
    let mut found = Vec::new();
    each_of(dir, from, receipt, &mut |line| {
        found.extend(Some(line).filter(|line| line.entry.goes_on));
        true
    })?;
    Ok(found)
}

/// Hands the lines with this receipt over, oldest first, as long as they are wanted.
fn each_of(
    dir: &Path,
    from: u64,
    receipt: &str,
    wanted: &mut dyn FnMut(AuditLine) -> bool,
) -> io::Result<()> {
    let all = segments(dir)?;
    let begins_after = |path: &PathBuf| {
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        let first = stem.and_then(|stem| stem.parse::<u64>().ok());
        first.is_some_and(|first| first > from)
    };
    let after = all.iter().position(begins_after).unwrap_or(all.len());
    for segment in all.get(after.saturating_sub(1)..).unwrap_or_default() {
        for line in lines(segment)? {
            let line = line?;
            // Most lines are told by their text, without being parsed.
            if !line.contains(receipt) {
                continue;
            }
            let parsed = parts(&line).and_then(|(_, json)| serde_json::from_str(json).ok());
            let of_it = |line: &AuditLine| line.entry.receipt.as_deref() == Some(receipt);
            if let Some(line) = parsed.filter(of_it)
                && !wanted(line)
            {
                return Ok(());
            }
        }
    }
    Ok(())
}
