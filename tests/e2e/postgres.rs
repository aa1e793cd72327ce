//! Tables out of a real `PostgreSQL`, started here: taken in, followed by a watermark, and refused.

#[path = "../../src/engines/postgres/testing.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
pub mod server;

use serde_json::{Value, json};

use self::server::{PASSWORD, TestServer, mixed_table};
use crate::support::api::Api;
use crate::support::daemon::Daemon;

/// A database with this table, and a lake beside it.
struct World {
    server: TestServer,
    daemon: Daemon,
    api: Api,
}

const DATABASE: &str = "postgres";

impl World {
    fn new(sql: &str) -> Self {
        let server = TestServer::start(&[]);
        server.sql(DATABASE, sql);
        let daemon = Daemon::start();
        let api = daemon.admin();
        Self {
            server,
            daemon,
            api,
        }
    }

    fn request(&self, more: &Value) -> Value {
        let mut request = json!({ "dsn": self.server.dsn(DATABASE), "dataset": "d" });
        for (name, value) in more.as_object().unwrap() {
            request[name] = value.clone();
        }
        request
    }

    async fn ingest(&self, more: &Value) -> Value {
        let request = self.request(more);
        self.api.post("/ingest/db", &request).await.ok()
    }
}

#[tokio::test]
async fn a_table_is_taken_in_as_it_is_and_its_password_is_nowhere() {
    let world = World::new(&mixed_table(586));
    let done = world
        .ingest(&json!({ "table": "mixed", "key": "id" }))
        .await;
    assert_eq!(
        (&done["rows"], &done["columns"]),
        (&json!(586), &json!(13)),
        "{done}"
    );
    let theirs = world.server.sql(
        DATABASE,
        "SELECT sum(id), sum(price), count(note), count(maybe), max(at), sum(small) FROM mixed",
    );
    let ours = world
        .api
        .rows("SELECT sum(id), sum(price), count(note), count(maybe), max(at), sum(small) FROM d")
        .await;
    let theirs: Vec<&str> = theirs.trim().split('\t').collect();
    let digits = |text: &str| -> String { text.chars().filter(char::is_ascii_digit).collect() };
    for (theirs, ours) in theirs.iter().zip(&ours[0]) {
        let ours = ours
            .as_str()
            .map_or_else(|| ours.to_string(), str::to_owned);
        let (theirs, ours) = (digits(theirs), digits(&ours));
        assert!(
            ours.starts_with(theirs.trim_end_matches('0')),
            "{ours} {theirs}"
        );
    }
    let manifest = world.api.get("/catalog/datasets/d").await.ok();
    let source = manifest["lineage"][0]["source"].as_str().unwrap();
    assert!(
        source.starts_with("postgres:postgres://127.0.0.1:") && source.ends_with("/mixed"),
        "{source}"
    );
    let events = world.api.events(0).await;
    let told = format!("{manifest}{events:?}{}", world.daemon.site().stderr());
    assert!(!told.contains(PASSWORD));
}

#[tokio::test]
async fn a_watermark_takes_each_row_once_and_goes_on_where_the_last_commit_ended() {
    let world = World::new(
        "CREATE TABLE t (id int8, n int8, name text); \
         INSERT INTO t SELECT i, i, 'old' FROM generate_series(1, 100) i",
    );
    let create = json!({ "table": "t", "since": "n" });
    let done = world.ingest(&create).await;
    assert_eq!(done["watermark"], json!({ "column": "n", "value": "100" }));
    let append = json!({ "table": "t", "since": "n", "mode": "append" });
    assert_eq!(world.ingest(&append).await["rows"], 0);
    world.server.sql(
        DATABASE,
        "INSERT INTO t SELECT i, i, 'new' FROM generate_series(101, 107) i",
    );
    let request = world.request(&append);
    let (first, second) = tokio::join!(
        world.api.post("/ingest/db", &request),
        world.api.post("/ingest/db", &request),
    );
    let taken: u64 = [&first, &second]
        .iter()
        .filter(|answer| answer.is_ok())
        .map(|answer| answer.ok())
        // The same rows again are a repetition, which adds nothing and says so.
        .filter(|answer| answer["deduplicated"] != true)
        .filter_map(|answer| answer["rows"].as_u64())
        .sum();
    for refused in [&first, &second].iter().filter(|answer| !answer.is_ok()) {
        refused.problem_code(409, "watermark_moved");
    }
    assert_eq!(taken, 7, "each new row is taken once");
    assert_eq!(world.api.cell("SELECT count(*) FROM d").await, 107);
    let manifest = world.api.get("/catalog/datasets/d").await.ok();
    let last = manifest["lineage"].as_array().unwrap().last().unwrap();
    assert_eq!(last["watermark"]["from"], "100");
    assert_eq!(last["watermark"]["value"], "107");
    let site = world.daemon.kill9();
    let daemon = Daemon::start_at(site);
    world
        .server
        .sql(DATABASE, "INSERT INTO t VALUES (108, 108, 'later')");
    let done = daemon
        .admin()
        .post("/ingest/db", &{
            let mut request = append.clone();
            request["dsn"] = json!(world.server.dsn(DATABASE));
            request["dataset"] = json!("d");
            request
        })
        .await
        .ok();
    assert_eq!(done["rows"], 1, "{done}");
}

#[tokio::test]
async fn a_keyed_dataset_reads_rows_of_the_last_time_again_and_the_newer_one_wins() {
    let world = World::new(
        "CREATE TABLE t (id int8, at timestamptz, name text); \
         INSERT INTO t VALUES (1, '2026-01-01Z', 'a'), (2, '2026-01-02Z', 'b')",
    );
    world
        .ingest(&json!({ "table": "t", "key": "id", "since": "at" }))
        .await;
    world.server.sql(
        DATABASE,
        "INSERT INTO t VALUES (3, '2026-01-02Z', 'c'); UPDATE t SET name = 'B' WHERE id = 2",
    );
    let upsert = json!({ "table": "t", "key": "id", "since": "at", "mode": "upsert" });
    world.ingest(&upsert).await;
    let rows = world.api.rows("SELECT id, name FROM d ORDER BY id").await;
    assert_eq!(json!(rows), json!([[1, "a"], [2, "B"], [3, "c"]]));
}

#[tokio::test]
async fn what_cannot_be_read_says_why_and_leaves_nothing() {
    let world = World::new("CREATE TABLE t (id int8, p point); INSERT INTO t VALUES (1, '(1,2)')");
    let before = world.api.seq().await;
    let dsn = world.server.dsn(DATABASE);
    let port = world.server.port.to_string();
    let wrong = [
        (json!({ "table": "absent" }), "source_table_not_found"),
        (
            json!({ "table": "t", "dsn": dsn.replace(PASSWORD, "nope") }),
            "source_authentication_failed",
        ),
        (
            json!({ "table": "t", "dsn": dsn.replace(&port, "1") }),
            "source_unreachable",
        ),
        (
            json!({ "query": "DELETE FROM t RETURNING id" }),
            "source_query_writes",
        ),
        (json!({ "query": "SELEC 1" }), "source_query_invalid"),
        (
            json!({ "table": "t", "since": "absent" }),
            "source_column_not_found",
        ),
    ];
    for (more, code) in wrong {
        let answer = world.api.post("/ingest/db", &world.request(&more)).await;
        let problem = answer.json();
        assert!(answer.status >= 400, "{problem}");
        assert_eq!(problem["code"], code, "{problem}");
        assert!(!answer.text().contains(PASSWORD));
    }
    let (seq, events) = world.api.witness(before).await;
    assert!(events.is_empty(), "{seq} {events:?}");
    let done = world.ingest(&json!({ "table": "t" })).await;
    let notes = done["notes"].to_string();
    assert!(
        notes.contains("`p`"),
        "what is carried as text is said: {done}"
    );
}
