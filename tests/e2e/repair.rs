//! The catalog put right from the files: manifests damaged on purpose, files that are gone, and files of
//! others that become a dataset.

use std::fmt::Write as _;

use std::path::Path;
use std::sync::Arc;

use lakehouse_actors::Journal;
use lakehouse_journal::log::{CommitterConfig, LogConfig, RealIo, SledLog};
use lakehouse_journal::model::Event;
use lakehouse_journal::model::catalog::{IngestMode, SchemaDoc, Source};
use lakehouse_journal::model::event::{CatalogEvent, FileRepair, FilesCommitted, FilesRepaired};
use lakehouse_journal::record::{Actor, Draft};
use serde_json::{Value, json};

use crate::support::api::{Api, list};
use crate::support::daemon::{Daemon, Site};
use crate::support::{number_from_env, until};

/// Rows of the seven tables at full size, and all of them together.
const TABLES: [(&str, u64); 7] = [
    ("candidates", 100_000),
    ("clients", 1_937),
    ("job_orders", 15_000),
    ("placements", 50_000),
    ("timesheets", 1_000_000),
    ("call_log", 800_000),
    ("email_log", 502_341),
];
const ALL_ROWS: u64 = 2_469_278;

const RESCUE: &str = "[[storage.buckets]]\nname = \"primary\"\nbackend = \"local\"\nroot = \"buckets/primary\"\n\
    rescue_bucket = \"rescue\"\n\
    [[storage.buckets]]\nname = \"rescue\"\nbackend = \"local\"\nroot = \"buckets/rescue\"\n";

/// A daemon whose primary bucket has another one that answers for it.
pub fn with_rescue(env: &[(&str, &str)]) -> Daemon {
    let site = Site::new(env);
    std::fs::write(site.scratch().join("lakehouse.toml"), RESCUE).unwrap();
    Daemon::start_at(site)
}

/// Puts events into the journal of a daemon that does not run.
fn append(data_dir: &Path, events: Vec<CatalogEvent>) {
    let log = SledLog::open(
        data_dir.join("journal"),
        &LogConfig::default(),
        Arc::new(RealIo),
    )
    .unwrap();
    let journal = Journal::spawn(Box::new(log), CommitterConfig::default(), None).unwrap();
    let drafts = events.into_iter().map(|event| {
        let event: Event = event.into();
        Draft {
            at: 1,
            request_id: "damage".to_owned(),
            actor: Actor {
                name: "damage".to_owned(),
                role: "daemon".to_owned(),
            },
            idempotency: None,
            subjects: event.subjects(),
            kind: event.kind().to_owned(),
            schema: event.schema(),
            data: event.encode(),
        }
    });
    journal
        .committer()
        .commit(drafts.collect())
        .unwrap()
        .unwrap();
    journal.committer().close();
}

/// What is said wrongly of a table from here on: the rows of its first file, its hash and place, its
/// columns; and its last file leaves the list.
fn damage(manifest: &Value, number: usize) -> Vec<CatalogEvent> {
    let dataset = manifest["name"].as_str().unwrap().to_owned();
    let files = list(&manifest["files"]);
    let first = &files[0];
    let text = |field: &str| first[field].as_str().unwrap().to_owned();
    let repair = FilesRepaired {
        dataset: dataset.clone(),
        repaired: vec![FileRepair {
            key: text("key"),
            bucket: if number.is_multiple_of(2) {
                "rescue".to_owned()
            } else {
                text("bucket")
            },
            rows: first["rows"].as_u64().unwrap() * 3 + 17,
            bytes: first["bytes"].as_u64().unwrap() + 5,
            blake3: "00".repeat(32),
        }],
        schema: Some(SchemaDoc {
            columns: Vec::new(),
            arrow_ipc: String::new(),
            fingerprint: "damaged".to_owned(),
        }),
        relisted: Vec::new(),
        missing: Vec::new(),
    };
    let mut events = vec![CatalogEvent::FilesRepaired(repair)];
    if files.len() > 1 {
        let source = |hash: String| Source {
            kind: "damage".to_owned(),
            name: "damage".to_owned(),
            content_hash: hash,
            watermark: None,
        };
        events.push(CatalogEvent::FilesCommitted(FilesCommitted {
            dataset,
            mode: IngestMode::Append,
            read_seq: 0,
            added: Vec::new(),
            retired: vec![files.last().unwrap()["key"].as_str().unwrap().to_owned()],
            deleted: Vec::new(),
            schema: None,
            source: source(format!("damage-{number}")),
            rows: 0,
            batches: 0,
            source_bytes: 0,
            elapsed_ms: 0,
            erased_skipped: 0,
            proposals: std::collections::BTreeMap::new(),
        }));
    }
    events
}

async fn total(api: &Api) -> u64 {
    let mut all = 0;
    for (table, _) in TABLES {
        let sql = format!("SELECT count(*) FROM {table}");
        all += api.cell(&sql).await.as_u64().unwrap();
    }
    all
}

/// `LAKEHOUSE_REPAIR_FULL=1` runs it with all rows.
#[tokio::test]
async fn manifests_damaged_on_purpose_are_restored_to_exactly_the_rows_that_were_there() {
    let shrink = if number_from_env("LAKEHOUSE_REPAIR_FULL", 0) == 1 {
        1
    } else {
        1_000
    };
    let daemon = with_rescue(&[]);
    let api = daemon.admin();
    let mut expected = 0;
    for (table, rows) in TABLES {
        let rows = (rows / shrink).max(2);
        expected += rows;
        let half = rows / 2;
        for (mode, from, to) in [("create", 0, half), ("append", half, rows)] {
            let mut csv = String::from("id,name,amount\n");
            for id in from..to {
                writeln!(csv, "{id},n{id},{}", id % 97).unwrap();
            }
            let query = format!("dataset={table}&mode={mode}");
            api.ingest(&query, "text/csv", csv).await.ok();
        }
    }
    assert!(shrink > 1 || expected == ALL_ROWS);
    assert_eq!(total(&api).await, expected);
    let mut events = Vec::new();
    let mut columns = Vec::new();
    for (number, (table, _)) in TABLES.into_iter().enumerate() {
        let manifest = api.get(&format!("/catalog/datasets/{table}")).await.ok();
        columns.push(manifest["schema"].clone());
        events.extend(damage(&manifest, number));
    }
    let (site, _) = daemon.sigterm();
    append(&site.data_dir(), events);
    let daemon = Daemon::start_at(site);
    let api = daemon.admin();
    let manifests = list(&api.get("/catalog/datasets").await.ok());
    let said: u64 = manifests
        .iter()
        .map(|m| m["row_count"].as_u64().unwrap())
        .sum();
    assert_ne!(said, expected, "the damage is done");

    let reports = list(&api.post("/catalog/resync-missing", &json!({})).await.ok());
    assert_eq!(reports.len(), TABLES.len());
    for report in &reports {
        assert_eq!(report["changed"], true, "{report}");
        assert_eq!(report["missing"], json!([]), "{report}");
        assert_eq!(
            report["columns"],
            json!({ "before": 0, "after": 3 }),
            "{report}"
        );
    }
    let after: u64 = reports
        .iter()
        .map(|r| r["row_count"]["after"].as_u64().unwrap())
        .sum();
    assert_eq!(after, expected);
    assert_eq!(total(&api).await, expected);
    for ((table, _), schema) in TABLES.into_iter().zip(columns) {
        let manifest = api.get(&format!("/catalog/datasets/{table}")).await.ok();
        assert_eq!(manifest["schema"], schema, "{table}");
    }
    let again = list(&api.post("/catalog/resync-missing", &json!({})).await.ok());
    for report in &again {
        assert_eq!(report["changed"], false, "{report}");
    }
    let verified = api.post("/journal/verify", &json!({})).await.ok();
    assert_eq!(verified["ok"], true, "{verified}");
}

#[tokio::test]
async fn a_file_that_is_gone_comes_back_from_the_rescue_bucket_or_is_reported_and_kept() {
    let daemon = with_rescue(&[]);
    let api = daemon.admin();
    api.create("people", "id,name\n1,ada\n2,bob\n").await;
    let file = api.get("/catalog/datasets/people").await.ok()["files"][0].clone();
    let key = file["key"].as_str().unwrap().to_owned();
    until("the copy", || async {
        let health = list(&api.get("/storage/bucket-health").await.ok());
        let primary = health
            .into_iter()
            .find(|h| h["bucket"] == "primary")
            .unwrap();
        (primary["rescue"]["copied"] == 1).then_some(())
    })
    .await;
    let data = daemon.site().data_dir();
    let (here, copy) = (
        data.join("buckets/primary").join(&key),
        data.join("buckets/rescue").join(&key),
    );
    std::fs::remove_file(&here).unwrap();
    assert_eq!(
        api.cell("SELECT count(*) FROM people").await,
        2,
        "read from the copy"
    );
    let report = api
        .post("/catalog/datasets/people/resync", &json!({}))
        .await
        .ok();
    assert_eq!(report["restored"], json!([key]), "{report}");
    assert!(here.is_file());

    std::fs::remove_file(&here).unwrap();
    std::fs::remove_file(&copy).unwrap();
    let report = api
        .post("/catalog/datasets/people/resync", &json!({}))
        .await
        .ok();
    assert_eq!(report["missing"], json!([key]), "{report}");
    assert_eq!(report["changed"], false, "{report}");
    let manifest = api.get("/catalog/datasets/people").await.ok();
    assert_eq!(
        manifest["files"][0]["key"], file["key"],
        "nothing is dropped in silence"
    );
    api.sql("SELECT * FROM people")
        .await
        .problem_code(503, "bucket_unavailable");
    let errors = list(&api.get("/storage/errors?bucket=primary").await.ok());
    assert!(
        errors.iter().any(|error| error["key"] == file["key"]),
        "{errors:?}"
    );
}

#[tokio::test]
async fn a_dataset_of_every_format_is_as_its_files_say() {
    let daemon = Daemon::start();
    let api = daemon.admin();
    api.create(
        "csv",
        "id,name,at,share,yes\n1,ada,2026-01-02,0.5,true\n2,,2026-01-03,,false\n",
    )
    .await;
    let rows = "{\"id\":1,\"tags\":[\"a\"],\"in\":{\"x\":1}}\n{\"id\":2,\"tags\":[],\"in\":null}\n";
    api.ingest(
        "dataset=json&mode=create&key=id",
        "application/x-ndjson",
        rows,
    )
    .await
    .ok();
    api.tombstone("csv", &["2"], "asked to").await.ok();
    for report in list(&api.post("/catalog/resync-missing", &json!({})).await.ok()) {
        assert_eq!(report["changed"], false, "{report}");
        assert_eq!(report["unreadable"], json!([]), "{report}");
    }
}

#[tokio::test]
async fn files_of_others_become_a_dataset_where_they_lie() {
    let daemon = Daemon::start();
    let api = daemon.admin();
    for (name, csv) in [
        ("a", "id,name\n1,ada\n2,bob\n"),
        ("b", "id,name\n2,bea\n3,cyd\n"),
    ] {
        api.ingest(&format!("dataset={name}&mode=create"), "text/csv", csv)
            .await
            .ok();
        let file = api.get(&format!("/catalog/datasets/{name}")).await.ok()["files"][0].clone();
        let path = format!(
            "/storage/buckets/primary/objects/{}",
            file["key"].as_str().unwrap()
        );
        let bytes = api.get(&path).await.body;
        let theirs = format!("/storage/buckets/primary/objects/theirs/{name}.parquet");
        api.call(reqwest::Method::PUT, &theirs)
            .body(bytes)
            .send()
            .await
            .ok();
    }
    let ask = json!({ "bucket": "primary", "prefix": "theirs/", "dataset": "people", "key": "id" });
    let adopted = api.post("/catalog/adopt", &ask).await.ok();
    assert_eq!(adopted["files"], 2, "{adopted}");
    let rows = api.rows("SELECT name FROM people ORDER BY id").await;
    assert_eq!(
        json!(rows),
        json!([["ada"], ["bea"], ["cyd"]]),
        "the newer row of a key wins"
    );
    api.post(
        "/catalog/adopt",
        &json!({ "bucket": "primary", "prefix": "theirs", "dataset": "again" }),
    )
    .await
    .problem_code(409, "object_in_use");
    let held = "/storage/buckets/primary/objects/theirs/a.parquet";
    api.delete(held).await.problem_code(409, "object_in_use");
    api.ingest("dataset=people&mode=upsert", "text/csv", "id,name\n1,amy\n")
        .await
        .ok();
    assert_eq!(
        api.cell("SELECT name FROM people WHERE id = 1").await,
        "amy"
    );
    for (prefix, status) in [("datasets/", 403), ("nothing/", 404), ("../x", 400)] {
        let ask = json!({ "bucket": "primary", "prefix": prefix, "dataset": "no" });
        api.post("/catalog/adopt", &ask).await.problem(status);
    }
    let ask = json!({ "bucket": "primary", "prefix": "theirs", "dataset": "people" });
    api.post("/catalog/adopt", &ask).await.problem(409);
    assert_eq!(
        api.cell("SELECT count(*) FROM people").await,
        3,
        "the files are where they were"
    );
}
