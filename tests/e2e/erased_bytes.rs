//! Erasure down to the bytes: canaries through every feature, kills at any moment, then every file looked at.

use std::fmt::Write as _;

use arrow::datatypes::{ArrowPrimitiveType, Float16Type};
use serde_json::{Value, json};

use crate::erasure::{AT_ONCE, ON_REQUEST, erase, report, with_people};
use crate::repair::with_rescue;
use crate::rescue::copied;
use crate::support::api::Api;
use crate::support::scan::{found, places_of};
use crate::support::until;

/// A half-precision number.
type F16 = <Float16Type as ArrowPrimitiveType>::Native;

/// 24 letters that stand nowhere else, from a small generator of its own.
fn canary(state: &mut u64) -> String {
    let mut text = String::new();
    for _ in 0..24 {
        *state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        text.push(char::from(
            b'a' + u8::try_from((*state >> 33) % 26).unwrap(),
        ));
    }
    text
}

/// A vector's first numbers as an index may hold them: f32 and f16, little-endian.
fn packed(vector: &[Value]) -> Vec<Vec<u8>> {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "they were f32 before they were JSON"
    )]
    let numbers: Vec<f32> = vector
        .iter()
        .take(8)
        .map(|v| v.as_f64().unwrap() as f32)
        .collect();
    let single = numbers
        .iter()
        .flat_map(|number| number.to_le_bytes())
        .collect();
    let half = numbers
        .iter()
        .flat_map(|number| F16::from_f32(*number).to_le_bytes())
        .collect();
    vec![single, half]
}

/// An export, a sorted query of the past, and a search that brings columns along.
async fn read_in_all_ways(api: &Api, first: u64) {
    let export = api
        .call(reqwest::Method::POST, "/query/sql")
        .header("Accept", "text/csv");
    export
        .json(&json!({ "sql": "SELECT * FROM notes" }))
        .send()
        .await;
    let sorted =
        json!({ "sql": "SELECT city, count(*) FROM notes GROUP BY 1 ORDER BY 1", "as_of": first });
    api.post("/query/sql", &sorted).await.ok();
    let search = json!({ "index": "kb", "query": "garden music", "k": 2000, "columns": ["city"] });
    api.post("/vectors/search", &search).await.ok();
}

/// G-02: 200 rows with canaries and known vectors through every feature, in a bucket and in the one that
/// answers for it, erased, then every byte of both looked at.
#[tokio::test]
async fn nothing_of_two_hundred_erased_rows_is_left_in_any_byte() {
    let mut random = 20_261_122;
    let words = [
        "garden", "river", "music", "winter", "bread", "letter", "horse", "window",
    ];
    let mut csv = String::from("id,city,note\n");
    let mut newer = String::from("id,city,note\n");
    let mut needles = Vec::new();
    for id in 0..2_000 {
        let doomed = id % 10 == 3;
        let mut note = format!(
            "{} {} {}",
            words[id % 8],
            words[id / 8 % 8],
            words[id / 64 % 8]
        );
        let mut city = format!("city{}", id % 50);
        if doomed {
            let (in_note, in_city) = (canary(&mut random), canary(&mut random));
            write!(note, " {in_note}").unwrap();
            city.clone_from(&in_city);
            needles.extend([in_note.into_bytes(), in_city.into_bytes()]);
            if id % 20 == 3 {
                let later = canary(&mut random);
                writeln!(newer, "{id},city,{note} {later}").unwrap();
                needles.push(later.into_bytes());
            }
        }
        writeln!(csv, "{id},{city},{note}").unwrap();
    }
    let daemon = with_rescue(&ON_REQUEST);
    let api = daemon.admin();
    api.create("notes", &csv).await;
    let first = api.seq().await;
    let index = json!({ "name": "kb", "source": "notes", "key": "id", "text": "{note}", "backend": "hnsw" });
    api.post("/vectors/index?wait=true", &index).await.ok();
    api.ingest("dataset=notes&mode=upsert", "text/csv", newer)
        .await
        .ok();
    api.post("/vectors/refresh/notes", &json!({})).await.ok();
    api.post("/catalog/datasets/notes/compact", &json!({}))
        .await
        .ok();
    for id in [3, 13, 23, 103, 203] {
        let row = api
            .get(&format!("/vectors/indexes/kb/rows/{id}"))
            .await
            .ok();
        needles.extend(packed(row["vector"].as_array().unwrap()));
    }
    read_in_all_ways(&api, first).await;
    copied(&api, "primary").await;
    let places = found(daemon.site(), &needles);
    for bucket in ["buckets/primary", "buckets/rescue"] {
        // Packed as they are: in the texts of a generation, and in the dictionary of their words.
        for part in ["texts.lance/data/", "texts.lance/_indices/"] {
            assert!(
                places.iter().any(|(path, count)| path.contains(bucket)
                    && path.contains(part)
                    && *count >= 200),
                "the scan sees all in {bucket}, {part}: {places:?}"
            );
        }
    }
    let others = "SELECT sum(id), count(*), count(DISTINCT note) FROM notes WHERE id % 10 <> 3";
    let untouched = api.rows(others).await;

    let keys: Vec<String> = (0..2_000)
        .filter(|id| id % 10 == 3)
        .map(|id| id.to_string())
        .collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let done = api.tombstone("notes", &keys, "asked").await.ok();
    assert_eq!(done["tombstoned"], 200);
    assert_eq!(
        api.cell("SELECT count(*) FROM notes WHERE id % 10 = 3")
            .await,
        0
    );
    erase(&api, "notes").await;
    assert_eq!(places_of(daemon.site(), &needles), [""; 0]);
    assert_eq!(api.rows(others).await, untouched);
    for key in ["3", "13", "1993"] {
        let report = report(&api, "notes", key).await;
        assert_eq!(report["erased"], true, "{report:#}");
    }
    let search = json!({ "index": "kb", "query": "garden music", "k": 2000 });
    let hits = api.post("/vectors/search", &search).await.ok();
    assert_eq!(hits["hits"].as_array().unwrap().len(), 1_800);
    let daemon = daemon.crash_and_restart();
    assert_eq!(places_of(daemon.site(), &needles), [""; 0]);
    assert_eq!(daemon.admin().rows(others).await, untouched);
    assert_eq!(
        daemon
            .admin()
            .post("/journal/verify", &json!({}))
            .await
            .ok()["ok"],
        true
    );
}

/// G-04: kill -9 at any moment of an erasure; it always ends erased, and nothing else is lost.
#[tokio::test]
async fn an_erasure_that_is_killed_again_and_again_ends_erased() {
    let rounds = crate::support::number_from_env("LAKEHOUSE_ERASURE_KILLS", 5);
    let mut csv = String::from("id,note\n");
    for id in 0..3_000 {
        writeln!(csv, "{id},the garden of number {id} and canary{id}end").unwrap();
    }
    let (daemon, api) = with_people(&AT_ONCE).await;
    api.create("notes", &csv).await;
    let index = json!({ "name": "kb", "source": "notes", "key": "id", "text": "{note}", "backend": "hnsw" });
    api.post("/vectors/index?wait=true", &index).await.ok();
    let mut daemon = daemon;
    for round in 0..rounds {
        let key = (round * 17).to_string();
        let api = daemon.admin();
        api.tombstone("notes", &[&key], "asked").await.ok();
        let pause = std::time::Duration::from_millis(round * 37 % 400);
        tokio::time::sleep(pause).await;
        daemon = daemon.crash_and_restart();
        let api = daemon.admin();
        let count = api.cell("SELECT count(*) FROM notes").await;
        assert_eq!(count, 3_000 - (round + 1), "round {round}");
    }
    let api = daemon.admin();
    let last = ((rounds - 1) * 17).to_string();
    until("everything is erased", || async {
        let report = report(&api, "notes", &last).await;
        (report["erased"] == true).then_some(())
    })
    .await;
    let needles: Vec<Vec<u8>> = (0..rounds)
        .map(|round| format!("canary{}end", round * 17).into_bytes())
        .collect();
    assert_eq!(places_of(daemon.site(), &needles), [""; 0]);
    assert_eq!(
        api.post("/journal/verify", &json!({})).await.ok()["ok"],
        true
    );
}
