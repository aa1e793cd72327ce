//! A builder of either engine, and what lies beside its files: the full text, and which vectors are of
//! which row where texts are cut. Takes rows, leaves files. `build` feeds it in the background, so that
//! the daemon answers meanwhile.

use std::path::{Path, PathBuf};

use lakehouse_actors::{PortError, ports::ChunkSpan};
use lakehouse_journal::model::catalog::{Backend, IndexConfig, IndexSpec};

use super::{
    config::{hnsw_config, lance_config},
    internal, of_vector,
    open::open_engine,
    source::Rows,
};
use crate::engines::{
    lance::{LanceBuilder, text::TextBuilder},
    usearch::HnswBuilder,
    vectors::{
        BuildOptions, Built, Chunk, FileDigest, VectorIndex,
        files::{files_below, seal, sync_dirs_below},
        spans::{CHUNKS_FILE, Spans},
    },
};

/// Texts that are read at a time on their way into the full text.
const TEXTS_AT_A_TIME: usize = 4_096;

/// The engine's own builder.
enum Engine {
    Hnsw(Box<HnswBuilder>),
    Lance(Box<LanceBuilder>),
}

/// Builds one generation in a directory of its own.
pub struct Builder {
    engine: Engine,
    backend: Backend,
    dir: PathBuf,
    has_text: bool,
    chunked: Option<Chunked>,
}

/// The rows of a generation whose texts are cut. To the engine every chunk is a row: the first of a text
/// has the row's key and its whole text, the others a name that no row can have, and no text.
struct Chunked {
    marks: String,
    rows: u32,
    spans: Vec<ChunkSpan>,
}

impl Chunked {
    fn new() -> Self {
        let marks = uuid::Uuid::new_v4().simple().to_string();
        Self {
            marks,
            rows: 0,
            spans: Vec::new(),
        }
    }

    /// The rows as the engine takes them.
    fn spread(&mut self, rows: Rows) -> Result<Rows, PortError> {
        let too_many = |_| PortError::internal("more rows than a generation holds");
        let count = u32::try_from(rows.keys.len()).map_err(too_many)?;
        let mut spread = Rows {
            vectors: rows.vectors,
            skipped: rows.skipped,
            ..Rows::default()
        };
        let mut texts = Vec::with_capacity(rows.chunks.len());
        let mut whole = rows.keys.into_iter().zip(rows.texts.unwrap_or_default());
        let mut last = None;
        for span in rows.chunks {
            let (key, text) = if last == Some(span.row) {
                let name = format!("{}-{}", self.marks, self.spans.len());
                (name, String::new())
            } else {
                let next = whole.next();
                next.ok_or_else(|| PortError::internal("chunks of a row that is not there"))?
            };
            last = Some(span.row);
            spread.keys.push(key);
            texts.push(text);
            let row = self.rows + span.row;
            self.spans.push(ChunkSpan { row, ..span });
        }
        spread.texts = Some(texts);
        self.rows = self
            .rows
            .checked_add(count)
            .ok_or_else(|| PortError::internal("more rows than a generation holds"))?;
        Ok(spread)
    }
}

/// What a builder leaves.
pub struct BuiltIndex {
    /// Every file.
    pub files: Vec<BuiltFile>,
    /// Vectors in it.
    pub vectors: u64,
    /// Rows in it, where one may have several vectors.
    pub rows: Option<u64>,
}

/// A file of a generation: where it is, and what it is.
pub type BuiltFile = (PathBuf, FileDigest);

impl Builder {
    /// Begins a generation below `dir`.
    ///
    /// # Errors
    /// What the engine says of the settings.
    pub fn new(
        dir: &Path,
        spec: &IndexSpec,
        config: &IndexConfig,
        options: BuildOptions,
    ) -> Result<Self, PortError> {
        let dimensions = spec.dimensions as usize;
        let vectors = dir.join("vectors");
        let engine = match spec.backend {
            Backend::Hnsw => {
                let config = hnsw_config(config)?;
                let builder = HnswBuilder::new(&vectors, dimensions, config, options);
                builder.map(|builder| Engine::Hnsw(Box::new(builder)))
            }
            Backend::Lance => {
                let config = lance_config(config)?;
                let builder = LanceBuilder::new(&vectors, dimensions, config, options);
                builder.map(|builder| Engine::Lance(Box::new(builder)))
            }
        };
        Ok(Self {
            engine: engine.map_err(|error| of_vector(&error))?,
            backend: spec.backend,
            dir: dir.to_owned(),
            has_text: cfg!(feature = "lance") && !spec.text.is_none(),
            chunked: spec.chunk.map(|_| Chunked::new()),
        })
    }

    /// Takes rows in, in their order.
    ///
    /// # Errors
    /// `Invalid` for a bad vector with its row's key; what writing says.
    pub async fn add(mut self, rows: Rows) -> Result<Self, PortError> {
        let rows = match &mut self.chunked {
            Some(chunked) => chunked.spread(rows)?,
            None => rows,
        };
        match self.engine {
            Engine::Hnsw(mut builder) => {
                let added = tokio::task::spawn_blocking(move || {
                    builder.add_chunk(chunk(&rows)).map(|()| builder)
                });
                let added = added.await.map_err(|error| internal(&error))?;
                self.engine = Engine::Hnsw(added.map_err(|error| of_vector(&error))?);
            }
            Engine::Lance(mut builder) => {
                let added = builder.add_chunk(chunk(&rows)).await;
                added.map_err(|error| of_vector(&error))?;
                self.engine = Engine::Lance(builder);
            }
        }
        Ok(self)
    }

    /// Links, indexes, seals: every file of the generation, and its measures.
    ///
    /// # Errors
    /// What the engine says.
    pub async fn finish(self) -> Result<BuiltIndex, PortError> {
        let built = match self.engine {
            Engine::Hnsw(builder) => tokio::task::spawn_blocking(move || builder.finish())
                .await
                .map_err(|error| internal(&error))?,
            Engine::Lance(builder) => builder.finish().await,
        };
        let Built { files, stats } = built.map_err(|error| of_vector(&error))?;
        let vectors = self.dir.join("vectors");
        let own = files.iter();
        let mut all: Vec<BuiltFile> = own
            .map(|file| (vectors.join(&file.name), file.clone()))
            .collect();
        let spans = match self.chunked {
            Some(chunked) => Some(sealed_chunks(&self.dir, chunked.spans, &mut all).await?),
            None => None,
        };
        if self.has_text && stats.vectors > 0 {
            let opened = open_engine(self.backend, vectors, files).await?;
            let rows = Firsts::of(spans.as_ref(), opened.index.rows());
            let dir = self.dir.join("texts");
            all.extend(texts_of(&dir, opened.index.as_ref(), &rows).await?);
        }
        Ok(BuiltIndex {
            files: all,
            vectors: stats.vectors,
            rows: spans.map(|spans| spans.rows() as u64),
        })
    }
}

/// The slots that stand for rows.
enum Firsts<'a> {
    /// So many, from 0.
    Every(u64),
    /// These.
    These(&'a [u32]),
}

impl<'a> Firsts<'a> {
    fn of(spans: Option<&'a Spans>, vectors: u64) -> Self {
        spans.map_or(Self::Every(vectors), |spans| Self::These(spans.firsts()))
    }

    fn len(&self) -> u64 {
        match self {
            Self::Every(rows) => *rows,
            Self::These(firsts) => firsts.len() as u64,
        }
    }

    fn slots(&self, rows: std::ops::Range<u64>) -> Vec<u64> {
        match self {
            Self::Every(_) => rows.collect(),
            Self::These(firsts) => {
                let of = |row| firsts.get(usize::try_from(row).ok()?).copied();
                rows.filter_map(of).map(u64::from).collect()
            }
        }
    }
}

/// The full text of the rows that a generation has, in the order of their slots: rows of a key that came
/// again are no longer among them.
async fn texts_of(
    dir: &Path,
    index: &dyn VectorIndex,
    rows: &Firsts<'_>,
) -> Result<Vec<BuiltFile>, PortError> {
    let failed = |error| of_vector(&error);
    std::fs::create_dir_all(dir).map_err(|error| internal(&error))?;
    let texts = TextBuilder::new(dir).map_err(failed)?;
    for first in (0..rows.len()).step_by(TEXTS_AT_A_TIME) {
        let end = (first + TEXTS_AT_A_TIME as u64).min(rows.len());
        let slots = rows.slots(first..end);
        let some = index.texts(&slots).await.map_err(failed)?;
        let some: Vec<String> = some.into_iter().map(Option::unwrap_or_default).collect();
        texts.push(&some).await.map_err(failed)?;
    }
    sealed_texts(dir, texts).await
}

/// Which vectors are of which row, in a file of its own.
async fn sealed_chunks(
    dir: &Path,
    spans: Vec<ChunkSpan>,
    files: &mut Vec<BuiltFile>,
) -> Result<Spans, PortError> {
    let spans = Spans::new(spans);
    let spans = spans.ok_or_else(|| PortError::internal("chunks out of their order"))?;
    let owned = dir.to_owned();
    let sealed = tokio::task::spawn_blocking(move || {
        spans.write(&owned)?;
        seal(&owned, CHUNKS_FILE).map(|file| (spans, file))
    });
    let sealed = sealed.await.map_err(|error| internal(&error))?;
    let (spans, file) = sealed.map_err(|error| of_vector(&error))?;
    files.push((dir.join(CHUNKS_FILE), file));
    Ok(spans)
}

fn chunk(rows: &Rows) -> Chunk<'_> {
    Chunk {
        keys: &rows.keys,
        texts: rows.texts.as_deref(),
        vectors: &rows.vectors,
    }
}

async fn sealed_texts(dir: &Path, texts: TextBuilder) -> Result<Vec<BuiltFile>, PortError> {
    texts.finish().await.map_err(|error| of_vector(&error))?;
    let dir = dir.to_owned();
    let sealed = tokio::task::spawn_blocking(move || {
        let mut files = Vec::new();
        for name in files_below(&dir)? {
            files.push((dir.join(&name), seal(&dir, &name)?));
        }
        sync_dirs_below(&dir)?;
        Ok(files)
    });
    let sealed = sealed.await.map_err(|error| internal(&error))?;
    sealed.map_err(|error| of_vector(&error))
}

#[cfg(all(test, feature = "lance"))]
mod tests {
    use lakehouse_journal::model::catalog::TextSpec;

    use super::*;
    use crate::engines::{
        lance::text::{TEXTS, TextIndex},
        vectors::Duplicates,
    };

    #[tokio::test(flavor = "multi_thread")]
    async fn words_stand_in_the_slots_of_their_rows_when_a_key_came_twice() {
        for backend in [Backend::Hnsw, Backend::Lance] {
            let dir = tempfile::tempdir().unwrap();
            let config = IndexConfig::default();
            let spec = IndexSpec {
                source: "notes".to_owned(),
                key: "id".into(),
                text: TextSpec::Columns(vec!["body".to_owned()]),
                vector_column: None,
                chunk: None,
                provider: "p".to_owned(),
                model: "m".to_owned(),
                dimensions: 2,
                backend,
                config: config.clone(),
                bucket: "primary".to_owned(),
            };
            let options = BuildOptions {
                duplicates: Duplicates::LastWins,
                ..BuildOptions::default()
            };
            let builder = Builder::new(dir.path(), &spec, &config, options).unwrap();
            let owned = |words: [&str; 4]| words.map(str::to_owned).to_vec();
            let rows = Rows {
                keys: owned(["a", "b", "a", "c"]),
                texts: Some(owned(["amber", "basalt", "copper", "dune"])),
                vectors: vec![1.0, 0.0, 0.9, 0.1, 0.8, 0.2, 0.7, 0.3],
                ..Rows::default()
            };
            let built = builder.add(rows).await.unwrap().finish().await.unwrap();
            assert_eq!((built.vectors, built.rows), (3, None));
            let digests = built.files.into_iter().map(|(_, file)| file);
            let digests: Vec<FileDigest> = digests.collect();
            let own = |file: &&FileDigest| !file.name.starts_with(TEXTS);
            let own = digests.iter().filter(own).cloned().collect();
            let vectors = dir.path().join("vectors");
            let opened = open_engine(backend, vectors, own).await.unwrap();
            let texts = TextIndex::open(&dir.path().join("texts"), &digests).await;
            let texts = texts.unwrap().unwrap();
            for (word, key) in [("basalt", "b"), ("copper", "a"), ("dune", "c")] {
                let found = texts.search(word, 9, None).await.unwrap();
                let slots: Vec<u64> = found.iter().map(|(slot, _)| *slot).collect();
                assert_eq!(slots, [opened.index.slot_of(key).unwrap()], "{word}");
            }
            let gone = texts.search("amber", 9, None).await.unwrap();
            assert!(gone.is_empty(), "the row was replaced: {gone:?}");
        }
    }

    #[test]
    fn the_first_chunk_of_a_text_has_the_rows_key_and_text_and_the_others_a_name_of_their_own() {
        let span = |row, number| ChunkSpan {
            row,
            number,
            start: number,
            end: number + 1,
        };
        let mut chunked = Chunked::new();
        let rows = |key: &str| Rows {
            keys: vec![key.to_owned(), format!("{key}2")],
            texts: Some(vec!["one".to_owned(), "two".to_owned()]),
            vectors: vec![1.0, 2.0, 3.0],
            chunks: vec![span(0, 0), span(0, 1), span(1, 4)],
            skipped: 0,
        };
        let spread = chunked.spread(rows("a")).unwrap();
        assert_eq!(
            (&spread.keys[0], &spread.keys[2]),
            (&"a".to_owned(), &"a2".to_owned())
        );
        assert_eq!(spread.texts.unwrap(), ["one", "", "two"]);
        let again = chunked.spread(rows("b")).unwrap();
        assert_ne!(spread.keys[1], again.keys[1]);
        let rows: Vec<u32> = chunked.spans.iter().map(|span| span.row).collect();
        assert_eq!(rows, [0, 0, 1, 2, 2, 3]);
    }
}
