//! Text to values: what a CSV field or a JSON scalar stands for, or that it is only text.
//! Pure; `kinds` says what the answers mean for a column. Whatever could also be meant as text
//! (leading zeros, a plus sign, spaces, more digits than fit) is text.

use super::kinds::Value;

/// Reads the value that `text` stands for. Whatever could also be meant as text (leading zeros, a
/// plus sign, spaces, more digits than fit) is text.
pub(super) fn classify(text: &[u8]) -> Value {
    match text.first() {
        Some(b'0'..=b'9' | b'-' | b'.' | b'N' | b'i' | b'I') => classify_number(text),
        Some(b't' | b'f' | b'T' | b'F') => parse_bool(text).map_or(Value::Text, Value::Bool),
        _ => Value::Text,
    }
}

fn classify_number(text: &[u8]) -> Value {
    if let Some(value) = parse_int(text) {
        return Value::Int(value);
    }
    if text.len() >= 10 && text[4] == b'-' {
        if let Some(days) = parse_date(text) {
            return Value::Date(days);
        }
        match parse_timestamp(text) {
            Some((micros, true)) => return Value::Zoned(micros),
            Some((micros, false)) => return Value::Naive(micros),
            None => {}
        }
    }
    parse_float(text).map_or(Value::Text, Value::Float)
}

/// `true` or `false`, also `True`, `TRUE`, `False`, `FALSE`.
#[inline]
pub(super) fn parse_bool(text: &[u8]) -> Option<bool> {
    match text {
        b"true" | b"True" | b"TRUE" => Some(true),
        b"false" | b"False" | b"FALSE" => Some(false),
        _ => None,
    }
}

/// A canonical integer of 64 bits: no leading zero, no plus sign, no `-0`.
#[inline]
pub(super) fn parse_int(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text.split_first() {
        Some((b'-', rest)) => (true, rest),
        _ => (false, text),
    };
    let first = *digits.first()?;
    if digits.len() > 19 || (first == b'0' && (digits.len() > 1 || negative)) {
        return None;
    }
    let mut value = 0u64;
    for byte in digits {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        // 19 digits stay below 10^19, which 64 unsigned bits hold.
        value = value * 10 + u64::from(digit);
    }
    if negative {
        0i64.checked_sub_unsigned(value)
    } else {
        i64::try_from(value).ok()
    }
}

/// A decimal number with a point or an exponent; `NaN`, `inf` and `Infinity` count as well.
/// An integer is none: callers try `parse_int` first.
pub(super) fn parse_float(text: &[u8]) -> Option<f64> {
    let (negative, rest) = match text.split_first() {
        Some((b'-', rest)) => (true, rest),
        _ => (false, text),
    };
    let value = match rest {
        b"NaN" if !negative => f64::NAN,
        b"inf" | b"Infinity" => f64::INFINITY,
        _ => parse_decimal(text, rest)?,
    };
    Some(if negative { -value } else { value })
}

/// The magnitude of a decimal number. `text` is the whole of it, `rest` what follows the sign.
fn parse_decimal(text: &[u8], rest: &[u8]) -> Option<f64> {
    let (mantissa, digits, at) = leading_digits(rest, 0, 0);
    if digits > 1 && rest[0] == b'0' {
        return None;
    }
    let (mut mantissa, mut at, mut scale, mut total) = (mantissa, at, 0i32, digits);
    let fraction = rest.get(at) == Some(&b'.');
    if fraction {
        let (value, count, end) = leading_digits(rest, at + 1, mantissa);
        if count == 0 {
            return None;
        }
        (mantissa, at, total) = (value, end, digits + count);
        scale = -i32::try_from(count).ok()?;
    } else if digits == 0 {
        return None;
    }
    let exponent = matches!(rest.get(at), Some(b'e' | b'E'));
    if exponent {
        let (exponent, end) = parse_exponent(rest, at + 1)?;
        scale = scale.checked_add(exponent)?;
        at = end;
    }
    if at != rest.len() || !(fraction || exponent) {
        return None;
    }
    exact_decimal(mantissa, total, scale).or_else(|| slow_decimal(text))
}

/// Reads digits from `at` on, continuing `mantissa`; gives it (wrapping), their count, their end.
#[inline]
fn leading_digits(text: &[u8], at: usize, mantissa: u64) -> (u64, usize, usize) {
    let mut value = mantissa;
    let mut end = at;
    while let Some(digit) = text.get(end).map(|byte| byte.wrapping_sub(b'0')) {
        if digit > 9 {
            break;
        }
        value = value.wrapping_mul(10).wrapping_add(u64::from(digit));
        end += 1;
    }
    (value, end - at, end)
}

fn parse_exponent(text: &[u8], at: usize) -> Option<(i32, usize)> {
    let (negative, start) = match text.get(at)? {
        b'-' => (true, at + 1),
        b'+' => (false, at + 1),
        _ => (false, at),
    };
    let (value, count, end) = leading_digits(text, start, 0);
    if count == 0 || count > 4 {
        return None;
    }
    let value = i32::try_from(value).ok()?;
    Some((if negative { -value } else { value }, end))
}

/// The exact fast path of W. Clinger (1990): a mantissa of 53 bits times or divided by a power of
/// ten that a float holds exactly is rounded once.
#[inline]
fn exact_decimal(mantissa: u64, digits: usize, scale: i32) -> Option<f64> {
    const POWERS: [f64; 23] = [
        1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
        1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
    ];
    if digits > 19 || mantissa > 1 << 53 {
        return None;
    }
    let power = *POWERS.get(usize::try_from(scale.unsigned_abs()).ok()?)?;
    #[allow(clippy::cast_precision_loss)]
    let value = mantissa as f64;
    Some(if scale < 0 {
        value / power
    } else {
        value * power
    })
}

/// Any other number, by the standard library; one that overflows is text.
fn slow_decimal(text: &[u8]) -> Option<f64> {
    let value: f64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    value.is_finite().then_some(value.abs())
}

/// Two digits at `at`, as a number.
#[inline]
fn two(text: &[u8], at: usize) -> Option<u32> {
    let high = text.get(at)?.wrapping_sub(b'0');
    let low = text.get(at + 1)?.wrapping_sub(b'0');
    (high <= 9 && low <= 9).then(|| u32::from(high) * 10 + u32::from(low))
}

/// `YYYY-MM-DD`, a day that exists, as days since 1970-01-01.
#[inline]
pub(super) fn parse_date(text: &[u8]) -> Option<i32> {
    if text.len() != 10 {
        return None;
    }
    day_prefix(text)
}

fn day_prefix(text: &[u8]) -> Option<i32> {
    if text.get(4) != Some(&b'-') || text.get(7) != Some(&b'-') {
        return None;
    }
    let year = two(text, 0)? * 100 + two(text, 2)?;
    let (month, day) = (two(text, 5)?, two(text, 8)?);
    if year == 0 || !(1..=12).contains(&month) || day == 0 || day > days_in(year, month) {
        return None;
    }
    Some(days_from_civil(year, month, day))
}

fn days_in(year: u32, month: u32) -> u32 {
    match month {
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => {
            29
        }
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 of a day of the Gregorian calendar, years 1 to 9999: whole years and leap
/// days before the year, then the days of a year that starts in March.
#[inline]
fn days_from_civil(year: u32, month: u32, day: u32) -> i32 {
    const EPOCH: i64 = 719_468;
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let year_days = year * 365 + year / 4 - year / 100 + year / 400;
    let days = i64::from(year_days + (153 * month + 2) / 5 + day - 1) - EPOCH;
    i32::try_from(days).expect("days of the years 1 to 9999 fit in 32 bits")
}

/// `YYYY-MM-DD[T ]HH:MM[:SS[.f]]` with an optional zone; gives microseconds and whether there was
/// a zone (then they are UTC). Digits beyond the microsecond have to be zero.
pub(super) fn parse_timestamp(text: &[u8]) -> Option<(i64, bool)> {
    if text.len() < 16 || !matches!(text[10], b'T' | b't' | b' ') || text[13] != b':' {
        return None;
    }
    let days = day_prefix(text)?;
    let (hour, minute) = (two(text, 11)?, two(text, 14)?);
    let (mut second, mut micros, mut at) = (0, 0i64, 16);
    if text.get(at) == Some(&b':') {
        second = two(text, 17)?;
        at = 19;
        if text.get(at) == Some(&b'.') {
            (micros, at) = parse_fraction(text, at + 1)?;
        }
    }
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let local = i64::from(days) * 86_400 + i64::from(hour * 3_600 + minute * 60 + second);
    if at == text.len() {
        return Some((local * 1_000_000 + micros, false));
    }
    let offset = parse_zone(&text[at..])?;
    Some(((local - offset) * 1_000_000 + micros, true))
}

fn parse_fraction(text: &[u8], at: usize) -> Option<(i64, usize)> {
    let (_, count, end) = leading_digits(text, at, 0);
    if count == 0 || text[at..end].iter().skip(6).any(|digit| *digit != b'0') {
        return None;
    }
    let kept = count.min(6);
    let (value, _, _) = leading_digits(&text[..at + kept], at, 0);
    let scale = 10i64.pow(u32::try_from(6 - kept).ok()?);
    Some((i64::try_from(value).ok()? * scale, end))
}

/// `Z`, `±HH`, `±HHMM` or `±HH:MM`, as seconds east of UTC.
fn parse_zone(text: &[u8]) -> Option<i64> {
    let sign = match text.first()? {
        b'Z' | b'z' if text.len() == 1 => return Some(0),
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let minutes = match text.len() {
        3 => 0,
        5 => two(text, 3)?,
        6 if text[3] == b':' => two(text, 4)?,
        _ => return None,
    };
    let hours = two(text, 1)?;
    (hours <= 23 && minutes <= 59).then(|| sign * i64::from(hours * 3_600 + minutes * 60))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_that_stands_for_a_value_is_read_and_whatever_is_ambiguous_stays_text() {
        for (text, value) in [
            ("true", Value::Bool(true)),
            ("FALSE", Value::Bool(false)),
            ("0", Value::Int(0)),
            ("-17", Value::Int(-17)),
            ("9223372036854775807", Value::Int(i64::MAX)),
            ("-9223372036854775808", Value::Int(i64::MIN)),
            ("9223372036854775808", Value::Text),
            ("99999999999999999999", Value::Text),
            ("007", Value::Text),
            ("00", Value::Text),
            ("-0", Value::Text),
            ("+1", Value::Text),
            (" 1", Value::Text),
            ("1 ", Value::Text),
            ("-", Value::Text),
            ("555-1234", Value::Text),
            ("0.5", Value::Float(0.5)),
            (".5", Value::Float(0.5)),
            ("-0.0", Value::Float(-0.0)),
            ("5.", Value::Text),
            ("00.5", Value::Text),
            ("1e3", Value::Float(1000.0)),
            ("1.5E-2", Value::Float(0.015)),
            ("1e999", Value::Text),
            ("inf", Value::Float(f64::INFINITY)),
            ("-Infinity", Value::Float(f64::NEG_INFINITY)),
            (
                "0.1234567890123456789012",
                Value::Float(0.123_456_789_012_345_68),
            ),
            ("1970-01-01", Value::Date(0)),
            ("2000-02-29", Value::Date(11_016)),
            ("1900-02-29", Value::Text),
            ("0001-01-01", Value::Date(-719_162)),
            ("9999-12-31", Value::Date(2_932_896)),
            ("2020-13-01", Value::Text),
            ("1970-01-01T00:00:01", Value::Naive(1_000_000)),
            ("1970-01-01 00:01", Value::Naive(60_000_000)),
            ("1970-01-01T00:00:01.5Z", Value::Zoned(1_500_000)),
            ("1970-01-01T01:00:00+01:00", Value::Zoned(0)),
            ("1969-12-31 19:00:00-05", Value::Zoned(0)),
            ("1970-01-01T00:00:00.123456000", Value::Naive(123_456)),
            ("1970-01-01T00:00:00.1234567", Value::Text),
            ("1970-01-01T24:00:00", Value::Text),
            ("1970-01-01T00:00:00+1", Value::Text),
            ("", Value::Text),
            ("nope", Value::Text),
        ] {
            let found = classify(text.as_bytes());
            assert_eq!(format!("{found:?}"), format!("{value:?}"), "{text:?}");
        }
        assert!(matches!(classify(b"NaN"), Value::Float(value) if value.is_nan()));
    }

    proptest! {
        #[test]
        fn an_integer_reads_back(value: i64) {
            prop_assert_eq!(parse_int(value.to_string().as_bytes()), Some(value));
        }

        #[test]
        fn a_float_reads_as_the_standard_library_reads_it(value in proptest::num::f64::NORMAL) {
            for text in [format!("{value:e}"), format!("{value:.3}")] {
                if text.contains(['.', 'e']) {
                    let expected: f64 = text.parse().expect("a printed float parses");
                    prop_assert_eq!(parse_float(text.as_bytes()).map(f64::to_bits), Some(expected.to_bits()));
                }
            }
        }

        #[test]
        fn a_day_reads_as_chrono_reads_it(days in -719_162i32..=2_932_896) {
            let day = chrono::NaiveDate::from_epoch_days(days).expect("a day in range");
            prop_assert_eq!(parse_date(day.format("%Y-%m-%d").to_string().as_bytes()), Some(days));
        }
    }
}
