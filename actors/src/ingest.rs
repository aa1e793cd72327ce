//! The ingest worker: reads a source into files, puts them into a bucket, asks the catalog to
//! commit them. Nothing is visible before the catalog's event; what a failure leaves is an orphan.

use std::sync::{Arc, atomic::Ordering};

use async_trait::async_trait;
use lakehouse_journal::model::{
    ErrorKind, Event, ModelError,
    catalog::{
        CatalogCommand, CommitFiles, CreateDataset, Dataset, DatasetSpec, ErasedKeys, FileEntry,
        IngestMode, Source, SourceWatermark,
    },
    event::{CatalogEvent, DeletedRows},
};
use lakehouse_journal::record::Micros;
use tokio::sync::oneshot;

use crate::{
    compaction::discard,
    error::{LakeError, PortError},
    jobs::Job,
    lake::Lake,
    owner::{Caller, Committed},
    ports::{BucketStore, Since, StageFn, StageOptions, StagedTable},
    worker::Duty,
};

/// How often a commit is prepared again because the dataset changed meanwhile.
const STALE_RETRIES: usize = 20;

/// Rows to take in.
pub struct IngestRequest {
    /// The dataset.
    pub dataset: String,
    /// How.
    pub mode: IngestMode,
    /// Key columns: of a new dataset, or the same as the existing one's.
    pub key: Option<Vec<String>>,
    /// The bucket of a new dataset, or of these files.
    pub bucket: Option<String>,
    /// `file` or `postgres`.
    pub source_kind: String,
    /// Where the rows come from, without any secret.
    pub source_name: String,
    /// Take only rows in whose value of this column is newer than at the last read of this source.
    pub since: Option<String>,
    /// Reads them.
    pub stage: StageFn,
    /// Shows how far it is.
    pub job: Arc<Job>,
    /// Who asks.
    pub caller: Caller,
}

impl IngestRequest {
    /// Where a read of newer rows begins. Without a key, rows that are read twice would be there twice.
    fn since(&self, dataset: Option<&Dataset>, keyed: bool) -> Option<Since> {
        let column = self.since.clone()?;
        let value = dataset.and_then(|dataset| dataset.watermark(&self.source_name, &column));
        Some(Since {
            value: value.map(str::to_owned),
            inclusive: keyed && self.mode != IngestMode::Replace,
            column,
        })
    }
}

/// What an ingest did.
#[derive(Debug, Clone)]
pub struct Ingested {
    /// The commit; without events when the same content was there already.
    pub committed: Committed,
    /// Rows read.
    pub rows: u64,
    /// Batches read.
    pub batches: u64,
    /// Bytes of the source.
    pub source_bytes: u64,
    /// Number of columns.
    pub columns: usize,
    /// The schema's fingerprint.
    pub schema_fingerprint: String,
    /// Rows that were not let in because their keys were deleted for good before.
    pub erased_skipped: u64,
    /// How far the source was read, when only its newer rows were asked for.
    pub watermark: Option<SourceWatermark>,
    /// What the caller should know of the source's values.
    pub notes: Vec<String>,
}

/// A request with the way back.
pub(crate) struct IngestTask {
    pub request: IngestRequest,
    pub reply: oneshot::Sender<Result<Ingested, LakeError>>,
}

/// The worker's duty.
pub(crate) struct IngestDuty {
    pub lake: Lake,
    pub store: Arc<dyn BucketStore>,
}

#[async_trait]
impl Duty for IngestDuty {
    type Task = IngestTask;

    async fn run(&self, task: IngestTask) {
        let IngestTask { request, reply } = task;
        let job = Arc::clone(&request.job);
        job.runs();
        let result = self.ingest(request).await;
        match &result {
            Ok(done) => job.done(Some(serde_json::json!({
                "rows": done.rows, "journal_seq": done.committed.seq,
            }))),
            Err(error) => job.failed(error.to_string()),
        }
        // A client that hung up does not undo a commit.
        let _ = reply.send(result);
    }
}

impl IngestDuty {
    async fn ingest(&self, request: IngestRequest) -> Result<Ingested, LakeError> {
        let started = self.lake.now();
        let plan = self.check(&request)?;
        let IngestRequest {
            dataset,
            mode,
            source_kind,
            source_name,
            stage,
            job,
            caller,
            ..
        } = request;
        let options = StageOptions {
            expected: plan.expected.clone(),
            key: plan.key.clone(),
            since: plan.since.clone(),
            progress: Arc::clone(&job.progress),
        };
        let staged = self.stage(stage, options).await?;
        job.progress
            .total
            .store(job.progress.done.load(Ordering::Relaxed), Ordering::Relaxed);
        let source = Source {
            kind: source_kind,
            name: source_name,
            content_hash: staged.content_hash().to_owned(),
            watermark: plan.since.as_ref().map(|since| SourceWatermark {
                column: since.column.clone(),
                from: since.value.clone(),
                value: staged.watermark().map(str::to_owned),
            }),
        };
        let summary = |committed: Committed| Ingested {
            rows: staged.rows(),
            batches: staged.batches(),
            source_bytes: staged.source_bytes(),
            columns: staged.schema().columns.len(),
            schema_fingerprint: staged.schema().fingerprint.clone(),
            erased_skipped: skipped(&committed),
            watermark: source.watermark.clone(),
            notes: staged.notes().to_vec(),
            committed,
        };
        let caller = with_content(caller, &source.content_hash);
        let prepared = Prepared {
            dataset: &dataset,
            mode,
            source: &source,
            staged: staged.as_ref(),
            caller: &caller,
            started,
        };
        if self.lake.is_repeated(&caller) {
            // The owner answers from its memory and looks at no file.
            return self.commit(&plan, &prepared, &[]).await.map(summary);
        }
        if self.already_has(&dataset, mode, &source) {
            return Ok(summary(self.lake.nothing_done()));
        }
        if plan.replaces_rows(mode) || self.has_erased_keys(&dataset) {
            staged.load_keys().await?;
        }
        let _publishing = self.lake.inner.publishing.pass(&plan.dataset_id).await;
        let added = staged.publish(&plan.bucket, &plan.dataset_id).await?;
        let result = self.commit(&plan, &prepared, &added).await;
        let unused = match &result {
            Ok(committed) => committed.repeated || committed.events.is_empty(),
            Err(error) => error.is_definite(),
        };
        if unused && !staged.lies_in_bucket() {
            discard(self.store.as_ref(), &added).await;
        }
        result.map(summary)
    }

    /// Asks for the commit of published files, and again when the dataset changed meanwhile.
    async fn commit(
        &self,
        plan: &Plan,
        prepared: &Prepared<'_>,
        published: &[FileEntry],
    ) -> Result<Committed, LakeError> {
        let Prepared {
            dataset,
            mode,
            source,
            staged,
            caller,
            started,
        } = *prepared;
        for attempt in 0..STALE_RETRIES {
            let gates = &self.lake.inner.gates;
            let right_of_way = gates.insist(dataset, attempt).await;
            let snapshot = self.lake.catalog();
            let current = snapshot.state.datasets.get(dataset);
            let replacing = current.filter(|_| plan.replaces_rows(mode) && !published.is_empty());
            let Some(deleted) = self.replaced(replacing, staged).await? else {
                continue;
            };
            let mut added = published.to_vec();
            let erased_skipped = match current {
                Some(current) if !added.is_empty() => {
                    self.refuse_erased(current, staged, &mut added).await?
                }
                _ => 0,
            };
            let commit = CommitFiles {
                proposals: staged.proposals(),
                dataset: dataset.to_owned(),
                mode,
                read_seq: snapshot.seq,
                added,
                deleted,
                schema: staged.schema().clone(),
                source: source.clone(),
                rows: staged.rows(),
                batches: staged.batches(),
                source_bytes: staged.source_bytes(),
                elapsed_ms: u64::try_from((self.lake.now() - started) / 1000).unwrap_or(0),
                erased_skipped,
            };
            let _leave = match right_of_way {
                Some(leave) => leave,
                None => gates.pass(dataset).await,
            };
            let command = plan.command(commit, caller);
            match self.lake.ask_catalog(command, caller.clone()).await {
                Err(LakeError::Refused(ModelError::Stale { .. })) => {}
                other => return other,
            }
        }
        Err(PortError::new(
            ErrorKind::Conflict,
            "dataset_busy",
            format!("dataset `{dataset}` changes too fast; try again"),
        )
        .into())
    }

    /// Rows of the dataset that the staged ones replace; nothing when its files were exchanged while
    /// they were read.
    async fn replaced(
        &self,
        current: Option<&Arc<Dataset>>,
        staged: &dyn StagedTable,
    ) -> Result<Option<Vec<DeletedRows>>, LakeError> {
        let Some(current) = current else {
            return Ok(Some(Vec::new()));
        };
        match staged.replaced_rows(current).await {
            Err(_) if self.lake.has_moved_on(current) => Ok(None),
            replaced => Ok(Some(replaced?)),
        }
    }

    fn has_erased_keys(&self, dataset: &str) -> bool {
        let snapshot = self.lake.catalog();
        let found = snapshot.state.datasets.get(dataset);
        found.is_some_and(|dataset| {
            dataset.erased_keys == ErasedKeys::Refuse && !dataset.tombstones.is_empty()
        })
    }

    /// Marks rows whose keys were deleted for good as deleted again, and counts them: they are never
    /// seen, and the erasure takes their bytes out of the new files.
    async fn refuse_erased(
        &self,
        dataset: &Arc<Dataset>,
        staged: &dyn StagedTable,
        added: &mut [FileEntry],
    ) -> Result<u64, LakeError> {
        if dataset.erased_keys == ErasedKeys::Admit || dataset.tombstones.is_empty() {
            return Ok(0);
        }
        staged.load_keys().await?;
        let erased = staged
            .rows_where(self.lake.tombstoned_keys(dataset))
            .await?;
        let mut skipped = 0;
        for (entry, erased) in added.iter_mut().zip(erased) {
            skipped += erased.without(&entry.superseded).len();
            entry.erased = erased;
        }
        Ok(skipped)
    }

    /// Refuses what can be refused before a byte is read.
    fn check(&self, request: &IngestRequest) -> Result<Plan, LakeError> {
        let snapshot = self.lake.catalog();
        if let Some(bucket) = &request.bucket {
            self.lake.known_bucket(bucket)?;
        }
        if request.mode == IngestMode::Create {
            let exists = snapshot.state.datasets.contains_key(&request.dataset);
            if exists && !self.lake.is_repeated(&request.caller) {
                let name = request.dataset.clone();
                return Err(ModelError::Exists {
                    what: "dataset",
                    name,
                }
                .into());
            }
            lakehouse_journal::model::error::check_name("dataset", &request.dataset)?;
            return Ok(Plan {
                dataset_id: uuid::Uuid::new_v4().to_string(),
                bucket: request
                    .bucket
                    .clone()
                    .unwrap_or_else(|| self.lake.primary().to_owned()),
                key: request.key.clone().unwrap_or_default(),
                expected: None,
                since: request.since(None, request.key.is_some()),
                create: true,
            });
        }
        let dataset = snapshot.state.dataset(&request.dataset)?;
        check_same_key(dataset, request.key.as_deref())?;
        let keeps_schema = request.mode != IngestMode::Replace;
        Ok(Plan {
            dataset_id: dataset.id.clone(),
            bucket: request
                .bucket
                .clone()
                .unwrap_or_else(|| dataset.bucket.clone()),
            key: dataset.key.clone(),
            expected: keeps_schema.then(|| dataset.schema.clone()),
            since: request.since(keeps_schema.then_some(dataset), !dataset.key.is_empty()),
            create: false,
        })
    }

    async fn stage(
        &self,
        stage: StageFn,
        options: StageOptions,
    ) -> Result<Box<dyn StagedTable>, LakeError> {
        tokio::task::spawn_blocking(move || stage(options))
            .await
            .map_err(|error| PortError::internal(format!("reading the source: {error}")))?
            .map_err(LakeError::from)
    }

    fn already_has(&self, dataset: &str, mode: IngestMode, source: &Source) -> bool {
        let snapshot = self.lake.catalog();
        snapshot
            .state
            .datasets
            .get(dataset)
            .is_some_and(|dataset| dataset.already_has(mode, &source.content_hash))
    }
}

/// Staged rows on their way into a dataset.
#[derive(Clone, Copy)]
struct Prepared<'a> {
    dataset: &'a str,
    mode: IngestMode,
    source: &'a Source,
    staged: &'a dyn StagedTable,
    caller: &'a Caller,
    started: Micros,
}

/// Rows that the commit did not let in.
fn skipped(committed: &Committed) -> u64 {
    let committed = committed.events.iter().find_map(|event| match event {
        Event::Catalog(CatalogEvent::FilesCommitted(event)) => Some(event.erased_skipped),
        _ => None,
    });
    committed.unwrap_or(0)
}

struct Plan {
    dataset_id: String,
    bucket: String,
    key: Vec<String>,
    expected: Option<lakehouse_journal::model::catalog::SchemaDoc>,
    since: Option<Since>,
    create: bool,
}

impl Plan {
    fn replaces_rows(&self, mode: IngestMode) -> bool {
        !self.create && !self.key.is_empty() && mode != IngestMode::Replace
    }

    fn command(&self, commit: CommitFiles, caller: &Caller) -> CatalogCommand {
        if !self.create {
            return CatalogCommand::CommitFiles(commit);
        }
        let spec = DatasetSpec {
            id: self.dataset_id.clone(),
            schema: commit.schema.clone(),
            key: self.key.clone(),
            bucket: self.bucket.clone(),
            owner: caller.actor.name.clone(),
        };
        CatalogCommand::CreateDataset(CreateDataset { spec, commit })
    }
}

/// The request's fingerprint covers its body, whose hash is known only now.
fn with_content(mut caller: Caller, content_hash: &str) -> Caller {
    if let Some((_, fingerprint)) = &mut caller.idempotency {
        *fingerprint = blake3::hash(format!("{fingerprint}/{content_hash}").as_bytes())
            .to_hex()
            .to_string();
    }
    caller
}

fn check_same_key(dataset: &Dataset, key: Option<&[String]>) -> Result<(), LakeError> {
    match key {
        Some(key) if key != dataset.key.as_slice() => Err(ModelError::Impossible {
            what: "key",
            reason: format!(
                "dataset `{}` has the key [{}], not [{}]",
                dataset.name,
                dataset.key.join(", "),
                key.join(", ")
            ),
        }
        .into()),
        _ => Ok(()),
    }
}
