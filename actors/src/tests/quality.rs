//! What an index must reach, beside the work that builds it; and evaluation sets on their way in.

use std::sync::atomic::Ordering;

use lakehouse_journal::model::{
    ModelError,
    catalog::{
        CatalogCommand, DefineIndex, EvalSpec, IndexConfig, IngestMode, QualityCommand, Slo,
        row_mark,
    },
};

use super::{people, until};
use crate::{
    LakeError,
    testing::{TestLake, caller, index_spec},
};

const FLOOR: Slo = Slo {
    min_recall_ppm: 990_000,
    max_p99_us: None,
};

async fn indexed(recall_ppm: u32) -> TestLake {
    let lake = people().await;
    lake.builder.recall_ppm.store(recall_ppm, Ordering::SeqCst);
    let define = CatalogCommand::DefineIndex(DefineIndex {
        slo: Some(FLOOR),
        index: "kb".to_owned(),
        spec: index_spec("people"),
    });
    let defined = lake.lake.ask_catalog(define, caller()).await;
    defined.expect("defined");
    ended(&lake).await;
    lake
}

async fn ended(lake: &TestLake) {
    let building = || lake.lake.catalog().state.indexes["kb"].building.is_some();
    until("the build has ended", || !building()).await;
}

fn live(lake: &TestLake) -> Option<u64> {
    lake.lake.catalog().state.indexes["kb"].live
}

fn spec(lake: &TestLake, key: &str) -> EvalSpec {
    EvalSpec {
        index: "kb".to_owned(),
        source: "people".to_owned(),
        queries: 1,
        k: 1,
        seed: 0,
        bucket: "primary".to_owned(),
        prefix: "vectors/kb/eval-held-1".to_owned(),
        files: Vec::new(),
        rows: [row_mark(key)].into_iter().collect(),
        generation: 1,
        source_seq: lake.lake.catalog().seq,
        brute_force_p50_ns: 1,
    }
}

async fn delete(lake: &TestLake, key: &str) {
    let keys = vec![key.to_owned()];
    let deleted = lake
        .lake
        .tombstone("people", &keys, "asked".to_owned(), None, caller())
        .await;
    deleted.expect("deleted");
}

#[actix::test]
async fn a_build_that_misses_the_floor_does_not_answer_and_says_why() {
    let lake = indexed(1_000_000).await;
    assert_eq!(live(&lake), Some(1));
    lake.builder.recall_ppm.store(500_000, Ordering::SeqCst);
    let index = "kb".to_owned();
    let config = Some(IndexConfig::default());
    let request = CatalogCommand::RequestGeneration { index, config };
    let asked = lake.lake.ask_catalog(request, caller()).await;
    asked.expect("asked for");
    ended(&lake).await;
    let catalog = lake.lake.catalog();
    let index = &catalog.state.indexes["kb"];
    assert_eq!((index.live, index.generations.len()), (Some(1), 1));
    let (_, error) = index.failed.as_ref().expect("it was refused");
    assert!(error.contains("min_recall"), "{error}");
    let (_, newest) = catalog.state.trials_of("kb").next().expect("it is kept");
    assert!(newest.trial.refused.is_some(), "{newest:?}");
}

#[actix::test]
async fn an_erasure_ends_though_the_new_generation_misses_the_floor() {
    let lake = indexed(1_000_000).await;
    lake.builder.recall_ppm.store(500_000, Ordering::SeqCst);
    delete(&lake, "b").await;
    lake.lake.erase("people").await.expect("erased");
    assert_eq!(live(&lake), Some(2));
    let catalog = lake.lake.catalog();
    assert_eq!(catalog.state.indexes["kb"].generations.len(), 1);
    let (_, newest) = catalog.state.trials_of("kb").next().expect("it is kept");
    assert!(newest.trial.note.is_some(), "{newest:?}");
}

#[actix::test]
async fn a_set_that_a_deletion_touches_goes_with_the_erasure() {
    let lake = indexed(1_000_000).await;
    let drawn = async { Ok::<_, LakeError>(spec(&lake, "b")) };
    let kept = lake
        .lake
        .keep_eval("people", "held".to_owned(), drawn, caller())
        .await;
    kept.expect("kept");
    let object = (
        "primary".to_owned(),
        "vectors/kb/eval-held-1/eval.json".to_owned(),
    );
    let bytes = (b"b".to_vec(), 0);
    let objects = &lake.disk.buckets.objects;
    objects.lock().insert(object.clone(), bytes);
    delete(&lake, "a").await;
    assert!(lake.lake.catalog().state.valid_eval("kb").is_some());
    lake.lake.erase("people").await.expect("erased");
    assert!(objects.lock().contains_key(&object), "it holds no `a`");
    delete(&lake, "b").await;
    assert!(lake.lake.catalog().state.valid_eval("kb").is_none());
    lake.lake.erase("people").await.expect("erased");
    assert!(lake.lake.catalog().state.quality.evals.is_empty());
    assert!(!objects.lock().contains_key(&object));
}

#[actix::test]
async fn a_set_drawn_while_rows_were_deleted_is_not_kept() {
    let lake = indexed(1_000_000).await;
    let drawn = async {
        let spec = spec(&lake, "c");
        delete(&lake, "b").await;
        Ok::<_, LakeError>(spec)
    };
    let refused = lake
        .lake
        .keep_eval("people", "held".to_owned(), drawn, caller())
        .await;
    assert!(
        matches!(refused, Err(LakeError::Refused(ModelError::Stale { .. }))),
        "{refused:?}"
    );
    let read = lake.lake.catalog().state.quality.evals.len();
    assert_eq!(read, 0);
}

#[actix::test]
async fn trials_and_floors_are_there_after_a_restart() {
    let lake = indexed(1_000_000).await;
    lake.ingest("people", IngestMode::Append, &["d"], caller())
        .await
        .expect("appended");
    let before = lake.lake.catalog().state.quality.clone();
    assert_eq!(before.trials.len(), 1);
    assert_eq!(before.slos.get("kb"), Some(&FLOOR));
    let set = CatalogCommand::Quality(QualityCommand::SetSlo {
        index: "kb".to_owned(),
        slo: None,
    });
    let disk = lake.disk.clone();
    drop(lake);
    let lake = TestLake::start(disk);
    assert_eq!(lake.lake.catalog().state.quality, before);
    let lifted = lake.lake.ask_catalog(set, caller()).await;
    lifted.expect("lifted");
    assert!(lake.lake.catalog().state.quality.slos.is_empty());
}
