//! The API document: it lists the routes of the contract that this version has, and no other.

use std::collections::BTreeSet;

use reqwest::Method;

use crate::support::daemon::Daemon;

/// The contract's endpoints: `METHOD PATH`, and `later` before those that this version does not have.
const CONTRACT: &str = include_str!("../contract_routes.txt");

/// `METHOD /path/{}`: how a parameter is called does not matter.
fn normal(method: &str, path: &str) -> String {
    let segments = path.split('/').map(|segment| {
        if segment.starts_with('{') {
            "{}"
        } else {
            segment
        }
    });
    format!(
        "{} {}",
        method.to_uppercase(),
        segments.collect::<Vec<_>>().join("/")
    )
}

fn contract(later: bool) -> BTreeSet<String> {
    CONTRACT
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .filter(|line| line.starts_with("later ") == later)
        .map(|line| {
            let line = line.strip_prefix("later ").unwrap_or(line);
            let (method, path) = line.split_once(' ').expect("a method and a path");
            normal(method, path.trim())
        })
        .collect()
}

async fn documented(daemon: &Daemon) -> BTreeSet<String> {
    let document = daemon.admin().get("/openapi.json").await.ok();
    assert!(
        document["openapi"].as_str().unwrap().starts_with("3."),
        "{}",
        document["openapi"]
    );
    let paths = document["paths"].as_object().unwrap().iter();
    paths
        .flat_map(|(path, methods)| {
            methods
                .as_object()
                .unwrap()
                .keys()
                .map(move |method| normal(method, path))
        })
        .collect()
}

#[tokio::test]
async fn the_document_and_the_contract_agree() {
    let daemon = Daemon::start();
    let documented = documented(&daemon).await;
    let promised = contract(false);
    let missing: Vec<_> = promised.difference(&documented).collect();
    let unknown: Vec<_> = documented.difference(&promised).collect();
    assert!(
        missing.is_empty() && unknown.is_empty(),
        "in the contract only: {missing:#?}\nin the document only: {unknown:#?}"
    );
}

#[tokio::test]
async fn what_is_promised_answers_and_what_is_not_there_yet_is_404() {
    let daemon = Daemon::start();
    let api = daemon.admin();
    for (later, routes) in [(false, contract(false)), (true, contract(true))] {
        for route in routes {
            let (method, path) = route.split_once(' ').unwrap();
            // The stream of events does not end.
            if path == "/journal/stream" {
                continue;
            }
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let answer = api
                .call(method.clone(), &path.replace("{}", "nothing"))
                .send()
                .await;
            if later {
                // Where the same path has other methods, 405 is the exact word for it.
                let absent = [404, 405].contains(&answer.status);
                assert!(
                    absent,
                    "{route} is for later: {} {}",
                    answer.status,
                    answer.text()
                );
                answer.refused();
            } else {
                assert!(
                    answer.status < 500,
                    "{route}: {} {}",
                    answer.status,
                    answer.text()
                );
                if answer.status == 404 && method != Method::HEAD {
                    let code = answer.problem(404)["code"].clone();
                    assert_ne!(
                        code,
                        "route_not_found",
                        "{route} is there: {}",
                        answer.text()
                    );
                }
                assert_ne!(answer.status, 405, "{route} is there: {}", answer.text());
            }
        }
    }
}

#[tokio::test]
async fn every_failure_is_a_problem_document() {
    let daemon = Daemon::start();
    let api = daemon.admin();
    api.get("/no/such/route").await.problem(404);
    api.get("/catalog/datasets/nothing").await.problem(404);
    api.get("/catalog/datasets?limit=no").await.problem(400);
    let wrong_method = api.call(Method::PUT, "/query/sql").send().await;
    assert!([404, 405].contains(&wrong_method.status));
    wrong_method.refused();
    let malformed = api
        .call(Method::POST, "/query/sql")
        .header("content-type", "application/json");
    malformed.body("{").send().await.problem(400);
    let not_json = api
        .call(Method::POST, "/query/sql")
        .header("content-type", "text/plain");
    not_json.body("SELECT 1").send().await.refused();
    let large = |path: &str, body: String| {
        let call = api.call(Method::POST, path);
        let call = call.header("content-type", "application/json").body(body);
        call.send()
    };
    let long = "x".repeat(17 << 20);
    let statement = format!("{{\"sql\": \"SELECT '{long}'\"}}");
    large("/query/sql", statement).await.problem(413);
    // A million row keys are more than that.
    let keys = format!("{{\"row_keys\": [\"{long}\"], \"reason\": \"asked\"}}");
    let keys = large("/catalog/datasets/nothing/tombstone", keys).await;
    keys.problem(404);
    daemon
        .client(None)
        .get("/catalog/datasets")
        .await
        .problem(401);
    api.with_role("analyst")
        .await
        .get("/auth/tokens")
        .await
        .problem(403);
}
