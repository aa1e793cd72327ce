//! What happens to tools. Part of the closed set of events; `access` applies them.

use serde::{Deserialize, Serialize};

use crate::model::access::ToolSpec;

/// A tool was written down, or a new version of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolRegistered {
    /// What it is.
    pub tool: ToolSpec,
    /// How often it was written down, from 1 on.
    pub version: u64,
}

/// A tool was taken away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolRemoved {
    /// Its name.
    pub tool: String,
}
