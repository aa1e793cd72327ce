//! The key that receipts of erasures verify under: who may read it, how it is kept, and the command
//! line that checks a receipt with it.

use std::fs::{Permissions, set_permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use lakehouse::engines::receipts::SigningKey;
use serde_json::{Value, json};

use crate::support::daemon::{Daemon, Site};

fn key_file(site: &Site) -> PathBuf {
    site.data_dir().join("keyring/receipt.key")
}

fn mode(path: PathBuf) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn the_key_is_told_to_who_may_read_the_catalog_and_stays_the_same() {
    let daemon = Daemon::start();
    let shown = daemon.admin().get("/compliance/key").await.ok();
    assert_eq!(shown["algorithm"], "Ed25519");
    let hex = |field: &str| {
        let text = shown[field].as_str().unwrap();
        assert!(text.bytes().all(|b| b.is_ascii_hexdigit()), "{shown}");
        text.len()
    };
    assert_eq!((hex("public_key"), hex("key_id")), (64, 16));
    assert!(shown["created_at"].as_str().unwrap().ends_with('Z'));
    for role in ["operator", "analyst", "auditor"] {
        let api = daemon.admin().with_role(role).await;
        assert_eq!(api.get("/compliance/key").await.ok(), shown, "{role}");
    }
    let nobody = daemon.client(None);
    nobody.get("/compliance/key").await.problem(401);

    assert_eq!(mode(key_file(daemon.site())), 0o600);
    assert_eq!(mode(daemon.site().data_dir().join("keyring")), 0o700);
    let daemon = daemon.crash_and_restart();
    assert_eq!(daemon.admin().get("/compliance/key").await.ok(), shown);
}

#[test]
fn a_daemon_does_not_start_with_a_key_that_others_can_read() {
    let site = Daemon::start().kill9();
    set_permissions(key_file(&site), Permissions::from_mode(0o644)).unwrap();
    let Err((site, refusal)) = site.start() else {
        panic!("it starts with a key that everybody can read")
    };
    for word in ["receipt.key", "mode 644"] {
        assert!(refusal.stderr.contains(word), "{}", refusal.stderr);
    }
    set_permissions(key_file(&site), Permissions::from_mode(0o600)).unwrap();
    Daemon::start_at(site);
}

fn receipt(key: &str) -> Value {
    json!({
        "version": 1, "dataset": "people", "dataset_id": "d1", "row_key": key,
        "tombstoned_at": "2026-01-01T00:00:00.000000Z", "tombstone_seq": 17,
        "reason": "they asked", "actor": "admin",
        "erased_at": "2026-01-01T00:00:09.000000Z", "erased_seq": 21,
        "places": [{"place": "files", "state": "absent", "checked": 3}],
        "events": [17, 21], "journal_seq": 40, "journal_head_hash": "abcd",
        "issued_at": "2026-01-02T00:00:00.000000Z",
    })
}

/// Runs a verb with something on its standard input.
fn fed(mut command: Command, input: &[u8]) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn a_receipt_is_checked_offline_with_the_key_that_the_daemon_told() {
    let daemon = Daemon::start();
    let mut command = daemon.site().command(&["erasure", "key"]);
    command.env("LAKEHOUSE_URL", daemon.base());
    let told = command
        .env("LAKEHOUSE_TOKEN", daemon.token())
        .output()
        .unwrap();
    let told = String::from_utf8(told.stdout).unwrap();
    let line = told.lines().find(|line| line.starts_with("public_key"));
    let public = line.unwrap().split_whitespace().nth(1).unwrap().to_owned();

    let site = daemon.kill9();
    let key = SigningKey::open_or_make(&site.data_dir()).unwrap();
    assert_eq!(key.public_key().hex, public, "{told}");
    let signed = serde_json::to_value(key.sign(&receipt("42")).unwrap()).unwrap();
    let file = site.scratch().join("receipt.json");
    std::fs::write(&file, format!("{signed:#}")).unwrap();
    let file = file.to_str().unwrap();

    let output = site
        .command(&["erasure", "verify", file, "--key", &public])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
    for part in [
        "ok: ",
        "people",
        "42",
        "2026-01-01T00:00:09",
        "files",
        &public,
    ] {
        assert!(said.contains(part), "`{part}` in {said}");
    }
    assert!(!said.contains("/compliance/key"), "{said}");

    let output = fed(
        site.command(&["erasure", "verify", "-"]),
        signed.to_string().as_bytes(),
    );
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(
        said.contains("/compliance/key"),
        "its key is its own: {said}"
    );

    let mut changed = signed.clone();
    changed["receipt"]["row_key"] = json!("43");
    let stranger = site.scratch().join("stranger");
    std::fs::create_dir(&stranger).unwrap();
    let stranger = SigningKey::open_or_make(&stranger).unwrap();
    let forged = serde_json::to_value(stranger.sign(&receipt("42")).unwrap()).unwrap();
    for (document, why) in [
        (changed.to_string(), "the signature does not fit"),
        (forged.to_string(), "not by the expected"),
        ("{}".to_owned(), "the document has no `receipt`"),
        ("?".to_owned(), "not JSON"),
    ] {
        let verify = site.command(&["erasure", "verify", "-", "--key", &public]);
        let output = fed(verify, document.as_bytes());
        assert_eq!(output.status.code(), Some(1), "{why}");
        assert!(output.stdout.is_empty(), "{why}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(why), "{why}: {said}");
    }
}
