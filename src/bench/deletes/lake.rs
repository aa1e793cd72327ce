//! The measured side: a child daemon and the requests of this benchmark, each timed from the first
//! byte sent to the last one read. The parts of the runner call it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::{
    super::{
        BenchError,
        daemon::{Daemon, client_runtime, generated},
        error::Doing as _,
        report::ms,
        tpch::ipc_chunks,
    },
    table::{self, KEY, Totals},
};

const ARROW_STREAM: &str = "application/vnd.apache.arrow.stream";

/// A daemon with copies of the table.
pub(super) struct Lake {
    pub daemon: Daemon,
    client: Runtime,
    /// Rows of every copy.
    pub rows: u64,
}

impl Lake {
    /// Talks to `daemon` about tables of `rows` rows.
    pub(super) fn new(daemon: Daemon, rows: u64) -> Result<Self, BenchError> {
        Ok(Self {
            daemon,
            client: client_runtime()?,
            rows,
        })
    }

    /// Takes a copy of the table in under a new name; returns its manifest.
    pub(super) fn ingest(&self, name: &str) -> Result<Value, BenchError> {
        let body = generated(ipc_chunks(&table::schema(), table::batches(self.rows)));
        self.client.block_on(async {
            let ingested = self.daemon.ingest(name, Some(KEY), ARROW_STREAM, body);
            let ingested = ingested.await?;
            if ingested["rows"] != self.rows {
                return Err(BenchError::wrong(
                    "ingest",
                    format!("the answer is {ingested}"),
                ));
            }
            self.daemon.manifest(name).await
        })
    }

    /// Deletes rows by key in one call; returns the milliseconds.
    pub(super) fn tombstone(&self, name: &str, keys: &[u64]) -> Result<f64, BenchError> {
        let body = json!({ "row_keys": keys, "reason": "benchmark" });
        let (time, answer) = self.post(&["catalog", "datasets", name, "tombstone"], &body)?;
        if answer["tombstoned"] != keys.len() {
            return Err(BenchError::wrong(
                "tombstone",
                format!("the answer is {answer}"),
            ));
        }
        Ok(ms(time))
    }

    /// Compacts a dataset; returns the seconds and the answer.
    pub(super) fn compact(&self, name: &str) -> Result<(f64, Value), BenchError> {
        let (time, answer) = self.post(&["catalog", "datasets", name, "compact"], &json!({}))?;
        Ok((time.as_secs_f64(), answer))
    }

    /// Runs a query; returns the milliseconds and the rows.
    pub(super) fn sql(&self, sql: &str) -> Result<(f64, Value), BenchError> {
        let (time, mut answer) = self.post(&["query", "sql"], &json!({ "sql": sql }))?;
        Ok((ms(time), answer["rows"].take()))
    }

    /// How many rows a dataset shows.
    pub(super) fn count(&self, name: &str) -> Result<u64, BenchError> {
        let (_, rows) = self.sql(&count_sql(name))?;
        let count = rows[0][0].as_u64();
        count.ok_or_else(|| BenchError::wrong("count", format!("the answer is {rows}")))
    }

    /// Refuses a dataset whose count or aggregate is not what the table without `gone` adds up to.
    pub(super) fn check(&self, name: &str, gone: &[u64]) -> Result<(), BenchError> {
        let expected = table::totals(self.rows, gone);
        let rows: u64 = expected.values().map(|sums| sums[0]).sum();
        let counted = self.count(name)?;
        let (_, shown) = self.sql(&aggregate_sql(name))?;
        if counted == rows && shown == as_rows(&expected) {
            return Ok(());
        }
        let found = format!("{counted} rows where {rows} are left, totals {shown}");
        Err(BenchError::wrong(format!("`{name}`"), found))
    }

    fn post(&self, path: &[&str], body: &Value) -> Result<(Duration, Value), BenchError> {
        let clock = Instant::now();
        let answer = self
            .client
            .block_on(self.daemon.client().post(path, body))
            .doing(&path.join("/"))?;
        Ok((clock.elapsed(), answer))
    }
}

/// How many rows there are.
pub(super) fn count_sql(name: &str) -> String {
    format!("SELECT count(*) FROM {name}")
}

/// The sums of every branch: reads three columns of every row.
pub(super) fn aggregate_sql(name: &str) -> String {
    format!(
        "SELECT branch, count(*) AS sheets, sum(amount) AS amount, sum(hours) AS hours \
         FROM {name} GROUP BY branch ORDER BY branch"
    )
}

/// The same under a condition that no statistics can answer: about nine rows in ten.
pub(super) fn filtered_sql(name: &str) -> String {
    format!(
        "SELECT branch, count(*) AS sheets, sum(amount) AS amount, sum(hours) AS hours \
         FROM {name} WHERE status = 'approved' GROUP BY branch ORDER BY branch"
    )
}

/// The totals as the daemon shows them: decimals are texts.
fn as_rows(totals: &Totals) -> Value {
    let decimal = |hundredths: u64| format!("{}.{:02}", hundredths / 100, hundredths % 100);
    let rows = totals.iter().map(|(branch, [rows, amount, hours])| {
        json!([branch, rows, decimal(*amount), decimal(*hours)])
    });
    rows.collect()
}
