//! The housekeeping worker: archives sealed segments, takes snapshots, sweeps orphans, lets go of
//! files whose time is over, keeps the lists of deleted rows beside the files, and definitions of views.
//! Everything it does may be lost and done again; it decides nothing about the lake's state.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use lakehouse_journal::{
    model::{
        LakeState,
        catalog::{CatalogCommand, Dataset},
        scheduler::SchedulerCommand,
    },
    record::{Micros, Seq},
};
use parking_lot::Mutex;

use crate::{
    error::{LakeError, PortError},
    lake::Lake,
    owner::Caller,
    ports::{BucketStore, Sidecar},
    view_files::ViewFiles,
    worker::Duty,
    writer::Replayed,
};

/// Events after which a new snapshot is due.
pub const SNAPSHOT_EVENTS: Seq = 50_000;

/// A chore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chore {
    /// Put sealed segments of the journal into the primary bucket.
    Archive,
    /// Take a snapshot when enough has happened since the last.
    Snapshot,
    /// Let go of files that were kept for queries of the past long enough.
    Purge,
    /// Bring the lists of deleted rows beside the files up to date.
    ListDeleted,
    /// Bring the definitions of views in the primary bucket up to date.
    WriteViews,
    /// Remove objects of a bucket that no event points at and that are older than the grace.
    SweepOrphans {
        /// The bucket.
        bucket: String,
    },
}

/// The worker's duty.
pub(crate) struct HousekeepingDuty {
    pub lake: Lake,
    pub store: Arc<dyn BucketStore>,
    pub sidecar: Arc<dyn Sidecar>,
    /// What the lists of deleted rows say: the datasets' last tombstones and changes of files.
    pub listed: Mutex<BTreeMap<String, (Seq, Seq)>>,
    pub view_files: ViewFiles,
    pub orphan_grace: Duration,
    pub retention: Duration,
    /// The state as of the last snapshot, so that the next replays the tail only.
    pub shadow: Mutex<Option<(LakeState, Seq)>>,
    /// Segments that are in the bucket.
    pub archived: Mutex<BTreeSet<String>>,
}

#[async_trait]
impl Duty for HousekeepingDuty {
    type Task = Chore;

    async fn run(&self, chore: Chore) {
        let result = match &chore {
            Chore::Archive => self.archive().await,
            Chore::Snapshot => self.snapshot().await,
            Chore::Purge => self.purge().await,
            Chore::ListDeleted => self.list_deleted().await,
            Chore::SweepOrphans { bucket } => {
                let horizon = self.lake.now() - micros(self.orphan_grace);
                self.sweep(bucket, horizon).await
            }
            Chore::WriteViews => self.write_views().await,
        };
        if let Err(error) = result {
            tracing::warn!(?chore, %error, "chore failed, it comes again");
        }
    }
}

impl HousekeepingDuty {
    async fn archive(&self) -> Result<(), LakeError> {
        for segment in self.lake.journal().reader().sealed_segments(0) {
            let key = segment.key();
            if self.archived.lock().contains(&key) {
                continue;
            }
            let bytes = tokio::task::spawn_blocking(move || segment.read())
                .await
                .map_err(|error| PortError::internal(error.to_string()))?
                .map_err(|error| PortError::internal(error.to_string()))?;
            let primary = self.lake.primary();
            if let Some(rescue) = self.lake.rescue_of(primary) {
                // A copy that fails is no reason to leave the archive itself behind.
                if let Err(error) = self.store.put_if_absent(&rescue, &key, bytes.clone()).await {
                    tracing::warn!(rescue, %error, "a journal segment has no copy there yet");
                    self.store.put_if_absent(primary, &key, bytes).await?;
                    continue;
                }
            }
            self.store.put_if_absent(primary, &key, bytes).await?;
            self.archived.lock().insert(key);
        }
        Ok(())
    }

    /// Replays the tail onto the last snapshot's state, and writes that: never the live state, so
    /// that a snapshot is as good as the replay it stands for.
    async fn snapshot(&self) -> Result<(), LakeError> {
        let journal = self.lake.journal().clone();
        let due = journal.reader().stats().events;
        let from = self.shadow.lock().take();
        let last = from.as_ref().map_or(0, |(_, seq)| *seq);
        if due < last + SNAPSHOT_EVENTS {
            *self.shadow.lock() = from;
            return Ok(());
        }
        let replayed = tokio::task::spawn_blocking(move || {
            let replayed = match from {
                Some((lake, seq)) => journal.replay_from(lake, seq),
                None => journal.replay(),
            }
            .map_err(|error| PortError::internal(error.to_string()))?;
            journal
                .write_snapshot(&replayed.lake, replayed.seq)
                .map_err(|error| PortError::internal(error.to_string()))?;
            Ok::<Replayed, PortError>(replayed)
        })
        .await
        .map_err(|error| PortError::internal(error.to_string()))??;
        let owners = replayed.lake.hashes();
        *self.shadow.lock() = Some((replayed.lake, replayed.seq));
        let checkpoint = SchedulerCommand::NoteCheckpoint { owners };
        self.lake
            .ask_scheduler(checkpoint, Caller::daemon("housekeeping"))
            .await?;
        Ok(())
    }

    async fn purge(&self) -> Result<(), LakeError> {
        let horizon = self.lake.now() - micros(self.retention);
        let catalog = self.lake.catalog();
        let over = |dataset: &&Arc<Dataset>| {
            let mut kept = dataset.retained.iter();
            kept.any(|kept| kept.retired_at <= horizon)
        };
        for dataset in catalog.state.datasets.values().filter(over) {
            let command = CatalogCommand::PurgeFiles {
                dataset: dataset.name.clone(),
                horizon,
            };
            let caller = Caller::daemon("housekeeping");
            self.lake.ask_catalog(command, caller).await?;
        }
        Ok(())
    }

    async fn list_deleted(&self) -> Result<(), LakeError> {
        let mut failed = None;
        let catalog = self.lake.catalog();
        for dataset in catalog.state.datasets.values() {
            let stamp = (dataset.last_tombstone_seq(), dataset.files_seq);
            if stamp.0 == 0 || self.listed.lock().get(&dataset.id) == Some(&stamp) {
                continue;
            }
            // A bucket that is down keeps only its own lists from being written.
            match self.sidecar.write(dataset).await {
                Ok(()) => drop(self.listed.lock().insert(dataset.id.clone(), stamp)),
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(()), |error| Err(error.into()))
    }

    async fn write_views(&self) -> Result<(), LakeError> {
        let catalog = self.lake.catalog();
        let store = self.store.as_ref();
        let written = self
            .view_files
            .write(store, self.lake.primary(), &catalog.state);
        Ok(written.await?)
    }
}

fn micros(duration: Duration) -> Micros {
    Micros::try_from(duration.as_micros()).unwrap_or(Micros::MAX / 4)
}
