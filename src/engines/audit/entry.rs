//! What a line of the audit says, and which lines somebody asks for.

use lakehouse_journal::record::{Micros, Seq};
use serde::{Deserialize, Serialize};

/// What a caller asked for and what came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// Name of the token.
    pub principal: String,
    /// Its role.
    pub role: String,
    /// For whom it says that it acts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_behalf_of: Option<String>,
    /// What was done, such as `query` or `search`; the method and route where nothing says more.
    pub action: String,
    /// The views, datasets or indexes that were read, as the caller named them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub objects: Vec<String>,
    /// The tool that was called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// Keyed hash of the statement (hex): the same statement has the same one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statement: Option<String>,
    /// Rows in the answer; nothing when they are streamed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// Rows in the answer that are known by name: dataset, and keyed hashes of the keys (hex).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub row_keys: Vec<SeenRows>,
    /// Ids of datasets that were read without their rows being known by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unnamed: Vec<String>,
    /// Whether it was answered.
    pub allowed: bool,
    /// The word for why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The request.
    pub request_id: String,
    /// Position of the journal that was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub journal_seq: Option<Seq>,
    /// Generation of the index that was searched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// Position of the newest event that says what the caller may see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_seq: Option<Seq>,
    /// The answer's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<String>,
    /// What was asked, sealed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<String>,
    /// Keyed hash of the rows of the answer (hex), whatever their order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// Further rows of an answer that has begun before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub goes_on: bool,
}

/// Rows of a dataset that an answer showed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenRows {
    /// The dataset's id.
    pub dataset: String,
    /// Keyed hashes of the row keys (hex).
    pub keys: Vec<String>,
}

/// A line of the audit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditLine {
    /// Its number, from 1 on.
    pub seq: u64,
    /// When.
    pub at: Micros,
    /// Hash (hex) of the line before; empty for the first.
    pub previous: String,
    /// What it says.
    #[serde(flatten)]
    pub entry: AuditEntry,
}

/// Which lines are asked for; all that is set has to hold.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    /// Of this token.
    pub principal: Option<String>,
    /// Of this view, dataset or index.
    pub object: Option<String>,
    /// Not before this time.
    pub since: Option<Micros>,
    /// Not after this time.
    pub until: Option<Micros>,
    /// Answered, or refused.
    pub allowed: Option<bool>,
    /// That showed this row, or may have: the dataset's id, and the keyed hash of the key.
    pub row: Option<(String, String)>,
    /// With smaller numbers than this: the next page.
    pub before: Option<u64>,
    /// At most so many.
    pub limit: usize,
}

impl AuditFilter {
    /// Whether a line is one of them.
    pub(super) fn takes(&self, line: &AuditLine) -> bool {
        let entry = &line.entry;
        self.before.is_none_or(|before| line.seq < before)
            && self.since.is_none_or(|since| line.at >= since)
            && self.until.is_none_or(|until| line.at <= until)
            && self.allowed.is_none_or(|allowed| entry.allowed == allowed)
            && self
                .principal
                .as_ref()
                .is_none_or(|name| entry.principal == *name)
            && self
                .object
                .as_ref()
                .is_none_or(|name| entry.objects.contains(name))
            && self.row.as_ref().is_none_or(|(dataset, key)| {
                entry.names(dataset, key) || (entry.allowed && entry.unnamed.contains(dataset))
            })
    }
}

impl AuditEntry {
    /// Whether the answer named this row of a dataset.
    pub fn names(&self, dataset: &str, key: &str) -> bool {
        let mut seen = self.row_keys.iter();
        seen.any(|rows| rows.dataset == dataset && rows.keys.iter().any(|known| known == key))
    }
}
