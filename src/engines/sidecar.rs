//! The list of deleted rows beside a dataset's files, `{dataset}_tombstones.parquet`: for engines other
//! than this daemon, which read the files and do not know their deletion vectors. The actors call it by
//! the `Sidecar` port after rows were deleted for good and after files were rewritten; nothing here
//! reads the list.

mod list;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use arrow::{
    array::RecordBatch,
    datatypes::{DataType, Schema, SchemaRef},
};
use async_trait::async_trait;
use futures::TryStreamExt;
use lakehouse_actors::{
    PortError,
    ports::{KeyHash, Sidecar},
};
use lakehouse_journal::{
    model::catalog::{DataFile, Dataset, DeletionVector, TombstoneBatch},
    record::Seq,
};
use object_store::ObjectStoreExt;
use tokio::sync::Mutex;

use self::list::{Entry, List};
use super::{
    buckets::{of_bucket, of_store},
    data_file::{OpenFile, read_schema},
    object_store::{Buckets, check_key},
    tables::of_query,
};
use crate::query::{
    QueryError, arrow_schema,
    row_key::{names, spelled},
};

/// Keys whose spelling is compared at a time.
const KEYS_AT_A_TIME: usize = 65_536;

/// Writes the lists of all datasets.
pub struct LakeSidecar {
    staging: PathBuf,
    buckets: Arc<Buckets>,
    key_hash: KeyHash,
    /// Up to where each dataset's list says what the state says. Held while a list is written, so that
    /// an older snapshot never takes the place of a newer one.
    written: Mutex<BTreeMap<String, Seq>>,
}

impl LakeSidecar {
    /// Lists that are made in `staging`. `key_hash` is asked where a key is not known in clear.
    pub fn new(staging: PathBuf, buckets: Arc<Buckets>, key_hash: KeyHash) -> Self {
        Self {
            staging,
            buckets,
            key_hash,
            written: Mutex::default(),
        }
    }
}

/// The rows of a live file that are deleted for good and still in it.
fn erased(file: &DataFile) -> &DeletionVector {
    &file.erased
}

#[async_trait]
impl Sidecar for LakeSidecar {
    async fn write(&self, dataset: &Dataset) -> Result<(), PortError> {
        let position = dataset.files_seq.max(dataset.last_tombstone_seq());
        let mut written = self.written.lock().await;
        if written
            .get(&dataset.id)
            .is_some_and(|last| *last > position)
        {
            return Ok(());
        }
        let object = dataset.sidecar_key();
        match self.list(dataset).await? {
            Some(list) => self.replace(&dataset.bucket, &object, list).await?,
            None => self.remove(&dataset.bucket, &object).await?,
        }
        written.insert(dataset.id.clone(), position);
        Ok(())
    }
}

impl LakeSidecar {
    /// The list in staging; nothing when it would be empty.
    async fn list(&self, dataset: &Dataset) -> Result<Option<tempfile::TempPath>, PortError> {
        let Some(key) = key_schema(dataset)? else {
            return Ok(None);
        };
        let mut list = List::new(self.staging.clone());
        for file in &dataset.files {
            let gone = erased(file);
            if gone.is_empty() {
                continue;
            }
            let opened = OpenFile::open(&self.buckets, file, &key).await;
            let opened = opened.map_err(|error| of_query(&error))?;
            let place = [file.entry.bucket.clone()];
            let failed = |error| of_query(&QueryError::from_engine(&error, &place));
            let mut rows = opened.rows_at(gone).map_err(failed)?;
            while let Some(batch) = rows.try_next().await.map_err(failed)? {
                let entries = self.entries(dataset, &batch)?;
                list = add(list, entries).await?;
            }
        }
        blocking(move || list.finish()).await
    }

    /// The rows whose deletion for good is known, with who did it, when and why.
    fn entries(&self, dataset: &Dataset, rows: &RecordBatch) -> Result<Vec<Entry>, PortError> {
        let names =
            names(rows.columns()).map_err(|error| PortError::internal(error.to_string()))?;
        let mut found = Vec::with_capacity(rows.num_rows());
        let mut unknown = BTreeMap::new();
        for name in names.iter().flatten() {
            match self.tombstone(dataset, name) {
                Some(batch) => found.push(Entry::new(name, batch)),
                None => {
                    unknown.insert(name.to_owned(), None);
                }
            }
        }
        // Text alone is spelled in one way only.
        let is_text =
            matches!(rows.columns(), [column] if column.data_type() == &DataType::Utf8View);
        if !unknown.is_empty() && !is_text {
            spelled_otherwise(dataset, &mut unknown).map_err(|error| of_query(&error))?;
            let known = unknown.iter();
            found.extend(known.filter_map(|(text, batch)| Some(Entry::new(text, (*batch)?))));
        }
        Ok(found)
    }

    fn tombstone<'a>(&self, dataset: &'a Dataset, key: &str) -> Option<&'a TombstoneBatch> {
        let hashed = || dataset.tombstones.get(&(self.key_hash)(key));
        let seq = dataset.tombstones.get(key).or_else(hashed)?;
        dataset.tombstone_batches.get(seq)
    }

    /// Puts the list in the place of the one before.
    async fn replace(
        &self,
        bucket: &str,
        object: &str,
        list: tempfile::TempPath,
    ) -> Result<(), PortError> {
        let opened = self
            .buckets
            .get(bucket)
            .map_err(|error| of_bucket(bucket, &error))?;
        let replaced = opened.replace_file(list.to_path_buf(), object).await;
        replaced.map_err(|error| of_store(bucket, &error))
    }

    async fn remove(&self, bucket: &str, object: &str) -> Result<(), PortError> {
        let opened = self
            .buckets
            .get(bucket)
            .map_err(|error| of_bucket(bucket, &error))?;
        let path = check_key(object).map_err(|error| of_bucket(bucket, &error))?;
        match opened.store.delete(&path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(of_store(bucket, &error)),
        }
    }
}

/// The key columns as they are read; nothing for a dataset without a key.
fn key_schema(dataset: &Dataset) -> Result<Option<SchemaRef>, PortError> {
    if dataset.key.is_empty() {
        return Ok(None);
    }
    let schema = arrow_schema(&dataset.schema).map_err(|error| of_query(&error))?;
    let field = |name: &String| schema.field_with_name(name).cloned();
    let fields = dataset.key.iter().map(field).collect::<Result<Vec<_>, _>>();
    let fields = fields.map_err(|error| PortError::internal(error.to_string()))?;
    Ok(Some(read_schema(&Schema::new(fields))))
}

/// Finds keys that were asked for in other words than their columns' own: `007` for a 7.
fn spelled_otherwise<'a>(
    dataset: &'a Dataset,
    unknown: &mut BTreeMap<String, Option<&'a TombstoneBatch>>,
) -> Result<(), QueryError> {
    let mut tombstones = dataset.tombstones.iter();
    loop {
        let some: Vec<_> = tombstones.by_ref().take(KEYS_AT_A_TIME).collect();
        if some.is_empty() {
            return Ok(());
        }
        let asked: Vec<String> = some.iter().map(|(key, _)| (*key).clone()).collect();
        for (name, (_, seq)) in spelled(dataset, &asked)?.into_iter().zip(some) {
            if let Some(batch) = name.and_then(|name| unknown.get_mut(&name)) {
                *batch = dataset.tombstone_batches.get(seq);
            }
        }
    }
}

async fn add(mut list: List, entries: Vec<Entry>) -> Result<List, PortError> {
    blocking(move || {
        list.add(&entries)?;
        Ok(list)
    })
    .await
}

/// Runs file work beside the async threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PortError> + Send + 'static,
) -> Result<T, PortError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| PortError::internal(error.to_string()))?
}
