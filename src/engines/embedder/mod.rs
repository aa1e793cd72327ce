//! The embedder inside the daemon: one int8 row a `WordPiece` token, summed and normalised.
//! Indexing and search ask it for vectors. It reads no file and no network: the weights are in the
//! binary. The same text gives the same bits on every machine, since the sums are integers and the
//! few steps after them are single IEEE operations in a fixed order.
//! English, small: it knows what words mean, not what a sentence says.

pub mod batches;
pub mod cache;
pub mod chunker;
mod in_process;
pub mod minilm;
mod registry;
pub mod remote;
pub mod standin;
pub mod store;
#[cfg(test)]
mod tests;

use std::sync::LazyLock;

pub use in_process::InProcess;
pub use lakehouse_kernels::wordpiece::DIMENSIONS;
use lakehouse_kernels::wordpiece::{StaticModel, Vocabulary};
pub use registry::{EmbedderName, Embedders, IN_PROCESS, LOCAL};

/// Who makes the vectors of an index; two indexes may be compared only when these are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmbedderIdentity {
    /// Where it runs.
    pub provider: &'static str,
    /// Its name in requests and configuration.
    pub model: &'static str,
    /// The name with the version of weights and tokeniser: a change of either changes this.
    pub version: &'static str,
    /// Numbers in a vector.
    pub dimensions: usize,
}

/// The static sentence embedding `static-minilm-128`.
pub struct StaticEmbedder {
    model: StaticModel,
}

static WEIGHTS: &[u8] = include_bytes!("static-minilm-128/static-minilm-128.i8");
static VOCABULARY: &str = include_str!("static-minilm-128/vocab.txt");

static BUILT_IN: LazyLock<StaticEmbedder> = LazyLock::new(|| {
    let model = StaticModel::parse(WEIGHTS, VOCABULARY);
    StaticEmbedder {
        model: model.expect("the model in the binary is whole, as a test reads it"),
    }
});

impl StaticEmbedder {
    /// The one in the binary, indexed at first use (a few milliseconds).
    pub fn built_in() -> &'static Self {
        &BUILT_IN
    }

    /// Who makes the vectors.
    pub fn identity(&self) -> EmbedderIdentity {
        EmbedderIdentity {
            provider: "in-process",
            model: "static-minilm-128",
            version: "static-minilm-128@1",
            dimensions: DIMENSIONS,
        }
    }

    /// The vector of `text`, of length 1; `None` when it has no word that the model knows.
    pub fn embed(&self, text: &str) -> Option<[f32; DIMENSIONS]> {
        self.model.embed(text)
    }

    /// The tokens that the model knows.
    pub fn vocabulary(&self) -> &Vocabulary {
        self.model.vocabulary()
    }
}
