//! One suite for every log: what an owner may rely on, whichever it has.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::super::frame::GENESIS;
use super::super::testing::{draft, drafts, sized_draft};
use super::super::{Batch, Log, LogReader, MemoryLog, MemoryStore, Order, RealIo, SledLog, frame};
use super::{config, dump, lines, scratch};

/// A kind of log, and what survives it.
trait Kind {
    fn open(&self) -> Box<dyn Log>;
}

struct Disk(tempfile::TempDir);
struct Memory(MemoryStore);

impl Kind for Disk {
    fn open(&self) -> Box<dyn Log> {
        let dir = self.0.path().join("journal");
        Box::new(SledLog::open(dir, &config(), Arc::new(RealIo)).unwrap())
    }
}

impl Kind for Memory {
    fn open(&self) -> Box<dyn Log> {
        Box::new(MemoryLog::open(self.0.clone()))
    }
}

fn both(test: fn(&dyn Kind)) {
    test(&Memory(MemoryStore::default()));
    test(&Disk(scratch()));
}

fn seqs(
    reader: &dyn LogReader,
    subject: &str,
    cursor: u64,
    limit: usize,
    order: Order,
) -> Vec<u64> {
    let records = reader.history(subject, cursor, limit, order).unwrap();
    records.iter().map(|r| r.seq).collect()
}

#[test]
fn an_empty_log_answers_everything() {
    both(|kind| {
        let mut log = kind.open();
        let reader = log.reader();
        assert_eq!((log.last_seq(), log.durable_seq()), (0, 0));
        assert!(reader.scan(0, 10).unwrap().is_empty());
        assert!(reader.scan(5, 10).unwrap().is_empty());
        assert!(seqs(&*reader, "dataset/people", 0, 10, Order::NewestFirst).is_empty());
        assert_eq!(
            reader
                .for_each(0, &mut |_| ControlFlow::Continue(()))
                .unwrap(),
            0
        );
        assert!(log.append(Vec::new()).unwrap().is_empty());
        assert!(log.append_group(Vec::new()).unwrap().is_empty());
        assert_eq!(log.seal().unwrap(), None);
        assert!(log.sealed_segments(0).is_empty());
        assert!(log.reopen().unwrap().is_empty());
        assert!(reader.verify().unwrap().ok);
        log.close().unwrap();
        drop(log);
        assert_eq!(kind.open().last_seq(), 0);
    });
}

#[test]
fn numbers_are_contiguous_and_hashes_chained() {
    both(|kind| {
        let mut log = kind.open();
        let mut records = log.append(drafts(1, 3)).unwrap();
        records.extend(log.append(vec![draft(4)]).unwrap());
        let mut previous = GENESIS;
        for (at, record) in records.iter().enumerate() {
            assert_eq!(record.seq, at as u64 + 1);
            let mut bytes = Vec::new();
            let json = serde_json::to_vec(&record.draft).unwrap();
            let hash = frame::encode(
                &mut bytes,
                record.seq,
                frame::Place::default(),
                &previous,
                &json,
            );
            assert_eq!(hash.unwrap(), record.hash);
            previous = record.hash;
        }
        assert_eq!((log.last_seq(), log.durable_seq()), (4, 4));
        assert_eq!(dump(&*log.reader()), lines(&records));
    });
}

#[test]
fn each_batch_of_a_group_gets_its_own_records() {
    both(|kind| {
        let mut log = kind.open();
        let batches = [2, 0, 3].map(|n| Batch::new(drafts(n * 100, n)).unwrap());
        let answers = log.append_group(batches.into()).unwrap();
        let numbers: Vec<Vec<u64>> = answers
            .iter()
            .map(|a| a.iter().map(|r| r.seq).collect())
            .collect();
        assert_eq!(numbers, [vec![1, 2], vec![], vec![3, 4, 5]]);
    });
}

#[test]
fn a_page_is_what_lies_between() {
    both(|kind| {
        let mut log = kind.open();
        for n in 0..10 {
            log.append(drafts(n * 30, 30)).unwrap();
        }
        let reader = log.reader();
        let all = dump(&*reader);
        for (after, limit) in [
            (0, 0),
            (0, 1),
            (7, 5),
            (29, 2),
            (290, 10),
            (295, 10),
            (300, 5),
            (999, 5),
        ] {
            let end = (after + limit).min(300);
            let expected = if after < 300 { &all[after..end] } else { &[] };
            let page = reader.scan(after as u64, limit).unwrap();
            assert_eq!(lines(&page), expected, "{limit} after {after}");
        }
    });
}

#[test]
fn a_replay_stops_where_it_is_told() {
    both(|kind| {
        let mut log = kind.open();
        log.append(drafts(0, 50)).unwrap();
        let mut seen = Vec::new();
        let stop = |record: crate::record::Record| {
            seen.push(record.seq);
            if seen.len() == 5 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        let mut stop = stop;
        assert_eq!(log.reader().for_each(20, &mut stop).unwrap(), 25);
        assert_eq!(seen, [21, 22, 23, 24, 25]);
    });
}

#[test]
fn a_history_is_paged_in_both_directions() {
    both(|kind| {
        let mut log = kind.open();
        // Row 7 is touched by every tenth event, across batches of different sizes.
        for part in 0..6_u64 {
            let events = (0..50).map(|n| {
                let n = part * 50 + n;
                draft(if n % 10 == 3 { 7 } else { 1000 + n })
            });
            log.append(events.collect()).unwrap();
        }
        let reader = log.reader();
        let expected: Vec<u64> = (0..30).map(|n| n * 10 + 4).collect();
        let row = "row/people/7";
        for limit in [1, 4, 7, 1000] {
            for order in [Order::OldestFirst, Order::NewestFirst] {
                let (mut cursor, mut found) = (0, Vec::new());
                loop {
                    let page = seqs(&*reader, row, cursor, limit, order);
                    assert!(page.len() <= limit);
                    let Some(last) = page.last() else { break };
                    cursor = *last;
                    found.extend(page);
                }
                if order == Order::NewestFirst {
                    found.reverse();
                }
                assert_eq!(found, expected, "{limit} {order:?}");
            }
        }
        assert_eq!(
            seqs(&*reader, "dataset/people", 0, 1000, Order::OldestFirst).len(),
            300
        );
        assert_eq!(
            seqs(&*reader, "dataset/people", 0, 3, Order::NewestFirst),
            [300, 299, 298]
        );
        assert!(seqs(&*reader, "row/people", 0, 10, Order::OldestFirst).is_empty());
        assert!(seqs(&*reader, row, 0, 0, Order::OldestFirst).is_empty());
    });
}

#[test]
fn everything_is_there_after_a_restart() {
    both(|kind| {
        let mut log = kind.open();
        log.append(drafts(0, 40)).unwrap();
        log.seal().unwrap();
        log.append(drafts(40, 40)).unwrap();
        let before = dump(&*log.reader());
        log.close().unwrap();
        drop(log);
        let mut log = kind.open();
        assert_eq!(log.last_seq(), 80);
        assert_eq!(dump(&*log.reader()), before);
        assert_eq!(log.append(vec![draft(80)]).unwrap()[0].seq, 81);
        assert!(log.reader().verify().unwrap().ok);
    });
}

#[test]
fn a_reader_sees_an_event_as_soon_as_it_is_acknowledged() {
    both(|kind| {
        let mut log = kind.open();
        let reader = log.reader();
        for n in 1..=50 {
            log.append(vec![draft(n)]).unwrap();
            assert_eq!(reader.scan(n - 1, 9).unwrap().len(), 1);
            assert_eq!(
                seqs(
                    &*reader,
                    &format!("row/people/{n}"),
                    0,
                    9,
                    Order::OldestFirst
                ),
                [n]
            );
            assert_eq!(reader.stats().events, n);
        }
        assert_eq!(reader.stats().indexed_seq, 50);
    });
}

#[test]
fn a_large_event_comes_back_from_every_side() {
    both(|kind| {
        let mut log = kind.open();
        let sizes = [4000, 4096, 4097, 9000, 300, 5 << 20, 300];
        let events = sizes
            .iter()
            .zip(1..)
            .map(|(size, n)| sized_draft(n, *size))
            .collect();
        let written = log.append(events).unwrap();
        let reader = log.reader();
        assert_eq!(dump(&*reader), lines(&written));
        assert_eq!(lines(&reader.scan(0, 100).unwrap()), lines(&written));
        for record in &written {
            let subject = &record.draft.subjects[1];
            let found = reader.history(subject, 0, 2, Order::NewestFirst).unwrap();
            assert_eq!(lines(&found), lines(std::slice::from_ref(record)));
        }
        log.close().unwrap();
        drop(log);
        let log = kind.open();
        assert_eq!(lines(&log.reader().scan(0, 100).unwrap()), lines(&written));
    });
}

#[test]
fn an_event_without_subjects_has_no_history() {
    both(|kind| {
        let mut log = kind.open();
        let mut event = draft(1);
        event.subjects.clear();
        log.append(vec![event, draft(2)]).unwrap();
        assert_eq!(
            seqs(&*log.reader(), "dataset/people", 0, 9, Order::OldestFirst),
            [2]
        );
        assert_eq!(log.reader().scan(0, 9).unwrap().len(), 2);
    });
}

#[test]
fn sealed_segments_join_without_a_gap_and_hold_the_events() {
    both(|kind| {
        let mut log = kind.open();
        for n in 0..5 {
            log.append(drafts(n * 10, 10)).unwrap();
            let sealed = log.seal().unwrap().unwrap();
            assert_eq!((sealed.first, sealed.last), (n * 10 + 1, n * 10 + 10));
            assert_eq!(log.sealed_segments(n * 10), std::slice::from_ref(&sealed));
            let bytes = sealed.read().unwrap();
            assert_eq!(bytes.len() as u64, sealed.bytes);
            assert_eq!(super::super::mirror::count_frames(&bytes), 10);
        }
        assert_eq!(log.sealed_segments(0).len(), 5);
        assert_eq!(log.seal().unwrap(), None);
        assert_eq!(log.reader().stats().segments, 5);
    });
}

#[test]
fn too_much_at_once_is_refused_and_nothing_else_changes() {
    both(|kind| {
        let mut log = kind.open();
        let many = || Batch::new(drafts(0, 32_000)).unwrap();
        let error = log.append_group(vec![many(), many(), many()]).unwrap_err();
        assert!(matches!(error, super::LogError::TooLarge { .. }), "{error}");
        assert!(Batch::new(drafts(0, 32_769)).is_err());
        assert_eq!(log.append(vec![draft(1)]).unwrap()[0].seq, 1);
    });
}

#[test]
fn a_closed_log_takes_nothing() {
    both(|kind| {
        let mut log = kind.open();
        log.append(vec![draft(1)]).unwrap();
        log.close().unwrap();
        log.close().unwrap();
        assert_eq!(
            log.append(vec![draft(2)]).unwrap_err(),
            super::LogError::Closed
        );
        assert_eq!(log.reopen().unwrap_err(), super::LogError::Closed);
    });
}
