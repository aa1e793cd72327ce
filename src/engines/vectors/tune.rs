//! Searching for a configuration: coarse to fine, with as few trials as it takes. Pure: what a trial
//! gives comes from a closure. A graph that cannot win any more is dropped before its next trial.

use std::collections::BTreeSet;

use super::Quantization;

/// Links a node, from few to many.
pub const CONNECTIVITY: &[usize] = &[8, 12, 16, 24, 32];
/// Candidates while a graph is built.
pub const EF_CONSTRUCTION: &[usize] = &[64, 128, 256];
/// Number formats.
pub const QUANTIZATION: &[Quantization] = &[Quantization::I8, Quantization::F16];
/// Candidates while a graph is searched.
pub const EF_SEARCH: &[usize] = &[16, 24, 32, 48, 64, 96, 128, 192, 256, 384];

/// Where the search starts: positions in the lists above.
const START: Place = Place {
    connectivity: 2,
    ef_construction: 1,
    quantization: 0,
};
/// Trials between two steps of `EF_SEARCH` at the end.
const FINE_TRIALS: usize = 2;

/// What a graph is built as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Links a node.
    pub connectivity: usize,
    /// Candidates while it is built.
    pub ef_construction: usize,
    /// Its number format.
    pub quantization: Quantization,
}

/// What a trial gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// True rows found, of a million.
    pub recall_ppm: u32,
    /// The median search.
    pub p50_ns: u64,
}

/// The best that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Best {
    /// The graph.
    pub shape: Shape,
    /// Candidates while it is searched.
    pub ef_search: usize,
    /// What it gave.
    pub outcome: Outcome,
}

/// Every configuration that a full grid would try.
pub fn grid() -> impl Iterator<Item = (Shape, usize)> {
    places().flat_map(|place| EF_SEARCH.iter().map(move |&ef| (place.shape(), ef)))
}

fn places() -> impl Iterator<Item = Place> {
    (0..QUANTIZATION.len()).flat_map(|quantization| {
        (0..CONNECTIVITY.len()).flat_map(move |connectivity| {
            (0..EF_CONSTRUCTION.len()).map(move |ef_construction| Place {
                connectivity,
                ef_construction,
                quantization,
            })
        })
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    connectivity: usize,
    ef_construction: usize,
    quantization: usize,
}

impl Place {
    fn shape(self) -> Shape {
        Shape {
            connectivity: CONNECTIVITY[self.connectivity],
            ef_construction: EF_CONSTRUCTION[self.ef_construction],
            quantization: QUANTIZATION[self.quantization],
        }
    }

    /// One step in each direction, the likeliest first.
    fn neighbours(self) -> impl Iterator<Item = Self> {
        let step =
            |at: usize, by: isize, count: usize| at.checked_add_signed(by).filter(|&at| at < count);
        let links = [1, -1].map(|by| {
            let connectivity = step(self.connectivity, by, CONNECTIVITY.len())?;
            Some(Self {
                connectivity,
                ..self
            })
        });
        let building = [1, -1].map(|by| {
            let ef_construction = step(self.ef_construction, by, EF_CONSTRUCTION.len())?;
            Some(Self {
                ef_construction,
                ..self
            })
        });
        links.into_iter().chain(building).flatten()
    }
}

/// A search in progress.
struct Tuning<F> {
    min_recall_ppm: u32,
    trials_left: usize,
    measure: F,
    best: Option<(Place, Best)>,
}

/// Finds the quickest configuration that reaches the recall, in at most `trials` trials. `measure`
/// says nothing when the time is over.
///
/// # Errors
/// What `measure` says.
pub fn tune<E>(
    min_recall_ppm: u32,
    trials: usize,
    measure: impl FnMut(Shape, usize) -> Result<Option<Outcome>, E>,
) -> Result<Option<Best>, E> {
    let mut tuning = Tuning {
        min_recall_ppm,
        trials_left: trials,
        measure,
        best: None,
    };
    let mut seen = BTreeSet::new();
    for quantization in 0..QUANTIZATION.len() {
        let place = Place {
            quantization,
            ..START
        };
        seen.insert(place);
        tuning.explore(place)?;
    }
    // From the best so far one step at a time, until no step is better.
    let mut at = tuning.best.map_or(START, |(place, _)| place);
    while let Some(place) = at.neighbours().find(|place| !seen.contains(place)) {
        seen.insert(place);
        tuning.explore(place)?;
        at = tuning.best.map_or(place, |(place, _)| place);
    }
    tuning.refine()?;
    Ok(tuning.best.map(|(_, best)| best))
}

impl<E, F: FnMut(Shape, usize) -> Result<Option<Outcome>, E>> Tuning<F> {
    fn trial(&mut self, place: Place, ef: usize) -> Result<Option<Outcome>, E> {
        if self.trials_left == 0 {
            return Ok(None);
        }
        self.trials_left -= 1;
        let shape = place.shape();
        let outcome = (self.measure)(shape, ef)?;
        if let Some(outcome) = outcome.filter(|outcome| self.reaches(*outcome)) {
            let better = |best: &(Place, Best)| outcome.p50_ns < best.1.outcome.p50_ns;
            if self.best.as_ref().is_none_or(better) {
                let ef_search = ef;
                let best = Best {
                    shape,
                    ef_search,
                    outcome,
                };
                self.best = Some((place, best));
            }
        }
        Ok(outcome)
    }

    fn reaches(&self, outcome: Outcome) -> bool {
        outcome.recall_ppm >= self.min_recall_ppm
    }

    /// Halves the steps of `EF_SEARCH` down to the first that reaches the recall. A graph that is
    /// slower than the best already where it finds too little is dropped: more candidates take longer.
    fn explore(&mut self, place: Place) -> Result<(), E> {
        let (mut low, mut high) = (0, EF_SEARCH.len());
        let mut at = 3;
        while low < high {
            let Some(outcome) = self.trial(place, EF_SEARCH[at])? else {
                return Ok(());
            };
            if self.reaches(outcome) {
                high = at;
            } else {
                let slower = |(_, best): (Place, Best)| outcome.p50_ns >= best.outcome.p50_ns;
                if self.best.is_some_and(slower) {
                    return Ok(());
                }
                low = at + 1;
            }
            at = usize::midpoint(low, high);
            if at == EF_SEARCH.len() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Looks between the best number of candidates and the step before it.
    fn refine(&mut self) -> Result<(), E> {
        let Some((place, best)) = self.best else {
            return Ok(());
        };
        let before = EF_SEARCH.iter().rev().find(|&&ef| ef < best.ef_search);
        let (mut low, mut high) = (before.copied().unwrap_or(10), best.ef_search);
        for _ in 0..FINE_TRIALS {
            let ef = usize::midpoint(low, high);
            if ef <= low {
                return Ok(());
            }
            let Some(outcome) = self.trial(place, ef)? else {
                return Ok(());
            };
            if self.reaches(outcome) {
                high = ef;
            } else {
                low = ef;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    /// A made-up law like the real one: links and candidates add recall and time.
    fn law(shape: Shape, ef: usize) -> Outcome {
        let bytes = match shape.quantization {
            Quantization::I8 => 10,
            _ => 17,
        };
        let reach = shape.connectivity * 3 + shape.ef_construction / 8 + ef;
        let recall_ppm = 1_000_000 - u32::try_from(4_000_000 / (reach * reach / 20 + 4)).unwrap();
        let work = ef * (shape.connectivity + 20) * bytes;
        let p50_ns = u64::try_from(work).unwrap();
        Outcome { recall_ppm, p50_ns }
    }

    #[test]
    fn a_quarter_of_the_grids_trials_finds_what_is_near_the_best_of_the_grid() {
        let min_recall_ppm = 990_000;
        let all: Vec<(Shape, usize)> = grid().collect();
        let best = all
            .iter()
            .map(|&(shape, ef)| law(shape, ef))
            .filter(|outcome| outcome.recall_ppm >= min_recall_ppm)
            .map(|outcome| outcome.p50_ns)
            .min()
            .unwrap();
        let mut trials = 0;
        let found = tune(min_recall_ppm, all.len() / 4, |shape, ef| {
            trials += 1;
            Ok::<_, Infallible>(Some(law(shape, ef)))
        });
        let found = found.unwrap().unwrap();
        assert!(found.outcome.recall_ppm >= min_recall_ppm);
        assert!(
            found.outcome.p50_ns * 100 <= best * 115,
            "{found:?} beside {best}"
        );
        assert!(trials <= all.len() / 4, "{trials} of {}", all.len());
    }

    #[test]
    fn the_budget_of_trials_and_of_time_is_kept() {
        for (trials, time) in [(3, 100), (100, 4), (0, 9)] {
            let mut tried = 0;
            let found = tune(990_000, trials, |shape, ef| {
                tried += 1;
                Ok::<_, Infallible>((tried <= time).then(|| law(shape, ef)))
            });
            assert!(tried <= trials.min(time + 40), "{tried}");
            assert_eq!(found.unwrap().is_some(), trials > 0);
        }
    }

    #[test]
    fn what_no_graph_reaches_is_found_by_none() {
        let found = tune(1_000_001, 75, |shape, ef| {
            Ok::<_, Infallible>(Some(law(shape, ef)))
        });
        assert_eq!(found.unwrap(), None);
    }
}
