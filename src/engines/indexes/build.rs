//! Builds a generation: reads the visible rows, embeds them on every core, links the graph, and puts
//! the files into the bucket. The indexing worker calls it; the catalog decides what it is worth.

use std::{
    path::Path,
    sync::{Arc, atomic::Ordering},
};

use arrow::{
    array::{Array, ArrayRef, AsArray},
    compute::cast,
    datatypes::DataType,
    record_batch::RecordBatch,
};
use async_trait::async_trait;
use futures::StreamExt;
use lakehouse_actors::{
    PortError,
    ports::{BuiltGeneration, IndexBuilder, Progress},
};
use lakehouse_journal::{
    model::{
        ErrorKind, Fold,
        catalog::{
            Backend, CatalogState, Dataset, EmbeddingSpec, EvalSet, FileDigest, Index, IndexConfig,
            IndexSpec, TextSpec, Trial,
        },
    },
    record::Seq,
};

use super::{LakeIndexes, OpenGeneration, hnsw_config, of_vector, quoted};
use crate::engines::{
    buckets::{of_bucket, of_store},
    embedder::{DIMENSIONS, StaticEmbedder},
    tables::of_query,
    usearch::HnswBuilder,
    vectors::{self, BuildOptions, Chunk},
};
use crate::query::{SessionTables, row_key::names};

#[async_trait]
impl IndexBuilder for LakeIndexes {
    async fn check(
        &self,
        index: Arc<Index>,
        generation: u64,
        built: &BuiltGeneration,
        eval: Option<EvalSet>,
    ) -> Result<Trial, PortError> {
        let (prefix, files) = (&built.prefix, &built.files);
        self.check_files(&index, generation, prefix, files, eval)
            .await
    }

    async fn release(&self, catalog: &CatalogState) {
        // A trial's graph holds the rows that were there when it began.
        drop(self.turn().await);
        self.forget_dropped(catalog);
        self.forget_queries();
    }

    fn index_of(&self, dataset: &Dataset, wanted: &EmbeddingSpec) -> Result<IndexSpec, PortError> {
        let refuse = |what: &str| {
            let text = format!("{what} is not available in this version");
            Err(PortError::new(
                ErrorKind::Unprocessable,
                "unsupported",
                text,
            ))
        };
        let embedder = StaticEmbedder::built_in().identity();
        if wanted.provider != embedder.provider || wanted.model != embedder.model {
            return refuse("an embedder other than `in-process`/`static-minilm-128`");
        }
        if wanted
            .backend
            .is_some_and(|backend| backend != Backend::Hnsw)
        {
            return refuse("the backend `lance`");
        }
        Ok(IndexSpec {
            source: dataset.name.clone(),
            key: wanted.key.clone(),
            text: wanted.text.clone(),
            provider: wanted.provider.clone(),
            model: wanted.model.clone(),
            dimensions: u32::try_from(embedder.dimensions).expect("few dimensions"),
            backend: Backend::Hnsw,
            config: IndexConfig::default(),
            bucket: wanted
                .bucket
                .clone()
                .unwrap_or_else(|| dataset.bucket.clone()),
        })
    }

    async fn build(
        &self,
        catalog: Arc<Fold<CatalogState>>,
        index: Arc<Index>,
        generation: u64,
        progress: Arc<Progress>,
    ) -> Result<BuiltGeneration, PortError> {
        if index.spec.backend != Backend::Hnsw {
            let text = "this version builds `hnsw` indexes only";
            return Err(PortError::new(
                ErrorKind::Unprocessable,
                "unsupported",
                text,
            ));
        }
        let work = tempfile::Builder::new()
            .prefix("index-")
            .tempdir_in(&self.staging)
            .map_err(|error| PortError::internal(error.to_string()))?;
        let dir = work.path().join("generation");
        let config = hnsw_config(index.config_to_build())?;
        let dimensions = index.spec.dimensions as usize;
        let options = BuildOptions::default();
        let mut builder = HnswBuilder::new(&dir, dimensions, config, options)
            .map_err(|error| of_vector(&error))?;
        let template = index.spec.text.clone();
        let key_columns = index.spec.key.columns().len();
        let sql = text_query(&index, &index.spec.source)?;
        // An erasure neither waits for a build nor ends it: it asks for another one.
        let tables = SessionTables::all(Arc::new(catalog.state.clone()), Seq::MAX);
        let mut rows = self.rows(tables, &sql).await?;
        let before = self.before(&index).await;
        let mut counts = Counts::default();
        while let Some(batch) = rows.next().await {
            let batch = batch.map_err(|error| of_query(&error))?;
            let count = batch.num_rows() as u64;
            let template = template.clone();
            let before = before.clone();
            let added = tokio::task::spawn_blocking(move || {
                let before = before.as_deref();
                let added = add_batch(&mut builder, &batch, key_columns, &template, before)?;
                Ok::<_, PortError>((builder, added))
            });
            let (returned, added) = added
                .await
                .map_err(|error| PortError::internal(error.to_string()))??;
            builder = returned;
            counts.add(added);
            progress.done.fetch_add(count, Ordering::Relaxed);
            if progress.is_cancelled() {
                return Err(PortError::new(
                    ErrorKind::Timeout,
                    "cancelled",
                    "the build was cancelled",
                ));
            }
        }
        let built = tokio::task::spawn_blocking(move || builder.finish())
            .await
            .map_err(|error| PortError::internal(error.to_string()))?
            .map_err(|error| of_vector(&error))?;
        let unique = uuid::Uuid::new_v4().simple().to_string();
        let prefix = format!("vectors/{}/{generation}-{}", index.name, &unique[..12]);
        self.publish(&index.spec.bucket, &prefix, &dir, &built.files)
            .await?;
        Ok(BuiltGeneration {
            prefix,
            vectors: built.stats.vectors,
            skipped: counts.skipped,
            reused: counts.reused,
            changed: counts.changed,
            files: built
                .files
                .into_iter()
                .map(|file| FileDigest {
                    name: file.name,
                    bytes: file.bytes,
                    blake3: file.blake3,
                })
                .collect(),
        })
    }
}

impl LakeIndexes {
    /// The generation whose vectors may be taken over; without one that can be opened, there is none.
    async fn before(&self, index: &Index) -> Option<Arc<OpenGeneration>> {
        index.live?;
        let live = self.live(index).await;
        let live = live.inspect_err(|error| {
            tracing::warn!(index = index.name, %error, "every row is embedded again");
        });
        live.ok().map(|(_, open)| open)
    }

    pub(super) async fn publish(
        &self,
        bucket: &str,
        prefix: &str,
        dir: &Path,
        files: &[vectors::FileDigest],
    ) -> Result<(), PortError> {
        let opened = self
            .buckets
            .get(bucket)
            .map_err(|error| of_bucket(bucket, &error))?;
        for file in files {
            let key = format!("{prefix}/{}", file.name);
            let put = opened.put_file(dir.join(&file.name), &key).await;
            put.map_err(|error| of_store(bucket, &error))?;
        }
        Ok(())
    }
}

/// Key columns of every row of a dataset or view as they are, then its text columns as text.
pub(super) fn text_query(index: &Index, source: &str) -> Result<String, PortError> {
    let columns = index
        .spec
        .text
        .columns()
        .map_err(|reason| PortError::new(ErrorKind::Unprocessable, "impossible", reason))?;
    let key = index.spec.key.columns();
    let mut selected: Vec<String> = key.iter().map(|column| quoted(column)).collect();
    let is_named: Vec<String> = selected
        .iter()
        .map(|key| format!("{key} IS NOT NULL"))
        .collect();
    for (number, column) in columns.iter().enumerate() {
        selected.push(format!(
            "CAST({} AS VARCHAR) AS text_{number}",
            quoted(column)
        ));
    }
    Ok(format!(
        "SELECT {} FROM {} WHERE {}",
        selected.join(", "),
        quoted(source),
        is_named.join(" AND ")
    ))
}

/// What became of rows.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Counts {
    skipped: u64,
    reused: u64,
    changed: u64,
}

impl Counts {
    fn add(&mut self, more: Self) {
        self.skipped += more.skipped;
        self.reused += more.reused;
        self.changed += more.changed;
    }
}

/// Adds a batch, whose first columns are the key: a row that `before` has with the same text keeps its
/// vector, bit for bit; the others are embedded.
fn add_batch(
    builder: &mut HnswBuilder,
    batch: &RecordBatch,
    key_columns: usize,
    template: &TextSpec,
    before: Option<&OpenGeneration>,
) -> Result<Counts, PortError> {
    let keys = names(&batch.columns()[..key_columns])
        .map_err(|error| PortError::internal(error.to_string()))?;
    let texts = texts_of(batch, key_columns, template)?;
    let mut counts = Counts::default();
    let mut kept: Vec<Option<&[f32]>> = Vec::with_capacity(texts.len());
    for (row, text) in texts.iter().enumerate() {
        let slot = before.and_then(|before| before.index.slot_of(keys.value(row)));
        let same = before.zip(slot).filter(|(before, slot)| {
            let known = before.index.text_of(*slot);
            known.is_some_and(|known| known == text)
        });
        let vector = same.and_then(|(before, slot)| before.index.vector_of(slot));
        counts.reused += u64::from(vector.is_some());
        counts.changed += u64::from(slot.is_some() && vector.is_none());
        kept.push(vector);
    }
    let new = texts.iter().zip(&kept).filter(|(_, kept)| kept.is_none());
    let new: Vec<String> = new.map(|(text, _)| text.clone()).collect();
    let mut embedded = embed_all(&new).into_iter();
    let mut chunk_keys = Vec::with_capacity(texts.len());
    let mut chunk_texts = Vec::with_capacity(texts.len());
    let mut numbers = Vec::new();
    for ((row, text), kept) in texts.into_iter().enumerate().zip(kept) {
        let made = match kept {
            Some(_) => None,
            None => embedded.next().flatten(),
        };
        let Some(vector) = kept.or(made.as_ref().map(<[f32; DIMENSIONS]>::as_slice)) else {
            continue;
        };
        chunk_keys.push(keys.value(row).to_owned());
        chunk_texts.push(text);
        numbers.extend_from_slice(vector);
    }
    counts.skipped = (batch.num_rows() - chunk_keys.len()) as u64;
    builder
        .add_chunk(Chunk {
            keys: &chunk_keys,
            texts: Some(&chunk_texts),
            vectors: &numbers,
        })
        .map_err(|error| of_vector(&error))?;
    Ok(counts)
}

/// The texts of a batch's rows, whose first columns are the key.
pub(super) fn texts_of(
    batch: &RecordBatch,
    key_columns: usize,
    template: &TextSpec,
) -> Result<Vec<String>, PortError> {
    let parts = (key_columns..batch.num_columns())
        .map(|column| text_column(batch, column))
        .collect::<Result<Vec<_>, _>>()?;
    let text = |row: usize| {
        let values = parts.iter().map(|part| {
            let part = part.as_string::<i32>();
            if part.is_null(row) {
                ""
            } else {
                part.value(row)
            }
        });
        render(template, values)
    };
    Ok((0..batch.num_rows()).map(text).collect())
}

/// The vectors of many texts, on every core.
fn embed_all(texts: &[String]) -> Vec<Option<[f32; DIMENSIONS]>> {
    let embedder = StaticEmbedder::built_in();
    let part = texts.len().div_ceil(vectors::processors()).max(256);
    std::thread::scope(|scope| {
        let workers: Vec<_> = texts
            .chunks(part)
            .map(|texts| {
                scope.spawn(move || {
                    texts
                        .iter()
                        .map(|text| embedder.embed(text))
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().expect("embedding takes any text"))
            .collect()
    })
}

/// The text of a row out of its template and the values of the template's columns.
fn render<'a>(template: &TextSpec, mut values: impl Iterator<Item = &'a str>) -> String {
    match template {
        TextSpec::Columns(_) => values.collect::<Vec<_>>().join(" "),
        TextSpec::Template(template) => {
            let mut text = String::new();
            let mut rest = template.as_str();
            while let Some((before, after)) = rest.split_once('{') {
                text.push_str(before);
                text.push_str(values.next().unwrap_or_default());
                rest = after.split_once('}').map_or("", |(_, rest)| rest);
            }
            text.push_str(rest);
            text
        }
    }
}

fn text_column(batch: &RecordBatch, column: usize) -> Result<ArrayRef, PortError> {
    cast(batch.column(column), &DataType::Utf8)
        .map_err(|error| PortError::internal(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_takes_its_columns_in_order() {
        let template = TextSpec::Template("{title}. {body}!".to_owned());
        assert_eq!(render(&template, ["A", "b"].into_iter()), "A. b!");
        let columns = TextSpec::Columns(vec!["title".to_owned(), "body".to_owned()]);
        assert_eq!(render(&columns, ["A", "b"].into_iter()), "A b");
    }

    #[test]
    fn an_identifier_cannot_end_its_quotes() {
        assert_eq!(quoted("a\"b"), "\"a\"\"b\"");
    }
}
