//! The command line against a running daemon: each verb once, its output, its exit status.

use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::support::daemon::Daemon;

/// Runs a verb with the daemon's address and token in the environment.
fn lakehouse(daemon: &Daemon, arguments: &[&str]) -> Output {
    let mut command: Command = daemon.site().command(arguments);
    command.env("LAKEHOUSE_URL", daemon.base());
    command.env("LAKEHOUSE_TOKEN", daemon.token());
    command.output().unwrap()
}

/// What a verb that must succeed prints.
fn prints(daemon: &Daemon, arguments: &[&str]) -> Vec<u8> {
    let output = lakehouse(daemon, arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{arguments:?}: {} {said}",
        output.status
    );
    output.stdout
}

fn text(daemon: &Daemon, arguments: &[&str]) -> String {
    String::from_utf8(prints(daemon, arguments)).unwrap()
}

fn with_people() -> Daemon {
    let daemon = Daemon::start();
    let file = daemon.site().scratch().join("people.csv");
    let rows = "id,name\n1,ada lovelace writes programs\n2,grace hopper writes compilers\n";
    std::fs::write(&file, rows).unwrap();
    let file = file.to_str().unwrap();
    prints(
        &daemon,
        &[
            "ingest",
            file,
            "--dataset",
            "people",
            "--key",
            "id",
            "--mode",
            "create",
        ],
    );
    daemon
}

#[test]
fn what_is_ingested_is_answered_in_every_format() {
    let daemon = with_people();
    let ask = |format: &str| {
        let sql = "SELECT id, name FROM people ORDER BY id";
        prints(&daemon, &["sql", sql, "--format", format])
    };
    let csv = String::from_utf8(ask("csv")).unwrap();
    assert_eq!(csv.lines().next(), Some("id,name"));
    assert_eq!(csv.lines().count(), 3, "{csv}");
    let table = String::from_utf8(ask("table")).unwrap();
    assert!(
        table.contains("name") && table.contains("grace hopper"),
        "{table}"
    );
    let json: Value = serde_json::from_slice(&ask("json")).unwrap();
    assert!(json.to_string().contains("grace hopper"), "{json}");
    let batches = crate::support::rows::read_arrow_stream(&ask("arrow"));
    assert_eq!(
        batches
            .iter()
            .map(arrow::array::RecordBatch::num_rows)
            .sum::<usize>(),
        2
    );
}

#[tokio::test]
async fn an_index_is_searched() {
    let daemon = with_people();
    let index = json!({ "name": "i", "source": "people", "key": "id", "text": "{name}", "backend": "hnsw" });
    daemon
        .admin()
        .post("/vectors/index?wait=true", &index)
        .await
        .ok();
    let found = text(&daemon, &["search", "i", "the compiler lady", "-k", "1"]);
    assert!(
        found.contains("grace hopper") || found.contains('2'),
        "{found}"
    );
}

#[test]
fn the_journal_is_read_and_verified() {
    let daemon = with_people();
    assert!(text(&daemon, &["journal", "history", "people"]).contains("DatasetCreated"));
    assert!(text(&daemon, &["journal", "tail"]).contains("FilesCommitted"));
    prints(&daemon, &["journal", "verify"]);
}

#[tokio::test]
async fn tokens_are_made_listed_and_revoked() {
    let daemon = Daemon::start();
    let made = text(
        &daemon,
        &["token", "create", "--name", "guest", "--role", "analyst"],
    );
    let made: Value = serde_json::from_str(&made).unwrap();
    let secret = crate::support::api::secret_of(&made);
    daemon
        .client(Some(&secret))
        .get("/catalog/datasets")
        .await
        .ok();
    assert!(text(&daemon, &["token", "list"]).contains("guest"));
    prints(&daemon, &["token", "revoke", made["id"].as_str().unwrap()]);
    daemon
        .client(Some(&secret))
        .get("/catalog/datasets")
        .await
        .problem(401);
}

#[test]
fn a_failure_is_a_status_and_a_sentence() {
    let daemon = with_people();
    for (arguments, word) in [
        (&["sql", "SELECT * FROM poeple"][..], "people"),
        (&["sql", "DROP TABLE people"][..], "quer"),
        (&["search", "nosuch", "text"][..], "nosuch"),
        (
            &["ingest", "no-such-file.csv", "--dataset", "x"][..],
            "no-such-file.csv",
        ),
    ] {
        let output = lakehouse(&daemon, arguments);
        assert!(!output.status.success(), "{arguments:?}");
        assert!(
            output.stdout.is_empty(),
            "{arguments:?}: errors go to standard error"
        );
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(word), "{arguments:?} says `{word}`: {said}");
        assert!(!said.contains("panicked"), "{said}");
    }
}

#[test]
fn without_a_daemon_it_says_where_it_looked() {
    let daemon = Daemon::start();
    let (base, token) = (daemon.base().to_owned(), daemon.token().to_owned());
    let site = daemon.kill9();
    let mut command = site.command(&["sql", "SELECT 1"]);
    let output = command
        .env("LAKEHOUSE_URL", &base)
        .env("LAKEHOUSE_TOKEN", token)
        .output()
        .unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains(base.trim_start_matches("http://")), "{said}");
}
