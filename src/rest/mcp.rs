//! `POST /mcp`: the agents' protocol over streamable HTTP. Lets the caller in like every route does and hands the
//! request to `crate::mcp`. No sessions are kept: each request stands for itself.

use std::sync::Arc;

use actix_web::{
    HttpRequest, HttpResponse,
    http::{StatusCode, header},
    web,
};
use http_body_util::{BodyDataStream, BodyExt as _, Full};
use rmcp::transport::streamable_http_server::{
    StreamableHttpServerConfig, StreamableHttpService, session::never::NeverSessionManager,
};
use serde_json::Value;

use super::{
    Edge,
    audited::{self, Told},
    auth::{Ask, May},
    body::Body,
    peer,
    problem::{OtherDocument, Problem},
    query::hung_up,
};
use crate::mcp::Agent;

/// `/mcp`
pub fn routes(config: &mut web::ServiceConfig) {
    config.route("/mcp", web::post().to(serve));
}

/// One message of the Model Context Protocol.
#[utoipa::path(post, path = "/mcp", tag = "access",
    responses((status = 200, description = "a JSON-RPC answer"), (status = 202, description = "a notification was taken"),
        (status = 400, description = "no message of the protocol"), (status = 429, body = Problem)))]
pub async fn serve(
    edge: web::Data<Edge>,
    may: May<Ask>,
    request: HttpRequest,
    body: Body<Value>,
) -> Result<HttpResponse, Problem> {
    let told = Told {
        action: "mcp",
        inside: true,
        ..Told::default()
    };
    audited::tell(&request, told);
    let agent = Agent::new(edge, Arc::new(may));
    // A token is needed in any case, which no page of a browser has: any name of this host may be used.
    let config = StreamableHttpServerConfig::default()
        .with_legacy_session_mode(false)
        .with_json_response(true)
        .disable_allowed_hosts();
    let sessions = Arc::new(NeverSessionManager::default());
    let service = StreamableHttpService::new(move || Ok(agent.clone()), sessions, config);
    let asked = converted(&request, body.bytes)?;
    let answer = tokio::select! {
        answer = service.handle(asked) => answer,
        () = peer::gone(&request) => return Err(hung_up()),
    };
    let (parts, body) = answer.into_parts();
    let status =
        StatusCode::from_u16(parts.status.as_u16()).map_err(|error| Problem::internal(&error))?;
    let mut response = HttpResponse::build(status);
    for (name, value) in &parts.headers {
        response.append_header((name.as_str(), value.as_bytes()));
    }
    let streams = parts
        .headers
        .get("content-type")
        .is_some_and(|media| media.as_bytes().starts_with(b"text/event-stream"));
    if streams {
        return Ok(response.streaming(BodyDataStream::new(body)));
    }
    let whole = body
        .collect()
        .await
        .map_err(|error| Problem::internal(&error))?;
    let mut response = response.body(whole.to_bytes());
    let is_json = parts
        .headers
        .get("content-type")
        .is_some_and(|media| media.as_bytes().starts_with(b"application/json"));
    if !status.is_success() && is_json {
        response.extensions_mut().insert(OtherDocument);
    }
    Ok(response)
}

/// The same request in the protocol's own types, without the token.
fn converted(
    request: &HttpRequest,
    body: web::Bytes,
) -> Result<http::Request<Full<web::Bytes>>, Problem> {
    let mut asked = http::Request::post("/mcp");
    for (name, value) in request.headers() {
        if name != header::AUTHORIZATION {
            asked = asked.header(name.as_str(), value.as_bytes());
        }
    }
    asked
        .body(Full::new(body))
        .map_err(|_| Problem::invalid("the headers cannot be read"))
}
