//! Questions in SQL, whatever door they come through: `/query/sql`, a tool, the agents' protocol. Each is
//! answered from the caller's own session, within the caller's limits, and what was answered or refused is
//! told to the audit. Nothing else may run a caller's statement.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use actix_web::web;
use futures::StreamExt as _;
use serde_json::{Value, json};

use super::{
    Edge,
    audited::{Counted, Seen, Told},
    auth::{self, May, Needs},
    past::Snapshot,
    problem::Problem,
    query::session,
    receipts::{self, Asked},
};
use crate::query::{
    JsonRows, Params, QueryError, QuerySession, QueryStream, rows_json, tables_named,
};

/// A question.
#[derive(Debug)]
pub struct Question<'a> {
    /// The statement.
    pub sql: &'a str,
    /// Values of its placeholders.
    pub params: Params,
    /// Most rows of the answer.
    pub limit: Option<usize>,
    /// The position or time that it is asked of.
    pub as_of: Option<&'a Value>,
    /// The only view or dataset that it may read.
    pub only: Option<&'a str>,
    /// What its receipt keeps of it; nothing when it has none.
    pub kept: Option<Asked>,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// The rows.
    pub rows: JsonRows,
    /// The views and datasets that were read.
    pub names: Vec<String>,
    /// Buckets that others answered for, and which did; nothing that an agent is told.
    pub rescued: Vec<(String, String)>,
    /// The position of the journal that it is of.
    pub as_of: u64,
    /// How long it took.
    pub elapsed: Duration,
    /// Its id, for an agent.
    pub receipt: Option<String>,
}

impl Answer {
    /// As the contract has it.
    pub fn json(&self) -> Value {
        let mut body = json!({
            "columns": self.rows.columns,
            "rows": self.rows.rows,
            "row_count": self.rows.row_count,
            "truncated": self.rows.truncated,
            "elapsed_ms": u64::try_from(self.elapsed.as_millis()).unwrap_or(u64::MAX),
            "datasets": self.names,
            "as_of": self.as_of,
        });
        if self.receipt.is_none() {
            let rescued = self.rescued.iter();
            let rescued = rescued.map(|(bucket, by)| json!({ "bucket": bucket, "by": by }));
            body["rescued"] = rescued.collect();
        }
        if let Some(receipt) = &self.receipt {
            body["receipt"] = json!(receipt);
        }
        body
    }
}

/// What is told of every question, before it is known how it ends.
pub fn begun<P: Needs>(edge: &Edge, may: &May<P>, action: &'static str, text: &str) -> Told {
    if !may.asked().is_audited() {
        return Told::default();
    }
    Told {
        action,
        statement: Some(edge.audit.statement_hash(text)),
        receipt: Some(edge.audit.receipt_id()),
        policy_seq: Some(policy_seq(edge)),
        ..Told::default()
    }
}

/// Position of the newest event that says who may see what: of tokens and tools, of views and classes.
pub fn policy_seq(edge: &Edge) -> u64 {
    let catalog = edge.lake.catalog();
    edge.lake.access().seq.max(catalog.state.policy_seq)
}

/// Answers with a page of rows. What is to be told stands in `told`, also when it fails.
///
/// # Errors
/// The problem to answer with.
pub async fn page<P: Needs>(
    edge: &web::Data<Edge>,
    may: &May<P>,
    question: Question<'_>,
    told: &mut Told,
) -> Result<Answer, Problem> {
    let started = Instant::now();
    let limits = may.limits();
    let most = edge.query.config().rows_json_max;
    let rows_max = limits.rows().and_then(|rows| usize::try_from(rows).ok());
    let limit = question
        .limit
        .unwrap_or(most)
        .min(rows_max.unwrap_or(usize::MAX));
    let (running, snapshot) = begin(edge, may, &question, Some(limit), told).await?;
    let seen = Arc::new(Seen::new(edge.clone()));
    let session = if may.asked().is_audited() {
        running.with_witness(Arc::clone(&seen) as _)
    } else {
        running
    };
    let _slot = limits.slot()?;
    let answer = async {
        let stream = session
            .execute(question.sql, question.params.clone(), Some(limit))
            .await
            .map_err(|error| of_query(error, &snapshot))?;
        let (sources, rescued) = (stream.sources().clone(), stream.rescued());
        Ok::<_, Problem>((rows_json(stream, limit).await?, sources, rescued))
    };
    // Dropping the answer cancels the query.
    let (rows, sources, rescued) = tokio::select! {
        answer = answer => answer?,
        () = auth::ended(edge, &may.token) => return Err(auth::unauthorized()),
    };
    told.objects.clone_from(&sources.names);
    told.unnamed = sources.lineage.unnamed;
    if may.asked().is_audited() {
        seen.tell(rows.row_count, told);
    }
    Ok(Answer {
        rows,
        names: sources.names,
        rescued: rescued.list(),
        as_of: snapshot.as_of,
        elapsed: started.elapsed(),
        receipt: told.receipt.clone(),
    })
}

/// Answers with a stream of rows. The audit has a line when it begins, and one before each batch leaves.
///
/// # Errors
/// As [`page`]; what fails later breaks the stream off.
pub async fn stream<P: Needs>(
    edge: &web::Data<Edge>,
    may: &May<P>,
    question: Question<'_>,
    told: &mut Told,
) -> Result<QueryStream, Problem> {
    let limits = may.limits();
    let (running, snapshot) = begin(edge, may, &question, None, told).await?;
    let rows_max = limits.rows();
    let slot = limits.slot()?;
    let counted = Counted::new(edge.clone(), may.asked(), told.clone(), rows_max, slot);
    let session = running.with_witness(Arc::new(counted));
    let limit = rows_max.and_then(|rows| usize::try_from(rows).ok());
    let stream = session
        .execute(question.sql, question.params, limit)
        .await
        .map_err(|error| of_query(error, &snapshot))?;
    told.objects.clone_from(&stream.sources().names);
    told.unnamed.clone_from(&stream.sources().lineage.unnamed);
    Ok(stream)
}

/// Only marks the rows of an answer, and tells of these.
///
/// # Errors
/// As [`page`].
pub async fn marks<P: Needs>(
    edge: &web::Data<Edge>,
    may: &May<P>,
    question: Question<'_>,
    told: &mut Told,
) -> Result<(), Problem> {
    let (running, snapshot) = begin(edge, may, &question, question.limit, told).await?;
    let _slot = may.limits().slot()?;
    let seen = Arc::new(Seen::new(edge.clone()));
    let session = running.with_witness(Arc::clone(&seen) as _);
    let mut stream = session
        .execute(question.sql, question.params, question.limit)
        .await
        .map_err(|error| of_query(error, &snapshot))?;
    let mut rows = 0;
    loop {
        let batch = tokio::select! {
            batch = stream.next() => batch,
            () = auth::ended(edge, &may.token) => return Err(auth::unauthorized()),
        };
        match batch {
            Some(batch) => rows += batch?.num_rows(),
            None => break,
        }
    }
    // The row behind the last of a page only says that there are more.
    seen.tell(rows.min(question.limit.unwrap_or(usize::MAX)), told);
    Ok(())
}

/// The caller's session for a question.
async fn begin<P: Needs>(
    edge: &web::Data<Edge>,
    may: &May<P>,
    question: &Question<'_>,
    limit: Option<usize>,
    told: &mut Told,
) -> Result<(QuerySession, Snapshot), Problem> {
    if let Some(kept) = &question.kept {
        receipts::keep(edge, &may.token, || kept.clone().limited(limit), told);
    }
    let snapshot = Snapshot::of(edge, question.as_of).await?;
    told.journal_seq = Some(snapshot.as_of);
    if may.asked().is_audited() {
        told.objects = known(&snapshot, question);
    }
    let session = session(edge, may, question.sql, &snapshot, question.only)?;
    edge.metrics.queries.fetch_add(1, Ordering::Relaxed);
    Ok((may.limits().applied_to(session), snapshot))
}

/// The names of a statement that are names of something: what a refusal is told to be of.
fn known(snapshot: &Snapshot, question: &Question<'_>) -> Vec<String> {
    let state = &snapshot.catalog.state;
    let mut names = tables_named(question.sql);
    names.extend(question.only.map(str::to_owned));
    names.retain(|name| state.datasets.contains_key(name) || state.views.contains_key(name));
    names.sort_unstable();
    names.dedup();
    names
}

/// A dataset whose past is over is told so, not as one that never was.
fn of_query(error: QueryError, snapshot: &Snapshot) -> Problem {
    match &error {
        QueryError::DatasetNotFound { name, .. } => {
            let name = name.clone();
            snapshot.explain_missing(&name, error.into())
        }
        _ => error.into(),
    }
}
