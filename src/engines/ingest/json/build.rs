//! Arrow builders for JSON values of a known type: a tree that mirrors the schema.
//! Pure; `super::walk` drives it. A child that a row leaves out is filled with NULL on demand.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, BooleanBufferBuilder, Date32Array, Float64Array, Int64Array,
    ListArray, NullBufferBuilder, StringArray, StructArray, TimestampMicrosecondArray,
};
use arrow::buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, Fields};
use arrow::error::ArrowError;

use super::shape::{JsonShape, Names};
use crate::engines::ingest::kinds::{Kinds, Scalar, Value};

/// A column under construction.
pub(super) struct Builder {
    nulls: NullBufferBuilder,
    pub data: Data,
}

/// What a builder holds.
pub(super) enum Data {
    Bool(BooleanBufferBuilder),
    Int(Vec<i64>),
    Float(Vec<f64>),
    Date(Vec<i32>),
    Naive(Vec<i64>),
    Zoned(Vec<i64>),
    Text {
        offsets: Vec<i32>,
        bytes: Vec<u8>,
        /// No value settled the type yet, so only what is surely text fits.
        open: bool,
    },
    List {
        offsets: Vec<i32>,
        item: Box<Builder>,
    },
    Struct {
        names: Names,
        fields: Vec<Builder>,
    },
}

impl Builder {
    /// A builder for a type; `shape`, where there is one, says which text columns are still open.
    pub fn new(data_type: &DataType, shape: Option<&JsonShape>) -> Self {
        let data = match data_type {
            DataType::Struct(fields) => return Self::rows(fields, shape),
            DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
                let open = JsonShape::default();
                let shape = shape.map(|shape| shape.get_item().unwrap_or(&open));
                Data::List {
                    offsets: vec![0],
                    item: Box::new(Self::new(item.data_type(), shape)),
                }
            }
            _ => Data::scalar(
                Scalar::for_target(data_type),
                shape.is_some_and(JsonShape::is_open),
            ),
        };
        Self {
            nulls: NullBufferBuilder::new(0),
            data,
        }
    }

    /// A builder for objects with these fields.
    pub fn rows(fields: &Fields, shape: Option<&JsonShape>) -> Self {
        let mut names = Names::default();
        let mut builders = Vec::with_capacity(fields.len());
        for field in fields {
            names.add(field.name());
            let shape = shape.and_then(|shape| shape.get(field.name()));
            builders.push(Self::new(field.data_type(), shape));
        }
        Self {
            nulls: NullBufferBuilder::new(0),
            data: Data::Struct {
                names,
                fields: builders,
            },
        }
    }

    /// Values so far.
    pub fn len(&self) -> usize {
        self.nulls.len()
    }

    /// Fills up with NULL to a length.
    pub fn pad_to(&mut self, length: usize) {
        while self.len() < length {
            self.append_null();
        }
    }

    pub fn append_null(&mut self) {
        self.nulls.append_null();
        match &mut self.data {
            Data::Bool(values) => values.append(false),
            Data::Int(values) | Data::Naive(values) | Data::Zoned(values) => values.push(0),
            Data::Float(values) => values.push(0.0),
            Data::Date(values) => values.push(0),
            Data::Text { offsets, bytes, .. } => offsets.push(narrow(bytes.len())),
            Data::List { offsets, item } => offsets.push(narrow(item.len())),
            Data::Struct { .. } => {}
        }
    }

    /// Ends a list or an object whose children are in place.
    pub fn append_nested(&mut self) {
        self.nulls.append_non_null();
        if let Data::List { offsets, item } = &mut self.data {
            offsets.push(narrow(item.len()));
        }
    }

    /// Appends text to a text column.
    pub fn append_text(&mut self, text: &[u8]) {
        if let Data::Text { offsets, bytes, .. } = &mut self.data {
            bytes.extend_from_slice(text);
            offsets.push(narrow(bytes.len()));
            self.nulls.append_non_null();
        }
    }

    /// Appends a value that is no text column's; says whether it fits (else it is NULL).
    #[allow(clippy::cast_precision_loss)]
    pub fn append(&mut self, value: Value) -> bool {
        match (&mut self.data, value) {
            (Data::Bool(values), Value::Bool(value)) => values.append(value),
            (Data::Int(values), Value::Int(value))
            | (Data::Naive(values), Value::Naive(value))
            | (Data::Zoned(values), Value::Zoned(value)) => values.push(value),
            (Data::Float(values), Value::Float(value)) => values.push(value),
            (Data::Float(values), Value::Int(number)) if value.kind() == Kinds::INT => {
                values.push(number as f64);
            }
            (Data::Date(values), Value::Date(value)) => values.push(value),
            _ => {
                self.append_null();
                return false;
            }
        }
        self.nulls.append_non_null();
        true
    }

    /// The finished column.
    pub fn finish(self) -> Result<ArrayRef, ArrowError> {
        let mut nulls = self.nulls;
        let length = nulls.len();
        let nulls = nulls.finish();
        Ok(match self.data {
            Data::Bool(mut values) => Arc::new(BooleanArray::new(values.finish(), nulls)),
            Data::Int(values) => Arc::new(Int64Array::new(values.into(), nulls)),
            Data::Float(values) => Arc::new(Float64Array::new(values.into(), nulls)),
            Data::Date(values) => Arc::new(Date32Array::new(values.into(), nulls)),
            Data::Naive(values) => Arc::new(TimestampMicrosecondArray::new(values.into(), nulls)),
            Data::Zoned(values) => {
                Arc::new(TimestampMicrosecondArray::new(values.into(), nulls).with_timezone("UTC"))
            }
            Data::Text { offsets, bytes, .. } => Arc::new(StringArray::try_new(
                offset_buffer(offsets),
                Buffer::from_vec(bytes),
                nulls,
            )?),
            Data::List { offsets, item } => {
                let item = item.finish()?;
                let field = Field::new_list_field(item.data_type().clone(), true);
                Arc::new(ListArray::try_new(
                    field.into(),
                    offset_buffer(offsets),
                    item,
                    nulls,
                )?)
            }
            Data::Struct { names, fields } => {
                let arrays = finish_fields(fields, length)?;
                let field = |(name, array): (&String, &ArrayRef)| {
                    Field::new(name, array.data_type().clone(), true)
                };
                let fields: Fields = names.iter().zip(&arrays).map(field).collect();
                Arc::new(StructArray::try_new_with_length(
                    fields, arrays, nulls, length,
                )?)
            }
        })
    }
}

fn finish_fields(fields: Vec<Builder>, length: usize) -> Result<Vec<ArrayRef>, ArrowError> {
    let finish = |mut field: Builder| {
        field.pad_to(length);
        field.finish()
    };
    fields.into_iter().map(finish).collect()
}

impl Data {
    fn scalar(scalar: Scalar, open: bool) -> Self {
        match scalar {
            Scalar::Bool => Self::Bool(BooleanBufferBuilder::new(0)),
            Scalar::Int => Self::Int(Vec::new()),
            Scalar::Float => Self::Float(Vec::new()),
            Scalar::Date => Self::Date(Vec::new()),
            Scalar::Naive => Self::Naive(Vec::new()),
            Scalar::Zoned => Self::Zoned(Vec::new()),
            Scalar::Text => Self::Text {
                offsets: vec![0],
                bytes: Vec::new(),
                open,
            },
        }
    }
}

fn narrow(length: usize) -> i32 {
    i32::try_from(length).expect("a block is far smaller than 2 GiB")
}

fn offset_buffer(offsets: Vec<i32>) -> OffsetBuffer<i32> {
    OffsetBuffer::new(ScalarBuffer::from(offsets))
}
