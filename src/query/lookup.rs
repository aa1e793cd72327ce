//! Rows by key: where the rows of given keys lie, and what they hold. Tombstones and upserts ask for
//! positions, search asks for columns of its hits. Reads the key column only, and of it only the
//! pages that can hold a key; never decides what is visible by other means than the table does.

mod keys;
mod pages;

use std::{sync::Arc, time::Duration};

use arrow::{
    array::{ArrayRef, RecordBatch},
    compute::concat_batches,
};
use datafusion::{
    common::DataFusionError,
    datasource::physical_plan::parquet::metadata::DFParquetMetadata,
    execution::cache::cache_manager::FileMetadataCache,
    parquet::{
        arrow::{
            ParquetRecordBatchStreamBuilder, ProjectionMask,
            arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions},
            async_reader::ParquetObjectReader,
        },
        errors::ParquetError,
        file::metadata::PageIndexPolicy,
    },
};
use futures::{StreamExt, TryStreamExt};
use lakehouse_journal::model::catalog::{DataFile, Dataset, DeletionVector};
use object_store::ObjectStore;
use roaring::RoaringBitmap;

use self::{keys::KeySet, pages::Candidates};
use super::{
    QueryEngine, QueryError, QueryStream, SessionTables,
    facts::{FOOTER_HINT_BYTES, object_meta},
    row_key::key_types,
};

/// Rows of the key column decoded at a time.
const BATCH_ROWS: usize = 8_192;
/// A deadline for work of the daemon itself, which ends when it is given up.
const NO_DEADLINE: Duration = Duration::from_hours(365 * 24);

/// A row of a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The file's object key.
    pub file: Arc<str>,
    /// Row in the file, from 0, deleted rows counted.
    pub row: u32,
}

/// Where the rows of keys lie.
#[derive(Debug, Clone, Default)]
pub struct Resolved {
    /// Keys that have visible rows, in the order asked for, each with all its rows.
    pub found: Vec<(String, Vec<Position>)>,
    /// Keys that have none, in the order asked for.
    pub missing: Vec<String>,
}

/// Columns of rows that were asked for by key.
#[derive(Debug, Clone)]
pub struct KeyedRows {
    /// For each row of `batch` the key that it was asked for by.
    pub keys: Vec<String>,
    /// The columns asked for.
    pub batch: RecordBatch,
}

impl QueryEngine {
    /// Finds the visible rows of keys of these columns. A key is text, as `row_key` spells it: a number is
    /// parsed for a column of numbers, a date for one of dates; what does not parse is missing.
    ///
    /// # Errors
    /// [`QueryError::ColumnNotFound`]; [`QueryError::Unavailable`] and [`QueryError::Corrupt`] of a file.
    pub async fn resolve_keys(
        &self,
        dataset: &Arc<Dataset>,
        key: &[String],
        keys: &[String],
    ) -> Result<Resolved, QueryError> {
        let set = Arc::new(KeySet::new(&key_types(dataset, key)?, keys)?);
        let lookup = Arc::new(Lookup {
            store: Arc::clone(self.store()),
            footers: self
                .template()
                .runtime_env()
                .cache_manager
                .get_file_metadata_cache(),
            columns: key.to_vec(),
            set: Arc::clone(&set),
        });
        let files: Vec<Arc<DataFile>> = dataset.files.clone();
        let parallel = self.template().config().target_partitions();
        let found: Vec<Vec<(u32, u32)>> = futures::stream::iter(files)
            .map(|file| {
                let lookup = Arc::clone(&lookup);
                let task = self.handle().spawn(async move { lookup.file(&file).await });
                async move { Abort(task).finish().await }
            })
            .buffered(parallel)
            .try_collect()
            .await?;
        Ok(gather(dataset, &set, keys, &found))
    }

    /// Reads columns of the visible rows of keys, in no particular order.
    ///
    /// # Errors
    /// As [`QueryEngine::resolve_keys`], and whatever a query fails with.
    pub async fn rows_by_keys(
        &self,
        dataset: &Arc<Dataset>,
        key: &[String],
        keys: &[String],
        columns: &[String],
    ) -> Result<KeyedRows, QueryError> {
        let resolved = self.resolve_keys(dataset, key, keys).await?;
        let set = KeySet::new(&key_types(dataset, key)?, keys)?;
        let narrowed = narrowed(dataset, &resolved);
        let wanted = [key, columns].concat();
        let stream = self.scan_columns(&narrowed, &wanted).await?;
        let schema = Arc::clone(stream.schema());
        let batches: Vec<RecordBatch> = stream.try_collect().await?;
        let failed = |error: arrow::error::ArrowError| QueryError::Internal(error.to_string());
        let all = concat_batches(&schema, &batches).map_err(failed)?;
        let mut named = Vec::with_capacity(all.num_rows());
        for slot in set.slots(&all.columns()[..key.len()])? {
            let slot =
                slot.ok_or_else(|| QueryError::Internal("a row that nobody asked for".to_owned()))?;
            named.push(keys[set.first_key(slot)].clone());
        }
        let rest: Vec<usize> = (key.len()..all.num_columns()).collect();
        Ok(KeyedRows {
            keys: named,
            batch: all.project(&rest).map_err(failed)?,
        })
    }

    /// Reads columns of every visible row, for work of the daemon itself: there is no deadline; drop
    /// the stream to end it. Columns that are named twice come twice.
    ///
    /// # Errors
    /// [`QueryError::ColumnNotFound`], and whatever a query fails with.
    pub async fn scan_columns(
        &self,
        dataset: &Arc<Dataset>,
        columns: &[String],
    ) -> Result<QueryStream, QueryError> {
        let quoted: Vec<String> = columns
            .iter()
            .enumerate()
            .map(|(index, name)| format!("{} AS c{index}", quoted(name)))
            .collect();
        let sql = format!("SELECT {} FROM {}", quoted.join(", "), quoted_name(dataset));
        self.session(SessionTables::of_dataset(dataset))
            .with_timeout(NO_DEADLINE)
            .execute(&sql, Vec::new(), None)
            .await
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn quoted_name(dataset: &Dataset) -> String {
    quoted(&dataset.name)
}

/// A snapshot with the found rows only, to be read as any other.
fn narrowed(dataset: &Dataset, resolved: &Resolved) -> Arc<Dataset> {
    let mut wanted: std::collections::BTreeMap<&str, RoaringBitmap> =
        std::collections::BTreeMap::new();
    for position in resolved.found.iter().flat_map(|(_, rows)| rows) {
        wanted
            .entry(&position.file)
            .or_default()
            .insert(position.row);
    }
    let mut narrow = dataset.clone();
    narrow.files = dataset
        .files
        .iter()
        .filter_map(|file| {
            let rows = wanted.get(file.entry.key.as_str())?;
            let mut deleted = RoaringBitmap::new();
            deleted.insert_range(0..u32::try_from(file.entry.rows).unwrap_or(u32::MAX));
            deleted -= rows;
            deleted |= file.deleted.bitmap();
            Some(Arc::new(DataFile {
                entry: file.entry.clone(),
                added_seq: file.added_seq,
                deleted: DeletionVector::from(deleted),
                erased: file.erased.clone(),
            }))
        })
        .collect();
    Arc::new(narrow)
}

/// Puts what the files gave under the keys that were asked for.
fn gather(dataset: &Dataset, set: &KeySet, keys: &[String], found: &[Vec<(u32, u32)>]) -> Resolved {
    let mut rows: Vec<Vec<Position>> = vec![Vec::new(); set.len()];
    for (file, hits) in dataset.files.iter().zip(found) {
        let name: Arc<str> = file.entry.key.as_str().into();
        for (slot, row) in hits {
            rows[*slot as usize].push(Position {
                file: Arc::clone(&name),
                row: *row,
            });
        }
    }
    let mut resolved = Resolved::default();
    let mut told = std::collections::HashSet::with_capacity(keys.len());
    for (index, key) in keys.iter().enumerate() {
        if !told.insert(key.as_str()) {
            continue;
        }
        match set.slot_of(index).map(|slot| &rows[slot as usize]) {
            Some(rows) if !rows.is_empty() => resolved.found.push((key.clone(), rows.clone())),
            _ => resolved.missing.push(key.clone()),
        }
    }
    resolved
}

/// A task that ends with the one who waits for it.
struct Abort<T>(tokio::task::JoinHandle<Result<T, QueryError>>);

impl<T> Abort<T> {
    async fn finish(mut self) -> Result<T, QueryError> {
        match (&mut self.0).await {
            Ok(answer) => answer,
            Err(error) => Err(QueryError::Internal(error.to_string())),
        }
    }
}

impl<T> Drop for Abort<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// One search through the files of a dataset.
struct Lookup {
    store: Arc<dyn ObjectStore>,
    footers: Arc<dyn FileMetadataCache>,
    columns: Vec<String>,
    set: Arc<KeySet>,
}

impl Lookup {
    /// The visible rows of a file that have one of the keys, as (slot, row).
    async fn file(&self, file: &DataFile) -> Result<Vec<(u32, u32)>, QueryError> {
        let bucket = [file.entry.bucket.clone()];
        self.rows(file)
            .await
            .map_err(|error| QueryError::from_engine(&error, &bucket))
    }

    async fn rows(&self, file: &DataFile) -> Result<Vec<(u32, u32)>, DataFusionError> {
        if self.set.is_empty() || file.live_rows() == 0 {
            return Ok(Vec::new());
        }
        let meta = object_meta(file);
        let footer = DFParquetMetadata::new(self.store.as_ref(), &meta)
            .with_file_metadata_cache(Some(Arc::clone(&self.footers)))
            .with_metadata_size_hint(Some(FOOTER_HINT_BYTES))
            .with_page_index_policy(Some(PageIndexPolicy::Optional))
            .fetch_metadata()
            .await?;
        let candidates = Candidates::of(&footer, &self.columns, &self.set)?;
        if candidates.groups.is_empty() {
            return Ok(Vec::new());
        }
        let reader = ParquetObjectReader::new(Arc::clone(&self.store), meta.location.clone())
            .with_file_size(meta.size);
        let metadata = ArrowReaderMetadata::try_new(footer, ArrowReaderOptions::new())?;
        let mask = ProjectionMask::columns(
            metadata.parquet_schema(),
            self.columns.iter().map(String::as_str),
        );
        let mut positions = candidates.positions();
        let mut stream = ParquetRecordBatchStreamBuilder::new_with_metadata(reader, metadata)
            .with_projection(mask)
            .with_row_groups(candidates.groups)
            .with_row_selection(candidates.selection)
            .with_batch_size(BATCH_ROWS)
            .build()?;
        let mut hits = Vec::new();
        while let Some(batch) = stream.next().await {
            let batch = batch?;
            let slots = self
                .set
                .slots(&self.key_of(&batch)?)
                .map_err(|error| DataFusionError::External(Box::new(error)))?;
            for (slot, row) in slots.into_iter().zip(&mut positions) {
                if let Some(slot) = slot
                    && !file.deleted.contains(row)
                {
                    hits.push((slot, row));
                }
            }
        }
        if positions.next().is_some() {
            return Err(ParquetError::EOF("fewer rows than the footer says".to_owned()).into());
        }
        Ok(hits)
    }

    /// The key columns of rows, in the key's order: the file has them in its own.
    fn key_of(&self, batch: &RecordBatch) -> Result<Vec<ArrayRef>, DataFusionError> {
        let column = |name: &String| {
            let index = batch.schema_ref().index_of(name)?;
            Ok(Arc::clone(batch.column(index)))
        };
        self.columns.iter().map(column).collect()
    }
}

#[cfg(test)]
mod tests;
