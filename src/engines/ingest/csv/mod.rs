//! CSV: a header, then rows. The types come from the first block and are checked on all others;
//! a value that does not fit makes a second pass with the types of the whole file.
//! `ingest::mod` calls `ingest`; nothing here writes a file or knows Parquet.

mod columns;
mod parse;
mod tokens;

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::io::Read;
use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};

use super::blocks::{Block, BlockReader, Outcome, Pass, Position, valid_text};
use super::error::{ColumnDifference, IngestError};
use super::keys::KeyPlan;
use super::kinds::{Kinds, Scalar};
use super::schema::{missing, type_difference, type_name};
use super::source::{Replay, Source};
use super::values::classify;
use super::writer::Sink;
use super::{Ready, Setup};
use columns::{Cells, kinds_of};
use parse::{ColumnPlan, ColumnShape, CsvParser, CsvShape, Misfit, overlong};
use tokens::{CsvBoundary, Header, Rules, tokenize};

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Reads a CSV body into the sink; a second time from the spool when types had to widen.
pub(super) fn ingest(
    mut source: Source<'_>,
    setup: &Setup,
    replay: &Replay,
) -> Result<Ready, IngestError> {
    let head = source.head();
    let marked = head.starts_with(BYTE_ORDER_MARK);
    let reader = CsvReader {
        delimiter: tokens::detect_delimiter(head.strip_prefix(BYTE_ORDER_MARK).unwrap_or(head)),
        marked,
        setup,
    };
    let (mut blocks, first, header) = reader.start(&mut source)?;
    let names = header_names(&header, setup.limits.columns_max)?;
    let rules = reader.rules(names.len());
    let plans = match &setup.expected {
        Some(expected) => expected_plans(expected, &names, &first, rules)?,
        None => infer(&first, &names, rules),
    };
    let (parser, schema) = reader.parser(plans.clone())?;
    let sink = setup.sink(&schema, parser.key.clone(), 1)?;
    let outcome = run(parser, setup, first, &mut blocks, sink)?;
    drop(blocks);
    let received = source.finish()?;
    let (sink, schema) = match outcome.sink {
        Some(sink) => (sink, schema),
        None if setup.expected.is_some() => return Err(mismatch(&plans, &outcome.shape)),
        None => {
            setup.discard(1)?;
            reader.second_pass(&names, &outcome.shape, replay)?
        }
    };
    Ok(Ready {
        sink,
        schema,
        received,
    })
}

fn run<R: Read>(
    parser: CsvParser,
    setup: &Setup,
    first: First,
    blocks: &mut BlockReader<R, CsvBoundary>,
    sink: Sink,
) -> Result<Outcome<CsvShape>, IngestError> {
    let mut pass = Pass::new(
        parser,
        setup.pool.clone(),
        CsvShape::default(),
        first.start,
        Some(sink),
    );
    pass.submit(first.block)?;
    while let Some(block) = blocks.next()? {
        pass.submit(block)?;
    }
    pass.finish()
}

/// The first block, its header taken off.
struct First {
    block: Block,
    /// Where it starts in the input, after the header.
    start: Position,
}

struct CsvReader<'a> {
    delimiter: u8,
    marked: bool,
    setup: &'a Setup,
}

impl CsvReader<'_> {
    fn rules(&self, width: usize) -> Rules {
        Rules {
            delimiter: self.delimiter,
            width,
            row_bytes_max: self.setup.limits.row_bytes_max,
        }
    }

    fn start<R: Read>(
        &self,
        mut input: R,
    ) -> Result<(BlockReader<R, CsvBoundary>, First, Header), IngestError> {
        if self.marked {
            let mut mark = [0; BYTE_ORDER_MARK.len()];
            input
                .read_exact(&mut mark)
                .map_err(super::error::from_read)?;
        }
        let limits = &self.setup.limits;
        let boundary = CsvBoundary::new(self.delimiter);
        let mut blocks = BlockReader::new(
            input,
            boundary,
            self.setup.block_bytes,
            limits.row_bytes_max,
        );
        let mut block = blocks.next()?.ok_or(IngestError::Empty)?;
        if block.text().iter().all(u8::is_ascii_whitespace) {
            return Err(IngestError::Empty);
        }
        if block.place.overlong {
            return Err(overlong(block.text(), self.rules(1)));
        }
        let header = tokens::header(block.text(), self.delimiter, limits.row_bytes_max)?;
        let (_, bad_text) = valid_text(&block.text()[..header.end]);
        if let Some(error) = bad_text {
            return Err(error);
        }
        let mut start = Position::default();
        start.advance(&block.text()[..header.end]);
        block.skip(header.end);
        Ok((blocks, First { block, start }, header))
    }

    /// The parser of these plans, and the schema that it builds.
    fn parser(&self, columns: Vec<ColumnPlan>) -> Result<(CsvParser, SchemaRef), IngestError> {
        let schema = match &self.setup.expected {
            Some(expected) => Arc::clone(expected),
            None => Arc::new(Schema::new(
                columns
                    .iter()
                    .map(|plan| plan.field.clone())
                    .collect::<Vec<_>>(),
            )),
        };
        let position = |field: &Arc<Field>| {
            let column = columns
                .iter()
                .position(|plan| plan.field.name() == field.name());
            column.ok_or_else(|| IngestError::Internal("a column without a plan".to_owned()))
        };
        let order = schema
            .fields()
            .iter()
            .map(position)
            .collect::<Result<_, _>>()?;
        let key = KeyPlan::new(&schema, &self.setup.key)?.map(Arc::new);
        let parser = CsvParser {
            rules: self.rules(columns.len()),
            columns,
            order,
            schema: Arc::clone(&schema),
            key,
        };
        Ok((parser, schema))
    }

    fn second_pass(
        &self,
        names: &[String],
        shape: &CsvShape,
        replay: &Replay,
    ) -> Result<(Sink, SchemaRef), IngestError> {
        let plans = names
            .iter()
            .zip(&shape.0)
            .map(|(name, shape)| inferred_plan(name, shape.kinds, true));
        let (parser, schema) = self.parser(plans.collect())?;
        let (mut blocks, first, _) = self.start(replay.open()?)?;
        let sink = self.setup.sink(&schema, parser.key.clone(), 2)?;
        let outcome = run(parser, self.setup, first, &mut blocks, sink)?;
        let changed = || IngestError::Internal("the body changed between two readings".to_owned());
        Ok((outcome.sink.ok_or_else(changed)?, schema))
    }
}

fn header_names(header: &Header, columns_max: usize) -> Result<Vec<String>, IngestError> {
    let line = header.line;
    if header.names.len() > columns_max {
        return Err(IngestError::TooManyColumns { limit: columns_max });
    }
    let is_value =
        |name: &String| name.is_empty() || classify(name.as_bytes()).kind() != Kinds::TEXT;
    if header.names.iter().all(is_value) {
        return Err(IngestError::HeaderMissing { line });
    }
    let mut seen = HashSet::new();
    for (index, name) in header.names.iter().enumerate() {
        if name.is_empty() {
            return Err(IngestError::HeaderUnnamed {
                line,
                position: index + 1,
            });
        }
        if !seen.insert(name) {
            return Err(IngestError::HeaderDuplicate {
                line,
                column: name.clone(),
            });
        }
    }
    Ok(header.names.clone())
}

fn inferred_plan(name: &str, kinds: Kinds, whole_file: bool) -> ColumnPlan {
    let scalar = kinds.scalar();
    ColumnPlan {
        scalar,
        field: Field::new(name, scalar.arrow(), true),
        // A column without a value so far may still become anything.
        classify_text: kinds == Kinds::NONE && !whole_file,
        inferred: true,
    }
}

/// The kinds of every column of the first block. A broken block has none here: the parser finds
/// and places the same error again.
fn first_kinds(first: &First, rules: Rules) -> Vec<Kinds> {
    let (text, _) = valid_text(first.block.text());
    let fields = tokenize(text, rules).unwrap_or_default();
    let kinds = |column| kinds_of(Cells::new(text, &fields, rules.width, column));
    (0..rules.width).map(kinds).collect()
}

fn infer(first: &First, names: &[String], rules: Rules) -> Vec<ColumnPlan> {
    let kinds = first_kinds(first, rules);
    names
        .iter()
        .zip(kinds)
        .map(|(name, kinds)| inferred_plan(name, kinds, false))
        .collect()
}

/// Plans for a schema that is given; every column has to be there, and none beside them.
fn expected_plans(
    expected: &SchemaRef,
    names: &[String],
    first: &First,
    rules: Rules,
) -> Result<Vec<ColumnPlan>, IngestError> {
    let mut differences = Vec::new();
    for field in expected.fields() {
        if !names.contains(field.name()) {
            differences.push(missing(field));
        }
    }
    let extra: Vec<usize> = (0..names.len())
        .filter(|index| expected.field_with_name(&names[*index]).is_err())
        .collect();
    if !extra.is_empty() {
        let kinds = first_kinds(first, rules);
        differences.extend(extra.iter().map(|index| ColumnDifference::Extra {
            column: names[*index].clone(),
            found: type_name(&kinds[*index].scalar().arrow()),
        }));
    }
    if !differences.is_empty() {
        return Err(IngestError::SchemaMismatch { differences });
    }
    let plan = |name: &String| {
        let field = expected
            .field_with_name(name)
            .expect("extra columns were refused above");
        let scalar = Scalar::for_target(field.data_type());
        ColumnPlan {
            scalar,
            field: field.clone(),
            classify_text: scalar == Scalar::Text && !field.data_type().is_string(),
            inferred: false,
        }
    };
    Ok(names.iter().map(plan).collect())
}

fn mismatch(plans: &[ColumnPlan], shape: &CsvShape) -> IngestError {
    let difference = |(plan, shape): (&ColumnPlan, &ColumnShape)| {
        let found = type_name(&shape.kinds.scalar().arrow());
        match shape.misfit? {
            Misfit::Value => Some(type_difference(&plan.field, found)),
            Misfit::Null => Some(type_difference(&plan.field, format!("{found} with NULL"))),
        }
    };
    IngestError::SchemaMismatch {
        differences: plans.iter().zip(&shape.0).filter_map(difference).collect(),
    }
}
