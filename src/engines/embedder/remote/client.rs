//! One server: addresses checked by the egress policy at every resolution, a limit on calls at a
//! time, a deadline and a size for every answer, and patience with a server that may recover.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use lakehouse_actors::PortError;
use lakehouse_journal::model::ErrorKind;
use parking_lot::Mutex;
use reqwest::{
    Response, StatusCode,
    dns::{Addrs, Name, Resolve, Resolving},
    header::{HeaderMap, RETRY_AFTER},
    redirect,
};
use tokio::sync::Semaphore;

use super::wire::{Wire, WireAnswer, WireError};
use crate::engines::{
    egress::{EgressPolicy, Endpoint},
    secrets::{SecretError, SecretsProvider},
};

/// The first rest before a call is repeated.
const BACKOFF_MIN: Duration = Duration::from_millis(200);
/// The longest.
const BACKOFF_MAX: Duration = Duration::from_secs(20);
/// A server that asks for more patience than this is taken as down.
const RETRY_AFTER_MAX: Duration = Duration::from_mins(2);
/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How a server is spoken to.
#[derive(Clone)]
pub struct ClientConfig {
    /// Its protocol.
    pub wire: Wire,
    /// Its address, without the protocol's path.
    pub url: String,
    /// Handle of the key that is sent as a bearer token.
    pub secret: Option<String>,
    /// Whether texts that are sent there leave what the lake's owner runs.
    pub external: bool,
    /// Texts of a call.
    pub batch_texts: usize,
    /// Bytes of the texts of a call.
    pub batch_bytes: usize,
    /// Calls at a time.
    pub concurrency: usize,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Calls in all for one batch.
    pub attempts_max: u32,
    /// The largest answer, in bytes.
    pub response_bytes_max: usize,
}

/// Whether a server answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProviderHealth {
    /// Its name.
    pub provider: String,
    /// The last failure, while nothing succeeded after it: code and text.
    pub down: Option<(String, String)>,
}

/// A server, shared by its models.
pub struct Client {
    config: ClientConfig,
    http: reqwest::Client,
    /// Asked at every call: a key may be exchanged while we run.
    secrets: Arc<dyn SecretsProvider>,
    slots: Semaphore,
    /// Nobody calls before this: the server asked for it.
    quiet_until: Mutex<Option<Instant>>,
    down: Mutex<Option<(String, String)>>,
}

/// Why a batch has no vectors.
#[derive(Debug)]
pub enum Failure {
    /// The server refuses what is in the texts.
    Content {
        /// Calls that it took.
        calls: u64,
        /// What the server says.
        reason: String,
    },
    /// It never will, as it is set up.
    Fatal(PortError),
    /// It does not answer, or not well, in spite of all attempts.
    Down(PortError),
}

/// A batch's vectors.
#[derive(Debug)]
pub struct Sent {
    /// One a text.
    pub vectors: Vec<Vec<f32>>,
    /// Calls that it took.
    pub calls: u64,
    /// Tokens, where the server counts them.
    pub tokens: Option<u64>,
}

/// What one call came to.
enum Outcome {
    Answer(WireAnswer),
    Content(String),
    Fatal(PortError),
    Again {
        error: PortError,
        after: Option<Duration>,
    },
}

impl Client {
    /// A client of the server.
    ///
    /// # Errors
    /// `Invalid` for an address that is none or may not be reached.
    pub fn new(
        config: ClientConfig,
        egress: EgressPolicy,
        secrets: Arc<dyn SecretsProvider>,
    ) -> Result<Self, PortError> {
        let provider = config.wire.provider();
        let endpoint = egress.endpoint_of_url(&config.url).map_err(|error| {
            let text = format!("the address of `{provider}` cannot be used: {error}");
            PortError::new(ErrorKind::Invalid, "embedder_address", text)
        })?;
        let http = reqwest::Client::builder()
            .timeout(config.timeout)
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(redirect::Policy::none())
            .no_proxy()
            .dns_resolver(Arc::new(CheckedDns { egress, endpoint }))
            .build()
            .map_err(|error| PortError::internal(error.to_string()))?;
        Ok(Self {
            slots: Semaphore::new(config.concurrency.max(1)),
            config,
            http,
            secrets,
            quiet_until: Mutex::new(None),
            down: Mutex::new(None),
        })
    }

    /// How the server is spoken to.
    pub fn config(&self) -> &ClientConfig {
        &self.config
    }

    /// The provider's name.
    pub fn provider(&self) -> &'static str {
        self.config.wire.provider()
    }

    /// Whether it answered when it was last asked.
    pub fn health(&self) -> ProviderHealth {
        ProviderHealth {
            provider: self.provider().to_owned(),
            down: self.down.lock().clone(),
        }
    }

    /// Asks for the vectors of a batch, again and again while that may help.
    ///
    /// # Errors
    /// The last `Failure`, when no call helped.
    pub async fn send(&self, model: &str, texts: &[String]) -> Result<Sent, Failure> {
        let mut calls = 0;
        loop {
            let outcome = {
                let _slot = self.slots.acquire().await.expect("never closed");
                self.be_quiet().await;
                calls += 1;
                self.call(model, texts).await
            };
            match outcome {
                Outcome::Answer(answer) => {
                    *self.down.lock() = None;
                    return Ok(Sent {
                        vectors: answer.vectors,
                        tokens: answer.tokens,
                        calls,
                    });
                }
                Outcome::Content(reason) => {
                    *self.down.lock() = None;
                    return Err(Failure::Content { calls, reason });
                }
                Outcome::Fatal(error) => return Err(Failure::Fatal(error)),
                Outcome::Again { error, after } => {
                    let too_long = after.is_some_and(|after| after > RETRY_AFTER_MAX);
                    if calls >= u64::from(self.config.attempts_max) || too_long {
                        return Err(Failure::Down(error));
                    }
                    tracing::warn!(provider = self.provider(), calls, %error, "called again");
                    self.rest(calls, after).await;
                }
            }
        }
    }

    /// Notes that the server does not do its part, and says so.
    pub fn gives_up(&self, failure: Failure) -> PortError {
        let error = match failure {
            Failure::Content { .. } => {
                let text = "the embedder refuses the text";
                return PortError::new(ErrorKind::Unprocessable, "text_refused", text);
            }
            Failure::Fatal(error) | Failure::Down(error) => error,
        };
        // That a name is wrong says nothing of the server.
        if error.code != "embedder_model_not_found" {
            *self.down.lock() = Some((error.code.clone(), error.message.clone()));
        }
        error
    }

    /// Waits until the server's own pause is over.
    async fn be_quiet(&self) {
        loop {
            let until = *self.quiet_until.lock();
            match until {
                Some(until) if until > Instant::now() => {
                    tokio::time::sleep_until(until.into()).await;
                }
                _ => return,
            }
        }
    }

    /// Rests after a failed call: as long as the server asks, else longer each time, by chance so
    /// that many callers do not come back at once.
    async fn rest(&self, calls: u64, after: Option<Duration>) {
        if let Some(after) = after {
            let until = Instant::now() + after;
            let mut quiet = self.quiet_until.lock();
            *quiet = Some(quiet.map_or(until, |now| now.max(until)));
            return;
        }
        let doublings = u32::try_from(calls.saturating_sub(1)).unwrap_or(u32::MAX);
        let longest = BACKOFF_MIN
            .saturating_mul(2_u32.saturating_pow(doublings))
            .min(BACKOFF_MAX);
        let share = rand::random_range(0.5..=1.0);
        tokio::time::sleep(longest.mul_f64(share)).await;
    }

    async fn call(&self, model: &str, texts: &[String]) -> Outcome {
        let wire = self.config.wire;
        let url = format!("{}{}", self.config.url.trim_end_matches('/'), wire.path());
        let mut request = self.http.post(url).json(&wire.request(model, texts));
        if let Some(handle) = &self.config.secret {
            match self.key(handle) {
                Ok(key) => request = request.bearer_auth(key),
                Err(error) => {
                    let (kind, code) = (error.kind(), error.code());
                    // Where the file lies is for the log.
                    tracing::error!(provider = self.provider(), %error, "no key for the embedder");
                    let text = format!("the secret `{handle}` cannot be used");
                    return Outcome::Fatal(PortError::new(kind, code, text));
                }
            }
        }
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => return self.no_answer(&error),
        };
        let status = response.status();
        let after = retry_after(response.headers());
        let body = match self.body(response).await {
            Ok(body) => body,
            Err(outcome) => return outcome,
        };
        if status.is_success() {
            return match wire.read(&body, texts.len()) {
                Ok(answer) => Outcome::Answer(answer),
                Err(WireError::NotFinite) => {
                    Outcome::Content("it answered a vector that is not finite".to_owned())
                }
                Err(WireError::Broken(reason)) => {
                    let text = format!("`{}`: {reason}", self.provider());
                    again("embedder_protocol", &text, None)
                }
            };
        }
        self.refusal(status, after, model, &body)
    }

    fn key(&self, handle: &str) -> Result<String, SecretError> {
        let secret = self.secrets.secret(handle)?;
        let key = secret.text("key").ok_or_else(|| SecretError::Incomplete {
            handle: handle.to_owned(),
            field: "key",
        })?;
        Ok(key.to_owned())
    }

    fn refusal(
        &self,
        status: StatusCode,
        after: Option<Duration>,
        model: &str,
        body: &[u8],
    ) -> Outcome {
        let provider = self.provider();
        let fatal = |code: &str, text: String| {
            Outcome::Fatal(PortError::new(ErrorKind::Unprocessable, code, text))
        };
        match status.as_u16() {
            400 | 413 | 422 => Outcome::Content(Wire::reason(body)),
            401 | 403 => fatal("embedder_denied", format!("`{provider}` refuses the key")),
            404 => {
                let text = format!("`{provider}` has no model `{model}`");
                fatal("embedder_model_not_found", text)
            }
            408 | 425 | 429 | 500..=599 => {
                let text = format!("`{provider}` answered {}", status.as_u16());
                Outcome::Again {
                    error: PortError::new(ErrorKind::Unavailable, "embedder_unavailable", text),
                    after,
                }
            }
            other => {
                let text = format!("`{provider}` answered {other}");
                fatal("embedder_protocol", text)
            }
        }
    }

    fn no_answer(&self, error: &reqwest::Error) -> Outcome {
        // Its own text may hold the address with what is in it.
        let what = if error.is_timeout() {
            "does not answer in time"
        } else if error.is_connect() {
            "cannot be reached"
        } else {
            "broke off"
        };
        let text = format!("`{}` {what}", self.provider());
        again("embedder_unavailable", &text, None)
    }

    /// The body, as long as it is not longer than it may be.
    async fn body(&self, mut response: Response) -> Result<Vec<u8>, Outcome> {
        let most = self.config.response_bytes_max;
        let too_large = || {
            let text = format!("`{}` answered more than {most} bytes", self.provider());
            let code = "embedder_protocol";
            Outcome::Fatal(PortError::new(ErrorKind::Unprocessable, code, text))
        };
        let announced = response.content_length().unwrap_or(0);
        if usize::try_from(announced).map_or(true, |bytes| bytes > most) {
            return Err(too_large());
        }
        let mut body = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) if body.len() + chunk.len() > most => return Err(too_large()),
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Ok(None) => return Ok(body),
                Err(error) => return Err(self.no_answer(&error)),
            }
        }
    }
}

fn again(code: &str, text: &str, after: Option<Duration>) -> Outcome {
    Outcome::Again {
        error: PortError::new(ErrorKind::Unavailable, code, text),
        after,
    }
}

/// `Retry-After`, in seconds or as a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = chrono::DateTime::parse_from_rfc2822(text).ok()?;
    let left = at.signed_duration_since(chrono::Utc::now());
    Some(left.to_std().unwrap_or_default())
}

/// Resolves the one host of the server and hands out addresses that the policy allows.
struct CheckedDns {
    egress: EgressPolicy,
    endpoint: Endpoint,
}

impl Resolve for CheckedDns {
    fn resolve(&self, name: Name) -> Resolving {
        let (egress, endpoint) = (self.egress.clone(), self.endpoint.clone());
        Box::pin(async move {
            if !name.as_str().eq_ignore_ascii_case(&endpoint.host) {
                return Err("another host than the configured one".into());
            }
            let addresses: Vec<SocketAddr> = egress.resolve(&endpoint).await?;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}
