//! Bound parameters: JSON values as the engine's scalars, by their JSON type. The engine then coerces
//! them to what they are compared with, a string to a date for one. Called by `session`.

use datafusion::{common::ScalarValue, logical_expr::LogicalPlan};
use serde_json::Value;

use super::QueryError;

/// Puts the parameters into a plan: `$1` is the first. Those up to `elsewhere` may have gone into
/// arguments of a table function already.
///
/// # Errors
/// [`QueryError::BadParameter`] when there are more or fewer than the statement names, a name is not
/// a number, or a value is a list or an object.
pub(super) fn bind(
    plan: LogicalPlan,
    params: &[Value],
    elsewhere: usize,
) -> Result<LogicalPlan, QueryError> {
    let named = plan
        .get_parameter_names()
        .map_err(|error| QueryError::from_engine(&error, &[]))?;
    let mut highest = elsewhere;
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
