//! The n-th operation fails, for every n until a run passes clean: nothing acknowledged is lost, nothing is
//! acknowledged between the error and the reopening, and what was refused for certain is not there.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::super::fault::{FaultIo, FaultMode, FaultScope};
use super::super::testing::draft;
use super::super::{Log, LogConfig, LogError, SledLog};
use super::{config, dump, lines, open, scratch};
use crate::record::Record;

/// What a run was told.
#[derive(Default)]
struct Ledger {
    acknowledged: Vec<String>,
    refused: Vec<u64>,
    unknown: Vec<u64>,
}

fn small_segments() -> LogConfig {
    LogConfig {
        segment_bytes: 3000,
        index_flush_interval: Duration::from_millis(1),
        ..config()
    }
}

/// Opens, appends, seals, reopens and closes under `io`, and keeps the books.
fn run(dir: &Path, io: &FaultIo, scope: FaultScope, ledger: &mut Ledger) {
    let Ok(mut log) = SledLog::open(dir.to_path_buf(), &small_segments(), Arc::new(io.clone()))
    else {
        return;
    };
    for n in 0..40 {
        if scope == FaultScope::Index {
            // A page makes the index apply at once instead of in large batches.
            assert_eq!(log.reader().scan(0, 100).unwrap().len() as u64, n * 2);
        }
        let before = io.fired();
        match log.append(vec![draft(n), draft(n + 1000)]) {
            Ok(records) => ledger.acknowledged.extend(lines(&records)),
            Err(error) => {
                settle(&error, n, ledger);
                assert!(io.fired() > before || before > 0, "{error} without a fault");
                refused_until_reopened(&mut log, io, ledger);
            }
        }
    }
    let _ = log.close();
}

fn settle(error: &LogError, n: u64, ledger: &mut Ledger) {
    match error {
        LogError::Unknown { .. } => ledger.unknown.push(n),
        LogError::Io { .. } | LogError::Poisoned { .. } => ledger.refused.push(n),
        other => panic!("unexpected: {other}"),
    }
}

/// After an error nothing is taken; a reopening either fails or says what of the unknown is there.
fn refused_until_reopened(log: &mut SledLog, io: &FaultIo, ledger: &mut Ledger) {
    for attempt in 0..4 {
        let again = log.append(vec![draft(9000)]);
        assert!(matches!(again, Err(LogError::Poisoned { .. })), "{again:?}");
        if attempt == 2 {
            io.heal();
        }
        if let Ok(recovered) = log.reopen() {
            ledger.acknowledged.extend(lines(&recovered));
            for record in &recovered {
                assert!(
                    ledger.unknown.contains(&number(record)),
                    "{} came from nowhere",
                    record.seq
                );
            }
            return;
        }
    }
    panic!("a healed disk could not be reopened");
}

fn number(record: &Record) -> u64 {
    let row = record.draft.subjects[1]
        .strip_prefix("row/people/")
        .unwrap();
    row.parse::<u64>().unwrap() % 1000
}

fn every_nth(mode: FaultMode, scope: FaultScope) -> u64 {
    for nth in 1..2000 {
        let dir = scratch();
        let io = FaultIo::new(nth, mode, scope);
        let mut ledger = Ledger::default();
        run(dir.path(), &io, scope, &mut ledger);
        let log = open(dir.path()).unwrap_or_else(|e| panic!("{mode:?} {scope:?} {nth}: {e}"));
        let found = dump(&*log.reader());
        for line in &ledger.acknowledged {
            assert!(
                found.contains(line),
                "{mode:?} {scope:?} {nth}: lost {line}"
            );
        }
        let told: Vec<u64> = [&ledger.acknowledged[..]]
            .concat()
            .iter()
            .map(|l| seq(l))
            .collect();
        assert!(told.is_sorted_by(|a, b| a < b), "{nth}: {told:?}");
        for record in log.reader().scan(0, 1000).unwrap() {
            assert!(
                !ledger.refused.contains(&number(&record)),
                "{mode:?} {scope:?} {nth}: a refused event is there"
            );
        }
        assert!(found.len().is_multiple_of(2), "{nth}: half a batch");
        assert!(log.reader().verify().unwrap().ok);
        if io.fired() == 0 {
            return nth - 1;
        }
    }
    panic!("no clean run");
}

fn seq(line: &str) -> u64 {
    line.split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn every_file_operation_may_fail_once() {
    let points = every_nth(FaultMode::Once, FaultScope::Files);
    println!("file operations that failed once: {points}");
    assert!(points > 100);
}

#[test]
fn every_sync_may_fail_once() {
    let points = every_nth(FaultMode::Once, FaultScope::Syncs);
    println!("syncs that failed once: {points}");
    assert!(points > 45);
}

#[test]
fn every_operation_may_fail_from_then_on() {
    let points = every_nth(FaultMode::FromThenOn, FaultScope::All);
    println!("operations from which on all failed: {points}");
    assert!(points > 120);
}

#[test]
fn every_index_operation_may_fail_once() {
    let points = every_nth(FaultMode::Once, FaultScope::Index);
    println!("index operations that failed once: {points}");
    assert!(points > 30);
}
