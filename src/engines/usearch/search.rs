//! Searches of a generation: through the graph, or over every visible row, whichever is surer or
//! sooner. The graph only proposes; distances and order come from the vectors in full precision.

use lakehouse_kernels::hnsw::fetch;

use super::super::vectors::exact::{Candidate, Measure, Nearest, norm};
use super::super::vectors::mapped::bytes;
use super::super::vectors::{
    Found, Hit, Metric, Quantization, SearchPath, VectorError, Visible, check_vector, processors,
};
use super::graph::Proposal;
use super::index::HnswIndex;
use super::twins::Twins;

/// Rows that a scan compares in the time in which a graph search looks at one candidate's links; see
/// `HnswIndex::scan_is_sooner`.
const ROWS_PER_CANDIDATE: u64 = 4;
/// Rows beyond `k` whose rounding error is looked at before it is trusted.
const ERRORS_SEEN_MIN: usize = 6;
/// How many times the largest error seen a row may be off: with 16 errors seen, more than five
/// standard deviations of them.
const ERROR_SLACK: f32 = 3.0;
/// Numbers above which a scan is worth a second thread.
const NUMBERS_PER_THREAD: u64 = 1 << 20;

impl HnswIndex {
    /// The `k` visible rows nearest to `query`: always `k` when so many are visible. `ef` candidates
    /// are kept on the way (the configuration's when `None`, and never fewer than `k`).
    ///
    /// # Errors
    /// What [`check_vector`] says of the query; `Engine`.
    pub fn search(
        &self,
        query: &[f32],
        k: usize,
        ef: Option<usize>,
        visible: Visible,
    ) -> Result<Found, VectorError> {
        check_vector(query, self.dimensions(), self.config().metric)?;
        let k = k.min(self.matrix.rows());
        if k == 0 {
            return Ok(Found {
                hits: Vec::new(),
                path: SearchPath::Exact,
            });
        }
        let (ef, shown) = (self.candidates_for(k, ef), visible.estimate(self.len()));
        if !self.scan_is_sooner(ef as u64, shown)
            && let Some(found) = self.walked(query, k, ef, shown, visible)?
        {
            return Ok(found);
        }
        Ok(self.scan(query, k, visible))
    }

    /// The same through the graph, whatever a scan would take; `None` when it gives up, or finds fewer than
    /// `k`.
    ///
    /// # Errors
    /// What [`check_vector`] says of the query; `Engine`.
    pub fn search_graph(
        &self,
        query: &[f32],
        k: usize,
        ef: Option<usize>,
        visible: Visible,
    ) -> Result<Option<Found>, VectorError> {
        check_vector(query, self.dimensions(), self.config().metric)?;
        let k = k.min(self.matrix.rows());
        let shown = visible.estimate(self.len());
        self.walked(query, k, self.candidates_for(k, ef), shown, visible)
    }

    fn walked(
        &self,
        query: &[f32],
        k: usize,
        ef: usize,
        shown: u64,
        visible: Visible,
    ) -> Result<Option<Found>, VectorError> {
        let Some((graph, twins)) = &self.graph else {
            return Ok(None);
        };
        let any_visible = |slot: u64| twins.from(slot).any(|slot| visible.allows(slot));
        let norm = norm(query);
        let wanted = ef.min(self.linked());
        let candidates = match visible {
            Visible::All => Some(graph.candidates(query, norm, wanted)?),
            Visible::Except(_) | Visible::Only(_) | Visible::Where(_) => {
                // Where what passes lies far from the query, comparing with all of it is sooner after all.
                let budget = usize::try_from(2 * shown).unwrap_or(usize::MAX);
                graph.candidates_passing(query, norm, wanted, &any_visible, budget)?
            }
        };
        let Some(candidates) = candidates else {
            return Ok(None);
        };
        let hits = self.rescored(query, k, &candidates, twins, visible);
        let path = SearchPath::Ann;
        Ok((hits.len() == k).then_some(Found { hits, path }))
    }

    /// How many candidates a search keeps.
    fn candidates_for(&self, k: usize, ef: Option<usize>) -> usize {
        let ef = ef.unwrap_or(self.config().expansion_search);
        ef.max(k).min(self.matrix.rows())
    }

    /// The `k` visible rows nearest to `query`, by comparing it with every one of them.
    ///
    /// # Errors
    /// What [`check_vector`] says of the query.
    pub fn search_exact(
        &self,
        query: &[f32],
        k: usize,
        visible: Visible,
    ) -> Result<Found, VectorError> {
        check_vector(query, self.dimensions(), self.config().metric)?;
        Ok(self.scan(query, k.min(self.matrix.rows()), visible))
    }

    /// A graph search looks at about `ef` · rows / `shown` nodes, a scan at `shown` rows, which it
    /// reads in order.
    fn scan_is_sooner(&self, ef: u64, shown: u64) -> bool {
        shown.saturating_mul(shown) <= ROWS_PER_CANDIDATE * ef * self.len()
    }

    /// The nearest `k` of what the graph proposed, by true distance. Only the first few times `k` can
    /// be among them: rounding moves a row by a few places. How far it moves distances is seen on the
    /// way; once what is left lies further behind than that can make up for, nothing more is read.
    fn rescored(
        &self,
        query: &[f32],
        k: usize,
        proposals: &[Proposal],
        twins: &Twins,
        visible: Visible,
    ) -> Vec<Hit> {
        let pool = match self.config().quantization {
            Quantization::I8 => 64.max(8 * k),
            Quantization::Bf16 => 48.max(6 * k),
            Quantization::F16 => 32.max(4 * k),
            Quantization::F32 => 16.max(2 * k),
        };
        let proposals = &proposals[..pool.min(proposals.len())];
        let measure = Measure::new(self.config().metric, query);
        let mut nearest = Nearest::new(k);
        let mut error = 0.0_f32;
        for (at, proposal) in proposals.iter().enumerate() {
            if let (Some(seems), Some(worst)) = (proposal.distance, nearest.worst())
                && at >= k + ERRORS_SEEN_MIN
                && seems - ERROR_SLACK * error > worst
            {
                break;
            }
            if let Some(soon) = proposals.get(at + 2) {
                self.fetch(soon.slot);
            }
            let Candidate { distance, .. } = self.measured(&measure, proposal.slot);
            if let Some(seems) = proposal.distance {
                error = error.max((seems - distance).abs());
            }
            let rows = twins
                .from(proposal.slot)
                .filter(|&slot| visible.allows(slot));
            rows.take(k)
                .for_each(|slot| nearest.offer(Candidate { distance, slot }));
        }
        self.hits(nearest)
    }

    /// Has a row's numbers brought near.
    fn fetch(&self, slot: u64) {
        if let Some(vector) = self.vector_of(slot) {
            fetch(bytes(vector));
        }
    }

    fn scan(&self, query: &[f32], k: usize, visible: Visible) -> Found {
        let measure = Measure::new(self.config().metric, query);
        let numbers = visible.estimate(self.len()) * self.dimensions() as u64;
        let threads = (numbers / NUMBERS_PER_THREAD).clamp(1, processors() as u64);
        let part = |thread: u64| {
            let (start, end) = (
                self.len() * thread / threads,
                self.len() * (thread + 1) / threads,
            );
            self.scan_range(&measure, k, visible, start, end)
        };
        let mut nearest = Nearest::new(k);
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads)
                .map(|thread| scope.spawn(move || part(thread)))
                .collect();
            nearest.merge(part(0));
            for other in others {
                nearest.merge(
                    other
                        .join()
                        .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                );
            }
        });
        Found {
            hits: self.hits(nearest),
            path: SearchPath::Exact,
        }
    }

    fn scan_range(
        &self,
        measure: &Measure,
        k: usize,
        visible: Visible,
        start: u64,
        end: u64,
    ) -> Nearest {
        let mut nearest = Nearest::new(k);
        let mut offer = |slot| nearest.offer(self.measured(measure, slot));
        match visible {
            Visible::All => (start..end).for_each(offer),
            Visible::Only(shown) => {
                let bound = |slot| u32::try_from(slot).expect("slots have 32 bits");
                shown
                    .range(bound(start)..bound(end))
                    .for_each(|slot| offer(u64::from(slot)));
            }
            Visible::Except(_) | Visible::Where(_) => {
                (start..end)
                    .filter(|&slot| visible.allows(slot))
                    .for_each(offer);
            }
        }
        nearest
    }

    fn measured(&self, measure: &Measure, slot: u64) -> Candidate {
        let row = usize::try_from(slot).expect("a slot is the number of a row in memory");
        let norm = if self.config().metric == Metric::Cosine {
            self.matrix.norm(row)
        } else {
            1.0
        };
        Candidate {
            distance: measure.distance(self.matrix.row(row), norm),
            slot,
        }
    }

    fn hits(&self, nearest: Nearest) -> Vec<Hit> {
        let hit = |Candidate { distance, slot }| {
            let key = self.key_of(slot).expect("every slot has a key").to_owned();
            Hit {
                slot,
                key,
                distance,
                score: self.config().metric.score(distance),
            }
        };
        nearest.into_sorted().into_iter().map(hit).collect()
    }
}
