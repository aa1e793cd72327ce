//! Rows and their vectors, in what answers: the one place where one is turned into the other. Everywhere
//! above it a slot stands for a row; to the engines below every vector has one. Where texts are not cut
//! the two are the same. Where they are, the vectors of a row follow one another and the row's slot is that
//! of the first: whatever hides or shows a row hides or shows all of them.

use std::{collections::HashSet, ops::Range, sync::Arc};

use lakehouse_actors::ports::ChunkSpan;
use roaring::RoaringBitmap;

use super::{Live, shown::Shown};
use crate::engines::vectors::{Hit, SearchPath, VectorError, check_vector, spans::Spans};

/// How many sets of rows are remembered with the sets of their vectors.
const SPREAD_MAX: usize = 8;
/// So many times more vectors are asked for when those that were found are of too few rows.
const WIDER: u64 = 4;

/// A row with all that is held of it.
#[derive(Debug, Clone, PartialEq)]
pub struct WholeRow {
    /// Its key.
    pub key: String,
    /// Its text, if it has one.
    pub text: Option<String>,
    /// Its vectors, one after the other.
    pub vectors: Vec<f32>,
    /// Whose vectors these are; empty where texts are not cut.
    pub chunks: Vec<ChunkSpan>,
}

/// A row that is near.
#[derive(Debug, Clone, PartialEq)]
pub struct RowHit {
    /// Its slot.
    pub slot: u64,
    /// Its key.
    pub key: String,
    /// How far its nearest vector is.
    pub distance: f32,
    /// Larger is nearer.
    pub score: f32,
    /// The chunk whose vector that is, where texts are cut.
    pub chunk: Option<ChunkSpan>,
}

/// Rows that are near, nearest first.
#[derive(Debug, PartialEq)]
pub struct NearRows {
    /// As many as were asked for, or all that are shown.
    pub hits: Vec<RowHit>,
    /// How they were found.
    pub path: SearchPath,
}

/// Sets of rows with those of their vectors, oldest first.
#[derive(Default)]
pub(super) struct Spread(Vec<(Arc<RoaringBitmap>, Arc<RoaringBitmap>)>);

impl Live {
    /// Whether a row may have several vectors.
    pub fn is_chunked(&self) -> bool {
        self.base.chunks.is_some()
    }

    /// The slot of the row that a vector is of.
    pub fn row_of(&self, vector: u64) -> u64 {
        let found = match (self.segment_of(vector), &self.base.chunks) {
            (Some(segment), _) => segment.first_of(vector),
            (None, Some(chunks)) => chunks.first_of(vector),
            (None, None) => None,
        };
        found.unwrap_or(vector)
    }

    /// The slots of a row's vectors; its own is the first.
    pub fn vectors_of(&self, row: u64) -> Range<u64> {
        let found = match (self.segment_of(row), &self.base.chunks) {
            (Some(segment), _) => segment.all_of(row),
            (None, Some(chunks)) => chunks.all_of(row),
            (None, None) => None,
        };
        found.unwrap_or(row..row + 1)
    }

    /// The chunk that a vector is of.
    pub fn chunk_of(&self, vector: u64) -> Option<ChunkSpan> {
        match (self.segment_of(vector), &self.base.chunks) {
            (Some(segment), _) => segment.chunk(vector),
            (None, Some(chunks)) => chunks.chunk(vector).copied(),
            (None, None) => None,
        }
    }

    /// The rows that may be shown, as a set.
    pub(super) fn rows_of(&self, shown: &Shown) -> RoaringBitmap {
        let slots = shown.to_set(self.rows());
        if !self.is_chunked() {
            return slots;
        }
        let is_row = |slot: &u32| self.row_of(u64::from(*slot)) == u64::from(*slot);
        slots.iter().filter(is_row).collect()
    }

    /// The vectors of the rows that may be shown.
    pub(super) fn vectors_shown(&self, shown: &Shown) -> Shown {
        if !self.is_chunked() {
            return shown.clone();
        }
        match shown {
            Shown::All => Shown::All,
            Shown::Except(rows) => Shown::Except(self.spread(rows)),
            Shown::Only(rows) => Shown::Only(self.spread(rows)),
        }
    }

    /// How many vectors the rows that may be shown have.
    pub(super) fn count_shown(&self, shown: &Shown) -> u64 {
        shown.visible().estimate(self.rows())
    }

    /// The vectors of rows; of a set that is remembered for the next search they are remembered, too.
    fn spread(&self, rows: &Arc<RoaringBitmap>) -> Arc<RoaringBitmap> {
        let known = |(known, _): &&(Arc<RoaringBitmap>, _)| Arc::ptr_eq(known, rows);
        if let Some((_, vectors)) = self.spread.lock().0.iter().find(known) {
            return Arc::clone(vectors);
        }
        let mut vectors = RoaringBitmap::new();
        for row in rows.iter() {
            let Range { start, end } = self.vectors_of(u64::from(row));
            if let (Ok(start), Ok(end)) = (u32::try_from(start), u32::try_from(end)) {
                vectors.insert_range(start..end);
            }
        }
        let vectors = Arc::new(vectors);
        if Arc::strong_count(rows) == 1 {
            // Nobody asks for it again: it is of one filter.
            return vectors;
        }
        let mut spread = self.spread.lock();
        if spread.0.len() >= SPREAD_MAX {
            spread.0.remove(0);
        }
        spread.0.push((Arc::clone(rows), Arc::clone(&vectors)));
        vectors
    }

    /// Rows with all that is held of them, in the same order.
    ///
    /// # Errors
    /// `Io` or `Engine`.
    pub async fn whole(&self, rows: &[u64]) -> Result<Vec<WholeRow>, VectorError> {
        let vectors = rows.iter().flat_map(|row| self.vectors_of(*row));
        let stored = self.stored(&vectors.collect::<Vec<u64>>()).await?;
        let mut stored = stored.into_iter();
        let mut whole: Vec<WholeRow> = Vec::with_capacity(rows.len());
        for row in rows {
            let mut of_row = self.vectors_of(*row).zip(stored.by_ref());
            let Some((slot, first)) = of_row.next() else {
                break;
            };
            let mut found = WholeRow {
                key: first.key,
                text: first.text,
                vectors: first.vector,
                chunks: self.chunk_of(slot).into_iter().collect(),
            };
            for (slot, more) in of_row {
                found.vectors.extend(more.vector);
                found.chunks.extend(self.chunk_of(slot));
            }
            whole.push(found);
        }
        Ok(whole)
    }

    /// The `k` rows of those that may be shown that have a vector nearest to `query`: always `k` when so
    /// many may be. What is superseded must not be shown.
    ///
    /// # Errors
    /// What [`check_vector`] says of the query; `Io` or `Engine`.
    pub async fn nearest(
        &self,
        query: &[f32],
        k: usize,
        ef: Option<usize>,
        exact: bool,
        shown: &Shown,
    ) -> Result<NearRows, VectorError> {
        check_vector(query, self.dimensions(), self.metric())?;
        let Some(chunks) = &self.base.chunks else {
            let visible = shown.visible();
            let found = self.near_vectors(query, k, ef, exact, visible).await?;
            let hits = found.hits.into_iter().map(alone).collect();
            let path = found.path;
            return Ok(NearRows { hits, path });
        };
        let shown = self.vectors_shown(shown);
        let all = self.count_shown(&shown);
        let mut wanted = (k as u64).saturating_mul(self.vectors_a_row(chunks));
        loop {
            let asked = usize::try_from(wanted.min(all)).unwrap_or(usize::MAX);
            let visible = shown.visible();
            let found = self.near_vectors(query, asked, ef, exact, visible).await?;
            let hits = self.best_of_rows(found.hits, k);
            if hits.len() >= k || wanted >= all {
                let path = found.path;
                return Ok(NearRows { hits, path });
            }
            // Rows that are near with many of their vectors stood before others.
            wanted = wanted.saturating_mul(WIDER);
        }
    }

    /// Vectors that a row has on average, rounded up.
    fn vectors_a_row(&self, chunks: &Spans) -> u64 {
        let ridden = self.segments.iter().map(|segment| segment.row_count());
        let rows = chunks.rows() as u64 + ridden.sum::<u64>();
        self.rows().div_ceil(rows.max(1)).max(1)
    }

    /// Each row once, by the nearest of its vectors.
    fn best_of_rows(&self, hits: Vec<Hit>, k: usize) -> Vec<RowHit> {
        let mut seen = HashSet::with_capacity(k.min(hits.len()));
        let mut best = Vec::with_capacity(k.min(hits.len()));
        for hit in hits {
            let slot = self.row_of(hit.slot);
            if best.len() == k || !seen.insert(slot) {
                continue;
            }
            best.push(RowHit {
                slot,
                key: self.key_of(slot).unwrap_or_default().to_owned(),
                distance: hit.distance,
                score: hit.score,
                chunk: self.chunk_of(hit.slot),
            });
        }
        best
    }
}

/// The row of a vector that is its only one.
fn alone(hit: Hit) -> RowHit {
    RowHit {
        slot: hit.slot,
        key: hit.key,
        distance: hit.distance,
        score: hit.score,
        chunk: None,
    }
}
