//! The daemon, top to bottom: lock, journal, replay, actors, REST, drain.
//! Called by `lakehouse serve`; the only place that joins the rings together.

use std::{
    fmt::Write as _,
    fs::{File, OpenOptions, TryLockError},
    io::{Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use actix_web::{App, HttpServer, middleware::from_fn, web};
use anyhow::Context;
use lakehouse_actors::{
    Caller, Journal, Lake, Parts, Trigger,
    ports::{BucketStore, Clock, DeletionLedger, IndexBuilder, IndexDeltas, KeyHash, Readers},
    start,
};
use lakehouse_journal::{
    archive::restore_into,
    log::{CommitterConfig, LogConfig, RealIo, SealedSegment, SledLog},
    model::{
        access::{AccessCommand, Grants, Role},
        bucket::{BucketCommand, BucketSpec},
        catalog::{CatalogCommand, Dataset},
        event::GenerationCorrupted,
        scheduler::SchedulerCommand,
    },
    record::Micros,
    snapshot::SnapshotStore,
};
use tokio::runtime::{Builder, Handle, Runtime};

use crate::{
    config::{ArchiveMode, Config},
    engines::{
        audit::AuditLog,
        buckets::LakeBuckets,
        egress::EgressPolicy,
        embedder::{Embedders, store::VectorStore},
        errors::BucketErrors,
        indexes::{Embedding, LakeIndexes},
        ingest::IngestLimits,
        issuer::Issuers,
        keyring::random_secret,
        ledger::DirLedger,
        object_store::{Bucket, Buckets},
        receipts::SigningKey,
        repair::LakeInspector,
        row_keys,
        secrets::{self, SecretsProvider},
        sidecar::LakeSidecar,
        tables::LakeTables,
        token_hashes::TokenHashes,
    },
    exit::{Exit, HELD, STUCK_JOURNAL},
    limits::Limits,
    query::{QueryConfig, QueryEngine, policy::RedactionKey},
    rest::{
        self, Edge, audited, auth, health::Metrics, identified, peer, problem::Problem, request_id,
    },
};

/// How long requests may take to end after SIGTERM.
const DRAIN_S: u64 = 10;
/// How long an idle connection stays open: longer than clients keep theirs for another request.
const KEEP_ALIVE: Duration = Duration::from_mins(2);
/// Name of the token that the first start writes to `admin.token`.
const ADMIN: &str = "admin";

/// The system's clock.
struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Micros {
        chrono::Utc::now().timestamp_micros()
    }
}

/// Runs the daemon until SIGTERM or SIGINT.
///
/// # Errors
/// What keeps it from starting; an [`Exit`] where a service manager should know why.
pub fn run(config: Config) -> anyhow::Result<()> {
    make_dirs(&config)?;
    let _lock = hold(&config.data_dir)?;
    let work = runtime()?;
    let (buckets, secrets, store) = open_buckets(&config)?;
    let journal = open_journal(&config, work.handle(), &store)?;
    let system = actix_web::rt::System::new();
    let served = system.block_on(serve(
        config,
        work.handle().clone(),
        (Arc::clone(&buckets), secrets, store),
        &journal,
    ));
    journal.committer().close();
    if let Err(error) = buckets.errors().flush() {
        tracing::warn!(%error, "the last bucket errors are not written");
    }
    served
}

fn make_dirs(config: &Config) -> anyhow::Result<()> {
    for part in ["", "journal", "snapshots", "staging", "tmp"] {
        let dir = config.data_dir.join(part);
        std::fs::create_dir_all(&dir)
            .with_context(|| format!("cannot make `{}`", dir.display()))?;
    }
    // What an interrupted ingest, build or query left is nobody's any more, and may hold any row.
    for part in ["staging", "tmp"] {
        empty(&config.data_dir.join(part))?;
    }
    Ok(())
}

fn empty(dir: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(entry.path())?;
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Takes the data directory for this process, as long as the file is open.
fn hold(data_dir: &Path) -> anyhow::Result<File> {
    let path = data_dir.join("LOCK");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            file.read_to_string(&mut holder)?;
            let text = format!("the data directory is held by process {}", holder.trim());
            return Err(Exit::new(HELD, text).into());
        }
        Err(TryLockError::Error(error)) => {
            return Err(error).context("cannot lock the data directory");
        }
    }
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())?;
    Ok(file)
}

/// Threads for long work: ingests, builds, housekeeping.
fn runtime() -> anyhow::Result<Runtime> {
    Ok(Builder::new_multi_thread()
        .thread_name("work")
        .worker_threads(2)
        .enable_all()
        .build()?)
}

type Stores = (Arc<Buckets>, Arc<dyn SecretsProvider>, Arc<LakeBuckets>);

/// The configured buckets, with what opens further ones. A bucket that cannot be opened counts as down.
fn open_buckets(config: &Config) -> anyhow::Result<Stores> {
    let secrets = secrets::open(&config.data_dir, config.secrets.file.as_deref())?;
    let secrets: Arc<dyn SecretsProvider> = Arc::new(secrets);
    let errors = BucketErrors::open(&config.data_dir.join("errors"))
        .context("the error journal cannot be read")?;
    errors.write_in_background();
    let buckets = Arc::new(Buckets::noting(errors));
    let egress = bucket_egress(config);
    let staging = config.data_dir.join("staging");
    let store = LakeBuckets::new(Arc::clone(&buckets), Arc::clone(&secrets), egress, staging)
        .with_timeout(Duration::from_secs(config.storage.request_timeout_s));
    for (name, spec) in config.bucket_specs() {
        store.open_or_broken(&name, &spec);
        if let Some(local) = buckets.get(&name)?.local {
            // As with `staging`: nobody's any more, and it may hold any row.
            local
                .remove_broken()
                .with_context(|| format!("bucket `{name}` cannot be cleared of broken writes"))?;
        }
    }
    Ok((buckets, secrets, Arc::new(store)))
}

/// Where buckets may be: endpoints of the configuration, and what `egress` names.
fn bucket_egress(config: &Config) -> EgressPolicy {
    let mut allow = config.egress.allow.clone();
    allow.extend(config.bucket_endpoints());
    EgressPolicy {
        allow,
        allow_loopback: false,
    }
}

fn open_journal(
    config: &Config,
    work: &Handle,
    store: &Arc<LakeBuckets>,
) -> anyhow::Result<Journal> {
    let log = SledLog::open(
        config.data_dir.join("journal"),
        &LogConfig {
            on_stuck: Some(Arc::new(|_| {
                tracing::error!("the journal's index hangs; a new process recovers it");
                std::process::exit(i32::from(STUCK_JOURNAL));
            })),
            ..LogConfig::default()
        },
        Arc::new(RealIo),
    )
    .context("the journal cannot be opened")?;
    let mut committer = CommitterConfig::default();
    if config.journal.archive == ArchiveMode::Sync {
        let (work, store) = (work.clone(), Arc::clone(store));
        let primary = config.storage.primary.clone();
        committer.archive = Some(Box::new(move |segment: &SealedSegment| {
            let bytes = segment.read().map_err(|error| error.to_string())?;
            work.block_on(store.put_if_absent(&primary, &segment.key(), bytes))
                .map_err(|error| error.to_string())
        }));
    }
    let snapshots = Arc::new(SnapshotStore::new(config.data_dir.join("snapshots")));
    Journal::spawn(Box::new(log), committer, Some(snapshots)).context("the journal cannot be read")
}

async fn serve(
    config: Config,
    work: Handle,
    (buckets, secrets, store): Stores,
    journal: &Journal,
) -> anyhow::Result<()> {
    let receipts = SigningKey::open_or_make(&config.data_dir)
        .context("the key that receipts are signed with cannot be used")?;
    let redactions = RedactionKey::new(random_secret(&config.data_dir, "redactions.key")?);
    let query = QueryEngine::new(query_config(&config), Arc::clone(&buckets))?;
    let query = Arc::new(query.with_redaction_key(redactions));
    let staging = config.data_dir.join("staging");
    let key_hash = row_keys::hasher(&config.data_dir)?;
    let tables = LakeTables::new(
        staging.clone(),
        ingest_limits(&config),
        Arc::clone(&buckets),
        Arc::clone(&query),
    );
    let indexes = LakeIndexes::new(
        staging,
        config.data_dir.join("cache"),
        Arc::clone(&buckets),
        Arc::clone(&query),
        Arc::clone(&key_hash),
    );
    let indexes = Arc::new(indexes.with_embedding(embedding(&config, &secrets)?));
    query.serve_search(Arc::downgrade(&indexes) as _);
    let sidecar = LakeSidecar::new(
        config.data_dir.join("staging"),
        Arc::clone(&buckets),
        Arc::clone(&key_hash),
    );
    let ledger = open_ledger(&config)?;
    let sweep = Trigger::new("orphan_sweep", &config.storage.orphan_sweep)
        .map_err(|error| anyhow::anyhow!("storage.orphan_sweep: {error}"))?;
    let (lake, report) = start(Parts {
        journal: journal.clone(),
        clock: Arc::new(SystemClock),
        lookup: Arc::new(tables.clone()),
        compactor: Arc::new(tables.clone()),
        sidecar: Arc::new(sidecar),
        readers: Arc::clone(&query) as Arc<dyn Readers>,
        ledger,
        key_hash: Arc::clone(&key_hash),
        builder: Arc::clone(&indexes) as Arc<dyn IndexBuilder>,
        deltas: Arc::clone(&indexes) as Arc<dyn IndexDeltas>,
        buckets: Arc::clone(&store) as Arc<dyn BucketStore>,
        inspector: Arc::new(LakeInspector::new(Arc::clone(&buckets))),
        runtime: work,
        primary: config.storage.primary.clone(),
        orphan_grace: Duration::from_secs(config.storage.orphan_grace_s),
        retention: Duration::from_secs(config.storage.retention_s),
        erasure_delay: Duration::from_secs(config.erasure.delay_s),
        query_deadline: Duration::from_secs(config.erasure.query_deadline_s),
        triggers: vec![sweep],
    })
    .context("the journal cannot be replayed")?;
    tracing::info!(
        seq = report.seq,
        records = report.records,
        ms = report.replay_ms,
        "replayed"
    );
    report_corruption(&lake, &indexes);
    let tokens = TokenHashes::open(&config.data_dir)?;
    settle(&lake, &config, &tokens).await?;
    indexes
        .forget_vectors_of_dropped(&lake.catalog().state)
        .context("vectors of a dropped dataset cannot be removed")?;
    let forgotten = settle_ledger(&lake, &query, &key_hash).await?;
    if forgotten > 0 {
        tracing::warn!(
            rows = forgotten,
            "deleted again what a restored backup had brought back"
        );
    }
    let audit_secret = random_secret(&config.data_dir, "audit.key")?;
    let edge = web::Data::new(Edge {
        issuers: Issuers::new(&config),
        tokens,
        limits: Limits::new(config.limits.of_roles()),
        audit: AuditLog::open(&config.data_dir.join("audit"), audit_secret)?,
        lake: lake.clone(),
        query,
        tables,
        indexes,
        buckets,
        secrets,
        store,
        receipts: Arc::new(receipts),
        started: Instant::now(),
        replay_ms: report.replay_ms,
        metrics: Metrics::default(),
        config,
    });
    answer_requests(edge).await?;
    let checkpoint = SchedulerCommand::NoteCheckpoint {
        owners: lake.hashes(),
    };
    lake.ask_scheduler(checkpoint, Caller::daemon("daemon"))
        .await?;
    Ok(())
}

fn ingest_limits(config: &Config) -> IngestLimits {
    IngestLimits {
        body_bytes_max: config.ingest.body_limit.0,
        ..IngestLimits::default()
    }
}

/// The ledger of deletions, where one is configured.
fn open_ledger(config: &Config) -> anyhow::Result<Option<Arc<dyn DeletionLedger>>> {
    let Some(dir) = &config.erasure.ledger else {
        return Ok(None);
    };
    let ledger = DirLedger::open(config.data_dir.join(dir))
        .with_context(|| format!("erasure.ledger: `{}` cannot be used", dir.display()))?;
    Ok(Some(Arc::new(ledger)))
}

/// Who makes vectors, and where those that were paid for are kept.
fn embedding(config: &Config, secrets: &Arc<dyn SecretsProvider>) -> anyhow::Result<Embedding> {
    let embedders = Embedders::new(config, secrets).context("the embedders cannot be used")?;
    let kept = VectorStore::open(&config.data_dir)
        .context("the secret of the kept vectors cannot be used")?;
    Ok(Embedding {
        embedders: Arc::new(embedders),
        kept: Some(Arc::new(kept)),
    })
}

fn query_config(config: &Config) -> QueryConfig {
    QueryConfig {
        memory_limit_bytes: config.query.memory_limit.as_usize(),
        timeout: Duration::from_secs(config.query.timeout_s),
        ..QueryConfig::new(config.data_dir.join("tmp").join("spill"))
    }
}

/// A generation that is not what was built is noted, and built anew.
fn report_corruption(lake: &Lake, indexes: &LakeIndexes) {
    let (lake, runtime) = (lake.clone(), tokio::runtime::Handle::current());
    indexes.tell_corruption(Box::new(move |index, generation, reason| {
        let report = CatalogCommand::ReportCorruption(GenerationCorrupted {
            index: index.to_owned(),
            generation,
            reason: reason.to_owned(),
        });
        let lake = lake.clone();
        runtime.spawn(async move {
            if let Err(error) = lake.ask_catalog(report, Caller::daemon("indexes")).await {
                tracing::error!(%error, "a corrupt generation is not noted");
            }
        });
    }));
}

/// Brings what the configuration says into the journal: the start, the buckets, the admin token.
async fn settle(lake: &Lake, config: &Config, tokens: &TokenHashes) -> anyhow::Result<()> {
    let caller = || Caller::daemon("daemon");
    let version = env!("CARGO_PKG_VERSION").to_owned();
    lake.ask_scheduler(SchedulerCommand::NoteStart { version }, caller())
        .await?;
    for (bucket, spec) in config.bucket_specs() {
        let command = BucketCommand::Register {
            bucket: bucket.clone(),
            spec,
        };
        lake.ask_bucket(&bucket, command, caller()).await?;
    }
    let hash = tokens.of(&admin_secret(config)?);
    let known = lake.access().state.token(&hash, lake.now()).is_some();
    if known {
        return Ok(());
    }
    let old: Vec<String> = lake
        .access()
        .state
        .tokens
        .values()
        .filter(|token| token.name == ADMIN && token.revoked_at.is_none())
        .map(|token| token.id.clone())
        .collect();
    for id in old {
        lake.ask_access(AccessCommand::RevokeToken { id }, caller())
            .await?;
    }
    let command = AccessCommand::IssueToken {
        name: ADMIN.to_owned(),
        role: Role::Admin,
        secret_hash: hash,
        expires_at: None,
        grants: Grants::default(),
    };
    lake.ask_access(command, caller()).await?;
    Ok(())
}

/// Deletes what the ledger of deletions lists and this data directory does not know, as it came out
/// of a backup. Returns how many rows.
async fn settle_ledger(
    lake: &Lake,
    query: &Arc<QueryEngine>,
    key_hash: &KeyHash,
) -> anyhow::Result<u64> {
    let clear = |dataset: Arc<Dataset>, hashes: Vec<String>| {
        let (query, key_hash) = (Arc::clone(query), Arc::clone(key_hash));
        async move { row_keys::clear(&query, &dataset, &hashes, &key_hash).await }
    };
    lake.settle_ledger(clear)
        .await
        .context("the ledger of deletions cannot be applied, so nothing is served")
}

/// The secret in `admin.token`, made at the first start with mode 0600 from its creation.
fn admin_secret(config: &Config) -> anyhow::Result<String> {
    let path = config.admin_token_path();
    if let Ok(text) = std::fs::read_to_string(&path)
        && !text.trim().is_empty()
    {
        return Ok(text.trim().to_owned());
    }
    let secret = rest::access::new_secret().map_err(|error| anyhow::anyhow!("{error}"))?;
    let new = path.with_extension("token.new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    writeln!(file, "{secret}")?;
    file.sync_all()?;
    std::fs::rename(&new, &path)?;
    File::open(&config.data_dir)?.sync_all()?;
    Ok(secret)
}

async fn answer_requests(edge: web::Data<Edge>) -> anyhow::Result<()> {
    let listen = edge.config.server.listen;
    let server = HttpServer::new(move || {
        App::new()
            .app_data(edge.clone())
            .wrap(from_fn(identified::wrap))
            .wrap(from_fn(audited::wrap))
            .wrap(from_fn(request_id::wrap))
            .configure(rest::routes)
            .default_service(web::to(no_such_route))
    })
    .on_connect(peer::remember)
    .workers(std::thread::available_parallelism().map_or(2, usize::from))
    .keep_alive(KEEP_ALIVE)
    .shutdown_timeout(DRAIN_S)
    .disable_signals()
    .bind(listen)
    .with_context(|| format!("cannot listen on {listen}"))?;
    for address in server.addrs() {
        println!("listening on http://{address}");
    }
    std::io::stdout().flush()?;
    let server = server.run();
    let handle = server.handle();
    tokio::spawn(async move {
        stop_signal().await;
        handle.stop(true).await;
    });
    server.await.context("the server failed")
}

/// Waits for SIGTERM or SIGINT. The server's own handling would stop the actors as well, which
/// still have a checkpoint to write.
async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    match (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
        _ => std::future::pending().await,
    }
}

/// A route that is not there, answered like one that is: only to who has a token.
async fn no_such_route(
    request: actix_web::HttpRequest,
    _: auth::May<auth::ReadCatalog>,
) -> Result<&'static str, Problem> {
    let text = format!("no route `{} {}`", request.method(), request.path());
    Err(Problem::new(
        actix_web::http::StatusCode::NOT_FOUND,
        "route_not_found",
        text,
    ))
}

/// Rebuilds the journal of an empty data directory from the archive in a bucket: one of the
/// configuration, or a directory. Says what was restored.
///
/// # Errors
/// When the archive cannot be read or the data directory holds a journal already.
pub fn restore(config: &Config, from: &str) -> anyhow::Result<String> {
    std::fs::create_dir_all(&config.data_dir)?;
    let _lock = hold(&config.data_dir)?;
    let spec = config
        .bucket_specs()
        .into_iter()
        .find(|(name, _)| name == from);
    let spec = spec.map_or_else(
        || BucketSpec::Local {
            root: from.to_owned(),
            rescue_bucket: None,
        },
        |(_, spec)| spec,
    );
    if let BucketSpec::Local { root, .. } = &spec {
        anyhow::ensure!(
            Path::new(root).is_dir(),
            "`{from}` is no bucket and no directory"
        );
    }
    let (buckets, _, store) = open_buckets(config)?;
    buckets.register(store.try_open("archive", &spec)?);
    let bucket = buckets.get("archive")?;
    let segments = runtime()?.block_on(archived(&store, &bucket))?;
    let report = restore_into(&config.data_dir.join("journal"), segments)?;
    let mut text = format!(
        "restored {} events in {} segments, up to {}",
        report.events, report.segments, report.last_seq
    );
    if let Some(gap) = report.gap {
        let _ = write!(
            text,
            "; stopped at `{}`: events from {} on are missing ({})",
            gap.key, gap.first_missing, gap.detail
        );
    }
    Ok(text)
}

async fn archived(store: &LakeBuckets, bucket: &Bucket) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    use object_store::ObjectStoreExt;
    let mut keys: Vec<String> = store
        .list(&bucket.name, "_journal/")
        .await?
        .into_iter()
        .map(|object| object.key)
        .collect();
    keys.sort_unstable();
    let mut segments = Vec::new();
    for key in keys {
        let path = object_store::path::Path::parse(&key)?;
        segments.push((key, bucket.store.get(&path).await?.bytes().await?.to_vec()));
    }
    Ok(segments)
}
