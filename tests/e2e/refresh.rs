//! Embeddings that stay fresh: by call, by policy, on servers that count what they are sent and
//! misbehave when they are told to.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use lakehouse::engines::embedder::standin::{StandIn, Trouble};
use serde_json::{Value, json};

use crate::support::api::{Api, list};
use crate::support::daemon::Daemon;
use crate::support::until;

/// A daemon that knows a stand-in server as `ollama`.
pub fn beside(server: &StandIn, more: &[(&str, &str)]) -> Daemon {
    let url = server.ollama_url();
    let mut env = vec![
        ("LAKEHOUSE__EMBEDDING__OLLAMA__URL", url.as_str()),
        ("LAKEHOUSE__EMBEDDING__OLLAMA__ATTEMPTS", "2"),
    ];
    env.extend_from_slice(more);
    Daemon::start_with(&env)
}

/// Rows `first..last` of `id,body`, each with a text of its own.
pub fn rows(first: usize, last: usize) -> String {
    let mut csv = String::from("id,body\n");
    for id in first..last {
        writeln!(csv, "{id},the garden of number {id} is green").unwrap();
    }
    csv
}

async fn define(api: &Api, name: &str, more: Value) {
    let mut body = json!({ "name": name, "source": "d", "key": "id", "text": "{body}" });
    for (field, value) in more.as_object().unwrap() {
        body[field] = value.clone();
    }
    api.post("/vectors/index?wait=true", &body).await.ok();
}

/// `d` with these rows, and an index on the server.
pub async fn indexed(api: &Api, rows: &str) {
    api.create("d", rows).await;
    define(api, "idx", json!({ "provider": "ollama", "model": "m" })).await;
}

pub async fn append(api: &Api, rows: String) -> Value {
    let appended = api.ingest("dataset=d&mode=append", "text/csv", rows).await;
    appended.ok()
}

pub async fn refresh(api: &Api) -> Value {
    api.post("/vectors/refresh/d", &json!({})).await.ok()
}

async fn keys(api: &Api, index: &str, query: &str, k: usize) -> Vec<String> {
    let body = json!({ "index": index, "query": query, "k": k });
    let answer = api.post("/vectors/search", &body).await.ok();
    let hits = list(&answer["hits"]);
    hits.iter()
        .map(|hit| hit["key"].as_str().unwrap().to_owned())
        .collect()
}

fn counts(done: &Value) -> [u64; 4] {
    ["embedded", "unchanged", "removed", "texts_sent"].map(|field| done[field].as_u64().unwrap())
}

#[tokio::test]
async fn only_what_is_new_or_changed_is_sent_and_what_left_is_taken_out() {
    let server = StandIn::start(32).unwrap();
    let daemon = beside(&server, &[]);
    let api = daemon.admin();
    indexed(&api, &rows(0, 50)).await;
    let old = api.get("/vectors/indexes/idx/rows/7").await.ok();
    server.forget();
    append(&api, rows(50, 60)).await;
    let changed = "id,body\n3,something else entirely\n";
    let upsert = api
        .ingest("dataset=d&mode=upsert", "text/csv", changed)
        .await;
    upsert.ok();
    api.tombstone("d", &["5"], "asked").await.ok();
    let stale = list(&api.get("/vectors/stale").await.ok());
    assert_eq!(stale[0]["rows_to_embed"], 11, "{stale:?}");
    let done = refresh(&api).await;
    assert_eq!(counts(&done), [11, 48, 1, 11], "{done}");
    assert_eq!((&done["rows"], server.texts()), (&json!(59), 11));
    assert_eq!(done["tokens"].as_u64().unwrap(), 10 * 7 + 3);
    assert_eq!(api.get("/vectors/indexes/idx/rows/7").await.ok(), old);
    assert_eq!(keys(&api, "idx", "something else entirely", 1).await, ["3"]);
    api.get("/vectors/indexes/idx/rows/5").await.problem(404);
    assert!(list(&api.get("/vectors/stale").await.ok()).is_empty());
    let manifest = api.get("/catalog/datasets/d").await.ok();
    assert!(manifest["last_embedded_at"].is_string(), "{manifest}");
    assert!(manifest["embedding_stale_since"].is_null(), "{manifest}");
    let again = refresh(&api).await;
    assert_eq!(counts(&again), [0, 59, 0, 0], "{again}");
    let events = api.get("/journal/events?kind=RefreshCompleted").await.ok();
    assert_eq!(list(&events).len(), 2, "each run is an event");
}

#[tokio::test]
async fn a_full_overwrite_sends_the_rows_that_changed_and_no_others() {
    let server = StandIn::start(16).unwrap();
    let daemon = beside(
        &server,
        &[("LAKEHOUSE__EMBEDDING__OLLAMA__BATCH_TEXTS", "2000")],
    );
    let api = daemon.admin();
    let row = |id: usize, changed: bool| {
        let word = if changed { "orchard" } else { "garden" };
        format!("{id},the {word} of number {id}\n")
    };
    let table = |changes: bool| {
        let lines = (0..100_000).map(|id| row(id, changes && id % 100 == 42));
        lines.fold(String::from("id,body\n"), |csv, line| csv + &line)
    };
    indexed(&api, &table(false)).await;
    assert_eq!(
        server.texts(),
        100_000 + 1,
        "with the one that told the dimensions"
    );
    server.forget();
    let replaced = api.ingest("dataset=d&mode=replace", "text/csv", table(true));
    replaced.await.ok();
    let done = refresh(&api).await;
    assert_eq!(counts(&done), [1_000, 99_000, 0, 1_000], "{done}");
    assert_eq!(server.texts(), 1_000);
}

#[tokio::test]
async fn the_same_text_in_five_hundred_rows_is_sent_once() {
    let server = StandIn::start(16).unwrap();
    let daemon = beside(&server, &[]);
    let api = daemon.admin();
    let mut csv = String::from("id,body\n");
    (0..500).for_each(|id| writeln!(csv, "{id},the same for all").unwrap());
    indexed(&api, &csv).await;
    assert_eq!(server.sent()["the same for all"], 1);
    assert_eq!(keys(&api, "idx", "the same for all", 500).await.len(), 500);
}

#[tokio::test]
async fn a_row_is_searchable_without_a_call_within_two_seconds() {
    let daemon = Daemon::start();
    let api = daemon.admin();
    api.create("d", &rows(0, 200)).await;
    define(&api, "idx", json!({})).await;
    let policy = json!({ "embedding_refresh_policy": "on_append" });
    api.patch("/catalog/datasets/d", &policy).await.ok();
    let began = Instant::now();
    append(&api, "id,body\nnew,a rocket flies to the moon\n".to_owned()).await;
    until("found", || async {
        let found = keys(&api, "idx", "moon rocket", 1).await;
        (found == ["new"]).then_some(())
    })
    .await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[tokio::test]
async fn a_dataset_with_an_embedding_gets_an_index_of_its_own_by_policy() {
    let server = StandIn::start(16).unwrap();
    let daemon = beside(&server, &[]);
    let api = daemon.admin();
    api.create("d", &rows(0, 20)).await;
    let unable = json!({ "embedding_refresh_policy": "on_append" });
    api.patch("/catalog/datasets/d", &unable).await.problem(422);
    let bad = json!({ "embedding_refresh_policy": { "scheduled": "at night" } });
    api.patch("/catalog/datasets/d", &bad).await.problem(422);
    let embedding = |model: &str| json!({ "text": "{body}", "key": "id", "provider": "ollama", "model": model });
    let patch = json!({ "embedding": embedding("m"), "embedding_refresh_policy": "on_append" });
    api.patch("/catalog/datasets/d", &patch).await.ok();
    until("built", || async {
        let index = api.get("/vectors/indexes/d").await;
        (index.status == 200 && index.ok()["vectors"] == 20).then_some(())
    })
    .await;
    // Another model builds a generation beside, and swaps.
    let patch = json!({ "embedding": embedding("m2") });
    api.patch("/catalog/datasets/d", &patch).await.ok();
    let index = until("swapped", || async {
        let index = api.get("/vectors/indexes/d").await.ok();
        (index["model"] == "m2").then_some(index)
    })
    .await;
    assert_eq!(index["generation"], 2, "{index}");
    assert_eq!(server.texts(), 2 * 20 + 2);
}

#[tokio::test]
async fn a_provider_that_is_down_loses_nothing_and_health_says_so() {
    let server = StandIn::start(16).unwrap();
    let daemon = beside(&server, &[]);
    let api = daemon.admin();
    indexed(&api, &rows(0, 20)).await;
    let policy = json!({ "embedding_refresh_policy": "on_append" });
    api.patch("/catalog/datasets/d", &policy).await.ok();
    server.always(Some(Trouble::Status(503)));
    append(&api, rows(20, 30)).await;
    until("degraded", || async {
        let health = api.get("/health").await.ok();
        (health["status"] == "degraded").then_some(())
    })
    .await;
    let problem = api.post("/vectors/refresh/d", &json!({})).await;
    assert_eq!(problem.problem(503)["code"], "embedder_unavailable");
    let search = json!({ "index": "idx", "query": "garden" });
    api.post("/vectors/search", &search).await.problem(503);
    let stale = list(&api.get("/vectors/stale").await.ok());
    assert_eq!(stale[0]["rows_to_embed"], 10, "{stale:?}");
    server.always(None);
    until("fresh", || async {
        list(&api.get("/vectors/stale").await.ok())
            .is_empty()
            .then_some(())
    })
    .await;
    assert_eq!(api.get("/health").await.ok()["status"], "ok");
    assert_eq!(keys(&api, "idx", "garden", 50).await.len(), 30);
}

#[tokio::test]
async fn a_row_that_is_refused_is_set_aside_and_tried_again_when_asked() {
    let server = StandIn::start(16).unwrap();
    let daemon = beside(&server, &[]);
    let api = daemon.admin();
    indexed(&api, &rows(0, 20)).await;
    server.refuse_word(Some("endless"));
    append(&api, rows(20, 40) + "bad,an endless story\n").await;
    let done = refresh(&api).await;
    assert_eq!(
        (&done["embedded"], &done["refused"]),
        (&json!(20), &json!(1)),
        "{done}"
    );
    let failures = api.get("/vectors/refresh/d/failures").await.ok();
    let items = list(&failures);
    assert_eq!(items.len(), 1, "{failures}");
    assert_eq!(
        (&items[0]["key"], &items[0]["code"]),
        (&json!("bad"), &json!("text_refused"))
    );
    assert!(list(&api.get("/vectors/stale").await.ok()).is_empty());
    server.forget();
    let again = refresh(&api).await;
    assert_eq!(
        (server.texts(), &again["refused"]),
        (0, &json!(1)),
        "{again}"
    );
    server.refuse_word(None);
    let retried = api.post("/vectors/refresh/d/retry", &json!({})).await.ok();
    assert_eq!(
        (&retried["retried"], &retried["embedded"]),
        (&json!(1), &json!(1))
    );
    assert!(list(&api.get("/vectors/refresh/d/failures").await.ok()).is_empty());
    assert_eq!(keys(&api, "idx", "an endless story", 1).await, ["bad"]);
}

#[tokio::test]
async fn long_texts_are_cut_and_each_row_is_found_once_by_its_best_part() {
    let daemon = Daemon::start();
    let api = daemon.admin();
    let filler = "the clerk wrote another line about paper and ink ".repeat(30);
    let mut csv = String::from("id,body\n");
    for (id, word) in ["volcano", "violin", "penguin"].iter().enumerate() {
        writeln!(csv, "r{id},{filler} a {word} appears {filler}").unwrap();
    }
    writeln!(csv, "short,a short one about bread").unwrap();
    api.create("d", &csv).await;
    define(
        &api,
        "idx",
        json!({ "chunk": { "tokens": 32, "overlap": 8 } }),
    )
    .await;
    let index = api.get("/vectors/indexes/idx").await.ok();
    assert!(index["vectors"].as_u64().unwrap() > 40, "{index}");
    for (id, word) in [("r0", "volcano"), ("r1", "violin"), ("r2", "penguin")] {
        let body = json!({ "index": "idx", "query": word, "k": 4, "columns": ["id"] });
        let answer = api.post("/vectors/search", &body).await.ok();
        let hits = list(&answer["hits"]);
        assert_eq!(hits.len(), 4, "each row once: {answer}");
        assert_eq!(hits[0]["key"], id, "{answer}");
        assert!(hits[0]["text"].as_str().unwrap().contains(word));
        assert!(hits[0]["text"].as_str().unwrap().len() < 400, "{answer}");
        assert_eq!(hits[0]["row"]["id"], id);
    }
    let filtered = json!({ "index": "idx", "query": "volcano", "k": 4, "filter": "id <> 'r0'" });
    let answer = api.post("/vectors/search", &filtered).await.ok();
    assert_eq!(list(&answer["hits"]).len(), 3, "{answer}");
    api.tombstone("d", &["r0"], "asked").await.ok();
    assert!(
        !keys(&api, "idx", "volcano", 10)
            .await
            .contains(&"r0".to_owned())
    );
    // A text that became shorter leaves none of its parts behind.
    let shorter = "id,body\nr1,a tale of a harbour\n";
    api.ingest("dataset=d&mode=upsert", "text/csv", shorter)
        .await
        .ok();
    let done = refresh(&api).await;
    assert_eq!(done["embedded"], 1, "{done}");
    let body = json!({ "index": "idx", "query": "violin", "k": 10 });
    let answer = api.post("/vectors/search", &body).await.ok();
    let hits = list(&answer["hits"]);
    let of_r1: Vec<&Value> = hits.iter().filter(|hit| hit["key"] == "r1").collect();
    assert_eq!(of_r1.len(), 1, "{answer}");
    assert_eq!(of_r1[0]["text"], "a tale of a harbour", "{answer}");
}

#[tokio::test]
async fn a_schedule_is_seen_paused_hurried_and_survives_a_restart() {
    let daemon = Daemon::start();
    let api = daemon.admin();
    api.create("d", &rows(0, 20)).await;
    define(&api, "idx", json!({})).await;
    let policy = json!({ "embedding_refresh_policy":
        { "scheduled": "0 0 2 * * *", "time_zone": "Europe/Berlin" } });
    let manifest = api.patch("/catalog/datasets/d", &policy).await.ok();
    assert_eq!(
        manifest["embedding_refresh_policy"],
        policy["embedding_refresh_policy"]
    );
    let schedules = list(&api.get("/schedules").await.ok());
    let refreshes: Vec<&Value> = schedules
        .iter()
        .filter(|s| s["task"] == "refresh")
        .collect();
    assert_eq!(refreshes.len(), 1, "{schedules:?}");
    assert_eq!(refreshes[0]["dataset"], "d");
    assert!(refreshes[0]["next_run_at"].is_string());
    let path = format!("/schedules/{}", refreshes[0]["name"].as_str().unwrap());
    append(&api, rows(20, 30)).await;
    let stale = list(&api.get("/vectors/stale").await.ok());
    assert_eq!(
        stale[0]["next_run_at"], refreshes[0]["next_run_at"],
        "{stale:?}"
    );
    let paused = api.post(&format!("{path}/pause"), &json!({})).await.ok();
    assert_eq!(
        (&paused["paused"], &paused["next_run_at"]),
        (&json!(true), &Value::Null)
    );
    let daemon = daemon.crash_and_restart();
    let api = daemon.admin();
    let schedules = list(&api.get("/schedules").await.ok());
    assert!(
        schedules
            .iter()
            .any(|s| s["task"] == "refresh" && s["paused"] == true)
    );
    let hurried = api.post(&format!("{path}/run"), &json!({})).await;
    assert_eq!(hurried.status, 202, "{}", hurried.text());
    until("fresh", || async {
        list(&api.get("/vectors/stale").await.ok())
            .is_empty()
            .then_some(())
    })
    .await;
    let resumed = api.post(&format!("{path}/resume"), &json!({})).await.ok();
    assert_eq!(resumed["paused"], false);
    api.post("/schedules/refresh:x/pause", &json!({}))
        .await
        .problem(404);
}

#[tokio::test]
async fn a_deleted_rows_vector_leaves_the_kept_ones_too() {
    let server = StandIn::start(16).unwrap();
    let daemon = beside(&server, &[]);
    let api = daemon.admin();
    indexed(&api, &rows(0, 20)).await;
    let path = "/compliance/erasure/d/5";
    let cache = |answer: &Value| {
        let places = list(&answer["places"]);
        let found = places
            .iter()
            .find(|place| place["place"] == "embedding_cache");
        found.unwrap()["state"].clone()
    };
    api.tombstone("d", &["5"], "asked").await.ok();
    assert_eq!(cache(&api.get(path).await.ok()), "hidden");
    api.post("/compliance/erasure/d", &json!({})).await.ok();
    let report = api.get(path).await.ok();
    assert_eq!(cache(&report), "absent", "{report}");
    assert_eq!(report["erased"], true, "{report}");
    // What was built anew for the erasure was not paid for again.
    assert_eq!(server.texts(), 20 + 1);
    server.forget();
    append(&api, rows(20, 22)).await;
    assert_eq!(counts(&refresh(&api).await)[3], 2);
}

#[tokio::test]
async fn an_embedder_that_nobody_configured_is_refused() {
    let daemon = Daemon::start();
    let api = daemon.admin();
    api.create("d", &rows(0, 5)).await;
    for (provider, model, code) in [
        ("ollama", "m", "unsupported"),
        ("in-process", "other", "unsupported"),
        ("local", "minilm", "model_not_installed"),
    ] {
        let body = json!({ "name": "idx", "source": "d", "key": "id", "text": "{body}",
            "provider": provider, "model": model });
        let problem = api.post("/vectors/index", &body).await.problem(422);
        assert_eq!(problem["code"], code, "{problem}");
    }
    api.post("/vectors/refresh/d", &json!({}))
        .await
        .problem(422);
    api.post("/vectors/refresh/nothing", &json!({}))
        .await
        .problem(404);
}
