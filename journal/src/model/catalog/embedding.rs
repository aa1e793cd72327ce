//! When the embeddings of a dataset are brought up to date, why, and what a run of it did. Pure data;
//! `decide` and `apply` of the catalog use it.

use serde::{Deserialize, Serialize};

use super::{Chunker, Cutting};
use crate::{
    model::event::is_zero,
    record::{Micros, Seq},
};

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
    /// Rows that have no vector: no known word in their text, or refused.
    pub skipped: u64,
    /// Those of them whose text a provider refuses; they stand in the list of failures.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub refused: u64,
    /// Texts that were sent to a provider.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub texts_sent: u64,
    /// Calls of providers, repeated ones too.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub provider_calls: u64,
    /// Tokens, where a provider counts them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// The models, as `provider/version`.
    #[serde(default)]
    pub models: Vec<String>,
}

/// Who makes vectors: those of two models are never compared.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ModelIdentity {
    /// Where the model runs.
    pub provider: String,
    /// Its name there.
    pub model: String,
    /// The name with the version of weights and tokeniser, as far as it can be told.
    pub version: String,
    /// Components of a vector.
    pub dimensions: u32,
}

/// The model that an index is to be made anew with, or the same one on texts that are cut otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtherModel {
    /// Where the model runs.
    pub provider: String,
    /// Its name there.
    pub model: String,
    /// Components of a vector.
    pub dimensions: u32,
    /// How texts are cut for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunk: Option<Chunker>,
}

/// Who made the vectors of a generation, and what that took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Making {
    /// Who.
    pub model: ModelIdentity,
    /// What the texts were cut with, where they were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cutting: Option<Cutting>,
    /// Rows whose text was refused.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub refused: u64,
    /// Rows that have no vector yet, as nobody made one: the generation had to come without them, since
    /// the one before held deleted rows. It is behind as long as there are any.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left_out: u64,
    /// Texts that were sent to a provider.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub texts_sent: u64,
    /// Calls of it, repeated ones too.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub provider_calls: u64,
    /// Tokens, where it counts them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
}

/// The kind of a build's failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Obstacle {
    /// The stable word of the error.
    pub code: String,
    /// Whether another try may succeed, with nothing changed here.
    pub passes: bool,
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
