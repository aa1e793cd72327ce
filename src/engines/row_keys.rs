//! Row keys as keyed hashes, for datasets whose keys must not be read off the journal: the secret
//! behind the hashes, and the way back from hashes to keys through the rows that are still there.

use std::{collections::HashSet, path::Path, sync::Arc};

use futures::StreamExt;
use lakehouse_actors::{PortError, ports::KeyHash};
use lakehouse_journal::model::catalog::{DataFile, Dataset, HASHED_KEY_PREFIX};

use super::{
    keyring::{KeyringError, random_secret},
    tables::of_query,
};
use crate::query::{QueryEngine, row_key::names};

/// The secret's name in the keyring.
const SECRET: &str = "row-keys.key";

/// Hashes row keys with this data directory's secret, which is made when it is not there.
///
/// # Errors
/// When the keyring cannot be used.
pub fn hasher(data_dir: &Path) -> Result<KeyHash, KeyringError> {
    let secret = random_secret(data_dir, SECRET)?;
    Ok(Arc::new(move |key| {
        let hash = blake3::keyed_hash(&secret, key.as_bytes());
        format!("{HASHED_KEY_PREFIX}{}", hash.to_hex())
    }))
}

/// The keys behind these hashes, of all rows of a dataset's files, deleted and replaced ones too.
///
/// # Errors
/// When the rows cannot be read.
pub async fn clear(
    query: &QueryEngine,
    dataset: &Dataset,
    hashes: &[String],
    key_hash: &KeyHash,
) -> Result<Vec<String>, PortError> {
    let wanted: HashSet<&String> = hashes.iter().collect();
    if dataset.key.is_empty() {
        return Ok(Vec::new());
    }
    let whole = dataset.all_files().map(|file| {
        Arc::new(DataFile {
            deleted: file.erased.clone(),
            ..file.clone()
        })
    });
    let whole = Arc::new(Dataset {
        files: whole.collect(),
        ..dataset.clone()
    });
    let mut rows = query
        .scan_columns(&whole, &dataset.key)
        .await
        .map_err(|error| of_query(&error))?;
    let mut keys = HashSet::new();
    while let Some(batch) = rows.next().await {
        let batch = batch.map_err(|error| of_query(&error))?;
        let texts =
            names(batch.columns()).map_err(|error| PortError::internal(error.to_string()))?;
        for key in texts.iter().flatten() {
            if wanted.contains(&key_hash(key)) {
                keys.insert(key.to_owned());
            }
        }
    }
    Ok(keys.into_iter().collect())
}
