//! What is decoded of a Postgres column, and which columns travel as text.
//! Called by `plan` when a relation is described; pure.

use lakehouse_kernels::pgcopy::{TextWire, Wire};
use tokio_postgres::types::{Kind, Type};

/// The wire form of a type, or `None` when the server has to turn it into text.
///
/// `modifier` is the column's type modifier (−1: none), which holds a `numeric`'s precision.
pub(super) fn wire(type_: &Type, modifier: i32) -> Option<Wire> {
    if let Kind::Array(item) = type_.kind() {
        let item = scalar(item, modifier)?;
        return Some(Wire::List(Box::new(item)));
    }
    scalar(type_, modifier)
}

fn scalar(type_: &Type, modifier: i32) -> Option<Wire> {
    if matches!(type_.kind(), Kind::Enum(_)) {
        return Some(Wire::Text(TextWire::Plain));
    }
    Some(match *type_ {
        Type::BOOL => Wire::Bool,
        Type::INT2 => Wire::Int2,
        Type::INT4 => Wire::Int4,
        Type::INT8 => Wire::Int8,
        Type::OID => Wire::Oid,
        Type::FLOAT4 => Wire::Float4,
        Type::FLOAT8 => Wire::Float8,
        Type::NUMERIC => numeric(modifier),
        Type::TEXT | Type::VARCHAR | Type::NAME | Type::JSON => Wire::Text(TextWire::Plain),
        Type::BPCHAR => Wire::Text(TextWire::Padded),
        Type::CHAR => Wire::Text(TextWire::Byte),
        Type::JSONB => Wire::Text(TextWire::Jsonb),
        Type::UUID => Wire::Text(TextWire::Uuid),
        Type::INET | Type::CIDR => Wire::Text(TextWire::Inet),
        Type::BYTEA => Wire::Bytea,
        Type::DATE => Wire::Date,
        Type::TIME => Wire::Time,
        Type::TIMESTAMP => Wire::Timestamp,
        Type::TIMESTAMPTZ => Wire::TimestampTz,
        Type::INTERVAL => Wire::Interval,
        _ => return None,
    })
}

/// A declared `numeric(p, s)` as a decimal. Since Postgres 15 the scale may be negative
/// (`numeric(3, -2)` holds 99900) or larger than the precision; both fit a wider decimal.
fn numeric(modifier: i32) -> Wire {
    const HEADER: i32 = 4;
    let text = Wire::Text(TextWire::Numeric);
    if modifier < HEADER {
        return text;
    }
    let packed = modifier - HEADER;
    let precision = (packed >> 16) & 0xffff;
    // An 11-bit signed number.
    let scale = ((packed & 0x7ff) ^ 1024) - 1024;
    let (precision, scale) = if scale < 0 {
        (precision - scale, 0)
    } else {
        (precision.max(scale), scale)
    };
    match (u8::try_from(precision), i8::try_from(scale)) {
        (Ok(precision @ 1..=38), Ok(scale)) => Wire::Decimal { precision, scale },
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modifier(precision: i32, scale: i32) -> i32 {
        ((precision << 16) | (scale & 0x7ff)) + 4
    }

    #[test]
    fn a_declared_numeric_is_a_decimal_up_to_38_digits() {
        let decimal = |precision, scale| Some(Wire::Decimal { precision, scale });
        let text = Some(Wire::Text(TextWire::Numeric));
        assert_eq!(wire(&Type::NUMERIC, modifier(10, 2)), decimal(10, 2));
        assert_eq!(wire(&Type::NUMERIC, modifier(38, 38)), decimal(38, 38));
        assert_eq!(wire(&Type::NUMERIC, modifier(3, -2)), decimal(5, 0));
        assert_eq!(wire(&Type::NUMERIC, modifier(2, 5)), decimal(5, 5));
        assert_eq!(wire(&Type::NUMERIC, modifier(39, 0)), text);
        assert_eq!(wire(&Type::NUMERIC, modifier(1000, 1000)), text);
        assert_eq!(wire(&Type::NUMERIC, -1), text);
    }

    #[test]
    fn an_unknown_type_and_an_array_of_one_travel_as_text() {
        for type_ in [
            Type::XML,
            Type::MONEY,
            Type::TIMETZ,
            Type::INT4_RANGE,
            Type::POINT,
            Type::XML_ARRAY,
        ] {
            assert_eq!(wire(&type_, -1), None, "{type_}");
        }
        let list = wire(&Type::UUID_ARRAY, -1).expect("an array of a known type");
        assert_eq!(list, Wire::List(Box::new(Wire::Text(TextWire::Uuid))));
    }
}
