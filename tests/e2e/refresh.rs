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
    assert_eq!(done["rows"], 60, "{done}");
    assert_eq!(api.get("/vectors/indexes/idx/rows/7").await.ok(), old);
    assert!(list(&api.get("/vectors/stale").await.ok()).is_empty());
    let again = refresh(&api).await;
    assert_eq!(
        (&again["embedded"], &again["unchanged"]),
        (&json!(0), &json!(60)),
        "{again}"
    );
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
