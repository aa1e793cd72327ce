//! One block of CSV to one batch: the plan of every column, and how well the values fit it.
//! Pure; shared by all threads of an ingest. `super` makes the plans.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Field, SchemaRef};

use super::columns::{Cells, kinds_of, parse_column};
use super::tokens::{self, CsvBoundary, Rules, tokenize};
use crate::engines::ingest::blocks::{
    BlockParser, Boundary, Parsed, Place, Shape, line_and_column, valid_text,
};
use crate::engines::ingest::error::IngestError;
use crate::engines::ingest::keys::KeyPlan;
use crate::engines::ingest::kinds::{Kinds, Scalar};
use crate::engines::ingest::schema::to_type;

/// What one block, or all of them, hold in one column.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ColumnShape {
    pub(super) kinds: Kinds,
    /// A value that the target type does not hold, or a NULL where none may be.
    pub(super) misfit: Option<Misfit>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Misfit {
    Value,
    Null,
}

#[derive(Clone, Debug, Default)]
pub(super) struct CsvShape(pub(super) Vec<ColumnShape>);

impl Shape for CsvShape {
    fn join(&mut self, next: Self) -> Result<(), IngestError> {
        if self.0.is_empty() {
            self.0 = next.0;
            return Ok(());
        }
        for (all, next) in self.0.iter_mut().zip(next.0) {
            all.kinds.add(next.kinds);
            all.misfit = all.misfit.or(next.misfit);
        }
        Ok(())
    }
}

/// How one column of the file is read.
#[derive(Clone, Debug)]
pub(super) struct ColumnPlan {
    pub(super) scalar: Scalar,
    /// The field that it becomes.
    pub(super) field: Field,
    /// Whether its kinds matter although it is read as text.
    pub(super) classify_text: bool,
    /// Its type was inferred, so a misfit widens it.
    pub(super) inferred: bool,
}

/// How the rows of a file are read.
pub(super) struct CsvParser {
    pub(super) rules: Rules,
    /// In the order of the file.
    pub(super) columns: Vec<ColumnPlan>,
    /// The file's column for each column of `schema`.
    pub(super) order: Vec<usize>,
    pub(super) schema: SchemaRef,
    pub(super) key: Option<Arc<KeyPlan>>,
}

impl CsvParser {
    fn batch(
        &self,
        arrays: &[Option<ArrayRef>],
        rows: usize,
    ) -> Option<Result<RecordBatch, IngestError>> {
        let ordered: Option<Vec<ArrayRef>> = self
            .order
            .iter()
            .map(|column| arrays[*column].clone())
            .collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), ordered?, &options);
        Some(batch.map_err(|error| IngestError::Internal(error.to_string())))
    }

    /// Adds the line to an error that names a row.
    fn with_line(&self, error: IngestError, text: &[u8], fields: &[tokens::Field]) -> IngestError {
        match error {
            IngestError::NullKey { column, row, .. } => {
                let index = usize::try_from(row - 1).unwrap_or_default() * self.rules.width;
                let line = fields
                    .get(index)
                    .map(|field| line_and_column(text, field.start()).0);
                IngestError::NullKey { column, row, line }
            }
            other => other,
        }
    }
}

/// One column of a block as its plan says, and what it holds.
fn read_column(
    cells: Cells<'_>,
    plan: &ColumnPlan,
    build: bool,
) -> (Option<ArrayRef>, ColumnShape) {
    if !build {
        let wanted = plan.scalar != Scalar::Text || plan.classify_text;
        let kinds = if wanted { kinds_of(cells) } else { Kinds::NONE };
        return (None, plan.shape(kinds, None));
    }
    let column = parse_column(cells, plan.scalar, plan.classify_text);
    let Some(array) = column.array else {
        return (None, plan.shape(column.kinds, Some(Misfit::Value)));
    };
    let Ok(array) = to_type(&array, plan.field.data_type()) else {
        return (None, plan.shape(column.kinds, Some(Misfit::Value)));
    };
    let misfit = (!plan.field.is_nullable() && array.null_count() > 0).then_some(Misfit::Null);
    let shape = plan.shape(column.kinds, misfit);
    (shape.misfit.is_none().then_some(array), shape)
}

impl ColumnPlan {
    /// Adds to a shape what the kinds say by themselves.
    fn shape(&self, kinds: Kinds, misfit: Option<Misfit>) -> ColumnShape {
        let widens = self.inferred && self.classify_text && kinds.scalar() != Scalar::Text;
        let by_kinds = !self.scalar.accepts(kinds) || (widens && kinds != Kinds::NONE);
        ColumnShape {
            kinds,
            misfit: misfit.or(by_kinds.then_some(Misfit::Value)),
        }
    }
}

impl BlockParser for CsvParser {
    type Shape = CsvShape;

    fn parse(
        &self,
        text: &[u8],
        place: Place,
        build: bool,
    ) -> Result<Parsed<CsvShape>, IngestError> {
        if place.overlong {
            return Err(overlong(text, self.rules));
        }
        let (valid, bad_text) = valid_text(text);
        let fields = match bad_text {
            None => tokenize(valid, self.rules)?,
            Some(error) => return Err(first_error(valid, self.rules, error)),
        };
        let width = self.rules.width;
        let parts = self.columns.iter().enumerate().map(|(index, plan)| {
            let cells = Cells::new(text, &fields, width, index);
            read_column(cells, plan, build)
        });
        let (arrays, shapes): (Vec<_>, Vec<_>) = parts.unzip();
        let batch = self.batch(&arrays, fields.len() / width).transpose()?;
        let span = match (&batch, &self.key) {
            (Some(batch), Some(key)) => Some(
                key.span(batch)
                    .map_err(|error| self.with_line(error, text, &fields))?,
            ),
            _ => None,
        };
        Ok(Parsed {
            batch,
            span,
            shape: CsvShape(shapes),
        })
    }
}

/// A record that is too long is one with a quote left open, more often than not.
pub(super) fn overlong(text: &[u8], rules: Rules) -> IngestError {
    match tokenize(text, rules) {
        Err(error @ IngestError::UnterminatedQuote { .. }) => error,
        _ => IngestError::RowTooLong {
            line: 1,
            limit_bytes: rules.row_bytes_max as u64,
        },
    }
}

/// The error of the whole records before a bad byte, if they have one; else that of the byte.
fn first_error(valid: &[u8], rules: Rules, bad_byte: IngestError) -> IngestError {
    let mut boundary = CsvBoundary::new(rules.delimiter);
    let whole = boundary.scan(valid, 0).unwrap_or_default();
    tokenize(&valid[..whole], rules).err().unwrap_or(bad_byte)
}
