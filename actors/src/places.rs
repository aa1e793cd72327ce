//! The places worker: moves a dataset's files to another bucket, and puts right what the catalog says
//! of files by reading them again. Copies and reads first, then asks the catalog; deletes nothing.

use std::{collections::BTreeSet, sync::Arc};

use async_trait::async_trait;
use futures::{StreamExt, stream};
use lakehouse_journal::{
    model::{
        ErrorKind, Event, ModelError,
        catalog::{CatalogCommand, Dataset, FileEntry, MoveDataset, SchemaDoc},
        event::{CatalogEvent, FilesRepaired},
    },
    record::Seq,
};
use tokio::sync::oneshot;

use crate::{
    error::{LakeError, PortError},
    lake::Lake,
    owner::{Caller, Committed},
    ports::{BucketStore, FileInspector, Inspected, ObjectCopy},
    worker::Duty,
};

/// Files read or copied at a time.
const FILES_IN_FLIGHT: usize = 4;
/// How often a change is prepared again because the dataset changed meanwhile.
const STALE_RETRIES: usize = 20;

/// What a move did.
#[derive(Debug, Clone)]
pub struct Moved {
    /// Files that lie in the new bucket now.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Position of the swap.
    pub seq: Seq,
}

/// What reading a dataset's files again has shown.
#[derive(Debug, Clone, Default)]
pub struct Repaired {
    /// Visible rows, before and after.
    pub rows: (u64, u64),
    /// Columns, before and after.
    pub columns: (u64, u64),
    /// Files read.
    pub checked: u64,
    /// Keys of files of which something else was said than is true.
    pub repaired: Vec<String>,
    /// Keys of files that the dataset had lost from its list.
    pub relisted: Vec<String>,
    /// Keys of files that came back from the rescue bucket.
    pub restored: Vec<String>,
    /// Keys of files that are in no bucket.
    pub missing: Vec<String>,
    /// Keys of files whose bucket does not answer, or that cannot be read or put right, and why.
    pub unreadable: Vec<(String, String)>,
    /// Position of the catalog.
    pub seq: Seq,
}

impl Repaired {
    /// Whether the catalog says something else now.
    pub fn changed(&self) -> bool {
        !self.repaired.is_empty() || self.columns.0 != self.columns.1 || self.rows.0 != self.rows.1
    }
}

/// What the worker is given.
pub(crate) enum PlacesTask {
    /// Move a dataset.
    Move {
        dataset: String,
        bucket: String,
        caller: Caller,
        reply: oneshot::Sender<Result<Moved, LakeError>>,
    },
    /// Read a dataset's files again.
    Repair {
        dataset: String,
        caller: Caller,
        reply: oneshot::Sender<Result<Repaired, LakeError>>,
    },
}

/// The worker's duty.
pub(crate) struct PlacesDuty {
    pub lake: Lake,
    pub store: Arc<dyn BucketStore>,
    pub inspector: Arc<dyn FileInspector>,
}

#[async_trait]
impl Duty for PlacesDuty {
    type Task = PlacesTask;

    async fn run(&self, task: PlacesTask) {
        // Whoever hung up undoes nothing.
        match task {
            PlacesTask::Move {
                dataset,
                bucket,
                caller,
                reply,
            } => {
                let _ = reply.send(self.move_to(&dataset, &bucket, &caller).await);
            }
            PlacesTask::Repair {
                dataset,
                caller,
                reply,
            } => {
                let _ = reply.send(self.repair(&dataset, &caller).await);
            }
        }
    }
}

impl Lake {
    /// Copies a dataset's files to another bucket, compares them, and swaps by one event.
    ///
    /// # Errors
    /// Why it lies where it lay.
    pub async fn move_dataset(
        &self,
        dataset: &str,
        bucket: &str,
        caller: Caller,
    ) -> Result<Moved, LakeError> {
        self.catalog().state.dataset(dataset)?;
        self.known_bucket(bucket)?;
        let (reply, answer) = oneshot::channel();
        let task = PlacesTask::Move {
            dataset: dataset.to_owned(),
            bucket: bucket.to_owned(),
            caller,
            reply,
        };
        self.give(|workers| &workers.places, task)?;
        answer.await.unwrap_or_else(|_| Err(overloaded()))
    }

    /// Reads a dataset's files again and puts right what the catalog says of them.
    ///
    /// # Errors
    /// Why nothing was put right.
    pub async fn repair(&self, dataset: &str, caller: Caller) -> Result<Repaired, LakeError> {
        self.catalog().state.dataset(dataset)?;
        let (reply, answer) = oneshot::channel();
        let task = PlacesTask::Repair {
            dataset: dataset.to_owned(),
            caller,
            reply,
        };
        self.give(|workers| &workers.places, task)?;
        answer.await.unwrap_or_else(|_| Err(overloaded()))
    }
}

fn overloaded() -> LakeError {
    LakeError::Overloaded {
        actor: "places".to_owned(),
    }
}

impl PlacesDuty {
    async fn move_to(&self, name: &str, target: &str, caller: &Caller) -> Result<Moved, LakeError> {
        let mut copied = BTreeSet::new();
        for attempt in 0..STALE_RETRIES {
            let right_of_way = self.lake.inner.gates.insist(name, attempt).await;
            let snapshot = self.lake.catalog();
            let dataset = snapshot.state.dataset(name)?;
            let _publishing = self.lake.inner.publishing.pass(&dataset.id).await;
            let elsewhere =
                |entry: &&FileEntry| entry.bucket != target && !copied.contains(&entry.key);
            let entries = dataset.all_files().map(|file| &file.entry);
            let moving: Vec<FileEntry> = entries.filter(elsewhere).cloned().collect();
            for entry in self.copy_all(target, moving).await? {
                copied.insert(entry.key);
            }
            let command = CatalogCommand::MoveDataset(MoveDataset {
                dataset: name.to_owned(),
                bucket: target.to_owned(),
                copied: copied.iter().cloned().collect(),
            });
            let _leave = match right_of_way {
                Some(leave) => leave,
                None => self.lake.inner.gates.pass(name).await,
            };
            match self.lake.ask_catalog(command, caller.clone()).await {
                Err(LakeError::Refused(ModelError::Stale { .. })) => {}
                other => return other.map(|committed| moved(&committed)),
            }
        }
        let text = format!("dataset `{name}` changes too fast; try again");
        Err(PortError::new(ErrorKind::Conflict, "dataset_busy", text).into())
    }

    async fn copy_all(
        &self,
        to: &str,
        entries: Vec<FileEntry>,
    ) -> Result<Vec<FileEntry>, LakeError> {
        let copies = stream::iter(entries).map(|entry| async move {
            let copy = ObjectCopy {
                from: entry.bucket.clone(),
                to: to.to_owned(),
                key: entry.key.clone(),
                bytes: entry.bytes,
                blake3: entry.blake3.clone(),
            };
            self.store.copy(&copy).await.map(|()| entry)
        });
        let all: Vec<_> = copies.buffer_unordered(FILES_IN_FLIGHT).collect().await;
        let done: Result<Vec<FileEntry>, PortError> = all.into_iter().collect();
        Ok(done?)
    }

    async fn repair(&self, name: &str, caller: &Caller) -> Result<Repaired, LakeError> {
        let snapshot = self.lake.catalog();
        let dataset = snapshot.state.dataset(name)?;
        let mut report = Repaired {
            rows: (dataset.row_count(), dataset.row_count()),
            columns: (columns(dataset), columns(dataset)),
            seq: snapshot.seq,
            ..Repaired::default()
        };
        let entries: Vec<FileEntry> = dataset.all_files().map(|file| file.entry.clone()).collect();
        report.checked = entries.len() as u64;
        let reads = stream::iter(entries).map(|entry| self.look_at(entry));
        let found: Vec<_> = reads.buffered(FILES_IN_FLIGHT).collect().await;
        let live: BTreeSet<&str> = dataset.files.iter().map(|f| f.entry.key.as_str()).collect();
        let mut schemas: Vec<SchemaDoc> = Vec::new();
        let mut event = FilesRepaired {
            dataset: name.to_owned(),
            repaired: Vec::new(),
            schema: None,
            relisted: dataset.wrongly_retired(),
            missing: Vec::new(),
        };
        for (key, seen) in found {
            match seen {
                Ok(Seen::There(inspected, restored)) => {
                    if live.contains(key.as_str())
                        && schemas
                            .iter()
                            .all(|s| s.fingerprint != inspected.schema.fingerprint)
                    {
                        schemas.push(inspected.schema.clone());
                    }
                    if restored {
                        report.restored.push(key);
                    }
                    event.repaired.push(inspected.file);
                }
                Ok(Seen::Nowhere) => event.missing.push(key),
                Err(error) => report.unreadable.push((key, error.to_string())),
            }
        }
        report.missing.clone_from(&event.missing);
        // Files that do not agree say nothing of the dataset's columns.
        if let [schema] = schemas.as_slice() {
            event.schema = Some(schema.clone());
        }
        keep_provable(dataset, &mut event, &mut report);
        self.commit_repair(event, caller, report).await
    }

    async fn commit_repair(
        &self,
        event: FilesRepaired,
        caller: &Caller,
        mut report: Repaired,
    ) -> Result<Repaired, LakeError> {
        let name = event.dataset.clone();
        let command = CatalogCommand::RepairFiles(event);
        let _leave = self.lake.inner.gates.pass(&name).await;
        let committed = self.lake.ask_catalog(command, caller.clone()).await?;
        for event in &committed.events {
            if let Event::Catalog(CatalogEvent::FilesRepaired(event)) = event {
                report.repaired = event.repaired.iter().map(|file| file.key.clone()).collect();
                report.relisted.clone_from(&event.relisted);
            }
        }
        let snapshot = self.lake.catalog();
        if let Ok(dataset) = snapshot.state.dataset(&name) {
            report.rows.1 = dataset.row_count();
            report.columns.1 = columns(dataset);
        }
        report.seq = committed.seq;
        Ok(report)
    }

    async fn look_at(&self, entry: FileEntry) -> (String, Result<Seen, PortError>) {
        let seen = self.find(&entry).await;
        (entry.key, seen)
    }

    /// The file where the catalog says it is, else brought back from the rescue bucket, else in any
    /// other bucket.
    async fn find(&self, entry: &FileEntry) -> Result<Seen, PortError> {
        if let Some(found) = self.inspector.inspect(&entry.bucket, &entry.key).await? {
            return Ok(Seen::There(found, false));
        }
        if let Some(rescue) = self.lake.rescue_of(&entry.bucket)
            && let Some(copy) = self.inspector.inspect(&rescue, &entry.key).await?
        {
            let back = ObjectCopy {
                from: rescue,
                to: entry.bucket.clone(),
                key: entry.key.clone(),
                bytes: copy.file.bytes,
                blake3: copy.file.blake3.clone(),
            };
            self.store.copy(&back).await?;
            let file = lakehouse_journal::model::event::FileRepair {
                bucket: entry.bucket.clone(),
                ..copy.file
            };
            return Ok(Seen::There(Inspected { file, ..copy }, true));
        }
        let mut unknown = None;
        for bucket in self.lake.buckets().into_keys() {
            match self.inspector.inspect(&bucket, &entry.key).await {
                Ok(Some(found)) => return Ok(Seen::There(found, false)),
                Ok(None) => {}
                Err(error) => unknown = Some(error),
            }
        }
        // It may lie in the bucket that does not answer.
        unknown.map_or(Ok(Seen::Nowhere), Err)
    }
}

/// Where a file was found.
enum Seen {
    /// In a bucket; and whether it had to be brought back.
    There(Inspected, bool),
    /// In none.
    Nowhere,
}

/// Leaves out files whose deleted rows would lose their places: they are told, not changed.
fn keep_provable(dataset: &Dataset, event: &mut FilesRepaired, report: &mut Repaired) {
    event.repaired.retain(|repair| {
        let provable = dataset.keeps_positions(repair);
        if !provable {
            let why = "it has deleted rows and other content than when they were deleted";
            report.unreadable.push((repair.key.clone(), why.to_owned()));
        }
        provable
    });
}

fn columns(dataset: &Dataset) -> u64 {
    dataset.schema.columns.len() as u64
}

fn moved(committed: &Committed) -> Moved {
    let event = committed.events.first().and_then(|event| match event {
        Event::Catalog(CatalogEvent::DatasetMoved(event)) => Some(event),
        _ => None,
    });
    Moved {
        files: event.map_or(0, |event| event.files.len() as u64),
        bytes: event.map_or(0, |event| event.bytes),
        seq: committed.seq,
    }
}
