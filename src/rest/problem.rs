//! The one map from errors to HTTP: `application/problem+json` with a stable `code`.
//! Every handler returns [`Problem`]; a 5xx tells the caller its request id and the log its cause.

use actix_web::{
    HttpResponse, ResponseError,
    http::{StatusCode, header},
};
use lakehouse_actors::{LakeError, PortError};
use lakehouse_journal::{
    log::LogError,
    model::{ErrorKind, ModelError},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{engines::secrets::SecretError, limits::Refused, query::QueryError};

/// Seconds after which a caller may try again.
const RETRY_AFTER_S: u32 = 1;

/// A failed request, as RFC 9457 has it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Problem {
    /// `urn:lakehouse:<code>`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The status in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened, for a person.
    pub detail: String,
    /// The path that was asked for.
    pub instance: String,
    /// What happened, for a program.
    pub code: String,
    /// When it may be tried again, in seconds; a 503 says so in any case.
    #[serde(skip)]
    pub retry_after_s: Option<u32>,
}

/// Marks a failure whose body is the document of another protocol, which its clients read: it leaves as it is.
#[derive(Debug, Clone, Copy)]
pub struct OtherDocument;

impl Problem {
    /// A problem with this status, code and text.
    pub fn new(status: StatusCode, code: impl Into<String>, detail: impl Into<String>) -> Self {
        let code = code.into();
        Self {
            kind: format!("urn:lakehouse:{code}"),
            title: status.canonical_reason().unwrap_or("error").to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            instance: String::new(),
            code,
            retry_after_s: None,
        }
    }

    /// 400 with this text.
    pub fn invalid(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", detail)
    }

    /// 404 for something that has no model of its own.
    pub fn not_found(what: &str, name: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            format!("{what}_not_found"),
            format!("no {what} `{name}`"),
        )
    }

    /// 422 for a part of the contract that this version does not have.
    pub fn unsupported(what: &str) -> Self {
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "unsupported",
            format!("{what} is not available in this version"),
        )
    }

    /// 500; the cause goes to the log only.
    pub fn internal(cause: &dyn std::fmt::Display) -> Self {
        tracing::error!(%cause, "internal error");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "an internal error; the log has its cause under this request's id",
        )
    }

    /// A problem of this kind; internal causes are logged and not shown.
    pub fn of_kind(kind: ErrorKind, code: impl Into<String>, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        if kind == ErrorKind::Internal {
            return Self::internal(&detail);
        }
        Self::new(status_of(kind), code, detail)
    }
}

/// The status of each kind of error.
fn status_of(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::Invalid => StatusCode::BAD_REQUEST,
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::Conflict => StatusCode::CONFLICT,
        ErrorKind::Denied => StatusCode::FORBIDDEN,
        ErrorKind::Unprocessable | ErrorKind::Timeout => StatusCode::UNPROCESSABLE_ENTITY,
        ErrorKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorKind::Overloaded | ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::Corrupt | ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.detail, self.code)
    }
}

impl std::error::Error for Problem {}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status_code());
        let unavailable = self.status_code() == StatusCode::SERVICE_UNAVAILABLE;
        let retry_after_s = self.retry_after_s.or(unavailable.then_some(RETRY_AFTER_S));
        if let Some(retry_after_s) = retry_after_s {
            response.insert_header((header::RETRY_AFTER, retry_after_s));
        }
        if self.status_code() == StatusCode::UNAUTHORIZED {
            response.insert_header((header::WWW_AUTHENTICATE, "Bearer"));
        }
        let mut response = response.content_type("application/problem+json").json(self);
        // The outermost middleware adds what only the request knows.
        response.extensions_mut().insert(self.clone());
        response
    }
}

impl From<LakeError> for Problem {
    fn from(error: LakeError) -> Self {
        Self::of_kind(error.kind(), error.code(), error.to_string())
    }
}

impl From<PortError> for Problem {
    fn from(error: PortError) -> Self {
        Self::of_kind(error.kind, error.code, error.message)
    }
}

impl From<SecretError> for Problem {
    fn from(error: SecretError) -> Self {
        match error {
            SecretError::NotFound { .. } | SecretError::Incomplete { .. } => {
                Self::of_kind(error.kind(), error.code(), error.to_string())
            }
            // Where the file lies is for the log.
            other => {
                tracing::error!(error = %other, "the secrets cannot be used");
                Self::of_kind(other.kind(), other.code(), "the secrets cannot be read")
            }
        }
    }
}

impl From<ModelError> for Problem {
    fn from(error: ModelError) -> Self {
        Self::of_kind(error.kind(), error.code(), error.to_string())
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let status = StatusCode::TOO_MANY_REQUESTS;
        Self {
            retry_after_s: Some(refused.retry_after_s()),
            ..Self::new(status, refused.code(), refused.to_string())
        }
    }
}

impl From<QueryError> for Problem {
    fn from(error: QueryError) -> Self {
        Self::of_kind(error.kind(), error.code(), error.to_string())
    }
}

impl From<LogError> for Problem {
    fn from(error: LogError) -> Self {
        tracing::error!(%error, "the journal cannot be read");
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "journal_unavailable",
            "the journal cannot be read at the moment",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_whose_snapshot_is_gone_may_be_asked_again_at_once() {
        let problem = Problem::from(QueryError::SnapshotExpired);
        assert_eq!(
            problem.to_string(),
            "the query read rows that were erased meanwhile; ask again (snapshot_expired)"
        );
        let response = problem.error_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        let retry_after = response.headers().get(header::RETRY_AFTER);
        assert_eq!(retry_after.expect("it says when"), "1");
    }
}
