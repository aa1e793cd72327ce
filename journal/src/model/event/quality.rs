//! Events about how good indexes are: evaluation sets, trials, what must be reached, profiles.

use serde::{Deserialize, Serialize};

use crate::model::catalog::{EvalSpec, Profile, Slo, Trial};

/// Held-out queries and their true answers are drawn and lie in a bucket.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvalCreated {
    /// Its name; a set of the same name is replaced.
    pub eval: String,
    /// What it is.
    pub spec: EvalSpec,
}

/// Evaluation sets are no longer kept; their files are to be deleted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvalsRetired {
    /// Their names.
    pub evals: Vec<String>,
}

/// A configuration was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrialRecorded {
    /// What came out.
    pub trial: Trial,
}

/// What generations of an index must reach was set, or taken away.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IndexSloSet {
    /// The index.
    pub index: String,
    /// What they must reach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slo: Option<Slo>,
}

/// A profile is known, or changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProfileSaved {
    /// The profile.
    pub profile: Profile,
}

/// A profile is the active one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProfileActivated {
    /// Its id.
    pub profile: String,
}
