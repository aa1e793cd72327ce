//! Who else may vouch for a caller: issuers of tokens, and what their claims make of a caller here.

use lakehouse_journal::model::{access::Role, error::check_name};
use serde::{Deserialize, Serialize};

use super::ConfigError;

/// Issuers of tokens beside the daemon itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthConfig {
    /// Each one that is trusted.
    pub issuers: Vec<IssuerConfig>,
}

/// An issuer (`OpenID` Connect).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerConfig {
    /// A short name; callers are `<name>:<their name there>` in events and the audit.
    pub name: String,
    /// Its address, exactly as it stands in `iss`.
    pub issuer: String,
    /// What has to stand in `aud`.
    pub audience: String,
    /// Where its keys are, if they are not to be found through its discovery document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks_url: Option<String>,
    /// The claim that roles are read off; dots lead into objects.
    #[serde(default = "roles_claim")]
    pub role_claim: String,
    /// The claim that a caller is named by.
    #[serde(default = "name_claim")]
    pub name_claim: String,
    /// How far its clock may be off, in seconds.
    #[serde(default = "leeway_s")]
    pub leeway_s: u64,
    /// How often its keys may be asked for at most, in seconds; a key that is not known asks.
    #[serde(default = "refresh_min_s")]
    pub refresh_min_s: u64,
    /// What the claim's values make of a caller: the first that fits. A caller that none fits is refused.
    pub roles: Vec<RoleRule>,
}

/// What a value of a claim makes of a caller.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoleRule {
    /// The value.
    pub value: String,
    /// The role.
    pub role: Role,
    /// The views that an agent reads.
    #[serde(default)]
    pub views: Vec<String>,
    /// The tools that an agent may call.
    #[serde(default)]
    pub tools: Vec<String>,
}

fn roles_claim() -> String {
    "roles".to_owned()
}

fn name_claim() -> String {
    "sub".to_owned()
}

fn leeway_s() -> u64 {
    30
}

fn refresh_min_s() -> u64 {
    10
}

impl AuthConfig {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        for (n, issuer) in self.issuers.iter().enumerate() {
            issuer.validate(&format!("auth.issuers[{n}]"))?;
            let twice =
                |other: &&IssuerConfig| other.name == issuer.name || other.issuer == issuer.issuer;
            if self.issuers[..n].iter().any(|other| twice(&other)) {
                return invalid(
                    &format!("auth.issuers[{n}]"),
                    "its name or issuer stands there twice",
                );
            }
        }
        Ok(())
    }
}

impl IssuerConfig {
    fn validate(&self, key: &str) -> Result<(), ConfigError> {
        if let Err(error) = check_name("issuer", &self.name) {
            return invalid(&format!("{key}.name"), error.to_string());
        }
        check_url(&format!("{key}.issuer"), &self.issuer)?;
        if let Some(url) = &self.jwks_url {
            check_url(&format!("{key}.jwks_url"), url)?;
        }
        if self.audience.is_empty() {
            return invalid(&format!("{key}.audience"), "a token of anybody's would do");
        }
        if self.roles.is_empty() {
            return invalid(
                &format!("{key}.roles"),
                "no claim gives a role, so that nobody could come in",
            );
        }
        for (n, rule) in self.roles.iter().enumerate() {
            let bound = !rule.views.is_empty() || !rule.tools.is_empty();
            if bound && rule.role != Role::Agent {
                let reason = "only the role `agent` is bound to views and tools";
                return invalid(&format!("{key}.roles[{n}]"), reason);
            }
        }
        Ok(())
    }
}

/// `https`, or `http` on this machine.
fn check_url(key: &str, text: &str) -> Result<(), ConfigError> {
    let Ok(url) = url::Url::parse(text) else {
        return invalid(key, "not a URL");
    };
    let local = matches!(url.host_str(), Some("127.0.0.1" | "localhost" | "[::1]"));
    if url.scheme() == "https" || (url.scheme() == "http" && local) {
        return Ok(());
    }
    invalid(key, "only `https`, or `http` on this machine")
}

fn invalid(key: &str, reason: impl Into<String>) -> Result<(), ConfigError> {
    Err(ConfigError::Invalid {
        key: key.to_owned(),
        reason: reason.into(),
    })
}
