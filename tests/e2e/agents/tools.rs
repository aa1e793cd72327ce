//! Tools: written down once, called by name, with values that never become a part of the statement.

use serde_json::{Value, json};

use super::{BASE, Lake, VIEW, search_candidates, shows_nothing};
use crate::support::api::list;

fn ids(answer: &Value) -> Vec<&str> {
    let rows = answer["rows"].as_array().unwrap().iter();
    rows.map(|row| row[0].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_tool_answers_with_bound_values_as_its_caller() {
    let lake = Lake::new().await;
    let registered = lake.tool().await;
    assert_eq!(registered["version"], 1);
    assert_eq!(registered["columns"][0]["name"], "id");
    let agent = lake.agent("helper", &["search_candidates"]).await;
    let listed = list(&agent.get("/tools").await.ok());
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0]["params"][0]["type"], "string");
    assert!(
        listed[0].get("sql").is_none(),
        "an agent needs no statement"
    );

    let call = "/tools/search_candidates/call";
    let asked = json!({ "params": { "skill": "sql", "most": 8 } });
    let answer = agent.post(call, &asked).await.ok();
    assert_eq!(ids(&answer), ["c1", "c4", "c7"], "{answer}");
    assert_eq!(answer["version"], 1);
    // The rows with this skill are the blocked ones.
    let blocked = agent
        .post(call, &json!({ "params": { "skill": "rust" } }))
        .await
        .ok();
    assert_eq!(blocked["row_count"], 0);

    for hostile in [
        "x' OR '1'='1",
        "x'; DROP TABLE candidates; --",
        "$most",
        "sql\u{0} OR true",
    ] {
        let answer = agent
            .post(call, &json!({ "params": { "skill": hostile } }))
            .await;
        assert_eq!(answer.ok()["row_count"], 0, "{hostile} is a value");
        shows_nothing(hostile, &answer.text());
    }
    for (params, code) in [
        (json!({}), "invalid_parameter"),
        (json!({ "skill": 3 }), "invalid_parameter"),
        (
            json!({ "skill": "sql", "sort": "name" }),
            "invalid_parameter",
        ),
        (json!({ "skill": ["sql"] }), "invalid_parameter"),
    ] {
        let answer = agent.post(call, &json!({ "params": params })).await;
        answer.problem_code(400, code);
    }
}

#[tokio::test]
async fn a_tool_reads_nothing_but_what_it_is_bound_to() {
    let lake = Lake::new().await;
    lake.admin
        .create("other", "id,secret\n1,canary-other\n")
        .await;
    let seq = lake.admin.seq().await;
    for (sql, status) in [
        ("SELECT id FROM candidates", 404),
        (
            "SELECT s.id FROM candidates_safe s JOIN other o ON true",
            404,
        ),
        ("SELECT email FROM candidates_safe", 400),
        ("SELECT id FROM candidates_safe WHERE id = $unknown", 400),
        ("DROP TABLE candidates_safe", 422),
        ("SELECT 1; SELECT 2", 422),
    ] {
        let tool = json!({ "name": "bad", "bind": VIEW, "sql": sql });
        lake.admin.post("/tools", &tool).await.problem(status);
    }
    let unused = json!({
        "name": "bad", "bind": VIEW, "sql": "SELECT id FROM candidates_safe",
        "params": [{ "name": "x", "type": "string" }],
    });
    lake.admin.post("/tools", &unused).await.problem(400);
    let absent = json!({ "name": "bad", "bind": "nothing", "sql": "SELECT 1" });
    lake.admin.post("/tools", &absent).await.problem(404);
    assert!(
        lake.admin.witness(seq).await.1.is_empty(),
        "nothing was written down"
    );
}

#[tokio::test]
async fn a_tool_that_is_not_in_the_token_is_as_absent_as_one_that_never_was() {
    let lake = Lake::new().await;
    lake.tool().await;
    let agent = lake.agent("helper", &[]).await;
    assert!(list(&agent.get("/tools").await.ok()).is_empty());
    let params = json!({ "params": { "skill": "sql" } });
    let hidden = agent
        .post("/tools/search_candidates/call", &params)
        .await
        .problem(404);
    let missing = agent
        .post("/tools/search_candidatez/call", &params)
        .await
        .problem(404);
    let without_name = |problem: &Value| {
        problem["detail"]
            .as_str()
            .unwrap()
            .replace("candidatez", "candidates")
    };
    assert_eq!(without_name(&hidden), without_name(&missing));
    assert_eq!(hidden["code"], missing["code"]);
    for role in ["analyst", "operator", "admin"] {
        let caller = lake
            .admin
            .with_token(&json!({ "name": role.to_owned() + "1", "role": role }))
            .await;
        caller
            .post("/tools/search_candidates/call", &params)
            .await
            .ok();
    }
    let auditor = lake.admin.with_role("auditor").await;
    auditor
        .post("/tools/search_candidates/call", &params)
        .await
        .problem(403);
}

#[tokio::test]
async fn tools_are_written_down_again_and_taken_away_and_survive_a_crash() {
    let lake = Lake::new().await;
    let first = lake.tool().await;
    let same = lake.tool().await;
    assert_eq!(same["version"], 1, "the same tool is no new version");
    assert_eq!(first["name"], same["name"]);
    let mut changed = search_candidates();
    changed["description"] = json!("Changed");
    let second = lake.admin.post("/tools", &changed).await.ok();
    assert_eq!(second["version"], 2);
    let events = lake.admin.events(0).await;
    let registered: Vec<_> = events
        .iter()
        .filter(|event| event["kind"] == "ToolRegistered")
        .collect();
    assert_eq!(registered.len(), 2);

    let agent = lake.agent("helper", &["search_candidates"]).await;
    let analyst = lake.admin.with_role("analyst").await;
    let denied = analyst.post("/tools", &search_candidates()).await;
    denied.problem(403);
    analyst
        .delete("/tools/search_candidates")
        .await
        .problem(403);
    let daemon = lake.daemon.crash_and_restart();
    let agent = daemon.client(Some(agent.token()));
    let params = json!({ "params": { "skill": "sql" } });
    let answer = agent
        .post("/tools/search_candidates/call", &params)
        .await
        .ok();
    assert_eq!(answer["version"], 2);
    daemon.admin().delete("/tools/search_candidates").await.ok();
    agent
        .post("/tools/search_candidates/call", &params)
        .await
        .problem(404);
    daemon
        .admin()
        .delete("/tools/search_candidates")
        .await
        .problem_code(404, "tool_not_found");
}

#[tokio::test]
async fn a_tool_over_a_dataset_is_nothing_for_an_agent_even_when_its_token_names_it() {
    let lake = Lake::new().await;
    let over_base = json!({ "name": "raw", "bind": BASE, "sql": "SELECT * FROM candidates" });
    lake.admin.post("/tools", &over_base).await.ok();
    let agent = lake.agent("helper", &["raw"]).await;
    let answer = agent.post("/tools/raw/call", &json!({})).await;
    answer.problem(404);
    shows_nothing("the refusal", &answer.text());
}
