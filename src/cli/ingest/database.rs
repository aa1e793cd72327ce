//! `lakehouse ingest --db`: rows out of a `PostgreSQL` table or query, read by the daemon itself.
//! The connection string goes to the daemon and nowhere else.

use std::path::Path;

use clap::Args;
use serde_json::{Map, Value, json};

use super::{CliError, IngestArgs};
use crate::cli::client::Client;

/// Where the connection string is looked for when `--db` names none.
const DSN_VARIABLE: &str = "LAKEHOUSE_DSN";

/// What belongs to `--db`.
#[derive(Debug, Args)]
pub(super) struct DatabaseArgs {
    /// Read a `PostgreSQL` database in place of files: a connection string, or nothing for the one in
    /// `LAKEHOUSE_DSN`, which others on the machine cannot read
    #[arg(
        long,
        num_args = 0..=1,
        default_missing_value = "",
        value_name = "DSN",
        conflicts_with_all = ["files", "format"],
        hide_default_value = true
    )]
    pub(super) db: Option<String>,
    /// The table, `schema.table` or `"Odd Name"`
    #[arg(long, value_name = "NAME", requires = "db", conflicts_with = "query")]
    table: Option<String>,
    /// One statement that returns rows
    #[arg(long, value_name = "SQL", requires = "db")]
    query: Option<String>,
    /// A column that grows: take only rows newer than those of the last read
    #[arg(long, value_name = "COLUMN", requires = "db")]
    since: Option<String>,
}

impl DatabaseArgs {
    /// The request, and what the summary calls the source.
    fn request(&self, args: &IngestArgs) -> Result<(Value, String), CliError> {
        let usage = |text: &str| CliError::Usage(text.to_owned());
        let dsn = match self.db.as_deref() {
            None | Some("") => std::env::var(DSN_VARIABLE).map_err(|_| {
                usage("`--db` needs a connection string, there or in LAKEHOUSE_DSN")
            })?,
            Some(dsn) => dsn.to_owned(),
        };
        let mut request = Map::from_iter([
            ("dsn".to_owned(), json!(dsn)),
            ("dataset".to_owned(), json!(args.dataset)),
            ("mode".to_owned(), json!(args.mode.name())),
        ]);
        let name = match (&self.table, &self.query) {
            (Some(table), _) => {
                request.insert("table".to_owned(), json!(table));
                table.clone()
            }
            (None, Some(query)) => {
                request.insert("query".to_owned(), json!(query));
                "query".to_owned()
            }
            (None, None) => return Err(usage("`--db` needs `--table` or `--query`")),
        };
        let optional = [("key", &args.key), ("since", &self.since)];
        for (field, value) in optional {
            if let Some(value) = value {
                request.insert(field.to_owned(), json!(value));
            }
        }
        Ok((Value::Object(request), name))
    }

    /// Has the daemon read it, and prints what came of it.
    pub(super) async fn run(&self, args: &IngestArgs, client: &Client) -> Result<(), CliError> {
        let (body, name) = self.request(args)?;
        let mut request = client
            .request(reqwest::Method::POST, &["ingest", "db"])
            .json(&body);
        if let Some(bucket) = &args.bucket {
            request = request.header("X-Lakehouse-Bucket", bucket);
        }
        let answer = client.answer(request).await?;
        args.print(Path::new(&name), &answer)
    }
}
