//! The middleware that puts down what an agent was answered, before the answer leaves: whatever the
//! route, and refusals too. When the line cannot be written the answer is 503 and nothing else.

use std::sync::Arc;

use actix_web::{
    Error, HttpMessage, HttpRequest, ResponseError as _,
    body::{BoxBody, EitherBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    http::StatusCode,
    middleware::Next,
    web,
};
use lakehouse_journal::{
    model::access::{Role, Token},
    record::Seq,
};

use super::{Edge, problem::Problem, request_id::RequestId};
use crate::engines::audit::{AuditEntry, SeenRows};

/// Longest name that is taken for whom an agent acts.
const ON_BEHALF_OF_MAX: usize = 200;

/// Who asks; `auth` puts it there for every valid token.
#[derive(Debug, Clone)]
pub struct Who(pub Arc<Token>);

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
    /// Position of the journal that was read.
    pub journal_seq: Option<Seq>,
    /// Generation of the index that was searched.
    pub generation: Option<u64>,
}

/// Keeps what a handler tells of its answer until the answer leaves.
pub fn tell(request: &HttpRequest, told: Told) {
    request.extensions_mut().insert(told);
}

/// For whom the caller says that it acts.
pub fn on_behalf_of(request: &HttpRequest) -> Option<String> {
    let value = request.headers().get("x-lakehouse-on-behalf-of")?;
    let name = value.to_str().ok()?.trim();
    (!name.is_empty() && name.len() <= ON_BEHALF_OF_MAX).then(|| name.to_owned())
}

/// Wraps every request, inside of the one that gives it an id.
///
/// # Errors
/// None of its own: an answer that cannot be put down becomes a problem.
pub async fn wrap<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B, BoxBody>>, Error> {
    let response = next.call(request).await?;
    let who = response.request().extensions().get::<Who>().cloned();
    let Some(Who(token)) = who.filter(|who| who.0.role == Role::Agent) else {
        return Ok(response.map_into_left_body());
    };
    let entry = entry(&response, &token);
    let edge = response.request().app_data::<web::Data<Edge>>().cloned();
    let written = match &edge {
        Some(edge) => edge.audit.append(edge.lake.now(), entry).await.is_ok(),
        None => false,
    };
    if written {
        return Ok(response.map_into_left_body());
    }
    let (request, _) = response.into_parts();
    let problem = Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "audit_unavailable",
        "the audit cannot be written, so that nothing can be answered",
    );
    Ok(ServiceResponse::new(request, problem.error_response()).map_into_right_body())
}

fn entry<B>(response: &ServiceResponse<B>, token: &Token) -> AuditEntry {
    let request = response.request();
    let extensions = request.extensions();
    let told = extensions.get::<Told>().cloned().unwrap_or_default();
    let problem = response.response().extensions().get::<Problem>().cloned();
    let id = extensions.get::<RequestId>().map(|id| id.0.clone());
    let route = request.match_pattern();
    let action = match (told.action, route) {
        ("", Some(route)) => format!("{} {route}", request.method()),
        ("", None) => format!("{} of no route", request.method()),
        (action, _) => action.to_owned(),
    };
    AuditEntry {
        principal: token.name.clone(),
        role: token.role.as_str().to_owned(),
        on_behalf_of: on_behalf_of(request),
        action,
        objects: told.objects,
        tool: told.tool,
        statement: told.statement,
        rows: told.rows,
        row_keys: told.row_keys,
        allowed: response.status().is_success(),
        code: problem.map(|problem| problem.code),
        request_id: id.unwrap_or_default(),
        journal_seq: told.journal_seq,
        generation: told.generation,
    }
}
