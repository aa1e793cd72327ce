//! Which vectors are of which row, where a row has one for each chunk of its text: the vectors of a row
//! follow one another, and the slot of the first stands for the row. Lies beside a generation as Parquet
//! of `row`, `chunk`, `start` and `end` (bytes of the text), a line a vector; no text is in it.
//! Builders write it, and whoever opens a generation reads it after its hash was checked.

use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::datatypes::{DataType, Field, Schema, UInt32Type};
use lakehouse_actors::ports::ChunkSpan;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;

use super::VectorError;

/// The file's name in a generation.
pub const CHUNKS_FILE: &str = "chunks.parquet";
const COLUMNS: [&str; 4] = ["row", "chunk", "start", "end"];
/// Lines that are written and read at a time.
const BATCH_ROWS: usize = 65_536;

/// The chunks of some rows, in the order of their vectors.
#[derive(Debug, Default, PartialEq)]
pub struct Spans {
    spans: Vec<ChunkSpan>,
    /// The first vector of each row.
    firsts: Vec<u32>,
}

impl Spans {
    /// Of rows that are numbered from 0 in the order of their vectors; `None` when they are not.
    pub fn new(spans: Vec<ChunkSpan>) -> Option<Self> {
        let mut firsts = Vec::new();
        for (at, span) in (0_u32..).zip(&spans) {
            let row = span.row as usize;
            if row == firsts.len() {
                firsts.push(at);
            } else if row + 1 != firsts.len() {
                return None;
            }
        }
        Some(Self { spans, firsts })
    }

    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.firsts.len()
    }

    /// How many vectors.
    pub fn vectors(&self) -> usize {
        self.spans.len()
    }

    /// The first vector of each row, in their order.
    pub fn firsts(&self) -> &[u32] {
        &self.firsts
    }

    /// The chunk that a vector is of.
    pub fn chunk(&self, vector: u64) -> Option<&ChunkSpan> {
        self.spans.get(usize::try_from(vector).ok()?)
    }

    /// The first vector of the row that a vector is of.
    pub fn first_of(&self, vector: u64) -> Option<u64> {
        let row = self.chunk(vector)?.row;
        self.firsts.get(row as usize).copied().map(u64::from)
    }

    /// All vectors of the row that a vector is of.
    pub fn all_of(&self, vector: u64) -> Option<Range<u64>> {
        let row = self.chunk(vector)?.row as usize;
        let end = self.firsts.get(row + 1).copied().map(u64::from);
        let first = u64::from(*self.firsts.get(row)?);
        Some(first..end.unwrap_or(self.spans.len() as u64))
    }

    /// Writes the file below `dir`; `files::seal` makes it durable.
    ///
    /// # Errors
    /// `Io`, also when it is there already.
    pub fn write(&self, dir: &Path) -> Result<(), VectorError> {
        let file = File::create_new(dir.join(CHUNKS_FILE)).map_err(VectorError::io(CHUNKS_FILE))?;
        let fields = COLUMNS.map(|name| Field::new(name, DataType::UInt32, false));
        let schema = Arc::new(Schema::new(fields.to_vec()));
        let properties = WriterProperties::builder()
            .set_compression(Compression::LZ4_RAW)
            .build();
        let mut writer =
            ArrowWriter::try_new(file, Arc::clone(&schema), Some(properties)).map_err(failed)?;
        for part in self.spans.chunks(BATCH_ROWS) {
            let column = |of: fn(&ChunkSpan) -> u32| -> ArrayRef {
                Arc::new(part.iter().map(of).collect::<UInt32Array>())
            };
            let columns = vec![
                column(|span| span.row),
                column(|span| span.number),
                column(|span| span.start),
                column(|span| span.end),
            ];
            let batch = RecordBatch::try_new(Arc::clone(&schema), columns);
            let batch = batch.map_err(|error| VectorError::io(CHUNKS_FILE)(other(error)))?;
            writer.write(&batch).map_err(failed)?;
        }
        writer.close().map(|_| ()).map_err(failed)
    }

    /// Reads the whole file, whose content was checked.
    ///
    /// # Errors
    /// `Corrupt` when it is none of chunks in their order, or not of so many vectors.
    pub fn read(file: File, vectors: u64) -> Result<Self, VectorError> {
        let corrupt = |reason: String| VectorError::corrupt(CHUNKS_FILE, reason);
        let reader = ParquetRecordBatchReaderBuilder::try_new(file)
            .and_then(|builder| builder.with_batch_size(BATCH_ROWS).build())
            .map_err(|error| corrupt(error.to_string()))?;
        let mut spans = Vec::new();
        for batch in reader {
            let batch = batch.map_err(|error| corrupt(error.to_string()))?;
            take(&batch, &mut spans)
                .ok_or_else(|| corrupt("does not have the columns of chunks".to_owned()))?;
        }
        if spans.len() as u64 != vectors {
            let reason = format!("has {} chunks of {vectors} vectors", spans.len());
            return Err(corrupt(reason));
        }
        Self::new(spans).ok_or_else(|| corrupt("has rows out of their order".to_owned()))
    }
}

fn take(batch: &RecordBatch, spans: &mut Vec<ChunkSpan>) -> Option<()> {
    let column = |name| {
        let column = batch.column_by_name(name)?;
        Some(column.as_primitive_opt::<UInt32Type>()?.values())
    };
    let [rows, numbers, starts, ends] = COLUMNS.map(column);
    let (rows, numbers, starts, ends) = (rows?, numbers?, starts?, ends?);
    for line in 0..batch.num_rows() {
        spans.push(ChunkSpan {
            row: rows[line],
            number: numbers[line],
            start: starts[line],
            end: ends[line],
        });
    }
    Some(())
}

fn other(error: impl std::error::Error + Send + Sync + 'static) -> std::io::Error {
    std::io::Error::other(error)
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> VectorError {
    VectorError::io(CHUNKS_FILE)(other(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(row: u32, number: u32) -> ChunkSpan {
        ChunkSpan {
            row,
            number,
            start: number * 10,
            end: number * 10 + 12,
        }
    }

    #[test]
    fn a_vector_leads_to_its_row_and_a_row_to_its_vectors() {
        let spans = [span(0, 0), span(1, 0), span(1, 1), span(1, 3), span(2, 0)];
        let spans = Spans::new(spans.to_vec()).unwrap();
        assert_eq!((spans.rows(), spans.vectors()), (3, 5));
        assert_eq!(spans.firsts(), [0, 1, 4]);
        let firsts: Vec<u64> = (0..5).filter_map(|at| spans.first_of(at)).collect();
        assert_eq!(firsts, [0, 1, 1, 1, 4]);
        assert_eq!(spans.all_of(2), Some(1..4));
        assert_eq!((spans.all_of(4), spans.all_of(5)), (Some(4..5), None));
        assert_eq!(spans.chunk(3).unwrap().number, 3);
    }

    #[test]
    fn rows_out_of_their_order_are_none() {
        assert_eq!(Spans::new(vec![span(1, 0)]), None);
        assert_eq!(Spans::new(vec![span(0, 0), span(2, 0)]), None);
        assert_eq!(Spans::new(vec![span(0, 0), span(1, 0), span(0, 1)]), None);
        assert_eq!(Spans::new(Vec::new()).unwrap().rows(), 0);
    }

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let spans: Vec<ChunkSpan> = (0..200_000).map(|at| span(at / 3, at % 3)).collect();
        let spans = Spans::new(spans).unwrap();
        spans.write(dir.path()).unwrap();
        let open = || File::open(dir.path().join(CHUNKS_FILE)).unwrap();
        assert_eq!(Spans::read(open(), 200_000).unwrap(), spans);
        let refused = Spans::read(open(), 199_999).unwrap_err().to_string();
        assert!(refused.contains("200000 chunks of 199999"), "{refused}");
        std::fs::write(dir.path().join("x"), b"no parquet").unwrap();
        let other = File::open(dir.path().join("x")).unwrap();
        assert!(matches!(
            Spans::read(other, 1),
            Err(VectorError::Corrupt { .. })
        ));
    }
}
