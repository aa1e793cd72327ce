//! Searches of a Lance generation: through its index, or over every visible row. The index only
//! proposes; distances and order come from the vectors in full precision, by the same arithmetic as
//! on usearch, so that the two backends give the same scores.

use arrow::array::Float32Array;
use futures::TryStreamExt;
use lance::Dataset;
use lance::dataset::scanner::RowAddrMask;
use roaring::RoaringBitmap;

use super::super::vectors::exact::{Candidate, Measure, Nearest, norm};
use super::super::vectors::{Found, Hit, SearchPath, VectorError, Visible, check_vector};
use super::index::{LanceIndex, row_ids, vectors};
use super::{LanceKind, VECTOR, engine};

/// A tenth of the rows or fewer are taken one by one; more are read through.
const TAKEN_SHARE: u64 = 10;
/// Rows taken at a time.
const TAKEN_ROWS: usize = 4_096;
/// Rows that are compared in the time of looking at one candidate in the index.
const ROWS_PER_CANDIDATE: u64 = 4;
/// Candidates beyond `k` that are compared in full precision, at most.
const REFINED_MAX: usize = 1_000;

/// How a search differs from the index's configuration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LanceSearch {
    /// Candidates kept while a graph is searched.
    pub ef: Option<usize>,
    /// Partitions looked into first.
    pub nprobes: Option<usize>,
    /// Candidates for each hit that are compared in full precision.
    pub refine_factor: Option<usize>,
}

impl LanceIndex {
    /// The `k` visible rows nearest to `query`: always `k` when so many are visible.
    ///
    /// # Errors
    /// What [`check_vector`] says of the query; `Engine`.
    pub async fn search(
        &self,
        query: &[f32],
        k: usize,
        options: LanceSearch,
        visible: Visible<'_>,
    ) -> Result<Found, VectorError> {
        check_vector(query, self.dimensions(), self.config().metric)?;
        let shown = self.shown(visible);
        let visible_rows = shown.as_ref().map_or(self.len(), RoaringBitmap::len);
        let k = k.min(usize::try_from(visible_rows).unwrap_or(usize::MAX));
        let factor = options
            .refine_factor
            .unwrap_or(self.config().refine_factor(self.kind()));
        let pool = k.saturating_mul(factor).clamp(32.max(k), k + REFINED_MAX);
        let pool = pool.min(usize::try_from(visible_rows).unwrap_or(usize::MAX));
        let few = visible_rows <= ROWS_PER_CANDIDATE * pool as u64;
        if k == 0 || few || self.kind() == LanceKind::Flat {
            return self.compare_all(query, k, shown.as_ref()).await;
        }
        let proposed = self.propose(query, pool, options, shown.as_ref()).await?;
        if proposed.len() < k {
            return self.compare_all(query, k, shown.as_ref()).await;
        }
        let measure = Measure::new(self.config().metric, query);
        let mut nearest = Nearest::new(k);
        self.compare(&measure, &proposed, &mut nearest).await?;
        Ok(self.found(nearest, SearchPath::Ann))
    }

    /// The `k` visible rows nearest to `query`, by comparing it with every one of them.
    ///
    /// # Errors
    /// What [`check_vector`] says of the query; `Engine`.
    pub async fn search_exact(
        &self,
        query: &[f32],
        k: usize,
        visible: Visible<'_>,
    ) -> Result<Found, VectorError> {
        check_vector(query, self.dimensions(), self.config().metric)?;
        self.compare_all(query, k, self.shown(visible).as_ref())
            .await
    }

    /// The visible slots, when they are not all.
    fn shown(&self, visible: Visible) -> Option<RoaringBitmap> {
        let rows = u32::try_from(self.len()).expect("slots have 32 bits");
        match visible {
            Visible::All => None,
            Visible::Only(shown) => Some(shown & (0..rows).collect::<RoaringBitmap>()),
            Visible::Except(hidden) => Some((0..rows).collect::<RoaringBitmap>() - hidden),
            Visible::Where(test) => Some((0..rows).filter(|&slot| test(u64::from(slot))).collect()),
        }
    }

    /// The slots that the index deems nearest.
    async fn propose(
        &self,
        query: &[f32],
        wanted: usize,
        options: LanceSearch,
        shown: Option<&RoaringBitmap>,
    ) -> Result<Vec<u64>, VectorError> {
        let Some(dataset) = &self.dataset else {
            return Ok(Vec::new());
        };
        let mut scan = dataset.scan();
        let query = Float32Array::from(query.to_vec());
        scan.nearest(VECTOR, &query, wanted).map_err(engine)?;
        scan.ef(options.ef.unwrap_or(self.config().ef_search).max(wanted));
        scan.nprobes(options.nprobes.unwrap_or(self.config().nprobes));
        scan.empty_project().map_err(engine)?.with_row_id();
        if let Some(shown) = shown {
            scan.prefilter(true)
                .with_row_id_prefilter(RowAddrMask::from_allowed(self.addresses.tree(shown)));
        }
        let batch = scan.try_into_batch().await.map_err(engine)?;
        let slots = row_ids(&batch)?.iter().map(|&id| self.addresses.slot(id));
        Ok(slots.filter(|&slot| visible_slot(shown, slot)).collect())
    }

    async fn compare_all(
        &self,
        query: &[f32],
        k: usize,
        shown: Option<&RoaringBitmap>,
    ) -> Result<Found, VectorError> {
        let rows = shown.map_or(self.len(), RoaringBitmap::len);
        let measure = Measure::new(self.config().metric, query);
        let mut nearest = Nearest::new(k.min(usize::try_from(rows).unwrap_or(usize::MAX)));
        match (&self.dataset, shown) {
            _ if rows == 0 || k == 0 => {}
            (None, _) => {}
            (Some(_), Some(shown)) if rows <= self.len() / TAKEN_SHARE => {
                let slots: Vec<u64> = shown.iter().map(u64::from).collect();
                for part in slots.chunks(TAKEN_ROWS) {
                    self.compare(&measure, part, &mut nearest).await?;
                }
            }
            (Some(dataset), _) => {
                self.compare_stream(dataset, &measure, shown, &mut nearest)
                    .await?;
            }
        }
        Ok(self.found(nearest, SearchPath::Exact))
    }

    /// Compares the rows of some slots.
    async fn compare(
        &self,
        measure: &Measure<'_>,
        slots: &[u64],
        nearest: &mut Nearest,
    ) -> Result<(), VectorError> {
        let Some(batch) = self.take(slots, &[VECTOR]).await? else {
            return Ok(());
        };
        for (&slot, vector) in slots
            .iter()
            .zip(vectors(&batch)?.chunks_exact(self.dimensions()))
        {
            nearest.offer(Candidate {
                distance: measure.distance(vector, norm(vector)),
                slot,
            });
        }
        Ok(())
    }

    /// Compares all rows, as they are read.
    async fn compare_stream(
        &self,
        dataset: &Dataset,
        measure: &Measure<'_>,
        shown: Option<&RoaringBitmap>,
        nearest: &mut Nearest,
    ) -> Result<(), VectorError> {
        let mut scan = dataset.scan();
        scan.project(&[VECTOR]).map_err(engine)?.scan_in_order(true);
        let mut batches = scan.try_into_stream().await.map_err(engine)?;
        let mut slot = 0;
        while let Some(batch) = batches.try_next().await.map_err(engine)? {
            for vector in vectors(&batch)?.chunks_exact(self.dimensions()) {
                if visible_slot(shown, slot) {
                    nearest.offer(Candidate {
                        distance: measure.distance(vector, norm(vector)),
                        slot,
                    });
                }
                slot += 1;
            }
        }
        Ok(())
    }

    fn found(&self, nearest: Nearest, path: SearchPath) -> Found {
        let hit = |Candidate { distance, slot }: Candidate| Hit {
            slot,
            key: self.key_of(slot).unwrap_or_default().to_owned(),
            distance,
            score: self.config().metric.score(distance),
        };
        Found {
            hits: nearest.into_sorted().into_iter().map(hit).collect(),
            path,
        }
    }
}

fn visible_slot(shown: Option<&RoaringBitmap>, slot: u64) -> bool {
    shown.is_none_or(|shown| u32::try_from(slot).is_ok_and(|slot| shown.contains(slot)))
}
