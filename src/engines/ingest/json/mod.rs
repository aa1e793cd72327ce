//! JSON rows: NDJSON, an array of objects, or objects one after the other, nested ones kept.
//! Like CSV: types from the first block, checked on all others, a second pass when one is wider.
//! `ingest::mod` calls `ingest`; nothing here writes a file or knows Parquet.

mod boundary;
mod build;
mod parse;
mod shape;
mod walk;

#[cfg(test)]
mod tests;

use std::io::Read;
use std::sync::Arc;

use arrow::datatypes::{Fields, Schema, SchemaRef};

use super::blocks::{Block, BlockParser, BlockReader, Outcome, Pass, Position};
use super::error::{ColumnDifference, IngestError};
use super::keys::KeyPlan;
use super::schema::{type_difference, type_name};
use super::source::{Replay, Source};
use super::writer::Sink;
use super::{Ready, Setup};
use boundary::{JsonBoundary, Rows};
use parse::JsonParser;
use shape::{JsonShape, RowShape};

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

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
    let sink = if schema.fields().is_empty() {
        None
    } else {
        Some(setup.sink(&schema, parser.key.clone(), 1)?)
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
