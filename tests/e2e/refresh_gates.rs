//! The gates of refreshing, as they are written: a `PostgreSQL` table that grows, and a daemon that is
//! killed again and again.

use std::time::Duration;

use lakehouse::engines::embedder::standin::StandIn;
use serde_json::{Value, json};

use crate::postgres::server::TestServer;
use crate::refresh_providers::{append, beside, indexed, refresh, rows};
use crate::support::api::{Api, list};
use crate::support::daemon::Daemon;
use crate::support::{number_from_env, until};

const DATABASE: &str = "postgres";
/// Texts of a call, unless the configuration says otherwise.
const BATCH: u64 = 64;

fn grow(server: &TestServer, first: u32, last: u32) {
    let sql = format!(
        "INSERT INTO kb_team_runs SELECT g, 'team ' || g % 7, 'agent ' || g % 11, \
         'run number ' || g || ' of the nightly build', \
         'it compiled ' || g || ' files and wrote a report about step ' || g % 97, \
         g % 5, g * 1.5, g % 2 = 0, now(), now(), 'main', md5(g::text), g % 13 \
         FROM generate_series({first}, {last}) g"
    );
    server.sql(DATABASE, &sql);
}

async fn vector(api: &Api, key: u32) -> Value {
    let path = format!("/vectors/indexes/kb/rows/{key}");
    api.get(&path).await.ok()
}

/// The seed's gate: 586 rows embedded, 1,000 appended, and a refresh embeds exactly those.
#[tokio::test]
async fn a_refresh_after_a_thousand_new_rows_embeds_exactly_a_thousand() {
    let postgres = TestServer::start(&[]);
    postgres.sql(
        DATABASE,
        "CREATE TABLE kb_team_runs (id int PRIMARY KEY, team text, agent text, title text, body text, \
         retries int, seconds float8, passed bool, started timestamptz, ended timestamptz, \
         branch text, commit text, priority int)",
    );
    grow(&postgres, 1, 586);
    let counting = StandIn::start(64).unwrap();
    let daemon = beside(&counting, &[]);
    let api = daemon.admin();
    let ingest = json!({ "dsn": postgres.dsn(DATABASE), "table": "kb_team_runs",
        "dataset": "kb_team_runs", "key": "id", "since": "id", "mode": "upsert" });
    let create = json!({ "dsn": postgres.dsn(DATABASE), "table": "kb_team_runs",
        "dataset": "kb_team_runs", "key": "id", "since": "id" });
    let taken = api.post("/ingest/db", &create).await.ok();
    assert_eq!(
        (&taken["rows"], &taken["columns"]),
        (&json!(586), &json!(13)),
        "{taken}"
    );
    let index = json!({ "name": "kb", "source": "kb_team_runs", "key": "id",
        "text": "{title}. {body}", "provider": "ollama", "model": "counting" });
    api.post("/vectors/index?wait=true", &index).await.ok();
    let mut before = Vec::new();
    for key in 1..=586 {
        before.push(vector(&api, key).await);
    }
    counting.forget();

    grow(&postgres, 587, 1_586);
    let taken = api.post("/ingest/db", &ingest).await.ok();
    // The row at the watermark comes again, as it is.
    assert_eq!(taken["rows"], 1_001, "{taken}");
    assert!(taken["embedding_stale_since"].is_string(), "{taken}");
    let manifest = api.get("/catalog/datasets/kb_team_runs").await.ok();
    assert!(manifest["embedding_stale_since"].is_string(), "{manifest}");
    let stale = list(&api.get("/vectors/stale").await.ok());
    assert_eq!(stale[0]["rows_to_embed"], 1_001, "{stale:?}");
    let done = api
        .post("/vectors/refresh/kb_team_runs", &json!({}))
        .await
        .ok();
    assert_eq!(done["embedded"], 1_000, "{done}");
    assert_eq!(done["unchanged"], 586, "{done}");
    assert_eq!(counting.texts(), 1_000, "the counting provider says so");

    for (key, before) in (1..=586).zip(before) {
        assert_eq!(vector(&api, key).await, before, "bit for bit");
    }
    let query = "run number 1500 of the nightly build. it compiled 1500 files";
    let search = json!({ "index": "kb", "query": query, "k": 5, "filter": "id > 586" });
    let found = api.post("/vectors/search", &search).await.ok();
    assert_eq!(
        list(&found["hits"]).len(),
        5,
        "new rows are searchable: {found}"
    );
    let manifest = api.get("/catalog/datasets/kb_team_runs").await.ok();
    assert!(manifest["embedding_stale_since"].is_null(), "{manifest}");
}

/// A refresh that is killed: none lost, none doubled, at most a batch paid twice a kill.
/// `LAKEHOUSE_REFRESH_KILLS=20 LAKEHOUSE_REFRESH_ROWS=20000` is the gate; a plain run makes less of both.
#[tokio::test]
async fn a_refresh_that_is_killed_again_and_again_pays_for_nothing_twice() {
    let kills = number_from_env("LAKEHOUSE_REFRESH_KILLS", 3);
    let rows_to_add = usize::try_from(number_from_env("LAKEHOUSE_REFRESH_ROWS", 4_000)).unwrap();
    let all = 100 + rows_to_add;
    let counting = StandIn::start(16).unwrap();
    let mut daemon = beside(&counting, &[]);
    let api = daemon.admin();
    indexed(&api, &rows(0, 100)).await;
    append(&api, rows(100, all)).await;
    counting.forget();
    counting.pace(Duration::from_millis(4));
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = seed;
    let mut made = 0;
    let mut met = 0;
    while made < kills {
        if made == 0 {
            let api = daemon.admin();
            tokio::spawn(async move { api.post("/vectors/refresh/d", &json!({})).await });
        }
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        // After the first it goes on by itself: a few more batches, then again.
        let share = (random >> 33) % (rows_to_add as u64 / BATCH / (kills + 1)).max(2);
        let until_calls = counting.calls() + share + 1;
        let ended = wait_for_calls(&counting, until_calls).await;
        met += u64::from(!ended);
        daemon = Daemon::start_at(daemon.kill9());
        made += 1;
    }
    let api = daemon.admin();
    until("fresh", || async {
        list(&api.get("/vectors/stale").await.ok())
            .is_empty()
            .then_some(())
    })
    .await;
    assert!(met > 0, "no kill met a refresh");
    let sent = counting.sent();
    assert!(sent.len() >= rows_to_add, "{} texts", sent.len());
    let twice: u64 = sent.values().map(|times| times - 1).sum();
    assert!(
        twice <= kills * BATCH,
        "{twice} texts paid twice by {kills} kills"
    );
    println!("{kills} kills met {met} refreshes, {twice} texts were paid twice");
    let mut found = 0;
    for first in (0..all).step_by(4_000) {
        let last = first + 4_000;
        let filter = format!("CAST(id AS INT) >= {first} AND CAST(id AS INT) < {last}");
        let body = json!({ "index": "idx", "query": "garden", "k": 10_000, "filter": filter });
        let hits = list(&api.post("/vectors/search", &body).await.ok()["hits"]);
        let mut keys: Vec<&str> = hits
            .iter()
            .map(|hit| hit["key"].as_str().unwrap())
            .collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), hits.len(), "none doubled");
        found += keys.len();
    }
    assert_eq!(found, all, "none lost");
    let verified = api.post("/journal/verify", &json!({})).await.ok();
    assert_eq!(verified["ok"], true, "{verified}");
    assert_eq!(refresh(&api).await["embedded"], 0);
}

/// Waits until the server has had so many calls; true when no more come.
async fn wait_for_calls(server: &StandIn, calls: u64) -> bool {
    let mut last = (server.calls(), std::time::Instant::now());
    loop {
        let now = server.calls();
        if now >= calls {
            return false;
        }
        if now > last.0 {
            last = (now, std::time::Instant::now());
        } else if last.1.elapsed() > Duration::from_secs(3) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
