//! J-02 and J-06: recovery that is itself killed, and an index of the journal that is gone.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rand::Rng as _;

use crate::harness::Harness;
use crate::support::daemon::Daemon;
use crate::support::number_from_env;

const KILLS_IN_A_ROW: usize = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recovery_that_is_killed_again_and_again_loses_nothing() {
    let test = "J-02 kill during recovery";
    let (mut harness, mut daemon) = Harness::start(test).await;
    for _ in 0..number_from_env("LAKEHOUSE_CRASH_ROUNDS", 3) {
        let site = harness.load_and_kill(daemon).await;
        for _ in 0..KILLS_IN_A_ROW {
            let starting = site.spawn();
            let alive = Duration::from_millis(harness.rng.random_range(1..=400));
            tokio::time::sleep(alive).await;
            starting.kill9();
        }
        daemon = Daemon::start_at(site);
        harness.check(&daemon).await;
    }
    harness.report(test);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_index_that_is_gone_is_built_again_from_the_mirror() {
    let test = "J-06 sled directory removed";
    let (mut harness, mut daemon) = Harness::start(test).await;
    for _ in 0..2 {
        let site = harness
            .load_and_kill_after(daemon, Duration::from_millis(700))
            .await;
        let removed = generations(&site.data_dir());
        assert!(
            !removed.is_empty(),
            "there is an index to remove below {:?}",
            site.data_dir()
        );
        for dir in removed {
            std::fs::remove_dir_all(dir).unwrap();
        }
        daemon = Daemon::start_at(site);
        harness.check(&daemon).await;
    }
    harness.report(test);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_that_are_gone_or_spoiled_change_nothing() {
    let test = "snapshots are a cache";
    let (mut harness, daemon) = Harness::start(test).await;
    let site = harness
        .load_and_kill_after(daemon, Duration::from_millis(500))
        .await;
    let (site, _) = Daemon::start_at(site).sigterm();
    for path in files_below(&site.data_dir(), "snap") {
        // sled has files of that ending too, and needs them.
        if !path
            .components()
            .any(|part| part.as_os_str().to_string_lossy().starts_with("gen-"))
        {
            std::fs::write(path, b"spoiled").unwrap();
        }
    }
    let daemon = Daemon::start_at(site);
    harness.check(&daemon).await;
    harness.report(test);
}

/// The directories that hold the journal's index.
fn generations(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for path in entries(dir).into_iter().filter(|path| path.is_dir()) {
        if path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("gen-"))
        {
            found.push(path);
        } else {
            found.extend(generations(&path));
        }
    }
    found
}

/// Files with this ending, at any depth.
fn files_below(dir: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for path in entries(dir) {
        if path.is_dir() {
            found.extend(files_below(&path, ending));
        } else if path
            .extension()
            .is_some_and(|extension| extension == ending)
        {
            found.push(path);
        }
    }
    found
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect()
}
