//! JSON rows: NDJSON, an array of objects, or objects one after the other, nested ones kept.
//! Like CSV: types from the first block, checked on all others, a second pass when one is wider.
//! `ingest::mod` calls `ingest`; nothing here writes a file or knows Parquet.

mod boundary;
mod build;
mod shape;
mod walk;

#[cfg(test)]
mod tests;

use std::io::Read;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Fields, Schema, SchemaRef};

use super::blocks::{
    Block, BlockParser, BlockReader, Outcome, Parsed, Pass, Place, Position, line_and_column,
    valid_text,
};
use super::error::{ColumnDifference, IngestError};
use super::keys::KeyPlan;
use super::schema::{to_type, type_difference, type_name};
use super::source::{Replay, Source};
use super::writer::Sink;
use super::{Ready, Setup};
use boundary::{JsonBoundary, Rows};
use build::Builder;
use shape::{JsonShape, RowShape};
use walk::{Fault, Walker};

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// How rows become columns.
struct JsonParser {
    rows: Rows,
    schema: SchemaRef,
    /// The shape that the schema was inferred from; none when the schema was given.
    planned: Option<JsonShape>,
    /// Whether shapes are noted: not once the types of the whole file are known.
    noting: bool,
    key: Option<Arc<KeyPlan>>,
    paths_max: usize,
    row_bytes_max: usize,
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

/// Reads a body of one object a line.
pub(super) fn ingest_lines(
    source: Source<'_>,
    setup: &Setup,
    replay: &Replay,
) -> Result<Ready, IngestError> {
    ingest(source, Rows::Lines, setup, replay)
}

/// Reads a body that is an array of objects, or objects one after the other.
pub(super) fn ingest_array(
    source: Source<'_>,
    setup: &Setup,
    replay: &Replay,
) -> Result<Ready, IngestError> {
    let head = source.head();
    let text = head.strip_prefix(BYTE_ORDER_MARK).unwrap_or(head);
    let first = text.iter().find(|byte| !byte.is_ascii_whitespace());
    let rows = if first == Some(&b'{') {
        Rows::Sequence
    } else {
        Rows::Elements
    };
    ingest(source, rows, setup, replay)
}

fn ingest(
    mut source: Source<'_>,
    rows: Rows,
    setup: &Setup,
    replay: &Replay,
) -> Result<Ready, IngestError> {
    let marked = source.head().starts_with(BYTE_ORDER_MARK);
    let reader = JsonReader {
        rows,
        marked,
        setup,
    };
    let (mut blocks, first) = reader.start(&mut source)?;
    let planned = match &setup.expected {
        Some(_) => None,
        None => Some(reader.first_shape(&first)),
    };
    let parser = reader.parser(planned, true)?;
    let schema = Arc::clone(&parser.schema);
    // Without a column there is nothing to build yet: later blocks may have some.
    let sink = match schema.fields().is_empty() {
        true => None,
        false => Some(setup.sink(&schema, parser.key.clone(), 1)?),
    };
    let outcome = reader.run(parser, first, &mut blocks, sink)?;
    drop(blocks);
    let received = source.finish()?;
    if let Some(expected) = &setup.expected {
        check(expected, &outcome)?;
    }
    let (sink, schema) = match outcome.sink {
        Some(sink) => (sink, schema),
        None => reader.second_pass(outcome.shape, replay)?,
    };
    Ok(Ready {
        sink,
        schema,
        received,
    })
}

struct JsonReader<'a> {
    rows: Rows,
    marked: bool,
    setup: &'a Setup,
}

impl JsonReader<'_> {
    fn start<R: Read>(
        &self,
        mut input: R,
    ) -> Result<(BlockReader<R, JsonBoundary>, Block), IngestError> {
        if self.marked {
            let mut mark = [0; BYTE_ORDER_MARK.len()];
            input
                .read_exact(&mut mark)
                .map_err(super::error::from_read)?;
        }
        let boundary = JsonBoundary::new(self.rows);
        let row_bytes_max = self.setup.limits.row_bytes_max;
        let mut blocks = BlockReader::new(input, boundary, self.setup.block_bytes, row_bytes_max);
        let first = blocks.next()?.ok_or(IngestError::Empty)?;
        if first.place.last && first.text().iter().all(u8::is_ascii_whitespace) {
            return Err(IngestError::Empty);
        }
        Ok((blocks, first))
    }

    /// The shape of the first block. A broken one is found and placed again by the parser.
    fn first_shape(&self, first: &Block) -> JsonShape {
        let parser = self.parser_of(Arc::new(Schema::empty()), None, true, None);
        let parsed = parser.parse(first.text(), first.place, false);
        parsed.map(|parsed| parsed.shape.root).unwrap_or_default()
    }

    fn parser(&self, planned: Option<JsonShape>, noting: bool) -> Result<JsonParser, IngestError> {
        let schema = match (&self.setup.expected, &planned) {
            (Some(expected), _) => Arc::clone(expected),
            (None, Some(shape)) => Arc::new(Schema::new(shape.arrow_fields())),
            (None, None) => Arc::new(Schema::empty()),
        };
        let key = match schema.fields().is_empty() {
            true => None,
            false if noting && self.setup.expected.is_none() && !self.has_key(schema.fields()) => {
                None
            }
            false => KeyPlan::new(&schema, &self.setup.key)?.map(Arc::new),
        };
        Ok(self.parser_of(schema, planned, noting, key))
    }

    fn has_key(&self, fields: &Fields) -> bool {
        self.setup.key.iter().all(|key| fields.find(key).is_some())
    }

    fn parser_of(
        &self,
        schema: SchemaRef,
        planned: Option<JsonShape>,
        noting: bool,
        key: Option<Arc<KeyPlan>>,
    ) -> JsonParser {
        JsonParser {
            rows: self.rows,
            schema,
            planned,
            noting,
            key,
            paths_max: self.setup.limits.columns_max,
            row_bytes_max: self.setup.limits.row_bytes_max,
        }
    }

    fn run<R: Read>(
        &self,
        parser: JsonParser,
        first: Block,
        blocks: &mut BlockReader<R, JsonBoundary>,
        sink: Option<Sink>,
    ) -> Result<Outcome<RowShape>, IngestError> {
        let shape = RowShape {
            paths_max: parser.paths_max,
            ..RowShape::default()
        };
        let mut pass = Pass::new(
            parser,
            self.setup.pool.clone(),
            shape,
            Position::default(),
            sink,
        );
        pass.submit(first)?;
        while let Some(block) = blocks.next()? {
            pass.submit(block)?;
        }
        pass.finish()
    }

    fn second_pass(
        &self,
        shape: RowShape,
        replay: &Replay,
    ) -> Result<(Sink, SchemaRef), IngestError> {
        if shape.root.arrow_fields().is_empty() {
            return Err(IngestError::NoColumns);
        }
        self.setup.discard(1)?;
        let parser = self.parser(Some(shape.root), false)?;
        let schema = Arc::clone(&parser.schema);
        let sink = self.setup.sink(&schema, parser.key.clone(), 2)?;
        let (mut blocks, first) = self.start(replay.open()?)?;
        let outcome = self.run(parser, first, &mut blocks, Some(sink))?;
        let changed = || IngestError::Internal("the body changed between two readings".to_owned());
        Ok((outcome.sink.ok_or_else(changed)?, schema))
    }
}

/// Compares what was found with the expected schema. A column that no row has is NULL in all.
fn check(expected: &Schema, outcome: &Outcome<RowShape>) -> Result<(), IngestError> {
    let shape = &outcome.shape;
    let mut differences = Vec::new();
    for field in expected.fields() {
        let Some(found) = shape.root.get(field.name()) else {
            continue;
        };
        if !found.fits(field.data_type()) || shape.misfits.contains(field.name()) {
            differences.push(type_difference(field, type_name(&found.data_type())));
        }
    }
    for (name, found) in shape.root.named_fields() {
        if expected.field_with_name(name).is_err() {
            differences.push(ColumnDifference::Extra {
                column: name.clone(),
                found: type_name(&found.data_type()),
            });
        }
    }
    if differences.is_empty() && outcome.sink.is_some() {
        return Ok(());
    }
    Err(IngestError::SchemaMismatch { differences })
}
