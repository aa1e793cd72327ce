//! What a generation must reach before it answers, and what becomes of one that does not: the trial is
//! kept with its reason, and the generation before it goes on. Rollback is not held to it.

use serde::{Deserialize, Serialize};

use super::{
    super::{CatalogState, CommitGeneration, DefineIndex, Generation, Index, PromoteGeneration},
    Trial,
};
use crate::model::{
    ModelError,
    event::{CatalogEvent, GenerationFailed, IndexSloSet, TrialRecorded},
};

/// What a generation must reach before it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slo {
    /// True rows found of a million, at least.
    pub min_recall_ppm: u32,
    /// The tail in microseconds, at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_p99_us: Option<u64>,
}

/// What a trial misses of a floor.
struct Miss {
    /// Which part of it.
    floor: &'static str,
    /// That with what was found.
    text: String,
}

impl Slo {
    fn missed_by(&self, trial: &Trial) -> Option<Miss> {
        let share = |ppm: u32| f64::from(ppm) / 1e6;
        if trial.recall_ppm < self.min_recall_ppm {
            let (found, wanted) = (share(trial.recall_ppm), share(self.min_recall_ppm));
            return Some(Miss {
                floor: "it misses `min_recall`",
                text: format!("recall is {found}, `min_recall` is {wanted}"),
            });
        }
        let p99_us = trial.latency_ns.p99.div_ceil(1_000);
        self.max_p99_us.filter(|max| p99_us > *max).map(|max| Miss {
            floor: "it misses `max_p99_us`",
            text: format!("p99 is {p99_us} µs, `max_p99_us` is {max}"),
        })
    }
}

/// What was found is for readers of the rows only: the error names the floor.
fn refusal(index: &str, generation: u64, reason: &str) -> ModelError {
    ModelError::FloorMissed {
        index: index.to_owned(),
        generation,
        reason: reason.to_owned(),
    }
}

const UNMEASURED: &str = "it was not measured since a floor was set";

impl CatalogState {
    /// The floor that an index is defined with.
    pub(in crate::model::catalog) fn first_floor(command: &DefineIndex) -> Option<CatalogEvent> {
        let (index, slo) = (command.index.clone(), command.slo);
        slo.map(|_| IndexSloSet { index, slo }.into())
    }

    /// The newest trial of a generation, if it was ever measured.
    pub fn trial_of(&self, index: &Index, built: &Generation) -> Option<&Trial> {
        // A number is given again when a build was refused: what was measured before this one's rows
        // were read is of another.
        let newest = self.quality.trials.iter().rev();
        newest
            .take_while(|(seq, _)| **seq > built.source_seq)
            .map(|(_, kept)| &kept.trial)
            .find(|trial| trial.index == index.name && trial.generation == Some(built.generation))
    }

    /// The trial of a generation that is built, and its refusal when it misses what its index must
    /// reach. A floor holds back no erasure and no change of a view: while the generation that answers
    /// holds rows from before, a new one of the same tuning is let in all the same, and its trial says so.
    pub(in crate::model::catalog) fn judged(
        &self,
        index: &Index,
        command: &CommitGeneration,
    ) -> Result<(Option<CatalogEvent>, Option<CatalogEvent>), ModelError> {
        let recorded = |trial| TrialRecorded { trial }.into();
        let Some(slo) = self.quality.slos.get(&command.index) else {
            return Ok((command.trial.clone().map(recorded), None));
        };
        let missed = |reason| refusal(&command.index, command.generation, reason);
        let Some(mut trial) = command.trial.clone() else {
            return Err(missed(UNMEASURED));
        };
        let Some(miss) = slo.missed_by(&trial) else {
            return Ok((Some(recorded(trial)), None));
        };
        if self.must_be_replaced(index) {
            trial.note = Some(format!(
                "answers in the place of what may not: {}",
                miss.text
            ));
            return Ok((Some(recorded(trial)), None));
        }
        trial.refused = Some(miss.text);
        let failed = GenerationFailed {
            index: command.index.clone(),
            generation: command.generation,
            job: command.job.clone(),
            error: missed(miss.floor).to_string(),
            obstacle: None,
        };
        Ok((Some(recorded(trial)), Some(failed.into())))
    }

    /// Whether the generation that answers may hold what nobody may see any more, and the build that is
    /// due has its tuning.
    fn must_be_replaced(&self, index: &Index) -> bool {
        let source = &index.spec.source;
        let deleted = self.dataset_under(source);
        let deleted = deleted.map_or(0, |dataset| dataset.last_tombstone_seq());
        let last = deleted.max(self.policy_seq(source));
        let live = index.live_generation();
        index.config_to_build() == &index.spec.config
            && live.is_some_and(|live| live.oldest_source() < last)
    }

    /// Lets a generation answer if it reaches what its index must; else its trial is kept as failed.
    pub(in crate::model::catalog) fn promote_measured(
        &self,
        command: &PromoteGeneration,
    ) -> Result<Vec<CatalogEvent>, ModelError> {
        let promoted = self.promote_generation(&command.index, command.generation)?;
        let index = self.index(&command.index)?;
        let mut built = index.generations.iter();
        let built = built.find(|built| built.generation == command.generation);
        let slo = self.quality.slos.get(&command.index);
        let (Some(slo), Some(built), false) = (slo, built, promoted.is_empty()) else {
            return Ok(promoted);
        };
        let missed = |reason| refusal(&command.index, command.generation, reason);
        let Some(mut trial) = command.trial.clone() else {
            let known = self
                .trial_of(index, built)
                .ok_or_else(|| missed(UNMEASURED))?;
            return match slo.missed_by(known) {
                Some(miss) => Err(missed(miss.floor)),
                None => Ok(promoted),
            };
        };
        let miss = slo.missed_by(&trial);
        trial.refused = miss.map(|miss| miss.text);
        let promoted = if trial.refused.is_none() {
            promoted
        } else {
            Vec::new()
        };
        let kept = std::iter::once(TrialRecorded { trial }.into());
        Ok(kept.chain(promoted).collect())
    }
}
