//! G-01: rows are deleted for good one after the other under readers of every kind; what is asked after
//! a deletion was acknowledged never shows its row.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parquet::file::reader::{FileReader as _, SerializedFileReader};
use reqwest::Method;
use serde_json::{Value, json};

use crate::erasure::AT_ONCE;
use crate::support::api::Api;
use crate::support::daemon::Daemon;
use crate::support::number_from_env;

/// Rows that stay.
const OTHERS: u64 = 500;

/// How far the deletions are, and who looks.
struct Run {
    api: Api,
    /// Rows below this are deleted and acknowledged.
    acknowledged: AtomicU64,
    ended: AtomicBool,
    /// A position before the first deletion.
    before: u64,
    reads: AtomicU64,
}

/// The numbers of the rows whose canary stands in a text.
fn rows_in(text: &str) -> Vec<u64> {
    let parts = text.split("canary").skip(1);
    let number = |part: &str| part.split_once("end")?.0.parse().ok();
    parts.filter_map(number).collect()
}

/// The rows of a Parquet file, whatever deletion vectors say.
fn decoded(bytes: &bytes::Bytes) -> String {
    let reader = SerializedFileReader::new(bytes.clone()).unwrap();
    let rows = reader.get_row_iter(None).unwrap();
    rows.map(|row| row.unwrap().to_string()).collect()
}

impl Run {
    /// Reads by `ask` until the end; no row may come that was gone when it was asked.
    async fn look<F: Future<Output = String>>(&self, what: &str, mut ask: impl FnMut(u64) -> F) {
        while !self.ended.load(Ordering::SeqCst) {
            let gone = self.acknowledged.load(Ordering::SeqCst);
            let text = ask(gone).await;
            let shown: Vec<u64> = rows_in(&text)
                .into_iter()
                .filter(|row| *row < gone)
                .collect();
            assert!(
                shown.is_empty(),
                "{what} shows {shown:?}, {gone} were deleted"
            );
            self.reads.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn sql(&self, body: Value, accept: &str) -> String {
        let call = self
            .api
            .call(Method::POST, "/query/sql")
            .header("accept", accept);
        let answer = call.json(&body).send().await;
        assert!(answer.is_ok() || answer.status == 503, "{}", answer.text());
        answer.text()
    }

    async fn get(&self, path: String, allowed: &[u16]) -> String {
        let answer = self.api.get(&path).await;
        assert!(
            allowed.contains(&answer.status),
            "{path}: {}",
            answer.text()
        );
        answer.text()
    }

    async fn search(&self, exact: bool) -> String {
        let body = json!({ "index": "idx", "query": "a letter about the garden", "k": 50,
            "columns": ["body"], "exact": exact });
        let answer = self.api.post("/vectors/search", &body).await;
        assert!(answer.is_ok() || answer.status == 503, "{}", answer.text());
        answer.text()
    }

    /// Every object of the dataset and the index, as bytes and as rows.
    async fn objects(&self) -> String {
        for prefix in ["datasets", "vectors"] {
            let path = format!("/storage/buckets/primary/objects?prefix={prefix}");
            let listed = self.api.get(&path).await.ok();
            for object in listed.as_array().unwrap() {
                let key = object["key"].as_str().unwrap();
                let asked = self.acknowledged.load(Ordering::SeqCst);
                let object = self
                    .api
                    .get(&format!("/storage/buckets/primary/objects/{key}"))
                    .await;
                if object.status != 200 {
                    assert!(
                        [404, 409].contains(&object.status),
                        "{key}: {}",
                        object.text()
                    );
                    continue;
                }
                let mut content = object.text();
                if content.starts_with("PAR1") && !key.ends_with("_tombstones.parquet") {
                    content.push_str(&decoded(&object.body));
                }
                let shown: Vec<u64> = rows_in(&content)
                    .into_iter()
                    .filter(|row| *row < asked)
                    .collect();
                assert!(shown.is_empty(), "object {key} holds {shown:?}");
            }
        }
        // Each object was held against what was deleted when it was asked for.
        String::new()
    }

    async fn delete(&self, rows: u64) {
        for row in 0..rows {
            let done = self
                .api
                .tombstone("t", &[&row.to_string()], "asked")
                .await
                .ok();
            assert_eq!(done["tombstoned"], 1, "row {row}");
            self.acknowledged.store(row + 1, Ordering::SeqCst);
            if row % 8 == 0 {
                self.api
                    .post("/catalog/datasets/t/compact", &json!({}))
                    .await;
            }
            if row % 16 == 5 {
                self.api.post("/vectors/refresh/t", &json!({})).await;
            }
        }
        self.ended.store(true, Ordering::SeqCst);
    }
}

async fn prepared(rows: u64) -> (Daemon, Run) {
    let daemon = Daemon::start_with(&AT_ONCE);
    let api = daemon.admin();
    let text = |id: u64| format!("{id},a letter about the garden and canary{id}end\n");
    let csv = |ids: std::ops::Range<u64>| {
        let rows: String = ids.map(text).collect();
        format!("id,body\n{rows}")
    };
    api.create("t", &csv(0..rows / 2)).await;
    let append = "dataset=t&mode=append";
    api.ingest(append, "text/csv", csv(rows / 2..rows + OTHERS))
        .await
        .ok();
    let index =
        json!({ "name": "idx", "source": "t", "key": "id", "text": "{body}", "backend": "hnsw" });
    api.post("/vectors/index?wait=true", &index).await.ok();
    let before = api.seq().await;
    // An older copy of every row, in files that are kept for the past.
    api.ingest("dataset=t&mode=upsert", "text/csv", csv(0..rows))
        .await
        .ok();
    api.post("/catalog/datasets/t/compact", &json!({}))
        .await
        .ok();
    let run = Run {
        api,
        acknowledged: AtomicU64::new(0),
        ended: AtomicBool::new(false),
        before,
        reads: AtomicU64::new(0),
    };
    (daemon, run)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_after_a_deletion_was_acknowledged_never_shows_its_row() {
    let rows = number_from_env("LAKEHOUSE_VISIBLE_ROWS", 48);
    let (_daemon, run) = prepared(rows).await;
    let all = json!({ "sql": "SELECT * FROM t" });
    let past = json!({ "sql": "SELECT body FROM t", "as_of": run.before });
    let one = |gone: u64| json!({ "sql": "SELECT * FROM t WHERE id = $1", "params": [gone.saturating_sub(1)] });
    let first = json!({ "sql": "SELECT min(body), count(*), min(id) FROM t" });
    let row = |gone: u64| format!("/vectors/indexes/idx/rows/{}", gone.saturating_sub(1));
    let history = |gone: u64| format!("/journal/history/{}?dataset=t", gone.saturating_sub(1));
    let json = "application/json";
    futures::join!(
        run.delete(rows),
        run.look("SQL", |_| run.sql(all.clone(), json)),
        run.look("an aggregate", |_| run.sql(first.clone(), json)),
        run.look("a row by key", |gone| run.sql(one(gone), json)),
        run.look("the past", |_| run.sql(past.clone(), json)),
        run.look("an export", |_| run.sql(all.clone(), "text/csv")),
        run.look("a search", |gone| run.search(gone % 2 == 0)),
        run.look("a vector by key", |gone| run.get(row(gone), &[200, 404])),
        run.look("the history", |gone| run.get(history(gone), &[200])),
        run.look("an object", |_| run.objects()),
    );
    let reads = run.reads.load(Ordering::Relaxed);
    eprintln!(
        "G-01: {rows} rows deleted under 9 readers, {reads} reads, 0 of a row after its deletion"
    );
    let left = run.api.cell("SELECT count(*) FROM t").await;
    assert_eq!(left, OTHERS);
}
