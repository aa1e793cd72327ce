//! Committing a delta: rows that were embedded since an index was built, written beside it and let
//! ride on every index of a dataset in one commit. The refresh worker calls it; readers see all of
//! the new rows or none.

use lakehouse_journal::{
    model::{
        catalog::{CatalogCommand, CommitIndexDelta, Index},
        event::IndexDelta,
    },
    record::Seq,
};

use crate::{
    error::LakeError,
    lake::Lake,
    owner::{Caller, Committed},
    ports::{BucketStore, DeltaRows, IndexDeltas},
};

/// What became of the rows of one index.
#[derive(Debug, Clone)]
pub struct IndexChange {
    /// The index.
    pub index: String,
    /// The generation that answered when the difference was taken.
    pub generation: u64,
    /// The difference; an empty one says that the index has all rows of the snapshot.
    pub rows: DeltaRows,
}

/// Where deltas are written, and removed again when they are refused.
#[derive(Clone, Copy)]
pub struct DeltaStore<'a> {
    /// Writes them.
    pub deltas: &'a dyn IndexDeltas,
    /// Removes them.
    pub objects: &'a dyn BucketStore,
}

impl Lake {
    /// Lets rows ride on the indexes of a dataset, in one commit: searchable when it returns. An
    /// empty change says that the index has the rows of `source_seq`.
    ///
    /// # Errors
    /// `Stale` when another generation answers by now: take the difference again. What
    /// [`IndexDeltas::write_delta`] says of a change. Nothing has changed then, and no object stays.
    pub async fn commit_index_delta(
        &self,
        store: DeltaStore<'_>,
        dataset: &str,
        source_seq: Seq,
        changes: Vec<IndexChange>,
        caller: Caller,
    ) -> Result<Committed, LakeError> {
        let id = self.catalog().state.dataset(dataset)?.id.clone();
        // Whoever sweeps leftovers of the dataset or of the indexes waits until the files are committed.
        let mut publishing = vec![self.inner.publishing.pass(&id).await];
        for change in &changes {
            publishing.push(self.inner.publishing.pass(&change.index).await);
        }
        let mut command = CommitIndexDelta {
            dataset: dataset.to_owned(),
            source_seq,
            deltas: Vec::new(),
        };
        let mut result = Ok(());
        for change in changes {
            match self.written(store.deltas, change).await {
                Ok(delta) => command.deltas.push(delta),
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        let files: Vec<(String, String)> = command
            .deltas
            .iter()
            .filter_map(|delta| Some((delta.index.clone(), delta.file.as_ref()?.key.clone())))
            .collect();
        let committed = match result {
            Ok(()) => {
                let command = CatalogCommand::CommitIndexDelta(command);
                self.ask_catalog(command, caller).await
            }
            Err(error) => Err(error),
        };
        if committed.as_ref().is_err_and(LakeError::is_definite) {
            self.discard_deltas(store.objects, &files).await;
        }
        committed
    }

    async fn written(
        &self,
        deltas: &dyn IndexDeltas,
        change: IndexChange,
    ) -> Result<IndexDelta, LakeError> {
        let catalog = self.catalog();
        let index: &Index = catalog.state.index(&change.index)?;
        let file = if change.rows.is_empty() {
            None
        } else {
            Some(deltas.write_delta(index, change.rows).await?)
        };
        Ok(IndexDelta {
            index: change.index,
            generation: change.generation,
            file,
        })
    }

    async fn discard_deltas(&self, objects: &dyn BucketStore, files: &[(String, String)]) {
        let catalog = self.catalog();
        for (index, key) in files {
            let Some(index) = catalog.state.indexes.get(index) else {
                continue;
            };
            if let Err(error) = objects.delete(&index.spec.bucket, key).await {
                tracing::warn!(%error, "an unused delta stays until the sweep");
            }
        }
    }
}
