//! Vectors at rest: Parquet of `key` (text), `text` (text, or null) and `vector` (a fixed-size list of
//! f32), which `DuckDB`, Polars and pyarrow read as it is. Generations of the usearch engine lie beside
//! such a file, deltas are one: there a null vector says that the key left the index. Where texts are cut,
//! a line of a delta is a chunk, with `chunk`, `start` and `end` (bytes of the text, which stands in the
//! first line of its row); lines of one row follow one another.
//! Builders and the delta writer call it; deltas are read through it after their hash was checked.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeListBuilder, Float32Builder, RecordBatch, StringBuilder,
    UInt32Array, UInt32Builder,
};
use arrow::datatypes::{DataType, Field, Float32Type, Schema, SchemaRef, UInt32Type};
use lakehouse_actors::ports::ChunkSpan;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::Compression;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use super::VectorError;

/// Rows of a batch on their way into the file.
const BATCH_ROWS: usize = 1_024;
/// Bytes of vectors in a row group: what a writer holds in memory.
const GROUP_BYTES: usize = 32 << 20;

/// Columns that say which chunk of a text a line is.
const CHUNK: [&str; 3] = ["chunk", "start", "end"];

/// The columns.
fn schema(dimensions: usize, chunked: bool) -> SchemaRef {
    let mut fields = vec![
        Field::new("key", DataType::Utf8, false),
        Field::new("text", DataType::Utf8, true),
        Field::new(
            "vector",
            DataType::FixedSizeList(item(), width(dimensions)),
            true,
        ),
    ];
    if chunked {
        fields.extend(CHUNK.map(|name| Field::new(name, DataType::UInt32, true)));
    }
    Arc::new(Schema::new(fields))
}

fn item() -> Arc<Field> {
    Arc::new(Field::new("item", DataType::Float32, false))
}

fn width(dimensions: usize) -> i32 {
    i32::try_from(dimensions).expect("dimensions were checked to be at most 65,536")
}

/// Writes one file, front to back.
pub struct AtRestWriter {
    name: String,
    writer: ArrowWriter<File>,
    dimensions: usize,
    keys: StringBuilder,
    texts: StringBuilder,
    vectors: FixedSizeListBuilder<Float32Builder>,
    /// Numbers, first and last bytes, where lines are chunks.
    chunks: Option<[UInt32Builder; 3]>,
    waiting: usize,
}

impl AtRestWriter {
    /// Begins the file `name` below `dir`, which must not be there.
    ///
    /// # Errors
    /// `Io`.
    pub fn create(dir: &Path, name: &str, dimensions: usize) -> Result<Self, VectorError> {
        Self::begin(dir, name, dimensions, false)
    }

    /// The same for lines that are chunks.
    ///
    /// # Errors
    /// `Io`.
    pub fn create_chunked(dir: &Path, name: &str, dimensions: usize) -> Result<Self, VectorError> {
        Self::begin(dir, name, dimensions, true)
    }

    fn begin(
        dir: &Path,
        name: &str,
        dimensions: usize,
        chunked: bool,
    ) -> Result<Self, VectorError> {
        let file = File::create_new(dir.join(name)).map_err(VectorError::io(name))?;
        // Numbers of a vector hardly compress, and no reader looks for a row by their bounds.
        let vector = ColumnPath::new(["vector", "list", "item"].map(str::to_owned).to_vec());
        let properties = WriterProperties::builder()
            .set_compression(Compression::LZ4_RAW)
            .set_column_compression(vector.clone(), Compression::UNCOMPRESSED)
            .set_column_dictionary_enabled(vector.clone(), false)
            .set_column_statistics_enabled(vector, EnabledStatistics::None)
            .set_max_row_group_row_count(Some((GROUP_BYTES / (dimensions * 4)).max(BATCH_ROWS)))
            .set_data_page_row_count_limit(BATCH_ROWS)
            .build();
        let writer = ArrowWriter::try_new(file, schema(dimensions, chunked), Some(properties))
            .map_err(|error| failed(name, error))?;
        Ok(Self {
            name: name.to_owned(),
            writer,
            dimensions,
            keys: StringBuilder::new(),
            texts: StringBuilder::new(),
            vectors: FixedSizeListBuilder::new(Float32Builder::new(), width(dimensions))
                .with_field(item()),
            chunks: chunked.then(Default::default),
            waiting: 0,
        })
    }

    /// Takes a row; one without a vector is a key that left.
    ///
    /// # Errors
    /// `Io`.
    pub fn push(
        &mut self,
        key: &str,
        text: Option<&str>,
        vector: Option<&[f32]>,
    ) -> Result<(), VectorError> {
        self.push_line(key, text, vector, None)
    }

    /// Takes a chunk of a row; the text comes with the first.
    ///
    /// # Errors
    /// `Io`.
    pub fn push_chunk(
        &mut self,
        key: &str,
        text: Option<&str>,
        vector: &[f32],
        chunk: &ChunkSpan,
    ) -> Result<(), VectorError> {
        self.push_line(key, text, Some(vector), Some(chunk))
    }

    fn push_line(
        &mut self,
        key: &str,
        text: Option<&str>,
        vector: Option<&[f32]>,
        chunk: Option<&ChunkSpan>,
    ) -> Result<(), VectorError> {
        if let Some([numbers, starts, ends]) = &mut self.chunks {
            numbers.append_option(chunk.map(|chunk| chunk.number));
            starts.append_option(chunk.map(|chunk| chunk.start));
            ends.append_option(chunk.map(|chunk| chunk.end));
        }
        self.keys.append_value(key);
        self.texts.append_option(text);
        match vector {
            Some(vector) => self.vectors.values().append_slice(vector),
            None => self.vectors.values().append_value_n(0.0, self.dimensions),
        }
        self.vectors.append(vector.is_some());
        self.waiting += 1;
        if self.waiting == BATCH_ROWS {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), VectorError> {
        self.waiting = 0;
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(self.keys.finish()),
            Arc::new(self.texts.finish()),
            Arc::new(self.vectors.finish()),
        ];
        for chunks in self.chunks.iter_mut().flatten() {
            columns.push(Arc::new(chunks.finish()));
        }
        let batch = RecordBatch::try_new(schema(self.dimensions, self.chunks.is_some()), columns)
            .map_err(|error| failed(&self.name, error))?;
        self.writer
            .write(&batch)
            .map_err(|error| failed(&self.name, error))
    }

    /// Writes the rest; `files::seal` makes it durable.
    ///
    /// # Errors
    /// `Io`.
    pub fn finish(mut self) -> Result<(), VectorError> {
        if self.waiting > 0 {
            self.flush()?;
        }
        let name = self.name;
        self.writer
            .close()
            .map(|_| ())
            .map_err(|error| failed(&name, error))
    }
}

/// Rows of a file, in memory.
#[derive(Debug, Default, PartialEq)]
pub struct RowsAtRest {
    /// Keys of rows with a vector.
    pub keys: Vec<String>,
    /// Their texts.
    pub texts: Vec<Option<String>>,
    /// Their vectors, `[keys, dimensions]`, row-major; `[chunks, dimensions]` where lines are chunks.
    pub vectors: Vec<f32>,
    /// Whose vectors these are, row after row; empty where a row has one.
    pub chunks: Vec<ChunkSpan>,
    /// Keys without a vector.
    pub removed: Vec<String>,
}

/// Reads a whole file, whose content was checked.
///
/// # Errors
/// `Io`; `Corrupt` when it does not have the columns.
pub fn read(name: &str, file: File, dimensions: usize) -> Result<RowsAtRest, VectorError> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(file)
        .and_then(|builder| builder.with_batch_size(8_192).build())
        .map_err(|error| VectorError::corrupt(name, error.to_string()))?;
    let mut rows = RowsAtRest::default();
    for batch in reader {
        let batch = batch.map_err(|error| VectorError::corrupt(name, error.to_string()))?;
        take(&batch, dimensions, &mut rows)
            .ok_or_else(|| VectorError::corrupt(name, "does not have the columns of vectors"))?;
    }
    Ok(rows)
}

fn take(batch: &RecordBatch, dimensions: usize, rows: &mut RowsAtRest) -> Option<()> {
    let keys = batch.column_by_name("key")?.as_string_opt::<i32>()?;
    let texts = batch.column_by_name("text")?.as_string_opt::<i32>()?;
    let vectors = batch.column_by_name("vector")?.as_fixed_size_list_opt()?;
    if vectors.value_length() != width(dimensions) {
        return None;
    }
    let of_chunks = CHUNK.iter().filter_map(|name| {
        let column = batch.column_by_name(name)?;
        column.as_primitive_opt::<UInt32Type>()
    });
    let of_chunks: Vec<&UInt32Array> = of_chunks.collect();
    let chunks = match of_chunks[..] {
        [] => None,
        [numbers, starts, ends] => Some([numbers, starts, ends]),
        _ => return None,
    };
    for row in 0..batch.num_rows() {
        let key = keys.value(row);
        if vectors.is_null(row) {
            rows.removed.push(key.to_owned());
            continue;
        }
        let goes_on = chunks.is_some() && rows.keys.last().is_some_and(|last| last == key);
        if !goes_on {
            rows.keys.push(key.to_owned());
            let text = texts.is_valid(row).then(|| texts.value(row).to_owned());
            rows.texts.push(text);
        }
        if let Some([numbers, starts, ends]) = chunks {
            rows.chunks.push(ChunkSpan {
                row: u32::try_from(rows.keys.len() - 1).ok()?,
                number: numbers.value(row),
                start: starts.value(row),
                end: ends.value(row),
            });
        }
        let vector = vectors.value(row);
        let numbers = vector.as_primitive_opt::<Float32Type>()?;
        rows.vectors.extend_from_slice(numbers.values());
    }
    Some(())
}

fn failed(name: &str, error: impl std::error::Error + Send + Sync + 'static) -> VectorError {
    VectorError::io(name)(std::io::Error::other(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_as_they_were_and_those_without_a_vector_apart() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = AtRestWriter::create(dir.path(), "d.parquet", 2).unwrap();
        let mut expected = RowsAtRest::default();
        for row in 0..3_000_u16 {
            let (key, text) = (format!("k{row}"), format!("text {row}"));
            let text = (row % 3 > 0).then_some(text);
            let vector = [f32::from(row), 0.5];
            if row % 7 == 0 {
                writer.push(&key, None, None).unwrap();
                expected.removed.push(key);
            } else {
                writer.push(&key, text.as_deref(), Some(&vector)).unwrap();
                expected.keys.push(key);
                expected.texts.push(text);
                expected.vectors.extend(vector);
            }
        }
        writer.finish().unwrap();
        let open = || File::open(dir.path().join("d.parquet")).unwrap();
        assert_eq!(read("d", open(), 2).unwrap(), expected);
        let refused = read("d", open(), 3).unwrap_err().to_string();
        assert_eq!(
            refused,
            "index file `d` does not have the columns of vectors"
        );
    }

    #[test]
    fn chunks_come_back_with_the_row_that_they_are_of() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = AtRestWriter::create_chunked(dir.path(), "d", 1).unwrap();
        let chunk = |row, number, start, end| ChunkSpan {
            row,
            number,
            start,
            end,
        };
        let chunks = vec![chunk(0, 0, 0, 4), chunk(0, 2, 3, 9), chunk(1, 0, 0, 2)];
        let lines = [("a", Some("whole")), ("a", None), ("b", Some("it"))];
        for ((key, text), chunk) in lines.into_iter().zip(&chunks) {
            writer.push_chunk(key, text, &[1.5], chunk).unwrap();
        }
        writer.push("c", None, None).unwrap();
        writer.finish().unwrap();
        let file = File::open(dir.path().join("d")).unwrap();
        let expected = RowsAtRest {
            keys: vec!["a".to_owned(), "b".to_owned()],
            texts: vec![Some("whole".to_owned()), Some("it".to_owned())],
            vectors: vec![1.5; 3],
            chunks,
            removed: vec!["c".to_owned()],
        };
        assert_eq!(read("d", file, 1).unwrap(), expected);
    }

    #[test]
    fn a_file_of_no_rows_reads_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let writer = AtRestWriter::create(dir.path(), "d", 4).unwrap();
        writer.finish().unwrap();
        let file = File::open(dir.path().join("d")).unwrap();
        assert_eq!(read("d", file, 4).unwrap(), RowsAtRest::default());
    }
}
