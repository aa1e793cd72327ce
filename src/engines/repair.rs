//! The `FileInspector` port on Parquet: reads a file's footer and hashes all its bytes, to say what is
//! true of it. Catalog repair and adoption ask; nothing is changed here.

use std::sync::Arc;

use async_trait::async_trait;
use lakehouse_actors::{
    PortError,
    ports::{FileInspector, Inspected},
};
use lakehouse_journal::model::{ErrorKind, event::FileRepair};
use object_store::{Error, ObjectStoreExt};
use parquet::arrow::{
    arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions},
    async_reader::ParquetObjectReader,
};

use super::{
    buckets::{of_bucket, of_store},
    object_store::{Buckets, check_key},
};
use crate::query::schema_doc;

/// Reads files in the buckets.
pub struct LakeInspector {
    buckets: Arc<Buckets>,
}

impl LakeInspector {
    /// Over these buckets.
    pub fn new(buckets: Arc<Buckets>) -> Self {
        Self { buckets }
    }
}

#[async_trait]
impl FileInspector for LakeInspector {
    async fn inspect(&self, bucket: &str, key: &str) -> Result<Option<Inspected>, PortError> {
        let opened = self
            .buckets
            .get(bucket)
            .map_err(|error| of_bucket(bucket, &error))?;
        let path = check_key(key).map_err(|error| of_bucket(bucket, &error))?;
        let size = match opened.store.head(&path).await {
            Ok(meta) => meta.size,
            Err(error @ Error::NotFound { .. }) => {
                // Whoever asks believes that it is there.
                opened.health.note("head", key, &error, false);
                return Ok(None);
            }
            Err(error) => return Err(of_store(bucket, &error)),
        };
        let mut reader =
            ParquetObjectReader::new(Arc::clone(&opened.store), path.clone()).with_file_size(size);
        let footer = ArrowReaderMetadata::load_async(&mut reader, ArrowReaderOptions::default())
            .await
            .map_err(|_| no_parquet(bucket))?;
        let rows = footer.metadata().file_metadata().num_rows();
        let rows = u64::try_from(rows).map_err(|_| no_parquet(bucket))?;
        let (hash, bytes) = opened
            .hash_of(&path)
            .await
            .map_err(|error| of_store(bucket, &error))?;
        Ok(Some(Inspected {
            file: FileRepair {
                key: key.to_owned(),
                bucket: bucket.to_owned(),
                rows,
                bytes,
                blake3: hash.to_hex().to_string(),
            },
            schema: schema_doc(footer.schema()),
        }))
    }
}

fn no_parquet(bucket: &str) -> PortError {
    let text = format!("a file in bucket `{bucket}` is no Parquet file that can be read");
    PortError::new(ErrorKind::Corrupt, "file_corrupt", text)
}
