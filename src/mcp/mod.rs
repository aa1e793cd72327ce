//! The agents' protocol: what a caller may ask, as tools and resources of the Model Context Protocol. One of these
//! is made for each request, with the caller that `rest::mcp` has let in; it keeps no session, so that a token
//! that is taken back is dead here at once. It reads through the same functions as the routes do, and puts its
//! own lines into the audit, one for each thing asked.

pub mod bridge;
mod resources;
mod tools;

use std::sync::Arc;

use actix_web::web;
use rmcp::{
    ErrorData, RoleServer, ServerHandler,
    model::{
        CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, ErrorCode,
        Implementation, ListResourcesResult, ListToolsResult, PaginatedRequestParams,
        ReadResourceRequestParams, ReadResourceResponse, ReadResourceResult, ServerCapabilities,
        ServerConfig,
    },
    service::RequestContext,
};
use serde_json::json;

use crate::rest::{
    Edge,
    audited::{self, Told},
    auth::{Ask, May},
    problem::Problem,
};

/// What a model is told of the server as a whole.
const INSTRUCTIONS: &str = "Tables that were made safe to read. The resources say which there are, with \
    their columns and what these mean. `query` answers SQL over them, `search` finds rows by meaning, and the other \
    tools answer questions that were written down. What is not listed does not exist here.";

/// One caller's view of the lake.
#[derive(Clone)]
pub struct Agent {
    edge: web::Data<Edge>,
    may: Arc<May<Ask>>,
}

impl Agent {
    /// For a caller that was let in.
    pub fn new(edge: web::Data<Edge>, may: Arc<May<Ask>>) -> Self {
        Self { edge, may }
    }

    /// Puts down what is about to be answered. Without its line, nothing is.
    async fn put<T>(&self, told: Told, answer: Result<T, Problem>) -> Result<T, Problem> {
        let asked = self.may.asked();
        if asked.is_audited() {
            let refused = answer.as_ref().err().map(|problem| problem.code.clone());
            audited::put(&self.edge, audited::entry(&asked, told, refused)).await?;
        }
        answer
    }
}

impl ServerHandler for Agent {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder()
            .enable_tools()
            .enable_resources()
            .build();
        let mut info = ServerConfig::new(capabilities);
        info.server_info = Implementation::new("lakehouse", env!("CARGO_PKG_VERSION"));
        info.instructions = Some(INSTRUCTIONS.to_owned());
        info
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let told = Told {
            action: "tools/list",
            ..Told::default()
        };
        let tools = self.put(told, Ok(tools::of(&self.edge, &self.may))).await;
        tools
            .map(ListToolsResult::with_all_items)
            .map_err(|problem| protocol_error(&problem))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let arguments = request.arguments.unwrap_or_default();
        let (told, answer) = tools::call(&self.edge, &self.may, &request.name, arguments).await;
        // A refusal is told to the model, not to the program that it runs in.
        let result = match self.put(told, answer).await {
            Ok(body) => {
                let mut result =
                    CallToolResult::success(vec![ContentBlock::text(body.to_string())]);
                result.structured_content = Some(body);
                result
            }
            Err(problem) => {
                let body = json!({ "status": problem.status, "code": problem.code, "detail": problem.detail });
                CallToolResult::error(vec![ContentBlock::text(body.to_string())])
            }
        };
        Ok(result.into())
    }

    async fn list_resources(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        let told = Told {
            action: "resources/list",
            ..Told::default()
        };
        let listed = self.put(told, resources::list(&self.edge, &self.may)).await;
        listed
            .map(ListResourcesResult::with_all_items)
            .map_err(|problem| protocol_error(&problem))
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        let (told, answer) = resources::read(&self.edge, &self.may, &request.uri);
        let contents = self
            .put(told, answer)
            .await
            .map_err(|problem| protocol_error(&problem))?;
        Ok(ReadResourceResult::new(vec![contents]).into())
    }
}

/// A problem where the protocol has no place for a refusal.
fn protocol_error(problem: &Problem) -> ErrorData {
    let code = match problem.status {
        404 => ErrorCode::RESOURCE_NOT_FOUND,
        400..=499 => ErrorCode::INVALID_REQUEST,
        _ => ErrorCode::INTERNAL_ERROR,
    };
    ErrorData::new(
        code,
        problem.detail.clone(),
        Some(json!({ "code": problem.code })),
    )
}
