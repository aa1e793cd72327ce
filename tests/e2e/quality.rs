//! How good an index is: evaluation sets, trials, what must be reached before a generation answers,
//! tuning, and profiles. No time is asserted here; `lakehouse bench vectors` measures those.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::api::{Answer, Api, list};
use crate::support::daemon::Daemon;
use crate::support::until;

const ROWS: usize = 3_000;
const WORDS: &[&str] = &[
    "river",
    "mountain",
    "bank",
    "loan",
    "cat",
    "dog",
    "purr",
    "kitchen",
    "pasta",
    "tomato",
    "football",
    "goal",
    "referee",
    "thunder",
    "rain",
    "cloud",
    "compiler",
    "error",
    "program",
    "network",
    "violin",
    "concert",
    "painter",
    "museum",
    "doctor",
    "fever",
    "hospital",
    "train",
    "station",
    "ticket",
    "harvest",
    "wheat",
    "tractor",
    "planet",
    "star",
    "telescope",
    "king",
    "castle",
    "battle",
    "ship",
    "sailor",
    "island",
    "teacher",
    "school",
    "exam",
    "judge",
    "court",
    "contract",
    "coffee",
    "sugar",
    "bakery",
    "winter",
    "snow",
    "ski",
    "garden",
    "rose",
    "bee",
];

/// Rows of six words each, always the same.
fn notes() -> String {
    let mut csv = String::from("id,body\n");
    let mut state = 7_u64;
    for row in 0..ROWS {
        write!(csv, "n{row},").unwrap();
        for word in 0..6 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let at = usize::try_from(state >> 33).unwrap() % WORDS.len();
            write!(csv, "{}{}", if word == 0 { "" } else { " " }, WORDS[at]).unwrap();
        }
        csv.push('\n');
    }
    csv
}

async fn indexed() -> (Daemon, Api) {
    let daemon = Daemon::start();
    let api = daemon.admin();
    api.create("notes", &notes()).await;
    let index = json!({ "name": "idx", "source": "notes", "key": "id", "text": "{body}" });
    api.post("/vectors/index?wait=true", &index).await.ok();
    (daemon, api)
}

async fn eval(api: &Api, name: &str) -> Value {
    let asked = json!({ "index": "idx", "queries": 40, "k": 10, "seed": 1 });
    let path = format!("/vectors/hnsw/evals/{name}/autogen");
    api.post(&path, &asked).await.ok()
}

async fn generation(api: &Api) -> Value {
    api.get("/vectors/indexes/idx").await.ok()["generation"].clone()
}

async fn newest(api: &Api) -> Value {
    list(&api.get("/vectors/hnsw/trials/idx").await.ok()).remove(0)
}

async fn floor(api: &Api, slo: &Value) {
    let path = "/vectors/indexes/idx/slo";
    let set = api.call(Method::PUT, path).json(slo).send().await.ok();
    assert_eq!(set["slo"]["min_recall"], slo["min_recall"], "{set}");
    assert_eq!(api.get(path).await.ok()["slo"], set["slo"]);
}

async fn promote(api: &Api, generation: u64) -> Answer {
    let body = json!({ "generation": generation });
    api.post("/vectors/indexes/idx/promote", &body).await
}

#[tokio::test]
async fn every_trial_is_kept_and_the_best_that_reaches_the_recall_is_told() {
    let (_daemon, api) = indexed().await;
    let drawn = eval(&api, "held").await;
    assert_eq!(drawn["queries"], 40, "{drawn}");
    assert_eq!(drawn["k"], 10, "{drawn}");
    assert!(drawn["brute_force_p50_us"].is_number(), "{drawn}");
    let listed = list(&api.get("/vectors/hnsw/evals").await.ok());
    assert_eq!(listed[0]["eval"], "held", "{listed:?}");

    let mut recalls = Vec::new();
    for ef in [10, 200] {
        let config = json!({ "connectivity": 4, "ef_construction": 16, "ef_search": ef });
        let asked = json!({ "index": "idx", "eval": "held", "config": config, "note": "by hand" });
        let trial = api.post("/vectors/hnsw/trial", &asked).await.ok();
        assert_eq!(trial["config"]["ef_search"], ef, "{trial}");
        assert_eq!(trial["vectors"], ROWS, "{trial}");
        for field in ["p50", "p95", "p99"] {
            let latency = &trial["latency_us"];
            let of = |tail: &Value| tail[field].as_f64().unwrap();
            let (least, most) = (of(&latency["least"]), of(&latency["most"]));
            assert!(least <= of(latency) && of(latency) <= most, "{trial}");
        }
        for field in ["machine", "commit", "at", "id"] {
            assert!(trial[field].is_string(), "{field}: {trial}");
        }
        for field in ["build_s", "memory_bytes"] {
            assert!(trial[field].as_f64().unwrap() > 0.0, "{field}: {trial}");
        }
        recalls.push(trial["recall_at_k"].as_f64().unwrap());
    }
    assert!(recalls[0] < recalls[1], "{recalls:?}");

    let trials = list(&api.get("/vectors/hnsw/trials/idx").await.ok());
    let efs: Vec<&Value> = trials.iter().map(|t| &t["config"]["ef_search"]).collect();
    assert_eq!(efs, [200, 10], "newest first");
    let path = format!(
        "/vectors/hnsw/trials/idx/best?min_recall={}&by=p50",
        recalls[1]
    );
    let best = api.get(&path).await.ok();
    assert_eq!(best["config"]["ef_search"], 200, "{best}");
    let none = api
        .get("/vectors/hnsw/trials/idx/best?min_recall=1.1")
        .await;
    assert_eq!(none.status, 404, "{}", none.text());

    let plot = api.get("/vectors/hnsw/trials/idx/plot.svg").await;
    assert_eq!(plot.status, 200);
    assert!(plot.text().starts_with("<svg"), "{}", plot.text());
    let rows = api.sql("SELECT count(*) FROM system.trials").await.ok();
    assert_eq!(rows["rows"][0][0], 2, "{rows}");
}

#[tokio::test]
async fn a_deletion_that_touches_a_set_ends_it_and_its_bytes_go() {
    let (daemon, api) = indexed().await;
    eval(&api, "held").await;
    let path = "/compliance/erasure/notes/";
    let mut touched = None;
    for row in 0..ROWS {
        let places = api.get(&format!("{path}n{row}")).await.ok()["places"].clone();
        let sets = list(&places)
            .into_iter()
            .find(|place| place["place"] == "evaluation_sets")
            .unwrap();
        assert_eq!(sets["checked"], 1, "{sets}");
        if sets["state"] == "present" {
            touched = Some(format!("n{row}"));
            break;
        }
    }
    let key = touched.expect("some row is near one of forty queries");
    let delete = json!({ "row_keys": [key], "reason": "asked for" });
    api.post("/catalog/datasets/notes/tombstone", &delete)
        .await
        .ok();
    let refused = api
        .post(
            "/vectors/hnsw/trial",
            &json!({ "index": "idx", "eval": "held" }),
        )
        .await;
    assert!([404, 422].contains(&refused.status), "{}", refused.text());
    until("the row to be erased", || async {
        let told = api.get(&format!("{path}{key}")).await.ok();
        (told["erased"] == true).then_some(())
    })
    .await;
    assert!(list(&api.get("/vectors/hnsw/evals").await.ok()).is_empty());
    let files = walk(&daemon.site().data_dir().join("buckets"));
    let left: Vec<_> = files
        .iter()
        .filter(|file| file.ends_with("eval.json"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

fn walk(dir: &std::path::Path) -> Vec<String> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(walk(&path));
        } else {
            files.push(path.display().to_string());
        }
    }
    files
}

#[tokio::test]
async fn a_generation_that_misses_what_it_must_reach_is_refused_while_searches_go_on() {
    let (_daemon, api) = indexed().await;
    eval(&api, "held").await;
    floor(&api, &json!({ "min_recall": 0.95 })).await;

    let stop = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicU64::new(0));
    let clients: Vec<_> = (0..8)
        .map(|client| {
            let (api, stop, answered) = (api.clone(), Arc::clone(&stop), Arc::clone(&answered));
            tokio::spawn(async move {
                let body = json!({ "index": "idx", "query": WORDS[client], "k": 10 });
                while !stop.load(Ordering::SeqCst) {
                    let answer = api.post("/vectors/search", &body).await.ok();
                    assert_eq!(list(&answer["hits"]).len(), 10, "{answer}");
                    answered.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();

    let bad = json!({ "config": { "connectivity": 2, "ef_construction": 4, "ef_search": 10 } });
    let path = "/vectors/indexes/idx/generations?wait=true";
    api.post(path, &bad).await.ok();
    assert_eq!(generation(&api).await, 1);
    let shown = api.get("/vectors/indexes/idx").await.ok();
    let error = shown["error"].as_str().unwrap();
    assert!(error.contains("min_recall"), "{shown}");
    assert!(newest(&api).await["refused"].is_string());

    let good = json!({ "config": { "connectivity": 24, "quantization": "i8" } });
    api.post(path, &good).await.ok();
    assert_eq!(generation(&api).await, 2);
    let shown = api.get("/vectors/indexes/idx").await.ok();
    assert_eq!(shown["config"]["connectivity"], 24, "{shown}");
    let recall = shown["generations"][1]["recall"].as_f64();
    assert!(recall.unwrap() >= 0.95, "{shown}");
    for _ in 0..5 {
        api.post("/vectors/indexes/idx/rollback", &json!({}))
            .await
            .ok();
        assert_eq!(generation(&api).await, 1);
        promote(&api, 2).await.ok();
        assert_eq!(generation(&api).await, 2);
    }

    // No search takes no time: what was never measured is, before it may answer.
    floor(&api, &json!({ "min_recall": 0.5, "max_p99_us": 0 })).await;
    promote(&api, 1).await.problem_code(409, "floor_missed");
    let failed = newest(&api).await;
    assert_eq!(failed["generation"], 1, "{failed}");
    assert!(failed["refused"].is_string(), "{failed}");
    assert_eq!(generation(&api).await, 2);
    stop.store(true, Ordering::SeqCst);
    for client in clients {
        client.await.expect("no search failed");
    }
    assert!(answered.load(Ordering::SeqCst) > 0);
}

#[tokio::test]
async fn tuning_finds_a_configuration_within_its_budget_and_promotes_it() {
    let (_daemon, api) = indexed().await;
    let asked = json!({
        "index": "idx", "min_recall": 0.9, "promote": true,
        "budget": { "trials": 6, "seconds": 600 },
    });
    let job = api.post("/vectors/hnsw/tune", &asked).await;
    assert_eq!(job.status, 202, "{}", job.text());
    let path = format!("/jobs/{}", job.ok()["job"].as_str().unwrap());
    let job = until("the tuning to end", || async {
        let job = api.get(&path).await.ok();
        assert_ne!(job["state"], "failed", "{job}");
        (job["state"] == "done").then_some(job)
    })
    .await;
    let result = &job["result"];
    assert!(
        result["best"]["recall_at_k"].as_f64().unwrap() >= 0.9,
        "{job}"
    );
    assert_eq!(result["promoted"], true, "{job}");
    let tried = result["trials"].as_u64().unwrap();
    assert!((1..=6).contains(&tried), "{job}");
    let trials = list(&api.get("/vectors/hnsw/trials/idx").await.ok());
    assert_eq!(trials.len() as u64, tried, "{trials:?}");
    let shown = api.get("/vectors/indexes/idx").await.ok();
    assert_eq!(shown["config"], result["best"]["config"], "{shown}");
}

#[tokio::test]
async fn a_profile_loads_its_indexes_and_lets_go_of_the_others() {
    let (_daemon, api) = indexed().await;
    let other = json!({ "name": "other", "source": "notes", "key": "id", "text": "{body}" });
    api.post("/vectors/index?wait=true", &other).await.ok();
    for index in ["idx", "other"] {
        let body = json!({ "index": index, "query": "cat" });
        api.post("/vectors/search", &body).await.ok();
    }
    let profile = json!({ "id": "search", "indexes": ["idx"], "views": ["notes"] });
    api.post("/profiles", &profile).await.ok();
    let active = api.post("/profiles/search/activate", &json!({})).await.ok();
    assert_eq!(active["loaded"][0]["index"], "idx", "{active}");
    assert_eq!(active["released"], json!(["other"]), "{active}");
    let listed = list(&api.get("/profiles").await.ok());
    assert_eq!(listed[0]["active"], true, "{listed:?}");
    for (field, name) in [("indexes", "nothing"), ("views", "no"), ("tools", "no")] {
        let unknown = json!({ "id": "x", field: [name] });
        assert_eq!(api.post("/profiles", &unknown).await.status, 404, "{field}");
    }

    let agent = json!({ "name": "bot", "role": "agent" });
    let agent = api.with_token(&agent).await;
    for path in ["/profiles", "/profiles/search/activate"] {
        assert_eq!(agent.post(path, &profile).await.status, 403, "{path}");
    }
}

#[tokio::test]
async fn the_active_profile_says_what_is_not_asked_for() {
    let (_daemon, api) = indexed().await;
    let view = json!({ "name": "safe", "base_dataset": "notes", "columns": ["id"] });
    api.post("/catalog/views", &view).await.ok();
    let profile = json!({
        "id": "wide", "views": ["safe", "notes"],
        "hnsw_config": { "connectivity": 24, "ef_search": 90 },
    });
    api.post("/profiles", &profile).await.ok();
    api.post("/profiles/wide/activate", &json!({})).await.ok();
    for (name, asked, connectivity) in [
        ("by_profile", json!({}), 24),
        ("by_hand", json!({ "connectivity": 8 }), 8),
    ] {
        let index = json!({ "name": name, "source": "notes", "key": "id", "text": "{body}", "config": asked });
        let built = api.post("/vectors/index?wait=true", &index).await.ok();
        let config = &built["built"]["config"];
        assert_eq!(config["connectivity"], connectivity, "{built}");
        assert_eq!(config["ef_search"], 90, "{built}");
    }

    let token = json!({ "name": "bot", "role": "agent", "profile": "wide" });
    let bot = api.with_token(&token).await;
    let views = list(&bot.get("/catalog/views").await.ok());
    assert_eq!(views.len(), 1, "a dataset is no view: {views:?}");
    let token = json!({ "name": "op", "role": "operator", "profile": "wide" });
    api.post("/auth/tokens", &token).await.problem(422);
    let token = json!({ "name": "x", "role": "agent", "profile": "nothing" });
    api.post("/auth/tokens", &token).await.problem(404);
}

#[tokio::test]
async fn what_was_measured_is_for_readers_of_the_rows() {
    let (_daemon, api) = indexed().await;
    eval(&api, "held").await;
    let trial = json!({ "index": "idx", "eval": "held", "repeats": 1 });
    api.post("/vectors/hnsw/trial", &trial).await.ok();
    let role = async |role: &str| {
        let token = json!({ "name": format!("the_{role}"), "role": role });
        api.with_token(&token).await
    };
    let (operator, analyst) = (role("operator").await, role("analyst").await);
    let (agent, auditor) = (role("agent").await, role("auditor").await);
    let paths = ["", "/best?min_recall=0", "/plot.svg"];
    let paths = paths.map(|path| format!("/vectors/hnsw/trials/idx{path}"));
    for path in &paths {
        assert_eq!(analyst.get(path).await.status, 200, "{path}");
    }

    // What an analyst does not see as it is now lies in the index.
    let classes = json!({ "sensitivity": { "body": "pii" } });
    api.patch("/catalog/datasets/notes", &classes).await.ok();
    for path in &paths {
        let denied = analyst.get(path).await;
        denied.problem_code(403, "index_denied");
        for other in [&agent, &auditor] {
            assert_eq!(other.get(path).await.status, 403, "{path}");
        }
        assert_eq!(operator.get(path).await.status, 200, "{path}");
    }
    let evals = async |api: &Api| list(&api.get("/vectors/hnsw/evals").await.ok()).len();
    assert_eq!((evals(&analyst).await, evals(&operator).await), (0, 1));
    let recall = async |api: &Api| {
        let shown = api.get("/vectors/indexes/idx").await.ok();
        shown["generations"][0]["recall"].clone()
    };
    assert_eq!(recall(&auditor).await, Value::Null);
    let rows = "SELECT count(*) FROM system.trials";
    assert_eq!(auditor.cell(rows).await, 0);
    assert_eq!(api.cell(rows).await, 1);

    // Nor may an operator measure what only an admin sees.
    let classes = json!({ "sensitivity": { "body": "secret" } });
    api.patch("/catalog/datasets/notes", &classes).await.ok();
    let autogen = json!({ "index": "idx" });
    for (path, body) in [
        ("/vectors/hnsw/evals/more/autogen", &autogen),
        ("/vectors/hnsw/trial", &trial),
        ("/vectors/hnsw/tune", &autogen),
    ] {
        let denied = operator.post(path, body).await;
        denied.problem_code(403, "index_denied");
    }
    api.get(&paths[0]).await.ok();
}

#[tokio::test]
async fn a_query_is_embedded_once_and_the_cache_tells_so() {
    let (_daemon, api) = indexed().await;
    for _ in 0..3 {
        let body = json!({ "index": "idx", "query": "a cat on a boat" });
        api.post("/vectors/search", &body).await.ok();
    }
    let stats = api.get("/vectors/hnsw/cache/stats").await.ok();
    assert_eq!(stats["entries"], 1, "{stats}");
    assert_eq!(stats["hits"], 2, "{stats}");
    assert_eq!(stats["misses"], 1, "{stats}");
    assert!(
        stats["bytes"].as_u64() <= stats["capacity_bytes"].as_u64(),
        "{stats}"
    );
}
