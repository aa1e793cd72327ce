//! The embedder in the binary behind the port: every core takes a share of a batch.
//! It costs nothing but time, and little of that, so nothing of it is kept.

use async_trait::async_trait;
use lakehouse_actors::{
    PortError,
    ports::{EmbedLimits, Embedded, Embedder, TextVector, Tokenizer, Tokens},
};
use lakehouse_journal::model::catalog::ModelIdentity;

use super::StaticEmbedder;
use crate::engines::vectors::processors;

/// Texts of a batch.
const BATCH_TEXTS: usize = 8_192;
/// Bytes of the texts of a batch.
const BATCH_BYTES: usize = 32 << 20;
/// Fewer texts than this are not worth a thread.
const SHARE_MIN: usize = 256;

/// The static embedder as a port.
pub struct InProcess {
    identity: ModelIdentity,
}

impl InProcess {
    /// The one in the binary.
    pub fn new() -> Self {
        let identity = StaticEmbedder::built_in().identity();
        Self {
            identity: ModelIdentity {
                provider: identity.provider.to_owned(),
                model: identity.model.to_owned(),
                version: identity.version.to_owned(),
                dimensions: u32::try_from(identity.dimensions).expect("few dimensions"),
            },
        }
    }
}

impl Default for InProcess {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Embedder for InProcess {
    fn identity(&self) -> &ModelIdentity {
        &self.identity
    }

    fn limits(&self) -> EmbedLimits {
        EmbedLimits {
            batch_texts: BATCH_TEXTS,
            batch_bytes: BATCH_BYTES,
            concurrency: 1,
            keep: false,
            external: false,
        }
    }

    fn tokens(&self) -> Tokens {
        Tokens {
            tokenizer: Tokenizer::WordPiece,
            // It adds up words, however many there are.
            most: None,
        }
    }

    async fn embed(&self, texts: &[String]) -> Result<Embedded, PortError> {
        let vectors = if texts.len() < SHARE_MIN {
            texts.iter().map(|text| vector(text)).collect()
        } else {
            let texts = texts.to_vec();
            tokio::task::spawn_blocking(move || on_every_core(&texts))
                .await
                .map_err(|error| PortError::internal(error.to_string()))?
        };
        Ok(Embedded {
            vectors,
            // There is no provider to be called.
            calls: 0,
            tokens: None,
        })
    }
}

fn on_every_core(texts: &[String]) -> Vec<TextVector> {
    let part = texts.len().div_ceil(processors()).max(SHARE_MIN);
    std::thread::scope(|scope| {
        let workers: Vec<_> = texts
            .chunks(part)
            .map(|texts| scope.spawn(|| texts.iter().map(|text| vector(text)).collect::<Vec<_>>()))
            .collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().expect("embedding takes any text"))
            .collect()
    })
}

fn vector(text: &str) -> TextVector {
    match StaticEmbedder::built_in().embed(text) {
        Some(vector) => TextVector::Vector(vector.to_vec()),
        None => TextVector::Refused {
            code: "text_without_vector".to_owned(),
            reason: "the text has no word that the model knows".to_owned(),
        },
    }
}
