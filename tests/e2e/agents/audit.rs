//! What stands in the audit of what an agent was answered or refused: the view and never its base, which rows, and no
//! value of any.

use std::fs;

use reqwest::Method;
use serde_json::json;

use super::{CANARIES, Lake, VIEW, VISIBLE};
use crate::support::{api::list, daemon::Daemon};

#[tokio::test]
async fn an_answer_stands_there_with_view_tool_rows_and_for_whom_and_without_a_value() {
    let lake = Lake::new().await;
    lake.tool().await;
    let agent = lake.agent("helper", &["search_candidates"]).await;
    let call = agent
        .call(Method::POST, "/query/sql")
        .header("x-lakehouse-on-behalf-of", "ada");
    let sql = json!({ "sql": "SELECT id AS x, name FROM candidates_safe ORDER BY id" });
    let answer = call.json(&sql).send().await;
    let body = answer.ok();
    assert_eq!(body["row_count"], VISIBLE);
    assert_eq!(body["receipt"], answer.header("x-lakehouse-receipt"));
    let params = json!({ "params": { "skill": "sql" } });
    agent
        .post("/tools/search_candidates/call", &params)
        .await
        .ok();
    agent.sql("SELECT ssn FROM candidates").await.problem(404);
    agent.sql("SELECT ssn FROM candidates_safe").await.refused();
    agent.get("/journal/events").await.problem(403);

    let lines = lake.audit("principal=helper").await;
    assert_eq!(lines.len(), 5, "{lines:#?}");
    let [events, column, base, tool, query] = &lines[..] else {
        unreachable!()
    };
    assert_eq!(query["object"], VIEW);
    assert_eq!(
        query["objects"],
        json!([VIEW]),
        "the view, and not what it stands for"
    );
    assert_eq!(query["on_behalf_of"], "ada");
    assert_eq!(
        (&query["rows"], &query["allowed"]),
        (&json!(VISIBLE), &json!(true))
    );
    assert!(
        query["statement"].is_string() && query["policy_seq"].is_u64(),
        "{query}"
    );
    assert_eq!(query["receipt"], body["receipt"]);
    assert_eq!(query["journal_seq"], body["as_of"]);
    assert_eq!(
        (&tool["tool"], &tool["object"]),
        (&json!("search_candidates"), &json!(VIEW))
    );
    assert_eq!(
        (&column["allowed"], &column["object"]),
        (&json!(false), &json!(VIEW))
    );
    assert_eq!(
        (&base["allowed"], &base["code"]),
        (&json!(false), &json!("dataset_not_found"))
    );
    assert_eq!(events["code"], "forbidden");
    assert_eq!(
        list(&lake.admin.get("/audit?view=candidates_safe").await.ok()).len(),
        3
    );

    for file in fs::read_dir(lake.daemon.site().data_dir().join("audit")).unwrap() {
        let text = fs::read_to_string(file.unwrap().path()).unwrap();
        for value in CANARIES
            .iter()
            .chain(&["person", "\"c1\"", "SELECT", "\"sql\""])
        {
            assert!(!text.contains(value), "{value} stands in the audit");
        }
    }
}

#[tokio::test]
async fn who_has_seen_a_person_is_told_by_any_name_of_the_key_and_possibly_without_it() {
    let lake = Lake::new().await;
    for (name, sql) in [
        ("plain", "SELECT * FROM candidates_safe WHERE city = 'Graz'"),
        (
            "renamed",
            "SELECT CAST(id AS VARCHAR) AS person FROM candidates_safe",
        ),
        (
            "nested",
            "SELECT y FROM (SELECT id AS y, rate FROM candidates_safe) t WHERE rate < 100 ORDER BY y",
        ),
        (
            "grouped",
            "SELECT id, count(*) FROM candidates_safe GROUP BY id",
        ),
        ("other", "SELECT id FROM candidates_safe WHERE id = 'c2'"),
        ("nameless", "SELECT name FROM candidates_safe"),
        ("counted", "SELECT count(*) FROM candidates_safe"),
    ] {
        let agent = lake.agent(name, &[]).await;
        agent.sql(sql).await.ok();
    }
    let seen = |key: &str| {
        let path = format!("/audit/subject/candidates/{key}");
        let admin = lake.admin.clone();
        async move {
            let lines = list(&admin.get(&path).await.ok());
            let mut found: Vec<(String, String)> = lines
                .iter()
                .map(|line| {
                    let text = |field: &str| line[field].as_str().unwrap().to_owned();
                    (text("principal"), text("seen"))
                })
                .collect();
            found.sort();
            found
        }
    };
    let expected = |all: &[(&str, &str)]| -> Vec<(String, String)> {
        all.iter()
            .map(|(name, seen)| ((*name).to_owned(), (*seen).to_owned()))
            .collect()
    };
    let of_one = seen("c1").await;
    let wanted = expected(&[
        ("counted", "possibly"),
        ("grouped", "named"),
        ("nameless", "possibly"),
        ("nested", "named"),
        ("plain", "named"),
        ("renamed", "named"),
    ]);
    assert_eq!(of_one, wanted);
    // A row that the view hides was in no answer by name.
    let of_blocked = seen("c3").await;
    assert!(
        of_blocked.iter().all(|(_, seen)| seen == "possibly"),
        "{of_blocked:?}"
    );
}

#[tokio::test]
async fn a_stream_stands_there_row_by_row_before_it_leaves() {
    let lake = Lake::new().await;
    let agent = lake.agent("helper", &[]).await;
    let sql = json!({ "sql": "SELECT id, city FROM candidates_safe" });
    for accept in ["text/csv", "application/vnd.apache.arrow.stream"] {
        let call = agent
            .call(Method::POST, "/query/sql")
            .header("accept", accept);
        let answer = call.json(&sql).send().await;
        assert!(answer.is_ok());
        assert!(!answer.header("x-lakehouse-receipt").is_empty());
    }
    let lines = lake.audit("principal=helper").await;
    let begun = lines.iter().filter(|line| line.get("goes_on").is_none());
    assert_eq!(begun.count(), 2);
    let parts = lines.iter().filter(|line| line["goes_on"] == true);
    let rows: u64 = parts.map(|line| line["rows"].as_u64().unwrap()).sum();
    assert_eq!(rows, 2 * VISIBLE);
    let subject = list(&lake.admin.get("/audit/subject/candidates/c1").await.ok());
    assert_eq!(
        subject
            .iter()
            .filter(|line| line["seen"] == "named")
            .count(),
        2
    );
}

#[tokio::test]
async fn when_the_audit_cannot_be_written_an_agent_is_told_nothing_by_any_door() {
    let lake = Lake::new().await;
    lake.tool().await;
    let agent = lake.agent("helper", &["search_candidates"]).await;
    agent.sql("SELECT 1").await.ok();
    let (site, _) = lake.daemon.sigterm();
    let audit = fs::read_dir(site.data_dir().join("audit"))
        .unwrap()
        .next()
        .unwrap();
    let path = audit.unwrap().path();
    let mut bytes = fs::read(&path).unwrap();
    bytes[90] ^= 1;
    fs::write(&path, bytes).unwrap();
    let daemon = Daemon::start_at(site);
    let agent = daemon.client(Some(agent.token()));
    agent
        .sql("SELECT id FROM candidates_safe")
        .await
        .problem_code(503, "audit_unavailable");
    let params = json!({ "params": { "skill": "sql" } });
    let tool = agent.post("/tools/search_candidates/call", &params).await;
    tool.problem_code(503, "audit_unavailable");
    agent
        .get("/tools")
        .await
        .problem_code(503, "audit_unavailable");
    let stream = agent
        .call(Method::POST, "/query/sql")
        .header("accept", "text/csv");
    let stream = stream
        .json(&json!({ "sql": "SELECT id FROM candidates_safe" }))
        .send()
        .await;
    stream.problem_code(503, "audit_unavailable");
    let message = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call",
        "params": { "name": "query", "arguments": { "sql": "SELECT id FROM candidates_safe" } } });
    let mcp = agent
        .call(Method::POST, "/mcp")
        .header("accept", "application/json, text/event-stream");
    let mcp = mcp.json(&message).send().await;
    assert!(
        !mcp.text().contains("c1") && mcp.text().contains("audit_unavailable"),
        "{}",
        mcp.text()
    );
    daemon.admin().sql("SELECT id FROM candidates").await.ok();
}

#[tokio::test]
async fn the_audit_can_be_asked_in_sql_by_those_who_may_read_it() {
    let lake = Lake::new().await;
    let agent = lake.agent("helper", &[]).await;
    agent.sql("SELECT id FROM candidates_safe").await.ok();
    let auditor = lake.admin.with_role("auditor").await;
    let rows = auditor
        .rows("SELECT principal, object, rows, allowed FROM system.audit WHERE action = 'query'")
        .await;
    assert_eq!(
        rows,
        [[json!("helper"), json!(VIEW), json!(VISIBLE), json!("true")]]
    );
    agent.sql("SELECT * FROM system.audit").await.problem(404);
}
