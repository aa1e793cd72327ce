//! Deletes: a tombstoned row is gone from every read in the same acknowledgement, and stays gone.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::support::api::{Api, list};
use crate::support::daemon::Daemon;

async fn with_index() -> (Daemon, Api) {
    let daemon = Daemon::start();
    let api = daemon.admin();
    let mut csv = String::from("id,body\n");
    for id in 0..50 {
        writeln!(csv, "{id},a letter about the garden number {id}").unwrap();
    }
    csv.push_str("77,the unmistakable hippopotamus swims in the river\n");
    api.create("letters", &csv).await;
    let index = json!({ "name": "letters_idx", "source": "letters", "key": "id", "text": "{body}", "backend": "hnsw" });
    api.post("/vectors/index?wait=true", &index).await.ok();
    (daemon, api)
}

async fn found(api: &Api, body: Value) -> Vec<String> {
    let answer = api.post("/vectors/search", &body).await.ok();
    let hits = answer["hits"].as_array().unwrap().iter();
    hits.map(|hit| hit["key"].as_str().unwrap().to_owned())
        .collect()
}

/// Every way to read that must not show row 77.
async fn is_gone(api: &Api) {
    assert_eq!(api.cell("SELECT count(*) FROM letters").await, 50);
    assert_eq!(
        api.cell("SELECT count(*) FROM letters WHERE id = 77").await,
        0
    );
    assert_eq!(api.cell("SELECT max(id) FROM letters").await, 49);
    assert!(
        api.rows("SELECT body FROM letters WHERE body LIKE '%hippo%'")
            .await
            .is_empty()
    );
    assert_eq!(
        api.get("/catalog/datasets/letters").await.ok()["row_count"],
        50
    );
    let query = "hippopotamus river";
    for body in [
        json!({ "index": "letters_idx", "query": query, "k": 51 }),
        json!({ "index": "letters_idx", "query": query, "k": 51, "exact": true }),
        json!({ "index": "letters_idx", "query": query, "k": 1, "filter": "id = 77" }),
    ] {
        let keys = found(api, body).await;
        assert!(!keys.contains(&"77".to_owned()), "{keys:?}");
    }
    let ten = json!({ "index": "letters_idx", "query": query, "k": 10 });
    assert_eq!(found(api, ten).await.len(), 10, "others fill its place");
    api.get("/vectors/indexes/letters_idx/rows/77")
        .await
        .problem(404);
}

#[tokio::test]
async fn a_tombstoned_row_is_gone_from_every_read() {
    let (daemon, api) = with_index().await;
    let query = json!({ "index": "letters_idx", "query": "hippopotamus river", "k": 1 });
    assert_eq!(found(&api, query).await, ["77"], "it is there before");

    let done = api
        .tombstone("letters", &["77", "no-such-key"], "asked by letter")
        .await
        .ok();
    assert_eq!(done["requested"], 2, "{done}");
    assert_eq!(done["tombstoned"], 1, "{done}");
    assert_eq!(done["missing"], json!(["no-such-key"]), "{done}");
    assert!(done["journal_seq"].is_u64(), "{done}");
    is_gone(&api).await;

    let daemon = daemon.crash_and_restart();
    is_gone(&daemon.admin()).await;
}

#[tokio::test]
async fn the_list_and_the_history_say_who_when_and_why() {
    let (_daemon, api) = with_index().await;
    let path = "/catalog/datasets/letters/tombstone";
    let body = json!({ "row_keys": ["77"], "reason": "asked by letter", "actor": "the desk" });
    let done = api.post(path, &body).await.ok();

    let listed = list(&api.get(path).await.ok());
    assert_eq!(listed.len(), 1, "{listed:?}");
    let entry = &listed[0];
    assert_eq!(entry["row_key"], "77", "{entry}");
    assert_eq!(entry["reason"], "asked by letter", "{entry}");
    assert_eq!(entry["journal_seq"], done["journal_seq"], "{entry}");
    assert!(
        entry["deleted_at"].as_str().unwrap().ends_with('Z'),
        "{entry}"
    );
    assert!(entry["actor"].to_string().contains("the desk"), "{entry}");
    assert!(entry["materialized"].is_boolean(), "{entry}");

    let history = list(&api.get("/journal/history/77?dataset=letters").await.ok());
    let event = history
        .iter()
        .find(|event| event["kind"] == "RowsTombstoned")
        .expect("the event");
    assert_eq!(event["seq"], done["journal_seq"], "{event}");
    assert!(
        event["data"].to_string().contains("asked by letter"),
        "{event}"
    );
    assert!(event.to_string().contains("the desk"), "{event}");
    assert!(
        event["actor"].to_string().contains("admin"),
        "who asked: {event}"
    );
}

#[tokio::test]
async fn the_same_request_again_changes_nothing() {
    let (_daemon, api) = with_index().await;
    api.tombstone("letters", &["77"], "asked").await.ok();
    let seq = api.seq().await;
    let before = api.witness(seq).await;
    let again = api.tombstone("letters", &["77"], "asked").await.ok();
    assert_eq!(again["tombstoned"], 0, "{again}");
    assert_eq!(api.witness(seq).await, before);
}

#[tokio::test]
async fn a_delete_of_many_over_several_files_hits_exactly_those() {
    let daemon = Daemon::start();
    let api = daemon.admin();
    api.create("n", "id,part\n0,first\n").await;
    for part in 1..5 {
        let mut csv = String::from("id,part\n");
        for row in 0..1000 {
            writeln!(csv, "{},part {part}", part * 1000 + row).unwrap();
        }
        api.ingest("dataset=n&mode=append", "text/csv", csv)
            .await
            .ok();
    }
    let keys: Vec<String> = (1000..5000)
        .filter(|id| id % 3 == 0)
        .map(|id| id.to_string())
        .collect();
    let body = json!({ "row_keys": keys, "reason": "every third" });
    let done = api.post("/catalog/datasets/n/tombstone", &body).await.ok();
    assert_eq!(done["tombstoned"], keys.len(), "{done}");
    assert_eq!(done["missing"], json!([]), "{done}");
    assert_eq!(api.cell("SELECT count(*) FROM n").await, 4001 - keys.len());
    assert_eq!(
        api.cell("SELECT count(*) FROM n WHERE id % 3 = 0").await,
        1,
        "row 0 was not asked for"
    );
    assert_eq!(api.cell("SELECT min(id) FROM n WHERE id > 0").await, 1000);
}

#[tokio::test]
async fn compaction_materialises_the_delete_and_changes_no_answer() {
    let daemon = Daemon::start();
    let api = daemon.admin();
    api.create("n", "id,v\n1,one\n2,two\n3,three\n").await;
    for id in 4..8 {
        let csv = format!("id,v\n{id},more {id}\n");
        api.ingest("dataset=n&mode=append", "text/csv", csv)
            .await
            .ok();
    }
    api.tombstone("n", &["2", "5"], "asked").await.ok();
    let before = api.rows("SELECT id, v FROM n ORDER BY id").await;

    let compacted = api
        .call(reqwest::Method::POST, "/catalog/datasets/n/compact")
        .send()
        .await
        .ok();
    assert_eq!(
        compacted["files"],
        json!({ "before": 5, "after": 1 }),
        "{compacted}"
    );
    assert_eq!(
        compacted["rows"],
        json!({ "before": 7, "after": 5 }),
        "{compacted}"
    );
    assert_eq!(compacted["tombstones_materialized"], 2, "{compacted}");
    assert!(compacted["journal_seq"].is_u64(), "{compacted}");
    assert_eq!(api.rows("SELECT id, v FROM n ORDER BY id").await, before);
    let listed = list(&api.get("/catalog/datasets/n/tombstone").await.ok());
    assert!(
        listed.iter().all(|entry| entry["materialized"] == true),
        "{listed:?}"
    );

    let daemon = daemon.crash_and_restart();
    let api = daemon.admin();
    assert_eq!(api.rows("SELECT id, v FROM n ORDER BY id").await, before);
    let verified = api
        .call(reqwest::Method::POST, "/journal/verify")
        .send()
        .await
        .ok();
    assert_eq!(verified["ok"], true, "{verified}");
}

#[tokio::test]
async fn what_cannot_be_deleted_is_a_4xx() {
    let (_daemon, api) = with_index().await;
    api.ingest("dataset=keyless&mode=create", "text/csv", "a,b\n1,x\n")
        .await
        .ok();
    let seq = api.seq().await;
    let unknown = api
        .tombstone("leters", &["1"], "asked")
        .await
        .problem_code(404, "dataset_not_found");
    assert!(
        unknown["detail"].as_str().unwrap().contains("letters"),
        "{unknown}"
    );
    api.tombstone("keyless", &["1"], "asked").await.refused();
    let path = "/catalog/datasets/letters/tombstone";
    for body in [
        json!({ "row_keys": ["1"] }),
        json!({ "row_keys": [], "reason": "asked" }),
        json!({ "row_keys": "1", "reason": "asked" }),
        json!({ "row_keys": ["1"], "reason": "" }),
        json!({ "reason": "asked" }),
    ] {
        api.post(path, &body).await.refused();
    }
    assert!(api.witness(seq).await.1.is_empty());
    assert_eq!(api.cell("SELECT count(*) FROM letters").await, 51);
}
