//! The vectors as they came: `[rows, dimensions]` of f32, then each row's length, in one file.
//! Exact distances and answers by key come from here; the graph has only a rounded copy.
//! Disk: 4 bytes a number. Memory: what is touched, a few rows a search.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use lakehouse_kernels::scaling;
use memmap2::Mmap;

use super::super::vectors::exact::norm;
use super::super::vectors::mapped::{bytes, floats, map};
use super::super::vectors::{HnswConfig, Metric, VectorError};
use super::VECTORS_FILE;

/// Writes the matrix, and learns the range of its numbers.
pub struct MatrixWriter {
    metric: Metric,
    out: BufWriter<File>,
    norms: Vec<f32>,
    range: Range,
}

impl MatrixWriter {
    pub fn create(dir: &Path, name: &str, config: &HnswConfig) -> Result<Self, VectorError> {
        let file = File::create_new(dir.join(name)).map_err(VectorError::io(VECTORS_FILE))?;
        let out = BufWriter::with_capacity(1 << 20, file);
        Ok(Self {
            metric: config.metric,
            out,
            norms: Vec::new(),
            range: Range::default(),
        })
    }

    /// Takes a row whose numbers were checked.
    pub fn push(&mut self, vector: &[f32]) -> Result<(), VectorError> {
        let norm = norm(vector);
        self.norms.push(norm);
        self.range.add(vector, norm, graph_scale(self.metric, norm));
        self.out
            .write_all(bytes(vector))
            .map_err(VectorError::io(VECTORS_FILE))
    }

    /// Writes the lengths; gives the range of the numbers as a graph gets them.
    pub fn finish(mut self) -> Result<Range, VectorError> {
        let finish = self
            .out
            .write_all(bytes(&self.norms))
            .and_then(|()| self.out.flush());
        finish
            .map_err(VectorError::io(VECTORS_FILE))
            .map(|()| self.range)
    }
}

/// What a row is multiplied by before the graph sees it: 1 / length when only the angle counts.
pub fn graph_scale(metric: Metric, norm: f32) -> f32 {
    if metric == Metric::Cosine {
        norm.recip()
    } else {
        1.0
    }
}

/// The spread of the numbers in a set of vectors.
#[derive(Debug, Clone, Copy, Default)]
pub struct Range {
    largest: f32,
    square_sum: f64,
    count: u64,
}

impl Range {
    fn add(&mut self, vector: &[f32], norm: f32, scale: f32) {
        self.largest = self.largest.max(scaling::largest(vector) * scale);
        self.square_sum += f64::from(norm * scale).powi(2);
        self.count += vector.len() as u64;
    }

    /// The largest absolute value.
    pub fn largest(&self) -> f32 {
        self.largest
    }

    /// The root of the mean square.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        reason = "a rough measure"
    )]
    pub fn typical(&self) -> f32 {
        if self.count == 0 {
            0.0
        } else {
            (self.square_sum / self.count as f64).sqrt() as f32
        }
    }
}

/// The matrix, mapped.
pub struct Matrix {
    map: Mmap,
    dimensions: usize,
    rows: usize,
}

impl Matrix {
    /// Maps a file that a [`MatrixWriter`] finished.
    ///
    /// # Errors
    /// `Io`, or `Corrupt` when it does not hold `rows` rows.
    pub fn open(file: &File, rows: usize, dimensions: usize) -> Result<Self, VectorError> {
        let map = map(file).map_err(VectorError::io(VECTORS_FILE))?;
        if floats(&map).is_some_and(|floats| floats.len() == rows * (dimensions + 1)) {
            Ok(Self {
                map,
                dimensions,
                rows,
            })
        } else {
            Err(VectorError::corrupt(
                VECTORS_FILE,
                format!("does not hold {rows} rows"),
            ))
        }
    }

    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    /// A row, as it came.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.floats()[row * self.dimensions..(row + 1) * self.dimensions]
    }

    /// The length of a row.
    pub fn norm(&self, row: usize) -> f32 {
        self.floats()[self.rows * self.dimensions + row]
    }

    fn floats(&self) -> &[f32] {
        floats(&self.map).expect("it was so when the file was opened")
    }
}
