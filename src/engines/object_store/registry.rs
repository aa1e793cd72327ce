//! The registry of buckets: a name stands for a store, and for a directory when it is a local one.
//! Filled by the daemon from the bucket owners' state; asked by ingest, queries and sweeps.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use lakehouse_journal::model::bucket::BucketSpec;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload, path::Path};
use parking_lot::RwLock;

use super::{
    BucketError, DurableLocal, Rescued,
    health::BucketHealth,
    nothing::NoStore,
    s3::{self, S3Place},
    watched::Watched,
};
use crate::engines::{
    egress::EgressPolicy,
    errors::BucketErrors,
    secrets::{SecretError, SecretsProvider},
};

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

impl S3Keys {
    /// The keys of a bucket, by their handle.
    fn of(bucket: &str, handle: &str, secrets: &dyn SecretsProvider) -> Result<Self, BucketError> {
        let bad = |error: &SecretError| BucketError::BadSpec {
            name: bucket.to_owned(),
            reason: match error {
                SecretError::NotFound { .. } | SecretError::Incomplete { .. } => error.to_string(),
                // Where the file lies is for the log.
                other => {
                    tracing::error!(error = %other, "the secrets cannot be used");
                    "the secrets cannot be read".to_owned()
                }
            },
        };
        let secret = secrets.secret(handle).map_err(|error| bad(&error))?;
        let field = |field: &'static str| {
            let incomplete = SecretError::Incomplete {
                handle: handle.to_owned(),
                field,
            };
            let text = secret.field(field).map(str::to_owned);
            text.ok_or_else(|| bad(&incomplete))
        };
        Ok(Self {
            access_key_id: field("access_key_id")?,
            secret_access_key: field("secret_access_key")?,
            session_token: secret.field("session_token").map(str::to_owned),
        })
    }
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
    /// Its objects, watched: what everybody reads and writes through.
    pub store: Arc<dyn ObjectStore>,
    /// Its objects, for those who watch themselves.
    pub(super) plain: Arc<dyn ObjectStore>,
    /// Its directory, when it is a local one.
    pub local: Option<Arc<DurableLocal>>,
    /// The bucket that answers when this one does not.
    pub rescue: Option<String>,
    /// How it does.
    pub health: Arc<BucketHealth>,
    /// What it was opened as; nothing for one that is not in the journal.
    spec: Option<BucketSpec>,
    /// Whether it could not be opened: it has no objects then, and is opened again later.
    broken: bool,
}

/// What opening a bucket needs beside what its owner says.
pub struct Opening<'a> {
    /// Looks a handle up.
    pub secrets: &'a dyn SecretsProvider,
    /// Where the daemon may connect to.
    pub egress: &'a EgressPolicy,
    /// How long a request may wait for its answer.
    pub timeout: Duration,
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
    fn new(name: &str, plain: Arc<dyn ObjectStore>, local: Option<Arc<DurableLocal>>) -> Self {
        let health = Arc::new(BucketHealth::new(name, BucketErrors::in_memory()));
        Self {
            name: name.to_owned(),
            store: Arc::new(Watched::new(Arc::clone(&plain), Arc::clone(&health))),
            plain,
            local,
            rescue: None,
            health,
            spec: None,
            broken: false,
        }
    }

    /// Opens a local bucket at `root`.
    ///
    /// # Errors
    /// [`BucketError::Io`] when the directory cannot be made.
    pub fn local(name: &str, root: impl AsRef<std::path::Path>) -> Result<Self, BucketError> {
        let local = Arc::new(DurableLocal::open(root)?);
        let plain = Arc::clone(&local) as Arc<dyn ObjectStore>;
        Ok(Self::new(name, plain, Some(local)))
    }

    /// A bucket over any store, for tests of what a store may do.
    pub fn over(name: &str, store: Arc<dyn ObjectStore>) -> Self {
        Self::new(name, store, None)
    }

    /// Opens what a bucket's owner says it is. Contacts nobody.
    ///
    /// # Errors
    /// As [`Bucket::local`]; [`BucketError::BadSpec`] for an address that is not allowed, and for an
    /// unknown handle.
    pub fn open(name: &str, spec: &BucketSpec, with: &Opening<'_>) -> Result<Self, BucketError> {
        let mut bucket = match spec {
            BucketSpec::Local { root, .. } => Self::local(name, root)?,
            BucketSpec::S3 {
                url,
                region,
                secret,
                path_style,
                ..
            } => {
                let keys = secret
                    .as_deref()
                    .map(|handle| S3Keys::of(name, handle, with.secrets))
                    .transpose()?;
                let place = S3Place {
                    url,
                    region: region.as_deref(),
                    path_style: path_style.unwrap_or(true),
                    keys: keys.as_ref(),
                };
                Self::new(
                    name,
                    s3::open(name, &place, with.egress, with.timeout)?,
                    None,
                )
            }
        };
        bucket.rescue = spec.rescue_bucket().map(str::to_owned);
        bucket.spec = Some(spec.clone());
        Ok(bucket)
    }

    /// A bucket that could not be opened: everything fails, until it is opened again.
    pub fn broken(name: &str, spec: &BucketSpec) -> Self {
        Self {
            rescue: spec.rescue_bucket().map(str::to_owned),
            spec: Some(spec.clone()),
            broken: true,
            ..Self::new(name, Arc::new(NoStore), None)
        }
    }

    /// Whether it is open as its owner says.
    pub fn is_open_as(&self, spec: &BucketSpec) -> bool {
        !self.broken && self.spec.as_ref() == Some(spec)
    }

    /// Looks whether it answers, without writing.
    ///
    /// # Errors
    /// What the store fails with.
    pub async fn glance(&self) -> object_store::Result<()> {
        if let Some(local) = self.local.clone() {
            let there = tokio::task::spawn_blocking(move || local.is_there()).await;
            let there = there.map_err(|source| object_store::Error::JoinError { source })?;
            return there.map_err(|source| object_store::Error::Generic {
                store: "DurableLocal",
                source: Box::new(source),
            });
        }
        let prefix = Path::from("_probe");
        match self.plain.list_with_delimiter(Some(&prefix)).await {
            Ok(_) => Ok(()),
            // The store answers, and has no such bucket.
            Err(object_store::Error::NotFound { source, .. }) => {
                Err(object_store::Error::Generic {
                    store: "S3",
                    source,
                })
            }
            Err(error) => Err(error),
        }
    }

    /// Writes, reads and removes a small object.
    ///
    /// # Errors
    /// What the store fails with.
    pub async fn canary(&self) -> object_store::Result<()> {
        let key = Path::from(format!("_probe/{}", uuid::Uuid::new_v4()));
        self.plain
            .put(&key, PutPayload::from_static(b"probe"))
            .await?;
        let read = self.plain.get(&key).await?.bytes().await?;
        self.plain.delete(&key).await?;
        if &read[..] == b"probe" {
            return Ok(());
        }
        Err(object_store::Error::Generic {
            store: "bucket",
            source: "it gives other bytes than were written".into(),
        })
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

/// Every bucket that is open, by name. Readers never wait for long: nothing is opened under the lock.
#[derive(Debug, Default)]
pub struct Buckets {
    open: RwLock<BTreeMap<String, Bucket>>,
    /// How each bucket does, over all its openings.
    health: RwLock<BTreeMap<String, Arc<BucketHealth>>>,
    errors: Arc<BucketErrors>,
}

impl Buckets {
    /// A registry without buckets, whose failures are noted in memory.
    pub fn new() -> Self {
        Self::default()
    }

    /// A registry without buckets.
    pub fn noting(errors: Arc<BucketErrors>) -> Self {
        Self {
            errors,
            ..Self::default()
        }
    }

    /// The error journal.
    pub fn errors(&self) -> &Arc<BucketErrors> {
        &self.errors
    }

    /// Adds a bucket, or puts it in the place of the one of that name, whose health it takes over.
    pub fn register(&self, mut bucket: Bucket) {
        let name = bucket.name.clone();
        let fresh = || Arc::new(BucketHealth::new(&name, Arc::clone(&self.errors)));
        let health = Arc::clone(
            self.health
                .write()
                .entry(name.clone())
                .or_insert_with(fresh),
        );
        bucket.store = Arc::new(Watched::new(Arc::clone(&bucket.plain), Arc::clone(&health)));
        bucket.health = health;
        self.open.write().insert(name, bucket);
    }

    /// Forgets a bucket; those who hold it may finish with it.
    pub fn unregister(&self, name: &str) {
        self.open.write().remove(name);
        self.health.write().remove(name);
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

    /// The bucket of that name and the one that answers for it, for reading objects that must be there.
    ///
    /// # Errors
    /// As [`Buckets::get`].
    pub fn rescued(&self, name: &str) -> Result<Rescued, BucketError> {
        self.with_rescue(name, true)
    }

    /// As [`Buckets::rescued`], for objects that may be there or not, unless `expected`.
    ///
    /// # Errors
    /// As [`Buckets::get`].
    pub fn with_rescue(&self, name: &str, expected: bool) -> Result<Rescued, BucketError> {
        let bucket = self.get(name)?;
        let rescue = bucket
            .rescue
            .as_deref()
            .and_then(|rescue| self.get(rescue).ok());
        Ok(Rescued::new(bucket, rescue, expected))
    }

    /// Every bucket in the order of the names.
    pub fn all(&self) -> Vec<Bucket> {
        self.open.read().values().cloned().collect()
    }
}
