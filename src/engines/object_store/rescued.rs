//! Reading with a net: what a bucket does not give is asked of the bucket that answers for it. For
//! queries, objects and index files alike; writes are never sent elsewhere, and this refuses them.

use std::{collections::BTreeSet, fmt, ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, path::Path,
};
use parking_lot::Mutex;

use super::{Bucket, failure::is_the_buckets};

/// Which buckets others answered for, while something was read.
#[derive(Debug, Default)]
pub struct RescueUse(Mutex<BTreeSet<(String, String)>>);

impl RescueUse {
    /// Bucket, and the one that answered.
    pub fn list(&self) -> Vec<(String, String)> {
        self.0.lock().iter().cloned().collect()
    }

    fn note(&self, bucket: &str, rescue: &str) {
        let mut used = self.0.lock();
        used.insert((bucket.to_owned(), rescue.to_owned()));
    }
}

/// A bucket and the one that answers for it.
#[derive(Debug, Clone)]
pub struct Rescued {
    bucket: Bucket,
    rescue: Option<Bucket>,
    used: Option<Arc<RescueUse>>,
    /// Whether the objects asked for must be there: one that is not is a failure.
    expected: bool,
}

impl Rescued {
    /// Reads of `bucket`, else of `rescue`. Objects that are `expected` are looked for in the rescue
    /// bucket also when the bucket answers and does not have them.
    pub fn new(bucket: Bucket, rescue: Option<Bucket>, expected: bool) -> Self {
        Self {
            bucket,
            rescue,
            used: None,
            expected,
        }
    }

    /// Notes who answered.
    #[must_use]
    pub fn noting(mut self, used: Arc<RescueUse>) -> Self {
        self.used = Some(used);
        self
    }

    fn may_be_rescued(&self, error: &Error) -> bool {
        is_the_buckets(error) || (self.expected && matches!(error, Error::NotFound { .. }))
    }

    async fn read<T, F: Future<Output = Result<T>>>(
        &self,
        operation: &'static str,
        key: &Path,
        work: impl Fn(Arc<dyn ObjectStore>) -> F,
    ) -> Result<T> {
        let first = self
            .bucket
            .health
            .run(work(Arc::clone(&self.bucket.plain)))
            .await;
        let error = match first {
            Err(error) if self.may_be_rescued(&error) => error,
            other => return other,
        };
        let Some(rescue) = &self.rescue else {
            self.bucket
                .health
                .note(operation, key.as_ref(), &error, false);
            return Err(error);
        };
        let second = rescue.health.run(work(Arc::clone(&rescue.plain))).await;
        let rescued = second.is_ok();
        self.bucket
            .health
            .note(operation, key.as_ref(), &error, rescued);
        match second {
            Ok(found) => {
                if let Some(used) = &self.used {
                    used.note(&self.bucket.name, &rescue.name);
                }
                Ok(found)
            }
            Err(second) => {
                if is_the_buckets(&second) {
                    rescue.health.note(operation, key.as_ref(), &second, false);
                }
                Err(error)
            }
        }
    }
}

fn read_only() -> Error {
    Error::NotImplemented {
        operation: "writing or listing".to_owned(),
        implementer: "Rescued".to_owned(),
    }
}

impl fmt::Display for Rescued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rescued")
    }
}

#[async_trait]
impl ObjectStore for Rescued {
    async fn put_opts(&self, _: &Path, _: PutPayload, _: PutOptions) -> Result<PutResult> {
        Err(read_only())
    }

    async fn put_multipart_opts(
        &self,
        _: &Path,
        _: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        Err(read_only())
    }

    async fn get_opts(&self, key: &Path, how: GetOptions) -> Result<GetResult> {
        let operation = if how.head { "head" } else { "get" };
        let get = |store: Arc<dyn ObjectStore>| {
            let how = how.clone();
            async move { store.get_opts(key, how).await }
        };
        self.read(operation, key, get).await
    }

    async fn get_ranges(&self, key: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let get = |store: Arc<dyn ObjectStore>| async move { store.get_ranges(key, ranges).await };
        self.read("get", key, get).await
    }

    fn delete_stream(
        &self,
        _: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        Box::pin(futures::stream::once(async { Err(read_only()) }))
    }

    fn list(&self, _: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        Box::pin(futures::stream::once(async { Err(read_only()) }))
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> Result<ListResult> {
        Err(read_only())
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(read_only())
    }
}
