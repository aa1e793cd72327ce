//! Why a command is refused. One closed set of kinds for every ring; the edge maps a kind to a
//! status and `code` to a stable word.

/// The kinds of failure there are, in every ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request itself is malformed.
    Invalid,
    /// There is no such thing, or the caller may not know of it.
    NotFound,
    /// It contradicts what is already there.
    Conflict,
    /// The caller may not.
    Denied,
    /// Understood, but impossible.
    Unprocessable,
    /// Larger than the limit.
    TooLarge,
    /// A queue or a limit is full; try again.
    Overloaded,
    /// Something outside does not answer; try again.
    Unavailable,
    /// It took longer than allowed.
    Timeout,
    /// Stored bytes are not what was written.
    Corrupt,
    /// A defect of ours.
    Internal,
}

/// Why an owner refuses a command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// No such thing.
    #[error("no {what} `{name}`{}", near_text(.near))]
    NotFound {
        /// What kind of thing.
        what: &'static str,
        /// The name asked for.
        name: String,
        /// Names like it that do exist.
        near: Vec<String>,
    },
    /// A thing of that name is there already.
    #[error("{what} `{name}` already exists")]
    Exists {
        /// What kind of thing.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// A name that cannot be used.
    #[error("{what} name `{name}` is not allowed: {reason}")]
    BadName {
        /// What kind of thing.
        what: &'static str,
        /// The name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The columns are not those of the dataset.
    #[error("the schema does not match dataset `{dataset}`: {difference}")]
    SchemaMismatch {
        /// The dataset.
        dataset: String,
        /// Column by column what differs.
        difference: String,
    },
    /// What the command was prepared against has changed; prepare it again.
    #[error("dataset `{dataset}` changed meanwhile (read at {read_seq}, now {now_seq})")]
    Stale {
        /// The dataset.
        dataset: String,
        /// Position that the command was prepared at.
        read_seq: Seq,
        /// Position of the dataset's last change of files.
        now_seq: Seq,
    },
    /// Newer rows of a source were read from a place that is not the last one any more.
    #[error("dataset `{dataset}` has rows of a later read by `{column}`; read again from there")]
    WatermarkMoved {
        /// The dataset.
        dataset: String,
        /// The column that is followed.
        column: String,
    },
    /// Others stand on it.
    #[error("{what} `{name}` is used by {}", .by.join(", "))]
    InUse {
        /// What kind of thing.
        what: &'static str,
        /// Its name.
        name: String,
        /// Who uses it.
        by: Vec<String>,
    },
    /// A generation that does not reach what its index must.
    #[error("generation {generation} of index `{index}` may not answer: {reason}")]
    FloorMissed {
        /// The index.
        index: String,
        /// The generation.
        generation: u64,
        /// What it misses.
        reason: String,
    },
    /// A setting that cannot be carried out.
    #[error("{what}: {reason}")]
    Impossible {
        /// Which setting.
        what: &'static str,
        /// Why not.
        reason: String,
    },
}

use crate::record::Seq;

impl ModelError {
    /// The kind, for status codes and retries.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Exists { .. }
            | Self::SchemaMismatch { .. }
            | Self::Stale { .. }
            | Self::WatermarkMoved { .. }
            | Self::InUse { .. }
            | Self::FloorMissed { .. } => ErrorKind::Conflict,
            Self::BadName { .. } => ErrorKind::Invalid,
            Self::Impossible { .. } => ErrorKind::Unprocessable,
        }
    }

    /// The stable word for programs.
    pub fn code(&self) -> String {
        match self {
            Self::NotFound { what, .. } => format!("{what}_not_found"),
            Self::Exists { what, .. } => format!("{what}_exists"),
            Self::BadName { .. } => "bad_name".to_owned(),
            Self::SchemaMismatch { .. } => "schema_mismatch".to_owned(),
            Self::Stale { .. } => "stale".to_owned(),
            Self::WatermarkMoved { .. } => "watermark_moved".to_owned(),
            Self::InUse { what, .. } => format!("{what}_in_use"),
            Self::FloorMissed { .. } => "floor_missed".to_owned(),
            Self::Impossible { .. } => "impossible".to_owned(),
        }
    }
}

fn near_text(near: &[String]) -> String {
    if near.is_empty() {
        String::new()
    } else {
        format!("; near: {}", near.join(", "))
    }
}

/// Up to three of `names` that look like `name`, best first.
pub fn near_names<'a>(name: &str, names: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut scored: Vec<(f64, &String)> = names
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .filter(|(score, _)| *score > 0.7)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(b.1)));
    scored
        .into_iter()
        .take(3)
        .map(|(_, name)| name.clone())
        .collect()
}

/// Checks a name of a dataset, index, bucket or token: it appears in paths, SQL and logs.
///
/// # Errors
/// [`ModelError::BadName`] unless it is 1 to 128 of `a-z A-Z 0-9 _ -`, beginning with a letter.
pub fn check_name(what: &'static str, name: &str) -> Result<(), ModelError> {
    let bad = |reason| {
        Err(ModelError::BadName {
            what,
            name: name.chars().take(128).collect(),
            reason,
        })
    };
    if name.is_empty() {
        return bad("it is empty");
    }
    if name.len() > 128 {
        return bad("it is longer than 128 characters");
    }
    if !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return bad("it must begin with a letter");
    }
    if !name
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
    {
        return bad("only letters, digits, `_` and `-` are allowed");
    }
    Ok(())
}
