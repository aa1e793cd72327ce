//! The committer: everybody gets their own records, and an error is told, survived and made up for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::super::committer::{Answer, Committer, CommitterConfig, CommitterHandle};
use super::super::memory::MemoryFault;
use super::super::testing::{draft, drafts};
use super::super::{Log, LogError, MemoryLog, MemoryStore, Overloaded};
use super::{dump, open, scratch};
use crate::record::Record;

fn quick() -> CommitterConfig {
    CommitterConfig {
        retry_interval: Duration::from_millis(20),
        seal_interval: Duration::from_millis(20),
        ..CommitterConfig::default()
    }
}

fn submit(handle: &CommitterHandle, n: u64, records: u64) -> Receiver<Answer> {
    let (send, answer) = channel();
    let reply = Box::new(move |result| send.send(result).unwrap());
    handle.submit(drafts(n, records), reply).unwrap();
    answer
}

/// A committer that tells what it recovered.
fn recovering(
    store: &MemoryStore,
    mut config: CommitterConfig,
) -> (CommitterHandle, Receiver<Vec<Record>>) {
    let (send, recovered) = channel();
    config.on_recovered = Box::new(move |records| send.send(records).unwrap());
    let log = Box::new(MemoryLog::open(store.clone()));
    (Committer::spawn(log, config).unwrap(), recovered)
}

fn wait_until_it_works(handle: &CommitterHandle) -> Vec<Record> {
    for _ in 0..500 {
        match handle.commit(vec![draft(77)]).unwrap() {
            Ok(records) => return records,
            Err(LogError::Poisoned { .. }) => std::thread::sleep(Duration::from_millis(5)),
            Err(other) => panic!("{other}"),
        }
    }
    panic!("it stays poisoned");
}

#[test]
fn many_writers_get_their_own_contiguous_records() {
    let dir = scratch();
    let handle = Committer::spawn(Box::new(open(dir.path()).unwrap()), quick()).unwrap();
    let mut numbers = Vec::new();
    std::thread::scope(|scope| {
        let mut writers = Vec::new();
        for writer in 0..8_u64 {
            let handle = handle.clone();
            writers.push(scope.spawn(move || {
                let mut own = Vec::new();
                for n in 0..40 {
                    let first = writer * 1000 + n * 3;
                    let records = handle.commit(drafts(first, 3)).unwrap().unwrap();
                    assert_eq!(records.len(), 3);
                    assert!(records.windows(2).all(|w| w[1].seq == w[0].seq + 1));
                    assert_eq!(records[0].draft.subjects[1], format!("row/people/{first}"));
                    own.extend(records.iter().map(|r| r.seq));
                }
                own
            }));
        }
        for writer in writers {
            numbers.extend(writer.join().unwrap());
        }
    });
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=960).collect::<Vec<u64>>());
    handle.close();
    assert_eq!(dump(&*open(dir.path()).unwrap().reader()).len(), 960);
}

#[test]
fn a_full_queue_refuses_and_close_answers_all_that_wait() {
    let gate = Arc::new(Mutex::new(()));
    let entered = Arc::new(AtomicBool::new(false));
    let config = CommitterConfig {
        queue_max: 3,
        archive: Some(Box::new({
            let (gate, entered) = (gate.clone(), entered.clone());
            move |_| {
                entered.store(true, Ordering::SeqCst);
                drop(gate.lock().unwrap());
                Ok(())
            }
        })),
        ..quick()
    };
    let handle = Committer::spawn(Box::new(MemoryLog::default()), config).unwrap();
    let shut = gate.lock().unwrap();
    let mut answers = vec![submit(&handle, 0, 1)];
    while !entered.load(Ordering::SeqCst) {
        std::thread::yield_now();
    }
    answers.extend((1..4).map(|n| submit(&handle, n, 1)));
    let refused = handle.submit(vec![draft(9)], Box::new(|_| panic!("it was refused")));
    assert_eq!(refused, Err(Overloaded { queued: 3 }));
    drop(shut);
    handle.close();
    let seqs: Vec<u64> = answers
        .iter()
        .map(|a| a.recv().unwrap().unwrap()[0].seq)
        .collect();
    assert_eq!(seqs, [1, 2, 3, 4]);
    assert_eq!(
        handle.commit(vec![draft(9)]).unwrap().unwrap_err(),
        LogError::Closed
    );
}

#[test]
fn an_unknown_outcome_that_was_kept_is_recovered_once() {
    let store = MemoryStore::default();
    let (handle, recovered) = recovering(&store, quick());
    handle.commit(drafts(0, 2)).unwrap().unwrap();
    store.fail_next(MemoryFault::FlushKept);
    let error = handle.commit(drafts(2, 2)).unwrap().unwrap_err();
    assert!(
        matches!(
            error,
            LogError::Unknown {
                first: 3,
                last: 4,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(wait_until_it_works(&handle)[0].seq, 5);
    let records = recovered.recv().unwrap();
    assert_eq!(records.iter().map(|r| r.seq).collect::<Vec<_>>(), [3, 4]);
    assert!(recovered.try_recv().is_err());
}

#[test]
fn an_unknown_outcome_that_was_lost_and_a_plain_error_leave_no_trace() {
    for fault in [MemoryFault::FlushLost, MemoryFault::Write] {
        let store = MemoryStore::default();
        let (handle, recovered) = recovering(&store, quick());
        store.fail_next(fault);
        assert!(handle.commit(drafts(0, 2)).unwrap().is_err());
        assert_eq!(wait_until_it_works(&handle)[0].seq, 1);
        handle.close();
        drop(handle);
        assert!(recovered.recv().is_err());
    }
}

#[test]
fn a_group_too_large_is_no_reason_to_stop() {
    let handle = Committer::spawn(Box::new(MemoryLog::default()), quick()).unwrap();
    let error = handle.commit(drafts(0, 40_000)).unwrap().unwrap_err();
    assert!(matches!(error, LogError::TooLarge { .. }), "{error}");
    assert_eq!(handle.commit(drafts(0, 1)).unwrap().unwrap()[0].seq, 1);
}

#[test]
fn with_synchronous_archiving_nothing_is_acknowledged_before_it_is_stored() {
    let (send, stored) = channel();
    let broken = Arc::new(AtomicBool::new(false));
    let is_broken = broken.clone();
    let config = CommitterConfig {
        archive: Some(Box::new(move |segment| {
            if is_broken.load(Ordering::SeqCst) {
                return Err("the bucket is away".to_owned());
            }
            send.send((segment.first, segment.last)).unwrap();
            Ok(())
        })),
        ..quick()
    };
    let store = MemoryStore::default();
    let (handle, recovered) = recovering(&store, config);
    handle.commit(drafts(0, 3)).unwrap().unwrap();
    assert_eq!(stored.try_recv().unwrap(), (1, 3));
    broken.store(true, Ordering::SeqCst);
    let error = handle.commit(drafts(3, 2)).unwrap().unwrap_err();
    assert!(
        matches!(
            error,
            LogError::Unknown {
                first: 4,
                last: 5,
                ..
            }
        ),
        "{error}"
    );
    assert!(matches!(
        handle.commit(drafts(9, 1)).unwrap(),
        Err(LogError::Poisoned { .. })
    ));
    assert!(recovered.recv_timeout(Duration::from_millis(100)).is_err());
    broken.store(false, Ordering::SeqCst);
    let records = recovered.recv().unwrap();
    assert_eq!(records.iter().map(|r| r.seq).collect::<Vec<_>>(), [4, 5]);
    assert_eq!(stored.recv().unwrap(), (4, 5));
    assert_eq!(wait_until_it_works(&handle)[0].seq, 6);
}

#[test]
fn the_last_handle_ends_the_thread_and_closes_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let handle = Committer::spawn(Box::new(open(dir.path()).unwrap()), quick()).unwrap();
    handle.commit(drafts(0, 2)).unwrap().unwrap();
    drop(handle);
    // The thread ends by itself, a moment later: until it has, it seals its segment under who opens.
    let log = (0..500).find_map(|_| {
        let opened = open(dir.path()).ok();
        if opened.is_none() {
            std::thread::sleep(Duration::from_millis(5));
        }
        opened
    });
    let log = log.expect("the thread has closed the log");
    assert_eq!(dump(&*log.reader()).len(), 2);
}
