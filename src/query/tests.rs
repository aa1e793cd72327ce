//! What the read path promises: deleted rows never come back, names that are not granted do not
//! exist, and no statement takes the daemon down.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arrow::{
    array::{AsArray, RecordBatch},
    datatypes::Int64Type,
};
use futures::StreamExt;
use lakehouse_journal::model::ErrorKind;
use serde_json::json;

use super::{
    GateLimits, QueryError, Reader, SessionTables, rows_json,
    testing::{Lake, people},
};

mod barrier;
mod draining;
mod groups;
mod plans;
mod policies;
mod visible_rows;

fn on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}

/// A lake with `people`: two files of 1,000 rows in row groups of 100, without ids 0..150 and 1500.
fn lake() -> Lake {
    let mut lake = Lake::new();
    let gone: Vec<u32> = (0..150).collect();
    lake.add(
        "people",
        &[(people(0, 1_000), gone), (people(1_000, 1_000), vec![500])],
        100,
    );
    lake.add("orders", &[(people(0, 10), vec![])], 100);
    lake
}

#[test]
fn deleted_rows_are_gone_from_scans_counts_and_limits() {
    on(async {
        let lake = lake();
        assert_eq!(
            lake.rows("SELECT count(*) FROM people").await,
            json!([[1849]])
        );
        assert_eq!(
            lake.rows("SELECT id FROM people WHERE id IN (149, 150, 1499, 1500, 1501) ORDER BY id")
                .await,
            json!([[150], [1499], [1501]])
        );
        assert_eq!(
            lake.rows("SELECT min(id), max(id) FROM people").await,
            json!([[150, 1999]])
        );
        assert_eq!(
            lake.rows("SELECT count(*) FROM (SELECT id FROM people WHERE id >= 0 LIMIT 1700)")
                .await,
            json!([[1700]])
        );
    });
}

#[test]
fn a_count_is_answered_from_statistics() {
    on(async {
        let lake = lake();
        let plan = lake
            .session()
            .explain("SELECT count(*) FROM people")
            .await
            .unwrap();
        assert!(
            plan.physical.contains("PlaceholderRowExec"),
            "{}",
            plan.physical
        );
        assert!(!plan.physical.contains(".parquet"));
    });
}

#[test]
fn names_that_are_not_granted_do_not_exist() {
    on(async {
        let lake = lake();
        let tables = || SessionTables {
            state: Arc::new(lake.state.clone()),
            seq: 1,
            reader: Arc::new(Reader::nobody("somebody").only(["orders".to_owned()])),
            system: Vec::new(),
        };
        for sql in ["SELECT * FROM people", "SELECT * FROM peoples"] {
            let session = lake.engine.session(tables());
            let Err(error) = session.execute(sql, vec![], None).await else {
                panic!("{sql} is answered");
            };
            assert_eq!(error.code(), "dataset_not_found");
            assert!(!error.to_string().contains("near"), "{error}");
        }
        for sql in [
            "SELECT * FROM information_schema.tables",
            "SELECT * FROM system.events",
            "SELECT * FROM other.datasets.people",
            "SELECT * FROM '/etc/passwd'",
            "SELECT * FROM \"file:///etc/passwd\"",
        ] {
            assert_eq!(lake.error(sql).await.code(), "dataset_not_found", "{sql}");
        }
        for sql in [
            "SELECT * FROM read_parquet('x')",
            "SELECT * FROM parquet_metadata('x')",
        ] {
            assert_eq!(lake.error(sql).await.code(), "invalid_sql", "{sql}");
        }
    });
}

#[test]
fn errors_have_their_codes_and_say_what_is_near() {
    on(async {
        let lake = lake();
        let error = lake.error("SELECT * FROM peple").await;
        assert_eq!(error.to_string(), "no dataset `peple`; near: people");
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let error = lake.error("SELECT nam FROM people").await;
        assert_eq!(error.code(), "column_not_found");
        assert!(error.to_string().contains("name"), "{error}");
        let error = lake.error("SELECT 1 / (grp - grp) FROM people").await;
        assert_eq!(error.code(), "execution_failed");
        let error = lake.error("SELECT CAST(name AS INT) FROM people").await;
        assert_eq!(error.code(), "execution_failed");
        let error = lake.error("SELECT sum(name) FROM people").await;
        assert_eq!(error.code(), "invalid_sql");
    });
}

#[test]
fn the_datasets_that_a_query_reads_are_known() {
    on(async {
        let lake = lake();
        let sql = "WITH a AS (SELECT * FROM people) SELECT * FROM a \
                   WHERE id IN (SELECT id FROM orders) AND EXISTS (SELECT 1 FROM a)";
        let stream = lake.session().execute(sql, vec![], Some(5)).await.unwrap();
        assert_eq!(stream.datasets(), ["orders", "people"]);
    });
}

#[test]
fn a_common_table_may_have_the_name_of_nothing_or_of_a_dataset() {
    on(async {
        let lake = lake();
        let sql = "WITH orders AS (SELECT 7 AS x) SELECT x FROM orders";
        assert_eq!(lake.rows(sql).await, json!([[7]]));
        let sql = "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 5) \
                   SELECT sum(i) FROM n";
        assert_eq!(lake.rows(sql).await, json!([[15]]));
    });
}

#[test]
fn parameters_are_bound_by_their_json_type() {
    on(async {
        let lake = lake();
        let sql = "SELECT id, name FROM people WHERE id = $1 AND name = $2 AND $3 IS NULL";
        let params = vec![json!(700), json!("n700"), json!(null)];
        let answer = lake.json(sql, params).await.unwrap();
        assert_eq!(answer.rows.get(), r#"[[700,"n700"]]"#);
        let sql = "SELECT DATE '2024-02-29' = ?, 1.5 < ?, ?";
        let params = vec![json!("2024-02-29"), json!(2.5), json!(true)];
        let answer = lake.json(sql, params).await.unwrap();
        assert_eq!(answer.rows.get(), "[[true,true,true]]");
        for (sql, params) in [
            ("SELECT $1", vec![]),
            ("SELECT 1", vec![json!(1)]),
            ("SELECT $2", vec![json!(1)]),
            ("SELECT $x", vec![json!(1)]),
            ("SELECT $1", vec![json!([1])]),
        ] {
            let error = lake.json(sql, params).await.unwrap_err();
            assert_eq!(error.code(), "invalid_parameter", "{sql}");
        }
    });
}

#[test]
fn an_answer_says_when_it_is_cut() {
    on(async {
        let lake = lake();
        for (limit, rows, cut) in [(5, 5, true), (10, 10, false), (11, 10, false), (0, 0, true)] {
            let session = lake.session();
            let sql = "SELECT id FROM orders ORDER BY id";
            let stream = session.execute(sql, vec![], Some(limit)).await.unwrap();
            let answer = rows_json(stream, limit).await.unwrap();
            assert_eq!((answer.row_count, answer.truncated), (rows, cut));
        }
    });
}

#[test]
fn a_slow_query_ends_at_its_deadline_and_its_threads_are_free_again() {
    on(async {
        let mut lake = Lake::new();
        lake.add("big", &[(people(0, 200_000), vec![])], 100_000);
        for sql in [
            "SELECT count(*) FROM big a, big b WHERE a.id * 3 < b.id - 7 AND a.grp < b.id",
            "SELECT sum(a.id + b.id) FROM big a CROSS JOIN big b",
            "SELECT count(*) FROM big a JOIN big b ON a.grp = b.grp WHERE a.id + b.id > 3",
            "SELECT a.id FROM big a, big b WHERE a.id < b.id ORDER BY a.id * b.id LIMIT 3",
            "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n) SELECT sum(i) FROM n",
        ] {
            let start = Instant::now();
            let session = lake.session().with_timeout(Duration::from_millis(400));
            let error = match session.execute(sql, vec![], Some(10)).await {
                Err(error) => error,
                Ok(stream) => rows_json(stream, 10).await.unwrap_err(),
            };
            assert_eq!(error.code(), "query_timeout", "{sql}: {error}");
            assert!(start.elapsed() < Duration::from_millis(1_400), "{sql}");
            let idle = wait_for(|| lake.engine.handle().metrics().num_alive_tasks() == 0).await;
            assert!(idle, "{sql} still runs");
            assert_eq!(lake.engine.memory_reserved_bytes(), 0, "{sql}");
        }
    });
}

#[test]
fn a_dropped_answer_ends_its_query() {
    on(async {
        let mut lake = Lake::new();
        lake.add("big", &[(people(0, 200_000), vec![])], 100_000);
        let sql = "SELECT a.id, b.id FROM big a CROSS JOIN big b";
        let mut stream = lake.session().execute(sql, vec![], None).await.unwrap();
        stream.next().await.unwrap().unwrap();
        drop(stream);
        let handle = lake.engine.handle();
        assert!(wait_for(|| handle.metrics().num_alive_tasks() == 0).await);
        let sql = "SELECT count(*) FROM big a CROSS JOIN big b";
        let session = lake.session();
        let asked = tokio::time::timeout(Duration::from_millis(100), async {
            rows_json(session.execute(sql, vec![], None).await?, 1).await
        });
        drop(asked.await);
        assert!(wait_for(|| handle.metrics().num_alive_tasks() == 0).await);
    });
}

async fn wait_for(done: impl Fn() -> bool) -> bool {
    for _ in 0..200 {
        if done() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    false
}

#[test]
fn a_query_over_its_memory_is_refused_and_gives_it_back() {
    on(async {
        let mut lake = Lake::with(|config| {
            config.memory_limit_bytes = 16 << 20;
            config.spill_bytes_max = 32 << 20;
        });
        lake.add("big", &[(people(0, 200_000), vec![])], 100_000);
        for sql in [
            "SELECT array_agg(a.name) FROM big a, big b WHERE b.id < 100",
            "SELECT a.id, count(*) FROM big a, big b WHERE b.id < 50 GROUP BY a.id * 1000 + b.id, a.id",
            "SELECT max(r) FROM (SELECT row_number() OVER (ORDER BY a.name || b.name) AS r \
             FROM big a, big b WHERE b.id < 30)",
        ] {
            let error = lake.error(sql).await;
            assert_eq!(error.code(), "memory_limit", "{sql}: {error}");
            let free =
                || lake.engine.memory_reserved_bytes() == 0 && lake.engine.spill_used_bytes() == 0;
            assert!(
                wait_for(free).await,
                "{sql} keeps {} bytes and {} on disk",
                lake.engine.memory_reserved_bytes(),
                lake.engine.spill_used_bytes()
            );
        }
        assert_eq!(
            lake.rows("SELECT count(*) FROM big").await,
            json!([[200_000]])
        );
    });
}

#[test]
fn the_largest_statements_that_get_in_are_planned_in_time() {
    on(async {
        let lake = lake();
        let limits = GateLimits::default();
        let terms = limits.chain_max / 2 - 2;
        let chain = |op: &str, term: &str| vec![term; terms].join(op);
        let deep = limits.depth_max - 3;
        let nested = (0..deep.min(30)).fold("SELECT id FROM orders".to_owned(), |inner, i| {
            format!("SELECT id FROM ({inner}) AS t{i}")
        });
        let union = vec!["SELECT id FROM orders"; limits.selects_max].join(" UNION ALL ");
        let list: Vec<String> = (0..4_900).map(|i| i.to_string()).collect();
        let whens = (0..900).map(|i| format!("WHEN id = {i} THEN {i} "));
        for sql in [
            format!("SELECT {}", vec!["1"; limits.chain_max].join(" + ")),
            format!(
                "SELECT {} FROM orders",
                vec!["id"; limits.chain_max].join(" + ")
            ),
            format!("SELECT id FROM orders WHERE {}", chain(" OR ", "id > 3")),
            format!("SELECT id FROM orders WHERE {}", chain(" AND ", "id > 3")),
            format!(
                "SELECT id FROM orders WHERE {}",
                chain(" OR ", "name = 'n3'")
            ),
            format!("SELECT {}1{}", "(".repeat(deep), ")".repeat(deep)),
            format!("SELECT {} true", "NOT ".repeat(40)),
            format!("SELECT id FROM orders WHERE id IN ({})", list.join(",")),
            format!("SELECT CASE {} END FROM orders", whens.collect::<String>()),
            format!("SELECT 1{}", "::int".repeat(limits.chain_max - 1)),
            nested,
            union,
        ] {
            let start = Instant::now();
            let answer = lake.json(&sql, vec![]).await;
            let head: String = sql.chars().take(50).collect();
            let took = start.elapsed();
            println!("{took:?} {head}");
            assert!(took < Duration::from_secs(3), "{head}: {took:?}");
            if let Err(error) = answer {
                assert_eq!(error.kind(), ErrorKind::Invalid, "{head}: {error}");
            }
        }
    });
}

#[test]
fn a_missing_or_damaged_file_is_told_without_its_path() {
    on(async {
        let lake = lake();
        let people = lake.state.datasets.get("people").unwrap();
        let bucket = lake.buckets.get("primary").unwrap().local.unwrap();
        let file = |index: usize| bucket.file(&people.files[index].entry.key).unwrap();
        let bytes = std::fs::read(file(0)).unwrap();
        std::fs::write(file(0), vec![0; bytes.len()]).unwrap();
        let error = lake.error("SELECT sum(id) FROM people").await;
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
        std::fs::remove_file(file(0)).unwrap();
        let error = lake.error("SELECT sum(id) FROM people").await;
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
        assert!(error.to_string().contains("bucket `primary`"), "{error}");
        assert!(!error.to_string().contains("parquet"), "{error}");
    });
}

#[test]
fn plans_are_shown_without_files() {
    on(async {
        let lake = lake();
        let plan = lake
            .session()
            .explain("SELECT name FROM people WHERE id > 5 ORDER BY name LIMIT 3")
            .await
            .unwrap();
        assert!(
            plan.physical.contains("DataSourceExec"),
            "{}",
            plan.physical
        );
        for text in [&plan.logical, &plan.physical] {
            for secret in [".parquet", "primary", "datasets/", "lake://"] {
                assert!(!text.contains(secret), "{text}");
            }
        }
        let error = lake.session().explain("DROP TABLE x").await.unwrap_err();
        assert_eq!(error.code(), "statement_not_allowed");
    });
}

/// The first column of an answer.
fn ids(batches: &[RecordBatch]) -> Vec<i64> {
    batches
        .iter()
        .flat_map(|batch| {
            batch
                .column(0)
                .as_primitive::<Int64Type>()
                .values()
                .to_vec()
        })
        .collect()
}

#[test]
fn errors_of_a_query_are_told_once() {
    on(async {
        let lake = lake();
        let sql = "SELECT 1 / (grp - grp) FROM people";
        let mut stream = lake.session().execute(sql, vec![], None).await.unwrap();
        let mut errors = 0;
        while let Some(batch) = stream.next().await {
            errors += usize::from(matches!(batch, Err(QueryError::Execution(_))));
        }
        assert_eq!(errors, 1);
    });
}

#[test]
fn floats_numbers_and_texts_come_as_the_contract_says() {
    on(async {
        let lake = lake();
        let sql = "SELECT 1.5::double, 'NaN'::double, 9223372036854775807, 18446744073709551615::bigint unsigned, \
                   1.10::decimal(5,2), DATE '2024-01-31', TIMESTAMP '2024-01-31T01:02:03.5', \
                   TIMESTAMP '2024-01-31T01:02:03.5+02:00' AT TIME ZONE 'UTC', X'00ff', [1, NULL, 3], \
                   named_struct('a', 1, 'b', 'x\"y'), NULL, true, TIME '01:02:03'";
        let stream = lake.session().execute(sql, vec![], Some(1)).await;
        let answer = rows_json(stream.unwrap(), 1).await.unwrap();
        assert_eq!(
            answer.rows.get(),
            r#"[[1.5,"NaN",9223372036854775807,18446744073709551615,"1.10","2024-01-31","2024-01-31T01:02:03.500000","2024-01-30T23:02:03.500000Z","AP8=",[1,null,3],{"a":1,"b":"x\"y"},null,true,"01:02:03"]]"#
        );
    });
}

#[test]
fn a_limit_over_row_groups_that_match_whole_brings_no_deleted_row_back() {
    on(async {
        let mut lake = Lake::with(|config| {
            config.pushdown_filters = true;
            config.target_partitions = 1;
        });
        let odd: Vec<u32> = (0..100).filter(|row| row % 2 == 1).collect();
        lake.add("t", &[(people(0, 100), odd)], 10);
        let sql = "SELECT id FROM t WHERE id >= 0 AND id < 1000 LIMIT 40";
        let plan = lake.session().explain(sql).await.unwrap();
        assert!(plan.physical.contains("limit=40"), "{}", plan.physical);
        let seen = ids(&lake.batches(sql).await);
        assert_eq!(seen.len(), 40);
        assert!(seen.iter().all(|id| id % 2 == 0), "{seen:?}");
    });
}
