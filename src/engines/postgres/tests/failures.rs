//! Every way in which a read fails, and what is said of it.

use super::*;

fn any() -> Relation {
    query("SELECT 1 AS one")
}

fn options() -> ReadOptions {
    ReadOptions {
        connect_timeout: Duration::from_secs(5),
        ..ReadOptions::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_user_password_or_database_is_named_and_nothing_more() {
    let server = TestServer::shared();
    let at = format!("127.0.0.1:{}", server.port);
    for dsn in [
        format!("postgres://lakehouse_test:hunter2-wrong@{at}/postgres"),
        format!("postgres://lakehouse_test@{at}/postgres"),
        format!("postgres://nobody_here:hunter2@{at}/postgres"),
    ] {
        let error = failure(&dsn, any(), options()).await;
        assert_eq!(
            error,
            PostgresError::Authentication {
                endpoint: at.clone()
            }
        );
        assert_eq!(error.kind(), ErrorKind::Denied);
    }
    let error = failure(&server.dsn("no_such_db"), any(), options()).await;
    assert_eq!(
        error.to_string(),
        format!("database `no_such_db` does not exist on `{at}`")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_port_a_silent_one_and_a_forbidden_one_read_alike() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let silent_port = silent.local_addr().expect("bound").port();
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .expect("a port")
        .local_addr()
        .expect("bound")
        .port();
    let quick = ReadOptions {
        connect_timeout: Duration::from_millis(300),
        ..ReadOptions::default()
    };
    let mut texts = Vec::new();
    for port in [silent_port, closed] {
        let dsn = format!("postgres://u:hunter2@127.0.0.1:{port}/d");
        let error = failure(&dsn, any(), quick.clone()).await;
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        texts.push(error.to_string().replace(&port.to_string(), "PORT"));
    }
    let dsn = format!("postgres://u:hunter2@127.0.0.1:{closed}/d");
    let forbidden =
        PostgresSource::parse(&dsn, &EgressPolicy::default()).expect_err("loopback is closed");
    texts.push(forbidden.to_string().replace(&closed.to_string(), "PORT"));
    assert_eq!(
        texts,
        vec!["`127.0.0.1:PORT` is unreachable or not allowed"; 3]
    );
    let named = PostgresSource::parse("postgres://u:hunter2@localhost/d", &EgressPolicy::default())
        .expect("a name");
    let error = named
        .read(any(), quick)
        .await
        .expect_err("it resolves to loopback");
    assert_eq!(
        error.to_string(),
        "`localhost:5432` is unreachable or not allowed"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_table_or_column_is_named_with_what_is_near() {
    let server = TestServer::shared();
    let database = server.create_database();
    let dsn = server.dsn(&database);
    server.sql(&database, "CREATE TABLE \"Customers\" (id int); CREATE SCHEMA sales; CREATE TABLE sales.orders (id int)");
    let error = failure(&dsn, table("customers"), options()).await;
    assert_eq!(
        error.to_string(),
        "table `\"customers\"` does not exist; near: \"public\".\"Customers\""
    );
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let error = failure(&dsn, table("sales.order"), options()).await;
    assert!(
        error.to_string().contains("near: \"sales\".\"orders\""),
        "{error}"
    );
    let error = failure(&dsn, table("nowhere.zzz"), options()).await;
    assert_eq!(
        error.to_string(),
        "table `\"nowhere\".\"zzz\"` does not exist"
    );
    let error = failure(&dsn, query("SELECT * FROM gone"), options()).await;
    assert_eq!(
        error,
        PostgresError::NoTable {
            table: "gone".into(),
            near: Vec::new()
        }
    );
    let error = failure(&dsn, query("SELECT nmae FROM sales.orders"), options()).await;
    assert_eq!(error.to_string(), "column \"nmae\" does not exist");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let watermark = Watermark {
        column: "at".into(),
        value: None,
        inclusive: false,
    };
    let error = failure(
        &dsn,
        table("sales.orders"),
        ReadOptions {
            since: Some(watermark),
            ..options()
        },
    )
    .await;
    assert_eq!(
        error.to_string(),
        "column `at` does not exist, so it cannot be the watermark"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_is_wrong_says_where() {
    let server = TestServer::shared();
    let dsn = server.dsn(&server.create_database());
    let error = failure(&dsn, query("SELECT 1 FORM t"), options()).await;
    assert_eq!(
        error.to_string(),
        "the query is not valid: syntax error at or near \"t\" (at character 15)"
    );
    for (sql, said) in [
        ("SELECT 1; SELECT 2", "multiple commands"),
        ("SELECT 1) TO STDOUT; --", "syntax error"),
        ("SELECT 1 AS a, 2 AS a", "two columns are named `a`"),
        ("SELECT $1::int AS a", "parameters"),
        ("SELECT no_such_function(1)", "no_such_function"),
        ("", "returns columns"),
        ("  ; ", "returns columns"),
        ("SELECT 1 /* open", "unterminated"),
        ("SELECT 'open", "unterminated"),
        ("SELECT 1\0", "NUL"),
        ("SELECT 1 AS a WHERE 1 / 0 = 1", "division by zero"),
        ("SELECT", "returns columns"),
    ] {
        let error = failure(&dsn, query(sql), options()).await;
        assert_eq!(error.kind(), ErrorKind::Invalid, "{sql}: {error}");
        assert!(error.to_string().contains(said), "{sql}: {error}");
    }
    let none = failure(
        &dsn,
        any(),
        ReadOptions {
            partitions: Some(0),
            ..options()
        },
    )
    .await;
    assert_eq!(none.to_string(), "`partitions` must be from 1 to 16");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_writes_is_refused_and_writes_nothing() {
    let server = TestServer::shared();
    let database = server.create_database();
    let dsn = server.dsn(&database);
    server.sql(&database, "CREATE TABLE t (id int); INSERT INTO t VALUES (1); CREATE SEQUENCE s; \
        CREATE FUNCTION sneak() RETURNS int LANGUAGE sql AS 'INSERT INTO t VALUES (2) RETURNING id'");
    for sql in [
        "INSERT INTO t VALUES (3)",
        "INSERT INTO t VALUES (3) RETURNING id",
        "DELETE FROM t RETURNING id",
        "UPDATE t SET id = 5 RETURNING id",
        "WITH w AS (DELETE FROM t RETURNING id) SELECT * FROM w",
        "DROP TABLE t",
        "SELECT sneak() AS a",
        "SELECT nextval('s') AS a",
        "SELECT id FROM t FOR UPDATE",
        "TRUNCATE t",
        "COPY t TO PROGRAM 'true'",
        "EXPLAIN ANALYZE DELETE FROM t",
        "SET TRANSACTION READ WRITE",
        "COMMIT",
        "SHOW port",
        "SELECT * INTO u FROM t",
        "CREATE TABLE u AS SELECT 1 AS a",
        "SELECT set_config('transaction_read_only', 'off', false), sneak()",
    ] {
        let error = failure(&dsn, query(sql), options()).await;
        assert_eq!(error.kind(), ErrorKind::Invalid, "{sql}: {error:?}");
    }
    assert_eq!(server.sql(&database, "SELECT * FROM t"), "1\n");
    assert_eq!(server.sql(&database, "SELECT is_called FROM s"), "f\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_the_user_may_not_read_is_denied() {
    let server = TestServer::shared();
    let database = server.create_database();
    server.sql(
        &database,
        &format!(
            "CREATE TABLE secrets (id int); CREATE ROLE weak_{database} LOGIN PASSWORD 'hunter2'"
        ),
    );
    let dsn = format!(
        "postgres://weak_{database}:hunter2@127.0.0.1:{}/{database}",
        server.port
    );
    for what in [table("secrets"), query("SELECT id FROM secrets")] {
        let error = failure(&dsn, what, options()).await;
        assert_eq!(
            error.to_string(),
            "PostgreSQL denies it: permission denied for table secrets"
        );
        assert_eq!(error.kind(), ErrorKind::Denied);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_takes_too_long_is_a_timeout() {
    let server = TestServer::shared();
    let dsn = server.dsn(&server.create_database());
    let quick = ReadOptions {
        statement_timeout: Some(Duration::from_millis(100)),
        ..options()
    };
    let slow = query("SELECT i, pg_sleep(10) IS NULL AS slept FROM generate_series(1, 10) i");
    let begun = Instant::now();
    let error = failure(&dsn, slow, quick).await;
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_room_is_busy_and_a_parallel_read_takes_the_room_there_is() {
    let server = TestServer::start(&[
        ("max_connections", "5"),
        ("superuser_reserved_connections", "0"),
    ]);
    server.sql(
        "postgres",
        "CREATE TABLE t AS SELECT i FROM generate_series(1, 200000) i",
    );
    let mut held = Vec::new();
    for _ in 0..3 {
        let slow = query("SELECT pg_sleep(60) IS NULL AS a");
        held.push(
            source(&server.dsn("postgres"))
                .read(slow, options())
                .await
                .expect("room"),
        );
    }
    let many = ReadOptions {
        partitions: Some(8),
        ..options()
    };
    let stream = source(&server.dsn("postgres"))
        .read(table("t"), many)
        .await
        .expect("room for two");
    let error = failure(&server.dsn("postgres"), any(), options()).await;
    assert_eq!(error.kind(), ErrorKind::Overloaded, "{error:?}");
    let (rows, _) = drain(stream).await.expect("all rows");
    assert_eq!(rows.num_rows(), 200_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_midway_is_an_error_and_never_an_end() {
    for partitions in [1, 3] {
        let server = TestServer::start(&[]);
        server.sql("postgres", "CREATE TABLE t AS SELECT i, repeat(md5(i::text), 20) AS pad FROM generate_series(1, 150000) i");
        let some = ReadOptions {
            partitions: Some(partitions),
            batch_rows: 1000,
            ..options()
        };
        let mut stream = source(&server.dsn("postgres"))
            .read(table("t"), some)
            .await
            .expect("a table");
        let mut rows = stream
            .next()
            .await
            .expect("a batch")
            .expect("of rows")
            .num_rows();
        server.kill();
        let error = loop {
            match stream
                .next()
                .await
                .expect("a stream cut off does not just end")
            {
                Ok(batch) => rows += batch.num_rows(),
                Err(error) => break error,
            }
        };
        assert!(
            matches!(error, PostgresError::ConnectionLost { .. }),
            "{error:?}"
        );
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(
            rows < 150_000 && !error.to_string().contains("hunter2"),
            "{rows} {error}"
        );
        assert!(
            stream.next().await.is_none() && stream.end().is_none(),
            "no end after an error"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn text_that_is_not_utf_8_is_an_error() {
    let server = TestServer::shared();
    server.sql(
        "postgres",
        "CREATE DATABASE raw ENCODING 'SQL_ASCII' TEMPLATE template0",
    );
    server.sql(
        "raw",
        "CREATE TABLE t (id int, word text); INSERT INTO t VALUES (1, E'\\xff')",
    );
    let error = failure(&server.dsn("raw"), table("t"), options()).await;
    assert!(
        error
            .to_string()
            .contains("invalid byte sequence for encoding \"UTF8\""),
        "{error}"
    );
    assert_eq!(error.kind(), ErrorKind::Invalid);
}
