//! Embeddings that stay fresh: by call, by policy and by the clock.

use std::fmt::Write as _;
use std::time::Instant;

use serde_json::{Value, json};

use crate::support::api::{Api, list};
use crate::support::daemon::Daemon;
use crate::support::until;

/// Rows `first..last` of `id,body`, each with a text of its own.
fn rows(first: usize, last: usize) -> String {
    let mut csv = String::from("id,body\n");
    for id in first..last {
        writeln!(csv, "{id},the garden of number {id} is green").unwrap();
    }
    csv
}

async fn define(api: &Api, name: &str) {
    let body =
        json!({ "name": name, "source": "d", "key": "id", "text": "{body}", "backend": "hnsw" });
    api.post("/vectors/index?wait=true", &body).await.ok();
}

async fn append(api: &Api, csv: String) {
    api.ingest("dataset=d&mode=append", "text/csv", csv)
        .await
        .ok();
}

async fn refresh(api: &Api) -> Value {
    api.post("/vectors/refresh/d", &json!({})).await.ok()
}

fn counts(done: &Value) -> [u64; 4] {
    ["rows", "embedded", "unchanged", "removed"].map(|field| done[field].as_u64().unwrap())
}

async fn nearest(api: &Api, query: &str) -> String {
    let body = json!({ "index": "idx", "query": query, "k": 1 });
    let answer = api.post("/vectors/search", &body).await.ok();
    answer["hits"][0]["key"].as_str().unwrap().to_owned()
}

async fn set(api: &Api, policy: Value) -> crate::support::api::Answer {
    let patch = json!({ "embedding_refresh_policy": policy });
    api.patch("/catalog/datasets/d", &patch).await
}

#[tokio::test]
async fn what_is_behind_is_told_and_brought_up_to_date_by_a_call() {
    let daemon = Daemon::start();
    let api = daemon.admin();
    api.create("d", &rows(0, 50)).await;
    define(&api, "idx").await;
    assert!(list(&api.get("/vectors/stale").await.ok()).is_empty());
    append(&api, rows(50, 60)).await;
    let stale = list(&api.get("/vectors/stale").await.ok());
    assert_eq!(stale[0]["rows_to_embed"], 10, "{stale:?}");
    assert_eq!(stale[0]["policy"], "manual");
    let manifest = api.get("/catalog/datasets/d").await.ok();
    assert!(manifest["embedding_stale_since"].is_string(), "{manifest}");
    let old = api.get("/vectors/indexes/idx/rows/7").await.ok();
    let done = refresh(&api).await;
    assert_eq!(counts(&done), [60, 10, 50, 0], "{done}");
    assert_eq!(api.get("/vectors/indexes/idx/rows/7").await.ok(), old);
    assert!(list(&api.get("/vectors/stale").await.ok()).is_empty());
    let again = refresh(&api).await;
    assert_eq!(counts(&again), [60, 0, 60, 0], "{again}");
    let run = api.get("/vectors/refresh/d").await.ok();
    assert_eq!(run["last_run"]["cause"], "call", "{run}");
    let events = api.get("/journal/events?kind=RefreshCompleted").await.ok();
    assert_eq!(list(&events).len(), 2, "each run is an event");
}

#[tokio::test]
async fn a_row_is_searchable_without_a_call() {
    let daemon = Daemon::start();
    let api = daemon.admin();
    api.create("d", &rows(0, 200)).await;
    define(&api, "idx").await;
    set(&api, json!("on_append")).await.ok();
    let began = Instant::now();
    append(&api, "id,body\n999,a rocket flies to the moon\n".to_owned()).await;
    until("found", || async {
        (nearest(&api, "moon rocket").await == "999").then_some(())
    })
    .await;
    eprintln!("on_append: found {:?} after the append", began.elapsed());
}

#[tokio::test]
async fn a_policy_that_cannot_run_is_refused_when_it_is_set() {
    let daemon = Daemon::start();
    let api = daemon.admin();
    api.create("d", &rows(0, 20)).await;
    set(&api, json!("on_append")).await.problem(422);
    define(&api, "idx").await;
    for bad in [
        json!({ "scheduled": "at night" }),
        json!({ "scheduled": "0 0 2 * * *", "time_zone": "Mars/Base" }),
    ] {
        set(&api, bad).await.problem_code(422, "impossible");
    }
    let embedding =
        json!({ "embedding": { "text": "{body}", "key": "id", "provider": "none", "model": "m" } });
    api.patch("/catalog/datasets/d", &embedding)
        .await
        .problem_code(422, "unsupported");
}

#[tokio::test]
async fn a_schedule_fires_is_paused_and_survives_a_restart() {
    let daemon = Daemon::start();
    let api = daemon.admin();
    api.create("d", &rows(0, 20)).await;
    define(&api, "idx").await;
    let policy = json!({ "scheduled": "* * * * * *", "time_zone": "Europe/Berlin" });
    set(&api, policy).await.ok();
    append(&api, rows(20, 30)).await;
    until("fired", || async {
        let stale = list(&api.get("/vectors/stale").await.ok());
        stale.is_empty().then_some(())
    })
    .await;
    let of_d = |all: &Value| {
        let mut all = list(all).into_iter();
        all.find(|one| one["dataset"] == "d" && one["task"] == "refresh")
            .unwrap()
    };
    let schedule = of_d(&api.get("/schedules").await.ok());
    assert_eq!(schedule["time_zone"], "Europe/Berlin", "{schedule}");
    let name = schedule["name"].as_str().unwrap().to_owned();
    let path = |verb: &str| format!("/schedules/{name}/{verb}");
    let paused = api.post(&path("pause"), &json!({})).await.ok();
    assert_eq!(
        (&paused["paused"], &paused["next_run_at"]),
        (&json!(true), &Value::Null)
    );
    let daemon = daemon.crash_and_restart();
    let api = daemon.admin();
    assert_eq!(of_d(&api.get("/schedules").await.ok())["paused"], true);
    append(&api, rows(30, 31)).await;
    api.post(&path("run"), &json!({})).await.ok();
    until("run by hand", || async {
        let stale = list(&api.get("/vectors/stale").await.ok());
        stale.is_empty().then_some(())
    })
    .await;
    api.post(&path("resume"), &json!({})).await.ok();
    api.post("/schedules/refresh:nothing/pause", &json!({}))
        .await
        .problem_code(404, "schedule_not_found");
}

#[tokio::test]
async fn only_what_is_new_or_changed_is_embedded_and_what_left_is_taken_out() {
    let daemon = Daemon::start();
    let api = daemon.admin();
    api.create("d", &rows(0, 50)).await;
    define(&api, "idx").await;
    append(&api, rows(50, 60)).await;
    let changed = "id,body\n3,something else entirely\n";
    let upsert = api.ingest("dataset=d&mode=upsert", "text/csv", changed);
    upsert.await.ok();
    api.tombstone("d", &["5"], "asked").await.ok();
    let done = refresh(&api).await;
    assert_eq!(counts(&done), [59, 11, 48, 1], "{done}");
    assert_eq!(nearest(&api, "something else entirely").await, "3");
    api.get("/vectors/indexes/idx/rows/5").await.problem(404);
}

#[tokio::test]
async fn of_a_full_overwrite_the_rows_that_changed_are_embedded_and_no_others() {
    let daemon = Daemon::start();
    let api = daemon.admin();
    let table = |changes: bool| {
        (0..20_000).fold(String::from("id,body\n"), |mut csv, id| {
            let changed = changes && id % 20 == 7;
            let word = if changed { "orchard" } else { "garden" };
            writeln!(csv, "{id},the {word} of number {id}").unwrap();
            csv
        })
    };
    api.create("d", &table(false)).await;
    define(&api, "idx").await;
    let replaced = api.ingest("dataset=d&mode=replace", "text/csv", table(true));
    replaced.await.ok();
    let done = refresh(&api).await;
    assert_eq!(counts(&done), [20_000, 1_000, 19_000, 0], "{done}");
}

#[tokio::test]
async fn of_a_table_of_586_rows_the_thousand_that_are_appended_are_embedded() {
    let daemon = Daemon::start();
    let api = daemon.admin();
    api.create("d", &rows(0, 586)).await;
    define(&api, "idx").await;
    let old = vectors(&api).await;
    append(&api, rows(586, 1_586)).await;
    let manifest = api.get("/catalog/datasets/d").await.ok();
    assert!(manifest["embedding_stale_since"].is_string(), "{manifest}");
    let done = refresh(&api).await;
    assert_eq!(counts(&done), [1_586, 1_000, 586, 0], "{done}");
    assert_eq!(vectors(&api).await, old, "bit for bit");
    let last = nearest(&api, "the garden of number 1585 is green").await;
    assert!(last.parse::<usize>().unwrap() < 1_586);
}

async fn vectors(api: &Api) -> Vec<Value> {
    let mut all = Vec::new();
    for id in [0, 7, 585] {
        let row = api.get(&format!("/vectors/indexes/idx/rows/{id}")).await;
        all.push(row.ok()["vector"].clone());
    }
    all
}
