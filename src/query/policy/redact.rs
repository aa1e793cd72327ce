//! Redactions as expressions of the engine. None of them can fail on a value: what a rule cannot take
//! becomes null, so that neither an error nor a plain value ever comes out of one.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::{
    common::{Result, ScalarValue, exec_err},
    logical_expr::{
        ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
        lit,
    },
};
use lakehouse_journal::model::catalog::{DateUnit, Redaction};
use rand::{TryRngCore, rngs::OsRng};
use serde_json::Value;

use super::values;
use crate::query::QueryError;

/// The secret behind hashes and tokens.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RedactionKey([u8; 32]);

impl std::fmt::Debug for RedactionKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RedactionKey")
    }
}

impl RedactionKey {
    /// The key of these bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// A key that nobody else has.
    ///
    /// # Errors
    /// [`QueryError::Internal`] when the system gives no random bytes.
    pub fn random() -> std::result::Result<Self, QueryError> {
        let mut bytes = [0; 32];
        OsRng
            .try_fill_bytes(&mut bytes)
            .map_err(|error| QueryError::Internal(error.to_string()))?;
        Ok(Self(bytes))
    }

    /// A key of its own for one use: `parts` say which.
    fn derived(&self, parts: &[&str]) -> Self {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        Self(*hasher.finalize().as_bytes())
    }

    /// The keyed hash (hex) of a text, `digits` long.
    pub(super) fn hash(&self, text: &[u8], digits: usize) -> String {
        let mut hex = blake3::keyed_hash(&self.0, text).to_hex().to_string();
        hex.truncate(digits);
        hex
    }
}

/// A rule with all that it needs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Rule {
    Mask { prefix: usize, suffix: usize },
    Hash(RedactionKey),
    Token(RedactionKey),
    TruncateDate(Unit),
    TruncateNumber(u32),
    Bucket(u64),
}

/// [`DateUnit`] that can be hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Unit {
    Year,
    Quarter,
    Month,
    Day,
    Hour,
}

impl From<DateUnit> for Unit {
    fn from(unit: DateUnit) -> Self {
        match unit {
            DateUnit::Year => Self::Year,
            DateUnit::Quarter => Self::Quarter,
            DateUnit::Month => Self::Month,
            DateUnit::Day => Self::Day,
            DateUnit::Hour => Self::Hour,
        }
    }
}

/// A column of a dataset, as far as its redaction depends on it.
pub struct Subject<'a> {
    /// Lasting id of the dataset.
    pub dataset: &'a str,
    /// The column in the dataset.
    pub column: &'a str,
    /// Its type.
    pub data_type: &'a DataType,
}

/// What the rule makes of a column's type, or why it cannot take the column.
///
/// # Errors
/// In words, for whoever defines the view.
pub fn output_type(
    rule: &Redaction,
    data_type: &DataType,
) -> std::result::Result<DataType, String> {
    let refuse = |what: &str| Err(format!("`{}` needs {what}", rule.as_str()));
    match rule {
        Redaction::Null {} => Ok(data_type.clone()),
        Redaction::Mask { .. } | Redaction::Hash {} | Redaction::Tokenize { .. } => {
            if values::has_text(data_type) {
                Ok(DataType::Utf8View)
            } else {
                refuse("a column of single values")
            }
        }
        Redaction::Constant { value } => constant(value, data_type).map(|value| value.data_type()),
        Redaction::Truncate { unit: Some(_), .. } => match data_type {
            DataType::Date32 | DataType::Date64 | DataType::Timestamp(..) => Ok(data_type.clone()),
            _ => refuse("a date or a time for `unit`"),
        },
        Redaction::Truncate { decimals, .. } => match data_type {
            DataType::Float32 | DataType::Float64 => Ok(data_type.clone()),
            DataType::Decimal128(_, scale)
                if i64::from(decimals.unwrap_or(0)) < i64::from(*scale) =>
            {
                Ok(data_type.clone())
            }
            _ => refuse("a number with more decimals than are kept"),
        },
        Redaction::Bucket { .. } => match data_type {
            number if number.is_integer() || number.is_floating() => Ok(data_type.clone()),
            DataType::Decimal128(..)
            | DataType::Date32
            | DataType::Date64
            | DataType::Timestamp(..) => Ok(data_type.clone()),
            _ => refuse("a number or a date"),
        },
    }
}

/// The expression that stands for `inner`. What the rule cannot take, as the column has changed since
/// the view was made, is null.
pub fn expression(
    rule: &Redaction,
    subject: &Subject<'_>,
    key: &RedactionKey,
    inner: Expr,
) -> Expr {
    let nothing = || null_of(subject.data_type);
    let Ok(output) = output_type(rule, subject.data_type) else {
        return nothing();
    };
    let rule = match rule {
        Redaction::Null {} => return nothing(),
        Redaction::Constant { value } => {
            return constant(value, subject.data_type).map_or_else(|_| nothing(), lit);
        }
        Redaction::Mask {
            keep_prefix,
            keep_suffix,
        } => Rule::Mask {
            prefix: *keep_prefix as usize,
            suffix: *keep_suffix as usize,
        },
        Redaction::Hash {} => Rule::Hash(key.derived(&["hash", subject.dataset, subject.column])),
        Redaction::Tokenize { domain } => {
            let domain = domain.as_deref().unwrap_or(subject.column);
            Rule::Token(key.derived(&["token", domain]))
        }
        Redaction::Truncate {
            unit: Some(unit), ..
        } => Rule::TruncateDate((*unit).into()),
        Redaction::Truncate { decimals, .. } => Rule::TruncateNumber(decimals.unwrap_or(0)),
        Redaction::Bucket { width } => Rule::Bucket(*width),
    };
    let function = Redact {
        rule,
        output,
        signature: Signature::any(1, Volatility::Immutable),
    };
    Arc::new(ScalarUDF::new_from_impl(function)).call(vec![inner])
}

/// Null of this type.
pub fn null_of(data_type: &DataType) -> Expr {
    lit(ScalarValue::try_from(data_type).unwrap_or(ScalarValue::Null))
}

/// A constant as a value of the column's type, or of its own where that is a text.
fn constant(value: &Value, data_type: &DataType) -> std::result::Result<ScalarValue, String> {
    let own = match value {
        Value::Null => ScalarValue::try_from(data_type).unwrap_or(ScalarValue::Null),
        Value::Bool(value) => ScalarValue::Boolean(Some(*value)),
        Value::Number(number) => match number.as_i64() {
            Some(number) => ScalarValue::Int64(Some(number)),
            None => ScalarValue::Float64(number.as_f64()),
        },
        Value::String(text) => ScalarValue::Utf8View(Some(text.clone())),
        Value::Array(_) | Value::Object(_) => {
            return Err("a `constant` is a single value".to_owned());
        }
    };
    if let Ok(cast) = own.cast_to(data_type)
        && cast.is_null() == own.is_null()
    {
        return Ok(cast);
    }
    match own {
        ScalarValue::Utf8View(_) => Ok(own),
        other => Err(format!("`constant` {other} is no value of the column")),
    }
}

/// A rule as a function of the engine.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Redact {
    rule: Rule,
    output: DataType,
    signature: Signature,
}

impl ScalarUDFImpl for Redact {
    fn name(&self) -> &'static str {
        "redact"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.output.clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let Some(input) = args.args.into_iter().next() else {
            return exec_err!("a redaction of nothing");
        };
        let input = input.into_array(rows)?;
        let output = values::redacted(&self.rule, &input, &self.output);
        Ok(ColumnarValue::Array(output))
    }
}
