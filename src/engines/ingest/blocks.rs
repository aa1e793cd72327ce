//! Text in blocks: cut at record boundaries by one thread, parsed by several, joined in order.
//! CSV and JSON give a `Boundary` and a `BlockParser`; the first error in the order of the input is
//! the one reported, whatever the threads do. Parsing stops building rows when one did not fit.

use std::collections::BTreeMap;
use std::io::Read;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use arrow::array::RecordBatch;

use super::error::{IngestError, from_read};
use super::keys::KeySpan;
use super::parallel::{Permit, Pool, lock};
use super::writer::Sink;

/// The first block, from which types are inferred, is this many times as long as the others: a
/// value that it lacks costs a second pass.
const FIRST_BLOCKS: usize = 4;

/// Finds where records end.
pub(super) trait Boundary {
    /// Looks at `bytes[from..]` (all before was looked at before) and gives the last position at
    /// which a block may be cut, if there is one in the part just looked at.
    fn scan(&mut self, bytes: &[u8], from: usize) -> Option<usize>;
}

/// Where a block stands in the input.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Place {
    /// Nothing stands before it.
    pub first: bool,
    /// Nothing follows.
    pub last: bool,
    /// The limit of a row's length came before any boundary: the block is no whole record.
    pub overlong: bool,
}

/// Buffers that go round between the reader and the parsers.
#[derive(Clone, Default)]
struct Spare(Arc<Mutex<Vec<Vec<u8>>>>);

/// Whole records of the input.
pub(super) struct Block {
    bytes: Vec<u8>,
    range: Range<usize>,
    pub place: Place,
    spare: Spare,
}

impl Block {
    /// The text of the records.
    pub fn text(&self) -> &[u8] {
        &self.bytes[self.range.clone()]
    }

    /// Leaves out the first `length` bytes, such as a header.
    pub fn skip(&mut self, length: usize) {
        self.range.start += length;
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        lock(&self.spare.0).push(std::mem::take(&mut self.bytes));
    }
}

/// Cuts a reader into blocks.
pub(super) struct BlockReader<R, B> {
    input: R,
    boundary: B,
    block_bytes: usize,
    row_bytes_max: usize,
    carry: Vec<u8>,
    spare: Spare,
    started: bool,
    ended: bool,
}

impl<R: Read, B: Boundary> BlockReader<R, B> {
    pub fn new(input: R, boundary: B, block_bytes: usize, row_bytes_max: usize) -> Self {
        Self {
            input,
            boundary,
            block_bytes: block_bytes.max(1),
            row_bytes_max,
            carry: Vec::new(),
            spare: Spare::default(),
            started: false,
            ended: false,
        }
    }

    /// The next block, `None` after the last. Blocks depend on the bytes of the input alone, not
    /// on how they arrive.
    pub fn next(&mut self) -> Result<Option<Block>, IngestError> {
        if self.ended {
            return Ok(None);
        }
        let mut bytes = lock(&self.spare.0).pop().unwrap_or_default();
        let mut filled = self.carry.len();
        let wanted = if self.started {
            self.block_bytes
        } else {
            self.block_bytes * FIRST_BLOCKS
        };
        let mut size = wanted.max(filled + self.block_bytes / 2);
        bytes.resize(bytes.len().max(size), 0);
        bytes[..filled].copy_from_slice(&self.carry);
        self.carry.clear();
        loop {
            let before = filled;
            filled = self.fill(&mut bytes[..size], filled)?;
            let cut = self.boundary.scan(&bytes[..filled], before);
            self.ended = filled < size;
            let overlong = cut.is_none() && !self.ended && filled > self.row_bytes_max;
            if self.ended || overlong {
                self.ended = true;
                return Ok(Some(self.block(bytes, filled, overlong)));
            }
            if let Some(cut) = cut {
                self.carry.extend_from_slice(&bytes[cut..filled]);
                return Ok(Some(self.block(bytes, cut, false)));
            }
            size *= 2;
            bytes.resize(bytes.len().max(size), 0);
        }
    }

    fn fill(&mut self, bytes: &mut [u8], mut filled: usize) -> Result<usize, IngestError> {
        while filled < bytes.len() {
            match self.input.read(&mut bytes[filled..]).map_err(from_read)? {
                0 => break,
                length => filled += length,
            }
        }
        Ok(filled)
    }

    fn block(&mut self, bytes: Vec<u8>, end: usize, overlong: bool) -> Block {
        let first = !std::mem::replace(&mut self.started, true);
        let place = Place {
            first,
            last: self.ended && !overlong,
            overlong,
        };
        Block {
            bytes,
            range: 0..end,
            place,
            spare: self.spare.clone(),
        }
    }
}

/// What values look like, joined over all blocks.
pub(super) trait Shape: Send + 'static {
    /// Joins the shape of the next block, in the order of the input.
    ///
    /// # Errors
    /// A limit that only all blocks together pass.
    fn join(&mut self, next: Self) -> Result<(), IngestError>;
}

/// One parsed block.
pub(super) struct Parsed<S> {
    /// Its rows; `None` when a value did not fit, or nothing was to be built.
    pub batch: Option<RecordBatch>,
    pub span: Option<KeySpan>,
    pub shape: S,
}

/// Parses blocks; shared by all threads.
pub(super) trait BlockParser: Send + Sync + 'static {
    type Shape: Shape;

    /// Reads all rows of a block; builds them if told to. Places in errors are relative to `text`.
    fn parse(
        &self,
        text: &[u8],
        place: Place,
        build: bool,
    ) -> Result<Parsed<Self::Shape>, IngestError>;
}

/// The lines and characters before a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Position {
    /// Line ends before it.
    pub lines: u64,
    /// Characters before it on its line.
    pub columns: u64,
}

impl Position {
    /// The position after `text`.
    pub fn advance(&mut self, text: &[u8]) {
        let tail = match memchr::memrchr(b'\n', text) {
            Some(end) => {
                self.lines += memchr::memchr_iter(b'\n', text).count() as u64;
                self.columns = 0;
                &text[end + 1..]
            }
            None => text,
        };
        self.columns += characters(tail);
    }
}

impl Position {
    /// The position after text that is `next` long, seen from its own start.
    fn join(&mut self, next: Self) {
        if next.lines == 0 {
            self.columns += next.columns;
        } else {
            self.lines += next.lines;
            self.columns = next.columns;
        }
    }
}

/// Characters of UTF-8 text: all bytes but continuation bytes.
pub(super) fn characters(text: &[u8]) -> u64 {
    text.iter().filter(|byte| **byte & 0xC0 != 0x80).count() as u64
}

/// The line and column (from 1) of a byte of `text`.
pub(super) fn line_and_column(text: &[u8], at: usize) -> (u64, u64) {
    let mut position = Position::default();
    position.advance(&text[..at.min(text.len())]);
    (position.lines + 1, position.columns + 1)
}

/// Gives the part of `text` that is valid, and the error to report if that part has none itself.
pub(super) fn valid_text(text: &[u8]) -> (&[u8], Option<IngestError>) {
    let (valid, utf8_error) = match std::str::from_utf8(text) {
        Ok(_) => (text, false),
        Err(error) => (&text[..error.valid_up_to()], true),
    };
    if let Some(at) = memchr::memchr(0, valid) {
        let (line, column) = line_and_column(text, at);
        return (&text[..at], Some(IngestError::NulByte { line, column }));
    }
    if utf8_error {
        let (line, column) = line_and_column(text, valid.len());
        return (valid, Some(IngestError::InvalidUtf8 { line, column }));
    }
    (text, None)
}

struct Sequence<S> {
    next: u64,
    waiting: BTreeMap<u64, Done<S>>,
    position: Position,
    rows: u64,
    shape: S,
    sink: Option<Sink>,
    /// A block had an error: those after it do not matter any more.
    failed: bool,
}

struct Done<S> {
    parsed: Result<Parsed<S>, IngestError>,
    after: Position,
    permit: Arc<Permit>,
}

/// A whole input that was parsed.
pub(super) struct Outcome<S> {
    pub shape: S,
    /// The rows; `None` when one did not fit, or nothing was to be built.
    pub sink: Option<Sink>,
}

/// One pass over an input: blocks go out to the threads and come back in order.
pub(super) struct Pass<P: BlockParser> {
    parser: Arc<P>,
    pool: Pool,
    building: Arc<AtomicBool>,
    sequence: Arc<Mutex<Sequence<P::Shape>>>,
    submitted: u64,
}

impl<P: BlockParser> Pass<P> {
    /// Starts at `position` with the shape of nothing. Without a `sink` nothing is built.
    pub fn new(
        parser: P,
        pool: Pool,
        shape: P::Shape,
        position: Position,
        sink: Option<Sink>,
    ) -> Self {
        let sequence = Sequence {
            next: 0,
            waiting: BTreeMap::new(),
            position,
            rows: 0,
            shape,
            sink,
            failed: false,
        };
        Self {
            parser: Arc::new(parser),
            pool,
            building: Arc::new(AtomicBool::new(sequence.sink.is_some())),
            sequence: Arc::new(Mutex::new(sequence)),
            submitted: 0,
        }
    }

    /// Hands out the next block; waits while too many are in flight.
    pub fn submit(&mut self, block: Block) -> Result<(), IngestError> {
        let permit = Arc::new(self.pool.permit()?);
        let number = self.submitted;
        self.submitted += 1;
        let parser = Arc::clone(&self.parser);
        let building = Arc::clone(&self.building);
        let sequence = Arc::clone(&self.sequence);
        self.pool.submit(false, move || {
            let build = building.load(Ordering::Acquire);
            let parsed = parser.parse(block.text(), block.place, build);
            let mut after = Position::default();
            after.advance(block.text());
            drop(block);
            let done = Done {
                parsed,
                after,
                permit,
            };
            lock(&sequence).accept(number, done, &building)
        });
        Ok(())
    }

    /// Waits for all blocks.
    pub fn finish(self) -> Result<Outcome<P::Shape>, IngestError> {
        self.pool.wait()?;
        let sequence = Arc::into_inner(self.sequence)
            .ok_or_else(|| IngestError::Internal("a block is still being parsed".to_owned()))?;
        let sequence = sequence
            .into_inner()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        Ok(Outcome {
            shape: sequence.shape,
            sink: sequence.sink,
        })
    }
}

impl<S: Shape> Sequence<S> {
    /// Takes in a block; goes on with it, and with those that wait for it, when its turn has come.
    fn accept(
        &mut self,
        number: u64,
        done: Done<S>,
        building: &AtomicBool,
    ) -> Result<(), IngestError> {
        if self.failed {
            return Ok(());
        }
        self.waiting.insert(number, done);
        while let Some(done) = self.waiting.remove(&self.next) {
            self.next += 1;
            let after = done.after;
            self.take(done, building)
                .inspect_err(|_| self.failed = true)?;
            self.position.join(after);
        }
        Ok(())
    }

    fn take(&mut self, done: Done<S>, building: &AtomicBool) -> Result<(), IngestError> {
        let parsed = done.parsed.map_err(|error| self.placed(error))?;
        self.shape.join(parsed.shape)?;
        match (&parsed.batch, &mut self.sink) {
            (Some(batch), Some(sink)) => {
                sink.push(batch, parsed.span.as_ref(), &done.permit)?;
                self.rows += batch.num_rows() as u64;
            }
            (None, sink) => {
                building.store(false, Ordering::Release);
                if let Some(sink) = sink.take() {
                    sink.abandon();
                }
            }
            (Some(_), None) => {}
        }
        Ok(())
    }

    fn placed(&self, error: IngestError) -> IngestError {
        match error.shifted(self.position.lines, self.position.columns) {
            IngestError::NullKey { column, row, line } => IngestError::NullKey {
                column,
                row: row + self.rows,
                line,
            },
            other => other,
        }
    }
}
