//! Moves and repairs by given, when, then.

use super::*;
use crate::model::{
    Aggregate,
    catalog::{
        CatalogCommand, IngestMode,
        tests::{Given, commit, create, tombstone},
    },
};

fn moving(bucket: &str, copied: &[&str]) -> CatalogCommand {
    CatalogCommand::MoveDataset(MoveDataset {
        dataset: "people".to_owned(),
        bucket: bucket.to_owned(),
        copied: copied.iter().map(|key| (*key).to_owned()).collect(),
    })
}

fn repair(key: &str, rows: u64, blake3: &str) -> CatalogCommand {
    CatalogCommand::RepairFiles(FilesRepaired {
        dataset: "people".to_owned(),
        repaired: vec![FileRepair {
            key: key.to_owned(),
            bucket: "primary".to_owned(),
            rows,
            bytes: 100,
            blake3: blake3.to_owned(),
        }],
        schema: None,
        relisted: Vec::new(),
        missing: vec!["a".to_owned()],
    })
}

fn given() -> Given {
    let mut given = Given::default();
    given.when(&create("people", "a")).expect("created");
    let append = commit("people", IngestMode::Append, "b", given.seq());
    given
        .when(&CatalogCommand::CommitFiles(append))
        .expect("appended");
    given
}

#[test]
fn a_move_takes_every_file_and_dooms_the_old_ones() {
    let mut given = given();
    assert!(
        given.when(&moving("cold", &["a"])).is_err(),
        "b was not copied"
    );
    given.when(&moving("cold", &["a", "b"])).expect("moved");
    let dataset = &given.state.datasets["people"];
    assert_eq!(dataset.bucket, "cold");
    assert!(dataset.all_files().all(|file| file.entry.bucket == "cold"));
    let doomed: Vec<&String> = given.state.doomed.keys().collect();
    let list = format!("primary/{}", dataset.sidecar_key());
    assert_eq!(doomed, ["primary/a", "primary/b", &list]);
    assert!(given.state.points_at("cold", "a") && !given.state.points_at("primary", "a"));
    assert!(
        given.when(&moving("primary", &["a", "b"])).is_err(),
        "the old ones are on their way out"
    );
    assert_eq!(
        given.when(&moving("cold", &[])).expect("no change").len(),
        0
    );
}

#[test]
fn a_repair_says_what_is_true_and_nothing_twice() {
    let mut given = given();
    assert_eq!(
        given.when(&repair("a", 12, "a")).expect("repaired").len(),
        1
    );
    assert_eq!(given.state.datasets["people"].row_count(), 22);
    assert_eq!(given.when(&repair("a", 12, "a")).expect("known").len(), 0);
    assert_eq!(
        given.state.datasets["people"].files.len(),
        2,
        "a missing file stays"
    );
}

#[test]
fn a_file_with_deleted_rows_and_other_content_is_not_changed() {
    let mut given = given();
    given
        .when(&tombstone("people", "a", 3, given.seq()))
        .expect("deleted");
    assert!(given.when(&repair("a", 10, "other")).is_err());
    assert!(
        given.when(&repair("a", 3, "a")).is_err(),
        "the deleted row would be beyond its end"
    );
    given.when(&repair("a", 9, "a")).expect("the same bytes");
}

#[test]
fn a_file_that_left_by_an_append_comes_back_and_one_that_was_replaced_does_not() {
    let mut given = given();
    let mut wrong = commit("people", IngestMode::Append, "c", given.seq());
    wrong.source.content_hash = "c".to_owned();
    let mut events = given
        .state
        .decide(
            &CatalogCommand::CommitFiles(wrong),
            &crate::model::catalog::tests::stamp(9),
        )
        .expect("decided");
    if let CatalogEvent::FilesCommitted(event) = &mut events[0] {
        event.retired = vec!["b".to_owned()];
    }
    given.apply(&events);
    assert_eq!(given.state.datasets["people"].wrongly_retired(), ["b"]);
    let back = CatalogCommand::RepairFiles(FilesRepaired {
        dataset: "people".to_owned(),
        repaired: Vec::new(),
        schema: None,
        relisted: vec!["a".to_owned(), "b".to_owned()],
        missing: Vec::new(),
    });
    given.when(&back).expect("repaired");
    let keys: Vec<&str> = given.state.datasets["people"]
        .files
        .iter()
        .map(|f| f.entry.key.as_str())
        .collect();
    assert_eq!(keys, ["a", "b", "c"]);
    let replace = commit("people", IngestMode::Replace, "d", given.seq());
    given
        .when(&CatalogCommand::CommitFiles(replace))
        .expect("replaced");
    assert!(given.state.datasets["people"].wrongly_retired().is_empty());
}
