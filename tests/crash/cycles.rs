//! J-01: four writers, mixed mutations, `kill -9` after a random while, restart, compare; again and again.

use crate::harness::Harness;
use crate::support::daemon::Daemon;
use crate::support::number_from_env;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_and_nothing_appears_under_kill_9() {
    let test = "J-01 kill -9 under load";
    let (mut harness, mut daemon) = Harness::start(test).await;
    for _ in 0..number_from_env("LAKEHOUSE_CRASH_CYCLES", 5) {
        let site = harness.load_and_kill(daemon).await;
        daemon = Daemon::start_at(site);
        harness.check(&daemon).await;
    }
    harness.report(test);
}
