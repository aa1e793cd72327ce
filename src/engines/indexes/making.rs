//! Texts of rows on their way to vectors: who makes them for an index, which are taken over from the
//! generation before, and what was sent for the others. Builds and searches come in here; nobody else
//! embeds.

use std::{sync::Arc, time::Duration};

use arrow::record_batch::RecordBatch;
use lakehouse_actors::{
    PortError,
    ports::{Embedder, Progress, TextVector},
};
use lakehouse_journal::model::{
    ErrorKind,
    catalog::{
        CatalogState, Dataset, Generation, Index, IndexSpec, Making, ModelIdentity, Sensitivity,
        TextSpec,
    },
};

use super::{LakeIndexes, OpenGeneration, build::texts_of, dataset_of, of_vector};
use crate::{
    engines::{
        embedder::{
            EmbedderName, Embedders,
            batches::{Sender, Tally, blank, is_blank},
            store::{Kept, VectorStore},
        },
        usearch::HnswBuilder,
        vectors::Chunk,
    },
    query::row_key::names,
};

/// How long a search waits for the vector of its text.
const QUERY_PATIENCE: Duration = Duration::from_secs(10);
/// What made the vectors of generations that do not say: there was nothing else.
const FIRST_VERSION: &str = "static-minilm-128@1";

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
    making.map_or_else(
        || ModelIdentity {
            provider: spec.provider.clone(),
            model: spec.model.clone(),
            version: FIRST_VERSION.to_owned(),
            dimensions: spec.dimensions,
        },
        |making| making.model.clone(),
    )
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

/// Makes the vectors of one generation.
pub(super) struct Maker {
    /// Who is asked; or why nobody may be, which matters only when there is something to be asked.
    sender: Result<Sender, PortError>,
    model: ModelIdentity,
    tally: Tally,
    refused: u64,
    left_out: u64,
    /// Whether the generation that answers holds deleted rows: it must be replaced, whoever is down.
    is_owed: bool,
    /// The generation that answers; its vectors are taken over when they would be made the same today.
    before: Option<Arc<OpenGeneration>>,
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

/// Rows of a batch, with the slots in the generation before whose vectors they keep.
pub(super) struct Rows {
    keys: Vec<String>,
    texts: Vec<String>,
    taken: Vec<Option<u64>>,
    changed: u64,
}

impl Rows {
    /// Texts whose vectors are to be made.
    fn new_texts(&self) -> Vec<String> {
        let rows = self.texts.iter().zip(&self.taken);
        let new = rows.filter(|(_, taken)| taken.is_none());
        new.map(|(text, _)| text.clone()).collect()
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
    ) -> Result<Option<Kept>, PortError> {
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
            (Ok(sender), _) => sender.embedder.identity().clone(),
            (Err(_), Some(live)) if *spec == index.spec => model_of(spec, live),
            (Err(error), _) => return Err(error.clone()),
        };
        Ok(Maker {
            sender,
            tally: Tally::default(),
            refused: 0,
            left_out: 0,
            takes_over: live.is_some_and(|live| model_of(&index.spec, live) == model),
            model,
            // A generation by another model can wait: the one that answers is built anew by its own.
            is_owed: *spec == index.spec
                && live.is_some_and(|live| live.source_seq < dataset.last_tombstone_seq()),
            before: self.before(index).await,
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

    /// The generation whose vectors may be taken over; without one that can be opened, there is none.
    async fn before(&self, index: &Index) -> Option<Arc<OpenGeneration>> {
        index.live?;
        let live = self.live(index).await;
        let live = live.inspect_err(|error| {
            tracing::warn!(index = index.name, %error, "every row is embedded again");
        });
        live.ok().map(|(_, open)| open)
    }

    /// The vector of a search's text, made like those of the index were.
    pub(super) async fn query_vector(
        &self,
        index: &Index,
        text: &str,
    ) -> Result<Vec<f32>, PortError> {
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
    /// Adds a batch, whose first columns are the key: a row that the generation before has with the same
    /// text keeps its vector, bit for bit; the others are embedded. A row without a vector is left out.
    ///
    /// # Errors
    /// As [`Embedder::embed`].
    pub async fn add(
        &mut self,
        mut builder: HnswBuilder,
        batch: RecordBatch,
        index: &Arc<Index>,
        progress: &Progress,
    ) -> Result<(HnswBuilder, Counts), PortError> {
        let (before, takes_over) = (self.before.clone(), self.takes_over);
        let index = Arc::clone(index);
        let rows = blocking(move || read(&batch, &index.spec, before.as_deref(), takes_over));
        let rows = rows.await?;
        let new = rows.new_texts();
        let made = match self.made(&new, progress).await {
            Err(error) if self.is_owed && error.code != "cancelled" => {
                tracing::warn!(%error, rows = new.len(), "rows are left out, so that deleted ones go");
                self.left_out += new.len() as u64;
                // Nobody is asked again for this generation.
                self.sender = Err(error);
                Vec::new()
            }
            made => made?,
        };
        let before = self.before.clone();
        let added = blocking(move || {
            let counts = link(&mut builder, rows, made, before.as_deref())?;
            Ok((builder, counts))
        });
        let (builder, mut counts) = added.await?;
        let sender = self.sender.as_ref();
        if !sender.is_ok_and(|sender| sender.embedder.limits().keep) {
            // A text without a word that is known is skipped: nobody refused it.
            counts.refused = 0;
        }
        self.refused += counts.refused;
        Ok((builder, counts))
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

/// The rows of a batch, and which of them keep their vectors.
fn read(
    batch: &RecordBatch,
    spec: &IndexSpec,
    before: Option<&OpenGeneration>,
    takes_over: bool,
) -> Result<Rows, PortError> {
    let key_columns = spec.key.columns().len();
    let keys = names(&batch.columns()[..key_columns])
        .map_err(|error| PortError::internal(error.to_string()))?;
    let texts = texts_of(batch, key_columns, &spec.text)?;
    let (mut taken, mut changed) = (Vec::with_capacity(texts.len()), 0);
    for (row, text) in texts.iter().enumerate() {
        let slot = before.and_then(|before| before.index.slot_of(keys.value(row)));
        let same = before.zip(slot).filter(|(before, slot)| {
            let known = before.index.text_of(*slot);
            let has_vector = before.index.vector_of(*slot).is_some();
            takes_over && has_vector && known.is_some_and(|known| known == text)
        });
        changed += u64::from(slot.is_some() && same.is_none());
        taken.push(same.map(|(_, slot)| slot));
    }
    Ok(Rows {
        keys: (0..texts.len())
            .map(|row| keys.value(row).to_owned())
            .collect(),
        texts,
        taken,
        changed,
    })
}

/// Links rows into the graph, each with the vector that it keeps or the next one that was made.
fn link(
    builder: &mut HnswBuilder,
    rows: Rows,
    made: Vec<TextVector>,
    before: Option<&OpenGeneration>,
) -> Result<Counts, PortError> {
    let mut counts = Counts {
        changed: rows.changed,
        ..Counts::default()
    };
    let mut made = made.into_iter();
    let mut keys = Vec::with_capacity(rows.keys.len());
    let mut texts = Vec::with_capacity(rows.keys.len());
    let mut numbers = Vec::new();
    for ((key, text), slot) in rows.keys.into_iter().zip(rows.texts).zip(rows.taken) {
        let kept = before.zip(slot);
        if let Some(vector) = kept.and_then(|(before, slot)| before.index.vector_of(slot)) {
            counts.reused += 1;
            numbers.extend_from_slice(vector);
        } else if let Some(TextVector::Vector(vector)) = made.next() {
            numbers.extend_from_slice(&vector);
        } else {
            counts.skipped += 1;
            counts.refused += 1;
            continue;
        }
        keys.push(key);
        texts.push(text);
    }
    builder
        .add_chunk(Chunk {
            keys: &keys,
            texts: Some(&texts),
            vectors: &numbers,
        })
        .map_err(|error| of_vector(&error))?;
    Ok(counts)
}
