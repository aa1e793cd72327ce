//! Embedders behind HTTP: Ollama, and any server with the `OpenAI` interface. A batch is sent,
//! sent again with backoff while the server may recover, cut in halves when the server refuses its
//! content, and every vector is checked before anybody sees it. What a server writes may hold a text:
//! it goes to readers of the row, never into an error, the journal or the log.

mod client;
#[cfg(test)]
mod tests;
mod wire;

use std::sync::Arc;

use async_trait::async_trait;
use lakehouse_actors::{
    PortError,
    ports::{EmbedLimits, Embedded, Embedder, TextVector},
};
use lakehouse_journal::model::{ErrorKind, catalog::ModelIdentity};

pub use client::{Client, ClientConfig, ProviderHealth};
pub use wire::Wire;

use client::Failure;

/// A batch at least this large that is refused text by text means that the server refuses us, not
/// the texts.
const REFUSED_ALL_MIN: usize = 8;

/// One model of one server.
pub struct RemoteEmbedder {
    client: Arc<Client>,
    identity: ModelIdentity,
}

impl RemoteEmbedder {
    /// The model of that identity.
    pub fn new(client: Arc<Client>, identity: ModelIdentity) -> Self {
        Self { client, identity }
    }

    /// The model of that name; its dimensions are those of a vector that is asked for now.
    ///
    /// # Errors
    /// As [`Embedder::embed`].
    pub async fn probe(client: Arc<Client>, model: &str) -> Result<Self, PortError> {
        let texts = ["How many numbers does a vector have?".to_owned()];
        let answer = client.send(model, &texts).await;
        let answer = answer.map_err(|failure| client.gives_up(failure))?;
        let found = answer.vectors.first().map_or(0, Vec::len);
        let dimensions = u32::try_from(found).ok().filter(|found| {
            // What the index engines take.
            (1..=65_536).contains(found)
        });
        let Some(dimensions) = dimensions else {
            let text = format!("model `{model}` answers vectors of {found} numbers");
            return Err(PortError::new(
                ErrorKind::Unprocessable,
                "embedder_dimensions",
                text,
            ));
        };
        let identity = ModelIdentity {
            provider: client.provider().to_owned(),
            model: model.to_owned(),
            version: model.to_owned(),
            dimensions,
        };
        Ok(Self { client, identity })
    }

    /// Checks the vectors of a batch: their number is the client's business, what is in them ours.
    fn checked(&self, vectors: Vec<Vec<f32>>) -> Result<Vec<TextVector>, PortError> {
        let dimensions = self.identity.dimensions as usize;
        let mut checked = Vec::with_capacity(vectors.len());
        for vector in vectors {
            if vector.len() != dimensions {
                let text = format!(
                    "model `{}` answered a vector of {} numbers where {dimensions} are expected",
                    self.identity.model,
                    vector.len()
                );
                return Err(PortError::new(
                    ErrorKind::Unprocessable,
                    "embedder_dimensions",
                    text,
                ));
            }
            checked.push(normalised(vector));
        }
        Ok(checked)
    }
}

/// The vector at length 1; refused when it has no direction.
fn normalised(vector: Vec<f32>) -> TextVector {
    let square: f64 = vector.iter().map(|value| f64::from(*value).powi(2)).sum();
    if !square.is_finite() || vector.iter().any(|value| !value.is_finite()) {
        return refused(
            "not_finite",
            "the model answered a vector that is not finite",
        );
    }
    let length = square.sqrt();
    if length == 0.0 {
        return refused("zero_vector", "the model answered a vector of zeros");
    }
    #[expect(clippy::cast_possible_truncation, reason = "rounded to nearest")]
    let scaled = vector
        .into_iter()
        .map(|value| (f64::from(value) / length) as f32);
    TextVector::Vector(scaled.collect())
}

fn refused(code: &str, reason: &str) -> TextVector {
    TextVector::Refused {
        code: code.to_owned(),
        reason: reason.to_owned(),
    }
}

#[async_trait]
impl Embedder for RemoteEmbedder {
    fn identity(&self) -> &ModelIdentity {
        &self.identity
    }

    fn limits(&self) -> EmbedLimits {
        let config = self.client.config();
        EmbedLimits {
            batch_texts: config.batch_texts,
            batch_bytes: config.batch_bytes,
            concurrency: config.concurrency,
            keep: true,
            external: config.external,
        }
    }

    async fn embed(&self, texts: &[String]) -> Result<Embedded, PortError> {
        let mut done = Embedded {
            vectors: vec![refused("not_sent", ""); texts.len()],
            ..Embedded::default()
        };
        let mut refusals = 0;
        // Parts that the server refuses are cut in halves until the text that it means is alone.
        let whole = 0..texts.len();
        let mut parts = vec![whole];
        while let Some(part) = parts.pop() {
            if part.is_empty() {
                continue;
            }
            match self
                .client
                .send(&self.identity.model, &texts[part.clone()])
                .await
            {
                Ok(answer) => {
                    done.calls += answer.calls;
                    if let Some(tokens) = answer.tokens {
                        *done.tokens.get_or_insert(0) += tokens;
                    }
                    let vectors = self.checked(answer.vectors)?;
                    for (slot, vector) in done.vectors[part].iter_mut().zip(vectors) {
                        *slot = vector;
                    }
                }
                Err(Failure::Content { calls, reason }) => {
                    done.calls += calls;
                    if part.len() > 1 {
                        let middle = part.start + part.len() / 2;
                        parts.push(middle..part.end);
                        parts.push(part.start..middle);
                        continue;
                    }
                    refusals += 1;
                    done.vectors[part.start] = refused("text_refused", &reason);
                    if refusals == texts.len() && refusals >= REFUSED_ALL_MIN {
                        let text = "the embedder refuses every text of a batch";
                        let code = "embedder_refuses";
                        return Err(PortError::new(ErrorKind::Unprocessable, code, text));
                    }
                }
                Err(failure) => return Err(self.client.gives_up(failure)),
            }
        }
        Ok(done)
    }
}
