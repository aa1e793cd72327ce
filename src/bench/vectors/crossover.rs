//! Where comparing with every permitted row is as quick as walking the graph for them: both at shares
//! from half of the rows to a hundredth, and the number of rows a candidate that this comes to.

use std::time::Instant;

use roaring::RoaringBitmap;
use serde_json::{Value, json};

use super::{
    super::{
        BenchError,
        report::{Series, float, number, print},
    },
    data::{K, Random, Set},
    engine::Ours,
};
use crate::{cli::output, engines::vectors::Visible};

/// Permitted rows of a thousand.
const SHARES: &[u64] = &[500, 300, 200, 150, 100, 70, 50, 40, 30, 20, 10];
const QUERIES: usize = 200;

/// Measures one graph at each share, with so many candidates kept.
pub(super) fn measure(ours: &Ours, set: &Set, ef: usize) -> Result<Value, BenchError> {
    let few = set.first_queries(QUERIES);
    let (mut rows, mut figures) = (Vec::new(), Vec::new());
    for &thousandths in SHARES {
        let shown: RoaringBitmap = (0_u32..)
            .take(set.len())
            .filter(|&slot| Random(u64::from(slot) + 1).next() % 1_000 < thousandths)
            .collect();
        let visible = Visible::Only(&shown);
        let (mut walk, mut scan, mut given_up) = (Series::default(), Series::default(), 0_u32);
        for query in few.each_query() {
            let clock = Instant::now();
            let walked = ours.index.search_graph(query, K, Some(ef), visible)?;
            walk.push(clock.elapsed().as_secs_f64() * 1e6);
            given_up += u32::from(walked.is_none());
            let clock = Instant::now();
            ours.index.search_shown(query, K, visible);
            scan.push(clock.elapsed().as_secs_f64() * 1e6);
        }
        // The rule: a scan where shown² ≤ rows a candidate · candidates · rows.
        let candidates = ours.index.candidates_for(K, Some(ef), shown.len());
        let would_cross = float(shown.len()) * float(shown.len())
            / (float(candidates as u64) * float(set.len() as u64));
        rows.push(vec![
            number(float(thousandths) / 10.0),
            number(walk.median()),
            number(scan.median()),
            given_up.to_string(),
            number(would_cross),
        ]);
        figures.push(json!({
            "permitted_per_mille": thousandths, "walk_us": walk.median(), "scan_us": scan.median(),
            "given_up": given_up, "rows_a_candidate": would_cross,
        }));
    }
    let headers = [
        "permitted %",
        "walk µs",
        "scan µs",
        "given up",
        "rows a candidate",
    ];
    print(&output::table(&headers, &rows))?;
    Ok(json!({ "ef": ef, "shares": figures }))
}
