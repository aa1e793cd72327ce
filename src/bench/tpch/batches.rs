//! The tables as record batches and as Arrow IPC streams, made while they are read.
//! `bench sql` sends the streams to `POST /ingest/file`; tests register the batches.

use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;
use tpchgen::generators::{
    CustomerGenerator, LineItemGenerator, NationGenerator, OrderGenerator, PartGenerator,
    PartSuppGenerator, RegionGenerator, SupplierGenerator,
};

use super::rows::{self, Sink};
use super::schema::TpchTable;

/// Rows of a batch at most: what `DataFusion` works in.
pub const BATCH_ROWS: usize = 8_192;

/// Rows of the pieces that threads make apart.
const PIECE_ROWS: u64 = 65_536;

/// Batches that wait for the reader, for each thread.
const WAITING_MAX: usize = 8;

/// Batches of one table.
pub type Batches = Box<dyn Iterator<Item = RecordBatch> + Send>;

/// The batches of part `part` (from 1) out of `parts` of a table, in the order of the table's keys.
/// `region` and `nation` have one part only: every other one is empty.
pub fn batches(table: TpchTable, scale_factor: f64, part: i32, parts: i32) -> Batches {
    let schema = table.schema();
    let (sf, n, of) = (scale_factor, part, parts);
    match table {
        TpchTable::Region | TpchTable::Nation if part > 1 => Box::new(std::iter::empty()),
        TpchTable::Region => fill(RegionGenerator::new(sf, n, of).iter(), rows::region, schema),
        TpchTable::Nation => fill(NationGenerator::new(sf, n, of).iter(), rows::nation, schema),
        TpchTable::Supplier => fill(
            SupplierGenerator::new(sf, n, of).iter(),
            rows::supplier,
            schema,
        ),
        TpchTable::Customer => fill(
            CustomerGenerator::new(sf, n, of).iter(),
            rows::customer,
            schema,
        ),
        TpchTable::Part => fill(PartGenerator::new(sf, n, of).iter(), rows::part, schema),
        TpchTable::PartSupp => fill(
            PartSuppGenerator::new(sf, n, of).iter(),
            rows::partsupp,
            schema,
        ),
        TpchTable::Orders => fill(OrderGenerator::new(sf, n, of).iter(), rows::order, schema),
        TpchTable::LineItem => fill(
            LineItemGenerator::new(sf, n, of).iter(),
            rows::line_item,
            schema,
        ),
    }
}

fn fill<R: 'static>(
    mut rows: impl Iterator<Item = R> + Send + 'static,
    push: impl Fn(&R, &mut Sink) + Send + 'static,
    schema: SchemaRef,
) -> Batches {
    Box::new(std::iter::from_fn(move || {
        let mut row = rows.next()?;
        let mut sink = Sink::new(schema.clone(), BATCH_ROWS);
        for _ in 1..BATCH_ROWS {
            push(&row, &mut sink);
            match rows.next() {
                Some(next) => row = next,
                None => return Some(sink.finish()),
            }
        }
        push(&row, &mut sink);
        Some(sink.finish())
    }))
}

/// All batches of a table in order, made on `threads` threads ahead of the reader by a bounded
/// number of batches. Dropping the iterator ends the threads.
pub fn parallel_batches(table: TpchTable, scale_factor: f64, threads: usize) -> Batches {
    let pieces = table.parts(scale_factor, PIECE_ROWS);
    let threads = threads.clamp(1, usize::try_from(pieces).unwrap_or(1));
    let queues: Vec<_> = (0..threads)
        .map(|n| make_pieces(table, scale_factor, n, threads, pieces))
        .collect();
    let mut turn = 0;
    Box::new(std::iter::from_fn(move || {
        loop {
            // A closed queue is the one whose next piece would be behind the last.
            match queues[turn].recv().ok()? {
                Some(batch) => return Some(batch),
                None => turn = (turn + 1) % queues.len(),
            }
        }
    }))
}

/// Makes every `threads`-th piece on a thread of its own; `None` stands behind each piece.
fn make_pieces(
    table: TpchTable,
    scale_factor: f64,
    first: usize,
    threads: usize,
    pieces: i32,
) -> Receiver<Option<RecordBatch>> {
    let (sender, receiver) = sync_channel(WAITING_MAX);
    thread::spawn(move || {
        for piece in (1..=pieces).skip(first).step_by(threads) {
            let made = batches(table, scale_factor, piece, pieces).map(Some);
            for batch in made.chain([None]) {
                if sender.send(batch).is_err() {
                    return;
                }
            }
        }
    });
    receiver
}

/// Batches of one schema as an Arrow IPC stream, a chunk for each batch and one for the end: the
/// body of a request with the type `application/vnd.apache.arrow.stream`.
pub fn ipc_chunks(
    schema: &SchemaRef,
    mut batches: Batches,
) -> impl Iterator<Item = Bytes> + Send + use<> {
    let writer = StreamWriter::try_new(Vec::new(), schema).expect("a buffer takes the schema");
    let mut writer = Some(writer);
    std::iter::from_fn(move || {
        let stream = writer.as_mut()?;
        if let Some(batch) = batches.next() {
            stream
                .write(&batch)
                .expect("a buffer takes a batch of the schema");
            return Some(Bytes::from(std::mem::take(stream.get_mut())));
        }
        let mut stream = writer.take()?;
        stream
            .finish()
            .expect("a buffer takes the end of the stream");
        Some(Bytes::from(std::mem::take(stream.get_mut())))
    })
}
