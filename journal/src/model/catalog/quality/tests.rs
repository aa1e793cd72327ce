//! What deletions do to evaluation sets, and what a floor does to generations.

use super::super::tests::{Given, define, generation, people, tombstone};
use super::super::{Backend, CatalogCommand, CommitGeneration, IndexConfig, PromoteGeneration};
use super::{EvalSpec, Profile, QualityCommand, Slo, Tail, Trial, row_mark};
use crate::model::{Aggregate, ModelError, Work, event::CatalogEvent};

fn indexed() -> Given {
    let given = people().and(&define("kb", "people"));
    let Work::BuildGeneration { job, .. } = given.state.pending().remove(0) else {
        unreachable!("the index is to be built");
    };
    let seq = given.seq();
    given.and(&generation("kb", 1, &job, seq))
}

fn eval(name: &str, rows: &[&str], source_seq: u64) -> CatalogCommand {
    CatalogCommand::Quality(QualityCommand::RecordEval {
        eval: name.to_owned(),
        spec: EvalSpec {
            index: "kb".to_owned(),
            source: "people".to_owned(),
            queries: 1,
            k: 1,
            seed: 0,
            bucket: "primary".to_owned(),
            prefix: format!("vectors/kb/eval-{name}-{source_seq}"),
            files: Vec::new(),
            rows: rows.iter().map(|key| row_mark(key)).collect(),
            generation: 1,
            source_seq,
            brute_force_p50_ns: 5,
        },
    })
}

fn trial(generation: u64, recall_ppm: u32, p99: u64) -> Trial {
    Trial {
        id: "t".to_owned(),
        index: "kb".to_owned(),
        generation: Some(generation),
        recall_ppm,
        latency_ns: Tail {
            p50: 1,
            p95: 2,
            p99,
        },
        ..Trial::default()
    }
}

fn floor(min_recall_ppm: u32) -> CatalogCommand {
    CatalogCommand::Quality(QualityCommand::SetSlo {
        index: "kb".to_owned(),
        slo: Some(Slo {
            min_recall_ppm,
            max_p99_us: Some(2),
        }),
    })
}

fn links(connectivity: u32) -> IndexConfig {
    IndexConfig {
        connectivity: Some(connectivity),
        ..IndexConfig::default()
    }
}

fn request(config: Option<IndexConfig>) -> CatalogCommand {
    let index = "kb".to_owned();
    CatalogCommand::RequestGeneration { index, config }
}

/// What the worker says when the build that is due has ended.
fn built(given: &Given, trial: impl FnOnce(u64) -> Option<Trial>) -> CatalogCommand {
    let (number, job) = given.state.indexes["kb"].building.clone().unwrap();
    let commit = generation("kb", number, &job, given.seq());
    let CatalogCommand::CommitGeneration(commit) = commit else {
        unreachable!("that is what it makes");
    };
    CatalogCommand::CommitGeneration(CommitGeneration {
        trial: trial(number),
        ..commit
    })
}

fn promote(generation: u64, trial: Option<Trial>) -> CatalogCommand {
    CatalogCommand::PromoteGeneration(PromoteGeneration {
        index: "kb".to_owned(),
        generation,
        trial,
    })
}

#[test]
fn a_deletion_ends_the_sets_that_it_touches_and_no_others() {
    let given = indexed();
    let seq = given.seq();
    let mut given = given
        .and(&eval("touched", &["f1-3", "f1-4"], seq))
        .and(&eval("spared", &["f1-5"], seq));
    let read = given.seq();
    given.when(&tombstone("people", "f1", 3, read)).unwrap();
    let touched = given.state.eval("touched").unwrap();
    assert_eq!(touched.invalid_since, Some(read + 1));
    assert_eq!(given.state.eval("spared").unwrap().invalid_since, None);
    assert_eq!(given.state.valid_eval("kb").unwrap().name, "spared");
    assert!(given.state.owes_erasure(&given.state.datasets["people"]));

    let dataset = "people".to_owned();
    let retire = CatalogCommand::Quality(QualityCommand::RetireEvals { dataset });
    given.when(&retire).unwrap();
    assert!(given.state.eval("touched").is_err());
    let folder = format!("primary/vectors/kb/eval-touched-{seq}/");
    assert!(given.state.doomed.contains_key(&folder), "its bytes go");
    assert!(given.when(&retire).unwrap().is_empty());
}

#[test]
fn a_set_replaces_its_older_self_and_none_of_another_index() {
    let given = indexed();
    let seq = given.seq();
    let given = given.and(&eval("held", &["f1-3"], seq));
    let given = given.and(&define("other", "people"));
    let later = given.seq();
    let mut given = given.and(&eval("held", &["f1-4"], later));
    let folder = format!("primary/vectors/kb/eval-held-{seq}/");
    assert!(given.state.doomed.contains_key(&folder));
    let CatalogCommand::Quality(QualityCommand::RecordEval { eval, mut spec }) =
        eval("held", &[], later)
    else {
        unreachable!("that is what it makes");
    };
    spec.index = "other".to_owned();
    let taken = given.when(&CatalogCommand::Quality(QualityCommand::RecordEval {
        eval,
        spec,
    }));
    assert!(matches!(taken, Err(ModelError::Exists { .. })), "{taken:?}");
}

#[test]
fn a_set_drawn_before_a_deletion_is_not_let_in_after_it() {
    let mut given = indexed();
    let read = given.seq();
    given.when(&tombstone("people", "f1", 3, read)).unwrap();
    let late = given.when(&eval("late", &["f1-5"], read));
    assert!(matches!(late, Err(ModelError::Stale { .. })), "{late:?}");
}

#[test]
fn a_generation_that_misses_the_floor_is_refused_and_its_trial_is_kept() {
    for (recall, p99, passes) in [
        (990_000, 2_000, true),
        (989_999, 2_000, false),
        (1_000_000, 2_001, false),
    ] {
        let mut given = indexed()
            .and(&floor(990_000))
            .and(&request(Some(links(24))));
        let commit = built(&given, |number| Some(trial(number, recall, p99)));
        given.when(&commit).unwrap();
        let index = &given.state.indexes["kb"];
        assert_eq!(index.live, Some(if passes { 2 } else { 1 }));
        assert_eq!(index.spec.config == links(24), passes);
        assert_eq!(index.failed.is_some(), !passes);
        assert!(index.building.is_none() && index.building_config.is_none());
        let (_, kept) = given.state.trials_of("kb").next().unwrap();
        assert_eq!(kept.trial.refused.is_some(), !passes);
        given.replays();
    }
}

#[test]
fn what_was_not_measured_does_not_pass_a_floor() {
    let mut given = indexed().and(&request(None)).and(&floor(990_000));
    let commit = built(&given, |_| None);
    let refused = given.when(&commit);
    assert!(matches!(refused, Err(ModelError::FloorMissed { .. })));
    let index = &given.state.indexes["kb"];
    assert_eq!(index.live, Some(1));
    assert!(index.building.is_some(), "it is built again, and measured");
}

#[test]
fn a_promotion_is_held_to_the_floor_and_a_rollback_is_not() {
    let mut given = indexed().and(&request(None));
    let commit = built(&given, |_| None);
    given = given.and(&commit).and(&floor(990_000));
    let unmeasured = given.when(&promote(1, None));
    assert!(matches!(unmeasured, Err(ModelError::FloorMissed { .. })));

    let missed = given.when(&promote(1, Some(trial(1, 500_000, 1)))).unwrap();
    let [CatalogEvent::TrialRecorded(kept)] = &missed[..] else {
        panic!("a failed trial is kept, and nothing is promoted: {missed:?}");
    };
    assert!(kept.trial.refused.is_some());
    let known = given.when(&promote(1, None));
    assert!(matches!(known, Err(ModelError::FloorMissed { .. })));
    assert_eq!(given.state.indexes["kb"].live, Some(2));

    let index = "kb".to_owned();
    given
        .when(&CatalogCommand::RollbackIndex { index })
        .unwrap();
    assert_eq!(given.state.indexes["kb"].live, Some(1));
    given.when(&promote(2, Some(trial(2, 995_000, 1)))).unwrap();
    assert_eq!(given.state.indexes["kb"].live, Some(2));
    given = given.and(&floor(400_000));
    given.when(&promote(1, None)).unwrap();
    assert_eq!(
        given.state.indexes["kb"].live,
        Some(1),
        "its trial is known"
    );
    given.replays();
}

#[test]
fn the_trial_of_a_refused_build_is_not_that_of_the_next_one_of_its_number() {
    let mut given = indexed().and(&floor(990_000)).and(&request(None));
    let refused = built(&given, |number| Some(trial(number, 1, 1)));
    given = given.and(&refused);
    let lift = CatalogCommand::Quality(QualityCommand::SetSlo {
        index: "kb".to_owned(),
        slo: None,
    });
    given = given.and(&lift).and(&request(None));
    let commit = built(&given, |_| None);
    given = given.and(&commit);
    let index = &given.state.indexes["kb"];
    let live = index.live_generation().unwrap();
    assert_eq!(live.generation, 2);
    assert!(given.state.trial_of(index, live).is_none());
}

#[test]
fn a_floor_holds_back_no_erasure() {
    let erasing = |config: Option<IndexConfig>| {
        let given = indexed().and(&floor(990_000));
        let read = given.seq();
        let given = given.and(&tombstone("people", "f1", 3, read));
        let mut given = given.and(&request(config));
        let commit = built(&given, |number| Some(trial(number, 1, 1)));
        given.when(&commit).unwrap();
        given.state.indexes["kb"].live
    };
    assert_eq!(erasing(None), Some(2));
    assert_eq!(
        erasing(Some(links(2))),
        Some(1),
        "another tuning is no rebuild"
    );
}

#[test]
fn a_generation_keeps_the_tuning_that_it_was_built_with() {
    let mut given = indexed();
    let own = given.state.indexes["kb"].spec.config.clone();
    given = given.and(&request(Some(links(24))));
    let commit = built(&given, |_| None);
    given = given.and(&commit);
    let config = |given: &Given, at: usize| {
        let index = &given.state.indexes["kb"];
        index.config_of(&index.generations[at]).clone()
    };
    assert_eq!(given.state.indexes["kb"].spec.config, links(24));
    assert_eq!(
        (config(&given, 0), config(&given, 1)),
        (own.clone(), links(24))
    );
    // Asked for with the index's own tuning, which changes while it is built.
    given = given.and(&request(None)).and(&promote(1, None));
    assert_eq!(given.state.indexes["kb"].config_to_build(), &links(24));
    let commit = built(&given, |_| None);
    given = given.and(&commit);
    assert_eq!(config(&given, 2), links(24));
    assert_eq!(config(&given, 0), own);
    given.replays();
}

#[test]
fn what_belongs_to_an_index_goes_with_it() {
    let given = indexed();
    let seq = given.seq();
    let mut given = given.and(&eval("held", &["f1-1"], seq));
    let index = "kb".to_owned();
    let events = given.when(&CatalogCommand::DropIndex { index }).unwrap();
    assert!(matches!(events[..], [CatalogEvent::IndexDropped(_)]));
    assert!(given.state.quality.evals.is_empty());
    let folder = format!("primary/vectors/kb/eval-held-{seq}/");
    assert!(given.state.doomed.contains_key(&folder));
}

#[test]
fn a_profile_names_what_there_is() {
    let tuning = IndexConfig {
        ef_search: Some(77),
        ..links(24)
    };
    let profile = |views: &[&str], model: &str| {
        CatalogCommand::Quality(QualityCommand::SaveProfile(Profile {
            id: "p".to_owned(),
            model: model.to_owned(),
            views: views.iter().map(|name| (*name).to_owned()).collect(),
            indexes: vec!["kb".to_owned()],
            backend: Backend::Hnsw,
            hnsw_config: Some(tuning.clone()),
            bucket: None,
            tools: Vec::new(),
        }))
    };
    let mut given = indexed();
    let model = given.state.indexes["kb"].spec.model.clone();
    assert!(given.when(&profile(&["nothing"], &model)).is_err());
    assert!(given.when(&profile(&["people"], "another")).is_err());
    given = given.and(&profile(&["people"], &model));
    let activate = |id: &str| {
        let id = id.to_owned();
        CatalogCommand::Quality(QualityCommand::ActivateProfile { id })
    };
    assert!(given.when(&activate("q")).is_err());
    given = given.and(&activate("p"));
    let active = given.state.active_profile().unwrap();
    assert_eq!(active.hnsw_config, Some(tuning));
    assert_eq!(given.state.profile_ef("kb"), Some(77));
    assert_eq!(given.state.profile_ef("another"), None);
    assert!(given.when(&activate("p")).unwrap().is_empty());
    given.replays();
}
