//! O-02, O-03 and O-06 on S3: the n-th operation of the store fails, or is carried out and answered with
//! an error, and writers race. Every write is there once or not at all, and says so.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::json;

use crate::support::api::{Api, list};
use crate::support::daemon::{Daemon, Site};
use crate::support::s3::{self, Fault, S3Server};
use crate::support::{number_from_env, until};

/// A daemon that has so many seconds of patience with a silent store.
fn daemon(server: &S3Server, patience_s: u64) -> Daemon {
    let site = Site::new(&[]);
    s3::write_secrets(&site.data_dir());
    let primary = format!(
        "[storage]\nrequest_timeout_s = {patience_s}\n[[storage.buckets]]\nname = \"primary\"\nbackend = \"s3\"\nurl = \"{}\"\nsecret = \"store\"\nallow_http = true\n",
        server.url("lake")
    );
    std::fs::write(site.scratch().join("lakehouse.toml"), primary).unwrap();
    Daemon::start_at(site)
}

async fn up(api: &Api) {
    until("the bucket counts as up", || async {
        let health = list(&api.get("/storage/bucket-health").await.ok());
        (health[0]["circuit"] == "closed").then_some(())
    })
    .await;
}

async fn ids(api: &Api) -> BTreeSet<i64> {
    let rows = api.rows("SELECT id FROM t ORDER BY id").await;
    let ids: Vec<i64> = rows.iter().map(|row| row[0].as_i64().unwrap()).collect();
    let set: BTreeSet<i64> = ids.iter().copied().collect();
    assert_eq!(set.len(), ids.len(), "no row is there twice");
    set
}

/// Data requests only: looks after the bucket come and go by themselves.
fn is_data(path: &str) -> bool {
    path.contains("/datasets/")
}

/// Every fault, each on a server and a daemon of its own.
const FAULTS: [Fault; 9] = [
    Fault::Status(500),
    Fault::Status(503),
    Fault::Status(403),
    Fault::Status(404),
    Fault::DoneThen(500),
    Fault::Short,
    Fault::Broken,
    Fault::OtherEtag,
    Fault::Hang,
];
/// For how many operations a fault lasts: once, with the tries that follow, and until the store is well again.
const LASTING: [u64; 3] = [1, 4, u64::MAX];

/// O-02. Every operation of a write, a compaction and a query fails in turn, by every fault.
#[tokio::test]
async fn whichever_operation_of_the_store_fails_a_write_is_there_once_or_not_at_all() {
    let tasks: Vec<_> = FAULTS
        .iter()
        .map(|&fault| tokio::spawn(each_fails_in_turn(fault)))
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

/// Has one operation after the other fail, until a round meets no more of them.
async fn each_fails_in_turn(fault: Fault) {
    let server = S3Server::start(&["lake"]);
    let daemon = daemon(&server, 1);
    let api = daemon.admin();
    api.ingest("dataset=t&mode=create", "text/csv", "id\n0\n")
        .await
        .ok();
    let mut expected = BTreeSet::from([0]);
    let (mut next, mut failed) = (0, 0);
    for lasting in LASTING {
        for nth in 1.. {
            let count = Arc::new(AtomicU64::new(0));
            let counted = Arc::clone(&count);
            server.plan(move |_, path| {
                let n = if is_data(path) {
                    counted.fetch_add(1, Ordering::Relaxed) + 1
                } else {
                    0
                };
                if n >= nth && n - nth < lasting {
                    fault
                } else {
                    Fault::None
                }
            });
            next += 1;
            let at = format!("{fault:?} at {nth} for {lasting}");
            // What a store says that it does not have is told as not found, everything else as unavailable.
            let is_told =
                |status: u16| status == 503 || (status == 404 && fault == Fault::Status(404));
            let written = api
                .ingest("dataset=t&mode=append", "text/csv", format!("id\n{next}\n"))
                .await;
            if written.is_ok() {
                expected.insert(next);
            } else {
                assert!(is_told(written.status), "{at}: {}", written.text());
                failed += 1;
            }
            let compacted = api.post("/catalog/datasets/t/compact", &json!({})).await;
            let is_well = compacted.is_ok() || is_told(compacted.status);
            assert!(is_well, "{at}: {}", compacted.text());
            let counted = api.sql("SELECT count(*) FROM t").await;
            if counted.is_ok() {
                let rows = counted.ok()["rows"][0][0].clone();
                assert_eq!(rows, expected.len(), "{at}: all rows or none");
            } else {
                assert!(is_told(counted.status), "{at}: {}", counted.text());
            }
            let met = count.load(Ordering::Relaxed);
            server.heal();
            up(&api).await;
            assert_eq!(ids(&api).await, expected, "{at}");
            // Every round meets the same: what a failed compaction leaves would give the next more operations
            // than the fault moves on by, and the last were never reached.
            api.post("/catalog/datasets/t/compact", &json!({}))
                .await
                .ok();
            if met < nth {
                assert!(nth > 4, "{met} operations only");
                break;
            }
        }
    }
    eprintln!(
        "{fault:?}: {next} rounds, {failed} writes refused, {} rows",
        expected.len()
    );
    let daemon = daemon.crash_and_restart();
    let api = daemon.admin();
    assert_eq!(ids(&api).await, expected);
    let verified = api.post("/journal/verify", &json!({})).await.ok();
    assert_eq!(verified["ok"], true, "{verified}");
}

/// O-03. `LAKEHOUSE_AMBIGUOUS_PUTS=500` is the whole figure.
#[tokio::test]
async fn a_put_that_is_done_and_answered_with_an_error_is_there_once_or_said_to_have_failed() {
    let server = S3Server::start(&["lake"]);
    let daemon = daemon(&server, 20);
    let api = daemon.admin();
    api.ingest("dataset=t&mode=create", "text/csv", "id\n0\n")
        .await
        .ok();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    server.plan(move |method, path| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let planned = method == "PUT" && !path.contains("_probe");
        match (planned, state % 10) {
            (true, 0) => Fault::DoneThen(500),
            (true, 1) => Fault::DoneThen(409),
            (true, 2) => Fault::DoneThen(412),
            _ => Fault::None,
        }
    });
    let mut expected = BTreeSet::from([0]);
    let commits = i64::try_from(number_from_env("LAKEHOUSE_AMBIGUOUS_PUTS", 60)).unwrap();
    let (mut ok, mut failed) = (0, 0);
    for id in 1..=commits {
        let written = api
            .ingest("dataset=t&mode=append", "text/csv", format!("id\n{id}\n"))
            .await;
        if written.is_ok() {
            expected.insert(id);
            ok += 1;
        } else {
            failed += 1;
            up(&api).await;
        }
    }
    server.heal();
    up(&api).await;
    assert!(ok > commits / 2, "{ok} commits, {failed} failures");
    assert_eq!(ids(&api).await, expected);
    let daemon = daemon.crash_and_restart();
    assert_eq!(ids(&daemon.admin()).await, expected);
}

/// O-06: writers race on one dataset, and every row that was acknowledged is there once.
/// `LAKEHOUSE_RACING_WRITES=2000` is the whole figure.
#[tokio::test]
async fn writers_that_race_on_s3_lose_nothing_and_conflicts_are_told() {
    let server = S3Server::start(&["lake"]);
    let daemon = daemon(&server, 20);
    let api = daemon.admin();
    api.ingest("dataset=t&mode=create&key=id", "text/csv", "id,v\n0,0\n")
        .await
        .ok();
    let each = i64::try_from(number_from_env("LAKEHOUSE_RACING_WRITES", 40) / 4).unwrap();
    let mut tasks = Vec::new();
    for writer in 0..4_i64 {
        let api = api.clone();
        tasks.push(tokio::spawn(async move {
            let mut written = Vec::new();
            for n in 0..each {
                let id = 1 + writer * each + n;
                let csv = format!("id,v\n{id},{writer}\n0,{writer}\n");
                let answer = api.ingest("dataset=t&mode=upsert", "text/csv", csv).await;
                if answer.is_ok() {
                    written.push(id);
                } else {
                    assert_eq!(answer.status, 409, "{}", answer.text());
                }
            }
            written
        }));
    }
    // Compaction races with them, as it does in a daemon that is written to all day.
    let merging = {
        let api = api.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(std::time::Duration::from_secs(2)).await;
                let merged = api.post("/catalog/datasets/t/compact", &json!({})).await;
                assert!(merged.is_ok() || merged.status == 409, "{}", merged.text());
            }
        })
    };
    let mut expected = BTreeSet::from([0]);
    for task in tasks {
        expected.extend(task.await.unwrap());
    }
    assert!(!merging.is_finished(), "a compaction failed");
    merging.abort();
    assert!(i64::try_from(expected.len()).unwrap() > 2 * each);
    assert_eq!(ids(&api).await, expected);
}
