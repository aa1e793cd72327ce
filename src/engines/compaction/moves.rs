//! Where rows went: while files are rewritten, the number of the file that each row is from is noted in
//! a file without a name, as runs; asked later, the runs are read from the front and rows are counted.
//! As the rows of a file keep their order among themselves, no position has to be noted.

use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Read, Write},
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
};

use arrow::array::UInt32Array;
use async_trait::async_trait;
use lakehouse_actors::{PortError, ports::RowMap};
use lakehouse_journal::model::{
    catalog::{DataFile, DeletionVector},
    event::DeletedRows,
};
use roaring::RoaringBitmap;

/// Notes the runs: a file's number and a count of rows, each as a variable-length integer.
pub(super) struct MoveLog {
    out: BufWriter<File>,
    open: Option<(u32, u64)>,
}

impl MoveLog {
    /// An empty log on the file system of `staging`. It has no name, so it goes with its last user.
    pub fn create(staging: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(staging)?;
        Ok(Self {
            out: BufWriter::new(tempfile::tempfile_in(staging)?),
            open: None,
        })
    }

    /// Notes the next rows by the numbers of their files.
    pub fn note(&mut self, numbers: &UInt32Array) -> io::Result<()> {
        for number in numbers.values().chunk_by(|a, b| a == b) {
            let rows = number.len() as u64;
            match &mut self.open {
                Some((open, count)) if *open == number[0] => *count += rows,
                _ => {
                    self.close_run()?;
                    self.open = Some((number[0], rows));
                }
            }
        }
        Ok(())
    }

    fn close_run(&mut self) -> io::Result<()> {
        if let Some((number, rows)) = self.open.take() {
            write_varint(&mut self.out, u64::from(number))?;
            write_varint(&mut self.out, rows)?;
        }
        Ok(())
    }

    /// Ends the log. `old` are the files by number, `new` the rows of each new file.
    pub fn finish(mut self, old: &[Arc<DataFile>], new: Vec<u64>) -> io::Result<Moves> {
        self.close_run()?;
        let log = self
            .out
            .into_inner()
            .map_err(io::IntoInnerError::into_error)?;
        let old = old.iter();
        Ok(Moves(Arc::new(Moved {
            old: old
                .map(|file| (file.entry.key.clone(), file.deleted.clone()))
                .collect(),
            new,
            log,
        })))
    }
}

/// The finished log.
#[derive(Clone)]
pub(super) struct Moves(Arc<Moved>);

struct Moved {
    /// Keys of the old files by number, with the rows that were left out.
    old: Vec<(String, DeletionVector)>,
    /// Rows of each new file.
    new: Vec<u64>,
    log: File,
}

#[async_trait]
impl RowMap for Moves {
    async fn locate(&self, rows: &[DeletedRows]) -> Result<Vec<DeletionVector>, PortError> {
        let wanted = self.0.ranks(rows);
        let moved = Arc::clone(&self.0);
        tokio::task::spawn_blocking(move || moved.positions(&wanted))
            .await
            .map_err(|error| PortError::internal(error.to_string()))?
            .map_err(|error| PortError::internal(format!("the log of moved rows: {error}")))
    }
}

impl Moved {
    /// For each old file which of the rows that were kept are asked for, counted from 0.
    fn ranks(&self, rows: &[DeletedRows]) -> Vec<Vec<u32>> {
        let of_file = |(key, left_out): &(String, DeletionVector)| {
            let mut wanted = DeletionVector::default();
            for asked in rows.iter().filter(|asked| &asked.file == key) {
                wanted.add(&asked.positions);
            }
            let left_out = left_out.bitmap();
            let kept = wanted.bitmap() - left_out;
            let rank = |position| u64::from(position) - left_out.rank(position);
            kept.iter()
                .map(|position| u32::try_from(rank(position)).expect("less than the position"))
                .collect()
        };
        self.old.iter().map(of_file).collect()
    }

    fn positions(&self, wanted: &[Vec<u32>]) -> io::Result<Vec<DeletionVector>> {
        let mut found = Found::new(&self.new);
        let mut left: usize = wanted.iter().map(Vec::len).sum();
        // For each old file the rows that are passed, and the next of those wanted.
        let mut passed = vec![(0_u64, 0_usize); wanted.len()];
        let mut log = BufReader::new(FromStart(&self.log, 0));
        let mut at = 0;
        while left > 0 {
            let Some(number) = read_varint(&mut log)? else {
                return Err(io::ErrorKind::UnexpectedEof.into());
            };
            let rows = read_varint(&mut log)?.ok_or(io::ErrorKind::UnexpectedEof)?;
            let number = usize::try_from(number).map_err(io::Error::other)?;
            let (ranks, (before, next)) = wanted
                .get(number)
                .zip(passed.get_mut(number))
                .ok_or(io::ErrorKind::InvalidData)?;
            while let Some(rank) = ranks.get(*next).map(|rank| u64::from(*rank))
                && rank < *before + rows
            {
                found.add(at + rank - *before);
                *next += 1;
                left -= 1;
            }
            *before += rows;
            at += rows;
        }
        Ok(found.files.into_iter().map(DeletionVector::from).collect())
    }
}

/// Rows of the new files, which come in ascending order.
struct Found<'a> {
    rows: &'a [u64],
    files: Vec<RoaringBitmap>,
    /// The file that the last row was in, and the rows before that file.
    file: usize,
    before: u64,
}

impl<'a> Found<'a> {
    fn new(rows: &'a [u64]) -> Self {
        Self {
            rows,
            files: vec![RoaringBitmap::new(); rows.len()],
            file: 0,
            before: 0,
        }
    }

    fn add(&mut self, row: u64) {
        while row - self.before >= self.rows[self.file] {
            self.before += self.rows[self.file];
            self.file += 1;
        }
        let position = u32::try_from(row - self.before).expect("a file is split before 2^32 rows");
        self.files[self.file].insert(position);
    }
}

/// Reads a shared file from its start, without moving its cursor.
struct FromStart<'a>(&'a File, u64);

impl Read for FromStart<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.0.read_at(buffer, self.1)?;
        self.1 += length as u64;
        Ok(length)
    }
}

fn write_varint(out: &mut impl Write, mut value: u64) -> io::Result<()> {
    let mut bytes = [0; 10];
    let mut length = 0;
    loop {
        let low = u8::try_from(value & 0x7F).expect("seven bits");
        value >>= 7;
        bytes[length] = low | if value > 0 { 0x80 } else { 0 };
        length += 1;
        if value == 0 {
            return out.write_all(&bytes[..length]);
        }
    }
}

/// `None` at the end.
fn read_varint(input: &mut impl Read) -> io::Result<Option<u64>> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let mut byte = [0];
        if input.read(&mut byte)? == 0 {
            return if shift == 0 {
                Ok(None)
            } else {
                Err(io::ErrorKind::UnexpectedEof.into())
            };
        }
        value |= u64::from(byte[0] & 0x7F) << shift;
        if byte[0] < 0x80 {
            return Ok(Some(value));
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_of_any_size_comes_back_as_it_was_written() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let mut bytes = Vec::new();
            write_varint(&mut bytes, value).unwrap();
            let mut input = bytes.as_slice();
            assert_eq!(read_varint(&mut input).unwrap(), Some(value));
            assert_eq!(read_varint(&mut input).unwrap(), None);
        }
        read_varint(&mut [0x80_u8].as_slice()).expect_err("cut short");
    }
}
