//! The order in which the builder has rows linked: near rows one after another, so that most of what
//! linking a row reads was read for the row before it and is still in the caches.
//! The rows are halved along the line between two of them that lie far apart, then each half, and so on.

use std::panic::resume_unwind;

use super::super::vectors::exact::{Measure, dot};
use super::super::vectors::{BuildOptions, Metric, VectorError};
use super::matrix::{Matrix, graph_scale};

/// Rows that are halved no more: with their neighbours they fit the caches of a processor.
const LEAF_ROWS: usize = 64;
/// A group is wide when its rows lie more than twice as far apart as is typical: so many times the square,
/// which a distance is.
const WIDE: f32 = 4.0;
/// Rows among which two are looked for that lie far apart.
const SAMPLED: usize = 32;

/// Sorts the rows `rows` of `matrix` by where they lie.
///
/// # Errors
/// `Cancelled`; the rows are then in no order.
pub fn by_place(
    matrix: &Matrix,
    metric: Metric,
    rows: &mut [u32],
    options: &BuildOptions,
) -> Result<(), VectorError> {
    let places = Places {
        matrix,
        metric,
        options,
    };
    places.halve(rows, options.threads())?;
    places.outlying_first(rows)
}

struct Places<'a> {
    matrix: &'a Matrix,
    metric: Metric,
    options: &'a BuildOptions,
}

impl Places<'_> {
    fn halve(&self, rows: &mut [u32], threads: usize) -> Result<(), VectorError> {
        if rows.len() <= LEAF_ROWS {
            return Ok(());
        }
        self.options.check_cancelled()?;
        let middle = self.part(rows, threads);
        let (before, after) = rows.split_at_mut(middle);
        if threads < 2 {
            self.halve(before, 1)?;
            return self.halve(after, 1);
        }
        let (here, there) = (threads.div_ceil(2), threads / 2);
        std::thread::scope(|scope| {
            let other = scope.spawn(|| self.halve(after, there));
            let halved = self.halve(before, here);
            other.join().unwrap_or_else(|panic| resume_unwind(panic))?;
            halved
        })
    }

    /// Moves the half that lies further along the line behind the other; gives where it begins.
    fn part(&self, rows: &mut [u32], threads: usize) -> usize {
        let line = self.line(rows);
        let along = |row: &u32| (self.scale(*row) * dot(&line, self.row(*row)), *row);
        let measure = |rows: &[u32]| rows.iter().map(along).collect::<Vec<(f64, u32)>>();
        let (own, others) = rows.split_at(rows.len().div_ceil(threads));
        let mut placed = std::thread::scope(|scope| {
            let parts = others.chunks(own.len());
            let parts: Vec<_> = parts.map(|part| scope.spawn(|| measure(part))).collect();
            let mut placed = measure(own);
            for part in parts {
                placed.extend(part.join().unwrap_or_else(|panic| resume_unwind(panic)));
            }
            placed
        });
        let middle = placed.len() / 2;
        placed.select_nth_unstable_by(middle, |a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        for (row, (_, placed)) in rows.iter_mut().zip(placed) {
            *row = placed;
        }
        middle
    }

    /// From one row of `rows`, which are not none, to another that lies far from it.
    fn line(&self, rows: &[u32]) -> Vec<f32> {
        let step = rows.len().div_ceil(SAMPLED);
        let farthest = |from: u32| {
            let measure = Measure::new(self.metric, self.row(from));
            let distance = |&row: &u32| (measure.distance(self.row(row), self.norm(row)), row);
            let sampled = rows.iter().step_by(step).map(distance);
            let farthest = sampled.max_by(|a, b| a.0.total_cmp(&b.0));
            farthest.map_or(from, |(_, row)| row)
        };
        let from = farthest(rows[0]);
        let to = farthest(from);
        #[expect(clippy::cast_possible_truncation, reason = "a direction, not a result")]
        let (from_scale, to_scale) = (self.scale(from) as f32, self.scale(to) as f32);
        let both = self.row(from).iter().zip(self.row(to));
        both.map(|(from, to)| to * to_scale - from * from_scale)
            .collect()
    }

    /// Moves groups that lie wide apart to the front, all else in its order: who has few neighbours is found
    /// by them only while the graph is small.
    fn outlying_first(&self, rows: &mut [u32]) -> Result<(), VectorError> {
        let metric = match self.metric {
            Metric::Dot => Metric::L2,
            other => other,
        };
        let mut widths = Vec::with_capacity(rows.len().div_ceil(LEAF_ROWS));
        for group in rows.chunks(LEAF_ROWS) {
            self.options.check_cancelled()?;
            let measure = Measure::new(metric, self.row(group[0]));
            let distances = group[1..].iter();
            let distances = distances.map(|&row| measure.distance(self.row(row), self.norm(row)));
            widths.push(distances.fold(0.0, f32::max));
        }
        let mut sorted = widths.clone();
        sorted.sort_unstable_by(f32::total_cmp);
        let wide = sorted
            .get(sorted.len() / 2)
            .map_or(0.0, |typical| typical * WIDE);
        let groups = || rows.chunks(LEAF_ROWS).zip(&widths);
        let outlying = groups().filter(|(_, width)| **width > wide);
        let others = groups().filter(|(_, width)| **width <= wide);
        let sorted: Vec<u32> = outlying
            .chain(others)
            .flat_map(|(group, _)| group)
            .copied()
            .collect();
        rows.copy_from_slice(&sorted);
        Ok(())
    }

    fn row(&self, row: u32) -> &[f32] {
        self.matrix.row(row as usize)
    }

    fn norm(&self, row: u32) -> f32 {
        self.matrix.norm(row as usize)
    }

    fn scale(&self, row: u32) -> f64 {
        f64::from(graph_scale(self.metric, self.norm(row)))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::super::VECTORS_FILE;
    use super::super::matrix::MatrixWriter;
    use super::*;
    use crate::engines::vectors::HnswConfig;

    /// Rows in turns of `groups` directions, with a little scatter.
    fn matrix(dir: &std::path::Path, rows: usize, groups: usize) -> Matrix {
        let config = HnswConfig::default();
        let mut writer = MatrixWriter::create(dir, VECTORS_FILE, &config).unwrap();
        for row in 0..rows {
            let mut vector = vec![0.01; groups];
            vector[row % groups] = 1.0;
            vector[(row * 7 + 1) % groups] += 0.05;
            writer.push(&vector).unwrap();
        }
        writer.finish().unwrap();
        let file = File::open(dir.join(VECTORS_FILE)).unwrap();
        Matrix::open(&file, rows, groups).unwrap()
    }

    #[test]
    fn near_rows_follow_each_other_and_none_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let (rows, groups) = (4_096_u32, 8);
        let matrix = matrix(dir.path(), rows as usize, groups as usize);
        for threads in [1, 2, 3] {
            let options = BuildOptions {
                threads,
                ..BuildOptions::default()
            };
            let mut order: Vec<u32> = (0..rows).collect();
            by_place(&matrix, Metric::Cosine, &mut order, &options).unwrap();
            let changes = |order: &[u32]| {
                let pairs = order.windows(2);
                pairs
                    .filter(|pair| pair[0] % groups != pair[1] % groups)
                    .count()
            };
            let unordered: Vec<u32> = (0..rows).collect();
            assert_eq!(changes(&unordered), 4_095);
            assert!(changes(&order) < 1_024, "{}", changes(&order));
            order.sort_unstable();
            assert_eq!(order, unordered);
        }
    }

    #[test]
    fn a_group_with_a_row_that_lies_apart_comes_first() {
        let dir = tempfile::tempdir().unwrap();
        let config = HnswConfig {
            metric: Metric::L2,
            ..HnswConfig::default()
        };
        let mut writer = MatrixWriter::create(dir.path(), VECTORS_FILE, &config).unwrap();
        for row in 0..1_000_u16 {
            let apart = if row == 700 { 200.0 } else { 0.0 };
            writer.push(&[f32::from(row % 64), apart]).unwrap();
        }
        writer.finish().unwrap();
        let file = File::open(dir.path().join(VECTORS_FILE)).unwrap();
        let matrix = Matrix::open(&file, 1_000, 2).unwrap();
        let options = BuildOptions::default();
        let places = Places {
            matrix: &matrix,
            metric: Metric::L2,
            options: &options,
        };
        let mut rows: Vec<u32> = (0..1_000).collect();
        places.outlying_first(&mut rows).unwrap();
        // Row 700 is in the group that begins at 640.
        let expected: Vec<u32> = (640..704).chain(0..640).chain(704..1_000).collect();
        assert_eq!(rows, expected);
    }

    #[test]
    fn rows_that_all_lie_in_one_place_are_all_there() {
        let dir = tempfile::tempdir().unwrap();
        let matrix = matrix(dir.path(), 1_000, 1);
        for metric in [Metric::Cosine, Metric::Dot, Metric::L2] {
            let mut order: Vec<u32> = (0..1_000).collect();
            by_place(&matrix, metric, &mut order, &BuildOptions::default()).unwrap();
            order.sort_unstable();
            assert_eq!(order, (0..1_000).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_cancelled_build_orders_no_further() {
        let dir = tempfile::tempdir().unwrap();
        let matrix = matrix(dir.path(), 1_000, 4);
        let options = BuildOptions::default();
        options
            .cancel
            .store(true, std::sync::atomic::Ordering::Relaxed);
        let mut order: Vec<u32> = (0..1_000).collect();
        let ended = by_place(&matrix, Metric::Cosine, &mut order, &options);
        assert!(matches!(ended, Err(VectorError::Cancelled)));
    }
}
