//! The definitions of views as objects at `_catalog/views/{name}.json` of the primary bucket, for people and
//! other engines. An effect of the state, written by housekeeping after every change of a view and whole
//! after every start; nothing here reads a definition back.

use std::collections::BTreeMap;

use lakehouse_journal::{
    model::catalog::{CatalogState, View},
    record::Seq,
};
use tokio::sync::Mutex;

use crate::{error::PortError, ports::BucketStore};

/// The folder of the definitions.
const FOLDER: &str = "_catalog/views/";

/// What lies in the bucket: names of views and the positions of their definitions. Nothing until the
/// bucket was looked at.
#[derive(Default)]
pub(crate) struct ViewFiles(Mutex<Option<BTreeMap<String, Seq>>>);

impl ViewFiles {
    /// Makes the bucket say what the state says.
    ///
    /// # Errors
    /// When the bucket does not answer; what was not written comes again.
    pub async fn write(
        &self,
        store: &dyn BucketStore,
        bucket: &str,
        state: &CatalogState,
    ) -> Result<(), PortError> {
        let mut known = self.0.lock().await;
        let written = match known.as_mut() {
            Some(written) => written,
            None => known.insert(found(store, bucket).await?),
        };
        let gone: Vec<String> = written
            .keys()
            .filter(|name| !state.views.contains_key(*name))
            .cloned()
            .collect();
        for name in gone {
            store.delete(bucket, &key(&name)).await?;
            written.remove(&name);
        }
        for view in state.views.values() {
            if written.get(&view.name) == Some(&view.seq) {
                continue;
            }
            // In this order a crash leaves no definition rather than an old one.
            store.delete(bucket, &key(&view.name)).await?;
            store
                .put_if_absent(bucket, &key(&view.name), text(view)?)
                .await?;
            written.insert(view.name.clone(), view.seq);
        }
        Ok(())
    }
}

async fn found(store: &dyn BucketStore, bucket: &str) -> Result<BTreeMap<String, Seq>, PortError> {
    let objects = store.list(bucket, FOLDER).await?;
    let names = objects.iter().filter_map(|object| {
        let name = object.key.strip_prefix(FOLDER)?.strip_suffix(".json")?;
        // Of which definition it is, is not known: it is written anew.
        Some((name.to_owned(), 0))
    });
    Ok(names.collect())
}

fn key(view: &str) -> String {
    format!("{FOLDER}{view}.json")
}

fn text(view: &View) -> Result<Vec<u8>, PortError> {
    serde_json::to_vec_pretty(view).map_err(|error| PortError::internal(error.to_string()))
}
