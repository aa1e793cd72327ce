//! Long texts in chunks: a row is found by the best of them, once; it is hidden, replaced and erased with all
//! of them; and they are paid for once.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use lakehouse::engines::embedder::standin::StandIn;
use serde_json::{Value, json};

use crate::erasure::{ON_REQUEST, erase, report};
use crate::refresh_providers::beside;
use crate::support::api::{Api, list, secret_of};
use crate::support::daemon::Daemon;
use crate::support::scan::places_of;

const PLAIN: [&str; 5] = [
    "the bread is baked in the oven before the morning",
    "a letter lies on the table beside the window",
    "the river runs slowly past the old stone mill",
    "children sing a song about the winter and the snow",
    "the horse sleeps in the barn behind the garden",
];
const ROCKET: &str = "the rocket leaves the orbit of the moon";

/// Forty plain sentences and a last one.
fn long(id: usize, last: &str) -> String {
    let mut text = String::new();
    for sentence in 0..40 {
        write!(text, "{}. ", PLAIN[(id + sentence) % PLAIN.len()]).unwrap();
    }
    text + last
}

/// Rows `first..last` of long texts; the last sentence of every tenth is about a rocket.
fn rows(first: usize, last: usize) -> String {
    let mut csv = String::from("id,body\n");
    for id in first..last {
        let end = if id % 10 == 7 {
            format!("{ROCKET} on mission m{id}")
        } else {
            format!("this is the end of number {id}")
        };
        writeln!(csv, "{id},{}", long(id, &end)).unwrap();
    }
    csv
}

fn definition(backend: &str) -> Value {
    json!({ "name": "idx", "source": "d", "key": "id", "text": "{body}", "backend": backend,
        "chunk": { "tokens": 32, "overlap": 8 } })
}

async fn indexed(backend: &str, csv: &str) -> (Daemon, Api) {
    let daemon = Daemon::start_with(&ON_REQUEST);
    let api = daemon.admin();
    api.create("d", csv).await;
    let definition = definition(backend);
    let built = api.post("/vectors/index?wait=true", &definition);
    built.await.ok();
    (daemon, api)
}

async fn refresh(api: &Api) -> Value {
    api.post("/vectors/refresh/d", &json!({})).await.ok()
}

async fn index(api: &Api) -> Value {
    api.get("/vectors/indexes/idx").await.ok()
}

async fn hits(api: &Api, query: &str, k: usize) -> Vec<Value> {
    let asked = json!({ "index": "idx", "query": query, "k": k });
    list(&api.post("/vectors/search", &asked).await.ok()["hits"])
}

fn keys(hits: &[Value]) -> Vec<String> {
    let keys = hits.iter().map(|hit| hit["key"].as_str().unwrap());
    keys.map(str::to_owned).collect()
}

fn once(hits: &[Value]) -> BTreeSet<String> {
    keys(hits).into_iter().collect()
}

fn set<const N: usize>(keys: [&str; N]) -> BTreeSet<String> {
    keys.map(str::to_owned).into()
}

/// The chunk of a hit is the part of its text that it says, and not all of it.
fn assert_is_part(hit: &Value) {
    let (text, chunk) = (hit["text"].as_str().unwrap(), &hit["chunk"]);
    let byte = |field: &str| usize::try_from(chunk[field].as_u64().unwrap()).unwrap();
    let (start, end) = (byte("start"), byte("end"));
    assert_eq!(chunk["text"], text[start..end], "{hit}");
    assert!(end - start < text.len(), "{hit}");
}

/// A vector's first numbers as files hold them.
fn packed(vector: &Value) -> Vec<u8> {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "they were f32 before they were JSON"
    )]
    let number = |number: Value| number.as_f64().unwrap() as f32;
    let numbers = list(vector).into_iter().take(8);
    numbers.map(number).flat_map(f32::to_le_bytes).collect()
}

async fn found_by_its_end(backend: &str) {
    let (daemon, api) = indexed(backend, &rows(0, 40)).await;
    let answers = async |api: Api| {
        let shown = index(&api).await;
        assert_eq!(shown["chunk"], json!({ "tokens": 32, "overlap": 8 }));
        assert_eq!(shown["rows"], 40, "{shown}");
        assert!(shown["vectors"].as_u64().unwrap() > 40 * 10, "{shown}");
        let cutting = &shown["generations"][0]["cutting"];
        assert_eq!(cutting["tokenizer"], "wordpiece@1", "{shown}");
        let found = hits(&api, "moon rocket", 5).await;
        let rockets = set(["7", "17", "27", "37"]);
        assert_eq!(once(&found[..4]), rockets, "{backend}");
        assert_eq!(once(&found).len(), 5);
        for hit in &found[..4] {
            assert_is_part(hit);
            let (text, chunk) = (hit["text"].as_str().unwrap(), &hit["chunk"]);
            assert!(chunk["text"].as_str().unwrap().contains(ROCKET), "{hit}");
            assert_eq!(chunk["end"], text.len(), "{hit}");
            assert!(chunk["number"].as_u64().unwrap() > 9, "{hit}");
        }
        for k in [1, 39, 40, 1_000] {
            let found = hits(&api, "the winter and the snow", k).await;
            assert_eq!((found.len(), once(&found).len()), (k.min(40), k.min(40)));
        }
        for (mode, has_chunk) in [("text", false), ("hybrid", true)] {
            let asked = json!({ "index": "idx", "query": "rocket m27", "k": 3, "mode": mode });
            let found = api.post("/vectors/search", &asked).await.ok();
            assert_eq!(found["hits"][0]["key"], "27", "{mode}: {found}");
            assert_eq!(found["hits"][0]["chunk"].is_object(), has_chunk, "{found}");
        }
        let row = api.get("/vectors/indexes/idx/rows/17").await.ok();
        let chunks = list(&row["chunks"]);
        assert!(row["vector"].is_null() && chunks.len() > 10, "{row}");
        assert_eq!(chunks[0]["start"], 0);
        assert_eq!(
            chunks.last().unwrap()["end"],
            row["text"].as_str().unwrap().len()
        );
        for pair in chunks.windows(2) {
            assert!(pair[1]["start"].as_u64() < pair[0]["end"].as_u64());
        }
        let sql =
            "SELECT key, chunk FROM vector_search('idx', 'moon rocket', 5) ORDER BY score DESC";
        let in_sql = api.rows(sql).await;
        let over_rest = found.iter().map(|hit| {
            let key = hit["key"].as_str().unwrap().parse::<u64>().unwrap();
            (json!(key), hit["chunk"].clone())
        });
        let in_sql = in_sql
            .into_iter()
            .map(|row| (row[0].clone(), row[1].clone()));
        assert_eq!(in_sql.collect::<Vec<_>>(), over_rest.collect::<Vec<_>>());
        let filtered =
            json!({ "index": "idx", "query": "moon rocket", "k": 9, "filter": "id < 20" });
        let found = api.post("/vectors/search", &filtered).await.ok();
        let found = list(&found["hits"]);
        assert_eq!(once(&found[..2]), set(["7", "17"]));
        assert_eq!(once(&found).len(), 9);
    };
    answers(api).await;
    let daemon = daemon.crash_and_restart();
    answers(daemon.admin()).await;
}

#[tokio::test]
async fn a_long_text_is_found_by_a_sentence_at_its_end() {
    found_by_its_end("hnsw").await;
}

#[tokio::test]
async fn a_long_text_is_found_by_a_sentence_at_its_end_on_lance() {
    found_by_its_end("lance").await;
}

#[tokio::test]
async fn a_row_whose_chunks_are_all_near_leaves_room_for_the_others() {
    for backend in ["hnsw", "lance"] {
        let mut csv = String::from("id,body\n");
        writeln!(csv, "all,{}", format!("{ROCKET}. ").repeat(600)).unwrap();
        for id in 0..30 {
            writeln!(csv, "{id},{ROCKET} and number {id} follows").unwrap();
        }
        let (_daemon, api) = indexed(backend, &csv).await;
        for k in [1, 2, 20, 31, 50] {
            let found = hits(&api, ROCKET, k).await;
            assert_eq!((found.len(), once(&found).len()), (k.min(31), k.min(31)));
        }
    }
}

async fn rides_and_is_replaced(backend: &str) {
    let (daemon, api) = indexed(backend, &rows(0, 20)).await;
    let appended = api.ingest("dataset=d&mode=append", "text/csv", rows(20, 40));
    appended.await.ok();
    let told = refresh(&api).await;
    let counted = ["rows", "embedded", "unchanged", "removed"].map(|field| told[field].clone());
    assert_eq!(counted, [40, 20, 20, 0].map(Value::from), "{told}");
    let built = index(&api).await["generations"][0].clone();
    assert_eq!(
        (&built["deltas"], &built["delta_rows"]),
        (&json!(1), &json!(20))
    );
    // One of the generation comes to say something else, one of the delta something shorter.
    let newer = format!("id,body\n7,{}\n27,a cat purrs\n", long(7, "the end of it"));
    let upsert = api.ingest("dataset=d&mode=upsert", "text/csv", newer);
    upsert.await.ok();
    let told = refresh(&api).await;
    assert_eq!(
        (&told["embedded"], &told["unchanged"]),
        (&json!(2), &json!(38)),
        "{told}"
    );
    let answers = async |api: Api| {
        let found = hits(&api, "moon rocket", 2).await;
        assert_eq!(once(&found), set(["17", "37"]));
        found.iter().for_each(assert_is_part);
        let all = hits(&api, "moon rocket", 100).await;
        assert_eq!((all.len(), once(&all).len()), (40, 40));
        for hit in all
            .iter()
            .filter(|hit| hit["key"] == "7" || hit["key"] == "27")
        {
            let text = hit["text"].as_str().unwrap();
            assert!(!text.contains("rocket"), "{hit}");
        }
        let cat = hits(&api, "a cat purrs", 1).await.remove(0);
        assert_eq!(
            (&cat["key"], &cat["chunk"]["text"]),
            (&json!("27"), &json!("a cat purrs"))
        );
        let row = api.get("/vectors/indexes/idx/rows/27").await.ok();
        assert_eq!(list(&row["chunks"]).len(), 1, "{row}");
    };
    answers(api).await;
    let daemon = daemon.crash_and_restart();
    let api = daemon.admin();
    answers(api.clone()).await;
    // A generation built anew has the same rows, and takes over what it has of their texts.
    let nothing = json!({});
    let again = api.post("/vectors/indexes/idx/generations?wait=true", &nothing);
    again.await.ok();
    let shown = index(&api).await;
    assert_eq!(
        (&shown["rows"], &shown["generation"]),
        (&json!(40), &json!(2)),
        "{shown}"
    );
    let built = api.get("/journal/events?kind=GenerationBuilt").await.ok();
    let built = list(&built).pop().unwrap();
    assert_eq!(
        (&built["data"]["reused"], &built["data"]["rows"]),
        (&json!(40), &json!(40))
    );
    answers(api).await;
}

#[tokio::test]
async fn chunks_ride_on_a_generation_and_a_newer_text_replaces_all_of_the_older() {
    for backend in ["hnsw", "lance"] {
        rides_and_is_replaced(backend).await;
    }
}

#[tokio::test]
async fn a_deleted_row_is_hidden_with_all_its_chunks_and_erased_with_all_of_them() {
    for backend in ["hnsw", "lance"] {
        let (daemon, api) = indexed(backend, &rows(0, 20)).await;
        let appended = api.ingest("dataset=d&mode=append", "text/csv", rows(20, 40));
        appended.await.ok();
        refresh(&api).await;
        // One of the generation, one of the delta.
        let mut needles = vec![b"mission m7".to_vec(), b"mission m27".to_vec()];
        for id in [7, 27] {
            let path = format!("/vectors/indexes/idx/rows/{id}");
            let row = api.get(&path).await.ok();
            let last = list(&row["chunks"]).pop().unwrap();
            needles.push(packed(&last["vector"]));
        }
        assert!(!places_of(daemon.site(), &needles[2..3]).is_empty());
        api.tombstone("d", &["7", "27"], "asked").await.ok();
        for _ in 0..2 {
            for query in ["moon rocket", PLAIN[0], PLAIN[3]] {
                let found = hits(&api, query, 1_000).await;
                let found = once(&found);
                assert_eq!(found.len(), 38, "{backend}");
                assert!(!found.contains("7") && !found.contains("27"));
            }
            for mode in ["text", "hybrid"] {
                let asked = json!({ "index": "idx", "query": "rocket", "k": 50, "mode": mode });
                let found = api.post("/vectors/search", &asked).await.ok();
                let found = once(&list(&found["hits"]));
                assert!(!found.contains("7") && !found.contains("27"), "{mode}");
            }
            api.get("/vectors/indexes/idx/rows/7").await.problem(404);
            api.get("/vectors/indexes/idx/rows/27").await.problem(404);
            // What a refresh writes names no deleted row.
            let told = refresh(&api).await;
            assert_eq!(told["embedded"], 0, "{told}");
        }
        erase(&api, "d").await;
        for id in ["7", "27"] {
            assert_eq!(report(&api, "d", id).await["erased"], true);
        }
        assert_eq!(places_of(daemon.site(), &needles), [""; 0], "{backend}");
        let shown = index(&api).await;
        assert_eq!(shown["rows"], 38, "{shown}");
        assert_eq!(once(&hits(&api, "moon rocket", 1_000).await).len(), 38);
        let daemon = daemon.crash_and_restart();
        assert_eq!(places_of(daemon.site(), &needles), [""; 0], "{backend}");
    }
}

#[tokio::test]
async fn through_a_view_no_chunk_of_a_hidden_row_is_told() {
    for backend in ["hnsw", "lance"] {
        let daemon = Daemon::start();
        let admin = daemon.admin();
        let mut csv = String::from("id,status,body\n");
        for id in 0..30 {
            let (status, last) = if id % 3 == 1 {
                ("blocked", format!("{ROCKET} with kxqzcanary{id}"))
            } else {
                ("open", format!("{ROCKET} and number {id}"))
            };
            writeln!(csv, "{id},{status},{}", long(id, &last)).unwrap();
        }
        admin.create("d", &csv).await;
        let view = json!({ "name": "open_ones", "base_dataset": "d", "columns": ["id", "body"],
            "row_filter": "status <> 'blocked'" });
        admin.post("/catalog/views", &view).await.ok();
        let mut over_view = definition(backend);
        over_view["name"] = json!("idx_view");
        over_view["source"] = json!("open_ones");
        for definition in [definition(backend), over_view] {
            let built = admin.post("/vectors/index?wait=true", &definition);
            built.await.ok();
        }
        let token = json!({ "name": "bot", "role": "agent", "views": ["open_ones"],
            "limits": { "concurrent_queries": 100, "requests_per_s": 100_000 } });
        let bot = daemon.client(Some(&secret_of(
            &admin.post("/auth/tokens", &token).await.ok(),
        )));
        for name in ["idx", "idx_view"] {
            for (query, k) in [("moon rocket", 1), (ROCKET, 100), (PLAIN[2], 100)] {
                let asked = json!({ "index": name, "query": query, "k": k });
                let found = bot.post("/vectors/search", &asked).await;
                assert!(!found.text().contains("kxqz"), "{}", found.text());
                let found = list(&found.ok()["hits"]);
                assert_eq!((found.len(), once(&found).len()), (k.min(20), k.min(20)));
                for hit in &found {
                    assert_ne!(hit["key"].as_str().unwrap().parse::<u64>().unwrap() % 3, 1);
                    assert_is_part(hit);
                }
            }
            let words = json!({ "index": name, "query": "kxqzcanary1", "mode": "text" });
            let words = bot.post("/vectors/search", &words).await;
            words.problem_code(403, "words_denied");
        }
        // One that comes to be hidden is hidden whole, before the index knows.
        let newer = "id,status,body\n0,blocked,short\n";
        let upsert = admin.ingest("dataset=d&mode=upsert", "text/csv", newer);
        upsert.await.ok();
        let asked = json!({ "index": "idx", "query": "moon rocket", "k": 100 });
        let found = bot.post("/vectors/search", &asked).await.ok();
        let found = once(&list(&found["hits"]));
        assert_eq!((found.len(), found.contains("0")), (19, false));
    }
}

#[tokio::test]
async fn chunks_that_cannot_be_made_are_refused() {
    let daemon = Daemon::start();
    let api = daemon.admin();
    api.create("d", &rows(0, 5)).await;
    let with = |chunk: Value| {
        let mut definition = definition("hnsw");
        definition["chunk"] = chunk;
        definition
    };
    for (chunk, why) in [
        (json!({ "tokens": 7 }), "`tokens` is 7, must be 8 to 8192"),
        (json!({ "tokens": 8_193 }), "`tokens` is 8193"),
        (json!({ "tokens": 0 }), "`tokens` is 0"),
        (json!({ "tokens": 64, "overlap": 32 }), "`overlap` is 32"),
        (json!({ "tokens": 64, "overlap": 100 }), "`overlap` is 100"),
    ] {
        let refused = api.post("/vectors/index", &with(chunk.clone())).await;
        let refused = refused.problem_code(422, "impossible");
        assert!(
            refused["detail"].as_str().unwrap().contains(why),
            "{refused}"
        );
        let embedding = json!({ "embedding": { "text": "{body}", "key": "id",
            "provider": "in-process", "model": "static-minilm-128", "chunk": chunk } });
        let refused = api.patch("/catalog/datasets/d", &embedding).await;
        refused.problem_code(422, "impossible");
    }
    for chunk in [json!({ "tokens": 64, "words": 3 }), json!({}), json!(64)] {
        api.post("/vectors/index", &with(chunk)).await.problem(400);
    }
    let mut floor = definition("hnsw");
    floor["slo"] = json!({ "min_recall": 0.9 });
    let refused = api.post("/vectors/index", &floor).await;
    refused.problem_code(422, "unsupported");
    let numbers: Vec<Value> = (0..5)
        .map(|id| json!({ "id": id, "v": [1.0, f64::from(id)] }))
        .collect();
    let query = "dataset=points&mode=create&key=id";
    let numbers = serde_json::to_vec(&numbers).unwrap();
    api.ingest(query, "application/json", numbers).await.ok();
    let column = json!({ "name": "p", "source": "points", "key": "id", "vector_column": "v",
        "chunk": { "tokens": 64 } });
    let refused = api.post("/vectors/index", &column).await;
    refused.problem_code(422, "impossible");
    // Nothing of it is there; what is, is not measured.
    assert!(list(&api.get("/vectors/indexes").await.ok()).is_empty());
    let definition = definition("hnsw");
    let built = api.post("/vectors/index?wait=true", &definition);
    built.await.ok();
    let slo = json!({ "min_recall": 0.9 });
    let set = api.call(reqwest::Method::PUT, "/vectors/indexes/idx/slo");
    set.json(&slo).send().await.problem_code(422, "unsupported");
    let drawn = json!({ "index": "idx", "queries": 10 });
    let drawn = api.post("/vectors/hnsw/evals/e/autogen", &drawn).await;
    drawn.problem_code(422, "unsupported");
    let tuned = json!({ "index": "idx", "min_recall": 0.9 });
    let tuned = api.post("/vectors/hnsw/tune", &tuned).await;
    tuned.problem_code(422, "unsupported");
}

#[tokio::test]
async fn a_chunk_is_paid_for_once_and_forgotten_with_the_last_row_that_has_it() {
    let server = StandIn::start(16).unwrap();
    let daemon = beside(&server, &ON_REQUEST);
    let api = daemon.admin();
    let csv = |rows: &[(&str, &str)]| {
        let lines = rows
            .iter()
            .map(|(id, last)| format!("{id},{}\n", long(0, last)));
        lines.fold(String::from("id,body\n"), |csv, line| csv + &line)
    };
    let two = csv(&[("1", "same"), ("2", "same")]);
    api.create("d", &two).await;
    let mut definition = definition("hnsw");
    definition["provider"] = json!("ollama");
    definition["model"] = json!("m");
    api.post("/vectors/index?wait=true", &definition).await.ok();
    let shown = index(&api).await;
    let vectors = shown["vectors"].as_u64().unwrap();
    assert_eq!((&shown["rows"], vectors % 2), (&json!(2), 0), "{shown}");
    assert_eq!(
        shown["generations"][0]["cutting"]["tokenizer"],
        "estimated@1"
    );
    assert!(vectors > 20, "{shown}");
    assert!(server.sent().values().all(|count| *count == 1), "each once");
    assert!(
        server.sent().keys().all(|text| text.len() < 200),
        "no whole text"
    );
    server.forget();
    // The others of its chunks are known.
    let three = csv(&[("3", "mission canary")]);
    let appended = api.ingest("dataset=d&mode=append", "text/csv", three);
    appended.await.ok();
    let told = refresh(&api).await;
    assert_eq!(
        (&told["embedded"], &told["texts_sent"]),
        (&json!(1), &json!(1)),
        "{told}"
    );
    assert_eq!(server.texts(), 1);
    let row = api.get("/vectors/indexes/idx/rows/3").await.ok();
    let last = list(&row["chunks"]).pop().unwrap();
    let needle = packed(&last["vector"]);
    assert!(!places_of(daemon.site(), std::slice::from_ref(&needle)).is_empty());
    api.tombstone("d", &["3"], "asked").await.ok();
    server.forget();
    erase(&api, "d").await;
    assert_eq!(
        places_of(daemon.site(), &[needle, b"canary".to_vec()]),
        [""; 0]
    );
    assert_eq!(
        server.texts(),
        0,
        "what is still there is not paid for again"
    );
    assert_eq!(index(&api).await["rows"], 2);
}

#[tokio::test]
async fn a_text_of_which_a_chunk_is_refused_is_found_by_the_others_and_told() {
    let server = StandIn::start(16).unwrap();
    let daemon = beside(&server, &[]);
    let api = daemon.admin();
    server.refuse_word(Some("endless"));
    let csv = format!(
        "id,body\n1,{}\n2,an endless story\n",
        long(1, "an endless story")
    );
    api.create("d", &csv).await;
    let mut definition = definition("hnsw");
    definition["provider"] = json!("ollama");
    definition["model"] = json!("m");
    api.post("/vectors/index?wait=true", &definition).await.ok();
    let built = index(&api).await["generations"][0].clone();
    let counted = ["rows", "skipped", "refused"].map(|field| built[field].clone());
    assert_eq!(counted, [1, 1, 2].map(Value::from), "{built}");
    assert_eq!(keys(&hits(&api, PLAIN[1], 5).await), ["1"]);
    let failures = list(&api.get("/vectors/refresh/d/failures").await.ok());
    let refused: BTreeSet<&str> = failures
        .iter()
        .filter_map(|row| row["key"].as_str())
        .collect();
    assert_eq!(refused, BTreeSet::from(["1", "2"]), "{failures:?}");
    server.refuse_word(None);
    api.post("/vectors/refresh/d/retry", &json!({})).await.ok();
    assert!(list(&api.get("/vectors/refresh/d/failures").await.ok()).is_empty());
    assert_eq!(once(&hits(&api, "an endless story", 2).await).len(), 2);
}

#[tokio::test]
async fn texts_that_are_to_be_cut_otherwise_are_embedded_anew_beside_what_answers() {
    let daemon = Daemon::start();
    let api = daemon.admin();
    api.create("d", &rows(0, 20)).await;
    let mut before = (0, 0);
    for chunk in [
        json!({ "tokens": 64, "overlap": 8 }),
        json!({ "tokens": 16, "overlap": 4 }),
        Value::Null,
        json!({ "tokens": 64 }),
    ] {
        let mut embedding = json!({ "text": "{body}", "key": "id", "provider": "in-process",
            "model": "static-minilm-128" });
        if !chunk.is_null() {
            embedding["chunk"] = chunk.clone();
        }
        let patch = json!({ "embedding": embedding });
        api.patch("/catalog/datasets/d", &patch).await.ok();
        let stale = list(&api.get("/vectors/stale").await.ok());
        assert_eq!(stale.len(), 1, "{chunk}");
        refresh(&api).await;
        assert!(list(&api.get("/vectors/stale").await.ok()).is_empty());
        let shown = api.get("/vectors/indexes/d").await.ok();
        assert_eq!(shown["chunk"]["tokens"], chunk["tokens"], "{shown}");
        let number = |field: &str| shown[field].as_u64().unwrap();
        let (generation, vectors) = (number("generation"), number("vectors"));
        assert_eq!((generation, number("rows")), (before.0 + 1, 20), "{shown}");
        assert_eq!(vectors == 20, chunk.is_null(), "{shown}");
        assert_ne!(vectors, before.1, "{shown}");
        before = (generation, vectors);
        let asked = json!({ "index": "d", "query": "moon rocket", "k": 30 });
        let found = list(&api.post("/vectors/search", &asked).await.ok()["hits"]);
        assert_eq!((found.len(), once(&found).len()), (20, 20));
        assert_eq!(found[0]["chunk"].is_object(), !chunk.is_null());
        // What is current is left as it is.
        let told = refresh(&api).await;
        assert_eq!(
            (&told["embedded"], &told["unchanged"]),
            (&json!(0), &json!(20)),
            "{told}"
        );
    }
    let nothing = json!({});
    let back = api.post("/vectors/indexes/d/rollback", &nothing);
    back.await.ok();
    let shown = api.get("/vectors/indexes/d").await.ok();
    assert!(
        shown["chunk"].is_null(),
        "as the one that answers was made: {shown}"
    );
    let asked = json!({ "index": "d", "query": "moon rocket", "k": 30 });
    let found = api.post("/vectors/search", &asked).await.ok();
    assert!(found["hits"][0]["chunk"].is_null(), "{found}");
}
