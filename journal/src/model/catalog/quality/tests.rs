//! What deletions do to evaluation sets, and what a floor does to generations.

use super::super::tests::{Given, define, generation, people, tombstone};
use super::super::{CatalogCommand, IndexConfig};
use super::{EvalSpec, QualityCommand, Slo, Tail, Trial, row_mark};
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

fn trial(recall_ppm: u32, p99: u64) -> Trial {
    Trial {
        id: "t".to_owned(),
        index: "kb".to_owned(),
        eval: "held".to_owned(),
        config: IndexConfig::default(),
        generation: Some(2),
        k: 10,
        recall_ppm,
        latency_ns: Tail {
            p50: 1,
            p95: 2,
            p99,
        },
        p50_spread_ns: (1, 1),
        repeats: 1,
        brute_force_p50_ns: 5,
        build_ms: 1,
        memory_bytes: 1,
        vectors: 10,
        machine: String::new(),
        commit: String::new(),
        note: None,
        refused: None,
    }
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
fn a_set_drawn_before_a_deletion_is_not_let_in_after_it() {
    let mut given = indexed();
    let read = given.seq();
    given.when(&tombstone("people", "f1", 3, read)).unwrap();
    let late = given.when(&eval("late", &["f1-5"], read));
    assert!(matches!(late, Err(ModelError::Stale { .. })), "{late:?}");
}

#[test]
fn a_generation_that_misses_the_floor_is_refused_and_its_trial_is_kept() {
    let slo = Slo {
        min_recall_ppm: 990_000,
        max_p99_us: Some(2),
    };
    for (recall, p99, passes) in [
        (990_000, 2_000, true),
        (989_999, 2_000, false),
        (1_000_000, 3_000, false),
    ] {
        let set = CatalogCommand::Quality(QualityCommand::SetSlo {
            index: "kb".to_owned(),
            slo: Some(slo),
        });
        let config = IndexConfig {
            connectivity: Some(24),
            ..IndexConfig::default()
        };
        let request = CatalogCommand::RequestGeneration {
            index: "kb".to_owned(),
            config: Some(config.clone()),
        };
        let mut given = indexed().and(&set).and(&request);
        let (number, job) = given.state.indexes["kb"].building.clone().unwrap();
        let CatalogCommand::CommitGeneration(mut commit) =
            generation("kb", number, &job, given.seq())
        else {
            unreachable!("that is what it makes");
        };
        commit.trial = Some(trial(recall, p99));
        given
            .when(&CatalogCommand::CommitGeneration(commit))
            .unwrap();
        let index = &given.state.indexes["kb"];
        assert_eq!(index.live, Some(if passes { 2 } else { 1 }));
        assert_eq!(index.spec.config == config, passes);
        assert_eq!(index.failed.is_some(), !passes);
        let (_, kept) = given.state.trials_of("kb").next().unwrap();
        assert_eq!(kept.trial.refused.is_some(), !passes);
    }
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
