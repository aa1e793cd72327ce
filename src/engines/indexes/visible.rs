//! Which rows of what answers may be shown: what the snapshot shows, and what a caller sees of it, as sets
//! of slots. The only place where a search learns what is visible.

use std::sync::Arc;

use lakehouse_actors::{PortError, ports::KeyHash};
use lakehouse_journal::{
    model::{
        Fold,
        catalog::{CatalogState, Dataset, Index, IngestMode},
    },
    record::Seq,
};
use roaring::RoaringBitmap;

use super::{
    LakeIndexes, Live,
    shown::Shown,
    sight::{Remembered, Sight, slots_as_held, slots_where},
};
use crate::{
    engines::tables::of_query,
    query::{QueryStream, SessionTables},
};

/// A build reads its source in one query; this is for those that hang.
const READ_TIMEOUT: std::time::Duration = std::time::Duration::from_hours(6);

impl LakeIndexes {
    /// The slots that a caller sees in this snapshot; remembered until the dataset changes.
    ///
    /// # Errors
    /// What the caller's session says.
    pub(super) async fn shown(
        &self,
        catalog: &Fold<CatalogState>,
        index: &Index,
        live: &Live,
        sight: &Sight<'_>,
    ) -> Result<Shown, PortError> {
        if !sight.is_restricted {
            return self.there(catalog, index, live).await;
        }
        let dataset = dataset_of(&catalog.state, index)?;
        let remembered = remembered(dataset, Some(sight.id.clone()));
        if let Some(shown) = live.sights.lock().get(&remembered) {
            return Ok(shown);
        }
        // Where several rows may have one key, the one that is held need not be the one that is seen.
        let may_differ = dataset.rows_seq > live.rows_seq || dataset.key.is_empty();
        let slots = if may_differ {
            slots_as_held(index, live, sight).await?
        } else {
            slots_where(index, live, sight, None).await?
        };
        let slots = self.not_deleted(catalog, index, live)?.within(&slots);
        let shown = Shown::Only(Arc::new(slots));
        live.sights.lock().keep(remembered, shown.clone());
        Ok(shown)
    }

    /// What the snapshot shows of the rows that answer, to who sees all rows of the source.
    pub(super) async fn there(
        &self,
        catalog: &Fold<CatalogState>,
        index: &Index,
        live: &Live,
    ) -> Result<Shown, PortError> {
        let dataset = dataset_of(&catalog.state, index)?;
        let remembered = remembered(dataset, None);
        if let Some(shown) = live.sights.lock().get(&remembered) {
            return Ok(shown);
        }
        let replaced = dataset
            .lineage
            .iter()
            .any(|step| step.mode == IngestMode::Replace && step.journal_seq > live.rows_seq);
        let mut shown = self.not_deleted(catalog, index, live)?;
        if replaced {
            let session = || {
                let state = Arc::new(catalog.state.clone());
                self.query.session(SessionTables::all(state, catalog.seq))
            };
            let whole = Sight::of_all(&index.spec.source, &session);
            let slots = slots_where(index, live, &whole, None).await?;
            shown = Shown::Only(Arc::new(shown.within(&slots)));
        }
        live.sights.lock().keep(remembered, shown.clone());
        Ok(shown)
    }

    /// The slots of the newest rows that were not deleted, whatever the source has by now.
    ///
    /// # Errors
    /// `NotFound` when the source is gone.
    pub(super) fn not_deleted(
        &self,
        catalog: &Fold<CatalogState>,
        index: &Index,
        live: &Live,
    ) -> Result<Shown, PortError> {
        let dataset = dataset_of(&catalog.state, index)?;
        let shown = deleted_since(dataset, live, &self.key_hash);
        Ok(shown.without(live.superseded()))
    }

    /// How many of its newest rows were deleted after the snapshot whose rows it has.
    ///
    /// # Errors
    /// `NotFound` when the source is gone.
    pub(super) fn deleted_rows(
        &self,
        catalog: &Fold<CatalogState>,
        index: &Index,
        live: &Live,
    ) -> Result<u64, PortError> {
        let dataset = dataset_of(&catalog.state, index)?;
        let since = |seq: &Seq| *seq > live.rows_seq;
        if !since(&dataset.last_tombstone_seq()) {
            return Ok(0);
        }
        if !dataset.has_hashed_keys() {
            let deleted = dataset.tombstones.iter().filter(|(_, seq)| since(seq));
            let held = deleted.filter(|(key, _)| live.slot_of(key).is_some());
            return Ok(held.count() as u64);
        }
        let deleted = |key: &str| {
            let hashed = dataset.tombstones.get(&(self.key_hash)(key));
            hashed.or_else(|| dataset.tombstones.get(key))
        };
        let is_deleted = |slot: &u64| {
            let newest = live.key_of(*slot);
            let newest = newest.filter(|key| live.slot_of(key) == Some(*slot));
            newest.and_then(deleted).is_some_and(since)
        };
        Ok((0..live.rows()).filter(is_deleted).count() as u64)
    }

    pub(super) async fn rows(
        &self,
        tables: SessionTables,
        sql: &str,
    ) -> Result<QueryStream, PortError> {
        let session = self.query.session(tables).with_timeout(READ_TIMEOUT);
        session
            .execute(sql, Vec::new(), None)
            .await
            .map_err(|error| of_query(&error))
    }

    /// Whether a key of what answers may be shown, and its slot.
    ///
    /// # Errors
    /// As [`LakeIndexes::search`].
    pub async fn visible_slot(
        &self,
        catalog: &Fold<CatalogState>,
        index: &Index,
        key: &str,
        sight: &Sight<'_>,
    ) -> Result<Option<(Arc<Live>, u64)>, PortError> {
        let live = self.live(index).await?;
        let Some(slot) = live.slot_of(key) else {
            return Ok(None);
        };
        let shown = self.shown(catalog, index, &live, sight).await?;
        Ok(shown.allows(slot).then_some((live, slot)))
    }

    /// Whether what answers has a row of this key, hidden or not. One that cannot be opened may have it.
    pub async fn live_holds(&self, index: &Index, key: &str) -> bool {
        if index.live.is_none() {
            return false;
        }
        self.live(index).await.map_or(true, |live| live.holds(key))
    }
}

/// Slots of the rows that were deleted after what holds them was made.
fn deleted_since(dataset: &Dataset, live: &Live, key_hash: &KeyHash) -> Shown {
    let sources = live.segments.iter().map(|segment| segment.source_seq);
    let oldest = sources.fold(live.base.source_seq, u64::min);
    if dataset.last_tombstone_seq() <= oldest {
        return Shown::All;
    }
    let base = &live.base;
    let mut hidden = RoaringBitmap::new();
    let mut hide = |slot: Option<u64>, made: u64, deleted: u64| {
        if deleted > made {
            hidden.extend(slot.and_then(|slot| u32::try_from(slot).ok()));
        }
    };
    for (key, seq) in dataset.tombstones.iter().filter(|(_, seq)| **seq > oldest) {
        hide(base.index.slot_of(key), base.source_seq, *seq);
        for segment in &live.segments {
            hide(segment.slot_of(key), segment.source_seq, *seq);
        }
    }
    if dataset.has_hashed_keys() {
        // A hash does not lead to its key: every key is hashed and looked up.
        let deleted = |key: &str| dataset.tombstones.get(&key_hash(key)).copied();
        for slot in (0..live.rows()).filter(|slot| live.row_of(*slot) == *slot) {
            let Some(seq) = live.key_of(slot).and_then(deleted) else {
                continue;
            };
            let segment = live
                .segments
                .iter()
                .find(|segment| segment.slots().contains(&slot));
            let made = segment.map_or(base.source_seq, |segment| segment.source_seq);
            hide(Some(slot), made, seq);
        }
    }
    Shown::Except(Arc::new(hidden))
}

fn remembered(dataset: &Dataset, through: Option<String>) -> Remembered {
    Remembered {
        through,
        tombstones: dataset.last_tombstone_seq(),
        rows: dataset.rows_seq,
    }
}

/// The dataset whose rows an index holds, under the view that it is over.
pub(super) fn dataset_of<'a>(
    state: &'a CatalogState,
    index: &'a Index,
) -> Result<&'a Dataset, PortError> {
    let source = index.spec.source.as_str();
    if let Some(dataset) = state.dataset_under(source) {
        return Ok(dataset.as_ref());
    }
    state
        .dataset(source)
        .map_err(|error| PortError::new(error.kind(), error.code(), error.to_string()))
}
