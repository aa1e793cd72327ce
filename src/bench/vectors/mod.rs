//! `lakehouse bench vectors`: the two vector backends beside the raw libraries (and hnswlib and faiss,
//! when an interpreter that has them is named), all at the same recall in the same run: the cells by
//! which ADR-019 is decided, filtered searches, and the way through REST.

mod append;
mod backends;
mod contest;
mod crossover;
mod data;
mod engine;
mod filters;
mod lance;
mod peers;
mod rest;
mod rules;
mod swap;
mod system;
mod tuning;

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use serde_json::{Value, json};

use self::{
    backends::Backends,
    contest::{Contender, Standing, contest},
    data::Set,
    engine::{Brute, OurSearch},
    lance::{LanceEngine, RawLance},
    rest::OverRest,
    rules::{Cells, ratios, verdict},
};
use super::{
    BenchError,
    daemon::Daemon,
    make_dir, options,
    report::{Limit, Report, float, number, print, progress},
    scratch,
};
use crate::{
    cli::output,
    engines::{lance::LanceKind, vectors::Quantization},
};

/// Measures vector indexes.
#[derive(Debug, Parser)]
#[command(bin_name = "lakehouse bench vectors")]
struct Options {
    /// What is searched: vectors out of a seed, or the knowledge base's glosses
    #[arg(long, value_enum, default_value_t = Source::Clustered)]
    set: Source,
    /// Search the vectors of this file instead: f32, little-endian, row-major
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Rows of the index
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1_000..=10_000_000))]
    rows: u32,
    /// Numbers of a clustered vector, or of one in the file
    #[arg(long, default_value_t = 768, value_parser = clap::value_parser!(u32).range(2..=8_192))]
    dimensions: u32,
    /// Searches of a round
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(10..=100_000))]
    queries: u32,
    /// Rounds, and repetitions of everything that is quick
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    repeat: u32,
    /// Builds of each graph, by the library and by the engine in turns; medians are compared
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    builds: u32,
    /// The recall of 10 hits at which searches are compared
    #[arg(long, default_value_t = 0.99)]
    recall: f64,
    /// Seed of the clustered vectors
    #[arg(long, default_value_t = 2_026)]
    seed: u64,
    /// Number formats of the graphs
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Format::F32, Format::F16, Format::I8])]
    quantization: Vec<Format>,
    /// Kinds of Lance indexes
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Kind::IvfHnswSq, Kind::IvfPq, Kind::Flat])]
    lance: Vec<Kind>,
    /// Leave Lance out
    #[arg(long)]
    no_lance: bool,
    /// Leave the daemon out
    #[arg(long)]
    no_rest: bool,
    /// Also search for a configuration, beside a full grid: takes as long as thirty builds
    #[arg(long)]
    tune: bool,
    /// A Python that has hnswlib and faiss, to have them as peers
    #[arg(long, value_name = "PROGRAM")]
    python: Option<PathBuf>,
    /// Where to write; a directory in it is made and removed [default: the system's for temporary files]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Source {
    /// Deterministic, in clusters
    Clustered,
    /// Real short texts through the embedder in the binary
    Texts,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    F32,
    F16,
    Bf16,
    I8,
}

impl Format {
    fn quantization(self) -> Quantization {
        match self {
            Self::F32 => Quantization::F32,
            Self::F16 => Quantization::F16,
            Self::Bf16 => Quantization::Bf16,
            Self::I8 => Quantization::I8,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    IvfHnswSq,
    IvfPq,
    Flat,
}

impl Kind {
    fn lance(self) -> LanceKind {
        match self {
            Self::IvfHnswSq => LanceKind::IvfHnswSq,
            Self::IvfPq => LanceKind::IvfPq,
            Self::Flat => LanceKind::Flat,
        }
    }
}

/// Runs the benchmark that `words` describe and returns its figures.
///
/// # Errors
/// [`BenchError`]. A missed gate is no error.
pub fn run(words: &[String]) -> Result<Value, BenchError> {
    let options: Options = options(words);
    let dir = scratch(options.dir.as_deref())?;
    let mut report = Report::new("vectors", dir.path());
    progress("vectors: rows, queries and the truth");
    let set = set_of(&options)?;
    report.set(
        "options",
        json!({
            "set": set.name, "rows": set.len(), "dimensions": set.dimensions,
            "queries": options.queries, "repeat": options.repeat, "recall": options.recall,
        }),
    );
    let backends = Backends::build(&options, &set, dir.path())?;
    let mut rest = over_rest(&options, &set, dir.path(), &mut report)?;
    let mut peers = match &options.python {
        Some(python) => peers::start(python, &set, &make_dir(dir.path(), "peers")?)?,
        None => Vec::new(),
    };
    let peers_built: Vec<Value> = peers
        .iter()
        .map(|peer| json!({ "name": peer.name, "build_s": peer.build_s }))
        .collect();
    report.set("peers", json!(peers_built));
    progress("vectors: searches");
    let standings = {
        let mut sides: Vec<Box<dyn Contender + '_>> = Vec::new();
        for pair in &backends.hnsw {
            sides.push(Box::new(&pair.raw));
            sides.push(Box::new(OurSearch(&pair.ours)));
        }
        if let Some(pair) = backends.hnsw.first() {
            sides.push(Box::new(Brute(&pair.ours)));
        }
        for built in &backends.lance {
            sides.push(Box::new(RawLance::open(&built.ours)?));
            sides.push(Box::new(LanceEngine(&built.ours)));
        }
        sides.extend(
            rest.as_mut()
                .map(|rest| Box::new(rest) as Box<dyn Contender>),
        );
        for peer in &mut peers {
            sides.push(Box::new(peer));
        }
        contest(&set, &mut sides, options.recall, options.repeat)?
    };
    show_searches(&standings, &mut report)?;
    if let Some(rest) = &rest {
        swap::measure(rest, &set, &mut report)?;
    }
    drop(rest);
    drop(peers);
    let cells = backends.cells(&options, &set, &standings, dir.path())?;
    show_cells(&cells, &mut report)?;
    decide(&cells, &mut report)?;
    backends.filters(&options, &set, &standings, &mut report)?;
    gates(&set, &standings, &cells, &mut report);
    if options.tune {
        let (recall, repeat) = (options.recall, options.repeat.min(3));
        tuning::measure(&set, recall, repeat, dir.path(), &mut report)?;
    }
    report.finish()
}

fn set_of(options: &Options) -> Result<Set, BenchError> {
    let rows = options.rows as usize;
    let queries = options.queries as usize;
    let dimensions = options.dimensions as usize;
    match (&options.file, options.set) {
        (Some(file), _) => data::file(file, dimensions, rows, queries),
        (None, Source::Clustered) => Ok(data::clustered(rows, queries, dimensions, options.seed)),
        (None, Source::Texts) => data::texts(rows, queries),
    }
}

/// The set in a daemon; `None` when it is not wanted or the daemon does not take it.
fn over_rest(
    options: &Options,
    set: &Set,
    dir: &std::path::Path,
    report: &mut Report,
) -> Result<Option<OverRest>, BenchError> {
    if options.no_rest {
        return Ok(None);
    }
    progress("vectors: the daemon's index");
    let format = options.quantization.last().copied().unwrap_or(Format::F16);
    let daemon = Daemon::start(&make_dir(dir, "data")?)?;
    match OverRest::start(daemon, set, format.quantization()) {
        Ok(rest) => {
            report.set("rest", json!({ "build_s": rest.build_s }));
            Ok(Some(rest))
        }
        Err(BenchError::Refused { doing, source }) => {
            let why = format!("{doing}: {source}");
            progress(&format!("vectors: not through REST: {why}"));
            report.set("rest", json!({ "refused": why }));
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn show_searches(standings: &[Standing], report: &mut Report) -> Result<(), BenchError> {
    let rows: Vec<Vec<String>> = standings
        .iter()
        .map(|side| {
            vec![
                side.name.clone(),
                side.setting.to_string(),
                format!("{:.4}", side.recall),
                number(side.p50.median()),
                format!(
                    "{}–{}",
                    number(side.p50.quantile(0.0)),
                    number(side.p50.max())
                ),
                number(side.p95.median()),
                number(side.p99.median()),
            ]
        })
        .collect();
    let headers = [
        "search",
        "setting",
        "recall@10",
        "p50 µs",
        "spread",
        "p95",
        "p99",
    ];
    print(&output::table(&headers, &rows))?;
    let figures: Vec<Value> = standings.iter().map(Standing::json).collect();
    report.set("searches", json!(figures));
    Ok(())
}

fn show_cells(cells: &[Cells], report: &mut Report) -> Result<(), BenchError> {
    let maybe = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), number);
    let rows: Vec<Vec<String>> = cells
        .iter()
        .map(|cell| {
            vec![
                cell.name.clone(),
                number(cell.cold_ms),
                number(cell.search_us),
                format!("{:.4}", cell.recall),
                output::bytes(cell.disk_bytes),
                number(cell.row_us.0),
                number(cell.row_us.1),
                maybe(cell.append_ms),
                maybe(cell.search_after_append_us),
                number(cell.builds.median()),
                output::bytes(cell.peak_bytes),
                maybe(cell.erase_s),
            ]
        })
        .collect();
    let headers = [
        "backend",
        "cold ms",
        "p50 µs",
        "recall",
        "disk",
        "row p50 µs",
        "row p99 µs",
        "append ms",
        "then p50 µs",
        "build s",
        "peak",
        "erase s",
    ];
    print(&output::table(&headers, &rows))?;
    let figures: Vec<Value> = cells.iter().map(Cells::json).collect();
    report.set("cells", json!(figures));
    Ok(())
}

/// Applies the rules to each kind of Lance index beside the quickest graph that finds enough.
fn decide(cells: &[Cells], report: &mut Report) -> Result<(), BenchError> {
    let (lance, parquet): (Vec<&Cells>, Vec<&Cells>) = cells
        .iter()
        .partition(|cell| cell.name.starts_with("lance"));
    let quickest = parquet.into_iter().min_by(|a, b| {
        (!a.recall_reached, a.search_us)
            .partial_cmp(&(!b.recall_reached, b.search_us))
            .unwrap_or(std::cmp::Ordering::Equal)
    });
    let Some(parquet) = quickest else {
        return Ok(());
    };
    let mut decisions = Vec::new();
    for lance in lance {
        let said = verdict(parquet, lance);
        print(&format!(
            "{} beside {}: {}.",
            lance.name,
            parquet.name,
            said.text()
        ))?;
        let ratios: Vec<Value> = ratios(parquet, lance)
            .into_iter()
            .map(|(cell, ratio)| json!({ "cell": cell, "lance_to_parquet": ratio }))
            .collect();
        decisions.push(json!({
            "lance": lance.name, "parquet": parquet.name, "ratios": ratios, "verdict": said.text(),
        }));
    }
    report.set("adr_019", json!(decisions));
    Ok(())
}

/// The gates that every run can be held to; those of a certain size say for which they count.
fn gates(set: &Set, standings: &[Standing], cells: &[Cells], report: &mut Report) {
    let p50 = |name: &str| {
        let mut named = standings
            .iter()
            .filter(|side| side.name.starts_with(name) && side.reached);
        let first = named.next()?.p50.median();
        Some(named.map(|side| side.p50.median()).fold(first, f64::min))
    };
    let best = p50("engine hnsw");
    for side in standings
        .iter()
        .filter(|side| side.name.starts_with("raw usearch"))
    {
        let format = side.name.trim_start_matches("raw usearch ");
        let ours = standings
            .iter()
            .find(|ours| ours.name == format!("engine hnsw {format}"));
        if let Some(ours) = ours.filter(|ours| ours.reached && side.reached) {
            let ratio = ours.p50.median() / side.p50.median();
            report.gate(
                format!("engine {format} to raw usearch, p50"),
                ratio,
                Limit::AtMost(1.10),
            );
        }
    }
    if let (Some(best), Some(brute)) = (best, p50("brute")) {
        report.gate(
            "brute force to engine, p50",
            brute / best,
            Limit::AtLeast(30.0),
        );
    }
    if let (Some(rest), Some(raw)) = (p50("REST"), p50("raw usearch")) {
        report.gate(
            "REST less raw usearch, p50 µs",
            rest - raw,
            Limit::AtMost(250.0),
        );
    }
    if let (Some(best), Some(peer)) = (best, p50("hnswlib")) {
        report.gate("engine to hnswlib, p50", best / peer, Limit::AtMost(1.0));
    }
    for cell in cells {
        if let Some(raw) = &cell.raw_builds {
            report.gate(
                format!("{}: build to raw", cell.name),
                cell.builds.median() / raw.median(),
                Limit::AtMost(1.15),
            );
        }
        report.gate(
            format!("{}: row by key p99 ms", cell.name),
            cell.row_us.1 / 1e3,
            Limit::AtMost(10.0),
        );
        if let Some(append) = cell.append_ms {
            report.gate(
                format!("{}: append of 10,000 ms", cell.name),
                append,
                Limit::AtMost(500.0),
            );
        }
        if cell.name.starts_with("parquet") && set.len() <= 100_000 {
            report.gate(
                format!("{}: cold start ms", cell.name),
                cell.cold_ms,
                Limit::AtMost(200.0),
            );
            let ratio = float(cell.memory_bytes) / float(cell.graph_bytes.max(1));
            report.gate(
                format!("{}: memory to index file", cell.name),
                ratio,
                Limit::AtMost(1.2),
            );
        }
    }
}
