//! Who is asking, and whether they may: one extractor for every route.
//!
//! A handler takes [`May<P>`] for the permission that it needs; a handler without one serves
//! nobody but what is meant for everybody (`/health`). Deny by default: a role has what stands in
//! [`allowed`] and nothing else.

use std::{
    future::{Ready, ready},
    marker::PhantomData,
    sync::Arc,
    time::Duration,
};

use actix_web::{FromRequest, HttpMessage, HttpRequest, dev::Payload, http::StatusCode, web};
use lakehouse_actors::Caller;
use lakehouse_journal::{
    model::{
        access::{Role, Token},
        catalog::{Redaction, Sensitivity},
    },
    record::Actor,
};

use super::{
    Edge,
    audited::{Asked, Who},
    identified::Identified,
    problem::Problem,
    request_id::RequestId,
};
use crate::{
    limits::Holder,
    query::{Ceiling, Reader},
};

/// Longest `Idempotency-Key` that is taken.
const KEY_LENGTH_MAX: usize = 200;
/// Between two looks at the token of a query that runs.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Longest name that is taken for whom a caller acts.
const ON_BEHALF_OF_MAX: usize = 200;

/// What a route lets its callers do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    /// See what there is: datasets, indexes, buckets, jobs.
    ReadCatalog,
    /// Read rows, by SQL or search.
    ReadData,
    /// Put rows in, change and drop datasets, build indexes.
    Write,
    /// Delete rows for good.
    Delete,
    /// Read the journal and the `system` schema.
    ReadJournal,
    /// Tokens, and the lakehouse's own objects.
    Administer,
    /// Ask questions of what the role sees: SQL, tools, the agents' protocol.
    Ask,
    /// Search indexes of what the role sees.
    Search,
}

/// The whole table of roles and permissions.
pub fn allowed(role: Role, permission: Permission) -> bool {
    use Permission::{Ask, Delete, ReadCatalog, ReadData, ReadJournal, Search, Write};
    match role {
        Role::Admin => true,
        Role::Operator => matches!(
            permission,
            Ask | Search | ReadCatalog | ReadData | Write | Delete
        ),
        Role::Analyst => matches!(permission, Ask | Search | ReadCatalog | ReadData),
        Role::Auditor => matches!(permission, Ask | ReadCatalog | ReadJournal),
        // An agent asks questions; what it sees of the answer is what its views show.
        Role::Agent => matches!(permission, Ask | Search),
    }
}

/// The highest class of columns that a role sees as they are, and what stands for the others; an admin
/// sees everything.
pub fn ceiling(role: Role) -> Option<Ceiling> {
    let (class, instead) = match role {
        Role::Admin => return None,
        Role::Operator => (Sensitivity::Pii, Redaction::Null {}),
        Role::Analyst => (Sensitivity::Internal, Redaction::Tokenize { domain: None }),
        Role::Agent | Role::Auditor => (Sensitivity::Internal, Redaction::Null {}),
    };
    Some(Ceiling {
        class,
        rule: instead,
    })
}

/// For whom a token reads: an agent its views, an auditor nothing, others every dataset and view, each
/// within its role's ceiling.
pub fn reader(token: &Token) -> Reader {
    let name = token.name.clone();
    let ceiling = ceiling(token.role);
    match (token.role, ceiling) {
        (Role::Agent, Some(ceiling)) => Reader::agent(name, token.views.iter().cloned(), ceiling),
        (Role::Agent | Role::Auditor, _) => Reader::nobody(name),
        (Role::Admin | Role::Operator | Role::Analyst, ceiling) => {
            Reader::of_everything(name, ceiling)
        }
    }
}

/// A permission as a type, for extractors.
pub trait Needs {
    /// Which one.
    const PERMISSION: Permission;
}

macro_rules! needs {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        pub struct $name;
        impl Needs for $name {
            const PERMISSION: Permission = Permission::$name;
        }
    )+};
}

needs!(
    /// See [`Permission::ReadCatalog`].
    ReadCatalog,
    /// See [`Permission::ReadData`].
    ReadData,
    /// See [`Permission::Write`].
    Write,
    /// See [`Permission::Delete`].
    Delete,
    /// See [`Permission::ReadJournal`].
    ReadJournal,
    /// See [`Permission::Administer`].
    Administer,
    /// See [`Permission::Ask`].
    Ask,
    /// See [`Permission::Search`].
    Search,
);

/// A caller with a valid token whose role has the permission `P`.
pub struct May<P: Needs> {
    /// The token.
    pub token: Arc<Token>,
    request_id: String,
    on_behalf_of: Option<String>,
    limits: Arc<Holder>,
    idempotency_key: Option<String>,
    target: String,
    permission: PhantomData<P>,
}

impl<P: Needs> May<P> {
    /// The caller of a mutation with this request body.
    pub fn caller(&self, body: &[u8]) -> Caller {
        let fingerprint = || {
            let mut hasher = blake3::Hasher::new();
            hasher.update(self.target.as_bytes());
            hasher.update(&[0]);
            hasher.update(body);
            hasher.finalize().to_hex().to_string()
        };
        let scoped = |key: &String| (format!("{}/{key}", self.token.id), fingerprint());
        Caller {
            actor: Actor {
                name: self.token.name.clone(),
                role: self.token.role.as_str().to_owned(),
            },
            request_id: self.request_id.clone(),
            idempotency: self.idempotency_key.as_ref().map(scoped),
        }
    }

    /// The same caller reading with another's rights, for as long as its own token is valid.
    pub(super) fn reading_as(&self, token: Arc<Token>, on_behalf_of: Option<String>) -> Self {
        Self {
            token,
            on_behalf_of,
            request_id: self.request_id.clone(),
            limits: Arc::clone(&self.limits),
            idempotency_key: None,
            target: self.target.clone(),
            permission: PhantomData,
        }
    }

    /// What the caller may use.
    pub fn limits(&self) -> &Holder {
        &self.limits
    }

    /// Who asks, as the audit has it.
    pub fn asked(&self) -> Asked {
        Asked {
            token: Arc::clone(&self.token),
            request_id: self.request_id.clone(),
            on_behalf_of: self.on_behalf_of.clone(),
        }
    }

    /// For whom the caller reads: every read path asks this.
    pub fn reader(&self) -> Reader {
        reader(&self.token).on_behalf_of(self.on_behalf_of.clone())
    }

    /// Whether the role has a further permission.
    pub fn also(&self, permission: Permission) -> bool {
        allowed(self.token.role, permission)
    }
}

impl<P: Needs> FromRequest for May<P> {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(admit(request))
    }
}

fn admit<P: Needs>(request: &HttpRequest) -> Result<May<P>, Problem> {
    let edge = request
        .app_data::<web::Data<Edge>>()
        .ok_or_else(|| Problem::internal(&"a route without the edge"))?;
    let token = authenticate(request, edge).ok_or_else(unauthorized)?;
    request.extensions_mut().insert(Who(Arc::clone(&token)));
    let limits = edge.limits.of(&token, &edge.query);
    limits.request()?;
    if !allowed(token.role, P::PERMISSION) {
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "forbidden",
            format!("the role `{}` may not do this", token.role.as_str()),
        ));
    }
    let request_id = request
        .extensions()
        .get::<RequestId>()
        .map_or_else(String::new, |id| id.0.clone());
    Ok(May {
        token,
        request_id,
        on_behalf_of: on_behalf_of(request)?,
        limits,
        idempotency_key: idempotency_key(request)?,
        target: format!("{} {}", request.method(), request.uri()),
        permission: PhantomData,
    })
}

/// The token that a request shows.
pub(super) fn bearer(request: &HttpRequest) -> Option<&str> {
    let header = request.headers().get("authorization")?.to_str().ok()?;
    let (scheme, secret) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| secret.trim())
}

fn authenticate(request: &HttpRequest, edge: &Edge) -> Option<Arc<Token>> {
    if let Some(Identified(token)) = request.extensions().get::<Identified>() {
        return Some(Arc::clone(token));
    }
    let secret = bearer(request)?;
    let access = edge.lake.access();
    let token = edge.tokens.token(&access.state, secret, edge.lake.now());
    token.cloned()
}

/// Whether a token that was valid still is.
pub(super) fn is_valid(edge: &Edge, token: &Token) -> bool {
    let access = edge.lake.access();
    let revoked = access
        .state
        .tokens
        .get(&token.id)
        .is_some_and(|now| now.revoked_at.is_some());
    !revoked && token.expires_at.is_none_or(|end| edge.lake.now() < end)
}

/// Ends when a token that was valid is not any more.
pub(super) async fn ended(edge: &Edge, token: &Token) {
    while is_valid(edge, token) {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The one answer to whoever is not known.
pub(super) fn unauthorized() -> Problem {
    Problem::new(
        StatusCode::UNAUTHORIZED,
        "unauthorized",
        "a valid bearer token is needed",
    )
}

/// For whom the caller says that it acts.
pub(super) fn on_behalf_of(request: &HttpRequest) -> Result<Option<String>, Problem> {
    let Some(value) = request.headers().get("x-lakehouse-on-behalf-of") else {
        return Ok(None);
    };
    let name = value.to_str().unwrap_or_default().trim();
    if name.is_empty() || name.len() > ON_BEHALF_OF_MAX {
        return Err(Problem::invalid(format!(
            "X-Lakehouse-On-Behalf-Of must be 1 to {ON_BEHALF_OF_MAX} visible ASCII characters"
        )));
    }
    Ok(Some(name.to_owned()))
}

fn idempotency_key(request: &HttpRequest) -> Result<Option<String>, Problem> {
    let Some(value) = request.headers().get("idempotency-key") else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default();
    if text.is_empty() || text.len() > KEY_LENGTH_MAX {
        return Err(Problem::invalid(format!(
            "Idempotency-Key must be 1 to {KEY_LENGTH_MAX} visible ASCII characters"
        )));
    }
    Ok(Some(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_may_only_ask_and_an_admin_everything() {
        use Permission::{Administer, Delete, ReadCatalog, ReadData, ReadJournal, Write};
        assert!(allowed(Role::Agent, Permission::Ask));
        for permission in [
            Administer,
            Delete,
            ReadCatalog,
            ReadData,
            ReadJournal,
            Write,
        ] {
            assert!(allowed(Role::Admin, permission));
            assert!(!allowed(Role::Agent, permission));
        }
    }

    #[test]
    fn an_analyst_reads_and_changes_nothing() {
        assert!(allowed(Role::Analyst, Permission::ReadData));
        for permission in [
            Permission::Write,
            Permission::Delete,
            Permission::Administer,
        ] {
            assert!(!allowed(Role::Analyst, permission));
        }
    }

    #[test]
    fn an_auditor_reads_the_journal_and_no_rows() {
        assert!(allowed(Role::Auditor, Permission::ReadJournal));
        assert!(!allowed(Role::Auditor, Permission::ReadData));
    }
}
