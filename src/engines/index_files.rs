//! Index files where they can be mapped: those of a local bucket lie there already, those of another
//! are fetched into a cache beside the data and checked against their hashes. A bucket that does not
//! give them is stood in for by its rescue bucket. Searches ask before they open a generation.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use lakehouse_actors::PortError;
use lakehouse_journal::model::{
    ErrorKind,
    catalog::{CatalogState, FileDigest, Index},
};

use super::{
    buckets::{of_bucket, of_store},
    object_store::{Buckets, check_key, fetch},
};

/// The cache of index files.
pub struct IndexFiles {
    dir: PathBuf,
    buckets: Arc<Buckets>,
    /// One generation is fetched at a time: who comes second finds it there.
    fetching: tokio::sync::Mutex<()>,
}

impl IndexFiles {
    /// A cache in this directory, of files in these buckets.
    pub fn new(dir: PathBuf, buckets: Arc<Buckets>) -> Self {
        Self {
            dir,
            buckets,
            fetching: tokio::sync::Mutex::default(),
        }
    }

    /// The directory that holds the files of a generation, or the one of a delta. Their hashes are the
    /// opener's to check when they lie in a local bucket; what was fetched is checked here.
    ///
    /// # Errors
    /// `Unavailable` when neither the bucket nor its rescue bucket gives them; `Corrupt` when what they
    /// give is not what was built.
    pub async fn of_generation(
        &self,
        bucket: &str,
        prefix: &str,
        files: &[FileDigest],
    ) -> Result<PathBuf, PortError> {
        let opened = self
            .buckets
            .get(bucket)
            .map_err(|e| of_bucket(bucket, &e))?;
        if let Some(local) = &opened.local {
            let dir = local
                .file(prefix)
                .map_err(|error| of_bucket(bucket, &error))?;
            if opened.health.is_up() && files.iter().all(|file| dir.join(&file.name).is_file()) {
                return Ok(dir);
            }
            if opened.rescue.is_none() {
                // The opener says which file is missing.
                return if opened.health.is_up() {
                    Ok(dir)
                } else {
                    Err(down(bucket))
                };
            }
        }
        let _fetching = self.fetching.lock().await;
        let dir = self.dir.join(bucket).join(prefix);
        if is_complete(&dir, files) {
            return Ok(dir);
        }
        self.fetch_all(bucket, prefix, files, &dir).await?;
        Ok(dir)
    }

    async fn fetch_all(
        &self,
        bucket: &str,
        prefix: &str,
        files: &[FileDigest],
        dir: &Path,
    ) -> Result<(), PortError> {
        let internal = |error: std::io::Error| PortError::internal(error.to_string());
        let store = self
            .buckets
            .rescued(bucket)
            .map_err(|error| of_bucket(bucket, &error))?;
        std::fs::create_dir_all(&self.dir).map_err(internal)?;
        let work = tempfile::Builder::new()
            .prefix("fetch-")
            .tempdir_in(&self.dir)
            .map_err(internal)?;
        for file in files {
            let key = format!("{prefix}/{}", file.name);
            let key = check_key(&key).map_err(|error| of_bucket(bucket, &error))?;
            let into = work.path().join(&file.name);
            if let Some(parent) = into.parent() {
                std::fs::create_dir_all(parent).map_err(internal)?;
            }
            let fetched = fetch(&store, &key, &into).await;
            let (hash, bytes) = fetched.map_err(|error| of_store(bucket, &error))?;
            if bytes != file.bytes || hash.to_hex().as_str() != file.blake3 {
                return Err(corrupt(bucket, &file.name));
            }
        }
        if let Some(parent) = dir.parent() {
            std::fs::create_dir_all(parent).map_err(internal)?;
        }
        if dir.exists() {
            std::fs::remove_dir_all(dir).map_err(internal)?;
        }
        std::fs::rename(work.keep(), dir).map_err(internal)
    }

    /// Removes files of generations that no index has any more: they may hold rows that are erased.
    pub fn forget_dropped(&self, state: &CatalogState) {
        for bucket in entries(&self.dir) {
            for index in entries(&bucket.join("vectors")) {
                for generation in entries(&index) {
                    let known = generation.strip_prefix(&bucket).ok().and_then(Path::to_str);
                    let is_kept = known.is_some_and(|prefix| {
                        let mut indexes = state.indexes.values();
                        let below = |key: &str| {
                            let rest = key.strip_prefix(prefix);
                            rest.is_some_and(|rest| rest.starts_with('/'))
                        };
                        indexes.any(|index| {
                            index.generations.iter().any(|built| built.prefix == prefix)
                                || is_being_built(index, prefix)
                                || index.deltas().any(|delta| below(&delta.file.key))
                        })
                    });
                    if !is_kept && let Err(error) = std::fs::remove_dir_all(&generation) {
                        tracing::warn!(%error, "files of a dropped generation stay in the cache");
                    }
                }
            }
        }
    }
}

/// Whether a folder is of the build that is due: it is opened before an event points at it.
pub(super) fn is_being_built(index: &Index, prefix: &str) -> bool {
    index.building.as_ref().is_some_and(|(generation, _)| {
        let folder = format!("vectors/{}/{generation}-", index.name);
        prefix.starts_with(&folder)
    })
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let found = std::fs::read_dir(dir).into_iter().flatten().flatten();
    found
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect()
}

fn is_complete(dir: &Path, files: &[FileDigest]) -> bool {
    files.iter().all(|file| {
        let there = std::fs::metadata(dir.join(&file.name));
        there.is_ok_and(|there| there.len() == file.bytes)
    })
}

fn down(bucket: &str) -> PortError {
    let text = format!("bucket `{bucket}` does not answer");
    PortError::new(ErrorKind::Unavailable, "bucket_unavailable", text)
}

fn corrupt(bucket: &str, name: &str) -> PortError {
    let text = format!("index file `{name}` in bucket `{bucket}` is not what was built");
    PortError::new(ErrorKind::Corrupt, "index_corrupt", text)
}
