//! The sweep of a bucket: removes objects that no event points at and that are older than the grace.
//! The housekeeping worker calls it. The grace is a courtesy and no guard, as a clock may jump: nothing
//! is removed from a folder while somebody has objects in it that are not committed yet.

use std::collections::{BTreeMap, BTreeSet};

use lakehouse_journal::{model::bucket::BucketCommand, record::Micros};

use crate::{error::LakeError, housekeeping::HousekeepingDuty, owner::Caller, ports::ObjectInfo};

/// Folders of a bucket that hold objects of ours.
const OWN_PREFIXES: [&str; 2] = ["datasets/", "vectors/"];

/// What was removed.
#[derive(Default)]
struct Removed {
    objects: u64,
    bytes: u64,
}

impl HousekeepingDuty {
    /// Sweeps one bucket, and notes what was removed.
    pub(crate) async fn sweep(&self, bucket: &str, horizon: Micros) -> Result<(), LakeError> {
        let mut removed = Removed::default();
        for prefix in OWN_PREFIXES {
            let listed = self.store.list(bucket, prefix).await?;
            // Read after the listing: what was committed meanwhile is in it.
            let live = self.live_objects(bucket);
            let mut orphans = BTreeMap::<String, Vec<ObjectInfo>>::new();
            for object in listed {
                if object.modified < horizon && !is_live(&live, &object.key) {
                    let folder = folder_of(&object.key[prefix.len()..]);
                    orphans.entry(folder.to_owned()).or_default().push(object);
                }
            }
            for (folder, objects) in orphans {
                self.sweep_folder(bucket, &folder, objects, &mut removed)
                    .await?;
            }
        }
        let bucket = bucket.to_owned();
        let report = BucketCommand::ReportOrphans {
            bucket: bucket.clone(),
            objects: removed.objects,
            bytes: removed.bytes,
        };
        self.lake
            .ask_bucket(&bucket, report, Caller::daemon("housekeeping"))
            .await?;
        Ok(())
    }

    /// Removes those of these objects of one folder that are orphans still, while nobody publishes there.
    async fn sweep_folder(
        &self,
        bucket: &str,
        folder: &str,
        objects: Vec<ObjectInfo>,
        removed: &mut Removed,
    ) -> Result<(), LakeError> {
        let _nobody_publishes = self.lake.inner.publishing.alone(folder).await;
        let live = self.live_objects(bucket);
        for object in objects {
            if is_live(&live, &object.key) {
                continue;
            }
            self.store.delete(bucket, &object.key).await?;
            removed.objects += 1;
            removed.bytes += object.bytes;
        }
        Ok(())
    }

    /// Keys of files, and folders of generations, that events point at or will as soon as a build ends.
    fn live_objects(&self, bucket: &str) -> BTreeSet<String> {
        let snapshot = self.lake.catalog();
        let files = snapshot.state.datasets.values().flat_map(|dataset| {
            dataset
                .all_files()
                .filter(|file| file.entry.bucket == bucket)
                .map(|file| file.entry.key.clone())
                .chain([dataset.sidecar_key()])
                .collect::<Vec<_>>()
        });
        let indexes = snapshot.state.indexes.values();
        let generations = indexes
            .filter(|index| index.spec.bucket == bucket)
            .flat_map(|index| {
                let built = index.generations.iter().map(|built| built.prefix.clone());
                let deltas = index.deltas().map(|delta| delta.file.key.clone());
                let building = index.building.iter();
                let building = building.map(|_| format!("vectors/{}", index.name));
                built.chain(deltas).chain(building)
            });
        let doomed = snapshot
            .state
            .doomed
            .values()
            .filter(|object| object.bucket == bucket)
            .map(|object| object.key.clone());
        let copies = self.lake.copies_in(bucket);
        let evals = snapshot.state.quality.evals.values();
        let evals = evals.filter(|eval| eval.spec.bucket == bucket);
        let evals = evals.map(|eval| eval.spec.prefix.clone());
        files
            .chain(generations)
            .chain(evals)
            .chain(doomed)
            .chain(copies)
            .collect()
    }
}

/// The first part of a key below its prefix: a dataset's id, an index's name.
fn folder_of(rest: &str) -> &str {
    rest.split('/').next().unwrap_or(rest)
}

/// Whether the object itself or the folder that it lies in is pointed at.
fn is_live(live: &BTreeSet<String>, key: &str) -> bool {
    if live.contains(key) {
        return true;
    }
    key.char_indices()
        .filter(|(_, letter)| *letter == '/')
        .any(|(at, _)| live.contains(&key[..at]) || live.contains(&key[..=at]))
}
