//! The refresh worker: brings the indexes of a dataset up to its rows. What they lack rides on the
//! generation that answers; only where that is much, or nothing answers, a generation is built beside it
//! and the catalog swaps. One run at a time for each dataset, a few datasets beside each other. It keeps
//! nothing: a run that was lost is due again out of the catalog's state.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use lakehouse_journal::{
    model::{
        ErrorKind, Event, Fold, ModelError, Work,
        catalog::{
            CatalogCommand, CatalogState, CompleteRefresh, Dataset, DefineIndex, FailRefresh,
            Generation, Index, Making, OtherModel, RefreshCause, RefreshCounts, RefreshPolicy,
        },
        event::{CatalogEvent, RefreshCompleted},
    },
    record::{Micros, Seq},
};
use tokio::sync::oneshot;

use crate::{
    deltas::{DeltaStore, IndexChange},
    error::{LakeError, PortError},
    lake::Lake,
    owner::{Caller, Committed},
    ports::{BucketStore, IndexBuilder, IndexChanges, IndexDeltas},
    worker::{Claim, Duty},
};

/// Datasets that are refreshed beside each other.
pub(crate) const REFRESHES_MAX: usize = 4;
/// Between two looks at whether a generation is there, or the dataset free.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How often a difference is taken anew after another generation began to answer meanwhile.
const ATTEMPTS: usize = 8;
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
    /// Why, when somebody asked for more than is due.
    pub cause: Option<RefreshCause>,
    /// Who asked, with the way back.
    pub asked: Option<(Caller, oneshot::Sender<Answer>)>,
    pub claim: Claim,
}

/// The worker's duty.
pub(crate) struct RefreshDuty {
    pub lake: Lake,
    pub builder: Arc<dyn IndexBuilder>,
    pub deltas: Arc<dyn IndexDeltas>,
    pub store: Arc<dyn BucketStore>,
}

#[async_trait]
impl Duty for RefreshDuty {
    type Task = RefreshTask;

    async fn run(&self, task: RefreshTask) {
        let job = uuid::Uuid::new_v4().to_string();
        let job = self.lake.jobs().open(&job, "refresh", &task.dataset);
        job.runs();
        let (caller, reply) = task.asked.unzip();
        let asked = caller.is_some();
        let caller = caller.unwrap_or_else(|| Caller::daemon("refresh"));
        let result = self
            .run_once(&task.dataset, task.cause, caller, asked)
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

impl RefreshDuty {
    /// Refreshes, and notes in the journal how it ended.
    async fn run_once(
        &self,
        name: &str,
        cause: Option<RefreshCause>,
        caller: Caller,
        asked: bool,
    ) -> Answer {
        let due = self.lake.catalog().state.dataset(name)?.refresh_due.clone();
        let began = self.lake.now();
        let cause = cause.or(due.as_ref().map(|due| due.cause));
        let cause = cause.unwrap_or(RefreshCause::OnAppend);
        let run = due.map(|due| due.run);
        let outcome = self.refresh(name, cause).await;
        let elapsed_ms = u64::try_from((self.lake.now() - began) / 1_000).unwrap_or(0);
        match outcome {
            Ok((counts, source_seq)) => {
                let complete = CatalogCommand::CompleteRefresh(CompleteRefresh {
                    dataset: name.to_owned(),
                    run,
                    cause,
                    source_seq,
                    counts,
                    elapsed_ms,
                });
                refreshed(&self.lake.ask_catalog(complete, caller).await?)
            }
            Err(error) => {
                let fail = CatalogCommand::FailRefresh(FailRefresh {
                    dataset: name.to_owned(),
                    run,
                    cause,
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

    /// Brings every index to the rows of one snapshot, and says which.
    async fn refresh(
        &self,
        name: &str,
        cause: RefreshCause,
    ) -> Result<(RefreshCounts, Seq), LakeError> {
        self.serve_embedding(name).await?;
        let (mut done, mut anew) = (RefreshCounts::default(), BTreeSet::new());
        let mut attempt = 0;
        loop {
            attempt += 1;
            match self.told(name, cause, &mut done, &mut anew).await {
                // Something else rides or answers by now.
                Err(LakeError::Refused(ModelError::Stale { .. })) if attempt < ATTEMPTS => {}
                told => return told,
            }
        }
    }

    /// Takes the difference of every index that is behind and was not built anew already, and lets all of
    /// them ride in one commit.
    async fn told(
        &self,
        name: &str,
        cause: RefreshCause,
        done: &mut RefreshCounts,
        anew: &mut BTreeSet<String>,
    ) -> Result<(RefreshCounts, Seq), LakeError> {
        let snapshot = self.lake.catalog();
        let dataset = snapshot.state.dataset(name)?;
        done.rows = dataset.row_count();
        let mut changes = Vec::new();
        let mut counts = RefreshCounts::default();
        for index in snapshot.state.indexes_over(name) {
            let model = format!("{}/{}", index.spec.provider, index.spec.model);
            if !done.models.contains(&model) {
                done.models.push(model);
            }
            if anew.contains(&index.name) {
                continue;
            }
            // What was refused may be taken by now.
            let retried = cause == RefreshCause::Retry;
            let anew_for_retry = retried && refused(index.live_generation()) > 0;
            if let Some(live) = up_to_date(&snapshot.state, dataset, index)
                && !retried
                && self.builder.is_made_as_today(index)
            {
                counts.unchanged += held(live).min(done.rows);
                counts.refused += refused(Some(live));
                continue;
            }
            let found = if anew_for_retry {
                None
            } else {
                self.changes(&snapshot, index).await?
            };
            let Some((live, found)) = found else {
                let built = self.built_anew(&index.name, snapshot.seq).await?;
                must_be_whole(&index.name, &built)?;
                add_making(done, built.making.as_ref());
                let before = index.live_generation().map_or(0, held);
                done.embedded += built.rows() - built.reused;
                done.unchanged += built.reused;
                done.skipped += built.skipped;
                done.removed += before.saturating_sub(built.reused + built.changed);
                anew.insert(index.name.clone());
                continue;
            };
            counts.embedded += found.rows.keys.len() as u64;
            counts.unchanged += found.unchanged;
            counts.removed += found.rows.removed.len() as u64 + found.deleted;
            counts.skipped += found.skipped;
            add_making(&mut counts, found.making.as_ref());
            changes.push(IndexChange {
                index: index.name.clone(),
                generation: live.generation,
                rows: found.rows,
            });
        }
        if !changes.is_empty() {
            let store = DeltaStore {
                deltas: self.deltas.as_ref(),
                objects: self.store.as_ref(),
            };
            let caller = Caller::daemon("refresh");
            let told = self
                .lake
                .commit_index_delta(store, name, snapshot.seq, changes, caller);
            told.await?;
        }
        let counts = RefreshCounts {
            embedded: done.embedded + counts.embedded,
            removed: done.removed + counts.removed,
            skipped: done.skipped + counts.skipped,
            unchanged: done.unchanged + counts.unchanged,
            refused: done.refused + counts.refused,
            texts_sent: done.texts_sent + counts.texts_sent,
            provider_calls: done.provider_calls + counts.provider_calls,
            tokens: match (done.tokens, counts.tokens) {
                (None, None) => None,
                (one, other) => Some(one.unwrap_or(0) + other.unwrap_or(0)),
            },
            ..done.clone()
        };
        Ok((counts, snapshot.seq))
    }

    /// What an index lacks, and the generation that lacks it; `None` when it is to be built anew.
    async fn changes<'a>(
        &self,
        snapshot: &Fold<CatalogState>,
        index: &'a Index,
    ) -> Result<Option<(&'a Generation, IndexChanges)>, LakeError> {
        let Some(live) = index.live_generation() else {
            return Ok(None);
        };
        let made_otherwise = live.left_out() > 0 || !self.builder.is_made_as_today(index);
        if made_otherwise
            || index.corrupt.is_some()
            || shows_otherwise(&snapshot.state, index, live)
        {
            return Ok(None);
        }
        let most = live.delta_rows_max();
        let found = self.deltas.changes(snapshot, index, most).await?;
        Ok(found.map(|found| (live, found)))
    }

    /// Builds an index anew, from a snapshot that is no older than `through`.
    async fn built_anew(&self, name: &str, through: Seq) -> Result<Generation, LakeError> {
        loop {
            let command = CatalogCommand::RequestGeneration {
                index: name.to_owned(),
                config: None,
            };
            let caller = Caller::daemon("refresh");
            self.lake.ask_catalog(command, caller).await?;
            let built = self.built(name).await?;
            // One that was under way already began with older rows.
            if built.embedded_through() >= through {
                return Ok(built);
            }
        }
    }

    /// Waits until the build that is due has ended.
    async fn built(&self, name: &str) -> Result<Generation, LakeError> {
        loop {
            let snapshot = self.lake.catalog();
            let index = snapshot.state.index(name)?;
            if index.building.is_none() {
                if let Some((_, error)) = &index.failed {
                    return Err(build_failed(index, error).into());
                }
                if let Some(live) = index.live_generation() {
                    return Ok(live.clone());
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Sees to it that an index says what the dataset's own embedding asks for: its name is the
    /// dataset's unless another one does so already. One of that name by another model, or whose texts
    /// are cut otherwise, is made anew beside the generation that answers.
    async fn serve_embedding(&self, name: &str) -> Result<(), LakeError> {
        let snapshot = self.lake.catalog();
        let dataset = snapshot.state.dataset(name)?;
        let Some(wanted) = &dataset.embedding else {
            return Ok(());
        };
        let mut over = snapshot.state.indexes_over(name);
        if over.any(|index| index.spec.embeds(wanted)) {
            return Ok(());
        }
        // As after a restart: what was asked for before is being built.
        let under_way =
            snapshot.state.indexes.get(name).is_some_and(|index| {
                index.building.is_some() && index.spec_to_build().embeds(wanted)
            });
        if under_way {
            return Ok(must_be_whole(name, &self.built(name).await?)?);
        }
        let spec = self.builder.index_of(dataset, wanted).await?;
        let index = name.to_owned();
        let differs_in_model = snapshot.state.indexes.get(name).is_some_and(|index| {
            let known = &index.spec;
            known.source == spec.source && known.key == spec.key && known.text == spec.text
        });
        let command = if differs_in_model {
            let model = OtherModel {
                provider: spec.provider,
                model: spec.model,
                dimensions: spec.dimensions,
                chunk: spec.chunk,
            };
            CatalogCommand::RemakeIndex { index, model }
        } else {
            let slo = None;
            CatalogCommand::DefineIndex(DefineIndex { slo, index, spec })
        };
        let caller = Caller::daemon("refresh");
        self.lake.ask_catalog(command, caller).await?;
        let built = self.built(name).await?;
        Ok(must_be_whole(name, &built)?)
    }
}

/// Rows of a generation that a provider refused.
fn refused(generation: Option<&Generation>) -> u64 {
    let making = generation.and_then(|built| built.making.as_ref());
    making.map_or(0, |making| making.refused)
}

/// Adds what vectors took.
fn add_making(counts: &mut RefreshCounts, making: Option<&Making>) {
    let Some(making) = making else {
        return;
    };
    counts.refused += making.refused;
    counts.texts_sent += making.texts_sent;
    counts.provider_calls += making.provider_calls;
    if let Some(tokens) = making.tokens {
        *counts.tokens.get_or_insert(0) += tokens;
    }
}

/// Refuses a generation that came without rows whose vectors nobody made: deleted rows are out of it, but
/// it is no refresh.
fn must_be_whole(name: &str, built: &Generation) -> Result<(), PortError> {
    let left_out = built.left_out();
    if left_out == 0 {
        return Ok(());
    }
    let text = format!("{left_out} rows of index `{name}` have no vector yet: nobody makes them");
    let (kind, code) = (ErrorKind::Unavailable, "embedder_unavailable");
    Err(PortError::new(kind, code, text))
}

/// Why an index could not be built, so that whoever asked knows whether another try may help.
fn build_failed(index: &Index, error: &str) -> PortError {
    let text = format!("index `{}` could not be built: {error}", index.name);
    match &index.obstacle {
        Some(obstacle) if obstacle.passes => {
            PortError::new(ErrorKind::Unavailable, &obstacle.code, text)
        }
        Some(obstacle) if obstacle.code.split('_').next() == Some("embedder") => {
            PortError::new(ErrorKind::Unprocessable, &obstacle.code, text)
        }
        _ => PortError::new(ErrorKind::Unprocessable, "build_failed", text),
    }
}

/// Rows that a generation holds with its deltas, replaced ones too.
fn held(live: &Generation) -> u64 {
    let ridden = live.deltas.iter().map(|delta| delta.file.rows);
    live.rows() + ridden.sum::<u64>()
}

/// The generation of an index that says what the rows of its dataset say, as it may be shown. Deleted
/// rows are hidden without.
fn up_to_date<'a>(
    state: &CatalogState,
    dataset: &Dataset,
    index: &'a Index,
) -> Option<&'a Generation> {
    let live = index.live_generation()?;
    let current = live.embedded_through() >= dataset.rows_seq && live.left_out() == 0;
    (current && index.corrupt.is_none() && !shows_otherwise(state, index, live)).then_some(live)
}

/// Whether what is shown of a view has changed since anything in a generation was read through it.
fn shows_otherwise(state: &CatalogState, index: &Index, live: &Generation) -> bool {
    state.policy_seq(&index.spec.source) > live.oldest_source()
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
    /// Brings the embeddings of a dataset up to date. Waits for a run that is under way and begins another.
    ///
    /// # Errors
    /// Why it could not be done; the indexes answer as before.
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
            cause: Some(cause),
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
                cause: None,
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
