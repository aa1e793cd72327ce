//! The outermost middleware: gives every request its id, echoes it, logs one line, and makes sure
//! that every error that leaves is a problem document, or one of the agents' protocol.

use std::time::Instant;

use actix_web::{
    Error, HttpMessage,
    body::{BoxBody, EitherBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    http::{StatusCode, header},
    middleware::Next,
};

use super::problem::{OtherDocument, Problem};

/// Longest request id that is taken from a caller.
const LENGTH_MAX: usize = 128;

/// The request's id.
#[derive(Debug, Clone)]
pub struct RequestId(pub String);

/// Wraps every request.
///
/// # Errors
/// None of its own: a route's error is a response already, and becomes a problem document.
pub async fn wrap<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B, BoxBody>>, Error> {
    let started = Instant::now();
    let id = id_of(&request);
    request.extensions_mut().insert(RequestId(id.clone()));
    let (method, path) = (request.method().clone(), request.path().to_owned());
    let mut response = complete(next.call(request).await?, &path);
    if let Ok(value) = header::HeaderValue::from_str(&id) {
        let name = header::HeaderName::from_static("x-request-id");
        response.headers_mut().insert(name, value);
    }
    let elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let status = response.status().as_u16();
    tracing::debug!(request_id = id, %method, path, status, elapsed_ms, "request");
    Ok(response)
}

/// Turns an error response into the whole problem document for this path.
fn complete<B: MessageBody + 'static>(
    response: ServiceResponse<B>,
    path: &str,
) -> ServiceResponse<EitherBody<B, BoxBody>> {
    if !response.status().is_client_error() && !response.status().is_server_error() {
        return response.map_into_left_body();
    }
    let other = response
        .response()
        .extensions()
        .get::<OtherDocument>()
        .is_some();
    if other {
        return response.map_into_left_body();
    }
    let known = response.response().extensions().get::<Problem>().cloned();
    let mut problem = known.unwrap_or_else(|| of_status(response.status()));
    path.clone_into(&mut problem.instance);
    let (request, _) = response.into_parts();
    let body = actix_web::ResponseError::error_response(&problem);
    ServiceResponse::new(request, body).map_into_right_body()
}

fn of_status(status: StatusCode) -> Problem {
    match status {
        StatusCode::NOT_FOUND => Problem::new(status, "route_not_found", "no such route"),
        StatusCode::METHOD_NOT_ALLOWED => Problem::new(
            status,
            "method_not_allowed",
            "the route does not take this method",
        ),
        StatusCode::PAYLOAD_TOO_LARGE => Problem::new(
            status,
            "body_too_large",
            "the body is larger than the limit",
        ),
        status => Problem::new(status, "request_refused", "the request cannot be served"),
    }
}

fn id_of(request: &ServiceRequest) -> String {
    let given = request
        .headers()
        .get("x-request-id")
        .and_then(|value| value.to_str().ok());
    match given {
        Some(id) if !id.is_empty() && id.len() <= LENGTH_MAX && id.is_ascii() => id.to_owned(),
        _ => uuid::Uuid::new_v4().to_string(),
    }
}
