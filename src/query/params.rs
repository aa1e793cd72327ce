//! Bound parameters: JSON values as the engine's scalars, by their JSON type. The engine then coerces
//! them to what they are compared with, a string to a date for one. Those of tools have names and types of
//! their own. Called by `session`; a value never becomes a part of the statement's text.

use std::collections::HashMap;

use datafusion::{
    common::{ParamValues, ScalarValue, metadata::ScalarAndMetadata},
    logical_expr::LogicalPlan,
};
use serde_json::Value;

use super::QueryError;

/// The values for a statement's placeholders.
#[derive(Debug, Clone)]
pub enum Params {
    /// For `$1`, `$2`, …: JSON values.
    Numbered(Vec<Value>),
    /// For `$name`: typed values.
    Named(Vec<(String, ScalarValue)>),
}

impl From<Vec<Value>> for Params {
    fn from(values: Vec<Value>) -> Self {
        Self::Numbered(values)
    }
}

/// Puts the parameters into a plan.
///
/// # Errors
/// [`QueryError::BadParameter`] when there are more or fewer than the statement names, a name is
/// none of them, or a numbered value is a list or an object.
pub(super) fn bind(plan: LogicalPlan, params: &Params) -> Result<LogicalPlan, QueryError> {
    match params {
        Params::Numbered(values) => bind_numbered(plan, values),
        Params::Named(values) => bind_named(plan, values),
    }
}

fn bind_named(
    plan: LogicalPlan,
    params: &[(String, ScalarValue)],
) -> Result<LogicalPlan, QueryError> {
    let wanted = plan
        .get_parameter_names()
        .map_err(|error| QueryError::from_engine(&error, &[]))?;
    let missing = wanted.iter().find(|name| {
        let bare = name.trim_start_matches('$');
        params.iter().all(|(given, _)| given != bare)
    });
    if let Some(name) = missing {
        return Err(QueryError::BadParameter(format!(
            "the statement names `{name}`, which is none of its parameters"
        )));
    }
    if wanted.is_empty() {
        return Ok(plan);
    }
    let values: HashMap<String, ScalarAndMetadata> = params
        .iter()
        .map(|(name, value)| (name.clone(), ScalarAndMetadata::from(value.clone())))
        .collect();
    plan.with_param_values(ParamValues::Map(values))
        .map_err(|error| QueryError::from_engine(&error, &[]))
}

fn bind_numbered(plan: LogicalPlan, params: &[Value]) -> Result<LogicalPlan, QueryError> {
    let named = plan
        .get_parameter_names()
        .map_err(|error| QueryError::from_engine(&error, &[]))?;
    let mut highest = 0;
    for name in &named {
        let number = name.strip_prefix('$').and_then(|n| n.parse::<usize>().ok());
        match number {
            Some(number) if number > 0 => highest = highest.max(number),
            _ => {
                return Err(QueryError::BadParameter(format!(
                    "`{name}`: placeholders are `$1`, `$2`, … or `?`"
                )));
            }
        }
    }
    if highest != params.len() {
        return Err(QueryError::BadParameter(format!(
            "the statement has {highest} parameters, {} were given",
            params.len()
        )));
    }
    if params.is_empty() {
        return Ok(plan);
    }
    let values = params
        .iter()
        .enumerate()
        .map(|(index, value)| scalar(index + 1, value))
        .collect::<Result<Vec<_>, _>>()?;
    plan.with_param_values(values)
        .map_err(|error| QueryError::from_engine(&error, &[]))
}

fn scalar(number: usize, value: &Value) -> Result<ScalarValue, QueryError> {
    match value {
        Value::Null => Ok(ScalarValue::Null),
        Value::Bool(value) => Ok(ScalarValue::Boolean(Some(*value))),
        Value::String(text) => Ok(ScalarValue::Utf8(Some(text.clone()))),
        Value::Number(value) => Ok(if let Some(value) = value.as_i64() {
            ScalarValue::Int64(Some(value))
        } else if let Some(value) = value.as_u64() {
            ScalarValue::UInt64(Some(value))
        } else {
            ScalarValue::Float64(value.as_f64())
        }),
        Value::Array(_) | Value::Object(_) => Err(QueryError::BadParameter(format!(
            "parameter {number}: only numbers, strings, booleans and null can be bound"
        ))),
    }
}
