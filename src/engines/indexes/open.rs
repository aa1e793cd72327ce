//! Opening what answers: a generation, once its files are those of the journal, and its deltas.
//! Everything that is opened stays open until its index lets go of it. What is not what was built is
//! never loaded; whoever was wired in is told and has it built anew.

use std::{path::PathBuf, sync::Arc};

use lakehouse_actors::PortError;
use lakehouse_journal::model::{
    ErrorKind,
    catalog::{Backend, Delta, Generation, Index},
};

use super::{Base, LakeIndexes, Live, internal, of_vector, text::LazyText};
#[cfg(feature = "lance")]
use crate::engines::lance::LanceIndex;
use crate::engines::{
    buckets::of_bucket,
    object_store::DurableLocal,
    usearch::HnswIndex,
    vectors::{self, VectorIndex, at_rest, files::open_verified},
};

impl LakeIndexes {
    /// What answers for an index: its live generation with its deltas.
    ///
    /// # Errors
    /// `Conflict` while nothing is built; `Corrupt` or `Unavailable` when files are not what was built.
    pub async fn live(&self, index: &Index) -> Result<Arc<Live>, PortError> {
        let Some(generation) = index.live_generation() else {
            let text = match &index.failed {
                Some((_, error)) => format!("index `{}` could not be built: {error}", index.name),
                None => format!("index `{}` is not built yet", index.name),
            };
            return Err(PortError::new(ErrorKind::Conflict, "index_not_ready", text));
        };
        if let Some(live) = self.opened(index, generation) {
            return Ok(live);
        }
        let _opening = self.opening.lock().await;
        if let Some(live) = self.opened(index, generation) {
            return Ok(live);
        }
        let opened = self.open_live(index, generation).await;
        opened.map_err(|error| self.told(index, generation, error))
    }

    fn opened(&self, index: &Index, generation: &Generation) -> Option<Arc<Live>> {
        let name = (index.name.clone(), generation.generation);
        let open = self.open.lock();
        let live = open.live.get(&name)?;
        let same_base = open
            .bases
            .get(&(index.spec.bucket.clone(), generation.prefix.clone()))
            .is_some_and(|base| Arc::ptr_eq(base, &live.base));
        let same = same_base
            && live.segments.len() == generation.deltas.len()
            && begins_with(live, &generation.deltas)
            && live.rows_seq == generation.embedded_through();
        same.then(|| Arc::clone(live))
    }

    async fn open_live(
        &self,
        index: &Index,
        generation: &Generation,
    ) -> Result<Arc<Live>, PortError> {
        let base = self.base(index, generation).await?;
        let name = (index.name.clone(), generation.generation);
        let before = self.open.lock().live.get(&name).cloned();
        // Another delta is added to what is open; anything else begins with the generation itself.
        let continued = before
            .filter(|live| Arc::ptr_eq(&live.base, &base) && begins_with(live, &generation.deltas));
        let mut live = match &continued {
            Some(live) => Live::clone_of(live),
            None => Live::new(generation.generation, base, generation.source_seq),
        };
        for delta in &generation.deltas[live.segments.len()..] {
            let rows = self.read_delta(index, delta).await?;
            live = live.with_delta(delta.file.key.clone(), delta.source_seq, rows);
        }
        let live = Arc::new(live.through(generation.embedded_through()));
        self.open.lock().live.insert(name, Arc::clone(&live));
        Ok(live)
    }

    async fn read_delta(
        &self,
        index: &Index,
        delta: &Delta,
    ) -> Result<at_rest::RowsAtRest, PortError> {
        let path = self.local_dir(&index.spec.bucket, &delta.file.key)?;
        let digest = vectors::FileDigest {
            name: delta.file.key.clone(),
            bytes: delta.file.bytes,
            blake3: delta.file.blake3.clone(),
        };
        let dimensions = index.spec.dimensions as usize;
        tokio::task::spawn_blocking(move || {
            let name = digest.name.clone();
            let file = vectors::FileDigest {
                name: path
                    .file_name()
                    .map_or_else(String::new, |name| name.to_string_lossy().into()),
                ..digest
            };
            let dir = path.parent().unwrap_or(&path);
            let opened = open_verified(dir, &file)?;
            at_rest::read(&name, opened, dimensions)
        })
        .await
        .map_err(|error| internal(&error))?
        .map_err(|error| of_vector(&error))
    }

    /// The generation itself.
    pub(super) async fn base(
        &self,
        index: &Index,
        generation: &Generation,
    ) -> Result<Arc<Base>, PortError> {
        let name = (index.spec.bucket.clone(), generation.prefix.clone());
        if let Some(base) = self.open.lock().bases.get(&name) {
            return Ok(Arc::clone(base));
        }
        let dir = self.local_dir(&index.spec.bucket, &generation.prefix)?;
        let files: Vec<vectors::FileDigest> = generation
            .files
            .iter()
            .map(|file| vectors::FileDigest {
                name: file.name.clone(),
                bytes: file.bytes,
                blake3: file.blake3.clone(),
            })
            .collect();
        let (texts, own): (Vec<_>, Vec<_>) = files
            .into_iter()
            .partition(|file| file.name.starts_with("texts.lance/"));
        let opened = open_engine(index.spec.backend, dir.clone(), own).await?;
        let base = Arc::new(Base {
            index: opened,
            source_seq: generation.source_seq,
            text: LazyText::new(dir, texts),
        });
        self.open.lock().bases.insert(name, Arc::clone(&base));
        Ok(base)
    }

    /// Has a generation built anew that is not what was built; until then there is no answer.
    pub(super) fn told(
        &self,
        index: &Index,
        generation: &Generation,
        error: PortError,
    ) -> PortError {
        if error.kind != ErrorKind::Corrupt {
            return error;
        }
        tracing::error!(
            index = index.name,
            generation = generation.generation,
            %error,
            "a generation is not what was built; it is not loaded, and built anew"
        );
        if let Some(told) = self.on_corrupt.get() {
            told(&index.name, generation.generation, &error.message);
        }
        let text = format!("{error}; index `{}` is being built anew", index.name);
        PortError::new(ErrorKind::Unavailable, "index_rebuilding", text)
    }

    pub(super) fn local_bucket(&self, bucket: &str) -> Result<Arc<DurableLocal>, PortError> {
        let opened = self
            .buckets
            .get(bucket)
            .map_err(|error| of_bucket(bucket, &error))?;
        opened.local.ok_or_else(|| {
            let text = format!("bucket `{bucket}` is no directory; indexes are mapped from files");
            PortError::new(ErrorKind::Unprocessable, "unsupported", text)
        })
    }

    /// Refuses a bucket that indexes cannot lie in.
    ///
    /// # Errors
    /// `Unprocessable` for a bucket that is no directory.
    pub fn must_take_indexes(&self, bucket: &str) -> Result<(), PortError> {
        self.local_bucket(bucket).map(|_| ())
    }

    pub(super) fn local_dir(&self, bucket: &str, key: &str) -> Result<PathBuf, PortError> {
        self.local_bucket(bucket)?
            .file(key)
            .map_err(|error| of_bucket(bucket, &error))
    }
}

/// Whether the deltas that are open are the first of these.
fn begins_with(live: &Live, deltas: &[Delta]) -> bool {
    live.segments.len() <= deltas.len()
        && live
            .segments
            .iter()
            .zip(deltas)
            .all(|(segment, delta)| segment.key == delta.file.key)
}

async fn open_engine(
    backend: Backend,
    dir: PathBuf,
    files: Vec<vectors::FileDigest>,
) -> Result<Arc<dyn VectorIndex>, PortError> {
    match backend {
        Backend::Hnsw => {
            let opened = tokio::task::spawn_blocking(move || HnswIndex::open(&dir, &files));
            let opened = opened.await.map_err(|error| internal(&error))?;
            Ok(Arc::new(opened.map_err(|error| of_vector(&error))?))
        }
        #[cfg(feature = "lance")]
        Backend::Lance => {
            let opened = LanceIndex::open(&dir, &files).await;
            Ok(Arc::new(opened.map_err(|error| of_vector(&error))?))
        }
        #[cfg(not(feature = "lance"))]
        Backend::Lance => Err(super::config::without_lance()),
    }
}
