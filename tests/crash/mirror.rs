//! J-07 and J-09 from outside: a torn tail is cut, a hole is refused by name, and never is anything dropped in silence.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rand::RngCore as _;
use serde_json::{Value, json};

use crate::harness::Harness;
use crate::support::daemon::{Daemon, Site};

const MAGIC: [u8; 4] = [0xFF, b'L', b'J', 0xFE];
const HEADER_BYTES: usize = 48;

/// A frame of a segment: where it begins and ends in the file, and its event's number.
struct Frame {
    start: usize,
    end: usize,
    seq: u64,
}

/// The files of the mirror, oldest first.
fn segments(site: &Site) -> Vec<PathBuf> {
    let dir = site.data_dir().join("journal").join("mirror");
    let mut paths: Vec<PathBuf> = fs::read_dir(&dir)
        .unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "lhj"))
        .collect();
    paths.sort();
    paths
}

fn frames(path: &Path) -> Vec<Frame> {
    let bytes = fs::read(path).unwrap();
    let mut found = Vec::new();
    let mut start = 0;
    while bytes.get(start..start + 4) == Some(&MAGIC) {
        let length = u32::from_le_bytes(bytes[start + 4..start + 8].try_into().unwrap());
        let end = start + HEADER_BYTES + length as usize;
        let body: Value = serde_json::from_slice(&bytes[start + HEADER_BYTES..end]).unwrap();
        found.push(Frame {
            start,
            end,
            seq: body["seq"].as_u64().unwrap(),
        });
        start = end;
    }
    found
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x01;
    fs::write(path, bytes).unwrap();
}

/// A daemon with some events of one kind after another, the last of them a description.
async fn with_events() -> (Daemon, Vec<Value>) {
    let daemon = Daemon::start();
    let api = daemon.admin();
    api.create("people", "id,name\n1,ada\n").await;
    for id in 2..8 {
        let csv = format!("id,name\n{id},somebody\n");
        api.ingest("dataset=people&mode=append", "text/csv", csv)
            .await
            .ok();
    }
    api.patch(
        "/catalog/datasets/people",
        &json!({ "description": "the last" }),
    )
    .await
    .ok();
    let events = api.events(0).await;
    (daemon, events)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_behind_the_last_event_is_cut() {
    let test = "J-09 garbage appended";
    let (mut harness, mut daemon) = Harness::start(test).await;
    for _ in 0..2 {
        let site = harness
            .load_and_kill_after(daemon, Duration::from_millis(300))
            .await;
        let newest = segments(&site).pop().expect("a segment");
        let mut garbage = vec![0; 700];
        harness.rng.fill_bytes(&mut garbage);
        fs::OpenOptions::new()
            .append(true)
            .open(newest)
            .unwrap()
            .write_all(&garbage)
            .unwrap();
        daemon = Daemon::start_at(site);
        harness.check(&daemon).await;
    }
    harness.report(test);
}

#[tokio::test]
async fn a_frame_that_was_begun_behind_the_last_one_is_cut() {
    let (daemon, events) = with_events().await;
    let site = daemon.kill9();
    let newest = segments(&site).pop().expect("a segment");
    let last = frames(&newest).pop().expect("a frame");
    let bytes = fs::read(&newest).unwrap();
    let torn = bytes[last.start..last.end - 9].to_vec();
    let mut spoiled = bytes[..last.end].to_vec();
    spoiled.extend(torn);
    fs::write(&newest, spoiled).unwrap();

    let daemon = Daemon::start_at(site);
    let after = daemon.admin().events(0).await;
    assert_eq!(after[..events.len()], events[..]);
    let manifest = daemon.admin().get("/catalog/datasets/people").await.ok();
    assert_eq!(manifest["description"], "the last");
}

#[tokio::test]
async fn a_flipped_byte_in_a_sealed_segment_is_refused_by_file_and_number() {
    let (daemon, events) = with_events().await;
    let (site, status) = daemon.sigterm();
    assert!(status.success());
    let sealed = segments(&site)
        .into_iter()
        .find(|path| frames(path).len() > 3)
        .expect("a segment");
    let all = frames(&sealed);
    let hit = &all[all.len() / 2];
    flip(&sealed, hit.start + HEADER_BYTES + 30);
    refuses_or_repairs(site, &sealed, hit.seq, &events).await;
}

#[tokio::test]
async fn a_flipped_byte_before_whole_frames_of_the_open_segment_is_refused() {
    let (daemon, events) = with_events().await;
    let site = daemon.kill9();
    let open = segments(&site).pop().expect("a segment");
    let all = frames(&open);
    assert!(all.len() > 3, "the events are in one segment");
    let hit = &all[all.len() / 2];
    flip(&open, hit.start + HEADER_BYTES + 30);
    refuses_or_repairs(site, &open, hit.seq, &events).await;
}

#[tokio::test]
async fn a_segment_that_is_gone_is_refused() {
    let (daemon, events) = with_events().await;
    let (site, _) = daemon.sigterm();
    // A second process, so that there is a segment after the one that goes.
    let (site, _) = Daemon::start_at(site).sigterm();
    fs::remove_file(segments(&site).remove(0)).unwrap();
    // It cannot know the name of what is not there: it names what comes after the gap.
    let next = segments(&site).remove(0);
    refuses_or_repairs(site, &next, 1, &events).await;
}

#[tokio::test]
async fn a_cut_through_the_last_event_never_shows_another_past() {
    let (daemon, events) = with_events().await;
    let site = daemon.kill9();
    let open = segments(&site).pop().expect("a segment");
    let last = frames(&open).pop().expect("a frame");
    let bytes = fs::read(&open).unwrap();
    fs::write(&open, &bytes[..last.end - 5]).unwrap();
    match site.start() {
        Err((_, refusal)) => {
            assert!(!refusal.status.success());
            assert!(!refusal.stderr.contains("panicked"), "{}", refusal.stderr);
        }
        Ok(daemon) => {
            let after = daemon.admin().events(0).await;
            let kept = events.len() - 1;
            assert_eq!(
                after[..kept],
                events[..kept],
                "all before the cut is as it was"
            );
            crate::audit::verifies(&daemon.admin()).await;
        }
    }
}

/// Damage in the middle: the daemon names it and does not start, or has it repaired from another copy. It never goes on without.
async fn refuses_or_repairs(site: Site, damaged: &Path, seq: u64, events: &[Value]) {
    match site.start() {
        Err((_, refusal)) => {
            assert!(!refusal.status.success());
            let file = damaged.file_stem().unwrap().to_str().unwrap();
            let said = &refusal.stderr;
            assert!(said.contains(file), "names the file {file}: {said}");
            let numbers: Vec<u64> = said
                .split(|c: char| !c.is_ascii_digit())
                .filter_map(|word| word.parse().ok())
                .collect();
            assert!(numbers.contains(&seq), "names event {seq}: {said}");
            assert!(!said.contains("panicked"), "{said}");
        }
        Ok(daemon) => {
            let after = daemon.admin().events(0).await;
            assert_eq!(
                after[..events.len()],
                events[..],
                "repaired means that everything is there"
            );
            crate::audit::verifies(&daemon.admin()).await;
        }
    }
}
