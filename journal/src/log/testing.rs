//! Drafts and faults for tests, of this crate and (feature `testing`) of others.

use crate::record::Draft;

/// A small event about `dataset/people` and `row/people/<n>`, whose body is about 315 bytes.
pub fn draft(n: u64) -> Draft {
    sized_draft(n, 315)
}

/// An event as [`draft`] makes it, padded to about `body_bytes`.
pub fn sized_draft(n: u64, body_bytes: usize) -> Draft {
    super::bench::event(n, body_bytes)
}

/// `n` of them, numbered from `first`.
pub fn drafts(first: u64, n: u64) -> Vec<Draft> {
    (first..first + n).map(draft).collect()
}

/// A directory that vanishes with the test; in memory where the system offers that, since thousands of syncs are waited for.
#[cfg(test)]
pub(crate) fn scratch() -> tempfile::TempDir {
    let memory = std::path::Path::new("/dev/shm");
    let dir = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    dir.expect("a temporary directory can be made")
}
