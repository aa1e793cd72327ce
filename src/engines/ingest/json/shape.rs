//! What JSON values look like, at every path, and the Arrow type that holds all of them.
//! Pure. Joined by union like the kinds of `ingest::kinds`; the order of fields is that of their
//! first appearance in the input.

use std::collections::HashMap;

use arrow::datatypes::{DataType, Field, Fields};

use crate::engines::ingest::blocks::Shape;
use crate::engines::ingest::error::IngestError;
use crate::engines::ingest::kinds::{Kinds, Scalar};

/// Names in order, found fast when they come in the same order again.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    names: Vec<String>,
    index: HashMap<String, usize>,
}

impl Names {
    /// Finds a name; `hint` is where it would stand if this object is like the one before.
    #[inline]
    pub fn find(&self, name: &str, hint: usize) -> Option<usize> {
        match self.names.get(hint) {
            Some(expected) if expected == name => Some(hint),
            _ => self.index.get(name).copied(),
        }
    }

    pub fn add(&mut self, name: &str) -> usize {
        let position = self.names.len();
        self.names.push(name.to_owned());
        self.index.insert(name.to_owned(), position);
        position
    }

    pub fn iter(&self) -> impl Iterator<Item = &String> {
        self.names.iter()
    }
}

/// The shape of the values at one path.
#[derive(Clone, Debug, Default)]
pub(super) struct JsonShape {
    pub kinds: Kinds,
    names: Names,
    fields: Vec<JsonShape>,
    item: Option<Box<JsonShape>>,
}

impl JsonShape {
    /// Whether only text holds these values, whatever comes.
    pub fn is_text(&self) -> bool {
        self.kinds != Kinds::NONE
            && self.kinds != Kinds::LIST
            && self.kinds != Kinds::OBJECT
            && self.kinds.scalar() == Scalar::Text
    }

    /// Notes one value; forgets what is beneath once only text can hold it.
    pub fn note(&mut self, kind: Kinds) {
        self.kinds.add(kind);
        if self.is_text() && (!self.fields.is_empty() || self.item.is_some()) {
            self.names = Names::default();
            self.fields = Vec::new();
            self.item = None;
        }
    }

    /// The shape of a field, new if need be; whether it is new, and where it stands.
    pub fn field(&mut self, name: &str, hint: usize) -> (&mut Self, bool, usize) {
        let (position, new) = match self.names.find(name, hint) {
            Some(position) => (position, false),
            None => (self.names.add(name), true),
        };
        if new {
            self.fields.push(Self::default());
        }
        (&mut self.fields[position], new, position)
    }

    /// The shape of the elements of lists.
    pub fn item(&mut self) -> &mut Self {
        self.item.get_or_insert_default()
    }

    /// The named fields, in order.
    pub fn named_fields(&self) -> impl Iterator<Item = (&String, &Self)> {
        self.names.iter().zip(&self.fields)
    }

    fn merge(&mut self, next: Self) {
        self.note(next.kinds);
        if self.is_text() {
            return;
        }
        for (name, shape) in next.names.names.iter().zip(next.fields) {
            self.field(name, usize::MAX).0.merge(shape);
        }
        if let Some(item) = next.item {
            self.item().merge(*item);
        }
    }

    /// Paths at and beneath this one.
    pub fn paths(&self) -> usize {
        let item = self.item.as_ref().map_or(0, |item| item.paths());
        1 + item + self.fields.iter().map(Self::paths).sum::<usize>()
    }

    /// The type that holds every value of this shape.
    pub fn data_type(&self) -> DataType {
        match self.kinds {
            Kinds::OBJECT if !self.fields.is_empty() => DataType::Struct(self.arrow_fields()),
            Kinds::LIST => {
                let item = self
                    .item
                    .as_ref()
                    .map_or(DataType::Utf8, |item| item.data_type());
                DataType::List(Field::new_list_field(item, true).into())
            }
            Kinds::OBJECT => DataType::Utf8,
            kinds => kinds.scalar().arrow(),
        }
    }

    /// The fields of an object, all nullable.
    pub fn arrow_fields(&self) -> Fields {
        let field = |(name, shape): (&String, &Self)| Field::new(name, shape.data_type(), true);
        self.named_fields().map(field).collect()
    }

    /// Whether the values seen so far do not settle the type: none but NULL, or empty objects.
    pub fn is_open(&self) -> bool {
        self.kinds == Kinds::NONE || (self.kinds == Kinds::OBJECT && self.fields.is_empty())
    }

    /// The shape of the field of that name.
    pub fn get(&self, name: &str) -> Option<&Self> {
        self.names
            .find(name, usize::MAX)
            .map(|position| &self.fields[position])
    }

    /// Whether a column of this type holds every value of this shape.
    pub fn fits(&self, data_type: &DataType) -> bool {
        match data_type {
            DataType::Struct(fields) => {
                let known = |(name, shape): (&String, &Self)| {
                    fields
                        .find(name)
                        .is_some_and(|(_, field)| shape.fits(field.data_type()))
                };
                self.kinds.within(Kinds::OBJECT) && self.named_fields().all(known)
            }
            DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
                let item_fits = self
                    .item
                    .as_ref()
                    .is_none_or(|shape| shape.fits(item.data_type()));
                self.kinds.within(Kinds::LIST) && item_fits
            }
            scalar => Scalar::for_target(scalar).accepts(self.kinds),
        }
    }

    /// The shape of list elements, if any was seen.
    pub fn get_item(&self) -> Option<&Self> {
        self.item.as_deref()
    }
}

/// The shape of all rows, held to a number of paths.
#[derive(Clone, Debug, Default)]
pub(super) struct RowShape {
    pub root: JsonShape,
    pub paths_max: usize,
    /// Names of the columns with a value that did not fit.
    pub misfits: Vec<String>,
}

impl Shape for RowShape {
    fn join(&mut self, next: Self) -> Result<(), IngestError> {
        self.root.merge(next.root);
        for name in next.misfits {
            if !self.misfits.contains(&name) {
                self.misfits.push(name);
            }
        }
        if self.root.paths() > self.paths_max + 1 {
            return Err(IngestError::TooManyColumns {
                limit: self.paths_max,
            });
        }
        Ok(())
    }
}
