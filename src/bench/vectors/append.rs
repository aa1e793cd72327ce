//! Rows added without building anew: a Parquet file of vectors beside a generation, compared in full
//! and merged with what the graph finds. Durable when `write` returns.

use std::{fs::File, path::Path, time::Instant};

use parquet::arrow::ArrowWriter;

use super::{
    super::{BenchError, report::Series},
    data::{K, Set},
    engine::Ours,
    lance::batch_of,
    system,
};
use crate::engines::vectors::{
    Metric, Visible,
    exact::{Candidate, Measure, Nearest},
};

/// Writes rows as one Parquet file with its key column; returns the milliseconds.
pub(super) fn write(
    rows: &[f32],
    dimensions: usize,
    first: usize,
    path: &Path,
) -> Result<f64, BenchError> {
    let batch = batch_of(rows, dimensions, first, None)?;
    let failed =
        |error: parquet::errors::ParquetError| BenchError::wrong("parquet", error.to_string());
    let clock = Instant::now();
    let file = File::create_new(path).map_err(|error| BenchError::file(path, error))?;
    let mut writer = ArrowWriter::try_new(file, batch.schema(), None).map_err(failed)?;
    writer.write(&batch).map_err(failed)?;
    writer.close().map_err(failed)?;
    system::sync(path)?;
    Ok(clock.elapsed().as_secs_f64() * 1e3)
}

/// The median search over a generation and the rows added to it, in microseconds.
pub(super) fn search_us(
    ours: &Ours,
    set: &Set,
    ef: usize,
    added: &[f32],
) -> Result<f64, BenchError> {
    let mut times = Series::default();
    for query in set.each_query().take(100) {
        let clock = Instant::now();
        let found = ours.index.search(query, K, Some(ef), Visible::All)?;
        let measure = Measure::new(Metric::Cosine, query);
        let mut nearest = Nearest::new(K);
        for hit in &found.hits {
            nearest.offer(Candidate {
                distance: hit.distance,
                slot: hit.slot,
            });
        }
        for (slot, row) in added.chunks_exact(set.dimensions).enumerate() {
            nearest.offer(Candidate {
                distance: measure.distance(row, 1.0),
                slot: (set.len() + slot) as u64,
            });
        }
        let merged = nearest.into_sorted();
        times.push(clock.elapsed().as_secs_f64() * 1e6);
        if merged.len() != K {
            return Err(BenchError::wrong("append", "too few hits".to_owned()));
        }
    }
    Ok(times.median())
}
