//! Every route by every role, out of the `OpenAPI` document: who may not is refused, whatever the name, and a
//! new route without a rule fails here.

use std::collections::{BTreeMap, BTreeSet};

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::api::{Answer, Api};
use crate::support::daemon::Daemon;

const RULES: &str = include_str!("../route_roles.txt");
const ROLES: [&str; 5] = ["admin", "operator", "analyst", "agent", "auditor"];

/// Roles by `METHOD /path`.
fn rules() -> BTreeMap<String, BTreeSet<&'static str>> {
    let lines = RULES
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let mut words = line.split_whitespace();
            let (method, path) = (words.next().unwrap(), words.next().unwrap());
            (format!("{method} {path}"), words.collect())
        })
        .collect()
}

fn documented(document: &Value) -> BTreeSet<String> {
    let paths = document["paths"].as_object().unwrap().iter();
    paths
        .flat_map(|(path, methods)| {
            let methods = methods.as_object().unwrap().keys();
            methods.map(move |method| format!("{} {path}", method.to_uppercase()))
        })
        .collect()
}

/// A path with these names in the place of its parameters.
fn filled(path: &str, name: &str) -> String {
    let segments = path.split('/').map(|segment| {
        if segment.starts_with('{') {
            name
        } else {
            segment
        }
    });
    segments.collect::<Vec<_>>().join("/")
}

async fn knock(api: &Api, route: &str, name: &str) -> Answer {
    let (method, path) = route.split_once(' ').unwrap();
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    let path = filled(path, name);
    if ["POST", "PATCH", "PUT"].contains(&method.as_str()) {
        return api.call(method, &path).json(&json!({})).send().await;
    }
    api.call(method, &path).send().await
}

/// A refusal without what differs between any two requests.
fn told(answer: &Answer) -> String {
    let mut told = serde_json::from_slice::<Value>(&answer.body).unwrap_or(Value::Null);
    if let Some(fields) = told.as_object_mut() {
        fields.remove("instance");
        fields.remove("request_id");
    }
    format!("{} {told}", answer.status)
}

#[tokio::test]
async fn every_route_has_a_rule_and_every_rule_a_route() {
    let daemon = Daemon::start();
    let document = daemon.admin().get("/openapi.json").await.ok();
    let (documented, rules) = (documented(&document), rules());
    let listed: BTreeSet<String> = rules.keys().cloned().collect();
    let without: Vec<_> = documented.difference(&listed).collect();
    let stale: Vec<_> = listed.difference(&documented).collect();
    assert!(
        without.is_empty() && stale.is_empty(),
        "no rule: {without:#?}\nno route: {stale:#?}"
    );
}

#[tokio::test]
async fn who_may_not_is_refused_and_learns_of_no_name() {
    let daemon = Daemon::start();
    let admin = daemon.admin();
    admin.create("people", "id,name\n1,ada\n").await;
    let mut checked = 0;
    for role in ROLES {
        let api = admin.with_role(role).await;
        for (route, roles) in rules() {
            if roles.contains("everybody") || route == "GET /journal/stream" {
                continue;
            }
            checked += 1;
            if roles.contains(role) {
                let answer = knock(&api, &route, "nothing_of_that_name").await;
                assert!(
                    ![401, 403].contains(&answer.status) && answer.status < 500,
                    "{role} {route}: {} {}",
                    answer.status,
                    answer.text()
                );
                continue;
            }
            let there = knock(&api, &route, "people").await;
            let missing = knock(&api, &route, "nothing_of_that_name").await;
            assert_eq!(there.status, 403, "{role} {route}: {}", there.text());
            assert_eq!(told(&there), told(&missing), "{role} {route}");
        }
    }
    assert!(checked > 200, "{checked} doors");
}
