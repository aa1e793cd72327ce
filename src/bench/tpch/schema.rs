//! The eight tables of TPC-H: names, keys and Arrow schemas.
//! Keys and whole numbers are `Int64`, money `Decimal128(15, 2)`, dates `Date32`, the rest `Utf8`;
//! nothing is nullable.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

/// Digits and decimal places of every decimal column.
pub(super) const DECIMAL: (u8, i8) = (15, 2);

/// One of the eight tables, referenced ones first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TpchTable {
    /// 5 rows at any scale.
    Region,
    /// 25 rows at any scale.
    Nation,
    /// 10,000 rows times the scale factor.
    Supplier,
    /// 150,000 rows times the scale factor.
    Customer,
    /// 200,000 rows times the scale factor.
    Part,
    /// 800,000 rows times the scale factor.
    PartSupp,
    /// 1,500,000 rows times the scale factor.
    Orders,
    /// About 6,000,000 rows times the scale factor.
    LineItem,
}

impl TpchTable {
    /// All eight, referenced ones first.
    pub const ALL: [Self; 8] = [
        Self::Region,
        Self::Nation,
        Self::Supplier,
        Self::Customer,
        Self::Part,
        Self::PartSupp,
        Self::Orders,
        Self::LineItem,
    ];

    /// The table's name in the queries.
    pub fn name(self) -> &'static str {
        match self {
            Self::Region => "region",
            Self::Nation => "nation",
            Self::Supplier => "supplier",
            Self::Customer => "customer",
            Self::Part => "part",
            Self::PartSupp => "partsupp",
            Self::Orders => "orders",
            Self::LineItem => "lineitem",
        }
    }

    /// The key column of a table that has a key of one column.
    pub fn key(self) -> Option<&'static str> {
        match self {
            Self::PartSupp | Self::LineItem => None,
            _ => Some(self.columns()[0].0),
        }
    }

    /// The Arrow schema.
    pub fn schema(self) -> SchemaRef {
        let field = |(name, kind): &(&str, Kind)| Field::new(*name, kind.data_type(), false);
        Arc::new(Schema::new(
            self.columns().iter().map(field).collect::<Vec<_>>(),
        ))
    }

    /// Rows at a scale factor; none for `lineitem`, whose number is known only once it is made.
    pub fn row_count(self, scale_factor: f64) -> Option<u64> {
        let base = match self {
            Self::Region => return Some(5),
            Self::Nation => return Some(25),
            Self::Supplier => 10_000,
            Self::Customer => 150_000,
            Self::Part => 200_000,
            Self::PartSupp => 800_000,
            Self::Orders => 1_500_000,
            Self::LineItem => return None,
        };
        Some(scaled(base, scale_factor))
    }

    /// How many parts `batches` should be asked for so that one holds about `rows` rows.
    pub(super) fn parts(self, scale_factor: f64, rows: u64) -> i32 {
        let all = match self {
            // An order has four lines on average.
            Self::LineItem => Self::Orders
                .row_count(scale_factor)
                .map(|orders| orders * 4),
            _ => self.row_count(scale_factor),
        };
        let parts = all.unwrap_or(1).div_ceil(rows).max(1);
        match self {
            // They are never split: every part would be the whole.
            Self::Region | Self::Nation => 1,
            _ => i32::try_from(parts).unwrap_or(i32::MAX),
        }
    }

    fn columns(self) -> &'static [(&'static str, Kind)] {
        match self {
            Self::Region => &[("r_regionkey", Int), ("r_name", Text), ("r_comment", Text)],
            Self::Nation => &[
                ("n_nationkey", Int),
                ("n_name", Text),
                ("n_regionkey", Int),
                ("n_comment", Text),
            ],
            Self::Supplier => SUPPLIER,
            Self::Customer => CUSTOMER,
            Self::Part => PART,
            Self::PartSupp => PARTSUPP,
            Self::Orders => ORDERS,
            Self::LineItem => LINEITEM,
        }
    }
}

/// The generator's own rounding: down, and none below nothing.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float saturates"
)]
fn scaled(base: u32, scale_factor: f64) -> u64 {
    (f64::from(base) * scale_factor) as u64
}

#[derive(Clone, Copy)]
enum Kind {
    Int,
    Decimal,
    Date,
    Text,
}

use Kind::{Date, Decimal, Int, Text};

impl Kind {
    fn data_type(self) -> DataType {
        match self {
            Self::Int => DataType::Int64,
            Self::Decimal => DataType::Decimal128(DECIMAL.0, DECIMAL.1),
            Self::Date => DataType::Date32,
            Self::Text => DataType::Utf8,
        }
    }
}

const SUPPLIER: &[(&str, Kind)] = &[
    ("s_suppkey", Int),
    ("s_name", Text),
    ("s_address", Text),
    ("s_nationkey", Int),
    ("s_phone", Text),
    ("s_acctbal", Decimal),
    ("s_comment", Text),
];

const CUSTOMER: &[(&str, Kind)] = &[
    ("c_custkey", Int),
    ("c_name", Text),
    ("c_address", Text),
    ("c_nationkey", Int),
    ("c_phone", Text),
    ("c_acctbal", Decimal),
    ("c_mktsegment", Text),
    ("c_comment", Text),
];

const PART: &[(&str, Kind)] = &[
    ("p_partkey", Int),
    ("p_name", Text),
    ("p_mfgr", Text),
    ("p_brand", Text),
    ("p_type", Text),
    ("p_size", Int),
    ("p_container", Text),
    ("p_retailprice", Decimal),
    ("p_comment", Text),
];

const PARTSUPP: &[(&str, Kind)] = &[
    ("ps_partkey", Int),
    ("ps_suppkey", Int),
    ("ps_availqty", Int),
    ("ps_supplycost", Decimal),
    ("ps_comment", Text),
];

const ORDERS: &[(&str, Kind)] = &[
    ("o_orderkey", Int),
    ("o_custkey", Int),
    ("o_orderstatus", Text),
    ("o_totalprice", Decimal),
    ("o_orderdate", Date),
    ("o_orderpriority", Text),
    ("o_clerk", Text),
    ("o_shippriority", Int),
    ("o_comment", Text),
];

const LINEITEM: &[(&str, Kind)] = &[
    ("l_orderkey", Int),
    ("l_partkey", Int),
    ("l_suppkey", Int),
    ("l_linenumber", Int),
    ("l_quantity", Decimal),
    ("l_extendedprice", Decimal),
    ("l_discount", Decimal),
    ("l_tax", Decimal),
    ("l_returnflag", Text),
    ("l_linestatus", Text),
    ("l_shipdate", Date),
    ("l_commitdate", Date),
    ("l_receiptdate", Date),
    ("l_shipinstruct", Text),
    ("l_shipmode", Text),
    ("l_comment", Text),
];
