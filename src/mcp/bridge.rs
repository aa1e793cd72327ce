//! `lakehouse mcp`: the agents' protocol over standard input and output, for programs that start their servers
//! themselves. Every message goes to the daemon's `/mcp` with the token of the environment; nothing is decided here.

use std::{collections::HashMap, sync::Arc};

use reqwest_013::header::{HeaderName, HeaderValue};
use rmcp::{
    ErrorData, Peer, RoleClient, RoleServer, ServerHandler, ServiceError, ServiceExt as _,
    model::{
        CallToolRequestParams, CallToolResponse, ListResourcesResult, ListToolsResult,
        PaginatedRequestParams, ReadResourceRequestParams, ReadResourceResponse,
        ServerCapabilities, ServerConfig,
    },
    service::{RequestContext, RunningService},
    transport::{
        StreamableHttpClientTransport, stdio,
        streamable_http_client::StreamableHttpClientTransportConfig,
    },
};
use serde_json::json;

/// Why the bridge cannot stand.
#[derive(Debug, thiserror::Error)]
pub enum BridgeError {
    /// The name for whom it acts is no header.
    #[error("`{0}` cannot be a name for whom the agent acts")]
    BadName(String),
    /// No connection can be made at all.
    #[error("no connection can be made: {0}")]
    Client(String),
    /// The daemon does not let it in.
    #[error("the daemon at {url} does not answer as it should: {reason}")]
    Daemon {
        /// Its address.
        url: String,
        /// What it said.
        reason: String,
    },
    /// The program on this side broke off.
    #[error("standard input or output: {0}")]
    Local(String),
}

/// A client of the daemon's protocol.
///
/// # Errors
/// [`BridgeError`], but for what happens on this side.
pub async fn connect(
    url: &str,
    token: &str,
    on_behalf_of: Option<&str>,
) -> Result<RunningService<RoleClient, ()>, BridgeError> {
    let mut headers = HashMap::new();
    if let Some(name) = on_behalf_of {
        let value =
            HeaderValue::from_str(name).map_err(|_| BridgeError::BadName(name.to_owned()))?;
        headers.insert(HeaderName::from_static("x-lakehouse-on-behalf-of"), value);
    }
    // Only the first of a process counts, and they are all the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let http = reqwest_013::Client::builder()
        .no_proxy()
        .build()
        .map_err(|error| BridgeError::Client(error.to_string()))?;
    let config = StreamableHttpClientTransportConfig::with_uri(format!("{url}/mcp"))
        .auth_header(token)
        .custom_headers(headers);
    let transport = StreamableHttpClientTransport::with_client(http, config);
    ().serve(transport)
        .await
        .map_err(|error| BridgeError::Daemon {
            url: url.to_owned(),
            reason: error.to_string(),
        })
}

/// Serves the program on standard input and output until it goes away.
///
/// # Errors
/// [`BridgeError`].
pub async fn run(url: &str, token: &str, on_behalf_of: Option<&str>) -> Result<(), BridgeError> {
    let daemon = connect(url, token, on_behalf_of).await?;
    let bridge = Bridge {
        daemon: daemon.peer().clone(),
    };
    let local = |error: String| BridgeError::Local(error);
    let served = bridge
        .serve(stdio())
        .await
        .map_err(|error| local(error.to_string()))?;
    served
        .waiting()
        .await
        .map_err(|error| local(error.to_string()))?;
    // The program is gone, so nobody waits for how the other end goes.
    let _ = daemon.cancel().await;
    Ok(())
}

/// Hands each request on.
struct Bridge {
    daemon: Peer<RoleClient>,
}

impl ServerHandler for Bridge {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder()
            .enable_tools()
            .enable_resources()
            .build();
        let mut info = ServerConfig::new(capabilities);
        if let Some(daemon) = self.daemon.peer_info() {
            let daemon = Arc::clone(&daemon);
            info.instructions.clone_from(&daemon.instructions);
            if let Some(server) = &daemon.server_info {
                info.server_info = server.clone();
            }
        }
        info
    }

    async fn list_tools(
        &self,
        request: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        self.daemon.list_tools(request).await.map_err(told)
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        self.daemon.call_tool_once(request).await.map_err(told)
    }

    async fn list_resources(
        &self,
        request: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        self.daemon.list_resources(request).await.map_err(told)
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        self.daemon.read_resource_once(request).await.map_err(told)
    }
}

/// What the daemon said, or that it did not.
fn told(error: ServiceError) -> ErrorData {
    match error {
        ServiceError::McpError(error) => error,
        error => ErrorData::internal_error(
            format!("the daemon did not answer: {error}"),
            Some(json!({ "code": "unreachable" })),
        ),
    }
}
