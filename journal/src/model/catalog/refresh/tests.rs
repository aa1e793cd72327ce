//! Refreshes as the catalog decides and remembers them.

use super::super::{
    super::{Aggregate, ModelError, Work},
    CatalogCommand, ChunkSpec, CompleteRefresh, EmbeddingSpec, FailRefresh, IngestMode,
    ModelIdentity, PatchDataset, RefreshCause, RefreshCounts, RefreshPolicy, RefreshSchedule,
    TextSpec, VectorSpec,
    tests::{Given, commit, define, generation, people},
};
use crate::record::Seq;

fn patch(change: PatchDataset) -> CatalogCommand {
    CatalogCommand::PatchDataset(PatchDataset {
        dataset: "people".to_owned(),
        ..change
    })
}

fn embedding() -> EmbeddingSpec {
    EmbeddingSpec {
        text: TextSpec::Template("{text}".to_owned()),
        key: "id".into(),
        provider: "in-process".to_owned(),
        model: "static-minilm-128".to_owned(),
        chunk: None,
        bucket: None,
        backend: None,
    }
}

fn policy(policy: RefreshPolicy) -> PatchDataset {
    PatchDataset {
        embedding_refresh_policy: Some(policy),
        ..PatchDataset::default()
    }
}

fn append(given: &Given, file: &str) -> CatalogCommand {
    CatalogCommand::CommitFiles(commit("people", IngestMode::Append, file, given.seq()))
}

/// `people` with an index that was built from all its rows.
fn indexed() -> Given {
    let given = people().and(&define("kb", "people"));
    let (_, job) = given.state.indexes["kb"]
        .building
        .clone()
        .expect("asked for");
    let seq = given.seq();
    given.and(&generation("kb", 1, &job, seq))
}

fn completed(source_seq: Seq, run: Option<&str>) -> CatalogCommand {
    CatalogCommand::CompleteRefresh(CompleteRefresh {
        dataset: "people".to_owned(),
        run: run.map(str::to_owned),
        cause: RefreshCause::Call,
        source_seq,
        counts: RefreshCounts::default(),
        elapsed_ms: 1,
    })
}

fn refreshes(given: &Given) -> usize {
    let pending = given.state.pending();
    let due = |work: &&Work| matches!(work, Work::RefreshEmbeddings { .. });
    pending.iter().filter(due).count()
}

#[test]
fn a_policy_is_taken_where_something_is_embedded() {
    let on_append = policy(RefreshPolicy::OnAppend);
    let refused = people().when(&patch(on_append.clone()));
    assert!(matches!(refused, Err(ModelError::Impossible { .. })));
    indexed().and(&patch(on_append.clone()));
    people().and(&patch(PatchDataset {
        embedding: Some(embedding()),
        ..on_append
    }));
}

#[test]
fn rows_that_are_committed_make_a_refresh_due_by_policy_only() {
    let given = indexed();
    let manual = given.and(&append(&indexed(), "f2"));
    assert_eq!(refreshes(&manual), 0);
    let given = indexed().and(&patch(policy(RefreshPolicy::OnAppend)));
    assert_eq!(refreshes(&given), 0, "nothing is stale");
    let command = append(&given, "f2");
    let given = given.and(&command);
    assert_eq!(refreshes(&given), 1);
    let seq = given.seq();
    assert_eq!(refreshes(&given.and(&completed(seq, None))), 0);
}

#[test]
fn a_refresh_that_was_asked_for_is_due_until_its_run_ends() {
    let ask = CatalogCommand::RequestRefresh {
        dataset: "people".to_owned(),
        cause: RefreshCause::Schedule,
    };
    assert!(people().when(&ask).is_err(), "nothing is embedded");
    let mut given = indexed().and(&ask);
    assert_eq!(refreshes(&given), 1);
    assert_eq!(given.when(&ask).expect("no error").len(), 0, "due already");
    let due = given.state.datasets["people"].refresh_due.clone();
    let run = due.expect("it is due").run;
    let fail = |comes_again| {
        CatalogCommand::FailRefresh(FailRefresh {
            dataset: "people".to_owned(),
            run: Some(run.clone()),
            cause: RefreshCause::Schedule,
            code: "embedder_unavailable".to_owned(),
            error: "down".to_owned(),
            comes_again,
            elapsed_ms: 1,
        })
    };
    given = given.and(&fail(true));
    assert_eq!(refreshes(&given), 1, "it comes again");
    assert_eq!(
        given.when(&fail(true)).expect("no error").len(),
        0,
        "noted once"
    );
    let seq = given.seq();
    assert_eq!(refreshes(&given.and(&completed(seq, Some(&run)))), 0);
}

#[test]
fn rows_committed_while_a_refresh_ran_stay_stale_since_then() {
    let given = indexed();
    let command = append(&given, "f2");
    let given = given.and(&command);
    let read = given.seq();
    let command = append(&given, "f3");
    let given = given.and(&command);
    let dataset = &given.state.datasets["people"];
    let second = dataset.lineage.last().expect("committed").at;
    assert!(dataset.embedding_stale_since.expect("stale") < second);
    let given = given.and(&completed(read, None));
    let dataset = &given.state.datasets["people"];
    assert_eq!(dataset.embedding_stale_since, Some(second));
    let seq = given.seq();
    let given = given.and(&completed(seq, None));
    assert_eq!(given.state.datasets["people"].embedding_stale_since, None);
}

#[test]
fn an_index_beside_one_that_is_behind_does_not_make_the_dataset_fresh() {
    let given = indexed();
    let command = append(&given, "f2");
    let given = given.and(&command).and(&define("second", "people"));
    let (_, job) = given.state.indexes["second"].building.clone().expect("due");
    let seq = given.seq();
    let given = given.and(&generation("second", 1, &job, seq));
    let stale = given.state.datasets["people"].embedding_stale_since;
    assert!(stale.is_some(), "`kb` does not have the new rows");
}

#[test]
fn a_generation_of_another_model_takes_the_index_along_and_back() {
    let made = |model: &str, dimensions| VectorSpec {
        model: ModelIdentity {
            provider: "ollama".to_owned(),
            model: model.to_owned(),
            version: model.to_owned(),
            dimensions,
        },
        text: TextSpec::Template("{text}".to_owned()),
        chunk: None,
    };
    let mut given = indexed();
    for (number, dimensions) in [(2, 768), (3, 384)] {
        let made = made(&format!("m{number}"), dimensions);
        given = given.and(&CatalogCommand::RequestGeneration {
            index: "kb".to_owned(),
            made: Some(made.clone()),
        });
        let (_, job) = given.state.indexes["kb"].building.clone().expect("due");
        assert_eq!(given.state.indexes["kb"].next, Some(made.clone()));
        let mut built = generation("kb", number, &job, given.seq());
        if let CatalogCommand::CommitGeneration(built) = &mut built {
            built.made = Some(made);
        }
        given = given.and(&built);
        let spec = &given.state.indexes["kb"].spec;
        assert_eq!(
            (spec.model.as_str(), spec.dimensions),
            (&*format!("m{number}"), dimensions)
        );
    }
    let back = CatalogCommand::RollbackIndex {
        index: "kb".to_owned(),
    };
    let spec = &given.and(&back).state.indexes["kb"].spec.clone();
    assert_eq!((spec.model.as_str(), spec.dimensions), ("m2", 768));
}

#[test]
fn a_policy_is_written_as_the_contract_has_it() {
    let scheduled = |time_zone: Option<&str>| {
        RefreshPolicy::Scheduled(RefreshSchedule {
            cron: "0 0 2 * * *".to_owned(),
            time_zone: time_zone.map(str::to_owned),
        })
    };
    for (policy, text) in [
        (RefreshPolicy::Manual, r#""manual""#),
        (RefreshPolicy::OnAppend, r#""on_append""#),
        (scheduled(None), r#"{"scheduled":"0 0 2 * * *"}"#),
        (
            scheduled(Some("Europe/Berlin")),
            r#"{"scheduled":"0 0 2 * * *","time_zone":"Europe/Berlin"}"#,
        ),
    ] {
        assert_eq!(serde_json::to_string(&policy).expect("plain"), text);
        let read: RefreshPolicy = serde_json::from_str(text).expect("what was written");
        assert_eq!(read, policy);
    }
    for wrong in [r#""daily""#, r#"{"scheduled":"x","zone":"y"}"#, "{}", "3"] {
        assert!(
            serde_json::from_str::<RefreshPolicy>(wrong).is_err(),
            "{wrong}"
        );
    }
}

#[test]
fn a_cut_that_makes_no_progress_is_refused() {
    let chunk = |tokens, overlap| ChunkSpec { tokens, overlap }.validate();
    assert!(chunk(256, 32).is_ok());
    assert!(chunk(256, 129).is_err());
    assert!(chunk(7, 0).is_err());
    assert!(chunk(100_000, 0).is_err());
}
