//! What happens in a made-up lake: the drafts that `bench journal` writes and replays.
//! A function of the event's number alone, so that two runs replay the same journal.

use std::{collections::VecDeque, sync::Arc};

use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use lakehouse_journal::{
    model::{
        Event,
        access::Role,
        catalog::{DatasetSpec, DeletionVector, FileEntry, IngestMode, SchemaDoc, Source},
        event::{
            AccessEvent, CatalogEvent, CompactionChange, DatasetCreated, DatasetPatched,
            DeletedRows, FilesCommitted, FilesCompacted, RowsTombstoned, TokenIssued, TokenRevoked,
        },
    },
    record::{Actor, Draft, Idempotency, Micros},
};

use crate::query::schema_doc;

/// Datasets of the lake.
const DATASETS: u64 = 100;
/// A dataset with so many files is compacted instead of getting another one.
const FILES_MAX: usize = 20;
const FILE_ROWS: u64 = 100_000;
/// When it begins, and how far apart events are: a million of them take a month.
const BEGIN: Micros = 1_760_000_000_000_000;
const STEP: Micros = 2_600_000;
/// Every so many requests carry an idempotency key.
const KEYED: u64 = 10;

/// An endless sequence of drafts. Of a hundred events, 5 change files, 20 delete a row, 5 give out
/// or revoke a token, and 70 describe a dataset.
pub(super) struct Story {
    number: u64,
    schema: SchemaDoc,
    tables: Vec<Table>,
    tokens: VecDeque<String>,
}

#[derive(Default)]
struct Table {
    name: String,
    /// Object keys of the live files.
    files: Vec<String>,
    deleted: u32,
}

impl Story {
    pub(super) fn new() -> Self {
        let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let schema = Schema::new(vec![
            Field::new("id", DataType::Int64, false),
            Field::new("name", DataType::Utf8, false),
            Field::new("amount", DataType::Decimal128(15, 2), true),
            Field::new("created_at", time, false),
            Field::new("note", DataType::Utf8, true),
        ]);
        let tables = (0..DATASETS).map(|n| Table {
            name: format!("dataset_{n:03}"),
            ..Table::default()
        });
        Self {
            number: 0,
            schema: schema_doc(&Arc::new(schema)),
            tables: tables.collect(),
            tokens: VecDeque::new(),
        }
    }

    fn event(&mut self) -> Event {
        let n = self.number;
        if n < DATASETS {
            return self.created(n).into();
        }
        let (round, slot) = (n / 100, n % 100);
        // Every slot comes to every dataset in turn.
        let table = usize::try_from((round + slot * 37) % DATASETS).expect("it is below a hundred");
        match slot {
            0..=4 => self.changed_files(table),
            5..=24 if !self.tables[table].files.is_empty() => self.deleted(table).into(),
            25..=27 => self.issued().into(),
            28..=29 => self.revoked().into(),
            _ => self.patched(table).into(),
        }
    }

    fn created(&self, n: u64) -> CatalogEvent {
        DatasetCreated {
            dataset: format!("dataset_{n:03}"),
            spec: DatasetSpec {
                id: id(n, "dataset"),
                schema: self.schema.clone(),
                key: vec!["id".to_owned()],
                bucket: "primary".to_owned(),
                owner: "admin".to_owned(),
            },
        }
        .into()
    }

    fn changed_files(&mut self, table: usize) -> Event {
        let n = self.number;
        let table = &mut self.tables[table];
        let added = file(n, &table.name);
        let retired = if table.files.len() < FILES_MAX {
            Vec::new()
        } else {
            std::mem::take(&mut table.files)
        };
        table.files.push(added.key.clone());
        if retired.is_empty() {
            committed(n, &table.name, added).into()
        } else {
            compacted(n, &table.name, added, retired).into()
        }
    }

    fn deleted(&mut self, table: usize) -> CatalogEvent {
        let n = self.number;
        let table = &mut self.tables[table];
        table.deleted += 1;
        let files = table.files.len();
        let file = &table.files[table.deleted as usize % files];
        let position = table.deleted.wrapping_mul(7_919) % 100_000;
        RowsTombstoned {
            dataset: table.name.clone(),
            rows: vec![(n * 31).to_string()],
            deleted: vec![DeletedRows {
                file: file.clone(),
                positions: DeletionVector::from_iter([position]),
            }],
            missing: Vec::new(),
            reason: format!("request {n} of a data subject"),
            on_behalf_of: None,
        }
        .into()
    }

    fn issued(&mut self) -> AccessEvent {
        let id = id(self.number, "token");
        self.tokens.push_back(id.clone());
        TokenIssued {
            name: format!("reader-{}", self.number),
            role: Role::Analyst,
            secret_hash: hash(self.number, "secret"),
            expires_at: None,
            id,
            views: Vec::new(),
            tools: Vec::new(),
            limits: None,
        }
        .into()
    }

    fn revoked(&mut self) -> AccessEvent {
        let oldest = self.tokens.pop_front();
        let id = oldest.expect("of five token events, the first three give one out");
        TokenRevoked { id }.into()
    }

    fn patched(&self, table: usize) -> CatalogEvent {
        let n = self.number;
        DatasetPatched {
            dataset: self.tables[table].name.clone(),
            description: Some(format!("What the team keeps here, as of change {n}.")),
            owner: n.is_multiple_of(7).then(|| format!("team-{}", n % 23)),
            tags: n
                .is_multiple_of(5)
                .then(|| vec!["staffing".to_owned(), format!("quarter-{}", n % 40)]),
            ..DatasetPatched::default()
        }
        .into()
    }
}

impl Iterator for Story {
    type Item = Draft;

    fn next(&mut self) -> Option<Draft> {
        let event = self.event();
        let n = self.number;
        self.number += 1;
        let steps = Micros::try_from(n).expect("a run has far fewer events");
        Some(Draft {
            at: BEGIN + steps * STEP,
            request_id: id(n, "request"),
            actor: Actor {
                name: "loader".to_owned(),
                role: "operator".to_owned(),
            },
            idempotency: n.is_multiple_of(KEYED).then(|| Idempotency {
                key: format!("loader/{}", id(n, "key")),
                fingerprint: hash(n, "fingerprint"),
                records: 1,
            }),
            subjects: event.subjects(),
            kind: event.kind().to_owned(),
            schema: event.schema(),
            data: event.encode(),
        })
    }
}

fn file(n: u64, dataset: &str) -> FileEntry {
    let name = hash(n, "file");
    FileEntry {
        erased: DeletionVector::default(),
        bucket: "primary".to_owned(),
        key: format!("datasets/{dataset}/{}.parquet", &name[..40]),
        rows: FILE_ROWS,
        bytes: 4 << 20,
        blake3: name,
        sorted_by_key: true,
        superseded: DeletionVector::default(),
    }
}

fn committed(n: u64, dataset: &str, added: FileEntry) -> CatalogEvent {
    FilesCommitted {
        proposals: std::collections::BTreeMap::new(),
        erased_skipped: 0,
        dataset: dataset.to_owned(),
        mode: IngestMode::Append,
        read_seq: n,
        rows: added.rows,
        batches: added.rows.div_ceil(8_192),
        source_bytes: 3 * added.bytes,
        added: vec![added],
        retired: Vec::new(),
        deleted: Vec::new(),
        schema: None,
        source: Source {
            kind: "file".to_owned(),
            name: "csv".to_owned(),
            content_hash: hash(n, "content"),
            watermark: None,
        },
        elapsed_ms: 120,
    }
    .into()
}

fn compacted(n: u64, dataset: &str, added: FileEntry, retired: Vec<String>) -> CatalogEvent {
    let files = retired.len() as u64;
    FilesCompacted {
        content_hash: String::new(),
        dataset: dataset.to_owned(),
        read_seq: n,
        change: CompactionChange {
            erased_dropped: 0,
            files_before: files,
            files_after: 1,
            rows_before: files * FILE_ROWS,
            rows_after: added.rows,
            bytes_before: files * added.bytes,
            bytes_after: added.bytes,
            rows_dropped: 0,
        },
        added: vec![added],
        retired,
    }
    .into()
}

/// 64 hexadecimal digits.
fn hash(n: u64, what: &str) -> String {
    let text = format!("{what} {n}");
    blake3::hash(text.as_bytes()).to_hex().to_string()
}

/// As long as a UUID.
fn id(n: u64, what: &str) -> String {
    hash(n, what)[..36].to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_story_is_the_same_every_time_and_has_its_mix() {
        let kinds = |drafts: Vec<Draft>| {
            let mut kinds = BTreeMap::<String, usize>::new();
            for draft in drafts {
                *kinds.entry(draft.kind).or_default() += 1;
            }
            kinds
        };
        let first: Vec<_> = Story::new().take(100_000).collect();
        let second: Vec<_> = Story::new().take(100_000).collect();
        let text = |draft: &Draft| serde_json::to_string(draft).expect("plain values");
        assert!(first.iter().map(text).eq(second.iter().map(text)));
        let kinds = kinds(first);
        assert_eq!(kinds["DatasetCreated"], 100);
        let files = kinds["FilesCommitted"] + kinds["FilesCompacted"];
        assert_eq!(files, 4_995);
        assert!(kinds["FilesCompacted"] > 100, "{kinds:?}");
        assert!(kinds["RowsTombstoned"] > 19_000, "{kinds:?}");
        assert_eq!(kinds["TokenIssued"], 2_997);
        assert_eq!(kinds["TokenRevoked"], 1_998);
    }
}
