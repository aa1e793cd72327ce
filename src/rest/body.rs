//! JSON bodies: read whole within a limit, parsed strictly, and kept as bytes for the fingerprint
//! of idempotent requests.

use std::{future::Future, pin::Pin};

use actix_web::{FromRequest, HttpRequest, dev::Payload, http::StatusCode, web};
use futures::StreamExt;
use serde::de::DeserializeOwned;

use super::problem::Problem;

/// Largest JSON body.
pub const BODY_BYTES_MAX: usize = 16 << 20;
/// Largest JSON body of row keys: a million of two UUIDs each fit.
pub const KEYS_BYTES_MAX: usize = 128 << 20;

/// A JSON body of `BYTES_MAX` at most, and its bytes.
pub struct Body<T, const BYTES_MAX: usize = BODY_BYTES_MAX> {
    /// What it says.
    pub value: T,
    /// Its bytes.
    pub bytes: web::Bytes,
}

impl<T: DeserializeOwned + 'static, const BYTES_MAX: usize> FromRequest for Body<T, BYTES_MAX> {
    type Error = Problem;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Problem>>>>;

    fn from_request(_: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let payload = payload.take();
        Box::pin(async move {
            let bytes = whole(payload, BYTES_MAX).await?;
            let value = serde_json::from_slice(json(&bytes)).map_err(|error| unread(&error))?;
            Ok(Self { value, bytes })
        })
    }
}

/// What a body reads as: an absent one as an empty object, as a POST without fields needs none.
pub fn json(bytes: &[u8]) -> &[u8] {
    if bytes.is_empty() { b"{}" } else { bytes }
}

/// All bytes of a body.
///
/// # Errors
/// 413 beyond `bytes_max`; 400 when it breaks off.
pub async fn whole(mut payload: Payload, bytes_max: usize) -> Result<web::Bytes, Problem> {
    let mut bytes = web::BytesMut::new();
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.map_err(|_| Problem::invalid("the body broke off"))?;
        if bytes.len() + chunk.len() > bytes_max {
            return Err(Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "body_too_large",
                format!("a JSON body may have {bytes_max} bytes"),
            ));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.freeze())
}

/// Of a body that is not the JSON which is asked for.
pub fn unread(error: &serde_json::Error) -> Problem {
    Problem::invalid(format!("the JSON body: {error}"))
}

/// Query parameters, refused with a problem document.
///
/// # Errors
/// 400 that names the parameter.
pub fn query<T: DeserializeOwned>(request: &HttpRequest) -> Result<T, Problem> {
    web::Query::<T>::from_query(request.query_string())
        .map(web::Query::into_inner)
        .map_err(|error| Problem::invalid(format!("the query string: {error}")))
}
