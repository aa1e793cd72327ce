//! The erasure worker: takes rows that were deleted for good out of every place that still holds
//! their bytes (files, files kept for the past, index generations, objects that nothing points at),
//! and asks the catalog to confirm when nothing is left. What is to be done is read from the state,
//! so a lost task comes back; hiding rows is not its part, that is done when the deletion is decided.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use futures::{StreamExt, stream};
use lakehouse_journal::{
    model::{
        ErrorKind, Event,
        catalog::{CatalogCommand, DataFile, Dataset, FileEntry, QualityCommand, ScrubFiles},
        event::{CatalogEvent, Scrub},
    },
    record::Seq,
};
use tokio::sync::oneshot;

use crate::{
    compaction::discard,
    error::{LakeError, PortError},
    lake::Lake,
    owner::Caller,
    ports::{BucketStore, Compactor, IndexBuilder, Progress, Readers, Sidecar},
    worker::{Claim, Duty},
};

/// How often it starts over because more was deleted or committed meanwhile.
const ROUNDS_MAX: usize = 10;
/// Files that one event exchanges.
const FILES_AT_A_TIME: usize = 64;
/// Files that are rewritten beside each other.
const REWRITES_AT_A_TIME: usize = 4;
/// Objects that are deleted beside each other.
const DELETIONS_AT_A_TIME: usize = 8;
/// Between two looks at whether a generation is there.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// That nothing is left of rows deleted for good.
#[derive(Debug, Clone)]
pub struct Erased {
    /// Position of the last tombstone that this is true of.
    pub through: Seq,
    /// Position of the catalog.
    pub seq: Seq,
}

/// What the worker is given.
pub(crate) enum ErasureTask {
    /// A dataset's deleted rows.
    Rows {
        dataset: String,
        reply: Option<oneshot::Sender<Result<Erased, LakeError>>>,
        claim: Option<Claim>,
    },
    /// Objects that nothing points at.
    Objects { claim: Claim },
}

/// The worker's duty.
pub(crate) struct ErasureDuty {
    pub lake: Lake,
    pub compactor: Arc<dyn Compactor>,
    pub store: Arc<dyn BucketStore>,
    pub builder: Arc<dyn IndexBuilder>,
    pub sidecar: Arc<dyn Sidecar>,
    pub readers: Arc<dyn Readers>,
    /// How long a query may go on reading what is to be deleted.
    pub query_deadline: Duration,
}

#[async_trait]
impl Duty for ErasureDuty {
    type Task = ErasureTask;

    async fn run(&self, task: ErasureTask) {
        match task {
            ErasureTask::Rows {
                dataset,
                reply,
                claim,
            } => {
                let job = uuid::Uuid::new_v4().to_string();
                let job = self.lake.jobs().open(&job, "erasure", &dataset);
                job.runs();
                let result = self.erase(&dataset, &job.progress).await;
                match &result {
                    Ok(done) => job.done(Some(serde_json::json!({ "through": done.through }))),
                    Err(error) => {
                        tracing::warn!(dataset, %error, "erasure is not complete, it comes again");
                        job.failed(error.to_string());
                    }
                }
                if let Some(claim) = claim {
                    claim.ended(result.is_ok(), self.lake.now());
                }
                if let Some(reply) = reply {
                    // Whoever hung up does not undo it.
                    let _ = reply.send(result);
                }
            }
            ErasureTask::Objects { claim } => {
                let result = self.delete_objects().await.and_then(|(_, failed)| {
                    let first = failed.into_iter().next();
                    first.map_or(Ok(()), |(_, error)| Err(error.into()))
                });
                if let Err(error) = &result {
                    tracing::warn!(%error, "objects are not deleted yet, it comes again");
                }
                claim.ended(result.is_ok(), self.lake.now());
            }
        }
    }
}

/// How many objects are gone, and which could not be deleted, with their buckets.
type Deleted = (u64, Vec<(String, PortError)>);

fn daemon() -> Caller {
    Caller::daemon("erasure")
}

/// The files that an event took the erased rows out of.
fn scrubbed(event: &Event) -> Vec<&String> {
    match event {
        Event::Catalog(CatalogEvent::FilesScrubbed(event)) => {
            event.scrubs.iter().map(|scrub| &scrub.file).collect()
        }
        _ => Vec::new(),
    }
}

impl ErasureDuty {
    async fn erase(&self, name: &str, progress: &Arc<Progress>) -> Result<Erased, LakeError> {
        for _ in 0..ROUNDS_MAX {
            let through = self
                .lake
                .catalog()
                .state
                .dataset(name)?
                .last_tombstone_seq();
            let files = self.scrub(name, progress).await?;
            let generations = self.rebuild(name, through).await?;
            let evals = self.retire_evals(name).await?;
            let snapshot = self.lake.catalog();
            let kept = self.builder.sweep_vectors(snapshot, name, through).await?;
            let (objects, failed) = self.delete_objects().await?;
            if let Some((_, error)) = failed.into_iter().find(|(b, _)| self.lies_in(name, b)) {
                return Err(error.into());
            }
            let orphans = self.sweep_leftovers(name).await?;
            self.sidecar
                .write(self.lake.catalog().state.dataset(name)?)
                .await?;
            let checked = BTreeMap::from([
                ("files_rewritten".to_owned(), files),
                ("generations_dropped".to_owned(), generations),
                ("evals_dropped".to_owned(), evals),
                ("objects_deleted".to_owned(), objects),
                ("leftovers_deleted".to_owned(), orphans),
                ("vector_files_swept".to_owned(), kept),
            ]);
            let confirm = CatalogCommand::ConfirmErasure {
                dataset: name.to_owned(),
                through,
                checked,
            };
            self.lake.ask_catalog(confirm, daemon()).await?;
            let now = self.lake.catalog();
            if !now.state.owes_erasure(now.state.dataset(name)?) {
                let seq = now.seq;
                return Ok(Erased { through, seq });
            }
        }
        let text = format!("rows of dataset `{name}` are deleted faster than they can be erased");
        Err(PortError::new(ErrorKind::Conflict, "dataset_busy", text).into())
    }

    /// Rewrites every file that holds erased rows, some at a time. Returns how many.
    async fn scrub(&self, name: &str, progress: &Arc<Progress>) -> Result<u64, LakeError> {
        let mut files = 0;
        loop {
            let snapshot = self.lake.catalog();
            let dataset = snapshot.state.dataset(name)?;
            let holding = dataset.all_files().filter(|file| !file.erased.is_empty());
            let some: Vec<&DataFile> = holding.take(FILES_AT_A_TIME).collect();
            if some.is_empty() {
                return Ok(files);
            }
            let _publishing = self.lake.inner.publishing.pass(&dataset.id).await;
            let Some(scrubs) = self.without_erased_rows(dataset, &some, progress).await? else {
                continue;
            };
            files += self.swap(name, scrubs).await?;
        }
    }

    /// The files without their erased rows, published; nothing when they were exchanged meanwhile. What
    /// was published before a failure is removed again.
    async fn without_erased_rows(
        &self,
        dataset: &Dataset,
        files: &[&DataFile],
        progress: &Arc<Progress>,
    ) -> Result<Option<Vec<Scrub>>, LakeError> {
        let rewrites: Vec<_> = files
            .iter()
            .map(|file| self.without_erased(dataset, file, progress))
            .collect();
        let done: Vec<Result<Scrub, LakeError>> = stream::iter(rewrites)
            .buffer_unordered(REWRITES_AT_A_TIME)
            .collect()
            .await;
        let (mut scrubs, mut failed) = (Vec::new(), None);
        for scrub in done {
            match scrub {
                Ok(scrub) => scrubs.push(scrub),
                Err(error) => failed = Some(error),
            }
        }
        let Some(error) = failed else {
            return Ok(Some(scrubs));
        };
        for scrub in &scrubs {
            discard(self.store.as_ref(), &scrub.added).await;
        }
        if self.lake.has_moved_on(dataset) {
            return Ok(None);
        }
        Err(error)
    }

    /// Puts rewritten files in the place of the old ones. Returns how many; those whose old file somebody
    /// else took out meanwhile are removed again.
    async fn swap(&self, name: &str, scrubs: Vec<Scrub>) -> Result<u64, LakeError> {
        let added: Vec<(String, Vec<FileEntry>)> = scrubs
            .iter()
            .map(|scrub| (scrub.file.clone(), scrub.added.clone()))
            .collect();
        let command = CatalogCommand::ScrubFiles(ScrubFiles {
            dataset: name.to_owned(),
            scrubs,
        });
        let _leave = self.lake.inner.gates.pass(name).await;
        let answer = self.lake.ask_catalog(command, daemon()).await;
        let swapped: BTreeSet<&String> = match &answer {
            Err(error) if !error.is_definite() => return answer.map(|_| 0),
            Err(_) => BTreeSet::new(),
            Ok(committed) => committed.events.iter().flat_map(scrubbed).collect(),
        };
        let count = swapped.len() as u64;
        for (file, entries) in &added {
            if !swapped.contains(file) {
                discard(self.store.as_ref(), entries).await;
            }
        }
        answer.map(|_| count)
    }

    async fn without_erased(
        &self,
        dataset: &Dataset,
        file: &DataFile,
        progress: &Arc<Progress>,
    ) -> Result<Scrub, LakeError> {
        let removed = file.erased.clone();
        let old = file.entry.key.clone();
        if removed.len() == file.entry.rows {
            let added = Vec::new();
            return Ok(Scrub {
                file: old,
                removed,
                added,
            });
        }
        // Replaced rows stay in: queries of the past still see them.
        let rest = Arc::new(DataFile {
            deleted: removed.clone(),
            ..file.clone()
        });
        let rewritten = self
            .compactor
            .rewrite(dataset, &[Arc::clone(&rest)], Arc::clone(progress))
            .await?;
        let (rows, expected) = (rewritten.staged.rows(), rest.live_rows());
        if rows != expected {
            let text = format!("a file of {expected} rows was rewritten with {rows}");
            return Err(PortError::new(ErrorKind::Corrupt, "compaction_mismatch", text).into());
        }
        let added = rewritten
            .staged
            .publish(&file.entry.bucket, &dataset.id)
            .await?;
        Ok(Scrub {
            file: old,
            removed,
            added,
        })
    }

    /// Builds every index anew that may hold erased rows, and lets go of older generations.
    async fn rebuild(&self, name: &str, through: Seq) -> Result<u64, LakeError> {
        let snapshot = self.lake.catalog();
        let mut dropped = 0;
        for index in snapshot.state.indexes_over(name) {
            let held = index.generations_before(through);
            if held == 0 && index.building.is_none() {
                continue;
            }
            self.current_generation(&index.name, through).await?;
            let retire = CatalogCommand::RetireGenerations {
                index: index.name.clone(),
                older_than: through,
            };
            self.lake.ask_catalog(retire, daemon()).await?;
            dropped += held;
        }
        Ok(dropped)
    }

    /// Lets go of evaluation sets that hold a deleted row. Returns how many.
    async fn retire_evals(&self, name: &str) -> Result<u64, LakeError> {
        let dataset = name.to_owned();
        let retire = CatalogCommand::Quality(QualityCommand::RetireEvals { dataset });
        let committed = self.lake.ask_catalog(retire, daemon()).await?;
        let retired = committed.events.iter().map(|event| match event {
            Event::Catalog(CatalogEvent::EvalsRetired(event)) => event.evals.len() as u64,
            _ => 0,
        });
        Ok(retired.sum())
    }

    /// Waits until a generation answers that was built after `through`, asking for one if need be.
    async fn current_generation(&self, name: &str, through: Seq) -> Result<(), LakeError> {
        let mut asked = false;
        loop {
            let snapshot = self.lake.catalog();
            let Some(index) = snapshot.state.indexes.get(name) else {
                return Ok(());
            };
            if index.building.is_none() {
                let current = index.live_generation();
                if current.is_none_or(|live| live.oldest_source() >= through) {
                    return Ok(());
                }
                if let (true, Some((_, error))) = (asked, &index.failed) {
                    let text = format!("index `{name}` could not be built: {error}");
                    return Err(
                        PortError::new(ErrorKind::Unprocessable, "build_failed", text).into(),
                    );
                }
                let index = name.to_owned();
                let config = None;
                let request = CatalogCommand::RequestGeneration { index, config };
                self.lake.ask_catalog(request, daemon()).await?;
                asked = true;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Deletes what nothing points at, once no query reads it any more. Returns how many objects.
    async fn delete_objects(&self) -> Result<Deleted, LakeError> {
        let doomed = self.lake.catalog().state.doomed.clone();
        let Some(last) = doomed.values().map(|object| object.since).max() else {
            return Ok((0, Vec::new()));
        };
        self.readers.drain(last, self.query_deadline).await;
        self.builder.release(&self.lake.catalog().state).await;
        let deletions: Vec<_> = doomed
            .iter()
            .map(|(name, object)| async move {
                let deleted = self.delete_everywhere(&object.bucket, &object.key).await;
                let deleted = deleted.map_err(|error| (object.bucket.clone(), error));
                deleted.map(|()| name.clone())
            })
            .collect();
        let done: Vec<Result<String, (String, PortError)>> = stream::iter(deletions)
            .buffer_unordered(DELETIONS_AT_A_TIME)
            .collect()
            .await;
        let mut gone = Vec::with_capacity(done.len());
        let mut failed = Vec::new();
        for deleted in done {
            match deleted {
                Ok(name) => gone.push(name),
                Err(error) => failed.push(error),
            }
        }
        let deleted = gone.len() as u64;
        let forget = CatalogCommand::ForgetObjects { objects: gone };
        self.lake.ask_catalog(forget, daemon()).await?;
        Ok((deleted, failed))
    }

    /// Whether a dataset or an index over it has objects in the bucket: what cannot be deleted in
    /// another one is not this dataset's.
    fn lies_in(&self, name: &str, bucket: &str) -> bool {
        let catalog = self.lake.catalog();
        let Some(dataset) = catalog.state.datasets.get(name) else {
            return true;
        };
        let mut indexes = catalog.state.indexes_over(name);
        dataset.bucket == bucket
            || dataset.all_files().any(|file| file.entry.bucket == bucket)
            || indexes.any(|index| index.spec.bucket == bucket)
    }

    /// Deletes an object or a folder, and its copies in the rescue bucket.
    async fn delete_everywhere(&self, bucket: &str, key: &str) -> Result<(), PortError> {
        // A dataset that was moved to its rescue bucket lies there under the same key.
        let state = &self.lake.catalog().state;
        if let Some(rescue) = self.lake.rescue_of(bucket)
            && !state.points_at(&rescue, key)
        {
            self.delete(&rescue, key).await?;
        }
        self.delete(bucket, key).await
    }

    /// Deletes an object, or everything in a folder.
    async fn delete(&self, bucket: &str, key: &str) -> Result<(), PortError> {
        if !key.ends_with('/') {
            self.store.delete(bucket, key).await?;
            self.readers.forget(bucket, key);
            return Ok(());
        }
        for object in self.store.list(bucket, key).await? {
            self.store.delete(bucket, &object.key).await?;
        }
        Ok(())
    }

    /// Deletes objects that were written for the dataset and never committed: no event will ever point
    /// at them, and they may hold any row. Writes that are under way are waited for.
    async fn sweep_leftovers(&self, name: &str) -> Result<u64, LakeError> {
        let id = self.lake.catalog().state.dataset(name)?.id.clone();
        let _nobody_publishes = self.lake.inner.publishing.alone(&id).await;
        let left = self.lake.leftovers(self.store.as_ref(), name).await?;
        for (bucket, key) in &left.objects {
            self.store.delete(bucket, key).await?;
        }
        Ok(left.objects.len() as u64)
    }
}
