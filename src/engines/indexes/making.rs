//! Texts of rows on their way to vectors: who makes them for an index, which are taken over from the
//! generation before, and what was sent for the others. Builds and searches come in here; nobody else
//! embeds.

mod cut;

use std::{sync::Arc, time::Duration};

use arrow::{array::StringArray, record_batch::RecordBatch};
use lakehouse_actors::{
    PortError,
    ports::{Embedder, Progress, TextVector},
};
use lakehouse_journal::model::{
    ErrorKind,
    catalog::{
        CatalogState, Cutting, Dataset, Generation, Index, IndexSpec, Making, ModelIdentity,
        Sensitivity, TextSpec,
    },
};

use super::{
    LakeIndexes,
    held::Kept,
    source::{Rows, rows_with_vectors, texts_of},
    visible::dataset_of,
};
use crate::engines::embedder::{
    EmbedderName, Embedders,
    batches::{Sender, Tally, blank, is_blank},
    store::{self, VectorStore},
};

/// How long a search waits for the vector of its text.
const QUERY_PATIENCE: Duration = Duration::from_secs(10);
/// What made the vectors of generations that do not say: there was nothing else.
const FIRST_VERSION: &str = "static-minilm-128@1";

pub(super) use cut::{must_fit_model, parts_of};

/// Who makes vectors, and where those that were paid for are kept.
pub struct Embedding {
    /// The embedders.
    pub embedders: Arc<Embedders>,
    /// The vectors that are kept; none in a tool that keeps nothing.
    pub kept: Option<Arc<VectorStore>>,
}

/// The model of a generation's vectors.
fn model_of(spec: &IndexSpec, generation: &Generation) -> ModelIdentity {
    let making = generation.making.as_ref();
    making.map_or_else(|| of_first_version(spec), |making| making.model.clone())
}

fn of_first_version(spec: &IndexSpec) -> ModelIdentity {
    ModelIdentity {
        provider: spec.provider.clone(),
        model: spec.model.clone(),
        version: FIRST_VERSION.to_owned(),
        dimensions: spec.dimensions,
    }
}

/// Refuses texts for a provider that is outside: what goes there is public, or what a view shows.
///
/// # Errors
/// `Unprocessable` with the columns that are not public.
pub(super) fn must_be_public(
    provider: &str,
    dataset: &Dataset,
    text: &TextSpec,
) -> Result<(), PortError> {
    let columns = text
        .columns()
        .map_err(|reason| PortError::new(ErrorKind::Unprocessable, "impossible", reason))?;
    let closed: Vec<String> = columns
        .iter()
        .filter(|column| dataset.class(column) != Sensitivity::Public)
        .map(|column| format!("`{column}`"))
        .collect();
    if closed.is_empty() {
        return Ok(());
    }
    let text = format!(
        "provider `{provider}` is external and is given public columns or a view's: of dataset `{}`, {} \
         is not classified `public`",
        dataset.name,
        closed.join(", ")
    );
    let code = "embedder_external";
    Err(PortError::new(ErrorKind::Unprocessable, code, text))
}

/// Whether the texts of an index may go to who embeds them.
fn must_be_allowed(
    state: &CatalogState,
    spec: &IndexSpec,
    embedder: &dyn Embedder,
) -> Result<(), PortError> {
    match state.datasets.get(&spec.source) {
        Some(dataset) if embedder.limits().external => {
            must_be_public(&spec.provider, dataset, &spec.text)
        }
        _ => Ok(()),
    }
}

/// Makes the vectors of one generation, or of what rides on it.
pub(super) struct Maker {
    /// Who is asked; or why nobody may be, which matters only when there is something to be asked.
    sender: Result<Sender, PortError>,
    model: ModelIdentity,
    /// What texts are cut with, where they are.
    cutting: Option<Cutting>,
    tally: Tally,
    refused: u64,
    left_out: u64,
    /// Whether the generation that answers holds deleted rows: it must be replaced, whoever is down.
    is_owed: bool,
    /// Whether vectors of the generation that answers would be made the same today.
    takes_over: bool,
}

/// What became of rows.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    pub skipped: u64,
    pub reused: u64,
    pub changed: u64,
    pub refused: u64,
}

impl Counts {
    pub fn add(&mut self, more: Self) {
        self.skipped += more.skipped;
        self.reused += more.reused;
        self.changed += more.changed;
        self.refused += more.refused;
    }
}

impl LakeIndexes {
    /// Who makes the vectors of indexes of this kind.
    pub(super) fn embedder_of(&self, spec: &IndexSpec) -> Result<Arc<dyn Embedder>, PortError> {
        let name = EmbedderName {
            provider: spec.provider.clone(),
            model: spec.model.clone(),
        };
        self.embedding.embedders.of(&name, spec.dimensions)
    }

    /// What is kept of a dataset's vectors by a model, as far as they are worth it.
    pub(super) async fn kept(
        &self,
        embedder: &dyn Embedder,
        dataset: &Dataset,
    ) -> Result<Option<store::Kept>, PortError> {
        let store = self.embedding.kept.clone();
        let Some(store) = store.filter(|_| embedder.limits().keep) else {
            return Ok(None);
        };
        let (id, model) = (dataset.id.clone(), embedder.identity().clone());
        let seen = dataset.last_tombstone_seq();
        let kept = tokio::task::spawn_blocking(move || store.kept(&id, &model, seen));
        kept.await
            .map_err(|error| PortError::internal(error.to_string()))?
            .map(Some)
    }

    /// Who makes the vectors of an index's next generation, which is to be of this kind.
    pub(super) async fn maker(
        &self,
        state: &CatalogState,
        index: &Index,
        spec: &IndexSpec,
    ) -> Result<Maker, PortError> {
        let dataset = dataset_of(state, index)?;
        let live = index.live_generation();
        let sender = self.sender(state, spec, dataset).await;
        let model = match (&sender, live) {
            // Nobody makes vectors of a column.
            _ if spec.vector_column.is_some() => of_first_version(spec),
            (Ok(sender), _) => sender.embedder.identity().clone(),
            (Err(_), Some(live)) if *spec == index.spec => model_of(spec, live),
            (Err(error), _) => return Err(error.clone()),
        };
        let cutting = match (&sender, live) {
            (Ok(sender), _) => cut::cutting_of(spec, sender.embedder.as_ref()),
            // Nothing is cut then: what is held is taken over as it is.
            (Err(_), live) => live.and_then(Generation::cutting).cloned(),
        };
        Ok(Maker {
            sender,
            tally: Tally::default(),
            refused: 0,
            left_out: 0,
            takes_over: live.is_some_and(|live| {
                model_of(&index.spec, live) == model && live.cutting() == cutting.as_ref()
            }),
            model,
            cutting,
            // A generation by another model can wait: the one that answers is built anew by its own.
            is_owed: *spec == index.spec
                && live.is_some_and(|live| live.source_seq < dataset.last_tombstone_seq()),
        })
    }

    async fn sender(
        &self,
        state: &CatalogState,
        spec: &IndexSpec,
        dataset: &Dataset,
    ) -> Result<Sender, PortError> {
        let embedder = self.embedder_of(spec)?;
        must_be_allowed(state, spec, embedder.as_ref())?;
        let kept = self.kept(embedder.as_ref(), dataset).await?;
        Ok(Sender { embedder, kept })
    }

    /// Refuses an index that nobody here could build.
    ///
    /// # Errors
    /// `Unprocessable` when there is no such embedder, or its texts may not go there.
    pub fn must_embed(&self, state: &CatalogState, spec: &IndexSpec) -> Result<(), PortError> {
        let embedder = self.embedder_of(spec)?;
        must_fit_model(spec.chunk, embedder.as_ref())?;
        must_be_allowed(state, spec, embedder.as_ref())
    }

    /// Whether the generation that answers has vectors as its model would make them now. One whose model
    /// is nowhere to be found is left as it is.
    pub(super) fn is_of_today(&self, index: &Index) -> bool {
        let Some(live) = index.live_generation() else {
            return true;
        };
        let today = self.embedder_of(&index.spec);
        today.map_or(true, |today| {
            *today.identity() == model_of(&index.spec, live)
        })
    }

    /// Whether the texts of the generation that answers are cut as they would be now.
    pub(super) fn is_cut_as_today(&self, index: &Index) -> bool {
        let Some(live) = index.live_generation() else {
            return true;
        };
        let today = self.embedder_of(&index.spec);
        today.map_or(true, |today| {
            cut::cutting_of(&index.spec, today.as_ref()).as_ref() == live.cutting()
        })
    }

    /// The vector of a search's text, made like those of the index were.
    pub(super) async fn query_vector(
        &self,
        index: &Index,
        text: &str,
    ) -> Result<Vec<f32>, PortError> {
        if index.spec.vector_column.is_some() {
            let text = format!(
                "index `{}` has vectors of a column: it is searched by `vector`",
                index.name
            );
            return Err(PortError::new(
                ErrorKind::Unprocessable,
                "unsupported",
                text,
            ));
        }
        let embedder = self.embedder_of(&index.spec)?;
        if !self.is_of_today(index) {
            let text = format!(
                "index `{}` holds vectors of another version of its model: refresh it",
                index.name
            );
            return Err(PortError::new(ErrorKind::Conflict, "index_not_ready", text));
        }
        let identity = embedder.identity();
        let model = format!("{}/{}", identity.provider, identity.version);
        let missing = match self.cache.find(&model, text) {
            Ok(vector) => return Ok(vector.to_vec()),
            Err(missing) => missing,
        };
        match asked(embedder.as_ref(), text).await? {
            TextVector::Vector(vector) => {
                self.cache.keep(&missing, vector.as_slice().into());
                Ok(vector)
            }
            TextVector::Refused { code, .. } => {
                let text = match code.as_str() {
                    "text_without_vector" => "the text has no word that the embedder knows",
                    _ => "the model has no vector for this text",
                };
                Err(PortError::new(ErrorKind::Unprocessable, code, text))
            }
        }
    }
}

/// The vector of one text, within the patience of a search.
async fn asked(embedder: &dyn Embedder, text: &str) -> Result<TextVector, PortError> {
    let texts = [text.to_owned()];
    if embedder.limits().keep && is_blank(text) {
        return Ok(blank());
    }
    let done = tokio::time::timeout(QUERY_PATIENCE, embedder.embed(&texts)).await;
    let done = done.map_err(|_| {
        let (kind, code) = (ErrorKind::Unavailable, "embedder_unavailable");
        PortError::new(kind, code, "the embedder does not answer in time")
    })??;
    let mut vectors = done.vectors.into_iter();
    vectors
        .next()
        .ok_or_else(|| PortError::internal("an embedder answered nothing"))
}

impl Maker {
    /// Whether vectors of the generation that answers are as they would be made today.
    pub fn takes_over(&self) -> bool {
        self.takes_over
    }

    /// Whether a model had no vector for a text.
    pub fn has_refusals(&self) -> bool {
        self.refused > 0
    }

    /// The rows of an answer to `rows_query`: those that are kept have their vectors, the others are
    /// embedded, or bring their own. A row without a vector is left out.
    ///
    /// # Errors
    /// As [`Embedder::embed`]; `Invalid` for a vector of another length, with its row's key.
    pub async fn rows(
        &mut self,
        index: &Arc<Index>,
        batch: RecordBatch,
        kept: Kept,
        progress: &Progress,
    ) -> Result<(Rows, Counts), PortError> {
        let owned = Arc::clone(index);
        if index.spec.vector_column.is_some() {
            let rows = blocking(move || rows_with_vectors(&owned, &batch)).await?;
            let counts = Counts {
                skipped: rows.skipped,
                ..Counts::default()
            };
            return Ok((rows, counts));
        }
        let (keys, texts) = blocking(move || texts_of(&owned, &batch)).await?;
        let texts = texts.unwrap_or_default();
        if self.cutting.is_some() {
            return self.cut_rows(&keys, texts, kept, progress).await;
        }
        let vectors = kept.rows.into_iter();
        let mut vectors: Vec<Option<Vec<f32>>> =
            vectors.map(|row| row.map(|row| row.vectors)).collect();
        vectors.resize(texts.len(), None);
        let new = texts.iter().zip(&vectors);
        let new: Vec<String> = new
            .filter(|(_, kept)| kept.is_none())
            .map(|(text, _)| text.clone())
            .collect();
        let made = self.made_or_left_out(&new, new.len(), progress).await?;
        let mut counts = Counts {
            changed: kept.changed,
            ..Counts::default()
        };
        let rows = joined(&keys, texts, vectors, made, &mut counts);
        self.note_refused(&mut counts);
        Ok((rows, counts))
    }

    fn note_refused(&mut self, counts: &mut Counts) {
        let sender = self.sender.as_ref();
        if !sender.is_ok_and(|sender| sender.embedder.limits().keep) {
            // A text without a word that is known is skipped: nobody refused it.
            counts.refused = 0;
        }
        self.refused += counts.refused;
    }

    /// What becomes of the texts of so many rows; nothing when these are left out of a generation that
    /// must come, whoever is down.
    async fn made_or_left_out(
        &mut self,
        texts: &[String],
        rows: usize,
        progress: &Progress,
    ) -> Result<Vec<TextVector>, PortError> {
        match self.made(texts, progress).await {
            Err(error) if self.is_owed && error.code != "cancelled" => {
                tracing::warn!(%error, rows, "rows are left out, so that deleted ones go");
                self.left_out += rows as u64;
                // Nobody is asked again for this generation.
                self.sender = Err(error);
                Ok(Vec::new())
            }
            made => made,
        }
    }

    async fn made(
        &mut self,
        texts: &[String],
        progress: &Progress,
    ) -> Result<Vec<TextVector>, PortError> {
        match &self.sender {
            _ if texts.is_empty() => Ok(Vec::new()),
            Ok(sender) => sender.embed(texts, progress, &mut self.tally).await,
            Err(error) => Err(error.clone()),
        }
    }

    /// Who made the vectors, and what that took.
    pub fn making(&self) -> Making {
        // What is embedded in this process for nothing is sent to nobody.
        let sender = self.sender.as_ref();
        let is_free = sender.is_ok_and(|sender| !sender.embedder.limits().keep);
        Making {
            model: self.model.clone(),
            cutting: self.cutting.clone(),
            refused: self.refused,
            left_out: self.left_out,
            texts_sent: if is_free { 0 } else { self.tally.texts_sent },
            provider_calls: self.tally.calls,
            tokens: self.tally.tokens,
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PortError> + Send + 'static,
) -> Result<T, PortError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| PortError::internal(error.to_string()))?
}

/// Rows, each with the vector that it keeps or the next one that was made.
fn joined(
    keys: &StringArray,
    texts: Vec<String>,
    kept: Vec<Option<Vec<f32>>>,
    made: Vec<TextVector>,
    counts: &mut Counts,
) -> Rows {
    let mut made = made.into_iter();
    let mut rows = Rows::default();
    let mut with_vectors = Vec::with_capacity(texts.len());
    for ((row, text), kept) in texts.into_iter().enumerate().zip(kept) {
        if let Some(vector) = kept {
            counts.reused += 1;
            rows.vectors.extend(vector);
        } else if let Some(TextVector::Vector(vector)) = made.next() {
            rows.vectors.extend(vector);
        } else {
            counts.skipped += 1;
            counts.refused += 1;
            continue;
        }
        rows.keys.push(keys.value(row).to_owned());
        with_vectors.push(text);
    }
    rows.skipped = counts.skipped;
    rows.texts = Some(with_vectors);
    rows
}

/// Who made the vectors of the generation that answers, and what that took.
pub(super) fn making_of(index: &Index) -> Making {
    let live = index.live_generation();
    let made = live.and_then(|live| live.making.clone());
    made.unwrap_or_else(|| Making {
        model: of_first_version(&index.spec),
        cutting: None,
        refused: 0,
        left_out: 0,
        texts_sent: 0,
        provider_calls: 0,
        tokens: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_the_vector_that_it_keeps_or_the_next_one_that_was_made() {
        let keys = StringArray::from(vec!["a", "b", "c", "d"]);
        let texts = ["one", "two", "three", "four"].map(str::to_owned).to_vec();
        let kept = vec![Some(vec![1.0]), None, None, None];
        let refused = TextVector::Refused {
            code: "text_refused".to_owned(),
            reason: String::new(),
        };
        let made = vec![
            TextVector::Vector(vec![2.0]),
            refused,
            TextVector::Vector(vec![4.0]),
        ];
        let mut counts = Counts::default();
        let rows = joined(&keys, texts, kept, made, &mut counts);
        assert_eq!(rows.keys, ["a", "b", "d"]);
        assert_eq!(rows.vectors, [1.0, 2.0, 4.0]);
        assert_eq!((counts.reused, counts.skipped, counts.refused), (1, 1, 1));
    }
}
