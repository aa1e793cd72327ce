//! What a value looks like, and which column type holds everything that was seen.
//! Pure. A set of kinds is joined by union, so the type of a column does not depend on the order,
//! the blocks or the threads in which its values were read; CSV and JSON share these rules.

use arrow::datatypes::{DataType, TimeUnit};

/// The kinds of value seen in one column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Kinds(pub u16);

impl Kinds {
    pub const NONE: Self = Self(0);
    pub const BOOL: Self = Self(1);
    /// An integer that a float holds exactly.
    pub const INT: Self = Self(1 << 1);
    /// An integer of 64 bits that a float does not hold exactly.
    pub const WIDE_INT: Self = Self(1 << 2);
    pub const FLOAT: Self = Self(1 << 3);
    pub const DATE: Self = Self(1 << 4);
    /// A date and time without a zone.
    pub const NAIVE: Self = Self(1 << 5);
    /// A date and time with a zone.
    pub const ZONED: Self = Self(1 << 6);
    pub const TEXT: Self = Self(1 << 7);
    pub const LIST: Self = Self(1 << 8);
    pub const OBJECT: Self = Self(1 << 9);

    pub fn add(&mut self, other: Self) {
        self.0 |= other.0;
    }

    pub fn within(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }

    /// The type that holds every value of these kinds without loss; text when none else does.
    pub fn scalar(self) -> Scalar {
        const INTS: Kinds = Kinds(Kinds::INT.0 | Kinds::WIDE_INT.0);
        const FLOATS: Kinds = Kinds(Kinds::INT.0 | Kinds::FLOAT.0);
        match self {
            Self::NONE => Scalar::Text,
            Self::BOOL => Scalar::Bool,
            Self::DATE => Scalar::Date,
            Self::NAIVE => Scalar::Naive,
            Self::ZONED => Scalar::Zoned,
            kinds if kinds.within(INTS) => Scalar::Int,
            kinds if kinds.within(FLOATS) => Scalar::Float,
            _ => Scalar::Text,
        }
    }
}

/// The column types that text values are parsed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scalar {
    Bool,
    Int,
    Float,
    Date,
    Naive,
    Zoned,
    Text,
}

impl Scalar {
    /// The Arrow type of a column of this scalar.
    pub fn arrow(self) -> DataType {
        match self {
            Self::Bool => DataType::Boolean,
            Self::Int => DataType::Int64,
            Self::Float => DataType::Float64,
            Self::Date => DataType::Date32,
            Self::Naive => DataType::Timestamp(TimeUnit::Microsecond, None),
            Self::Zoned => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Self::Text => DataType::Utf8,
        }
    }

    /// Whether a column of this scalar holds values of these kinds.
    pub fn accepts(self, kinds: Kinds) -> bool {
        match self {
            Self::Text => true,
            Self::Bool => kinds.within(Kinds::BOOL),
            Self::Int => kinds.within(Kinds(Kinds::INT.0 | Kinds::WIDE_INT.0)),
            Self::Float => kinds.within(Kinds(Kinds::INT.0 | Kinds::FLOAT.0)),
            Self::Date => kinds.within(Kinds::DATE),
            Self::Naive => kinds.within(Kinds::NAIVE),
            Self::Zoned => kinds.within(Kinds::ZONED),
        }
    }

    /// The scalar to parse to for a column that has to become `data_type` in the end.
    pub fn for_target(data_type: &DataType) -> Self {
        match data_type {
            DataType::Boolean => Self::Bool,
            kind if kind.is_integer() => Self::Int,
            DataType::Float64 | DataType::Float32 | DataType::Float16 => Self::Float,
            DataType::Date32 | DataType::Date64 => Self::Date,
            DataType::Timestamp(_, None) => Self::Naive,
            DataType::Timestamp(_, Some(_)) => Self::Zoned,
            _ => Self::Text,
        }
    }
}

/// A value read from text, or the text kind when it is none of the others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value {
    Bool(bool),
    Int(i64),
    Float(f64),
    /// Days since 1970-01-01.
    Date(i32),
    /// Microseconds since 1970-01-01T00:00:00, no zone.
    Naive(i64),
    /// Microseconds since 1970-01-01T00:00:00Z.
    Zoned(i64),
    Text,
}

impl Value {
    pub fn kind(self) -> Kinds {
        match self {
            Self::Bool(_) => Kinds::BOOL,
            Self::Int(value) => int_kind(value),
            Self::Float(_) => Kinds::FLOAT,
            Self::Date(_) => Kinds::DATE,
            Self::Naive(_) => Kinds::NAIVE,
            Self::Zoned(_) => Kinds::ZONED,
            Self::Text => Kinds::TEXT,
        }
    }
}

/// Whether a float holds `value` exactly.
#[inline]
pub(super) fn int_kind(value: i64) -> Kinds {
    const EXACT: u64 = 1 << 53;
    if value.unsigned_abs() <= EXACT {
        return Kinds::INT;
    }
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
    let there_and_back = i128::from(value) == (value as f64) as i128;
    if there_and_back {
        Kinds::INT
    } else {
        Kinds::WIDE_INT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_join_to_the_narrowest_type_that_loses_nothing() {
        let join = |kinds: &[Kinds]| {
            let mut all = Kinds::NONE;
            for kind in kinds {
                all.add(*kind);
            }
            all.scalar()
        };
        assert_eq!(join(&[]), Scalar::Text);
        assert_eq!(join(&[Kinds::INT, Kinds::WIDE_INT]), Scalar::Int);
        assert_eq!(join(&[Kinds::INT, Kinds::FLOAT]), Scalar::Float);
        assert_eq!(join(&[Kinds::WIDE_INT, Kinds::FLOAT]), Scalar::Text);
        assert_eq!(join(&[Kinds::BOOL, Kinds::INT]), Scalar::Text);
        assert_eq!(join(&[Kinds::DATE, Kinds::NAIVE]), Scalar::Text);
        assert_eq!(join(&[Kinds::NAIVE, Kinds::ZONED]), Scalar::Text);
    }
}
