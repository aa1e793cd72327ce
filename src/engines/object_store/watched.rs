//! A bucket's store with somebody who watches: nothing is tried while it counts as down, and every
//! failure is counted and noted. What every bucket of the registry is read and written through.

use std::{fmt, ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
    path::Path,
};

use super::{failure::is_the_buckets, health::BucketHealth};

/// Between the entries of a listing at most.
const ENTRY_TIMEOUT: Duration = Duration::from_mins(1);

/// A store that is watched.
#[derive(Debug, Clone)]
pub struct Watched {
    inner: Arc<dyn ObjectStore>,
    health: Arc<BucketHealth>,
}

impl Watched {
    /// Watches over `inner`.
    pub fn new(inner: Arc<dyn ObjectStore>, health: Arc<BucketHealth>) -> Self {
        Self { inner, health }
    }

    async fn watch<T>(
        &self,
        operation: &'static str,
        key: &Path,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let result = self.health.run(work).await;
        if let Err(error) = &result
            && is_the_buckets(error)
        {
            self.health.note(operation, key.as_ref(), error, false);
        }
        result
    }

    fn watch_stream<T: Send + 'static>(
        &self,
        operation: &'static str,
        key: &Path,
        stream: BoxStream<'static, Result<T>>,
    ) -> BoxStream<'static, Result<T>> {
        let (health, key) = (Arc::clone(&self.health), key.clone());
        let watched = futures::stream::unfold(Some(stream), move |stream| {
            let (health, key) = (Arc::clone(&health), key.clone());
            async move {
                let mut stream = stream?;
                let next = health.run(async {
                    tokio::time::timeout(ENTRY_TIMEOUT, stream.next())
                        .await
                        .unwrap_or_else(|_| Some(Err(super::failure::NoAnswerInTime.into())))
                        .transpose()
                });
                match next.await {
                    Ok(Some(item)) => Some((Ok(item), Some(stream))),
                    Ok(None) => None,
                    Err(error) => {
                        if is_the_buckets(&error) {
                            health.note(operation, key.as_ref(), &error, false);
                        }
                        Some((Err(error), None))
                    }
                }
            }
        });
        watched.boxed()
    }
}

impl fmt::Display for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.inner)
    }
}

#[async_trait]
impl ObjectStore for Watched {
    async fn put_opts(&self, key: &Path, data: PutPayload, how: PutOptions) -> Result<PutResult> {
        self.watch("put", key, self.inner.put_opts(key, data, how))
            .await
    }

    async fn put_multipart_opts(
        &self,
        key: &Path,
        how: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let begun = self.inner.put_multipart_opts(key, how);
        let upload = self.watch("put", key, begun).await?;
        Ok(Box::new(WatchedUpload {
            upload,
            store: self.clone(),
            key: key.clone(),
        }))
    }

    async fn get_opts(&self, key: &Path, how: GetOptions) -> Result<GetResult> {
        let operation = if how.head { "head" } else { "get" };
        let mut found = self
            .watch(operation, key, self.inner.get_opts(key, how))
            .await?;
        found.payload = match found.payload {
            GetResultPayload::Stream(stream) => {
                GetResultPayload::Stream(self.watch_stream("get", key, stream))
            }
            file @ GetResultPayload::File(..) => file,
        };
        Ok(found)
    }

    async fn get_ranges(&self, key: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.watch("get", key, self.inner.get_ranges(key, ranges))
            .await
    }

    fn delete_stream(
        &self,
        keys: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        keys.then(move |key| {
            let store = store.clone();
            async move {
                let key = key?;
                let one = futures::stream::once(std::future::ready(Ok(key.clone()))).boxed();
                let deleted = async {
                    let mut deleted = store.inner.delete_stream(one);
                    deleted.next().await.unwrap_or_else(|| Ok(key.clone()))
                };
                store.watch("delete", &key, deleted).await
            }
        })
        .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let key = prefix.cloned().unwrap_or_default();
        self.watch_stream("list", &key, self.inner.list(prefix))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let key = prefix.cloned().unwrap_or_default();
        self.watch("list", &key, self.inner.list_with_delimiter(prefix))
            .await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, how: CopyOptions) -> Result<()> {
        self.watch("copy", from, self.inner.copy_opts(from, to, how))
            .await
    }
}

/// An upload in parts that is watched.
#[derive(Debug)]
struct WatchedUpload {
    upload: Box<dyn MultipartUpload>,
    store: Watched,
    key: Path,
}

#[async_trait]
impl MultipartUpload for WatchedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let part = self.upload.put_part(data);
        let (store, key) = (self.store.clone(), self.key.clone());
        Box::pin(async move { store.watch("put", &key, part).await })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let (store, key) = (self.store.clone(), self.key.clone());
        store.watch("put", &key, self.upload.complete()).await
    }

    async fn abort(&mut self) -> Result<()> {
        let (store, key) = (self.store.clone(), self.key.clone());
        store.watch("put", &key, self.upload.abort()).await
    }
}
