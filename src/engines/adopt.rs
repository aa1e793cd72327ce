//! Parquet files of others that become a dataset where they lie: read, hashed and compared, not copied.
//! The ingest worker calls it like any source; nothing is written, and nothing is removed when the
//! commit is refused.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
};

use arrow::{array::Array, array::AsArray, compute::cast, datatypes::DataType};
use async_trait::async_trait;
use futures::TryStreamExt;
use lakehouse_actors::{
    PortError,
    ports::{FileInspector, Inspected, KeyTest, Progress, StageFn, StageOptions, StagedTable},
};
use lakehouse_journal::model::{
    ErrorKind,
    catalog::{Dataset, DeletionVector, FileEntry, SchemaDoc},
    event::DeletedRows,
};
use object_store::ObjectStore;
use parquet::arrow::{
    ParquetRecordBatchStreamBuilder, ProjectionMask, async_reader::ParquetObjectReader,
};
use xxhash_rust::xxh3::xxh3_128;

use super::{
    buckets::{of_bucket, of_store},
    object_store::{Buckets, check_key},
    repair::LakeInspector,
};

/// Rows whose keys are compared at most: 32 bytes of memory each.
const KEYED_ROWS_MAX: u64 = 50_000_000;

/// Files to be adopted.
pub struct Adoption {
    /// The buckets.
    pub buckets: Arc<Buckets>,
    /// The one they lie in.
    pub bucket: String,
    /// What their keys begin with, up to a `/`.
    pub prefix: String,
    /// Whether a dataset has the object of this key already.
    pub is_taken: Arc<dyn Fn(&str) -> bool + Send + Sync>,
}

/// How the files become rows of a dataset.
pub fn adopt(adoption: Adoption) -> StageFn {
    Box::new(move |options| {
        let runtime = tokio::runtime::Handle::current();
        let adopted = runtime.block_on(survey(&adoption, &options))?;
        Ok(Box::new(adopted) as Box<dyn StagedTable>)
    })
}

/// Files that are a dataset as they are.
struct Adopted {
    schema: SchemaDoc,
    files: Vec<FileEntry>,
    content_hash: String,
}

async fn survey(adoption: &Adoption, options: &StageOptions) -> Result<Adopted, PortError> {
    let bucket = &adoption.bucket;
    let keys = parquet_files(adoption).await?;
    let inspector = LakeInspector::new(Arc::clone(&adoption.buckets));
    let mut schema: Option<SchemaDoc> = None;
    let mut files = Vec::new();
    let mut content = blake3::Hasher::new();
    for key in keys {
        if (adoption.is_taken)(&key) {
            let text = format!("`{key}` belongs to a dataset already");
            return Err(PortError::new(ErrorKind::Conflict, "object_in_use", text));
        }
        let found = inspector.inspect(bucket, &key).await?;
        let Inspected { file, schema: own } = found.ok_or_else(|| gone(bucket))?;
        match &schema {
            Some(first) => {
                if let Some(difference) = first.difference(&own) {
                    let text =
                        format!("`{key}` has other columns than the files before: {difference}");
                    return Err(PortError::new(ErrorKind::Conflict, "schema_mismatch", text));
                }
            }
            None => schema = Some(own),
        }
        if u32::try_from(file.rows).is_err() {
            return Err(impossible(format!(
                "`{key}` has more rows than a file may have"
            )));
        }
        content.update(file.blake3.as_bytes());
        options
            .progress
            .done
            .fetch_add(file.bytes, Ordering::Relaxed);
        files.push(FileEntry {
            bucket: bucket.clone(),
            key: file.key,
            rows: file.rows,
            bytes: file.bytes,
            blake3: file.blake3,
            sorted_by_key: false,
            superseded: DeletionVector::default(),
            erased: DeletionVector::default(),
        });
    }
    let schema = schema.ok_or_else(|| gone(bucket))?;
    match options.key.as_slice() {
        [] => {}
        [column] => newest_wins(adoption, &mut files, column, &options.progress).await?,
        _ => return Err(impossible("a dataset has one key column".to_owned())),
    }
    Ok(Adopted {
        schema,
        files,
        content_hash: content.finalize().to_hex().to_string(),
    })
}

fn gone(bucket: &str) -> PortError {
    let text = format!("bucket `{bucket}` has no Parquet file below that prefix");
    PortError::new(ErrorKind::NotFound, "object_not_found", text)
}

fn impossible(text: String) -> PortError {
    PortError::new(ErrorKind::Unprocessable, "impossible", text)
}

/// Keys of the Parquet files below the prefix, in order.
async fn parquet_files(adoption: &Adoption) -> Result<Vec<String>, PortError> {
    let bucket = &adoption.bucket;
    let opened = adoption
        .buckets
        .get(bucket)
        .map_err(|error| of_bucket(bucket, &error))?;
    let prefix = check_key(&adoption.prefix).map_err(|error| of_bucket(bucket, &error))?;
    let objects: Vec<_> = opened
        .store
        .list(Some(&prefix))
        .try_collect()
        .await
        .map_err(|error| of_store(bucket, &error))?;
    let keys = objects
        .into_iter()
        .map(|object| object.location.to_string());
    let mut keys: Vec<String> = keys.filter(|key| key.ends_with(".parquet")).collect();
    keys.sort_unstable();
    if keys.is_empty() {
        Err(gone(bucket))
    } else {
        Ok(keys)
    }
}

/// Marks the rows that a later row of the same key replaces.
async fn newest_wins(
    adoption: &Adoption,
    files: &mut [FileEntry],
    column: &str,
    progress: &Progress,
) -> Result<(), PortError> {
    let rows: u64 = files.iter().map(|file| file.rows).sum();
    if rows > KEYED_ROWS_MAX {
        let text =
            format!("{rows} rows are too many to compare their keys; adopt them without one");
        return Err(impossible(text));
    }
    let mut last: HashMap<u128, (usize, u32)> = HashMap::new();
    let mut replaced: Vec<Vec<u32>> = vec![Vec::new(); files.len()];
    for (number, file) in files.iter().enumerate() {
        let keys = keys_of(adoption, file, column).await?;
        for (position, key) in (0_u32..).zip(keys) {
            if let Some((file, row)) = last.insert(key, (number, position)) {
                replaced[file].push(row);
            }
        }
        if progress.is_cancelled() {
            let text = "the adoption was cancelled";
            return Err(PortError::new(ErrorKind::Timeout, "cancelled", text));
        }
    }
    for (file, rows) in files.iter_mut().zip(replaced) {
        file.superseded = rows.into_iter().collect();
    }
    Ok(())
}

/// Hashes of a file's keys, in the order of its rows.
async fn keys_of(
    adoption: &Adoption,
    file: &FileEntry,
    column: &str,
) -> Result<Vec<u128>, PortError> {
    let bucket = &adoption.bucket;
    let opened = adoption
        .buckets
        .get(bucket)
        .map_err(|error| of_bucket(bucket, &error))?;
    let path = check_key(&file.key).map_err(|error| of_bucket(bucket, &error))?;
    let unreadable = |_: parquet::errors::ParquetError| {
        let text = format!("a file in bucket `{bucket}` cannot be read");
        PortError::new(ErrorKind::Corrupt, "file_corrupt", text)
    };
    let reader = ParquetObjectReader::new(opened.store, path).with_file_size(file.bytes);
    let builder = ParquetRecordBatchStreamBuilder::new(reader)
        .await
        .map_err(unreadable)?;
    let Some(index) = builder
        .schema()
        .fields()
        .iter()
        .position(|field| field.name() == column)
    else {
        return Err(impossible(format!("the files have no column `{column}`")));
    };
    let mask = ProjectionMask::roots(builder.parquet_schema(), [index]);
    let mut batches = builder.with_projection(mask).build().map_err(unreadable)?;
    let mut keys = Vec::with_capacity(usize::try_from(file.rows).unwrap_or(0));
    while let Some(batch) = batches.try_next().await.map_err(unreadable)? {
        let texts = cast(batch.column(0), &DataType::Utf8)
            .map_err(|_| impossible(format!("`{column}` cannot be a key")))?;
        if texts.null_count() > 0 {
            return Err(impossible(format!("`{column}` has rows without a value")));
        }
        let texts = texts.as_string::<i32>();
        keys.extend(texts.iter().flatten().map(|text| xxh3_128(text.as_bytes())));
    }
    Ok(keys)
}

#[async_trait]
impl StagedTable for Adopted {
    fn schema(&self) -> &SchemaDoc {
        &self.schema
    }

    fn rows(&self) -> u64 {
        self.files.iter().map(|file| file.rows).sum()
    }

    fn batches(&self) -> u64 {
        self.files.len() as u64
    }

    fn source_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    fn content_hash(&self) -> &str {
        &self.content_hash
    }

    fn lies_in_bucket(&self) -> bool {
        true
    }

    async fn load_keys(&self) -> Result<(), PortError> {
        Ok(())
    }

    async fn replaced_rows(&self, _: &Dataset) -> Result<Vec<DeletedRows>, PortError> {
        // It becomes a dataset of its own, which has no other rows.
        Ok(Vec::new())
    }

    async fn rows_where(&self, _: KeyTest) -> Result<Vec<DeletionVector>, PortError> {
        Ok(vec![DeletionVector::default(); self.files.len()])
    }

    async fn publish(&self, _: &str, _: &str) -> Result<Vec<FileEntry>, PortError> {
        Ok(self.files.clone())
    }
}
