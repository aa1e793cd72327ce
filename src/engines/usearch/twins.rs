//! Rows that have the very same vector, as equal texts do: only the first of them is linked into the
//! graph, the others hang on it in a chain. A graph has no way out of a heap of equal points: with
//! more of them than links a node, it neither finds them all nor what lies behind them.
//! The builder writes the chains, a search follows them.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use memmap2::Mmap;
use xxhash_rust::xxh3::xxh3_64;

use super::super::vectors::VectorError;
use super::super::vectors::mapped::{bytes, map};
use super::TWINS_FILE;
use super::matrix::Matrix;

/// Chains the rows of `matrix` with equal vectors and writes them; gives the first row of each.
///
/// # Errors
/// `Io`.
pub fn chain(dir: &Path, matrix: &Matrix) -> Result<Vec<u32>, VectorError> {
    let mut next = vec![0_u32; matrix.rows()];
    let mut firsts = Vec::new();
    let mut last_of: HashMap<u64, u32> = HashMap::new();
    for index in 0..matrix.rows() {
        let row =
            u32::try_from(index).expect("a builder takes no more rows than a slot has bits for");
        let content = bytes(matrix.row(index));
        match last_of.insert(xxh3_64(content), row) {
            Some(last) if content == bytes(matrix.row(last as usize)) => next[last as usize] = row,
            // Another vector of the same hash, at worst: both are linked.
            _ => firsts.push(row),
        }
    }
    write(dir, &next).map_err(VectorError::io(TWINS_FILE))?;
    Ok(firsts)
}

fn write(dir: &Path, next: &[u32]) -> std::io::Result<()> {
    let mut out = BufWriter::new(File::create_new(dir.join(TWINS_FILE))?);
    for row in next {
        out.write_all(&row.to_le_bytes())?;
    }
    out.flush()
}

/// The chains of a generation, mapped: for each row the next one of the same vector, or 0.
pub struct Twins {
    map: Mmap,
}

impl Twins {
    /// Maps a file that [`chain`] wrote.
    ///
    /// # Errors
    /// `Io`, or `Corrupt` when it is not for `rows` rows.
    pub fn open(file: &File, rows: usize) -> Result<Self, VectorError> {
        let map = map(file).map_err(VectorError::io(TWINS_FILE))?;
        if map.len() == rows * size_of::<u32>() {
            Ok(Self { map })
        } else {
            Err(VectorError::corrupt(
                TWINS_FILE,
                format!("is not of {rows} rows"),
            ))
        }
    }

    /// A row and those after it in its chain, in order of their slots.
    pub fn from(&self, slot: u64) -> impl Iterator<Item = u64> {
        // A chain only goes up: whatever the file holds, it ends.
        std::iter::successors(Some(slot), |&slot| {
            self.next(slot).filter(|&next| next > slot)
        })
    }

    fn next(&self, slot: u64) -> Option<u64> {
        let at = usize::try_from(slot).ok()?.checked_mul(size_of::<u32>())?;
        let next = u32::from_le_bytes(*self.map.get(at..)?.first_chunk()?);
        Some(u64::from(next))
    }

    /// Bytes that are mapped.
    pub fn bytes(&self) -> usize {
        self.map.len()
    }
}
