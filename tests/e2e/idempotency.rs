//! Idempotency: one key, one effect, one answer, across a kill too.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::api::{Answer, Api, list};
use crate::support::daemon::Daemon;

async fn append(api: &Api, key: &str, csv: &str) -> Answer {
    api.call(Method::POST, "/ingest/file?dataset=people&mode=append")
        .header("content-type", "text/csv")
        .key(key)
        .body(csv)
        .send()
        .await
}

/// What of an answer must be the same when it is given again.
fn settled(answer: &Value) -> Value {
    json!({ "journal_seq": answer["journal_seq"], "rows": answer["rows"], "dataset": answer["dataset"] })
}

#[tokio::test]
async fn the_same_key_gives_the_first_answer_and_one_effect() {
    let daemon = Daemon::start();
    let api = daemon.admin();
    api.create("people", "id,name\n1,ada\n").await;
    let first = append(&api, "k-1", "id,name\n2,grace\n").await.ok();
    let seq = api.seq().await;
    for _ in 0..3 {
        let again = append(&api, "k-1", "id,name\n2,grace\n").await.ok();
        assert_eq!(settled(&again), settled(&first));
    }
    assert!(api.witness(seq).await.1.is_empty());
    assert_eq!(api.cell("SELECT count(*) FROM people").await, 2);

    let daemon = daemon.crash_and_restart();
    let api = daemon.admin();
    let seq = api.seq().await;
    let again = append(&api, "k-1", "id,name\n2,grace\n").await.ok();
    assert_eq!(
        settled(&again),
        settled(&first),
        "after a kill the key is still known"
    );
    assert!(api.witness(seq).await.1.is_empty());
    assert_eq!(api.cell("SELECT count(*) FROM people").await, 2);
}

#[tokio::test]
async fn the_same_key_with_another_body_is_a_conflict() {
    let daemon = Daemon::start();
    let api = daemon.admin();
    api.create("people", "id,name\n1,ada\n").await;
    append(&api, "k-1", "id,name\n2,grace\n").await.ok();
    let seq = api.seq().await;
    append(&api, "k-1", "id,name\n3,edsger\n")
        .await
        .problem(409);
    let elsewhere = api
        .call(Method::PATCH, "/catalog/datasets/people")
        .key("k-1")
        .json(&json!({ "description": "another request" }))
        .send()
        .await;
    elsewhere.problem(409);
    assert!(api.witness(seq).await.1.is_empty());
    assert_eq!(api.cell("SELECT count(*) FROM people").await, 2);
}

#[tokio::test]
async fn every_kind_of_mutation_keeps_the_promise() {
    let daemon = Daemon::start();
    let api = daemon.admin();
    api.create(
        "people",
        "id,name\n1,ada lovelace\n2,grace hopper\n3,edsger dijkstra\n",
    )
    .await;
    let index = json!({ "name": "i", "source": "people", "key": "id", "text": "{name}", "backend": "hnsw" });
    let mutations = [
        (
            Method::PATCH,
            "/catalog/datasets/people",
            json!({ "description": "once" }),
        ),
        (
            Method::POST,
            "/catalog/datasets/people/tombstone",
            json!({ "row_keys": ["3"], "reason": "once" }),
        ),
        (
            Method::POST,
            "/catalog/datasets/people/delete",
            json!({ "where": "name LIKE 'grace%'", "reason": "once" }),
        ),
        (Method::POST, "/catalog/datasets/people/compact", json!({})),
        (
            Method::POST,
            "/auth/tokens",
            json!({ "name": "once", "role": "analyst" }),
        ),
        (Method::POST, "/vectors/index?wait=true", index),
        (Method::DELETE, "/vectors/indexes/i", Value::Null),
        (Method::DELETE, "/catalog/datasets/people", Value::Null),
    ];
    for (number, (method, path, body)) in mutations.into_iter().enumerate() {
        let send = || {
            let call = api.call(method.clone(), path).key(&format!("m-{number}"));
            if body.is_null() {
                call.send()
            } else {
                call.json(&body).send()
            }
        };
        let first = send().await.ok();
        let seq = api.seq().await;
        let again = send().await.ok();
        assert_eq!(
            again["journal_seq"], first["journal_seq"],
            "{method} {path}: {first} then {again}"
        );
        for counted in ["tombstoned", "matched", "rows", "files"] {
            assert_eq!(again[counted], first[counted], "{method} {path}: {counted}");
        }
        let events = api.witness(seq).await.1;
        assert!(
            events.is_empty(),
            "{method} {path} took effect twice: {events:?}"
        );
    }
    let once = list(&api.get("/auth/tokens").await.ok());
    assert_eq!(
        once.iter().filter(|token| token["name"] == "once").count(),
        1
    );
}

#[tokio::test]
async fn requests_with_one_key_at_the_same_time_have_one_effect() {
    let daemon = Daemon::start();
    let api = daemon.admin();
    api.create("people", "id,name\n1,ada\n").await;
    let seq = api.seq().await;
    let requests = (0..8).map(|_| append(&api, "k-1", "id,name\n2,grace\n"));
    let answers = futures::future::join_all(requests).await;
    assert!(answers.iter().any(Answer::is_ok));
    for answer in &answers {
        assert!(
            answer.is_ok() || [409, 503].contains(&answer.status),
            "{}",
            answer.text()
        );
    }
    assert_eq!(api.cell("SELECT count(*) FROM people").await, 2);
    let commits = api.witness(seq).await.1;
    assert_eq!(commits.len(), 1, "{commits:?}");
}

#[tokio::test]
async fn keys_of_different_callers_are_different_keys() {
    let daemon = Daemon::start();
    let api = daemon.admin();
    api.create("people", "id,name\n1,ada\n").await;
    let operator = api.with_role("operator").await;
    append(&api, "k-1", "id,name\n2,grace\n").await.ok();
    append(&operator, "k-1", "id,name\n3,edsger\n").await.ok();
    assert_eq!(api.cell("SELECT count(*) FROM people").await, 3);
}

#[tokio::test]
async fn a_refused_request_may_be_corrected_under_its_key() {
    let daemon = Daemon::start();
    let api = daemon.admin();
    append(&api, "k-1", "id,name\n2,grace\n").await.problem(404);
    api.create("people", "id,name\n1,ada\n").await;
    append(&api, "k-1", "id,name\n2,grace\n").await.ok();
    assert_eq!(api.cell("SELECT count(*) FROM people").await, 2);
}

#[tokio::test]
async fn a_rollback_under_one_key_goes_back_once() {
    let daemon = Daemon::start();
    let api = daemon.admin();
    api.create("people", "id,name\n1,ada lovelace\n2,grace hopper\n")
        .await;
    let index = json!({ "name": "i", "source": "people", "key": "id", "text": "{name}", "backend": "hnsw" });
    api.post("/vectors/index?wait=true", &index).await.ok();
    for _ in 0..2 {
        let path = "/vectors/indexes/i/generations?wait=true";
        api.post(path, &json!({})).await.ok();
    }
    let rollback = || {
        let call = api.call(Method::POST, "/vectors/indexes/i/rollback");
        call.key("back").send()
    };
    let first = rollback().await.ok();
    let again = rollback().await.ok();
    assert_eq!(again, first);
    assert_eq!(
        api.get("/vectors/indexes/i").await.ok()["generation"],
        first["generation"]
    );
}
