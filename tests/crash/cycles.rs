//! J-01: four writers, mixed mutations, `kill -9` after a random while, restart, compare; again and again.

use crate::harness::Harness;
use crate::support::daemon::Daemon;
use crate::support::number_from_env;

/// Cycles of one lake. Each check replays the whole history, so that the cost of many cycles on one lake grows
/// with their square; a run of more goes on with a new lake.
const CYCLES_OF_A_LAKE: u64 = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_and_nothing_appears_under_kill_9() {
    let mut left = number_from_env("LAKEHOUSE_CRASH_CYCLES", 5);
    while left > 0 {
        let cycles = left.min(CYCLES_OF_A_LAKE);
        one_lake(cycles).await;
        left -= cycles;
    }
}

async fn one_lake(cycles: u64) {
    let test = "J-01 kill -9 under load";
    let (mut harness, mut daemon) = Harness::start(test).await;
    for _ in 0..cycles {
        let site = harness.load_and_kill(daemon).await;
        daemon = Daemon::start_at(site);
        harness.check(&daemon).await;
    }
    harness.report(test);
}
