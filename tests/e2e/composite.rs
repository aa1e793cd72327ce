//! Keys of several columns, and keys that are bytes: the same promises as for any key, by one spelling.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, FixedSizeBinaryArray, Int64Array, RecordBatch, StringArray,
};
use parquet::arrow::ArrowWriter;
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::record::RowAccessor as _;
use serde_json::{Value, json};

use crate::erasure::{ON_REQUEST, erase, report};
use crate::support::api::{Api, list};
use crate::support::daemon::Daemon;
use crate::support::scan::{files, places_of};
use crate::support::until;

/// Two regions count their people each for themselves; one has a name that looks like two.
const PEOPLE: &str = "id,region,name\n1,eu,ada garden\n2,eu,grace garden\n1,us,edsger garden\n2,\"e\"\",\"\"u\",barbara garden\n";

async fn with_regions(env: &[(&str, &str)]) -> (Daemon, Api) {
    let daemon = Daemon::start_with(env);
    let api = daemon.admin();
    let query = "dataset=people&mode=create&key=region,id";
    api.ingest(query, "text/csv", PEOPLE).await.ok();
    (daemon, api)
}

async fn names(api: &Api) -> String {
    let rows = api
        .rows("SELECT split_part(name, ' ', 1) FROM people ORDER BY 1")
        .await;
    let names = rows.iter().map(|row| row[0].as_str().unwrap().to_owned());
    names.collect::<Vec<_>>().join(" ")
}

async fn found(api: &Api) -> Vec<Value> {
    let body = json!({ "index": "idx", "query": "garden", "k": 9, "columns": ["name", "id"] });
    let answer = api.post("/vectors/search", &body).await.ok();
    let mut hits = answer["hits"].as_array().unwrap().clone();
    hits.sort_by_key(|hit| hit["key"].as_str().unwrap().to_owned());
    hits
}

async fn tombstone(api: &Api, keys: Value) -> Value {
    let body = json!({ "row_keys": keys, "reason": "asked" });
    api.post("/catalog/datasets/people/tombstone", &body)
        .await
        .ok()
}

#[tokio::test]
async fn the_newer_row_of_a_key_of_two_columns_wins_in_every_mode() {
    let (_daemon, api) = with_regions(&[]).await;
    let manifest = api.get("/catalog/datasets/people").await.ok();
    assert_eq!(manifest["key"], json!(["region", "id"]));
    for (mode, key) in [("upsert", "&key=region,id"), ("append", "")] {
        let newer = format!("id,region,name\n1,us,new {mode}\n3,us,more {mode}\n");
        let query = format!("dataset=people&mode={mode}{key}");
        api.ingest(&query, "text/csv", newer).await.ok();
        assert_eq!(api.cell("SELECT count(*) FROM people").await, 5);
        let sql = "SELECT count(*) FROM people WHERE id = 1 AND region = 'us' AND name LIKE 'new%'";
        assert_eq!(api.cell(sql).await, 1, "{mode}");
        assert_eq!(
            api.cell("SELECT name FROM people WHERE id = 1 AND region = 'eu'")
                .await,
            "ada garden"
        );
    }
    let before = api.rows("SELECT * FROM people ORDER BY region, id").await;
    let compacted = api
        .post("/catalog/datasets/people/compact", &json!({}))
        .await
        .ok();
    assert_eq!(compacted["rows"], json!({ "before": 8, "after": 5 }));
    assert_eq!(
        api.rows("SELECT * FROM people ORDER BY region, id").await,
        before
    );
}

#[tokio::test]
async fn a_row_of_two_key_columns_is_gone_from_every_answer_and_every_byte() {
    let (daemon, api) = with_regions(&ON_REQUEST).await;
    let index = json!({ "name": "idx", "source": "people", "key": ["region", "id"], "text": "{name}", "backend": "hnsw" });
    api.post("/vectors/index?wait=true", &index).await.ok();
    let hits = found(&api).await;
    assert_eq!(hits.len(), 4);
    assert_eq!(hits[3]["key"], r#"["us","1"]"#);
    assert_eq!(hits[3]["row"], json!({ "name": "edsger garden", "id": 1 }));
    assert_eq!(hits[0]["key"], r#"["e\",\"u","2"]"#);
    let then = api.seq().await;

    let done = tombstone(
        &api,
        json!([["us", 1], { "id": "01", "region": "us" }, ["us", 9], r#"["eu","2"]"#]),
    )
    .await;
    assert_eq!(
        (&done["tombstoned"], &done["missing"]),
        (&json!(2), &json!([r#"["us","9"]"#]))
    );
    assert_eq!(tombstone(&api, json!([["us", "1"]])).await["tombstoned"], 0);
    assert_eq!(names(&api).await, "ada barbara");
    assert_eq!(found(&api).await.len(), 2);
    let row = |key: &str| {
        api.call(
            reqwest::Method::GET,
            &format!("/vectors/indexes/idx/rows/{key}"),
        )
    };
    row(r#"["us","1"]"#).send().await.problem(404);
    assert_eq!(
        row(r#"["eu", 1]"#).send().await.ok()["key"],
        r#"["eu","1"]"#
    );
    let past = json!({ "sql": "SELECT count(*) FROM people", "as_of": then });
    assert_eq!(api.post("/query/sql", &past).await.ok()["rows"][0][0], 2);
    for key in [r#"["us","1"]"#, r#"["us", 1]"#, r#"{"id":1,"region":"us"}"#] {
        let history = list(
            &api.get(&format!("/journal/history/{key}?dataset=people"))
                .await
                .ok(),
        );
        assert_eq!(history.len(), 1, "{key}");
        assert_eq!(
            history[0]["data"]["rows"],
            json!([r#"["eu","2"]"#, r#"["us","1"]"#])
        );
    }
    let listed = list(&api.get("/catalog/datasets/people/tombstone").await.ok());
    assert_eq!(listed[1]["row_key"], r#"["us","1"]"#);
    let sidecar = until("the list of deleted rows", || async {
        let found = files(daemon.site().scratch()).into_iter();
        let mut found = found.filter(|path| path.ends_with("people_tombstones.parquet"));
        found.next()
    })
    .await;
    let reader = SerializedFileReader::new(std::fs::File::open(&sidecar).unwrap()).unwrap();
    let rows = reader.get_row_iter(None).unwrap().map(Result::unwrap);
    let mut keys: Vec<String> = rows.map(|row| row.get_string(0).unwrap().clone()).collect();
    keys.sort();
    assert_eq!(keys, [r#"["eu","2"]"#, r#"["us","1"]"#]);

    erase(&api, "people").await;
    let after = report(&api, "people", r#"["us",1]"#).await;
    assert_eq!(after["erased"], true, "{after:#}");
    assert_eq!(after["key"], r#"["us","1"]"#);
    assert!(after["signed"].is_object(), "{after:#}");
    assert_eq!(
        report(&api, "people", r#"["us",2]"#).await["tombstoned_at"],
        Value::Null
    );
    assert_eq!(
        places_of(daemon.site(), &[b"edsger".to_vec(), b"grace".to_vec()]),
        [""; 0]
    );

    let again = "id,region,name\n1,us,edsger again\n7,us,donald garden\n";
    let done = api
        .ingest("dataset=people&mode=upsert", "text/csv", again)
        .await
        .ok();
    assert_eq!(done["erased_skipped"], 1);
    let daemon = daemon.crash_and_restart();
    assert_eq!(names(&daemon.admin()).await, "ada barbara donald");
}

#[tokio::test]
async fn hashed_keys_of_two_columns_are_found_and_stand_nowhere() {
    let (daemon, api) = with_regions(&ON_REQUEST).await;
    api.patch(
        "/catalog/datasets/people",
        &json!({ "journal_keys": "hashed" }),
    )
    .await
    .ok();
    let body = json!({ "where": "name LIKE 'e%' OR name LIKE 'b%'", "reason": "asked" });
    let done = api
        .post("/catalog/datasets/people/delete", &body)
        .await
        .ok();
    assert_eq!(done["tombstoned"], 2);
    let history = list(
        &api.get(r#"/journal/history/["us",1]?dataset=people"#)
            .await
            .ok(),
    );
    assert_eq!(history.len(), 1);
    assert!(!history[0].to_string().contains("us"), "{}", history[0]);
    erase(&api, "people").await;
    assert_eq!(report(&api, "people", r#"["us",1]"#).await["erased"], true);
    let again = "id,region,name\n1,us,edsger again\n";
    let done = api
        .ingest("dataset=people&mode=upsert", "text/csv", again)
        .await
        .ok();
    assert_eq!(done["erased_skipped"], 1);
    assert_eq!(names(&api).await, "ada grace");
    let daemon = daemon.crash_and_restart();
    assert_eq!(names(&daemon.admin()).await, "ada grace");
}

#[tokio::test]
async fn what_is_no_key_of_two_columns_is_refused() {
    let (_daemon, api) = with_regions(&[]).await;
    let seq = api.seq().await;
    for (key, status) in [("id,id", 422), ("id,nobody", 400), ("[1]", 400)] {
        let query = format!("dataset=other&mode=create&key={key}");
        api.ingest(&query, "text/csv", PEOPLE).await.problem(status);
    }
    let other = "dataset=people&mode=upsert&key=id,region";
    api.ingest(other, "text/csv", PEOPLE).await.problem(422);
    let null = "id,region,name\n1,,nobody\n";
    api.ingest("dataset=people&mode=append", "text/csv", null)
        .await
        .problem(400);
    for keys in [
        json!(["us"]),
        json!([["us"]]),
        json!([["us", 1, 2]]),
        json!([{ "id": 1 }]),
        json!([1]),
    ] {
        let body = json!({ "row_keys": keys, "reason": "asked" });
        let refused = api.post("/catalog/datasets/people/tombstone", &body).await;
        let problem = refused.problem(400);
        assert!(
            problem["detail"].as_str().unwrap().contains("[region, id]"),
            "{problem}"
        );
    }
    for key in [json!("id"), json!("id,region"), json!([])] {
        let index = json!({ "name": "idx", "source": "people", "key": key, "text": "{name}", "backend": "hnsw" });
        api.post("/vectors/index", &index).await.problem(422);
    }
    assert!(api.witness(seq).await.1.is_empty());
}

/// A Parquet file with a UUID, bytes that are no text, and a name.
fn of_bytes() -> Vec<u8> {
    let ids = [[0x11_u8; 16], [0xee; 16], [0xff; 16]];
    let ids = FixedSizeBinaryArray::try_from_iter(ids.iter()).unwrap();
    let codes = BinaryArray::from_vec(vec![b"\xff\x00", b"plain", b"\xfe"]);
    let batch = RecordBatch::try_from_iter([
        ("id", Arc::new(ids) as ArrayRef),
        ("code", Arc::new(codes) as ArrayRef),
        ("n", Arc::new(Int64Array::from(vec![1, 2, 3])) as ArrayRef),
        (
            "name",
            Arc::new(StringArray::from(vec![
                "ada garden",
                "grace garden",
                "edsger garden",
            ])) as ArrayRef,
        ),
    ])
    .unwrap();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    bytes
}

#[tokio::test]
async fn keys_that_are_uuids_and_bytes_are_spelled_and_found() {
    let daemon = Daemon::start_with(&ON_REQUEST);
    let api = daemon.admin();
    let uuid = "eeeeeeee-eeee-eeee-eeee-eeeeeeeeeeee";
    for (name, key, gone) in [
        ("uuids", "id", json!([uuid.to_uppercase()])),
        ("codes", "code", json!(["cGxhaW4="])),
        ("both", "code,id", json!([["cGxhaW4=", uuid]])),
    ] {
        let query = format!("dataset={name}&mode=create&key={key}");
        api.ingest(&query, "application/vnd.apache.parquet", of_bytes())
            .await
            .ok();
        let key: Vec<&str> = key.split(',').collect();
        let index = json!({ "name": format!("{name}_idx"), "source": name, "key": key, "text": "{name}", "backend": "hnsw" });
        api.post("/vectors/index?wait=true", &index).await.ok();
        let search =
            json!({ "index": format!("{name}_idx"), "query": "garden", "k": 9, "columns": ["n"] });
        let hits = api.post("/vectors/search", &search).await.ok()["hits"].clone();
        let rows = hits
            .as_array()
            .unwrap()
            .iter()
            .filter(|hit| hit["row"]["n"].is_i64());
        assert_eq!(rows.count(), 3, "{name}: {hits}");
        let body = json!({ "row_keys": gone, "reason": "asked" });
        let done = api
            .post(&format!("/catalog/datasets/{name}/tombstone"), &body)
            .await
            .ok();
        assert_eq!(done["tombstoned"], 1, "{name}: {done}");
        assert_eq!(
            api.cell(&format!("SELECT sum(n) FROM {name}")).await,
            4,
            "{name}"
        );
        let hits = api.post("/vectors/search", &search).await.ok()["hits"].clone();
        assert_eq!(hits.as_array().unwrap().len(), 2, "{name}: {hits}");
        let again = format!("dataset={name}&mode=upsert");
        let again = api
            .ingest(&again, "application/vnd.apache.parquet", of_bytes())
            .await
            .ok();
        assert_eq!(again["erased_skipped"], 1, "{name}");
        assert_eq!(
            api.cell(&format!("SELECT sum(n) FROM {name}")).await,
            4,
            "{name}"
        );
        let body = json!({ "where": "n = 3", "reason": "asked" });
        let done = api
            .post(&format!("/catalog/datasets/{name}/delete"), &body)
            .await
            .ok();
        assert_eq!(done["tombstoned"], 1, "{name}: {done}");
        erase(&api, name).await;
        let listed = list(
            &api.get(&format!("/catalog/datasets/{name}/tombstone"))
                .await
                .ok(),
        );
        assert_eq!(listed.len(), 2);
        for entry in listed {
            let key = entry["row_key"].as_str().unwrap();
            let key = key.replace('/', "%2F").replace('+', "%2B");
            assert_eq!(
                report(&api, name, &key).await["erased"],
                true,
                "{name} {key}"
            );
        }
    }
    assert_eq!(
        places_of(daemon.site(), &[b"edsger".to_vec(), b"grace".to_vec()]),
        [""; 0]
    );
}
