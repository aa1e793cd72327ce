//! Builds a generation: reads the rows of its source or, for a fold, those that answer already, feeds a
//! builder with them and puts the files into the bucket. The indexing worker calls it; the catalog
//! decides what it is worth.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use futures::StreamExt;
use lakehouse_actors::{
    PortError,
    ports::{BuildTask, BuiltGeneration, ChunkSpan, IndexBuilder, Progress},
};
use lakehouse_journal::{
    model::{
        ErrorKind, Fold,
        catalog::{
            Backend, CatalogState, Dataset, EmbeddingSpec, EvalSet, FileDigest, Generation, Index,
            IndexConfig, IndexSpec, Making, Trial,
        },
    },
    record::Seq,
};

use super::{
    LakeIndexes, Live,
    builder::{Builder, BuiltFile},
    config::check_config,
    held::{Kept, kept, none_kept},
    internal,
    making::{Counts, making_of, must_be_public, must_fit_model},
    of_vector,
    source::{Rows, rows_query},
};
use crate::{
    engines::{
        buckets::{of_bucket, of_store},
        embedder::EmbedderName,
        tables::of_query,
        vectors::{self, BuildOptions},
    },
    query::SessionTables,
};

/// Rows of a fold that are read at a time.
const FOLDED_ROWS: usize = 4_096;
/// The same where a row may have many vectors.
const FOLDED_ROWS_CHUNKED: usize = 256;

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
        let name = EmbedderName {
            provider: wanted.provider.clone(),
            model: wanted.model.clone(),
        };
        let embedder = self.embedding.embedders.find(&name).await?;
        if embedder.limits().external {
            must_be_public(&name.provider, dataset, &wanted.text)?;
        }
        must_fit_model(wanted.chunk, embedder.as_ref())?;
        let dimensions = embedder.identity().dimensions;
        let backend = wanted.backend.unwrap_or(Backend::Hnsw);
        check_config(backend, &IndexConfig::default(), dimensions as usize)?;
        Ok(IndexSpec {
            source: dataset.name.clone(),
            key: wanted.key.clone(),
            text: wanted.text.clone(),
            provider: wanted.provider.clone(),
            model: wanted.model.clone(),
            vector_column: None,
            chunk: wanted.chunk,
            dimensions,
            backend,
            config: IndexConfig::default(),
            bucket: wanted
                .bucket
                .clone()
                .unwrap_or_else(|| dataset.bucket.clone()),
        })
    }

    fn is_made_as_today(&self, index: &Index) -> bool {
        self.is_of_today(index) && self.is_cut_as_today(index)
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
        task: BuildTask,
        progress: Arc<Progress>,
    ) -> Result<BuiltGeneration, PortError> {
        let work = tempfile::Builder::new()
            .prefix("index-")
            .tempdir_in(&self.staging)
            .map_err(|error| internal(&error))?;
        let (meter, options) = Meter::new(progress);
        let config = task.index.config_to_build();
        let spec = task.index.spec_to_build();
        let builder = Builder::new(work.path(), &spec, config, options)?;
        let fed = if task.index.folding {
            self.fold(&task, builder, &meter).await?
        } else {
            self.read(&task, &spec, builder, &meter).await?
        };
        let finished = fed.builder.finish().await?;
        let unique = uuid::Uuid::new_v4().simple().to_string();
        let prefix = format!(
            "vectors/{}/{}-{}",
            task.index.name,
            task.generation,
            &unique[..12]
        );
        let files = self.publish_built(&task, &prefix, finished.files).await?;
        meter.is_done();
        let built = BuiltGeneration {
            prefix,
            files,
            vectors: finished.vectors,
            rows: finished.rows,
            skipped: fed.skipped,
            reused: fed.reused,
            changed: fed.changed,
            making: fed.making,
            rows_seq: fed.rows_seq,
            folded_through: fed.folded_through,
        };
        self.open_early(&task, &built).await;
        Ok(built)
    }
}

/// A builder that has all rows.
struct Fed {
    builder: Builder,
    skipped: u64,
    /// Rows whose vector what answers had already.
    reused: u64,
    /// Rows that what answers had with another text.
    changed: u64,
    /// Who made the vectors, and what that took.
    making: Making,
    rows_seq: Option<u64>,
    folded_through: Option<u64>,
}

impl LakeIndexes {
    /// Feeds the rows of the source. One that answers already with the same text keeps its vector, bit
    /// for bit; the others are embedded.
    async fn read(
        &self,
        task: &BuildTask,
        spec: &IndexSpec,
        mut builder: Builder,
        meter: &Meter,
    ) -> Result<Fed, PortError> {
        let sql = rows_query(&task.index, &task.index.spec.source)?;
        // An erasure neither waits for a build nor ends it: it asks for another one.
        let state = Arc::new(task.snapshot.state.clone());
        let tables = SessionTables::all(state, Seq::MAX);
        let mut batches = self.rows(tables, &sql).await?;
        let before = self.before(&task.index).await;
        let mut maker = self.maker(&task.snapshot.state, &task.index, spec).await?;
        let mut counts = Counts::default();
        while let Some(batch) = batches.next().await {
            let batch = batch.map_err(|error| of_query(&error))?;
            for batch in maker.portions(&batch) {
                let count = batch.num_rows() as u64;
                let kept = match &before {
                    Some(before) if maker.takes_over() => kept(&task.index, before, &batch).await?,
                    Some(before) => none_kept(&task.index, before, &batch).await?,
                    None => Kept::default(),
                };
                let (rows, added) = maker
                    .rows(&task.index, batch, kept, &meter.progress)
                    .await?;
                counts.add(added);
                builder = builder.add(rows).await?;
                meter.advance(count)?;
            }
        }
        Ok(Fed {
            builder,
            skipped: counts.skipped,
            reused: counts.reused,
            changed: counts.changed,
            making: maker.making(),
            rows_seq: None,
            folded_through: None,
        })
    }

    /// What answers, whose vectors may be taken over; without one that can be opened, there is none.
    async fn before(&self, index: &Index) -> Option<Arc<Live>> {
        index.live?;
        if index.spec.vector_column.is_some() {
            // Nothing is embedded.
            return None;
        }
        let live = self.live(index).await;
        let live = live.inspect_err(|error| {
            tracing::warn!(index = index.name, %error, "every row is embedded again");
        });
        live.ok()
    }

    /// Feeds the rows that answer, those that are hidden left out: nothing is embedded again.
    async fn fold(
        &self,
        task: &BuildTask,
        mut builder: Builder,
        meter: &Meter,
    ) -> Result<Fed, PortError> {
        let index = &task.index;
        let live = self.live(index).await?;
        let shown = self.there(&task.snapshot, index, &live).await?;
        let slots: Vec<u64> = live.rows_of(&shown).iter().map(u64::from).collect();
        let with_text = !index.spec.text.is_none();
        let at_a_time = if live.is_chunked() {
            FOLDED_ROWS_CHUNKED
        } else {
            FOLDED_ROWS
        };
        for part in slots.chunks(at_a_time) {
            let whole = live.whole(part).await;
            let whole = whole.map_err(|error| of_vector(&error))?;
            let mut rows = Rows {
                texts: with_text.then(Vec::new),
                ..Rows::default()
            };
            for (row, number) in whole.into_iter().zip(0..) {
                rows.keys.push(row.key);
                rows.vectors.extend(row.vectors);
                let chunks = row.chunks.into_iter();
                rows.chunks.extend(chunks.map(|chunk| ChunkSpan {
                    row: number,
                    ..chunk
                }));
                if let Some(texts) = &mut rows.texts {
                    texts.push(row.text.unwrap_or_default());
                }
            }
            builder = builder.add(rows).await?;
            meter.advance(part.len() as u64)?;
        }
        let generation = index.live_generation();
        let deltas = generation.map_or(&[][..], |live| &live.deltas);
        Ok(Fed {
            builder,
            skipped: generation.map_or(0, |live| live.skipped),
            reused: slots.len() as u64,
            changed: 0,
            making: making_of(index),
            rows_seq: Some(live.rows_seq),
            folded_through: Some(deltas.iter().map(|delta| delta.seq).max().unwrap_or(0)),
        })
    }

    async fn publish_built(
        &self,
        task: &BuildTask,
        prefix: &str,
        files: Vec<BuiltFile>,
    ) -> Result<Vec<FileDigest>, PortError> {
        let bucket = &task.index.spec.bucket;
        let mut published = Vec::with_capacity(files.len());
        for (path, file) in files {
            self.publish_file(bucket, prefix, &path, &file).await?;
            published.push(FileDigest {
                name: file.name,
                bytes: file.bytes,
                blake3: file.blake3,
            });
        }
        Ok(published)
    }

    /// Puts a file into a folder of a bucket, under its name.
    pub(super) async fn publish_file(
        &self,
        bucket: &str,
        prefix: &str,
        path: &Path,
        file: &vectors::FileDigest,
    ) -> Result<(), PortError> {
        let opened = self
            .buckets
            .get(bucket)
            .map_err(|error| of_bucket(bucket, &error))?;
        let key = format!("{prefix}/{}", file.name);
        let put = opened.put_file(path.to_owned(), &key).await;
        put.map(|_| ()).map_err(|error| of_store(bucket, &error))
    }

    /// Opens what was built before it answers, so that no search waits for it.
    async fn open_early(&self, task: &BuildTask, built: &BuiltGeneration) {
        let generation = Generation {
            generation: task.generation,
            job: task.job.clone(),
            source_seq: task.snapshot.seq,
            config: None,
            prefix: built.prefix.clone(),
            files: built.files.clone(),
            vectors: built.vectors,
            rows: built.rows,
            skipped: built.skipped,
            reused: built.reused,
            changed: built.changed,
            making: Some(built.making.clone()),
            build_ms: 0,
            built_at: 0,
            rows_seq: built.rows_seq,
            deltas: Vec::new(),
        };
        if let Err(error) = self.base(&task.index, &generation).await {
            tracing::warn!(index = task.index.name, %error, "a new generation is not open yet");
        }
    }
}

/// Reading is half of a build, linking the other. Dropped, it stops what still links for a build that
/// nobody waits for.
struct Meter {
    progress: Arc<Progress>,
    rows: u64,
    read: AtomicU64,
    linked: AtomicU64,
    stop: Arc<AtomicBool>,
}

impl Meter {
    fn new(progress: Arc<Progress>) -> (Arc<Self>, BuildOptions) {
        let options = BuildOptions::default();
        let meter = Arc::new(Self {
            rows: progress.total.load(Ordering::Relaxed),
            progress,
            read: AtomicU64::new(0),
            linked: AtomicU64::new(0),
            stop: Arc::clone(&options.cancel),
        });
        let told = Arc::downgrade(&meter);
        let options = BuildOptions {
            progress: Some(Arc::new(move |done: u64, total: u64| {
                if let Some(meter) = told.upgrade() {
                    let share = (done * meter.rows).checked_div(total);
                    meter
                        .linked
                        .fetch_max(share.unwrap_or(0), Ordering::Relaxed);
                    meter.show();
                }
            })),
            ..options
        };
        (meter, options)
    }

    fn show(&self) {
        let done = self.read.load(Ordering::Relaxed) + self.linked.load(Ordering::Relaxed);
        self.progress.done.store(done / 2, Ordering::Relaxed);
        if self.progress.is_cancelled() {
            self.stop.store(true, Ordering::Relaxed);
        }
    }

    /// Counts rows that were read.
    fn advance(&self, rows: u64) -> Result<(), PortError> {
        self.read.fetch_add(rows, Ordering::Relaxed);
        self.show();
        if self.progress.is_cancelled() {
            let text = "the build was cancelled";
            return Err(PortError::new(ErrorKind::Timeout, "cancelled", text));
        }
        Ok(())
    }

    fn is_done(&self) {
        self.progress.done.store(self.rows, Ordering::Relaxed);
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
