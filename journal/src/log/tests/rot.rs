//! One byte of one file flips: the journal comes back the same, or refuses to start and says where. Never anything else.

use std::path::{Path, PathBuf};

use super::super::testing::{drafts, sized_draft};
use super::super::{Log, LogError};
use super::{copy, dump, open, scratch};

/// A small deterministic sequence: the offsets of a run can be repeated.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

fn files_under(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_under(&path, found);
        } else if path.metadata().unwrap().len() > 0 {
            found.push(path);
        }
    }
}

fn flip(file: &Path, dice: &mut Dice) -> String {
    let mut bytes = std::fs::read(file).unwrap();
    // Most of a young file of the index is zeros that nobody reads; aim at what is written.
    let written = bytes
        .iter()
        .rposition(|b| *b != 0)
        .map_or(bytes.len(), |at| at + 1);
    let at = usize::try_from(dice.below(written as u64)).unwrap();
    let bit = 1 << dice.below(8);
    bytes[at] ^= bit;
    std::fs::write(file, bytes).unwrap();
    format!(
        "{} byte {at} bit {bit:#x}",
        file.file_name().unwrap().display()
    )
}

/// A journal of three sealed segments and, when `crashed`, an open one.
fn journal(crashed: bool) -> (tempfile::TempDir, Vec<String>) {
    let dir = scratch();
    let mut log = open(dir.path()).unwrap();
    for n in 0..4 {
        log.append(drafts(n * 40, 40)).unwrap();
        log.append(vec![sized_draft(n, 6000)]).unwrap();
        if n < 3 {
            log.seal().unwrap();
        }
    }
    let records = dump(&*log.reader());
    if crashed {
        // The history makes the index apply all; the copy is what a kill would leave.
        log.reader().scan(0, 1).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(400));
        return (copy(dir.path()), records);
    }
    log.close().unwrap();
    drop(log);
    (dir, records)
}

fn flips(part: &str, crashed: bool, cases: u64) -> (u64, u64) {
    let (sound, records) = journal(crashed);
    let mut dice = Dice(cases);
    let (mut same, mut refused) = (0, 0);
    for case in 0..cases {
        let damaged = copy(sound.path());
        let mut files = Vec::new();
        files_under(damaged.path(), &mut files);
        files.retain(|f| f.strip_prefix(damaged.path()).unwrap().starts_with(part));
        files.sort();
        let pick = usize::try_from(dice.below(files.len() as u64)).unwrap();
        let what = flip(&files[pick], &mut dice);
        match open(damaged.path()) {
            Ok(log) => {
                assert_eq!(dump(&*log.reader()), records, "case {case}: {what}");
                assert_eq!(
                    log.reader().scan(0, 999).unwrap().len(),
                    records.len(),
                    "case {case}: {what}"
                );
                assert!(log.reader().verify().unwrap().ok, "case {case}: {what}");
                same += 1;
            }
            Err(LogError::Corrupt { .. }) => refused += 1,
            Err(other) => panic!("case {case}: {what}: {other}"),
        }
    }
    (same, refused)
}

#[test]
fn a_flipped_byte_in_the_mirror_is_repaired_or_refused() {
    let (same, refused) = flips("mirror", true, 100);
    println!("mirror: {same} the same, {refused} refused");
    assert!(refused > 50);
}

#[test]
fn a_flipped_byte_in_the_index_is_repaired() {
    let (same, refused) = flips("gen-000001", false, 60);
    println!("index after a clean stop: {same} the same, {refused} refused");
    assert_eq!(refused, 0);
    let (same, refused) = flips("gen-000001", true, 60);
    println!("index after a kill: {same} the same, {refused} refused");
    assert_eq!(refused, 0);
}

#[test]
fn a_flipped_byte_in_the_small_files_does_no_harm() {
    let (same, refused) = flips("generation.json", false, 30);
    println!("generation file: {same} the same, {refused} refused");
    assert_eq!(refused, 0);
}
