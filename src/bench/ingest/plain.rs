//! The baseline: `CREATE EXTERNAL TABLE … STORED AS CSV` with types inferred, and the table written
//! as Parquet with `DataFusion`'s default settings. It flushes nothing to the disk.

use std::{path::Path, time::Instant};

use arrow::{
    array::{AsArray, RecordBatch},
    datatypes::UInt64Type,
};
use datafusion::{
    common::Result as PlainResult, dataframe::DataFrameWriteOptions, prelude::SessionContext,
};
use tokio::runtime::Builder;

use super::{super::BenchError, Source};

/// Writes a folder of Parquet files for every table; returns the seconds and the bytes written.
pub(super) fn convert_all(sources: &[Source], to: &Path) -> Result<(f64, u64), BenchError> {
    let threads = Builder::new_multi_thread().enable_all().build()?;
    let clock = Instant::now();
    for source in sources {
        let folder = to.join(source.spec.name);
        let work = convert(
            source.file.to_string_lossy().into_owned(),
            folder.to_string_lossy().into_owned(),
        );
        let rows = threads.block_on(async { threads.spawn(work).await });
        let rows =
            rows.map_err(|error| BenchError::wrong("plain DataFusion", error.to_string()))?;
        let rows = rows?;
        if rows != source.spec.rows {
            let found = format!("{rows} rows of {}", source.spec.rows);
            return Err(BenchError::wrong(source.spec.name, found));
        }
    }
    let seconds = clock.elapsed().as_secs_f64();
    let bytes = sources
        .iter()
        .map(|source| bytes_below(&to.join(source.spec.name)))
        .sum::<Result<u64, _>>()?;
    Ok((seconds, bytes))
}

/// Returns how many rows were written.
async fn convert(csv: String, folder: String) -> PlainResult<u64> {
    let context = SessionContext::new();
    let quoted = csv.replace('\'', "''");
    let create = format!(
        "CREATE EXTERNAL TABLE source STORED AS CSV LOCATION '{quoted}' \
         OPTIONS ('format.has_header' 'true')"
    );
    context.sql(&create).await?.collect().await?;
    let table = context.table("source").await?;
    let options = DataFrameWriteOptions::new();
    // The slash makes it a folder with a file for each partition.
    let folder = format!("{folder}/");
    let written = table.write_parquet(&folder, options, None).await?;
    Ok(written.iter().map(count).sum())
}

/// The only cell of what a write answers.
fn count(batch: &RecordBatch) -> u64 {
    let counts = batch.column(0).as_primitive_opt::<UInt64Type>();
    counts.map_or(0, |counts| counts.values().iter().sum())
}

fn bytes_below(folder: &Path) -> Result<u64, BenchError> {
    let failed = |error| BenchError::file(folder, error);
    let mut bytes = 0;
    for file in std::fs::read_dir(folder).map_err(failed)? {
        bytes += file.and_then(|f| f.metadata()).map_err(failed)?.len();
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::{super::write_sources, *};

    #[test]
    fn the_baseline_writes_every_row_of_every_table() {
        let dir = tempfile::tempdir().expect("a directory");
        let sources = write_sources(dir.path(), 700).expect("seven files");
        let to = tempfile::tempdir().expect("a directory");
        let (seconds, bytes) = convert_all(&sources, to.path()).expect("it converts");
        assert!(seconds > 0.0 && bytes > 1_000, "{seconds} s, {bytes} bytes");
        assert_eq!(sources.len(), 7);
    }
}
