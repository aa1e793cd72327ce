//! Builds a generation: reads the visible rows, has them embedded, links the graph, and puts the files
//! into the bucket. The indexing worker calls it; the catalog decides what it is worth.

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

use super::{
    LakeIndexes, hnsw_config,
    making::{Counts, must_be_public},
    of_vector, quoted,
};
use crate::engines::{
    buckets::{of_bucket, of_store},
    embedder::EmbedderName,
    tables::of_query,
    usearch::HnswBuilder,
    vectors::{self, BuildOptions},
};
use crate::query::SessionTables;

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
        if let Err(error) = self.forget_vectors_of_dropped(catalog) {
            tracing::warn!(%error, "kept vectors of a dropped dataset stay until the next start");
        }
        // A trial's graph holds the rows that were there when it began.
        drop(self.turn().await);
        self.forget_dropped(catalog);
        self.forget_queries();
    }

    async fn index_of(
        &self,
        dataset: &Dataset,
        wanted: &EmbeddingSpec,
    ) -> Result<IndexSpec, PortError> {
        if wanted
            .backend
            .is_some_and(|backend| backend != Backend::Hnsw)
        {
            let text = "the backend `lance` is not available in this version";
            return Err(PortError::new(
                ErrorKind::Unprocessable,
                "unsupported",
                text,
            ));
        }
        let name = EmbedderName {
            provider: wanted.provider.clone(),
            model: wanted.model.clone(),
        };
        let embedder = self.embedding.embedders.find(&name).await?;
        if embedder.limits().external {
            must_be_public(&name.provider, dataset, &wanted.text)?;
        }
        Ok(IndexSpec {
            source: dataset.name.clone(),
            key: wanted.key.clone(),
            text: wanted.text.clone(),
            provider: wanted.provider.clone(),
            model: wanted.model.clone(),
            dimensions: embedder.identity().dimensions,
            backend: Backend::Hnsw,
            config: IndexConfig::default(),
            bucket: wanted
                .bucket
                .clone()
                .unwrap_or_else(|| dataset.bucket.clone()),
        })
    }

    fn is_made_as_today(&self, index: &Index) -> bool {
        self.is_of_today(index)
    }

    async fn sweep_vectors(
        &self,
        catalog: Arc<Fold<CatalogState>>,
        dataset: &str,
        through: Seq,
    ) -> Result<u64, PortError> {
        self.sweep(&catalog, dataset, through).await
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
        let spec = index.spec_to_build();
        let dimensions = spec.dimensions as usize;
        let options = BuildOptions::default();
        let mut builder = HnswBuilder::new(&dir, dimensions, config, options)
            .map_err(|error| of_vector(&error))?;
        let mut maker = self.maker(&catalog.state, &index, &spec).await?;
        let sql = text_query(&index, &index.spec.source)?;
        // An erasure neither waits for a build nor ends it: it asks for another one.
        let tables = SessionTables::all(Arc::new(catalog.state.clone()), Seq::MAX);
        let mut rows = self.rows(tables, &sql).await?;
        let mut counts = Counts::default();
        while let Some(batch) = rows.next().await {
            let batch = batch.map_err(|error| of_query(&error))?;
            let count = batch.num_rows() as u64;
            let (returned, added) = maker.add(builder, batch, &index, &progress).await?;
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
            making: maker.making(),
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
