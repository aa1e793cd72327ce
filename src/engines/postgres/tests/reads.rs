//! Tables, names, snapshots, shares and watermarks.

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Int32Type, Int64Type};

use super::*;

fn sorted_by_id(rows: &RecordBatch) -> RecordBatch {
    let order = arrow::compute::sort_to_indices(rows.column(0), None, None).expect("sortable");
    let columns = rows
        .columns()
        .iter()
        .map(|column| arrow::compute::take(column, &order, None).expect("in range"));
    RecordBatch::try_new(rows.schema(), columns.collect()).expect("the same schema")
}

fn since(column: &str, value: Option<&str>, inclusive: bool) -> ReadOptions {
    let watermark = Watermark {
        column: column.into(),
        value: value.map(Into::into),
        inclusive,
    };
    ReadOptions {
        since: Some(watermark),
        ..ReadOptions::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parallel_read_gives_the_same_rows_as_a_single_one() {
    let server = TestServer::shared();
    let database = server.create_database();
    server.sql(&database, &mixed_table(200_000));
    let source = source(&server.dsn(&database));
    let mut results = Vec::new();
    for partitions in [Some(1), Some(2), Some(5), None] {
        let options = ReadOptions {
            partitions,
            batch_rows: 10_000,
            ..ReadOptions::default()
        };
        let stream = source.read(table("mixed"), options).await.expect("a table");
        let (rows, end) = drain(stream).await.expect("all rows");
        assert_eq!(end.rows, 200_000);
        results.push(sorted_by_id(&rows));
    }
    assert!(
        results.iter().all(|rows| *rows == results[0]),
        "the same rows every time"
    );
    let sums = server.sql(
        &database,
        "SELECT sum(id), sum(small), count(note), count(maybe) FROM mixed",
    );
    let column = |index: usize| results[0].column(index);
    let found = format!(
        "{}\t{}\t{}\t{}\n",
        arrow::compute::sum(column(0).as_primitive::<Int64Type>()).expect("rows"),
        column(1)
            .as_primitive::<Int32Type>()
            .values()
            .iter()
            .map(|value| i64::from(*value))
            .sum::<i64>(),
        200_000 - column(9).null_count(),
        200_000 - column(12).null_count(),
    );
    assert_eq!(found, sums);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_batch_of_a_parallel_read_holds_rows_of_two_shares() {
    let server = TestServer::shared();
    let database = server.create_database();
    server.sql(&database, &mixed_table(200_000));
    let options = ReadOptions {
        partitions: Some(2),
        ..ReadOptions::default()
    };
    let source = source(&server.dsn(&database));
    let mut stream = source.read(table("mixed"), options).await.expect("a table");
    let mut spans = Vec::new();
    while let Some(batch) = stream.next().await {
        let batch = batch.expect("rows");
        let ids = batch.column(0).as_primitive::<Int64Type>();
        spans.push((ids.value(0), ids.value(ids.len() - 1)));
    }
    spans.sort_unstable();
    assert!(spans.len() > 3, "{spans:?}");
    let apart = spans.windows(2).all(|pair| pair[0].1 < pair[1].0);
    assert!(apart, "rows lie in the order of their ids: {spans:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_sees_one_snapshot_over_all_its_connections() {
    let server = TestServer::shared();
    let database = server.create_database();
    server.sql(&database, "CREATE TABLE t AS SELECT i AS id, repeat('x', 200) AS pad FROM generate_series(1, 50000) i");
    let options = ReadOptions {
        partitions: Some(3),
        batch_rows: 500,
        ..ReadOptions::default()
    };
    let stream = source(&server.dsn(&database))
        .read(table("t"), options)
        .await
        .expect("a table");
    server.sql(
        &database,
        "INSERT INTO t SELECT i, 'new' FROM generate_series(50001, 60000) i; \
        DELETE FROM t WHERE id <= 40000; UPDATE t SET pad = 'changed'",
    );
    let (rows, _) = drain(stream).await.expect("all rows");
    let rows = sorted_by_id(&rows);
    let ids = rows.column(0).as_primitive::<Int32Type>();
    assert!(
        ids.values().iter().copied().eq(1..=50_000),
        "the rows as they were"
    );
    assert!(
        rows.column(1)
            .as_string::<i32>()
            .iter()
            .all(|pad| pad.is_some_and(|pad| pad.len() == 200))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_names_generated_columns_partitions_and_views_are_read() {
    let server = TestServer::shared();
    let database = server.create_database();
    let dsn = server.dsn(&database);
    server.sql(&database, r#"CREATE SCHEMA "Odd Schema";
        CREATE TABLE "Odd Schema"."Odd ""Na.me""" ("Mixed Case" int, "select" int GENERATED ALWAYS AS ("Mixed Case" * 2) STORED);
        INSERT INTO "Odd Schema"."Odd ""Na.me""" VALUES (1), (2), (NULL);
        CREATE TABLE parts (id int, kind text) PARTITION BY LIST (kind);
        CREATE TABLE parts_a PARTITION OF parts FOR VALUES IN ('a'); CREATE TABLE parts_b PARTITION OF parts FOR VALUES IN ('b');
        INSERT INTO parts SELECT i, CASE WHEN i % 3 = 0 THEN 'a' ELSE 'b' END FROM generate_series(1, 30000) i;
        CREATE VIEW looking AS SELECT id + 1 AS next FROM parts; CREATE MATERIALIZED VIEW kept AS SELECT * FROM parts;
        CREATE TABLE empty (a int, b text[]); CREATE TABLE nothing (); INSERT INTO nothing DEFAULT VALUES;
        CREATE SEQUENCE counter; CREATE TABLE dropped (a int, b int, c int); INSERT INTO dropped VALUES (1, 2, 3);
        ALTER TABLE dropped DROP COLUMN b"#);
    let odd = read(&dsn, table(r#""Odd Schema"."Odd ""Na.me""""#))
        .await
        .expect("an odd table");
    let names: Vec<String> = odd
        .schema()
        .fields()
        .iter()
        .map(|field| field.name().clone())
        .collect();
    assert_eq!(names, ["Mixed Case", "select"]);
    assert_eq!(odd.column(1).as_primitive::<Int32Type>().value(1), 4);
    for name in ["parts", "public.parts", "looking", "kept"] {
        let options = ReadOptions {
            partitions: Some(4),
            ..ReadOptions::default()
        };
        let stream = source(&dsn).read(table(name), options).await.expect(name);
        let (rows, _) = drain(stream).await.expect(name);
        assert_eq!(rows.num_rows(), 30_000, "{name}");
    }
    let empty = read(&dsn, table("empty")).await.expect("an empty table");
    assert_eq!((empty.num_rows(), empty.num_columns()), (0, 2));
    let dropped = read(&dsn, table("dropped"))
        .await
        .expect("a table with a dropped column");
    assert_eq!((dropped.num_rows(), dropped.num_columns()), (1, 2));
    for (name, said) in [
        ("nothing", "has no columns to read"),
        ("counter", "is no table and no view"),
    ] {
        let error = failure(&dsn, table(name), ReadOptions::default()).await;
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(said), "{error}");
    }
}

#[test]
fn a_table_is_named_exactly_with_quotes_where_needed() {
    let named = |schema: Option<&str>, name: &str| Relation::Table {
        schema: schema.map(Into::into),
        name: name.into(),
    };
    for (text, expected) in [
        ("users", named(None, "users")),
        ("Users", named(None, "Users")),
        ("sales.users", named(Some("sales"), "users")),
        ("\"a.b\"", named(None, "a.b")),
        ("s.\"a\"\"b\"", named(Some("s"), "a\"b")),
        ("odd name", named(None, "odd name")),
        ("\"S\".t;drop", named(Some("S"), "t;drop")),
        (" t ", named(None, "t")),
    ] {
        assert_eq!(Relation::table(text), Ok(expected), "{text}");
    }
    for text in ["", ".", "a.", ".b", "a.b.c", "\"a", "\"\"", "\"a\"b", "a\0"] {
        assert!(
            matches!(Relation::table(text), Err(PostgresError::BadName { .. })),
            "{text:?}"
        );
    }
}

#[test]
fn lineage_names_host_database_and_table_and_never_who_read() {
    let source = source("postgres://reader:hunter2@LOCALHOST:6543/sales%20db?sslmode=disable");
    let shown = |relation: &Relation| source.lineage(relation);
    assert_eq!(
        shown(&table("s.\"Odd Name\"")),
        "postgres://localhost:6543/sales%20db/s.Odd%20Name"
    );
    assert_eq!(shown(&table("t")), "postgres://localhost:6543/sales%20db/t");
    let queried = shown(&query("SELECT 'secret'"));
    assert!(
        queried.starts_with("postgres://localhost:6543/sales%20db?query=")
            && !queried.contains("secret")
    );
    assert!(!format!("{source:?} {source:#?}").contains("hunter2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watermark_reads_on_where_the_last_read_ended() {
    let server = TestServer::shared();
    let database = server.create_database();
    let source = source(&server.dsn(&database));
    server.sql(&database, "CREATE TABLE log (id int, at timestamptz, \"Note's\" text); INSERT INTO log VALUES \
        (1, '2024-01-01 00:00:00.000001Z', 'a'), (2, '2024-01-02Z', 'b''c'), (3, NULL, NULL), (4, 'infinity', 'z')");
    let read = |options: ReadOptions, what: Relation| {
        let source = source.clone();
        async move {
            let (rows, end) = drain(source.read(what, options).await.expect("a table"))
                .await
                .expect("rows");
            (rows.num_rows(), end.watermark_after)
        }
    };
    let (rows, mark) = read(since("id", None, false), table("log")).await;
    assert_eq!((rows, mark.as_deref()), (4, Some("4")));
    let (rows, mark) = read(since("id", Some("4"), false), table("log")).await;
    assert_eq!((rows, mark.as_deref()), (0, Some("4")));
    server.sql(
        &database,
        "INSERT INTO log VALUES (9, '2024-01-03Z', 'd'), (7, '2024-01-03Z', 'e')",
    );
    let (rows, mark) = read(since("id", Some("4"), false), table("log")).await;
    assert_eq!((rows, mark.as_deref()), (2, Some("9")));
    let (_, mark) = read(since("at", None, false), table("log")).await;
    assert_eq!(
        mark.as_deref(),
        Some("2024-01-03 00:00:00+00"),
        "infinity is passed over"
    );
    let (rows, _) = read(since("at", mark.as_deref(), true), table("log")).await;
    assert_eq!(rows, 3, "both of that time, and the infinite one");
    let (rows, mark) = read(since("Note's", Some("b'c"), false), table("log")).await;
    assert_eq!((rows, mark.as_deref()), (3, Some("z")));
    let asked = query("SELECT id * 10 AS tens, at FROM log -- in tens");
    let (rows, mark) = read(since("tens", Some("40"), false), asked).await;
    assert_eq!((rows, mark.as_deref()), (2, Some("90")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_is_read_whatever_stands_at_its_end() {
    let server = TestServer::shared();
    let dsn = server.dsn(&server.create_database());
    for sql in [
        "SELECT 1 AS a, 'x' AS b;",
        "VALUES (1, 'x')",
        "SELECT 1 AS a, 'x' AS b -- the end",
        "WITH w AS (SELECT 1 AS a, 'x' AS b) TABLE w ; ",
        "SELECT 1 AS a, 'x' /* ) TO STDOUT */",
        "(SELECT 1 AS \"?\", 'x' AS \"?column?\")",
        "SELECT i, 'x' FROM generate_series(1, 1) i ORDER BY 1 LIMIT 1",
    ] {
        let rows = read(&dsn, query(sql)).await.expect(sql);
        assert_eq!((rows.num_rows(), rows.num_columns()), (1, 2), "{sql}");
        assert_eq!(rows.column(1).as_string::<i32>().value(0), "x", "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wide_rows_come_in_small_batches() {
    let server = TestServer::shared();
    let database = server.create_database();
    server.sql(&database, "CREATE TABLE wide AS SELECT i AS id, repeat('x', 1000000) AS pad, 10::numeric ^ 100000 AS n \
        FROM generate_series(1, 100) i");
    let mut stream = source(&server.dsn(&database))
        .read(table("wide"), ReadOptions::default())
        .await
        .expect("a table");
    let (mut rows, mut batches) = (0, 0);
    while let Some(batch) = stream.next().await {
        let batch = batch.expect("a batch");
        assert!(
            batch.get_array_memory_size() < 64 << 20,
            "{}",
            batch.get_array_memory_size()
        );
        rows += batch.num_rows();
        batches += 1;
    }
    assert_eq!(rows, 100);
    assert!(batches >= 5, "{batches}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_nobody_reads_is_cancelled_on_the_server() {
    let server = TestServer::shared();
    let database = server.create_database();
    let slow = query("SELECT i, pg_sleep(30) IS NULL AS slept FROM generate_series(1, 10) i");
    let stream = source(&server.dsn(&database))
        .read(slow, ReadOptions::default())
        .await
        .expect("a query");
    let active = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND application_name = 'lakehouse'"
    );
    let count = || server.sql("postgres", &active).trim().to_owned();
    assert_eq!(count(), "1");
    drop(stream);
    let begun = Instant::now();
    while count() != "0" {
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "the server still works for nobody"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
