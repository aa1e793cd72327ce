//! `lakehouse journal`: what happened, whether the record of it is whole, and its restoration.
//! `restore` works on a data directory without a daemon; the others ask one.

use std::{io::Write as _, time::Duration};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    CliError, Connection, block_on,
    client::{Client, items},
    output,
    serve::{ConfigArgs, start_log},
};
use crate::daemon;

/// How often `tail --follow` asks for what is new.
const FOLLOW_EVERY: Duration = Duration::from_millis(500);
/// Events asked for at once.
const PAGE: &str = "500";

/// What `journal` takes.
#[derive(Debug, Args)]
pub(super) struct JournalArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show the newest events
    Tail {
        #[command(flatten)]
        connection: Connection,
        /// How many
        #[arg(short = 'n', long, default_value_t = 20, value_name = "EVENTS")]
        lines: u64,
        /// Go on with those that come
        #[arg(short, long)]
        follow: bool,
        /// Print each event as JSON
        #[arg(long)]
        json: bool,
    },
    /// Show every event that touched a row key, dataset, view, index or bucket, oldest first
    History {
        #[command(flatten)]
        connection: Connection,
        /// The key or name
        key: String,
        /// Only where the key belongs to this dataset
        #[arg(long, value_name = "NAME")]
        dataset: Option<String>,
        /// Print each event as JSON
        #[arg(long)]
        json: bool,
    },
    /// Check the hash chain, and the live state against the replayed one
    Verify {
        #[command(flatten)]
        connection: Connection,
    },
    /// Rebuild a lost journal from its archive; the daemon must not be running
    Restore {
        #[command(flatten)]
        config: ConfigArgs,
        /// A bucket of the configuration, or a directory that holds one
        #[arg(long, value_name = "BUCKET")]
        from: String,
    },
}

impl JournalArgs {
    pub(super) fn run(self) -> Result<(), CliError> {
        match self.action {
            Action::Tail {
                connection,
                lines,
                follow,
                json,
            } => block_on(tail(connection.client()?, lines, follow, json)),
            Action::History {
                connection,
                key,
                dataset,
                json,
            } => block_on(history(connection.client()?, key, dataset, json)),
            Action::Verify { connection } => block_on(verify(connection.client()?)),
            Action::Restore { config, from } => restore(config, &from),
        }
    }
}

async fn tail(client: Client, lines: u64, follow: bool, json: bool) -> Result<(), CliError> {
    let health = client.get(&["health"], &[]).await?;
    let newest = health["journal"]["seq"].as_u64().unwrap_or_default();
    let mut after = newest.saturating_sub(lines);
    loop {
        let cursor = after.to_string();
        let query = [("after", cursor.as_str()), ("limit", PAGE)];
        let answer = client.get(&["journal", "events"], &query).await?;
        let events = items(&answer);
        print_events(events, json)?;
        if let Some(last) = events.last().and_then(|event| event["seq"].as_u64()) {
            after = last;
        } else if follow {
            tokio::time::sleep(FOLLOW_EVERY).await;
        } else {
            return Ok(());
        }
    }
}

async fn history(
    client: Client,
    key: String,
    dataset: Option<String>,
    json: bool,
) -> Result<(), CliError> {
    let mut query = Vec::new();
    if let Some(dataset) = &dataset {
        query.push(("dataset", dataset.as_str()));
    }
    let answer = client.get(&["journal", "history", &key], &query).await?;
    let events = items(&answer);
    if events.is_empty() {
        return Err(CliError::Failed(format!("no event touched `{key}`")));
    }
    print_events(events, json)
}

async fn verify(client: Client) -> Result<(), CliError> {
    let answer = client.post(&["journal", "verify"], &json!({})).await?;
    if answer["ok"] != true {
        return Err(CliError::Failed(format!(
            "the journal is not whole: {answer}"
        )));
    }
    let checked = output::thousands(answer["checked"].as_u64().unwrap_or_default());
    let state = output::cell(&answer["state_hash_live"]);
    writeln!(
        std::io::stdout().lock(),
        "ok: {checked} events checked; live and replayed state are the same ({state})"
    )?;
    Ok(())
}

fn restore(config: ConfigArgs, from: &str) -> Result<(), CliError> {
    let config = config.load(None)?;
    start_log(&config.log)?;
    let report = daemon::restore(&config, from).map_err(CliError::Daemon)?;
    writeln!(std::io::stdout().lock(), "{report}")?;
    Ok(())
}

fn print_events(events: &[Value], json: bool) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    for event in events {
        if json {
            writeln!(out, "{event}")?;
        } else {
            writeln!(out, "{}", output::event_line(event))?;
        }
    }
    Ok(())
}
