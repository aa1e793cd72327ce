//! Buckets on S3, by its real protocol: everything that writes a bucket, joins over buckets, buckets at
//! run time, and secrets that are nowhere but in their file.

use reqwest::Method;
use serde_json::json;

use crate::support::api::{Api, list};
use crate::support::daemon::{Daemon, Site};
use crate::support::s3::{self, S3Server, SECRET_KEY};
use crate::support::until;

fn daemon(server: &S3Server, parts: &[&str]) -> Daemon {
    let site = Site::new(&[]);
    s3::write_secrets(&site.data_dir());
    std::fs::write(site.scratch().join("lakehouse.toml"), s3::config(parts)).unwrap();
    let _ = server;
    Daemon::start_at(site)
}

async fn create_in(api: &Api, bucket: &str, dataset: &str, csv: &str) {
    api.call(
        Method::POST,
        &format!("/ingest/file?dataset={dataset}&mode=create&key=id"),
    )
    .header("content-type", "text/csv")
    .header("x-lakehouse-bucket", bucket)
    .body(csv)
    .send()
    .await
    .ok();
}

#[tokio::test]
async fn a_dataset_lives_on_s3_from_ingest_to_erasure() {
    let server = S3Server::start(&["cold"]);
    let daemon = daemon(
        &server,
        &[&s3::bucket(&server, "cold", None), "[erasure]\ndelay_s = 0"],
    );
    let api = daemon.admin();
    create_in(&api, "cold", "people", "id,name\n1,ada\n2,bob\n3,cyd\n").await;
    let file = api.get("/catalog/datasets/people").await.ok()["files"][0].clone();
    assert_eq!(file["bucket"], "cold");
    assert!(
        server
            .dir("cold")
            .join(file["key"].as_str().unwrap())
            .is_file()
    );
    api.ingest(
        "dataset=people&mode=upsert",
        "text/csv",
        "id,name\n2,bea\n4,dan\n",
    )
    .await
    .ok();
    assert_eq!(api.cell("SELECT count(*) FROM people").await, 4);
    assert_eq!(
        api.cell("SELECT name FROM people WHERE id = 2").await,
        "bea"
    );
    let compacted = api
        .post("/catalog/datasets/people/compact", &json!({}))
        .await
        .ok();
    assert_eq!(compacted["files"]["after"], 1, "{compacted}");
    api.tombstone("people", &["1"], "asked to").await.ok();
    assert_eq!(api.cell("SELECT count(*) FROM people").await, 3);
    until("the erasure on S3", || async {
        let report = api.get("/compliance/erasure/people/1").await.ok();
        (report["erased"] == true).then_some(())
    })
    .await;
    let objects = api
        .get("/storage/buckets/cold/objects?prefix=datasets/")
        .await
        .ok();
    for object in list(&objects) {
        let key = object["key"].as_str().unwrap();
        let bytes = api
            .get(&format!("/storage/buckets/cold/objects/{key}"))
            .await
            .body;
        assert!(!bytes.windows(3).any(|part| part == b"ada"), "{key}");
    }
    let daemon = daemon.crash_and_restart();
    assert_eq!(daemon.admin().cell("SELECT count(*) FROM people").await, 3);
}

#[tokio::test]
async fn an_index_on_s3_is_built_there_and_searched_from_a_checked_copy() {
    let server = S3Server::start(&["cold"]);
    let daemon = daemon(&server, &[&s3::bucket(&server, "cold", None)]);
    let api = daemon.admin();
    create_in(
        &api,
        "cold",
        "notes",
        "id,text\n1,repairs cars\n2,bakes bread\n",
    )
    .await;
    let define = json!({ "name": "kb", "source": "notes", "key": "id", "text": ["text"], "backend": "hnsw" });
    api.call(Method::POST, "/vectors/index?wait=true")
        .header("x-lakehouse-bucket", "cold")
        .json(&define)
        .send()
        .await
        .ok();
    let search = json!({ "index": "kb", "query": "automobile mechanic", "k": 1 });
    let found = api.post("/vectors/search", &search).await.ok();
    assert_eq!(found["hits"][0]["key"], "1", "{found}");
    let daemon = daemon.crash_and_restart();
    let found = daemon.admin().post("/vectors/search", &search).await.ok();
    assert_eq!(found["hits"][0]["key"], "1", "{found}");
}

#[tokio::test]
async fn a_join_over_buckets_gives_the_rows_of_the_same_join_in_one() {
    let server = S3Server::start(&["cold"]);
    let daemon = daemon(&server, &[&s3::bucket(&server, "cold", None)]);
    let api = daemon.admin();
    let people: Vec<String> = (0..500).map(|n| format!("{n},p{n},{}", n % 7)).collect();
    let people = people.join("\n");
    let teams: Vec<String> = (0..7).map(|n| format!("{n},t{n}")).collect();
    let teams = teams.join("\n");
    create_in(&api, "cold", "people", &format!("id,name,team\n{people}")).await;
    create_in(
        &api,
        "primary",
        "people_here",
        &format!("id,name,team\n{people}"),
    )
    .await;
    create_in(&api, "primary", "teams", &format!("id,title\n{teams}")).await;
    let join = |people: &str| {
        format!(
            "SELECT p.name, t.title FROM {people} p JOIN teams t ON t.id = p.team \
             WHERE p.id > 100 AND t.title <> 't3' ORDER BY p.id"
        )
    };
    let over = api.rows(&join("people")).await;
    assert_eq!(over, api.rows(&join("people_here")).await);
    assert!(over.len() > 300, "{}", over.len());
    let moved = api
        .post(
            "/catalog/datasets/people/move",
            &json!({ "bucket": "primary" }),
        )
        .await
        .ok();
    assert_eq!(moved["files"], 1, "{moved}");
    assert_eq!(api.rows(&join("people")).await, over);
    until("the old files are gone", || async {
        let objects = api
            .get("/storage/buckets/cold/objects?prefix=datasets/")
            .await
            .ok();
        list(&objects).is_empty().then_some(())
    })
    .await;
    assert_eq!(api.rows(&join("people")).await, over);
}

#[tokio::test]
async fn a_bucket_comes_and_goes_at_run_time_and_survives_a_restart() {
    let server = S3Server::start(&["late"]);
    let allow = format!("[egress]\nallow = [\"127.0.0.1:{}\"]", server.port());
    let daemon = daemon(&server, &[&allow]);
    let api = daemon.admin();
    let late =
        json!({ "name": "late", "backend": "s3", "url": server.url("late"), "secret": "store" });
    assert!(api.post("/storage/buckets", &late).await.ok()["journal_seq"].is_number());
    create_in(&api, "late", "people", "id,name\n1,ada\n").await;
    api.delete("/storage/buckets/late")
        .await
        .problem_code(409, "bucket_in_use");
    api.delete("/storage/buckets/primary")
        .await
        .problem_code(403, "bucket_protected");
    let daemon = daemon.crash_and_restart();
    let api = daemon.admin();
    assert_eq!(api.cell("SELECT name FROM people").await, "ada");
    api.delete("/catalog/datasets/people").await.ok();
    until("the bucket is empty", || async {
        let gone = api.delete("/storage/buckets/late").await;
        gone.is_ok().then_some(())
    })
    .await;
    api.get("/storage/buckets/late/objects").await.problem(404);
}

#[tokio::test]
async fn an_address_or_handle_that_may_not_be_used_is_refused_and_nothing_is_registered() {
    let server = S3Server::start(&["late"]);
    let daemon = daemon(&server, &[]);
    let api = daemon.admin();
    let bucket = |url: &str, secret: &str| json!({ "name": "late", "backend": "s3", "url": url, "secret": secret });
    let at_home = server.url("late");
    for (body, status) in [
        (bucket(&at_home, "store"), 400),
        (bucket("https://store.example/late", "nobody"), 400),
        (
            json!({ "name": "late", "backend": "s3", "url": at_home, "allow_http": true }),
            400,
        ),
        (
            json!({ "name": "late", "backend": "local", "root": "." }),
            422,
        ),
        (
            json!({ "name": "late", "backend": "local", "root": "buckets/primary/x" }),
            422,
        ),
        (
            json!({ "name": "late", "backend": "local", "root": "../data/journal" }),
            422,
        ),
        (
            json!({ "name": "late", "backend": "local", "root": "journal" }),
            422,
        ),
        (
            json!({ "name": "primary", "backend": "local", "root": "buckets/other" }),
            403,
        ),
    ] {
        api.post("/storage/buckets", &body).await.problem(status);
    }
    assert_eq!(list(&api.get("/storage/buckets").await.ok()).len(), 1);
    assert!(
        server.seen().is_empty(),
        "nobody was contacted: {:?}",
        server.seen()
    );
}

#[tokio::test]
async fn objects_of_others_are_put_once_read_and_removed() {
    let server = S3Server::start(&["cold"]);
    let daemon = daemon(&server, &[&s3::bucket(&server, "cold", None)]);
    let api = daemon.admin();
    for bucket in ["primary", "cold"] {
        let path = format!("/storage/buckets/{bucket}/objects/reports/a.txt");
        let put = |text: &'static str| api.call(Method::PUT, &path).body(text).send();
        let first = put("one").await.ok();
        assert_eq!(first["bytes"], 3, "{first}");
        put("one").await.ok();
        put("two").await.problem_code(409, "object_exists");
        assert_eq!(api.get(&path).await.text(), "one");
        api.call(
            Method::PUT,
            &format!("/storage/buckets/{bucket}/objects/empty"),
        )
        .body("")
        .send()
        .await
        .ok();
        api.delete(&path).await.ok();
        api.get(&path).await.problem(404);
        api.delete(&path).await.problem(404);
        put("two").await.ok();
    }
}

#[tokio::test]
async fn a_secret_is_nowhere_but_in_its_file() {
    let server = S3Server::start(&["cold"]);
    let daemon = daemon(
        &server,
        &[
            &s3::bucket(&server, "cold", None),
            "[log]\nlevel = \"debug,lakehouse=trace\"",
        ],
    );
    let api = daemon.admin();
    create_in(&api, "cold", "people", "id,name\n1,ada\n").await;
    server.plan(|_, _| s3::Fault::Status(403));
    let mut bodies = Vec::new();
    for path in [
        "/storage/buckets",
        "/storage/bucket-health",
        "/storage/errors?limit=1000",
        "/storage/buckets/cold/objects",
        "/journal/events?limit=1000",
        "/catalog/datasets/people",
        "/metrics",
        "/health",
        "/health/actors",
        "/openapi.json",
    ] {
        bodies.push(api.get(path).await.text());
    }
    bodies.push(api.sql("SELECT * FROM people").await.text());
    let wrong = json!({ "name": "x", "backend": "s3", "url": "https://store.example/x", "secret": "nobody" });
    bodies.push(api.post("/storage/buckets", &wrong).await.text());
    let by_handle = json!({ "secret": "store", "table": "t", "dataset": "d" });
    bodies.push(api.post("/ingest/db", &by_handle).await.text());
    bodies.push(daemon.site().stderr());
    for body in &bodies {
        assert!(!body.contains(SECRET_KEY), "{body}");
    }
    let (site, status) = daemon.sigterm();
    assert!(status.success());
    let mut looked_at = 0;
    let mut folders = vec![site.scratch().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().is_some_and(|name| name != "secrets.toml") {
                looked_at += 1;
                let bytes = std::fs::read(&path).unwrap();
                let found = bytes
                    .windows(SECRET_KEY.len())
                    .any(|part| part == SECRET_KEY.as_bytes());
                assert!(!found, "{}", path.display());
            }
        }
    }
    assert!(looked_at > 5, "{looked_at} files");
}

#[tokio::test]
async fn a_secrets_file_that_others_may_read_keeps_the_daemon_from_starting() {
    use std::os::unix::fs::PermissionsExt;
    let site = Site::new(&[]);
    s3::write_secrets(&site.data_dir());
    let path = site.data_dir().join("secrets.toml");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let Err((site, refusal)) = site.start() else {
        panic!("it starts");
    };
    assert!(
        refusal.stderr.contains("mode 644") && refusal.stderr.contains("600"),
        "{}",
        refusal.stderr
    );
    assert!(!refusal.stderr.contains(SECRET_KEY));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    Daemon::start_at(site).admin().get("/health").await.ok();
}
