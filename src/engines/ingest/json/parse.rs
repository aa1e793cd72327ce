//! One block of JSON to one batch: rows as lines, as elements of an array, or in sequence.
//! Pure; shared by all threads of an ingest. `super` makes the plan.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;

use super::boundary::Rows;
use super::build::Builder;
use super::shape::{JsonShape, RowShape};
use super::walk::{Fault, Walker};
use crate::engines::ingest::blocks::{BlockParser, Parsed, Place, line_and_column, valid_text};
use crate::engines::ingest::error::IngestError;
use crate::engines::ingest::keys::KeyPlan;
use crate::engines::ingest::schema::to_type;

/// How rows become columns.
pub(super) struct JsonParser {
    pub(super) rows: Rows,
    pub(super) schema: SchemaRef,
    /// The shape that the schema was inferred from; none when the schema was given.
    pub(super) planned: Option<JsonShape>,
    /// Whether shapes are noted: not once the types of the whole file are known.
    pub(super) noting: bool,
    pub(super) key: Option<Arc<KeyPlan>>,
    pub(super) paths_max: usize,
    pub(super) row_bytes_max: usize,
}

/// The state of one block.
struct BlockWalk<'a> {
    walker: Walker<'a>,
    shape: Option<JsonShape>,
    builder: Option<Builder>,
    row_starts: Vec<usize>,
    row_bytes_max: usize,
}

impl BlockWalk<'_> {
    fn row(&mut self) -> Result<(), Fault> {
        self.walker.peek();
        let start = self.walker.at;
        self.row_starts.push(start);
        self.walker
            .row(self.shape.as_mut(), self.builder.as_mut())?;
        if self.walker.at - start > self.row_bytes_max {
            return Err(Fault {
                at: start,
                reason: TOO_LONG,
            });
        }
        Ok(())
    }

    /// Rows as elements of an array, of which this block is a part.
    fn elements(&mut self, place: Place) -> Result<(), Fault> {
        if place.first {
            if self.walker.peek() != Some(b'[') {
                return Err(self.walker.fault("expected an array of objects"));
            }
            self.walker.at += 1;
            if self.walker.peek() == Some(b']') {
                self.walker.at += 1;
                return self.end();
            }
        }
        loop {
            if self.walker.peek().is_none() && !place.last {
                return Ok(());
            }
            self.row()?;
            match self.walker.peek() {
                Some(b',') => self.walker.at += 1,
                Some(b']') => {
                    self.walker.at += 1;
                    return self.end();
                }
                Some(_) => return Err(self.walker.fault("expected `,` or `]` after an element")),
                None => return Err(self.walker.fault("the array is never closed")),
            }
        }
    }

    fn sequence(&mut self) -> Result<(), Fault> {
        while self.walker.peek().is_some() {
            self.row()?;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), Fault> {
        match self.walker.peek() {
            None => Ok(()),
            Some(_) => Err(self.walker.fault("text after the end of the array")),
        }
    }
}

const TOO_LONG: &str = "the row is too long";

impl JsonParser {
    fn walk<'a>(
        &self,
        text: &'a [u8],
        place: Place,
        build: bool,
    ) -> Result<BlockWalk<'a>, IngestError> {
        let mut walk = BlockWalk {
            walker: Walker::new(text, self.paths_max),
            shape: self.noting.then(JsonShape::default),
            builder: build.then(|| Builder::rows(self.schema.fields(), self.planned.as_ref())),
            row_starts: Vec::new(),
            row_bytes_max: self.row_bytes_max,
        };
        let result = match self.rows {
            Rows::Lines => return self.lines(walk, text),
            Rows::Elements => walk.elements(place),
            Rows::Sequence => walk.sequence(),
        };
        match result {
            Ok(()) => Ok(walk),
            Err(fault) => Err(self.error(&walk, text, fault)),
        }
    }

    /// Rows as lines: no row goes beyond its line.
    fn lines<'a>(
        &self,
        mut walk: BlockWalk<'a>,
        text: &'a [u8],
    ) -> Result<BlockWalk<'a>, IngestError> {
        let mut start = 0;
        while start < text.len() {
            let end = memchr::memchr(b'\n', &text[start..]).map_or(text.len(), |at| start + at);
            walk.walker.narrow(&text[..end], start);
            let mut result = Ok(());
            if walk.walker.peek().is_some() {
                result = walk.row();
                if result.is_ok() && walk.walker.peek().is_some() {
                    result = Err(walk.walker.fault("text after the row"));
                }
            }
            result.map_err(|fault| self.error(&walk, text, fault))?;
            start = end + 1;
        }
        Ok(walk)
    }

    fn error(&self, walk: &BlockWalk<'_>, text: &[u8], fault: Fault) -> IngestError {
        let (line, column) = line_and_column(text, fault.at);
        if walk.walker.too_many_paths {
            return IngestError::TooManyColumns {
                limit: self.paths_max,
            };
        }
        if fault.reason == TOO_LONG {
            return IngestError::RowTooLong {
                line,
                limit_bytes: self.row_bytes_max as u64,
            };
        }
        IngestError::JsonSyntax {
            line,
            column,
            reason: fault.reason,
        }
    }

    /// The rows in the types of the schema; the names of the columns that do not fit otherwise.
    fn batch(&self, builder: Builder) -> Result<Result<RecordBatch, Vec<String>>, IngestError> {
        let internal = |error: arrow::error::ArrowError| IngestError::Internal(error.to_string());
        let rows = builder.finish().map_err(internal)?;
        let rows = rows.as_struct();
        let mut arrays: Vec<ArrayRef> = Vec::with_capacity(rows.num_columns());
        let mut misfits = Vec::new();
        for (field, array) in self.schema.fields().iter().zip(rows.columns()) {
            match to_type(array, field.data_type()) {
                Ok(array) if field.is_nullable() || array.null_count() == 0 => arrays.push(array),
                _ => misfits.push(field.name().clone()),
            }
        }
        if !misfits.is_empty() {
            return Ok(Err(misfits));
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), arrays, &options);
        batch.map(Ok).map_err(internal)
    }

    fn with_line(error: IngestError, text: &[u8], row_starts: &[usize]) -> IngestError {
        match error {
            IngestError::NullKey { column, row, .. } => {
                let start = row_starts.get(usize::try_from(row - 1).unwrap_or_default());
                let line = start.map(|start| line_and_column(text, *start).0);
                IngestError::NullKey { column, row, line }
            }
            other => other,
        }
    }
}

impl BlockParser for JsonParser {
    type Shape = RowShape;

    fn parse(
        &self,
        text: &[u8],
        place: Place,
        build: bool,
    ) -> Result<Parsed<RowShape>, IngestError> {
        if place.overlong {
            return Err(IngestError::RowTooLong {
                line: 1,
                limit_bytes: self.row_bytes_max as u64,
            });
        }
        let (valid, bad_text) = valid_text(text);
        let walked = self.walk(valid, place, build);
        let mut walk = match (walked, bad_text) {
            (Err(error), Some(bad)) if error.line() >= bad.line() => return Err(bad),
            (Err(error), _) => return Err(error),
            (Ok(_), Some(bad)) => return Err(bad),
            (Ok(walk), None) => walk,
        };
        let mut shape = RowShape {
            root: walk.shape.take().unwrap_or_default(),
            paths_max: self.paths_max,
            misfits: Vec::new(),
        };
        let builder = walk.builder.take().filter(|_| walk.walker.fits);
        let batch = match builder.map(|builder| self.batch(builder)).transpose()? {
            Some(Ok(batch)) => Some(batch),
            Some(Err(misfits)) => {
                shape.misfits = misfits;
                None
            }
            None => None,
        };
        let span = match (&batch, &self.key) {
            (Some(batch), Some(key)) => Some(
                key.span(batch)
                    .map_err(|error| Self::with_line(error, text, &walk.row_starts))?,
            ),
            _ => None,
        };
        Ok(Parsed { batch, span, shape })
    }
}
