//! The `BucketStore` port on object stores: opens buckets, writes, lists and removes whole objects.
//! The actors' housekeeping calls it; it decides nothing about what may be removed.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt;
use lakehouse_actors::{
    PortError,
    ports::{BucketStore, ObjectInfo},
};
use lakehouse_journal::model::{ErrorKind, bucket::BucketSpec};
use object_store::{ObjectStoreExt, PutMode, PutOptions, PutPayload};

use super::object_store::{Bucket, BucketError, Buckets, check_key};

/// The buckets of the daemon.
pub struct LakeBuckets {
    buckets: Arc<Buckets>,
}

impl LakeBuckets {
    /// The port over this registry.
    pub fn new(buckets: Arc<Buckets>) -> Self {
        Self { buckets }
    }

    fn bucket(&self, name: &str) -> Result<Bucket, PortError> {
        self.buckets.get(name).map_err(|error| of_bucket(name, &error))
    }
}

/// A bucket's failure, without its paths.
pub fn of_bucket(bucket: &str, error: &BucketError) -> PortError {
    let code = match error.kind() {
        ErrorKind::NotFound => "bucket_not_found",
        ErrorKind::Unavailable => "bucket_unavailable",
        ErrorKind::Conflict => "object_exists",
        _ => "bad_object",
    };
    if let BucketError::Io(cause) = error {
        tracing::error!(bucket, %cause, "bucket failed");
    }
    PortError::new(error.kind(), code, format!("bucket `{bucket}`: {error}"))
}

/// A store's failure, without its paths.
pub fn of_store(bucket: &str, error: &object_store::Error) -> PortError {
    use object_store::Error;
    match error {
        Error::NotFound { .. } => {
            let text = format!("bucket `{bucket}` has no such object");
            PortError::new(ErrorKind::NotFound, "object_not_found", text)
        }
        Error::AlreadyExists { .. } => {
            let text = format!("bucket `{bucket}` has another object of that key");
            PortError::new(ErrorKind::Conflict, "object_exists", text)
        }
        cause => {
            tracing::error!(bucket, %cause, "bucket failed");
            let text = format!("bucket `{bucket}` does not answer");
            PortError::new(ErrorKind::Unavailable, "bucket_unavailable", text)
        }
    }
}

#[async_trait]
impl BucketStore for LakeBuckets {
    fn open(&self, bucket: &str, spec: &BucketSpec) -> Result<(), PortError> {
        let opened = Bucket::open(bucket, spec, &|_| None, false)
            .map_err(|error| of_bucket(bucket, &error))?;
        self.buckets.register(opened);
        Ok(())
    }

    async fn put_if_absent(
        &self,
        bucket: &str,
        key: &str,
        bytes: Vec<u8>,
    ) -> Result<(), PortError> {
        let store = self.bucket(bucket)?.store;
        let path = check_key(key).map_err(|error| of_bucket(bucket, &error))?;
        let bytes = Bytes::from(bytes);
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let payload = PutPayload::from_bytes(bytes.clone());
        match object_store::ObjectStore::put_opts(store.as_ref(), &path, payload, options).await {
            Ok(_) => Ok(()),
            Err(error @ object_store::Error::AlreadyExists { .. }) => {
                // Our own write whose answer was lost, or another writer's: the bytes tell.
                let there = store.get(&path).await.map_err(|e| of_store(bucket, &e))?;
                let there = there.bytes().await.map_err(|e| of_store(bucket, &e))?;
                if there == bytes { Ok(()) } else { Err(of_store(bucket, &error)) }
            }
            Err(error) => Err(of_store(bucket, &error)),
        }
    }

    async fn list(&self, bucket: &str, prefix: &str) -> Result<Vec<ObjectInfo>, PortError> {
        let store = self.bucket(bucket)?.store;
        let prefix = object_store::path::Path::from(prefix.trim_end_matches('/'));
        object_store::ObjectStore::list(store.as_ref(), Some(&prefix))
            .map_ok(|object| ObjectInfo {
                key: object.location.to_string(),
                bytes: object.size,
                modified: object.last_modified.timestamp_micros(),
            })
            .try_collect()
            .await
            .map_err(|error| of_store(bucket, &error))
    }

    async fn delete(&self, bucket: &str, key: &str) -> Result<(), PortError> {
        let store = self.bucket(bucket)?.store;
        let path = check_key(key).map_err(|error| of_bucket(bucket, &error))?;
        match store.delete(&path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(of_store(bucket, &error)),
        }
    }

    async fn probe(&self, bucket: &str) -> Result<Duration, PortError> {
        let started = Instant::now();
        let key = format!("_probe/{}", uuid::Uuid::new_v4());
        self.put_if_absent(bucket, &key, b"probe".to_vec()).await?;
        let store = self.bucket(bucket)?.store;
        let path = check_key(&key).map_err(|error| of_bucket(bucket, &error))?;
        store.get(&path).await.map_err(|error| of_store(bucket, &error))?;
        self.delete(bucket, &key).await?;
        Ok(started.elapsed())
    }
}
