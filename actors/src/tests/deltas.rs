//! Refreshes: what rides, what is built anew, and what becomes of a delta that came too late or whose
//! rows are erased.

use std::sync::Arc;

use lakehouse_journal::model::catalog::RefreshCause;
use tokio::sync::Barrier;

use super::*;

/// People with an index that answers.
async fn indexed() -> TestLake {
    let lake = people().await;
    let command = CatalogCommand::DefineIndex(DefineIndex {
        slo: None,
        index: "kb".to_owned(),
        spec: index_spec("people"),
    });
    lake.lake
        .ask_catalog(command, caller())
        .await
        .expect("defined");
    until("built", || live(&lake) == Some(1)).await;
    lake
}

fn live(lake: &TestLake) -> Option<u64> {
    lake.lake.catalog().state.indexes["kb"].live
}

fn deltas(lake: &TestLake) -> usize {
    let catalog = lake.lake.catalog();
    let index = &catalog.state.indexes["kb"];
    index.live_generation().expect("it answers").deltas.len()
}

async fn append(lake: &TestLake, rows: &[&str]) {
    lake.ingest("people", IngestMode::Append, rows, caller())
        .await
        .expect("appended");
}

#[actix::test]
async fn a_refresh_lets_new_rows_ride_on_the_generation_that_answers() {
    let lake = indexed().await;
    append(&lake, &["d"]).await;
    let stale = || lake.lake.catalog().state.datasets["people"].embedding_stale_since;
    assert!(stale().is_some());
    let refresh = || lake.lake.refresh("people", RefreshCause::Call, caller());
    let counts = refresh().await.expect("refreshed").counts;
    assert_eq!((counts.embedded, counts.unchanged), (1, 3));
    assert_eq!((live(&lake), deltas(&lake)), (Some(1), 1));
    assert!(stale().is_none());
    let counts = refresh().await.expect("refreshed").counts;
    assert_eq!((counts.embedded, counts.unchanged), (0, 4));
    assert_eq!(deltas(&lake), 1, "nothing was to be told");
    let restarted = {
        lake.lake.journal().committer().close();
        TestLake::start(lake.disk.clone())
    };
    assert_eq!((live(&restarted), deltas(&restarted)), (Some(1), 1));
}

#[actix::test]
async fn a_difference_that_something_overtook_is_taken_again() {
    let lake = indexed().await;
    append(&lake, &["d"]).await;
    let between = Arc::new(Barrier::new(2));
    *lake.deltas.between.lock() = Some(Arc::clone(&between));
    let slow = {
        let lake = lake.lake.clone();
        tokio::spawn(async move { lake.refresh("people", RefreshCause::Call, caller()).await })
    };
    between.wait().await;
    append(&lake, &["e"]).await;
    let request = CatalogCommand::RequestGeneration {
        index: "kb".to_owned(),
        config: None,
    };
    lake.lake
        .ask_catalog(request, caller())
        .await
        .expect("asked");
    until("built beside", || live(&lake) == Some(2)).await;
    between.wait().await;
    let slow = slow.await.expect("it ends").expect("refreshed").counts;
    assert_eq!((slow.embedded, slow.unchanged), (0, 5));
    assert_eq!((live(&lake), deltas(&lake)), (Some(2), 0));
}

#[actix::test]
async fn an_erasure_takes_deltas_along_that_hold_the_row() {
    let lake = indexed().await;
    append(&lake, &["d"]).await;
    lake.lake
        .refresh("people", RefreshCause::Call, caller())
        .await
        .expect("refreshed");
    let key = {
        let catalog = lake.lake.catalog();
        let index = &catalog.state.indexes["kb"];
        let mut deltas = index.deltas();
        deltas.next().expect("one").file.key.clone()
    };
    let object = ("primary".to_owned(), key);
    let objects = || lake.disk.buckets.objects.lock();
    objects().insert(object.clone(), (b"d".to_vec(), 0));
    erasure::delete(&lake, &["d"]).await;
    lake.lake.erase("people").await.expect("erased");
    assert_eq!((live(&lake), deltas(&lake)), (Some(2), 0));
    assert!(!objects().contains_key(&object));
}
