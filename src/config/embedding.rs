//! `[embedding]`: who turns text into vectors, and how servers that do are spoken to.

use serde::{Deserialize, Serialize};

use super::{ByteSize, Config, ConfigError};
use crate::engines::embedder::{
    EmbedderName, IN_PROCESS, LOCAL,
    remote::{ClientConfig, Wire},
};

/// Who turns text into vectors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EmbeddingConfig {
    /// The embedder of an index that names none: a model in the binary, or `provider/model`.
    pub default: String,
    /// An Ollama server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ollama: Option<ProviderConfig>,
    /// A server with the `OpenAI` interface.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub openai: Option<ProviderConfig>,
}

/// A server that makes vectors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderConfig {
    /// Its address; that of an `OpenAI` interface ends in `/v1` or what stands for it.
    pub url: String,
    /// Handle of its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// Whether texts that are sent there leave what the lake's owner runs: then they must come from a
    /// view or from public columns. Every address but loopback ones counts as such, unless told otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<bool>,
    /// Most texts of a call.
    #[serde(default = "batch_texts")]
    pub batch_texts: usize,
    /// Calls at the same time.
    #[serde(default = "concurrency")]
    pub concurrency: usize,
    /// How long an answer may take, in seconds.
    #[serde(default = "timeout_s")]
    pub timeout_s: u64,
    /// Calls for one batch, with growing rests between them, until the server is taken as down.
    #[serde(default = "attempts")]
    pub attempts: u32,
    /// The largest answer.
    #[serde(default = "response_limit")]
    pub response_limit: ByteSize,
}

fn batch_texts() -> usize {
    64
}

/// One, so that a process that is killed has paid for one batch at most that it does not have.
fn concurrency() -> usize {
    1
}

fn timeout_s() -> u64 {
    60
}

fn attempts() -> u32 {
    6
}

fn response_limit() -> ByteSize {
    ByteSize::mib(64)
}

/// Bytes of the texts of a call.
const BATCH_BYTES: usize = 4 << 20;
/// The largest answer that may be allowed: its vectors are one frame of the file that keeps them.
const RESPONSE_BYTES_MAX: u64 = 128 << 20;

impl Default for EmbeddingConfig {
    fn default() -> Self {
        Self {
            default: "static-minilm-128".to_owned(),
            ollama: None,
            openai: None,
        }
    }
}

/// `host:port` of an address that never leaves this machine.
pub fn loopback_of(url: &str) -> Option<String> {
    let url = url::Url::parse(url).ok()?;
    let (host, port) = (url.host_str()?, url.port_or_known_default()?);
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let address = bare.parse::<std::net::IpAddr>();
    let stays = host == "localhost" || address.is_ok_and(|address| address.is_loopback());
    stays.then(|| format!("{host}:{port}"))
}

impl ProviderConfig {
    /// Whether texts that are sent there leave what the lake's owner runs.
    pub fn is_external(&self) -> bool {
        self.external
            .unwrap_or_else(|| loopback_of(&self.url).is_none())
    }

    /// As the client takes it.
    pub fn client(&self, wire: Wire) -> ClientConfig {
        ClientConfig {
            wire,
            url: self.url.clone(),
            secret: self.secret.clone(),
            external: self.is_external(),
            batch_texts: self.batch_texts,
            batch_bytes: BATCH_BYTES,
            concurrency: self.concurrency,
            timeout: std::time::Duration::from_secs(self.timeout_s),
            attempts_max: self.attempts,
            response_bytes_max: self.response_limit.as_usize(),
        }
    }

    fn validate(&self, key: &str) -> Result<(), ConfigError> {
        let within = |name: &str, value: u64, most: u64| {
            if (1..=most).contains(&value) {
                return Ok(());
            }
            invalid(&format!("{key}.{name}"), format!("must be 1 to {most}"))
        };
        if url::Url::parse(&self.url).is_err() {
            return invalid(&format!("{key}.url"), "not a URL".to_owned());
        }
        within("batch_texts", self.batch_texts as u64, 10_000)?;
        within("concurrency", self.concurrency as u64, 256)?;
        within("timeout_s", self.timeout_s, 3_600)?;
        within("attempts", u64::from(self.attempts), 100)?;
        within("response_limit", self.response_limit.0, RESPONSE_BYTES_MAX)
    }
}

impl Config {
    pub(super) fn validate_embedding(&self) -> Result<(), ConfigError> {
        let embedding = &self.embedding;
        if let Some(provider) = &embedding.ollama {
            provider.validate("embedding.ollama")?;
        }
        if let Some(provider) = &embedding.openai {
            provider.validate("embedding.openai")?;
        }
        let known = match EmbedderName::of_default(&embedding.default) {
            Some(name) => match name.provider.as_str() {
                IN_PROCESS | LOCAL => true,
                "ollama" => embedding.ollama.is_some(),
                "openai" => embedding.openai.is_some(),
                _ => false,
            },
            None => false,
        };
        if known {
            return Ok(());
        }
        let reason = format!(
            "`{}` is neither a model in the binary (`static-minilm-128`) nor `provider/model` of a \
             provider that is configured",
            embedding.default
        );
        invalid("embedding.default", reason)
    }
}

fn invalid(key: &str, reason: String) -> Result<(), ConfigError> {
    Err(ConfigError::Invalid {
        key: key.to_owned(),
        reason,
    })
}
