//! J-04 and G-04: the power goes. The data directory is an ext4 image that writes back nothing by itself
//! for minutes; the daemon is stopped, the image copied, and the daemon started again on the copy: what
//! was not flushed is not there. `make power-cuts` runs this; it mounts file systems and needs root.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rand::{Rng as _, SeedableRng as _};
use serde_json::json;
use tempfile::TempDir;

use crate::harness::Harness;
use crate::support::daemon::{Daemon, Site};
use crate::support::scan::places_of;
use crate::support::{PATIENCE, number_from_env, until};

/// Rows of the dataset that rows are erased from.
const ROWS: u64 = 3_000;
/// A library that makes every flush do nothing, for the run that shows that losses are seen.
const NO_FLUSH: &str = "int fsync(int f){(void)f;return 0;} int fdatasync(int f){(void)f;return 0;} \
    int syncfs(int f){(void)f;return 0;} void sync(void){} \
    int sync_file_range(int f,long long o,long long n,unsigned g){(void)f;(void)o;(void)n;(void)g;return 0;}";

/// How many cuts; none unless it is asked for, as not everybody may mount.
fn cuts() -> u64 {
    let cuts = number_from_env("LAKEHOUSE_POWER_CUTS", 0);
    if cuts == 0 {
        eprintln!("no power cuts: `make power-cuts` runs them");
    }
    cuts
}

fn run(program: &str, arguments: &[&str]) {
    let done = Command::new(program).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{program} {arguments:?}: {said}");
}

/// An image that is mounted as a data directory.
struct Disk {
    folder: TempDir,
    mount: PathBuf,
}

impl Disk {
    /// A fresh one below the site's data directory.
    fn new(site: &Site) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mount = site.data_dir();
        fs::create_dir_all(&mount).unwrap();
        let disk = Self { folder, mount };
        let image = fs::File::create(disk.image()).unwrap();
        image.set_len(1 << 30).unwrap();
        run("mkfs.ext4", &["-q", "-F", text(&disk.image())]);
        disk.mount();
        disk
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("disk.img")
    }

    fn mount(&self) {
        let options = "loop,commit=300,noatime";
        run(
            "mount",
            &["-o", options, text(&self.image()), text(&self.mount)],
        );
    }

    /// Takes the power away: what is on the image at this moment is all that is left.
    fn cut(&self, daemon: Daemon) -> Site {
        let pid = daemon.pid();
        run("kill", &["-STOP", &pid.to_string()]);
        wait_until_stopped(pid);
        let left = self.folder.path().join("left.img");
        run("cp", &["--sparse=always", text(&self.image()), text(&left)]);
        let site = daemon.kill9();
        self.unmount();
        fs::rename(&left, self.image()).unwrap();
        self.mount();
        site
    }

    fn unmount(&self) {
        // Whoever held a file of it has ended, which its file system may learn a moment later.
        let deadline = Instant::now() + PATIENCE;
        loop {
            let done = Command::new("umount").arg(&self.mount).output().unwrap();
            if done.status.success() {
                return;
            }
            let said = String::from_utf8_lossy(&done.stderr);
            assert!(Instant::now() < deadline, "umount: {said}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Also when a test fails while a daemon is there.
        let _ = Command::new("umount").arg("-l").arg(&self.mount).status();
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of ours is text")
}

/// Waits until no thread of a process runs any more.
fn wait_until_stopped(pid: u32) {
    let deadline = Instant::now() + PATIENCE;
    let runs = |stat: &str| {
        let state = stat.rsplit_once(") ").map(|(_, rest)| &rest[..1]);
        !matches!(state, Some("T" | "t" | "Z" | "X"))
    };
    loop {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let stats = tasks
            .flatten()
            .map(|task| fs::read_to_string(task.path().join("stat")));
        if !stats.flatten().any(|stat| runs(&stat)) {
            return;
        }
        assert!(Instant::now() < deadline, "process {pid} does not stop");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_the_power_goes() {
    let test = "J-04 power cut under load";
    let cuts = cuts();
    if cuts == 0 {
        return;
    }
    let site = Site::new(&[]);
    let disk = Disk::new(&site);
    let (mut harness, mut daemon) = Harness::start_at(test, site).await;
    for _ in 0..cuts {
        let alive = Duration::from_millis(harness.rng.random_range(5..=1_500));
        let site = harness
            .load_and_end(daemon, alive, |daemon| disk.cut(daemon))
            .await;
        daemon = Daemon::start_at(site);
        harness.check(&daemon).await;
    }
    harness.report(test);
    drop(daemon);
}

/// The control: a daemon whose flushes do nothing loses what it acknowledged, and this sees it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_flushes_the_same_cut_loses_what_was_acknowledged() {
    if cuts() == 0 {
        return;
    }
    let tools = tempfile::tempdir().unwrap();
    let (source, library) = (tools.path().join("none.c"), tools.path().join("none.so"));
    fs::write(&source, NO_FLUSH).unwrap();
    run(
        "cc",
        &["-shared", "-fPIC", "-o", text(&library), text(&source)],
    );
    let site = Site::new(&[("LD_PRELOAD", text(&library))]);
    let disk = Disk::new(&site);
    let daemon = Daemon::start_at(site);
    let api = daemon.admin();
    for number in 0..20 {
        let name = format!("d{number}");
        api.create(&name, "id,v\n1,x\n").await;
    }
    let site = disk.cut(daemon);
    let left = match site.start() {
        Ok(daemon) => {
            let api = daemon.admin();
            let names = api.get("/catalog/datasets?limit=1000").await.ok();
            names["items"].as_array().unwrap().len()
        }
        Err((_, refusal)) => {
            println!("the daemon does not even start: {}", refusal.stderr);
            0
        }
    };
    println!("J-04 control: of 20 acknowledged datasets {left} are left without flushes");
    assert!(left < 20, "the method sees no loss, so it proves nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_erasure_that_the_power_ends_again_and_again_ends_erased() {
    let cuts = cuts() * 2 / 5;
    if cuts == 0 {
        return;
    }
    let seed = number_from_env("LAKEHOUSE_CRASH_SEED", rand::random::<u32>().into());
    println!("G-04 power cut during erasure: LAKEHOUSE_CRASH_SEED={seed}");
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    let site = Site::new(&[
        ("LAKEHOUSE__ERASURE__DELAY_S", "0"),
        ("LAKEHOUSE__ERASURE__QUERY_DEADLINE_S", "1"),
    ]);
    let disk = Disk::new(&site);
    let mut daemon = Daemon::start_at(site);
    let api = daemon.admin();
    let row = |id: u64| format!("{id},the garden of number {id} and canary{id}end\n");
    let rows: String = (0..ROWS).map(row).collect();
    api.create("notes", &format!("id,note\n{rows}")).await;
    let index = json!({ "name": "kb", "source": "notes", "key": "id", "text": "{note}", "backend": "hnsw" });
    api.post("/vectors/index?wait=true", &index).await.ok();
    for round in 0..cuts {
        let api = daemon.admin();
        let key = (round * 17).to_string();
        api.tombstone("notes", &[&key], "asked").await.ok();
        tokio::time::sleep(Duration::from_millis(random.random_range(0..600))).await;
        daemon = Daemon::start_at(disk.cut(daemon));
        let count = daemon.admin().cell("SELECT count(*) FROM notes").await;
        assert_eq!(count, ROWS - (round + 1), "round {round}");
    }
    let api = daemon.admin();
    let path = format!("/compliance/erasure/notes/{}", (cuts - 1) * 17);
    let report = until("everything is erased", || async {
        let report = api.get(&path).await.ok();
        (report["erased"] == true).then_some(report)
    })
    .await;
    let needles: Vec<Vec<u8>> = (0..cuts)
        .map(|round| format!("canary{}end", round * 17).into_bytes())
        .collect();
    assert_eq!(places_of(daemon.site(), &needles), [""; 0], "{report:#}");
    let verified = api.post("/journal/verify", &json!({})).await.ok();
    assert_eq!(verified["ok"], true, "{verified}");
    println!("G-04: {cuts} power cuts during erasure, ended erased, nothing else lost");
    drop(daemon);
}
