//! One request's way through the engine: gate, plan, check, run. A session sees the tables that it
//! was made with and no others. Dropping the answer, or the future that waits for it, ends the query.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use arrow::{datatypes::SchemaRef, record_batch::RecordBatch};
use datafusion::{
    catalog::{TableFunctionImpl, TableProvider},
    common::tree_node::TreeNodeRecursion,
    datasource::source_as_provider,
    execution::{SendableRecordBatchStream, SessionState, TaskContext},
    logical_expr::{LogicalPlan, LogicalPlanBuilder},
    physical_optimizer::PhysicalOptimizerRule,
    physical_plan::{ExecutionPlan, displayable, execute_stream},
    sql::{parser::Statement as EngineStatement, sqlparser::ast::Statement},
};
use futures::{FutureExt, Stream, StreamExt};
use lakehouse_journal::{
    model::catalog::{CatalogState, Dataset},
    record::Seq,
};
use serde_json::Value;
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, Sleep},
};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::{
    DatasetTable, GateLimits, QueryEngine, QueryError,
    active::Lease,
    cancel::StoppableJoins,
    catalog::{Names, Readable, SYSTEM, SessionCatalogs, Visible},
    gate::{check_plan, parse_query},
    params::bind,
    search::{SearchTable, VECTOR_SEARCH, VectorSearch},
};

/// Batches that wait for a slow reader before the query does.
const BATCHES_WAITING: usize = 4;

/// What a session may see.
#[derive(Clone)]
pub struct SessionTables {
    /// The snapshot.
    pub state: Arc<CatalogState>,
    /// The journal position of the catalog whose files are read. Erasure waits for older ones.
    pub seq: Seq,
    /// Which of its datasets the caller may read.
    pub visible: Visible,
    /// The tables of the schema `system`, by name; none for most callers.
    pub system: Vec<(String, Arc<dyn TableProvider>)>,
}

impl SessionTables {
    /// Every dataset of the snapshot at this journal position.
    pub fn all(state: Arc<CatalogState>, seq: Seq) -> Self {
        Self {
            state,
            seq,
            visible: Arc::new(|_| true),
            system: Vec::new(),
        }
    }

    /// One dataset as a worker of the daemon holds it, whose position in the journal is not known. It
    /// counts as the newest: erasure neither waits for its query nor ends it.
    pub fn of_dataset(dataset: &Arc<Dataset>) -> Self {
        let mut state = CatalogState::default();
        state
            .datasets
            .insert(dataset.name.clone(), Arc::clone(dataset));
        Self::all(Arc::new(state), Seq::MAX)
    }
}

/// One caller's session.
pub struct QuerySession {
    state: SessionState,
    names: Arc<Names>,
    search: Arc<VectorSearch>,
    gate: GateLimits,
    timeout: Duration,
    runtime: Handle,
    lease: Arc<Lease>,
}

/// The plans of a statement, without addresses of files.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Explained {
    /// What it means.
    pub logical: String,
    /// How it is done.
    pub physical: String,
}

/// A plan that is ready to run.
struct Ready {
    plan: Arc<dyn ExecutionPlan>,
    schema: SchemaRef,
    context: Arc<TaskContext>,
    datasets: Vec<String>,
    buckets: Vec<String>,
}

impl QuerySession {
    pub(super) fn new(engine: &QueryEngine, tables: SessionTables) -> Self {
        let names = Arc::new(Names {
            state: tables.state,
            visible: tables.visible,
            system: tables.system.into_iter().collect::<BTreeMap<_, _>>(),
            facts: Arc::clone(engine.facts()),
            readable: Arc::new(Readable::default()),
        });
        let mut state = SessionState::clone(&engine.template());
        state.register_catalog_list(Arc::new(SessionCatalogs(Arc::clone(&names))));
        let search = VectorSearch::new(Arc::clone(&names), tables.seq, engine.search());
        let search = Arc::new(search);
        state.register_udtf(
            VECTOR_SEARCH,
            Arc::clone(&search) as Arc<dyn TableFunctionImpl>,
        );
        state.mark_start_execution();
        Self {
            state,
            names,
            search,
            gate: engine.config().gate.clone(),
            timeout: engine.config().timeout,
            runtime: engine.handle(),
            lease: engine.active().register(tables.seq),
        }
    }

    /// Another deadline than the engine's.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Another number of partitions than the engine's; one keeps the order of the files' rows.
    #[must_use]
    pub fn with_partitions(mut self, partitions: usize) -> Self {
        let config = self.state.config_mut();
        config.options_mut().execution.target_partitions = partitions;
        self
    }

    /// Other limits of a statement's size than the engine's.
    #[must_use]
    pub fn with_gate(mut self, gate: GateLimits) -> Self {
        self.gate = gate;
        self
    }

    /// Runs one query. With a `limit`, the stream ends after `limit + 1` rows: the last one says that
    /// there are more.
    ///
    /// # Errors
    /// Any [`QueryError`]; those of the rows themselves come in the stream.
    pub async fn execute(
        self,
        sql: &str,
        params: Vec<Value>,
        limit: Option<usize>,
    ) -> Result<QueryStream, QueryError> {
        self.lease.begin()?;
        let runtime = self.runtime.clone();
        let timeout = self.timeout;
        let deadline = Instant::now() + timeout;
        let lease = Arc::clone(&self.lease);
        let (started, start) = oneshot::channel();
        let (rows, receiver) = mpsc::channel(BATCHES_WAITING);
        let sql = sql.to_owned();
        let task = runtime.spawn(async move {
            match self.ready(&sql, &params, limit).await {
                Ok(ready) => {
                    let known = (Arc::clone(&ready.schema), ready.datasets.clone());
                    if started.send(Ok(known)).is_ok() {
                        pump(ready, &rows, deadline, &self.lease).await;
                        self.lease.has_read();
                    }
                }
                // Nobody waits any more when this cannot be sent.
                Err(error) => drop(started.send(Err(self.lease.told(error)))),
            }
        });
        let expired = lease.expired();
        let guard = Running { lease, task };
        let answer = tokio::select! {
            answer = tokio::time::timeout_at(deadline, start) => answer,
            () = expired => return Err(QueryError::SnapshotExpired),
        };
        let (schema, datasets) = match answer {
            Err(_) => return Err(QueryError::Timeout(timeout)),
            Ok(Ok(answer)) => answer?,
            Ok(Err(_)) => return Err(guard.why().await),
        };
        Ok(QueryStream {
            schema,
            datasets,
            receiver,
            sleep: Box::pin(tokio::time::sleep_until(deadline)),
            expired: Box::pin(guard.lease.expired()),
            timeout,
            runtime,
            guard: Some(guard),
        })
    }

    /// The plans of a query, without running it.
    ///
    /// # Errors
    /// Any [`QueryError`] of planning.
    pub async fn explain(self, sql: &str) -> Result<Explained, QueryError> {
        self.lease.begin()?;
        let timeout = self.timeout;
        let runtime = self.runtime.clone();
        let sql = sql.to_owned();
        let lease = Arc::clone(&self.lease);
        let task = runtime.spawn(async move {
            let statement = parse_query(&sql, &self.gate)?;
            let plan = self.plan(statement).await?;
            let plan = self.optimized(&plan)?;
            let physical = self.physical(&plan, &[]).await?;
            Ok(Explained {
                logical: plan.display_indent().to_string(),
                physical: without_files(&displayable(physical.as_ref()).indent(false).to_string()),
            })
        });
        Running { lease, task }.finish(timeout).await
    }

    async fn ready(
        &self,
        sql: &str,
        params: &[Value],
        limit: Option<usize>,
    ) -> Result<Ready, QueryError> {
        let statement = parse_query(sql, &self.gate)?;
        self.search.given(params);
        let plan = self.plan(statement).await?;
        let plan = bind(plan, params, self.search.named())?;
        let (datasets, buckets) = sources(&plan)?;
        let engine = |error| QueryError::from_engine(&error, &buckets);
        let plan = match limit {
            None => plan,
            Some(limit) => LogicalPlanBuilder::from(plan)
                .limit(0, Some(limit.saturating_add(1)))
                .and_then(LogicalPlanBuilder::build)
                .map_err(engine)?,
        };
        let plan = self.optimized(&plan)?;
        let physical = self.physical(&plan, &buckets).await?;
        Ok(Ready {
            schema: physical.schema(),
            plan: physical,
            context: self.state.task_ctx(),
            datasets,
            buckets,
        })
    }

    /// Plans a statement and checks the plan.
    async fn plan(&self, statement: Statement) -> Result<LogicalPlan, QueryError> {
        let statement = EngineStatement::Statement(Box::new(statement));
        let planned = self.state.statement_to_plan(statement).await;
        let plan = planned.map_err(|error| {
            let error = QueryError::from_engine(&error, &[]);
            self.unknown_table(&error).unwrap_or(error)
        })?;
        check_plan(&plan, &self.names.readable)?;
        Ok(plan)
    }

    fn optimized(&self, plan: &LogicalPlan) -> Result<LogicalPlan, QueryError> {
        self.state
            .optimize(plan)
            .map_err(|error| QueryError::from_engine(&error, &[]))
    }

    async fn physical(
        &self,
        plan: &LogicalPlan,
        buckets: &[String],
    ) -> Result<Arc<dyn ExecutionPlan>, QueryError> {
        let planner = self.state.query_planner();
        let physical = planner
            .create_physical_plan(plan, &self.state)
            .await
            .map_err(|error| QueryError::from_engine(&error, buckets))?;
        StoppableJoins(self.lease.flag().clone())
            .optimize(physical, self.state.config_options())
            .map_err(|error| QueryError::from_engine(&error, buckets))
    }

    /// Reads "table 'a.b.c' not found" as what it means here.
    fn unknown_table(&self, error: &QueryError) -> Option<QueryError> {
        let QueryError::Invalid(text) = error else {
            return None;
        };
        let name = text
            .split("table '")
            .nth(1)
            .and_then(|rest| rest.split_once("' not found"))
            .map(|(name, _)| name);
        let name = match name {
            Some(name) => name.strip_prefix("lake.").unwrap_or(name),
            None => text
                .strip_prefix("failed to resolve schema: ")
                .or_else(|| text.strip_prefix("failed to resolve catalog: "))?,
        };
        let plain = name.strip_prefix("datasets.").unwrap_or(name);
        Some(self.names.missing(plain))
    }
}

/// The datasets that a plan reads, subqueries included, and their buckets.
fn sources(plan: &LogicalPlan) -> Result<(Vec<String>, Vec<String>), QueryError> {
    let mut datasets = Vec::new();
    let mut buckets = Vec::new();
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && let Ok(provider) = source_as_provider(&scan.source)
        {
            if let Some(table) = provider.downcast_ref::<DatasetTable>() {
                datasets.push(table.dataset().name.clone());
                let files = table.dataset().files.iter();
                buckets.extend(files.map(|file| file.entry.bucket.clone()));
            } else if let Some(table) = provider.downcast_ref::<SearchTable>() {
                datasets.push(table.source().to_owned());
            } else if scan.table_name.schema() == Some(SYSTEM) {
                datasets.push(format!("{SYSTEM}.{}", scan.table_name.table()));
            }
        }
        Ok(TreeNodeRecursion::Continue)
    })
    .map_err(|error| QueryError::from_engine(&error, &[]))?;
    for names in [&mut datasets, &mut buckets] {
        names.sort_unstable();
        names.dedup();
    }
    Ok((datasets, buckets))
}

/// Runs a plan and hands its batches on until nobody takes them, the time is over, or the snapshot is.
async fn pump(
    ready: Ready,
    rows: &mpsc::Sender<Result<RecordBatch, QueryError>>,
    deadline: Instant,
    lease: &Lease,
) {
    let told = |error| lease.told(QueryError::from_engine(&error, &ready.buckets));
    let work = async {
        let mut stream: SendableRecordBatchStream = match execute_stream(ready.plan, ready.context)
        {
            Ok(stream) => stream,
            Err(error) => {
                return drop(rows.send(Err(told(error))).await);
            }
        };
        while let Some(batch) = stream.next().await {
            let batch = batch.map_err(told);
            let failed = batch.is_err();
            if rows.send(batch).await.is_err() || failed {
                return;
            }
        }
    };
    tokio::select! {
        () = work => {}
        () = rows.closed() => {}
        // The reader is woken by the same word.
        () = lease.expired() => {}
        // The reader reports it by its own clock.
        () = tokio::time::sleep_until(deadline) => {}
    }
}

/// A query on its threads; dropping it ends the query.
struct Running<T> {
    lease: Arc<Lease>,
    task: JoinHandle<T>,
}

impl<T> Drop for Running<T> {
    fn drop(&mut self) {
        self.lease.flag().cancel();
        self.task.abort();
    }
}

impl<T> Running<T> {
    /// Why the task ended without an answer.
    async fn why(mut self) -> QueryError {
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
    async fn finish(mut self, timeout: Duration) -> Result<T, QueryError> {
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
    datasets: Vec<String>,
    receiver: mpsc::Receiver<Result<RecordBatch, QueryError>>,
    sleep: Pin<Box<Sleep>>,
    expired: Pin<Box<WaitForCancellationFutureOwned>>,
    timeout: Duration,
    runtime: Handle,
    guard: Option<Running<()>>,
}

impl QueryStream {
    /// The columns.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The datasets that the query reads, in the order of their names; `system.x` for those.
    pub fn datasets(&self) -> &[String] {
        &self.datasets
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

/// A plan's text with how many groups of files there are, but not which.
fn without_files(text: &str) -> String {
    const MARK: &str = "file_groups={";
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(MARK) {
        let (before, after) = rest.split_at(at + MARK.len());
        clean.push_str(before);
        let end = after.find('}').unwrap_or(after.len());
        let groups = after[..end].split(':').next().unwrap_or_default();
        clean.push_str(groups);
        rest = &after[end..];
    }
    clean.push_str(rest);
    super::error::scrub(&clean)
}
