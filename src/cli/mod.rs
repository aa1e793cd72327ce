//! The command line: one file a verb, and what the verbs share.
//! `main` calls [`main`]; a verb parses, calls the daemon or the REST API, and prints.

pub mod client;
mod error;
pub mod output;

mod bench;
mod demo;
mod erasure;
mod ingest;
mod journal;
mod mcp;
mod model;
mod search;
mod serve;
mod sql;
mod token;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

use client::{Client, ClientError};
pub use error::CliError;

use crate::config::{DEFAULT_DATA_DIR, admin_token_path};

/// A governed lakehouse: tables, SQL and semantic search behind one journal.
#[derive(Debug, Parser)]
#[command(name = "lakehouse", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the daemon until SIGTERM or SIGINT
    Serve(serve::ServeArgs),
    /// Run the main job on real data, narrated; stays up unless --exit
    Demo(demo::DemoArgs),
    /// Put files into a dataset
    Ingest(ingest::IngestArgs),
    /// Ask a question in SQL
    Sql(sql::SqlArgs),
    /// Search an index by meaning
    Search(search::SearchArgs),
    /// Read, check or restore the journal
    Journal(journal::JournalArgs),
    /// Show where a deleted row still is, and check the receipt that it is nowhere
    Erasure(erasure::ErasureArgs),
    /// Install models that run in the daemon's process
    Model(model::ModelArgs),
    /// Make, list and revoke tokens
    Token(token::TokenArgs),
    /// Speak the Model Context Protocol on standard input and output, for an agent
    Mcp(mcp::McpArgs),
    /// Measure against a baseline in the same run
    Bench(bench::BenchArgs),
}

/// Which daemon a verb talks to. The token is `LAKEHOUSE_TOKEN`, else the admin token in the data
/// directory; it is never an argument, because arguments can be read by others.
#[derive(Debug, Args)]
pub struct Connection {
    /// The daemon's address
    #[arg(
        long,
        env = "LAKEHOUSE_URL",
        default_value = "http://127.0.0.1:3100",
        value_name = "URL"
    )]
    url: String,
    /// The daemon's data directory, whose admin token is used unless the environment has one
    #[arg(long, env = "LAKEHOUSE_DATA_DIR", default_value = DEFAULT_DATA_DIR, value_name = "DIR")]
    data_dir: PathBuf,
}

impl Connection {
    /// A client with the token found.
    ///
    /// # Errors
    /// [`ClientError::BadUrl`] for an address that is none; [`ClientError::NoToken`] when there is
    /// neither a token in the environment nor a token file.
    pub fn client(&self) -> Result<Client, ClientError> {
        if let Ok(token) = std::env::var("LAKEHOUSE_TOKEN")
            && !token.trim().is_empty()
        {
            return Client::new(&self.url, Some(token.trim()));
        }
        let file = admin_token_path(&self.data_dir);
        match std::fs::read_to_string(&file) {
            Ok(token) => Client::new(&self.url, Some(token.trim())),
            Err(e) => Err(ClientError::NoToken {
                file,
                reason: e.to_string(),
            }),
        }
    }
}

/// Parses the command line, carries it out, and says how it went: on standard error, and as the
/// process's exit status.
pub fn main() -> ExitCode {
    match run(Cli::parse().verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is_closed_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(verb: Verb) -> Result<(), CliError> {
    match verb {
        Verb::Serve(args) => args.run(),
        Verb::Demo(args) => block_on(args.run()),
        Verb::Ingest(args) => block_on(args.run()),
        Verb::Sql(args) => block_on(args.run()),
        Verb::Search(args) => block_on(args.run()),
        Verb::Journal(args) => args.run(),
        Verb::Erasure(args) => args.run(),
        Verb::Model(args) => args.run(),
        Verb::Token(args) => block_on(args.run()),
        Verb::Mcp(args) => block_on(args.run()),
        Verb::Bench(args) => args.run(),
    }
}

/// Runs a verb that talks to a daemon, on a runtime of this one thread.
fn block_on<T>(work: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| CliError::Failed(format!("no runtime can be started: {e}")))?;
    runtime.block_on(work)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_form_of_the_contract_parses() {
        for line in [
            "serve --config lakehouse.toml --data-dir d --listen 127.0.0.1:3100",
            "demo --data-dir d --listen 127.0.0.1:0 --rows 1000 --exit",
            "ingest a.csv b.csv --dataset d --key id --mode upsert",
            "sql SELECT --format arrow",
            "search kb text -k 3",
            "journal tail",
            "journal history 17",
            "journal verify",
            "journal restore --from primary",
            "erasure verify receipt.json --key abcd",
            "erasure verify -",
            "erasure key",
            "erasure show people 17 --out receipt.json",
            "token create --name n --role analyst --view v --expires-at 2027-01-01T00:00:00Z",
            "token list",
            "token revoke t1",
            "model install minilm some.whl --data-dir d",
            "mcp --on-behalf-of ada",
            "bench vectors",
            "bench refresh --anything 5",
        ] {
            let words = std::iter::once("lakehouse").chain(line.split(' '));
            assert!(Cli::try_parse_from(words).is_ok(), "{line}");
        }
    }

    #[test]
    fn a_wrong_word_is_a_usage_error() {
        for line in [
            "",
            "serv",
            "sql",
            "sql x --format xml",
            "ingest --dataset d",
            "search kb",
            "erasure verify",
            "erasure show people",
        ] {
            let words = std::iter::once("lakehouse").chain(line.split_whitespace());
            let error = Cli::try_parse_from(words).expect_err("it is refused");
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }
}
