//! A refresh beside embedding alone: rows are added to a table that is embedded, and the daemon's refresh
//! of them is timed beside the same texts given to the same model in this process.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use lakehouse_actors::ports::Embedder as _;
use serde_json::json;

use super::{
    super::{
        BenchError,
        daemon::{Daemon, client_runtime},
        make_dir,
        report::{Limit, Report, Series, number, print, progress},
    },
    embedder::glosses,
    table::{Table, embedded},
};
use crate::{
    cli::output,
    engines::embedder::minilm::{MiniLm, install},
};

/// Rows of the table, and rows that are added each time, as the public system that is followed has them.
const ROWS: usize = 586;
const ADDED: usize = 1_000;
/// A refresh's time as a ratio to embedding alone.
const RATIO_MAX: f64 = 1.1;

/// Refreshes a table with the local model of `source`.
pub(super) fn measure(
    source: &Path,
    dir: &Path,
    repeat: u32,
    report: &mut Report,
) -> Result<(), BenchError> {
    progress("refresh: beside embedding alone");
    let data = make_dir(dir, "overhead")?;
    let models = data.join("models");
    let failed = |error: &dyn std::fmt::Display| BenchError::wrong("the model", error.to_string());
    install(&models, source).map_err(|error| failed(&error))?;
    let model = MiniLm::open(&models).map_err(|error| failed(&error))?;
    let client = client_runtime()?;
    let daemon = Daemon::start(&data)?;
    let table = Table::new(&daemon, json!({ "provider": "local", "model": "minilm" }));
    let rounds = usize::try_from(repeat).unwrap_or(1);
    let texts = glosses((ROWS + rounds * ADDED) as u64)?;
    let (first, added) = texts.split_at(ROWS);
    client.block_on(table.create(first, 0))?;
    let (mut refreshes, mut alone, mut ratio) = <(Series, Series, Series)>::default();
    for (round, texts) in added.chunks(ADDED).enumerate() {
        client.block_on(table.upsert(texts, ROWS + round * ADDED))?;
        let clock = Instant::now();
        let told = client.block_on(table.refresh())?;
        let refresh = clock.elapsed();
        if embedded(&told) != ADDED as u64 {
            return Err(BenchError::wrong("the refresh", told.to_string()));
        }
        let clock = Instant::now();
        let made = client.block_on(model.embed(texts));
        made.map_err(|error| failed(&error))?;
        let embedding = clock.elapsed();
        let seconds = [refresh, embedding].map(|time: Duration| time.as_secs_f64());
        refreshes.push(seconds[0]);
        alone.push(seconds[1]);
        ratio.push(seconds[0] / seconds[1]);
    }
    let figures = [refreshes.median(), alone.median(), ratio.median()];
    let headers = ["rows added", "refresh, s", "embedding alone, s", "ratio"];
    let row = [
        vec![output::thousands(ADDED as u64)],
        figures.map(number).to_vec(),
    ]
    .concat();
    print(&output::table(&headers, &[row]))?;
    report.set(
        "overhead",
        json!({ "rows": ROWS, "added": ADDED, "refresh_s": refreshes.json(),
            "embedding_alone_s": alone.json(), "ratio": ratio.json() }),
    );
    let what = "a refresh of 1,000 new rows, ratio to embedding them alone";
    report.gate(what, ratio.median(), Limit::AtMost(RATIO_MAX));
    Ok(())
}
