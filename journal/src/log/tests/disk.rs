//! What the log on disk makes of what it finds: torn tails, holes, missing and planted files, a lost index.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::fault::FaultIo;
use super::super::frame::{self, HEADER_BYTES};
use super::super::io::RealIo;
use super::super::scan::scan_open;
use super::super::testing::{draft, drafts, sized_draft};
use super::super::{Batch, Head, Log, LogConfig, LogError, Order, SledLog};
use super::{
    assert_index_agrees, config, copy, dump, generations, lines, open, open_with, scratch, segments,
};

/// A journal with one open segment of single-event groups, copied as after a kill, without its index.
/// Which segment is damaged, and how.
type Damage<'a> = (usize, &'a dyn Fn(&Path));

fn open_mirror(events: u64) -> (tempfile::TempDir, PathBuf, Vec<u8>, Vec<usize>) {
    let dir = scratch();
    let mut log = open(dir.path()).unwrap();
    for n in 1..=events {
        log.append(vec![draft(n)]).unwrap();
    }
    let crashed = scratch();
    std::fs::create_dir(crashed.path().join("mirror")).unwrap();
    let from = segments(dir.path()).pop().unwrap();
    let file = crashed
        .path()
        .join("mirror")
        .join(from.file_name().unwrap());
    let mut bytes = std::fs::read(&from).unwrap();
    let mut ends = vec![0];
    while let Ok(found) = frame::parse(&bytes[*ends.last().unwrap()..]) {
        ends.push(ends.last().unwrap() + found.bytes());
    }
    assert_eq!(ends.len() as u64, events + 1);
    bytes.truncate(*ends.last().unwrap());
    std::fs::write(&file, &bytes).unwrap();
    (crashed, file, bytes, ends)
}

fn whole_before(ends: &[usize], cut: usize) -> u64 {
    ends.iter().filter(|end| **end <= cut).count() as u64 - 1
}

#[test]
fn a_tail_torn_at_any_byte_leaves_exactly_the_whole_events() {
    let (_dir, file, bytes, ends) = open_mirror(12);
    let mut cases = 0;
    for cut in ends[9]..=bytes.len() {
        let expected = whole_before(&ends, cut);
        let scan = scan_open(&file, &bytes[..cut], Head::EMPTY).unwrap();
        assert_eq!(
            (scan.head.seq, scan.bytes),
            (expected, ends[usize::try_from(expected).unwrap()])
        );
        assert_eq!(scan.torn.is_some(), !ends.contains(&cut));
        // The same with the preallocated zeros behind it.
        let mut zeros = bytes[..cut].to_vec();
        zeros.resize(bytes.len() + 4096, 0);
        assert_eq!(
            scan_open(&file, &zeros, Head::EMPTY).unwrap().head.seq,
            expected
        );
        cases += 1;
    }
    assert!(cases > 900, "{cases}");
}

#[test]
fn a_journal_with_a_torn_tail_opens_and_goes_on() {
    let (dir, file, bytes, ends) = open_mirror(12);
    for cut in (ends[9]..bytes.len()).step_by(97) {
        for path in segments(dir.path())
            .into_iter()
            .chain(generations(dir.path()))
        {
            std::fs::remove_file(&path)
                .or_else(|_| std::fs::remove_dir_all(&path))
                .unwrap();
        }
        std::fs::write(&file, &bytes[..cut]).unwrap();
        let mut log = open(dir.path()).unwrap();
        let expected = whole_before(&ends, cut);
        assert_eq!(log.last_seq(), expected);
        assert_eq!(log.append(vec![draft(99)]).unwrap()[0].seq, expected + 1);
        assert_index_agrees(&log);
    }
}

#[test]
fn a_hole_is_refused_wherever_it_is() {
    let (dir, file, bytes, ends) = open_mirror(202);
    for hole in 0..200 {
        let mut holed = bytes[..ends[hole]].to_vec();
        holed.extend_from_slice(&bytes[ends[hole + 1]..]);
        let error = scan_open(&file, &holed, Head::EMPTY).unwrap_err();
        assert!(
            matches!(error, LogError::Corrupt { seq, .. } if seq == hole as u64 + 1),
            "{error}"
        );
        let mut zeroed = bytes.clone();
        zeroed[ends[hole]..ends[hole + 1]].fill(0);
        let error = scan_open(&file, &zeroed, Head::EMPTY).unwrap_err();
        assert!(
            matches!(error, LogError::Corrupt { seq, .. } if seq == hole as u64 + 1),
            "{error}"
        );
        if hole % 20 == 0 {
            std::fs::write(&file, &holed).unwrap();
            assert!(matches!(
                open(dir.path()).unwrap_err(),
                LogError::Corrupt { .. }
            ));
            assert_eq!(std::fs::read(&file).unwrap(), holed, "nothing is cut");
        }
    }
}

#[test]
fn a_torn_group_is_a_tail_even_when_its_later_pages_arrived() {
    let mut head = Head::EMPTY;
    let mut bytes = Vec::new();
    for group in [vec![3_u64, 1], vec![1, 1, 4]] {
        let batches = group
            .iter()
            .map(|n| Batch::new(drafts(0, *n)).unwrap())
            .collect();
        let encoded = super::super::batch::Group::encode(batches, head).unwrap();
        bytes.extend_from_slice(&encoded.frames);
        head = encoded.head;
    }
    let length = frame::frame_length(&bytes).unwrap();
    let file = Path::new("x");
    let zero = |n: usize| {
        let mut torn = bytes.clone();
        torn[n * length..(n + 1) * length].fill(0);
        scan_open(file, &torn, Head::EMPTY)
    };
    // Events 5 to 10 were written together: any of them may be missing while later ones are there.
    assert_eq!(zero(4).unwrap().head.seq, 4);
    assert_eq!(zero(5).unwrap().head.seq, 5);
    // Event 8 belongs to a batch of four, which counts as a whole or not at all.
    assert_eq!(zero(7).unwrap().head.seq, 6);
    assert_eq!(
        scan_open(file, &bytes[..9 * length], Head::EMPTY)
            .unwrap()
            .head
            .seq,
        6
    );
    // Events 1 to 4 were durable before event 5 was written.
    for durable in 0..4 {
        assert!(zero(durable).is_err());
    }
}

#[test]
fn a_damaged_or_missing_sealed_segment_is_refused() {
    let dir = scratch();
    let mut log = open(dir.path()).unwrap();
    for n in 0..4 {
        log.append(drafts(n * 10, 10)).unwrap();
        log.seal().unwrap();
    }
    log.close().unwrap();
    drop(log);
    let sealed = segments(dir.path());
    assert_eq!(sealed.len(), 4);
    let cut = |path: &Path| {
        let bytes = std::fs::read(path).unwrap();
        let length = frame::frame_length(&bytes).unwrap();
        std::fs::write(path, &bytes[..bytes.len() - length]).unwrap();
    };
    let rename = |path: &Path| std::fs::rename(path, path.with_extension("away")).unwrap();
    let damages: [Damage<'_>; 4] = [(1, &cut), (3, &cut), (0, &rename), (2, &rename)];
    for (at, damage) in damages {
        let broken = copy(dir.path());
        damage(&segments(broken.path())[at]);
        let error = open(broken.path()).unwrap_err();
        assert!(matches!(error, LogError::Corrupt { .. }), "{at}: {error}");
    }
}

#[test]
fn a_lost_index_is_rebuilt_with_the_same_records() {
    let dir = scratch();
    let mut log = open(dir.path()).unwrap();
    for n in 0..20 {
        log.append(drafts(n * 50, 50)).unwrap();
    }
    let before = dump(&*log.reader());
    log.close().unwrap();
    drop(log);
    for path in generations(dir.path()) {
        std::fs::remove_dir_all(path).unwrap();
    }
    let log = open(dir.path()).unwrap();
    assert_eq!(dump(&*log.reader()), before);
    assert_index_agrees(&log);
    assert_eq!(log.reader().stats().generation, 2);
    let row = log
        .reader()
        .history("row/people/777", 0, 5, Order::NewestFirst)
        .unwrap();
    assert_eq!(lines(&row), [before[777].clone()]);
}

#[test]
fn a_hundred_thousand_events_are_rebuilt_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path()).unwrap();
    for n in 0..100 {
        log.append(drafts(n * 1000, 1000)).unwrap();
    }
    log.close().unwrap();
    drop(log);
    let clock = Instant::now();
    let log = open(dir.path()).unwrap();
    let checked = clock.elapsed();
    drop(log);
    std::fs::remove_dir_all(&generations(dir.path())[0]).unwrap();
    let clock = Instant::now();
    let log = open(dir.path()).unwrap();
    let rebuilt = clock.elapsed();
    println!("100,000 events: opened and checked in {checked:?}, index rebuilt in {rebuilt:?}");
    assert_eq!(log.reader().stats().indexed_seq, 100_000);
    let clock = Instant::now();
    assert_eq!(dump(&*log.reader()).len(), 100_000);
    println!(
        "100,000 events: replayed and printed in {:?}",
        clock.elapsed()
    );
    assert!(rebuilt < Duration::from_mins(1));
}

#[test]
fn an_index_that_is_behind_is_brought_up() {
    let dir = scratch();
    let mut log = open(dir.path()).unwrap();
    log.append(drafts(0, 300)).unwrap();
    log.close().unwrap();
    drop(log);
    let old = copy(&generations(dir.path())[0]);
    let mut log = open(dir.path()).unwrap();
    log.append(drafts(300, 300)).unwrap();
    let before = dump(&*log.reader());
    log.close().unwrap();
    drop(log);
    let current = &generations(dir.path())[0];
    std::fs::remove_dir_all(current).unwrap();
    std::fs::rename(old.path(), current).unwrap();
    let log = open(dir.path()).unwrap();
    assert_eq!(
        (
            log.reader().stats().generation,
            log.reader().stats().index_rebuilds
        ),
        (1, 0)
    );
    assert_eq!(dump(&*log.reader()), before);
    assert_index_agrees(&log);
}

#[test]
fn events_that_only_the_index_still_has_come_back() {
    let dir = scratch();
    let mut log = open(dir.path()).unwrap();
    log.append(drafts(0, 10)).unwrap();
    log.seal().unwrap();
    log.append(drafts(10, 10)).unwrap();
    let before = dump(&*log.reader());
    log.close().unwrap();
    drop(log);
    std::fs::remove_file(&segments(dir.path())[1]).unwrap();
    let log = open(dir.path()).unwrap();
    assert_eq!(dump(&*log.reader()), before);
    assert_index_agrees(&log);
    drop(log);
    for file in segments(dir.path()) {
        std::fs::remove_file(file).unwrap();
    }
    let log = open(dir.path()).unwrap();
    assert_eq!(dump(&*log.reader()), before);
}

#[test]
fn an_index_of_another_history_is_not_believed() {
    let (ours, theirs) = (scratch(), scratch());
    for (dir, first) in [(&ours, 0), (&theirs, 500)] {
        let mut log = open(dir.path()).unwrap();
        log.append(drafts(first, 20)).unwrap();
        if first > 0 {
            log.append(drafts(first, 20)).unwrap();
        }
        log.close().unwrap();
    }
    let (own, foreign) = (generations(ours.path()), generations(theirs.path()));
    std::fs::remove_dir_all(&own[0]).unwrap();
    std::fs::rename(&foreign[0], &own[0]).unwrap();
    // It is longer than the mirror: only a person can say which one is right.
    let error = open(ours.path()).unwrap_err();
    assert!(
        matches!(error, LogError::Corrupt { seq: 21, .. }),
        "{error}"
    );
    // It is as long as the mirror: the mirror is right.
    let mut log = open(theirs.path()).unwrap();
    log.append(drafts(540, 1)).unwrap();
    log.close().unwrap();
    drop(log);
    let shorter = copy(ours.path());
    std::fs::remove_dir_all(shorter.path().join("mirror")).unwrap();
    std::fs::rename(theirs.path().join("mirror"), shorter.path().join("mirror")).unwrap();
    let other = scratch();
    let mut log = open(other.path()).unwrap();
    log.append(drafts(900, 20)).unwrap();
    log.close().unwrap();
    drop(log);
    let current = &generations(shorter.path())[0];
    std::fs::remove_dir_all(current).unwrap();
    std::fs::rename(&generations(other.path())[0], current).unwrap();
    let log = open(shorter.path()).unwrap();
    assert_eq!(log.reader().stats().index_rebuilds, 1);
    assert_index_agrees(&log);
    let reason = shorter.path().join("quarantine/gen-000001.reason");
    assert!(
        std::fs::read_to_string(reason)
            .unwrap()
            .contains("not the mirror's")
    );
}

#[test]
fn planted_garbage_beside_the_index_does_no_harm() {
    let dir = scratch();
    let mut log = open(dir.path()).unwrap();
    log.append(drafts(0, 100)).unwrap();
    let before = dump(&*log.reader());
    log.close().unwrap();
    drop(log);
    for (name, garbage) in [
        ("0000000000ffffff", &[0_u8; 64][..]),
        ("ffffffffffffffff", b"nonsense"),
        ("0000000000000001", b""),
    ] {
        let generation = &generations(dir.path())[0];
        std::fs::write(generation.join(format!("snap.{name}.generating")), garbage).unwrap();
        std::fs::write(
            dir.path().join("mirror/00000000000000000007.lhj.tmp"),
            garbage,
        )
        .unwrap();
        let log = open(dir.path()).unwrap();
        assert_eq!(dump(&*log.reader()), before);
        assert_eq!(log.reader().stats().index_rebuilds, 0);
        assert_index_agrees(&log);
    }
}

#[test]
fn an_index_that_never_finished_opening_is_not_asked_a_third_time() {
    let dir = scratch();
    let mut log = open(dir.path()).unwrap();
    log.append(drafts(0, 10)).unwrap();
    log.close().unwrap();
    drop(log);
    std::fs::write(dir.path().join("index-open-attempts"), "1").unwrap();
    let log = open(dir.path()).unwrap();
    assert_eq!(log.reader().stats().index_rebuilds, 0);
    drop(log);
    std::fs::write(dir.path().join("index-open-attempts"), "2").unwrap();
    let log = open(dir.path()).unwrap();
    assert_eq!(
        (
            log.reader().stats().index_rebuilds,
            log.reader().stats().generation
        ),
        (1, 2)
    );
    assert_index_agrees(&log);
    assert!(!dir.path().join("index-open-attempts").exists());
}

#[test]
fn a_mirror_that_is_there_but_empty_is_a_first_start() {
    let dir = scratch();
    std::fs::create_dir_all(dir.path().join("mirror")).unwrap();
    std::fs::write(
        dir.path().join("mirror/00000000000000000001.lhj"),
        vec![0; 4096],
    )
    .unwrap();
    let mut log = open(dir.path()).unwrap();
    assert_eq!(log.append(vec![draft(1)]).unwrap()[0].seq, 1);
    assert_index_agrees(&log);
}

#[test]
fn a_segment_is_sealed_by_size_and_by_age() {
    let dir = scratch();
    let settings = LogConfig {
        segment_bytes: 10_000,
        segment_age: Duration::from_millis(30),
        ..config()
    };
    let mut log = SledLog::open(dir.path().to_path_buf(), &settings, Arc::new(RealIo)).unwrap();
    for n in 0..100 {
        log.append(vec![sized_draft(n, 1000 - HEADER_BYTES)])
            .unwrap();
    }
    assert!(log.sealed_segments(0).len() >= 8);
    let before = log.sealed_segments(0).len();
    std::thread::sleep(Duration::from_millis(40));
    assert!(log.seal_if_due().unwrap().is_some());
    assert_eq!(log.seal_if_due().unwrap(), None);
    assert_eq!(log.sealed_segments(0).len(), before + 1);
    assert_index_agrees(&log);
}

#[test]
fn a_hanging_index_is_told_once_and_appends_say_so() {
    let dir = scratch();
    let io = FaultIo::sound();
    let (told, heard) = std::sync::mpsc::channel();
    let settings = LogConfig {
        stuck_after: Duration::from_millis(200),
        index_flush_interval: Duration::from_millis(1),
        on_stuck: Some(Arc::new(move |since| told.send(since).unwrap())),
        ..config()
    };
    let mut log = SledLog::open(dir.path().to_path_buf(), &settings, Arc::new(io.clone())).unwrap();
    io.delay_index(Duration::from_secs(2), 1);
    log.append(vec![draft(1)]).unwrap();
    assert!(heard.recv_timeout(Duration::from_secs(5)).unwrap() > Duration::from_millis(200));
    assert!(matches!(
        log.append(vec![draft(2)]).unwrap_err(),
        LogError::Stuck { .. }
    ));
    assert!(matches!(
        log.reader().scan(0, 1).unwrap_err(),
        LogError::Stuck { .. }
    ));
    assert_eq!(dump(&*log.reader()).len(), 1);
}

#[test]
fn an_index_that_does_not_come_up_is_left_behind_and_rebuilt() {
    let dir = scratch();
    let mut log = open(dir.path()).unwrap();
    log.append(drafts(0, 50)).unwrap();
    log.close().unwrap();
    drop(log);
    let io = FaultIo::sound();
    io.delay_index(Duration::from_secs(4), 1);
    let settings = LogConfig {
        open_patience: Duration::from_millis(1500),
        ..config()
    };
    let log = SledLog::open(dir.path().to_path_buf(), &settings, Arc::new(io)).unwrap();
    assert_index_agrees(&log);
    std::thread::sleep(Duration::from_millis(1500));
    assert_index_agrees(&log);
    assert_eq!(log.reader().stats().generation, 2);
    assert_eq!(generations(dir.path()), [dir.path().join("gen-000002")]);
}

#[test]
fn an_index_error_while_running_costs_nothing() {
    use super::super::fault::{FaultMode, FaultScope};
    let dir = scratch();
    let io = FaultIo::sound();
    let mut log = open_with(dir.path(), Arc::new(io.clone())).unwrap();
    log.append(drafts(0, 100)).unwrap();
    io.fail_from_now(1, FaultMode::Once, FaultScope::Index);
    log.append(drafts(100, 100)).unwrap();
    let reader = log.reader();
    assert_eq!(
        reader
            .history("dataset/people", 0, 500, Order::OldestFirst)
            .unwrap()
            .len(),
        200
    );
    assert_index_agrees(&log);
    assert_eq!((io.fired(), reader.stats().index_rebuilds), (1, 1));
    // While nothing can be built the mirror answers.
    io.fail_from_now(1, FaultMode::FromThenOn, FaultScope::Index);
    log.append(drafts(200, 100)).unwrap();
    assert_eq!(
        reader
            .history("row/people/250", 0, 5, Order::NewestFirst)
            .unwrap()
            .len(),
        1
    );
    assert_eq!(
        reader
            .history("dataset/people", 0, 7, Order::NewestFirst)
            .unwrap()[6]
            .seq,
        294
    );
    assert_eq!(
        reader
            .history("dataset/people", 10, 7, Order::OldestFirst)
            .unwrap()[0]
            .seq,
        11
    );
    assert_eq!(reader.scan(190, 20).unwrap().len(), 20);
    assert!(!reader.stats().index_healthy);
    io.heal();
    log.append(drafts(300, 100)).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while !reader.stats().index_healthy && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_index_agrees(&log);
    assert_eq!(reader.scan(0, 1000).unwrap().len(), 400);
}
