//! What erasure relies on: a drain waits for queries of older snapshots, ends those that overrun, and
//! touches nothing else; and no query stays registered once nobody reads it.

use futures::StreamExt;

use super::*;
use crate::query::{
    CsvOptions, Drained, QuerySession, QueryStream, arrow_ipc, csv, store::lake_path,
};

/// Long enough that a test which waits for it has failed.
const LONG: Duration = Duration::from_mins(2);
/// A deadline that the queries of these tests overrun.
const SHORT: Duration = Duration::from_millis(150);
/// More rows than fit into what waits between a query and its reader.
const EVERY_PAIR: &str = "SELECT a.id, b.name FROM big a CROSS JOIN big b";

/// A lake with `big`: 200,000 rows.
fn big() -> Lake {
    let mut lake = Lake::new();
    lake.add("big", &[(people(0, 200_000), vec![])], 100_000);
    lake
}

async fn opened(session: QuerySession, sql: &str) -> QueryStream {
    session.execute(sql, vec![], None).await.unwrap()
}

async fn code_of(session: QuerySession, sql: &str) -> &'static str {
    match session.execute(sql, vec![], Some(10)).await {
        Err(error) => error.code(),
        Ok(stream) => rows_json(stream, 10).await.unwrap_err().code(),
    }
}

async fn none_runs(lake: &Lake) -> bool {
    let idle =
        || lake.engine.running() == 0 && lake.engine.handle().metrics().num_alive_tasks() == 0;
    wait_for(idle).await
}

fn counts(drained: Drained) -> (usize, usize) {
    (drained.ended, drained.left)
}

#[test]
fn an_old_query_is_waited_for_until_its_last_row_is_read() {
    on(async {
        let lake = big();
        let mut old = opened(lake.session_at(4), "SELECT id FROM big").await;
        let mut seen = old.next().await.unwrap().unwrap().num_rows();
        let reading = async {
            tokio::time::sleep(SHORT).await;
            while let Some(batch) = old.next().await {
                seen += batch.unwrap().num_rows();
            }
        };
        let (drained, ()) = tokio::join!(lake.engine.drain(5, LONG), reading);
        assert_eq!(counts(drained), (0, 0));
        assert!(drained.waited >= SHORT, "{drained:?}");
        assert_eq!(seen, 200_000);
    });
}

#[test]
fn an_old_query_that_overruns_is_ended_and_told_so() {
    on(async {
        let lake = big();
        for sql in [
            "SELECT count(*) FROM big a, big b WHERE a.id * 3 < b.id - 7 AND a.grp < b.id",
            "SELECT sum(a.id + b.id) FROM big a CROSS JOIN big b",
            "SELECT count(*) FROM big a JOIN big b ON a.grp = b.grp WHERE a.id + b.id > 3",
            "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n) SELECT sum(i) FROM n",
        ] {
            let asked = code_of(lake.session_at(4), sql);
            let (code, drained) = tokio::join!(asked, lake.engine.drain(5, SHORT));
            assert_eq!(code, "snapshot_expired", "{sql}");
            assert_eq!(counts(drained), (1, 0), "{sql}");
            assert!(drained.waited < SHORT + Duration::from_secs(1), "{sql}");
            assert!(none_runs(&lake).await, "{sql} still runs");
        }
        let error = QueryError::SnapshotExpired;
        assert_eq!(error.kind(), ErrorKind::Unavailable);
    });
}

#[test]
fn a_session_that_never_asks_does_not_hold_a_drain_for_ever() {
    on(async {
        let lake = big();
        let idle = lake.session_at(4);
        let drained = lake.engine.drain(5, SHORT);
        let (drained, code) = tokio::join!(drained, async {
            tokio::time::sleep(2 * SHORT).await;
            code_of(idle, "SELECT count(*) FROM big a, big b").await
        });
        assert_eq!(counts(drained), (1, 0));
        assert_eq!(code, "snapshot_expired");
    });
}

#[test]
fn new_queries_are_neither_waited_for_nor_delayed_nor_ended() {
    on(async {
        let lake = big();
        let _old = opened(lake.session_at(4), EVERY_PAIR).await;
        let mut new = opened(lake.session_at(5), EVERY_PAIR).await;
        let asking = async {
            let start = Instant::now();
            let stream = opened(lake.session_at(5), "SELECT count(id) FROM big").await;
            assert_eq!(rows_json(stream, 1).await.unwrap().row_count, 1);
            start.elapsed()
        };
        let (drained, took) = tokio::join!(lake.engine.drain(5, 20 * SHORT), asking);
        assert!(took < 10 * SHORT, "a new query took {took:?}");
        assert_eq!(counts(drained), (1, 0), "its answer is held, and not read");
        for _ in 0..8 {
            new.next().await.unwrap().unwrap();
        }
        drop(new);
        let worker = lake.state.datasets.get("big").unwrap();
        let mut scan = lake
            .engine
            .scan_columns(worker, &["id".to_owned()])
            .await
            .unwrap();
        assert_eq!(counts(lake.engine.drain(u64::MAX, LONG).await), (0, 0));
        assert!(scan.next().await.unwrap().is_ok());
    });
}

#[test]
fn a_client_that_does_not_read_holds_no_snapshot_and_gets_no_whole_answer() {
    on(async {
        let lake = big();
        for arrow in [false, true] {
            let rows = opened(lake.session_at(4), EVERY_PAIR).await;
            let mut bytes = if arrow {
                arrow_ipc(rows)
            } else {
                csv(rows, CsvOptions::default())
            };
            bytes.next().await.unwrap().unwrap();
            tokio::time::sleep(SHORT).await;
            assert_eq!(counts(lake.engine.drain(5, SHORT).await), (1, 0));
            let mut last = Ok(());
            while let Some(chunk) = bytes.next().await {
                last = chunk.map(drop);
            }
            assert_eq!(last.unwrap_err().code(), "snapshot_expired");
            assert!(none_runs(&lake).await);
        }
    });
}

#[test]
fn nothing_stays_registered_that_nobody_reads() {
    on(async {
        let lake = big();
        let mut midway = opened(lake.session(), EVERY_PAIR).await;
        midway.next().await.unwrap().unwrap();
        assert_eq!(lake.engine.running(), 1);
        drop(midway);
        assert!(none_runs(&lake).await, "a stream dropped midway");

        let whole = opened(lake.session(), "SELECT id FROM big LIMIT 5").await;
        assert_eq!(whole.count().await, 1);
        assert!(none_runs(&lake).await, "a stream read to its end");

        for sql in [
            "SELECT",
            "SELECT * FROM nothing",
            "SELECT 1 / (grp - grp) FROM big",
            "SELECT $1",
        ] {
            code_of(lake.session(), sql).await;
            assert!(none_runs(&lake).await, "{sql}");
        }
        let session = lake.session().with_timeout(SHORT);
        assert_eq!(code_of(session, EVERY_SUM).await, "query_timeout");
        assert!(none_runs(&lake).await, "a query that timed out");

        let asked = tokio::time::timeout(SHORT, code_of(lake.session(), EVERY_SUM));
        assert!(
            asked.await.is_err(),
            "it takes longer than its client waits"
        );
        assert!(
            none_runs(&lake).await,
            "a client that left before its answer"
        );

        let rows = opened(lake.session(), EVERY_PAIR).await;
        let mut body = csv(rows, CsvOptions::default());
        body.next().await.unwrap().unwrap();
        drop(body);
        assert!(
            none_runs(&lake).await,
            "a client that left during its answer"
        );

        lake.session().explain(EVERY_PAIR).await.unwrap();
        drop(lake.session());
        assert!(
            none_runs(&lake).await,
            "a plan, and a session without a query"
        );
    });
}

const EVERY_SUM: &str = "SELECT sum(a.id * b.id) FROM big a CROSS JOIN big b";

#[test]
fn a_file_that_an_old_snapshot_misses_is_the_end_of_that_snapshot_only() {
    on(async {
        let lake = lake();
        let file = &lake.state.datasets.get("people").unwrap().files[0];
        let bucket = lake.buckets.get("primary").unwrap().local.unwrap();
        std::fs::remove_file(bucket.file(&file.entry.key).unwrap()).unwrap();
        let sql = "SELECT sum(id) FROM people";
        assert_eq!(code_of(lake.session_at(4), sql).await, "bucket_unavailable");
        lake.engine.drain(5, LONG).await;
        assert_eq!(code_of(lake.session_at(4), sql).await, "snapshot_expired");
        assert_eq!(code_of(lake.session_at(5), sql).await, "bucket_unavailable");
        let untouched = "SELECT sum(id) FROM orders";
        let rows = opened(lake.session_at(4), untouched).await;
        assert_eq!(rows_json(rows, 1).await.unwrap().row_count, 1);
    });
}

#[test]
fn a_file_that_goes_while_it_is_scanned_is_the_end_of_the_snapshot_too() {
    on(async {
        let lake = big();
        let dataset = lake.state.datasets.get("big").unwrap();
        // The footer is in the cache: planning succeeds, and the read of the rows fails.
        lake.rows("SELECT sum(id) FROM big").await;
        let bucket = lake.buckets.get("primary").unwrap().local.unwrap();
        std::fs::remove_file(bucket.file(&dataset.files[0].entry.key).unwrap()).unwrap();
        lake.engine.drain(5, LONG).await;
        let mut rows = opened(lake.session_at(4), "SELECT name FROM big").await;
        let error = rows.next().await.unwrap().unwrap_err();
        assert_eq!(error.code(), "snapshot_expired", "{error:?}");
        assert!(none_runs(&lake).await);
    });
}

#[test]
fn of_a_deleted_object_nothing_is_kept_in_memory() {
    on(async {
        let lake = big();
        let all = "SELECT count(*), max(name) FROM big WHERE id > 7";
        lake.rows(all).await;
        let file = &lake.state.datasets["big"].files[0].entry;
        let path = lake_path(&file.bucket, &file.key);
        let kept = || {
            let footer = lake.engine.footers().contains_key(&path);
            (footer, lake.engine.facts().knows(&path))
        };
        assert_eq!(kept(), (true, true), "the test sees what is kept");
        lakehouse_actors::ports::Readers::forget(&lake.engine, &file.bucket, &file.key);
        assert_eq!(kept(), (false, false));
    });
}
