//! The audit: what an agent was told or refused is on disk before it knows.

use std::fs;

use serde_json::json;

use crate::support::api::list;
use crate::support::daemon::Daemon;

#[tokio::test]
async fn a_refusal_of_an_agent_is_put_down_before_it_leaves_and_survives_a_kill() {
    let daemon = Daemon::start();
    let api = daemon.admin();
    api.create("people", "id,ssn\n1,123\n").await;
    let agent = api.with_role("agent").await;
    for turn in 0..5 {
        let sql = format!("SELECT ssn FROM people WHERE id = {turn}");
        agent.sql(&sql).await.refused();
    }
    let daemon = Daemon::start_at(daemon.kill9());
    let api = daemon.admin();
    let lines = list(&api.get("/audit?limit=10").await.ok());
    assert_eq!(lines.len(), 5, "{lines:?}");
    for line in &lines {
        assert_eq!(
            (&line["role"], &line["allowed"]),
            (&json!("agent"), &json!(false))
        );
        assert!(
            line["request_id"].is_string() && line["code"].is_string(),
            "{line}"
        );
    }
    let verified = api.post("/audit/verify", &json!({})).await.ok();
    assert_eq!(
        (&verified["ok"], &verified["checked"]),
        (&json!(true), &json!(5))
    );
    let text = fs::read_dir(daemon.site().data_dir().join("audit")).unwrap();
    for file in text {
        let text = fs::read_to_string(file.unwrap().path()).unwrap();
        assert!(!text.contains("SELECT"), "no statement stands in the audit");
    }
}

#[tokio::test]
async fn an_audit_that_is_damaged_refuses_agents_and_nobody_else_and_says_where() {
    let daemon = Daemon::start();
    let api = daemon.admin();
    let agent = api.with_role("agent").await;
    agent.get("/catalog/datasets").await.refused();
    agent.get("/journal/events").await.refused();
    let (site, _) = daemon.sigterm();
    let audit = site.data_dir().join("audit");
    let file = fs::read_dir(&audit)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let mut bytes = fs::read(&file).unwrap();
    bytes[80] ^= 1;
    fs::write(&file, bytes).unwrap();
    let daemon = Daemon::start_at(site);
    let api = daemon.admin();
    api.get("/catalog/datasets").await.ok();
    let verified = api.post("/audit/verify", &json!({})).await.ok();
    assert_eq!(verified["ok"], false);
    assert_eq!(verified["broken"]["seq"], 1);
    let another = json!({ "name": "another", "role": "agent" });
    let refused = api
        .with_token(&another)
        .await
        .get("/catalog/datasets")
        .await;
    refused.problem_code(503, "audit_unavailable");
}

#[tokio::test]
async fn the_audit_is_for_auditors_and_administrators() {
    let daemon = Daemon::start();
    let api = daemon.admin();
    for (role, may) in [
        ("auditor", true),
        ("analyst", false),
        ("operator", false),
        ("agent", false),
    ] {
        let answer = api.with_role(role).await.get("/audit").await;
        assert_eq!(answer.is_ok(), may, "{role}");
    }
    let absent = api.get("/audit/subject/nothing/1").await;
    absent.problem_code(404, "dataset_not_found");
}
