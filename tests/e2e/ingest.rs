//! Ingest: every format, every mode, and the bytes that were there already.

use std::fmt::Write as _;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::api::{Api, list};
use crate::support::daemon::Daemon;
use crate::support::rows::{self, PEOPLE};

const ALL: &str = "SELECT id, name, score FROM people ORDER BY id";

fn expected() -> Vec<Vec<Value>> {
    PEOPLE
        .iter()
        .map(|(id, name, score)| vec![json!(id), json!(name), json!(score)])
        .collect()
}

/// Makes dataset `people` of these bytes and checks the rows and what the answer says of them.
async fn takes(api: &Api, query: &str, content_type: &str, body: Vec<u8>, what: &str) {
    let bytes = body.len();
    let path = format!("/ingest/file?dataset=people&mode=create&key=id{query}");
    let mut call = api.call(Method::POST, &path).body(body);
    if !content_type.is_empty() {
        call = call.header("content-type", content_type);
    }
    let done = call.send().await.ok();
    assert_eq!(done["dataset"], "people", "{what}: {done}");
    assert_eq!(done["mode"], "create", "{what}: {done}");
    assert_eq!(done["rows"], 4, "{what}: {done}");
    assert_eq!(done["columns"], 3, "{what}: {done}");
    assert_eq!(done["bytes"], bytes, "{what}: bytes as received: {done}");
    assert!(done["batches"].as_u64().unwrap() >= 1, "{what}: {done}");
    assert!(
        done["elapsed_ms"].is_number() && done["journal_seq"].is_u64(),
        "{what}: {done}"
    );
    let fingerprint = done["schema_fingerprint"].as_str().unwrap();
    assert_eq!(api.rows(ALL).await, expected(), "{what}");
    let manifest = api.get("/catalog/datasets/people").await.ok();
    assert_eq!(manifest["schema_fingerprint"], fingerprint, "{what}");
    api.delete("/catalog/datasets/people").await.ok();
}

#[tokio::test]
async fn every_format_gives_the_same_rows() {
    let daemon = Daemon::start();
    let api = daemon.admin();
    let stream = "application/vnd.apache.arrow.stream";
    takes(&api, "", "text/csv", rows::csv(&PEOPLE).into(), "csv").await;
    takes(
        &api,
        "",
        "application/x-ndjson",
        rows::ndjson(&PEOPLE).into(),
        "ndjson",
    )
    .await;
    takes(
        &api,
        "",
        "application/json",
        rows::json_array(&PEOPLE).into(),
        "json array",
    )
    .await;
    takes(
        &api,
        "",
        "application/vnd.apache.parquet",
        rows::parquet(&PEOPLE),
        "parquet",
    )
    .await;
    takes(&api, "", stream, rows::arrow_stream(&PEOPLE), "arrow").await;
}

#[tokio::test]
async fn format_names_what_the_content_type_does_not() {
    let daemon = Daemon::start();
    let api = daemon.admin();
    takes(
        &api,
        "&format=csv",
        "",
        rows::csv(&PEOPLE).into(),
        "format=csv",
    )
    .await;
    let octets = "application/octet-stream";
    takes(
        &api,
        "&format=parquet",
        octets,
        rows::parquet(&PEOPLE),
        "format=parquet",
    )
    .await;
    takes(
        &api,
        "&format=ndjson",
        octets,
        rows::ndjson(&PEOPLE).into(),
        "format=ndjson",
    )
    .await;
}

#[tokio::test]
async fn gzip_and_zstd_are_unpacked_on_the_way() {
    let daemon = Daemon::start();
    let api = daemon.admin();
    let csv = rows::csv(&PEOPLE);
    let packed = [
        ("gzip", rows::gzip(csv.as_bytes()).await),
        ("zstd", rows::zstd(csv.as_bytes()).await),
    ];
    for (encoding, body) in packed {
        let answer = api
            .call(
                Method::POST,
                "/ingest/file?dataset=people&mode=create&key=id",
            )
            .header("content-type", "text/csv")
            .header("content-encoding", encoding)
            .body(body)
            .send()
            .await;
        assert_eq!(answer.ok()["rows"], 4, "{encoding}");
        assert_eq!(api.rows(ALL).await, expected(), "{encoding}");
        api.delete("/catalog/datasets/people").await.ok();
    }
}

#[tokio::test]
async fn a_multipart_form_with_one_file_is_taken() {
    let daemon = Daemon::start();
    let api = daemon.admin();
    let boundary = "a-boundary-that-is-not-in-the-rows";
    let body = format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"people.csv\"\r\n\
         Content-Type: text/csv\r\n\r\n{}\r\n--{boundary}--\r\n",
        rows::csv(&PEOPLE)
    );
    let media = format!("multipart/form-data; boundary={boundary}");
    api.ingest("dataset=people&mode=create&key=id", &media, body)
        .await
        .ok();
    assert_eq!(api.rows(ALL).await, expected());
}

#[tokio::test]
async fn append_adds_upsert_replaces_by_key_and_replace_replaces_all() {
    let daemon = Daemon::start();
    let api = daemon.admin();
    api.create("people", "id,name\n1,ada\n2,grace\n").await;

    let added = api
        .ingest(
            "dataset=people&mode=append",
            "text/csv",
            "id,name\n3,edsger\n",
        )
        .await
        .ok();
    assert_eq!(added["rows"], 1, "{added}");
    assert_eq!(names(&api).await, ["1 ada", "2 grace", "3 edsger"]);

    let newer = "id,name\n2,Grace Hopper\n4,barbara\n";
    api.ingest("dataset=people&mode=upsert&key=id", "text/csv", newer)
        .await
        .ok();
    assert_eq!(
        names(&api).await,
        ["1 ada", "2 Grace Hopper", "3 edsger", "4 barbara"]
    );

    let anew = "id,name\n9,tony\n";
    let replaced = api
        .ingest("dataset=people&mode=replace", "text/csv", anew)
        .await
        .ok();
    assert_eq!(names(&api).await, ["9 tony"]);

    let manifest = api.get("/catalog/datasets/people").await.ok();
    assert_eq!(manifest["row_count"], 1);
    let lineage = list(&manifest["lineage"]);
    assert!(
        lineage
            .iter()
            .any(|step| step["journal_seq"] == replaced["journal_seq"]),
        "{manifest}"
    );

    let daemon = daemon.crash_and_restart();
    assert_eq!(names(&daemon.admin()).await, ["9 tony"]);
}

async fn names(api: &Api) -> Vec<String> {
    let rows = api.rows("SELECT id, name FROM people ORDER BY id").await;
    rows.iter()
        .map(|row| format!("{} {}", row[0], row[1].as_str().unwrap()))
        .collect()
}

#[tokio::test]
async fn an_upsert_of_one_key_twice_in_one_body_keeps_the_last() {
    let daemon = Daemon::start();
    let api = daemon.admin();
    api.create("people", "id,name\n1,ada\n").await;
    let twice = "id,name\n1,first\n2,other\n1,last\n";
    api.ingest("dataset=people&mode=upsert&key=id", "text/csv", twice)
        .await
        .ok();
    assert_eq!(names(&api).await, ["1 last", "2 other"]);
}

#[tokio::test]
async fn the_same_bytes_appended_again_are_a_no_op_that_says_so() {
    let daemon = Daemon::start();
    let api = daemon.admin();
    api.create("people", "id,name\n1,ada\n").await;
    let body = "id,name\n2,grace\n";
    api.ingest("dataset=people&mode=append", "text/csv", body)
        .await
        .ok();

    let seq = api.seq().await;
    let before = api.witness(seq).await;
    let again = api
        .ingest("dataset=people&mode=append", "text/csv", body)
        .await
        .ok();
    assert_eq!(again["deduplicated"], true, "{again}");
    assert_eq!(again["mode"], "append", "{again}");
    assert_eq!(api.witness(seq).await, before);
    assert_eq!(names(&api).await, ["1 ada", "2 grace"]);
}

#[tokio::test]
async fn types_are_inferred_over_the_whole_file_and_ambiguity_is_text() {
    let daemon = Daemon::start();
    let api = daemon.admin();
    let mut csv = String::from("id,mixed,number,flag\n");
    for id in 0..5000 {
        let mixed = if id == 4999 {
            "n/a".to_owned()
        } else {
            id.to_string()
        };
        writeln!(csv, "{id},{mixed},{}.5,{}", id, id % 2 == 0).unwrap();
    }
    api.create("typed", &csv).await;
    let last = api
        .rows("SELECT id, mixed, number, flag FROM typed WHERE id = 4999")
        .await;
    assert_eq!(
        last,
        [[json!(4999), json!("n/a"), json!(4999.5), json!(false)]]
    );
}

#[tokio::test]
async fn nested_json_stays_nested() {
    let daemon = Daemon::start();
    let api = daemon.admin();
    let line = json!({"id": 1, "home": {"city": "London", "geo": [1, 2]}, "tags": ["a", "b"]});
    let query = "dataset=nested&mode=create&key=id";
    api.ingest(query, "application/x-ndjson", format!("{line}\n"))
        .await
        .ok();
    assert_eq!(api.cell("SELECT home['city'] FROM nested").await, "London");
    assert_eq!(
        api.cell("SELECT home FROM nested").await,
        json!({"city": "London", "geo": [1, 2]})
    );
    assert_eq!(api.cell("SELECT tags FROM nested").await, json!(["a", "b"]));
}

#[tokio::test]
async fn a_bucket_named_by_header_is_where_the_files_land() {
    let daemon = Daemon::start();
    let api = daemon.admin();
    let answer = api
        .call(
            Method::POST,
            "/ingest/file?dataset=people&mode=create&key=id",
        )
        .header("content-type", "text/csv")
        .header("x-lakehouse-bucket", "primary")
        .body("id,name\n1,ada\n")
        .send()
        .await;
    answer.ok();
    let manifest = api.get("/catalog/datasets/people").await.ok();
    for file in list(&manifest["files"]) {
        assert_eq!(file["bucket"], "primary", "{file}");
    }
}
