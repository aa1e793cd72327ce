//! The files of an index under attack: builds that are killed at any moment, and bytes that are flipped.
//! What answers is a generation as it was built, or nothing; what is damaged is built anew.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::api::Api;
use crate::support::daemon::{Daemon, Site};
use crate::support::scan::files;
use crate::support::{number_from_env, until};

const ROWS: u64 = 3_000;
const WORDS: [&str; 8] = [
    "garden", "river", "music", "winter", "bread", "letter", "horse", "window",
];

fn text(id: u64) -> String {
    let word = |by: u64| WORDS[usize::try_from(id / by % 8).unwrap()];
    format!("{} {} {} number {id}", word(1), word(8), word(64))
}

async fn indexed() -> Daemon {
    let daemon = Daemon::start();
    let api = daemon.admin();
    let mut csv = String::from("id,note\n");
    for id in 0..ROWS {
        writeln!(csv, "{id},{}", text(id)).unwrap();
    }
    api.create("notes", &csv).await;
    let index = json!({ "name": "kb", "source": "notes", "key": "id", "text": "{note}", "backend": "hnsw" });
    api.post("/vectors/index?wait=true", &index).await.ok();
    daemon
}

/// Asks by words too, whose files are opened when they are first needed.
fn asked_by_words() -> Value {
    json!({ "index": "kb", "query": "horse music winter garden", "k": 20, "mode": "hybrid" })
}

fn asked(exact: bool) -> Value {
    json!({ "index": "kb", "query": "horse music in the winter garden", "k": 20, "exact": exact })
}

fn keys(answer: &Value) -> Vec<String> {
    let hits = answer["hits"].as_array().unwrap().iter();
    hits.map(|hit| hit["key"].as_str().unwrap().to_owned())
        .collect()
}

/// The approximate and the exact answer of one generation, and which it is.
async fn both(api: &Api) -> (Vec<String>, Vec<String>, u64) {
    loop {
        let quick = api.post("/vectors/search", &asked(false)).await.ok();
        let exact = api.post("/vectors/search", &asked(true)).await.ok();
        if quick["generation"] == exact["generation"] {
            let generation = exact["generation"].as_u64().unwrap();
            return (keys(&quick), keys(&exact), generation);
        }
    }
}

/// O-09, killed builds. `LAKEHOUSE_BUILD_KILLS=50` is the whole figure.
#[tokio::test]
async fn a_build_that_is_killed_at_any_moment_leaves_the_last_whole_generation_answering() {
    let rounds = number_from_env("LAKEHOUSE_BUILD_KILLS", 4);
    let mut daemon = indexed().await;
    for round in 0..rounds {
        let api = daemon.admin();
        let id = ROWS + round;
        let row = format!("id,note\n{id},{}\n", text(id));
        api.ingest("dataset=notes&mode=append", "text/csv", row)
            .await
            .ok();
        let refreshing = api.call(Method::POST, "/vectors/refresh/notes");
        let refreshing = tokio::spawn(async move { refreshing.try_send().await.is_ok() });
        tokio::time::sleep(Duration::from_millis(round * 61 % 700)).await;
        daemon = daemon.crash_and_restart();
        refreshing.abort();
        let (quick, exact, _) = both(&daemon.admin()).await;
        assert_eq!(quick.len(), 20, "round {round}");
        let found = exact.iter().filter(|key| quick.contains(key)).count();
        assert!(found >= 19, "round {round}: {quick:?} beside {exact:?}");
    }
    let api = daemon.admin();
    api.post("/vectors/refresh/notes", &json!({})).await.ok();
    let last = ROWS + rounds - 1;
    api.get(&format!("/vectors/indexes/kb/rows/{last}"))
        .await
        .ok();
    let verified = api.post("/journal/verify", &json!({})).await.ok();
    assert_eq!(verified["ok"], true, "{verified}");
}

/// The files of a generation in its bucket that searches load: not its rows as other engines read them.
fn index_files(site: &Site, generation: u64) -> Vec<PathBuf> {
    let all = files(&site.data_dir().join("buckets/primary/vectors/kb"));
    let folder = format!("{generation}-");
    let is_of_it = |path: &PathBuf| {
        let mut parts = path.components();
        parts.any(|part| part.as_os_str().to_string_lossy().starts_with(&folder))
    };
    let is_loaded = |path: &PathBuf| !path.ends_with("vectors.parquet");
    let all = all.into_iter().filter(is_of_it).filter(is_loaded);
    let mut all: Vec<PathBuf> = all.collect();
    all.sort();
    all
}

/// F-04 and O-09, damaged files. `LAKEHOUSE_FLIPPED_BYTES=50` is the whole figure.
#[tokio::test]
async fn a_flipped_byte_in_an_index_file_is_never_loaded_and_the_index_is_built_anew() {
    let rounds = number_from_env("LAKEHOUSE_FLIPPED_BYTES", 4);
    let mut daemon = indexed().await;
    let mut random = 20_261_128_u64;
    let mut below = |most: usize| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(random >> 33).unwrap() % most
    };
    for round in 0..rounds {
        let (_, expected, generation) = both(&daemon.admin()).await;
        let site = daemon.kill9();
        let all = index_files(&site, generation);
        let damaged = &all[below(all.len())];
        let mut bytes = std::fs::read(damaged).unwrap();
        let at = below(bytes.len());
        bytes[at] ^= 1 << below(8);
        std::fs::write(damaged, bytes).unwrap();
        daemon = Daemon::start_at(site);
        let api = daemon.admin();
        let refused = api.post("/vectors/search", &asked_by_words()).await;
        assert!(!refused.is_ok(), "round {round}: {damaged:?} was loaded");
        refused.problem_code(503, "index_rebuilding");
        until("the index is built anew", || async {
            let answer = api.post("/vectors/search", &asked_by_words()).await;
            answer.is_ok().then_some(())
        })
        .await;
        let (_, found, rebuilt) = both(&api).await;
        assert!(rebuilt > generation, "round {round}");
        assert_eq!(found, expected, "round {round}");
    }
}
