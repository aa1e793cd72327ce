//! The `BucketStore` port on object stores: opens buckets, writes, lists and removes whole objects.
//! The actors' housekeeping calls it; it decides nothing about what may be removed.

use std::{
    collections::{BTreeMap, VecDeque},
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

use parking_lot::Mutex;

use super::object_store::{Bucket, BucketError, Buckets, check_key};

/// How long a failure counts.
const HOUR: Duration = Duration::from_hours(1);

/// The buckets of the daemon.
pub struct LakeBuckets {
    buckets: Arc<Buckets>,
    failures: Mutex<BTreeMap<String, Failures>>,
}

/// What went wrong on one bucket, since the daemon started.
#[derive(Default)]
struct Failures {
    /// When, oldest first, of the last hour.
    recent: VecDeque<Instant>,
    last: Option<String>,
}

impl Failures {
    fn forget_old(&mut self) {
        while self.recent.front().is_some_and(|at| at.elapsed() > HOUR) {
            self.recent.pop_front();
        }
    }
}

impl LakeBuckets {
    /// The port over this registry.
    pub fn new(buckets: Arc<Buckets>) -> Self {
        Self {
            buckets,
            failures: Mutex::default(),
        }
    }

    /// Operations of the daemon's own (archive, sweeps, probes) that failed in the last hour.
    pub fn errors_last_hour(&self, bucket: &str) -> usize {
        let mut failures = self.failures.lock();
        let failures = failures.entry(bucket.to_owned()).or_default();
        failures.forget_old();
        failures.recent.len()
    }

    /// The last of them, without paths.
    pub fn last_error(&self, bucket: &str) -> Option<String> {
        self.failures.lock().get(bucket)?.last.clone()
    }

    /// Counts a failure of the bucket itself; an object that is there or not is none.
    fn noted<T>(&self, bucket: &str, result: Result<T, PortError>) -> Result<T, PortError> {
        if let Err(error) = &result
            && error.kind == ErrorKind::Unavailable
        {
            let mut failures = self.failures.lock();
            let failures = failures.entry(bucket.to_owned()).or_default();
            failures.forget_old();
            failures.recent.push_back(Instant::now());
            failures.last = Some(error.to_string());
        }
        result
    }

    fn bucket(&self, name: &str) -> Result<Bucket, PortError> {
        self.buckets
            .get(name)
            .map_err(|error| of_bucket(name, &error))
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
        self.noted(bucket, self.create(bucket, key, bytes).await)
    }

    async fn list(&self, bucket: &str, prefix: &str) -> Result<Vec<ObjectInfo>, PortError> {
        self.noted(bucket, self.all_below(bucket, prefix).await)
    }

    async fn delete(&self, bucket: &str, key: &str) -> Result<(), PortError> {
        self.noted(bucket, self.remove(bucket, key).await)
    }

    async fn probe(&self, bucket: &str) -> Result<Duration, PortError> {
        self.noted(bucket, self.canary(bucket).await)
    }
}

impl LakeBuckets {
    async fn create(&self, bucket: &str, key: &str, bytes: Vec<u8>) -> Result<(), PortError> {
        let store = self.bucket(bucket)?.store;
        let path = check_key(key).map_err(|error| of_bucket(bucket, &error))?;
        let bytes = Bytes::from(bytes);
        let options = PutOptions {
            mode: PutMode::Create,
            ..PutOptions::default()
        };
        let payload = PutPayload::from_bytes(bytes.clone());
        match object_store::ObjectStore::put_opts(store.as_ref(), &path, payload, options).await {
            Ok(_) => Ok(()),
            Err(error @ object_store::Error::AlreadyExists { .. }) => {
                // Our own write whose answer was lost, or another writer's: the bytes tell.
                let there = store.get(&path).await.map_err(|e| of_store(bucket, &e))?;
                let there = there.bytes().await.map_err(|e| of_store(bucket, &e))?;
                if there == bytes {
                    Ok(())
                } else {
                    Err(of_store(bucket, &error))
                }
            }
            Err(error) => Err(of_store(bucket, &error)),
        }
    }

    async fn all_below(&self, bucket: &str, prefix: &str) -> Result<Vec<ObjectInfo>, PortError> {
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

    async fn remove(&self, bucket: &str, key: &str) -> Result<(), PortError> {
        let store = self.bucket(bucket)?.store;
        let path = check_key(key).map_err(|error| of_bucket(bucket, &error))?;
        match store.delete(&path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(of_store(bucket, &error)),
        }
    }

    async fn canary(&self, bucket: &str) -> Result<Duration, PortError> {
        let started = Instant::now();
        let key = format!("_probe/{}", uuid::Uuid::new_v4());
        self.create(bucket, &key, b"probe".to_vec()).await?;
        let store = self.bucket(bucket)?.store;
        let path = check_key(&key).map_err(|error| of_bucket(bucket, &error))?;
        store
            .get(&path)
            .await
            .map_err(|error| of_store(bucket, &error))?;
        self.remove(bucket, &key).await?;
        Ok(started.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn failures_of_a_bucket_are_counted_and_a_missing_object_is_none() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().join("primary");
        let buckets = Arc::new(Buckets::new());
        buckets.register(Bucket::local("primary", &root).expect("opened"));
        let store = LakeBuckets::new(buckets);
        store
            .delete("primary", "datasets/none")
            .await
            .expect("no error");
        assert_eq!(
            (
                store.errors_last_hour("primary"),
                store.last_error("primary")
            ),
            (0, None)
        );
        std::fs::remove_dir_all(&root).expect("removed");
        std::fs::write(&root, b"no directory any more").expect("written");
        store
            .probe("primary")
            .await
            .expect_err("nothing can be written there");
        assert_eq!(store.errors_last_hour("primary"), 1);
        let text = store.last_error("primary").expect("noted");
        assert!(!text.contains(dir.path().to_str().expect("text")), "{text}");
    }
}
