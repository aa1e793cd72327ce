//! The compaction worker: merges small files and drops deleted rows, away from the catalog's actor.
//! Writes the new files first, then asks the catalog to swap; rows that were deleted meanwhile are
//! deleted in the new files too. Never deletes a live file.

use std::sync::Arc;

use async_trait::async_trait;
use lakehouse_journal::{
    model::{
        ErrorKind, Event, ModelError,
        catalog::{
            CatalogCommand, CompactFiles, DataFile, Dataset, FileEntry, RewrittenFile,
            SMALL_FILE_BYTES,
        },
        event::{CatalogEvent, CompactionChange, DeletedRows},
    },
    record::Seq,
};
use tokio::sync::oneshot;

use crate::{
    error::{LakeError, PortError},
    lake::Lake,
    owner::{Caller, Committed},
    ports::{BucketStore, Compactor, Progress, Rewritten},
    worker::{Claim, Duty},
};

/// How often a dataset whose files were replaced meanwhile is rewritten again.
const REWRITES_MAX: usize = 5;
/// How often a swap is prepared again because rows were deleted meanwhile.
const STALE_RETRIES: usize = 20;

/// What a compaction did.
#[derive(Debug, Clone)]
pub struct Compacted {
    /// Sizes before and after; absent when there was nothing to do.
    pub change: Option<CompactionChange>,
    /// Position of the swap.
    pub seq: Seq,
}

/// A dataset to compact: on request, with the way back, or because its policy says so.
pub(crate) struct CompactionTask {
    pub dataset: String,
    pub asked: Option<(Caller, oneshot::Sender<Result<Compacted, LakeError>>)>,
    pub claim: Option<Claim>,
}

/// The worker's duty. One task at a time, so no dataset is compacted twice at once.
pub(crate) struct CompactionDuty {
    pub lake: Lake,
    pub compactor: Arc<dyn Compactor>,
    pub store: Arc<dyn BucketStore>,
}

#[async_trait]
impl Duty for CompactionDuty {
    type Task = CompactionTask;

    async fn run(&self, task: CompactionTask) {
        let job = uuid::Uuid::new_v4().to_string();
        let job = self.lake.jobs().open(&job, "compaction", &task.dataset);
        job.runs();
        let caller = match &task.asked {
            Some((caller, _)) => caller.clone(),
            None => Caller::daemon("compaction"),
        };
        let result = self.compact(&task.dataset, &caller, &job.progress).await;
        match &result {
            Ok(done) => job.done(Some(serde_json::json!({ "journal_seq": done.seq }))),
            Err(error) => job.failed(error.to_string()),
        }
        if let Some(claim) = task.claim {
            claim.ended(result.is_ok(), self.lake.now());
        }
        if let Some((_, reply)) = task.asked {
            // Whoever hung up does not undo a swap.
            let _ = reply.send(result);
        }
    }
}

impl CompactionDuty {
    async fn compact(
        &self,
        name: &str,
        caller: &Caller,
        progress: &Arc<Progress>,
    ) -> Result<Compacted, LakeError> {
        if self.lake.is_repeated(caller) {
            return self.answer_again(name, caller).await;
        }
        for _ in 0..REWRITES_MAX {
            let snapshot = self.lake.catalog();
            let dataset = snapshot.state.dataset(name)?;
            let files = worth_rewriting(dataset);
            if files.is_empty() {
                let (change, seq) = (None, snapshot.seq);
                return Ok(Compacted { change, seq });
            }
            let rewriting = self
                .compactor
                .rewrite(dataset, &files, Arc::clone(progress));
            let rewritten = match rewriting.await {
                Err(_) if self.lake.has_moved_on(dataset) => continue,
                rewritten => rewritten?,
            };
            must_keep_rows(&files, rewritten.staged.rows())?;
            let _publishing = self.lake.inner.publishing.pass(&dataset.id).await;
            let added = rewritten
                .staged
                .publish(&dataset.bucket, &dataset.id)
                .await?;
            match self.swap(dataset, &files, &rewritten, &added, caller).await {
                Ok(Some(committed)) => {
                    if committed.repeated {
                        discard(self.store.as_ref(), &added).await;
                    }
                    return Ok(compacted(&committed));
                }
                Ok(None) => discard(self.store.as_ref(), &added).await,
                Err(error) => {
                    if error.is_definite() {
                        discard(self.store.as_ref(), &added).await;
                    }
                    return Err(error);
                }
            }
        }
        let text = format!("dataset `{name}` changes too fast; try again");
        Err(PortError::new(ErrorKind::Conflict, "dataset_busy", text).into())
    }

    /// What the catalog answered to a request with this key before; it looks at no file.
    async fn answer_again(&self, name: &str, caller: &Caller) -> Result<Compacted, LakeError> {
        let command = CatalogCommand::CompactFiles(CompactFiles {
            dataset: name.to_owned(),
            read_seq: 0,
            added: Vec::new(),
            retired: Vec::new(),
            content_hash: String::new(),
        });
        let committed = self.lake.ask_catalog(command, caller.clone()).await?;
        Ok(compacted(&committed))
    }

    /// Asks for the swap, with the rows that were deleted since; nothing when a file is gone.
    async fn swap(
        &self,
        read: &Dataset,
        files: &[Arc<DataFile>],
        rewritten: &Rewritten,
        added: &[FileEntry],
        caller: &Caller,
    ) -> Result<Option<Committed>, LakeError> {
        for _ in 0..STALE_RETRIES {
            let snapshot = self.lake.catalog();
            let current = snapshot.state.dataset(&read.name)?;
            let Some(since) = Since::of(current, files) else {
                return Ok(None);
            };
            let superseded = rewritten.moved.locate(&since.deleted).await?;
            let erased = rewritten.moved.locate(&since.erased).await?;
            let added = added.iter().zip(superseded.into_iter().zip(erased)).map(
                |(entry, (superseded, erased))| FileEntry {
                    superseded,
                    erased,
                    ..entry.clone()
                },
            );
            let command = CatalogCommand::CompactFiles(CompactFiles {
                dataset: read.name.clone(),
                read_seq: snapshot.seq,
                added: added.collect(),
                retired: since.files,
                content_hash: rewritten.content_hash.clone(),
            });
            let _leave = self.lake.inner.gates.pass(&read.name).await;
            match self.lake.ask_catalog(command, caller.clone()).await {
                Err(LakeError::Refused(ModelError::Stale { .. })) => {}
                other => return other.map(Some),
            }
        }
        Ok(None)
    }
}

/// What was deleted in files since they were rewritten.
struct Since {
    files: Vec<RewrittenFile>,
    deleted: Vec<DeletedRows>,
    erased: Vec<DeletedRows>,
}

impl Since {
    /// Nothing when one of the files is no longer part of the dataset.
    fn of(current: &Dataset, files: &[Arc<DataFile>]) -> Option<Self> {
        let mut since = Self {
            files: Vec::with_capacity(files.len()),
            deleted: Vec::new(),
            erased: Vec::new(),
        };
        for old in files {
            let key = &old.entry.key;
            let now = current.files.iter().find(|file| file.entry.key == *key)?;
            since.files.push(RewrittenFile {
                key: key.clone(),
                deleted: now.deleted.len(),
                erased: now.erased.len(),
            });
            since.deleted.push(DeletedRows {
                file: key.clone(),
                positions: now.deleted.without(&old.deleted),
            });
            since.erased.push(DeletedRows {
                file: key.clone(),
                positions: now.erased.without(&old.erased),
            });
        }
        Some(since)
    }
}

fn compacted(committed: &Committed) -> Compacted {
    let change = committed.events.first().and_then(|event| match event {
        Event::Catalog(CatalogEvent::FilesCompacted(event)) => Some(event.change),
        _ => None,
    });
    Compacted {
        change,
        seq: committed.seq,
    }
}

/// Removes objects that no event will ever point at; what stays is swept up later.
pub(crate) async fn discard(store: &dyn BucketStore, added: &[FileEntry]) {
    for entry in added {
        if let Err(error) = store.delete(&entry.bucket, &entry.key).await {
            tracing::warn!(bucket = entry.bucket, %error, "an unused object stays until the sweep");
        }
    }
}

/// Files with deleted rows, and small ones when there are at least two to merge.
fn worth_rewriting(dataset: &Dataset) -> Vec<Arc<DataFile>> {
    let policy = dataset.compaction.small_file_bytes;
    let small = |file: &DataFile| file.entry.bytes < policy.unwrap_or(SMALL_FILE_BYTES);
    let merge = dataset.files.iter().filter(|file| small(file)).count() > 1;
    dataset
        .files
        .iter()
        .filter(|file| !file.deleted.is_empty() || (merge && small(file)))
        .cloned()
        .collect()
}

fn must_keep_rows(files: &[Arc<DataFile>], written: u64) -> Result<(), LakeError> {
    let expected: u64 = files.iter().map(|file| file.live_rows()).sum();
    if written == expected {
        return Ok(());
    }
    let text = format!("compaction wrote {written} rows where {expected} are visible");
    Err(PortError::new(ErrorKind::Corrupt, "compaction_mismatch", text).into())
}
