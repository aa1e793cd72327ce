//! Buckets that fail: killed and blackholed under load, what goes on, who answers instead, and that
//! every failure is found in one place.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::support::api::{Api, list};
use crate::support::daemon::{Daemon, Site};
use crate::support::s3::{self, Fault, S3Server};
use crate::support::until;

const LOCAL_RESCUE: &str =
    "[[storage.buckets]]\nname = \"rescue\"\nbackend = \"local\"\nroot = \"buckets/rescue\"\n";

fn daemon(parts: &[&str]) -> Daemon {
    let site = Site::new(&[]);
    s3::write_secrets(&site.data_dir());
    std::fs::write(site.scratch().join("lakehouse.toml"), s3::config(parts)).unwrap();
    Daemon::start_at(site)
}

async fn create_in(api: &Api, bucket: &str, dataset: &str, csv: &str) {
    api.call(
        Method::POST,
        &format!("/ingest/file?dataset={dataset}&mode=create&key=id"),
    )
    .header("content-type", "text/csv")
    .header("x-lakehouse-bucket", bucket)
    .body(csv)
    .send()
    .await
    .ok();
}

async fn health_of(api: &Api, bucket: &str) -> Value {
    let all = list(&api.get("/storage/bucket-health").await.ok());
    all.into_iter()
        .find(|health| health["bucket"] == bucket)
        .unwrap()
}

/// Waits until all of a bucket lies in its rescue bucket.
pub async fn copied(api: &Api, bucket: &str) {
    until("every copy is made", || async {
        let rescue = health_of(api, bucket).await["rescue"].clone();
        (rescue["pending"] == 0 && rescue["copied"].as_u64() > Some(0)).then_some(())
    })
    .await;
}

async fn errors(api: &Api, bucket: &str) -> Vec<Value> {
    let path = format!("/storage/errors?bucket={bucket}&limit=1000");
    list(&api.get(&path).await.ok())
}

#[tokio::test]
async fn reads_of_a_dead_bucket_are_answered_by_its_rescue_and_say_so() {
    let server = S3Server::start(&["cold"]);
    let daemon = daemon(&[&s3::bucket(&server, "cold", Some("rescue")), LOCAL_RESCUE]);
    let api = daemon.admin();
    create_in(
        &api,
        "cold",
        "notes",
        "id,text\n1,repairs cars\n2,bakes bread\n3,paints\n",
    )
    .await;
    create_in(&api, "primary", "here", "id,name\n1,ada\n").await;
    let define = json!({ "name": "kb", "source": "notes", "key": "id", "text": ["text"], "backend": "hnsw", "bucket": "cold" });
    api.post("/vectors/index?wait=true", &define).await.ok();
    let object = "/storage/buckets/cold/objects/reports/a.txt";
    api.call(Method::PUT, object)
        .body("report")
        .send()
        .await
        .ok();
    api.tombstone("notes", &["3"], "asked to").await.ok();
    copied(&api, "cold").await;

    server.kill();
    let daemon = daemon.crash_and_restart();
    let api = daemon.admin();
    assert_eq!(
        api.cell("SELECT name FROM here").await,
        "ada",
        "others go on"
    );
    let answer = api.sql("SELECT text FROM notes ORDER BY id").await.ok();
    assert_eq!(
        answer["rows"],
        json!([["repairs cars"], ["bakes bread"]]),
        "{answer}"
    );
    assert_eq!(
        answer["rescued"],
        json!([{ "bucket": "cold", "by": "rescue" }])
    );
    let read = api.get(object).await;
    assert_eq!(read.text(), "report");
    assert_eq!(read.header("x-lakehouse-rescue-used"), "true");
    assert_eq!(read.header("x-lakehouse-bucket"), "rescue");
    let search = json!({ "index": "kb", "query": "automobile mechanic", "k": 1 });
    let found = api.post("/vectors/search", &search).await.ok();
    assert_eq!(found["hits"][0]["key"], "1", "{found}");
    let noted = errors(&api, "cold").await;
    for operation in ["get", "probe"] {
        assert!(
            noted.iter().any(|e| e["operation"] == operation),
            "{operation}: {noted:?}"
        );
    }
    assert!(
        noted.iter().any(|error| error["rescued"] == true),
        "{noted:?}"
    );

    let written = api
        .ingest("dataset=notes&mode=append", "text/csv", "id,text\n9,x\n")
        .await;
    let problem = written.problem_code(503, "bucket_unavailable");
    assert!(
        problem["detail"].as_str().unwrap().contains("`cold`"),
        "{problem}"
    );
    api.call(Method::PUT, &format!("{object}.new"))
        .body("x")
        .send()
        .await
        .problem(503);

    server.restart();
    until("the bucket counts as up", || async {
        (health_of(&api, "cold").await["circuit"] == "closed").then_some(())
    })
    .await;
    api.ingest("dataset=notes&mode=append", "text/csv", "id,text\n9,x\n")
        .await
        .ok();
    let answer = api.sql("SELECT count(*) FROM notes").await.ok();
    assert_eq!(answer["rows"], json!([[3]]));
}

#[tokio::test]
async fn a_bucket_without_rescue_takes_only_its_own_data_with_it() {
    let server = S3Server::start(&["cold"]);
    let daemon = daemon(&[&s3::bucket(&server, "cold", None)]);
    let api = daemon.admin();
    create_in(&api, "cold", "far", "id,name\n1,ada\n").await;
    create_in(&api, "primary", "here", "id,name\n1,bob\n").await;
    server.kill();
    let daemon = daemon.crash_and_restart();
    let api = daemon.admin();
    assert_eq!(api.cell("SELECT name FROM here").await, "bob");
    let problem = api
        .sql("SELECT * FROM far")
        .await
        .problem_code(503, "bucket_unavailable");
    assert!(
        problem["detail"].as_str().unwrap().contains("`cold`"),
        "{problem}"
    );
    let joined = "SELECT * FROM here JOIN far ON here.id = far.id";
    api.sql(joined)
        .await
        .problem_code(503, "bucket_unavailable");
    api.ingest("dataset=here&mode=append", "text/csv", "id,name\n2,cyd\n")
        .await
        .ok();
    assert_eq!(api.cell("SELECT count(*) FROM here").await, 2);
    let buckets = list(&api.get("/storage/buckets").await.ok());
    let cold = buckets
        .iter()
        .find(|bucket| bucket["name"] == "cold")
        .unwrap();
    assert_eq!(cold["reachable"], false);
}

/// Four clients that read `far` until told to stop.
fn readers(
    api: &Api,
    stop: &Arc<AtomicBool>,
    reads: &Arc<AtomicU64>,
    failed: &Arc<AtomicU64>,
) -> Vec<JoinHandle<()>> {
    let reader = |reader: u64| {
        let (api, stop) = (api.clone(), Arc::clone(stop));
        let (reads, failed) = (Arc::clone(reads), Arc::clone(failed));
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let sql = format!("SELECT count(*), {reader} FROM far");
                let answer = api.sql(&sql).await;
                reads.fetch_add(1, Ordering::Relaxed);
                failed.fetch_add(u64::from(!answer.is_ok()), Ordering::Relaxed);
            }
        })
    };
    (0..4).map(reader).collect()
}

/// Four clients that append to `near` until told to stop, each rows of its own from `from` on.
fn writers(
    api: &Api,
    stop: &Arc<AtomicBool>,
    acknowledged: &Arc<AtomicU64>,
    from: u64,
) -> Vec<JoinHandle<()>> {
    let writer = |writer: u64| {
        let (api, stop) = (api.clone(), Arc::clone(stop));
        let acknowledged = Arc::clone(acknowledged);
        tokio::spawn(async move {
            for n in 0_u64.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let csv = format!("id,name\n{},w\n", from + 10_000 * writer + n);
                let query = "dataset=near&mode=append";
                let answer = api.ingest(query, "text/csv", csv).await;
                acknowledged.fetch_add(u64::from(answer.is_ok()), Ordering::Relaxed);
            }
        })
    };
    (0..4).map(writer).collect()
}

/// O-07 and O-08 in short: four writers to another bucket and four readers, the store killed and then
/// silent. No read of what was copied fails for long, no write is lost, and the bucket goes down once.
#[tokio::test]
async fn under_load_a_store_that_dies_or_falls_silent_costs_no_answer_and_goes_down_once() {
    let server = Arc::new(S3Server::start(&["cold"]));
    let daemon = daemon(&[&s3::bucket(&server, "cold", Some("rescue")), LOCAL_RESCUE]);
    let api = daemon.admin();
    create_in(&api, "cold", "far", "id,name\n1,ada\n2,bob\n").await;
    create_in(&api, "primary", "near", "id,name\n0,x\n").await;
    copied(&api, "cold").await;
    for silent in [false, true] {
        let before = health_of(&api, "cold").await["times_opened"]
            .as_u64()
            .unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let (reads, failed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let acknowledged = Arc::new(AtomicU64::new(0));
        let from = 1_000_000 * (u64::from(silent) + 1);
        let mut tasks = readers(&api, &stop, &reads, &failed);
        tasks.extend(writers(&api, &stop, &acknowledged, from));
        if silent {
            server.plan(|_, _| Fault::Hang);
        } else {
            server.kill();
        }
        let down_since = Instant::now();
        until("the bucket counts as down", || async {
            (health_of(&api, "cold").await["circuit"] != "closed").then_some(())
        })
        .await;
        assert!(
            down_since.elapsed() < Duration::from_secs(10),
            "{:?}",
            down_since.elapsed()
        );
        // O-08: a write to it does not hang.
        let asked = Instant::now();
        api.ingest("dataset=far&mode=append", "text/csv", "id,name\n9,x\n")
            .await
            .problem(503);
        assert!(
            asked.elapsed() < Duration::from_secs(2),
            "{:?}",
            asked.elapsed()
        );
        if silent {
            server.heal();
        } else {
            server.restart();
        }
        until("the bucket counts as up", || async {
            (health_of(&api, "cold").await["circuit"] == "closed").then_some(())
        })
        .await;
        stop.store(true, Ordering::Relaxed);
        for task in tasks {
            task.await.unwrap();
        }
        let (reads, failed) = (
            reads.load(Ordering::Relaxed),
            failed.load(Ordering::Relaxed),
        );
        assert!(
            reads > 20 && failed * 100 <= reads,
            "{failed} of {reads} reads failed"
        );
        let opened = health_of(&api, "cold").await["times_opened"]
            .as_u64()
            .unwrap();
        assert_eq!(opened, before + 1, "it went down once");
        let sql = format!(
            "SELECT count(*) FROM near WHERE id >= {from} AND id < {}",
            from + 1_000_000
        );
        let there = api.cell(&sql).await.as_u64().unwrap();
        assert_eq!(
            there,
            acknowledged.load(Ordering::Relaxed),
            "no write is lost or there twice"
        );
    }
    assert_eq!(api.cell("SELECT count(*) FROM far").await, 2);
}

#[tokio::test]
async fn erasure_leaves_no_copy_behind() {
    let server = S3Server::start(&["cold"]);
    let daemon = daemon(&[
        &s3::bucket(&server, "cold", Some("rescue")),
        LOCAL_RESCUE,
        "[erasure]\ndelay_s = 0",
    ]);
    let api = daemon.admin();
    let canary = "CANARY-row-71c2";
    create_in(
        &api,
        "cold",
        "people",
        &format!("id,name\n1,{canary}\n2,bob\n"),
    )
    .await;
    copied(&api, "cold").await;
    api.tombstone("people", &["1"], "asked to").await.ok();
    until("the erasure", || async {
        let report = api.get("/compliance/erasure/people/1").await.ok();
        (report["erased"] == true).then_some(())
    })
    .await;
    copied(&api, "cold").await;
    let mut objects = list(&api.get("/storage/buckets/rescue/objects").await.ok());
    assert_eq!(objects.len(), 1, "{objects:?}");
    let key = objects.pop().unwrap()["key"].as_str().unwrap().to_owned();
    let bytes = api
        .get(&format!("/storage/buckets/rescue/objects/{key}"))
        .await
        .body;
    assert!(
        !bytes
            .windows(canary.len())
            .any(|part| part == canary.as_bytes())
    );
    let files = api.get("/catalog/datasets/people").await.ok()["files"].clone();
    assert_eq!(files[0]["key"], key);
}

#[tokio::test]
async fn the_error_journal_is_flushed_compacted_and_survives_a_kill() {
    let server = S3Server::start(&["cold"]);
    let daemon = daemon(&[&s3::bucket(&server, "cold", None)]);
    let api = daemon.admin();
    create_in(&api, "cold", "far", "id,name\n1,ada\n").await;
    server.plan(|_, _| Fault::Status(403));
    api.sql("SELECT * FROM far").await.problem(503);
    api.get("/storage/buckets/cold/objects/none")
        .await
        .problem(503);
    api.get("/storage/buckets/cold/objects").await.problem(503);
    let flushed = api.post("/storage/errors/flush", &json!({})).await.ok();
    assert!(flushed["batches_written"].is_number(), "{flushed}");
    let daemon = daemon.crash_and_restart();
    let api = daemon.admin();
    let noted = errors(&api, "cold").await;
    for operation in ["get", "list"] {
        assert!(
            noted.iter().any(|error| error["operation"] == operation),
            "{operation}: {noted:?}"
        );
    }
    let text = serde_json::to_string(&noted).unwrap();
    assert!(
        !text.contains("http://") && !text.contains("/tmp"),
        "{text}"
    );
    assert!(errors(&api, "primary").await.is_empty());
    let compacted = api.post("/storage/errors/compact", &json!({})).await.ok();
    assert_eq!(compacted["batches_after"], 1, "{compacted}");
    assert_eq!(
        api.cell("SELECT count(*) > 0 FROM system.errors").await,
        true
    );
}
