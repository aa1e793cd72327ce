//! A column of strings in one file: the bytes, where each begins, and a hash table to find a row by.
//! The builder writes it front to back; the index maps it and copies nothing.
//!
//! `[bytes] [pad to 8] [u64 start × (rows + 1)] [u32 row × slots] [u64 rows] [u64 slots] [magic]`,
//! little-endian. The top bit of a start says that the row has no string. A table slot holds row + 1,
//! or 0 when it is free; a key is looked for from its [`key_hash`] on.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use memmap2::Mmap;

use super::VectorError;
use super::keys::key_hash;
use super::mapped::map;

const MAGIC: &[u8; 8] = b"LHCOLUM1";
const FOOTER_BYTES: usize = 24;
const MISSING: u64 = 1 << 63;

/// Writes a column.
pub struct ColumnWriter {
    name: &'static str,
    out: BufWriter<File>,
    starts: Vec<u64>,
    end: u64,
}

impl ColumnWriter {
    /// Begins the file `name` below `dir`, which must not be there.
    ///
    /// # Errors
    /// `Io`.
    pub fn create(dir: &Path, name: &'static str) -> Result<Self, VectorError> {
        let file = File::create_new(dir.join(name)).map_err(VectorError::io(name))?;
        Ok(Self {
            name,
            out: BufWriter::with_capacity(1 << 20, file),
            starts: Vec::new(),
            end: 0,
        })
    }

    /// Takes the next row's string.
    ///
    /// # Errors
    /// `Io`.
    pub fn push(&mut self, value: Option<&str>) -> Result<(), VectorError> {
        let missing = if value.is_none() { MISSING } else { 0 };
        let value = value.unwrap_or_default();
        self.starts.push(self.end | missing);
        self.end += value.len() as u64;
        self.out
            .write_all(value.as_bytes())
            .map_err(VectorError::io(self.name))
    }

    /// Writes the rest: the rows can be looked up when `hashes` has the [`key_hash`] of each.
    ///
    /// # Errors
    /// `Io`.
    pub fn finish(mut self, hashes: Option<&[u128]>) -> Result<(), VectorError> {
        let table = hashes.map_or_else(Vec::new, table);
        self.write_rest(&table).map_err(VectorError::io(self.name))
    }

    fn write_rest(&mut self, table: &[u32]) -> std::io::Result<()> {
        let rows = self.starts.len() as u64;
        let padding = usize_of(self.end.next_multiple_of(8) - self.end);
        self.out.write_all(&[0; 8][..padding])?;
        self.starts.push(self.end);
        for start in &self.starts {
            self.out.write_all(&start.to_le_bytes())?;
        }
        for row in table {
            self.out.write_all(&row.to_le_bytes())?;
        }
        self.out.write_all(&rows.to_le_bytes())?;
        self.out.write_all(&(table.len() as u64).to_le_bytes())?;
        self.out.write_all(MAGIC)?;
        self.out.flush()
    }
}

/// An open-addressing table over rows, at most half full.
fn table(hashes: &[u128]) -> Vec<u32> {
    let mut table = vec![0; (hashes.len() * 2).next_power_of_two()];
    for (row, &hash) in hashes.iter().enumerate() {
        let mut at = home(hash, table.len());
        while table[at] != 0 {
            at = (at + 1) % table.len();
        }
        table[at] =
            u32::try_from(row + 1).expect("a builder takes no more rows than a slot has bits for");
    }
    table
}

fn home(hash: u128, slots: usize) -> usize {
    hash as usize & (slots - 1)
}

/// A column of a generation, mapped.
pub struct Column {
    map: Mmap,
    rows: usize,
    starts: usize,
    table: usize,
    slots: usize,
}

impl Column {
    /// Maps a file that a [`ColumnWriter`] finished.
    ///
    /// # Errors
    /// `Io`, or `Corrupt` when its parts do not add up to the file.
    pub fn open(name: &'static str, file: &File) -> Result<Self, VectorError> {
        let map = map(file).map_err(VectorError::io(name))?;
        Self::parse(map).ok_or_else(|| VectorError::corrupt(name, "is no column of strings"))
    }

    fn parse(map: Mmap) -> Option<Self> {
        let footer = map.len().checked_sub(FOOTER_BYTES)?;
        let rows = usize::try_from(u64_at(&map, footer)).ok()?;
        let slots = usize::try_from(u64_at(&map, footer + 8)).ok()?;
        let table = footer.checked_sub(slots.checked_mul(4)?)?;
        let starts = table.checked_sub(rows.checked_add(1)?.checked_mul(8)?)?;
        let bytes = u64_at(&map, table - 8);
        let whole = map[footer + 16..] == *MAGIC
            && bytes.checked_next_multiple_of(8)? == starts as u64
            && (slots == 0 || slots.is_power_of_two());
        whole.then_some(Self {
            map,
            rows,
            starts,
            table,
            slots,
        })
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Bytes that are mapped.
    pub fn bytes(&self) -> usize {
        self.map.len()
    }

    /// The string of a row, if it has one.
    pub fn get(&self, row: u64) -> Option<&str> {
        let row = usize::try_from(row).ok().filter(|&row| row < self.rows)?;
        let start = u64_at(&self.map, self.starts + row * 8);
        if start & MISSING != 0 {
            return None;
        }
        let end = u64_at(&self.map, self.starts + row * 8 + 8) & !MISSING;
        let bytes = self.map.get(usize_of(start)..usize_of(end))?;
        Some(
            std::str::from_utf8(bytes)
                .expect("written from a string, and the hash of the file was checked"),
        )
    }

    /// The row whose string is `key`, in a column that was finished with hashes.
    pub fn find(&self, key: &str) -> Option<u64> {
        if self.slots == 0 {
            return None;
        }
        let mut at = home(key_hash(key), self.slots);
        loop {
            let entry = self.table + at * 4;
            let row = u32::from_le_bytes(*self.map[entry..].first_chunk()?);
            let row = u64::from(row.checked_sub(1)?);
            if self.get(row) == Some(key) {
                return Some(row);
            }
            at = (at + 1) % self.slots;
        }
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(
        *bytes[at..]
            .first_chunk()
            .expect("positions were checked against the file's length"),
    )
}

fn usize_of(position: u64) -> usize {
    usize::try_from(position).expect("a position in a file that is mapped")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(values: &[Option<&str>], searchable: bool) -> Column {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = ColumnWriter::create(dir.path(), "column").unwrap();
        for value in values {
            writer.push(*value).unwrap();
        }
        let hashes: Vec<u128> = values
            .iter()
            .map(|value| key_hash(value.unwrap_or_default()))
            .collect();
        writer.finish(searchable.then_some(&hashes)).unwrap();
        Column::open("column", &File::open(dir.path().join("column")).unwrap()).unwrap()
    }

    #[test]
    fn strings_come_back_by_row_and_rows_by_string() {
        let keys: Vec<String> = (0..1_000).map(|row| format!("ключ-{row}")).collect();
        let values: Vec<Option<&str>> = keys.iter().map(|key| Some(key.as_str())).collect();
        let column = written(&values, true);
        for (row, key) in keys.iter().enumerate() {
            assert_eq!(column.get(row as u64), Some(key.as_str()));
            assert_eq!(column.find(key), Some(row as u64));
        }
        assert_eq!((column.get(1_000), column.get(u64::MAX)), (None, None));
        assert_eq!((column.find("ключ"), column.find("")), (None, None));
    }

    #[test]
    fn no_string_is_not_the_empty_string() {
        let column = written(&[None, Some(""), Some("a"), None], false);
        let values: Vec<_> = (0..4).map(|row| column.get(row)).collect();
        assert_eq!(values, [None, Some(""), Some("a"), None]);
        assert_eq!(column.find("a"), None);
    }

    #[test]
    fn a_column_of_no_rows_answers() {
        let column = written(&[], true);
        assert_eq!(
            (column.len(), column.get(0), column.find("")),
            (0, None, None)
        );
    }

    #[test]
    fn a_file_that_is_no_column_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for content in [&b""[..], b"short", &[0xff; 100], &[0; 24]] {
            std::fs::write(dir.path().join("x"), content).unwrap();
            let error = Column::open("x", &File::open(dir.path().join("x")).unwrap())
                .err()
                .unwrap();
            assert_eq!(error.to_string(), "index file `x` is no column of strings");
        }
    }
}
