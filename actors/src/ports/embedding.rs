//! Who makes vectors of texts, as a role: the refresh and the indexing worker know nothing more of it.
//! `src/engines/embedder` implements it on real models.

use async_trait::async_trait;
use lakehouse_journal::model::catalog::ModelIdentity;

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
        /// The reason. A provider wrote it, who may have put the text into it: it is for readers of the row.
        reason: String,
    },
}

/// What became of a batch of texts.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Embedded {
    /// One a text, in their order.
    pub vectors: Vec<TextVector>,
    /// Calls that reached the provider, repeated ones too; none where there is no provider.
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
    /// Whether texts leave what the lake's owner runs: then they must be public, or those of a view.
    pub external: bool,
}

/// Who tells the tokens of a text apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tokenizer {
    /// The model's own `WordPiece` over the uncased words of BERT.
    WordPiece,
    /// Nobody here knows the model's own: what is counted is rather more than fewer.
    #[default]
    Estimated,
}

impl Tokenizer {
    /// Its name with a version: the same text has the same chunks as long as this is the same.
    pub fn version(self) -> &'static str {
        match self {
            Self::WordPiece => "wordpiece@1",
            Self::Estimated => "estimated@1",
        }
    }
}

/// How a model counts, for texts that are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tokens {
    /// Who tells them apart.
    pub tokenizer: Tokenizer,
    /// Most of one text, as far as that is known; the model's own marks are not counted.
    pub most: Option<u32>,
}

/// A chunk of a row's text: a part that has a vector of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkSpan {
    /// Which of the rows that it came with.
    pub row: u32,
    /// Which chunk of the row's text, from 0; one that has no vector is left out.
    pub number: u32,
    /// The byte of the text that it begins with.
    pub start: u32,
    /// The byte after its last one.
    pub end: u32,
}

/// Turns texts into vectors. The same text has the same vector as long as the identity is the same.
#[async_trait]
pub trait Embedder: Send + Sync {
    /// Who makes the vectors.
    fn identity(&self) -> &ModelIdentity;

    /// What it may be given.
    fn limits(&self) -> EmbedLimits;

    /// How it counts tokens.
    fn tokens(&self) -> Tokens {
        Tokens::default()
    }

    /// The vectors of a batch.
    ///
    /// # Errors
    /// `Unavailable` when the provider does not answer or has had enough: another try may succeed.
    /// `Unprocessable` when it never will as it is set up. Nothing of the batch is known then. The text
    /// of an error holds nothing that a provider wrote.
    async fn embed(&self, texts: &[String]) -> Result<Embedded, PortError>;
}
