//! Promotion and rollback while eight clients search: none may fail, and the tail during the swaps is
//! held against the tail before them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::task::JoinSet;

use super::{
    super::{
        BenchError,
        error::Doing as _,
        http::Connection,
        report::{Limit, Report, Series, float, number, print, progress},
    },
    data::Set,
    rest::{DATASET, OverRest, body},
};

const CLIENTS: usize = 8;
const PHASE: Duration = Duration::from_secs(5);
/// Candidates of a search.
const EF: usize = 64;

/// Has a second generation built and swaps the two back and forth.
pub(super) fn measure(rest: &OverRest, set: &Set, report: &mut Report) -> Result<(), BenchError> {
    progress("vectors: swaps under searches");
    let daemon = &rest.daemon;
    // On the runtime that the daemon's kept connections belong to: on another nobody drives them.
    rest.client.block_on(async {
        let path = ["vectors", "indexes", DATASET, "generations"];
        let asked = daemon.client().post(&path, &json!({})).await;
        super::rest::built(daemon, &asked.doing("generation")?).await?;
        let (before, failed_before) = phase(rest, set, None).await?;
        let (during, failed) = phase(rest, set, Some(DATASET)).await?;
        let (quiet, swapping) = (before.quantile(0.99), during.quantile(0.99));
        print(&format!(
            "Swaps under {CLIENTS} clients: p99 {} µs before, {} µs during, {} failed.",
            number(quiet),
            number(swapping),
            failed + failed_before,
        ))?;
        report.set(
            "swap",
            json!({
                "clients": CLIENTS, "p99_before_us": quiet, "p99_during_us": swapping,
                "failed": failed + failed_before,
            }),
        );
        report.gate(
            "swap: p99 during to before",
            swapping / quiet,
            Limit::AtMost(2.0),
        );
        report.gate("swap: failed searches", float(failed), Limit::AtMost(0.0));
        Ok(())
    })
}

/// Searches from every client for a while, with or without swaps; all times, and how many failed.
async fn phase(
    rest: &OverRest,
    set: &Set,
    swapped: Option<&str>,
) -> Result<(Series, u64), BenchError> {
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let bodies: Vec<String> = set
            .each_query()
            .skip(client)
            .step_by(CLIENTS)
            .take(100)
            .map(|query| body(query, EF))
            .collect();
        let to = rest.daemon.address();
        let token = rest.daemon.token().to_owned();
        let mut connection = Connection::to(to, &token, "POST /vectors/search").await?;
        let stop = Arc::clone(&stop);
        clients.spawn(async move {
            let (mut times, mut failed) = (Vec::new(), 0_u64);
            for body in bodies.iter().cycle() {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let clock = Instant::now();
                if connection.post(body).await.is_err() {
                    failed += 1;
                    match Connection::to(to, &token, "POST /vectors/search").await {
                        Ok(again) => connection = again,
                        Err(_) => break,
                    }
                }
                times.push(clock.elapsed().as_secs_f64() * 1e6);
            }
            (times, failed)
        });
    }
    let until = Instant::now() + PHASE;
    while Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(200)).await;
        if let Some(index) = swapped {
            let client = rest.daemon.client();
            let back = ["vectors", "indexes", index, "rollback"];
            client.post(&back, &json!({})).await.doing("rollback")?;
            let on = ["vectors", "indexes", index, "promote"];
            let newest = json!({ "generation": 2 });
            client.post(&on, &newest).await.doing("promotion")?;
        }
    }
    stop.store(true, Ordering::Relaxed);
    let (mut all, mut failed) = (Series::default(), 0);
    while let Some(client) = clients.join_next().await {
        let (times, more) = client.map_err(|error| BenchError::wrong("swap", error.to_string()))?;
        for time in times {
            all.push(time);
        }
        failed += more;
    }
    Ok((all, failed))
}
