//! From the generator's rows to Arrow columns: one function a table, its fields in schema order.
//! `batches` drives them.

use std::fmt::{Display, Write as _};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Date32Builder, Decimal128Builder, Int64Builder, RecordBatch, StringBuilder,
};
use arrow::datatypes::{DataType, SchemaRef};
use tpchgen::dates::TPCHDate;
use tpchgen::decimal::TPCHDecimal;
use tpchgen::generators::{Customer, LineItem, Nation, Order, Part, PartSupp, Region, Supplier};

use super::schema::DECIMAL;

enum Column {
    Int(Int64Builder),
    Decimal(Decimal128Builder),
    Date(Date32Builder),
    Text(StringBuilder),
}

impl Column {
    fn new(kind: &DataType, rows: usize) -> Self {
        match kind {
            DataType::Int64 => Self::Int(Int64Builder::with_capacity(rows)),
            DataType::Date32 => Self::Date(Date32Builder::with_capacity(rows)),
            DataType::Utf8 => Self::Text(StringBuilder::with_capacity(rows, rows * 24)),
            _ => Self::Decimal(Decimal128Builder::with_capacity(rows)),
        }
    }

    fn finish(self) -> ArrayRef {
        match self {
            Self::Int(mut values) => Arc::new(values.finish()),
            Self::Date(mut values) => Arc::new(values.finish()),
            Self::Text(mut values) => Arc::new(values.finish()),
            Self::Decimal(mut values) => Arc::new(
                values
                    .finish()
                    .with_precision_and_scale(DECIMAL.0, DECIMAL.1)
                    .expect("the precision is one that Arrow has"),
            ),
        }
    }
}

/// A record batch under construction. A row is written field by field, in the schema's order; a
/// field of another type than its column's is a mistake in this file and panics.
pub(super) struct Sink {
    schema: SchemaRef,
    columns: Vec<Column>,
    next: usize,
}

impl Sink {
    pub(super) fn new(schema: SchemaRef, rows: usize) -> Self {
        let columns = schema
            .fields()
            .iter()
            .map(|field| Column::new(field.data_type(), rows));
        Self {
            columns: columns.collect(),
            next: 0,
            schema,
        }
    }

    pub(super) fn finish(self) -> RecordBatch {
        let columns = self.columns.into_iter().map(Column::finish).collect();
        RecordBatch::try_new(self.schema, columns).expect("every row filled every column")
    }

    #[inline]
    fn column(&mut self) -> &mut Column {
        let at = self.next;
        self.next = if at + 1 == self.columns.len() {
            0
        } else {
            at + 1
        };
        &mut self.columns[at]
    }

    #[inline]
    fn int(&mut self, value: impl Into<i64>) -> &mut Self {
        match self.column() {
            Column::Int(values) => values.append_value(value.into()),
            _ => unreachable!("a whole number for a column of another type"),
        }
        self
    }

    /// Hundredths.
    #[inline]
    fn hundredths(&mut self, value: i64) -> &mut Self {
        match self.column() {
            Column::Decimal(values) => values.append_value(i128::from(value)),
            _ => unreachable!("a decimal for a column of another type"),
        }
        self
    }

    #[inline]
    fn decimal(&mut self, value: TPCHDecimal) -> &mut Self {
        self.hundredths(value.into_inner())
    }

    #[inline]
    fn date(&mut self, value: TPCHDate) -> &mut Self {
        match self.column() {
            Column::Date(values) => values.append_value(value.to_unix_epoch()),
            _ => unreachable!("a date for a column of another type"),
        }
        self
    }

    #[inline]
    fn text(&mut self, value: &str) -> &mut Self {
        match self.column() {
            Column::Text(values) => values.append_value(value),
            _ => unreachable!("text for a column of another type"),
        }
        self
    }

    /// A value whose text form is the field.
    #[inline]
    fn shown(&mut self, value: &impl Display) -> &mut Self {
        match self.column() {
            Column::Text(values) => {
                write!(values, "{value}").expect("writing to a builder cannot fail");
                values.append_value("");
            }
            _ => unreachable!("text for a column of another type"),
        }
        self
    }
}

pub(super) fn region(row: &Region<'_>, sink: &mut Sink) {
    sink.int(row.r_regionkey)
        .text(row.r_name)
        .text(row.r_comment);
}

pub(super) fn nation(row: &Nation<'_>, sink: &mut Sink) {
    sink.int(row.n_nationkey)
        .text(row.n_name)
        .int(row.n_regionkey)
        .text(row.n_comment);
}

pub(super) fn supplier(row: &Supplier, sink: &mut Sink) {
    sink.int(row.s_suppkey)
        .shown(&row.s_name)
        .shown(&row.s_address)
        .int(row.s_nationkey);
    sink.shown(&row.s_phone)
        .decimal(row.s_acctbal)
        .text(&row.s_comment);
}

pub(super) fn customer(row: &Customer<'_>, sink: &mut Sink) {
    sink.int(row.c_custkey)
        .shown(&row.c_name)
        .shown(&row.c_address)
        .int(row.c_nationkey);
    sink.shown(&row.c_phone)
        .decimal(row.c_acctbal)
        .text(row.c_mktsegment)
        .text(row.c_comment);
}

pub(super) fn part(row: &Part<'_>, sink: &mut Sink) {
    sink.int(row.p_partkey)
        .shown(&row.p_name)
        .shown(&row.p_mfgr)
        .shown(&row.p_brand);
    sink.text(row.p_type)
        .int(row.p_size)
        .text(row.p_container)
        .decimal(row.p_retailprice);
    sink.text(row.p_comment);
}

pub(super) fn partsupp(row: &PartSupp<'_>, sink: &mut Sink) {
    sink.int(row.ps_partkey)
        .int(row.ps_suppkey)
        .int(row.ps_availqty)
        .decimal(row.ps_supplycost);
    sink.text(row.ps_comment);
}

pub(super) fn order(row: &Order<'_>, sink: &mut Sink) {
    sink.int(row.o_orderkey)
        .int(row.o_custkey)
        .text(row.o_orderstatus.as_str());
    sink.decimal(row.o_totalprice)
        .date(row.o_orderdate)
        .text(row.o_orderpriority);
    sink.shown(&row.o_clerk)
        .int(row.o_shippriority)
        .text(row.o_comment);
}

pub(super) fn line_item(row: &LineItem<'_>, sink: &mut Sink) {
    sink.int(row.l_orderkey)
        .int(row.l_partkey)
        .int(row.l_suppkey)
        .int(row.l_linenumber);
    sink.hundredths(row.l_quantity * 100)
        .decimal(row.l_extendedprice);
    sink.decimal(row.l_discount).decimal(row.l_tax);
    sink.text(row.l_returnflag).text(row.l_linestatus);
    sink.date(row.l_shipdate)
        .date(row.l_commitdate)
        .date(row.l_receiptdate);
    sink.text(row.l_shipinstruct)
        .text(row.l_shipmode)
        .text(row.l_comment);
}
