//! The innermost middleware: a bearer token that an issuer elsewhere gave out is verified before the route is
//! reached, because its keys may have to be fetched. Whether the caller may is `auth`'s to say, for these callers as
//! for all.

use std::sync::Arc;

use actix_web::{
    Error, HttpMessage,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
    middleware::Next,
    web,
};
use lakehouse_journal::model::access::Token;

use super::{Edge, auth};

/// Who an issuer says that it is.
#[derive(Clone)]
pub struct Identified(pub Arc<Token>);

/// Wraps every request.
///
/// # Errors
/// None of its own.
pub async fn wrap<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<B>, Error> {
    let edge = request.app_data::<web::Data<Edge>>().cloned();
    let bearer = auth::bearer(request.request()).map(str::to_owned);
    if let (Some(edge), Some(bearer)) = (edge, bearer)
        && edge.issuers.may_know(&bearer)
        && let Some(token) = edge.issuers.identify(&bearer).await
    {
        request.extensions_mut().insert(Identified(Arc::new(token)));
    }
    next.call(request).await
}
