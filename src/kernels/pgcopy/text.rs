//! Values that Postgres sends in a form of its own and that are carried as text, and the exact
//! digits of `numeric`. Called by `columns`; pure, and appends to the caller's buffer.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::wire::TextWire;

/// What is wrong with a field, for [`super::CopyError::Value`].
pub(super) type FieldError = &'static str;

/// Appends the text of a field.
pub(super) fn write(how: TextWire, field: &[u8], out: &mut Vec<u8>) -> Result<(), FieldError> {
    match how {
        TextWire::Plain => out.extend_from_slice(field),
        TextWire::Padded => {
            let blanks = field.iter().rev().take_while(|byte| **byte == b' ').count();
            out.extend_from_slice(&field[..field.len() - blanks]);
        }
        TextWire::Byte => write_byte(field, out)?,
        TextWire::Jsonb => match field.split_first() {
            Some((1, text)) => out.extend_from_slice(text),
            _ => return Err("jsonb of an unknown version"),
        },
        TextWire::Uuid => write_uuid(field, out)?,
        TextWire::Numeric => Numeric::read(field)?.write(out),
        TextWire::Inet => write_inet(field, out)?,
    }
    Ok(())
}

/// As `charout`: nothing for a zero byte, an octal escape for one that is no ASCII.
fn write_byte(field: &[u8], out: &mut Vec<u8>) -> Result<(), FieldError> {
    match field {
        [] | [0] => {}
        [byte] if byte.is_ascii() => out.push(*byte),
        [byte] => out.extend([
            b'\\',
            b'0' + (byte >> 6),
            b'0' + (byte >> 3 & 7),
            b'0' + (byte & 7),
        ]),
        _ => return Err("a \"char\" of more than one byte"),
    }
    Ok(())
}

const HEX: &[u8; 16] = b"0123456789abcdef";

fn write_uuid(field: &[u8], out: &mut Vec<u8>) -> Result<(), FieldError> {
    if field.len() != 16 {
        return Err("a uuid that is not 16 bytes");
    }
    let mut text = [b'-'; 36];
    let mut at = 0;
    for (index, byte) in field.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            at += 1;
        }
        text[at] = HEX[usize::from(byte >> 4)];
        text[at + 1] = HEX[usize::from(byte & 15)];
        at += 2;
    }
    out.extend_from_slice(&text);
    Ok(())
}

/// As `inet_out`: the mask is left out of an `inet` that is a single host.
fn write_inet(field: &[u8], out: &mut Vec<u8>) -> Result<(), FieldError> {
    let [family, bits, is_cidr, _length, address @ ..] = field else {
        return Err("an inet that is too short");
    };
    let (text, width) = match (family, address) {
        (2, &[a, b, c, d]) => (Ipv4Addr::new(a, b, c, d).to_string(), 32),
        (3, address) => {
            let octets: [u8; 16] = address
                .try_into()
                .map_err(|_| "an inet that is not 16 bytes")?;
            (v6_text(Ipv6Addr::from(octets)), 128)
        }
        _ => return Err("an inet of an unknown family"),
    };
    out.extend_from_slice(text.as_bytes());
    if *is_cidr == 1 || *bits != width {
        out.extend_from_slice(format!("/{bits}").as_bytes());
    }
    Ok(())
}

/// Postgres still writes IPv4-compatible addresses (`::1.2.3.4`) with a dotted tail.
fn v6_text(address: Ipv6Addr) -> String {
    match address.segments() {
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => {
            let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
            format!("::{}", Ipv4Addr::new(a, b, c, d))
        }
        _ => address.to_string(),
    }
}

/// A `numeric` as sent: digits to base 10,000, the first of them worth 10,000^`weight`.
pub(super) struct Numeric<'a> {
    digits: &'a [u8],
    weight: i32,
    sign: u16,
    display_scale: usize,
}

const NEGATIVE: u16 = 0x4000;
const NAN: u16 = 0xc000;
const INFINITY: u16 = 0xd000;
const NEGATIVE_INFINITY: u16 = 0xf000;

impl<'a> Numeric<'a> {
    pub(super) fn read(field: &'a [u8]) -> Result<Self, FieldError> {
        let [n0, n1, w0, w1, s0, s1, d0, d1, digits @ ..] = field else {
            return Err("a numeric that is too short");
        };
        if digits.len() != usize::from(u16::from_be_bytes([*n0, *n1])) * 2 {
            return Err("a numeric with missing digits");
        }
        Ok(Self {
            digits,
            weight: i16::from_be_bytes([*w0, *w1]).into(),
            sign: u16::from_be_bytes([*s0, *s1]),
            display_scale: u16::from_be_bytes([*d0, *d1]).into(),
        })
    }

    fn digit(&self, index: i32) -> u16 {
        let at = usize::try_from(index).ok().map(|index| index * 2);
        let pair = at.and_then(|at| self.digits.get(at..at + 2));
        pair.map_or(0, |pair| u16::from_be_bytes([pair[0], pair[1]]))
    }

    /// The value times 10^`scale`; `None` for NaN and the infinities.
    ///
    /// # Errors
    /// When it has more digits than 38, or any behind the scale.
    pub(super) fn scaled(&self, scale: i8) -> Result<Option<i128>, FieldError> {
        const TOO_LARGE: FieldError = "a numeric with more than 38 digits";
        const TOO_FINE: FieldError =
            "a numeric with more digits behind the point than its type has";
        if !matches!(self.sign, 0 | NEGATIVE) {
            return Ok(None);
        }
        let mut value = 0_i128;
        // The digit at hand is worth 10^exponent of what is wanted; below 1 only zeros may be left.
        let mut exponent = 4 * (self.weight + 1) + i32::from(scale);
        for pair in self.digits.chunks_exact(2) {
            exponent -= 4;
            let digit = u16::from_be_bytes([pair[0], pair[1]]);
            let (shift, kept) = match exponent {
                0.. => (10_000, digit),
                -3..0 => {
                    let cut = 10_u16.pow(exponent.unsigned_abs());
                    (
                        10_000 / i128::from(cut),
                        if digit % cut == 0 {
                            digit / cut
                        } else {
                            return Err(TOO_FINE);
                        },
                    )
                }
                _ => (1, if digit == 0 { 0 } else { return Err(TOO_FINE) }),
            };
            let shifted = value.checked_mul(shift).ok_or(TOO_LARGE)?;
            value = shifted.checked_add(kept.into()).ok_or(TOO_LARGE)?;
        }
        if exponent > 0 && value != 0 {
            let power = 10_i128
                .checked_pow(exponent.unsigned_abs())
                .ok_or(TOO_LARGE)?;
            value = value.checked_mul(power).ok_or(TOO_LARGE)?;
        }
        Ok(Some(if self.sign == NEGATIVE { -value } else { value }))
    }

    /// Appends the digits as `numeric_out` writes them.
    fn write(&self, out: &mut Vec<u8>) {
        match self.sign {
            NAN => return out.extend_from_slice(b"NaN"),
            INFINITY => return out.extend_from_slice(b"Infinity"),
            NEGATIVE_INFINITY => return out.extend_from_slice(b"-Infinity"),
            NEGATIVE => out.push(b'-'),
            _ => {}
        }
        if self.weight < 0 {
            out.push(b'0');
        }
        for index in 0..=self.weight {
            let four = four_digits(self.digit(index));
            let zeros = if index == 0 {
                four.iter().take(3).take_while(|d| **d == b'0').count()
            } else {
                0
            };
            out.extend_from_slice(&four[zeros..]);
        }
        if self.display_scale == 0 {
            return;
        }
        out.push(b'.');
        let end = out.len() + self.display_scale;
        // Digit `index` is worth 10,000^(weight - index): the fraction begins behind 10,000^0, and
        // what lies ahead of the first digit sent (0.00000001) or behind the last is zero.
        let mut index = self.weight + 1;
        while out.len() < end {
            out.extend_from_slice(&four_digits(self.digit(index)));
            index += 1;
        }
        out.truncate(end);
    }
}

fn four_digits(digit: u16) -> [u8; 4] {
    let at = |power: u16| b'0' + u8::try_from(digit / power % 10).expect("a decimal digit");
    [at(1000), at(100), at(10), at(1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numeric(weight: i16, sign: u16, display_scale: u16, digits: &[u16]) -> Vec<u8> {
        let count = u16::try_from(digits.len()).expect("a short list");
        let head = [count, weight.cast_unsigned(), sign, display_scale];
        head.iter()
            .chain(digits)
            .flat_map(|word| word.to_be_bytes())
            .collect()
    }

    fn text(how: TextWire, field: &[u8]) -> String {
        let mut out = Vec::new();
        write(how, field, &mut out).expect("a well formed field");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn a_numeric_is_written_to_its_exact_digits() {
        for (field, expected) in [
            (numeric(0, 0, 0, &[]), "0"),
            (numeric(0, 0, 3, &[]), "0.000"),
            (numeric(0, 0, 2, &[12, 3400]), "12.34"),
            (numeric(1, NEGATIVE, 0, &[1, 2]), "-10002"),
            (numeric(2, 0, 0, &[7]), "700000000"),
            (numeric(-1, 0, 4, &[5]), "0.0005"),
            (numeric(-3, NEGATIVE, 12, &[1]), "-0.000000000001"),
            (numeric(1, 0, 6, &[1, 0, 1, 200]), "10000.000102"),
            (numeric(0, NAN, 0, &[]), "NaN"),
            (numeric(0, INFINITY, 0, &[]), "Infinity"),
            (numeric(0, NEGATIVE_INFINITY, 0, &[]), "-Infinity"),
        ] {
            assert_eq!(text(TextWire::Numeric, &field), expected);
        }
    }

    #[test]
    fn a_numeric_becomes_an_integer_of_its_scale_or_says_why_not() {
        let scaled =
            |field: &[u8], scale| Numeric::read(field).and_then(|number| number.scaled(scale));
        assert_eq!(scaled(&numeric(0, 0, 2, &[12, 3400]), 2), Ok(Some(1234)));
        assert_eq!(
            scaled(&numeric(0, NEGATIVE, 2, &[12, 3400]), 4),
            Ok(Some(-123_400))
        );
        assert_eq!(
            scaled(&numeric(9, 0, 0, &[1]), 0),
            Ok(Some(10_i128.pow(36)))
        );
        assert_eq!(scaled(&numeric(-1, 0, 4, &[5]), 4), Ok(Some(5)));
        assert_eq!(scaled(&numeric(0, 0, 38, &[]), 38), Ok(Some(0)));
        let nines = numeric(
            0,
            0,
            37,
            &[
                9, 9999, 9999, 9999, 9999, 9999, 9999, 9999, 9999, 9999, 9000,
            ],
        );
        assert_eq!(scaled(&nines, 37), Ok(Some(10_i128.pow(38) - 1)));
        assert_eq!(scaled(&numeric(0, NAN, 0, &[]), 2), Ok(None));
        assert!(scaled(&numeric(10, 0, 0, &[1]), 0).is_err(), "41 digits");
        assert!(
            scaled(&numeric(0, 0, 2, &[12, 3400]), 1).is_err(),
            "a digit behind the scale"
        );
    }

    #[test]
    fn a_damaged_field_is_an_error() {
        for (how, field) in [
            (TextWire::Numeric, &b"\0\x01\0\0"[..]),
            (TextWire::Numeric, &b"\0\x02\0\0\0\0\0\0\0\x01"[..]),
            (TextWire::Uuid, b"short"),
            (TextWire::Jsonb, b"\x02{}"),
            (TextWire::Jsonb, b""),
            (TextWire::Inet, b"\x02"),
            (TextWire::Inet, b"\x09\x20\0\x04abcd"),
            (TextWire::Inet, b"\x03\x80\0\x10abcd"),
            (TextWire::Byte, b"ab"),
        ] {
            assert!(
                write(how, field, &mut Vec::new()).is_err(),
                "{how:?} {field:?}"
            );
        }
    }
}
