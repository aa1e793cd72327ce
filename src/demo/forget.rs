//! Deletion for good: a row gets a tombstone, is gone from SQL and from search at once, and the
//! journal says who did it, when and why.

use serde_json::{Value, json};

use super::{
    DemoError, Doing as _,
    answers::{self, SEARCHES},
    load::KNOWLEDGE,
};
use crate::{
    cli::{
        client::{Client, items},
        output,
    },
    engines::receipts,
};

/// The event of a tombstone.
const TOMBSTONED: &str = "RowsTombstoned";

/// A row that was deleted.
#[derive(Debug)]
pub(super) struct Forgotten {
    /// The dataset that had it.
    pub(super) dataset: &'static str,
    /// Its key.
    pub(super) key: String,
    /// What it was, for a person.
    pub(super) what: String,
    /// Why it went.
    reason: &'static str,
    /// The event that says so.
    seq: Value,
}

impl Forgotten {
    /// Puts the tombstone and checks that SQL no longer finds the row.
    pub(super) async fn forget(
        client: &Client,
        dataset: &'static str,
        key: String,
        what: String,
        reason: &'static str,
    ) -> Result<Self, DemoError> {
        let doing = format!("tombstone of {what}");
        let before = rows_with_key(client, dataset, &key).await?;
        let body = json!({ "row_keys": [key], "reason": reason });
        let path = ["catalog", "datasets", dataset, "tombstone"];
        let done = client.post(&path, &body).await.doing(&doing)?;
        if before != 1 || done["tombstoned"] != 1 {
            let found = format!("{before} rows had the key `{key}`; the answer is {done}");
            return Err(DemoError::wrong(doing, found));
        }
        let left = rows_with_key(client, dataset, &key).await?;
        if left != 0 {
            let found = format!("{left} rows with the key `{key}` are still there");
            return Err(DemoError::wrong(doing, found));
        }
        Ok(Self {
            dataset,
            key,
            what,
            reason,
            seq: done["journal_seq"].clone(),
        })
    }

    /// Every event that touched the row.
    pub(super) async fn history(&self, client: &Client) -> Result<Vec<Value>, DemoError> {
        let doing = format!("history of {}", self.what);
        let query = [("dataset", self.dataset)];
        let path = ["journal", "history", self.key.as_str()];
        let answer = client.get(&path, &query).await.doing(&doing)?;
        Ok(items(&answer).to_vec())
    }

    /// The history, after a check that it ends with the tombstone, its number and its reason.
    pub(super) async fn checked_history(&self, client: &Client) -> Result<Vec<Value>, DemoError> {
        let events = self.history(client).await?;
        let tombstone = events.iter().find(|event| event["kind"] == TOMBSTONED);
        let said = tombstone.is_some_and(|event| {
            event["seq"] == self.seq && event["data"].to_string().contains(self.reason)
        });
        if said {
            return Ok(events);
        }
        let doing = format!("history of {}", self.what);
        let found = format!(
            "no {TOMBSTONED} {} for \"{}\" in {events:?}",
            self.seq, self.reason
        );
        Err(DemoError::wrong(doing, found))
    }

    /// Has the row's bytes erased, checks every place and the receipt, and says so in one line.
    pub(super) async fn erase(&self, client: &Client) -> Result<String, DemoError> {
        let doing = format!("erasure of {}", self.what);
        let path = ["compliance", "erasure", self.dataset];
        client.post(&path, &json!({})).await.doing(&doing)?;
        let path = ["compliance", "erasure", self.dataset, self.key.as_str()];
        let report = client.get(&path, &[]).await.doing(&doing)?;
        if report["erased"] != true {
            return Err(DemoError::wrong(doing, report.to_string()));
        }
        let key = client
            .get(&["compliance", "key"], &[])
            .await
            .doing(&doing)?;
        let document = report["signed"].to_string();
        let verified = receipts::verify(document.as_bytes(), key["public_key"].as_str())
            .map_err(|error| DemoError::wrong(doing, error.to_string()))?;
        Ok(format!(
            "{}: absent from {} places; the receipt verifies under key {}",
            self.what,
            items(&report["places"]).len(),
            verified.key.key_id
        ))
    }

    /// One line, for a person.
    pub(super) fn line(&self) -> String {
        format!(
            "{}: gone from `{}` by event {}",
            self.what,
            self.dataset,
            output::cell(&self.seq)
        )
    }
}

/// Deletes the answer of the first search, and checks that the search finds others now.
pub(super) async fn forget_a_hit(client: &Client) -> Result<Forgotten, DemoError> {
    let search = &SEARCHES[0];
    let hits = answers::find(client, search.query).await?;
    let hit = answers::expected_hit(search, &hits)?;
    let key = hit["key"].as_str().unwrap_or_default().to_owned();
    let what = format!("\"{}\" ({key})", answers::lemmas(hit));
    let reason = "the demo forgets a word";
    let row = Forgotten::forget(client, KNOWLEDGE, key, what, reason).await?;
    let hits = answers::find(client, search.query).await?;
    if hits.iter().any(|hit| hit["key"] == row.key.as_str()) {
        let doing = format!("search for \"{}\" after the tombstone", search.query);
        return Err(DemoError::wrong(
            doing,
            format!("{} is still found", row.what),
        ));
    }
    Ok(row)
}

/// Deletes the first person of the answer, and checks that the same question no longer names them.
pub(super) async fn forget_a_person(client: &Client) -> Result<Forgotten, DemoError> {
    let doing = "choice of a person";
    let answer = answers::ask(client, &answers::PEOPLE).await?;
    let first = &answer["rows"][0];
    let Some(id) = first[0].as_u64() else {
        return Err(DemoError::wrong(doing, format!("no id in {answer}")));
    };
    let what = format!("candidate {id} ({})", output::cell(&first[1]));
    let reason = "they asked to be forgotten";
    let row = Forgotten::forget(client, "candidates", id.to_string(), what, reason).await?;
    let answer = answers::ask(client, &answers::PEOPLE).await?;
    if items(&answer["rows"]).iter().any(|row| row[0] == id) {
        let found = format!("candidate {id} is still in {answer}");
        return Err(DemoError::wrong(answers::PEOPLE.title, found));
    }
    Ok(row)
}

async fn rows_with_key(client: &Client, dataset: &str, key: &str) -> Result<u64, DemoError> {
    let sql = format!("SELECT count(*) FROM {dataset} WHERE CAST(id AS VARCHAR) = $1");
    let body = json!({ "sql": sql, "params": [key] });
    let answer = client.post(&["query", "sql"], &body).await;
    let answer = answer.doing(&format!(
        "count of the rows of `{dataset}` with key `{key}`"
    ))?;
    Ok(answer["rows"][0][0].as_u64().unwrap_or(u64::MAX))
}
