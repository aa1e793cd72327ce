//! The parameters of a tool: JSON values as values of their declared types, and as a schema that tells an agent
//! what to give. Pure.

use datafusion::{arrow::datatypes::DataType, common::ScalarValue};
use lakehouse_journal::model::access::{ParamType, ToolParam, ToolSpec};
use serde_json::{Map, Value, json};

use crate::{
    query::{Params, QueryError},
    rest::{problem::Problem, times},
};

/// Every parameter has to stand in the statement.
///
/// # Errors
/// 400 that names the one that does not.
pub(super) fn check(spec: &ToolSpec) -> Result<(), Problem> {
    let unused = spec
        .params
        .iter()
        .find(|param| !stands_in(&spec.sql, &param.name));
    match unused {
        Some(param) => Err(bad(format!(
            "`${}` does not stand in the statement",
            param.name
        ))),
        None => Ok(()),
    }
}

/// Whether `$name` stands there as a whole word.
fn stands_in(sql: &str, name: &str) -> bool {
    sql.split('$').skip(1).any(|rest| {
        let follows = rest.strip_prefix(name);
        follows
            .is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_'))
    })
}

/// NULL for every parameter: what a statement is planned with when it is written down.
pub(super) fn nothing(spec: &ToolSpec) -> Result<Params, Problem> {
    let values = spec
        .params
        .iter()
        .map(|param| Ok((param.name.clone(), null(param)?)));
    Ok(Params::Named(values.collect::<Result<_, Problem>>()?))
}

/// The values of a call.
///
/// # Errors
/// 400 for one that is missing, unknown or of another type.
pub(super) fn bound(spec: &ToolSpec, given: &Map<String, Value>) -> Result<Params, Problem> {
    let known = |name: &String| spec.params.iter().any(|param| param.name == *name);
    if let Some(name) = given.keys().find(|name| !known(name)) {
        return Err(bad(format!("the tool has no parameter `{name}`")));
    }
    let mut values = Vec::with_capacity(spec.params.len());
    for param in &spec.params {
        let value = match given.get(&param.name) {
            None | Some(Value::Null) if param.required => {
                return Err(bad(format!("parameter `{}` is needed", param.name)));
            }
            None | Some(Value::Null) => null(param)?,
            Some(value) => typed(param, value)?,
        };
        values.push((param.name.clone(), value));
    }
    Ok(Params::Named(values))
}

fn null(param: &ToolParam) -> Result<ScalarValue, Problem> {
    ScalarValue::try_from(&data_type(param.kind)).map_err(|error| Problem::internal(&error))
}

fn data_type(kind: ParamType) -> DataType {
    use datafusion::arrow::datatypes::TimeUnit;
    match kind {
        ParamType::String => DataType::Utf8,
        ParamType::Integer => DataType::Int64,
        ParamType::Number => DataType::Float64,
        ParamType::Boolean => DataType::Boolean,
        ParamType::Date => DataType::Date32,
        ParamType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
    }
}

fn typed(param: &ToolParam, value: &Value) -> Result<ScalarValue, Problem> {
    let typed = match (param.kind, value) {
        (ParamType::String, Value::String(text)) => Some(ScalarValue::Utf8(Some(text.clone()))),
        (ParamType::Integer, Value::Number(number)) => number
            .as_i64()
            .map(|number| ScalarValue::Int64(Some(number))),
        (ParamType::Number, Value::Number(number)) => number
            .as_f64()
            .map(|number| ScalarValue::Float64(Some(number))),
        (ParamType::Boolean, Value::Bool(value)) => Some(ScalarValue::Boolean(Some(*value))),
        (ParamType::Date, Value::String(text)) => {
            day(text).map(|day| ScalarValue::Date32(Some(day)))
        }
        (ParamType::Timestamp, Value::String(text)) => times::parse(text)
            .ok()
            .map(|time| ScalarValue::TimestampMicrosecond(Some(time), Some("UTC".into()))),
        _ => None,
    };
    typed.ok_or_else(|| {
        bad(format!(
            "parameter `{}` takes a value of type {}",
            param.name,
            param.kind.as_str()
        ))
    })
}

/// Days since 1970.
fn day(text: &str) -> Option<i32> {
    let day = chrono::NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
    let since = day.signed_duration_since(chrono::NaiveDate::default());
    i32::try_from(since.num_days()).ok()
}

fn bad(text: String) -> Problem {
    QueryError::BadParameter(text).into()
}

/// What a call takes, as JSON Schema.
pub fn schema(spec: &ToolSpec) -> Map<String, Value> {
    let mut properties = Map::new();
    for param in &spec.params {
        let mut property = match param.kind {
            ParamType::Date => json!({ "type": "string", "format": "date" }),
            ParamType::Timestamp => json!({ "type": "string", "format": "date-time" }),
            other => json!({ "type": other.as_str() }),
        };
        if !param.description.is_empty() {
            property["description"] = json!(param.description);
        }
        properties.insert(param.name.clone(), property);
    }
    let required = spec.params.iter().filter(|param| param.required);
    let required: Vec<&String> = required.map(|param| &param.name).collect();
    let schema = json!({
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    });
    schema.as_object().cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn param(kind: ParamType, required: bool) -> ToolParam {
        ToolParam {
            name: "x".to_owned(),
            kind,
            required,
            description: String::new(),
        }
    }

    fn spec(sql: &str, kind: ParamType, required: bool) -> ToolSpec {
        ToolSpec {
            name: "t".to_owned(),
            description: String::new(),
            bind: "v".to_owned(),
            sql: sql.to_owned(),
            params: vec![param(kind, required)],
            permission: lakehouse_journal::model::access::ToolPermission::Read,
        }
    }

    fn with(kind: ParamType, required: bool, given: &Value) -> Result<Params, Problem> {
        let given = given.as_object().cloned().unwrap_or_default();
        bound(&spec("SELECT $x", kind, required), &given)
    }

    #[test]
    fn a_value_has_the_declared_type_or_is_refused() {
        let good = [
            (
                ParamType::String,
                json!("'; DROP TABLE x"),
                ScalarValue::from("'; DROP TABLE x"),
            ),
            (ParamType::Integer, json!(-3), ScalarValue::from(-3_i64)),
            (ParamType::Number, json!(3), ScalarValue::from(3.0)),
            (ParamType::Boolean, json!(true), ScalarValue::from(true)),
            (
                ParamType::Date,
                json!("1970-01-03"),
                ScalarValue::Date32(Some(2)),
            ),
        ];
        for (kind, value, expected) in good {
            let Ok(Params::Named(values)) = with(kind, true, &json!({ "x": value })) else {
                panic!("{kind:?} takes {value}");
            };
            assert_eq!(values, [("x".to_owned(), expected)]);
        }
        let bad = [
            (ParamType::String, json!(1)),
            (ParamType::Integer, json!("1")),
            (ParamType::Integer, json!(1.5)),
            (ParamType::Integer, json!(u64::MAX)),
            (ParamType::Boolean, json!("true")),
            (ParamType::Date, json!("1970-13-01")),
            (ParamType::Timestamp, json!("yesterday")),
            (ParamType::String, json!(["a"])),
        ];
        for (kind, value) in bad {
            assert!(
                with(kind, true, &json!({ "x": value })).is_err(),
                "{kind:?} {value}"
            );
        }
    }

    #[test]
    fn what_is_required_has_to_be_there_and_nothing_unknown_may_be() {
        assert!(with(ParamType::String, true, &json!({})).is_err());
        assert!(with(ParamType::String, true, &json!({ "x": null })).is_err());
        assert!(with(ParamType::String, false, &json!({})).is_ok());
        assert!(with(ParamType::String, false, &json!({ "y": "a" })).is_err());
    }

    #[test]
    fn a_parameter_that_the_statement_does_not_have_is_refused() {
        for (sql, fine) in [
            ("SELECT $x", true),
            ("SELECT $x+1", true),
            ("SELECT $xy", false),
            ("SELECT x", false),
        ] {
            assert_eq!(
                check(&spec(sql, ParamType::String, true)).is_ok(),
                fine,
                "{sql}"
            );
        }
    }
}
