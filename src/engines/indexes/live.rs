//! What answers: a generation and the deltas that ride on it, as one set of rows. Rows of deltas have
//! the slots after those of the generation, so that one bitmap says which rows of both are meant.
//! Opened by `open`, asked by `search`; never changed, a further delta makes another one. Where a row has
//! several vectors, `chunks` tells rows and vectors apart.

use std::{collections::HashMap, ops::Range, sync::Arc};

use lakehouse_actors::ports::ChunkSpan;
use lakehouse_journal::record::Seq;
use parking_lot::Mutex;
use roaring::RoaringBitmap;

use super::{Warm, chunks::Spread, measure::Measurable, sight::Sights};
use crate::engines::{
    usearch::HnswIndex,
    vectors::{
        Found, Hit, Metric, SearchPath, StoredRow, VectorError, VectorIndex, Visible,
        at_rest::RowsAtRest,
        exact::{Candidate, Measure, Nearest, norm},
        spans::Spans,
    },
};

/// A generation that is open.
pub struct Base {
    /// The engine's index.
    pub index: Arc<dyn VectorIndex>,
    /// The same, when it is usearch: trials build graphs of its rows.
    pub hnsw: Option<Arc<HnswIndex>>,
    /// Which of its vectors are of which row, where a row may have several.
    pub chunks: Option<Spans>,
    /// Position of the snapshot that it was built from.
    pub source_seq: Seq,
    /// Its full text, opened when it is first asked for.
    pub text: super::text::LazyText,
}

/// A generation with its deltas.
pub struct Live {
    /// The generation's number.
    pub generation: u64,
    pub(super) base: Arc<Base>,
    pub(super) segments: Vec<Arc<Segment>>,
    /// Slots for whose keys a later delta has another row, or none.
    superseded: RoaringBitmap,
    /// Position of the snapshot whose rows it has.
    pub(super) rows_seq: Seq,
    /// What snapshots and callers see of it.
    pub(super) sights: Mutex<Sights>,
    /// The same by vectors, where a row may have several.
    pub(super) spread: Mutex<Spread>,
}

/// The rows of one delta.
pub struct Segment {
    /// Object key of its file.
    pub key: String,
    /// Position of the snapshot that its rows are from.
    pub source_seq: Seq,
    rows: RowsAtRest,
    norms: Vec<f32>,
    /// Which of its vectors are of which row, where a row may have several.
    chunks: Option<Spans>,
    /// The first vector of each row.
    by_key: HashMap<String, u32>,
    removed: std::collections::HashSet<String>,
    start: u64,
}

impl Segment {
    fn new(
        key: String,
        source_seq: Seq,
        mut rows: RowsAtRest,
        dimensions: usize,
        start: u64,
    ) -> Self {
        let removed = rows.removed.drain(..).collect();
        let chunks = std::mem::take(&mut rows.chunks);
        let chunks = (!chunks.is_empty()).then(|| Spans::new(chunks)).flatten();
        let keys = rows.keys.iter().cloned();
        let by_key = match &chunks {
            Some(chunks) => keys.zip(chunks.firsts().iter().copied()).collect(),
            None => keys.zip(0..).collect(),
        };
        let norms = rows.vectors.chunks_exact(dimensions).map(norm).collect();
        Self {
            key,
            source_seq,
            rows,
            norms,
            chunks,
            by_key,
            removed,
            start,
        }
    }

    /// How many vectors it has.
    pub(super) fn len(&self) -> u64 {
        self.norms.len() as u64
    }

    /// How many rows.
    pub(super) fn row_count(&self) -> u64 {
        self.rows.keys.len() as u64
    }

    pub(super) fn slots(&self) -> std::ops::Range<u64> {
        self.start..self.start + self.len()
    }

    /// Which of its vectors has a slot.
    fn at(&self, slot: u64) -> Option<usize> {
        let at = usize::try_from(slot.checked_sub(self.start)?).ok()?;
        (at < self.norms.len()).then_some(at)
    }

    /// Which of its rows a vector is of.
    fn row(&self, slot: u64) -> Option<usize> {
        match self.chunk(slot) {
            Some(chunk) => Some(chunk.row as usize),
            None => self.at(slot),
        }
    }

    /// The chunk that a vector is of, where texts are cut.
    pub(super) fn chunk(&self, slot: u64) -> Option<ChunkSpan> {
        let at = slot.checked_sub(self.start)?;
        self.chunks.as_ref()?.chunk(at).copied()
    }

    /// The slot of the row that a vector is of, where a row may have several.
    pub(super) fn first_of(&self, slot: u64) -> Option<u64> {
        let at = slot.checked_sub(self.start)?;
        Some(self.start + self.chunks.as_ref()?.first_of(at)?)
    }

    /// The slots of all vectors of that row.
    pub(super) fn all_of(&self, slot: u64) -> Option<Range<u64>> {
        let at = slot.checked_sub(self.start)?;
        let Range { start, end } = self.chunks.as_ref()?.all_of(at)?;
        Some(self.start + start..self.start + end)
    }

    pub(super) fn slot_of(&self, key: &str) -> Option<u64> {
        Some(self.start + u64::from(*self.by_key.get(key)?))
    }

    pub(super) fn text(&self, slot: u64) -> Option<&str> {
        self.rows.texts[self.row(slot)?].as_deref()
    }

    fn vector(&self, at: usize, dimensions: usize) -> &[f32] {
        &self.rows.vectors[at * dimensions..(at + 1) * dimensions]
    }
}

impl Live {
    /// A generation without deltas.
    pub fn new(generation: u64, base: Arc<Base>, rows_seq: Seq) -> Self {
        Self {
            generation,
            base,
            segments: Vec::new(),
            superseded: RoaringBitmap::new(),
            rows_seq,
            sights: Mutex::default(),
            spread: Mutex::default(),
        }
    }

    /// The same once more, with nothing remembered.
    pub fn clone_of(other: &Self) -> Self {
        Self {
            generation: other.generation,
            base: Arc::clone(&other.base),
            segments: other.segments.clone(),
            superseded: other.superseded.clone(),
            rows_seq: other.rows_seq,
            sights: Mutex::default(),
            spread: Mutex::default(),
        }
    }

    /// The same with one more delta.
    #[must_use]
    pub fn with_delta(&self, key: String, source_seq: Seq, rows: RowsAtRest) -> Self {
        let mut superseded = self.superseded.clone();
        for key in rows.keys.iter().chain(&rows.removed) {
            superseded.extend(self.slot_of(key).and_then(|slot| u32::try_from(slot).ok()));
        }
        let segment = Segment::new(key, source_seq, rows, self.dimensions(), self.rows());
        let mut segments = self.segments.clone();
        segments.push(Arc::new(segment));
        Self {
            generation: self.generation,
            base: Arc::clone(&self.base),
            segments,
            superseded,
            rows_seq: self.rows_seq.max(source_seq),
            sights: Mutex::default(),
            spread: Mutex::default(),
        }
    }

    /// The same as of another position.
    #[must_use]
    pub fn through(mut self, rows_seq: Seq) -> Self {
        self.rows_seq = rows_seq;
        self
    }

    /// How many slots there are, one a vector, those of superseded rows too.
    pub fn rows(&self) -> u64 {
        let last = self.segments.last();
        last.map_or_else(|| self.base.index.rows(), |last| last.slots().end)
    }

    /// Numbers in a vector.
    pub fn dimensions(&self) -> usize {
        self.base.index.dimensions()
    }

    /// The distance.
    pub fn metric(&self) -> Metric {
        self.base.index.metric()
    }

    /// Slots for whose keys a later delta has another row, or none.
    pub(super) fn superseded(&self) -> &RoaringBitmap {
        &self.superseded
    }

    /// The slot of the newest row of a key.
    pub fn slot_of(&self, key: &str) -> Option<u64> {
        for segment in self.segments.iter().rev() {
            if let Some(slot) = segment.slot_of(key) {
                return Some(slot);
            }
            if segment.removed.contains(key) {
                return None;
            }
        }
        self.base.index.slot_of(key)
    }

    /// Whether any row of it has the key, superseded or not: its bytes may be there.
    pub fn holds(&self, key: &str) -> bool {
        let in_delta = |segment: &Arc<Segment>| {
            segment.by_key.contains_key(key) || segment.removed.contains(key)
        };
        self.base.index.slot_of(key).is_some() || self.segments.iter().any(in_delta)
    }

    /// The key of the row that a slot is of.
    pub fn key_of(&self, slot: u64) -> Option<&str> {
        match self.segment_of(slot) {
            Some(segment) => Some(&segment.rows.keys[segment.row(slot)?]),
            None => self.base.index.key_of(self.row_of(slot)),
        }
    }

    pub(super) fn segment_of(&self, slot: u64) -> Option<&Arc<Segment>> {
        if slot < self.base.index.rows() {
            return None;
        }
        self.segments
            .iter()
            .find(|segment| segment.slots().contains(&slot))
    }

    /// The texts of rows, by their slots and in the same order.
    ///
    /// # Errors
    /// `Io` or `Engine`.
    pub async fn texts(&self, slots: &[u64]) -> Result<Vec<Option<String>>, VectorError> {
        let base = self.base_slots(slots);
        let mut stored = self.base.index.texts(&base).await?.into_iter();
        let text = |&slot: &u64| match self.segment_of(slot) {
            Some(segment) => segment.text(slot).map(str::to_owned),
            None => stored.next().flatten(),
        };
        Ok(slots.iter().map(text).collect())
    }

    /// What is held in slots, in the same order; the text of a row is in its own.
    ///
    /// # Errors
    /// `Io` or `Engine`.
    pub async fn stored(&self, slots: &[u64]) -> Result<Vec<StoredRow>, VectorError> {
        let base = self.base_slots(slots);
        let mut stored = self.base.index.stored(&base).await?.into_iter();
        let row = |&slot: &u64| {
            let Some(segment) = self.segment_of(slot) else {
                return stored.next();
            };
            let row = segment.row(slot)?;
            let is_first = self.row_of(slot) == slot;
            let text = segment.rows.texts[row].as_ref();
            Some(StoredRow {
                slot,
                key: segment.rows.keys[row].clone(),
                text: text.filter(|_| is_first).cloned(),
                vector: segment
                    .vector(segment.at(slot)?, self.dimensions())
                    .to_vec(),
            })
        };
        Ok(slots.iter().filter_map(row).collect())
    }

    fn base_slots(&self, slots: &[u64]) -> Vec<u64> {
        let rows = self.base.index.rows();
        slots.iter().copied().filter(|slot| *slot < rows).collect()
    }

    /// The `k` visible vectors nearest to `query`, which was checked, of the generation and its deltas:
    /// always `k` when so many are visible.
    ///
    /// # Errors
    /// `Io` or `Engine`.
    pub(super) async fn near_vectors(
        &self,
        query: &[f32],
        k: usize,
        ef: Option<usize>,
        exact: bool,
        visible: Visible<'_>,
    ) -> Result<Found, VectorError> {
        let index = &self.base.index;
        let found = if exact {
            index.nearest_exact(query, k, visible).await?
        } else {
            index.nearest(query, k, ef, visible).await?
        };
        Ok(self.with_deltas(found, query, k, visible))
    }

    /// What the generation found, and what its deltas have that is nearer.
    fn with_deltas(&self, found: Found, query: &[f32], k: usize, visible: Visible<'_>) -> Found {
        if self.segments.is_empty() {
            return found;
        }
        let mut nearest = Nearest::new(k);
        let candidate = |hit: &Hit| Candidate {
            distance: hit.distance,
            slot: hit.slot,
        };
        found
            .hits
            .iter()
            .map(candidate)
            .for_each(|hit| nearest.offer(hit));
        self.scan_deltas(query, visible, &mut nearest);
        self.found(nearest, found.path)
    }

    /// Brings what searches touch into memory, and says how much that is. Blocks.
    pub fn warm(&self) -> Warm {
        self.base.index.touch();
        let ridden = self.segments.iter().map(|segment| segment.len());
        let numbers = self
            .segments
            .iter()
            .map(|segment| segment.rows.vectors.len());
        Warm {
            generation: self.generation,
            vectors: self.base.index.rows() + ridden.sum::<u64>(),
            bytes: self.base.index.memory_bytes() + 4 * numbers.sum::<usize>() as u64,
        }
    }

    /// Its rows as they are measured, when they lie in a graph of usearch and have one vector each.
    pub fn measurable(&self) -> Option<MeasuredLive<'_>> {
        let hnsw = self.base.hnsw.as_deref().filter(|_| !self.is_chunked())?;
        Some(MeasuredLive { live: self, hnsw })
    }

    fn scan_deltas(&self, query: &[f32], visible: Visible<'_>, nearest: &mut Nearest) {
        let measure = Measure::new(self.metric(), query);
        for segment in &self.segments {
            for (at, slot) in segment.slots().enumerate() {
                if visible.allows(slot) {
                    let vector = segment.vector(at, self.dimensions());
                    let distance = measure.distance(vector, segment.norms[at]);
                    nearest.offer(Candidate { distance, slot });
                }
            }
        }
    }

    fn found(&self, nearest: Nearest, path: SearchPath) -> Found {
        let hit = |Candidate { distance, slot }: Candidate| Hit {
            slot,
            key: self.key_of(slot).unwrap_or_default().to_owned(),
            distance,
            score: self.metric().score(distance),
        };
        Found {
            hits: nearest.into_sorted().into_iter().map(hit).collect(),
            path,
        }
    }
}

/// What answers, as it is measured: every row of the generation and of its deltas, without waiting.
pub struct MeasuredLive<'a> {
    live: &'a Live,
    hnsw: &'a HnswIndex,
}

impl Measurable for MeasuredLive<'_> {
    fn rows(&self) -> u64 {
        self.live.rows()
    }

    fn key_of(&self, slot: u64) -> Option<&str> {
        self.live.key_of(slot)
    }

    fn vector_of(&self, slot: u64) -> Option<&[f32]> {
        match self.live.segment_of(slot) {
            Some(segment) => Some(segment.vector(segment.at(slot)?, self.live.dimensions())),
            None => self.hnsw.vector_of(slot),
        }
    }

    fn nearest_exact(
        &self,
        query: &[f32],
        k: usize,
        visible: Visible<'_>,
    ) -> Result<Found, VectorError> {
        let found = self.hnsw.search_exact(query, k, visible)?;
        Ok(self.live.with_deltas(found, query, k, visible))
    }
}
