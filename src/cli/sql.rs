//! `lakehouse sql`: one statement, its answer as a table, JSON, CSV or an Arrow stream.
//! CSV and Arrow are passed through as they come, every row of them; the others have a limit.

use std::io::{Read as _, Write as _};

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::{
    CliError, Connection,
    client::{Client, ClientError},
    output,
};

/// What `sql` takes.
#[derive(Debug, Args)]
pub(super) struct SqlArgs {
    #[command(flatten)]
    connection: Connection,
    /// The statement; `-` reads it from standard input
    sql: String,
    /// How the answer is written
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// The most rows, for table and json
    #[arg(long, value_name = "ROWS")]
    limit: Option<u64>,
    /// A value for $1, $2, …: JSON where it is that (5, null, true), else text
    #[arg(long = "param", value_name = "VALUE")]
    params: Vec<String>,
    /// Read as of this journal sequence number or RFC 3339 time
    #[arg(long, value_name = "SEQ|TIME")]
    as_of: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Table,
    /// The answer of POST /query/sql
    Json,
    /// With a header line
    Csv,
    /// An Arrow IPC stream
    Arrow,
}

impl SqlArgs {
    pub(super) async fn run(self) -> Result<(), CliError> {
        let client = self.connection.client()?;
        let body = self.body()?;
        match self.format {
            Format::Table => print_table(&client.post(&["query", "sql"], &body).await?),
            Format::Json => print_json(&client.post(&["query", "sql"], &body).await?),
            Format::Csv => pass_through(&client, &body, "text/csv").await,
            Format::Arrow => {
                pass_through(&client, &body, "application/vnd.apache.arrow.stream").await
            }
        }
    }

    fn body(&self) -> Result<Value, CliError> {
        let mut sql = self.sql.clone();
        if sql == "-" {
            sql.clear();
            let read = std::io::stdin().read_to_string(&mut sql);
            read.map_err(|e| CliError::Failed(format!("standard input: {e}")))?;
        }
        let mut body = json!({ "sql": sql });
        if !self.params.is_empty() {
            body["params"] = self.params.iter().map(|p| json_or_text(p)).collect();
        }
        if let Some(limit) = self.limit {
            body["limit"] = json!(limit);
        }
        if let Some(as_of) = &self.as_of {
            body["as_of"] = json_or_text(as_of);
        }
        Ok(body)
    }
}

/// Numbers, booleans and null as such; whatever is no JSON is text.
fn json_or_text(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))
}

fn print_table(answer: &Value) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", output::result_table(answer))?;
    let rows = answer["row_count"].as_u64().unwrap_or_default();
    let elapsed_ms = output::cell(&answer["elapsed_ms"]);
    let noun = if rows == 1 { "row" } else { "rows" };
    let rows = output::thousands(rows);
    writeln!(out, "{rows} {noun} in {elapsed_ms} ms")?;
    if answer["truncated"] == true {
        writeln!(
            out,
            "There are more: use --limit, or --format csv for all of them."
        )?;
    }
    Ok(())
}

fn print_json(answer: &Value) -> Result<(), CliError> {
    writeln!(std::io::stdout().lock(), "{answer:#}")?;
    Ok(())
}

async fn pass_through(client: &Client, body: &Value, accept: &str) -> Result<(), CliError> {
    let mut response = client
        .post_for_stream(&["query", "sql"], body, accept)
        .await?;
    let mut out = std::io::stdout().lock();
    let broken = |e: reqwest::Error| ClientError::Interrupted {
        reason: e.to_string(),
    };
    while let Some(chunk) = response.chunk().await.map_err(broken)? {
        out.write_all(&chunk)?;
    }
    out.flush()?;
    Ok(())
}
