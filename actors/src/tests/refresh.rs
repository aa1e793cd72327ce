//! Refreshes by call, by policy and by schedule, on a clock that stands still.

use std::{sync::atomic::Ordering, time::Duration};

use lakehouse_journal::model::{
    Event,
    catalog::{
        CatalogCommand, DefineIndex, IngestMode, PatchDataset, RefreshCause, RefreshPolicy,
        RefreshSchedule,
    },
    event::CatalogEvent,
};

use super::until;
use crate::{
    LakeError,
    testing::{TestDisk, TestLake, caller, index_spec},
};

const CALM: Duration = Duration::from_millis(300);

fn world() -> TestLake {
    TestLake::start(TestDisk::default())
}

async fn indexed(world: &TestLake, dataset: &str) {
    world
        .ingest(dataset, IngestMode::Create, &["a", "b"], caller())
        .await
        .expect("taken in");
    let define = CatalogCommand::DefineIndex(DefineIndex {
        index: format!("{dataset}_idx"),
        spec: index_spec(dataset),
    });
    world
        .lake
        .ask_catalog(define, caller())
        .await
        .expect("defined");
    let name = format!("{dataset}_idx");
    until("built", || {
        let catalog = world.lake.catalog();
        catalog.state.indexes[&name].live.is_some()
    })
    .await;
}

async fn set_policy(world: &TestLake, dataset: &str, policy: RefreshPolicy) {
    let patch = CatalogCommand::PatchDataset(PatchDataset {
        dataset: dataset.to_owned(),
        embedding_refresh_policy: Some(policy),
        ..PatchDataset::default()
    });
    world.lake.ask_catalog(patch, caller()).await.expect("set");
}

async fn append(world: &TestLake, dataset: &str, rows: &[&str]) {
    world
        .ingest(dataset, IngestMode::Append, rows, caller())
        .await
        .expect("taken in");
}

fn is_fresh(world: &TestLake, dataset: &str) -> bool {
    let catalog = world.lake.catalog();
    catalog.state.datasets[dataset]
        .embedding_stale_since
        .is_none()
}

fn has(world: &TestLake, index: &str, key: &str) -> bool {
    world.embedding.keys(index).contains(key)
}

#[actix::test]
async fn a_call_embeds_what_is_new_and_takes_out_what_left() {
    let world = world();
    indexed(&world, "d").await;
    let first = world.lake.refresh("d", RefreshCause::Call, caller()).await;
    assert_eq!(first.expect("refreshed").counts.embedded, 2);
    append(&world, "d", &["c"]).await;
    assert!(
        !is_fresh(&world, "d"),
        "stale in the same event as the rows"
    );
    let keys = ["a".to_owned()];
    let deleted = world
        .lake
        .tombstone("d", &keys, "asked".to_owned(), None, caller());
    deleted.await.expect("deleted");
    let done = world.lake.refresh("d", RefreshCause::Call, caller()).await;
    let counts = done.expect("refreshed").counts;
    assert_eq!(
        (counts.embedded, counts.unchanged, counts.removed),
        (1, 1, 1)
    );
    assert_eq!(counts.rows, 2);
    assert!(is_fresh(&world, "d"));
    let catalog = world.lake.catalog();
    assert_eq!(catalog.state.datasets["d"].refresh_due, None);
}

#[actix::test]
async fn rows_that_are_appended_are_embedded_by_policy_once_commits_rest() {
    let world = world();
    indexed(&world, "d").await;
    set_policy(&world, "d", RefreshPolicy::OnAppend).await;
    append(&world, "d", &["c"]).await;
    assert!(!has(&world, "d_idx", "c"), "commits may go on");
    world.clock.advance(CALM);
    until("embedded", || has(&world, "d_idx", "c")).await;
    until("fresh", || is_fresh(&world, "d")).await;
}

#[actix::test]
async fn a_provider_that_is_down_leaves_the_dataset_stale_and_is_tried_again() {
    let world = world();
    indexed(&world, "d").await;
    set_policy(&world, "d", RefreshPolicy::OnAppend).await;
    world.embedding.down.store(true, Ordering::SeqCst);
    append(&world, "d", &["c"]).await;
    world.clock.advance(CALM);
    let failed = || {
        let catalog = world.lake.catalog();
        let last = catalog.state.datasets["d"].last_refresh.clone();
        last.and_then(|last| last.error).map(|(code, _)| code)
    };
    until("noted", || {
        failed().as_deref() == Some("embedder_unavailable")
    })
    .await;
    assert!(!is_fresh(&world, "d"));
    let refused = world.lake.refresh("d", RefreshCause::Call, caller()).await;
    assert!(matches!(refused, Err(LakeError::Port(_))), "{refused:?}");
    world.embedding.down.store(false, Ordering::SeqCst);
    world.clock.advance(Duration::from_mins(2));
    until("embedded", || has(&world, "d_idx", "c")).await;
    until("fresh", || is_fresh(&world, "d")).await;
}

#[actix::test]
async fn a_schedule_fires_at_its_time_and_is_made_up_after_downtime() {
    let disk = TestDisk::default();
    let world = TestLake::start(disk.clone());
    indexed(&world, "d").await;
    let schedule = RefreshSchedule {
        cron: "0 0 2 * * *".to_owned(),
        time_zone: Some("Europe/Berlin".to_owned()),
    };
    set_policy(&world, "d", RefreshPolicy::Scheduled(schedule)).await;
    append(&world, "d", &["c"]).await;
    world.clock.advance(Duration::from_mins(1));
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(!has(&world, "d_idx", "c"), "not before its time");
    world.clock.advance(Duration::from_hours(24));
    until("embedded", || has(&world, "d_idx", "c")).await;
    until("fresh", || is_fresh(&world, "d")).await;
    append(&world, "d", &["e"]).await;
    drop(world);
    // Days pass while nobody is there.
    let world = TestLake::start(disk);
    world.clock.advance(Duration::from_hours(100));
    until("made up", || has(&world, "d_idx", "e")).await;
}

#[actix::test]
async fn a_schedule_that_rests_asks_for_nothing_and_makes_nothing_up() {
    let world = world();
    indexed(&world, "d").await;
    let schedule = RefreshSchedule {
        cron: "0 0 * * * *".to_owned(),
        time_zone: None,
    };
    set_policy(&world, "d", RefreshPolicy::Scheduled(schedule)).await;
    let name = world.lake.schedules()[0].trigger.name.clone();
    world
        .lake
        .pause_schedule(&name, true, caller())
        .await
        .expect("paused");
    assert!(world.lake.schedules()[0].next_due.is_none());
    append(&world, "d", &["c"]).await;
    world.clock.advance(Duration::from_hours(5));
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(!has(&world, "d_idx", "c"));
    world
        .lake
        .pause_schedule(&name, false, caller())
        .await
        .expect("resumed");
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(!has(&world, "d_idx", "c"), "what passed is not made up");
    world.clock.advance(Duration::from_hours(1));
    until("embedded", || has(&world, "d_idx", "c")).await;
    let unknown = world.lake.pause_schedule("refresh:x", true, caller()).await;
    assert_eq!(unknown.expect_err("refused").code(), "schedule_not_found");
}

#[actix::test]
async fn a_refresh_that_was_killed_is_due_after_the_restart() {
    let disk = TestDisk::default();
    let world = TestLake::start(disk.clone());
    indexed(&world, "d").await;
    append(&world, "d", &["c"]).await;
    world.embedding.stalled.store(true, Ordering::SeqCst);
    let lake = world.lake.clone();
    tokio::spawn(async move { lake.refresh("d", RefreshCause::Call, caller()).await });
    until("under way", || {
        world.embedding.running.0.load(Ordering::SeqCst) == 1
    })
    .await;
    drop(world);
    let world = TestLake::start(disk);
    until("carried out", || has(&world, "d_idx", "c")).await;
}

#[actix::test]
async fn one_refresh_at_a_time_a_dataset_and_a_few_datasets_beside_each_other() {
    let world = world();
    for dataset in ["d0", "d1", "d2", "d3", "d4", "d5"] {
        indexed(&world, dataset).await;
    }
    world.embedding.stalled.store(true, Ordering::SeqCst);
    let mut calls = Vec::new();
    for dataset in ["d0", "d0", "d1", "d2", "d3", "d4", "d5"] {
        let lake = world.lake.clone();
        calls.push(tokio::spawn(async move {
            lake.refresh(dataset, RefreshCause::Call, caller()).await
        }));
    }
    until("four run", || {
        world.embedding.running.0.load(Ordering::SeqCst) == 4
    })
    .await;
    world.embedding.stalled.store(false, Ordering::SeqCst);
    let mut embedded = 0;
    for call in calls {
        embedded += call
            .await
            .expect("no panic")
            .expect("refreshed")
            .counts
            .embedded;
    }
    assert_eq!(
        embedded, 12,
        "the second call of a dataset finds nothing to do"
    );
    assert_eq!(world.embedding.running.1.load(Ordering::SeqCst), 4);
}

#[actix::test]
async fn the_same_request_again_has_the_first_answer_and_does_nothing() {
    let world = world();
    indexed(&world, "d").await;
    let once = || crate::Caller {
        idempotency: Some(("k".to_owned(), "f".to_owned())),
        ..caller()
    };
    let first = world.lake.refresh("d", RefreshCause::Call, once()).await;
    let first = first.expect("refreshed");
    append(&world, "d", &["c"]).await;
    let again = world.lake.refresh("d", RefreshCause::Call, once()).await;
    let again = again.expect("answered");
    assert_eq!((again.seq, again.counts), (first.seq, first.counts));
    assert!(!has(&world, "d_idx", "c"));
}

#[actix::test]
async fn each_run_stands_in_the_journal() {
    let world = world();
    indexed(&world, "d").await;
    let done = world.lake.refresh("d", RefreshCause::Call, caller()).await;
    let seq = done.expect("refreshed").seq;
    let records = world.lake.journal().reader().scan(seq - 1, 1);
    let record = records.expect("readable").remove(0);
    assert_eq!(record.draft.actor.name, "tester");
    let event = Event::decode(&record.draft.kind, record.draft.schema, &record.draft.data);
    match event.expect("ours") {
        Event::Catalog(CatalogEvent::RefreshCompleted(event)) => {
            assert_eq!(
                (event.counts.embedded, event.cause),
                (2, RefreshCause::Call)
            );
        }
        other => panic!("{other:?}"),
    }
}
