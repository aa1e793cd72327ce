//! Who makes vectors of texts, as a role; and the work of bringing an index up to date, as the
//! refresh worker asks for it. `src/engines/embedder` implements the first on real models.

use std::sync::Arc;

use async_trait::async_trait;
use lakehouse_journal::{
    model::{
        Fold,
        catalog::{
            CatalogState, ChunkSpec, Dataset, EmbeddingSpec, Index, IndexSpec, ModelIdentity,
            RefreshCounts, VectorSpec,
        },
    },
    record::Seq,
};

use super::{DeltaRows, Progress};
use crate::error::PortError;

/// What became of one text.
#[derive(Debug, Clone, PartialEq)]
pub enum TextVector {
    /// Its vector, of the model's dimensions, finite and not zero.
    Vector(Vec<f32>),
    /// The model has none for it: another try gives the same.
    Refused {
        /// The stable word of the reason.
        code: String,
        /// The reason, without the text.
        reason: String,
    },
}

/// What became of a batch of texts.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Embedded {
    /// One a text, in their order.
    pub vectors: Vec<TextVector>,
    /// Calls that reached the provider, repeated ones too.
    pub calls: u64,
    /// Tokens, where the provider counts them.
    pub tokens: Option<u64>,
}

/// How many texts a model is given, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmbedLimits {
    /// Most texts of a batch.
    pub batch_texts: usize,
    /// Most bytes of the texts of a batch, unless one text alone is longer.
    pub batch_bytes: usize,
    /// Batches at the same time.
    pub concurrency: usize,
    /// Whether a vector is dear enough to be kept for the next time.
    pub keep: bool,
    /// How long texts are cut unless somebody says otherwise.
    pub chunk: Option<ChunkSpec>,
}

/// Turns texts into vectors. The same text has the same vector as long as the identity is the same.
#[async_trait]
pub trait Embedder: Send + Sync {
    /// Who makes the vectors.
    fn identity(&self) -> &ModelIdentity;

    /// What it may be given.
    fn limits(&self) -> EmbedLimits;

    /// The vectors of a batch.
    ///
    /// # Errors
    /// `Unavailable` and `Overloaded` when the provider does not answer or has had enough: another
    /// try may succeed. `Denied`, `NotFound` and `Unprocessable` when it never will as it is set up.
    /// Nothing of the batch is known then.
    async fn embed(&self, texts: &[String]) -> Result<Embedded, PortError>;
}

/// How an index catches up with the rows of its dataset.
#[derive(Debug, Clone)]
pub enum CatchUp {
    /// By rows that ride on it.
    Delta {
        /// What it does not say yet.
        rows: DeltaRows,
        /// What was done for it.
        done: RefreshCounts,
    },
    /// By a generation built anew: it was made in another way, or the difference is too large.
    Rebuild {
        /// How, when otherwise than before.
        made: Option<VectorSpec>,
    },
}

/// A row that has no vector because its text is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedRow {
    /// The index that does not have it.
    pub index: String,
    /// The row's key.
    pub key: String,
    /// The stable word of the reason.
    pub code: String,
    /// The reason.
    pub reason: String,
}

/// What a dataset's indexes do not say, counted and not embedded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Behind {
    /// Rows that a refresh would embed.
    pub to_embed: u64,
    /// Rows that a refresh would take out.
    pub to_remove: u64,
    /// Rows that it would leave out, because their text is refused.
    pub refused: Vec<RefusedRow>,
}

/// The difference between rows and what is embedded of them, and the vectors that make it up.
#[async_trait]
pub trait EmbeddingWork: Send + Sync {
    /// Embeds what the generation that answers, with its deltas, does not say of the snapshot's rows.
    /// What is embedded is kept, so that a try after a failure does not send it again.
    ///
    /// # Errors
    /// As [`Embedder::embed`]; when rows or the index cannot be read.
    async fn catch_up(
        &self,
        snapshot: &Arc<Fold<CatalogState>>,
        index: &Index,
        progress: &Arc<Progress>,
    ) -> Result<CatchUp, PortError>;

    /// What a refresh of the dataset would do.
    ///
    /// # Errors
    /// When rows or an index cannot be read.
    async fn behind(
        &self,
        snapshot: &Arc<Fold<CatalogState>>,
        dataset: &str,
    ) -> Result<Behind, PortError>;

    /// Forgets which texts of a dataset were refused. Returns how many.
    ///
    /// # Errors
    /// `Unavailable` when that cannot be noted.
    async fn forget_refusals(
        &self,
        snapshot: &Arc<Fold<CatalogState>>,
        dataset: &str,
    ) -> Result<u64, PortError>;

    /// The index that a dataset's own embedding asks for.
    ///
    /// # Errors
    /// As [`Embedder::embed`]: its dimensions may have to be asked for.
    async fn index_of(
        &self,
        dataset: &Dataset,
        wanted: &EmbeddingSpec,
    ) -> Result<IndexSpec, PortError>;

    /// What the build of this job sent to a provider, as long as that is remembered.
    fn built(&self, job: &str) -> Option<RefreshCounts>;

    /// Removes kept vectors of texts that no visible row of the dataset has any more: true of all
    /// deletions up to `through`. Returns how many files were looked at.
    ///
    /// # Errors
    /// When rows cannot be read or files not be written.
    async fn sweep(
        &self,
        snapshot: &Arc<Fold<CatalogState>>,
        dataset: &str,
        through: Seq,
    ) -> Result<u64, PortError>;

    /// Removes what is kept of datasets that are gone.
    ///
    /// # Errors
    /// When it cannot be removed.
    async fn forget_dropped(&self, catalog: &CatalogState) -> Result<(), PortError>;
}
