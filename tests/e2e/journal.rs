//! The journal: every step in order, what touched a thing, as a stream, and proof that it adds up.

use std::time::Duration;

use futures::StreamExt as _;
use reqwest::Method;
use serde_json::Value;

use crate::support::api::{Api, list};
use crate::support::daemon::Daemon;

async fn busy() -> (Daemon, Api) {
    let daemon = Daemon::start();
    let api = daemon.admin();
    api.create("people", "id,name\n1,ada\n2,grace\n3,edsger\n")
        .await;
    api.create("cities", "id,name\n1,London\n").await;
    for id in 10..20 {
        let csv = format!("id,name\n{id},somebody\n");
        api.ingest("dataset=people&mode=append", "text/csv", csv)
            .await
            .ok();
    }
    api.tombstone("people", &["2"], "asked").await.ok();
    (daemon, api)
}

fn seqs(events: &[Value]) -> Vec<u64> {
    events
        .iter()
        .map(|event| event["seq"].as_u64().unwrap())
        .collect()
}

#[tokio::test]
async fn events_are_whole_contiguous_and_page() {
    let (_daemon, api) = busy().await;
    let all = api.events(0).await;
    let numbers = seqs(&all);
    assert_eq!(
        numbers,
        (1..=numbers.len() as u64).collect::<Vec<_>>(),
        "from 1, without a gap"
    );
    for event in &all {
        for field in [
            "at",
            "kind",
            "version",
            "actor",
            "request_id",
            "subjects",
            "data",
            "hash",
        ] {
            assert!(event.get(field).is_some(), "`{field}` in {event}");
        }
        assert!(event["at"].as_str().unwrap().ends_with('Z'), "{event}");
        assert!(
            event["subjects"].is_array() && event["data"].is_object(),
            "{event}"
        );
    }
    let mut paged = Vec::new();
    loop {
        let after = paged
            .last()
            .map_or(0, |event: &Value| event["seq"].as_u64().unwrap());
        let page = list(
            &api.get(&format!("/journal/events?after={after}&limit=4"))
                .await
                .ok(),
        );
        assert!(page.len() <= 4, "{}", page.len());
        if page.is_empty() {
            break;
        }
        paged.extend(page);
    }
    assert_eq!(seqs(&paged)[..numbers.len()], numbers[..]);
}

#[tokio::test]
async fn events_are_found_by_kind_subject_actor_and_time() {
    let (_daemon, api) = busy().await;
    let all = api.events(0).await;
    let find = |query: String| {
        let api = api.clone();
        async move {
            list(
                &api.get(&format!("/journal/events?limit=1000&{query}"))
                    .await
                    .ok(),
            )
        }
    };
    let commits = find("kind=FilesCommitted".to_owned()).await;
    assert_eq!(commits.len(), 12, "two creates and ten appends");
    assert!(
        commits
            .iter()
            .all(|event| event["kind"] == "FilesCommitted")
    );

    let tombstone = all
        .iter()
        .find(|event| event["kind"] == "RowsTombstoned")
        .unwrap();
    let subjects = list(&tombstone["subjects"]);
    let row = subjects
        .iter()
        .map(|s| s.as_str().unwrap())
        .find(|s| s.contains("row"))
        .unwrap();
    assert_eq!(
        seqs(&find(format!("subject={row}")).await),
        [tombstone["seq"].as_u64().unwrap()]
    );

    let mine = find("actor=admin".to_owned()).await;
    assert!(
        mine.len() >= 15 && mine.len() < all.len(),
        "{} of {}",
        mine.len(),
        all.len()
    );
    assert!(find("actor=nobody".to_owned()).await.is_empty());

    let at = tombstone["at"].as_str().unwrap();
    assert!(seqs(&find(format!("since={at}")).await).contains(&tombstone["seq"].as_u64().unwrap()));
    let earlier = find(format!("until={at}")).await;
    assert!(
        earlier
            .iter()
            .all(|event| event["at"].as_str().unwrap() <= at)
    );
    api.get("/journal/events?since=yesterday").await.refused();
    api.get("/journal/events?limit=many").await.refused();
}

#[tokio::test]
async fn the_history_of_a_thing_is_everything_that_touched_it() {
    let (_daemon, api) = busy().await;
    let kinds = |events: Vec<Value>| -> Vec<String> {
        events
            .iter()
            .map(|event| event["kind"].as_str().unwrap().to_owned())
            .collect()
    };
    let row = list(&api.get("/journal/history/2?dataset=people").await.ok());
    assert!(kinds(row).contains(&"RowsTombstoned".to_owned()));
    let dataset = list(&api.get("/journal/history/people").await.ok());
    assert!(seqs(&dataset).is_sorted(), "oldest first");
    let kinds = kinds(dataset);
    assert_eq!(
        kinds.first().map(String::as_str),
        Some("DatasetCreated"),
        "{kinds:?}"
    );
    assert_eq!(
        kinds
            .iter()
            .filter(|kind| *kind == "FilesCommitted")
            .count(),
        11,
        "{kinds:?}"
    );
    let bucket = list(&api.get("/journal/history/primary").await.ok());
    assert!(
        bucket
            .iter()
            .any(|event| event["kind"] == "BucketRegistered"),
        "{bucket:?}"
    );
}

#[tokio::test]
async fn stats_count_and_verify_proves() {
    let (daemon, api) = busy().await;
    let stats = api.get("/journal/stats").await.ok();
    assert!(stats["events"].as_u64().unwrap() >= 15, "{stats}");
    assert!(stats.get("last_snapshot_seq").is_some(), "{stats}");
    for field in ["bytes", "segments", "replay_ms"] {
        assert!(stats[field].is_number(), "`{field}` in {stats}");
    }
    let verified = api.call(Method::POST, "/journal/verify").send().await.ok();
    assert_eq!(verified["ok"], true, "{verified}");
    assert!(
        verified["checked"].as_u64().unwrap() >= stats["events"].as_u64().unwrap(),
        "{verified}"
    );
    assert_eq!(
        verified["state_hash_live"], verified["state_hash_replayed"],
        "{verified}"
    );
    assert!(
        !verified["state_hash_live"].as_str().unwrap().is_empty(),
        "{verified}"
    );

    let before = api.events(0).await;
    let daemon = daemon.crash_and_restart();
    let after = daemon.admin().events(0).await;
    assert_eq!(after[..before.len()], before[..], "history does not change");
}

/// Reads the stream until it has this many events; answers ids and data.
async fn streamed(api: &Api, path: &str, resume: Option<u64>, count: usize) -> Vec<(u64, Value)> {
    let mut call = api
        .call(Method::GET, path)
        .header("accept", "text/event-stream");
    if let Some(id) = resume {
        call = call.header("last-event-id", &id.to_string());
    }
    let response = call.open().await;
    assert_eq!(response.status(), 200);
    let media = response.headers()["content-type"]
        .to_str()
        .unwrap()
        .to_owned();
    assert!(media.starts_with("text/event-stream"), "{media}");
    let mut body = response.bytes_stream();
    let (mut text, mut events) = (String::new(), Vec::new());
    while events.len() < count {
        let chunk = tokio::time::timeout(Duration::from_secs(20), body.next()).await;
        let chunk = chunk
            .expect("the stream goes on")
            .expect("it does not end")
            .unwrap();
        text.push_str(&String::from_utf8_lossy(&chunk));
        while let Some(end) = text.find("\n\n") {
            let message: String = text.drain(..end + 2).collect();
            let field = |name: &str| -> String {
                let lines = message.lines().filter_map(|line| line.strip_prefix(name));
                lines.map(str::trim_start).collect()
            };
            let (id, data) = (field("id:"), field("data:"));
            if !data.is_empty() && !id.is_empty() {
                events.push((id.parse().unwrap(), serde_json::from_str(&data).unwrap()));
            }
        }
    }
    events.truncate(count);
    events
}

#[tokio::test]
async fn the_stream_goes_on_where_the_last_event_id_says() {
    let (_daemon, api) = busy().await;
    let all = seqs(&api.events(0).await);
    let first = streamed(&api, "/journal/stream?after=0", None, 5).await;
    assert_eq!(
        first.iter().map(|event| event.0).collect::<Vec<_>>(),
        [1, 2, 3, 4, 5]
    );
    assert_eq!(first[2].1["seq"], 3, "{first:?}");

    let rest = streamed(&api, "/journal/stream?after=0", Some(5), all.len() - 5).await;
    let ids: Vec<u64> = rest.iter().map(|event| event.0).collect();
    assert_eq!(ids[..all.len() - 5], all[5..]);
}

#[tokio::test]
async fn the_stream_brings_what_happens_while_it_is_open() {
    let (_daemon, api) = busy().await;
    let seq = api.seq().await;
    let path = format!("/journal/stream?after={seq}");
    let listening = streamed(&api, &path, None, 1);
    let acting = async {
        api.patch(
            "/catalog/datasets/people",
            &serde_json::json!({ "description": "now" }),
        )
        .await
        .ok()
    };
    let (events, patched) = tokio::join!(listening, acting);
    assert!(
        events.iter().any(|event| patched["journal_seq"] == event.0),
        "{events:?} {patched}"
    );
}
