//! random queries against a plain model, over deltas, deletions, erasures and compactions that go
//! on meanwhile. Whatever the files look like, an answer is what the rows say.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::support::api::Api;
use crate::support::daemon::Daemon;
use crate::support::number_from_env;

/// A small generator: the same life for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, end: i64) -> i64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        i64::try_from(self.0 >> 1).unwrap() % end
    }
}

/// id → (group, amount).
type Model = BTreeMap<i64, (i64, i64)>;

fn rows(random: &mut Random, model: &mut Model, first: i64, count: i64) -> String {
    let mut csv = String::from("id,grp,amount\n");
    for id in first..first + count {
        let (group, amount) = (random.below(7), random.below(1_000));
        writeln!(csv, "{id},{group},{amount}").unwrap();
        model.insert(id, (group, amount));
    }
    csv
}

/// A random query with its answer.
fn query(random: &mut Random, model: &Model) -> (String, Value) {
    let (low, group) = (random.below(1_000), random.below(7));
    let (from, to) = (random.below(3_000), random.below(3_000));
    let all = model.iter();
    match random.below(6) {
        0 => ("SELECT count(*) FROM t".to_owned(), json!([[model.len()]])),
        1 => {
            let sum: i64 = all
                .filter(|(_, row)| row.1 >= low)
                .map(|(_, row)| row.1)
                .sum();
            let sql = format!("SELECT coalesce(sum(amount), 0) FROM t WHERE amount >= {low}");
            (sql, json!([[sum]]))
        }
        2 => {
            let row = model.get(&from);
            let sql = format!("SELECT grp, amount FROM t WHERE id = {from}");
            (
                sql,
                json!(
                    row.map(|row| vec![row.0, row.1])
                        .into_iter()
                        .collect::<Vec<_>>()
                ),
            )
        }
        3 => {
            let mut groups = BTreeMap::new();
            for (_, row) in all {
                *groups.entry(row.0).or_insert(0) += 1;
            }
            let sql = "SELECT grp, count(*) FROM t GROUP BY grp ORDER BY grp".to_owned();
            (sql, json!(groups.into_iter().collect::<Vec<_>>()))
        }
        4 => {
            let ids = all
                .filter(|(_, row)| row.0 == group)
                .map(|(id, _)| vec![*id]);
            let sql = format!("SELECT id FROM t WHERE grp = {group} ORDER BY id DESC LIMIT 5");
            (sql, json!(ids.rev().take(5).collect::<Vec<_>>()))
        }
        _ => {
            let (from, to) = (from.min(to), from.max(to));
            let within = all.filter(|(id, _)| (from..=to).contains(*id)).count();
            let sql = format!("SELECT count(*) FROM t WHERE id BETWEEN {from} AND {to}");
            (sql, json!([[within]]))
        }
    }
}

/// Merges and erases as long as it is told to.
async fn housekeeping(api: Api, ended: Arc<AtomicBool>) -> u64 {
    let mut rounds = 0;
    while !ended.load(Ordering::Relaxed) {
        api.post("/catalog/datasets/t/compact", &json!({}))
            .await
            .ok();
        if rounds % 3 == 0 {
            api.post("/compliance/erasure/t", &json!({})).await.ok();
        }
        rounds += 1;
    }
    rounds
}

#[tokio::test]
async fn random_queries_are_answered_as_the_rows_say_whatever_goes_on() {
    let queries = number_from_env("LAKEHOUSE_Q10_QUERIES", 600);
    let seed = number_from_env("LAKEHOUSE_Q10_SEED", 20_261_122);
    let retention = number_from_env("LAKEHOUSE_Q10_RETENTION_S", 2).to_string();
    let env = [
        ("LAKEHOUSE__ERASURE__DELAY_S", "0"),
        ("LAKEHOUSE__ERASURE__QUERY_DEADLINE_S", "5"),
        // Old files go while queries run, too.
        ("LAKEHOUSE__STORAGE__RETENTION_S", retention.as_str()),
    ];
    let daemon = Daemon::start_with(&env);
    let api = daemon.admin();
    let (mut random, mut model) = (Random(seed), Model::new());
    api.create("t", &rows(&mut random, &mut model, 0, 2_000))
        .await;
    let admit = json!({ "erased_keys": "admit" });
    api.patch("/catalog/datasets/t", &admit).await.ok();
    let ended = Arc::new(AtomicBool::new(false));
    let beside = tokio::spawn(housekeeping(daemon.admin(), Arc::clone(&ended)));
    for number in 0..queries {
        if number % 4 == 0 {
            let (first, count) = (random.below(2_900), 1 + random.below(60));
            if random.below(2) == 0 {
                let csv = rows(&mut random, &mut model, first, count);
                api.ingest("dataset=t&mode=upsert", "text/csv", csv)
                    .await
                    .ok();
            } else {
                let gone: Vec<i64> = model
                    .range(first..first + count)
                    .map(|(id, _)| *id)
                    .collect();
                if !gone.is_empty() {
                    let body = json!({ "row_keys": gone, "reason": "model" });
                    api.post("/catalog/datasets/t/tombstone", &body).await.ok();
                }
                model.retain(|id, _| !gone.contains(id));
            }
        }
        let (sql, expected) = query(&mut random, &model);
        let answer = api.sql(&sql).await.ok();
        assert_eq!(
            answer["rows"], expected,
            "seed {seed}, query {number}: {sql}"
        );
    }
    ended.store(true, Ordering::Relaxed);
    let rounds = beside.await.unwrap();
    eprintln!("Q-10: {queries} queries beside {rounds} compactions, 0 mismatches, seed {seed}");
    assert!(rounds > 0);
}
