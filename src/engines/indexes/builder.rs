//! A builder of either engine, and the full text beside it: takes rows, leaves files. `build` feeds it
//! in the background, so that the daemon answers meanwhile.

use std::path::{Path, PathBuf};

use lakehouse_actors::PortError;
use lakehouse_journal::model::catalog::{Backend, IndexSpec};

use super::{hnsw_config, internal, of_vector, source::Rows};
#[cfg(feature = "lance")]
use crate::engines::{
    lance::{LanceBuilder, text::TextBuilder},
    vectors::files::{files_below, seal, sync_dirs_below},
};
use crate::engines::{
    usearch::HnswBuilder,
    vectors::{BuildOptions, Built, Chunk, FileDigest},
};

/// The engine's own builder.
enum Engine {
    Hnsw(Box<HnswBuilder>),
    #[cfg(feature = "lance")]
    Lance(Box<LanceBuilder>),
}

/// Builds one generation in a directory of its own.
pub struct Builder {
    engine: Engine,
    dir: PathBuf,
    #[cfg(feature = "lance")]
    texts: Option<TextBuilder>,
}

/// A file of a generation: where it is, and what it is.
pub type BuiltFile = (PathBuf, FileDigest);

impl Builder {
    /// Begins a generation below `dir`.
    ///
    /// # Errors
    /// What the engine says of the settings.
    pub fn new(dir: &Path, spec: &IndexSpec, options: BuildOptions) -> Result<Self, PortError> {
        let dimensions = spec.dimensions as usize;
        let vectors = dir.join("vectors");
        let engine = match spec.backend {
            Backend::Hnsw => {
                let config = hnsw_config(&spec.config)?;
                let builder = HnswBuilder::new(&vectors, dimensions, config, options);
                builder.map(|builder| Engine::Hnsw(Box::new(builder)))
            }
            #[cfg(feature = "lance")]
            Backend::Lance => {
                let config = super::config::lance_config(&spec.config)?;
                let builder = LanceBuilder::new(&vectors, dimensions, config, options);
                builder.map(|builder| Engine::Lance(Box::new(builder)))
            }
            #[cfg(not(feature = "lance"))]
            Backend::Lance => return Err(super::config::without_lance()),
        };
        Ok(Self {
            engine: engine.map_err(|error| of_vector(&error))?,
            dir: dir.to_owned(),
            #[cfg(feature = "lance")]
            texts: None,
        })
    }

    /// Takes rows in, in their order.
    ///
    /// # Errors
    /// `Invalid` for a bad vector with its row's key; what writing says.
    pub async fn add(mut self, rows: Rows) -> Result<Self, PortError> {
        #[cfg(feature = "lance")]
        if let Some(texts) = rows.texts.as_ref().filter(|texts| !texts.is_empty()) {
            let builder = match self.texts.take() {
                Some(builder) => builder,
                None => self.text_builder()?,
            };
            builder
                .push(texts)
                .await
                .map_err(|error| of_vector(&error))?;
            self.texts = Some(builder);
        }
        match self.engine {
            Engine::Hnsw(mut builder) => {
                let added = tokio::task::spawn_blocking(move || {
                    builder.add_chunk(chunk(&rows)).map(|()| builder)
                });
                let added = added.await.map_err(|error| internal(&error))?;
                self.engine = Engine::Hnsw(added.map_err(|error| of_vector(&error))?);
            }
            #[cfg(feature = "lance")]
            Engine::Lance(mut builder) => {
                let added = builder.add_chunk(chunk(&rows)).await;
                added.map_err(|error| of_vector(&error))?;
                self.engine = Engine::Lance(builder);
            }
        }
        Ok(self)
    }

    #[cfg(feature = "lance")]
    fn text_builder(&self) -> Result<TextBuilder, PortError> {
        let dir = self.dir.join("texts");
        std::fs::create_dir_all(&dir).map_err(|error| internal(&error))?;
        TextBuilder::new(&dir).map_err(|error| of_vector(&error))
    }

    /// Links, indexes, seals: every file of the generation, and its measures.
    ///
    /// # Errors
    /// What the engine says.
    pub async fn finish(self) -> Result<(Vec<BuiltFile>, Built), PortError> {
        #[cfg(feature = "lance")]
        let texts = match self.texts {
            Some(texts) => sealed_texts(&self.dir.join("texts"), texts).await?,
            None => Vec::new(),
        };
        let built = match self.engine {
            Engine::Hnsw(builder) => tokio::task::spawn_blocking(move || builder.finish())
                .await
                .map_err(|error| internal(&error))?,
            #[cfg(feature = "lance")]
            Engine::Lance(builder) => builder.finish().await,
        };
        let built = built.map_err(|error| of_vector(&error))?;
        let vectors = self.dir.join("vectors");
        let files = built.files.iter();
        let files = files.map(|file| (vectors.join(&file.name), file.clone()));
        #[cfg(feature = "lance")]
        let files = files.chain(texts);
        Ok((files.collect(), built))
    }
}

fn chunk(rows: &Rows) -> Chunk<'_> {
    Chunk {
        keys: &rows.keys,
        texts: rows.texts.as_deref(),
        vectors: &rows.vectors,
    }
}

#[cfg(feature = "lance")]
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
