//! Full text on Lance: a dataset of texts with an inverted index, scored by BM25. It stands beside the
//! vectors of either engine, a row's number in it is the row's slot. Builds write it, searches by words
//! ask it; rows of deltas, which no index has, are scored by the same words' statistics.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Float32Type, Schema, SchemaRef, UInt64Type};
use datafusion::error::DataFusionError;
use datafusion::physical_plan::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::TryStreamExt;
use lance::Dataset;
use lance::dataset::builder::DatasetBuilder;
use lance::dataset::scanner::RowAddrMask;
use lance::index::{CreateIndexBuilder, DatasetIndexExt, DatasetIndexInternalExt};
use lance::session::Session;
use lance_index::IndexType;
use lance_index::metrics::NoOpMetricsCollector;
use lance_index::scalar::inverted::query::{FtsSearchParams, collect_query_tokens};
use lance_index::scalar::inverted::tokenizer::document_tokenizer::LanceTokenizer;
use lance_index::scalar::inverted::{
    InvertedIndex, MemBM25Scorer, flat_bm25_search_stream_with_metrics,
};
use lance_index::scalar::{FullTextSearchQuery, InvertedIndexParams};
use roaring::RoaringBitmap;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;

use super::super::vectors::files::{files_below, open_verified};
use super::super::vectors::{FileDigest, TextHit, VectorError, best};
use super::builder::{uri, write};
use super::engine;
use super::index::{Addresses, ROW_ID, row_ids};

/// The dataset's directory, beside the files of vectors.
pub const TEXTS: &str = "texts.lance";
const TEXT: &str = "text";
const SCORE: &str = "_score";
const CACHE_BYTES: usize = 256 << 20;

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new(TEXT, DataType::Utf8, true)]))
}

/// The words as they stand: names and codes matter as much as prose, whatever the language.
fn params() -> InvertedIndexParams {
    InvertedIndexParams::default()
        .stem(false)
        .remove_stop_words(false)
        .ascii_folding(true)
}

/// Takes the texts of a generation, in the order of its slots.
pub struct TextBuilder {
    path: PathBuf,
    batches: mpsc::Sender<Result<RecordBatch, DataFusionError>>,
    dataset: JoinHandle<lance::Result<Dataset>>,
}

impl TextBuilder {
    /// Begins the texts of the generation in `dir`.
    ///
    /// # Errors
    /// `Engine` when the directory's name is not UTF-8.
    pub fn new(dir: &Path) -> Result<Self, VectorError> {
        let path = dir.join(TEXTS);
        let (batches, received) = mpsc::channel(1);
        let stream: SendableRecordBatchStream = Box::pin(RecordBatchStreamAdapter::new(
            schema(),
            ReceiverStream::new(received),
        ));
        let to = uri(&path)?;
        let dataset = tokio::spawn(async move { write(&to, stream).await });
        Ok(Self {
            path,
            batches,
            dataset,
        })
    }

    /// Takes texts in.
    ///
    /// # Errors
    /// `Engine`.
    pub async fn push(&self, texts: &[String]) -> Result<(), VectorError> {
        let column: ArrayRef = Arc::new(StringArray::from_iter_values(texts));
        let batch = RecordBatch::try_new(schema(), vec![column]).map_err(engine)?;
        self.batches.send(Ok(batch)).await.map_err(engine)
    }

    /// Builds the index; the caller seals the files.
    ///
    /// # Errors
    /// `Engine`.
    pub async fn finish(self) -> Result<(), VectorError> {
        drop(self.batches);
        let mut dataset = self.dataset.await.map_err(engine)?.map_err(engine)?;
        CreateIndexBuilder::new(&mut dataset, &[TEXT], IndexType::Inverted, &params())
            .name(TEXT.to_owned())
            .await
            .map_err(engine)?;
        tracing::debug!(path = %self.path.display(), "texts are indexed");
        Ok(())
    }
}

/// The texts of a generation.
pub struct TextIndex {
    dataset: Arc<Dataset>,
    addresses: Addresses,
}

impl TextIndex {
    /// Opens the texts of the generation in `dir` whose files are `expected`; `None` when it has none.
    ///
    /// # Errors
    /// `Corrupt` when a file is missing, too much, or not what was built; `Io`; `Engine`.
    pub async fn open(dir: &Path, expected: &[FileDigest]) -> Result<Option<Self>, VectorError> {
        let ours = |file: &&FileDigest| file.name.starts_with(TEXTS);
        let expected: Vec<FileDigest> = expected.iter().filter(ours).cloned().collect();
        if expected.is_empty() {
            return Ok(None);
        }
        let owned = dir.to_owned();
        tokio::task::spawn_blocking(move || verify(&owned, &expected))
            .await
            .map_err(engine)??;
        let session = Session::new(CACHE_BYTES, CACHE_BYTES / 4, Arc::default());
        let dataset = DatasetBuilder::from_uri(uri(&dir.join(TEXTS))?)
            .with_session(Arc::new(session))
            .load()
            .await
            .map_err(engine)?;
        let addresses = Addresses::of(&dataset)?;
        Ok(Some(Self {
            dataset: Arc::new(dataset),
            addresses,
        }))
    }

    /// The `k` rows that the words fit best, best first; of the `shown` ones when that is given.
    ///
    /// # Errors
    /// `Engine`.
    pub async fn search(
        &self,
        words: &str,
        k: usize,
        shown: Option<&RoaringBitmap>,
    ) -> Result<Vec<TextHit>, VectorError> {
        let limit = i64::try_from(k).map_err(engine)?;
        let query = FullTextSearchQuery::new(words.to_owned()).limit(Some(limit));
        let mut scan = self.dataset.scan();
        scan.full_text_search(query).map_err(engine)?;
        scan.project::<&str>(&[]).map_err(engine)?.with_row_id();
        if let Some(shown) = shown {
            scan.prefilter(true)
                .with_row_id_prefilter(RowAddrMask::from_allowed(self.addresses.tree(shown)));
        }
        let batch = scan.try_into_batch().await.map_err(engine)?;
        let mut hits = scored(&batch)?;
        for (slot, _) in &mut hits {
            *slot = self.addresses.slot(*slot);
        }
        Ok(best(hits, k))
    }

    /// The statistics of the words in these texts.
    async fn scorer(
        &self,
        words: &str,
        tokenizer: &mut Box<dyn LanceTokenizer>,
    ) -> Result<Option<MemBM25Scorer>, VectorError> {
        let Some(index) = self.inverted().await? else {
            return Ok(None);
        };
        let tokens = collect_query_tokens(words, tokenizer);
        let params = FtsSearchParams::default();
        let scorer = index
            .bm25_base_scorer(&tokens, &params, Some(&NoOpMetricsCollector))
            .await
            .map_err(engine)?;
        Ok(Some(scorer))
    }

    async fn inverted(&self) -> Result<Option<Arc<InvertedIndex>>, VectorError> {
        let indices = self.dataset.load_indices().await.map_err(engine)?;
        let Some(found) = indices.iter().find(|index| index.name == TEXT) else {
            return Ok(None);
        };
        let opened = self
            .dataset
            .open_scalar_index(TEXT, &found.uuid, &NoOpMetricsCollector)
            .await
            .map_err(engine)?;
        let inverted = opened.as_any().downcast_ref::<InvertedIndex>();
        Ok(inverted.cloned().map(Arc::new))
    }
}

/// Scores texts that no index has: `(slot, text)` of each, by the statistics of those that `index`
/// has and their own.
///
/// # Errors
/// `Engine`.
pub async fn score(
    index: Option<&TextIndex>,
    words: &str,
    texts: Vec<(u64, String)>,
) -> Result<Vec<TextHit>, VectorError> {
    let mut tokenizer = params().build().map_err(engine)?;
    let scorer = match index {
        Some(index) => index.scorer(words, &mut tokenizer).await?,
        None => None,
    };
    let (slots, texts): (Vec<u64>, Vec<String>) = texts.into_iter().unzip();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(texts)),
        Arc::new(UInt64Array::from(slots)),
    ];
    let fields = vec![
        Field::new(TEXT, DataType::Utf8, false),
        Field::new(ROW_ID, DataType::UInt64, false),
    ];
    let schema = Arc::new(Schema::new(fields));
    let batch = RecordBatch::try_new(Arc::clone(&schema), columns).map_err(engine)?;
    let input = futures::stream::iter([Ok(batch)]);
    let input: SendableRecordBatchStream = Box::pin(RecordBatchStreamAdapter::new(schema, input));
    let found = flat_bm25_search_stream_with_metrics(
        input,
        TEXT.to_owned(),
        words.to_owned(),
        tokenizer,
        scorer,
        8_192,
        None,
    )
    .await
    .map_err(engine)?;
    let batches: Vec<RecordBatch> = found.try_collect().await.map_err(engine)?;
    let mut hits = Vec::new();
    for batch in &batches {
        hits.extend(scored(batch)?);
    }
    Ok(hits)
}

fn scored(batch: &RecordBatch) -> Result<Vec<TextHit>, VectorError> {
    let scores = batch
        .column_by_name(SCORE)
        .and_then(|column| column.as_primitive_opt::<Float32Type>())
        .ok_or_else(|| engine("an answer without scores"))?;
    let ids = match batch.column_by_name(ROW_ID) {
        Some(column) => column.as_primitive::<UInt64Type>().values(),
        None => row_ids(batch)?,
    };
    Ok(ids
        .iter()
        .copied()
        .zip(scores.values().iter().copied())
        .collect())
}

/// Checks every file of the texts, and that there is none besides.
fn verify(dir: &Path, expected: &[FileDigest]) -> Result<(), VectorError> {
    for name in files_below(&dir.join(TEXTS))? {
        let name = format!("{TEXTS}/{name}");
        if expected.iter().all(|file| file.name != name) {
            return Err(VectorError::corrupt(&name, "does not belong to the index"));
        }
    }
    expected
        .iter()
        .try_for_each(|digest| open_verified(dir, digest).map(|_| ()))
}
