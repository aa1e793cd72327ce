//! The rescue worker: copies what is committed to a bucket into the bucket that answers for it, and
//! drops copies that nothing needs any more. What is still to be copied is read from the state every
//! time, so a lost task comes back; which copies may be read is not decided here.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use futures::{StreamExt, stream};
use lakehouse_journal::{
    model::{
        ErrorKind,
        bucket::{BucketCommand, BucketSpec, BucketState},
        catalog::{CatalogState, Delta},
        event::{ObjectsRescued, RescueCopiesDropped},
    },
    record::Micros,
};

use crate::{
    error::{LakeError, PortError},
    lake::Lake,
    owner::Caller,
    ports::{BucketStore, ObjectCopy},
    worker::Duty,
};

/// Objects copied before they are noted in one event.
const BATCH: usize = 32;
/// Objects copied at a time.
const COPIES_IN_FLIGHT: usize = 4;
/// Copies dropped before they are noted in one event.
const DROPS: usize = 256;

/// How far the copies of a bucket are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RescueState {
    /// The bucket that answers for it.
    pub rescue: String,
    /// Objects that are not copied yet.
    pub pending: u64,
    /// Their bytes.
    pub pending_bytes: u64,
    /// When the oldest of them was committed, where that is known.
    pub pending_since: Option<Micros>,
    /// Objects that are copied.
    pub copied: u64,
    /// Their bytes.
    pub copied_bytes: u64,
}

/// An object that events point at.
struct Live {
    bytes: u64,
    blake3: String,
    /// The dataset whose writers a copy must stand beside, by its id.
    dataset: Option<String>,
    since: Option<Micros>,
}

/// Look at every bucket that has a rescue bucket.
pub(crate) struct RescueTask;

/// The worker's duty. One task at a time.
pub(crate) struct RescueDuty {
    pub lake: Lake,
    pub store: Arc<dyn BucketStore>,
}

#[async_trait]
impl Duty for RescueDuty {
    type Task = RescueTask;

    async fn run(&self, _: RescueTask) {
        for bucket in self.lake.buckets().into_keys() {
            if let Err(error) = self.look_at(&bucket).await {
                tracing::warn!(bucket, %error, "copies for rescue are behind, they come again");
            }
        }
    }
}

impl Lake {
    /// The bucket that answers for this one.
    pub fn rescue_of(&self, bucket: &str) -> Option<String> {
        let state = self.bucket_state(bucket)?;
        let rescue = state.spec.as_ref().and_then(BucketSpec::rescue_bucket)?;
        Some(rescue.to_owned())
    }

    /// A bucket's state as it is published.
    pub fn bucket_state(&self, bucket: &str) -> Option<BucketState> {
        let buckets = self.inner.buckets.read();
        let published = &buckets.get(bucket)?.published;
        Some(published.load().state.clone())
    }

    /// How far the copies of a bucket are; nothing when no bucket answers for it.
    pub fn rescue_state(&self, bucket: &str) -> Option<RescueState> {
        let rescue = self.rescue_of(bucket)?;
        let state = self.bucket_state(bucket)?;
        let live = live_in(&self.catalog().state, bucket, &state);
        let pending = || {
            live.iter()
                .filter(|(key, _)| !state.rescued.contains_key(*key))
        };
        Some(RescueState {
            rescue,
            pending: pending().count() as u64,
            pending_bytes: pending().map(|(_, object)| object.bytes).sum(),
            pending_since: pending().filter_map(|(_, object)| object.since).min(),
            copied: state.rescued.len() as u64,
            copied_bytes: state.rescued.values().sum(),
        })
    }

    /// Whether an object of a bucket is a copy of another bucket's.
    pub fn is_copied_to(&self, rescue: &str, key: &str) -> bool {
        self.buckets().iter().any(|(bucket, spec)| {
            spec.rescue_bucket() == Some(rescue)
                && self
                    .bucket_state(bucket)
                    .is_some_and(|state| state.rescued.contains_key(key))
        })
    }

    /// Keys of the objects in a bucket that are copies of another bucket's, or will be.
    pub(crate) fn copies_in(&self, rescue: &str) -> Vec<String> {
        let mut keys = Vec::new();
        for (bucket, spec) in self.buckets() {
            if spec.rescue_bucket() == Some(rescue)
                && let Some(state) = self.bucket_state(&bucket)
            {
                keys.extend(live_in(&self.catalog().state, &bucket, &state).into_keys());
            }
        }
        keys
    }

    /// Lets the rescue worker look for what is to be copied.
    pub(crate) fn poke_rescue(&self) {
        let wanted = self
            .buckets()
            .values()
            .any(|spec| spec.rescue_bucket().is_some());
        if wanted {
            // One that is busy looks again as soon as it has ended.
            let _ = self.give(|workers| &workers.rescue, RescueTask);
        }
    }
}

/// Every object of a bucket that events point at: files, those of generations, objects of others.
fn live_in(catalog: &CatalogState, bucket: &str, state: &BucketState) -> BTreeMap<String, Live> {
    let mut live = BTreeMap::new();
    for dataset in catalog.datasets.values() {
        for file in dataset
            .all_files()
            .filter(|file| file.entry.bucket == bucket)
        {
            let object = Live {
                bytes: file.entry.bytes,
                blake3: file.entry.blake3.clone(),
                dataset: Some(dataset.id.clone()),
                since: Some(dataset.updated_at),
            };
            live.insert(file.entry.key.clone(), object);
        }
    }
    for index in catalog
        .indexes
        .values()
        .filter(|index| index.spec.bucket == bucket)
    {
        let dataset = catalog.dataset_under(&index.spec.source);
        for Delta { file, .. } in index.deltas() {
            let object = Live {
                bytes: file.bytes,
                blake3: file.blake3.clone(),
                dataset: dataset.map(|dataset| dataset.id.clone()),
                since: dataset.map(|dataset| dataset.updated_at),
            };
            live.insert(file.key.clone(), object);
        }
        for built in &index.generations {
            for file in &built.files {
                let object = Live {
                    bytes: file.bytes,
                    blake3: file.blake3.clone(),
                    dataset: dataset.map(|dataset| dataset.id.clone()),
                    since: Some(built.built_at),
                };
                live.insert(format!("{}/{}", built.prefix, file.name), object);
            }
        }
    }
    for (key, object) in &state.objects {
        let object = Live {
            bytes: object.bytes,
            blake3: object.blake3.clone(),
            dataset: None,
            since: None,
        };
        live.insert(key.clone(), object);
    }
    live
}

impl RescueDuty {
    async fn look_at(&self, bucket: &str) -> Result<(), LakeError> {
        let Some(rescue) = self.lake.rescue_of(bucket) else {
            return Ok(());
        };
        self.lake.known_bucket(&rescue)?;
        let Some(state) = self.lake.bucket_state(bucket) else {
            return Ok(());
        };
        let live = live_in(&self.lake.catalog().state, bucket, &state);
        let unneeded = state.rescued.keys().filter(|key| !live.contains_key(*key));
        let unneeded: Vec<String> = unneeded.take(DROPS).cloned().collect();
        self.drop_copies(bucket, &rescue, unneeded).await?;
        let pending: Vec<(String, Live)> = live
            .into_iter()
            .filter(|(key, _)| !state.rescued.contains_key(key))
            .collect();
        let mut failed = None;
        let mut pending = pending.into_iter().peekable();
        while pending.peek().is_some() {
            let batch: Vec<_> = pending.by_ref().take(BATCH).collect();
            let Some(error) = self.copy_batch(bucket, &rescue, batch).await? else {
                continue;
            };
            // A file that is broken keeps no other from being copied; a bucket that is down does.
            let is_down = error.kind == ErrorKind::Unavailable;
            failed = Some(error);
            if is_down {
                break;
            }
        }
        failed.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Copies and notes what came over; returns why something did not.
    async fn copy_batch(
        &self,
        bucket: &str,
        rescue: &str,
        batch: Vec<(String, Live)>,
    ) -> Result<Option<PortError>, LakeError> {
        let copies =
            stream::iter(batch).map(|(key, object)| self.copy(bucket, rescue, key, object));
        let ended: Vec<_> = copies.buffer_unordered(COPIES_IN_FLIGHT).collect().await;
        let mut objects = Vec::new();
        let mut failed = None;
        for result in ended {
            match result {
                Ok(object) => objects.extend(object),
                Err(error) => failed = Some(error),
            }
        }
        if !objects.is_empty() {
            let note = BucketCommand::NoteRescued(ObjectsRescued {
                bucket: bucket.to_owned(),
                rescue: rescue.to_owned(),
                objects,
            });
            self.lake
                .ask_bucket(bucket, note, Caller::daemon("rescue"))
                .await?;
        }
        Ok(failed)
    }

    /// Copies one object; nothing when it was let go of meanwhile.
    async fn copy(
        &self,
        bucket: &str,
        rescue: &str,
        key: String,
        object: Live,
    ) -> Result<Option<(String, u64)>, PortError> {
        // Whoever sweeps the dataset's folders waits: a copy of a file that is being erased would stay.
        let _publishing = match &object.dataset {
            Some(id) => Some(self.lake.inner.publishing.pass(id).await),
            None => None,
        };
        if !self.is_live(bucket, &key) {
            return Ok(None);
        }
        let copy = ObjectCopy {
            from: bucket.to_owned(),
            to: rescue.to_owned(),
            key: key.clone(),
            bytes: object.bytes,
            blake3: object.blake3,
        };
        let copied = self.store.copy(&copy).await;
        if !self.is_live(bucket, &key) {
            self.remove(rescue, &key).await?;
            return Ok(None);
        }
        copied.map(|()| Some((key, object.bytes)))
    }

    fn is_live(&self, bucket: &str, key: &str) -> bool {
        let state = self.lake.bucket_state(bucket);
        self.lake.catalog().state.points_at(bucket, key)
            || state.is_some_and(|state| state.objects.contains_key(key))
    }

    async fn drop_copies(
        &self,
        bucket: &str,
        rescue: &str,
        keys: Vec<String>,
    ) -> Result<(), LakeError> {
        if keys.is_empty() {
            return Ok(());
        }
        for key in &keys {
            self.remove(rescue, key).await?;
        }
        let note = BucketCommand::NoteDropped(RescueCopiesDropped {
            bucket: bucket.to_owned(),
            keys,
        });
        self.lake
            .ask_bucket(bucket, note, Caller::daemon("rescue"))
            .await?;
        Ok(())
    }

    /// Removes a copy, unless an event points at it where it lies.
    async fn remove(&self, rescue: &str, key: &str) -> Result<(), PortError> {
        if self.is_live(rescue, key) {
            return Ok(());
        }
        self.store.delete(rescue, key).await
    }
}
