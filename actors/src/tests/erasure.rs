//! Rows deleted for good, over fakes: hidden at the answer, then out of every file, generation and
//! object; nothing that goes on beside it is lost, and no past shows them.

use std::{sync::atomic::Ordering, time::Duration};

use lakehouse_journal::model::catalog::{
    CatalogCommand, CompactionPolicy, DefineIndex, DropDataset, ErasedKeys, HASHED_KEY_PREFIX,
    IngestMode, JournalKeys, PatchDataset,
};

use super::{mutate_by, people, until};
use crate::{
    Chore,
    testing::{TestDisk, TestLake, caller, index_spec},
};

pub(super) async fn delete(lake: &TestLake, keys: &[&str]) -> crate::Tombstoned {
    let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
    lake.lake
        .tombstone("people", &keys, "asked".to_owned(), None, caller())
        .await
        .expect("decided")
}

async fn patch(lake: &TestLake, patch: PatchDataset) {
    let command = CatalogCommand::PatchDataset(PatchDataset {
        dataset: "people".to_owned(),
        ..patch
    });
    lake.lake
        .ask_catalog(command, caller())
        .await
        .expect("patched");
}

/// Whether the bytes of a row lie in any object.
fn lies_somewhere(lake: &TestLake, row: &str) -> bool {
    let objects = lake.disk.buckets.objects.lock();
    objects.values().any(|(bytes, _)| {
        String::from_utf8_lossy(bytes)
            .lines()
            .any(|line| line == row)
    })
}

fn is_erased(lake: &TestLake) -> bool {
    let catalog = lake.lake.catalog();
    let dataset = &catalog.state.datasets["people"];
    !catalog.state.owes_erasure(dataset) && catalog.state.doomed.is_empty()
}

#[actix::test]
async fn a_deleted_row_is_hidden_at_once_and_erased_after_the_delay() {
    let lake = people().await;
    delete(&lake, &["b"]).await;
    assert_eq!(lake.rows("people"), ["a", "c"]);
    assert!(lies_somewhere(&lake, "b"));
    lake.lake.chore(Chore::ListDeleted).expect("taken");
    until("the list names it", || {
        lake.disk.tables.listed.lock().get("people") == Some(&vec!["b".to_owned()])
    })
    .await;
    lake.clock.advance(Duration::from_secs(11));
    until("it is erased", || is_erased(&lake)).await;
    assert!(!lies_somewhere(&lake, "b"));
    assert_eq!(lake.rows("people"), ["a", "c"]);
    assert_eq!(lake.disk.tables.listed.lock()["people"], [""; 0]);
    assert!(lake.lake.verify_state().expect("read").ok);
}

#[actix::test]
async fn an_older_copy_of_the_row_is_erased_with_it() {
    let lake = people().await;
    lake.ingest("people", IngestMode::Replace, &["a", "x"], caller())
        .await
        .expect("replaced");
    assert!(lies_somewhere(&lake, "b"), "kept for queries of the past");
    let done = delete(&lake, &["a", "b"]).await;
    assert_eq!(done.rows, ["a", "b"]);
    lake.lake.erase("people").await.expect("erased");
    assert!(!lies_somewhere(&lake, "a") && !lies_somewhere(&lake, "b"));
    assert_eq!(lake.rows("people"), ["x"]);
}

#[actix::test]
async fn a_row_that_comes_again_is_refused_and_its_bytes_go() {
    let lake = people().await;
    delete(&lake, &["b"]).await;
    lake.lake.erase("people").await.expect("erased");
    let again = lake
        .ingest("people", IngestMode::Upsert, &["b", "d"], caller())
        .await
        .expect("taken in");
    assert_eq!(again.erased_skipped, 1);
    assert_eq!(lake.rows("people"), ["a", "c", "d"]);
    lake.clock.advance(Duration::from_secs(11));
    until("its bytes are gone", || {
        lake.lake.poke_pending();
        is_erased(&lake)
    })
    .await;
    assert!(!lies_somewhere(&lake, "b"));
    let admit = PatchDataset {
        erased_keys: Some(ErasedKeys::Admit),
        ..PatchDataset::default()
    };
    patch(&lake, admit).await;
    let again = lake.ingest("people", IngestMode::Upsert, &["b"], caller());
    assert_eq!(again.await.expect("taken in").erased_skipped, 0);
    assert_eq!(lake.rows("people"), ["a", "c", "d", "b"]);
}

#[actix::test]
async fn what_happens_while_files_are_merged_is_merged_too() {
    let lake = people().await;
    lake.ingest("people", IngestMode::Append, &["d", "e"], caller())
        .await
        .expect("appended");
    lake.disk.tables.stalled.store(true, Ordering::SeqCst);
    let merging = tokio::spawn({
        let lake = lake.lake.clone();
        async move { lake.compact("people", caller()).await }
    });
    tokio::time::sleep(Duration::from_millis(20)).await;
    delete(&lake, &["c"]).await;
    lake.ingest("people", IngestMode::Upsert, &["a", "f"], caller())
        .await
        .expect("upserted");
    assert_eq!(lake.rows("people"), ["b", "d", "e", "a", "f"]);
    lake.disk.tables.stalled.store(false, Ordering::SeqCst);
    let change = merging.await.expect("no panic").expect("merged").change;
    let change = change.expect("something was merged");
    assert_eq!((change.files_before, change.files_after), (3, 2));
    assert_eq!(lake.rows("people"), ["a", "f", "b", "d", "e"]);
    lake.lake.erase("people").await.expect("erased");
    assert!(!lies_somewhere(&lake, "c"));
    assert_eq!(lake.rows("people"), ["a", "f", "b", "d", "e"]);
}

#[actix::test]
async fn the_past_shows_what_was_there_and_no_erased_row() {
    let lake = people().await;
    let first = lake.lake.catalog().seq;
    lake.ingest("people", IngestMode::Upsert, &["a", "d"], caller())
        .await
        .expect("upserted");
    delete(&lake, &["b"]).await;
    lake.lake.compact("people", caller()).await.expect("merged");
    lake.lake.erase("people").await.expect("erased");
    let then = lake.lake.catalog_at(first).await.expect("replayed");
    let now = lake.lake.catalog();
    let now = &now.state.datasets["people"];
    let past = now.as_it_was(&then.datasets["people"]).expect("kept");
    assert_eq!(lake.disk.tables.visible(&past), ["a", "c"]);
    lake.clock.advance(Duration::from_hours(25));
    lake.lake.chore(Chore::Purge).expect("taken");
    until("the past is let go of", || {
        let catalog = lake.lake.catalog();
        catalog.state.datasets["people"].retained.is_empty() && catalog.state.doomed.is_empty()
    })
    .await;
    let catalog = lake.lake.catalog();
    let now = &catalog.state.datasets["people"];
    let oldest = now.as_it_was(&then.datasets["people"]).err();
    assert_eq!(oldest, Some(now.history_from));
    assert_eq!(lake.disk.buckets.objects.lock().len(), now.files.len());
}

#[actix::test]
async fn an_index_that_held_the_row_is_built_anew_and_its_files_go() {
    let lake = people().await;
    let define = CatalogCommand::DefineIndex(DefineIndex {
        slo: None,
        index: "kb".to_owned(),
        spec: index_spec("people"),
    });
    lake.lake
        .ask_catalog(define, caller())
        .await
        .expect("defined");
    let live = |number| lake.lake.catalog().state.indexes["kb"].live == Some(number);
    until("it is built", || live(1)).await;
    let object = ("primary".to_owned(), "vectors/kb/1/graph".to_owned());
    let bytes = (b"b".to_vec(), 0);
    lake.disk.buckets.objects.lock().insert(object, bytes);
    delete(&lake, &["b"]).await;
    lake.lake.erase("people").await.expect("erased");
    assert!(live(2));
    let through = lake.lake.catalog().state.datasets["people"].last_tombstone_seq();
    assert_eq!(*lake.builder.swept.lock(), [through], "kept vectors too");
    assert_eq!(lake.lake.catalog().state.indexes["kb"].generations.len(), 1);
    assert!(!lies_somewhere(&lake, "b"));
}

#[actix::test]
async fn what_no_event_points_at_is_swept_with_the_erasure_whatever_the_clock_says() {
    let lake = people().await;
    mutate_by(&lake, "bucket:primary", 0).await;
    delete(&lake, &["b"]).await;
    let id = lake.lake.catalog().state.datasets["people"].id.clone();
    for (number, modified) in [i64::MIN, 0, i64::MAX].into_iter().enumerate() {
        let object = ("primary".to_owned(), format!("datasets/{id}/left-{number}"));
        let bytes = (b"b".to_vec(), modified);
        lake.disk.buckets.objects.lock().insert(object, bytes);
    }
    lake.lake.erase("people").await.expect("erased");
    assert!(!lies_somewhere(&lake, "b"));
    assert_eq!(lake.rows("people"), ["a", "c"]);
}

#[actix::test]
async fn a_refused_ingest_leaves_no_object() {
    let lake = people().await;
    let before = lake.disk.buckets.objects.lock().len();
    let create = lake.ingest("people", IngestMode::Create, &["x"], caller());
    create.await.expect_err("it is there already");
    let mut stage = lake.stage(&["x"]);
    stage = Box::new(move |mut options| {
        let mut other = crate::testing::schema();
        other.fingerprint = "another".to_owned();
        options.expected = Some(other);
        stage(options)
    });
    let request = crate::IngestRequest {
        dataset: "people".to_owned(),
        mode: IngestMode::Append,
        key: None,
        bucket: None,
        source_kind: "file".to_owned(),
        source_name: "test".to_owned(),
        since: None,
        stage,
        job: lake.lake.jobs().open("refused", "ingest", "people"),
        caller: caller(),
    };
    lake.lake.ingest(request).await.expect_err("another schema");
    assert_eq!(lake.disk.buckets.objects.lock().len(), before);
}

#[actix::test]
async fn a_repeated_compaction_answers_the_same_and_writes_nothing() {
    let lake = people().await;
    lake.ingest("people", IngestMode::Append, &["d"], caller())
        .await
        .expect("appended");
    let keyed = crate::Caller {
        idempotency: Some(("once".to_owned(), "compact".to_owned())),
        ..caller()
    };
    let first = lake.lake.compact("people", keyed.clone()).await;
    let first = first.expect("merged");
    let objects = lake.disk.buckets.objects.lock().len();
    let again = lake.lake.compact("people", keyed).await.expect("answered");
    assert_eq!((again.seq, again.change), (first.seq, first.change));
    assert!(again.change.is_some());
    assert_eq!(lake.disk.buckets.objects.lock().len(), objects);
}

#[actix::test]
async fn a_dropped_dataset_leaves_no_object() {
    let lake = people().await;
    let drop = CatalogCommand::DropDataset(DropDataset {
        dataset: "people".to_owned(),
        cascade: false,
    });
    lake.lake
        .ask_catalog(drop, caller())
        .await
        .expect("dropped");
    until("its objects are gone", || {
        lake.disk.buckets.objects.lock().is_empty() && lake.lake.catalog().state.doomed.is_empty()
    })
    .await;
}

#[actix::test]
async fn an_erasure_goes_on_after_a_restart() {
    let disk = TestDisk::default();
    let lake = TestLake::start(disk.clone());
    lake.ingest("people", IngestMode::Create, &["a", "b", "c"], caller())
        .await
        .expect("created");
    delete(&lake, &["b"]).await;
    disk.tables.stalled.store(true, Ordering::SeqCst);
    lake.clock.advance(Duration::from_secs(11));
    lake.lake.poke_pending();
    tokio::time::sleep(Duration::from_millis(20)).await;
    drop(lake);
    disk.tables.stalled.store(false, Ordering::SeqCst);
    let lake = TestLake::start(disk);
    lake.clock.advance(Duration::from_hours(1));
    assert_eq!(lake.rows("people"), ["a", "c"]);
    until("it is erased", || {
        lake.lake.poke_pending();
        is_erased(&lake)
    })
    .await;
    assert!(!lies_somewhere(&lake, "b"));
}

#[actix::test]
async fn hashed_keys_hide_erase_and_refuse_like_clear_ones() {
    let lake = people().await;
    let hashed = PatchDataset {
        journal_keys: Some(JournalKeys::Hashed),
        ..PatchDataset::default()
    };
    patch(&lake, hashed).await;
    let done = delete(&lake, &["b"]).await;
    assert!(done.rows[0].starts_with(HASHED_KEY_PREFIX), "{done:?}");
    assert_eq!(delete(&lake, &["b"]).await.missing, ["b"]);
    let again = lake.ingest("people", IngestMode::Upsert, &["b"], caller());
    assert_eq!(again.await.expect("taken in").erased_skipped, 1);
    assert_eq!(lake.rows("people"), ["a", "c"]);
}

#[actix::test]
async fn files_are_merged_when_the_policy_says_so() {
    let lake = people().await;
    let policy = PatchDataset {
        compaction: Some(CompactionPolicy {
            small_files: Some(3),
            ..CompactionPolicy::default()
        }),
        ..PatchDataset::default()
    };
    patch(&lake, policy).await;
    for rows in [["d"], ["e"]] {
        lake.ingest("people", IngestMode::Append, &rows, caller())
            .await
            .expect("appended");
    }
    until("they are one file", || {
        lake.lake.catalog().state.datasets["people"].files.len() == 1
    })
    .await;
    assert_eq!(lake.rows("people"), ["a", "b", "c", "d", "e"]);
}
