//! `lakehouse bench sql`: the 22 queries of TPC-H through REST beside the same queries in plain
//! `DataFusion` over the very same Parquet files, in alternating rounds, hot. Results are not TPC-H
//! results in the sense of the TPC. With `--governed`, through views (`governed`).

mod governed;
mod text;

use std::{borrow::Cow, path::PathBuf, time::Instant};

use arrow::{array::RecordBatch, ipc::reader::StreamReader};
use clap::Parser;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::{
    BenchError,
    daemon::{Daemon, client_runtime, generated},
    error::Doing as _,
    make_dir, options,
    plain::Plain,
    report::{Limit, Report, Series, ms, number, print, progress},
    scratch,
    tpch::{QUERY_COUNT, TpchTable, check_answer, ipc_chunks, parallel_batches, query},
};
use crate::cli::output;

/// Arrow's media type.
const ARROW_STREAM: &str = "application/vnd.apache.arrow.stream";
/// More rows than any answer has: nothing is cut off.
const ROWS_MAX: u64 = 1_000_000;

/// Measures SQL.
#[derive(Debug, Parser)]
#[command(bin_name = "lakehouse bench sql")]
struct Options {
    /// Scale factor: 1 is about a gigabyte of text
    #[arg(long, default_value_t = 1.0, value_parser = scale_factor)]
    scale: f64,
    /// Measured rounds of all queries on both sides
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    repeat: u32,
    /// Through views with a filter and redactions, beside the same views in plain `DataFusion`
    #[arg(long)]
    governed: bool,
    /// Timesheets of the group-by, with `--governed`
    #[arg(long, default_value_t = 2_469_278, value_parser = clap::value_parser!(u64).range(1_000..=100_000_000))]
    sheets: u64,
    /// Where to write; a directory in it is made and removed [default: the system's for temporary files]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

fn scale_factor(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(scale) if (0.001..=100.0).contains(&scale) => Ok(scale),
        _ => Err("a number from 0.001 to 100".to_owned()),
    }
}

/// One query with its repetitions, in milliseconds.
struct Query {
    number: usize,
    sql: Cow<'static, str>,
    rows: usize,
    ours: Series,
    plain: Series,
}

/// The two sides.
struct Sides {
    daemon: Daemon,
    client: Runtime,
    plain: Plain,
}

/// Runs the benchmark that `words` describe and returns its figures.
///
/// # Errors
/// [`BenchError`]; among them [`BenchError::Answer`] and [`BenchError::Wrong`] when an answer is not
/// the published one or the two sides differ. A missed gate is no error.
pub fn run(words: &[String]) -> Result<Value, BenchError> {
    let options: Options = options(words);
    let dir = scratch(options.dir.as_deref())?;
    let mut report = Report::new("sql", dir.path());
    report.set(
        "options",
        json!({ "scale": options.scale, "repeat": options.repeat, "governed": options.governed }),
    );
    if options.governed {
        let (scale, sheets, repeat) = (options.scale, options.sheets, options.repeat);
        governed::run(dir.path(), scale, sheets, repeat, &mut report)?;
        return report.finish();
    }
    let daemon = Daemon::start(&make_dir(dir.path(), "data")?)?;
    let client = client_runtime()?;
    let plain = Plain::new(&make_dir(dir.path(), "spill")?)?;
    let tables = client.block_on(load(&daemon, &plain, options.scale))?;
    report.set("tables", tables);
    let sides = Sides {
        daemon,
        client,
        plain,
    };
    let queries = sides.measure(options.scale, options.repeat)?;
    summarise(&queries, &mut report)?;
    report.set(
        "daemon_peak_rss_bytes",
        json!(sides.daemon.peak_rss_bytes()),
    );
    report.finish()
}

/// Takes the eight tables in and shows their files to the baseline.
async fn load(daemon: &Daemon, plain: &Plain, scale: f64) -> Result<Value, BenchError> {
    let mut tables = Vec::new();
    for table in TpchTable::ALL {
        progress(&format!("sql: ingest of {}", table.name()));
        let clock = Instant::now();
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let rows = parallel_batches(table, scale, threads);
        let body = generated(ipc_chunks(&table.schema(), rows));
        let ingested = daemon.ingest(table.name(), table.key(), ARROW_STREAM, body);
        let ingested = ingested.await?;
        let seconds = clock.elapsed().as_secs_f64();
        let manifest = daemon.manifest(table.name()).await?;
        let files = manifest["files"].as_array().map_or(&[][..], Vec::as_slice);
        let paths: Vec<PathBuf> = files.iter().map(|file| daemon.object(file)).collect();
        plain.register(table.name(), &paths).await?;
        tables.push(json!({
            "table": table.name(), "rows": ingested["rows"], "files": files.len(),
            "bytes": manifest["bytes"], "ingest_s": seconds,
        }));
    }
    Ok(json!(tables))
}

impl Sides {
    /// Checks every query's answers, which warms both sides up, and then measures.
    fn measure(&self, scale: f64, repeat: u32) -> Result<Vec<Query>, BenchError> {
        progress("sql: answers of both sides compared");
        let mut queries = Vec::new();
        for number in 1..=QUERY_COUNT {
            let sql = query(number, scale).expect("queries are numbered from 1 to their count");
            let rows = self.check(number, &sql, scale)?;
            queries.push(Query {
                number,
                sql,
                rows,
                ours: Series::default(),
                plain: Series::default(),
            });
        }
        self.rounds(&mut queries, repeat)?;
        Ok(queries)
    }

    /// Measures both sides in turn.
    fn rounds(&self, queries: &mut [Query], repeat: u32) -> Result<(), BenchError> {
        for round in 0..repeat {
            progress(&format!("sql: round {} of {repeat}", round + 1));
            for query in &mut *queries {
                // Who comes first changes, as the first one finds caches in another state.
                for ours in [round % 2 == 0, round % 2 == 1] {
                    if ours {
                        query.ours.push(self.ours_ms(&query.sql)?);
                    } else {
                        query.plain.push(self.plain_ms(&query.sql)?);
                    }
                }
            }
        }
        Ok(())
    }

    /// The answer of the plain side, which is the daemon's, too.
    fn same_answer(&self, number: usize, sql: &str) -> Result<Vec<RecordBatch>, BenchError> {
        let plain = self.plain.answer(sql)?;
        let page: Value = serde_json::from_slice(&self.page(sql)?).unwrap_or_default();
        let (ours, theirs) = (text::of_page(&page), text::of_batches(&plain)?);
        match text::difference(ours, theirs) {
            Some(difference) => Err(BenchError::wrong(format!("query {number}"), difference)),
            None => Ok(plain),
        }
    }

    /// Compares the answers of both sides, at scale factor 1 also with the published ones; returns
    /// how many rows there are.
    fn check(&self, number: usize, sql: &str, scale: f64) -> Result<usize, BenchError> {
        let plain = self.same_answer(number, sql)?;
        if (scale - 1.0).abs() < f64::EPSILON {
            let published = |side, answer: &[RecordBatch]| {
                let checked = check_answer(number, answer);
                checked.map_err(|source| BenchError::Answer { side, source })
            };
            published("plain DataFusion", &plain)?;
            published("the daemon", &self.batches(sql)?)?;
        }
        Ok(plain.iter().map(RecordBatch::num_rows).sum())
    }

    fn ours_ms(&self, sql: &str) -> Result<f64, BenchError> {
        let clock = Instant::now();
        self.page(sql)?;
        Ok(ms(clock.elapsed()))
    }

    fn plain_ms(&self, sql: &str) -> Result<f64, BenchError> {
        let clock = Instant::now();
        self.plain.answer(sql)?;
        Ok(ms(clock.elapsed()))
    }

    /// The daemon's JSON answer, read to its end.
    fn page(&self, sql: &str) -> Result<bytes::Bytes, BenchError> {
        self.asked(sql, "application/json")
    }

    /// The daemon's answer as batches.
    fn batches(&self, sql: &str) -> Result<Vec<RecordBatch>, BenchError> {
        let stream = self.asked(sql, ARROW_STREAM)?;
        let batches = StreamReader::try_new(stream.as_ref(), None)?;
        Ok(batches.collect::<Result<_, _>>()?)
    }

    fn asked(&self, sql: &str, accept: &str) -> Result<bytes::Bytes, BenchError> {
        let body = json!({ "sql": sql, "limit": ROWS_MAX });
        self.client.block_on(async {
            let client = self.daemon.client();
            let answer = client.post_for_stream(&["query", "sql"], &body, accept);
            let answer = answer.await.doing("query")?.bytes().await;
            answer.map_err(|error| BenchError::wrong("query", error.to_string()))
        })
    }
}

fn summarise(queries: &[Query], report: &mut Report) -> Result<(), BenchError> {
    let (mut rows, mut figures) = (Vec::new(), Vec::new());
    let (mut ours_total, mut plain_total) = (0.0, 0.0);
    for query in queries {
        let (ours, plain) = (query.ours.median(), query.plain.median());
        ours_total += ours;
        plain_total += plain;
        rows.push(line(&format!("Q{}", query.number), ours, plain));
        figures.push(json!({
            "query": query.number, "rows": query.rows, "ours_ms": query.ours.json(),
            "plain_ms": query.plain.json(), "ratio": ours / plain,
        }));
    }
    rows.push(line("all", ours_total, plain_total));
    let headers = ["query", "through REST ms", "plain DataFusion ms", "ratio"];
    print(&output::table(&headers, &rows))?;
    let ratio = ours_total / plain_total;
    report.set("queries", json!(figures));
    report.set(
        "total",
        json!({ "ours_ms": ours_total, "plain_ms": plain_total, "ratio": ratio }),
    );
    report.gate(
        "sql: total ratio to plain DataFusion",
        ratio,
        Limit::AtMost(1.10),
    );
    Ok(())
}

fn line(name: &str, ours: f64, plain: f64) -> Vec<String> {
    vec![
        name.to_owned(),
        number(ours),
        number(plain),
        number(ours / plain),
    ]
}
