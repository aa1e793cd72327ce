//! O-01: the disk gets full while files are merged. The merge is refused and leaves nothing behind, every
//! row is read as before, and with room it succeeds. As root the disk is a small file system in memory;
//! else no file may grow beyond a limit, which is what a merge meets as well.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};

use crate::support::api::Api;
use crate::support::daemon::{Daemon, Site};
use crate::support::number_from_env;
use crate::support::scan::files;
use crate::support::until;

/// Bytes of text of one append.
const APPEND_BYTES: usize = 2 << 20;

/// A file system in memory, of a size that is set.
struct Memory {
    mount: PathBuf,
}

impl Memory {
    fn new(mount: PathBuf, megabytes: u64) -> Self {
        std::fs::create_dir_all(&mount).unwrap();
        let memory = Self { mount };
        memory.mount(&format!("size={megabytes}m"), &["-t", "tmpfs", "tmpfs"]);
        memory
    }

    fn grow(&self, megabytes: u64) {
        self.mount(&format!("remount,size={megabytes}m"), &[]);
    }

    fn mount(&self, options: &str, what: &[&str]) {
        let mut command = Command::new("mount");
        command.args(["-o", options]).args(what).arg(&self.mount);
        let done = command.output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "mount: {said}");
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // Also when a test fails while a daemon is there.
        let _ = Command::new("umount").arg("-l").arg(&self.mount).status();
    }
}

/// How the disk is made small here.
enum Small {
    Memory(Memory),
    FileLimit,
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().unwrap();
    id.stdout.trim_ascii() == b"0"
}

/// Appends rows that cannot be packed until the files have so many megabytes; each row of many files.
async fn fill(api: &Api, megabytes: u64) {
    let mut random = rand::rngs::StdRng::seed_from_u64(megabytes);
    let mut mode = "create&key=id";
    let mut id = 0_u64;
    loop {
        let mut csv = String::from("id,v\n");
        while csv.len() < APPEND_BYTES {
            write!(csv, "{id},").unwrap();
            for _ in 0..4 {
                write!(csv, "{:x}", random.random::<u128>()).unwrap();
            }
            csv.push('\n');
            // No two files hold neighbours alone, so that a merge mixes them.
            id += 1;
        }
        let query = format!("dataset=base&mode={mode}");
        api.ingest(&query, "text/csv", csv).await.ok();
        mode = "append";
        let manifest = api.get("/catalog/datasets/base").await.ok();
        if manifest["bytes"].as_u64().unwrap() >= megabytes << 20 {
            return;
        }
    }
}

/// What every row adds up to.
async fn checksum(api: &Api) -> Vec<Vec<Value>> {
    api.rows(
        "SELECT count(*), sum(id), min(v), max(v), count(DISTINCT v), sum(length(v)) FROM base",
    )
    .await
}

/// Every object of the bucket's datasets, and what lies about elsewhere.
fn objects_and_scraps(data: &Path) -> (usize, Vec<PathBuf>) {
    let objects = files(&data.join("buckets/primary/datasets"));
    let mut scraps = Vec::new();
    for dir in ["staging", "tmp", "buckets/primary/.staging"] {
        scraps.extend(files(&data.join(dir)));
    }
    (objects.len(), scraps)
}

#[tokio::test]
async fn a_merge_that_finds_the_disk_full_leaves_everything_as_it_was() {
    let megabytes = number_from_env("LAKEHOUSE_DISK_FULL_MB", 16);
    // 200 MB on 320 MB, or as much smaller as the base is; the journal has its share at any size.
    let room = megabytes * 8 / 5 + 4;
    let site = Site::new(&[("LAKEHOUSE__ERASURE__DELAY_S", "86400")]);
    let (small, daemon) = if is_root() {
        let memory = Memory::new(site.data_dir(), room);
        (Small::Memory(memory), Daemon::start_at(site))
    } else {
        (
            Small::FileLimit,
            Daemon::start_at(site.with_file_limit((megabytes / 2) << 20)),
        )
    };
    let api = daemon.admin();
    fill(&api, megabytes).await;
    let gone = json!({ "row_keys": ["1", "2", "3"], "reason": "asked" });
    api.post("/catalog/datasets/base/tombstone", &gone)
        .await
        .ok();
    // The list of deleted keys beside the data is written a moment after the acknowledgement.
    until("the list of deleted keys", || async {
        let written = files(&daemon.site().data_dir().join("buckets/primary/datasets"));
        let is_list = |path: &PathBuf| path.to_string_lossy().ends_with("_tombstones.parquet");
        written.iter().any(is_list).then_some(())
    })
    .await;
    let (before, (objects, _)) = (
        checksum(&api).await,
        objects_and_scraps(&daemon.site().data_dir()),
    );
    let nothing = json!({});
    let compact = || api.post("/catalog/datasets/base/compact", &nothing);
    for _ in 0..2 {
        compact().await.problem_code(503, "disk_full");
        assert_eq!(
            objects_and_scraps(&daemon.site().data_dir()),
            (objects, Vec::new())
        );
        assert_eq!(checksum(&api).await, before);
    }
    let upsert = "id,v\n4,newer\n";
    api.ingest("dataset=base&mode=upsert", "text/csv", upsert)
        .await
        .ok();
    let after = checksum(&api).await;
    let (_memory, daemon) = match small {
        Small::Memory(memory) => {
            memory.grow(room * 2);
            (Some(memory), daemon)
        }
        Small::FileLimit => (None, Daemon::start_at(daemon.kill9().without_file_limit())),
    };
    let api = daemon.admin();
    let done = api
        .post("/catalog/datasets/base/compact", &json!({}))
        .await
        .ok();
    assert_eq!(done["rows_dropped"], 4, "{done}");
    assert_eq!(checksum(&api).await, after);
    assert_eq!(
        objects_and_scraps(&daemon.site().data_dir()).1,
        [""; 0].map(PathBuf::from)
    );
    let verified = api.post("/journal/verify", &json!({})).await.ok();
    assert_eq!(verified["ok"], true, "{verified}");
    eprintln!(
        "O-01: {megabytes} MB merged on {room} MB: refused, nothing left behind; with room {done}"
    );
    drop(daemon);
}
