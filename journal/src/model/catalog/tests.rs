//! The catalog by given, when, then; and replay as a property: however a journal came to be,
//! a snapshot with the tail after it is the same as everything from the start.

use proptest::prelude::*;

use super::past::tests as past;
use super::{
    Backend, CatalogCommand, CatalogState, Column, CommitFiles, CommitGeneration, CreateDataset,
    DatasetSpec, DefineIndex, DeletionVector, DropDataset, FileEntry, IndexConfig, IndexSpec,
    IngestMode, PatchDataset, SchemaDoc, Source, TextSpec, TombstoneRows,
};
use crate::{
    log::frame::GENESIS,
    model::{
        Aggregate, Event, LakeState, Meta, ModelError, Stamp,
        event::{CatalogEvent, DeletedRows},
    },
    record::{Actor, Draft, Micros, Record, Seq},
};

pub(super) fn stamp(id: u64) -> Stamp {
    Stamp {
        at: 1_000_000,
        id: format!("id-{id}"),
        actor: actor(),
    }
}

pub(super) fn actor() -> Actor {
    Actor {
        name: "tester".to_owned(),
        role: "admin".to_owned(),
    }
}

fn schema(columns: &[&str]) -> SchemaDoc {
    SchemaDoc {
        columns: columns
            .iter()
            .map(|name| Column {
                name: (*name).to_owned(),
                data_type: "Utf8".to_owned(),
                nullable: true,
            })
            .collect(),
        arrow_ipc: String::new(),
        fingerprint: columns.join(","),
    }
}

pub(super) fn commit(dataset: &str, mode: IngestMode, file: &str, read_seq: Seq) -> CommitFiles {
    CommitFiles {
        dataset: dataset.to_owned(),
        mode,
        read_seq,
        erased_skipped: 0,
        proposals: std::collections::BTreeMap::new(),
        added: vec![FileEntry {
            erased: DeletionVector::default(),
            bucket: "primary".to_owned(),
            key: file.to_owned(),
            rows: 10,
            bytes: 100,
            blake3: file.to_owned(),
            sorted_by_key: false,
            superseded: DeletionVector::default(),
        }],
        deleted: Vec::new(),
        schema: schema(&["id", "text"]),
        source: Source {
            kind: "file".to_owned(),
            name: "csv".to_owned(),
            content_hash: file.to_owned(),
            watermark: None,
        },
        rows: 10,
        batches: 1,
        source_bytes: 100,
        elapsed_ms: 1,
    }
}

pub(super) fn create(dataset: &str, file: &str) -> CatalogCommand {
    CatalogCommand::CreateDataset(CreateDataset {
        spec: DatasetSpec {
            id: format!("id-{dataset}"),
            schema: schema(&["id", "text"]),
            key: vec!["id".to_owned()],
            bucket: "primary".to_owned(),
            owner: "tester".to_owned(),
        },
        commit: commit(dataset, IngestMode::Create, file, 0),
    })
}

pub(super) fn tombstone(dataset: &str, file: &str, row: u32, read_seq: Seq) -> CatalogCommand {
    CatalogCommand::TombstoneRows(TombstoneRows {
        dataset: dataset.to_owned(),
        read_seq,
        rows: vec![format!("{file}-{row}")],
        deleted: vec![DeletedRows {
            file: file.to_owned(),
            positions: [row].into_iter().collect(),
        }],
        missing: Vec::new(),
        reason: "asked".to_owned(),
        on_behalf_of: None,
    })
}

pub(super) fn define(index: &str, dataset: &str) -> CatalogCommand {
    CatalogCommand::DefineIndex(DefineIndex {
        slo: None,
        index: index.to_owned(),
        spec: IndexSpec {
            source: dataset.to_owned(),
            key: "id".into(),
            text: TextSpec::Template("{text}".to_owned()),
            vector_column: None,
            chunk: None,
            provider: "in-process".to_owned(),
            model: "static-minilm-128".to_owned(),
            dimensions: 128,
            backend: Backend::Hnsw,
            config: IndexConfig::default(),
            bucket: "primary".to_owned(),
        },
    })
}

pub(super) fn generation(
    index: &str,
    generation: u64,
    job: &str,
    source_seq: Seq,
) -> CatalogCommand {
    CatalogCommand::CommitGeneration(CommitGeneration {
        index: index.to_owned(),
        generation,
        job: job.to_owned(),
        source_seq,
        prefix: format!("vectors/{index}/{generation}"),
        files: Vec::new(),
        vectors: 10,
        rows: None,
        skipped: 0,
        reused: 0,
        changed: 0,
        making: None,
        build_ms: 5,
        trial: None,
        rows_seq: None,
        folded_through: None,
    })
}

/// A catalog that remembers its records.
#[derive(Default)]
pub(super) struct Given {
    pub state: CatalogState,
    records: Vec<Record>,
}

impl Given {
    pub fn seq(&self) -> Seq {
        self.records.len() as Seq
    }

    pub fn when(&mut self, command: &CatalogCommand) -> Result<Vec<CatalogEvent>, ModelError> {
        let events = self.state.decide(command, &stamp(self.seq()))?;
        self.apply(&events);
        Ok(events)
    }

    /// Lets these events happen, decided or not.
    pub fn apply(&mut self, events: &[CatalogEvent]) {
        for event in events {
            let seq = self.seq() + 1;
            self.state.apply(
                Meta {
                    seq,
                    at: time_of(seq),
                    actor: &actor(),
                },
                event,
            );
            self.records.push(record(seq, &event.clone().into()));
        }
    }

    /// What the events alone lead to is what is there, also through a snapshot.
    pub(super) fn replays(&self) {
        let whole = replayed(LakeState::default(), &self.records);
        assert_eq!(whole.catalog.state, self.state);
        let kept = serde_json::to_vec(&whole).expect("plain values");
        let loaded: LakeState = serde_json::from_slice(&kept).expect("what was written");
        assert_eq!(loaded.catalog.state, self.state);
    }

    pub fn and(mut self, command: &CatalogCommand) -> Self {
        self.when(command).expect("a step that is allowed");
        self
    }
}

/// When an event happened.
fn time_of(seq: Seq) -> Micros {
    1_000_000 + seq.cast_signed()
}

fn record(seq: Seq, event: &Event) -> Record {
    let draft = Draft {
        at: time_of(seq),
        request_id: "r".to_owned(),
        actor: actor(),
        idempotency: None,
        subjects: event.subjects(),
        kind: event.kind().to_owned(),
        schema: event.schema(),
        data: event.encode(),
    };
    Record {
        seq,
        draft,
        hash: GENESIS,
    }
}

pub(super) fn people() -> Given {
    Given::default().and(&create("people", "f1"))
}

#[test]
fn a_dataset_is_made_once() {
    let refused = people().when(&create("people", "f2"));
    assert!(
        matches!(
            refused,
            Err(ModelError::Exists {
                what: "dataset",
                ..
            })
        ),
        "{refused:?}"
    );
}

#[test]
fn a_name_that_does_not_fit_into_paths_and_sql_is_refused() {
    for name in ["", "../x", "a b", "1st", "a;b", "é", &"x".repeat(129)] {
        let refused = Given::default().when(&create(name, "f"));
        assert!(
            matches!(refused, Err(ModelError::BadName { .. })),
            "{name}: {refused:?}"
        );
    }
}

#[test]
fn an_unknown_dataset_is_answered_with_near_names() {
    let refused = people().when(&CatalogCommand::CommitFiles(commit(
        "poeple",
        IngestMode::Append,
        "f",
        9,
    )));
    match refused {
        Err(ModelError::NotFound { near, .. }) => assert_eq!(near, ["people"]),
        other => panic!("{other:?}"),
    }
}

#[test]
fn rows_of_another_schema_are_refused_with_the_difference() {
    let mut other = commit("people", IngestMode::Append, "f2", 9);
    other.schema = schema(&["id", "words"]);
    match people().when(&CatalogCommand::CommitFiles(other)) {
        Err(ModelError::SchemaMismatch { difference, .. }) => {
            assert_eq!(difference, "`text` is missing; `words` is new");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_same_content_again_is_nothing_and_after_a_replacement_something() {
    let mut given = people();
    let append =
        |file: &str| CatalogCommand::CommitFiles(commit("people", IngestMode::Append, file, 99));
    let replace = CatalogCommand::CommitFiles(commit("people", IngestMode::Replace, "f2", 99));
    assert!(given.when(&append("f1")).expect("allowed").is_empty());
    assert_eq!(given.when(&replace).expect("allowed").len(), 1);
    assert_eq!(given.when(&append("f1")).expect("allowed").len(), 1);
    let files: Vec<&str> = given.state.datasets["people"]
        .files
        .iter()
        .map(|file| file.entry.key.as_str())
        .collect();
    assert_eq!(files, ["f2", "f1"]);
}

#[test]
fn a_replacement_by_what_was_upserted_last_leaves_only_that() {
    let mut given = people();
    let with = |mode| CatalogCommand::CommitFiles(commit("people", mode, "f2", 99));
    given.when(&with(IngestMode::Upsert)).expect("allowed");
    let again = given.when(&with(IngestMode::Upsert)).expect("allowed");
    assert!(again.is_empty());
    let replaced = given.when(&with(IngestMode::Replace)).expect("allowed");
    assert_eq!(replaced.len(), 1);
    assert_eq!(given.state.datasets["people"].files.len(), 1);
    let again = given.when(&with(IngestMode::Replace)).expect("allowed");
    assert!(again.is_empty());
}

#[test]
fn what_was_prepared_on_an_older_state_is_stale() {
    let mut given = people();
    let read_seq = given.seq();
    let upsert = |file: &str| {
        CatalogCommand::CommitFiles(commit("people", IngestMode::Upsert, file, read_seq))
    };
    given.when(&upsert("f2")).expect("allowed");
    assert!(matches!(
        given.when(&upsert("f3")),
        Err(ModelError::Stale { .. })
    ));
    let late = given.when(&tombstone("people", "f1", 0, read_seq));
    assert!(matches!(late, Err(ModelError::Stale { .. })), "{late:?}");
}

#[test]
fn a_row_is_deleted_once() {
    let mut given = people();
    let seq = given.seq();
    assert_eq!(
        given
            .when(&tombstone("people", "f1", 3, seq))
            .expect("allowed")
            .len(),
        1
    );
    assert!(
        given
            .when(&tombstone("people", "f1", 3, seq))
            .expect("allowed")
            .is_empty()
    );
    let dataset = &given.state.datasets["people"];
    assert_eq!(dataset.row_count(), 9);
    let listed: Vec<&str> = dataset.tombstones_after(None).map(|t| t.row_key).collect();
    assert_eq!(listed, ["f1-3"]);
}

#[test]
fn a_build_is_due_until_it_is_reported_and_counts_once() {
    let mut given = people().and(&define("kb", "people"));
    let due = given.state.pending();
    assert_eq!(due.len(), 1);
    let crate::model::Work::BuildGeneration { job, .. } = due[0].clone() else {
        panic!("another kind of work");
    };
    let report = generation("kb", 1, &job, given.seq());
    assert_eq!(given.when(&report).expect("allowed").len(), 2);
    assert!(given.when(&report).expect("allowed").is_empty());
    assert!(given.state.pending().is_empty());
    assert_eq!(given.state.indexes["kb"].live, Some(1));
}

#[test]
fn rows_make_embeddings_stale_and_a_build_from_after_them_current() {
    let mut given = people().and(&define("kb", "people"));
    let job = "id-2";
    let before = given.seq();
    given = given.and(&generation("kb", 1, job, before));
    assert!(
        given.state.datasets["people"]
            .embedding_stale_since
            .is_none()
    );
    let append = commit("people", IngestMode::Append, "f2", given.seq());
    given = given.and(&CatalogCommand::CommitFiles(append));
    assert!(
        given.state.datasets["people"]
            .embedding_stale_since
            .is_some()
    );
    let asked = given.seq();
    given = given.and(&CatalogCommand::RequestGeneration {
        index: "kb".to_owned(),
        config: None,
    });
    given = given.and(&generation("kb", 2, &format!("id-{asked}"), asked));
    assert!(
        given.state.datasets["people"]
            .embedding_stale_since
            .is_none()
    );
}

#[test]
fn an_index_needs_columns_that_are_there() {
    let mut wrong = define("kb", "people");
    if let CatalogCommand::DefineIndex(define) = &mut wrong {
        define.spec.text = TextSpec::Template("{txt}".to_owned());
    }
    match people().when(&wrong) {
        Err(ModelError::NotFound {
            what: "column",
            near,
            ..
        }) => assert_eq!(near, ["text"]),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_rewrite_that_would_lose_or_bring_rows_is_refused() {
    let mut given = people();
    let seq = given.seq();
    given = given.and(&tombstone("people", "f1", 3, seq));
    let refused = |given: &mut Given, command: &CatalogCommand| {
        let refused = given.when(command);
        assert!(
            matches!(refused, Err(ModelError::Impossible { .. })),
            "{refused:?}"
        );
    };
    for rows in [8, 10] {
        let mut compact = past::compact(&given.state, "people", "f9");
        if let CatalogCommand::CompactFiles(compact) = &mut compact {
            compact.added[0].rows = rows;
        }
        refused(&mut given, &compact);
    }
    let mut short = past::scrub(&given.state, "people", 1);
    if let CatalogCommand::ScrubFiles(scrub) = &mut short {
        scrub.scrubs[0].added.pop();
    }
    refused(&mut given, &short);
    let mut other = past::scrub(&given.state, "people", 1);
    if let CatalogCommand::ScrubFiles(scrub) = &mut other {
        scrub.scrubs[0].removed = [4].into_iter().collect();
    }
    refused(&mut given, &other);
    let scrub = past::scrub(&given.state, "people", 1);
    given.and(&scrub);
}

#[test]
fn a_deletion_in_kept_files_only_is_in_no_live_file() {
    let mut given = people();
    let replace = commit("people", IngestMode::Replace, "f2", given.seq());
    given = given.and(&CatalogCommand::CommitFiles(replace));
    let seq = given.seq();
    given = given.and(&tombstone("people", "f1", 3, seq));
    let dataset = &given.state.datasets["people"];
    assert_eq!(dataset.materialized_seq, dataset.last_tombstone_seq());
    assert!(given.state.owes_erasure(dataset), "the kept file holds it");
}

/// A step of a random life of a lake; what is refused is no step.
#[derive(Debug, Clone)]
enum Step {
    Create(u8),
    Append(u8, u8),
    Replace(u8, u8),
    Tombstone(u8, u8, u32),
    Define(u8, u8),
    Build(u8),
    Drop(u8),
    Patch(u8, String),
    Scrub(u8),
    Compact(u8, u8),
    Purge(u8),
    Retire(u8),
    Forget,
    Confirm(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..3_u8).prop_map(Step::Create),
        (0..3_u8, 0..9_u8).prop_map(|(d, f)| Step::Append(d, f)),
        (0..3_u8, 0..9_u8).prop_map(|(d, f)| Step::Replace(d, f)),
        (0..3_u8, 0..9_u8, 0..10_u32).prop_map(|(d, f, r)| Step::Tombstone(d, f, r)),
        (0..2_u8, 0..3_u8).prop_map(|(i, d)| Step::Define(i, d)),
        (0..2_u8).prop_map(Step::Build),
        (0..3_u8).prop_map(Step::Drop),
        (0..3_u8, "[a-z]{0,4}").prop_map(|(d, text)| Step::Patch(d, text)),
        (0..3_u8).prop_map(Step::Scrub),
        (0..3_u8, 10..19_u8).prop_map(|(d, f)| Step::Compact(d, f)),
        (0..3_u8).prop_map(Step::Purge),
        (0..2_u8).prop_map(Step::Retire),
        Just(Step::Forget),
        (0..3_u8).prop_map(Step::Confirm),
    ]
}

fn command(step: &Step, given: &Given) -> CatalogCommand {
    let dataset = |number: &u8| format!("d{number}");
    let file = |d: &u8, f: &u8| format!("{d}/{f}");
    let seq = given.seq();
    match step {
        Step::Create(d) => create(&dataset(d), &file(d, &0)),
        Step::Append(d, f) => {
            CatalogCommand::CommitFiles(commit(&dataset(d), IngestMode::Append, &file(d, f), seq))
        }
        Step::Replace(d, f) => {
            CatalogCommand::CommitFiles(commit(&dataset(d), IngestMode::Replace, &file(d, f), seq))
        }
        Step::Tombstone(d, f, row) => tombstone(&dataset(d), &file(d, f), *row, seq),
        Step::Define(i, d) => define(&format!("i{i}"), &dataset(d)),
        Step::Build(i) => {
            let name = format!("i{i}");
            let due = given
                .state
                .indexes
                .get(&name)
                .and_then(|index| index.building.clone());
            let (number, job) = due.unwrap_or((1, "none".to_owned()));
            generation(&name, number, &job, seq)
        }
        Step::Drop(d) => CatalogCommand::DropDataset(DropDataset {
            dataset: dataset(d),
            cascade: d % 2 == 0,
        }),
        Step::Scrub(d) => past::scrub(&given.state, &dataset(d), seq),
        Step::Compact(d, f) => past::compact(&given.state, &dataset(d), &file(d, f)),
        Step::Purge(d) => CatalogCommand::PurgeFiles {
            dataset: dataset(d),
            horizon: 1_000_000,
        },
        Step::Retire(i) => CatalogCommand::RetireGenerations {
            index: format!("i{i}"),
            older_than: seq,
        },
        Step::Forget => CatalogCommand::ForgetObjects {
            objects: given.state.doomed.keys().cloned().collect(),
        },
        Step::Confirm(d) => CatalogCommand::ConfirmErasure {
            dataset: dataset(d),
            through: seq,
            checked: std::collections::BTreeMap::new(),
        },
        Step::Patch(d, text) => CatalogCommand::PatchDataset(PatchDataset {
            dataset: dataset(d),
            description: Some(text.clone()),
            ..PatchDataset::default()
        }),
    }
}

fn replayed<'a>(mut lake: LakeState, records: impl IntoIterator<Item = &'a Record>) -> LakeState {
    for record in records {
        lake.apply(record).expect("a record of our own");
    }
    lake
}

proptest! {
    #[test]
    fn a_snapshot_and_the_tail_are_the_whole(
        steps in prop::collection::vec(step(), 1..60),
        cut in 0..1000_usize,
    ) {
        let mut given = Given::default();
        for step in &steps {
            let command = command(step, &given);
            // A refusal changes nothing, which the replay below shows.
            let _ = given.when(&command);
        }
        let whole = replayed(LakeState::default(), &given.records);
        prop_assert_eq!(&whole.catalog.state, &given.state);
        let cut = cut % (given.records.len() + 1);
        let head = replayed(LakeState::default(), &given.records[..cut]);
        let snapshot = serde_json::to_vec(&head).expect("plain values");
        let loaded: LakeState = serde_json::from_slice(&snapshot).expect("what was written");
        let tail = replayed(loaded, &given.records[cut..]);
        prop_assert_eq!(tail.hash(), whole.hash());
        let twice = replayed(whole.clone(), &given.records);
        prop_assert_eq!(twice.hash(), whole.hash());
    }
}
