//! The default embedder alone: texts a second of one thread and of one thread a core.
//! What a thread has made is compared with what the others made, so that no text is skipped.

use std::{io::Read as _, thread, time::Instant};

use serde::Deserialize;
use serde_json::json;

use super::super::{
    BenchError,
    report::{Limit, Report, Series, float, number, print, progress},
};
use crate::{cli::output, demo::data::wordnet_ndjson, engines::embedder::StaticEmbedder};

/// Texts a second and core that the default embedder is held to.
const TEXTS_PER_S_MIN: f64 = 50_000.0;

#[derive(Deserialize)]
struct Synset {
    gloss: String,
}

/// Embeds `texts` texts `repeat` times with one thread and with one a core.
pub(super) fn measure(texts: u64, repeat: u32, report: &mut Report) -> Result<(), BenchError> {
    progress("refresh: the default embedder");
    let texts = glosses(texts)?;
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let bytes: usize = texts.iter().map(String::len).sum();
    let expected = embed(&texts);
    let (mut one, mut all) = (Series::default(), Series::default());
    for _ in 0..repeat {
        one.push(rate(&texts, 1, expected)?);
        all.push(rate(&texts, cores, expected)?);
    }
    let mean = float(bytes as u64) / float(texts.len() as u64);
    let line = |name: String, series: &Series| vec![name, number(series.median()), number(mean)];
    let lines = [line("1".to_owned(), &one), line(cores.to_string(), &all)];
    print(&output::table(
        &["threads", "texts a second", "bytes a text"],
        &lines,
    ))?;
    report.set(
        "embedder",
        json!({
            "model": StaticEmbedder::built_in().identity().version,
            "texts": texts.len(), "bytes_per_text": mean, "threads": cores,
            "texts_per_s": one.json(), "texts_per_s_all_threads": all.json(),
        }),
    );
    let what = "default embedder, texts a second and core";
    report.gate(what, one.median(), Limit::AtLeast(TEXTS_PER_S_MIN));
    Ok(())
}

/// The first `count` glosses, begun again when they are used up.
pub(in crate::bench) fn glosses(count: u64) -> Result<Vec<String>, BenchError> {
    let mut text = String::new();
    wordnet_ndjson().read_to_string(&mut text)?;
    let read: Result<Vec<Synset>, _> = text.lines().map(serde_json::from_str).collect();
    let read = read.map_err(|e| BenchError::wrong("the knowledge base", e.to_string()))?;
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let glosses = read.into_iter().map(|synset| synset.gloss);
    let glosses: Vec<String> = glosses.collect();
    Ok(glosses.iter().cycle().take(count).cloned().collect())
}

/// Texts a second with so many threads, each with its share.
fn rate(texts: &[String], threads: usize, expected: u64) -> Result<f64, BenchError> {
    let share = texts.len().div_ceil(threads);
    let began = Instant::now();
    let made = thread::scope(|scope| {
        let workers: Vec<_> = texts
            .chunks(share)
            .map(|texts| scope.spawn(|| embed(texts)))
            .collect();
        workers
            .into_iter()
            .map(|worker| worker.join().expect("embedding a text does not panic"))
            .fold(0, u64::wrapping_add)
    });
    let seconds = began.elapsed().as_secs_f64();
    if made != expected {
        return Err(BenchError::wrong(
            "the embedder",
            "other vectors for the same texts",
        ));
    }
    Ok(float(texts.len() as u64) / seconds)
}

/// The sum over the bits of all vectors: whoever adds it up has made every one of them.
fn embed(texts: &[String]) -> u64 {
    let embedder = StaticEmbedder::built_in();
    let vectors = texts.iter().filter_map(|text| embedder.embed(text));
    vectors.fold(0_u64, |sum, vector| {
        let bits = vector.iter().map(|value| u64::from(value.to_bits()));
        bits.fold(sum, u64::wrapping_add)
    })
}
