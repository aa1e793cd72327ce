//! Erasure: a deleted row is out of every answer at once and out of every byte soon after, with a
//! signed receipt; no past, no backup and no second ingest brings it back.

use std::fs;
use std::path::Path;
use std::process::Command;

use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::record::RowAccessor as _;
use serde_json::{Value, json};

use crate::support::api::{Api, list};
use crate::support::daemon::Daemon;
use crate::support::scan::{files, places_of};
use crate::support::until;

/// Deletions are carried out on request only.
pub const ON_REQUEST: [(&str, &str); 2] = [
    ("LAKEHOUSE__ERASURE__DELAY_S", "86400"),
    ("LAKEHOUSE__ERASURE__QUERY_DEADLINE_S", "1"),
];
/// Deletions are carried out at once.
pub const AT_ONCE: [(&str, &str); 2] = [
    ("LAKEHOUSE__ERASURE__DELAY_S", "0"),
    ("LAKEHOUSE__ERASURE__QUERY_DEADLINE_S", "1"),
];

pub async fn with_people(env: &[(&str, &str)]) -> (Daemon, Api) {
    let daemon = Daemon::start_with(env);
    let api = daemon.admin();
    api.create("people", "id,name\n1,ada\n2,grace\n3,edsger\n4,barbara\n")
        .await;
    (daemon, api)
}

pub async fn erase(api: &Api, dataset: &str) -> Value {
    let path = format!("/compliance/erasure/{dataset}");
    api.post(&path, &json!({})).await.ok()
}

pub async fn report(api: &Api, dataset: &str, key: &str) -> Value {
    let path = format!("/compliance/erasure/{dataset}/{key}");
    api.get(&path).await.ok()
}

#[tokio::test]
async fn the_count_drops_at_once_and_after_compaction_the_files_do_not_hold_the_row() {
    let (daemon, api) = with_people(&ON_REQUEST).await;
    assert_eq!(api.cell("SELECT count(*) FROM people").await, 4);
    let done = api
        .tombstone("people", &["3"], "asked to be forgotten")
        .await
        .ok();
    assert_eq!(done["tombstoned"], 1);
    assert_eq!(api.cell("SELECT count(*) FROM people").await, 3);
    assert!(
        api.rows("SELECT * FROM people WHERE id = 3")
            .await
            .is_empty()
    );
    let history = list(&api.get("/journal/history/3?dataset=people").await.ok());
    assert_eq!(history.len(), 1);
    assert_eq!(history[0]["data"]["reason"], "asked to be forgotten");
    assert_eq!(history[0]["actor"]["name"], "admin");
    let sidecar = until("the list of deleted rows", || async {
        let found = files(daemon.site().scratch());
        found
            .into_iter()
            .find(|path| path.ends_with("people_tombstones.parquet"))
    })
    .await;
    let reader = SerializedFileReader::new(fs::File::open(&sidecar).unwrap()).unwrap();
    let rows: Vec<_> = reader
        .get_row_iter(None)
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].get_string(0).unwrap(), "3");
    assert_eq!(rows[0].get_string(2).unwrap(), "admin");
    assert_eq!(rows[0].get_string(3).unwrap(), "asked to be forgotten");
    let listed = list(&api.get("/catalog/datasets/people/tombstone").await.ok());
    assert_eq!(listed[0]["materialized"], false);

    let compacted = api
        .post("/catalog/datasets/people/compact", &json!({}))
        .await
        .ok();
    assert_eq!(compacted["tombstones_materialized"], 1);
    let listed = list(&api.get("/catalog/datasets/people/tombstone").await.ok());
    assert_eq!(listed[0]["materialized"], true);
    until("the entry to go", || async {
        (!sidecar.exists()).then_some(())
    })
    .await;
    erase(&api, "people").await;
    assert_eq!(places_of(daemon.site(), &[b"edsger".to_vec()]), [""; 0]);
    assert_eq!(api.cell("SELECT count(*) FROM people").await, 3);
}

#[tokio::test]
async fn a_receipt_names_every_place_and_verifies_without_the_daemon() {
    let (daemon, api) = with_people(&ON_REQUEST).await;
    api.tombstone("people", &["3"], "asked").await.ok();
    let before = report(&api, "people", "3").await;
    assert_eq!(before["erased"], false);
    assert_eq!(
        before["places"][0],
        json!({
            "place": "data_files", "state": "hidden", "checked": 1, "detail": "base and delta files"
        })
    );
    assert!(before["signed"].is_null());
    let there = report(&api, "people", "1").await;
    assert_eq!(there["places"][0]["state"], "present");
    assert_eq!(there["tombstoned_at"], Value::Null);
    api.get("/compliance/erasure/nothing/1")
        .await
        .problem_code(404, "dataset_not_found");

    erase(&api, "people").await;
    let after = report(&api, "people", "3").await;
    assert_eq!(after["erased"], true, "{after:#}");
    for place in after["places"].as_array().unwrap() {
        assert_eq!(place["state"], "absent", "{place}");
    }
    assert_eq!(
        after["events"].as_array().unwrap().len(),
        2,
        "deleted and erased"
    );
    let receipt = daemon.site().scratch().join("receipt.json");
    fs::write(&receipt, after["signed"].to_string()).unwrap();
    let key = api.get("/compliance/key").await.ok()["public_key"].clone();
    let site = daemon.kill9();
    let verify = |path: &Path| {
        let mut command = site.command(&["erasure", "verify", path.to_str().unwrap()]);
        command
            .args(["--key", key.as_str().unwrap()])
            .output()
            .unwrap()
    };
    assert!(verify(&receipt).status.success());
    let forged = after["signed"]
        .to_string()
        .replace("\"people\"", "\"peoplf\"");
    fs::write(&receipt, forged).unwrap();
    assert!(!verify(&receipt).status.success());
}

#[tokio::test]
async fn the_past_can_be_asked_and_never_shows_a_deleted_row() {
    let (daemon, api) = with_people(&ON_REQUEST).await;
    let first = api.seq().await;
    let upsert = "id,name\n1,augusta\n5,alan\n";
    api.ingest("dataset=people&mode=upsert", "text/csv", upsert)
        .await
        .ok();
    let second = api.seq().await;
    api.ingest(
        "dataset=people&mode=replace",
        "text/csv",
        "id,name\n9,kurt\n",
    )
    .await
    .ok();
    let names = |as_of: Value| {
        let api = &api;
        async move {
            let body = json!({ "sql": "SELECT name FROM people ORDER BY id", "as_of": as_of });
            let answer = api.post("/query/sql", &body).await.ok();
            let rows = answer["rows"].as_array().unwrap().clone();
            let names = rows.iter().map(|row| row[0].as_str().unwrap().to_owned());
            names.collect::<Vec<_>>().join(" ")
        }
    };
    assert_eq!(names(json!(first)).await, "ada grace edsger barbara");
    assert_eq!(
        names(json!(second)).await,
        "augusta grace edsger barbara alan"
    );
    assert_eq!(names(Value::Null).await, "kurt");
    let at = list(&api.get("/journal/events?kind=FilesCommitted").await.ok())[1]["at"].clone();
    assert_eq!(names(at).await, "augusta grace edsger barbara alan");
    api.tombstone("people", &["1", "3"], "asked").await.ok();
    assert_eq!(names(json!(first)).await, "grace barbara");
    erase(&api, "people").await;
    assert_eq!(names(json!(first)).await, "grace barbara");
    assert_eq!(names(json!(second)).await, "grace barbara alan");
    assert_eq!(
        places_of(daemon.site(), &[b"augusta".to_vec(), b"edsger".to_vec()]),
        [""; 0]
    );
    let daemon = daemon.crash_and_restart();
    let api = daemon.admin();
    let ask = |as_of: Value| {
        let api = &api;
        let body = json!({ "sql": "SELECT count(*) FROM people", "as_of": as_of });
        async move { api.post("/query/sql", &body).await }
    };
    assert_eq!(ask(json!(first)).await.ok()["rows"][0][0], 2);
    for wrong in [
        json!(0),
        json!(-1),
        json!(1_000_000),
        json!("yesterday"),
        json!([1]),
    ] {
        ask(wrong).await.problem(400);
    }
    ask(json!("1970-01-01T00:00:00Z")).await.problem(400);
    ask(json!(1)).await.problem_code(404, "dataset_not_found");
}

#[tokio::test]
async fn a_past_that_is_no_longer_kept_says_since_when_there_is_one() {
    let env = [("LAKEHOUSE__STORAGE__RETENTION_S", "1")];
    let (_daemon, api) = with_people(&env).await;
    let first = api.seq().await;
    api.ingest(
        "dataset=people&mode=replace",
        "text/csv",
        "id,name\n9,kurt\n",
    )
    .await
    .ok();
    let body = json!({ "sql": "SELECT count(*) FROM people", "as_of": first });
    let refused = until("the old file to go", || async {
        let answer = api.post("/query/sql", &body).await;
        (!answer.is_ok()).then_some(answer)
    })
    .await;
    let problem = refused.problem_code(422, "as_of_too_old");
    let manifest = api.get("/catalog/datasets/people").await.ok();
    let oldest = manifest["as_of_from"].as_u64().unwrap();
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains(&oldest.to_string()),
        "{problem}"
    );
    let body = json!({ "sql": "SELECT count(*) FROM people", "as_of": oldest });
    assert_eq!(api.post("/query/sql", &body).await.ok()["rows"][0][0], 1);
}

#[tokio::test]
async fn an_erased_key_is_refused_when_it_comes_again_unless_admitted() {
    let (daemon, api) = with_people(&ON_REQUEST).await;
    api.tombstone("people", &["3"], "asked").await.ok();
    erase(&api, "people").await;
    let again = "id,name\n3,edsger\n6,donald\n";
    for (mode, expected) in [("upsert", 4), ("replace", 1)] {
        let query = format!("dataset=people&mode={mode}");
        let done = api.ingest(&query, "text/csv", again).await.ok();
        assert_eq!(done["erased_skipped"], 1, "{mode}");
        assert_eq!(
            api.cell("SELECT count(*) FROM people").await,
            expected,
            "{mode}"
        );
        assert!(
            api.rows("SELECT * FROM people WHERE id = 3")
                .await
                .is_empty()
        );
    }
    erase(&api, "people").await;
    assert_eq!(places_of(daemon.site(), &[b"edsger".to_vec()]), [""; 0]);
    api.patch(
        "/catalog/datasets/people",
        &json!({ "erased_keys": "admit" }),
    )
    .await
    .ok();
    let done = api
        .ingest(
            "dataset=people&mode=upsert",
            "text/csv",
            "id,name\n3,edsger\n",
        )
        .await
        .ok();
    assert!(done["erased_skipped"].is_null());
    assert_eq!(
        api.cell("SELECT name FROM people WHERE id = 3").await,
        "edsger"
    );
    assert_eq!(report(&api, "people", "3").await["erased"], false);
}

#[tokio::test]
async fn a_key_spelled_otherwise_names_the_same_row_everywhere() {
    let (_daemon, api) = with_people(&ON_REQUEST).await;
    let index = json!({ "name": "idx", "source": "people", "key": "id", "text": "{name} garden", "backend": "hnsw" });
    api.post("/vectors/index?wait=true", &index).await.ok();
    let done = api
        .tombstone("people", &["003", "3", "x"], "asked")
        .await
        .ok();
    assert_eq!(
        (&done["tombstoned"], &done["missing"]),
        (&json!(1), &json!(["x"]))
    );
    let search = json!({ "index": "idx", "query": "garden", "k": 9 });
    let hits = api.post("/vectors/search", &search).await.ok();
    assert_eq!(hits["hits"].as_array().unwrap().len(), 3, "{hits}");
    assert_eq!(api.cell("SELECT count(*) FROM people").await, 3);
    let again = api
        .ingest(
            "dataset=people&mode=upsert",
            "text/csv",
            "id,name\n3,edsger\n",
        )
        .await
        .ok();
    assert_eq!(again["erased_skipped"], 1);
    erase(&api, "people").await;
    assert_eq!(report(&api, "people", "0003").await["erased"], true);
}

#[tokio::test]
async fn rows_are_deleted_by_what_they_hold() {
    let (_daemon, api) = with_people(&ON_REQUEST).await;
    let path = "/catalog/datasets/people/delete";
    let body = |predicate: &str, dry_run: bool| json!({ "where": predicate, "reason": "asked", "dry_run": dry_run });
    let counted = api.post(path, &body("name LIKE '%a%'", true)).await.ok();
    assert_eq!(
        (counted["matched"].as_u64(), counted["tombstoned"].as_u64()),
        (Some(3), Some(0))
    );
    assert_eq!(api.cell("SELECT count(*) FROM people").await, 4);
    let done = api.post(path, &body("name LIKE '%a%'", false)).await.ok();
    assert_eq!(done["tombstoned"], 3);
    assert_eq!(api.cell("SELECT name FROM people").await, "edsger");
    assert_eq!(
        api.post(path, &body("name LIKE '%a%'", false)).await.ok()["matched"],
        0
    );
    for wrong in ["1 = 1; DROP TABLE people", "nobody = 3", "name LIKE", ""] {
        let answer = api.post(path, &body(wrong, false)).await;
        assert_eq!(answer.status, 400, "{wrong}: {}", answer.text());
    }
    let kept = "id,name\n1,x\n";
    api.ingest("dataset=keyless&mode=create", "text/csv", kept)
        .await
        .ok();
    api.post("/catalog/datasets/keyless/delete", &body("id = 1", false))
        .await
        .problem(422);
    let auditor = api.with_role("auditor").await;
    auditor.post(path, &body("id = 3", true)).await.problem(403);
}

#[tokio::test]
async fn hashed_keys_stand_nowhere_in_the_journal_and_are_found_by_history() {
    let (daemon, api) = with_people(&ON_REQUEST).await;
    let csv = "ssn,name\n123-45-6789,ada\n987-65-4321,grace\n";
    api.ingest("dataset=secret&mode=create&key=ssn", "text/csv", csv)
        .await
        .ok();
    api.patch(
        "/catalog/datasets/secret",
        &json!({ "journal_keys": "hashed" }),
    )
    .await
    .ok();
    let index = json!({ "name": "idx", "source": "secret", "key": "ssn", "text": "{name}", "backend": "hnsw" });
    api.post("/vectors/index?wait=true", &index).await.ok();
    let keys = ["123-45-6789", "000-00-0000"];
    let done = api.tombstone("secret", &keys, "asked").await.ok();
    assert_eq!(
        (&done["tombstoned"], &done["missing"]),
        (&json!(1), &json!(["000-00-0000"]))
    );
    let search = json!({ "index": "idx", "query": "grace", "k": 5 });
    let hits = api.post("/vectors/search", &search).await.ok();
    assert_eq!(hits["hits"].as_array().unwrap().len(), 1);
    let history = list(
        &api.get("/journal/history/123-45-6789?dataset=secret")
            .await
            .ok(),
    );
    assert_eq!(history.len(), 1);
    assert_eq!(history[0]["kind"], "RowsTombstoned");
    erase(&api, "secret").await;
    let after = report(&api, "secret", "123-45-6789").await;
    assert_eq!(after["erased"], true, "{after:#}");
    assert!(after["signed"]["receipt"]["row_key"].is_null());
    let needles = [b"123-45-6789".to_vec(), b"000-00-0000".to_vec()];
    assert_eq!(places_of(daemon.site(), &needles), [""; 0]);
}

#[tokio::test]
async fn a_restored_backup_shows_no_deleted_row() {
    let ledger = tempfile::tempdir().unwrap();
    let env = [
        (
            "LAKEHOUSE__ERASURE__LEDGER",
            ledger.path().to_str().unwrap(),
        ),
        ("LAKEHOUSE__ERASURE__DELAY_S", "0"),
    ];
    let (daemon, api) = with_people(&env).await;
    let csv = "ssn,name\n123-45-6789,ada\n987-65-4321,grace\n";
    api.ingest("dataset=secret&mode=create&key=ssn", "text/csv", csv)
        .await
        .ok();
    api.patch(
        "/catalog/datasets/secret",
        &json!({ "journal_keys": "hashed" }),
    )
    .await
    .ok();
    let (site, _) = daemon.sigterm();
    let backup = tempfile::tempdir().unwrap();
    let copy = |from: &Path, to: &Path| {
        let mut command = Command::new("cp");
        assert!(
            command
                .arg("-a")
                .arg(from)
                .arg(to)
                .status()
                .unwrap()
                .success()
        );
    };
    copy(&site.data_dir(), &backup.path().join("data"));
    let Ok(daemon) = site.start() else {
        panic!("it starts again")
    };
    let api = daemon.admin();
    api.tombstone("people", &["3"], "asked").await.ok();
    api.tombstone("secret", &["123-45-6789"], "asked")
        .await
        .ok();
    let (site, _) = daemon.sigterm();
    fs::remove_dir_all(site.data_dir()).unwrap();
    copy(&backup.path().join("data"), &site.data_dir());
    let Ok(daemon) = site.start() else {
        panic!("it starts on the backup")
    };
    let api = daemon.admin();
    assert_eq!(api.cell("SELECT count(*) FROM people").await, 3);
    assert!(
        api.rows("SELECT * FROM people WHERE id = 3")
            .await
            .is_empty()
    );
    assert_eq!(api.cell("SELECT name FROM secret").await, "grace");
    let history = list(&api.get("/journal/history/3?dataset=people").await.ok());
    assert_eq!(
        (&history[0]["actor"]["name"], &history[0]["data"]["reason"]),
        (&json!("ledger"), &json!("asked"))
    );
    until("it is erased again", || async {
        let report = report(&api, "people", "3").await;
        (report["erased"] == true).then_some(())
    })
    .await;
    assert_eq!(places_of(daemon.site(), &[b"edsger".to_vec()]), [""; 0]);
}

#[tokio::test]
async fn what_a_killed_write_left_in_the_folders_is_told_and_erased() {
    let (daemon, api) = with_people(&ON_REQUEST).await;
    let index = json!({ "name": "idx", "source": "people", "key": "id", "text": "{name}", "backend": "hnsw" });
    api.post("/vectors/index?wait=true", &index).await.ok();
    api.tombstone("people", &["3"], "asked").await.ok();
    erase(&api, "people").await;
    assert_eq!(report(&api, "people", "3").await["erased"], true);
    let id = api.get("/catalog/datasets/people").await.ok()["id"].clone();
    let bucket = daemon.site().data_dir().join("buckets/primary");
    for folder in [
        format!("datasets/{}", id.as_str().unwrap()),
        "vectors/idx/9-0123".to_owned(),
    ] {
        fs::create_dir_all(bucket.join(&folder)).unwrap();
        fs::write(bucket.join(&folder).join("left"), "edsger").unwrap();
        assert_eq!(
            report(&api, "people", "3").await["erased"],
            false,
            "{folder}"
        );
        erase(&api, "people").await;
        assert_eq!(
            places_of(daemon.site(), &[b"edsger".to_vec()]),
            [""; 0],
            "{folder}"
        );
        assert_eq!(
            report(&api, "people", "3").await["erased"],
            true,
            "{folder}"
        );
    }
    let search = json!({ "index": "idx", "query": "ada", "k": 3 });
    api.post("/vectors/search", &search).await.ok();
}

#[tokio::test]
async fn a_dropped_dataset_leaves_no_byte() {
    let (daemon, api) = with_people(&AT_ONCE).await;
    let index = json!({ "name": "idx", "source": "people", "key": "id", "text": "{name}", "backend": "hnsw" });
    api.post("/vectors/index?wait=true", &index).await.ok();
    let refused = api.delete("/catalog/datasets/people").await.problem(409);
    assert!(
        refused["detail"].as_str().unwrap().contains("idx"),
        "{refused}"
    );
    api.delete("/catalog/datasets/people?cascade=true")
        .await
        .ok();
    until("its bytes are gone", || async {
        places_of(daemon.site(), &[b"edsger".to_vec()])
            .is_empty()
            .then_some(())
    })
    .await;
}
