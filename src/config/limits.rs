//! What tokens of each role may use unless they were given out with limits of their own.

use std::collections::BTreeMap;

use lakehouse_journal::model::access::{Role, TokenLimits};
use serde::{Deserialize, Deserializer, Serialize};

use super::{ByteSize, ConfigError};

/// Limits by role. What is not set is not limited, but for agents.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// Of administrators.
    pub admin: RoleLimits,
    /// Of operators.
    pub operator: RoleLimits,
    /// Of analysts.
    pub analyst: RoleLimits,
    /// Of agents; what is not set is as without this section, so that no agent is without a limit.
    #[serde(deserialize_with = "of_agents")]
    pub agent: RoleLimits,
    /// Of auditors.
    pub auditor: RoleLimits,
}

/// What one token may use.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RoleLimits {
    /// Requests a second, and as many at once; more are told 429.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_s: Option<u32>,
    /// Queries and searches at the same time; more are told 429.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrent_queries: Option<u32>,
    /// Rows of one answer: a page ends there, a stream breaks off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// Memory of its queries together, out of `query.memory_limit`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<ByteSize>,
    /// Milliseconds that a statement may take, if less than `query.timeout_s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub statement_ms: Option<u64>,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        let none = RoleLimits::default;
        Self {
            admin: none(),
            operator: none(),
            analyst: none(),
            agent: RoleLimits {
                requests_per_s: Some(1000),
                concurrent_queries: Some(16),
                rows: Some(1_000_000),
                memory: Some(ByteSize::gib(1)),
                statement_ms: Some(30_000),
            },
            auditor: none(),
        }
    }
}

fn of_agents<'de, D: Deserializer<'de>>(source: D) -> Result<RoleLimits, D::Error> {
    let set = RoleLimits::deserialize(source)?;
    let usual = LimitsConfig::default().agent;
    Ok(RoleLimits {
        requests_per_s: set.requests_per_s.or(usual.requests_per_s),
        concurrent_queries: set.concurrent_queries.or(usual.concurrent_queries),
        rows: set.rows.or(usual.rows),
        memory: set.memory.or(usual.memory),
        statement_ms: set.statement_ms.or(usual.statement_ms),
    })
}

impl RoleLimits {
    fn limits(&self) -> TokenLimits {
        TokenLimits {
            requests_per_s: self.requests_per_s,
            concurrent_queries: self.concurrent_queries,
            rows: self.rows,
            memory_bytes: self.memory.map(|bytes| bytes.0),
            statement_ms: self.statement_ms,
        }
    }
}

impl LimitsConfig {
    /// The limits by the words of the roles.
    pub fn of_roles(&self) -> BTreeMap<&'static str, TokenLimits> {
        let all = [
            (Role::Admin, &self.admin),
            (Role::Operator, &self.operator),
            (Role::Analyst, &self.analyst),
            (Role::Agent, &self.agent),
            (Role::Auditor, &self.auditor),
        ];
        all.map(|(role, limits)| (role.as_str(), limits.limits()))
            .into()
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        for (role, limits) in self.of_roles() {
            if let Some(name) = limits.zero() {
                let name = if name == "memory_bytes" {
                    "memory"
                } else {
                    name
                };
                return Err(ConfigError::Invalid {
                    key: format!("limits.{role}.{name}"),
                    reason: "must be more than 0".to_owned(),
                });
            }
        }
        Ok(())
    }
}
