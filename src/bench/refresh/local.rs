//! The local model: texts a second and core, on the glosses that the default embedder is measured with.

use std::{path::Path, time::Instant};

use lakehouse_actors::ports::{Embedder, TextVector};
use serde_json::json;

use super::{
    super::{
        BenchError,
        daemon::client_runtime,
        report::{Limit, Report, Series, float, number, print, progress},
    },
    embedder::glosses,
};
use crate::{
    cli::output,
    engines::{
        embedder::minilm::{MiniLm, install},
        vectors::processors,
    },
};

/// Texts of one repetition.
const TEXTS: u64 = 512;
/// Texts a second and core that the local model is held to.
const TEXTS_PER_S_MIN: f64 = 100.0;

/// Installs the model of `source` into a scratch directory and embeds with it.
pub(super) fn measure(
    source: &Path,
    dir: &Path,
    repeat: u32,
    report: &mut Report,
) -> Result<(), BenchError> {
    progress("refresh: the local model");
    let failed = |error: &dyn std::fmt::Display| BenchError::wrong("the model", error.to_string());
    install(dir, source).map_err(|error| failed(&error))?;
    let model = MiniLm::open(dir).map_err(|error| failed(&error))?;
    let texts = glosses(TEXTS)?;
    let cores = processors();
    let mut rates = Series::default();
    for _ in 0..repeat {
        let clock = Instant::now();
        let done = client_runtime()?.block_on(model.embed(&texts));
        let done = done.map_err(|error| failed(&error))?;
        let made = |found: &&TextVector| matches!(found, TextVector::Vector(_));
        if done.vectors.iter().filter(made).count() != texts.len() {
            return Err(failed(&"a text has no vector"));
        }
        rates.push(float(TEXTS) / clock.elapsed().as_secs_f64());
    }
    let a_core = rates.median() / float(cores as u64);
    let row = vec![cores.to_string(), number(rates.median()), number(a_core)];
    let headers = ["MiniLM on threads", "texts a second", "a core"];
    print(&output::table(&headers, &[row]))?;
    report.set(
        "local_model",
        json!({ "model": model.identity().version, "texts": TEXTS, "threads": cores,
            "texts_per_s_all_threads": rates.json() }),
    );
    let what = "MiniLM, texts a second and core";
    report.gate(what, a_core, Limit::AtLeast(TEXTS_PER_S_MIN));
    Ok(())
}
