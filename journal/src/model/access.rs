//! Tokens and tools: who may come in, as what, until when, within which limits; and the questions that were
//! written down for agents. Secrets are nowhere, only their hashes. Pure. `actors::access` calls `decide`; replay calls `apply`; the edge looks tokens up.

mod tools;

use std::sync::Arc;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use super::{
    Aggregate, Meta, ModelError, Stamp, Work,
    error::check_name,
    event::{AccessEvent, TokenIssued, TokenRevoked, ToolRemoved},
};
use crate::record::Micros;

pub use tools::{ParamType, Tool, ToolParam, ToolPermission, ToolSpec};

/// What a token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Everything.
    Admin,
    /// Data in, indexes, deletes; no tokens.
    Operator,
    /// Queries and searches.
    Analyst,
    /// What its views show.
    Agent,
    /// The journal and the audit.
    Auditor,
}

impl Role {
    /// The word of the contract.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Operator => "operator",
            Self::Analyst => "analyst",
            Self::Agent => "agent",
            Self::Auditor => "auditor",
        }
    }
}

/// What the holder of a token may use at most. What is not set is left to the configuration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenLimits {
    /// Requests a second, and as many at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_s: Option<u32>,
    /// Queries and searches that run at the same time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrent_queries: Option<u32>,
    /// Rows of one answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// Memory of all its queries together, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// How long a statement may take, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statement_ms: Option<u64>,
}

impl TokenLimits {
    /// These limits, and those of `other` where none is set here.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            requests_per_s: self.requests_per_s.or(other.requests_per_s),
            concurrent_queries: self.concurrent_queries.or(other.concurrent_queries),
            rows: self.rows.or(other.rows),
            memory_bytes: self.memory_bytes.or(other.memory_bytes),
            statement_ms: self.statement_ms.or(other.statement_ms),
        }
    }

    /// The name of a limit that lets nothing through.
    pub fn zero(&self) -> Option<&'static str> {
        let all = [
            ("requests_per_s", self.requests_per_s.map(u64::from)),
            ("concurrent_queries", self.concurrent_queries.map(u64::from)),
            ("rows", self.rows),
            ("memory_bytes", self.memory_bytes),
            ("statement_ms", self.statement_ms),
        ];
        let zero = all.into_iter().find(|(_, limit)| *limit == Some(0));
        zero.map(|(name, _)| name)
    }
}

/// A token that was given out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Token {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// blake3 (hex) of the secret.
    pub secret_hash: String,
    /// When it ends.
    pub expires_at: Option<Micros>,
    /// When it was given out.
    pub issued_at: Micros,
    /// When it was taken back.
    pub revoked_at: Option<Micros>,
    /// The views that an agent reads; nothing else is there for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub views: Vec<String>,
    /// The tools that an agent may call.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<String>,
    /// What it may use at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<TokenLimits>,
}

/// Every token there was.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AccessState {
    /// By id.
    pub tokens: OrdMap<String, Arc<Token>>,
    /// Valid ones: hash of the secret → id.
    pub by_hash: OrdMap<String, String>,
    /// The tools that can be called, by name.
    #[serde(default, skip_serializing_if = "OrdMap::is_empty")]
    pub tools: OrdMap<String, Arc<Tool>>,
}

/// What a token may read, call and use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grants {
    /// The views that an agent reads.
    pub views: Vec<String>,
    /// The tools that an agent may call.
    pub tools: Vec<String>,
    /// What it may use at most.
    pub limits: Option<TokenLimits>,
}

/// A request to the access owner.
#[derive(Debug, Clone)]
pub enum AccessCommand {
    /// Give out a token; its id is the stamp's.
    IssueToken {
        /// Its name.
        name: String,
        /// What it may do.
        role: Role,
        /// blake3 (hex) of the secret.
        secret_hash: String,
        /// When it ends.
        expires_at: Option<Micros>,
        /// What it may read, call and use.
        grants: Grants,
    },
    /// Take a token back.
    RevokeToken {
        /// Its id.
        id: String,
    },
    /// Write a tool down, or a new version of it.
    RegisterTool(Box<ToolSpec>),
    /// Take a tool away.
    RemoveTool {
        /// Its name.
        name: String,
    },
}

impl Grants {
    fn check(&self, role: Role) -> Result<(), ModelError> {
        let refused = |what, reason: &str| {
            Err(ModelError::Impossible {
                what,
                reason: reason.to_owned(),
            })
        };
        if role != Role::Agent && !self.views.is_empty() {
            return refused(
                "views",
                "only a token of the role `agent` is bound to views",
            );
        }
        if role != Role::Agent && !self.tools.is_empty() {
            return refused(
                "tools",
                "only a token of the role `agent` is bound to tools",
            );
        }
        for view in &self.views {
            check_name("view", view)?;
        }
        for tool in &self.tools {
            check_name("tool", tool)?;
        }
        match self.limits.as_ref().and_then(TokenLimits::zero) {
            Some(name) => refused("limits", &format!("`{name}` must be more than 0")),
            None => Ok(()),
        }
    }
}

impl AccessState {
    /// The valid token with this hash of its secret, at this time.
    pub fn token(&self, secret_hash: &str, now: Micros) -> Option<&Arc<Token>> {
        let token = self.tokens.get(self.by_hash.get(secret_hash)?)?;
        let valid = token.revoked_at.is_none() && token.expires_at.is_none_or(|end| now < end);
        valid.then_some(token)
    }
}

impl Aggregate for AccessState {
    type Command = AccessCommand;
    type Event = AccessEvent;

    fn decide(
        &self,
        command: &AccessCommand,
        stamp: &Stamp,
    ) -> Result<Vec<AccessEvent>, ModelError> {
        match command {
            AccessCommand::IssueToken {
                name,
                role,
                secret_hash,
                expires_at,
                grants,
            } => {
                check_name("token", name)?;
                grants.check(*role)?;
                if expires_at.is_some_and(|end| end <= stamp.at) {
                    return Err(ModelError::Impossible {
                        what: "expires_at",
                        reason: "it lies in the past".to_owned(),
                    });
                }
                let taken = self
                    .tokens
                    .values()
                    .any(|t| t.name == *name && t.revoked_at.is_none());
                if taken {
                    return Err(ModelError::Exists {
                        what: "token",
                        name: name.clone(),
                    });
                }
                Ok(vec![
                    TokenIssued {
                        id: stamp.id.clone(),
                        name: name.clone(),
                        role: *role,
                        secret_hash: secret_hash.clone(),
                        expires_at: *expires_at,
                        views: grants.views.clone(),
                        tools: grants.tools.clone(),
                        limits: grants.limits,
                    }
                    .into(),
                ])
            }
            AccessCommand::RevokeToken { id } => match self.tokens.get(id) {
                Some(token) if token.revoked_at.is_none() => {
                    Ok(vec![TokenRevoked { id: id.clone() }.into()])
                }
                Some(_) => Ok(Vec::new()),
                None => Err(ModelError::NotFound {
                    what: "token",
                    name: id.clone(),
                    near: Vec::new(),
                }),
            },
            AccessCommand::RegisterTool(spec) => self.register_tool(spec),
            AccessCommand::RemoveTool { name } => {
                self.tool(name)?;
                Ok(vec![ToolRemoved { tool: name.clone() }.into()])
            }
        }
    }

    fn apply(&mut self, meta: Meta<'_>, event: &AccessEvent) {
        match event {
            AccessEvent::TokenIssued(e) => {
                let token = Token {
                    id: e.id.clone(),
                    name: e.name.clone(),
                    role: e.role,
                    secret_hash: e.secret_hash.clone(),
                    expires_at: e.expires_at,
                    issued_at: meta.at,
                    revoked_at: None,
                    views: e.views.clone(),
                    tools: e.tools.clone(),
                    limits: e.limits,
                };
                self.by_hash.insert(e.secret_hash.clone(), e.id.clone());
                self.tokens.insert(e.id.clone(), Arc::new(token));
            }
            AccessEvent::TokenRevoked(e) => {
                if let Some(token) = self.tokens.get_mut(&e.id) {
                    let token = Arc::make_mut(token);
                    token.revoked_at = Some(meta.at);
                    self.by_hash.remove(&token.secret_hash);
                }
            }
            AccessEvent::ToolRegistered(e) => self.put_tool(meta, e),
            AccessEvent::ToolRemoved(e) => {
                self.tools.remove(&e.tool);
            }
        }
    }

    fn pending(&self) -> Vec<Work> {
        Vec::new()
    }
}
