//! The process: how it starts, what it writes, how it stops, and who may run beside it.

use std::os::unix::fs::PermissionsExt as _;

use crate::support::daemon::{Daemon, Site};

#[tokio::test]
async fn sigterm_ends_it_with_status_0_and_everything_is_there_again() {
    let daemon = Daemon::start();
    daemon
        .admin()
        .create("people", "id,name\n1,ada\n2,grace\n")
        .await;
    let token = daemon.token().to_owned();

    let (site, status) = daemon.sigterm();
    assert_eq!(status.code(), Some(0), "stderr:\n{}", site.stderr());
    let again = Daemon::start_at(site);
    assert_eq!(again.token(), token, "the token is made once");
    assert_eq!(again.admin().cell("SELECT count(*) FROM people").await, 2);
}

#[tokio::test]
async fn kill_9_loses_nothing_that_was_acknowledged() {
    let daemon = Daemon::start();
    let written = daemon
        .admin()
        .create("people", "id,name\n1,ada\n2,grace\n")
        .await;

    let daemon = daemon.crash_and_restart();
    let admin = daemon.admin();
    assert_eq!(
        admin.cell("SELECT name FROM people WHERE id = 2").await,
        "grace"
    );
    assert!(admin.seq().await >= written["journal_seq"].as_u64().unwrap());
    let verified = admin
        .call(reqwest::Method::POST, "/journal/verify")
        .send()
        .await
        .ok();
    assert_eq!(verified["ok"], true, "{verified}");
    assert_eq!(
        verified["state_hash_live"], verified["state_hash_replayed"],
        "{verified}"
    );
}

#[test]
fn the_admin_token_is_readable_by_its_owner_only() {
    let daemon = Daemon::start();
    let path = daemon.site().data_dir().join("admin.token");
    let mode = std::fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_second_daemon_on_the_same_directory_says_which_process_holds_it() {
    let daemon = Daemon::start();
    let data_dir = daemon.site().data_dir();
    let arguments = [
        "serve",
        "--data-dir",
        data_dir.to_str().unwrap(),
        "--listen",
        "127.0.0.1:0",
    ];
    let second = daemon.site().command(&arguments).output().unwrap();
    assert_eq!(
        second.status.code(),
        Some(73),
        "a status of its own: {second:?}"
    );
    let holder = std::fs::read_to_string(data_dir.join("LOCK")).unwrap_or_default();
    let said = String::from_utf8_lossy(&second.stderr);
    let names_a_pid = said.split(|c: char| !c.is_ascii_digit()).any(|word| {
        !word.is_empty()
            && std::path::Path::new("/proc")
                .join(word)
                .join("cmdline")
                .exists()
    });
    assert!(
        names_a_pid,
        "names the process that holds it (`{holder}`): {said}"
    );
}

#[test]
fn an_unknown_setting_is_an_error_that_names_it() {
    let site = Site::new(&[("LAKEHOUSE__SERVER__LISTEM", "127.0.0.1:0")]);
    let Err((_, refusal)) = site.start() else {
        panic!("it starts with a misspelt setting")
    };
    assert!(!refusal.status.success());
    assert!(
        refusal.stderr.to_lowercase().contains("listem"),
        "{}",
        refusal.stderr
    );
}

#[test]
fn an_unknown_key_in_the_file_is_an_error_that_names_it() {
    let site = Site::new(&[]);
    let file = site.scratch().join("lakehouse.toml");
    std::fs::write(&file, "[query]\ntime_out_s = 3\n").unwrap();
    let data_dir = site.data_dir();
    let output = site
        .command(&[
            "serve",
            "--config",
            file.to_str().unwrap(),
            "--data-dir",
            data_dir.to_str().unwrap(),
            "--listen",
            "127.0.0.1:0",
        ])
        .output()
        .unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("time_out_s"), "{said}");
}

#[tokio::test]
async fn what_an_interrupted_work_left_is_gone_at_the_start_and_hinders_nothing() {
    let site = Daemon::start().kill9();
    for part in ["staging", "tmp"] {
        let dir = site.data_dir().join(part);
        std::fs::write(dir.join("half-a-file"), "row").unwrap();
        std::fs::create_dir_all(dir.join("half-a-folder/below")).unwrap();
    }
    let Ok(daemon) = site.start() else {
        panic!("it does not start over leftovers")
    };
    for part in ["staging", "tmp"] {
        let dir = daemon.site().data_dir().join(part);
        assert!(!dir.join("half-a-file").exists() && !dir.join("half-a-folder").exists());
    }
}
