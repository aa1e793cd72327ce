//! Tests against a real Postgres; each in a database of its own.

mod cases;
mod failures;
mod reads;
mod tls;
mod types;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use futures::StreamExt as _;
use lakehouse_journal::model::error::ErrorKind;

use super::testing::{PASSWORD, TestServer, mixed_table};
use super::*;

fn loopback() -> EgressPolicy {
    EgressPolicy {
        allow_loopback: true,
        ..EgressPolicy::default()
    }
}

fn source(dsn: &str) -> PostgresSource {
    PostgresSource::parse(dsn, &loopback()).expect("a good connection string")
}

fn table(name: &str) -> Relation {
    Relation::table(name).expect("a good name")
}

fn query(sql: &str) -> Relation {
    Relation::Query(sql.to_owned())
}

/// All rows in one batch, and the end.
async fn drain(mut stream: RowStream) -> Result<(RecordBatch, ReadEnd), PostgresError> {
    let mut batches = Vec::new();
    while let Some(batch) = stream.next().await {
        batches.push(batch?);
    }
    let end = stream
        .end()
        .expect("a stream that has ended well has an end")
        .clone();
    let rows = concat_batches(&stream.schema, &batches).expect("one schema");
    assert_eq!(rows.num_rows() as u64, end.rows);
    Ok((rows, end))
}

async fn read(dsn: &str, what: Relation) -> Result<RecordBatch, PostgresError> {
    let stream = source(dsn).read(what, ReadOptions::default()).await?;
    drain(stream).await.map(|(rows, _)| rows)
}

/// An error, after making sure that it does not show the password.
async fn failure(dsn: &str, what: Relation, options: ReadOptions) -> PostgresError {
    let error = match source(dsn).read(what, options).await {
        Err(error) => error,
        Ok(stream) => drain(stream).await.expect_err("this read must fail"),
    };
    let shown = format!("{error} {error:?} {error:#?}");
    assert!(
        !shown.contains(PASSWORD) && !shown.contains("hunter2"),
        "{shown}"
    );
    error
}
