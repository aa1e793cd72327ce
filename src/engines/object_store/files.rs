//! Whole files into and out of a bucket, whatever holds it: staged files become objects, put if absent
//! and compared; objects become files of a local cache. Ingest, compaction and index builds publish
//! through this. Deletes nothing in a bucket.

use std::{
    io,
    path::{Path as FsPath, PathBuf},
    time::Instant,
};

use bytes::Bytes;
use futures::StreamExt;
use object_store::{
    Error, GetOptions, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, Result,
    WriteMultipart, path::Path,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Bucket, BucketError, PutOutcome, check_key, failure::is_the_buckets};

/// Objects up to this size are put in one conditional request; S3 has no such thing for larger ones.
const ONE_PUT_BYTES: u64 = 16 << 20;
/// Bytes of a part of a larger one.
const PART_BYTES: usize = 8 << 20;
/// Parts on their way at a time.
const PARTS_IN_FLIGHT: usize = 4;

impl Bucket {
    /// Takes a written file into the bucket, put-if-absent, durable when it returns; the file is gone
    /// where it was staged.
    ///
    /// # Errors
    /// `AlreadyExists` when other bytes have the key; what the store fails with. The file stays then.
    pub async fn put_file(&self, staged: PathBuf, key: &str) -> Result<PutOutcome> {
        let path = check_key(key)?;
        if let Some(local) = self.local.clone() {
            let key = key.to_owned();
            return self
                .blocking("put", &path, move || local.put_file(&staged, &key))
                .await;
        }
        let outcome = self.upload(&staged, &path).await?;
        tokio::fs::remove_file(&staged).await.map_err(io_error)?;
        Ok(outcome)
    }

    /// Puts a written file in the place of an object, whole; the file is gone where it was staged.
    ///
    /// # Errors
    /// What the store fails with.
    pub async fn replace_file(&self, staged: PathBuf, key: &str) -> Result<()> {
        let path = check_key(key)?;
        if let Some(local) = self.local.clone() {
            let key = key.to_owned();
            return self
                .blocking("put", &path, move || local.replace_file(&staged, &key))
                .await;
        }
        let bytes = tokio::fs::read(&staged).await.map_err(io_error)?;
        self.store.put(&path, PutPayload::from(bytes)).await?;
        tokio::fs::remove_file(&staged).await.map_err(io_error)
    }

    /// Work on a local bucket's directory, beside the async threads and watched like any other.
    async fn blocking<T: Send + 'static>(
        &self,
        operation: &'static str,
        key: &Path,
        work: impl FnOnce() -> std::result::Result<T, BucketError> + Send + 'static,
    ) -> Result<T> {
        if !self.health.is_up() {
            let error = Error::from(super::failure::CountsAsDown);
            self.health.note(operation, key.as_ref(), &error, false);
            return Err(error);
        }
        let started = Instant::now();
        let done = tokio::task::spawn_blocking(work).await;
        let result = match done {
            // A directory that is not there is no object that is not there.
            Ok(Err(BucketError::Io(error))) => Err(Error::Generic {
                store: "DurableLocal",
                source: Box::new(error),
            }),
            Ok(result) => result.map_err(Error::from),
            Err(source) => Err(Error::JoinError { source }),
        };
        self.health.done(started, &result);
        if let Err(error) = &result
            && is_the_buckets(error)
        {
            self.health.note(operation, key.as_ref(), error, false);
        }
        result
    }

    async fn upload(&self, staged: &FsPath, key: &Path) -> Result<PutOutcome> {
        let bytes = tokio::fs::metadata(staged).await.map_err(io_error)?.len();
        if bytes == 0 {
            return Err(BucketError::Empty.into());
        }
        let outcome = if bytes <= ONE_PUT_BYTES {
            let content = tokio::fs::read(staged).await.map_err(io_error)?;
            self.put_if_absent(key, content.into()).await?
        } else {
            self.upload_in_parts(staged, key).await?
        };
        // The store says itself what it has: an upload that was cut short has another size.
        let there = self.store.head(key).await?.size;
        if there != bytes {
            return Err(too_short());
        }
        Ok(outcome)
    }

    /// Writes an object unless it is there. Equal bytes are no error: they are a write of our own whose
    /// answer was lost.
    ///
    /// # Errors
    /// `AlreadyExists` when other bytes have the key.
    pub async fn put_if_absent(&self, key: &Path, content: Bytes) -> Result<PutOutcome> {
        let options = PutOptions {
            mode: PutMode::Create,
            ..PutOptions::default()
        };
        let payload = PutPayload::from_bytes(content.clone());
        match self.store.put_opts(key, payload, options).await {
            Ok(_) => Ok(PutOutcome::Created),
            Err(error @ Error::AlreadyExists { .. }) => {
                if self.store.head(key).await?.size != content.len() as u64 {
                    return Err(error);
                }
                let there = self.store.get(key).await?.bytes().await?;
                if there == content {
                    Ok(PutOutcome::AlreadyThere)
                } else {
                    Err(error)
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Keys of large files are never used twice, so who finds one there finds its own.
    async fn upload_in_parts(&self, staged: &FsPath, key: &Path) -> Result<PutOutcome> {
        match self.store.head(key).await {
            Err(Error::NotFound { .. }) => {}
            Err(error) => return Err(error),
            Ok(_) => return self.must_be_the_same(staged, key).await,
        }
        let mut file = tokio::fs::File::open(staged).await.map_err(io_error)?;
        let upload = self.store.put_multipart(key).await?;
        let mut upload = WriteMultipart::new_with_chunk_size(upload, PART_BYTES);
        let mut buffer = vec![0; PART_BYTES];
        loop {
            let read = file.read(&mut buffer).await.map_err(io_error)?;
            if read == 0 {
                break;
            }
            upload.write(&buffer[..read]);
            if let Err(error) = upload.wait_for_capacity(PARTS_IN_FLIGHT).await {
                // What cannot be given up is swept by the store's own rule for such uploads.
                let _ = upload.abort().await;
                return Err(error);
            }
        }
        match upload.finish().await {
            Ok(_) => Ok(PutOutcome::Created),
            // The answer may have been lost after the last part was joined.
            Err(error) => match self.store.head(key).await {
                Ok(_) => self.must_be_the_same(staged, key).await,
                Err(_) => Err(error),
            },
        }
    }

    async fn must_be_the_same(&self, staged: &FsPath, key: &Path) -> Result<PutOutcome> {
        let here = hash_of_file(staged.to_owned()).await?;
        let there = self.hash_of(key).await?;
        if here == there {
            Ok(PutOutcome::AlreadyThere)
        } else {
            Err(BucketError::Taken.into())
        }
    }

    /// blake3 and size of an object.
    ///
    /// # Errors
    /// What the store fails with.
    pub async fn hash_of(&self, key: &Path) -> Result<(blake3::Hash, u64)> {
        let mut stream = self.store.get(key).await?.into_stream();
        let (mut hasher, mut bytes) = (blake3::Hasher::new(), 0);
        while let Some(chunk) = stream.next().await {
            let chunk = chunk?;
            hasher.update(&chunk);
            bytes += chunk.len() as u64;
        }
        Ok((hasher.finalize(), bytes))
    }
}

/// Writes an object of any store into a new file, and tells its blake3 and size. Not durable: for
/// caches and staging.
///
/// # Errors
/// What the store or the file system fails with.
pub async fn fetch(
    store: &dyn ObjectStore,
    key: &Path,
    into: &FsPath,
) -> Result<(blake3::Hash, u64)> {
    let mut stream = store
        .get_opts(key, GetOptions::default())
        .await?
        .into_stream();
    let mut file = tokio::fs::File::create(into).await.map_err(io_error)?;
    let (mut hasher, mut bytes) = (blake3::Hasher::new(), 0);
    while let Some(chunk) = stream.next().await {
        let chunk = chunk?;
        hasher.update(&chunk);
        bytes += chunk.len() as u64;
        file.write_all(&chunk).await.map_err(io_error)?;
    }
    file.flush().await.map_err(io_error)?;
    Ok((hasher.finalize(), bytes))
}

async fn hash_of_file(path: PathBuf) -> Result<(blake3::Hash, u64)> {
    let work = move || {
        let file = std::fs::File::open(path)?;
        let bytes = file.metadata()?.len();
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(file)?;
        Ok((hasher.finalize(), bytes))
    };
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|source| Error::JoinError { source })?
        .map_err(io_error)
}

/// A failure of the staging directory, which is no bucket.
fn io_error(source: io::Error) -> Error {
    Error::NotSupported {
        source: Box::new(source),
    }
}

fn too_short() -> Error {
    Error::Generic {
        store: "bucket",
        source: Box::new(io::Error::from(io::ErrorKind::UnexpectedEof)),
    }
}
