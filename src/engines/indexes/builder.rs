//! A builder of either engine, and the full text beside it: takes rows, leaves files. `build` feeds it
//! in the background, so that the daemon answers meanwhile.

use std::path::{Path, PathBuf};

use lakehouse_actors::PortError;
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
        })
    }

    /// Takes rows in, in their order.
    ///
    /// # Errors
    /// `Invalid` for a bad vector with its row's key; what writing says.
    pub async fn add(mut self, rows: Rows) -> Result<Self, PortError> {
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
    pub async fn finish(self) -> Result<(Vec<BuiltFile>, Built), PortError> {
        let built = match self.engine {
            Engine::Hnsw(builder) => tokio::task::spawn_blocking(move || builder.finish())
                .await
                .map_err(|error| internal(&error))?,
            Engine::Lance(builder) => builder.finish().await,
        };
        let built = built.map_err(|error| of_vector(&error))?;
        let vectors = self.dir.join("vectors");
        let files = built.files.iter();
        let mut files: Vec<BuiltFile> = files
            .map(|file| (vectors.join(&file.name), file.clone()))
            .collect();
        if self.has_text && built.stats.vectors > 0 {
            let opened = open_engine(self.backend, vectors, built.files.clone()).await?;
            files.extend(texts_of(&self.dir.join("texts"), opened.index.as_ref()).await?);
        }
        Ok((files, built))
    }
}

/// The full text of the rows that a generation has, in the order of their slots: rows of a key that came
/// again are no longer among them.
async fn texts_of(dir: &Path, index: &dyn VectorIndex) -> Result<Vec<BuiltFile>, PortError> {
    let failed = |error| of_vector(&error);
    std::fs::create_dir_all(dir).map_err(|error| internal(&error))?;
    let texts = TextBuilder::new(dir).map_err(failed)?;
    for first in (0..index.rows()).step_by(TEXTS_AT_A_TIME) {
        let end = (first + TEXTS_AT_A_TIME as u64).min(index.rows());
        let slots: Vec<u64> = (first..end).collect();
        let some = index.texts(&slots).await.map_err(failed)?;
        let some: Vec<String> = some.into_iter().map(Option::unwrap_or_default).collect();
        texts.push(&some).await.map_err(failed)?;
    }
    sealed_texts(dir, texts).await
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
    use crate::engines::{lance::text::TextIndex, vectors::Duplicates};

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
                skipped: 0,
            };
            let (files, built) = builder.add(rows).await.unwrap().finish().await.unwrap();
            assert_eq!(built.stats.vectors, 3);
            let vectors = dir.path().join("vectors");
            let opened = open_engine(backend, vectors, built.files).await.unwrap();
            let digests: Vec<FileDigest> = files.into_iter().map(|(_, file)| file).collect();
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
}
