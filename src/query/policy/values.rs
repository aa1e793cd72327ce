//! What rules make of arrays. Total: a value that a rule cannot take is null in the answer.

use std::sync::Arc;

use arrow::{
    array::{
        Array, ArrayRef, AsArray, PrimitiveArray, StringViewArray, StringViewBuilder,
        new_null_array,
    },
    compute::{CastOptions, cast_with_options},
    datatypes::{
        ArrowPrimitiveType, DataType, Date32Type, Date64Type, Decimal128Type, Float32Type,
        Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType,
        TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type,
        UInt16Type, UInt32Type, UInt64Type,
    },
};
use chrono::{DateTime, Datelike, NaiveDate, Timelike};

use super::redact::{Rule, Unit};

/// What stands for the hidden part of a masked text, however long that is.
const MASK: &str = "***";
/// Digits of a hash.
const HASH_DIGITS: usize = 32;
/// Digits of a token.
const TOKEN_DIGITS: usize = 24;
/// Milliseconds of a day.
const DAY_MS: i64 = 86_400_000;

/// Whether values of the type have a text that can be masked or hashed.
pub(super) fn has_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, values) => has_text(values),
        DataType::Boolean
        | DataType::Utf8
        | DataType::LargeUtf8
        | DataType::Utf8View
        | DataType::Date32
        | DataType::Date64
        | DataType::Timestamp(..)
        | DataType::Time32(_)
        | DataType::Time64(_)
        | DataType::Decimal128(..)
        | DataType::Decimal256(..) => true,
        number => number.is_integer() || number.is_floating(),
    }
}

/// The array with every value as the rule has it; null where there is none.
pub(super) fn redacted(rule: &Rule, input: &ArrayRef, output: &DataType) -> ArrayRef {
    let nothing = || new_null_array(output, input.len());
    let array = match rule {
        Rule::Mask { prefix, suffix } => {
            texts(input, |text| masked(text, *prefix, *suffix)).map(|a| Arc::new(a) as ArrayRef)
        }
        Rule::Hash(key) => texts(input, |text| key.hash(text.as_bytes(), HASH_DIGITS))
            .map(|a| Arc::new(a) as ArrayRef),
        Rule::Token(key) => {
            let token = |text: &str| format!("tok_{}", key.hash(text.as_bytes(), TOKEN_DIGITS));
            texts(input, token).map(|a| Arc::new(a) as ArrayRef)
        }
        Rule::TruncateDate(unit) => {
            dates(input, |day_ms, rest_ms| truncated(*unit, day_ms, rest_ms))
        }
        Rule::Bucket(width) => bucketed(input, *width),
        Rule::TruncateNumber(decimals) => shortened(input, *decimals),
    };
    match array {
        Some(array) if array.data_type() == output && array.len() == input.len() => array,
        _ => nothing(),
    }
}

fn texts(input: &ArrayRef, rule: impl Fn(&str) -> String) -> Option<StringViewArray> {
    let lenient = CastOptions {
        safe: true,
        ..CastOptions::default()
    };
    let text = cast_with_options(input, &DataType::Utf8View, &lenient).ok()?;
    let text = text.as_string_view_opt()?;
    let mut builder = StringViewBuilder::with_capacity(text.len());
    for value in text {
        match value {
            Some(value) => builder.append_value(rule(value)),
            None => builder.append_null(),
        }
    }
    Some(builder.finish())
}

/// The ends of a text; one that would be shown whole is hidden whole.
fn masked(text: &str, prefix: usize, suffix: usize) -> String {
    let letters = text.chars().count();
    if letters <= prefix.saturating_add(suffix) {
        return MASK.to_owned();
    }
    let head = text.chars().take(prefix);
    let tail = text.chars().skip(letters - suffix);
    head.chain(MASK.chars()).chain(tail).collect()
}

/// Changes instants, given as milliseconds of their day's beginning and since then, to milliseconds.
/// Times below a millisecond are gone in any case.
fn dates(input: &ArrayRef, rule: impl Fn(i64, i64) -> Option<i64>) -> Option<ArrayRef> {
    let split = |ms: i64| {
        let rest = ms.rem_euclid(DAY_MS);
        rule(ms.checked_sub(rest)?, rest)
    };
    let array: ArrayRef = match input.data_type() {
        DataType::Date32 => {
            let days = |days: i32| {
                let ms = split(i64::from(days) * DAY_MS)?;
                i32::try_from(ms.div_euclid(DAY_MS)).ok()
            };
            Arc::new(changed::<Date32Type>(input, days)?)
        }
        DataType::Date64 => Arc::new(changed::<Date64Type>(input, split)?),
        DataType::Timestamp(unit, zone) => {
            let zone = zone.clone();
            match unit {
                TimeUnit::Second => {
                    let rule = |s: i64| Some(split(s.checked_mul(1_000)?)?.div_euclid(1_000));
                    Arc::new(changed::<TimestampSecondType>(input, rule)?.with_timezone_opt(zone))
                }
                TimeUnit::Millisecond => Arc::new(
                    changed::<TimestampMillisecondType>(input, split)?.with_timezone_opt(zone),
                ),
                TimeUnit::Microsecond => {
                    let rule = |us: i64| split(us.div_euclid(1_000))?.checked_mul(1_000);
                    Arc::new(
                        changed::<TimestampMicrosecondType>(input, rule)?.with_timezone_opt(zone),
                    )
                }
                TimeUnit::Nanosecond => {
                    let rule = |ns: i64| split(ns.div_euclid(1_000_000))?.checked_mul(1_000_000);
                    Arc::new(
                        changed::<TimestampNanosecondType>(input, rule)?.with_timezone_opt(zone),
                    )
                }
            }
        }
        _ => return None,
    };
    Some(array)
}

fn changed<T: ArrowPrimitiveType>(
    input: &ArrayRef,
    rule: impl Fn(T::Native) -> Option<T::Native>,
) -> Option<PrimitiveArray<T>> {
    Some(input.as_primitive_opt::<T>()?.unary_opt(rule))
}

fn truncated(unit: Unit, day_ms: i64, rest_ms: i64) -> Option<i64> {
    let at = DateTime::from_timestamp_millis(day_ms.checked_add(rest_ms)?)?;
    let first = |month| {
        let day = NaiveDate::from_ymd_opt(at.year(), month, 1)?;
        Some(day.and_hms_opt(0, 0, 0)?.and_utc().timestamp_millis())
    };
    match unit {
        Unit::Year => first(1),
        Unit::Quarter => first((at.month0() / 3) * 3 + 1),
        Unit::Month => first(at.month()),
        Unit::Day => Some(day_ms),
        Unit::Hour => day_ms.checked_add(i64::from(at.hour()) * 3_600_000),
    }
}

fn bucketed(input: &ArrayRef, width: u64) -> Option<ArrayRef> {
    macro_rules! whole {
        ($kind:ty) => {{
            // Numbers of 128 bits are divided by a function call, so only what needs them gets there.
            let wide = |value| {
                let wide = i128::from(value);
                let low = wide - wide.rem_euclid(i128::from(width));
                low.try_into().ok()
            };
            let array = match i64::try_from(width) {
                Ok(step) => changed::<$kind>(input, |value| match i64::try_from(value) {
                    Ok(narrow) => narrow.checked_sub(narrow.rem_euclid(step))?.try_into().ok(),
                    Err(_) => wide(value),
                })?,
                Err(_) => changed::<$kind>(input, wide)?,
            };
            Some(Arc::new(array) as ArrayRef)
        }};
    }
    if width == 0 {
        return None;
    }
    match input.data_type() {
        DataType::Int8 => whole!(Int8Type),
        DataType::Int16 => whole!(Int16Type),
        DataType::Int32 => whole!(Int32Type),
        DataType::Int64 => whole!(Int64Type),
        DataType::UInt8 => whole!(UInt8Type),
        DataType::UInt16 => whole!(UInt16Type),
        DataType::UInt32 => whole!(UInt32Type),
        DataType::UInt64 => whole!(UInt64Type),
        DataType::Float32 => {
            let rule = |value: f32| finite(low(f64::from(value), width)).map(narrow);
            Some(Arc::new(changed::<Float32Type>(input, rule)?))
        }
        DataType::Float64 => {
            let rule = |value| finite(low(value, width));
            Some(Arc::new(changed::<Float64Type>(input, rule)?))
        }
        DataType::Decimal128(precision, scale) => {
            let unit = 10_i128.checked_pow(u32::try_from(*scale).ok()?)?;
            let step = unit.checked_mul(i128::from(width))?;
            let rule = |value: i128| value.checked_sub(value.rem_euclid(step));
            let array = changed::<Decimal128Type>(input, rule)?;
            let array = array.with_precision_and_scale(*precision, *scale).ok()?;
            Some(Arc::new(array))
        }
        _ => {
            let step = i64::try_from(width).ok()?.checked_mul(DAY_MS)?;
            dates(input, |day_ms, _| {
                day_ms.checked_sub(day_ms.rem_euclid(step))
            })
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a bucket of 2^53 and more is coarse anyway"
)]
fn low(value: f64, width: u64) -> f64 {
    let width = width as f64;
    (value / width).floor() * width
}

/// What is not a number, or none that can be shown, is null: it could be told from others.
fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "it was a narrow number before"
)]
fn narrow(value: f64) -> f32 {
    value as f32
}

fn shortened(input: &ArrayRef, decimals: u32) -> Option<ArrayRef> {
    let power = 10_f64.powi(i32::try_from(decimals).ok()?);
    let cut = |value: f64| finite((value * power).trunc() / power);
    match input.data_type() {
        DataType::Float32 => {
            let rule = |value: f32| cut(f64::from(value)).map(narrow);
            Some(Arc::new(changed::<Float32Type>(input, rule)?))
        }
        DataType::Float64 => Some(Arc::new(changed::<Float64Type>(input, cut)?)),
        DataType::Decimal128(precision, scale) => {
            let dropped = u32::try_from(*scale).ok()?.checked_sub(decimals)?;
            let step = 10_i128.checked_pow(dropped)?;
            let rule = |value: i128| Some(value - value % step);
            let array = changed::<Decimal128Type>(input, rule)?;
            let array = array.with_precision_and_scale(*precision, *scale).ok()?;
            Some(Arc::new(array))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int8Array, Int64Array, UInt64Array};

    use super::*;

    /// What a bucket is, in numbers that are wide enough for all.
    fn reference(value: i128, width: u64) -> i128 {
        value - value.rem_euclid(i128::from(width))
    }

    #[test]
    fn buckets_of_whole_numbers_hold_at_both_ends_and_are_null_where_there_is_none() {
        for width in [1, 7, 200, 1 << 62, (1 << 63) + 5, u64::MAX] {
            let wide = [i64::MIN, i64::MIN + 6, -8, -1, 0, 1, 13, i64::MAX];
            let input: ArrayRef = Arc::new(Int64Array::from(wide.to_vec()));
            let seen = bucketed(&input, width).unwrap();
            let seen = seen.as_primitive::<Int64Type>();
            for (at, value) in wide.into_iter().enumerate() {
                let expected = i64::try_from(reference(value.into(), width)).ok();
                let found = seen.is_valid(at).then(|| seen.value(at));
                assert_eq!(found, expected, "{value} by {width}");
            }
            let large = [0, 6, 1 << 63, u64::MAX - 1, u64::MAX];
            let input: ArrayRef = Arc::new(UInt64Array::from(large.to_vec()));
            let seen = bucketed(&input, width).unwrap();
            for (at, value) in large.into_iter().enumerate() {
                let found = seen.as_primitive::<UInt64Type>().value(at);
                assert_eq!(i128::from(found), reference(value.into(), width));
            }
            let small = [i8::MIN, -3, 0, i8::MAX];
            let input: ArrayRef = Arc::new(Int8Array::from(small.to_vec()));
            let seen = bucketed(&input, width).unwrap();
            let seen = seen.as_primitive::<Int8Type>();
            for (at, value) in small.into_iter().enumerate() {
                let expected = i8::try_from(reference(value.into(), width)).ok();
                assert_eq!(seen.is_valid(at).then(|| seen.value(at)), expected);
            }
        }
    }
}
