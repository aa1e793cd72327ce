//! Health: what anybody may ask, the actors' tree, the metrics.

use crate::support::api::list;
use crate::support::daemon::Daemon;

#[tokio::test]
async fn health_needs_no_token_and_counts_what_is_durable() {
    let daemon = Daemon::start();
    let before = daemon.client(None).get("/health").await.ok();
    assert_eq!(before["status"], "ok");
    assert!(
        before["version"].is_string() && before["uptime_s"].is_number(),
        "{before}"
    );

    let written = daemon.admin().create("people", "id,name\n1,ada\n").await;
    let after = daemon.client(None).get("/health").await.ok();
    let seq = written["journal_seq"].as_u64().unwrap();
    assert!(after["journal"]["seq"].as_u64().unwrap() >= seq, "{after}");
    assert!(
        after["journal"]["durable_seq"].as_u64().unwrap() >= seq,
        "acknowledged is durable: {after}"
    );
    assert!(
        before["journal"]["seq"].as_u64().unwrap() < seq,
        "{before} then {written}"
    );
}

#[tokio::test]
async fn the_tree_shows_every_owner_and_worker_running() {
    let daemon = Daemon::start();
    let tree = list(&daemon.admin().get("/health/actors").await.ok());
    for actor in [
        "catalog",
        "access",
        "scheduler",
        "ingest",
        "indexing",
        "refresh",
        "compaction",
    ] {
        let node = tree.iter().find(|node| node["name"] == actor);
        let node = node.unwrap_or_else(|| panic!("`{actor}` is in the tree: {tree:?}"));
        assert_eq!(node["state"], "running", "{node}");
        assert_eq!(node["restarts"], 0, "{node}");
        assert!(
            node["parent"].is_string() && node["mailbox"].is_number(),
            "{node}"
        );
        assert!(
            node["started_at"].as_str().unwrap().ends_with('Z'),
            "RFC 3339 in UTC: {node}"
        );
        assert!(node.get("last_error").is_some(), "{node}");
    }
    let bucket = tree
        .iter()
        .any(|node| node["name"].as_str().unwrap().contains("primary"));
    assert!(
        bucket,
        "the primary bucket has an actor of its own: {tree:?}"
    );
}

#[tokio::test]
async fn metrics_are_prometheus_text() {
    let daemon = Daemon::start();
    let metrics = daemon.admin().get("/metrics").await;
    assert!(metrics.is_ok(), "{}", metrics.text());
    assert!(
        metrics.header("content-type").starts_with("text/plain")
            || metrics
                .header("content-type")
                .starts_with("application/openmetrics-text")
    );
    assert!(
        metrics
            .text()
            .lines()
            .any(|line| line.starts_with("# TYPE ")),
        "{}",
        metrics.text()
    );
}

#[tokio::test]
async fn a_request_id_is_echoed_or_made_and_stands_in_the_event() {
    let daemon = Daemon::start();
    let admin = daemon.admin();
    let made = admin.get("/health").await;
    assert!(!made.header("x-request-id").is_empty());

    let answer = admin
        .call(
            reqwest::Method::POST,
            "/ingest/file?dataset=people&mode=create&key=id",
        )
        .header("content-type", "text/csv")
        .header("x-request-id", "the-callers-own-id")
        .body("id,name\n1,ada\n")
        .send()
        .await;
    assert_eq!(answer.header("x-request-id"), "the-callers-own-id");
    let seq = answer.ok()["journal_seq"].as_u64().unwrap();
    let events = admin.events(0).await;
    let event = events
        .iter()
        .find(|event| event["seq"] == seq)
        .expect("the event is there");
    assert_eq!(event["request_id"], "the-callers-own-id");
}
