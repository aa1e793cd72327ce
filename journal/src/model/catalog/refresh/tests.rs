//! Refreshes as the catalog decides and remembers them.

use super::super::{
    super::{Aggregate, ModelError, Work},
    CatalogCommand, Chunker, CommitGeneration, CompleteRefresh, Cutting, EmbeddingSpec,
    FailRefresh, IngestMode, Making, ModelIdentity, OtherModel, PatchDataset, PromoteGeneration,
    RefreshCause, RefreshCounts, RefreshPolicy, RefreshSchedule, TextSpec,
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
        bucket: None,
        backend: None,
        chunk: None,
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

/// What the worker says of the build that is due, made by this model.
fn built_by(given: &Given, provider: &str, dimensions: u32) -> CatalogCommand {
    let (number, job) = given.state.indexes["kb"]
        .building
        .clone()
        .expect("it is due");
    let CatalogCommand::CommitGeneration(commit) = generation("kb", number, &job, given.seq())
    else {
        unreachable!("that is what it makes");
    };
    CatalogCommand::CommitGeneration(CommitGeneration {
        making: Some(Box::new(Making {
            model: ModelIdentity {
                provider: provider.to_owned(),
                model: "m".to_owned(),
                version: "m".to_owned(),
                dimensions,
            },
            cutting: None,
            refused: 0,
            left_out: 0,
            texts_sent: 3,
            provider_calls: 1,
            tokens: None,
        })),
        ..commit
    })
}

#[test]
fn texts_that_are_cut_otherwise_are_built_beside_and_go_back_with_their_generation() {
    let chunk = Chunker {
        tokens: 64,
        overlap: 8,
    };
    let remake = CatalogCommand::RemakeIndex {
        index: "kb".to_owned(),
        model: OtherModel {
            provider: "in-process".to_owned(),
            model: "m".to_owned(),
            dimensions: 128,
            chunk: Some(chunk),
        },
    };
    let given = indexed().and(&remake);
    let index = given.state.indexes["kb"].clone();
    assert_eq!(
        (index.spec.chunk, index.spec_to_build().chunk),
        (None, Some(chunk))
    );
    let CatalogCommand::CommitGeneration(mut commit) = built_by(&given, "in-process", 128) else {
        unreachable!("that is what it makes");
    };
    commit.rows = Some(4);
    let making = commit.making.as_mut().expect("it says who made it");
    making.cutting = Some(Cutting {
        tokenizer: "wordpiece@1".to_owned(),
        chunk,
    });
    let given = given.and(&CatalogCommand::CommitGeneration(commit));
    let index = given.state.indexes["kb"].clone();
    let live = index.live_generation().expect("it answers");
    assert_eq!(
        (live.vectors, live.rows(), index.spec.chunk),
        (10, 4, Some(chunk))
    );
    let back = CatalogCommand::PromoteGeneration(PromoteGeneration {
        index: "kb".to_owned(),
        generation: 1,
        trial: None,
    });
    let given = given.and(&back);
    let index = given.state.indexes["kb"].clone();
    assert_eq!(index.spec.chunk, None, "as it was built");
    given.replays();
}

#[test]
fn another_model_is_built_beside_and_becomes_the_indexs_own_when_it_answers() {
    let remake = CatalogCommand::RemakeIndex {
        index: "kb".to_owned(),
        model: OtherModel {
            provider: "ollama".to_owned(),
            model: "m".to_owned(),
            dimensions: 768,
            chunk: None,
        },
    };
    let mut given = indexed().and(&remake);
    let index = given.state.indexes["kb"].clone();
    let of = |spec: &super::super::IndexSpec| (spec.provider.clone(), spec.dimensions);
    assert_eq!(
        of(&index.spec),
        ("in-process".to_owned(), 128),
        "it answers"
    );
    assert_eq!(of(&index.spec_to_build()), ("ollama".to_owned(), 768));
    assert!(given.when(&remake).is_err(), "one at a time");
    let command = built_by(&given, "ollama", 768);
    let given = given.and(&command);
    let index = given.state.indexes["kb"].clone();
    assert_eq!(
        (index.live, of(&index.spec)),
        (Some(2), ("ollama".to_owned(), 768))
    );
    assert_eq!(index.spec_to_build(), index.spec);
    let back = CatalogCommand::PromoteGeneration(PromoteGeneration {
        index: "kb".to_owned(),
        generation: 1,
        trial: None,
    });
    let given = given.and(&back);
    let index = given.state.indexes["kb"].clone();
    assert_eq!(
        of(&index.spec),
        ("in-process".to_owned(), 128),
        "as it was built"
    );
    given.replays();
}

#[test]
fn rows_that_were_left_out_keep_the_embeddings_stale() {
    let given = indexed();
    let command = append(&given, "f2");
    let mut given = given.and(&command);
    let ask = CatalogCommand::RequestGeneration {
        index: "kb".to_owned(),
        config: None,
    };
    given = given.and(&ask);
    let CatalogCommand::CommitGeneration(mut commit) = built_by(&given, "in-process", 128) else {
        unreachable!("that is what it makes");
    };
    if let Some(making) = &mut commit.making {
        making.left_out = 1;
    }
    let given = given.and(&CatalogCommand::CommitGeneration(commit));
    let dataset = &given.state.datasets["people"];
    assert!(dataset.embedding_stale_since.is_some());
}
