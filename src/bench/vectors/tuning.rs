//! The search for a configuration beside a full grid: what the grid's best takes, and how near the
//! search comes to it in how many of the grid's trials.

use std::{collections::HashMap, path::Path};

use serde_json::json;

use super::{
    super::{
        BenchError, make_dir,
        report::{Limit, Report, float, print, progress},
    },
    contest::Contender as _,
    data::Set,
    engine::{OurSearch, Ours},
};
use crate::engines::vectors::{
    HnswConfig, Metric, Quantization,
    tune::{EF_SEARCH, Outcome, Shape, grid, tune},
};

type Key = (usize, usize, Quantization);

fn key(shape: Shape) -> Key {
    let Shape {
        connectivity,
        ef_construction,
        quantization,
    } = shape;
    (connectivity, ef_construction, quantization)
}

fn config(shape: Shape) -> HnswConfig {
    HnswConfig {
        connectivity: shape.connectivity,
        expansion_add: shape.ef_construction,
        expansion_search: 64,
        quantization: shape.quantization,
        metric: Metric::Cosine,
    }
}

/// Tries the whole grid, then searches it; `recall` is what both must reach.
pub(super) fn measure(
    set: &Set,
    recall: f64,
    repeat: u32,
    dir: &Path,
    report: &mut Report,
) -> Result<(), BenchError> {
    let mut graphs: HashMap<Key, Ours> = HashMap::new();
    let mut known: HashMap<(Key, usize), Outcome> = HashMap::new();
    let place = make_dir(dir, "tuning")?;
    for (number, (shape, ef)) in grid().enumerate() {
        if let std::collections::hash_map::Entry::Vacant(vacant) = graphs.entry(key(shape)) {
            progress(&format!("vectors: grid, {shape:?}"));
            let dir = place.join(number.to_string());
            let (graph, _) = Ours::build_as(set, config(shape), &dir, &|_| true)?;
            vacant.insert(graph);
        }
        let outcome = outcome(set, &graphs[&key(shape)], ef, repeat)?;
        known.insert((key(shape), ef), outcome);
    }
    let min_recall_ppm = ppm(recall);
    let reached = |outcome: &&Outcome| outcome.recall_ppm >= min_recall_ppm;
    let best = known.values().filter(reached).min_by_key(|o| o.p50_ns);
    let Some(best) = best.copied() else {
        print("The grid reaches the recall nowhere.")?;
        return Ok(());
    };
    let mut trials = 0;
    let found = tune(min_recall_ppm, known.len() / 4, |shape, ef| {
        trials += 1;
        let there = known
            .get(&(key(shape), ef))
            .filter(|_| EF_SEARCH.contains(&ef));
        Ok::<_, BenchError>(Some(match there {
            Some(outcome) => *outcome,
            None => outcome(set, &graphs[&key(shape)], ef, repeat)?,
        }))
    })?;
    let ratio = found.map_or(f64::INFINITY, |found| {
        float(found.outcome.p50_ns) / float(best.p50_ns)
    });
    print(&format!(
        "Grid: {} trials, best p50 {} ns. Search: {trials} trials, {found:?}.",
        known.len(),
        best.p50_ns
    ))?;
    report.set(
        "tuning",
        json!({
            "grid_trials": known.len(), "grid_best_p50_ns": best.p50_ns, "trials": trials,
            "found": format!("{found:?}"), "ratio": ratio,
        }),
    );
    report.gate("tune: p50 to the grid's best", ratio, Limit::AtMost(1.15));
    report.gate(
        "tune: share of the grid's trials",
        float(trials) / float(known.len() as u64),
        Limit::AtMost(0.25),
    );
    Ok(())
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "0 to a million, and times below an hour"
)]
fn ppm(recall: f64) -> u32 {
    (recall * 1e6).floor() as u32
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "times below an hour"
)]
fn outcome(set: &Set, graph: &Ours, ef: usize, repeat: u32) -> Result<Outcome, BenchError> {
    let mut side = OurSearch(graph);
    let (mut p50, mut recall) = (f64::INFINITY, 0.0);
    for _ in 0..repeat {
        let round = side.round(set, ef)?;
        p50 = f64::min(p50, round.us.quantile(0.5));
        recall = round.recall;
    }
    Ok(Outcome {
        recall_ppm: ppm(recall + 5e-7),
        p50_ns: (p50 * 1e3) as u64,
    })
}
