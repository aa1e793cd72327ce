//! Which rows of what answers may be shown: what the snapshot shows, what the reader may read, and
//! what passes a filter, as sets of slots. The only place where a search learns what is visible.

use std::sync::Arc;

use futures::StreamExt;
use lakehouse_actors::{PortError, ports::KeyHash};
use lakehouse_journal::model::{
    Fold,
    catalog::{CatalogState, Dataset, Index, IngestMode},
};
use roaring::RoaringBitmap;

use super::{
    LakeIndexes, Live, internal, quoted, quoted_columns,
    search::Reader,
    sets::{Shown, position},
};
use crate::{
    engines::tables::of_query,
    query::{QueryStream, SessionTables, row_key::names},
};

/// A build reads its source in one query; this is for those that hang.
const READ_TIMEOUT: std::time::Duration = std::time::Duration::from_hours(6);

impl LakeIndexes {
    /// The slots that `reader` may see and that pass the filter, in this snapshot.
    ///
    /// # Errors
    /// What the query of the filter says.
    pub async fn shown(
        &self,
        catalog: &Fold<CatalogState>,
        index: &Index,
        live: &Live,
        reader: Option<&Reader>,
        filter: Option<&str>,
    ) -> Result<Shown, PortError> {
        let dataset = dataset_of(&catalog.state, index)?;
        let there = self.there(catalog, index, dataset, live).await?;
        if reader.is_none() && filter.is_none() {
            return Ok(there);
        }
        let everybody;
        let reader = if let Some(reader) = reader {
            reader
        } else {
            everybody = Reader::everybody(catalog, &index.spec.source);
            &everybody
        };
        let asked = format!(
            "{}\n{}\n{}",
            reader.policy,
            reader.relation,
            filter.unwrap_or_default()
        );
        let at = position(dataset);
        if let Some(known) = live.sets.get(&asked, at) {
            return Ok(known);
        }
        let passing = self.slots_where(index, live, reader, filter).await?;
        let shown = Shown::Only(Arc::new(there.within(&passing)));
        live.sets.put(asked, at, shown.clone());
        Ok(shown)
    }

    /// What the snapshot shows of the rows that answer.
    async fn there(
        &self,
        catalog: &Fold<CatalogState>,
        index: &Index,
        dataset: &Dataset,
        live: &Live,
    ) -> Result<Shown, PortError> {
        let at = position(dataset);
        if let Some(known) = live.sets.get("", at) {
            return Ok(known);
        }
        let replaced = dataset
            .lineage
            .iter()
            .any(|step| step.mode == IngestMode::Replace && step.journal_seq > live.rows_seq);
        let shown = if replaced {
            let everybody = Reader::everybody(catalog, &index.spec.source);
            let slots = self.slots_where(index, live, &everybody, None).await?;
            Shown::Only(Arc::new(slots))
        } else {
            deleted_since(dataset, live, &self.key_hash)
        };
        let shown = shown.without(live.superseded());
        live.sets.put(String::new(), at, shown.clone());
        Ok(shown)
    }

    /// Slots of the rows that the reader's relation has and that pass the filter.
    async fn slots_where(
        &self,
        index: &Index,
        live: &Live,
        reader: &Reader,
        filter: Option<&str>,
    ) -> Result<RoaringBitmap, PortError> {
        let mut sql = format!(
            "SELECT {} FROM {}",
            quoted_columns(index.spec.key.columns()),
            quoted(&reader.relation)
        );
        if let Some(filter) = filter {
            sql.push_str(" WHERE ");
            sql.push_str(filter);
        }
        let mut rows = self.rows(reader.tables.clone(), &sql).await?;
        let mut slots = RoaringBitmap::new();
        while let Some(batch) = rows.next().await {
            let batch = batch.map_err(|error| of_query(&error))?;
            let keys = names(batch.columns()).map_err(|error| internal(&error))?;
            for key in keys.iter().flatten() {
                let slot = live.slot_of(key).and_then(|slot| u32::try_from(slot).ok());
                slots.extend(slot);
            }
        }
        Ok(slots)
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
        reader: Option<&Reader>,
        key: &str,
    ) -> Result<Option<(Arc<Live>, u64)>, PortError> {
        let live = self.live(index).await?;
        let Some(slot) = live.slot_of(key) else {
            return Ok(None);
        };
        let shown = self.shown(catalog, index, &live, reader, None).await?;
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
        for slot in 0..live.rows() {
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

pub(super) fn dataset_of<'a>(
    state: &'a CatalogState,
    index: &Index,
) -> Result<&'a Dataset, PortError> {
    state
        .dataset(&index.spec.source)
        .map_err(|error| PortError::new(error.kind(), error.code(), error.to_string()))
}
