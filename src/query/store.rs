//! All buckets as one read-only store, `lake://lake/<bucket>/<key>`, so that one scan may read files
//! of several buckets and the engine's metadata cache never confuses two of them.
//! Used by the query engine only; every write is refused.

use std::{fmt, ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use datafusion::{
    common::{DataFusionError, Result as EngineResult},
    execution::object_store::{ObjectStoreRegistry, ObjectStoreUrl},
};
use futures::stream::BoxStream;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, path::Path,
};
use url::Url;

use super::error::BucketFailure;
use crate::engines::object_store::{Buckets, RescueUse, Rescued};

/// The address of the store inside the engine.
const LAKE_URL: &str = "lake://lake";

/// The address that scans name.
pub(super) fn lake_url() -> ObjectStoreUrl {
    ObjectStoreUrl::parse(LAKE_URL).expect("the address is a constant that parses")
}

/// The path of a dataset's file in the store.
pub(super) fn lake_path(bucket: &str, key: &str) -> Path {
    std::iter::once(bucket).chain(key.split('/')).collect()
}

/// Reads `<bucket>/<key>` from the bucket of that name, else from the one that answers for it.
#[derive(Debug, Clone)]
pub struct LakeStore {
    buckets: Arc<Buckets>,
    used: Arc<RescueUse>,
}

impl LakeStore {
    /// A store over these buckets, as they are at each read.
    pub fn new(buckets: Arc<Buckets>) -> Self {
        Self {
            buckets,
            used: Arc::default(),
        }
    }

    /// The same store, which notes in `used` who answered for whom.
    #[must_use]
    pub fn noting(&self, used: Arc<RescueUse>) -> Self {
        let buckets = Arc::clone(&self.buckets);
        Self { buckets, used }
    }

    fn route(&self, location: &Path) -> Result<(String, Rescued, Path)> {
        let mut parts = location.parts();
        let bucket = parts.next().map(|part| part.as_ref().to_owned());
        let key: Path = parts.collect();
        let bucket = bucket.unwrap_or_default();
        let found = self
            .buckets
            .rescued(&bucket)
            .map_err(|error| tagged(&bucket, error.into()))?;
        Ok((bucket, found.noting(Arc::clone(&self.used)), key))
    }
}

/// Says which bucket an error came from.
fn tagged(bucket: &str, source: object_store::Error) -> object_store::Error {
    object_store::Error::Generic {
        store: "lake",
        source: Box::new(BucketFailure {
            bucket: bucket.to_owned(),
            source,
        }),
    }
}

fn read_only() -> object_store::Error {
    object_store::Error::NotImplemented {
        operation: "writing or listing".to_owned(),
        implementer: "LakeStore".to_owned(),
    }
}

impl fmt::Display for LakeStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LakeStore")
    }
}

#[async_trait]
impl ObjectStore for LakeStore {
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

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let (bucket, store, key) = self.route(location)?;
        store
            .get_opts(&key, options)
            .await
            .map_err(|error| tagged(&bucket, error))
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let (bucket, store, key) = self.route(location)?;
        let read = store.get_ranges(&key, ranges).await;
        read.map_err(|error| tagged(&bucket, error))
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

/// A registry that knows the lake and nothing else: no `file://`, no URL.
#[derive(Debug)]
pub(super) struct LakeRegistry(pub Arc<dyn ObjectStore>);

impl ObjectStoreRegistry for LakeRegistry {
    fn register_store(&self, _: &Url, _: Arc<dyn ObjectStore>) -> Option<Arc<dyn ObjectStore>> {
        None
    }

    fn get_store(&self, url: &Url) -> EngineResult<Arc<dyn ObjectStore>> {
        if url.scheme() == "lake" {
            return Ok(Arc::clone(&self.0));
        }
        Err(DataFusionError::Plan(
            "only datasets can be read".to_owned(),
        ))
    }
}
