//! Searches of several sides over one set: the cheapest setting at which each finds enough, then all
//! of them in turn, round by round, so that what else the machine does falls on all alike.
//! The sides implement [`Contender`]; the runner prints what comes out.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{
    super::{BenchError, report::Series},
    data::{K, Set},
};

/// One pass over all queries.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Round {
    /// The share of the true nearest rows that were found.
    pub recall: f64,
    /// Each query's time in microseconds.
    pub us: Series,
}

/// Someone who answers searches.
pub(super) trait Contender {
    /// What it is called in the table.
    fn name(&self) -> String;

    /// Its settings from the cheapest to the surest.
    fn settings(&self) -> Vec<usize>;

    /// The slots of the nearest rows.
    fn search(&mut self, query: &[f32], setting: usize) -> Result<Vec<u64>, BenchError>;

    /// How many queries a round has: fewer for those that take their time.
    fn queries(&self) -> usize {
        usize::MAX
    }

    /// The slots, and how long finding them took.
    fn timed(&mut self, query: &[f32], setting: usize) -> Result<(Vec<u64>, Duration), BenchError> {
        let clock = Instant::now();
        let slots = self.search(query, setting)?;
        Ok((slots, clock.elapsed()))
    }

    /// Asks every query once.
    fn round(&mut self, set: &Set, setting: usize) -> Result<Round, BenchError> {
        let mut round = Round::default();
        let (mut found, mut wanted) = (0, 0);
        for (query, truth) in set.each_query().zip(&set.truth).take(self.queries()) {
            let (slots, time) = self.timed(query, setting)?;
            round.us.push(time.as_secs_f64() * 1e6);
            found += truth.iter().filter(|slot| slots.contains(slot)).count();
            wanted += truth.len();
        }
        round.recall = share(found, wanted);
        Ok(round)
    }
}

/// A part of a whole, 1 of nothing.
#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
pub(super) fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 {
        1.0
    } else {
        part as f64 / whole as f64
    }
}

/// What one side did.
pub(super) struct Standing {
    pub name: String,
    /// The setting that was measured.
    pub setting: usize,
    pub recall: f64,
    /// Whether the recall asked for was reached at all.
    pub reached: bool,
    /// One value a round, in microseconds.
    pub p50: Series,
    pub p95: Series,
    pub p99: Series,
}

impl Standing {
    pub(super) fn json(&self) -> Value {
        json!({
            "name": self.name, "setting": self.setting, "recall_at_10": self.recall,
            "reached": self.reached, "p50_us": self.p50.json(), "p95_us": self.p95.json(),
            "p99_us": self.p99.json(),
        })
    }
}

/// Finds each side's setting and measures all in turn.
pub(super) fn contest(
    set: &Set,
    sides: &mut [Box<dyn Contender + '_>],
    recall: f64,
    rounds: u32,
) -> Result<Vec<Standing>, BenchError> {
    let mut standings = Vec::new();
    for side in sides.iter_mut() {
        standings.push(cheapest(set, side.as_mut(), recall)?);
    }
    for round in 0..rounds as usize {
        // Who comes first changes from round to round.
        for turn in 0..sides.len() {
            let at = (turn + round) % sides.len();
            let passed = sides[at].round(set, standings[at].setting)?;
            standings[at].recall = passed.recall;
            standings[at].p50.push(passed.us.quantile(0.5));
            standings[at].p95.push(passed.us.quantile(0.95));
            standings[at].p99.push(passed.us.quantile(0.99));
        }
    }
    Ok(standings)
}

/// The first setting that finds enough, or the last.
fn cheapest(set: &Set, side: &mut dyn Contender, recall: f64) -> Result<Standing, BenchError> {
    let settings = side.settings();
    let (mut setting, mut found) = (K, 0.0);
    for candidate in settings {
        setting = candidate;
        found = side.round(set, setting)?.recall;
        if found >= recall {
            break;
        }
    }
    Ok(Standing {
        name: side.name(),
        setting,
        recall: found,
        reached: found >= recall,
        p50: Series::default(),
        p95: Series::default(),
        p99: Series::default(),
    })
}

#[cfg(test)]
mod tests {
    use super::{super::data::clustered, *};

    /// Finds as many of the true rows as its setting says.
    struct Knows<'a>(&'a Set, usize);

    impl Contender for Knows<'_> {
        fn name(&self) -> String {
            "knows".to_owned()
        }

        fn settings(&self) -> Vec<usize> {
            vec![3, 9, 10]
        }

        fn search(&mut self, _: &[f32], setting: usize) -> Result<Vec<u64>, BenchError> {
            let truth = &self.0.truth[self.1 % self.0.truth.len()];
            self.1 += 1;
            Ok(truth[..setting].to_vec())
        }
    }

    #[test]
    fn the_cheapest_setting_that_finds_enough_is_measured() {
        let set = clustered(200, 5, 16, 1);
        let measured = |recall| {
            let mut sides: Vec<Box<dyn Contender>> = vec![Box::new(Knows(&set, 0))];
            let standing = contest(&set, &mut sides, recall, 2).expect("it answers");
            (standing[0].setting, standing[0].reached)
        };
        assert_eq!(measured(0.9), (9, true));
        assert_eq!(measured(0.3), (3, true));
        assert_eq!(measured(1.1), (10, false));
    }
}
