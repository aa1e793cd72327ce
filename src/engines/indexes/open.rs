//! Opening what answers: a generation, once its files are those of the journal, and its deltas.
//! Everything that is opened stays open until its index lets go of it. What is not what was built is
//! never loaded; whoever was wired in is told and has it built anew.

use std::{path::PathBuf, sync::Arc};

use lakehouse_actors::PortError;
use lakehouse_journal::model::{
    ErrorKind,
    catalog::{Backend, Delta, DeltaFile, FileDigest, Generation, Index},
};

use super::{Base, LakeIndexes, Live, internal, of_vector, text::LazyText};
use crate::engines::{
    lance::{LanceIndex, text::TEXTS},
    usearch::HnswIndex,
    vectors::{
        self, VectorError, VectorIndex, at_rest,
        files::open_verified,
        spans::{CHUNKS_FILE, Spans},
    },
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
        let opening = Arc::clone(self.opening.lock().entry(index.name.clone()).or_default());
        let _opening = opening.lock().await;
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
        let mut open = self.open.lock();
        // A search of the past does not put away what answers now.
        let newer = open.live.get(&name).is_some_and(|known| {
            Arc::ptr_eq(&known.base, &live.base) && known.segments.len() > live.segments.len()
        });
        if !newer {
            open.live.insert(name, Arc::clone(&live));
        }
        Ok(live)
    }

    async fn read_delta(
        &self,
        index: &Index,
        delta: &Delta,
    ) -> Result<at_rest::RowsAtRest, PortError> {
        let DeltaFile {
            key, bytes, blake3, ..
        } = delta.file.clone();
        let (folder, name) = key.rsplit_once('/').unwrap_or(("", key.as_str()));
        let file = FileDigest {
            name: name.to_owned(),
            bytes,
            blake3,
        };
        let bucket = &index.spec.bucket;
        let files = std::slice::from_ref(&file);
        let dir = self.files.of_generation(bucket, folder, files).await?;
        let dimensions = index.spec.dimensions as usize;
        tokio::task::spawn_blocking(move || {
            let opened = open_verified(&dir, &digest(&file))?;
            at_rest::read(&file.name, opened, dimensions)
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
        let (bucket, prefix) = (&index.spec.bucket, &generation.prefix);
        let files = self.files.of_generation(bucket, prefix, &generation.files);
        let dir = files.await?;
        let parts = apart(&generation.files);
        let opened = open_engine(index.spec.backend, dir.clone(), parts.engine).await?;
        let chunks = match parts.chunks {
            Some(file) => Some(open_chunks(dir.clone(), file, opened.index.rows()).await?),
            None => None,
        };
        let base = Arc::new(Base {
            index: opened.index,
            hnsw: opened.hnsw,
            chunks,
            source_seq: generation.source_seq,
            text: LazyText::new(dir, parts.texts),
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
}

/// A file as the engines know it.
pub(super) fn digest(file: &FileDigest) -> vectors::FileDigest {
    vectors::FileDigest {
        name: file.name.clone(),
        bytes: file.bytes,
        blake3: file.blake3.clone(),
    }
}

/// The files of a generation.
pub(super) struct Parts {
    /// Those of its full text.
    pub texts: Vec<vectors::FileDigest>,
    /// Which vectors are of which row, where a row may have several.
    pub chunks: Option<vectors::FileDigest>,
    /// Those of its engine.
    pub engine: Vec<vectors::FileDigest>,
}

/// Tells the files of a generation apart.
pub(super) fn apart(files: &[FileDigest]) -> Parts {
    let is_text = |file: &vectors::FileDigest| {
        let folder = file.name.split_once('/').map(|(folder, _)| folder);
        folder == Some(TEXTS)
    };
    let (texts, others): (Vec<_>, Vec<_>) = files.iter().map(digest).partition(is_text);
    let (mut chunks, engine): (Vec<_>, Vec<_>) = others
        .into_iter()
        .partition(|file| file.name == CHUNKS_FILE);
    Parts {
        texts,
        chunks: chunks.pop(),
        engine,
    }
}

async fn open_chunks(
    dir: PathBuf,
    file: vectors::FileDigest,
    vectors: u64,
) -> Result<Spans, PortError> {
    let read = move || {
        let opened = open_verified(&dir, &file)?;
        Spans::read(opened, vectors)
    };
    let read = tokio::task::spawn_blocking(read).await;
    let read: Result<Spans, VectorError> = read.map_err(|error| internal(&error))?;
    read.map_err(|error| of_vector(&error))
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

/// A generation's engine.
pub(super) struct OpenEngine {
    /// As any engine is asked.
    pub index: Arc<dyn VectorIndex>,
    /// The same, when it is usearch: trials build graphs of its rows.
    pub hnsw: Option<Arc<HnswIndex>>,
}

/// Opens the files that an engine built.
///
/// # Errors
/// `Corrupt` when they are not what was built.
pub(super) async fn open_engine(
    backend: Backend,
    dir: PathBuf,
    files: Vec<vectors::FileDigest>,
) -> Result<OpenEngine, PortError> {
    match backend {
        Backend::Hnsw => {
            let opened = tokio::task::spawn_blocking(move || HnswIndex::open(&dir, &files));
            let opened = opened.await.map_err(|error| internal(&error))?;
            let hnsw = Arc::new(opened.map_err(|error| of_vector(&error))?);
            Ok(OpenEngine {
                index: Arc::clone(&hnsw) as Arc<dyn VectorIndex>,
                hnsw: Some(hnsw),
            })
        }
        Backend::Lance => {
            let opened = LanceIndex::open(&dir, &files).await;
            Ok(OpenEngine {
                index: Arc::new(opened.map_err(|error| of_vector(&error))?),
                hnsw: None,
            })
        }
    }
}
