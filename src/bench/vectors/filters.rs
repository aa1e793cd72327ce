//! Searches that only some rows may answer: 100, 50, 10, 1 and 0.1 % of them, drawn by a hash of the
//! row, so that they lie anywhere. Each is held against brute force over the permitted rows.

use std::time::Instant;

use roaring::RoaringBitmap;
use serde_json::{Value, json};

use super::{
    super::{
        BenchError,
        report::{Series, number, print},
    },
    contest::share,
    data::{K, Random, Set},
};
use crate::{
    cli::output,
    engines::vectors::{Hit, SearchPath, Visible},
};

/// Permitted rows of a thousand.
const PERMITTED: &[u64] = &[1_000, 500, 100, 10, 1];

/// An answer: the hits and how they were found.
pub(super) type Answer = (Vec<Hit>, SearchPath);

/// What a backend did at one share.
struct Filtered {
    permitted: u64,
    p50: Series,
    recall: f64,
    short: usize,
    path: SearchPath,
}

/// Measures one backend at every share; returns the figures, the worst p50 over the unfiltered one,
/// and the lowest recall.
pub(super) fn measure(
    name: &str,
    set: &Set,
    rounds: u32,
    mut search: impl FnMut(&[f32], Visible) -> Result<Answer, BenchError>,
) -> Result<(Value, f64, f64), BenchError> {
    let mut measured = Vec::new();
    for &thousandths in PERMITTED {
        measured.push(at_share(set, thousandths, rounds, &mut search)?);
    }
    let first = measured.first().map_or(1.0, |all| all.p50.median());
    let (mut rows, mut figures) = (Vec::new(), Vec::new());
    let (mut worst, mut lowest) = (0.0_f64, 1.0_f64);
    for filtered in &measured {
        let ratio = filtered.p50.median() / first;
        worst = worst.max(ratio);
        lowest = lowest.min(filtered.recall);
        let path = match filtered.path {
            SearchPath::Ann => "ann",
            SearchPath::Exact => "exact",
        };
        rows.push(vec![
            name.to_owned(),
            number(super::super::report::float(filtered.permitted) / 10.0),
            number(filtered.p50.median()),
            number(ratio),
            format!("{:.4}", filtered.recall),
            filtered.short.to_string(),
            path.to_owned(),
        ]);
        figures.push(json!({
            "permitted_per_mille": filtered.permitted, "p50_us": filtered.p50.json(),
            "ratio_to_unfiltered": ratio, "recall_at_10": filtered.recall,
            "answers_too_short": filtered.short, "path": path,
        }));
    }
    let headers = [
        "backend",
        "permitted %",
        "p50 µs",
        "ratio",
        "recall@10",
        "too short",
        "path",
    ];
    print(&output::table(&headers, &rows))?;
    Ok((json!(figures), worst, lowest))
}

fn at_share(
    set: &Set,
    thousandths: u64,
    rounds: u32,
    search: &mut impl FnMut(&[f32], Visible) -> Result<Answer, BenchError>,
) -> Result<Filtered, BenchError> {
    let permitted: RoaringBitmap = (0_u32..)
        .take(set.len())
        .filter(|&slot| Random(u64::from(slot) + 1).next() % 1_000 < thousandths)
        .collect();
    let all = thousandths == 1_000;
    let visible = if all {
        Visible::All
    } else {
        Visible::Only(&permitted)
    };
    let allows = |slot: usize| u32::try_from(slot).is_ok_and(|slot| permitted.contains(slot));
    let truth = set.truth_where(&allows);
    let wanted = K.min(usize::try_from(permitted.len()).unwrap_or(K));
    let mut filtered = Filtered {
        permitted: thousandths,
        p50: Series::default(),
        recall: 0.0,
        short: 0,
        path: SearchPath::Exact,
    };
    let mut found = 0;
    for round in 0..rounds {
        let mut times = Series::default();
        for (query, truth) in set.each_query().zip(&truth) {
            let clock = Instant::now();
            let (hits, path) = search(query, visible)?;
            times.push(clock.elapsed().as_secs_f64() * 1e6);
            filtered.path = path;
            if round == 0 {
                let hit = |slot: &&u64| hits.iter().any(|hit| hit.slot == **slot);
                found += truth.iter().filter(hit).count();
                filtered.short += usize::from(hits.len() < wanted);
            }
        }
        filtered.p50.push(times.median());
    }
    filtered.recall = share(found, truth.iter().map(Vec::len).sum());
    Ok(filtered)
}
