//! One request's way through the engine: gate, plan, check, run. A session sees the tables that it
//! was made with and no others. Dropping the answer, or the future that waits for it, ends the query.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::Duration,
};

use arrow::{datatypes::SchemaRef, record_batch::RecordBatch};
use datafusion::{
    catalog::TableProvider,
    common::tree_node::TreeNodeRecursion,
    datasource::source_as_provider,
    execution::{
        SendableRecordBatchStream, SessionState, SessionStateBuilder, TaskContext,
        memory_pool::MemoryPool, runtime_env::RuntimeEnv,
    },
    logical_expr::{LogicalPlan, LogicalPlanBuilder},
    physical_optimizer::PhysicalOptimizerRule,
    physical_plan::{ExecutionPlan, displayable, execute_stream},
    sql::{parser::Statement as EngineStatement, sqlparser::ast::Statement},
};
use futures::StreamExt;
use lakehouse_journal::{
    model::catalog::{CatalogState, Dataset},
    record::Seq,
};
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
    time::Instant,
};

use crate::engines::object_store::RescueUse;

use super::{
    DatasetTable, GateLimits, QueryEngine, QueryError, Reader, SafeViewProvider,
    active::Lease,
    cancel::StoppableJoins,
    catalog::{Names, Readable, SYSTEM, SessionCatalogs},
    gate::{check_leaves, check_plan, parse_query},
    groups,
    lineage::Lineage,
    params::{Params, bind},
    search::{SearchTable, VECTOR_SEARCH, VectorSearch},
    stream::{Begun, QueryStream, Running},
    view::Joined,
    visible,
    witness::{Sources, Witness},
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
    /// For whom it is read.
    pub reader: Arc<Reader>,
    /// The tables of the schema `system`, by name; none for most callers.
    pub system: Vec<(String, Arc<dyn TableProvider>)>,
}

impl SessionTables {
    /// Everything of the snapshot at this journal position, for work of the daemon itself.
    pub fn all(state: Arc<CatalogState>, seq: Seq) -> Self {
        Self {
            state,
            seq,
            reader: Arc::new(Reader::daemon()),
            system: Vec::new(),
        }
    }

    /// What this reader sees of the snapshot at this journal position.
    pub fn of_reader(state: Arc<CatalogState>, seq: Seq, reader: Reader) -> Self {
        Self {
            reader: Arc::new(reader),
            ..Self::all(state, seq)
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
    gate: GateLimits,
    timeout: Duration,
    runtime: Handle,
    lease: Arc<Lease>,
    witness: Option<Arc<dyn Witness>>,
    rescued: Arc<RescueUse>,
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
    sources: Sources,
    buckets: Vec<String>,
}

impl QuerySession {
    pub(super) fn new(engine: &QueryEngine, tables: SessionTables) -> Self {
        let names = Arc::new(Names {
            state: tables.state,
            reader: tables.reader,
            key: engine.redaction_key(),
            system: tables.system.into_iter().collect::<BTreeMap<_, _>>(),
            facts: Arc::clone(engine.facts()),
            given: Arc::new(Readable::default()),
            joined: Joined::default(),
            #[cfg(test)]
            barrier: engine.has_barrier(),
        });
        let guarded = names.reader.is_guarded();
        let template = engine.template();
        let rescued = Arc::new(RescueUse::default());
        let env = engine.environment(template.runtime_env(), Arc::clone(&rescued));
        let mut state = SessionStateBuilder::new_from_existing(SessionState::clone(&template))
            .with_runtime_env(env)
            .build();
        state.register_catalog_list(Arc::new(SessionCatalogs(Arc::clone(&names))));
        if let Some(search) = engine.search().filter(|_| !guarded) {
            let (names, search) = (Arc::clone(&names), Weak::clone(search));
            let function = VectorSearch::new(names, tables.seq, search);
            state.register_udtf(VECTOR_SEARCH, Arc::new(function));
        }
        state.mark_start_execution();
        Self {
            state,
            names,
            gate: if guarded {
                GateLimits::of_agents(&engine.config().gate)
            } else {
                engine.config().gate.clone()
            },
            timeout: engine.config().timeout,
            runtime: engine.handle(),
            lease: engine.active().register_for(tables.seq, guarded),
            witness: None,
            rescued,
        }
    }

    /// Shows every batch to this witness before it leaves.
    #[must_use]
    pub fn with_witness(mut self, witness: Arc<dyn Witness>) -> Self {
        self.witness = Some(witness);
        self
    }

    /// Another account of memory than all queries' own.
    #[must_use]
    pub fn with_memory(mut self, pool: Arc<dyn MemoryPool>) -> Self {
        let mut env = RuntimeEnv::clone(self.state.runtime_env());
        env.memory_pool = pool;
        self.state = SessionStateBuilder::new_from_existing(self.state)
            .with_runtime_env(Arc::new(env))
            .build();
        self
    }

    /// Another deadline than the engine's.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The engine's deadline, or this one when it is shorter.
    #[must_use]
    pub fn within(self, timeout: Duration) -> Self {
        let shorter = timeout.min(self.timeout);
        self.with_timeout(shorter)
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
        params: impl Into<Params>,
        limit: Option<usize>,
    ) -> Result<QueryStream, QueryError> {
        let params = params.into();
        self.lease.begin()?;
        let runtime = self.runtime.clone();
        let timeout = self.timeout;
        let deadline = Instant::now() + timeout;
        let (lease, rescued) = (Arc::clone(&self.lease), Arc::clone(&self.rescued));
        let (started, start) = oneshot::channel();
        let (rows, receiver) = mpsc::channel(BATCHES_WAITING);
        let sql = sql.to_owned();
        let task = runtime.spawn(async move {
            match self.ready(&sql, &params, limit).await {
                Ok(ready) => {
                    let known = (Arc::clone(&ready.schema), ready.sources.clone());
                    if started.send(Ok(known)).is_ok() {
                        let witness = self.witness.as_deref();
                        pump(ready, &rows, deadline, &self.lease, witness).await;
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
        let (schema, sources) = match answer {
            Err(_) => return Err(QueryError::Timeout(timeout)),
            Ok(Ok(answer)) => answer?,
            Ok(Err(_)) => return Err(guard.why().await),
        };
        Ok(QueryStream::from(Begun {
            schema,
            sources,
            rescued,
            receiver,
            deadline,
            timeout,
            runtime,
            running: guard,
        }))
    }

    /// The plans of a query, without running it.
    ///
    /// # Errors
    /// Any [`QueryError`] of planning.
    pub async fn explain(self, sql: &str) -> Result<Explained, QueryError> {
        if self.names.reader.is_guarded() {
            return Err(QueryError::NotAllowed("EXPLAIN".to_owned()).in_fixed_words());
        }
        self.lease.begin()?;
        let timeout = self.timeout;
        let runtime = self.runtime.clone();
        let sql = sql.to_owned();
        let lease = Arc::clone(&self.lease);
        let task = runtime.spawn(async move {
            let statement = parse_query(&sql, &self.gate)?;
            let plan = groups::enforce(self.plan(statement).await?)?;
            let plan = self.optimized(&plan)?;
            let physical = self.physical(&plan, &[]).await?;
            Ok(Explained {
                logical: plan.display_indent().to_string(),
                physical: without_files(&displayable(physical.as_ref()).indent(false).to_string()),
            })
        });
        Running { lease, task }.finish(timeout).await
    }

    /// The columns that a query would answer with, without running it.
    ///
    /// # Errors
    /// Any [`QueryError`] of planning.
    pub async fn columns(
        self,
        sql: &str,
        params: impl Into<Params>,
    ) -> Result<SchemaRef, QueryError> {
        self.lease.begin()?;
        let (timeout, runtime) = (self.timeout, self.runtime.clone());
        let (sql, params) = (sql.to_owned(), params.into());
        let lease = Arc::clone(&self.lease);
        let task = runtime.spawn(async move { Ok(self.ready(&sql, &params, None).await?.schema) });
        Running { lease, task }.finish(timeout).await
    }

    async fn ready(
        &self,
        sql: &str,
        params: &Params,
        limit: Option<usize>,
    ) -> Result<Ready, QueryError> {
        let statement = parse_query(sql, &self.gate)?;
        let plan = groups::enforce(bind(self.plan(statement).await?, params)?)?;
        let (names, buckets) = sources(&plan)?;
        let engine = |error| QueryError::from_engine(&error, &buckets);
        let lineage = Lineage::of(&plan).map_err(engine)?;
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
            sources: Sources { names, lineage },
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
        check_plan(&plan, &self.names.given, self.names.reader.is_guarded())?;
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
        let joined = visible::joined(plan).map_err(|e| QueryError::from_engine(&e, buckets))?;
        *self.names.joined.lock() = joined;
        let planner = self.state.query_planner();
        let physical = planner
            .create_physical_plan(plan, &self.state)
            .await
            .map_err(|error| QueryError::from_engine(&error, buckets))?;
        if self.names.reader.is_guarded() && self.names.has_barrier() {
            check_leaves(&physical)?;
        }
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
            } else if let Some(view) = provider.downcast_ref::<SafeViewProvider>() {
                datasets.push(view.lens().name.clone());
                buckets.extend(view.buckets());
            } else if let Some(found) = provider.downcast_ref::<SearchTable>() {
                datasets.push(found.source().to_owned());
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
    witness: Option<&dyn Witness>,
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
            let mut batch = batch.map_err(told);
            if let (Ok(rows), Some(witness)) = (&batch, witness)
                && let Err(refused) = witness.see(&ready.sources, rows).await
            {
                batch = Err(refused);
            }
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
