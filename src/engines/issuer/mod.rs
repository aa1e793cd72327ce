//! Tokens of an issuer elsewhere (`OpenID` Connect): which issuers are trusted, their keys, and what a token of theirs
//! lets its holder be. `rest::identified` asks for every bearer token that is a JWT. Fetches the issuer's published
//! keys when it sees a key it does not know, and not more often than configured; keeps no token.

mod fetch;
mod ring_provider;
#[cfg(test)]
mod tests;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use jsonwebtoken::{
    Algorithm, DecodingKey, Validation, dangerous, decode, decode_header,
    jwk::{AlgorithmParameters, Jwk, JwkSet},
};
use lakehouse_journal::{
    model::access::{Role, Token},
    record::Micros,
};
use serde_json::Value;

use self::fetch::Fetcher;
use crate::config::{Config, IssuerConfig};

/// What a token may be signed with: pairs of keys only. With a shared secret, whoever knows the published key
/// could sign.
const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];
/// Longest token that is looked at, in bytes.
const TOKEN_BYTES_MAX: usize = 16 << 10;

/// Every issuer that is trusted.
pub struct Issuers(Vec<Issuer>);

struct Issuer {
    config: IssuerConfig,
    fetcher: Fetcher,
    keys: ArcSwapOption<JwkSet>,
    /// When they were last asked for; held while they are.
    asked: tokio::sync::Mutex<Option<Instant>>,
}

impl Issuers {
    /// The issuers of the configuration. Connects to none of them yet.
    pub fn new(config: &Config) -> Self {
        ring_provider::install();
        let issuers = config.auth.issuers.iter().map(|issuer| Issuer {
            fetcher: Fetcher::new(issuer, &config.egress.allow),
            config: issuer.clone(),
            keys: ArcSwapOption::empty(),
            asked: tokio::sync::Mutex::default(),
        });
        Self(issuers.collect())
    }

    /// Whether a bearer token may be one of an issuer's.
    pub fn may_know(&self, bearer: &str) -> bool {
        !self.0.is_empty() && bearer.len() <= TOKEN_BYTES_MAX && bearer.split('.').count() == 3
    }

    /// What the holder of a token is, if an issuer vouches for it. Why not stands in the log only.
    pub async fn identify(&self, bearer: &str) -> Option<Token> {
        match self.checked(bearer).await {
            Ok(token) => Some(token),
            Err(reason) => {
                tracing::debug!(reason, "a token of an issuer was refused");
                None
            }
        }
    }

    async fn checked(&self, bearer: &str) -> Result<Token, &'static str> {
        let header = decode_header(bearer).map_err(|_| "its header cannot be read")?;
        if !ALGORITHMS.contains(&header.alg) {
            return Err("its algorithm is none of a pair of keys");
        }
        // Whose it says it is only chooses the issuer whose keys it has to be signed with.
        let claims: Value =
            dangerous::insecure_decode_claims(bearer).map_err(|_| "it has no claims")?;
        let named = claims["iss"].as_str().ok_or("it names no issuer")?;
        let mut known = self.0.iter();
        let issuer = known
            .find(|issuer| issuer.config.issuer == named)
            .ok_or("its issuer is not trusted")?;
        let key = issuer.key(header.kid.as_deref(), header.alg).await?;
        issuer.token(bearer, header.alg, &key)
    }
}

impl Issuer {
    /// The key that a token says it is signed with.
    async fn key(
        &self,
        kid: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<DecodingKey, &'static str> {
        if let Some(key) = self.known(kid, algorithm) {
            return Ok(key);
        }
        let mut asked = self.asked.lock().await;
        // Another request may have fetched it while this one waited.
        if let Some(key) = self.known(kid, algorithm) {
            return Ok(key);
        }
        let pause = Duration::from_secs(self.config.refresh_min_s);
        if asked.is_some_and(|last| last.elapsed() < pause) {
            return Err("its key is not known, and was just asked for");
        }
        *asked = Some(Instant::now());
        match self.fetcher.keys().await {
            Ok(keys) => self.keys.store(Some(Arc::new(keys))),
            Err(error) => {
                tracing::warn!(issuer = self.config.name, %error, "the issuer's keys cannot be had");
                return Err("its issuer's keys cannot be had");
            }
        }
        self.known(kid, algorithm)
            .ok_or("its key is none of its issuer's")
    }

    fn known(&self, kid: Option<&str>, algorithm: Algorithm) -> Option<DecodingKey> {
        let keys = self.keys.load();
        let fitting = keys
            .as_ref()?
            .keys
            .iter()
            .filter(|key| fits(key, algorithm));
        let mut fitting =
            fitting.filter(|key| kid.is_none() || key.common.key_id.as_deref() == kid);
        let key = fitting.next()?;
        // Without an id, only the one key that there is can be meant.
        if kid.is_none() && fitting.next().is_some() {
            return None;
        }
        DecodingKey::from_jwk(key).ok()
    }

    /// Checks a token, and reads off what its holder is.
    fn token(
        &self,
        bearer: &str,
        algorithm: Algorithm,
        key: &DecodingKey,
    ) -> Result<Token, &'static str> {
        let mut rules = Validation::new(algorithm);
        rules.set_audience(&[&self.config.audience]);
        rules.set_issuer(&[&self.config.issuer]);
        rules.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        rules.leeway = self.config.leeway_s;
        rules.validate_nbf = true;
        let claims = decode::<Value>(bearer, key, &rules)
            .map_err(|_| "it does not verify")?
            .claims;
        let subject = claims["sub"].as_str().ok_or("it has no subject")?;
        let name = claims[&self.config.name_claim].as_str().unwrap_or(subject);
        let expires = claims["exp"].as_f64().ok_or("it has no end")?;
        let leeway = i64::try_from(self.config.leeway_s).unwrap_or_default() * 1_000_000;
        let granted = self
            .granted(&claims)
            .ok_or("it has no claim that gives a role")?;
        Ok(Token {
            id: format!("{}:{subject}", self.config.name),
            name: format!("{}:{}", self.config.name, printable(name)),
            role: granted.role,
            secret_hash: String::new(),
            expires_at: Some(micros(expires) + leeway),
            issued_at: claims["iat"].as_f64().map_or(0, micros),
            revoked_at: None,
            views: granted.views.clone(),
            tools: granted.tools.clone(),
            limits: None,
        })
    }

    /// The first rule that a token's claim fulfils.
    fn granted(&self, claims: &Value) -> Option<&crate::config::RoleRule> {
        let mut claim = claims;
        for part in self.config.role_claim.split('.') {
            claim = claim.get(part)?;
        }
        let has = |wanted: &str| match claim {
            Value::String(text) => text == wanted,
            Value::Array(values) => values.iter().any(|value| value == wanted),
            _ => false,
        };
        let granted = self.config.roles.iter().find(|rule| has(&rule.value))?;
        debug_assert!(granted.views.is_empty() || granted.role == Role::Agent);
        Some(granted)
    }
}

/// Whether a published key is one for this algorithm, and for signing.
fn fits(key: &Jwk, algorithm: Algorithm) -> bool {
    let kind = match &key.algorithm {
        AlgorithmParameters::RSA(_) => jsonwebtoken::AlgorithmFamily::Rsa,
        AlgorithmParameters::EllipticCurve(_) => jsonwebtoken::AlgorithmFamily::Ec,
        AlgorithmParameters::OctetKeyPair(_) => jsonwebtoken::AlgorithmFamily::Ed,
        _ => return false,
    };
    let encrypts = key.common.public_key_use == Some(jsonwebtoken::jwk::PublicKeyUse::Encryption);
    let named = key.common.key_algorithm.map(|named| named.to_string());
    !encrypts
        && kind.algorithms().contains(&algorithm)
        && named.is_none_or(|named| named == format!("{algorithm:?}"))
}

/// A name without what could break a line or a header.
fn printable(name: &str) -> String {
    let clean = name.chars().filter(|c| !c.is_control());
    clean.take(128).collect()
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a time beyond the range of microseconds is as good as its end"
)]
fn micros(seconds: f64) -> Micros {
    (seconds * 1e6) as Micros
}
