//! Who may come in, and as what.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::api::{Api, list, secret_of};
use crate::support::daemon::Daemon;

/// A problem without what differs between any two requests.
fn without_the_request(mut problem: Value) -> Value {
    let fields = problem.as_object_mut().unwrap();
    fields.remove("instance");
    fields.remove("request_id");
    problem
}

#[tokio::test]
async fn every_route_but_the_open_ones_refuses_a_missing_and_a_wrong_token_alike() {
    let daemon = Daemon::start();
    let document = daemon.admin().get("/openapi.json").await.ok();
    let wrong = "0".repeat(64);
    let missing = daemon
        .client(None)
        .get("/catalog/datasets")
        .await
        .problem(401);
    let uniform = without_the_request(missing);

    let mut seen = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        if ["/health", "/openapi.json", "/", "/metrics"].contains(&path.as_str()) {
            continue;
        }
        for method in methods.as_object().unwrap().keys() {
            let Ok(method) = Method::from_bytes(method.to_uppercase().as_bytes()) else {
                continue;
            };
            let concrete = fill(path);
            for token in [None, Some(wrong.as_str()), Some("")] {
                let answer = daemon
                    .client(token)
                    .call(method.clone(), &concrete)
                    .send()
                    .await;
                assert_eq!(
                    answer.status,
                    401,
                    "{method} {concrete} with {token:?}: {}",
                    answer.text()
                );
                if method != Method::HEAD {
                    assert_eq!(
                        without_the_request(answer.problem(401)),
                        uniform,
                        "{method} {path}"
                    );
                }
                seen += 1;
            }
        }
    }
    assert!(seen > 60, "the document lists the routes: {seen} requests");
}

/// A path with a harmless name for every parameter.
fn fill(path: &str) -> String {
    let segments = path.split('/').map(|segment| {
        if segment.contains('{') {
            "nothing"
        } else {
            segment
        }
    });
    segments.collect::<Vec<_>>().join("/")
}

/// One request a permission, with a status when the role has it.
fn permissions() -> Vec<(&'static str, Method, &'static str, Value)> {
    let row = json!({ "row_keys": ["1"], "reason": "asked" });
    let index = json!({ "name": "i", "source": "people", "key": "id", "text": "{name}", "backend": "hnsw" });
    let token = json!({ "name": "another", "role": "analyst" });
    vec![
        (
            "query",
            Method::POST,
            "/query/sql",
            json!({ "sql": "SELECT id FROM people" }),
        ),
        (
            "browse",
            Method::GET,
            "/catalog/datasets/people",
            Value::Null,
        ),
        (
            "journal",
            Method::GET,
            "/journal/events?limit=1",
            Value::Null,
        ),
        (
            "history",
            Method::GET,
            "/journal/history/1?dataset=people",
            Value::Null,
        ),
        ("verify", Method::POST, "/journal/verify", Value::Null),
        (
            "tombstone",
            Method::POST,
            "/catalog/datasets/people/tombstone",
            row,
        ),
        (
            "patch",
            Method::PATCH,
            "/catalog/datasets/people",
            json!({ "description": "x" }),
        ),
        ("index", Method::POST, "/vectors/index?wait=true", index),
        ("tokens", Method::GET, "/auth/tokens", Value::Null),
        ("issue", Method::POST, "/auth/tokens", token),
        (
            "drop",
            Method::DELETE,
            "/catalog/datasets/people",
            Value::Null,
        ),
    ]
}

async fn ask(api: &Api, method: Method, path: &str, body: &Value) -> crate::support::api::Answer {
    let call = api.call(method, path);
    if body.is_null() {
        call.send().await
    } else {
        call.json(body).send().await
    }
}

#[tokio::test]
async fn a_role_can_do_what_it_is_for_and_nothing_else() {
    let daemon = Daemon::start();
    let admin = daemon.admin();
    admin
        .create("people", "id,name\n1,ada lovelace\n2,grace hopper\n")
        .await;
    let allowed: [(&str, &[&str], &[&str]); 2] = [
        (
            "analyst",
            &["query", "browse"],
            &["tombstone", "patch", "index", "tokens", "issue", "drop"],
        ),
        (
            "auditor",
            &["journal", "history"],
            &["query", "tombstone", "patch", "index", "issue", "drop"],
        ),
    ];
    for (role, may, may_not) in allowed {
        let caller = admin.with_role(role).await;
        let (before, seq) = (admin.witness(0).await.0, admin.seq().await);
        for (what, method, path, body) in permissions() {
            let answer = ask(&caller, method, path, &body).await;
            if may.contains(&what) {
                assert!(
                    answer.is_ok(),
                    "{role} may {what}: {} {}",
                    answer.status,
                    answer.text()
                );
            } else if may_not.contains(&what) {
                let problem = answer.refused();
                let hidden = answer.status == 404 && what == "query";
                assert!(
                    answer.status == 403 || hidden,
                    "{role} may not {what}: {problem}"
                );
            }
        }
        let csv = "id,name\n3,edsger\n";
        let ingest = caller
            .ingest("dataset=people&mode=append", "text/csv", csv)
            .await;
        ingest.problem(403);
        let (after, events) = admin.witness(seq).await;
        assert_eq!(after, before, "{role} changed nothing");
        assert!(events.is_empty(), "{role} changed nothing: {events:?}");
    }
}

#[tokio::test]
async fn an_operator_works_with_data_but_gives_out_no_tokens() {
    let daemon = Daemon::start();
    let operator = daemon.admin().with_role("operator").await;
    operator
        .create("people", "id,name\n1,ada lovelace\n2,grace hopper\n")
        .await;
    for (what, method, path, body) in permissions() {
        if ["verify", "journal", "history"].contains(&what) {
            continue;
        }
        // The index stands on the dataset: dropped first, so that the dataset may go.
        if what == "drop" {
            operator.delete("/vectors/indexes/i").await.ok();
        }
        let answer = ask(&operator, method, path, &body).await;
        if ["tokens", "issue"].contains(&what) {
            answer.problem(403);
        } else {
            assert!(
                answer.is_ok(),
                "an operator may {what}: {} {}",
                answer.status,
                answer.text()
            );
        }
    }
}

#[tokio::test]
async fn a_revoked_token_is_dead_at_once_and_stays_dead() {
    let daemon = Daemon::start();
    let admin = daemon.admin();
    let issued = admin
        .post(
            "/auth/tokens",
            &json!({ "name": "guest", "role": "analyst" }),
        )
        .await
        .ok();
    let (id, secret) = (
        issued["id"].as_str().unwrap().to_owned(),
        secret_of(&issued),
    );
    daemon
        .client(Some(&secret))
        .get("/catalog/datasets")
        .await
        .ok();

    admin.delete(&format!("/auth/tokens/{id}")).await.ok();
    let dead = daemon
        .client(Some(&secret))
        .get("/catalog/datasets")
        .await
        .problem(401);
    let wrong = daemon
        .client(Some("wrong"))
        .get("/catalog/datasets")
        .await
        .problem(401);
    assert_eq!(
        dead,
        without_difference(&wrong, &dead),
        "nothing tells a revoked token from a wrong one"
    );

    let daemon = daemon.crash_and_restart();
    daemon
        .client(Some(&secret))
        .get("/catalog/datasets")
        .await
        .problem(401);
}

/// `other` with the request's own fields of `like`.
fn without_difference(other: &Value, like: &Value) -> Value {
    let mut other = other.clone();
    for field in ["instance", "request_id"] {
        if let Some(value) = like.get(field) {
            other[field] = value.clone();
        }
    }
    other
}

#[tokio::test]
async fn the_secret_is_shown_once_and_kept_nowhere() {
    let daemon = Daemon::start();
    let admin = daemon.admin();
    let issued = admin
        .post(
            "/auth/tokens",
            &json!({ "name": "guest", "role": "analyst" }),
        )
        .await
        .ok();
    assert!(issued["journal_seq"].is_u64(), "{issued}");
    let secret = secret_of(&issued);
    let listed = admin.get("/auth/tokens").await;
    assert!(!listed.text().contains(&secret));
    let tokens = list(&listed.ok());
    let guest = tokens
        .iter()
        .find(|token| token["name"] == "guest")
        .expect("it is listed");
    assert_eq!(guest["role"], "analyst");

    let events = serde_json::to_string(&admin.events(0).await).unwrap();
    assert!(!events.contains(&secret), "no secret in the journal");
    let (site, _) = daemon.sigterm();
    assert!(!site.stderr().contains(&secret), "no secret in the log");
    let found = files_with(&site.data_dir(), secret.as_bytes());
    assert!(found.is_empty(), "no secret on disk: {found:?}");
}

fn files_with(dir: &std::path::Path, needle: &[u8]) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_with(&path, needle));
        } else if std::fs::read(&path)
            .unwrap()
            .windows(needle.len())
            .any(|part| part == needle)
        {
            found.push(path);
        }
    }
    found
}

#[tokio::test]
async fn an_expired_token_is_refused() {
    let daemon = Daemon::start();
    let admin = daemon.admin();
    let past = json!({ "name": "past", "role": "analyst", "expires_at": "2020-01-01T00:00:00Z" });
    admin.post("/auth/tokens", &past).await.refused();

    let end = chrono::Utc::now() + chrono::TimeDelta::milliseconds(1500);
    let soon = json!({ "name": "soon", "role": "analyst", "expires_at": end.to_rfc3339() });
    let secret = secret_of(&admin.post("/auth/tokens", &soon).await.ok());
    let guest = daemon.client(Some(&secret));
    let began = Instant::now();
    crate::support::until("the token to expire", || async {
        (guest.get("/catalog/datasets").await.status == 401).then_some(())
    })
    .await;
    assert!(began.elapsed() < Duration::from_secs(20));
    assert!(chrono::Utc::now() >= end, "it did not end before its time");
}

#[tokio::test]
async fn a_role_or_field_that_does_not_exist_is_refused() {
    let daemon = Daemon::start();
    let admin = daemon.admin();
    let seq = admin.seq().await;
    for body in [
        json!({ "name": "x", "role": "root" }),
        json!({ "name": "x" }),
        json!({ "name": "", "role": "analyst" }),
        json!({ "name": "x", "role": "analyst", "admin": true }),
        json!([]),
    ] {
        admin.post("/auth/tokens", &body).await.refused();
    }
    assert!(admin.witness(seq).await.1.is_empty());
}
