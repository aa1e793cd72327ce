//! Refreshes by call, by policy and by schedule, on a clock that stands still.

use std::{sync::atomic::Ordering, time::Duration};

use lakehouse_journal::model::{
    Event,
    catalog::{
        CatalogCommand, Chunker, DefineIndex, EmbeddingSpec, IngestMode, PatchDataset,
        RefreshCause, RefreshPolicy, RefreshSchedule,
    },
    event::CatalogEvent,
};

use super::until;
use crate::testing::{TestDisk, TestLake, caller, index_spec};

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
        slo: None,
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

/// Whether the index answers with so many rows.
fn has(world: &TestLake, index: &str, rows: u64) -> bool {
    let catalog = world.lake.catalog();
    let live = catalog.state.indexes[index].live_generation();
    live.is_some_and(|live| live.vectors + live.delta_rows() == rows)
}

#[actix::test]
async fn a_call_embeds_what_is_new_and_nothing_else() {
    let world = world();
    indexed(&world, "d").await;
    let first = world.lake.refresh("d", RefreshCause::Call, caller()).await;
    assert_eq!(first.expect("refreshed").counts.unchanged, 2);
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
    assert_eq!((counts.embedded, counts.unchanged), (1, 1));
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
    assert!(!has(&world, "d_idx", 3), "commits may go on");
    world.clock.advance(CALM);
    until("embedded", || has(&world, "d_idx", 3)).await;
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
    assert!(!has(&world, "d_idx", 3), "not before its time");
    world.clock.advance(Duration::from_hours(24));
    until("embedded", || has(&world, "d_idx", 3)).await;
    until("fresh", || is_fresh(&world, "d")).await;
    append(&world, "d", &["e"]).await;
    drop(world);
    // Days pass while nobody is there.
    let world = TestLake::start(disk);
    world.clock.advance(Duration::from_hours(100));
    until("made up", || has(&world, "d_idx", 4)).await;
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
    assert!(!has(&world, "d_idx", 3));
    world
        .lake
        .pause_schedule(&name, false, caller())
        .await
        .expect("resumed");
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(!has(&world, "d_idx", 3), "what passed is not made up");
    world.clock.advance(Duration::from_hours(1));
    until("embedded", || has(&world, "d_idx", 3)).await;
    let unknown = world.lake.pause_schedule("refresh:x", true, caller()).await;
    assert_eq!(unknown.expect_err("refused").code(), "schedule_not_found");
}

#[actix::test]
async fn a_refresh_that_was_killed_is_due_after_the_restart() {
    let disk = TestDisk::default();
    let world = TestLake::start(disk.clone());
    indexed(&world, "d").await;
    append(&world, "d", &["c"]).await;
    world.deltas.stalled.store(true, Ordering::SeqCst);
    let lake = world.lake.clone();
    tokio::spawn(async move { lake.refresh("d", RefreshCause::Call, caller()).await });
    until("under way", || {
        world.deltas.asked.load(Ordering::SeqCst) == 1
    })
    .await;
    drop(world);
    let world = TestLake::start(disk);
    until("carried out", || has(&world, "d_idx", 3)).await;
}

#[actix::test]
async fn a_second_call_waits_for_the_first_and_finds_nothing_to_do() {
    let world = world();
    indexed(&world, "d").await;
    append(&world, "d", &["c"]).await;
    world.deltas.stalled.store(true, Ordering::SeqCst);
    let call = || {
        let lake = world.lake.clone();
        tokio::spawn(async move { lake.refresh("d", RefreshCause::Call, caller()).await })
    };
    let calls = [call(), call()];
    tokio::time::sleep(Duration::from_millis(50)).await;
    world.deltas.stalled.store(false, Ordering::SeqCst);
    let mut embedded = Vec::new();
    for call in calls {
        let done = call.await.expect("no panic").expect("refreshed");
        embedded.push(done.counts.embedded);
    }
    embedded.sort_unstable();
    assert_eq!(embedded, [0, 1]);
}

#[actix::test]
async fn an_embedding_that_is_set_becomes_an_index_of_the_datasets_name() {
    let world = world();
    world
        .ingest("d", IngestMode::Create, &["a", "b"], caller())
        .await
        .expect("taken in");
    let spec = index_spec("d");
    let wanted = EmbeddingSpec {
        text: spec.text,
        key: spec.key,
        provider: spec.provider,
        model: spec.model,
        bucket: None,
        backend: None,
        chunk: None,
    };
    let patch = CatalogCommand::PatchDataset(PatchDataset {
        dataset: "d".to_owned(),
        embedding: Some(wanted.clone()),
        embedding_refresh_policy: Some(RefreshPolicy::OnAppend),
        ..PatchDataset::default()
    });
    world.lake.ask_catalog(patch, caller()).await.expect("set");
    world.clock.advance(CALM);
    until("served", || {
        let catalog = world.lake.catalog();
        let index = catalog.state.indexes.get("d");
        index.is_some_and(|index| index.live == Some(1))
    })
    .await;
    until("fresh", || is_fresh(&world, "d")).await;
    // Another model builds a generation beside, and swaps.
    let patch = CatalogCommand::PatchDataset(PatchDataset {
        dataset: "d".to_owned(),
        embedding: Some(EmbeddingSpec {
            model: "another".to_owned(),
            ..wanted
        }),
        ..PatchDataset::default()
    });
    world.lake.ask_catalog(patch, caller()).await.expect("set");
    world.clock.advance(CALM);
    until("swapped", || {
        let catalog = world.lake.catalog();
        let index = &catalog.state.indexes["d"];
        index.live == Some(2) && index.spec.model == "another"
    })
    .await;
    until("fresh", || is_fresh(&world, "d")).await;
}

#[actix::test]
async fn texts_that_are_to_be_cut_otherwise_are_a_generation_beside_the_one_that_answers() {
    let world = world();
    world
        .ingest("d", IngestMode::Create, &["a", "b"], caller())
        .await
        .expect("taken in");
    let spec = index_spec("d");
    let chunk = |tokens| Chunker { tokens, overlap: 2 };
    for (generation, chunk) in [
        (1, None),
        (2, Some(chunk(8))),
        (3, Some(chunk(16))),
        (4, None),
    ] {
        let patch = CatalogCommand::PatchDataset(PatchDataset {
            dataset: "d".to_owned(),
            embedding: Some(EmbeddingSpec {
                text: spec.text.clone(),
                key: spec.key.clone(),
                provider: spec.provider.clone(),
                model: spec.model.clone(),
                bucket: None,
                backend: None,
                chunk,
            }),
            ..PatchDataset::default()
        });
        world.lake.ask_catalog(patch, caller()).await.expect("set");
        assert!(!is_fresh(&world, "d"));
        let done = world.lake.refresh("d", RefreshCause::Call, caller()).await;
        done.expect("refreshed");
        let catalog = world.lake.catalog();
        let index = &catalog.state.indexes["d"];
        assert_eq!((index.live, index.spec.chunk), (Some(generation), chunk));
        assert!(is_fresh(&world, "d"));
    }
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
    assert!(!has(&world, "d_idx", 3));
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
                (event.counts.unchanged, event.cause),
                (2, RefreshCause::Call)
            );
        }
        other => panic!("{other:?}"),
    }
}

#[actix::test]
async fn a_provider_that_is_down_leaves_the_dataset_stale_and_loses_no_schedule() {
    let world = world();
    indexed(&world, "d").await;
    world.deltas.too_large.store(true, Ordering::SeqCst);
    append(&world, "d", &["c"]).await;
    world.builder.provider_down.store(true, Ordering::SeqCst);
    let refused = world.lake.refresh("d", RefreshCause::Call, caller()).await;
    assert_eq!(refused.expect_err("down").code(), "embedder_unavailable");
    let catalog = world.lake.catalog();
    let obstacle = catalog.state.indexes["d_idx"].obstacle.clone();
    assert!(obstacle.expect("noted").passes);
    assert!(!is_fresh(&world, "d"));
    let due = world
        .lake
        .request_refresh("d", RefreshCause::Schedule, caller());
    due.await.expect("due");
    // It rests after a failure.
    world.clock.advance(Duration::from_mins(2));
    until("tried", || {
        let catalog = world.lake.catalog();
        let last = catalog.state.datasets["d"].last_refresh.clone();
        last.is_some_and(|last| last.cause == RefreshCause::Schedule)
    })
    .await;
    world.builder.provider_down.store(false, Ordering::SeqCst);
    // The failure is in the journal a moment before its rest begins, so the clock goes on until it is over.
    until("embedded", || {
        world.clock.advance(Duration::from_mins(2));
        has(&world, "d_idx", 3)
    })
    .await;
    until("fresh", || is_fresh(&world, "d")).await;
    let catalog = world.lake.catalog();
    assert_eq!(catalog.state.indexes["d_idx"].obstacle, None);
}

#[actix::test]
async fn a_generation_that_came_without_some_rows_is_behind_and_no_refresh() {
    let world = world();
    indexed(&world, "d").await;
    world.deltas.too_large.store(true, Ordering::SeqCst);
    append(&world, "d", &["c"]).await;
    world.builder.left_out.store(1, Ordering::SeqCst);
    let refused = world.lake.refresh("d", RefreshCause::Call, caller()).await;
    assert_eq!(
        refused.expect_err("a row is missing").code(),
        "embedder_unavailable"
    );
    let catalog = world.lake.catalog();
    assert_eq!(catalog.state.indexes["d_idx"].live, Some(2), "it answers");
    assert!(!is_fresh(&world, "d"));
    world.builder.left_out.store(0, Ordering::SeqCst);
    let done = world.lake.refresh("d", RefreshCause::Call, caller()).await;
    assert_eq!(done.expect("refreshed").counts.rows, 3);
    assert!(is_fresh(&world, "d"));
}

#[actix::test]
async fn a_retry_builds_anew_where_rows_were_refused_and_a_call_does_not() {
    let world = world();
    world.builder.refused.store(1, Ordering::SeqCst);
    indexed(&world, "d").await;
    world.builder.refused.store(0, Ordering::SeqCst);
    let counts = |done: crate::Refreshed| (done.counts.refused, done.counts.texts_sent);
    let called = world.lake.refresh("d", RefreshCause::Call, caller()).await;
    assert_eq!(counts(called.expect("refreshed")), (1, 0), "set aside");
    let retried = world.lake.refresh("d", RefreshCause::Retry, caller()).await;
    assert_eq!(counts(retried.expect("refreshed")), (0, 2));
    let again = world.lake.refresh("d", RefreshCause::Retry, caller()).await;
    assert_eq!(counts(again.expect("refreshed")), (0, 0), "nothing is left");
}

#[actix::test]
async fn vectors_of_a_model_that_is_another_one_today_are_made_anew() {
    let world = world();
    indexed(&world, "d").await;
    let called = world.lake.refresh("d", RefreshCause::Call, caller()).await;
    assert_eq!(called.expect("refreshed").counts.embedded, 0);
    world.builder.made_otherwise.store(true, Ordering::SeqCst);
    let called = world.lake.refresh("d", RefreshCause::Call, caller()).await;
    assert_eq!(called.expect("refreshed").counts.embedded, 2);
}
