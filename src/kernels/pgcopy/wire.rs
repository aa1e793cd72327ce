//! What a field of a binary `COPY` is, and the Arrow type that a column of it becomes. Pure.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, IntervalUnit, TimeUnit};

/// What a field of a binary `COPY` looks like, and so what it is decoded as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wire {
    /// `bool`.
    Bool,
    /// `smallint`.
    Int2,
    /// `integer`.
    Int4,
    /// `bigint`.
    Int8,
    /// `oid`.
    Oid,
    /// `real`.
    Float4,
    /// `double precision`.
    Float8,
    /// A `numeric` whose declared precision fits 38 digits.
    Decimal {
        /// Digits in all, 1 to 38.
        precision: u8,
        /// Digits behind the point.
        scale: i8,
    },
    /// Everything that ends up as UTF-8.
    Text(TextWire),
    /// `bytea`.
    Bytea,
    /// `date`.
    Date,
    /// `time`.
    Time,
    /// `timestamp`.
    Timestamp,
    /// `timestamptz`, in UTC.
    TimestampTz,
    /// `interval`.
    Interval,
    /// One dimension of another type, which is no list.
    List(Box<Wire>),
}

/// How the bytes of a text column are turned into text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextWire {
    /// They are the text.
    Plain,
    /// `char(n)`: trailing blanks mean nothing.
    Padded,
    /// `"char"`: one byte.
    Byte,
    /// A version byte, then the text.
    Jsonb,
    /// 16 bytes.
    Uuid,
    /// A `numeric` of any size, to its exact digits.
    Numeric,
    /// `inet` and `cidr`.
    Inet,
}

impl Wire {
    /// The Arrow type that a column of it has.
    pub fn arrow(&self) -> DataType {
        match self {
            Self::Bool => DataType::Boolean,
            Self::Int2 => DataType::Int16,
            Self::Int4 => DataType::Int32,
            Self::Int8 => DataType::Int64,
            Self::Oid => DataType::UInt32,
            Self::Float4 => DataType::Float32,
            Self::Float8 => DataType::Float64,
            Self::Decimal { precision, scale } => DataType::Decimal128(*precision, *scale),
            Self::Text(_) => DataType::Utf8,
            Self::Bytea => DataType::Binary,
            Self::Date => DataType::Date32,
            Self::Time => DataType::Time64(TimeUnit::Microsecond),
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            Self::TimestampTz => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Self::Interval => DataType::Interval(IntervalUnit::MonthDayNano),
            Self::List(item) => DataType::List(Arc::new(Self::item_field(item))),
        }
    }

    /// The field of a list's items.
    pub fn item_field(item: &Self) -> Field {
        Field::new_list_field(item.arrow(), true)
    }

    /// Whether `isfinite` can be asked of it.
    pub fn has_infinities(&self) -> bool {
        matches!(self, Self::Date | Self::Timestamp | Self::TimestampTz)
    }
}
