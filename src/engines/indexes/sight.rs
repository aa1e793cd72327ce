//! What a caller sees of the rows that an index holds: read through the caller's own session, so that views,
//! redactions and limits bind a search as they bind a statement; remembered while nothing changes.

use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt as _;
use lakehouse_actors::PortError;
use lakehouse_journal::{
    model::{Fold, catalog::Index},
    record::Seq,
};
use roaring::RoaringBitmap;

use super::{
    LakeIndexes, Live, SearchMode, SearchQuery, SearchRequest, Shown,
    held::{Held, held},
    internal, of_vector, quoted, quoted_columns,
    source::rows_query,
};
use crate::{
    engines::tables::of_query,
    query::{
        FoundRow, QuerySession, QueryStream, SearchSight, SessionTables, SqlSearch, row_key::names,
    },
};

/// How many sets of rows are remembered of a generation.
const SIGHTS_MAX: usize = 64;

/// What a caller sees of an index's rows.
#[derive(Clone)]
pub struct Sight<'a> {
    /// The dataset or view that they are seen through.
    pub through: &'a str,
    /// Whether some may be hidden there.
    pub is_restricted: bool,
    /// What the set of rows depends on, besides the rows themselves.
    pub id: String,
    /// Makes a session of the caller.
    pub session: &'a (dyn Fn() -> QuerySession + Send + Sync),
}

impl<'a> Sight<'a> {
    /// Every row of a dataset, for the daemon.
    pub(super) fn of_all(
        through: &'a str,
        session: &'a (dyn Fn() -> QuerySession + Send + Sync),
    ) -> Self {
        Self {
            through,
            is_restricted: false,
            id: String::new(),
            session,
        }
    }

    /// The rows of a statement, as the caller sees them.
    ///
    /// # Errors
    /// What the session refuses.
    pub(super) async fn rows(&self, sql: &str) -> Result<QueryStream, PortError> {
        let rows = (self.session)().execute(sql, Vec::new(), None).await;
        rows.map_err(|error| of_query(&error))
    }
}

/// Slots of the rows that are seen and that pass the filter.
pub(super) async fn slots_where(
    index: &Index,
    live: &Live,
    sight: &Sight<'_>,
    filter: Option<&str>,
) -> Result<RoaringBitmap, PortError> {
    let mut sql = format!(
        "SELECT {} FROM {}",
        quoted_columns(index.spec.key.columns()),
        quoted(sight.through)
    );
    if let Some(filter) = filter {
        sql.push_str(" WHERE ");
        sql.push_str(filter);
    }
    let mut rows = sight.rows(&sql).await?;
    let mut slots = RoaringBitmap::new();
    while let Some(batch) = rows.next().await {
        let batch = batch.map_err(|error| of_query(&error))?;
        let keys = names(batch.columns()).map_err(|error| internal(&error))?;
        let slot_of = |key| u32::try_from(live.slot_of(key)?).ok();
        slots.extend(keys.iter().flatten().filter_map(slot_of));
    }
    Ok(slots)
}

/// Slots of the rows that are seen and that the index has as they are: a row that is shown now may have
/// been hidden when it was another.
pub(super) async fn slots_as_held(
    index: &Index,
    live: &Live,
    sight: &Sight<'_>,
) -> Result<RoaringBitmap, PortError> {
    let mut rows = sight.rows(&rows_query(index, sight.through)?).await?;
    let mut slots = RoaringBitmap::new();
    while let Some(batch) = rows.next().await {
        let batch = batch.map_err(|error| of_query(&error))?;
        let held = held(index, live, &batch).await?;
        let held = held.into_iter().filter_map(Held::slot);
        slots.extend(held.filter_map(|slot| u32::try_from(slot).ok()));
    }
    Ok(slots)
}

#[async_trait]
impl SqlSearch for LakeIndexes {
    async fn found(
        &self,
        sight: &SearchSight,
        index: &Index,
        text: &str,
        k: usize,
    ) -> Result<Vec<FoundRow>, PortError> {
        let reader = sight.reader.as_ref().clone().and_only(&sight.way.through);
        let session = || {
            let (state, reader) = (Arc::clone(&sight.state), reader.clone());
            let tables = SessionTables::of_reader(state, sight.seq, reader);
            self.query.session(tables)
        };
        let request = SearchRequest {
            query: SearchQuery::Text(text),
            mode: SearchMode::Vector,
            k,
            filter: None,
            ef_search: None,
            exact: false,
            sight: Sight {
                through: &sight.way.through,
                is_restricted: sight.way.restricted,
                id: sight.way.sight.clone(),
                session: &session,
            },
        };
        let mut catalog = Fold::default();
        catalog.state = sight.state.as_ref().clone();
        catalog.seq = sight.seq;
        let searched = self.search(&catalog, index, &request).await?;
        let slots: Vec<u64> = searched.hits.iter().map(|hit| hit.slot).collect();
        let texts = searched.live.texts(&slots).await;
        let texts = texts.map_err(|error| of_vector(&error))?;
        let hits = searched.hits.into_iter().zip(texts);
        let hits = hits.map(|(hit, text)| FoundRow {
            key: hit.key,
            score: hit.score,
            // A search by meaning looks at vectors only.
            distance: hit.distance.unwrap_or_default(),
            text,
            chunk: hit.chunk,
        });
        Ok(hits.collect())
    }
}

/// What a set of rows is remembered by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Remembered {
    /// The sight of a caller who does not see every row.
    pub through: Option<String>,
    /// Position of the last deletion.
    pub tombstones: Seq,
    /// Position of the last change of rows.
    pub rows: Seq,
}

/// The sets that are remembered, oldest first.
#[derive(Default)]
pub(super) struct Sights(Vec<(Remembered, Shown)>);

impl Sights {
    /// A set that is remembered.
    pub fn get(&self, wanted: &Remembered) -> Option<Shown> {
        let mut known = self.0.iter();
        let found = known.find(|(known, _)| known == wanted);
        found.map(|(_, shown)| shown.clone())
    }

    /// Remembers a set, in place of what was seen that way before.
    pub fn keep(&mut self, key: Remembered, shown: Shown) {
        self.0.retain(|(known, _)| known.through != key.through);
        if self.0.len() >= SIGHTS_MAX {
            self.0.remove(0);
        }
        self.0.push((key, shown));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(through: usize, rows: Seq) -> Remembered {
        Remembered {
            through: Some(through.to_string()),
            tombstones: 1,
            rows,
        }
    }

    #[test]
    fn a_set_is_forgotten_when_rows_change_and_when_there_are_too_many() {
        let mut sights = Sights::default();
        for nth in 0..=SIGHTS_MAX {
            sights.keep(seen(nth, 1), Shown::All);
        }
        assert!(sights.get(&seen(0, 1)).is_none());
        assert!(sights.get(&seen(1, 1)).is_some());
        assert!(sights.get(&seen(1, 2)).is_none());
        sights.keep(seen(1, 2), Shown::All);
        assert!(sights.get(&seen(1, 1)).is_none());
        assert_eq!(sights.0.len(), SIGHTS_MAX);
    }
}
