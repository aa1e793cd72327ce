//! How the texts of a dataset become vectors: which model makes them, how long texts are cut, when
//! it happens, and what a run of it did. Pure data; `decide` and `apply` of the catalog use it.

use serde::{Deserialize, Serialize};

use super::{IndexSpec, TextSpec};
use crate::{
    model::ModelError,
    record::{Micros, Seq},
};

/// A model: vectors may be compared only when these are equal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ModelIdentity {
    /// Where it runs: `in-process`, `local`, `ollama`, `openai`.
    pub provider: String,
    /// Its name there.
    pub model: String,
    /// The name with the version of weights and tokeniser, as far as they are known.
    pub version: String,
    /// Numbers in a vector.
    pub dimensions: u32,
}

/// How a long text is cut into parts that are embedded one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChunkSpec {
    /// Most tokens of a part.
    pub tokens: u32,
    /// Tokens that a part has in common with the one before it, at most.
    #[serde(default)]
    pub overlap: u32,
}

impl ChunkSpec {
    /// Fewest tokens of a part: less says nothing.
    pub const TOKENS_MIN: u32 = 8;
    /// Most tokens of a part.
    pub const TOKENS_MAX: u32 = 32_768;

    /// Refuses what cannot be carried out.
    ///
    /// # Errors
    /// [`ModelError::Impossible`] with the reason.
    pub fn validate(self) -> Result<(), ModelError> {
        let refuse = |reason: String| {
            Err(ModelError::Impossible {
                what: "chunk",
                reason,
            })
        };
        if !(Self::TOKENS_MIN..=Self::TOKENS_MAX).contains(&self.tokens) {
            let (min, max) = (Self::TOKENS_MIN, Self::TOKENS_MAX);
            return refuse(format!("`tokens` must be {min} to {max}"));
        }
        if self.overlap > self.tokens / 2 {
            return refuse("`overlap` may be half of `tokens` at most".to_owned());
        }
        Ok(())
    }
}

/// How the vectors of a generation are made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VectorSpec {
    /// With which model.
    pub model: ModelIdentity,
    /// Of which text.
    pub text: TextSpec,
    /// How long texts are cut; whole without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunk: Option<ChunkSpec>,
}

impl IndexSpec {
    /// How the vectors of its next generation are made, as far as the specification says.
    pub fn made(&self) -> VectorSpec {
        VectorSpec {
            model: ModelIdentity {
                provider: self.provider.clone(),
                model: self.model.clone(),
                version: self.model.clone(),
                dimensions: self.dimensions,
            },
            text: self.text.clone(),
            chunk: self.chunk,
        }
    }

    /// The same with vectors that are made in this way.
    #[must_use]
    pub fn remade(&self, made: &VectorSpec) -> Self {
        let mut spec = self.clone();
        spec.take(made);
        spec
    }

    /// Becomes what a generation that answers from here on was made as.
    pub(super) fn take(&mut self, made: &VectorSpec) {
        self.provider.clone_from(&made.model.provider);
        self.model.clone_from(&made.model.model);
        self.dimensions = made.model.dimensions;
        self.text.clone_from(&made.text);
        self.chunk = made.chunk;
    }
}

/// When embeddings are brought up to date.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "PolicyForm", into = "PolicyForm")]
pub enum RefreshPolicy {
    /// When somebody asks.
    Manual,
    /// After each commit.
    OnAppend,
    /// By a schedule.
    Scheduled(RefreshSchedule),
}

/// Times by a cron line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RefreshSchedule {
    /// Second minute hour day month weekday.
    #[serde(rename = "scheduled")]
    pub cron: String,
    /// IANA name of the zone that it is read in; UTC without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
}

/// A policy as it is written: a word, or an object.
#[derive(Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum PolicyForm {
    Word(PolicyWord),
    Schedule(RefreshSchedule),
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum PolicyWord {
    Manual,
    OnAppend,
}

impl From<PolicyForm> for RefreshPolicy {
    fn from(form: PolicyForm) -> Self {
        match form {
            PolicyForm::Word(PolicyWord::Manual) => Self::Manual,
            PolicyForm::Word(PolicyWord::OnAppend) => Self::OnAppend,
            PolicyForm::Schedule(schedule) => Self::Scheduled(schedule),
        }
    }
}

impl From<RefreshPolicy> for PolicyForm {
    fn from(policy: RefreshPolicy) -> Self {
        match policy {
            RefreshPolicy::Manual => Self::Word(PolicyWord::Manual),
            RefreshPolicy::OnAppend => Self::Word(PolicyWord::OnAppend),
            RefreshPolicy::Scheduled(schedule) => Self::Schedule(schedule),
        }
    }
}

/// Why embeddings are refreshed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefreshCause {
    /// Somebody asked.
    Call,
    /// Rows were committed, and the policy says so.
    OnAppend,
    /// A schedule came due.
    Schedule,
    /// Somebody asked for texts that were refused to be tried again.
    Retry,
}

/// A refresh that was asked for and has not ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DueRefresh {
    /// Its run.
    pub run: String,
    /// Why.
    pub cause: RefreshCause,
    /// Position of the request.
    pub seq: Seq,
    /// When it was asked for.
    pub at: Micros,
}

/// What a refresh did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefreshCounts {
    /// Visible rows of the dataset; the other counts are added up over its indexes.
    pub rows: u64,
    /// Rows that were embedded: new ones, and those whose text changed.
    pub embedded: u64,
    /// Rows that were left as they are.
    pub unchanged: u64,
    /// Rows whose embedding was taken out.
    pub removed: u64,
    /// Rows that have no vector, because the provider refuses their text.
    pub refused: u64,
    /// Texts that were sent to providers.
    pub texts_sent: u64,
    /// Calls of providers.
    pub provider_calls: u64,
    /// Tokens that providers counted, where they say so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// The models, as `provider/version`.
    #[serde(default)]
    pub models: Vec<String>,
}

/// How the last refresh of a dataset ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndedRefresh {
    /// Its run.
    pub run: String,
    /// Why it ran.
    pub cause: RefreshCause,
    /// When it ended.
    pub at: Micros,
    /// How long it took.
    pub elapsed_ms: u64,
    /// Why it failed, as a code and a text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<(String, String)>,
}
