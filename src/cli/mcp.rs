//! `lakehouse mcp`: the agents' protocol for a program that starts it, over standard input and output.

use clap::Args;

use super::{CliError, Connection};
use crate::mcp::bridge;

/// What `mcp` takes.
#[derive(Debug, Args)]
pub(super) struct McpArgs {
    #[command(flatten)]
    connection: Connection,
    /// For whom the agent acts; it stands in the audit
    #[arg(long, value_name = "NAME")]
    on_behalf_of: Option<String>,
}

impl McpArgs {
    pub(super) async fn run(self) -> Result<(), CliError> {
        // The admin's token, which other verbs fall back to, is none for a model.
        if std::env::var("LAKEHOUSE_TOKEN").is_ok_and(|token| token.trim().is_empty())
            || std::env::var_os("LAKEHOUSE_TOKEN").is_none()
        {
            return Err(CliError::Usage(
                "set LAKEHOUSE_TOKEN to the agent's token".to_owned(),
            ));
        }
        let client = self.connection.client()?;
        let token = client.token().unwrap_or_default();
        bridge::run(client.base(), token, self.on_behalf_of.as_deref())
            .await
            .map_err(|error| CliError::Failed(error.to_string()))
    }
}
