//! The measured server with its tables, and the two ways to read one: thrown away, and taken in.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::runtime::Runtime;

use super::super::{
    BenchError,
    daemon::{Daemon, client_runtime},
    error::Doing as _,
};
use crate::engines::{
    egress::EgressPolicy,
    postgres::{
        PostgresSource, Relation,
        testing::{TestServer, installed, mixed_table},
    },
};

/// The database of the large table, that of the small one, and that of one four times as large.
const LARGE: &str = "large";
const SMALL: &str = "small";
const FOURFOLD: &str = "fourfold";
/// Rows of the small table, as the public system that is followed has it.
pub(super) const SMALL_ROWS: u64 = 586;

/// A table on the server.
pub(super) struct Table {
    /// Its database.
    pub database: &'static str,
    /// Its rows.
    pub rows: u64,
}

/// A server with the tables.
pub(super) struct Source {
    server: TestServer,
    client: Runtime,
    pub large: Table,
    pub small: Table,
    pub fourfold: Table,
}

impl Source {
    /// Starts the server and fills the tables.
    pub(super) fn start(rows: u64) -> Result<Self, BenchError> {
        if !installed() {
            let found = "it is not installed (package `postgresql`)";
            return Err(BenchError::wrong("PostgreSQL", found));
        }
        let server = TestServer::start(&[]);
        let table = |database, rows| {
            server.sql("postgres", &format!("CREATE DATABASE {database}"));
            server.sql(database, &mixed_table(rows));
            Table { database, rows }
        };
        Ok(Self {
            large: table(LARGE, rows),
            small: table(SMALL, SMALL_ROWS),
            fourfold: table(FOURFOLD, 4 * rows),
            client: client_runtime()?,
            server,
        })
    }

    /// How to connect to a table's database.
    pub(super) fn dsn(&self, table: &Table) -> String {
        self.server.dsn(table.database)
    }

    /// Reads a table by one binary COPY and throws it away; returns its bytes and the time.
    pub(super) fn thrown_away(&self, table: &Table) -> Result<(u64, Duration), BenchError> {
        let policy = EgressPolicy {
            allow: Vec::new(),
            allow_loopback: true,
        };
        let wrong = |error: &dyn std::fmt::Display| BenchError::wrong("COPY", error.to_string());
        let source = PostgresSource::parse(&self.dsn(table), &policy);
        let source = source.map_err(|error| wrong(&error))?;
        let relation = Relation::table("mixed").map_err(|error| wrong(&error))?;
        let copied = self.client.block_on(source.copy_discarded(&relation));
        copied.map_err(|error| wrong(&error))
    }

    /// Takes a table in as a new dataset, and counts its rows; returns the time of the request.
    pub(super) fn taken_in(
        &self,
        daemon: &Daemon,
        table: &Table,
        dataset: &str,
    ) -> Result<Duration, BenchError> {
        let body = json!({
            "dsn": self.dsn(table), "table": "mixed", "dataset": dataset, "key": "id",
        });
        let clock = Instant::now();
        let posted = daemon.client().post(&["ingest", "db"], &body);
        let answer = self.client.block_on(posted).doing("ingest/db")?;
        let time = clock.elapsed();
        if answer["rows"] != table.rows || answer["columns"] != 13 {
            let found = format!("the answer is {answer}");
            return Err(BenchError::wrong("ingest/db", found));
        }
        Ok(time)
    }

    /// Removes a dataset.
    pub(super) fn drop_dataset(&self, daemon: &Daemon, name: &str) -> Result<(), BenchError> {
        let client = daemon.client();
        let path = ["catalog", "datasets", name];
        let dropped = client.delete(&path);
        self.client.block_on(dropped).doing("drop")?;
        Ok(())
    }
}
