//! Deleting rows for good: keys are turned into positions wherever a copy of their row lies, and the
//! catalog decides on those. The rows are gone from every answer when it has.

use std::sync::Arc;

use lakehouse_journal::model::{
    ErrorKind, Event, ModelError,
    catalog::{CatalogCommand, DataFile, Dataset, JournalKeys, TombstoneRows},
    event::CatalogEvent,
};

use crate::{
    error::{LakeError, PortError},
    lake::Lake,
    owner::{Caller, Committed},
    ports::KeyTest,
};

/// How often keys are resolved again because the dataset changed meanwhile.
const STALE_RETRIES: usize = 20;

/// What a tombstone request did.
#[derive(Debug, Clone)]
pub struct Tombstoned {
    /// The commit; without events when there was no such row.
    pub committed: Committed,
    /// Keys that are gone now, as they stand in the journal.
    pub rows: Vec<String>,
    /// Keys that no row had, or none that was not deleted before.
    pub missing: Vec<String>,
}

impl Lake {
    /// Deletes rows for good: resolves the keys on a snapshot, and again when it changed meanwhile.
    ///
    /// # Errors
    /// When the dataset is not there, its files cannot be read, or the catalog cannot decide.
    pub async fn tombstone(
        &self,
        dataset: &str,
        keys: &[String],
        reason: String,
        on_behalf_of: Option<String>,
        caller: Caller,
    ) -> Result<Tombstoned, LakeError> {
        let mut caller = caller;
        if self.catalog().state.dataset(dataset)?.journal_keys == JournalKeys::Hashed
            && let Some((_, fingerprint)) = &mut caller.idempotency
        {
            // It is a hash of the request, keys and all, which somebody could guess.
            *fingerprint = self.key_hash(fingerprint);
        }
        for _ in 0..STALE_RETRIES {
            let snapshot = self.catalog();
            let current = snapshot.state.dataset(dataset)?;
            if current.key.is_empty() {
                return Err(ModelError::Impossible {
                    what: "tombstone",
                    reason: format!("dataset `{dataset}` has no key, so no row of it has a name"),
                }
                .into());
            }
            let resolved = self
                .inner
                .lookup
                .resolve(&not_erased(current), keys)
                .await?;
            let named = |key: &String| self.journal_key(current, key);
            let command = CatalogCommand::TombstoneRows(TombstoneRows {
                dataset: dataset.to_owned(),
                read_seq: snapshot.seq,
                rows: resolved.found.iter().map(named).collect(),
                deleted: resolved.deleted,
                missing: resolved.missing.iter().map(named).collect(),
                reason: reason.clone(),
                on_behalf_of: on_behalf_of.clone(),
            });
            match self.ask_catalog(command, caller.clone()).await {
                Err(LakeError::Refused(ModelError::Stale { .. })) => {}
                Err(error) => return Err(error),
                Ok(committed) => return Ok(answer(committed, resolved.missing)),
            }
        }
        let text = format!("dataset `{dataset}` changes too fast; try again");
        Err(PortError::new(ErrorKind::Conflict, "dataset_busy", text).into())
    }

    /// A row key as it stands in the journal from here on.
    pub fn journal_key(&self, dataset: &Dataset, key: &String) -> String {
        match dataset.journal_keys {
            JournalKeys::Clear => key.clone(),
            JournalKeys::Hashed => (self.inner.key_hash)(key),
        }
    }

    /// A row key's keyed hash.
    pub fn key_hash(&self, key: &str) -> String {
        (self.inner.key_hash)(key)
    }

    /// Whether a row of a key was deleted for good, as a test of many keys.
    pub fn tombstoned_keys(&self, dataset: &Arc<Dataset>) -> KeyTest {
        let (dataset, hash) = (Arc::clone(dataset), Arc::clone(&self.inner.key_hash));
        let hashed = dataset.has_hashed_keys();
        Arc::new(move |key| {
            dataset.tombstones.contains_key(key)
                || (hashed && dataset.tombstones.contains_key(&hash(key)))
        })
    }
}

/// The dataset with every copy of a row that was not deleted for good: replaced ones and those in
/// files that are kept for queries of the past, too.
fn not_erased(dataset: &Dataset) -> Dataset {
    let files = dataset.all_files().map(|file| {
        Arc::new(DataFile {
            deleted: file.erased.clone(),
            ..file.clone()
        })
    });
    Dataset {
        files: files.collect(),
        ..dataset.clone()
    }
}

/// What the events say that the request did; a repeated request gets the first answer.
fn answer(committed: Committed, missing: Vec<String>) -> Tombstoned {
    let (rows, missing) = match committed.events.first() {
        Some(Event::Catalog(CatalogEvent::RowsTombstoned(event))) => {
            // What was found now may be an answer of before, when the request is a repeated one.
            let told = if committed.repeated {
                event.missing.clone()
            } else {
                missing
            };
            (event.rows.clone(), told)
        }
        _ => (Vec::new(), missing),
    };
    Tombstoned {
        committed,
        rows,
        missing,
    }
}
