//! The middleware that puts down what an agent was answered, before the answer leaves: whatever the
//! route, and refusals too. When the line cannot be written the answer is 503 and nothing else. Answers
//! that go on are watched here as well: they break off when their token ends.

mod guarded;
mod seen;

use std::sync::Arc;

use actix_web::{
    Error, HttpMessage, HttpRequest, ResponseError as _,
    body::{BodySize, BoxBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    http::{
        StatusCode,
        header::{HeaderName, HeaderValue},
    },
    middleware::Next,
    web,
};
use lakehouse_journal::{
    model::access::{Role, Token},
    record::Seq,
};

use super::{Edge, auth, problem::Problem, request_id::RequestId};
use crate::engines::audit::{AuditEntry, SeenRows};

use guarded::Guarded;
pub use seen::{Counted, Seen};

/// Parameters of a path that name a thing; others may hold the key of a row.
const NAMES: [&str; 5] = ["name", "dataset", "index", "bucket", "view"];

/// Who asks; `auth` puts it there for every valid token.
#[derive(Debug, Clone)]
pub struct Who(pub Arc<Token>);

/// Who asks, in which request, for whom.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The token.
    pub token: Arc<Token>,
    /// The request.
    pub request_id: String,
    /// For whom the caller says that it acts.
    pub on_behalf_of: Option<String>,
}

impl Asked {
    /// Whether every answer to this caller is put down.
    pub fn is_audited(&self) -> bool {
        self.token.role == Role::Agent
    }
}

/// What a handler tells of its answer.
#[derive(Debug, Clone, Default)]
pub struct Told {
    /// What was done, such as `query`.
    pub action: &'static str,
    /// The views, datasets or indexes that were read.
    pub objects: Vec<String>,
    /// The tool that was called.
    pub tool: Option<String>,
    /// Keyed hash of the statement.
    pub statement: Option<String>,
    /// Rows in the answer.
    pub rows: Option<u64>,
    /// Which rows these are.
    pub row_keys: Vec<SeenRows>,
    /// Ids of datasets whose rows were read without being named.
    pub unnamed: Vec<String>,
    /// Position of the journal that was read.
    pub journal_seq: Option<Seq>,
    /// Generation of the index that was searched.
    pub generation: Option<u64>,
    /// Position of the newest event that says what the caller may see.
    pub policy_seq: Option<Seq>,
    /// The answer's id.
    pub receipt: Option<String>,
    /// What was asked, sealed.
    pub sealed: Option<String>,
    /// Keyed hash of the answer's rows.
    pub content: Option<String>,
    /// Whether the handler has put down every line itself.
    pub inside: bool,
}

/// Keeps what a handler tells of its answer until the answer leaves.
pub fn tell(request: &HttpRequest, told: Told) {
    request.extensions_mut().insert(told);
}

/// The line of an answer, or of a refusal with its word.
pub fn entry(asked: &Asked, told: Told, refused: Option<String>) -> AuditEntry {
    let allowed = refused.is_none();
    AuditEntry {
        principal: asked.token.name.clone(),
        role: asked.token.role.as_str().to_owned(),
        on_behalf_of: asked.on_behalf_of.clone(),
        action: told.action.to_owned(),
        objects: told.objects,
        tool: told.tool,
        statement: told.statement,
        rows: told.rows.filter(|_| allowed),
        row_keys: if allowed { told.row_keys } else { Vec::new() },
        unnamed: if allowed { told.unnamed } else { Vec::new() },
        allowed,
        code: refused,
        request_id: asked.request_id.clone(),
        journal_seq: told.journal_seq,
        generation: told.generation,
        policy_seq: told.policy_seq,
        receipt: told.receipt.filter(|_| allowed),
        sealed: told.sealed.filter(|_| allowed),
        content: told.content.filter(|_| allowed),
        goes_on: false,
    }
}

/// Puts a line down.
///
/// # Errors
/// 503: what the line is about must not be told.
pub async fn put(edge: &Edge, entry: AuditEntry) -> Result<(), Problem> {
    match edge.audit.append(edge.lake.now(), entry).await {
        Ok(_) => Ok(()),
        Err(error) => Err(Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            error.code(),
            "the audit cannot be written, so that nothing can be answered",
        )),
    }
}

/// Wraps every request, inside of the one that gives it an id.
///
/// # Errors
/// None of its own: an answer that cannot be put down becomes a problem.
pub async fn wrap<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let response = next.call(request).await?.map_into_boxed_body();
    let who = response.request().extensions().get::<Who>().cloned();
    let edge = response.request().app_data::<web::Data<Edge>>().cloned();
    let (Some(Who(token)), Some(edge)) = (who, edge) else {
        return Ok(response);
    };
    let agent = token.role == Role::Agent;
    let ended = agent && response.status().is_success() && !auth::is_valid(&edge, &token);
    let response = if ended {
        refuse(response, &auth::unauthorized())
    } else {
        response
    };
    let mut told = response
        .request()
        .extensions_mut()
        .remove::<Told>()
        .unwrap_or_default();
    let refused =
        [StatusCode::FORBIDDEN, StatusCode::TOO_MANY_REQUESTS].contains(&response.status());
    let response = match told.receipt.as_deref().map(HeaderValue::from_str) {
        Some(Ok(receipt)) if response.status().is_success() => with_receipt(response, receipt),
        _ => response,
    };
    if (agent || refused) && !(told.inside && response.status().is_success()) {
        complete(&response, &mut told);
        let asked = asked(&response, &token);
        let mut line = entry(&asked, told, refusal(&response));
        line.action = action(&response, &line.action);
        // A refusal tells nothing, so that only an agent's must not leave without its line.
        match put(&edge, line).await {
            Err(problem) if agent => return Ok(refuse(response, &problem)),
            _ => {}
        }
    }
    Ok(watched(response, edge, token))
}

/// A body that goes on is looked after until it ends.
fn watched(response: ServiceResponse, edge: web::Data<Edge>, token: Arc<Token>) -> ServiceResponse {
    if response.response().body().size() != BodySize::Stream {
        return response;
    }
    response.map_body(|_, body| BoxBody::new(Guarded::new(body, edge, token)))
}

fn refuse(response: ServiceResponse, problem: &Problem) -> ServiceResponse {
    let (request, _) = response.into_parts();
    ServiceResponse::new(request, problem.error_response())
}

fn with_receipt(mut response: ServiceResponse, receipt: HeaderValue) -> ServiceResponse {
    let name = HeaderName::from_static("x-lakehouse-receipt");
    response.headers_mut().insert(name, receipt);
    response
}

/// What the route itself says, where the handler did not come to it.
fn complete(response: &ServiceResponse, told: &mut Told) {
    if told.objects.is_empty() {
        let parameters = response.request().match_info();
        let named = NAMES.iter().filter_map(|name| parameters.get(name));
        told.objects = named.map(str::to_owned).collect();
    }
}

fn action(response: &ServiceResponse, told: &str) -> String {
    let request = response.request();
    match (told, request.match_pattern()) {
        ("", Some(route)) => format!("{} {route}", request.method()),
        ("", None) => format!("{} of no route", request.method()),
        (action, _) => action.to_owned(),
    }
}

fn refusal(response: &ServiceResponse) -> Option<String> {
    if response.status().is_success() {
        return None;
    }
    let problem = response.response().extensions().get::<Problem>().cloned();
    Some(problem.map_or_else(|| "request_refused".to_owned(), |problem| problem.code))
}

fn asked(response: &ServiceResponse, token: &Arc<Token>) -> Asked {
    let request = response.request();
    let id = request
        .extensions()
        .get::<RequestId>()
        .map(|id| id.0.clone());
    Asked {
        token: Arc::clone(token),
        request_id: id.unwrap_or_default(),
        on_behalf_of: auth::on_behalf_of(request).ok().flatten(),
    }
}
