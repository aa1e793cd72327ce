//! Views by given, when, then: what may be made, what stands on what, and what goes with what.

use super::super::tests::{Given, create, define, generation};
use super::*;
use crate::model::Aggregate;
use crate::model::catalog::{CatalogCommand, DropDataset, PatchDataset, Sensitivity};

fn spec(base: &str, columns: &[&str]) -> ViewSpec {
    ViewSpec {
        base: base.to_owned(),
        columns: columns.iter().map(|c| (*c).to_owned()).collect(),
        ..ViewSpec::default()
    }
}

fn view(name: &str, spec: ViewSpec) -> CatalogCommand {
    CatalogCommand::DefineView(DefineView {
        view: name.to_owned(),
        spec,
        replace: false,
    })
}

fn replaced(name: &str, spec: ViewSpec) -> CatalogCommand {
    CatalogCommand::DefineView(DefineView {
        view: name.to_owned(),
        spec,
        replace: true,
    })
}

fn drop_view(name: &str, cascade: bool) -> CatalogCommand {
    CatalogCommand::DropView {
        view: name.to_owned(),
        cascade,
    }
}

fn ruled(base: &str, columns: &[&str], column: &str, rule: Redaction) -> ViewSpec {
    ViewSpec {
        redactions: vec![ColumnRedaction {
            column: column.to_owned(),
            rule,
        }],
        ..spec(base, columns)
    }
}

fn people() -> Given {
    let mut given = Given::default();
    given.when(&create("people", "f1")).expect("allowed");
    given
}

fn safe() -> Given {
    let mut given = people();
    given
        .when(&view("safe", spec("people", &["id", "text"])))
        .expect("allowed");
    given
}

#[test]
fn a_view_and_a_dataset_never_share_a_name() {
    let mut given = safe();
    let taken = given.when(&view("people", spec("people", &["id"])));
    assert!(matches!(
        taken,
        Err(ModelError::Exists {
            what: "dataset",
            ..
        })
    ));
    let taken = given.when(&create("safe", "f2"));
    assert!(matches!(
        taken,
        Err(ModelError::Exists { what: "view", .. })
    ));
    let again = given.when(&view("safe", spec("people", &["id"])));
    assert!(matches!(
        again,
        Err(ModelError::Exists { what: "view", .. })
    ));
}

#[test]
fn a_view_shows_columns_of_its_base_and_each_once() {
    for (columns, why) in [
        (vec![], "none"),
        (vec!["id", "id"], "twice"),
        (vec!["id", "ssn"], "unknown"),
    ] {
        let refused = people().when(&view("v", spec("people", &columns)));
        assert!(refused.is_err(), "{why}: {refused:?}");
    }
    let hidden = ruled("people", &["id"], "text", Redaction::Null {});
    assert!(people().when(&view("v", hidden)).is_err(), "a rule of none");
    let above = safe().when(&view("top", spec("safe", &["id", "ssn"])));
    assert!(above.is_err(), "a view shows what its base view shows");
}

#[test]
fn a_rule_that_makes_no_sense_is_refused() {
    for rule in [
        Redaction::Bucket { width: 0 },
        Redaction::Truncate {
            unit: None,
            decimals: None,
        },
        Redaction::Constant {
            value: serde_json::json!([1]),
        },
    ] {
        let refused = people().when(&view("v", ruled("people", &["id"], "id", rule)));
        assert!(
            matches!(refused, Err(ModelError::Impossible { .. })),
            "{refused:?}"
        );
    }
    let small = ViewSpec {
        min_group_size: Some(1),
        ..spec("people", &["id"])
    };
    assert!(people().when(&view("v", small)).is_err());
}

#[test]
fn the_chain_of_a_view_ends_in_a_dataset() {
    let mut given = safe();
    given
        .when(&view("top", spec("safe", &["id"])))
        .expect("allowed");
    let (views, dataset) = given.state.views_down("top").expect("a chain");
    let names: Vec<&str> = views.iter().map(|view| view.name.as_str()).collect();
    assert_eq!(
        (names, dataset.name.as_str()),
        (vec!["top", "safe"], "people")
    );
    let round = given.when(&replaced("safe", spec("top", &["id"])));
    assert!(
        matches!(round, Err(ModelError::Impossible { .. })),
        "{round:?}"
    );
    let own = given.when(&replaced("safe", spec("safe", &["id"])));
    assert!(matches!(own, Err(ModelError::Impossible { .. })), "{own:?}");
    let nothing = given.when(&view("v", spec("nobody", &["id"])));
    assert!(matches!(nothing, Err(ModelError::NotFound { .. })));
}

#[test]
fn what_stands_on_a_view_or_dataset_goes_with_it_or_not_at_all() {
    let mut given = safe();
    given
        .when(&view("top", spec("safe", &["id", "text"])))
        .expect("allowed");
    given.when(&define("kb", "top")).expect("allowed");
    let dataset = |cascade| {
        CatalogCommand::DropDataset(DropDataset {
            dataset: "people".to_owned(),
            cascade,
        })
    };
    for refused in [drop_view("safe", false), dataset(false)] {
        match given.when(&refused) {
            Err(ModelError::InUse { by, .. }) => assert!(by.contains(&"kb".to_owned()), "{by:?}"),
            other => panic!("{other:?}"),
        }
    }
    let mut other = given;
    other.when(&drop_view("safe", true)).expect("allowed");
    assert!(other.state.views.is_empty() && other.state.indexes.is_empty());
    assert!(other.state.datasets.contains_key("people"));
    other
        .when(&view("safe", spec("people", &["id"])))
        .expect("allowed");
    other.when(&dataset(true)).expect("allowed");
    assert!(other.state.views.is_empty() && other.state.datasets.is_empty());
}

#[test]
fn an_index_over_a_view_is_an_index_over_its_dataset() {
    let mut given = safe();
    given.when(&define("kb", "safe")).expect("allowed");
    let over: Vec<&str> = given
        .state
        .indexes_over("people")
        .map(|index| index.name.as_str())
        .collect();
    assert_eq!(over, ["kb"], "what is erased in people is erased in kb");
}

#[test]
fn an_index_over_a_view_needs_a_plain_key_and_the_same_rows_for_all() {
    let mut given = people();
    let masked = ruled("people", &["id", "text"], "id", Redaction::Hash {});
    given.when(&view("masked", masked)).expect("allowed");
    let own = ViewSpec {
        row_filter: Some("text = principal()".to_owned()),
        per_caller: true,
        ..spec("people", &["id", "text"])
    };
    given.when(&view("own", own)).expect("allowed");
    given
        .when(&view("narrow", spec("people", &["id"])))
        .expect("allowed");
    let grouped = ViewSpec {
        min_group_size: Some(5),
        ..spec("people", &["id", "text"])
    };
    given.when(&view("grouped", grouped)).expect("allowed");
    for source in ["masked", "own", "narrow", "grouped"] {
        assert!(given.when(&define("kb", source)).is_err(), "{source}");
    }
}

#[test]
fn a_new_policy_builds_its_indexes_anew() {
    let mut given = safe();
    given.when(&define("kb", "safe")).expect("allowed");
    let job = given.state.indexes["kb"].building.clone().expect("due").1;
    let seq = given.seq();
    given
        .when(&generation("kb", 1, &job, seq))
        .expect("allowed");
    assert!(given.state.pending().is_empty());
    let stricter = ruled("people", &["id", "text"], "text", Redaction::Null {});
    given
        .when(&replaced("safe", stricter.clone()))
        .expect("allowed");
    assert_eq!(given.state.pending().len(), 1, "a generation is due");
    let policy = given.state.policy_seq("safe");
    let live = given.state.indexes["kb"].live_generation().expect("live");
    assert!(live.source_seq < policy, "the old one may not be asked");
    let unchanged = given.when(&replaced("safe", stricter)).expect("allowed");
    assert!(unchanged.is_empty(), "the same policy again is nothing");
    let without = given.when(&replaced("safe", spec("people", &["id"])));
    assert!(matches!(without, Err(ModelError::InUse { .. })));
}

#[test]
fn a_proposed_class_stays_one_until_somebody_classifies() {
    let mut given = Given::default();
    let CatalogCommand::CreateDataset(mut create) = create("people", "f1") else {
        panic!("a dataset is made");
    };
    let proposal = Proposal {
        class: Sensitivity::Pii,
        found: "email".to_owned(),
    };
    create.commit.proposals.insert("text".to_owned(), proposal);
    given
        .when(&CatalogCommand::CreateDataset(create))
        .expect("allowed");
    let dataset = &given.state.datasets["people"];
    assert_eq!(dataset.proposals["text"].found, "email");
    assert_eq!(dataset.class("text"), Sensitivity::Internal);
    let patch = PatchDataset {
        dataset: "people".to_owned(),
        sensitivity: BTreeMap::from([("text".to_owned(), Sensitivity::Secret)]),
        min_group_size: Some(5),
        ..PatchDataset::default()
    };
    given
        .when(&CatalogCommand::PatchDataset(patch))
        .expect("allowed");
    let dataset = &given.state.datasets["people"];
    assert!(dataset.proposals.is_empty());
    assert_eq!(dataset.class("text"), Sensitivity::Secret);
    assert_eq!(dataset.min_group_size, Some(5));
}
