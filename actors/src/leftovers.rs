//! Leftovers: objects in a dataset's folders that no event points at. They may hold any row, so the
//! erasure removes them and the report on an erasure counts them; nothing else looks here.

use std::collections::BTreeSet;

use lakehouse_journal::model::catalog::CatalogState;

use crate::{error::LakeError, lake::Lake, ports::BucketStore};

/// What lies in the folders of a dataset and of the indexes over it.
#[derive(Debug, Default)]
pub struct Leftovers {
    /// How many objects were looked at.
    pub looked_at: u64,
    /// Bucket and key of those that no event points at.
    pub objects: Vec<(String, String)>,
}

impl Lake {
    /// Objects of a dataset, and of indexes over it, that no event points at. A write that is under way
    /// has such objects for a moment; an index that is being built is left out.
    ///
    /// # Errors
    /// `NotFound`; `Unavailable` when a bucket does not answer.
    pub async fn leftovers(
        &self,
        store: &dyn BucketStore,
        dataset: &str,
    ) -> Result<Leftovers, LakeError> {
        let before = self.catalog();
        let mut folders = vec![format!("datasets/{}/", before.state.dataset(dataset)?.id)];
        let indexes = before.state.indexes_over(dataset);
        folders.extend(indexes.map(|index| format!("vectors/{}/", index.name)));
        let mut found = Leftovers::default();
        for bucket in self.buckets().into_keys() {
            for folder in &folders {
                let listed = store.list(&bucket, folder).await?;
                // Read after the listing: what was committed meanwhile is in it.
                let now = self.catalog();
                found.looked_at += listed.len() as u64;
                let current = now.state.datasets.get(dataset);
                let files = current.map(|dataset| {
                    let files = dataset.all_files().map(|file| file.entry.key.clone());
                    files.chain([dataset.sidecar_key()]).collect()
                });
                let unknown = listed
                    .into_iter()
                    .filter(|object| !is_known(&now.state, files.as_ref(), &bucket, &object.key));
                let named = unknown.map(|object| (bucket.clone(), object.key));
                found.objects.extend(named);
            }
        }
        Ok(found)
    }
}

/// Whether an event points at an object, or will as soon as a build has ended. `files` are the dataset's
/// own; nothing when there is no such dataset any more.
fn is_known(
    state: &CatalogState,
    files: Option<&BTreeSet<String>>,
    bucket: &str,
    key: &str,
) -> bool {
    let doomed = |object: &str| state.doomed.contains_key(object);
    let below = |folder: &str| key.starts_with(folder) && key[folder.len()..].starts_with('/');
    let in_doomed_folder = || {
        let mut ends = key.match_indices('/').map(|(at, _)| at);
        ends.any(|at| doomed(&format!("{bucket}/{}", &key[..=at])))
    };
    if doomed(&format!("{bucket}/{key}")) || in_doomed_folder() {
        return true;
    }
    if let Some(rest) = key.strip_prefix("vectors/") {
        let mut evals = state.quality.evals.values();
        if evals.any(|eval| eval.spec.bucket == bucket && below(&eval.spec.prefix)) {
            return true;
        }
        let name = rest.split('/').next().unwrap_or_default();
        return state.indexes.get(name).is_some_and(|index| {
            index.building.is_some()
                || index.generations.iter().any(|built| below(&built.prefix))
                || index.has_delta(key)
        });
    }
    files.is_none_or(|files| files.contains(key))
}
