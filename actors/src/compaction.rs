//! The compaction worker: merges small files and drops deleted rows, away from the catalog's actor.
//! Writes the new files first, then asks the catalog to swap; never deletes a live file.

use std::sync::Arc;

use async_trait::async_trait;
use lakehouse_journal::{
    model::{
        ErrorKind, Event, ModelError,
        catalog::{CatalogCommand, CompactFiles, DataFile, Dataset},
        event::{CatalogEvent, CompactionChange},
    },
    record::Seq,
};
use tokio::sync::oneshot;

use crate::{
    error::{LakeError, PortError},
    lake::Lake,
    owner::Caller,
    ports::Compactor,
    worker::Duty,
};

/// Files below this size are merged: 64 MiB.
const SMALL_FILE_BYTES: u64 = 64 << 20;
/// How often a dataset that changed meanwhile is rewritten again.
const STALE_RETRIES: usize = 5;

/// What a compaction did.
#[derive(Debug, Clone)]
pub struct Compacted {
    /// Sizes before and after; absent when there was nothing to do.
    pub change: Option<CompactionChange>,
    /// Position of the swap.
    pub seq: Seq,
}

/// A dataset to compact, with the way back.
pub(crate) struct CompactionTask {
    pub dataset: String,
    pub caller: Caller,
    pub reply: oneshot::Sender<Result<Compacted, LakeError>>,
}

/// The worker's duty.
pub(crate) struct CompactionDuty {
    pub lake: Lake,
    pub compactor: Arc<dyn Compactor>,
}

#[async_trait]
impl Duty for CompactionDuty {
    type Task = CompactionTask;

    async fn run(&self, task: CompactionTask) {
        let job = uuid::Uuid::new_v4().to_string();
        let job = self.lake.jobs().open(&job, "compaction", &task.dataset);
        job.runs();
        let result = self.compact(&task, &job.progress).await;
        match &result {
            Ok(done) => job.done(Some(serde_json::json!({ "journal_seq": done.seq }))),
            Err(error) => job.failed(error.to_string()),
        }
        let _ = task.reply.send(result);
    }
}

impl CompactionDuty {
    async fn compact(
        &self,
        task: &CompactionTask,
        progress: &Arc<crate::ports::Progress>,
    ) -> Result<Compacted, LakeError> {
        for _ in 0..STALE_RETRIES {
            let snapshot = self.lake.catalog();
            let dataset = snapshot.state.dataset(&task.dataset)?;
            let files = worth_rewriting(dataset);
            if files.is_empty() {
                return Ok(Compacted {
                    change: None,
                    seq: snapshot.seq,
                });
            }
            let rewritten = self
                .compactor
                .rewrite(dataset, &files, Arc::clone(progress))
                .await?;
            let staged = rewritten.staged;
            must_keep_rows(&files, staged.rows())?;
            let command = CatalogCommand::CompactFiles(CompactFiles {
                dataset: task.dataset.clone(),
                read_seq: snapshot.seq,
                added: staged.publish(&dataset.bucket, &dataset.id).await?,
                retired: files.iter().map(|file| file.entry.key.clone()).collect(),
            });
            match self.lake.ask_catalog(command, task.caller.clone()).await {
                Err(LakeError::Refused(ModelError::Stale { .. })) => {}
                Err(error) => return Err(error),
                Ok(committed) => {
                    let change = committed.events.first().and_then(|event| match event {
                        Event::Catalog(CatalogEvent::FilesCompacted(event)) => Some(event.change),
                        _ => None,
                    });
                    return Ok(Compacted {
                        change,
                        seq: committed.seq,
                    });
                }
            }
        }
        let text = format!("dataset `{}` changes too fast; try again", task.dataset);
        Err(PortError::new(ErrorKind::Conflict, "dataset_busy", text).into())
    }
}

/// Files with deleted rows, and small ones when there are at least two to merge.
fn worth_rewriting(dataset: &Dataset) -> Vec<Arc<DataFile>> {
    let small = |file: &DataFile| file.entry.bytes < SMALL_FILE_BYTES;
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
