//! `lakehouse bench ingest`: the seven staffing tables from CSV files to Parquet, through REST beside
//! plain `DataFusion`, in alternating repetitions. With `--memory` also what a large body costs in memory.

mod memory;
mod plain;

use std::{
    fs::File,
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
    time::Instant,
};

use clap::Parser;
use reqwest::Body;
use serde_json::{Value, json};
use tokio_util::io::ReaderStream;

use super::{
    BenchError,
    daemon::{Daemon, client_runtime},
    make_dir, options,
    report::{Limit, Report, Series, float, number, print, progress},
    scratch,
};
use crate::{
    cli::output,
    demo::data::{DEFAULT_ROWS, DEFAULT_SEED, TableSpec, tables, write_csv},
};

/// Bytes read from a file and sent at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// Measures the ingest of files.
#[derive(Debug, Parser)]
#[command(bin_name = "lakehouse bench ingest")]
struct Options {
    /// Rows of the seven tables together
    #[arg(long, default_value_t = DEFAULT_ROWS, value_parser = clap::value_parser!(u64).range(7..))]
    rows: u64,
    /// Repetitions on both sides
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    repeat: u32,
    /// Stream a generated CSV file of 2 GB, too, and look at the daemon's memory
    #[arg(long)]
    memory: bool,
    /// Where to write; a directory in it is made and removed [default: the system's for temporary files]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// One table as a CSV file.
struct Source {
    spec: TableSpec,
    file: PathBuf,
    bytes: u64,
}

/// One side's repetitions.
#[derive(Default)]
struct Side {
    seconds: Series,
    bytes: u64,
}

/// Runs the benchmark that `words` describe and returns its figures.
///
/// # Errors
/// [`BenchError`]; among them [`BenchError::Wrong`] when a side took in another number of rows. A
/// missed gate is no error.
pub fn run(words: &[String]) -> Result<Value, BenchError> {
    let options: Options = options(words);
    let dir = scratch(options.dir.as_deref())?;
    let mut report = Report::new("ingest", dir.path());
    report.set(
        "options",
        json!({ "rows": options.rows, "repeat": options.repeat }),
    );
    compare(dir.path(), &options, &mut report)?;
    if options.memory {
        let dir = make_dir(dir.path(), "memory")?;
        memory::measure(&dir, &mut report)?;
    }
    report.finish()
}

fn compare(dir: &Path, options: &Options, report: &mut Report) -> Result<(), BenchError> {
    progress("ingest: writing the CSV files");
    let sources = write_sources(&make_dir(dir, "csv")?, options.rows)?;
    let daemon = Daemon::start(&make_dir(dir, "data")?)?;
    let (mut ours, mut plain) = (Side::default(), Side::default());
    for round in 0..options.repeat {
        progress(&format!(
            "ingest: round {} of {}",
            round + 1,
            options.repeat
        ));
        // Who comes first changes, as the disk may still be busy with what came before.
        for first in [round % 2 == 0, round % 2 == 1] {
            let (seconds, bytes) = if first {
                let to = scratch(Some(dir))?;
                plain::convert_all(&sources, to.path())?
            } else {
                send_all(&daemon, &sources, round)?
            };
            let side = if first { &mut plain } else { &mut ours };
            side.seconds.push(seconds);
            side.bytes = bytes;
        }
    }
    summarise(&sources, &ours, &plain, report)?;
    report.set("daemon_peak_rss_bytes", json!(daemon.peak_rss_bytes()));
    Ok(())
}

fn write_sources(dir: &Path, rows: u64) -> Result<Vec<Source>, BenchError> {
    tables(rows)
        .into_iter()
        .map(|spec| {
            let file = dir.join(format!("{}.csv", spec.name));
            let written = File::create(&file).and_then(|out| {
                let mut out = BufWriter::new(out);
                let bytes = write_csv(spec.table, rows, DEFAULT_SEED, &mut out)?;
                out.flush()?;
                // The disk is to be busy with the measurement, not with what went before.
                out.get_ref().sync_all()?;
                Ok(bytes)
            });
            let bytes = written.map_err(|error| BenchError::file(&file, error))?;
            Ok(Source { spec, file, bytes })
        })
        .collect()
}

/// Sends the files one after the other; returns the seconds and how many bytes of Parquet there are.
fn send_all(daemon: &Daemon, sources: &[Source], round: u32) -> Result<(f64, u64), BenchError> {
    client_runtime()?.block_on(async {
        let clock = Instant::now();
        for source in sources {
            let file = tokio::fs::File::open(&source.file).await;
            let file = file.map_err(|error| BenchError::file(&source.file, error))?;
            let body = Body::wrap_stream(ReaderStream::with_capacity(file, CHUNK_BYTES));
            let (name, key) = (dataset(source, round), Some(source.spec.key));
            let answer = daemon.ingest(&name, key, "text/csv", body).await?;
            if answer["rows"] != source.spec.rows {
                return Err(BenchError::wrong(name, format!("the answer is {answer}")));
            }
        }
        let seconds = clock.elapsed().as_secs_f64();
        let mut bytes = 0;
        for source in sources {
            let manifest = daemon.manifest(&dataset(source, round)).await?;
            bytes += manifest["bytes"].as_u64().unwrap_or_default();
        }
        Ok((seconds, bytes))
    })
}

/// A new dataset every time: the same bytes again would be a no-op.
fn dataset(source: &Source, round: u32) -> String {
    format!("{}_{round}", source.spec.name)
}

fn summarise(
    sources: &[Source],
    ours: &Side,
    plain: &Side,
    report: &mut Report,
) -> Result<(), BenchError> {
    let csv_bytes: u64 = sources.iter().map(|source| source.bytes).sum();
    let rows: u64 = sources.iter().map(|source| source.spec.rows).sum();
    let ratio = ours.seconds.median() / plain.seconds.median();
    let line = |name: &str, side: &Side| {
        let seconds = side.seconds.median();
        vec![
            name.to_owned(),
            number(seconds),
            number(float(csv_bytes) / f64::from(1 << 20) / seconds),
            number(float(rows) / seconds),
            output::bytes(side.bytes),
        ]
    };
    let headers = ["CSV to Parquet", "s", "MiB/s", "rows/s", "Parquet"];
    let lines = [line("through REST", ours), line("plain DataFusion", plain)];
    print(&output::table(&headers, &lines))?;
    let side = |side: &Side| json!({ "seconds": side.seconds.json(), "parquet_bytes": side.bytes });
    report.set("csv_bytes", json!(csv_bytes));
    report.set("ours", side(ours));
    report.set("plain", side(plain));
    report.set("ratio", json!(ratio));
    report.gate(
        "ingest: ratio to plain DataFusion",
        ratio,
        Limit::AtMost(1.5),
    );
    Ok(())
}
