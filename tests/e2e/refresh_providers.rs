//! Embeddings by providers: servers that count what they are sent, and misbehave when they are told to.

use std::fmt::Write as _;

use lakehouse::engines::embedder::standin::{StandIn, Trouble};
use serde_json::{Value, json};

use crate::support::api::{Api, list};
use crate::support::daemon::{Daemon, Site};
use crate::support::scan::places_of;
use crate::support::{number_from_env, until};

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

/// What asks for an index of the server's model `m` over `d`.
fn index(name: &str) -> Value {
    json!({ "name": name, "source": "d", "key": "id", "text": "{body}",
        "provider": "ollama", "model": "m" })
}

/// `d` with these rows, and an index on the server.
pub async fn indexed(api: &Api, rows: &str) {
    api.create("d", rows).await;
    let built = api.post("/vectors/index?wait=true", &index("idx")).await;
    built.ok();
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

/// A vector's first numbers as files hold them.
fn packed(vector: &Value) -> Vec<u8> {
    let numbers = list(vector).into_iter().take(8);
    #[expect(
        clippy::cast_possible_truncation,
        reason = "they were f32 before they were JSON"
    )]
    let numbers = numbers.map(|number| number.as_f64().unwrap() as f32);
    numbers.flat_map(f32::to_le_bytes).collect()
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
    let index = api.get("/vectors/indexes/idx").await.ok();
    let made_by = &index["generations"].as_array().unwrap().last().unwrap()["made_by"];
    let model = json!({ "provider": "ollama", "model": "m", "version": "m", "dimensions": 32 });
    assert_eq!(made_by, &model, "{index}");
}

/// `LAKEHOUSE_OVERWRITE_ROWS=100000` is the gate; a plain run takes a tenth of it.
#[tokio::test]
async fn a_full_overwrite_sends_the_rows_that_changed_and_no_others() {
    let rows = usize::try_from(number_from_env("LAKEHOUSE_OVERWRITE_ROWS", 10_000)).unwrap();
    let (count, changed) = (rows as u64, rows as u64 / 100);
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
        let lines = (0..rows).map(|id| row(id, changes && id % 100 == 42));
        lines.fold(String::from("id,body\n"), |csv, line| csv + &line)
    };
    indexed(&api, &table(false)).await;
    assert_eq!(
        server.texts(),
        count + 1,
        "with the one that told the dimensions"
    );
    server.forget();
    let replaced = api.ingest("dataset=d&mode=replace", "text/csv", table(true));
    replaced.await.ok();
    let done = refresh(&api).await;
    assert_eq!(
        counts(&done),
        [changed, count - changed, 0, changed],
        "{done}"
    );
    assert_eq!(server.texts(), changed);
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
async fn a_provider_that_is_down_loses_nothing_and_health_says_so() {
    let server = StandIn::start(16).unwrap();
    let daemon = beside(&server, &[]);
    let api = daemon.admin();
    indexed(&api, &rows(0, 20)).await;
    assert_eq!(api.get("/health").await.ok()["embedders"][0]["state"], "up");
    let policy = json!({ "embedding_refresh_policy": "on_append" });
    api.patch("/catalog/datasets/d", &policy).await.ok();
    server.always(Some(Trouble::Status(503)));
    append(&api, rows(20, 30)).await;
    until("degraded", || async {
        let health = api.get("/health").await.ok();
        (health["status"] == "degraded" && health["embedders"][0]["state"] == "down").then_some(())
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
    append(&api, rows(20, 40) + "999,an endless story\n").await;
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
        (&json!("999"), &json!("text_refused"))
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
    assert_eq!(keys(&api, "idx", "an endless story", 1).await, ["999"]);
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
    let row = api.get("/vectors/indexes/idx/rows/5").await.ok();
    let needle = packed(&row["vector"]);
    let kept = |places: &[String]| places.iter().any(|place| place.contains("embeddings"));
    let before = places_of(daemon.site(), std::slice::from_ref(&needle));
    assert!(kept(&before), "the scan can see: {before:?}");
    api.tombstone("d", &["5"], "asked").await.ok();
    assert_eq!(cache(&api.get(path).await.ok()), "hidden");
    api.post("/compliance/erasure/d", &json!({})).await.ok();
    let report = api.get(path).await.ok();
    assert_eq!(cache(&report), "absent", "{report}");
    assert_eq!(report["erased"], true, "{report}");
    assert_eq!(places_of(daemon.site(), &[needle]), [""; 0]);
    // What was built anew for the erasure was not paid for again.
    assert_eq!(server.texts(), 20 + 1);
    server.forget();
    append(&api, rows(20, 22)).await;
    assert_eq!(counts(&refresh(&api).await)[3], 2);
}

#[tokio::test]
async fn an_erasure_does_not_wait_for_a_provider_that_is_down() {
    let server = StandIn::start(16).unwrap();
    let daemon = beside(&server, &[]);
    let api = daemon.admin();
    indexed(&api, &rows(0, 20)).await;
    let row = api.get("/vectors/indexes/idx/rows/5").await.ok();
    let needle = packed(&row["vector"]);
    server.always(Some(Trouble::Status(503)));
    append(&api, rows(20, 22)).await;
    api.tombstone("d", &["5"], "asked").await.ok();
    api.post("/compliance/erasure/d", &json!({})).await.ok();
    let report = api.get("/compliance/erasure/d/5").await.ok();
    assert_eq!(report["erased"], true, "{report}");
    assert_eq!(places_of(daemon.site(), &[needle]), [""; 0]);
    let index = api.get("/vectors/indexes/idx").await.ok();
    assert_eq!(
        (&index["vectors"], &index["generations"][0]["left_out"]),
        (&json!(19), &json!(2))
    );
    assert_eq!(list(&api.get("/vectors/stale").await.ok()).len(), 1);
    api.post("/vectors/refresh/d", &json!({}))
        .await
        .problem_code(503, "embedder_unavailable");
    server.always(None);
    assert_eq!(counts(&refresh(&api).await), [2, 19, 0, 2]);
    assert!(list(&api.get("/vectors/stale").await.ok()).is_empty());
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

#[tokio::test]
async fn what_is_external_is_given_public_columns_and_views_only() {
    let server = StandIn::start(16).unwrap();
    let daemon = beside(
        &server,
        &[("LAKEHOUSE__EMBEDDING__OLLAMA__EXTERNAL", "true")],
    );
    let api = daemon.admin();
    api.create("d", &rows(0, 5)).await;
    let refused = api.post("/vectors/index", &index("idx")).await;
    let problem = refused.problem_code(422, "embedder_external");
    assert!(problem["detail"].as_str().unwrap().contains("`body`"));
    let embedding = json!({ "embedding": { "text": "{body}", "key": "id", "provider": "ollama", "model": "m" } });
    api.patch("/catalog/datasets/d", &embedding)
        .await
        .problem_code(422, "embedder_external");
    assert!(!server.sent().keys().any(|text| text.contains("garden")));

    let view = json!({ "name": "v", "base_dataset": "d", "columns": ["id", "body"] });
    api.post("/catalog/views", &view).await.ok();
    let mut over_view = index("through");
    over_view["source"] = json!("v");
    api.post("/vectors/index?wait=true", &over_view).await.ok();
    let class = |class: &str| json!({ "sensitivity": { "body": class } });
    api.patch("/catalog/datasets/d", &class("public"))
        .await
        .ok();
    api.post("/vectors/index?wait=true", &index("idx"))
        .await
        .ok();
    // What is no longer public goes there no more; what is embedded goes on answering.
    api.patch("/catalog/datasets/d", &class("internal"))
        .await
        .ok();
    append(&api, "id,body\n9,a secret of the house\n".to_owned()).await;
    api.delete("/vectors/indexes/through").await.ok();
    api.post("/vectors/refresh/d", &json!({}))
        .await
        .problem_code(422, "embedder_external");
    assert!(!server.sent().contains_key("a secret of the house"));
    assert_eq!(
        keys(&api, "idx", "the garden of number 3", 5).await.len(),
        5
    );
}

#[tokio::test]
async fn a_key_is_named_by_its_handle_and_is_in_no_answer() {
    let server = StandIn::start(16).unwrap();
    server.require_key("CANARY-KEY");
    let url = server.openai_url();
    let env = [
        ("LAKEHOUSE__EMBEDDING__OPENAI__URL", url.as_str()),
        ("LAKEHOUSE__EMBEDDING__OPENAI__SECRET", "embedder"),
        ("LAKEHOUSE__EMBEDDING__OPENAI__ATTEMPTS", "1"),
        ("LAKEHOUSE_SECRET__EMBEDDER", "CANARY-KEY"),
    ];
    let daemon = Daemon::start_with(&env);
    let api = daemon.admin();
    api.create("d", &rows(0, 5)).await;
    let mut wanted = index("idx");
    wanted["provider"] = json!("openai");
    let built = api.post("/vectors/index?wait=true", &wanted).await;
    assert!(!built.text().contains("CANARY"));
    assert_eq!(built.ok()["built"]["provider"], "openai");
    server.require_key("another");
    let search = json!({ "index": "idx", "query": "garden" });
    let refused = api.post("/vectors/search", &search).await;
    refused.problem_code(422, "embedder_denied");
    append(&api, rows(5, 6)).await;
    let refused = api.post("/vectors/refresh/d", &json!({})).await;
    refused.problem_code(422, "embedder_denied");
    let events = serde_json::to_string(&api.events(0).await).unwrap();
    assert!(events.contains("embedder_denied") && !events.contains("CANARY"));
    assert!(!daemon.site().stderr().contains("CANARY"));
}

#[test]
fn an_address_that_may_not_be_reached_ends_the_start() {
    let site = Site::new(&[(
        "LAKEHOUSE__EMBEDDING__OLLAMA__URL",
        "http://169.254.169.254/",
    )]);
    let refused = site.start();
    let (_, refusal) = refused.err().expect("it does not start");
    assert!(
        refusal.stderr.contains("`ollama` cannot be used"),
        "{refusal:?}"
    );
}

#[tokio::test]
async fn a_model_that_answers_other_vectors_never_enters_the_index() {
    let server = StandIn::start(16).unwrap();
    let daemon = beside(&server, &[]);
    let api = daemon.admin();
    indexed(&api, &rows(0, 5)).await;
    append(&api, rows(5, 9)).await;
    server.always(Some(Trouble::Dimensions(17)));
    api.post("/vectors/refresh/d", &json!({}))
        .await
        .problem_code(422, "embedder_dimensions");
    server.always(None);
    assert_eq!(keys(&api, "idx", "garden", 50).await.len(), 5, "as before");
    assert_eq!(counts(&refresh(&api).await), [4, 5, 0, 4]);
}
