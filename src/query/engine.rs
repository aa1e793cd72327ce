//! The query engine of the daemon: memory, spill space, caches and threads that all queries share.
//! Made once by the daemon; hands out a session per request. Queries run on threads of their own with
//! large stacks, so that they neither hold up the edge nor overflow.

use std::{
    path::PathBuf,
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use datafusion::{
    execution::{
        SessionState, SessionStateBuilder, SessionStateDefaults,
        cache::cache_manager::{CacheManagerConfig, FileMetadataCache},
        disk_manager::{DiskManagerBuilder, DiskManagerMode},
        memory_pool::{FairSpillPool, GreedyMemoryPool, MemoryPool},
        runtime_env::{RuntimeEnv, RuntimeEnvBuilder},
    },
    prelude::SessionConfig,
};
use lakehouse_actors::ports::Readers;
use lakehouse_journal::record::Seq;
use object_store::ObjectStore;
use tokio::runtime::{Handle, Runtime};

use super::{
    GateLimits, QueryError, SqlSearch,
    active::{ActiveQueries, Drained, Pinned},
    catalog::{CATALOG, DATASETS},
    facts::FactsCache,
    memory::PartOfPool,
    policy::RedactionKey,
    session::{QuerySession, SessionTables},
    store::{LakeRegistry, LakeStore, lake_path},
};
use crate::engines::object_store::{Buckets, RescueUse};

/// Stack of a query thread: what the largest statement that the gate lets in needs, many times over.
const STACK_BYTES: usize = 64 << 20;

/// How memory is shared between queries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemorySharing {
    /// Operators that can spill get equal parts: no query starves another.
    Fair,
    /// Whoever comes first.
    Greedy,
}

/// The settings of the engine.
#[derive(Debug, Clone)]
pub struct QueryConfig {
    /// Memory for all queries together, in bytes.
    pub memory_limit_bytes: usize,
    /// How it is shared.
    pub memory_sharing: MemorySharing,
    /// Where queries spill; emptied at start.
    pub spill_dir: PathBuf,
    /// Room for spilling, in bytes.
    pub spill_bytes_max: u64,
    /// How long a statement may take, its answer included.
    pub timeout: Duration,
    /// Partitions a query works in, and threads; 0 = one per core.
    pub target_partitions: usize,
    /// Rows of a JSON answer.
    pub rows_json_max: usize,
    /// Memory for footers of files, in bytes.
    pub footer_cache_bytes: usize,
    /// Bytes of a scan from which on it is split over partitions.
    pub repartition_bytes_min: usize,
    /// Whether the scan itself evaluates filters (late materialisation).
    pub pushdown_filters: bool,
    /// How large a statement may be.
    pub gate: GateLimits,
}

impl QueryConfig {
    /// The settings that a daemon starts with, spilling to `spill_dir`.
    pub fn new(spill_dir: impl Into<PathBuf>) -> Self {
        Self {
            memory_limit_bytes: 4 << 30,
            memory_sharing: MemorySharing::Fair,
            spill_dir: spill_dir.into(),
            spill_bytes_max: 8 << 30,
            timeout: Duration::from_mins(1),
            target_partitions: 0,
            rows_json_max: 10_000,
            footer_cache_bytes: 256 << 20,
            repartition_bytes_min: 10 << 20,
            pushdown_filters: false,
            gate: GateLimits::default(),
        }
    }

    fn partitions(&self) -> usize {
        match self.target_partitions {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            set => set,
        }
    }
}

/// What all queries share.
pub struct QueryEngine {
    config: QueryConfig,
    template: ArcSwap<SessionState>,
    facts: Arc<FactsCache>,
    redaction_key: RedactionKey,
    #[cfg(test)]
    barrier: bool,
    active: Arc<ActiveQueries>,
    store: Arc<dyn ObjectStore>,
    lake: LakeStore,
    search: OnceLock<Weak<dyn SqlSearch>>,
    runtime: Option<Runtime>,
}

impl std::fmt::Debug for QueryEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QueryEngine")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl QueryEngine {
    /// An engine over these buckets, as they are when a query reads.
    ///
    /// # Errors
    /// [`QueryError::Internal`] when the spill directory or the threads cannot be made.
    pub fn new(config: QueryConfig, buckets: Arc<Buckets>) -> Result<Self, QueryError> {
        let failed = |error: &dyn std::fmt::Display| QueryError::Internal(error.to_string());
        if config.spill_dir.exists() {
            std::fs::remove_dir_all(&config.spill_dir).map_err(|e| failed(&e))?;
        }
        std::fs::create_dir_all(&config.spill_dir).map_err(|e| failed(&e))?;
        let lake = LakeStore::new(buckets);
        let store: Arc<dyn ObjectStore> = Arc::new(lake.clone());
        let env = runtime_env(&config, &store)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(config.partitions().max(2))
            .thread_name("query")
            .thread_stack_size(STACK_BYTES)
            .enable_all()
            .build()
            .map_err(|e| failed(&e))?;
        Ok(Self {
            template: ArcSwap::from_pointee(template(&config, env)),
            facts: Arc::new(FactsCache::default()),
            redaction_key: RedactionKey::random()?,
            #[cfg(test)]
            barrier: true,
            active: Arc::default(),
            store,
            lake,
            search: OnceLock::new(),
            runtime: Some(runtime),
            config,
        })
    }

    /// The same with the secret that hashes and tokens are made with; without, they last as long as the
    /// engine.
    #[must_use]
    pub fn with_redaction_key(mut self, key: RedactionKey) -> Self {
        self.redaction_key = key;
        self
    }

    /// The same with views that are no barriers, so that a test sees what these keep.
    #[cfg(test)]
    #[must_use]
    pub fn without_barrier(mut self) -> Self {
        self.barrier = false;
        self
    }

    #[cfg(test)]
    pub(super) fn has_barrier(&self) -> bool {
        self.barrier
    }

    /// The secret behind hashes and tokens.
    pub fn redaction_key(&self) -> RedactionKey {
        self.redaction_key
    }

    /// Lets sessions search by `vector_search`; the first one that is given stays.
    pub fn serve_search(&self, search: Weak<dyn SqlSearch>) {
        // Set once, by who puts the daemon together.
        let _ = self.search.set(search);
    }

    pub(super) fn search(&self) -> Option<&Weak<dyn SqlSearch>> {
        self.search.get()
    }

    /// A session for one request: it sees `tables` and nothing else.
    pub fn session(&self, tables: SessionTables) -> QuerySession {
        QuerySession::new(self, tables)
    }

    /// Waits until no query reads a snapshot before `before`, so that files which only those name
    /// can be removed. At the deadline the ones left are ended with
    /// [`QueryError::SnapshotExpired`] and get five seconds to be gone; from then on a file that such a
    /// snapshot misses is told the same way. Newer queries are neither waited for nor delayed.
    pub async fn drain(&self, before: Seq, deadline: Duration) -> Drained {
        self.active.drain(before, deadline).await
    }

    /// How many queries run or have an answer that is still being read.
    pub fn running(&self) -> usize {
        self.active.len()
    }

    /// The settings.
    pub fn config(&self) -> &QueryConfig {
        &self.config
    }

    /// The threads that queries run on.
    pub fn handle(&self) -> Handle {
        self.runtime
            .as_ref()
            .expect("the threads are taken away only when the engine is dropped")
            .handle()
            .clone()
    }

    /// A part of the memory that all queries share.
    pub fn part_of_memory(&self, bytes_max: usize) -> Arc<dyn MemoryPool> {
        let whole = Arc::clone(&self.template().runtime_env().memory_pool);
        Arc::new(PartOfPool::new(whole, bytes_max))
    }

    /// Bytes that queries have reserved just now.
    pub fn memory_reserved_bytes(&self) -> usize {
        self.template().runtime_env().memory_pool.reserved()
    }

    /// Bytes that queries have spilled and not yet given back.
    pub fn spill_used_bytes(&self) -> u64 {
        self.template().runtime_env().disk_manager.used_disk_space()
    }

    /// The state that sessions start from.
    pub(super) fn template(&self) -> Arc<SessionState> {
        let current = self.template.load_full();
        let spill = &current.runtime_env().disk_manager;
        let lost = spill.used_disk_space() > 0 && spill.spilling_progress().active_files_count == 0;
        if !lost {
            return current;
        }
        // A query that ends for want of room leaves its last file counted (DataFusion 54): without
        // a fresh count, the room would be used up by files that are long gone.
        match self.with_fresh_count(&current) {
            Ok(fresh) => {
                self.template.store(Arc::clone(&fresh));
                fresh
            }
            Err(error) => {
                tracing::warn!(%error, "the spill directory cannot be counted anew");
                current
            }
        }
    }

    fn with_fresh_count(
        &self,
        current: &SessionState,
    ) -> datafusion::error::Result<Arc<SessionState>> {
        let mut env = RuntimeEnv::clone(current.runtime_env());
        env.disk_manager = Arc::new(spill_space(&self.config).build()?);
        let state = SessionStateBuilder::new_from_existing(current.clone())
            .with_runtime_env(Arc::new(env))
            .build();
        Ok(Arc::new(state))
    }

    /// The environment of one session: as all have it, but for who is noted to have answered for whom.
    pub(super) fn environment(&self, shared: &RuntimeEnv, used: Arc<RescueUse>) -> Arc<RuntimeEnv> {
        let mut own = RuntimeEnv::clone(shared);
        own.object_store_registry = Arc::new(LakeRegistry(Arc::new(self.lake.noting(used))));
        Arc::new(own)
    }

    pub(super) fn facts(&self) -> &Arc<FactsCache> {
        &self.facts
    }

    /// The footers of files that were read, by `<bucket>/<key>`.
    pub(super) fn footers(&self) -> Arc<dyn FileMetadataCache> {
        let runtime = Arc::clone(self.template.load().runtime_env());
        runtime.cache_manager.get_file_metadata_cache()
    }

    /// Keeps the files of the snapshot at `snapshot`, and of newer ones, until what it returns is dropped.
    /// Ask with a position that is published already, then read the snapshot.
    pub fn pin(&self, snapshot: Seq) -> Pinned {
        self.active.pin(snapshot)
    }

    /// The queries that run.
    pub(super) fn active(&self) -> &Arc<ActiveQueries> {
        &self.active
    }

    /// All buckets as one read-only store.
    pub(super) fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }
}

impl Drop for QueryEngine {
    fn drop(&mut self) {
        // Never waits: the engine may be dropped on an async thread.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn runtime_env(
    config: &QueryConfig,
    store: &Arc<dyn ObjectStore>,
) -> Result<Arc<RuntimeEnv>, QueryError> {
    let pool: Arc<dyn MemoryPool> = match config.memory_sharing {
        MemorySharing::Fair => Arc::new(FairSpillPool::new(config.memory_limit_bytes)),
        MemorySharing::Greedy => Arc::new(GreedyMemoryPool::new(config.memory_limit_bytes)),
    };
    let caches = CacheManagerConfig::default().with_metadata_cache_limit(config.footer_cache_bytes);
    RuntimeEnvBuilder::new()
        .with_memory_pool(pool)
        .with_disk_manager_builder(spill_space(config))
        .with_cache_manager(caches)
        .with_object_store_registry(Arc::new(LakeRegistry(Arc::clone(store))))
        .build_arc()
        .map_err(|error| QueryError::Internal(error.to_string()))
}

fn spill_space(config: &QueryConfig) -> DiskManagerBuilder {
    DiskManagerBuilder::default()
        .with_mode(DiskManagerMode::Directories(vec![config.spill_dir.clone()]))
        .with_max_temp_directory_size(config.spill_bytes_max)
}

/// The state that every session starts from: functions, but no table, file format or factory.
fn template(config: &QueryConfig, env: Arc<RuntimeEnv>) -> SessionState {
    let mut session = SessionConfig::new()
        .with_target_partitions(config.partitions())
        .with_information_schema(false)
        .with_default_catalog_and_schema(CATALOG, DATASETS)
        .with_create_default_catalog_and_schema(false)
        .with_collect_statistics(true);
    let options = session.options_mut();
    options.execution.parquet.pushdown_filters = config.pushdown_filters;
    options.execution.parquet.reorder_filters = config.pushdown_filters;
    options.optimizer.repartition_file_min_size = config.repartition_bytes_min;
    options.sql_parser.recursion_limit = config.gate.depth_max;
    SessionStateBuilder::new()
        .with_config(session)
        .with_runtime_env(env)
        .with_expr_planners(SessionStateDefaults::default_expr_planners())
        .with_scalar_functions(SessionStateDefaults::default_scalar_functions())
        .with_higher_order_functions(SessionStateDefaults::default_higher_order_functions())
        .with_aggregate_functions(SessionStateDefaults::default_aggregate_functions())
        .with_window_functions(SessionStateDefaults::default_window_functions())
        .build()
}

#[async_trait]
impl Readers for QueryEngine {
    async fn drain(&self, before: Seq, deadline: Duration) {
        Self::drain(self, before, deadline).await;
    }

    fn forget(&self, bucket: &str, key: &str) {
        let path = lake_path(bucket, key);
        self.footers().remove(&path);
        self.facts.forget(&path);
    }
}
