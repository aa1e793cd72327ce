//! The indexing worker: builds the generations that the catalog's state says are due, and reports
//! each to the catalog. Keeps nothing; a lost build comes back out of `pending`.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use async_trait::async_trait;
use lakehouse_journal::model::{
    Aggregate, ErrorKind, Event, Work,
    catalog::{CatalogCommand, CommitGeneration, FailGeneration, Obstacle},
    event::CatalogEvent,
};
use parking_lot::Mutex;

use crate::{
    error::{LakeError, PortError},
    lake::Lake,
    owner::{Caller, Committed},
    ports::{BucketStore, BuildTask, IndexBuilder},
    worker::Duty,
};

/// Attempts at a build whose failure may pass (a bucket that does not answer).
const ATTEMPTS_MAX: u32 = 5;

/// The worker's duty.
pub(crate) struct IndexingDuty {
    pub lake: Lake,
    pub builder: Arc<dyn IndexBuilder>,
    pub store: Arc<dyn BucketStore>,
    /// What is being built, so that the same work asked for twice is done once.
    pub underway: Arc<Mutex<BTreeSet<Work>>>,
}

/// Takes a build off the list however it ends, by a panic too.
struct Underway {
    list: Arc<Mutex<BTreeSet<Work>>>,
    work: Work,
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.list.lock().remove(&self.work);
    }
}

#[async_trait]
impl Duty for IndexingDuty {
    type Task = Work;

    async fn run(&self, work: Work) {
        if !self.underway.lock().insert(work.clone()) {
            return;
        }
        let _underway = Underway {
            list: Arc::clone(&self.underway),
            work: work.clone(),
        };
        // The same work waits several times while a build runs: what is done by now is not due.
        if !self.lake.catalog().state.pending().contains(&work) {
            return;
        }
        let Work::BuildGeneration {
            index,
            generation,
            job,
        } = work
        else {
            return;
        };
        let shown = self.lake.jobs().open(&job, "index_build", &index);
        shown.runs();
        let caller = Caller::daemon("indexing");
        let bucket = self
            .lake
            .catalog()
            .state
            .indexes
            .get(&index)
            .map_or_else(String::new, |index| index.spec.bucket.clone());
        let mut attempt = 0;
        let outcome = loop {
            attempt += 1;
            match self.build(&index, generation, &job).await {
                Err(error) if passes(&error) && !was_patient(&error) && attempt < ATTEMPTS_MAX => {
                    tracing::warn!(index, attempt, %error, "build failed, trying again");
                    tokio::time::sleep(Duration::from_millis(200 << attempt)).await;
                }
                outcome => break outcome,
            }
        };
        let command = match outcome {
            Ok(None) => return shown.failed("the index was dropped".to_owned()),
            Ok(Some(commit)) => CatalogCommand::CommitGeneration(commit),
            Err(error) => CatalogCommand::FailGeneration(FailGeneration {
                index: index.clone(),
                generation,
                job: job.clone(),
                error: error.to_string(),
                obstacle: Some(Obstacle {
                    code: error.code(),
                    passes: passes(&error),
                }),
            }),
        };
        let failure = match &command {
            CatalogCommand::FailGeneration(failed) => Some(failed.error.clone()),
            _ => None,
        };
        let built = match &command {
            CatalogCommand::CommitGeneration(commit) => Some(commit.prefix.clone()),
            _ => None,
        };
        let answer = self.lake.ask_catalog(command, caller).await;
        if let (Some(prefix), Ok(committed)) = (built, &answer)
            && !committed.events.iter().any(is_built)
        {
            // The index was dropped, or asked for again, or the generation was refused: nobody will
            // ever point at these files.
            self.discard(&bucket, &prefix).await;
        }
        let refused = answer.as_ref().ok().and_then(refusal);
        match (answer, failure.or(refused)) {
            (Ok(_), None) => shown.done(Some(serde_json::json!({ "generation": generation }))),
            (Ok(_), Some(error)) => shown.failed(error),
            // Still pending in the state: it is built again.
            (Err(error), _) => shown.failed(error.to_string()),
        }
    }
}

impl IndexingDuty {
    async fn discard(&self, bucket: &str, prefix: &str) {
        let folder = format!("{}/", prefix.trim_end_matches('/'));
        let removed = async {
            for object in self.store.list(bucket, &folder).await? {
                self.store.delete(bucket, &object.key).await?;
            }
            Ok::<(), PortError>(())
        };
        if let Err(error) = removed.await {
            tracing::warn!(bucket, %error, "an unused generation stays until the sweep");
        }
    }

    async fn build(
        &self,
        index: &str,
        generation: u64,
        job: &str,
    ) -> Result<Option<CommitGeneration>, LakeError> {
        let snapshot = self.lake.catalog();
        let Some(found) = snapshot.state.indexes.get(index) else {
            return Ok(None);
        };
        let Some(dataset) = snapshot.state.dataset_under(&found.spec.source) else {
            return Ok(None);
        };
        let progress = Arc::clone(&self.lake.jobs().open(job, "index_build", index).progress);
        let rows = match found.live_generation().filter(|_| found.folding) {
            Some(live) => live.rows() + live.delta_rows(),
            None => dataset.row_count(),
        };
        progress.total.store(rows, Ordering::Relaxed);
        progress.done.store(0, Ordering::Relaxed);
        let started = self.lake.now();
        let task = BuildTask {
            index: Arc::clone(found),
            snapshot: Arc::clone(&snapshot),
            generation,
            job: job.to_owned(),
        };
        let built = self.builder.build(task, progress).await?;
        // What was set while it was built counts.
        let now = self.lake.catalog();
        let trial = if now.state.quality.slos.contains_key(index) {
            let eval = now.state.valid_eval(index).cloned();
            let check = self
                .builder
                .check(Arc::clone(found), generation, &built, eval);
            Some(check.await?)
        } else {
            None
        };
        Ok(Some(CommitGeneration {
            trial,
            index: index.to_owned(),
            generation,
            job: job.to_owned(),
            source_seq: snapshot.seq,
            rows_seq: built.rows_seq,
            folded_through: built.folded_through,
            prefix: built.prefix,
            files: built.files,
            vectors: built.vectors,
            rows: built.rows,
            skipped: built.skipped,
            reused: built.reused,
            changed: built.changed,
            making: Some(Box::new(built.making)),
            build_ms: u64::try_from((self.lake.now() - started) / 1000).unwrap_or(0),
        }))
    }
}

fn is_built(event: &Event) -> bool {
    matches!(event, Event::Catalog(CatalogEvent::GenerationBuilt(_)))
}

/// Why the catalog did not let a generation in.
fn refusal(committed: &Committed) -> Option<String> {
    committed.events.iter().find_map(|event| match event {
        Event::Catalog(CatalogEvent::GenerationFailed(failed)) => Some(failed.error.clone()),
        _ => None,
    })
}

/// A provider of vectors was asked again and again already; whoever wanted the build asks for another.
fn was_patient(error: &LakeError) -> bool {
    error.code().starts_with("embedder_")
}

fn passes(error: &LakeError) -> bool {
    matches!(
        error,
        LakeError::Port(PortError {
            kind: ErrorKind::Unavailable | ErrorKind::Overloaded,
            ..
        })
    )
}
