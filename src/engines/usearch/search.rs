//! Searches of a generation: through the graph, or over every visible row, whichever is surer or
//! sooner. The graph only proposes; distances and order come from the vectors in full precision.

use std::collections::VecDeque;

use lakehouse_kernels::hnsw::fetch;

use super::super::vectors::exact::{Candidate, Measure, Nearest, norm};
use super::super::vectors::mapped::bytes;
use super::super::vectors::{
    Found, Hit, Metric, Quantization, SearchPath, VectorError, Visible, check_vector, processors,
};
use super::graph::{Proposal, WALKED_MAX};
use super::index::HnswIndex;
use super::twins::Twins;

/// Rows that a scan compares in the time in which a walk looks at one candidate's links, in every number format;
/// see `HnswIndex::scan_is_sooner`. Measured by the crossover of `lakehouse bench vectors`.
const ROWS_PER_CANDIDATE: u64 = 28;
/// Rows beyond `k` whose rounding error is looked at before it is trusted.
const ERRORS_SEEN_MIN: usize = 6;
/// How many times the largest error seen a row may be off: with 16 errors seen, more than five
/// standard deviations of them.
const ERROR_SLACK: f32 = 3.0;
/// Rows that are on their way from memory while a scan compares the one before.
const ROWS_COMING: usize = 2;
/// Numbers above which a scan is worth a second thread.
const NUMBERS_PER_THREAD: u64 = 1 << 20;

/// How many of a graph's candidates for `k` hits are measured as they are.
fn rescored_of(quantization: Quantization, k: usize) -> usize {
    let (least, times) = match quantization {
        Quantization::I8 => (64, 8),
        Quantization::Bf16 => (48, 6),
        Quantization::F16 => (32, 4),
        Quantization::F32 => (16, 2),
    };
    least.max(k.saturating_mul(times))
}

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
        let shown = visible.estimate(self.len());
        let ef = self.candidates_for(k, ef, shown);
        if !self.scan_is_sooner(ef as u64, shown)
            && let Some(found) = self.walked(query, k, ef, shown, visible)?
        {
            return Ok(found);
        }
        Ok(self.search_shown(query, k, visible))
    }

    /// The same by comparing with the visible rows alone: as they are rounded, where that is less to read, and the
    /// nearest of them then as they are.
    pub fn search_shown(&self, query: &[f32], k: usize, visible: Visible) -> Found {
        let pool = rescored_of(self.config().quantization, k);
        let few = visible.estimate(self.len()) <= 2 * pool as u64;
        if few || pool > WALKED_MAX || self.config().quantization == Quantization::F32 {
            return self.scan(query, k, visible);
        }
        let Some((graph, twins)) = &self.graph else {
            return self.scan(query, k, visible);
        };
        let nodes = self.nodes.get_or_init(|| {
            let mut nodes = vec![0; self.matrix.rows()];
            for (node, slot) in (0_u32..).zip(graph.slots()) {
                for row in twins.from(slot) {
                    let row = usize::try_from(row).expect("a row in memory");
                    if let Some(known) = nodes.get_mut(row) {
                        *known = node;
                    }
                }
            }
            nodes
        });
        let node_of = |slot: u64| nodes[usize::try_from(slot).expect("a row in memory")];
        let among: Box<dyn Iterator<Item = u32>> = match visible {
            // Rows that came after this generation have slots as well.
            Visible::Only(shown) => {
                let here = shown.iter().map(u64::from);
                Box::new(here.take_while(|&slot| slot < self.len()).map(node_of))
            }
            _ => Box::new(
                (0..self.len())
                    .filter(|&slot| visible.allows(slot))
                    .map(node_of),
            ),
        };
        let candidates = graph.candidates_among(query, norm(query), pool, among);
        let hits = self.rescored(query, k, &candidates, twins, visible);
        if hits.len() < k {
            return self.scan(query, k, visible);
        }
        let path = SearchPath::Ann;
        Found { hits, path }
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
        let ef = self.candidates_for(k, ef, shown);
        self.walked(query, k, ef, shown, visible)
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

    /// How many candidates a search for `k` of so many `shown` rows keeps. Those beyond `k` keep a walk from ending
    /// in a corner of the graph; as it looks at `rows / shown` times as many nodes to find as many that are shown,
    /// the square root of that share of them does.
    pub fn candidates_for(&self, k: usize, ef: Option<usize>, shown: u64) -> usize {
        let ef = ef.unwrap_or(self.config().expansion_search);
        let beyond = ef.saturating_sub(k).min(self.matrix.rows()) as u64;
        let beyond = (beyond * beyond).saturating_mul(shown.min(self.len())) / self.len().max(1);
        let beyond = usize::try_from(beyond.isqrt()).expect("it is no more than rows in memory");
        (k + beyond).min(self.matrix.rows())
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
        let pool = rescored_of(self.config().quantization, k);
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
        let offer = |slot| nearest.offer(self.measured(measure, slot));
        match visible {
            Visible::All => (start..end).for_each(offer),
            Visible::Only(shown) => {
                let bound = |slot| u32::try_from(slot).expect("slots have 32 bits");
                let shown = shown.range(bound(start)..bound(end)).map(u64::from);
                self.each_fetched(shown, offer);
            }
            Visible::Except(_) | Visible::Where(_) => {
                self.each_fetched((start..end).filter(|&slot| visible.allows(slot)), offer);
            }
        }
        nearest
    }

    /// Does it to each of these rows, which lie apart, when the row has had time to come near.
    fn each_fetched(&self, slots: impl Iterator<Item = u64>, mut each: impl FnMut(u64)) {
        let mut coming = VecDeque::with_capacity(ROWS_COMING + 1);
        for slot in slots {
            self.fetch(slot);
            coming.push_back(slot);
            if coming.len() > ROWS_COMING {
                coming.drain(..1).for_each(&mut each);
            }
        }
        coming.into_iter().for_each(each);
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
