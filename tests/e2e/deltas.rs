//! Indexes between two builds: rows that ride, rows that are hidden, folds; and the same on Lance, over
//! columns of vectors, by words and by many queries at once.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::erasure::{ON_REQUEST, erase, report};
use crate::support::api::{Api, list};
use crate::support::daemon::Daemon;
use crate::support::until;
use crate::vectors::{definition, keys, notes, search};

async fn indexed(definition: &Value) -> (Daemon, Api) {
    let daemon = Daemon::start_with(&ON_REQUEST);
    let api = daemon.admin();
    api.create("notes", &notes()).await;
    api.post("/vectors/index?wait=true", definition).await.ok();
    (daemon, api)
}

/// Rows about one thing, unlike all others.
fn rockets(from: usize, to: usize) -> String {
    let mut csv = String::from("id,topic,body\n");
    for id in from..to {
        writeln!(
            csv,
            "p{id},space,the rocket of mission m{id} leaves the orbit of the moon"
        )
        .unwrap();
    }
    csv
}

async fn append(api: &Api, csv: String) {
    api.ingest("dataset=notes&mode=append", "text/csv", csv)
        .await
        .ok();
}

async fn refresh(api: &Api) -> Value {
    api.post("/vectors/refresh/notes", &json!({})).await.ok()
}

async fn index(api: &Api) -> Value {
    api.get("/vectors/indexes/notes_idx").await.ok()
}

/// The generation that answers.
async fn live(api: &Api) -> Value {
    let index = index(api).await;
    let mut generations = list(&index["generations"]).into_iter();
    generations.find(|built| built["live"] == true).unwrap()
}

fn asked(query: &str, k: usize) -> Value {
    json!({ "index": "notes_idx", "query": query, "k": k })
}

#[tokio::test]
async fn a_thousand_rows_are_found_at_once_and_the_generation_stays() {
    let (daemon, api) = indexed(&definition("notes_idx")).await;
    let first = index(&api).await["generation"].clone();
    append(&api, rockets(0, 1_000)).await;
    let told = refresh(&api).await;
    for (field, value) in [
        ("rows", 1_120),
        ("embedded", 1_000),
        ("unchanged", 120),
        ("removed", 0),
    ] {
        assert_eq!(told[field], value, "{field}: {told}");
    }
    let answers = |api: Api| {
        let first = first.clone();
        async move {
            assert_eq!(index(&api).await["generation"], first);
            let built = live(&api).await;
            assert_eq!(
                (&built["deltas"], &built["delta_rows"]),
                (&json!(1), &json!(1_000))
            );
            let found = search(&api, asked("moon rocket", 1_120)).await;
            let found = keys(&found);
            assert_eq!(found.len(), 1_120, "rows of both");
            assert!(found[..1_000].iter().all(|key| key.starts_with('p')));
            let exact = json!({ "index": "notes_idx", "query": "moon rocket", "k": 5, "filter": "topic = 'animals'", "exact": true });
            let animals = keys(&search(&api, exact).await);
            assert!(
                animals.iter().all(|key| key.starts_with('n')),
                "{animals:?}"
            );
            let row = api.get("/vectors/indexes/notes_idx/rows/p7").await.ok();
            assert_eq!(row["vector"].as_array().unwrap().len(), 128, "{row}");
            assert!(row["text"].as_str().unwrap().contains("m7 "), "{row}");
        }
    };
    answers(api).await;
    let daemon = daemon.crash_and_restart();
    answers(daemon.admin()).await;
}

#[tokio::test]
async fn a_changed_row_answers_with_its_new_text_only_and_one_that_left_not_at_all() {
    let (_daemon, api) = indexed(&definition("notes_idx")).await;
    let newer = "id,topic,body\nn0,space,the rocket leaves the orbit of the moon\n";
    api.ingest("dataset=notes&mode=upsert", "text/csv", newer)
        .await
        .ok();
    let told = refresh(&api).await;
    assert_eq!(
        (&told["embedded"], &told["unchanged"]),
        (&json!(1), &json!(119))
    );
    let found = search(&api, asked("moon rocket", 200)).await;
    let found = keys(&found);
    assert_eq!((found.len(), found[0].as_str()), (120, "n0"));
    let cats = keys(&search(&api, asked("a cat purrs on the warm carpet", 19)).await);
    assert!(!cats.contains(&"n0".to_owned()), "{cats:?}");
    // A replacement leaves one row: the others leave by the delta.
    api.ingest("dataset=notes&mode=replace", "text/csv", newer)
        .await
        .ok();
    let told = refresh(&api).await;
    assert_eq!(
        (&told["unchanged"], &told["removed"]),
        (&json!(1), &json!(119))
    );
    assert_eq!(keys(&search(&api, asked("rain", 10)).await), ["n0"]);
}

#[tokio::test]
async fn a_deleted_row_of_a_delta_is_hidden_at_once_and_erased_with_it() {
    let (daemon, api) = indexed(&definition("notes_idx")).await;
    append(&api, rockets(0, 50)).await;
    refresh(&api).await;
    api.tombstone("notes", &["p7", "n3"], "asked").await.ok();
    for _ in 0..2 {
        let found = keys(&search(&api, asked("moon rocket of mission m7", 200)).await);
        assert_eq!(found.len(), 168);
        assert!(!found.contains(&"p7".to_owned()) && !found.contains(&"n3".to_owned()));
        api.get("/vectors/indexes/notes_idx/rows/p7")
            .await
            .problem(404);
        // What a refresh writes names no deleted row.
        let told = refresh(&api).await;
        assert_eq!(
            (&told["embedded"], &told["removed"]),
            (&json!(0), &json!(0))
        );
    }
    assert_eq!(live(&api).await["deltas"], 1);
    erase(&api, "notes").await;
    assert_eq!(report(&api, "notes", "p7").await["erased"], true);
    assert_eq!(live(&api).await["deltas"], 0, "it went with the generation");
    let needles = [b"mission m7 ".to_vec()];
    let left = crate::support::scan::places_of(daemon.site(), &needles);
    assert_eq!(left, [""; 0]);
    let found = keys(&search(&api, asked("moon rocket", 200)).await);
    assert_eq!(found.len(), 168);
}

#[tokio::test]
async fn deltas_past_a_share_are_folded_into_a_generation() {
    let (_daemon, api) = indexed(&definition("notes_idx")).await;
    append(&api, rockets(0, 6_000)).await;
    refresh(&api).await;
    assert_eq!(live(&api).await["deltas"], 1);
    append(&api, rockets(6_000, 12_000)).await;
    refresh(&api).await;
    let folded = until("the fold", || async {
        let built = live(&api).await;
        (built["deltas"] == 0).then_some(built)
    })
    .await;
    assert_eq!(
        (&folded["generation"], &folded["vectors"]),
        (&json!(2), &json!(12_120))
    );
    // Thousands of rows that are nearly alike do not hide the few others.
    let found = search(&api, asked("rain and thunder", 20)).await;
    assert_eq!(found["path"], "ann", "{found}");
    assert!(keys(&found).iter().all(|key| key.starts_with('n')));
    let told = refresh(&api).await;
    assert_eq!(
        (&told["embedded"], &told["unchanged"]),
        (&json!(0), &json!(12_120))
    );
}

/// An index on Lance: built, searched, added to, deleted from, erased.
async fn on_lance(kind: &str) {
    let mut asked_for = definition("notes_idx");
    asked_for["backend"] = json!("lance");
    asked_for["config"] = json!({ "kind": kind });
    let daemon = Daemon::start_with(&ON_REQUEST);
    let api = daemon.admin();
    api.create("notes", &notes()).await;
    append(&api, rockets(0, 400)).await;
    api.post("/vectors/index?wait=true", &asked_for).await.ok();
    assert_eq!(index(&api).await["backend"], "lance");
    let near = asked("moon rocket of mission m7", 10);
    let found = keys(&search(&api, near.clone()).await);
    assert!(
        found.len() == 10 && found.iter().all(|key| key.starts_with('p')),
        "{kind}: {found:?}"
    );
    let all = keys(&search(&api, asked("storm", 1_000)).await);
    assert_eq!(all.len(), 520, "{kind}");
    let filtered = json!({ "index": "notes_idx", "query": "moon rocket", "k": 5, "filter": "topic = 'cooking'", "columns": ["topic"] });
    let filtered = search(&api, filtered).await;
    for hit in list(&filtered["hits"]) {
        assert_eq!(hit["row"]["topic"], "cooking", "{kind}: {hit}");
    }
    append(&api, rockets(400, 450)).await;
    let told = refresh(&api).await;
    assert_eq!(
        (&told["embedded"], &told["unchanged"]),
        (&json!(50), &json!(520)),
        "{kind}"
    );
    assert_eq!(index(&api).await["generation"], 1, "{kind}");
    api.tombstone("notes", &["p7", "p410"], "asked").await.ok();
    let daemon = daemon.crash_and_restart();
    let api = daemon.admin();
    let found = keys(&search(&api, asked("moon rocket", 1_000)).await);
    assert_eq!(found.len(), 568, "{kind}");
    assert!(!found.contains(&"p7".to_owned()) && !found.contains(&"p410".to_owned()));
    erase(&api, "notes").await;
    for key in ["p7", "p410"] {
        assert_eq!(report(&api, "notes", key).await["erased"], true, "{kind}");
    }
    let found = keys(&search(&api, asked("moon rocket", 1_000)).await);
    assert_eq!(found.len(), 568, "{kind}");
    api.delete("/vectors/indexes/notes_idx").await.ok();
}

#[tokio::test]
async fn an_index_on_lance_is_built_searched_deleted_from_and_erased() {
    for kind in ["flat", "ivf_pq", "ivf_hnsw_sq"] {
        on_lance(kind).await;
    }
}

#[tokio::test]
async fn a_setting_of_the_other_engine_is_refused_and_lance_has_a_route_of_its_own() {
    let (_daemon, api) = indexed(&definition("notes_idx")).await;
    let mut other = definition("other");
    other["config"] = json!({ "kind": "flat" });
    let refused = api.post("/vectors/index", &other).await.problem(422);
    assert!(
        refused["detail"].as_str().unwrap().contains("`kind`"),
        "{refused}"
    );
    other["backend"] = json!("lance");
    other["config"] = json!({ "quantization": "i8" });
    api.post("/vectors/index", &other).await.problem(422);
    other["config"] = json!({});
    other["backend"] = json!("hnsw");
    api.post("/vectors/lance/index", &other).await.problem(400);
    other.as_object_mut().unwrap().remove("backend");
    let built = api
        .post("/vectors/lance/index?wait=true", &other)
        .await
        .ok();
    assert_eq!(built["built"]["backend"], "lance", "{built}");
}

#[tokio::test]
async fn words_meaning_and_both_find_rows_and_many_queries_are_answered_in_one() {
    let (_daemon, api) = indexed(&definition("notes_idx")).await;
    append(&api, rockets(0, 30)).await;
    refresh(&api).await;
    let by = |mode: &str, query: &str| {
        let mut body = asked(query, 10);
        body["mode"] = json!(mode);
        body
    };
    // A word that only this row has: of the delta, and of the generation.
    for (words, key) in [("m17", "p17"), ("carpet number 7", "n7")] {
        let found = api.post("/vectors/search", &by("text", words)).await.ok();
        assert_eq!(found["path"], "text", "{found}");
        assert_eq!(keys(&found)[0], key, "{found}");
        assert!(found["hits"][0]["distance"].is_null(), "{found}");
    }
    let nobody = by("text", "xylophone");
    assert!(keys(&api.post("/vectors/search", &nobody).await.ok()).is_empty());
    let both = api
        .post("/vectors/search", &by("hybrid", "rocket m17"))
        .await
        .ok();
    let mut found = keys(&both);
    assert!(found.contains(&"p17".to_owned()), "{both}");
    found.sort();
    found.dedup();
    assert_eq!(found.len(), 10, "no row twice: {both}");
    api.tombstone("notes", &["p17"], "asked").await.ok();
    for mode in ["text", "hybrid"] {
        let found = api.post("/vectors/search", &by(mode, "m17")).await.ok();
        assert!(!keys(&found).contains(&"p17".to_owned()), "{found}");
    }
    let vector = api.get("/vectors/indexes/notes_idx/rows/p3").await.ok()["vector"].clone();
    let many = json!({ "index": "notes_idx", "k": 2, "queries": ["heavy rain", { "query": "tomato sauce" }, { "vector": vector }] });
    let many = api.post("/vectors/search", &many).await.ok();
    let results = list(&many["results"]);
    assert_eq!(results.len(), 3, "{many}");
    for (result, query) in results.iter().zip(["heavy rain", "tomato sauce"]) {
        assert_eq!(keys(result), keys(&search(&api, asked(query, 2)).await));
    }
    let nearest = results[2]["hits"][0]["distance"].as_f64().unwrap();
    assert!(nearest.abs() < 1e-3, "{many}");
    for queries in [
        json!([]),
        json!([{}]),
        json!([{ "query": "a", "vector": [1.0] }]),
    ] {
        let body = json!({ "index": "notes_idx", "queries": queries });
        api.post("/vectors/search", &body).await.problem(400);
    }
    let vague = json!({ "index": "notes_idx", "vector": vector, "mode": "text" });
    api.post("/vectors/search", &vague).await.problem(422);
}

#[tokio::test]
async fn an_index_over_a_column_of_vectors_embeds_nothing() {
    let daemon = Daemon::start();
    let api = daemon.admin();
    let row = |id: u32, x: f64| format!("{{\"id\":\"v{id}\",\"v\":[{x:?},1.0,1.0]}}\n");
    let rows = |from: u32, to: u32| {
        (from..to)
            .map(|id| row(id, f64::from(id)))
            .collect::<String>()
    };
    let ingest = |mode: &'static str, body: String| {
        let api = daemon.admin();
        async move {
            let query = format!("dataset=points&mode={mode}&key=id");
            api.ingest(&query, "application/x-ndjson", body).await.ok()
        }
    };
    ingest("create", rows(0, 20)).await;
    for backend in ["hnsw", "lance"] {
        let name = format!("points_{backend}");
        let body = json!({ "name": name, "source": "points", "key": "id", "vector_column": "v", "backend": backend, "config": { "metric": "l2" } });
        let built = api.post("/vectors/index?wait=true", &body).await.ok();
        assert_eq!(built["built"]["dimensions"], 3, "{built}");
        let near = json!({ "index": name, "vector": [7.1, 1.0, 1.0], "k": 1 });
        assert_eq!(keys(&search(&api, near).await), ["v7"]);
        let words = json!({ "index": name, "query": "seven" });
        api.post("/vectors/search", &words).await.problem(422);
    }
    ingest("append", rows(20, 30)).await;
    ingest("upsert", row(7, 100.0)).await;
    let told = api.post("/vectors/refresh/points", &json!({})).await.ok();
    assert_eq!(
        (&told["embedded"], &told["unchanged"]),
        (&json!(22), &json!(38))
    );
    for backend in ["hnsw", "lance"] {
        let name = format!("points_{backend}");
        let near = |x: f64| json!({ "index": name, "vector": [x, 1.0, 1.0], "k": 1 });
        assert_ne!(keys(&search(&api, near(7.1)).await), ["v7"]);
        assert_eq!(keys(&search(&api, near(99.0)).await), ["v7"]);
        assert_eq!(keys(&search(&api, near(25.2)).await), ["v25"]);
    }
    let short = ingest("append", "{\"id\":\"short\",\"v\":[1.0]}\n".to_owned()).await;
    assert!(short["journal_seq"].is_u64(), "{short}");
    let refused = api.post("/vectors/refresh/points", &json!({})).await;
    assert!(refused.text().contains("`short`"), "{}", refused.text());
    assert_eq!(refused.status, 422);
}
