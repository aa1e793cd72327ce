//! Tokens: who may come in, as what, until when. Secrets are nowhere, only their hashes.
//! Pure. `actors::access` calls `decide`; replay calls `apply`; the edge looks tokens up.

use std::sync::Arc;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use super::{
    Aggregate, Meta, ModelError, Stamp, Work,
    error::check_name,
    event::{AccessEvent, TokenIssued, TokenRevoked},
};
use crate::record::Micros;

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
}

/// Every token there was.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AccessState {
    /// By id.
    pub tokens: OrdMap<String, Arc<Token>>,
    /// Valid ones: hash of the secret → id.
    pub by_hash: OrdMap<String, String>,
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
    },
    /// Take a token back.
    RevokeToken {
        /// Its id.
        id: String,
    },
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
            } => {
                check_name("token", name)?;
                if *role == Role::Agent {
                    return Err(ModelError::Impossible {
                        what: "role",
                        reason: "an `agent` sees only views, and this version has none".to_owned(),
                    });
                }
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
        }
    }

    fn pending(&self) -> Vec<Work> {
        Vec::new()
    }
}
