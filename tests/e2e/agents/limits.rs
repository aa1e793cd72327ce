//! What a token may use: requests, queries at a time, rows, memory, time; and what ends with it.

use std::time::{Duration, Instant};

use futures::{
    StreamExt as _,
    future::{join, join_all},
};
use reqwest::Method;
use serde_json::{Value, json};

use super::{Lake, VIEW};
use crate::support::{
    PATIENCE,
    api::{Answer, Api, list},
};

async fn limited(lake: &Lake, name: &str, limits: Value) -> Api {
    let token = json!({ "name": name, "role": "agent", "views": [VIEW], "limits": limits });
    lake.admin.with_token(&token).await
}

#[tokio::test]
async fn more_requests_than_allowed_are_told_429_and_others_are_not_touched() {
    let lake = Lake::new().await;
    let hasty = limited(&lake, "hasty", json!({ "requests_per_s": 5 })).await;
    let calm = lake.agent("calm", &[]).await;
    let began = Instant::now();
    let (answers, others) = join(
        join_all((0..50).map(|_| hasty.get("/tools"))),
        join_all((0..50).map(|_| calm.get("/tools"))),
    )
    .await;
    let may = 5 + 5 * (began.elapsed().as_secs() + 1);
    let refused: Vec<_> = answers.iter().filter(|one| one.status == 429).collect();
    for answer in &refused {
        let problem = answer.problem_code(429, "rate_limited");
        assert!(problem["detail"].as_str().unwrap().contains('5'));
        assert!(answer.header("retry-after").parse::<u32>().unwrap() >= 1);
    }
    let refused = refused.len();
    assert_eq!(
        answers.iter().filter(|one| one.is_ok()).count(),
        50 - refused
    );
    assert!(
        refused as u64 + may >= 50 && refused > 0,
        "{refused} refused in {:?}",
        began.elapsed()
    );
    assert!(others.iter().all(Answer::is_ok), "others are not touched");
    let lines = lake.audit("principal=hasty&allowed=false").await;
    assert_eq!(lines.len(), refused, "each refusal is put down");
    crate::support::until("the next second", || async {
        hasty.get("/tools").await.is_ok().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_token_runs_no_more_queries_at_a_time_than_it_may() {
    let lake = Lake::new().await;
    let agent = limited(
        &lake,
        "wide",
        json!({ "concurrent_queries": 1, "statement_ms": 2000 }),
    )
    .await;
    // Long enough that they meet; the deadline ends them.
    let sql = slow_query();
    let answers = join_all((0..4).map(|_| agent.sql(&sql))).await;
    let refused = answers.iter().filter(|answer| answer.status == 429);
    for answer in refused.clone() {
        answer.problem_code(429, "too_many_queries");
        assert_eq!(answer.header("retry-after"), "1");
    }
    assert!(
        refused.count() >= 1,
        "{:?}",
        answers
            .iter()
            .map(|answer| answer.status)
            .collect::<Vec<_>>()
    );
    let ended = answers.iter().filter(|answer| answer.status == 422);
    for answer in ended {
        answer.problem_code(422, "query_timeout");
    }
    agent.sql("SELECT count(*) FROM candidates_safe").await.ok();
}

/// Work for half an hour, in little memory.
fn slow_query() -> String {
    let tables = (0..6).map(|n| format!("candidates_safe t{n}"));
    let text = |table: &str| format!("encode(sha512({table}.name), 'hex')");
    format!(
        "SELECT sum(levenshtein({}, {})) FROM {}",
        text("t0"),
        text("t5"),
        tables.collect::<Vec<_>>().join(" CROSS JOIN ")
    )
}

#[tokio::test]
async fn a_statement_ends_at_its_tokens_time_and_memory_and_a_page_at_its_rows() {
    let lake = Lake::new().await;
    let brief = limited(&lake, "brief", json!({ "statement_ms": 300 })).await;
    let began = Instant::now();
    brief
        .sql(&slow_query())
        .await
        .problem_code(422, "query_timeout");
    assert!(began.elapsed() < Duration::from_secs(20));

    let narrow = limited(&lake, "narrow", json!({ "memory_bytes": 10_000 })).await;
    let sorted = "SELECT a.id, b.id FROM candidates_safe a CROSS JOIN candidates_safe b ORDER BY a.rate + b.rate, a.id";
    narrow.sql(sorted).await.problem_code(422, "memory_limit");
    lake.agent("roomy", &[]).await.sql(sorted).await.ok();

    let few = limited(&lake, "few", json!({ "rows": 3 })).await;
    let answer = few
        .post(
            "/query/sql",
            &json!({ "sql": "SELECT id FROM candidates_safe", "limit": 100 }),
        )
        .await
        .ok();
    assert_eq!(
        (&answer["row_count"], &answer["truncated"]),
        (&json!(3), &json!(true))
    );
    let stream = few
        .call(Method::POST, "/query/sql")
        .header("accept", "text/csv");
    let broken = stream
        .json(&json!({ "sql": "SELECT id FROM candidates_safe" }))
        .try_send()
        .await;
    assert!(broken.is_err(), "a stream with more rows breaks off");
}

#[tokio::test]
async fn limits_come_from_the_configuration_where_the_token_has_none() {
    let lake = Lake::with(&[("LAKEHOUSE__LIMITS__AGENT__ROWS", "2")]).await;
    let agent = lake.agent("helper", &[]).await;
    let sql = "SELECT id FROM candidates_safe";
    assert_eq!(agent.sql(sql).await.ok()["row_count"], 2);
    let own = limited(&lake, "own", json!({ "rows": 7 })).await;
    assert_eq!(own.sql(sql).await.ok()["row_count"], 7);
    let zero = json!({ "name": "zero", "role": "agent", "limits": { "rows": 0 } });
    lake.admin.post("/auth/tokens", &zero).await.problem(422);
    let tokens = list(&lake.admin.get("/auth/tokens").await.ok());
    let own = tokens.iter().find(|token| token["name"] == "own").unwrap();
    assert_eq!(own["limits"], json!({ "rows": 7 }));
}

#[tokio::test]
async fn a_revoked_token_ends_running_queries_and_open_streams() {
    let lake = Lake::new().await;
    let issue = json!({ "name": "gone", "role": "agent", "views": [VIEW] });
    let issued = lake.admin.post("/auth/tokens", &issue).await.ok();
    let id = issued["id"].as_str().unwrap().to_owned();
    let agent = lake.daemon.client(issued["secret"].as_str());
    let running = tokio::spawn({
        let agent = agent.clone();
        async move { agent.sql(&slow_query()).await }
    });
    // An auditor's stream of events stays open by itself.
    let reader = json!({ "name": "reader", "role": "auditor" });
    let reader_id = lake.admin.post("/auth/tokens", &reader).await.ok();
    let reader = lake.daemon.client(reader_id["secret"].as_str());
    let mut open = reader
        .call(Method::GET, "/journal/stream")
        .open()
        .await
        .bytes_stream();
    crate::support::until("the query to run", || async {
        let metrics = lake.admin.get("/metrics").await.text();
        let running = metrics
            .lines()
            .any(|line| line.starts_with("lakehouse_queries") && !line.ends_with(" 0"));
        running.then_some(())
    })
    .await;
    lake.admin.delete(&format!("/auth/tokens/{id}")).await.ok();
    let reader_id = reader_id["id"].as_str().unwrap();
    lake.admin
        .delete(&format!("/auth/tokens/{reader_id}"))
        .await
        .ok();
    let began = Instant::now();
    running.await.unwrap().problem(401);
    let ended = tokio::time::timeout(PATIENCE, async {
        while let Some(Ok(_)) = open.next().await {}
    });
    ended.await.expect("the stream breaks off");
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
    agent.sql("SELECT 1").await.problem(401);
}
