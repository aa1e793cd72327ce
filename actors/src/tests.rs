//! The actors together, over a journal in memory: supervision, batches, idempotency, pending work.

mod deltas;
mod erasure;
mod quality;
mod refresh;

use std::{sync::atomic::Ordering, time::Duration};

use lakehouse_journal::{
    log::memory::MemoryFault,
    model::{
        ModelError,
        access::{AccessCommand, Grants, Role},
        bucket::{BucketCommand, BucketSpec},
        catalog::{CatalogCommand, DefineIndex, DropDataset, IngestMode, PatchDataset},
        scheduler::SchedulerCommand,
    },
};

use crate::{
    Caller, LakeError, LifeState,
    testing::{TestDisk, TestLake, caller, index_spec},
};

fn patch(dataset: &str, description: &str) -> CatalogCommand {
    CatalogCommand::PatchDataset(PatchDataset {
        dataset: dataset.to_owned(),
        description: Some(description.to_owned()),
        ..PatchDataset::default()
    })
}

fn keyed(key: &str, fingerprint: &str) -> Caller {
    Caller {
        idempotency: Some((key.to_owned(), fingerprint.to_owned())),
        ..caller()
    }
}

async fn people() -> TestLake {
    let lake = TestLake::start(TestDisk::default());
    lake.ingest("people", IngestMode::Create, &["a", "b", "c"], caller())
        .await
        .expect("created");
    lake
}

/// Waits until `done` says so; gives up loudly.
async fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..400 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("not within 2 s: {what}");
}

fn restarts(lake: &TestLake, actor: &str) -> (u32, LifeState) {
    let health = lake
        .lake
        .actors()
        .into_iter()
        .find(|health| health.name == actor);
    let health = health.expect("a known actor");
    (health.restarts, health.state)
}

async fn mutate_by(lake: &TestLake, actor: &str, round: usize) {
    let text = format!("{actor} {round}");
    let result = match actor {
        "catalog" => {
            lake.lake
                .ask_catalog(patch("people", &text), caller())
                .await
        }
        "access" => {
            let command = AccessCommand::IssueToken {
                name: format!("token-{round}"),
                role: Role::Analyst,
                secret_hash: text,
                expires_at: None,
                grants: Grants::default(),
            };
            lake.lake.ask_access(command, caller()).await
        }
        "scheduler" => {
            let command = SchedulerCommand::NoteStart { version: text };
            lake.lake.ask_scheduler(command, caller()).await
        }
        _ => {
            let spec = BucketSpec::Local {
                root: text,
                rescue_bucket: None,
            };
            let command = BucketCommand::Register {
                bucket: "primary".to_owned(),
                spec,
            };
            lake.lake.ask_bucket("primary", command, caller()).await
        }
    };
    result.expect("acknowledged");
}

#[actix::test]
async fn every_actor_survives_twenty_panics_and_loses_nothing() {
    let lake = people().await;
    mutate_by(&lake, "bucket:primary", 0).await;
    let owners = ["catalog", "access", "scheduler", "bucket:primary"];
    let workers = [
        "ingest",
        "indexing",
        "refresh",
        "compaction",
        "erasure",
        "housekeeping",
    ];
    for round in 1..=20 {
        for owner in owners {
            mutate_by(&lake, owner, round).await;
        }
        for actor in owners.into_iter().chain(workers) {
            let before = restarts(&lake, actor).0;
            lake.lake.crash(actor);
            until(actor, || {
                restarts(&lake, actor) == (before + 1, LifeState::Running)
            })
            .await;
        }
        for owner in owners {
            mutate_by(&lake, owner, 1000 + round).await;
        }
        let report = lake.lake.verify_state().expect("readable");
        assert!(
            report.ok,
            "after round {round} these differ: {:?}",
            report.differing
        );
        // Restarts count within ten minutes; these are further apart.
        lake.clock.advance(Duration::from_secs(700));
    }
    assert_eq!(
        lake.lake.catalog().state.datasets["people"].description,
        "catalog 1020"
    );
    assert_eq!(lake.lake.access().state.tokens.len(), 40);
    assert!(!lake.lake.degraded());
}

#[actix::test]
async fn the_rest_answers_while_an_actor_is_quarantined() {
    let lake = people().await;
    for round in 1..=6 {
        lake.lake.crash("access");
        until("the next restart", || restarts(&lake, "access").0 == round).await;
        if round < 6 {
            until("running", || {
                restarts(&lake, "access").1 == LifeState::Running
            })
            .await;
        }
    }
    assert_eq!(restarts(&lake, "access").1, LifeState::Failed);
    assert!(lake.lake.degraded());
    let command = AccessCommand::RevokeToken { id: "x".to_owned() };
    let refused = lake.lake.ask_access(command, caller()).await;
    assert!(
        matches!(refused, Err(LakeError::Unavailable { .. })),
        "{refused:?}"
    );
    lake.lake
        .ask_catalog(patch("people", "still here"), caller())
        .await
        .expect("answers");
}

#[actix::test]
async fn a_restart_replays_what_was_acknowledged() {
    let disk = TestDisk::default();
    let hashes = {
        let lake = TestLake::start(disk.clone());
        lake.ingest("people", IngestMode::Create, &["a", "b"], caller())
            .await
            .expect("created");
        lake.lake
            .tombstone(
                "people",
                &["a".to_owned()],
                "asked".to_owned(),
                None,
                caller(),
            )
            .await
            .expect("deleted");
        lake.lake.journal().committer().close();
        lake.lake.hashes()
    };
    let lake = TestLake::start(disk);
    assert_eq!(lake.report.records, 3);
    assert_eq!(lake.rows("people"), ["b"]);
    assert_eq!(lake.lake.hashes(), hashes);
}

#[actix::test]
async fn many_callers_at_once_are_decided_in_one_order() {
    let lake = people().await;
    let asks = (0..500).map(|number| {
        let lake = lake.lake.clone();
        async move {
            let command = patch("people", &number.to_string());
            lake.ask_catalog(command, caller())
                .await
                .expect("acknowledged")
                .seq
        }
    });
    let mut seqs = futures::future::join_all(asks).await;
    seqs.sort_unstable();
    seqs.dedup();
    assert_eq!(seqs.len(), 500);
    assert!(lake.lake.verify_state().expect("readable").ok);
}

#[actix::test]
async fn the_same_key_is_carried_out_once_and_answered_the_same() {
    let lake = people().await;
    let first = lake
        .lake
        .ask_catalog(patch("people", "x"), keyed("k", "f"))
        .await
        .expect("done");
    let again = lake
        .lake
        .ask_catalog(patch("people", "x"), keyed("k", "f"))
        .await
        .expect("done");
    assert!(!first.repeated && again.repeated);
    assert_eq!((first.seq, &first.events), (again.seq, &again.events));
    let other = lake
        .lake
        .ask_catalog(patch("people", "y"), keyed("k", "g"))
        .await;
    assert!(
        matches!(other, Err(LakeError::KeyReused { .. })),
        "{other:?}"
    );
    lake.clock.advance(Duration::from_hours(25));
    lake.lake
        .ask_catalog(patch("people", "z"), keyed("other", "f"))
        .await
        .expect("done");
    let forgotten = lake
        .lake
        .ask_catalog(patch("people", "x"), keyed("k", "f"))
        .await;
    assert!(
        !forgotten.expect("done").repeated,
        "a day later the key is free again"
    );
}

#[actix::test]
async fn the_same_key_twice_at_once_is_carried_out_once() {
    let lake = people().await;
    let asks = (0..20).map(|_| lake.lake.ask_catalog(patch("people", "x"), keyed("k", "f")));
    let answers = futures::future::join_all(asks).await;
    let done: Vec<_> = answers
        .into_iter()
        .map(|answer| answer.expect("answered"))
        .collect();
    assert_eq!(done.iter().filter(|answer| !answer.repeated).count(), 1);
    assert!(done.iter().all(|answer| answer.seq == done[0].seq));
}

#[actix::test]
async fn an_ingest_with_the_same_key_gets_the_first_answer() {
    let lake = people().await;
    let first = lake
        .ingest("pets", IngestMode::Create, &["cat"], keyed("k", "f"))
        .await;
    let again = lake
        .ingest("pets", IngestMode::Create, &["cat"], keyed("k", "f"))
        .await;
    let (first, again) = (first.expect("created"), again.expect("answered"));
    assert!(again.committed.repeated);
    assert_eq!(first.committed.seq, again.committed.seq);
    let other = lake
        .ingest("pets", IngestMode::Create, &["dog"], keyed("k", "f"))
        .await;
    assert!(
        matches!(other, Err(LakeError::KeyReused { .. })),
        "{other:?}"
    );
    assert_eq!(lake.rows("pets"), ["cat"]);
}

#[actix::test]
async fn what_the_journal_kept_without_an_answer_is_there_when_it_is_open_again() {
    let lake = people().await;
    lake.disk.journal.fail_next(MemoryFault::FlushKept);
    let answer = lake
        .lake
        .ask_catalog(patch("people", "kept"), caller())
        .await;
    assert!(matches!(answer, Err(LakeError::Unknown)), "{answer:?}");
    let description = || {
        lake.lake.catalog().state.datasets["people"]
            .description
            .clone()
    };
    until("the kept event is applied", || description() == "kept").await;
    lake.lake
        .ask_catalog(patch("people", "next"), caller())
        .await
        .expect("open again");
    assert!(lake.lake.verify_state().expect("readable").ok);
}

#[actix::test]
async fn what_the_journal_lost_without_an_answer_is_not_there() {
    let lake = people().await;
    lake.disk.journal.fail_next(MemoryFault::FlushLost);
    let answer = lake
        .lake
        .ask_catalog(patch("people", "lost"), caller())
        .await;
    assert!(matches!(answer, Err(LakeError::Unknown)), "{answer:?}");
    for attempt in 0.. {
        match lake
            .lake
            .ask_catalog(patch("people", "next"), caller())
            .await
        {
            Ok(_) => break,
            Err(LakeError::JournalUnavailable) if attempt < 100 => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(lake.lake.verify_state().expect("readable").ok);
    let events = lake.lake.journal().reader().stats().events;
    assert_eq!(events, 3, "created, committed, patched once");
}

#[actix::test]
async fn a_lost_build_comes_back_out_of_the_state() {
    let lake = people().await;
    lake.builder.stalled.store(true, Ordering::SeqCst);
    let command = CatalogCommand::DefineIndex(DefineIndex {
        slo: None,
        index: "kb".to_owned(),
        spec: index_spec("people"),
    });
    lake.lake
        .ask_catalog(command, caller())
        .await
        .expect("defined");
    lake.lake.journal().committer().close();
    let lake = TestLake::start(lake.disk.clone());
    let live = || lake.lake.catalog().state.indexes["kb"].live;
    until("built after the restart", || live() == Some(1)).await;
    assert_eq!(lake.builder.built.load(Ordering::SeqCst), 1);
}

#[actix::test]
async fn a_keyed_row_is_replaced_by_the_newer_one() {
    let lake = people().await;
    lake.ingest("people", IngestMode::Upsert, &["b", "d"], caller())
        .await
        .expect("upserted");
    assert_eq!(lake.rows("people"), ["a", "c", "b", "d"]);
    let again = lake
        .ingest("people", IngestMode::Append, &["a", "b", "c"], caller())
        .await;
    assert!(
        again.expect("answered").committed.events.is_empty(),
        "the same bytes are a no-op"
    );
}

#[actix::test]
async fn a_tombstone_is_done_once_and_names_what_is_missing() {
    let lake = people().await;
    let keys = ["a".to_owned(), "zz".to_owned()];
    let first = lake
        .lake
        .tombstone("people", &keys, "asked".to_owned(), None, caller())
        .await;
    let first = first.expect("deleted");
    assert_eq!(
        (first.rows, first.missing),
        (vec!["a".to_owned()], vec!["zz".to_owned()])
    );
    let again = lake
        .lake
        .tombstone("people", &keys, "asked".to_owned(), None, caller())
        .await;
    assert!(again.expect("answered").committed.events.is_empty());
    assert_eq!(lake.rows("people"), ["b", "c"]);
}

#[actix::test]
async fn compaction_keeps_the_visible_rows_and_drops_the_others() {
    let lake = people().await;
    lake.ingest("people", IngestMode::Append, &["d"], caller())
        .await
        .expect("appended");
    let keys = ["b".to_owned()];
    lake.lake
        .tombstone("people", &keys, "x".to_owned(), None, caller())
        .await
        .expect("deleted");
    let change = lake
        .lake
        .compact("people", caller())
        .await
        .expect("compacted")
        .change;
    let change = change.expect("something to do");
    assert_eq!(
        (change.files_before, change.files_after, change.rows_dropped),
        (2, 1, 1)
    );
    assert_eq!(lake.rows("people"), ["a", "c", "d"]);
    assert!(
        lake.lake
            .compact("people", caller())
            .await
            .expect("answered")
            .change
            .is_none()
    );
}

#[actix::test]
async fn a_dataset_with_an_index_is_dropped_only_with_it() {
    let lake = people().await;
    let define = DefineIndex {
        slo: None,
        index: "kb".to_owned(),
        spec: index_spec("people"),
    };
    lake.lake
        .ask_catalog(CatalogCommand::DefineIndex(define), caller())
        .await
        .expect("defined");
    let drop = |cascade| {
        CatalogCommand::DropDataset(DropDataset {
            dataset: "people".to_owned(),
            cascade,
        })
    };
    let refused = lake.lake.ask_catalog(drop(false), caller()).await;
    assert!(
        matches!(refused, Err(LakeError::Refused(ModelError::InUse { .. }))),
        "{refused:?}"
    );
    lake.lake
        .ask_catalog(drop(true), caller())
        .await
        .expect("dropped");
    assert!(lake.lake.catalog().state.indexes.is_empty());
}

#[actix::test]
async fn orphans_go_after_the_grace_and_live_objects_stay() {
    let lake = people().await;
    mutate_by(&lake, "bucket:primary", 0).await;
    let live = lake.lake.catalog().state.datasets["people"].files[0]
        .entry
        .key
        .clone();
    let now = lake.lake.now();
    let put = |key: &str, modified| {
        let name = ("primary".to_owned(), key.to_owned());
        lake.disk
            .buckets
            .objects
            .lock()
            .insert(name, (vec![1], modified));
    };
    put(&live, 0);
    put("datasets/x/orphan.parquet", 0);
    put("datasets/x/young.parquet", now);
    put("other/not-ours", 0);
    lake.lake
        .chore(crate::Chore::SweepOrphans {
            bucket: "primary".to_owned(),
        })
        .expect("taken");
    let has = |key: &str| {
        lake.disk
            .buckets
            .objects
            .lock()
            .contains_key(&("primary".to_owned(), key.to_owned()))
    };
    until("the orphan is gone", || !has("datasets/x/orphan.parquet")).await;
    assert!(has(&live) && has("datasets/x/young.parquet") && has("other/not-ours"));
}

#[actix::test]
async fn a_sweep_spares_what_is_about_to_be_committed_whatever_the_clock_says() {
    let lake = people().await;
    mutate_by(&lake, "bucket:primary", 0).await;
    let orphans = ["datasets/a/left.parquet", "datasets/x/under-way.parquet"];
    for key in orphans {
        let name = ("primary".to_owned(), key.to_owned());
        lake.disk.buckets.objects.lock().insert(name, (vec![1], 0));
    }
    let publishing = lake.lake.inner.publishing.pass("x").await;
    let bucket = "primary".to_owned();
    lake.lake
        .chore(crate::Chore::SweepOrphans { bucket })
        .expect("taken");
    let gone = |key: &'static str| {
        let objects = &lake.disk.buckets.objects;
        move || {
            let name = ("primary".to_owned(), key.to_owned());
            !objects.lock().contains_key(&name)
        }
    };
    until("the orphan is gone", gone(orphans[0])).await;
    let waited = until("nothing", gone(orphans[1]));
    let spared = tokio::time::timeout(Duration::from_millis(50), waited).await;
    assert!(spared.is_err(), "it was about to be committed");
    drop(publishing);
    until("nobody commits it any more", gone(orphans[1])).await;
}

#[actix::test]
async fn a_sweep_spares_what_a_build_has_written_so_far() {
    let lake = people().await;
    mutate_by(&lake, "bucket:primary", 0).await;
    lake.builder.stalled.store(true, Ordering::SeqCst);
    let define = CatalogCommand::DefineIndex(DefineIndex {
        slo: None,
        index: "idx".to_owned(),
        spec: index_spec("people"),
    });
    lake.lake
        .ask_catalog(define, caller())
        .await
        .expect("defined");
    let name = |key: &str| ("primary".to_owned(), key.to_owned());
    let objects = &lake.disk.buckets.objects;
    for key in ["vectors/idx/1-a/graph", "vectors/none/1-a/graph"] {
        objects.lock().insert(name(key), (vec![1], 0));
    }
    let bucket = "primary".to_owned();
    lake.lake
        .chore(crate::Chore::SweepOrphans { bucket })
        .expect("taken");
    until("what no index has is gone", || {
        !objects.lock().contains_key(&name("vectors/none/1-a/graph"))
    })
    .await;
    assert!(objects.lock().contains_key(&name("vectors/idx/1-a/graph")));
    lake.builder.stalled.store(false, Ordering::SeqCst);
}
