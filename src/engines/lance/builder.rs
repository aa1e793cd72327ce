//! Builds one generation on Lance: writes the rows as they come, then the indexes, then seals all.
//! The indexing worker drives it on its runtime. Memory: two chunks, and about 40 bytes a row.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{
    ArrayRef, BooleanArray, FixedSizeListArray, Float32Array, RecordBatch, StringArray,
};
use arrow::compute::filter_record_batch;
use datafusion::error::DataFusionError;
use datafusion::physical_plan::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::{StreamExt, TryStreamExt};
use lance::Dataset;
use lance::dataset::{InsertBuilder, WriteParams};
use lance::index::CreateIndexBuilder;
use lance::index::vector::VectorIndexParams;
use lance_index::IndexType;
use lance_index::scalar::ScalarIndexParams;
use lance_index::vector::hnsw::builder::HnswBuildParams;
use lance_index::vector::ivf::IvfBuildParams;
use lance_index::vector::pq::PQBuildParams;
use lance_index::vector::sq::builder::SQBuildParams;
use lance_linalg::distance::DistanceType;
use roaring::RoaringBitmap;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;

use super::super::vectors::column::ColumnWriter;
use super::super::vectors::files::{files_below, seal, sync_dirs_below, write_new};
use super::super::vectors::keys::{ROWS_MAX, SeenKeys, key_hash};
use super::super::vectors::{BuildOptions, Built, Chunk, IndexStats, Metric, VectorError};
use super::index::strings;
use super::progress::Stages;
use super::{
    DATASET, FORMAT, KEY, KEYS_FILE, LanceConfig, LanceKind, MANIFEST_FILE, Manifest, VECTOR,
    engine, item, schema,
};

/// Where rows are kept that are written once more without those that were replaced.
const STAGED: &str = "staged.lance";
const CANCEL_POLL: Duration = Duration::from_millis(50);

/// Takes rows and makes a generation of them.
pub struct LanceBuilder {
    dir: PathBuf,
    dimensions: usize,
    config: LanceConfig,
    options: BuildOptions,
    started: Instant,
    seen: SeenKeys,
    /// The task that writes the dataset; begun with the first rows.
    writer: Option<Writer>,
}

struct Writer {
    batches: mpsc::Sender<Result<RecordBatch, DataFusionError>>,
    dataset: JoinHandle<lance::Result<Dataset>>,
}

impl LanceBuilder {
    /// Starts a generation in `dir`, which must not hold one.
    ///
    /// # Errors
    /// `Config` when a setting is out of range, `Io` when the directory cannot be made.
    pub fn new(
        dir: &Path,
        dimensions: usize,
        config: LanceConfig,
        options: BuildOptions,
    ) -> Result<Self, VectorError> {
        if !(1..=65_536).contains(&dimensions) {
            return Err(VectorError::Config {
                reason: format!("{dimensions} dimensions, must be 1 to 65536"),
            });
        }
        config.validate(dimensions)?;
        std::fs::create_dir_all(dir).map_err(VectorError::io("."))?;
        let seen = SeenKeys::new(options.duplicates);
        Ok(Self {
            dir: dir.to_owned(),
            dimensions,
            config,
            options,
            started: Instant::now(),
            seen,
            writer: None,
        })
    }

    /// Takes rows in, in their order.
    ///
    /// # Errors
    /// What [`Chunk::check`] says, before anything is taken; `DuplicateKey` unless the last is to
    /// win; `TooMany`; `Cancelled`; `Engine`. After an error the build cannot go on.
    pub async fn add_chunk(&mut self, chunk: Chunk<'_>) -> Result<(), VectorError> {
        self.options.check_cancelled()?;
        chunk.check(self.dimensions, self.config.metric)?;
        for key in chunk.keys {
            self.seen.note(key, key_hash(key))?;
        }
        if chunk.keys.is_empty() {
            return Ok(());
        }
        let batch = record_batch(&chunk, self.dimensions)?;
        if self.writer.is_none() {
            self.writer = Some(Writer::start(&self.dir.join(DATASET), self.dimensions)?);
        }
        let writer = self.writer.as_ref().expect("it was just started");
        if writer.batches.send(Ok(batch)).await.is_err() {
            let writer = self.writer.take().expect("it was just used");
            return Err(writer
                .finish()
                .await
                .err()
                .unwrap_or_else(|| engine("the writer stopped early")));
        }
        Ok(())
    }

    /// Builds the indexes, writes the manifest and makes everything durable.
    ///
    /// # Errors
    /// `Cancelled`, `Io` or `Engine`; the directory is then of no use.
    pub async fn finish(self) -> Result<Built, VectorError> {
        let Self {
            dir,
            dimensions,
            config,
            options,
            started,
            seen,
            writer,
        } = self;
        let mut rows = seen.rows();
        options.report(0, rows);
        options.check_cancelled()?;
        let replaced = seen.into_replaced();
        let mut kind = LanceKind::Flat;
        if let Some(writer) = writer {
            let mut dataset = writer.finish().await?;
            if !replaced.is_empty() {
                rows -= replaced.len();
                dataset = retain(&dir, dataset, dimensions, &replaced).await?;
            }
            write_keys(&dir, Some(&dataset)).await?;
            kind = config.kind_for(rows);
            let indexes = build_indexes(&mut dataset, dimensions, &config, kind, rows, &options);
            tokio::select! {
                built = indexes => built?,
                () = cancelled(&options) => return Err(VectorError::Cancelled),
            }
        } else {
            write_keys(&dir, None).await?;
        }
        options.report(rows, rows);
        let build_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let format = FORMAT.to_owned();
        let manifest = Manifest {
            format,
            dimensions,
            config,
            kind,
            vectors: rows,
            build_ms,
            files: Vec::new(),
        };
        tokio::task::spawn_blocking(move || publish(&dir, manifest))
            .await
            .map_err(engine)?
    }
}

impl Writer {
    fn start(path: &Path, dimensions: usize) -> Result<Self, VectorError> {
        let (batches, received) = mpsc::channel(1);
        let stream: SendableRecordBatchStream = Box::pin(RecordBatchStreamAdapter::new(
            schema(dimensions),
            ReceiverStream::new(received),
        ));
        let uri = uri(path)?;
        let dataset = tokio::spawn(async move { write(&uri, stream).await });
        Ok(Self { batches, dataset })
    }

    async fn finish(self) -> Result<Dataset, VectorError> {
        drop(self.batches);
        self.dataset.await.map_err(engine)?.map_err(engine)
    }
}

pub(super) async fn write(uri: &str, stream: SendableRecordBatchStream) -> lance::Result<Dataset> {
    let most = usize::try_from(ROWS_MAX).unwrap_or(usize::MAX);
    let params = WriteParams {
        max_rows_per_file: most,
        ..WriteParams::default()
    };
    InsertBuilder::new(uri)
        .with_params(&params)
        .execute_stream(stream)
        .await
}

pub(super) fn uri(path: &Path) -> Result<String, VectorError> {
    let absolute = std::path::absolute(path).map_err(VectorError::io("."))?;
    absolute
        .to_str()
        .map(str::to_owned)
        .ok_or_else(|| engine("the data directory's name is not UTF-8"))
}

fn record_batch(chunk: &Chunk, dimensions: usize) -> Result<RecordBatch, VectorError> {
    let schema = schema(dimensions);
    let texts: StringArray = match chunk.texts {
        Some(texts) => texts.iter().map(Some).collect(),
        None => std::iter::repeat_n(None::<&str>, chunk.keys.len()).collect(),
    };
    let width = i32::try_from(dimensions).expect("dimensions were checked to be at most 65,536");
    let numbers = Arc::new(Float32Array::from(chunk.vectors.to_vec()));
    let vectors = FixedSizeListArray::try_new(item(), width, numbers, None).map_err(engine)?;
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(chunk.keys)),
        Arc::new(texts),
        Arc::new(vectors),
    ];
    RecordBatch::try_new(schema, columns).map_err(engine)
}

/// Writes the rows anew without the replaced ones, so that nothing of those stays in a file.
async fn retain(
    dir: &Path,
    dataset: Dataset,
    dimensions: usize,
    replaced: &RoaringBitmap,
) -> Result<Dataset, VectorError> {
    drop(dataset);
    std::fs::rename(dir.join(DATASET), dir.join(STAGED)).map_err(VectorError::io(DATASET))?;
    let staged = Dataset::open(&uri(&dir.join(STAGED))?)
        .await
        .map_err(engine)?;
    let rows = staged
        .scan()
        .scan_in_order(true)
        .try_into_stream()
        .await
        .map_err(engine)?;
    let replaced = replaced.clone();
    let mut next = 0_u32;
    let live = rows
        .map_err(|error| DataFusionError::External(Box::new(error)))
        .map(move |batch| {
            let batch = batch?;
            let count =
                u32::try_from(batch.num_rows()).expect("a batch has fewer rows than an index");
            let keep: BooleanArray = (next..next + count)
                .map(|row| Some(!replaced.contains(row)))
                .collect();
            next += count;
            Ok(filter_record_batch(&batch, &keep)?)
        });
    let live: SendableRecordBatchStream =
        Box::pin(RecordBatchStreamAdapter::new(schema(dimensions), live));
    let dataset = write(&uri(&dir.join(DATASET))?, live)
        .await
        .map_err(engine)?;
    std::fs::remove_dir_all(dir.join(STAGED)).map_err(VectorError::io(STAGED))?;
    Ok(dataset)
}

/// Writes the rows' keys in the order of the rows.
async fn write_keys(dir: &Path, dataset: Option<&Dataset>) -> Result<(), VectorError> {
    let mut keys = ColumnWriter::create(dir, KEYS_FILE)?;
    let mut hashes = Vec::new();
    if let Some(dataset) = dataset {
        let mut scan = dataset.scan();
        scan.project(&[KEY]).map_err(engine)?.scan_in_order(true);
        let mut batches = scan.try_into_stream().await.map_err(engine)?;
        while let Some(batch) = batches.try_next().await.map_err(engine)? {
            for key in strings(&batch, KEY)?.iter().flatten() {
                hashes.push(key_hash(key));
                keys.push(Some(key))?;
            }
        }
    }
    keys.finish(Some(&hashes))
}

async fn build_indexes(
    dataset: &mut Dataset,
    dimensions: usize,
    config: &LanceConfig,
    kind: LanceKind,
    rows: u64,
    options: &BuildOptions,
) -> Result<(), VectorError> {
    let by_key = ScalarIndexParams::default();
    CreateIndexBuilder::new(dataset, &[KEY], IndexType::BTree, &by_key)
        .name(KEY.to_owned())
        .await
        .map_err(engine)?;
    if let Some(params) = vector_params(dimensions, config, kind) {
        let progress = Arc::new(Stages {
            options: options.clone(),
            rows,
        });
        CreateIndexBuilder::new(dataset, &[VECTOR], IndexType::Vector, &params)
            .name(VECTOR.to_owned())
            .progress(progress)
            .await
            .map_err(engine)?;
    }
    Ok(())
}

fn vector_params(
    dimensions: usize,
    config: &LanceConfig,
    kind: LanceKind,
) -> Option<VectorIndexParams> {
    let ivf = IvfBuildParams {
        num_partitions: config.partitions,
        ..IvfBuildParams::default()
    };
    let metric = distance_type(config.metric);
    match kind {
        LanceKind::Auto | LanceKind::Flat => None,
        LanceKind::IvfPq => {
            let pq = PQBuildParams {
                num_sub_vectors: config.sub_vectors(dimensions),
                ..PQBuildParams::default()
            };
            Some(VectorIndexParams::with_ivf_pq_params(metric, ivf, pq))
        }
        LanceKind::IvfHnswSq => {
            let graph = HnswBuildParams {
                m: config.connectivity,
                ef_construction: config.ef_construction,
                ..HnswBuildParams::default()
            };
            Some(VectorIndexParams::with_ivf_hnsw_sq_params(
                metric,
                ivf,
                graph,
                SQBuildParams::default(),
            ))
        }
    }
}

fn distance_type(metric: Metric) -> DistanceType {
    match metric {
        Metric::Cosine => DistanceType::Cosine,
        Metric::Dot => DistanceType::Dot,
        Metric::L2 => DistanceType::L2,
    }
}

async fn cancelled(options: &BuildOptions) {
    while options.check_cancelled().is_ok() {
        tokio::time::sleep(CANCEL_POLL).await;
    }
}

fn publish(dir: &Path, mut manifest: Manifest) -> Result<Built, VectorError> {
    let names = files_below(dir)?;
    manifest.files = names
        .iter()
        .map(|name| seal(dir, name))
        .collect::<Result<_, _>>()?;
    let json =
        serde_json::to_vec_pretty(&manifest).expect("a manifest is plain numbers and strings");
    write_new(dir, MANIFEST_FILE, &json)?;
    let digest = seal(dir, MANIFEST_FILE)?;
    sync_dirs_below(dir)?;
    let Manifest {
        vectors,
        build_ms,
        dimensions,
        mut files,
        ..
    } = manifest;
    files.push(digest);
    let bytes = files.iter().map(|file| file.bytes).sum();
    Ok(Built {
        files,
        stats: IndexStats {
            vectors,
            bytes,
            build_ms,
            dimensions,
        },
    })
}
