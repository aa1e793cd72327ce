//! How good indexes are: sets of queries with their true answers, trials, what an index must reach
//! before a generation of it answers, and profiles. Pure; `decide` and `apply` of the catalog lead
//! here. Measured values are integers, so that what is replayed is what was live, bit for bit.

mod floor;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

pub use floor::Slo;

use super::{CatalogState, DeletionVector, FileDigest, IndexConfig};
use crate::{
    model::{
        ModelError,
        error::{check_name, near_names},
        event::{
            CatalogEvent, EvalCreated, EvalsRetired, IndexSloSet, ProfileActivated, ProfileSaved,
            RowsTombstoned, TrialRecorded,
        },
    },
    record::{Micros, Seq},
};

/// Everything about how good indexes are.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    /// Evaluation sets by name.
    pub evals: OrdMap<String, Arc<EvalSet>>,
    /// Every trial ever run, by the position of its event.
    pub trials: OrdMap<Seq, Arc<KeptTrial>>,
    /// What an index must reach, by its name.
    pub slos: OrdMap<String, Slo>,
    /// Profiles by id.
    pub profiles: OrdMap<String, Arc<Profile>>,
    /// The profile that is active.
    pub active: Option<String>,
}

impl Quality {
    /// Whether nothing was ever measured or set: the state is then written as it was before.
    pub fn is_empty(&self) -> bool {
        self == &Self::default()
    }
}

/// Held-out queries with their true nearest rows, as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvalSpec {
    /// The index whose rows they ask for.
    pub index: String,
    /// The dataset below it.
    pub source: String,
    /// How many queries.
    pub queries: u32,
    /// How many true rows each.
    pub k: u32,
    /// What they were drawn with.
    pub seed: u64,
    /// The bucket of its files.
    pub bucket: String,
    /// Folder of its files.
    pub prefix: String,
    /// Its files.
    pub files: Vec<FileDigest>,
    /// Which rows it touches: 32 bits of the blake3 of each key as the journal spells it.
    pub rows: DeletionVector,
    /// The generation whose rows the truth was drawn from.
    pub generation: u64,
    /// Position of the snapshot that it was drawn on: later deletions may touch it.
    pub source_seq: Seq,
    /// The median of one query by brute force, in nanoseconds.
    pub brute_force_p50_ns: u64,
}

/// An evaluation set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvalSet {
    /// Its name.
    pub name: String,
    /// What it holds.
    pub spec: EvalSpec,
    /// When it was drawn.
    pub created_at: Micros,
    /// Position of the deletion that took one of its rows: it is of no use from there on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invalid_since: Option<Seq>,
}

/// A time at the median and in the tail, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tail {
    /// Half of the searches took at most this.
    pub p50: u64,
    /// 95 in 100.
    pub p95: u64,
    /// 99 in 100.
    pub p99: u64,
}

/// One measurement of one configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// Its id.
    pub id: String,
    /// The index.
    pub index: String,
    /// The evaluation set.
    pub eval: String,
    /// The configuration, every field set.
    pub config: IndexConfig,
    /// The generation, when one that is kept or was to be was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// Hits asked for.
    pub k: u32,
    /// True rows that were found, of a million.
    pub recall_ppm: u32,
    /// Medians over the repeats.
    pub latency_ns: Tail,
    /// The least of each over the repeats.
    pub least_ns: Tail,
    /// The most of each over the repeats.
    pub most_ns: Tail,
    /// How often every query was asked.
    pub repeats: u32,
    /// The median by brute force, in nanoseconds.
    pub brute_force_p50_ns: u64,
    /// How long the graph took to build.
    pub build_ms: u64,
    /// Bytes in memory when searches have touched everything they touch.
    pub memory_bytes: u64,
    /// Rows.
    pub vectors: u64,
    /// Where.
    pub machine: String,
    /// The program that measured: its commit where it was built with one, else its version.
    pub commit: String,
    /// What the caller wrote beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Why the generation was refused, when it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// A trial, and when it was recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptTrial {
    /// When.
    pub at: Micros,
    /// What came out.
    pub trial: Trial,
}

/// A named binding of a model, views, indexes and their tuning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// Its id.
    pub id: String,
    /// The model whose vectors the indexes hold.
    pub model: String,
    /// Views or datasets.
    #[serde(default)]
    pub views: Vec<String>,
    /// Indexes that it loads.
    #[serde(default)]
    pub indexes: Vec<String>,
    /// Their engine.
    pub backend: super::Backend,
    /// Their tuning, where it is more than the indexes' own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hnsw_config: Option<IndexConfig>,
    /// Where new indexes of it go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bucket: Option<String>,
    /// Tools.
    #[serde(default)]
    pub tools: Vec<String>,
}

/// What the catalog is asked about quality.
#[derive(Debug, Clone)]
pub enum QualityCommand {
    /// Keep an evaluation set whose files are durable.
    RecordEval {
        /// Its name; one of the same name is replaced.
        eval: String,
        /// What it is.
        spec: EvalSpec,
    },
    /// No longer keep the sets over a dataset that deletions have touched.
    RetireEvals {
        /// The dataset.
        dataset: String,
    },
    /// Keep a trial.
    RecordTrial(Trial),
    /// Set or take away what an index must reach.
    SetSlo {
        /// The index.
        index: String,
        /// What; nothing takes it away.
        slo: Option<Slo>,
    },
    /// Keep a profile; one of the same id is replaced.
    SaveProfile(Profile),
    /// Let a profile be the active one.
    ActivateProfile {
        /// Its id.
        id: String,
    },
}

/// Where a row's key stands among the rows of an evaluation set.
pub fn row_mark(key: &str) -> u32 {
    let hash = blake3::hash(key.as_bytes());
    u32::from_le_bytes(*hash.as_bytes().first_chunk().expect("a hash has 32 bytes"))
}

type Decision = Result<Vec<CatalogEvent>, ModelError>;

impl CatalogState {
    /// The evaluation set of that name.
    ///
    /// # Errors
    /// [`ModelError::NotFound`] with names like it.
    pub fn eval(&self, name: &str) -> Result<&EvalSet, ModelError> {
        let found = self.quality.evals.get(name).map(AsRef::as_ref);
        found.ok_or_else(|| ModelError::NotFound {
            what: "eval",
            name: name.to_owned(),
            near: near_names(name, self.quality.evals.keys()),
        })
    }

    /// The profile of that id.
    ///
    /// # Errors
    /// [`ModelError::NotFound`] with names like it.
    pub fn profile(&self, id: &str) -> Result<&Profile, ModelError> {
        let found = self.quality.profiles.get(id).map(AsRef::as_ref);
        found.ok_or_else(|| ModelError::NotFound {
            what: "profile",
            name: id.to_owned(),
            near: near_names(id, self.quality.profiles.keys()),
        })
    }

    /// The profile that is active.
    pub fn active_profile(&self) -> Option<&Profile> {
        let profile = self.quality.profiles.get(self.quality.active.as_ref()?);
        profile.map(AsRef::as_ref)
    }

    /// How many candidates the active profile has searches of one of its indexes look at.
    pub fn profile_ef(&self, index: &str) -> Option<usize> {
        let profile = self.active_profile()?;
        let bound = profile.indexes.iter().any(|name| name == index);
        let config = profile.hnsw_config.as_ref().filter(|_| bound)?;
        config.ef_search.map(|ef| ef as usize)
    }

    /// Trials of an index, newest first.
    pub fn trials_of<'a>(&'a self, index: &'a str) -> impl Iterator<Item = (Seq, &'a KeptTrial)> {
        let trials = self.quality.trials.iter().rev();
        trials
            .filter(move |(_, kept)| kept.trial.index == index)
            .map(|(seq, kept)| (*seq, kept.as_ref()))
    }

    /// The newest evaluation set of an index that no deletion has touched.
    pub fn valid_eval(&self, index: &str) -> Option<&EvalSet> {
        let of_index = self
            .quality
            .evals
            .values()
            .filter(|eval| eval.spec.index == index && eval.invalid_since.is_none());
        of_index
            .max_by_key(|eval| eval.created_at)
            .map(AsRef::as_ref)
    }

    /// Whether an evaluation set over a dataset still holds rows that were deleted for good.
    pub(super) fn evals_hold_erased_rows(&self, dataset: &str) -> bool {
        let mut evals = self.quality.evals.values();
        evals.any(|eval| eval.spec.source == dataset && eval.invalid_since.is_some())
    }

    pub(super) fn decide_quality(&self, command: &QualityCommand) -> Decision {
        match command {
            QualityCommand::RecordEval { eval, spec } => self.record_eval(eval, spec),
            QualityCommand::RetireEvals { dataset } => Ok(self.retire_evals(dataset)),
            QualityCommand::RecordTrial(trial) => {
                self.index(&trial.index)?;
                let trial = trial.clone();
                Ok(vec![TrialRecorded { trial }.into()])
            }
            QualityCommand::SetSlo { index, slo } => {
                self.index(index)?;
                if self.quality.slos.get(index) == slo.as_ref() {
                    return Ok(Vec::new());
                }
                let (index, slo) = (index.clone(), *slo);
                Ok(vec![IndexSloSet { index, slo }.into()])
            }
            QualityCommand::SaveProfile(profile) => self.save_profile(profile),
            QualityCommand::ActivateProfile { id } => {
                self.profile(id)?;
                if self.quality.active.as_ref() == Some(id) {
                    return Ok(Vec::new());
                }
                Ok(vec![
                    ProfileActivated {
                        profile: id.clone(),
                    }
                    .into(),
                ])
            }
        }
    }

    fn record_eval(&self, eval: &str, spec: &EvalSpec) -> Decision {
        check_name("eval", eval)?;
        let index = self.index(&spec.index)?;
        let other = |known: &EvalSet| known.spec.index != spec.index;
        if self.eval(eval).is_ok_and(other) {
            let (what, name) = ("eval", eval.to_owned());
            return Err(ModelError::Exists { what, name });
        }
        let mut generations = index.generations.iter();
        let known = generations.any(|built| built.generation == spec.generation);
        let deleted = self.dataset(&spec.source)?.last_tombstone_seq();
        if !known || deleted > spec.source_seq {
            // Rows may have been deleted while it was drawn: it is drawn again.
            return Err(ModelError::Stale {
                dataset: spec.source.clone(),
                read_seq: spec.source_seq,
                now_seq: deleted,
            });
        }
        let (eval, spec) = (eval.to_owned(), spec.clone());
        Ok(vec![EvalCreated { eval, spec }.into()])
    }

    fn retire_evals(&self, dataset: &str) -> Vec<CatalogEvent> {
        let evals = self.quality.evals.values();
        let touched =
            evals.filter(|eval| eval.spec.source == dataset && eval.invalid_since.is_some());
        let evals: Vec<String> = touched.map(|eval| eval.name.clone()).collect();
        if evals.is_empty() {
            return Vec::new();
        }
        vec![EvalsRetired { evals }.into()]
    }

    fn save_profile(&self, profile: &Profile) -> Decision {
        check_name("profile", &profile.id)?;
        for name in &profile.views {
            if !self.views.contains_key(name) {
                self.dataset(name)?;
            }
        }
        for name in &profile.indexes {
            let index = self.index(name)?;
            if index.spec.model != profile.model || index.spec.backend != profile.backend {
                return Err(ModelError::Impossible {
                    what: "profile",
                    reason: format!("index `{name}` is of another model or backend"),
                });
            }
        }
        if self.quality.profiles.get(&profile.id).map(AsRef::as_ref) == Some(profile) {
            return Ok(Vec::new());
        }
        let profile = profile.clone();
        Ok(vec![ProfileSaved { profile }.into()])
    }

    pub(super) fn eval_created(&mut self, at: Micros, seq: Seq, event: &EvalCreated) {
        let eval = EvalSet {
            name: event.eval.clone(),
            spec: event.spec.clone(),
            created_at: at,
            invalid_since: None,
        };
        let before = self
            .quality
            .evals
            .insert(event.eval.clone(), Arc::new(eval));
        if let Some(before) = before.filter(|before| before.spec.prefix != event.spec.prefix) {
            self.doom_folder(seq, &before.spec.bucket, &before.spec.prefix);
        }
    }

    pub(super) fn evals_retired(&mut self, seq: Seq, names: &[String]) {
        for name in names {
            if let Some(eval) = self.quality.evals.remove(name) {
                self.doom_folder(seq, &eval.spec.bucket, &eval.spec.prefix);
            }
        }
    }

    /// Sets that hold any of the deleted rows are of no use from here on.
    pub(super) fn invalidate_evals(&mut self, seq: Seq, event: &RowsTombstoned) {
        let touched: Vec<String> = self
            .quality
            .evals
            .values()
            .filter(|eval| {
                eval.invalid_since.is_none()
                    && eval.spec.source == event.dataset
                    && event
                        .rows
                        .iter()
                        .any(|key| eval.spec.rows.contains(row_mark(key)))
            })
            .map(|eval| eval.name.clone())
            .collect();
        for name in touched {
            if let Some(eval) = self.quality.evals.get_mut(&name) {
                Arc::make_mut(eval).invalid_since = Some(seq);
            }
        }
    }

    /// What belongs to an index goes with it; its trials stay, as they happened.
    pub(super) fn quality_of_dropped(&mut self, seq: Seq, index: &str) {
        let evals = self.quality.evals.values();
        let names: Vec<String> = evals
            .filter(|eval| eval.spec.index == index)
            .map(|eval| eval.name.clone())
            .collect();
        self.evals_retired(seq, &names);
        self.quality.slos.remove(index);
    }
}
