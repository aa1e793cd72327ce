//! Every embedder there is, by provider and model: the one in the binary, the ones installed under
//! the data directory, and those of the servers that the configuration names.

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use lakehouse_actors::{PortError, ports::Embedder};
use lakehouse_journal::model::{ErrorKind, catalog::ModelIdentity};
use parking_lot::Mutex;

use super::{
    in_process::InProcess,
    minilm::{MINILM, MiniLm, ModelFileError},
    remote::{Client, ProviderHealth, RemoteEmbedder, Wire},
};
use crate::{
    config::{Config, loopback_of},
    engines::{egress::EgressPolicy, secrets::SecretsProvider},
};

/// The provider of the model in the binary.
pub const IN_PROCESS: &str = "in-process";
/// The provider of models under the data directory.
pub const LOCAL: &str = "local";
/// The model in the binary.
const STATIC_MODEL: &str = "static-minilm-128";

/// Who is asked for vectors.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EmbedderName {
    /// Where the model runs.
    pub provider: String,
    /// Its name there.
    pub model: String,
}

impl EmbedderName {
    /// What a default of the configuration means: a model in the binary, or `provider/model`.
    pub fn of_default(text: &str) -> Option<Self> {
        let (provider, model) = match text.split_once('/') {
            None if text == STATIC_MODEL => (IN_PROCESS, text),
            None => return None,
            Some(parts) => parts,
        };
        let whole = !provider.is_empty() && !model.is_empty();
        whole.then(|| Self {
            provider: provider.to_owned(),
            model: model.to_owned(),
        })
    }
}

/// The embedders.
pub struct Embedders {
    default: EmbedderName,
    built_in: Arc<InProcess>,
    models_dir: PathBuf,
    clients: Vec<Arc<Client>>,
    known: Mutex<HashMap<EmbedderName, Arc<dyn Embedder>>>,
}

impl Embedders {
    /// Those of the configuration.
    ///
    /// # Errors
    /// `Invalid` for an address that may not be reached.
    pub fn new(config: &Config, secrets: &Arc<dyn SecretsProvider>) -> Result<Self, PortError> {
        let embedding = &config.embedding;
        let servers = [
            (Wire::Ollama, &embedding.ollama),
            (Wire::Openai, &embedding.openai),
        ];
        let mut clients = Vec::new();
        for (wire, provider) in servers {
            if let Some(provider) = provider {
                let egress = egress_to(&provider.url, &config.egress.allow);
                let client = Client::new(provider.client(wire), egress, Arc::clone(secrets))?;
                clients.push(Arc::new(client));
            }
        }
        let default = EmbedderName::of_default(&embedding.default);
        Ok(Self {
            default: default.ok_or_else(|| unknown(&embedding.default))?,
            clients,
            models_dir: config.data_dir.join("models"),
            ..Self::built_in_only()
        })
    }

    /// The one in the binary and nothing else.
    pub fn built_in_only() -> Self {
        Self {
            default: EmbedderName {
                provider: IN_PROCESS.to_owned(),
                model: STATIC_MODEL.to_owned(),
            },
            built_in: Arc::new(InProcess::new()),
            models_dir: PathBuf::new(),
            clients: Vec::new(),
            known: Mutex::default(),
        }
    }

    /// Fills in what a request leaves open.
    ///
    /// # Errors
    /// `Unprocessable` when a provider is named that has no default model.
    pub fn name(
        &self,
        provider: Option<&str>,
        model: Option<&str>,
    ) -> Result<EmbedderName, PortError> {
        match (provider, model) {
            (None, None) => Ok(self.default.clone()),
            (Some(IN_PROCESS), None) | (None, Some(STATIC_MODEL)) => Ok(EmbedderName {
                provider: IN_PROCESS.to_owned(),
                model: STATIC_MODEL.to_owned(),
            }),
            (Some(provider), None) if provider == self.default.provider => Ok(self.default.clone()),
            (None, Some(model)) => Ok(EmbedderName {
                provider: self.default.provider.clone(),
                model: model.to_owned(),
            }),
            (Some(provider), Some(model)) => Ok(EmbedderName {
                provider: provider.to_owned(),
                model: model.to_owned(),
            }),
            (Some(provider), None) => {
                let text = format!("`model` of provider `{provider}` is missing");
                Err(PortError::new(ErrorKind::Invalid, "invalid_request", text))
            }
        }
    }

    /// The embedder of that name. One of a server is asked for a vector at first use, so that its
    /// dimensions are known.
    ///
    /// # Errors
    /// `Unprocessable` for one that there is not; as [`Embedder::embed`].
    pub async fn find(&self, name: &EmbedderName) -> Result<Arc<dyn Embedder>, PortError> {
        if let Some(known) = self.standing(name)? {
            return Ok(known);
        }
        let client = self.client(name)?;
        let found = RemoteEmbedder::probe(client, &name.model).await?;
        Ok(self.remember(name, Arc::new(found)))
    }

    /// The embedder of that name, which makes vectors of so many numbers; nobody is asked for that.
    ///
    /// # Errors
    /// `Unprocessable` when there is none of the name, or it makes other vectors today.
    pub fn of(&self, name: &EmbedderName, dimensions: u32) -> Result<Arc<dyn Embedder>, PortError> {
        let found = if let Some(known) = self.standing(name)? {
            known
        } else {
            let client = self.client(name)?;
            let identity = ModelIdentity {
                provider: name.provider.clone(),
                model: name.model.clone(),
                version: name.model.clone(),
                dimensions,
            };
            self.remember(name, Arc::new(RemoteEmbedder::new(client, identity)))
        };
        if found.identity().dimensions != dimensions {
            let text = format!(
                "model `{}` makes vectors of {} numbers, those of the index have {dimensions}",
                name.model,
                found.identity().dimensions,
            );
            let code = "embedder_dimensions";
            return Err(PortError::new(ErrorKind::Unprocessable, code, text));
        }
        Ok(found)
    }

    /// Every server, and whether it answered when it was last asked.
    pub fn health(&self) -> Vec<ProviderHealth> {
        self.clients.iter().map(|client| client.health()).collect()
    }

    /// One that needs no server, or is known already.
    fn standing(&self, name: &EmbedderName) -> Result<Option<Arc<dyn Embedder>>, PortError> {
        if name.provider == IN_PROCESS {
            if name.model != self.built_in.identity().model {
                return Err(unknown(&name.model));
            }
            return Ok(Some(Arc::clone(&self.built_in) as Arc<dyn Embedder>));
        }
        if let Some(known) = self.known.lock().get(name) {
            return Ok(Some(Arc::clone(known)));
        }
        if name.provider == LOCAL && name.model == MINILM {
            return self.installed(name).map(Some);
        }
        Ok(None)
    }

    /// The local model, loaded at first use (a tenth of a second).
    fn installed(&self, name: &EmbedderName) -> Result<Arc<dyn Embedder>, PortError> {
        let loaded = MiniLm::open(&self.models_dir).map_err(|error| match error {
            ModelFileError::Missing { .. } => {
                let text = "model `minilm` is not installed: `lakehouse model install minilm FILE`";
                PortError::new(ErrorKind::Unprocessable, "model_not_installed", text)
            }
            other => {
                tracing::error!(error = %other, "the local model cannot be used");
                let text = "model `minilm` cannot be loaded: the log says why";
                PortError::new(ErrorKind::Corrupt, "model_corrupt", text)
            }
        })?;
        Ok(self.remember(name, Arc::new(loaded)))
    }

    fn remember(&self, name: &EmbedderName, found: Arc<dyn Embedder>) -> Arc<dyn Embedder> {
        let mut known = self.known.lock();
        Arc::clone(known.entry(name.clone()).or_insert(found))
    }

    fn client(&self, name: &EmbedderName) -> Result<Arc<Client>, PortError> {
        let found = self
            .clients
            .iter()
            .find(|client| client.provider() == name.provider);
        found
            .map(Arc::clone)
            .ok_or_else(|| unknown(&format!("{}/{}", name.provider, name.model)))
    }
}

fn unknown(name: &str) -> PortError {
    let text = format!("there is no embedder `{name}` here");
    PortError::new(ErrorKind::Unprocessable, "unsupported", text)
}

/// A loopback address that the configuration names is allowed by that; others by the allow list.
fn egress_to(url: &str, allow: &[String]) -> EgressPolicy {
    let mut allow = allow.to_vec();
    allow.extend(loopback_of(url));
    EgressPolicy {
        allow,
        allow_loopback: false,
    }
}
