//! What an ingest leaves behind: finished Parquet files in a directory of their own.
//! The directory goes when its guard is dropped, so an ingest that fails leaves nothing;
//! the caller takes the files by moving them and then dropping, or by keeping the directory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use arrow::datatypes::SchemaRef;
use lakehouse_journal::model::catalog::Proposal;
use roaring::RoaringTreemap;

use super::error::IngestError;

/// One finished, synced Parquet file.
#[derive(Clone, Debug)]
pub struct StagedFile {
    /// Where it lies, inside the staging directory of its ingest.
    pub path: PathBuf,
    /// Rows in it.
    pub rows: u64,
    /// Size in bytes.
    pub bytes: u64,
    /// blake3 of its bytes, in hex.
    pub blake3: String,
    /// Whether its rows stand in ascending order of the key.
    pub sorted_by_key: bool,
    /// Positions (from 0) of rows whose key comes again later in the same ingest.
    pub superseded: RoaringTreemap,
}

/// The directory of one ingest; removed with all it holds when dropped.
#[derive(Debug)]
pub struct StagingDir {
    dir: tempfile::TempDir,
}

impl StagingDir {
    /// Makes a new directory beneath `parent`, which is made as well when it is missing.
    pub(super) fn create(parent: &Path) -> Result<Self, IngestError> {
        std::fs::create_dir_all(parent).map_err(IngestError::Staging)?;
        let dir = tempfile::Builder::new()
            .prefix("ingest-")
            .tempdir_in(parent)
            .map_err(IngestError::Staging)?;
        Ok(Self { dir })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Keeps the directory and its files: from now on they are the caller's to remove.
    pub fn keep(self) -> PathBuf {
        self.dir.keep()
    }
}

/// The result of an ingest.
#[derive(Debug)]
pub struct Staged {
    /// Schema of every file; all columns may be NULL unless the expected schema says otherwise.
    pub schema: SchemaRef,
    /// The files, in the order of the input's rows; none when there are no rows.
    pub files: Vec<StagedFile>,
    /// Rows in all files, superseded ones included.
    pub rows: u64,
    /// Rows whose key comes again later in this ingest.
    pub superseded_rows: u64,
    /// Blocks of rows that were written.
    pub batches: u64,
    /// What columns look like that hold data about people.
    pub proposals: BTreeMap<String, Proposal>,
    /// Size of the body as received, or of a database's rows in memory, in bytes.
    pub source_bytes: u64,
    /// blake3 of the same, in hex: equal bytes, or equal batches, have equal hashes.
    pub source_blake3: String,
    /// Removes the files when dropped.
    pub dir: StagingDir,
}
