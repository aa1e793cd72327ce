//! The stream of batches: one task a connection copies and decodes, a bounded channel carries
//! batches to whoever reads them, and a task above them all settles how it ended.
//! Called by `PostgresSource::read`. A stream that simply stops is an error, never an end.

use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use futures::Stream;
use lakehouse_kernels::pgcopy::RowDecoder;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::error::PostgresError;
use super::plan::Plan;
use super::session::{Canceller, Copying, Session};

type Batch = Result<RecordBatch, PostgresError>;

/// The rows of a read, in batches of [`RowStream::schema`], in no particular order.
///
/// A `futures::Stream`. It ends with `None` only when every row has come; after an error it ends.
pub struct RowStream {
    /// The columns; every one may hold nulls.
    pub schema: SchemaRef,
    /// What a reader should know before the first row: columns that are carried as text.
    pub notes: Vec<String>,
    /// Where the rows come from, without user and password.
    pub lineage: String,
    batches: mpsc::Receiver<Batch>,
    end: Arc<OnceLock<ReadEnd>>,
    failed: bool,
}

/// What is known when every row has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadEnd {
    /// Rows in all.
    pub rows: u64,
    /// The value to pass as the next [`super::Watermark`], when this read had one.
    pub watermark_after: Option<String>,
    /// Values that have no counterpart in Arrow and became null, by column.
    pub notes: Vec<String>,
}

impl RowStream {
    /// Where the end is put, for whoever hands the stream on; to be believed only when the stream has
    /// come to its end without an error.
    pub fn ending(&self) -> Arc<OnceLock<ReadEnd>> {
        Arc::clone(&self.end)
    }

    /// What is known at the end; `None` before the stream has ended, and when it has failed.
    pub fn end(&self) -> Option<&ReadEnd> {
        self.end
            .get()
            .filter(|_| !self.failed && self.batches.is_closed() && self.batches.is_empty())
    }
}

impl std::fmt::Debug for RowStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("RowStream");
        shown
            .field("lineage", &self.lineage)
            .field("schema", &self.schema)
            .finish_non_exhaustive()
    }
}

impl Stream for RowStream {
    type Item = Batch;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Batch>> {
        if self.failed {
            return Poll::Ready(None);
        }
        let next = match ready!(self.batches.poll_recv(cx)) {
            None if self.end.get().is_none() => Some(Err(PostgresError::Stopped)),
            next => next,
        };
        self.failed = matches!(next, Some(Err(_)));
        Poll::Ready(next)
    }
}

/// The statements that are still to be run; every connection takes the next one.
struct Shares {
    copies: Vec<String>,
    next: AtomicUsize,
}

/// What one connection has read.
#[derive(Default)]
struct Report {
    rows: u64,
    nulled: Vec<(String, u64)>,
}

/// Starts the tasks and hands out the stream.
pub(super) fn start(
    sessions: Vec<Session>,
    plan: Plan,
    lineage: String,
    batch_rows: usize,
) -> RowStream {
    // One batch waits for each connection while it decodes the next.
    let (sender, batches) = mpsc::channel(sessions.len());
    let end = Arc::new(OnceLock::new());
    let stream = RowStream {
        schema: plan.schema.clone(),
        notes: plan.notes.clone(),
        lineage,
        batches,
        end: Arc::clone(&end),
        failed: false,
    };
    tokio::spawn(supervise(sessions, plan, batch_rows, sender, end));
    stream
}

/// Waits for every connection. The end is set before the channel closes, so that a reader who sees
/// it closed finds the end, or knows that something broke.
async fn supervise(
    sessions: Vec<Session>,
    plan: Plan,
    batch_rows: usize,
    sender: mpsc::Sender<Batch>,
    end: Arc<OnceLock<ReadEnd>>,
) {
    let shares = Arc::new(Shares {
        copies: plan.copies,
        next: AtomicUsize::new(0),
    });
    let cancellers: Vec<Canceller> = sessions.iter().map(Session::canceller).collect();
    let mut workers = JoinSet::new();
    for session in sessions {
        let decoder = RowDecoder::new(plan.schema.clone(), &plan.wires, batch_rows);
        workers.spawn(work(session, decoder, Arc::clone(&shares), sender.clone()));
    }
    match settle(&mut workers, &sender).await {
        Ok(Some(report)) => {
            let notes = report.nulled.iter().map(|(column, count)| {
                format!(
                    "column `{column}`: {count} values (infinite, NaN or out of range) became null"
                )
            });
            let ended = ReadEnd {
                rows: report.rows,
                watermark_after: plan.watermark_after,
                notes: notes.collect(),
            };
            end.set(ended).expect("only this task sets it, once");
        }
        Ok(None) => cancel(workers, cancellers).await,
        Err(error) => {
            // Whoever reads wants the cause at once; the other connections end meanwhile.
            let _reader = sender.send(Err(error)).await;
            drop(sender);
            cancel(workers, cancellers).await;
        }
    }
}

/// All reports as one, or `None` when nobody reads any more.
async fn settle(
    workers: &mut JoinSet<Result<Report, PostgresError>>,
    sender: &mpsc::Sender<Batch>,
) -> Result<Option<Report>, PostgresError> {
    let mut total = Report::default();
    loop {
        let joined = tokio::select! {
            biased;
            joined = workers.join_next() => joined,
            () = sender.closed() => return Ok(None),
        };
        match joined {
            None => return Ok(Some(total)),
            Some(Ok(report)) => total.add(report?),
            Some(Err(_)) => return Err(PostgresError::Stopped),
        }
    }
}

async fn cancel(mut workers: JoinSet<Result<Report, PostgresError>>, cancellers: Vec<Canceller>) {
    if !workers.is_empty() {
        futures::future::join_all(cancellers.into_iter().map(Canceller::cancel)).await;
    }
    workers.abort_all();
}

impl Report {
    fn add(&mut self, other: Self) {
        self.rows += other.rows;
        for (column, count) in other.nulled {
            match self.nulled.iter_mut().find(|(known, _)| *known == column) {
                Some((_, sum)) => *sum += count,
                None => self.nulled.push((column, count)),
            }
        }
    }
}

/// Copies share after share over one connection.
async fn work(
    mut session: Session,
    mut decoder: RowDecoder,
    shares: Arc<Shares>,
    sender: mpsc::Sender<Batch>,
) -> Result<Report, PostgresError> {
    while let Some(sql) = shares
        .copies
        .get(shares.next.fetch_add(1, Ordering::Relaxed))
    {
        let mut copy = pin!(session.start_copy(sql, decoder.rows()).await?);
        loop {
            let copying = session.copy_some(copy.as_mut(), &mut decoder).await?;
            while let Some(batch) = decoder.take_ready() {
                send(&sender, batch).await?;
            }
            if copying == Copying::Ended {
                break;
            }
        }
        // No batch holds rows of two shares: its keys would lie round those of shares between them, and
        // nothing would show any more that no key comes twice (see `ingest::keys`).
        if let Some(batch) = decoder.flush()? {
            send(&sender, batch).await?;
        }
    }
    // The reader need not wait for the goodbye, but the end must.
    drop(sender);
    session.close().await;
    Ok(Report {
        rows: decoder.rows(),
        nulled: decoder.nulled(),
    })
}

async fn send(sender: &mpsc::Sender<Batch>, batch: RecordBatch) -> Result<(), PostgresError> {
    sender
        .send(Ok(batch))
        .await
        .map_err(|_| PostgresError::Stopped)
}
