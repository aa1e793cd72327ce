//! The demo's data, there without a network: seven made-up staffing tables and a real knowledge base.
//! The demo and the benchmarks read them as streams; nothing here holds a table or touches the disk.
//!
//! The tables are a function of (rows, seed). Their generator is integer arithmetic of our own, so
//! machine and compiler do not matter; names come from the word lists of the crate `fake` at the
//! version in `Cargo.lock`, and a test over the first bytes of each table notices when a newer one
//! changes them. Mail addresses are in example.com, .org and .net, phones in 555-0100 to 555-0199,
//! social security numbers in areas that are never issued.

mod csv;
mod people;
mod random;
mod skills;
mod tables;
mod talk;
mod templates;
mod wordnet;
mod work;
mod world;

#[cfg(test)]
mod tests;

use std::io::{self, Write};

pub use csv::{CsvChunks, CsvReader};
pub use skills::skills;
pub use tables::{Column, ColumnKind, DEFAULT_ROWS, Table, TableSpec, tables};
pub use wordnet::{WORDNET_BYTES, WORDNET_ROWS, wordnet_chunks, wordnet_ndjson};
use world::World;

/// The seed of the demo's tables.
pub const DEFAULT_SEED: u64 = 2026;

/// One table as CSV with a header, in chunks of about 1 MiB: what a streamed request body takes.
/// `rows` counts all seven tables together, as in [`tables`].
pub fn csv_chunks(table: Table, rows: u64, seed: u64) -> CsvChunks {
    CsvChunks::new(World::new(rows, seed), table)
}

/// The bytes of [`csv_chunks`] as a reader. It makes rows as it is read and never fails.
pub fn csv_reader(table: Table, rows: u64, seed: u64) -> CsvReader {
    CsvReader::new(csv_chunks(table, rows, seed))
}

/// Writes the bytes of [`csv_chunks`] and returns how many there were.
///
/// # Errors
/// What `out` answers.
pub fn write_csv(table: Table, rows: u64, seed: u64, out: impl Write) -> io::Result<u64> {
    csv::write_all(csv_chunks(table, rows, seed), out)
}

impl World {
    /// Appends one row (from 0) of a table as a CSV record.
    fn push_row(&mut self, table: Table, row: u64, out: &mut Vec<u8>) {
        match table {
            Table::Clients => self.push_client(row, out),
            Table::Candidates => self.push_candidate(row, out),
            Table::Jobs => self.push_job(row, out),
            Table::Placements => self.push_placement(row, out),
            Table::Timesheets => self.push_timesheet(row, out),
            Table::Activities => self.push_activity(row, out),
            Table::Emails => self.push_email(row, out),
        }
    }
}
