//! A directory as an object store that keeps its promises over a power cut: every write is flushed
//! to the file and to each directory that changed before it is acknowledged, and appears whole or not
//! at all. Used for every local bucket; never follows a link out of its root.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    ops::Range,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path as FsPath, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use object_store::{
    Attributes, CopyMode, CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult,
    MultipartUpload, ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, Result, path::Path,
};

use super::{
    BucketError,
    disk::{make_dirs, make_parent, same_content, sync_parent},
    keys::{check_key, file_of, is_staging_name},
    multipart::LocalUpload,
};

/// Where half-written objects lie, under the root; keys cannot name it.
pub(super) const STAGING: &str = ".staging";
/// Objects deleted at a time by a delete stream.
const DELETES_IN_FLIGHT: usize = 8;

/// What [`DurableLocal::put_file`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutOutcome {
    /// The object is new.
    Created,
    /// The same bytes were there already.
    AlreadyThere,
}

/// A local bucket.
#[derive(Debug, Clone)]
pub struct DurableLocal {
    root: Arc<PathBuf>,
}

impl std::fmt::Display for DurableLocal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DurableLocal")
    }
}

impl DurableLocal {
    /// Opens the bucket at `root`, making the directory (durably) when it is not there.
    ///
    /// # Errors
    /// [`BucketError::Io`] when it cannot be made or resolved.
    pub fn open(root: impl AsRef<FsPath>) -> Result<Self, BucketError> {
        let root = std::path::absolute(root.as_ref())?;
        make_dirs(&root)?;
        let root = root.canonicalize()?;
        make_dirs(&root.join(STAGING))?;
        Ok(Self {
            root: Arc::new(root),
        })
    }

    /// The canonical directory.
    pub fn root(&self) -> &FsPath {
        &self.root
    }

    /// Looks whether its directory is there.
    pub(super) fn is_there(&self) -> io::Result<()> {
        if fs::metadata(self.root.join(STAGING))?.is_dir() {
            return Ok(());
        }
        Err(io::ErrorKind::NotADirectory.into())
    }

    /// The file that holds `key`; it need not exist.
    ///
    /// # Errors
    /// [`BucketError::BadKey`] when the key is not allowed.
    pub fn file(&self, key: &str) -> Result<PathBuf, BucketError> {
        file_of(&self.root, &check_key(key)?)
    }

    /// Takes a written file into the bucket, put-if-absent, and removes it where it was staged.
    /// Blocks: the file is flushed, linked (copied from another file system), and the directory flushed.
    ///
    /// # Errors
    /// [`BucketError::Taken`] when other bytes have that key, [`BucketError::Empty`] for a file without
    /// bytes, [`BucketError::BadKey`], [`BucketError::Io`]. The staged file is still there then.
    pub fn put_file(&self, staged: &FsPath, key: &str) -> Result<PutOutcome, BucketError> {
        let target = self.file(key)?;
        let source = File::open(staged)?;
        source.sync_all()?;
        if source.metadata()?.len() == 0 {
            return Err(BucketError::Empty);
        }
        make_parent(&target)?;
        let outcome = match fs::hard_link(staged, &target) {
            Ok(()) => PutOutcome::Created,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                same_content(staged, &target)?;
                File::open(&target)?.sync_all()?;
                PutOutcome::AlreadyThere
            }
            Err(_) => self.copy_in(source, staged, &target)?,
        };
        sync_parent(&target)?;
        fs::remove_file(staged)?;
        Ok(outcome)
    }

    /// Puts a written file in the place of an object, or where there is none: readers see the one or the
    /// other whole, also after a power cut. For an object that says the same as the state and nothing of
    /// its own; data is never overwritten. Blocks; the file is gone where it was staged.
    ///
    /// # Errors
    /// As [`DurableLocal::put_file`], but never [`BucketError::Taken`]. The object is as it was then.
    pub fn replace_file(&self, staged: &FsPath, key: &str) -> Result<(), BucketError> {
        let target = self.file(key)?;
        let mut source = File::open(staged)?;
        source.sync_all()?;
        if source.metadata()?.len() == 0 {
            return Err(BucketError::Empty);
        }
        make_parent(&target)?;
        if let Err(error) = fs::rename(staged, &target) {
            if error.kind() != io::ErrorKind::CrossesDevices {
                return Err(error.into());
            }
            let (mut file, path) = self.stage()?;
            let replaced = io::copy(&mut source, &mut file)
                .and_then(|_| file.sync_all())
                .and_then(|()| fs::rename(&path, &target));
            if let Err(error) = replaced {
                fs::remove_file(&path)?;
                return Err(error.into());
            }
            fs::remove_file(staged)?;
        }
        Ok(sync_parent(&target)?)
    }

    /// The way in from another file system.
    fn copy_in(
        &self,
        mut source: File,
        staged: &FsPath,
        target: &FsPath,
    ) -> Result<PutOutcome, BucketError> {
        let (mut file, path) = self.stage()?;
        let published = io::copy(&mut source, &mut file)
            .and_then(|_| file.sync_all())
            .and_then(|()| fs::hard_link(&path, target));
        fs::remove_file(&path)?;
        match published {
            Ok(()) => Ok(PutOutcome::Created),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                same_content(staged, target)?;
                Ok(PutOutcome::AlreadyThere)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// A new file in the staging folder, open for writing.
    pub(super) fn stage(&self) -> io::Result<(File, PathBuf)> {
        let path = self
            .root
            .join(STAGING)
            .join(uuid::Uuid::new_v4().to_string());
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)?;
        Ok((file, path))
    }

    /// Gives a written and flushed staging file its key.
    pub(super) fn publish(staged: &FsPath, target: &FsPath, mode: &PutMode) -> io::Result<()> {
        make_parent(target)?;
        if matches!(mode, PutMode::Create) {
            let linked = fs::hard_link(staged, target);
            fs::remove_file(staged)?;
            linked?;
        } else {
            fs::rename(staged, target)?;
        }
        sync_parent(target)
    }

    fn put_bytes(&self, key: &Path, payload: &PutPayload, mode: &PutMode) -> Result<PutResult> {
        let target = file_of(&self.root, key)?;
        let (mut file, staged) = self.stage().map_err(io_error)?;
        let written = payload
            .iter()
            .try_for_each(|part| file.write_all(part))
            .and_then(|()| file.sync_all())
            .and_then(|()| file.metadata())
            .and_then(|metadata| {
                Self::publish(&staged, &target, mode)?;
                Ok(metadata)
            });
        if written.is_err() && staged.exists() {
            fs::remove_file(&staged).map_err(io_error)?;
        }
        let metadata = written.map_err(io_error)?;
        Ok(PutResult {
            e_tag: Some(etag(&metadata)),
            version: None,
        })
    }

    fn remove(&self, key: &Path) -> Result<()> {
        let file = file_of(&self.root, key)?;
        fs::remove_file(&file).map_err(io_error)?;
        sync_parent(&file).map_err(io_error)
    }

    fn read(&self, key: &Path, options: &GetOptions) -> Result<GetResult> {
        let path = file_of(&self.root, key)?;
        let file = File::open(&path).map_err(io_error)?;
        let metadata = file.metadata().map_err(io_error)?;
        if !metadata.is_file() {
            return Err(io_error(io::ErrorKind::NotFound.into()));
        }
        let meta = object_meta(key.clone(), &metadata);
        options.check_preconditions(&meta)?;
        let range = match &options.range {
            Some(range) => {
                range
                    .as_range(meta.size)
                    .map_err(|source| object_store::Error::Generic {
                        store: "DurableLocal",
                        source: source.into(),
                    })?
            }
            None => 0..meta.size,
        };
        Ok(GetResult {
            payload: GetResultPayload::File(file, path),
            attributes: Attributes::default(),
            range,
            meta,
        })
    }

    fn read_ranges(&self, key: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let file = File::open(file_of(&self.root, key)?).map_err(io_error)?;
        ranges
            .iter()
            .map(|range| {
                let length = usize::try_from(range.end.saturating_sub(range.start))
                    .expect("a range that was planned fits into memory");
                let mut buffer = vec![0; length];
                file.read_exact_at(&mut buffer, range.start)?;
                Ok(Bytes::from(buffer))
            })
            .collect::<io::Result<_>>()
            .map_err(io_error)
    }

    /// Every object under `prefix`, in the order of the keys. Links and staging files are not objects.
    fn walk(&self, prefix: Option<&Path>) -> Result<Vec<ObjectMeta>> {
        let mut found = Vec::new();
        let start = match prefix {
            Some(prefix) if !prefix.as_ref().is_empty() => file_of(&self.root, prefix)?,
            _ => self.root.to_path_buf(),
        };
        let mut folders = vec![start];
        while let Some(folder) = folders.pop() {
            let entries = match fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(error) if not_a_folder(&error) => continue,
                Err(error) => return Err(io_error(error)),
            };
            for entry in entries {
                let entry = entry.map_err(io_error)?;
                let kind = entry.file_type().map_err(io_error)?;
                if kind.is_dir() && !entry.file_name().as_encoded_bytes().starts_with(b".") {
                    folders.push(entry.path());
                } else if kind.is_file()
                    && let Some(key) = self.key_of(&entry.path())
                {
                    match entry.metadata() {
                        Ok(metadata) => found.push(object_meta(key, &metadata)),
                        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                        Err(error) => return Err(io_error(error)),
                    }
                }
            }
        }
        found.sort_by(|a, b| a.location.cmp(&b.location));
        Ok(found)
    }

    fn key_of(&self, file: &FsPath) -> Option<Path> {
        let key = file.strip_prefix(self.root.as_path()).ok()?.to_str()?;
        check_key(key).ok()
    }

    /// Files that are no objects: half-written ones of this store, and `name#n` of `object_store`'s.
    ///
    /// # Errors
    /// [`BucketError::Io`] when the directory cannot be read.
    pub fn leftovers(&self) -> Result<Vec<(PathBuf, fs::Metadata)>, BucketError> {
        let mut found = Vec::new();
        let mut folders = vec![self.root.to_path_buf()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder)? {
                let entry = entry?;
                let path = entry.path();
                if entry.file_type()?.is_dir() {
                    folders.push(path);
                } else if path.starts_with(self.root.join(STAGING))
                    || path.to_str().is_some_and(is_staging_name)
                {
                    found.push((path, entry.metadata()?));
                }
            }
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(found)
    }
}

#[async_trait]
impl ObjectStore for DurableLocal {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        if matches!(opts.mode, PutMode::Update(_)) || !opts.attributes.is_empty() {
            return Err(unsupported("updates by version and attributes"));
        }
        let (store, location) = (self.clone(), location.clone());
        blocking(move || store.put_bytes(&location, &payload, &opts.mode)).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        if !opts.attributes.is_empty() {
            return Err(unsupported("attributes"));
        }
        let target = file_of(&self.root, location)?;
        let store = self.clone();
        let (file, staged) = blocking(move || store.stage().map_err(io_error)).await?;
        Ok(Box::new(LocalUpload::new(file, staged, target)))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let (store, location) = (self.clone(), location.clone());
        blocking(move || store.read(&location, &options)).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let (store, location, ranges) = (self.clone(), location.clone(), ranges.to_vec());
        blocking(move || store.read_ranges(&location, &ranges)).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        locations
            .map(move |location| {
                let store = store.clone();
                blocking(move || {
                    let location = location?;
                    store.remove(&location)?;
                    Ok(location)
                })
            })
            .buffered(DELETES_IN_FLIGHT)
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, prefix) = (self.clone(), prefix.cloned());
        futures::stream::once(blocking(move || store.walk(prefix.as_ref())))
            .map_ok(|found| futures::stream::iter(found.into_iter().map(Ok)))
            .try_flatten()
            .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let (store, prefix) = (self.clone(), prefix.cloned().unwrap_or_default());
        let all = blocking({
            let prefix = prefix.clone();
            move || store.walk(Some(&prefix))
        })
        .await?;
        let mut common = std::collections::BTreeSet::new();
        let mut objects = Vec::new();
        for object in all {
            let mut parts = object.location.prefix_match(&prefix).into_iter().flatten();
            let first = parts.next();
            match (first, parts.next()) {
                (Some(folder), Some(_)) => {
                    common.insert(prefix.clone().join(folder));
                }
                _ => objects.push(object.clone()),
            }
        }
        Ok(ListResult {
            common_prefixes: common.into_iter().collect(),
            objects,
        })
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let mode = match options.mode {
            CopyMode::Overwrite => PutMode::Overwrite,
            CopyMode::Create => PutMode::Create,
        };
        let (store, from, to) = (self.clone(), from.clone(), to.clone());
        blocking(move || {
            let source = file_of(&store.root, &from)?;
            let target = file_of(&store.root, &to)?;
            let mut reader = File::open(source).map_err(io_error)?;
            let (mut file, staged) = store.stage().map_err(io_error)?;
            let copied = io::copy(&mut reader, &mut file)
                .and_then(|_| file.sync_all())
                .and_then(|()| Self::publish(&staged, &target, &mode));
            if copied.is_err() && staged.exists() {
                fs::remove_file(&staged).map_err(io_error)?;
            }
            copied.map_err(io_error)
        })
        .await
    }
}

/// Runs file work beside the async threads.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => runtime
            .spawn_blocking(work)
            .await
            .map_err(|source| object_store::Error::JoinError { source })?,
        Err(_) => work(),
    }
}

pub(super) fn io_error(error: io::Error) -> object_store::Error {
    BucketError::Io(error).into()
}

fn unsupported(operation: &'static str) -> object_store::Error {
    object_store::Error::NotImplemented {
        operation: operation.to_owned(),
        implementer: "DurableLocal".to_owned(),
    }
}

fn not_a_folder(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

fn object_meta(location: Path, metadata: &fs::Metadata) -> ObjectMeta {
    ObjectMeta {
        location,
        last_modified: metadata
            .modified()
            .map_or_else(|_| chrono::DateTime::UNIX_EPOCH, Into::into),
        size: metadata.len(),
        e_tag: Some(etag(metadata)),
        version: None,
    }
}

fn etag(metadata: &fs::Metadata) -> String {
    format!(
        "{:x}-{:x}-{:x}-{:x}",
        metadata.ino(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.len()
    )
}
