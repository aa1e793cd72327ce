//! Query: what a statement answers, in every form, and how it is bounded.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::api::Api;
use crate::support::daemon::Daemon;
use crate::support::rows;

async fn shop() -> (Daemon, Api) {
    let daemon = Daemon::start();
    let api = daemon.admin();
    api.create(
        "people",
        "id,name,city\n1,ada,London\n2,grace,New York\n3,edsger,Austin\n",
    )
    .await;
    api.create(
        "orders",
        "id,person,amount\n10,1,5.75\n11,1,4.75\n12,2,20.25\n13,3,1.75\n",
    )
    .await;
    (daemon, api)
}

#[tokio::test]
async fn joins_and_aggregates_say_what_they_read() {
    let (_daemon, api) = shop().await;
    let sql = "SELECT p.name, count(*) AS orders, sum(o.amount) AS total FROM people p \
               JOIN orders o ON o.person = p.id GROUP BY p.name ORDER BY total DESC";
    let answer = api.sql(sql).await.ok();
    let rows = json!([["grace", 1, 20.25], ["ada", 2, 10.5], ["edsger", 1, 1.75]]);
    assert_eq!(answer["rows"], rows, "{answer}");
    assert_eq!(answer["row_count"], 3);
    assert_eq!(answer["truncated"], false);
    assert!(answer["elapsed_ms"].is_number(), "{answer}");
    let names: Vec<&Value> = answer["columns"]
        .as_array()
        .unwrap()
        .iter()
        .map(|column| &column["name"])
        .collect();
    assert_eq!(names, ["name", "orders", "total"]);
    assert!(answer["columns"][0]["type"].is_string(), "{answer}");
    let mut read: Vec<&str> = answer["datasets"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap())
        .collect();
    read.sort_unstable();
    assert_eq!(read, ["orders", "people"]);
}

#[tokio::test]
async fn parameters_are_bound_and_never_spliced() {
    let (_daemon, api) = shop().await;
    let ask = |sql: &str, params: Value| {
        let (api, body) = (api.clone(), json!({ "sql": sql, "params": params }));
        async move { api.post("/query/sql", &body).await }
    };
    let by_name = "SELECT id FROM people WHERE name = $1";
    assert_eq!(
        ask(by_name, json!(["ada"])).await.ok()["rows"],
        json!([[1]])
    );
    let injection = json!(["ada' OR '1'='1"]);
    assert_eq!(ask(by_name, injection).await.ok()["rows"], json!([]));
    let two = "SELECT id FROM orders WHERE person = $1 AND amount > $2";
    assert_eq!(ask(two, json!([1, 5.0])).await.ok()["rows"], json!([[10]]));
    ask(by_name, json!([])).await.refused();
}

#[tokio::test]
async fn a_limit_truncates_and_says_so() {
    let (_daemon, api) = shop().await;
    let body = json!({ "sql": "SELECT id FROM orders ORDER BY id", "limit": 2 });
    let answer = api.post("/query/sql", &body).await.ok();
    assert_eq!(answer["rows"], json!([[10], [11]]));
    assert_eq!(answer["row_count"], 2);
    assert_eq!(answer["truncated"], true);
    let body = json!({ "sql": "SELECT id FROM orders ORDER BY id", "limit": 4 });
    assert_eq!(api.post("/query/sql", &body).await.ok()["truncated"], false);
}

async fn streamed(api: &Api, sql: &str, accept: &str) -> crate::support::api::Answer {
    let call = api
        .call(Method::POST, "/query/sql")
        .header("accept", accept);
    call.json(&json!({ "sql": sql })).send().await
}

#[tokio::test]
async fn csv_and_arrow_stream_every_row() {
    let daemon = Daemon::start();
    let api = daemon.admin();
    let mut csv = String::from("id,text\n");
    for id in 0..30_000 {
        writeln!(csv, "{id},row {id}").unwrap();
    }
    api.create("numbers", &csv).await;
    let sql = "SELECT id, text FROM numbers ORDER BY id";

    let answer = streamed(&api, sql, "text/csv").await;
    assert!(
        answer.header("content-type").starts_with("text/csv"),
        "{}",
        answer.status
    );
    let text = answer.text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 30_001);
    assert_eq!(
        (lines[0], lines[1], lines[30_000]),
        ("id,text", "0,row 0", "29999,row 29999")
    );

    let stream = "application/vnd.apache.arrow.stream";
    let answer = streamed(&api, sql, stream).await;
    assert!(answer.header("content-type").starts_with(stream));
    let batches = rows::read_arrow_stream(&answer.body);
    assert_eq!(
        batches
            .iter()
            .map(arrow::array::RecordBatch::num_rows)
            .sum::<usize>(),
        30_000
    );
    streamed(&api, "SELECT nothing FROM numbers", "text/csv")
        .await
        .refused();
}

#[tokio::test]
async fn cells_are_json_as_the_contract_has_it() {
    let (_daemon, api) = shop().await;
    let cells = [
        (
            "SELECT CAST(9223372036854775807 AS BIGINT)",
            json!(9_223_372_036_854_775_807_i64),
        ),
        ("SELECT CAST(1.25 AS DOUBLE)", json!(1.25)),
        ("SELECT CAST('12.340' AS DECIMAL(10,3))", json!("12.340")),
        ("SELECT NULL", Value::Null),
        ("SELECT true", json!(true)),
        ("SELECT 'text'", json!("text")),
        ("SELECT DATE '2026-01-02'", json!("2026-01-02")),
        ("SELECT X'00ff10'", json!("AP8Q")),
        ("SELECT make_array(1, 2, 3)", json!([1, 2, 3])),
        ("SELECT CAST('NaN' AS DOUBLE)", json!("NaN")),
    ];
    for (sql, expected) in cells {
        assert_eq!(api.cell(sql).await, expected, "{sql}");
    }
    let infinite = api.cell("SELECT CAST('inf' AS DOUBLE)").await;
    assert!(infinite.is_string(), "{infinite}");
    let time = api.cell("SELECT TIMESTAMP '2026-01-02T03:04:05'").await;
    assert!(
        time.as_str().unwrap().starts_with("2026-01-02T03:04:05"),
        "{time}"
    );
}

#[tokio::test]
async fn an_unknown_dataset_is_404_with_near_names_and_an_unknown_column_is_a_4xx() {
    let (_daemon, api) = shop().await;
    let problem = api
        .sql("SELECT * FROM poeple")
        .await
        .problem_code(404, "dataset_not_found");
    assert!(
        problem["detail"].as_str().unwrap().contains("people"),
        "{problem}"
    );
    let problem = api.sql("SELECT nmae FROM people").await.refused();
    assert!(
        problem["detail"].as_str().unwrap().contains("nmae"),
        "{problem}"
    );
    for sql in ["", "SELEC 1", "SELECT", "SELECT (1", "SELECT 'open"] {
        let answer = api.sql(sql).await;
        answer.refused();
        assert!(
            [400, 422].contains(&answer.status),
            "`{sql}`: {}",
            answer.text()
        );
    }
}

#[tokio::test]
async fn an_error_while_it_runs_is_the_callers_and_the_next_query_works() {
    let (_daemon, api) = shop().await;
    let answer = api.sql("SELECT CAST(name AS BIGINT) FROM people").await;
    assert!(
        (400..500).contains(&answer.status),
        "{} {}",
        answer.status,
        answer.text()
    );
    let answer = api.sql("SELECT 1 / (id - id) FROM people").await;
    assert!(
        (400..500).contains(&answer.status),
        "{} {}",
        answer.status,
        answer.text()
    );
    assert_eq!(api.cell("SELECT count(*) FROM people").await, 3);
}

#[tokio::test]
async fn a_query_over_its_time_ends_and_the_daemon_goes_on() {
    let daemon = Daemon::start_with(&[("LAKEHOUSE__QUERY__TIMEOUT_S", "1")]);
    let api = daemon.admin();
    let mut csv = String::from("id\n");
    for id in 0..4000 {
        writeln!(csv, "{id}").unwrap();
    }
    api.create("n", &csv).await;
    let slow =
        "SELECT count(*) FROM n a, n b, n c WHERE (a.id + 7 * b.id + 13 * c.id) % 1000003 = 7";
    let began = Instant::now();
    let answer = api.sql(slow).await;
    let took = began.elapsed();
    assert!(
        !answer.is_ok(),
        "64 billion rows in {took:?}? {}",
        answer.text()
    );
    assert_ne!(answer.status, 500, "{}", answer.text());
    let problem = answer.problem(answer.status);
    assert!(
        problem["code"].as_str().unwrap().contains("timeout"),
        "{problem}"
    );
    assert!(took < Duration::from_secs(10), "it ended after {took:?}");
    assert_eq!(api.cell("SELECT count(*) FROM n").await, 4000);
}

#[tokio::test]
async fn a_client_that_goes_away_cancels_its_query() {
    let (_daemon, api) = shop().await;
    let mut csv = String::from("id\n");
    for id in 0..4000 {
        writeln!(csv, "{id}").unwrap();
    }
    api.create("n", &csv).await;
    let slow =
        "SELECT count(*) FROM n a, n b, n c WHERE (a.id + 7 * b.id + 13 * c.id) % 1000003 = 7";
    let gone = tokio::time::timeout(Duration::from_millis(300), api.sql(slow)).await;
    assert!(gone.is_err(), "the query runs longer than its client waits");
    // Were it still at work, it would hold the processors for the minute of its timeout.
    crate::support::until("quick answers again", || async {
        let began = Instant::now();
        api.rows("SELECT count(*) FROM n a, n b WHERE a.id > b.id")
            .await;
        (began.elapsed() < Duration::from_secs(3)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn explain_shows_a_plan_without_paths() {
    let (daemon, api) = shop().await;
    let body = json!({ "sql": "SELECT name FROM people WHERE id = 1" });
    let answer = api.post("/query/explain", &body).await;
    answer.ok();
    let data_dir = daemon.site().data_dir();
    assert!(
        !answer.text().contains(data_dir.to_str().unwrap()),
        "{}",
        answer.text()
    );
}

#[tokio::test]
async fn no_error_shows_a_server_path() {
    let (daemon, api) = shop().await;
    let data_dir = daemon.site().data_dir();
    for sql in [
        "SELECT * FROM 'people.parquet'",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM read_parquet('/etc/passwd')",
        "SELECT * FROM parquet_metadata('/etc/passwd')",
        "SELECT * FROM people WHERE",
        "SELECT CAST(name AS INT) FROM people",
    ] {
        let answer = api.sql(sql).await;
        answer.refused();
        assert!(
            !answer.text().contains(data_dir.to_str().unwrap()),
            "{}",
            answer.text()
        );
        assert!(!answer.text().contains("root:"), "{}", answer.text());
    }
}

#[tokio::test]
async fn a_query_sees_one_snapshot_while_rows_come_in() {
    let daemon = Daemon::start();
    let api = daemon.admin();
    api.create("pairs", "id,side\n0,left\n1,right\n").await;
    let writer = {
        let api = api.clone();
        tokio::spawn(async move {
            for step in 1..40 {
                let (left, right) = (2 * step, 2 * step + 1);
                let body = format!("id,side\n{left},left\n{right},right\n");
                api.ingest("dataset=pairs&mode=append", "text/csv", body)
                    .await
                    .ok();
            }
        })
    };
    let both = "SELECT (SELECT count(*) FROM pairs WHERE side = 'left') \
                - (SELECT count(*) FROM pairs WHERE side = 'right')";
    while !writer.is_finished() {
        assert_eq!(api.cell(both).await, 0, "left and right came together");
    }
    writer.await.unwrap();
    assert_eq!(api.cell("SELECT count(*) FROM pairs").await, 80);
}
