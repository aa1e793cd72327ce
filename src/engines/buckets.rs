//! The `BucketStore` port on object stores: opens buckets, looks after them, writes, copies, lists and
//! removes whole objects. The actors call it; it decides nothing about what may be removed.

#[cfg(test)]
mod tests;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use futures::TryStreamExt;
use lakehouse_actors::{
    PortError,
    ports::{BucketStore, ObjectCopy, ObjectInfo},
};
use lakehouse_journal::model::{ErrorKind, bucket::BucketSpec};
use object_store::{ObjectStore, ObjectStoreExt, path::Path};

use super::{
    egress::EgressPolicy,
    object_store::{
        Bucket, BucketError, Buckets, Opening, check_key,
        failure::{NoAnswerInTime, own, words},
        fetch,
    },
    secrets::SecretsProvider,
};

/// How often a bucket that is well and not used otherwise is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// How often one that is not.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// How long a look may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a request to a store may wait for its answer, unless said otherwise.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

/// The buckets of the daemon.
pub struct LakeBuckets {
    buckets: Arc<Buckets>,
    secrets: Arc<dyn SecretsProvider>,
    egress: EgressPolicy,
    /// Where copies lie on their way from one bucket to another.
    staging: std::path::PathBuf,
    /// How long a request to a store may wait for its answer.
    timeout: Duration,
}

impl LakeBuckets {
    /// The port over this registry.
    pub fn new(
        buckets: Arc<Buckets>,
        secrets: Arc<dyn SecretsProvider>,
        egress: EgressPolicy,
        staging: std::path::PathBuf,
    ) -> Self {
        Self {
            buckets,
            secrets,
            egress,
            staging,
            timeout: REQUEST_TIMEOUT,
        }
    }

    /// With another patience for answers of stores.
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Opens a bucket without making it known.
    ///
    /// # Errors
    /// As [`Bucket::open`].
    pub fn try_open(&self, name: &str, spec: &BucketSpec) -> Result<Bucket, BucketError> {
        let with = Opening {
            secrets: self.secrets.as_ref(),
            egress: &self.egress,
            timeout: self.timeout,
        };
        Bucket::open(name, spec, &with)
    }

    /// Makes a bucket known, also one that cannot be opened: it counts as down and is opened later.
    pub fn open_or_broken(&self, name: &str, spec: &BucketSpec) {
        let bucket = self.try_open(name, spec).unwrap_or_else(|error| {
            tracing::error!(bucket = name, error = %of_bucket(name, &error), "bucket cannot be opened");
            Bucket::broken(name, spec)
        });
        self.buckets.register(bucket);
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
        tracing::error!(bucket, cause = %cause.kind(), "bucket failed");
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
            // A key that a link leads out of the bucket is no failure of the bucket.
            if let Some(own @ BucketError::BadKey { .. }) = own(cause) {
                return of_bucket(bucket, own);
            }
            tracing::warn!(bucket, cause = words(cause), "bucket failed");
            let text = format!("bucket `{bucket}` does not answer");
            PortError::new(ErrorKind::Unavailable, "bucket_unavailable", text)
        }
    }
}

#[async_trait]
impl BucketStore for LakeBuckets {
    fn open(&self, bucket: &str, spec: &BucketSpec) -> Result<(), PortError> {
        let known = self.buckets.get(bucket);
        if !known.is_ok_and(|known| known.is_open_as(spec)) {
            self.open_or_broken(bucket, spec);
        }
        Ok(())
    }

    fn close(&self, bucket: &str) {
        self.buckets.unregister(bucket);
    }

    async fn look_after(&self, bucket: &str, spec: &BucketSpec) {
        let Ok(known) = self.buckets.get(bucket) else {
            return;
        };
        if !known.health.look_is_due(LOOK_EVERY, LOOK_AGAIN) {
            return;
        }
        if !known.is_open_as(spec) {
            self.open_or_broken(bucket, spec);
        }
        let Ok(known) = self.buckets.get(bucket) else {
            return;
        };
        let started = Instant::now();
        // One that is down must show that it takes writes before it counts as up.
        let look = async {
            if known.health.is_up() {
                known.glance().await
            } else {
                known.canary().await
            }
        };
        match tokio::time::timeout(LOOK_TIMEOUT, look).await {
            Ok(Ok(())) => known.health.looked(started.elapsed()),
            Ok(Err(error)) => known.health.look_failed(&error),
            Err(_) => known.health.look_failed(&NoAnswerInTime.into()),
        }
    }

    async fn put_if_absent(
        &self,
        bucket: &str,
        key: &str,
        bytes: Vec<u8>,
    ) -> Result<(), PortError> {
        let opened = self.bucket(bucket)?;
        let path = key_in(bucket, key)?;
        let put = opened.put_if_absent(&path, bytes.into()).await;
        put.map(|_| ()).map_err(|error| of_store(bucket, &error))
    }

    async fn list(&self, bucket: &str, prefix: &str) -> Result<Vec<ObjectInfo>, PortError> {
        let store = self.bucket(bucket)?.store;
        let prefix = Path::from(prefix.trim_end_matches('/'));
        store
            .list(Some(&prefix))
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
        match store.delete(&key_in(bucket, key)?).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(of_store(bucket, &error)),
        }
    }

    async fn copy(&self, copy: &ObjectCopy) -> Result<(), PortError> {
        let from = self
            .buckets
            .rescued(&copy.from)
            .map_err(|error| of_bucket(&copy.from, &error))?;
        let to = self.bucket(&copy.to)?;
        let key = key_in(&copy.from, &copy.key)?;
        let staged = tempfile::Builder::new()
            .prefix("copy-")
            .tempfile_in(&self.staging)
            .map_err(|error| PortError::internal(error.to_string()))?
            .into_temp_path();
        let (hash, bytes) = fetch(&from, &key, &staged)
            .await
            .map_err(|error| of_store(&copy.from, &error))?;
        copy.must_be(&hash, bytes)?;
        let there = |error: object_store::Error| of_store(&copy.to, &error);
        to.put_file(staged.to_path_buf(), &copy.key)
            .await
            .map_err(there)?;
        let (hash, bytes) = to.hash_of(&key).await.map_err(there)?;
        copy.must_be(&hash, bytes)
    }

    async fn probe(&self, bucket: &str) -> Result<Duration, PortError> {
        let opened = self.bucket(bucket)?;
        let started = Instant::now();
        let probed = tokio::time::timeout(LOOK_TIMEOUT, opened.canary()).await;
        let probed = probed.unwrap_or_else(|_| Err(NoAnswerInTime.into()));
        match probed {
            Ok(()) => {
                opened.health.looked(started.elapsed());
                Ok(started.elapsed())
            }
            Err(error) => {
                opened.health.look_failed(&error);
                Err(of_store(bucket, &error))
            }
        }
    }
}

/// What a copy has to be.
trait Expected {
    fn must_be(&self, hash: &blake3::Hash, bytes: u64) -> Result<(), PortError>;
}

impl Expected for ObjectCopy {
    fn must_be(&self, hash: &blake3::Hash, bytes: u64) -> Result<(), PortError> {
        if bytes == self.bytes && hash.to_hex().as_str() == self.blake3 {
            return Ok(());
        }
        let text = format!(
            "an object of bucket `{}` is not what was written",
            self.from
        );
        Err(PortError::new(ErrorKind::Corrupt, "object_corrupt", text))
    }
}

fn key_in(bucket: &str, key: &str) -> Result<Path, PortError> {
    check_key(key).map_err(|error| of_bucket(bucket, &error))
}
