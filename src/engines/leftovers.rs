//! Files in the daemon's own directories, staging and spill: when each was written. The report on an
//! erasure asks; nothing is removed here.

use std::{path::Path, time::SystemTime};

use lakehouse_journal::record::Micros;

/// When each file below a directory was written; nothing for one whose time cannot be told. What goes
/// while this looks is not there.
pub fn written_below(dir: &Path) -> Vec<Option<Micros>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        if metadata.is_dir() {
            found.extend(written_below(&entry.path()));
            continue;
        }
        let at = metadata
            .modified()
            .ok()
            .and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok())
            .and_then(|since| Micros::try_from(since.as_micros()).ok());
        found.push(at);
    }
    found
}
