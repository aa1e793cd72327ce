//! Vectors: an index is built, found, searched, asked by key, and removed.

use std::fmt::Write as _;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::api::{Api, list};
use crate::support::daemon::Daemon;
use crate::support::until;

const TOPICS: [(&str, &str); 6] = [
    ("animals", "a cat purrs on the warm carpet and sleeps"),
    ("cooking", "boil the pasta and stir the tomato sauce"),
    ("finance", "the bank raises interest rates on loans"),
    ("sports", "the striker scores a goal in the football match"),
    ("weather", "heavy rain and thunder are expected tomorrow"),
    (
        "software",
        "the compiler reports a type error in the program",
    ),
];
const COPIES: usize = 20;

/// 120 short texts over six topics; the ids of a topic are consecutive.
pub fn notes() -> String {
    let mut csv = String::from("id,topic,body\n");
    for (t, (topic, text)) in TOPICS.iter().enumerate() {
        for copy in 0..COPIES {
            let id = t * COPIES + copy;
            writeln!(csv, "n{id},{topic},\"{text} number {copy}\"").unwrap();
        }
    }
    csv
}

pub fn definition(name: &str) -> Value {
    json!({ "name": name, "source": "notes", "key": "id", "text": "{body}", "backend": "hnsw" })
}

async fn indexed() -> (Daemon, Api) {
    let daemon = Daemon::start();
    let api = daemon.admin();
    api.create("notes", &notes()).await;
    api.post("/vectors/index?wait=true", &definition("notes_idx"))
        .await
        .ok();
    (daemon, api)
}

pub async fn search(api: &Api, body: Value) -> Value {
    let answer = api.post("/vectors/search", &body).await.ok();
    assert!(answer["elapsed_us"].is_number(), "{answer}");
    assert!(answer["generation"].is_number(), "{answer}");
    assert!(
        ["ann", "exact"].contains(&answer["path"].as_str().unwrap()),
        "{answer}"
    );
    answer
}

pub fn keys(answer: &Value) -> Vec<String> {
    let hits = answer["hits"].as_array().unwrap().iter();
    hits.map(|hit| hit["key"].as_str().expect("a key is text").to_owned())
        .collect()
}

#[tokio::test]
async fn an_index_is_built_beside_and_its_job_tells_how_far_it_is() {
    let daemon = Daemon::start();
    let api = daemon.admin();
    api.create("notes", &notes()).await;
    let asked = api.post("/vectors/index", &definition("notes_idx")).await;
    assert_eq!(asked.status, 202, "{}", asked.text());
    let asked = asked.ok();
    assert_eq!(asked["index"], "notes_idx");
    let path = format!("/jobs/{}", asked["job"].as_str().unwrap());
    let job = until("the index to be built", || async {
        let job = api.get(&path).await.ok();
        assert_ne!(job["state"], "failed", "{job}");
        (job["state"] == "done").then_some(job)
    })
    .await;
    assert_eq!(job["done"], 120, "{job}");
    assert_eq!(job["total"], 120, "{job}");

    let listed = list(&api.get("/vectors/indexes").await.ok());
    assert_eq!(listed.len(), 1, "{listed:?}");
    let index = api.get("/vectors/indexes/notes_idx").await.ok();
    for (field, value) in [
        ("name", json!("notes_idx")),
        ("source", json!("notes")),
        ("key", json!("id")),
        ("backend", json!("hnsw")),
        ("vectors", json!(120)),
        ("dimensions", json!(128)),
    ] {
        assert_eq!(index[field], value, "{index}");
    }
    assert!(index["bytes"].as_u64().unwrap() > 0, "{index}");
    let live: Vec<Value> = list(&index["generations"])
        .into_iter()
        .filter(|g| g["live"] == true)
        .collect();
    assert_eq!(live.len(), 1, "{index}");
    assert_eq!(live[0]["generation"], index["generation"], "{index}");
}

#[tokio::test]
async fn a_search_by_text_finds_what_is_meant() {
    let (_daemon, api) = indexed().await;
    for (query, topic) in [
        ("kitten sleeping", 0),
        ("italian recipe with tomatoes", 1),
        ("mortgage interest from my bank", 2),
        ("football goal", 3),
        ("storm and rain", 4),
        ("programming language compiler", 5),
    ] {
        let answer = search(
            &api,
            json!({ "index": "notes_idx", "query": query, "k": 5 }),
        )
        .await;
        assert_eq!(answer["index"], "notes_idx");
        let hits = answer["hits"].as_array().unwrap();
        assert_eq!(hits.len(), 5, "{query}");
        for key in keys(&answer) {
            let id: usize = key[1..].parse().unwrap();
            assert_eq!(
                id / COPIES,
                topic,
                "`{query}` finds {}: {answer}",
                TOPICS[topic].0
            );
        }
        let scores: Vec<f64> = hits
            .iter()
            .map(|hit| hit["score"].as_f64().unwrap())
            .collect();
        assert!(scores.is_sorted_by(|a, b| a >= b), "best first: {scores:?}");
        assert!(
            hits.iter().all(|hit| hit["distance"].is_number()),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn k_hits_come_when_k_rows_qualify() {
    let (_daemon, api) = indexed().await;
    for k in [1, 10, 119, 120] {
        let answer = search(
            &api,
            json!({ "index": "notes_idx", "query": "rain", "k": k }),
        )
        .await;
        let mut found = keys(&answer);
        assert_eq!(found.len(), k);
        found.sort();
        found.dedup();
        assert_eq!(found.len(), k, "every key once");
    }
    let all = search(
        &api,
        json!({ "index": "notes_idx", "query": "rain", "k": 500 }),
    )
    .await;
    assert_eq!(keys(&all).len(), 120, "no more than there are");
    let ten = search(&api, json!({ "index": "notes_idx", "query": "rain" })).await;
    assert_eq!(keys(&ten).len(), 10, "k is 10 by default");
    let narrow = json!({ "index": "notes_idx", "query": "rain", "k": 50, "ef_search": 5 });
    assert_eq!(
        keys(&search(&api, narrow).await).len(),
        50,
        "k above ef_search"
    );
}

#[tokio::test]
async fn a_filter_narrows_and_still_gives_k() {
    let (_daemon, api) = indexed().await;
    for filter in [
        "topic = 'cooking'",
        "topic IN ('cooking')",
        "id >= 'n20' AND topic = 'cooking'",
    ] {
        let body = json!({ "index": "notes_idx", "query": "thunder", "k": 10, "filter": filter });
        let answer = search(&api, body).await;
        let found = keys(&answer);
        assert_eq!(found.len(), 10, "{filter}: {answer}");
        for key in found {
            let id: usize = key[1..].parse().unwrap();
            assert_eq!(id / COPIES, 1, "{filter}: {answer}");
        }
    }
    let nothing = json!({ "index": "notes_idx", "query": "x cat", "filter": "topic = 'none'" });
    assert!(keys(&search(&api, nothing).await).is_empty());
    for bad in [
        "nosuch = 1",
        "topic = ",
        "1; DROP TABLE notes",
        "topic = 'a') OR (1 = 1",
    ] {
        let body = json!({ "index": "notes_idx", "query": "cat", "filter": bad });
        api.post("/vectors/search", &body).await.refused();
    }
}

#[tokio::test]
async fn a_rows_own_vector_finds_that_row_and_exact_agrees() {
    let (_daemon, api) = indexed().await;
    let row = api.get("/vectors/indexes/notes_idx/rows/n45").await.ok();
    let vector = row["vector"].as_array().expect("the vector");
    assert_eq!(vector.len(), 128);
    assert!(row["text"].as_str().unwrap().contains("bank"), "{row}");

    let body = json!({ "index": "notes_idx", "vector": vector, "k": 5 });
    let near = search(&api, body.clone()).await;
    assert_eq!(keys(&near)[0], "n45", "{near}");
    let mut exact = body;
    exact["exact"] = json!(true);
    let exact = search(&api, exact).await;
    assert_eq!(exact["path"], "exact");
    assert_eq!(keys(&exact), keys(&near));
}

#[tokio::test]
async fn columns_bring_the_row_along() {
    let (_daemon, api) = indexed().await;
    let body =
        json!({ "index": "notes_idx", "query": "pasta", "k": 2, "columns": ["id", "topic"] });
    let answer = search(&api, body).await;
    for hit in answer["hits"].as_array().unwrap() {
        assert_eq!(hit["row"]["topic"], "cooking", "{hit}");
        assert_eq!(hit["row"]["id"], hit["key"], "{hit}");
    }
    let unknown = json!({ "index": "notes_idx", "query": "pasta", "columns": ["nosuch"] });
    api.post("/vectors/search", &unknown).await.refused();
}

#[tokio::test]
async fn what_cannot_be_searched_or_built_is_a_4xx_and_changes_nothing() {
    let (_daemon, api) = indexed().await;
    let seq = api.seq().await;
    let unknown = json!({ "index": "notes_idxx", "query": "cat" });
    let problem = api
        .post("/vectors/search", &unknown)
        .await
        .problem_code(404, "index_not_found");
    assert!(
        problem["detail"].as_str().unwrap().contains("notes_idx"),
        "{problem}"
    );
    for body in [
        json!({ "index": "notes_idx" }),
        json!({ "index": "notes_idx", "query": "cat", "k": -1 }),
        json!({ "index": "notes_idx", "vector": [1.0, 2.0] }),
        json!({ "index": "notes_idx", "query": "" }),
    ] {
        let answer = api.post("/vectors/search", &body).await;
        assert!(!answer.is_ok(), "{body}: {}", answer.text());
        answer.refused();
    }
    let mut twice = definition("notes_idx");
    api.post("/vectors/index", &twice)
        .await
        .problem_code(409, "index_exists");
    twice["name"] = json!("other");
    for (field, value, status) in [
        ("source", json!("nosuch"), 404),
        ("key", json!("nosuch"), 404),
        ("text", json!("{nosuch}"), 404),
        ("backend", json!("faiss"), 400),
        ("bucket", json!("elsewhere"), 404),
    ] {
        let mut body = twice.clone();
        body[field] = value;
        let answer = api.post("/vectors/index?wait=true", &body).await;
        answer.refused();
        let fits = answer.status == status || (answer.status == 422 && status == 400);
        assert!(fits, "{field}: {} {}", answer.status, answer.text());
    }
    api.get("/vectors/indexes/nosuch")
        .await
        .problem_code(404, "index_not_found");
    api.get("/vectors/indexes/notes_idx/rows/nosuch")
        .await
        .problem(404);
    api.get("/jobs/nosuch").await.problem(404);
    assert!(api.witness(seq).await.1.is_empty());
}

#[tokio::test]
async fn a_deleted_index_is_gone_and_its_dataset_is_not() {
    let (_daemon, api) = indexed().await;
    let dropped = api.delete("/vectors/indexes/notes_idx").await.ok();
    assert!(dropped["journal_seq"].is_u64(), "{dropped}");
    assert!(list(&api.get("/vectors/indexes").await.ok()).is_empty());
    api.get("/vectors/indexes/notes_idx")
        .await
        .problem_code(404, "index_not_found");
    let body = json!({ "index": "notes_idx", "query": "cat" });
    api.post("/vectors/search", &body)
        .await
        .problem_code(404, "index_not_found");
    assert_eq!(api.cell("SELECT count(*) FROM notes").await, 120);
    api.post("/vectors/index?wait=true", &definition("notes_idx"))
        .await
        .ok();
    assert_eq!(
        keys(&search(&api, json!({ "index": "notes_idx", "query": "cat" })).await).len(),
        10
    );
}

#[tokio::test]
async fn an_index_answers_the_same_after_kill_9() {
    let (daemon, api) = indexed().await;
    let body = json!({ "index": "notes_idx", "query": "a goal in the last minute", "k": 10 });
    let before = keys(&search(&api, body.clone()).await);
    let daemon = daemon.crash_and_restart();
    assert_eq!(keys(&search(&daemon.admin(), body).await), before);
}

#[tokio::test]
async fn a_refresh_brings_new_rows_into_the_index() {
    let (_daemon, api) = indexed().await;
    let body = "id,topic,body\nx1,space,\"the rocket leaves the orbit of the moon\"\n";
    let added = api
        .ingest("dataset=notes&mode=append", "text/csv", body)
        .await
        .ok();
    assert!(
        added["embedding_stale_since"].is_string(),
        "it says that the index is behind: {added}"
    );
    let stale = list(&api.get("/vectors/stale").await.ok());
    assert_eq!(stale.len(), 1, "{stale:?}");
    assert_eq!(stale[0]["dataset"], "notes");

    let refreshed = api
        .call(Method::POST, "/vectors/refresh/notes")
        .send()
        .await
        .ok();
    assert_eq!(refreshed["dataset"], "notes", "{refreshed}");
    assert!(refreshed["journal_seq"].is_u64(), "{refreshed}");
    let found = search(
        &api,
        json!({ "index": "notes_idx", "query": "moon rocket", "k": 1 }),
    )
    .await;
    assert_eq!(keys(&found), ["x1"]);
    assert!(list(&api.get("/vectors/stale").await.ok()).is_empty());
}

#[tokio::test]
async fn a_generation_is_built_beside_promoted_and_rolled_back() {
    let (_daemon, api) = indexed().await;
    let path = "/vectors/indexes/notes_idx";
    let first = api.get(path).await.ok()["generation"].as_u64().unwrap();
    api.post(&format!("{path}/generations?wait=true"), &json!({}))
        .await
        .ok();
    let built = until("the second generation", || async {
        let index = api.get(path).await.ok();
        (list(&index["generations"]).len() == 2).then_some(index)
    })
    .await;
    let second = list(&built["generations"])[1]["generation"]
        .as_u64()
        .unwrap();
    assert!(second > first, "{built}");

    api.post(&format!("{path}/promote"), &json!({ "generation": second }))
        .await
        .ok();
    let body = json!({ "index": "notes_idx", "query": "rain", "k": 3 });
    assert_eq!(search(&api, body.clone()).await["generation"], second);
    let rolled = api
        .call(Method::POST, &format!("{path}/rollback"))
        .send()
        .await
        .ok();
    assert!(rolled["journal_seq"].is_u64(), "{rolled}");
    assert_eq!(search(&api, body.clone()).await["generation"], first);
    api.post(&format!("{path}/promote"), &json!({ "generation": 99 }))
        .await
        .problem(404);
    assert_eq!(search(&api, body).await["generation"], first);
}

#[tokio::test]
async fn a_search_in_sql_joins_with_tables_and_sees_what_the_caller_sees() {
    let (_daemon, api) = indexed().await;
    let rows = api
        .rows(
            "SELECT n.topic, s.score FROM vector_search('notes_idx', 'a goal in the match', 5) s \
             JOIN notes n ON n.id = s.key WHERE n.topic = 'sports' ORDER BY s.score DESC",
        )
        .await;
    assert_eq!(rows.len(), 5, "{rows:?}");
    let rest = search(
        &api,
        json!({ "index": "notes_idx", "query": "a goal in the match", "k": 5 }),
    )
    .await;
    let whole = "SELECT count(*) FROM vector_search('notes_idx', 'x', 5) WHERE chunk IS NULL";
    assert_eq!(api.rows(whole).await[0][0], 5, "no text is cut");
    let score = |row: &[Value]| row[1].as_f64().unwrap();
    let first = rest["hits"][0]["score"].as_f64().unwrap();
    assert!((score(&rows[0]) - first).abs() < 1e-6);
    let key = keys(&rest)[0].clone();
    api.tombstone("notes", &[key.as_str()], "asked").await.ok();
    let sql = "SELECT key FROM vector_search('notes_idx', 'a goal in the match', 120)";
    let found = api.rows(sql).await;
    assert!(found.len() == 119 && !found.contains(&vec![json!(key)]));
    for wrong in [
        "SELECT * FROM vector_search('nothing', 'x', 1)",
        "SELECT * FROM vector_search('notes_idx')",
        "SELECT * FROM vector_search('notes_idx', 'x', -1)",
        "SELECT * FROM vector_search('notes_idx', 'x', 10001)",
    ] {
        let answer = api.sql(wrong).await;
        assert!(
            (400..500).contains(&answer.status),
            "{wrong}: {}",
            answer.text()
        );
    }
    let secret = json!({ "sensitivity": { "body": "secret" } });
    api.patch("/catalog/datasets/notes", &secret).await.ok();
    let analyst = api.with_role("analyst").await;
    analyst.sql(sql).await.refused();
    let view = json!({ "name": "v", "base_dataset": "notes", "columns": ["id", "topic"] });
    api.post("/catalog/views", &view).await.ok();
    let bot = json!({ "name": "bot", "role": "agent", "views": ["v"] });
    api.with_token(&bot).await.sql(sql).await.refused();
}
