//! Tools: questions in SQL that were written down under a name, with typed parameters, over one view or dataset.
//! Pure. `access` decides and applies with this; the edge runs a tool as its caller.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::AccessState;
use crate::{
    model::{
        Meta, ModelError,
        error::{check_name, near_names},
        event::{AccessEvent, ToolRegistered},
    },
    record::{Micros, Seq},
};

/// Longest statement of a tool, in bytes.
const SQL_BYTES_MAX: usize = 16 << 10;
/// Longest description, in bytes.
const TEXT_BYTES_MAX: usize = 4 << 10;
/// Most parameters of a tool.
const PARAMS_MAX: usize = 64;
/// Names that agents know already: what the protocol offers beside tools.
const TAKEN: [&str; 2] = ["query", "search"];

/// What a parameter takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ParamType {
    /// Text.
    String,
    /// A whole number of 64 bits.
    Integer,
    /// A number.
    Number,
    /// True or false.
    Boolean,
    /// A day, as `2026-11-22`.
    Date,
    /// A time, as RFC 3339 has it.
    Timestamp,
}

impl ParamType {
    /// The word of the contract.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
            Self::Date => "date",
            Self::Timestamp => "timestamp",
        }
    }
}

/// A parameter: `$name` in the statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolParam {
    /// Its name.
    pub name: String,
    /// What it takes.
    #[serde(rename = "type")]
    pub kind: ParamType,
    /// Whether a call without it is refused; otherwise it is NULL then.
    #[serde(default)]
    pub required: bool,
    /// What it means.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
}

/// Who may call a tool. An agent also needs it named in its token.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolPermission {
    /// Whoever may read rows.
    #[default]
    Read,
    /// Operators and administrators.
    Write,
    /// Administrators.
    Administer,
}

/// What a tool is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolSpec {
    /// Its name.
    pub name: String,
    /// What it is for: this is what an agent chooses by.
    #[serde(default)]
    pub description: String,
    /// The view or dataset that it reads, and the only one.
    pub bind: String,
    /// One query with `$name` for each parameter.
    pub sql: String,
    /// Its parameters.
    #[serde(default)]
    pub params: Vec<ToolParam>,
    /// Who may call it.
    #[serde(default)]
    pub permission: ToolPermission,
}

/// A tool that can be called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tool {
    /// What it is.
    pub spec: ToolSpec,
    /// How often it was written down.
    pub version: u64,
    /// Position of its last version in the journal.
    pub seq: Seq,
    /// When that was.
    pub at: Micros,
    /// Who did it.
    pub by: String,
}

impl AccessState {
    /// The tool of this name.
    ///
    /// # Errors
    /// [`ModelError::NotFound`].
    pub fn tool(&self, name: &str) -> Result<&Arc<Tool>, ModelError> {
        self.tools.get(name).ok_or_else(|| ModelError::NotFound {
            what: "tool",
            name: name.to_owned(),
            near: near_names(name, self.tools.keys()),
        })
    }

    /// A tool that is written down as it was before changes nothing.
    pub(super) fn register_tool(&self, spec: &ToolSpec) -> Result<Vec<AccessEvent>, ModelError> {
        check(spec)?;
        let known = self.tools.get(&spec.name);
        if known.is_some_and(|tool| tool.spec == *spec) {
            return Ok(Vec::new());
        }
        let registered = ToolRegistered {
            tool: spec.clone(),
            version: known.map_or(1, |tool| tool.version + 1),
        };
        Ok(vec![registered.into()])
    }

    pub(super) fn put_tool(&mut self, meta: Meta<'_>, event: &ToolRegistered) {
        let tool = Tool {
            spec: event.tool.clone(),
            version: event.version,
            seq: meta.seq,
            at: meta.at,
            by: meta.actor.name.clone(),
        };
        self.tools.insert(event.tool.name.clone(), Arc::new(tool));
    }
}

fn check(spec: &ToolSpec) -> Result<(), ModelError> {
    check_name("tool", &spec.name)?;
    check_name("view", &spec.bind)?;
    let refused = |what, reason: String| Err(ModelError::Impossible { what, reason });
    if TAKEN.contains(&spec.name.as_str()) {
        return Err(ModelError::BadName {
            what: "tool",
            name: spec.name.clone(),
            reason: "agents have something else by this name",
        });
    }
    if spec.sql.trim().is_empty() || spec.sql.len() > SQL_BYTES_MAX {
        return refused(
            "sql",
            format!("a statement of 1 to {SQL_BYTES_MAX} bytes is needed"),
        );
    }
    if spec.description.len() > TEXT_BYTES_MAX {
        return refused("description", format!("it may have {TEXT_BYTES_MAX} bytes"));
    }
    if spec.params.len() > PARAMS_MAX {
        return refused("params", format!("a tool may have {PARAMS_MAX} of them"));
    }
    for (at, param) in spec.params.iter().enumerate() {
        check_name("parameter", &param.name)?;
        if param.name.contains('-') {
            return Err(ModelError::BadName {
                what: "parameter",
                name: param.name.clone(),
                reason: "only letters, digits and `_` are allowed",
            });
        }
        if spec.params[..at]
            .iter()
            .any(|other| other.name == param.name)
        {
            return refused("params", format!("`{}` stands there twice", param.name));
        }
        if param.description.len() > TEXT_BYTES_MAX {
            return refused(
                "params",
                format!("a description may have {TEXT_BYTES_MAX} bytes"),
            );
        }
    }
    Ok(())
}
