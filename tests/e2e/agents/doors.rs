//! Names that are hidden, and bodies that are none: both are answered as what is not there and cannot be taken.
//! Who may knock at which door stands in `doors.rs` one directory above.

use reqwest::Method;
use serde_json::{Value, json};

use super::Lake;
use crate::support::api::{Answer, Api};

fn filled(path: &str, with: &str) -> String {
    let parts = path
        .split('/')
        .map(|part| if part.starts_with('{') { with } else { part });
    parts.collect::<Vec<_>>().join("/")
}

async fn routes(api: &Api) -> Vec<(Method, String)> {
    let document = api.get("/openapi.json").await.ok();
    let mut all = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            all.push((method, path.clone()));
        }
    }
    all
}

/// A refusal without what differs between any two requests.
fn uniform(answer: &Answer, names: &[&str]) -> Value {
    let mut problem = answer.json();
    problem.as_object_mut().unwrap().remove("instance");
    let mut text = problem.to_string();
    for name in names {
        text = text.replace(name, "…");
    }
    serde_json::from_str(&text).unwrap()
}

#[tokio::test]
async fn a_hidden_name_and_one_that_never_was_are_answered_alike_in_sql() {
    let lake = Lake::new().await;
    let agent = lake.agent("helper", &[]).await;
    for (hidden, missing) in [
        ("SELECT * FROM candidates", "SELECT * FROM candidateg"),
        (
            "SELECT email FROM candidates_safe",
            "SELECT emaiq FROM candidates_safe",
        ),
        (
            "SELECT c.ssn FROM candidates_safe c",
            "SELECT c.ssm FROM candidates_safe c",
        ),
        ("SELECT * FROM system.events", "SELECT * FROM system.eventz"),
        (
            "SELECT * FROM lake.datasets.candidates",
            "SELECT * FROM lake.datasets.candidateg",
        ),
    ] {
        let (one, other) = (agent.sql(hidden).await, agent.sql(missing).await);
        assert_eq!(
            one.status,
            other.status,
            "{hidden}: {} {}",
            one.text(),
            other.text()
        );
        let names = [
            "candidates_safe",
            "candidates",
            "candidateg",
            "email",
            "emaiq",
            "ssn",
            "ssm",
            "eventz",
            "events",
        ];
        assert_eq!(uniform(&one, &names), uniform(&other, &names), "{hidden}");
    }
}

#[tokio::test]
async fn no_body_however_malformed_is_a_defect_or_taken() {
    let lake = Lake::new().await;
    let deep = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000));
    let deep_object = format!("{}1{}", r#"{"a":"#.repeat(10_000), "}".repeat(10_000));
    let bodies = [
        deep.as_str(),
        deep_object.as_str(),
        r#"{"name":"x","name":"y","role":"admin","role":"agent"}"#,
        r#"{"sql":"SELECT 1","sql":"SELECT 2"}"#,
        r#"{"sql":"SELECT 1","limit":-1}"#,
        r#"{"sql":"SELECT 1","limit":1e400}"#,
        r#"{"sql":"SELECT 1","limit":99999999999999999999999999}"#,
        r#"{"name":"x","role":"agent","secret_hash":"00","id":"me"}"#,
        r#"{"name":"x","bind":"candidates_safe","sql":"SELECT 1","version":7}"#,
        "\"\\u0000\"",
        "nul\0l",
        "",
    ];
    for (method, path) in routes(&lake.admin).await {
        if ![Method::POST, Method::PATCH, Method::PUT].contains(&method)
            || path.starts_with("/ingest/file")
        {
            continue;
        }
        for body in bodies {
            let call = lake.admin.call(method.clone(), &filled(&path, "nothing"));
            let call = call.header("content-type", "application/json");
            let answer = call.body(body).send().await;
            let shown: String = body.chars().take(60).collect();
            assert!(
                answer.status < 500,
                "{method} {path} with {shown}: {} {}",
                answer.status,
                answer.text()
            );
            let strict = ["/auth/tokens", "/tools", "/query/sql"].contains(&path.as_str());
            assert!(!strict || answer.status >= 400, "{path} takes {shown}");
        }
    }
    assert_eq!(
        lake.admin.cell("SELECT count(*) FROM candidates").await,
        json!(30)
    );
}
