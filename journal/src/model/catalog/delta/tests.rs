//! Deltas by given, when, then: what rides on which generation, and when it leaves.

use super::super::tests::{
    Given, commit, define, generation as commit_generation, people, stamp, tombstone,
};
use super::super::{
    CatalogCommand, CommitFiles, CommitGeneration, DefineView, IngestMode, ViewSpec,
};
use super::*;
use crate::model::Aggregate;

fn indexed() -> Given {
    let mut given = people().and(&define("kb", "people"));
    let (seq, job) = (given.seq(), job(&given));
    given.when(&commit_generation("kb", 1, &job, seq)).unwrap();
    given
}

fn job(given: &Given) -> String {
    given.state.indexes["kb"].building.clone().unwrap().1
}

fn live(given: &Given) -> &Generation {
    given.state.indexes["kb"].live_generation().unwrap()
}

fn append(given: &Given, file: &str) -> CatalogCommand {
    CatalogCommand::CommitFiles(CommitFiles {
        ..commit("people", IngestMode::Append, file, given.seq())
    })
}

fn delta(key: &str, generation: u64, rows: u64, source_seq: Seq) -> CatalogCommand {
    let file = DeltaFile {
        key: key.to_owned(),
        bytes: 1,
        blake3: key.to_owned(),
        rows,
        vectors: None,
        removed: 0,
    };
    CatalogCommand::CommitIndexDelta(CommitIndexDelta {
        dataset: "people".to_owned(),
        source_seq,
        deltas: vec![IndexDelta {
            index: "kb".to_owned(),
            generation,
            file: Some(file),
        }],
    })
}

fn ride(given: &mut Given, key: &str, rows: u64) {
    let seq = given.seq();
    let generation = live(given).generation;
    given.when(&delta(key, generation, rows, seq)).unwrap();
}

fn keys(given: &Given) -> Vec<&str> {
    let deltas = live(given).deltas.iter();
    deltas.map(|delta| delta.file.key.as_str()).collect()
}

fn is_stale(given: &Given) -> bool {
    given.state.datasets["people"]
        .embedding_stale_since
        .is_some()
}

#[test]
fn a_delta_rides_on_the_generation_that_answers_and_ends_the_staleness() {
    let mut given = indexed();
    given.when(&append(&given, "f2")).unwrap();
    assert!(is_stale(&given));
    ride(&mut given, "d1", 5);
    assert_eq!((keys(&given), is_stale(&given)), (vec!["d1"], false));
    assert!(live(&given).embedded_through() > live(&given).source_seq);
}

#[test]
fn an_index_without_changes_becomes_current_by_an_empty_delta() {
    let mut given = indexed();
    given.when(&append(&given, "f2")).unwrap();
    let command = CatalogCommand::CommitIndexDelta(CommitIndexDelta {
        dataset: "people".to_owned(),
        source_seq: given.seq(),
        deltas: vec![IndexDelta {
            index: "kb".to_owned(),
            generation: 1,
            file: None,
        }],
    });
    given.when(&command).unwrap();
    assert!(keys(&given).is_empty() && !is_stale(&given));
}

#[test]
fn a_delta_made_for_another_generation_or_dataset_is_refused() {
    let mut given = indexed();
    let refused = given.when(&delta("d1", 7, 5, 1));
    assert!(
        matches!(refused, Err(ModelError::Stale { .. })),
        "{refused:?}"
    );
    let mut given = given.and(&super::super::tests::create("others", "o1"));
    let command = match delta("d1", 1, 5, 1) {
        CatalogCommand::CommitIndexDelta(command) => CommitIndexDelta {
            dataset: "others".to_owned(),
            ..command
        },
        _ => unreachable!(),
    };
    let refused = given.when(&CatalogCommand::CommitIndexDelta(command));
    assert!(
        matches!(refused, Err(ModelError::Stale { .. })),
        "{refused:?}"
    );
}

#[test]
fn a_delta_taken_before_another_came_to_ride_is_refused() {
    let mut given = indexed();
    let before = given.seq();
    given.when(&append(&given, "f2")).unwrap();
    ride(&mut given, "d1", 5);
    let refused = given.when(&delta("d2", 1, 5, before));
    assert!(
        matches!(refused, Err(ModelError::Stale { .. })),
        "{refused:?}"
    );
    assert_eq!(keys(&given), ["d1"]);
}

#[test]
fn a_delta_of_what_a_view_showed_before_it_was_changed_is_refused() {
    let view = |replace: bool| {
        let columns = if replace {
            ["text", "id"]
        } else {
            ["id", "text"]
        };
        let columns = columns.map(str::to_owned).to_vec();
        CatalogCommand::DefineView(DefineView {
            view: "safe".to_owned(),
            spec: ViewSpec {
                base: "people".to_owned(),
                columns,
                ..ViewSpec::default()
            },
            replace,
        })
    };
    let mut given = people().and(&view(false)).and(&define("kb", "safe"));
    let (seq, job) = (given.seq(), job(&given));
    given.when(&commit_generation("kb", 1, &job, seq)).unwrap();
    let before = given.seq();
    given.when(&view(true)).unwrap();
    let refused = given.when(&delta("d1", 1, 5, before));
    assert!(
        matches!(refused, Err(ModelError::Stale { .. })),
        "{refused:?}"
    );
}

#[test]
fn deltas_newer_than_a_build_ride_on_it_and_older_ones_stay_behind() {
    let mut given = indexed();
    ride(&mut given, "d1", 5);
    let request = CatalogCommand::RequestGeneration {
        index: "kb".to_owned(),
        config: None,
    };
    given.when(&request).unwrap();
    let built_from = given.seq();
    given.when(&append(&given, "f2")).unwrap();
    ride(&mut given, "d2", 5);
    let job = job(&given);
    given
        .when(&commit_generation("kb", 2, &job, built_from))
        .unwrap();
    assert_eq!((live(&given).generation, keys(&given)), (2, vec!["d2"]));
    assert!(
        is_stale(&given),
        "the delta was no difference to this build"
    );
}

#[test]
fn a_delta_past_its_share_asks_for_a_fold_which_keeps_what_came_after() {
    let mut given = indexed();
    ride(&mut given, "d1", FOLD_ROWS_MIN);
    assert!(given.state.indexes["kb"].building.is_none());
    ride(&mut given, "d2", 1);
    assert!(given.state.indexes["kb"].folding);
    let folded_through = live(&given).deltas[1].seq;
    let rows_seq = live(&given).embedded_through();
    let snapshot = given.seq();
    // Taken from a snapshot that is older than the fold's, and not in it all the same.
    given.when(&delta("d3", 1, 1, snapshot - 1)).unwrap();
    let CatalogCommand::CommitGeneration(folded) =
        commit_generation("kb", 2, &job(&given), snapshot)
    else {
        unreachable!()
    };
    let command = CatalogCommand::CommitGeneration(CommitGeneration {
        rows_seq: Some(rows_seq),
        folded_through: Some(folded_through),
        ..folded
    });
    given.when(&command).unwrap();
    assert_eq!(keys(&given), ["d3"]);
    assert!(!given.state.indexes["kb"].folding);
    // What rides on was a difference to what was folded in: it says how current that is.
    assert_eq!(live(&given).embedded_through(), snapshot - 1);
    // Its oldest part counts for an erasure, whichever that is.
    assert_eq!(live(&given).oldest_source(), snapshot - 1);
}

#[test]
fn what_is_folded_in_is_counted_in_vectors_as_searches_compare_them() {
    let mut given = indexed();
    let CatalogCommand::CommitIndexDelta(mut command) = delta("d1", 1, 100, given.seq()) else {
        unreachable!()
    };
    let file = command.deltas[0].file.as_mut().unwrap();
    file.vectors = Some(FOLD_ROWS_MIN + 1);
    given
        .when(&CatalogCommand::CommitIndexDelta(command))
        .unwrap();
    assert_eq!(live(&given).delta_rows(), 100);
    assert!(given.state.indexes["kb"].folding);
}

#[test]
fn many_small_deltas_are_folded_too() {
    let mut given = indexed();
    for number in 1..FOLD_DELTAS_MAX {
        assert!(!given.state.indexes["kb"].folding, "{number}");
        ride(&mut given, &format!("d{number}"), 1);
    }
    ride(&mut given, "last", 1);
    assert!(given.state.indexes["kb"].folding);
}

#[test]
fn a_delta_is_let_go_of_with_the_last_generation_that_has_it() {
    let mut given = indexed();
    given
        .when(&tombstone("people", "f1", 1, given.seq()))
        .unwrap();
    let request = CatalogCommand::RequestGeneration {
        index: "kb".to_owned(),
        config: None,
    };
    given.when(&request).unwrap();
    let (built_from, job) = (given.seq() - 1, job(&given));
    given.when(&append(&given, "f2")).unwrap();
    ride(&mut given, "d1", 5);
    given
        .when(&commit_generation("kb", 2, &job, built_from))
        .unwrap();
    let retire = |older_than| CatalogCommand::RetireGenerations {
        index: "kb".to_owned(),
        older_than,
    };
    given.when(&retire(built_from)).unwrap();
    assert!(!given.state.doomed.contains_key("primary/d1"));
    let drop = CatalogCommand::DropIndex {
        index: "kb".to_owned(),
    };
    given.when(&drop).unwrap();
    assert!(given.state.doomed.contains_key("primary/d1"));
}

#[test]
fn a_generation_of_older_rows_that_is_promoted_makes_the_dataset_stale() {
    let mut given = indexed();
    given.when(&append(&given, "f2")).unwrap();
    let request = CatalogCommand::RequestGeneration {
        index: "kb".to_owned(),
        config: None,
    };
    given.when(&request).unwrap();
    let (seq, job) = (given.seq(), job(&given));
    given.when(&commit_generation("kb", 2, &job, seq)).unwrap();
    assert!(!is_stale(&given));
    let back = CatalogCommand::RollbackIndex {
        index: "kb".to_owned(),
    };
    given.when(&back).unwrap();
    assert!(is_stale(&given));
}

#[test]
fn a_corrupt_generation_is_told_once_and_built_anew() {
    let mut given = indexed();
    let report = CatalogCommand::ReportCorruption(GenerationCorrupted {
        index: "kb".to_owned(),
        generation: 1,
        reason: "index file `rows.keys` is missing".to_owned(),
    });
    assert_eq!(given.when(&report).unwrap().len(), 2);
    assert!(given.when(&report).unwrap().is_empty());
    let index = &given.state.indexes["kb"];
    assert!(index.corrupt.is_some() && !given.state.pending().is_empty());
    let (seq, job) = (given.seq(), job(&given));
    given.when(&commit_generation("kb", 2, &job, seq)).unwrap();
    assert_eq!(given.state.indexes["kb"].corrupt, None);
    let late = given.state.decide(&report, &stamp(99)).unwrap();
    assert!(late.is_empty(), "it answers no more");
}
