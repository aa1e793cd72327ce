//! `lakehouse token`: who may use the daemon. The secret of a new token is printed once.

use std::io::Write as _;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::{CliError, Connection, client::items, output};

/// What `token` takes.
#[derive(Debug, Args)]
pub(super) struct TokenArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a token and print its secret, which is shown only now
    Create(CreateArgs),
    /// List the tokens, without their secrets
    List {
        #[command(flatten)]
        connection: Connection,
    },
    /// Make a token invalid at once
    Revoke {
        #[command(flatten)]
        connection: Connection,
        /// Its id, as `list` shows it
        id: String,
    },
}

#[derive(Debug, Args)]
struct CreateArgs {
    #[command(flatten)]
    connection: Connection,
    /// A name for people
    #[arg(long)]
    name: String,
    /// What it may do
    #[arg(long, value_enum)]
    role: Role,
    /// A view it may read; repeat for more
    #[arg(long = "view", value_name = "VIEW")]
    views: Vec<String>,
    /// A tool it may call; repeat for more
    #[arg(long = "tool", value_name = "TOOL")]
    tools: Vec<String>,
    /// The profile that it works under
    #[arg(long)]
    profile: Option<String>,
    /// When it ends, RFC 3339
    #[arg(long, value_name = "TIME")]
    expires_at: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Role {
    Admin,
    Operator,
    Analyst,
    Agent,
    Auditor,
}

impl TokenArgs {
    pub(super) async fn run(self) -> Result<(), CliError> {
        match self.action {
            Action::Create(args) => {
                let body = args.body();
                let client = args.connection.client()?;
                print_json(&client.post(&["auth", "tokens"], &body).await?)
            }
            Action::List { connection } => {
                let answer = connection.client()?.get(&["auth", "tokens"], &[]).await?;
                print_list(&answer)
            }
            Action::Revoke { connection, id } => {
                let answer = connection
                    .client()?
                    .delete(&["auth", "tokens", &id])
                    .await?;
                print_json(&answer)
            }
        }
    }
}

impl CreateArgs {
    fn body(&self) -> Value {
        let role = self.role.to_possible_value();
        let role = role.as_ref().map_or("", |value| value.get_name());
        let mut body = json!({ "name": self.name, "role": role });
        if !self.views.is_empty() {
            body["views"] = json!(self.views);
        }
        if !self.tools.is_empty() {
            body["tools"] = json!(self.tools);
        }
        if let Some(profile) = &self.profile {
            body["profile"] = json!(profile);
        }
        if let Some(expires_at) = &self.expires_at {
            body["expires_at"] = json!(expires_at);
        }
        body
    }
}

fn print_json(answer: &Value) -> Result<(), CliError> {
    writeln!(std::io::stdout().lock(), "{answer:#}")?;
    Ok(())
}

fn print_list(answer: &Value) -> Result<(), CliError> {
    let columns = ["id", "name", "role", "views", "expires_at"];
    let row = |token: &Value| columns.iter().map(|c| listed(&token[*c])).collect();
    let rows: Vec<Vec<String>> = items(answer).iter().map(row).collect();
    writeln!(
        std::io::stdout().lock(),
        "{}",
        output::table(&columns, &rows)
    )?;
    Ok(())
}

fn listed(value: &Value) -> String {
    match value.as_array() {
        Some(list) => list.iter().map(output::cell).collect::<Vec<_>>().join(", "),
        None => output::cell(value),
    }
}
