//! The registry of buckets: a name stands for a store, and for a directory when it is a local one.
//! Filled by the daemon from the bucket owners' state; asked by ingest, queries and sweeps.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use chrono::{DateTime, Utc};
use lakehouse_journal::model::bucket::BucketSpec;
use object_store::{
    ObjectStore,
    aws::{AmazonS3Builder, S3ConditionalPut},
    path::Path,
    prefix::PrefixStore,
};
use parking_lot::RwLock;
use url::Url;

use super::{BucketError, DurableLocal};

/// Credentials of an S3 bucket, as the secrets of the daemon hold them.
#[derive(Clone)]
pub struct S3Keys {
    /// Access key id.
    pub access_key_id: String,
    /// Secret access key.
    pub secret_access_key: String,
    /// Session token, where there is one.
    pub session_token: Option<String>,
}

impl std::fmt::Debug for S3Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("S3Keys(..)")
    }
}

/// One bucket that is open.
#[derive(Debug, Clone)]
pub struct Bucket {
    /// Its name.
    pub name: String,
    /// Its objects.
    pub store: Arc<dyn ObjectStore>,
    /// Its directory, when it is a local one.
    pub local: Option<Arc<DurableLocal>>,
}

/// A file in a bucket's directory that is no object.
#[derive(Debug, Clone)]
pub struct Leftover {
    /// Where it is.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// When it was last written.
    pub last_modified: DateTime<Utc>,
}

impl Bucket {
    /// Opens a local bucket at `root`.
    ///
    /// # Errors
    /// [`BucketError::Io`] when the directory cannot be made.
    pub fn local(name: &str, root: impl AsRef<std::path::Path>) -> Result<Self, BucketError> {
        let local = Arc::new(DurableLocal::open(root)?);
        Ok(Self {
            name: name.to_owned(),
            store: Arc::clone(&local) as Arc<dyn ObjectStore>,
            local: Some(local),
        })
    }

    /// Opens an S3 bucket: `s3://bucket/prefix`, or `https://endpoint/bucket/prefix`.
    /// Does not contact it. Conditional puts are on.
    ///
    /// # Errors
    /// [`BucketError::BadSpec`] when the address names no bucket, or plain HTTP is not allowed.
    pub fn s3(
        name: &str,
        url: &str,
        region: Option<&str>,
        keys: Option<&S3Keys>,
        allow_http: bool,
    ) -> Result<Self, BucketError> {
        let bad = |reason: String| BucketError::BadSpec {
            name: name.to_owned(),
            reason,
        };
        let address = S3Address::parse(url).map_err(bad)?;
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&address.bucket)
            .with_region(region.unwrap_or("us-east-1"))
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_allow_http(allow_http);
        if let Some(endpoint) = &address.endpoint {
            if endpoint.starts_with("http://") && !allow_http {
                return Err(bad("plain HTTP needs `allow_http = true`".to_owned()));
            }
            builder = builder.with_endpoint(endpoint);
        }
        if let Some(keys) = keys {
            builder = builder
                .with_access_key_id(&keys.access_key_id)
                .with_secret_access_key(&keys.secret_access_key);
            if let Some(token) = &keys.session_token {
                builder = builder.with_token(token);
            }
        }
        let store = builder.build().map_err(|error| bad(error.to_string()))?;
        let store: Arc<dyn ObjectStore> = if address.prefix.is_empty() {
            Arc::new(store)
        } else {
            Arc::new(PrefixStore::new(store, Path::from(address.prefix.as_str())))
        };
        Ok(Self {
            name: name.to_owned(),
            store,
            local: None,
        })
    }

    /// Opens what a bucket's owner says it is; `secret` looks a handle up.
    ///
    /// # Errors
    /// As [`Bucket::local`] and [`Bucket::s3`]; [`BucketError::BadSpec`] for an unknown handle.
    pub fn open(
        name: &str,
        spec: &BucketSpec,
        secret: &dyn Fn(&str) -> Option<S3Keys>,
        allow_http: bool,
    ) -> Result<Self, BucketError> {
        match spec {
            BucketSpec::Local { root, .. } => Self::local(name, root),
            BucketSpec::S3 {
                url,
                region,
                secret: handle,
                ..
            } => {
                let keys = handle
                    .as_deref()
                    .map(|handle| {
                        secret(handle).ok_or_else(|| BucketError::BadSpec {
                            name: name.to_owned(),
                            reason: format!("no secret with the handle `{handle}`"),
                        })
                    })
                    .transpose()?;
                Self::s3(name, url, region.as_deref(), keys.as_ref(), allow_http)
            }
        }
    }

    /// Half-written files in the bucket's directory, for sweeps; none in S3, which has no such files.
    ///
    /// # Errors
    /// [`BucketError::Io`] when the directory cannot be read.
    pub fn leftovers(&self) -> Result<Vec<Leftover>, BucketError> {
        let Some(local) = &self.local else {
            return Ok(Vec::new());
        };
        let found = local.leftovers()?;
        Ok(found
            .into_iter()
            .map(|(path, metadata)| Leftover {
                path,
                bytes: metadata.len(),
                last_modified: metadata
                    .modified()
                    .map_or_else(|_| DateTime::UNIX_EPOCH, Into::into),
            })
            .collect())
    }
}

/// What an S3 address says.
struct S3Address {
    endpoint: Option<String>,
    bucket: String,
    prefix: String,
}

impl S3Address {
    fn parse(url: &str) -> Result<Self, String> {
        let url = Url::parse(url).map_err(|error| format!("the address is malformed: {error}"))?;
        let host = url.host_str().unwrap_or_default();
        let path = url.path().trim_matches('/');
        let (endpoint, bucket, prefix) = match url.scheme() {
            "s3" => (None, host, path),
            "http" | "https" => {
                let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
                let port = url
                    .port()
                    .map(|port| format!(":{port}"))
                    .unwrap_or_default();
                let endpoint = format!("{}://{host}{port}", url.scheme());
                (Some(endpoint), bucket, prefix)
            }
            other => return Err(format!("`{other}` is neither `s3` nor `https`")),
        };
        if bucket.is_empty() {
            return Err("the address names no bucket".to_owned());
        }
        Ok(Self {
            endpoint,
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
        })
    }
}

/// Every bucket that is open, by name. Readers never wait for long: nothing is opened under the lock.
#[derive(Debug, Default)]
pub struct Buckets {
    open: RwLock<BTreeMap<String, Bucket>>,
}

impl Buckets {
    /// A registry without buckets.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a bucket, or puts it in the place of the one of that name.
    pub fn register(&self, bucket: Bucket) {
        self.open.write().insert(bucket.name.clone(), bucket);
    }

    /// Forgets a bucket; those who hold it may finish with it.
    pub fn unregister(&self, name: &str) {
        self.open.write().remove(name);
    }

    /// The bucket of that name.
    ///
    /// # Errors
    /// [`BucketError::NotFound`] with the names there are.
    pub fn get(&self, name: &str) -> Result<Bucket, BucketError> {
        let open = self.open.read();
        open.get(name)
            .cloned()
            .ok_or_else(|| BucketError::NotFound {
                name: name.to_owned(),
                known: open.keys().cloned().collect(),
            })
    }

    /// Every bucket in the order of the names.
    pub fn all(&self) -> Vec<Bucket> {
        self.open.read().values().cloned().collect()
    }
}
