//! Storage: the buckets, their health, and objects of the caller's own beside those of the lakehouse.

use reqwest::Method;

use crate::support::api::list;
use crate::support::daemon::Daemon;

const OBJECTS: &str = "/storage/buckets/primary/objects";

#[tokio::test]
async fn without_configuration_there_is_one_local_bucket() {
    let daemon = Daemon::start();
    let buckets = list(&daemon.admin().get("/storage/buckets").await.ok());
    assert_eq!(buckets.len(), 1, "{buckets:?}");
    assert_eq!(buckets[0]["name"], "primary");
    assert_eq!(buckets[0]["backend"], "local");
    assert_eq!(buckets[0]["role"], "primary");
    assert_eq!(buckets[0]["reachable"], true);
    assert!(buckets[0].get("rescue_bucket").is_some(), "{buckets:?}");
}

#[tokio::test]
async fn health_probes_every_bucket_now() {
    let daemon = Daemon::start();
    let health = list(&daemon.admin().get("/storage/bucket-health").await.ok());
    assert_eq!(health.len(), 1, "{health:?}");
    assert_eq!(health[0]["bucket"], "primary");
    assert_eq!(health[0]["reachable"], true);
    assert!(health[0]["latency_ms"].is_number(), "{health:?}");
    assert!(health[0].get("errors_last_hour").is_some(), "{health:?}");
    assert!(health[0].get("last_error").is_some(), "{health:?}");
}

#[tokio::test]
async fn objects_are_listed_and_read_as_they_lie_there() {
    let daemon = Daemon::start();
    let api = daemon.admin();
    api.create("people", "id,name\n1,ada\n").await;
    let manifest = api.get("/catalog/datasets/people").await.ok();
    let file = &manifest["files"][0];
    let key = file["key"].as_str().unwrap();

    let listed = list(&api.get(&format!("{OBJECTS}?prefix=datasets/")).await.ok());
    let entry = listed
        .iter()
        .find(|entry| entry["key"] == key)
        .expect("the file is listed");
    assert_eq!(entry["size"], file["bytes"], "{entry}");
    assert!(
        entry["last_modified"].is_string() && entry.get("etag").is_some(),
        "{entry}"
    );
    let read = api.get(&format!("{OBJECTS}/{key}")).await;
    assert_eq!(read.status, 200);
    assert_eq!(file["bytes"], read.body.len());
    assert_eq!(
        blake3::hash(&read.body).to_hex().as_str(),
        file["blake3"].as_str().unwrap()
    );
    assert_eq!(read.header("x-lakehouse-bucket"), "primary");
    let head = api
        .call(Method::HEAD, &format!("{OBJECTS}/{key}"))
        .send()
        .await;
    assert_eq!(head.header("content-length"), file["bytes"].to_string());
    api.get(&format!("{OBJECTS}/reports/nothing.txt"))
        .await
        .problem(404);
}

#[tokio::test]
async fn the_lakehouses_own_keys_are_written_by_nobody_and_read_by_an_admin() {
    let daemon = Daemon::start();
    let api = daemon.admin();
    api.create("people", "id,name\n1,ada\n").await;
    let manifest = api.get("/catalog/datasets/people").await.ok();
    let file = manifest["files"][0]["key"].as_str().unwrap().to_owned();
    let operator = api.with_role("operator").await;
    for key in [
        file.as_str(),
        "datasets/x",
        "_catalog/x",
        "_journal/x",
        "vectors/x",
    ] {
        let path = format!("{OBJECTS}/{key}");
        for caller in [&api, &operator] {
            caller
                .call(Method::PUT, &path)
                .body("spoiled")
                .send()
                .await
                .refused();
            caller.delete(&path).await.refused();
        }
    }
    assert_eq!(api.cell("SELECT name FROM people").await, "ada");
    let own = api.get(&format!("{OBJECTS}/{file}")).await;
    assert_eq!(&own.body[..4], b"PAR1", "an admin may read them");
    for role in ["operator", "analyst", "auditor"] {
        let caller = if role == "operator" {
            operator.clone()
        } else {
            api.with_role(role).await
        };
        let answer = caller.get(&format!("{OBJECTS}/{file}")).await;
        answer.refused();
        assert!(
            [403, 404].contains(&answer.status),
            "{role}: {}",
            answer.status
        );
        let listed = caller.get(&format!("{OBJECTS}?prefix=datasets/")).await;
        assert!(!listed.text().contains(&file), "{role}: {}", listed.text());
    }
}

#[tokio::test]
async fn no_key_leads_out_of_the_bucket() {
    let daemon = Daemon::start();
    let api = daemon.admin();
    let long = "k".repeat(1025);
    let keys = [
        "../admin.token",
        "..%2Fadmin.token",
        "%2e%2e/admin.token",
        "%2e%2e%2fadmin.token",
        "%252e%252e%252fadmin.token",
        "a/../../admin.token",
        "a/%2e%2e/%2e%2e/admin.token",
        "..%5cadmin.token",
        "%2Fetc%2Fpasswd",
        "/etc/passwd",
        "a//b",
        "a%00b",
        "./a",
        "a/./b",
        long.as_str(),
        "%ff%fe",
        "datasets%2Fx",
        "./datasets/x",
        "a/../datasets/x",
    ];
    let root = daemon.site().scratch().to_owned();
    let outside = |dir: &std::path::Path| -> Vec<String> {
        let entries = std::fs::read_dir(dir).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    };
    let mut before = (outside(&root), outside(&daemon.site().data_dir()));
    let (_, token) = (&before, daemon.token().to_owned());
    for key in keys {
        // Sent as it stands: an ordinary client would tidy the path before sending it.
        for method in ["GET", "PUT", "DELETE"] {
            let (status, body) = raw(&daemon, method, &format!("{OBJECTS}/{key}"));
            assert!(status < 500, "{method} {key:.60}: {status} {body}");
            assert!(
                !body.contains(&token) && !body.contains("root:"),
                "{method} {key:.60}: {body}"
            );
        }
    }
    let mut after = (outside(&root), outside(&daemon.site().data_dir()));
    for names in [&mut before.0, &mut before.1, &mut after.0, &mut after.1] {
        names.sort();
    }
    assert_eq!(after, before, "nothing appeared beside the bucket");
    assert_eq!(
        std::fs::read_to_string(daemon.site().data_dir().join("admin.token"))
            .unwrap()
            .trim(),
        token
    );
    api.get("/health").await.ok();
}

/// Keys that mean harm: ways up, links, names that are the lake's own, every byte, lengths.
fn hostile_keys() -> Vec<String> {
    let up = [
        "..",
        "%2e%2e",
        "%252e%252e",
        ".%2e",
        "..%2f",
        "..%5c",
        "%c0%ae%c0%ae",
        "..;",
        "%ef%bc%8e%ef%bc%8e",
        "\u{2025}",
        "..%00",
        "..%0a",
    ];
    let targets = [
        "outside/secret.txt",
        "data/admin.token",
        "admin.token",
        "etc/passwd",
        "data/journal",
        "datasets/x",
        "_journal/x",
        ".staging/x",
        "link/secret.txt",
        "vectors/x",
    ];
    let seps = ["/", "%2f", "//", "%5c", "/./"];
    let mut keys: Vec<String> = Vec::new();
    for up in up {
        for target in targets {
            for sep in seps {
                for depth in 1..=3 {
                    keys.push(format!("{}{target}", format!("{up}{sep}").repeat(depth)));
                }
            }
        }
    }
    for head in [
        "link",
        "link/",
        "link//",
        "a/../link",
        "%6cink",
        "link%2f",
        "./link",
    ] {
        keys.extend(targets.iter().map(|target| format!("{head}/{target}")));
    }
    for own in [
        "datasets", "vectors", "_journal", "_catalog", "_probe", ".staging",
    ] {
        for tail in [
            "", "/", "/x", "%2fx", "//x", "/%2e", "/a/../x", "/x%00", "/x#1", "?x",
        ] {
            keys.push(format!("{own}{tail}"));
        }
    }
    for byte in 0..=255_u8 {
        keys.push(format!("a%{byte:02x}b/..%{byte:02x}"));
    }
    for length in [1_024, 1_025, 4_000] {
        keys.push("k".repeat(length));
    }
    keys
}

/// 2,000 keys that mean harm, by every method, with a link that leads out of the bucket.
#[tokio::test]
async fn two_thousand_hostile_keys_reach_nothing_outside_of_their_bucket() {
    let daemon = Daemon::start();
    let api = daemon.admin();
    api.create("people", "id,name\n1,ada\n").await;
    let data = daemon.site().data_dir();
    let tripwire = "TRIPWIRE-5a1d";
    let outside = daemon.site().scratch().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("secret.txt"), tripwire).unwrap();
    std::os::unix::fs::symlink(&outside, data.join("buckets/primary/link")).unwrap();
    let mut keys = hostile_keys();
    keys.truncate(2_200);
    assert!(keys.len() >= 2_000, "{}", keys.len());
    let state = || {
        let mut names: Vec<String> = walk(&outside).into_iter().chain(walk(&data)).collect();
        names.retain(|name| {
            !name.contains("/journal/")
                && !name.contains("/buckets/primary/")
                && !name.contains("/audit/")
                && !name.contains("/errors/")
        });
        names.sort();
        names
    };
    let before = state();
    let own = |names: Vec<String>| {
        let own = |name: &String| {
            ["/datasets/", "/vectors/", "/_journal/"]
                .iter()
                .any(|p| name.contains(p))
        };
        names.into_iter().filter(own).collect::<Vec<_>>()
    };
    let owned = own(walk(&data.join("buckets/primary")));
    for key in &keys {
        for method in ["GET", "PUT", "DELETE"] {
            let (status, body) = raw(&daemon, method, &format!("{OBJECTS}/{key}"));
            assert!(status < 500, "{method} {key:.80}: {status} {body}");
            assert!(
                !body.contains(tripwire) && !body.contains("root:x"),
                "{method} {key:.80}: {body}"
            );
        }
    }
    assert_eq!(state(), before);
    assert_eq!(own(walk(&data.join("buckets/primary"))), owned);
    assert_eq!(
        std::fs::read_to_string(outside.join("secret.txt")).unwrap(),
        tripwire
    );
    assert_eq!(api.cell("SELECT name FROM people").await, "ada");
}

fn walk(dir: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().unwrap().is_dir() {
            found.extend(walk(&path));
        } else {
            found.push(path.display().to_string());
        }
    }
    found
}

/// A request whose path no client library has touched.
fn raw(daemon: &Daemon, method: &str, path: &str) -> (u16, String) {
    use std::io::{Read as _, Write as _};

    let address = daemon.base().strip_prefix("http://").unwrap();
    let mut socket = std::net::TcpStream::connect(address).unwrap();
    socket
        .set_read_timeout(Some(std::time::Duration::from_secs(20)))
        .unwrap();
    write!(
        socket,
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {}\r\n\
         Content-Length: 0\r\nConnection: close\r\n\r\n",
        daemon.token()
    )
    .unwrap();
    let mut answer = Vec::new();
    // A refusal that did not wait for the body may end in a reset, after the answer.
    let end = socket.read_to_end(&mut answer);
    let reset = std::io::ErrorKind::ConnectionReset;
    assert!(end.is_ok() || end.is_err_and(|error| error.kind() == reset));
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
    (
        status.unwrap_or_else(|| panic!("{method} {path:.80} gets an answer: {answer}")),
        answer,
    )
}

#[tokio::test]
async fn an_unknown_bucket_is_404_with_the_valid_ones() {
    let daemon = Daemon::start();
    let answer = daemon
        .admin()
        .get("/storage/buckets/elsewhere/objects/a")
        .await;
    let problem = answer.problem_code(404, "bucket_not_found");
    assert!(
        problem["detail"].as_str().unwrap().contains("primary"),
        "{problem}"
    );
}
