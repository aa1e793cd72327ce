//! `lakehouse bench search`: an agent's searches through a view that shows a tenth of the rows, beside an
//! admin's searches of the same index with the same condition as a filter; both find the same rows, and
//! both come through REST. Then what agents find through views of other shares of the rows, beside the
//! exact search of the same condition. The texts are the glosses of the packed knowledge base.

use std::{fmt::Write as _, path::PathBuf, time::Instant};

use bytes::Bytes;
use clap::Parser;
use serde_json::{Value, json};

use super::{
    BenchError,
    daemon::{Daemon, client_runtime, generated},
    error::Doing as _,
    make_dir, options,
    refresh::glosses,
    report::{Limit, Report, Series, ms, number, print, progress},
    scratch,
};
use crate::cli::{client::Client, output};

const NDJSON: &str = "application/x-ndjson";
const DATASET: &str = "texts";
/// Hits asked for.
const K: usize = 10;
/// What the views show, in thousandths of the rows.
const SHARES: [u64; 5] = [1_000, 500, 100, 10, 1];
/// What the view that is timed shows.
const TIMED: u64 = 100;
/// Rows of a chunk that is sent.
const CHUNK_ROWS: usize = 1_000;

/// Measures searches through a view.
#[derive(Debug, Parser)]
#[command(bin_name = "lakehouse bench search")]
struct Options {
    /// Rows of the dataset
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1_000..=10_000_000))]
    rows: u64,
    /// Questions of one repetition
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(10..=100_000))]
    questions: u64,
    /// Repetitions of everything
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    repeat: u32,
    /// Where to write; a directory in it is made and removed [default: the system's for temporary files]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Runs the benchmark that `words` describe and returns its figures.
///
/// # Errors
/// [`BenchError`]; among them [`BenchError::Wrong`] when both do not find the same rows. A missed gate is
/// no error.
pub fn run(words: &[String]) -> Result<Value, BenchError> {
    let options: Options = options(words);
    let dir = scratch(options.dir.as_deref())?;
    let mut report = Report::new("search", dir.path());
    report.set(
        "options",
        json!({ "rows": options.rows, "questions": options.questions, "repeat": options.repeat }),
    );
    let texts = glosses(options.rows)?;
    let daemon = Daemon::start(&make_dir(dir.path(), "data")?)?;
    let client = client_runtime()?;
    client.block_on(load(&daemon, texts.clone()))?;
    let step = (texts.len() / usize::try_from(options.questions).unwrap_or(1)).max(1);
    let questions: Vec<&String> = texts.iter().step_by(step).collect();
    let agent = client.block_on(agent_of(&daemon, "timed", TIMED))?;
    let (mut through, mut beside, mut whole) =
        (Series::default(), Series::default(), Series::default());
    for round in 0..=options.repeat {
        progress(&format!("search: round {round}"));
        for question in &questions {
            client.block_on(async {
                let (seen, time) = asked(&agent, &plain(question)).await?;
                let (_, graph) = asked(daemon.client(), &filtered(question, TIMED, false)).await?;
                let (there, exact) =
                    asked(daemon.client(), &filtered(question, TIMED, true)).await?;
                if seen != there {
                    return Err(BenchError::wrong(
                        format!("the agent's answer to `{question}`"),
                        format!("{seen:?} beside {there:?}"),
                    ));
                }
                // The first round fills caches and is not counted.
                if round > 0 {
                    through.push(time);
                    beside.push(graph);
                    whole.push(exact);
                }
                Ok(())
            })?;
        }
    }
    let sides = [
        ("through the view", &through),
        ("with the filter", &beside),
        ("with the filter, exact", &whole),
    ];
    let line = |(name, times): (&str, &Series)| {
        let parts = [0.5, 0.95, 0.99].map(|part| number(times.quantile(part)));
        [vec![name.to_owned()], parts.to_vec()].concat()
    };
    let lines: Vec<Vec<String>> = sides.into_iter().map(line).collect();
    print(&output::table(
        &["search", "p50 ms", "p95 ms", "p99 ms"],
        &lines,
    ))?;
    for (name, times) in sides {
        let quantiles = [0.5, 0.95, 0.99].map(|part| times.quantile(part));
        report.set(
            name,
            json!({ "p50_ms": quantiles[0], "p95_ms": quantiles[1], "p99_ms": quantiles[2] }),
        );
    }
    let ratio = through.quantile(0.5) / beside.quantile(0.5);
    report.gate(
        "search: through a view of a tenth, beside the same filter, p50",
        ratio,
        Limit::AtMost(1.3),
    );
    client.block_on(curve(&daemon, &questions, &mut report))?;
    report.finish()
}

fn plain(question: &str) -> Value {
    json!({ "index": DATASET, "query": question, "k": K })
}

fn filtered(question: &str, share: u64, exact: bool) -> Value {
    json!({ "index": DATASET, "query": question, "k": K, "filter": filter(share), "exact": exact })
}

/// The condition that so many thousandths of the rows meet.
fn filter(share: u64) -> String {
    format!("part < {share}")
}

/// How much of what they may see agents find, by the share of the rows that it is.
async fn curve(
    daemon: &Daemon,
    questions: &[&String],
    report: &mut Report,
) -> Result<(), BenchError> {
    let (mut lines, mut figures) = (Vec::new(), Vec::new());
    let (mut recall_min, mut short) = (1.0_f64, 0);
    for share in SHARES {
        progress(&format!("search: recall of {share} thousandths"));
        let agent = agent_of(daemon, &format!("texts_{share}"), share).await?;
        let (mut found, mut there, mut fewer) = (0, 0, 0);
        for question in questions {
            let (seen, _) = asked(&agent, &plain(question)).await?;
            let (exact, _) = asked(daemon.client(), &filtered(question, share, true)).await?;
            found += exact.iter().filter(|key| seen.contains(key)).count();
            there += exact.len();
            fewer += usize::from(seen.len() < exact.len());
        }
        #[expect(clippy::cast_precision_loss, reason = "thousands of hits")]
        let (recall, percent) = (found as f64 / there.max(1) as f64, share as f64 / 10.0);
        recall_min = recall_min.min(recall);
        short += fewer;
        lines.push(vec![
            format!("{percent} %"),
            number(recall),
            fewer.to_string(),
        ]);
        figures.push(json!({ "permitted": percent, "recall_at_10": recall, "too_few": fewer }));
    }
    print(&output::table(
        &["permitted", "recall@10", "too few hits"],
        &lines,
    ))?;
    report.set("restricted", json!(figures));
    let what = "search: recall@10 of restricted readers, the worst share";
    report.gate(what, recall_min, Limit::AtLeast(0.99));
    let what = "search: answers of restricted readers with too few hits";
    report.gate(
        what,
        f64::from(u32::try_from(short).unwrap_or(u32::MAX)),
        Limit::AtMost(0.0),
    );
    Ok(())
}

/// Takes the texts in and indexes them.
async fn load(daemon: &Daemon, texts: Vec<String>) -> Result<(), BenchError> {
    progress("search: rows and index");
    let rows = texts.into_iter().enumerate().collect::<Vec<_>>();
    let chunks: Vec<Bytes> = rows.chunks(CHUNK_ROWS).map(ndjson).collect();
    daemon
        .ingest(DATASET, Some("id"), NDJSON, generated(chunks.into_iter()))
        .await?;
    let index = json!({ "name": DATASET, "source": DATASET, "key": "id", "text": ["gloss"], "backend": "hnsw" });
    let request = daemon
        .client()
        .request(reqwest::Method::POST, &["vectors", "index"]);
    let built = daemon
        .client()
        .answer(request.query(&[("wait", "true")]).json(&index));
    built.await.doing("the index")?;
    Ok(())
}

/// Makes a view of this share of the rows, and an agent that sees it.
async fn agent_of(daemon: &Daemon, name: &str, share: u64) -> Result<Client, BenchError> {
    let view = json!({ "name": name, "base_dataset": DATASET, "columns": ["id", "gloss"], "row_filter": filter(share) });
    let made = daemon.client().post(&["catalog", "views"], &view);
    made.await.doing("the view")?;
    let token = json!({ "name": name, "role": "agent", "views": [name],
        "limits": { "requests_per_s": 100_000, "concurrent_queries": 16 } });
    let issued = daemon.client().post(&["auth", "tokens"], &token);
    let issued = issued.await.doing("the agent's token")?;
    Client::new(
        &format!("http://{}", daemon.address()),
        issued["secret"].as_str(),
    )
    .doing("connect")
}

fn ndjson(rows: &[(usize, String)]) -> Bytes {
    let lines = rows.iter().fold(String::new(), |mut lines, (id, gloss)| {
        // Text takes all that is written.
        let _ = writeln!(
            lines,
            "{}",
            json!({ "id": id, "part": id * 7_919 % 1_000, "gloss": gloss })
        );
        lines
    });
    lines.into()
}

/// The keys that a search finds, and how long it took in milliseconds.
async fn asked(client: &Client, body: &Value) -> Result<(Vec<String>, f64), BenchError> {
    let started = Instant::now();
    let answer = client.post(&["vectors", "search"], body).await;
    let answer = answer.doing("search")?;
    let time = ms(started.elapsed());
    let hits = answer["hits"].as_array().map_or(&[][..], Vec::as_slice);
    let keys = hits.iter().filter_map(|hit| hit["key"].as_str());
    Ok((keys.map(str::to_owned).collect(), time))
}
