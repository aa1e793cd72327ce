//! The statement gate: only queries, and none that could take the process down.

use serde_json::json;

use crate::support::api::Api;
use crate::support::daemon::Daemon;

async fn with_people() -> (Daemon, Api) {
    let daemon = Daemon::start();
    let api = daemon.admin();
    api.create("people", "id,name\n1,ada\n2,grace\n").await;
    (daemon, api)
}

#[tokio::test]
async fn anything_but_a_query_is_422_and_changes_nothing() {
    let (daemon, api) = with_people().await;
    let seq = api.seq().await;
    let before = api.witness(seq).await;
    let out = daemon.site().scratch().join("out.csv");
    let copy = format!("COPY people TO '{}'", out.display());
    let external = format!(
        "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '{}'",
        out.display()
    );
    let statements = [
        "CREATE TABLE t AS SELECT 1",
        "CREATE VIEW v AS SELECT * FROM people",
        "DROP TABLE people",
        "ALTER TABLE people ADD COLUMN x INT",
        "INSERT INTO people VALUES (3, 'x')",
        "UPDATE people SET name = 'x'",
        "DELETE FROM people",
        "TRUNCATE TABLE people",
        "SET datafusion.execution.batch_size = 1",
        "RESET datafusion.execution.batch_size",
        "SHOW ALL",
        "SHOW TABLES",
        "DESCRIBE people",
        "EXPLAIN SELECT * FROM people",
        "EXPLAIN ANALYZE SELECT * FROM people",
        "PREPARE p AS SELECT 1",
        "EXECUTE p",
        "BEGIN",
        "COMMIT",
        "SELECT 1; SELECT 2",
        "SELECT 1; DROP TABLE people",
        "SELECT * INTO t FROM people",
        copy.as_str(),
        // This one the grammar does not even have.
        external.as_str(),
    ];
    for sql in statements {
        api.sql(sql)
            .await
            .problem_code(422, "statement_not_allowed");
    }
    assert_eq!(api.witness(seq).await, before);
    assert!(!out.exists(), "nothing was written");
    assert_eq!(api.cell("SELECT count(*) FROM people").await, 2);
}

#[tokio::test]
async fn every_way_to_ask_is_allowed() {
    let (_daemon, api) = with_people().await;
    let queries = [
        "SELECT 1",
        "select id from people;",
        "WITH p AS (SELECT id FROM people) SELECT count(*) FROM p",
        "VALUES (1), (2)",
        "SELECT id FROM people UNION ALL SELECT id FROM people",
        "(SELECT id FROM people) ORDER BY id",
        "-- a remark\nSELECT id /* another */ FROM people",
        "SELECT count(*) OVER (PARTITION BY name) FROM people",
        "SELECT id FROM people p WHERE EXISTS (SELECT 1 FROM people q WHERE q.id > p.id)",
    ];
    for sql in queries {
        api.sql(sql).await.ok();
    }
}

/// A statement of about `terms` terms, by shape.
fn huge(shape: &str, terms: usize) -> String {
    let many = |separator: &str, term: &str| vec![term; terms].join(separator);
    match shape {
        "plus" => format!("SELECT {}", many("+", "1")),
        "or" => format!("SELECT id FROM people WHERE {}", many(" OR ", "id = 1")),
        "and" => format!("SELECT id FROM people WHERE {}", many(" AND ", "id = 1")),
        "in" => format!("SELECT id FROM people WHERE id IN ({})", many(",", "1")),
        "case" => format!("SELECT CASE {} END", many(" ", "WHEN 1 = 2 THEN 3")),
        "not" => format!("SELECT {} true", "NOT ".repeat(terms)),
        "minus" => format!("SELECT {}1", "- ".repeat(terms)),
        "parens" => format!("SELECT {}1{}", "(".repeat(terms), ")".repeat(terms)),
        "union" => many(" UNION ALL ", "SELECT 1"),
        "subqueries" => format!(
            "SELECT 1 FROM {}people{}",
            "(SELECT id FROM ".repeat(terms),
            ") x".repeat(terms)
        ),
        "functions" => format!("SELECT {}1{}", "abs(".repeat(terms), ")".repeat(terms)),
        "joins" => format!(
            "SELECT 1 FROM people {}",
            vec!["CROSS JOIN people"; terms].join(" ")
        ),
        other => panic!("no shape `{other}`"),
    }
}

const SHAPES: [&str; 12] = [
    "plus",
    "or",
    "and",
    "in",
    "case",
    "not",
    "minus",
    "parens",
    "union",
    "subqueries",
    "functions",
    "joins",
];

#[tokio::test]
async fn huge_statements_are_refused_and_the_daemon_lives() {
    let (_daemon, api) = with_people().await;
    let started = api.get("/health").await.ok()["uptime_s"].as_f64().unwrap();
    for terms in [2_000, 20_000, 200_000] {
        for shape in SHAPES {
            let answer = api.sql(&huge(shape, terms)).await;
            // A flat list of 20,000 is large but harmless; whatever nests is not.
            let harmless = (shape == "in" && terms < 200_000) || terms == 2_000;
            let refused = (400..500).contains(&answer.status);
            assert!(
                refused || (harmless && answer.is_ok()),
                "{terms} × {shape}: {} {:.300}",
                answer.status,
                answer.text()
            );
        }
        assert_eq!(
            api.cell("SELECT count(*) FROM people").await,
            2,
            "alive after {terms}"
        );
    }
    let alive = api.get("/health").await.ok()["uptime_s"].as_f64().unwrap();
    assert!(alive >= started, "it is the same process");
}

#[tokio::test]
async fn deep_and_strange_json_is_refused_and_the_daemon_lives() {
    let (_daemon, api) = with_people().await;
    let deep = format!("{{\"sql\": {}1{}}}", "[".repeat(10_000), "]".repeat(10_000));
    let bodies = [
        deep,
        "{\"sql\": \"SELECT 1\", \"limit\": 1e999}".to_owned(),
        "{\"sql\": \"SELECT 1\", \"limit\": -1}".to_owned(),
        "{\"sql\": 1}".to_owned(),
        "{\"sql\": \"SELECT 1\", \"surprise\": true}".to_owned(),
        "{\"sql\": \"SELECT 1\", \"params\": \"no array\"}".to_owned(),
        "[]".to_owned(),
        "null".to_owned(),
        String::new(),
        "{".to_owned(),
    ];
    for body in bodies {
        let shown: String = body.chars().take(60).collect();
        let answer = api
            .call(reqwest::Method::POST, "/query/sql")
            .header("content-type", "application/json")
            .body(body)
            .send()
            .await;
        assert!(
            (400..500).contains(&answer.status),
            "`{shown}`: {} {}",
            answer.status,
            answer.text()
        );
        answer.refused();
    }
    assert_eq!(
        api.post("/query/sql", &json!({ "sql": "SELECT 1" }))
            .await
            .ok()["rows"],
        json!([[1]])
    );
}
