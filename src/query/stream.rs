//! The answer of a query, batch by batch, and its hold on the query that makes it: dropping it ends the query.
//! Made by `session`; read by `output` and the edge.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use arrow::{datatypes::SchemaRef, record_batch::RecordBatch};
use futures::{FutureExt, Stream};
use tokio::{
    runtime::Handle,
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, Sleep},
};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::{QueryError, active::Lease, witness::Sources};
use crate::engines::object_store::RescueUse;

/// A query on its threads; dropping it ends the query.
pub(super) struct Running<T> {
    pub lease: Arc<Lease>,
    pub task: JoinHandle<T>,
}

impl<T> Drop for Running<T> {
    fn drop(&mut self) {
        self.lease.flag().cancel();
        self.task.abort();
    }
}

impl<T> Running<T> {
    /// Why the task ended without an answer.
    pub async fn why(mut self) -> QueryError {
        match (&mut self.task).await {
            Err(error) if error.is_panic() => {
                tracing::error!("a query panicked");
                QueryError::Internal("a panic".to_owned())
            }
            _ => QueryError::Cancelled,
        }
    }
}

impl<T> Running<Result<T, QueryError>> {
    pub async fn finish(mut self, timeout: Duration) -> Result<T, QueryError> {
        let expired = self.lease.expired();
        let ended = tokio::select! {
            ended = tokio::time::timeout(timeout, &mut self.task) => ended,
            () = expired => return Err(QueryError::SnapshotExpired),
        };
        match ended {
            Err(_) => Err(QueryError::Timeout(timeout)),
            Ok(Ok(answer)) => answer.map_err(|error| self.lease.told(error)),
            Ok(Err(_)) => {
                tracing::error!("planning panicked or was stopped");
                Err(QueryError::Internal("planning did not end".to_owned()))
            }
        }
    }
}

/// The answer of a query, batch by batch.
pub struct QueryStream {
    schema: SchemaRef,
    sources: Sources,
    rescued: Arc<RescueUse>,
    receiver: mpsc::Receiver<Result<RecordBatch, QueryError>>,
    sleep: Pin<Box<Sleep>>,
    expired: Pin<Box<WaitForCancellationFutureOwned>>,
    timeout: Duration,
    runtime: Handle,
    guard: Option<Running<()>>,
}

/// A query that has begun to answer.
pub(super) struct Begun {
    pub schema: SchemaRef,
    pub sources: Sources,
    pub rescued: Arc<RescueUse>,
    pub receiver: mpsc::Receiver<Result<RecordBatch, QueryError>>,
    pub deadline: Instant,
    pub timeout: Duration,
    pub runtime: Handle,
    pub running: Running<()>,
}

impl From<Begun> for QueryStream {
    fn from(begun: Begun) -> Self {
        Self {
            schema: begun.schema,
            sources: begun.sources,
            rescued: begun.rescued,
            receiver: begun.receiver,
            sleep: Box::pin(tokio::time::sleep_until(begun.deadline)),
            expired: Box::pin(begun.running.lease.expired()),
            timeout: begun.timeout,
            runtime: begun.runtime,
            guard: Some(begun.running),
        }
    }
}

impl QueryStream {
    /// The columns.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The datasets that the query reads, in the order of their names; `system.x` for those.
    pub fn datasets(&self) -> &[String] {
        &self.sources.names
    }

    /// Which buckets others answered for; complete when all rows are read.
    pub fn rescued(&self) -> Arc<RescueUse> {
        Arc::clone(&self.rescued)
    }

    /// What it reads, and what is known of the rows behind the answer.
    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// The threads that queries run on, for work on their answers.
    pub(super) fn runtime(&self) -> Handle {
        self.runtime.clone()
    }

    /// Ends when the query was told to end; never, once it is over.
    pub(super) fn expired(&self) -> impl Future<Output = ()> + Send + use<> {
        let expired = self.guard.as_ref().map(|guard| guard.lease.expired());
        async move {
            match expired {
                Some(expired) => expired.await,
                None => std::future::pending().await,
            }
        }
    }

    /// Lets the query go: no more rows come.
    pub(super) fn end(&mut self) {
        self.guard = None;
    }
}

impl Stream for QueryStream {
    type Item = Result<RecordBatch, QueryError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.guard.is_none() {
            return Poll::Ready(None);
        }
        if self.expired.as_mut().poll(context).is_ready() {
            self.guard = None;
            return Poll::Ready(Some(Err(QueryError::SnapshotExpired)));
        }
        if let Poll::Ready(received) = self.receiver.poll_recv(context) {
            if let Some(received) = received {
                if received.is_err() {
                    self.guard = None;
                }
                return Poll::Ready(Some(received));
            }
            if Instant::now() >= self.sleep.deadline() {
                self.guard = None;
                return Poll::Ready(Some(Err(QueryError::Timeout(self.timeout))));
            }
            return self.poll_end(context);
        }
        if self.sleep.as_mut().poll_unpin(context).is_ready() {
            self.guard = None;
            return Poll::Ready(Some(Err(QueryError::Timeout(self.timeout))));
        }
        Poll::Pending
    }
}

impl QueryStream {
    /// Tells the end of the rows from a task that broke.
    fn poll_end(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<RecordBatch, QueryError>>> {
        let Some(guard) = self.guard.as_mut() else {
            return Poll::Ready(None);
        };
        let Poll::Ready(ended) = guard.task.poll_unpin(context) else {
            return Poll::Pending;
        };
        self.guard = None;
        match ended {
            Ok(()) => Poll::Ready(None),
            Err(error) if error.is_panic() => {
                tracing::error!("a query panicked");
                let error = QueryError::Internal("a panic".to_owned());
                Poll::Ready(Some(Err(error)))
            }
            Err(_) => Poll::Ready(Some(Err(QueryError::Cancelled))),
        }
    }
}
