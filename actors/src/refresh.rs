//! The refresh worker: brings the embeddings of a dataset up to date, one run at a time for each
//! dataset and a few datasets beside each other. A run takes the difference between the rows of a
//! snapshot and what the indexes say, embeds it, and lets it ride on every index in one commit;
//! searches go on meanwhile. It keeps nothing: what was embedded is kept by the engine, and a run
//! that was lost is due again out of the catalog's state.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use lakehouse_journal::{
    model::{
        ErrorKind, Event, Fold, ModelError, Work,
        catalog::{
            CatalogCommand, CatalogState, CompleteRefresh, Dataset, DefineIndex, FailRefresh,
            Index, RefreshCause, RefreshCounts, RefreshPolicy, VectorSpec,
        },
        event::{CatalogEvent, RefreshCompleted},
    },
    record::{Micros, Seq},
};
use tokio::sync::{Semaphore, oneshot};

use crate::{
    deltas::{DeltaStore, IndexChange},
    error::{LakeError, PortError},
    lake::Lake,
    owner::{Caller, Committed},
    ports::{BucketStore, CatchUp, EmbeddingWork, IndexDeltas, Progress},
    worker::{Claim, Duty},
};

/// Datasets that are refreshed beside each other.
const REFRESHES_MAX: usize = 4;
/// Between two looks at whether a generation is there, or the dataset free.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How often a run starts over because another generation answers by now.
const ROUNDS_MAX: usize = 10;
/// How long commits must rest before a refresh by policy begins.
const SETTLED_AFTER: Micros = 250_000;
/// After this it begins although commits go on.
const OVERDUE_AFTER: Micros = 1_000_000;

/// What a refresh did.
#[derive(Debug, Clone)]
pub struct Refreshed {
    /// Counts over all indexes.
    pub counts: RefreshCounts,
    /// How long it took.
    pub elapsed_ms: u64,
    /// Position of the event that says so.
    pub seq: Seq,
}

type Answer = Result<Refreshed, LakeError>;

/// A dataset to refresh.
pub(crate) struct RefreshTask {
    pub dataset: String,
    /// Who asked, with the way back.
    pub asked: Option<(Caller, oneshot::Sender<Answer>)>,
    pub claim: Claim,
}

/// The worker's duty.
pub(crate) struct RefreshDuty {
    pub lake: Lake,
    pub work: Arc<dyn EmbeddingWork>,
    pub deltas: Arc<dyn IndexDeltas>,
    pub store: Arc<dyn BucketStore>,
    pub limit: Semaphore,
}

impl RefreshDuty {
    pub fn new(
        lake: Lake,
        work: Arc<dyn EmbeddingWork>,
        deltas: Arc<dyn IndexDeltas>,
        store: Arc<dyn BucketStore>,
    ) -> Self {
        Self {
            lake,
            work,
            deltas,
            store,
            limit: Semaphore::new(REFRESHES_MAX),
        }
    }
}

#[async_trait]
impl Duty for RefreshDuty {
    type Task = RefreshTask;

    async fn run(&self, task: RefreshTask) {
        let _slot = self.limit.acquire().await.expect("never closed");
        let job = uuid::Uuid::new_v4().to_string();
        let job = self.lake.jobs().open(&job, "refresh", &task.dataset);
        job.runs();
        let (caller, reply) = task.asked.unzip();
        let asked = caller.is_some();
        let caller = caller.unwrap_or_else(|| Caller::daemon("refresh"));
        let result = self
            .run_once(&task.dataset, caller, asked, &job.progress)
            .await;
        match &result {
            Ok(done) => job.done(serde_json::to_value(&done.counts).ok()),
            Err(error) => {
                tracing::warn!(dataset = task.dataset, %error, "embeddings are not refreshed");
                job.failed(error.to_string());
            }
        }
        task.claim.ended(result.is_ok(), self.lake.now());
        if let Some(reply) = reply {
            // Whoever hung up does not undo it.
            let _ = reply.send(result);
        }
    }
}

/// A run under way.
struct Run {
    /// Its name, when it was asked for.
    name: Option<String>,
    cause: RefreshCause,
    began: Micros,
}

impl RefreshDuty {
    /// Refreshes, and notes in the journal how it ended.
    async fn run_once(
        &self,
        name: &str,
        caller: Caller,
        asked: bool,
        progress: &Arc<Progress>,
    ) -> Answer {
        let run = self.begin(name)?;
        let outcome = self.refresh(name, progress).await;
        let elapsed_ms = u64::try_from((self.lake.now() - run.began) / 1_000).unwrap_or(0);
        match outcome {
            Ok((counts, source_seq)) => {
                let complete = CatalogCommand::CompleteRefresh(CompleteRefresh {
                    dataset: name.to_owned(),
                    run: run.name,
                    cause: run.cause,
                    source_seq,
                    counts,
                    elapsed_ms,
                });
                let committed = self.lake.ask_catalog(complete, caller).await?;
                refreshed(&committed)
            }
            Err(error) => {
                let fail = CatalogCommand::FailRefresh(FailRefresh {
                    dataset: name.to_owned(),
                    run: run.name,
                    cause: run.cause,
                    code: error.code(),
                    error: error.to_string(),
                    comes_again: !asked,
                    elapsed_ms,
                });
                let noted = self.lake.ask_catalog(fail, Caller::daemon("refresh")).await;
                if let Err(error) = noted {
                    tracing::warn!(dataset = name, %error, "a failed refresh is not noted");
                }
                Err(error)
            }
        }
    }

    fn begin(&self, name: &str) -> Result<Run, LakeError> {
        let catalog = self.lake.catalog();
        let due = catalog.state.dataset(name)?.refresh_due.clone();
        Ok(Run {
            cause: due.as_ref().map_or(RefreshCause::OnAppend, |due| due.cause),
            name: due.map(|due| due.run),
            began: self.lake.now(),
        })
    }

    /// Brings every index to the rows of one snapshot, and says which.
    async fn refresh(
        &self,
        name: &str,
        progress: &Arc<Progress>,
    ) -> Result<(RefreshCounts, Seq), LakeError> {
        let mut counts = RefreshCounts::default();
        self.serve_embedding(name, &mut counts).await?;
        for _ in 0..ROUNDS_MAX {
            let snapshot = self.lake.catalog();
            let rows = snapshot.state.dataset(name)?.row_count();
            let mut round = counts.clone();
            let mut changes = Vec::new();
            for index in snapshot.state.indexes_over(name) {
                let change = self
                    .difference(&snapshot, index, progress, &mut round)
                    .await?;
                changes.extend(change);
            }
            round.rows = rows;
            // What was paid for is counted, whether the round is the last or not.
            counts.texts_sent = round.texts_sent;
            counts.provider_calls = round.provider_calls;
            counts.tokens = round.tokens;
            let store = DeltaStore {
                deltas: self.deltas.as_ref(),
                objects: self.store.as_ref(),
            };
            let caller = Caller::daemon("refresh");
            let committed =
                self.lake
                    .commit_index_delta(store, name, snapshot.seq, changes, caller);
            match committed.await {
                Ok(_) => return Ok((round, snapshot.seq)),
                // Another generation answers by now: the difference is taken anew, nothing is paid
                // for again.
                Err(LakeError::Refused(ModelError::Stale { .. })) => {}
                Err(error) => return Err(error),
            }
        }
        let text =
            format!("the indexes of dataset `{name}` change faster than it can be refreshed");
        Err(PortError::new(ErrorKind::Conflict, "dataset_busy", text).into())
    }

    /// What an index does not say yet; nothing when it was built anew from the dataset's rows.
    async fn difference(
        &self,
        snapshot: &Arc<Fold<CatalogState>>,
        index: &Arc<Index>,
        progress: &Arc<Progress>,
        counts: &mut RefreshCounts,
    ) -> Result<Option<IndexChange>, LakeError> {
        let Some(live) = index.live_generation() else {
            self.build(&index.name, None, counts).await?;
            return Ok(None);
        };
        if index.spec.vector_column.is_some() {
            let dataset = snapshot.state.dataset(&index.spec.source)?;
            if live.embedded_through() < dataset.rows_seq {
                self.build(&index.name, None, counts).await?;
            }
            return Ok(None);
        }
        match self.work.catch_up(snapshot, index, progress).await? {
            CatchUp::Delta { rows, done } => {
                add(counts, &done);
                Ok(Some(IndexChange {
                    index: index.name.clone(),
                    generation: live.generation,
                    rows,
                }))
            }
            CatchUp::Rebuild { made } => {
                self.build(&index.name, made, counts).await?;
                Ok(None)
            }
        }
    }

    /// Builds a generation from the dataset's rows and waits until it answers.
    async fn build(
        &self,
        name: &str,
        made: Option<VectorSpec>,
        counts: &mut RefreshCounts,
    ) -> Result<(), LakeError> {
        let command = CatalogCommand::RequestGeneration {
            index: name.to_owned(),
            made,
        };
        self.lake
            .ask_catalog(command, Caller::daemon("refresh"))
            .await?;
        self.built(name, counts).await
    }

    /// Waits until the build that is due has ended.
    async fn built(&self, name: &str, counts: &mut RefreshCounts) -> Result<(), LakeError> {
        loop {
            let snapshot = self.lake.catalog();
            let index = snapshot.state.index(name)?;
            if index.building.is_none() {
                if let Some((_, error)) = &index.failed {
                    let text = format!("index `{name}` could not be built: {error}");
                    return Err(
                        PortError::new(ErrorKind::Unprocessable, "build_failed", text).into(),
                    );
                }
                if let Some(live) = index.live_generation() {
                    let mut done = self.work.built(&live.job).unwrap_or_default();
                    done.embedded = live.vectors;
                    done.refused = live.skipped;
                    done.models = vec![model_of(index, live.made.as_ref())];
                    add(counts, &done);
                    return Ok(());
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Sees to it that an index says what the dataset's own embedding asks for: its name is the
    /// dataset's unless another one does so already.
    async fn serve_embedding(
        &self,
        name: &str,
        counts: &mut RefreshCounts,
    ) -> Result<(), LakeError> {
        let snapshot = self.lake.catalog();
        let dataset = snapshot.state.dataset(name)?;
        let Some(wanted) = &dataset.embedding else {
            return Ok(());
        };
        let mut over = snapshot.state.indexes_over(name);
        if over.any(|index| index.spec.embeds(wanted)) {
            return Ok(());
        }
        let spec = self.work.index_of(dataset, wanted).await?;
        let own = snapshot.state.indexes.get(name);
        if let Some(own) = own.filter(|own| own.spec.source == name && own.spec.key == spec.key) {
            return self.build(&own.name, Some(spec.made()), counts).await;
        }
        let define = CatalogCommand::DefineIndex(DefineIndex {
            index: name.to_owned(),
            spec,
        });
        self.lake
            .ask_catalog(define, Caller::daemon("refresh"))
            .await?;
        self.built(name, counts).await
    }
}

/// The model of a generation, as counts name it.
fn model_of(index: &Index, made: Option<&VectorSpec>) -> String {
    made.map_or_else(
        || format!("{}/{}", index.spec.provider, index.spec.model),
        |made| format!("{}/{}", made.model.provider, made.model.version),
    )
}

fn add(counts: &mut RefreshCounts, done: &RefreshCounts) {
    counts.embedded += done.embedded;
    counts.unchanged += done.unchanged;
    counts.removed += done.removed;
    counts.refused += done.refused;
    counts.texts_sent += done.texts_sent;
    counts.provider_calls += done.provider_calls;
    if let Some(tokens) = done.tokens {
        *counts.tokens.get_or_insert(0) += tokens;
    }
    for model in &done.models {
        if !counts.models.contains(model) {
            counts.models.push(model.clone());
        }
    }
}

/// What a decision says that a refresh did.
fn refreshed(committed: &Committed) -> Answer {
    let completed = committed.events.iter().find_map(|event| match event {
        Event::Catalog(CatalogEvent::RefreshCompleted(event)) => Some(event),
        _ => None,
    });
    let Some(RefreshCompleted {
        counts, elapsed_ms, ..
    }) = completed
    else {
        return Err(PortError::internal("a refresh without an event").into());
    };
    Ok(Refreshed {
        counts: counts.clone(),
        elapsed_ms: *elapsed_ms,
        seq: committed.seq,
    })
}

impl Lake {
    /// Brings the embeddings of a dataset up to date: what is new or changed is embedded, what left
    /// is taken out. Waits for a run that is under way and begins another.
    ///
    /// # Errors
    /// Why it could not be done; the indexes answer as before, and what was embedded is kept.
    pub async fn refresh(&self, dataset: &str, cause: RefreshCause, caller: Caller) -> Answer {
        if self.is_repeated(&caller) {
            return self.refreshed_before(dataset, caller).await;
        }
        self.catalog().state.dataset(dataset)?;
        let work = Work::RefreshEmbeddings {
            dataset: dataset.to_owned(),
        };
        // Held before the request is noted, so that nobody else carries it out.
        let claim = loop {
            if let Some(claim) = self.inner.claims.take(work.clone()) {
                break claim;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        };
        let request = CatalogCommand::RequestRefresh {
            dataset: dataset.to_owned(),
            cause,
        };
        let noting = Caller {
            idempotency: None,
            ..caller.clone()
        };
        self.ask_catalog(request, noting).await?;
        let (reply, answer) = oneshot::channel();
        let task = RefreshTask {
            dataset: dataset.to_owned(),
            asked: Some((caller, reply)),
            claim,
        };
        self.give(|workers| &workers.refresh, task)?;
        answer.await.unwrap_or_else(|_| {
            Err(LakeError::Overloaded {
                actor: "refresh".to_owned(),
            })
        })
    }

    /// The answer to a request that was carried out before.
    async fn refreshed_before(&self, dataset: &str, caller: Caller) -> Answer {
        let command = CatalogCommand::CompleteRefresh(CompleteRefresh {
            dataset: dataset.to_owned(),
            run: None,
            cause: RefreshCause::Call,
            source_seq: 0,
            counts: RefreshCounts::default(),
            elapsed_ms: 0,
        });
        refreshed(&self.ask_catalog(command, caller).await?)
    }

    /// Notes that a refresh is due; the worker carries it out.
    ///
    /// # Errors
    /// When nothing of the dataset is embedded.
    pub async fn request_refresh(
        &self,
        dataset: &str,
        cause: RefreshCause,
        caller: Caller,
    ) -> Result<Committed, LakeError> {
        let request = CatalogCommand::RequestRefresh {
            dataset: dataset.to_owned(),
            cause,
        };
        self.ask_catalog(request, caller).await
    }

    /// Lets the worker refresh a dataset that is due, unless it is at it already.
    pub(crate) fn refresh_when_free(&self, dataset: &str) {
        if !self.refresh_is_due(dataset) {
            return;
        }
        let work = Work::RefreshEmbeddings {
            dataset: dataset.to_owned(),
        };
        if let Some(claim) = self.inner.claims.claim(work, self.now()) {
            let task = RefreshTask {
                dataset: dataset.to_owned(),
                asked: None,
                claim,
            };
            // A full worker is asked again at the scheduler's next tick.
            let _ = self.give(|workers| &workers.refresh, task);
        }
    }

    /// Whether a refresh should begin now: one that was asked for at once, one by policy when commits
    /// rest or have gone on for long.
    fn refresh_is_due(&self, name: &str) -> bool {
        let catalog = self.catalog();
        let Some(dataset) = catalog.state.datasets.get(name) else {
            return false;
        };
        if dataset.refresh_due.is_some() {
            return true;
        }
        let now = self.now();
        let since = dataset.embedding_stale_since;
        dataset.embedding_refresh_policy == RefreshPolicy::OnAppend
            && since.is_some_and(|since| {
                settled(dataset, now) || since.saturating_add(OVERDUE_AFTER) <= now
            })
    }
}

fn settled(dataset: &Dataset, now: Micros) -> bool {
    let last = dataset.lineage.last().map_or(0, |step| step.at);
    last.saturating_add(SETTLED_AFTER) <= now
}
