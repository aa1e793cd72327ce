//! An issuer's published keys, over HTTP: the discovery document, and the keys that it points at. Goes only where
//! the egress policy lets it, follows no redirect, and reads no more than a set of keys can have.

use std::time::Duration;

use futures::StreamExt as _;
use jsonwebtoken::jwk::JwkSet;
use serde::de::DeserializeOwned;
use serde_json::Value;
use url::Url;

use crate::{
    config::IssuerConfig,
    engines::egress::{EgressError, EgressPolicy},
};

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Longest answer.
const BYTES_MAX: usize = 1 << 20;

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error(transparent)]
    Egress(#[from] EgressError),
    #[error("no answer: {0}")]
    Http(#[from] reqwest::Error),
    #[error("the answer is {0}")]
    Status(u16),
    #[error("the answer is longer than {BYTES_MAX} bytes")]
    TooLong,
    #[error("the answer cannot be read: {0}")]
    Malformed(String),
    #[error("the document is of the issuer `{0}`")]
    OtherIssuer(String),
}

/// Fetches one issuer's keys.
pub(super) struct Fetcher {
    issuer: String,
    jwks_url: Option<String>,
    egress: EgressPolicy,
}

impl Fetcher {
    /// An address on loopback that the configuration names may be reached without being allowed again.
    pub(super) fn new(config: &IssuerConfig, allow: &[String]) -> Self {
        let mut allow = allow.to_vec();
        let named = [Some(&config.issuer), config.jwks_url.as_ref()];
        for url in named
            .into_iter()
            .flatten()
            .filter_map(|url| Url::parse(url).ok())
        {
            let (host, port) = (
                url.host_str().unwrap_or_default(),
                url.port_or_known_default(),
            );
            if ["127.0.0.1", "localhost", "[::1]"].contains(&host) {
                allow.push(format!("{host}:{}", port.unwrap_or_default()));
            }
        }
        Self {
            issuer: config.issuer.clone(),
            jwks_url: config.jwks_url.clone(),
            egress: EgressPolicy {
                allow,
                allow_loopback: false,
            },
        }
    }

    /// The keys as they are published now.
    pub(super) async fn keys(&self) -> Result<JwkSet, FetchError> {
        let url = match &self.jwks_url {
            Some(url) => url.clone(),
            None => self.discovered().await?,
        };
        self.get(&url).await
    }

    async fn discovered(&self) -> Result<String, FetchError> {
        let issuer = self.issuer.trim_end_matches('/');
        let document: Value = self
            .get(&format!("{issuer}/.well-known/openid-configuration"))
            .await?;
        let named = document["issuer"].as_str().unwrap_or_default();
        if named != self.issuer {
            return Err(FetchError::OtherIssuer(named.to_owned()));
        }
        let keys = document["jwks_uri"].as_str();
        keys.map(str::to_owned)
            .ok_or_else(|| FetchError::Malformed("no `jwks_uri`".to_owned()))
    }

    async fn get<T: DeserializeOwned>(&self, url: &str) -> Result<T, FetchError> {
        let endpoint = self.egress.endpoint_of_url(url)?;
        let addresses = self.egress.resolve(&endpoint).await?;
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(TIMEOUT)
            .resolve_to_addrs(&endpoint.host, &addresses)
            .build()?;
        let response = http
            .get(url)
            .header("accept", "application/json")
            .send()
            .await?;
        if response.status() != reqwest::StatusCode::OK {
            return Err(FetchError::Status(response.status().as_u16()));
        }
        let mut bytes = Vec::new();
        let mut chunks = response.bytes_stream();
        while let Some(chunk) = chunks.next().await {
            bytes.extend_from_slice(&chunk?);
            if bytes.len() > BYTES_MAX {
                return Err(FetchError::TooLong);
            }
        }
        serde_json::from_slice(&bytes).map_err(|error| FetchError::Malformed(error.to_string()))
    }
}
