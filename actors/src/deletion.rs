//! Deleting rows for good: keys are turned into positions wherever a copy of their row lies, and the
//! catalog decides on those. The rows are gone from every answer when it has.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use lakehouse_journal::{
    model::{
        ErrorKind, Event, ModelError,
        catalog::{
            CatalogCommand, DataFile, Dataset, HASHED_KEY_PREFIX, JournalKeys, TombstoneBatch,
            TombstoneRows,
        },
        event::{CatalogEvent, RowsTombstoned},
    },
    record::Seq,
};

use crate::{
    error::{LakeError, PortError},
    lake::Lake,
    owner::{Caller, Committed},
    ports::{KeyTest, ListedDeletion},
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
        for attempt in 0..STALE_RETRIES {
            let _right_of_way = self.inner.gates.insist(dataset, attempt).await;
            let snapshot = self.catalog();
            let current = snapshot.state.dataset(dataset)?;
            if current.key.is_empty() {
                return Err(ModelError::Impossible {
                    what: "tombstone",
                    reason: format!("dataset `{dataset}` has no key, so no row of it has a name"),
                }
                .into());
            }
            let lookup = &self.inner.lookup;
            let resolved = match lookup.resolve(&not_erased(current), keys).await {
                Err(_) if self.has_moved_on(current) => continue,
                resolved => resolved?,
            };
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
                Ok(committed) => {
                    self.note_in_ledger(current, &committed).await;
                    return Ok(answer(committed, resolved.missing));
                }
            }
        }
        let text = format!("dataset `{dataset}` changes too fast; try again");
        Err(PortError::new(ErrorKind::Conflict, "dataset_busy", text).into())
    }

    /// Whether files of a dataset were exchanged since it was read: an old one may be gone by now, so
    /// that it could not be read is no failure of its bucket.
    pub(crate) fn has_moved_on(&self, read: &Dataset) -> bool {
        let catalog = self.catalog();
        let now = catalog.state.datasets.get(&read.name);
        now.is_none_or(|now| now.id != read.id || now.files_seq > read.files_seq)
    }

    /// Lists a deletion in the ledger. A ledger that fails does not undo the deletion: what is missing in
    /// it is listed at the next start.
    async fn note_in_ledger(&self, dataset: &Dataset, committed: &Committed) {
        let Some(ledger) = &self.inner.ledger else {
            return;
        };
        let catalog = self.catalog();
        let now = catalog.state.datasets.get(&dataset.name);
        let batches = now.map(|dataset| &dataset.tombstone_batches);
        for (event, seq) in tombstoned(committed) {
            let Some(batch) = batches.and_then(|batches| batches.get(&seq)) else {
                continue;
            };
            let deletion = listed(dataset, seq, batch, event.rows.clone());
            if let Err(error) = ledger.list(&deletion).await {
                tracing::error!(seq, %error, "a deletion is not in the ledger");
            }
        }
    }

    /// Brings lake and ledger together: lists deletions that the ledger lacks, and deletes rows that
    /// it lists and this lake, restored from a backup, still shows. Before the first request.
    /// `clear` finds the keys of hashes among a dataset's rows. Returns how many rows were deleted.
    ///
    /// # Errors
    /// When the ledger or the rows cannot be read; nothing may be served then.
    pub async fn settle_ledger<F>(
        &self,
        clear: impl Fn(Arc<Dataset>, Vec<String>) -> F,
    ) -> Result<u64, LakeError>
    where
        F: Future<Output = Result<Vec<String>, PortError>>,
    {
        let Some(ledger) = &self.inner.ledger else {
            return Ok(0);
        };
        let listed = ledger.listed().await?;
        let known: HashSet<&ListedDeletion> = listed.iter().collect();
        for dataset in self.catalog().state.datasets.values() {
            for deletion in deletions(dataset) {
                if !known.contains(&deletion) {
                    ledger.list(&deletion).await?;
                }
            }
        }
        let mut deleted = 0;
        for deletion in listed {
            let catalog = self.catalog();
            let mut datasets = catalog.state.datasets.values();
            let Some(dataset) = datasets.find(|dataset| dataset.id == deletion.dataset_id) else {
                continue;
            };
            let unknown = |key: &String| !dataset.tombstones.contains_key(key);
            let (hashes, mut keys): (Vec<String>, Vec<String>) = deletion
                .rows
                .into_iter()
                .filter(unknown)
                .partition(|key| key.starts_with(HASHED_KEY_PREFIX));
            if !hashes.is_empty() {
                keys.extend(clear(Arc::clone(dataset), hashes).await?);
            }
            if keys.is_empty() {
                continue;
            }
            let name = dataset.name.clone();
            let caller = Caller::daemon("ledger");
            let (reason, actor) = (deletion.reason, Some(deletion.actor));
            let done = self.tombstone(&name, &keys, reason, actor, caller).await?;
            deleted += done.rows.len() as u64;
        }
        Ok(deleted)
    }

    /// A row key as it stands in the journal from here on.
    pub fn journal_key(&self, dataset: &Dataset, key: &str) -> String {
        match dataset.journal_keys {
            JournalKeys::Clear => key.to_owned(),
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

/// The deletions of a dataset, by position.
fn deletions(dataset: &Dataset) -> impl Iterator<Item = ListedDeletion> + use<> {
    let mut by_seq = BTreeMap::<Seq, ListedDeletion>::new();
    for tombstone in dataset.tombstones_after(None) {
        by_seq
            .entry(tombstone.seq)
            .or_insert_with(|| listed(dataset, tombstone.seq, tombstone.batch, Vec::new()))
            .rows
            .push(tombstone.row_key.to_owned());
    }
    by_seq.into_values()
}

fn listed(
    dataset: &Dataset,
    seq: Seq,
    batch: &TombstoneBatch,
    mut rows: Vec<String>,
) -> ListedDeletion {
    rows.sort_unstable();
    ListedDeletion {
        dataset: dataset.name.clone(),
        dataset_id: dataset.id.clone(),
        seq,
        at: batch.at,
        rows,
        reason: batch.reason.clone(),
        actor: batch
            .on_behalf_of
            .clone()
            .unwrap_or_else(|| batch.actor.name.clone()),
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

/// The events of a deletion, each with its position.
fn tombstoned(committed: &Committed) -> impl Iterator<Item = (&RowsTombstoned, Seq)> {
    let count = committed.events.len() as Seq;
    let first = (committed.seq + 1).saturating_sub(count);
    let events = committed.events.iter().zip(first..);
    events.filter_map(|(event, seq)| match event {
        Event::Catalog(CatalogEvent::RowsTombstoned(event)) => Some((event, seq)),
        _ => None,
    })
}

/// What the events say that the request did; a repeated request gets the first answer.
fn answer(committed: Committed, missing: Vec<String>) -> Tombstoned {
    let (mut rows, mut told) = (Vec::new(), Vec::new());
    for (event, _) in tombstoned(&committed) {
        rows.extend(event.rows.iter().cloned());
        told.extend(event.missing.iter().cloned());
    }
    // What was found now may be an answer of before, when the request is a repeated one.
    let missing = if committed.repeated { told } else { missing };
    Tombstoned {
        committed,
        rows,
        missing,
    }
}
