//! Texts of rows on their way to vectors: who makes them for an index, how long ones are cut, and
//! what a build sent for them. Builds, refreshes and searches come in here; nobody else embeds.

use std::{collections::HashMap, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, AsArray},
    record_batch::RecordBatch,
};
use lakehouse_actors::{
    PortError,
    ports::{BuildTask, Progress, TextVector},
};
use lakehouse_journal::{
    model::{
        ErrorKind,
        catalog::{Dataset, Index, RefreshCounts, TextSpec, VectorSpec},
    },
    record::Seq,
};
use parking_lot::Mutex;

use super::{
    LakeIndexes, internal,
    source::{Rows, render, text_column},
};
use crate::query::row_key::names;

use crate::engines::embedder::{
    Embedders,
    batches::{Sender, Tally},
    chunks::{chunks, part_key},
    store::VectorStore,
};

/// Builds whose tallies are remembered for whoever waits for them.
const TALLIES_MAX: usize = 256;

/// Who makes vectors, and where those that were paid for are kept.
pub struct Embedding {
    /// The embedders.
    pub embedders: Arc<Embedders>,
    /// The vectors that are kept; none in a tool that keeps nothing.
    pub store: Option<Arc<VectorStore>>,
    /// What builds sent, by job.
    tallies: Mutex<HashMap<String, RefreshCounts>>,
}

impl Embedding {
    /// With these embedders and this store.
    pub fn new(embedders: Arc<Embedders>, store: Option<Arc<VectorStore>>) -> Self {
        Self {
            embedders,
            store,
            tallies: Mutex::default(),
        }
    }

    /// Notes what a build sent.
    pub(super) fn note(&self, job: &str, tally: Tally) {
        let mut tallies = self.tallies.lock();
        if tallies.len() >= TALLIES_MAX {
            tallies.clear();
        }
        let counts = RefreshCounts {
            texts_sent: tally.texts_sent,
            provider_calls: tally.calls,
            tokens: tally.tokens,
            ..RefreshCounts::default()
        };
        tallies.insert(job.to_owned(), counts);
    }

    /// What a build sent, told once.
    pub(super) fn noted(&self, job: &str) -> Option<RefreshCounts> {
        self.tallies.lock().remove(job)
    }
}

/// How the vectors of the generation that answers were made.
pub fn made_of(index: &Index) -> VectorSpec {
    let live = index.live_generation().and_then(|live| live.made.clone());
    live.unwrap_or_else(|| index.spec.made())
}

/// Texts of rows, under the keys of the rows.
#[derive(Debug, Default, PartialEq)]
pub struct Texts {
    /// The rows' keys.
    pub keys: Vec<String>,
    /// Their texts.
    pub texts: Vec<String>,
    /// Rows that have no text at all.
    pub blank: u64,
}

/// The texts of an answer to `rows_query`. A row whose columns are all blank has none.
pub fn texts_of(text: &TextSpec, batch: &RecordBatch, columns: usize) -> Result<Texts, PortError> {
    let named = batch.num_columns() - columns;
    let keys = names(&batch.columns()[..named]).map_err(|error| internal(&error))?;
    let parts = (named..named + columns)
        .map(|column| text_column(batch, column))
        .collect::<Result<Vec<ArrayRef>, _>>()?;
    let cell = |part: &ArrayRef, row: usize| -> String {
        let part = part.as_string::<i32>();
        if part.is_null(row) {
            String::new()
        } else {
            part.value(row).to_owned()
        }
    };
    let mut found = Texts::default();
    for row in 0..batch.num_rows() {
        let cells: Vec<String> = parts.iter().map(|part| cell(part, row)).collect();
        if cells.iter().all(|cell| cell.trim().is_empty()) {
            found.blank += 1;
            continue;
        }
        found.keys.push(keys.value(row).to_owned());
        found
            .texts
            .push(render(text, cells.iter().map(String::as_str)));
    }
    Ok(found)
}

/// A part of a row's text, under the key that an index knows it by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The row's key with the part's number.
    pub key: String,
    /// The text.
    pub text: String,
}

/// The parts of a row's text.
pub fn entries(made: &VectorSpec, key: &str, text: String) -> Vec<Entry> {
    if made.chunk.is_none() {
        let key = key.to_owned();
        return vec![Entry { key, text }];
    }
    let ranges = chunks(&text, made.chunk);
    let entry = |(part, range): (usize, std::ops::Range<usize>)| Entry {
        key: part_key(key, part),
        text: text[range].to_owned(),
    };
    ranges.into_iter().enumerate().map(entry).collect()
}

/// A key with this in it cannot be told from that of a part.
pub fn is_ambiguous(made: &VectorSpec, key: &str) -> bool {
    made.chunk.is_some() && key.contains('\u{0}')
}

/// Makes the vectors of one index.
pub struct Maker {
    /// How.
    pub made: VectorSpec,
    /// By whom.
    pub sender: Sender,
    /// What was sent so far.
    pub tally: Tally,
}

impl LakeIndexes {
    /// Who makes the vectors of an index in this way; the version is that of the model as it is now.
    ///
    /// # Errors
    /// `Unprocessable` when there is no such embedder; when what is kept cannot be read.
    pub(super) fn maker(
        &self,
        made: VectorSpec,
        dataset_id: &str,
        seen: Seq,
    ) -> Result<Maker, PortError> {
        let embedder = self.embedding.embedders.of(&made.model)?;
        let made = VectorSpec {
            model: embedder.identity().clone(),
            ..made
        };
        let store = self.embedding.store.as_ref();
        let kept = store.map(|store| store.kept(dataset_id, &made.model, seen));
        Ok(Maker {
            sender: Sender {
                embedder,
                kept: kept.transpose()?,
            },
            made,
            tally: Tally::default(),
        })
    }

    /// Who makes the vectors of the generation that is to be built, and the index as it will be then.
    pub(super) fn maker_of(
        &self,
        task: &BuildTask,
        dataset: &Dataset,
    ) -> Result<(Maker, Arc<Index>), PortError> {
        let made = task.index.next.clone();
        let made = made.unwrap_or_else(|| task.index.spec.made());
        let maker = self.maker(made, &dataset.id, dataset.last_tombstone_seq())?;
        let mut index = task.index.as_ref().clone();
        index.spec = index.spec.remade(&maker.made);
        Ok((maker, Arc::new(index)))
    }

    /// The vector of a query, made like those of the index were.
    pub(super) async fn query_vector(
        &self,
        index: &Index,
        text: &str,
    ) -> Result<Vec<f32>, PortError> {
        let embedder = self.embedding.embedders.of(&made_of(index).model)?;
        let done = embedder.embed(&[text.to_owned()]).await?;
        match done.vectors.into_iter().next() {
            Some(TextVector::Vector(vector)) => Ok(vector),
            Some(TextVector::Refused { code, reason }) => {
                Err(PortError::new(ErrorKind::Unprocessable, code, reason))
            }
            None => Err(PortError::internal("an embedder answered nothing")),
        }
    }
}

impl Maker {
    /// The rows of an answer to `rows_query`, embedded.
    ///
    /// # Errors
    /// As the embedder.
    pub async fn rows(
        &mut self,
        batch: RecordBatch,
        columns: usize,
        progress: &Progress,
    ) -> Result<Rows, PortError> {
        let made = self.made.clone();
        let cut = tokio::task::spawn_blocking(move || {
            let found = texts_of(&made.text, &batch, columns)?;
            let mut skipped = found.blank;
            let mut all = Vec::with_capacity(found.keys.len());
            for (key, text) in found.keys.into_iter().zip(found.texts) {
                if is_ambiguous(&made, &key) {
                    skipped += 1;
                } else {
                    all.push(entries(&made, &key, text));
                }
            }
            Ok::<_, PortError>((all, skipped))
        });
        let (all, skipped) = cut.await.map_err(|error| internal(&error))??;
        self.embedded(all, skipped, progress).await
    }

    /// Rows of their entries, each with all of its parts or left out.
    async fn embedded(
        &mut self,
        all: Vec<Vec<Entry>>,
        skipped: u64,
        progress: &Progress,
    ) -> Result<Rows, PortError> {
        let texts: Vec<String> = all
            .iter()
            .flatten()
            .map(|entry| entry.text.clone())
            .collect();
        let vectors = self.sender.embed(&texts, progress, &mut self.tally).await?;
        let mut vectors = vectors.into_iter();
        let mut kept_texts = Vec::with_capacity(texts.len());
        let mut rows = Rows {
            skipped,
            ..Rows::default()
        };
        for row in all {
            let found: Vec<TextVector> = vectors.by_ref().take(row.len()).collect();
            let whole: Option<Vec<Vec<f32>>> = found.into_iter().map(of_text).collect();
            let Some(whole) = whole.filter(|whole| !whole.is_empty()) else {
                rows.skipped += 1;
                continue;
            };
            for (entry, vector) in row.into_iter().zip(whole) {
                rows.keys.push(entry.key);
                kept_texts.push(entry.text);
                rows.vectors.extend_from_slice(&vector);
            }
        }
        rows.texts = Some(kept_texts);
        Ok(rows)
    }
}

/// The vector, where there is one.
pub fn of_text(found: TextVector) -> Option<Vec<f32>> {
    match found {
        TextVector::Vector(vector) => Some(vector),
        TextVector::Refused { .. } => None,
    }
}
