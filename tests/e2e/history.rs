//! The history of rows whose keys are not made for an address: whatever a key is made of, its history
//! is found under it, and under no other.

use std::fmt::Write as _;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::api::{Api, list};
use crate::support::daemon::Daemon;

/// Keys, each near another that a careless decoder takes for it.
fn keys() -> Vec<String> {
    let plain = [
        "a/b",
        "a%2Fb",
        "a%252Fb",
        "/a/b/",
        "a//b",
        "a/../b",
        "x/./y",
        "100%",
        "100%25",
        "%",
        "%%41",
        "%41",
        "A",
        "with space",
        "with+space",
        "with%20space",
        " begins with a space",
        "ends with a space ",
        "+49 170 1234567",
        " 49 170 1234567",
        "%2B49 170 1234567",
        "q?after=5&limit=1#top",
        "semi;colon:at@eq=comma,",
        "quote\"d 'and' \\back\\",
        "{key:.*}",
        "tab\there",
        "two\nlines",
        "名前/キー",
        "ключ №7",
        "caf\u{e9}",
        "cafe\u{301}",
        "👩‍👧‍👦",
        "row:odd:A",
        "dataset:odd",
    ];
    let mut keys: Vec<String> = plain.iter().map(|key| (*key).to_owned()).collect();
    keys.push("k".repeat(1024));
    keys.push("ä/% +".repeat(1024 / "ä/% +".len()));
    keys
}

/// A key as one segment of a path: every byte but letters and digits as `%XX`.
fn encoded(key: &str) -> String {
    let mut text = String::new();
    for byte in key.bytes() {
        if byte.is_ascii_alphanumeric() {
            text.push(char::from(byte));
        } else {
            write!(text, "%{byte:02X}").unwrap();
        }
    }
    text
}

/// A dataset `odd` with these keys, each deleted by a call of its own, for the reason of its number.
async fn deleted(api: &Api, keys: &[String]) {
    let rows = keys
        .iter()
        .map(|key| json!({ "id": key, "name": "somebody" }).to_string());
    let rows = rows.collect::<Vec<_>>().join("\n");
    let query = "dataset=odd&mode=create&key=id";
    api.ingest(query, "application/x-ndjson", rows).await.ok();
    for (number, key) in keys.iter().enumerate() {
        let done = api
            .tombstone("odd", &[key], &format!("reason {number}"))
            .await
            .ok();
        assert_eq!(done["tombstoned"], 1, "{key:?}: {done}");
    }
}

fn reasons(events: &[Value]) -> Vec<&str> {
    events
        .iter()
        .filter(|event| event["kind"] == "RowsTombstoned")
        .map(|event| event["data"]["reason"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn a_key_of_any_signs_has_its_history_and_no_other() {
    let daemon = Daemon::start();
    let api = daemon.admin();
    let keys = keys();
    deleted(&api, &keys).await;
    for (number, key) in keys.iter().enumerate() {
        let path = format!("/journal/history/{}", encoded(key));
        let expected = [format!("reason {number}")];
        let own = list(&api.get(&format!("{path}?dataset=odd")).await.ok());
        assert_eq!(reasons(&own), expected, "{key:?}");
        let subjects = list(&own[0]["subjects"]);
        assert!(
            subjects.contains(&json!(format!("row:odd:{key}"))),
            "{key:?}: {subjects:?}"
        );
        let other = list(&api.get(&format!("{path}?dataset=other")).await.ok());
        assert!(other.is_empty(), "{key:?}: {other:?}");
        // Without the dataset, a key that is a subject itself means that as well.
        if !key.contains(":odd") {
            let any = list(&api.get(&path).await.ok());
            assert_eq!(reasons(&any), expected, "{key:?}");
        }
    }
}

#[tokio::test]
async fn signs_that_need_no_encoding_may_stand_for_themselves() {
    let daemon = Daemon::start();
    let api = daemon.admin();
    let keys: Vec<String> = ["a/b", "+49-170", "x@y:z;1,2=3", "~t!$&'()*"]
        .iter()
        .map(|key| (*key).to_owned())
        .collect();
    deleted(&api, &keys).await;
    for (number, key) in keys.iter().enumerate() {
        let found = list(&api.get(&format!("/journal/history/{key}")).await.ok());
        assert_eq!(reasons(&found), [format!("reason {number}")], "{key}");
    }
}

#[tokio::test]
async fn the_history_of_a_row_outlives_the_dataset_that_it_is_asked_of() {
    let daemon = Daemon::start();
    let api = daemon.admin();
    deleted(&api, &["a/b".to_owned()]).await;
    let dropped = api.call(Method::DELETE, "/catalog/datasets/odd");
    dropped.send().await.ok();
    let path = "/journal/history/a%2Fb?dataset=odd";
    let found = list(&api.get(path).await.ok());
    assert_eq!(reasons(&found), ["reason 0"]);
}

#[tokio::test]
async fn a_history_in_pages_is_the_same_history() {
    let daemon = Daemon::start();
    let api = daemon.admin();
    let keys: Vec<String> = (0..7).map(|number| format!("{number}/7")).collect();
    deleted(&api, &keys).await;
    let whole = list(&api.get("/journal/history/odd").await.ok());
    let mut paged = Vec::new();
    let mut after = json!(0);
    while !after.is_null() {
        let path = format!("/journal/history/odd?limit=2&after={after}");
        let page = api.get(&path).await.ok();
        let events = list(&page);
        assert!(events.len() <= 2, "{page}");
        paged.extend(events);
        after = page["next"].clone();
    }
    assert_eq!(paged, whole);
    assert!(whole.len() >= 9, "created, filled, seven deletions");
}

#[test]
fn the_command_line_finds_such_a_key_too() {
    let daemon = Daemon::start();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let keys: Vec<String> = keys().into_iter().take(24).collect();
    runtime.block_on(deleted(&daemon.admin(), &keys));
    for (number, key) in keys.iter().enumerate() {
        let arguments = ["journal", "history", "--dataset", "odd", "--", key];
        let mut command = daemon.site().command(&arguments);
        command.env("LAKEHOUSE_URL", daemon.base());
        let output = command
            .env("LAKEHOUSE_TOKEN", daemon.token())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let reason = format!(": reason {number}\n");
        assert!(said.ends_with(&reason), "{key:?}: {said}{output:?}");
        assert_eq!(said.lines().count(), 1, "{key:?}: {said}");
    }
}
