//! Receipts: an answer is asked again at its position, and it is told whether it is the same and who is gone since.

use reqwest::Method;
use serde_json::{Value, json};

use super::{Lake, VISIBLE, shows_nothing};
use crate::support::api::Api;

async fn receipt_of(agent: &Api, sql: &str) -> String {
    let answer = agent.sql(sql).await.ok();
    answer["receipt"]
        .as_str()
        .expect("an agent's answer has one")
        .to_owned()
}

async fn shown(reader: &Api, receipt: &str) -> Value {
    reader.get(&format!("/receipts/{receipt}")).await.ok()
}

#[tokio::test]
async fn an_answer_is_the_same_at_its_position_whatever_came_after() {
    let lake = Lake::new().await;
    lake.tool().await;
    let agent = lake.agent("helper", &["search_candidates"]).await;
    let all = receipt_of(&agent, "SELECT id, name, city FROM candidates_safe").await;
    let page = json!({ "sql": "SELECT id FROM candidates_safe ORDER BY id", "limit": 3 });
    let page = agent.post("/query/sql", &page).await.ok();
    let page = page["receipt"].as_str().unwrap().to_owned();
    let params = json!({ "params": { "skill": "sql" } });
    let tool = agent
        .post("/tools/search_candidates/call", &params)
        .await
        .ok();
    let tool = tool["receipt"].as_str().unwrap().to_owned();
    let stream = agent
        .call(Method::POST, "/query/sql")
        .header("accept", "text/csv");
    let stream = stream
        .json(&json!({ "sql": "SELECT id, rate FROM candidates_safe" }))
        .send()
        .await;
    let stream = stream.header("x-lakehouse-receipt").to_owned();

    let more =
        "id,name,city,skill,rate,email,phone,ssn,blocked\nc100,new,Bern,sql,1.5,a,b,c,false\n";
    lake.admin
        .ingest("dataset=candidates&mode=append", "text/csv", more)
        .await
        .ok();
    let now = agent.sql("SELECT id FROM candidates_safe").await.ok();
    assert_eq!(now["row_count"], VISIBLE + 1);
    for (what, receipt, rows) in [
        ("all", &all, 20),
        ("page", &page, 3),
        ("tool", &tool, 10),
        ("stream", &stream, 20),
    ] {
        let found = shown(&agent, receipt).await;
        assert_eq!(found["same"], true, "{what}: {found:#}");
        assert_eq!(
            found["rows"],
            json!({ "then": rows, "now": rows }),
            "{what}"
        );
        assert_eq!(found["erased"], json!([]));
        shows_nothing(what, &found.to_string());
    }
}

#[tokio::test]
async fn rows_that_were_erased_since_are_told_and_to_those_who_may_by_name() {
    let lake = Lake::new().await;
    let agent = lake.agent("helper", &[]).await;
    let receipt = receipt_of(&agent, "SELECT id, name FROM candidates_safe").await;
    lake.admin
        .tombstone("candidates", &["c1", "c3"], "asked for it")
        .await
        .ok();
    let found = shown(&agent, &receipt).await;
    assert_eq!(found["same"], false, "{found:#}");
    assert_eq!(found["rows"], json!({ "then": 20, "now": 19 }));
    let erased = found["erased"].as_array().unwrap();
    assert_eq!(erased.len(), 1, "only the one that it was shown: {found:#}");
    assert!(erased[0].get("row_key").is_none() && erased[0]["key_hash"].is_string());
    let auditor = lake.admin.with_role("auditor").await;
    let found = shown(&auditor, &receipt).await;
    assert_eq!(found["erased"][0]["row_key"], "c1");
    assert_eq!(found["principal"], "helper");
}

#[tokio::test]
async fn a_receipt_is_its_holders_and_the_auditors_and_nobody_elses() {
    let lake = Lake::new().await;
    let agent = lake.agent("helper", &[]).await;
    let other = lake.agent("other", &[]).await;
    let receipt = receipt_of(&agent, "SELECT id FROM candidates_safe").await;
    let path = format!("/receipts/{receipt}");
    let foreign = other
        .get(&path)
        .await
        .problem_code(404, "receipt_not_found");
    let missing = other
        .get("/receipts/r1-00000000000000000000")
        .await
        .problem_code(404, "receipt_not_found");
    assert_eq!(foreign["title"], missing["title"]);
    lake.admin
        .with_role("analyst")
        .await
        .get(&path)
        .await
        .problem(404);
    lake.admin.get(&path).await.ok();
}

#[tokio::test]
async fn a_receipt_outlives_the_daemon_and_the_token_and_sees_a_changed_policy() {
    let lake = Lake::new().await;
    let agent = lake.agent("helper", &[]).await;
    let receipt = receipt_of(&agent, "SELECT * FROM candidates_safe").await;
    let daemon = lake.daemon.crash_and_restart();
    let admin = daemon.admin();
    let tokens = admin.get("/auth/tokens").await.ok();
    let id = tokens["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|token| token["name"] == "helper")
        .unwrap()["id"]
        .clone();
    admin
        .delete(&format!("/auth/tokens/{}", id.as_str().unwrap()))
        .await
        .ok();
    let found = shown(&admin, &receipt).await;
    assert_eq!(
        (&found["same"], &found["policy_changed"]),
        (&json!(true), &json!(true)),
        "{found:#}"
    );
}

#[tokio::test]
async fn an_answer_is_asked_again_under_the_view_of_today() {
    let lake = Lake::new().await;
    let agent = lake.agent("helper", &[]).await;
    let receipt = receipt_of(&agent, "SELECT id FROM candidates_safe").await;
    let found = shown(&agent, &receipt).await;
    assert_eq!(found["policy_changed"], false, "{found:#}");
    let narrower = json!({
        "name": "candidates_safe",
        "base_dataset": "candidates",
        "columns": ["id"],
        "row_filter": "blocked = false AND city = 'Graz'",
        "replace": true,
    });
    lake.admin.post("/catalog/views", &narrower).await.ok();
    let found = shown(&agent, &receipt).await;
    assert_eq!(
        (&found["same"], &found["policy_changed"]),
        (&json!(false), &json!(true)),
        "{found:#}"
    );
    assert_eq!(found["rows"], json!({ "then": 20, "now": 10 }));
}

#[tokio::test]
async fn a_class_that_changed_and_a_view_that_went_are_changes_of_policy() {
    let lake = Lake::new().await;
    let agent = lake.agent("helper", &[]).await;
    let other = json!({ "name": "others", "base_dataset": "candidates", "columns": ["id"] });
    lake.admin.post("/catalog/views", &other).await.ok();
    let ask = async || receipt_of(&agent, "SELECT id FROM candidates_safe").await;
    let changed = async |receipt: &str| shown(&agent, receipt).await["policy_changed"].clone();

    let receipt = ask().await;
    assert_eq!(changed(&receipt).await, false);
    let described = json!({ "description": "people" });
    let patch = async |body| {
        lake.admin
            .patch("/catalog/datasets/candidates", &body)
            .await
            .ok()
    };
    patch(described).await;
    assert_eq!(changed(&receipt).await, false);
    patch(json!({ "sensitivity": { "city": "internal" } })).await;
    assert_eq!(changed(&receipt).await, true);

    let receipt = ask().await;
    lake.admin.delete("/catalog/views/others").await.ok();
    assert_eq!(changed(&receipt).await, true);
}
