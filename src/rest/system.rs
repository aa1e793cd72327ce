//! The schema `system`: the lake about itself, for those who may read the journal. Each table is
//! made from the published snapshot when a session is.

use std::{collections::BTreeSet, sync::Arc};

use arrow::{
    array::{ArrayRef, Int64Array, StringArray},
    datatypes::{DataType, Field, Schema},
    record_batch::RecordBatch,
};
use datafusion::{catalog::TableProvider, datasource::MemTable};
use lakehouse_journal::model::catalog::Index;

use super::{Edge, problem::Problem, times, vectors::must_show_all};
use crate::{
    engines::{audit::AuditFilter, errors::ErrorFilter},
    query::Reader,
};

type Named = (String, Arc<dyn TableProvider>);

/// Most events that `system.events` shows: the newest.
const EVENTS_MAX: u64 = 100_000;

/// Most lines that `system.audit` shows: the newest.
const LINES_MAX: usize = 100_000;

/// `system.datasets`, `files`, `tombstones`, `indexes`, `trials` of indexes that answer the reader,
/// `buckets`, `errors`, `events`, and `audit` for a statement that names it: its files are read for it.
///
/// # Errors
/// 503 when the journal or the audit cannot be read.
pub fn tables(edge: &Edge, sql: &str, reader: &Reader) -> Result<Vec<Named>, Problem> {
    let mut tables = vec![
        datasets(edge)?,
        files(edge)?,
        tombstones(edge)?,
        indexes(edge)?,
        trials(edge, reader)?,
        buckets(edge)?,
        errors(edge)?,
        events(edge)?,
    ];
    if sql.to_ascii_lowercase().contains("audit") {
        tables.push(audit(edge)?);
    }
    Ok(tables)
}

/// A table's columns while they grow.
enum Cells {
    Text(Vec<Option<String>>),
    Number(Vec<Option<i64>>),
}

struct Builder {
    name: &'static str,
    columns: Vec<(&'static str, Cells)>,
}

impl Builder {
    fn new(name: &'static str, columns: &[(&'static str, bool)]) -> Self {
        let empty = |number| {
            if number {
                Cells::Number(Vec::new())
            } else {
                Cells::Text(Vec::new())
            }
        };
        Self {
            name,
            columns: columns
                .iter()
                .map(|(name, number)| (*name, empty(*number)))
                .collect(),
        }
    }

    fn row(&mut self, texts: &[Option<String>], numbers: &[u64]) {
        let (mut texts, mut numbers) = (texts.iter(), numbers.iter());
        for (_, cells) in &mut self.columns {
            match cells {
                Cells::Text(column) => column.push(texts.next().cloned().flatten()),
                Cells::Number(column) => {
                    column.push(
                        numbers
                            .next()
                            .and_then(|number| i64::try_from(*number).ok()),
                    );
                }
            }
        }
    }

    fn finish(self) -> Result<Named, Problem> {
        let mut fields = Vec::new();
        let mut arrays: Vec<ArrayRef> = Vec::new();
        for (name, cells) in self.columns {
            let (data_type, array): (DataType, ArrayRef) = match cells {
                Cells::Text(values) => (DataType::Utf8, Arc::new(StringArray::from(values))),
                Cells::Number(values) => (DataType::Int64, Arc::new(Int64Array::from(values))),
            };
            fields.push(Field::new(name, data_type, true));
            arrays.push(array);
        }
        let schema = Arc::new(Schema::new(fields));
        let batch = RecordBatch::try_new(Arc::clone(&schema), arrays)
            .map_err(|error| Problem::internal(&error))?;
        let table = MemTable::try_new(schema, vec![vec![batch]])
            .map_err(|error| Problem::internal(&error))?;
        Ok((self.name.to_owned(), Arc::new(table)))
    }
}

fn datasets(edge: &Edge) -> Result<Named, Problem> {
    let columns = [
        ("name", false),
        ("owner", false),
        ("bucket", false),
        ("created_at", false),
        ("updated_at", false),
        ("row_count", true),
        ("bytes", true),
        ("files", true),
    ];
    let mut table = Builder::new("datasets", &columns);
    for dataset in edge.lake.catalog().state.datasets.values() {
        let texts = [
            dataset.name.clone(),
            dataset.owner.clone(),
            dataset.bucket.clone(),
            times::text(dataset.created_at),
            times::text(dataset.updated_at),
        ];
        let files = dataset.files.len() as u64;
        table.row(
            &texts.map(Some),
            &[dataset.row_count(), dataset.bytes(), files],
        );
    }
    table.finish()
}

fn files(edge: &Edge) -> Result<Named, Problem> {
    let columns = [
        ("dataset", false),
        ("bucket", false),
        ("key", false),
        ("blake3", false),
        ("rows", true),
        ("deleted_rows", true),
        ("bytes", true),
        ("added_seq", true),
    ];
    let mut table = Builder::new("files", &columns);
    for dataset in edge.lake.catalog().state.datasets.values() {
        for file in &dataset.files {
            let entry = &file.entry;
            let texts = [&dataset.name, &entry.bucket, &entry.key, &entry.blake3];
            let numbers = [entry.rows, file.deleted.len(), entry.bytes, file.added_seq];
            table.row(&texts.map(|text| Some(text.clone())), &numbers);
        }
    }
    table.finish()
}

fn tombstones(edge: &Edge) -> Result<Named, Problem> {
    let columns = [
        ("dataset", false),
        ("row_key", false),
        ("deleted_at", false),
        ("actor", false),
        ("reason", false),
        ("journal_seq", true),
    ];
    let mut table = Builder::new("tombstones", &columns);
    for dataset in edge.lake.catalog().state.datasets.values() {
        for tombstone in dataset.tombstones_after(None) {
            let batch = tombstone.batch;
            let texts = [
                dataset.name.clone(),
                tombstone.row_key.to_owned(),
                times::text(batch.at),
                batch
                    .on_behalf_of
                    .clone()
                    .unwrap_or_else(|| batch.actor.name.clone()),
                batch.reason.clone(),
            ];
            table.row(&texts.map(Some), &[tombstone.seq]);
        }
    }
    table.finish()
}

fn indexes(edge: &Edge) -> Result<Named, Problem> {
    let columns = [
        ("name", false),
        ("source", false),
        ("provider", false),
        ("model", false),
        ("generation", true),
        ("vectors", true),
    ];
    let mut table = Builder::new("indexes", &columns);
    for index in edge.lake.catalog().state.indexes.values() {
        let spec = &index.spec;
        let texts = [&index.name, &spec.source, &spec.provider, &spec.model];
        let live = index.live_generation();
        let numbers = live.map_or([0, 0], |live| [live.generation, live.vectors]);
        table.row(&texts.map(|text| Some(text.clone())), &numbers);
    }
    table.finish()
}

fn trials(edge: &Edge, reader: &Reader) -> Result<Named, Problem> {
    let columns = [
        ("at", false),
        ("id", false),
        ("index", false),
        ("eval", false),
        ("quantization", false),
        ("refused", false),
        ("seq", true),
        ("connectivity", true),
        ("ef_construction", true),
        ("ef_search", true),
        ("k", true),
        ("recall_ppm", true),
        ("p50_ns", true),
        ("p95_ns", true),
        ("p99_ns", true),
        ("brute_force_p50_ns", true),
        ("build_ms", true),
        ("memory_bytes", true),
        ("vectors", true),
    ];
    let mut table = Builder::new("trials", &columns);
    let catalog = edge.lake.catalog();
    let answers = |index: &&Arc<Index>| must_show_all(edge, &catalog.state, index, reader).is_ok();
    let shown: BTreeSet<&str> = catalog
        .state
        .indexes
        .values()
        .filter(answers)
        .map(|index| index.name.as_str())
        .collect();
    for (seq, kept) in &catalog.state.quality.trials {
        let (trial, config) = (&kept.trial, &kept.trial.config);
        if !shown.contains(trial.index.as_str()) {
            continue;
        }
        let texts = [
            Some(times::text(kept.at)),
            Some(trial.id.clone()),
            Some(trial.index.clone()),
            Some(trial.eval.clone()),
            config.quantization.clone(),
            trial.refused.clone(),
        ];
        let set = |value: Option<u32>| u64::from(value.unwrap_or_default());
        let numbers = [
            *seq,
            set(config.connectivity),
            set(config.ef_construction),
            set(config.ef_search),
            u64::from(trial.k),
            u64::from(trial.recall_ppm),
            trial.latency_ns.p50,
            trial.latency_ns.p95,
            trial.latency_ns.p99,
            trial.brute_force_p50_ns,
            trial.build_ms,
            trial.memory_bytes,
            trial.vectors,
        ];
        table.row(&texts, &numbers);
    }
    table.finish()
}

fn buckets(edge: &Edge) -> Result<Named, Problem> {
    let mut table = Builder::new("buckets", &[("name", false), ("role", false)]);
    for name in edge.lake.buckets().into_keys() {
        let role = if name == edge.lake.primary() {
            "primary"
        } else {
            "data"
        };
        table.row(&[Some(name), Some(role.to_owned())], &[]);
    }
    table.finish()
}

fn errors(edge: &Edge) -> Result<Named, Problem> {
    let columns = [
        ("at", false),
        ("bucket", false),
        ("operation", false),
        ("key", false),
        ("error", false),
        ("rescued", true),
        ("times", true),
    ];
    let mut table = Builder::new("errors", &columns);
    let all = ErrorFilter {
        limit: usize::MAX,
        ..ErrorFilter::default()
    };
    for noted in edge.buckets.errors().list(&all) {
        let at = times::text(noted.at);
        let texts = [at, noted.bucket, noted.operation, noted.key, noted.error];
        table.row(&texts.map(Some), &[u64::from(noted.rescued), noted.times]);
    }
    table.finish()
}

fn events(edge: &Edge) -> Result<Named, Problem> {
    let columns = [
        ("at", false),
        ("kind", false),
        ("actor", false),
        ("role", false),
        ("request_id", false),
        ("data", false),
        ("seq", true),
        ("version", true),
    ];
    let mut table = Builder::new("events", &columns);
    let reader = edge.lake.journal().reader();
    let after = reader.stats().events.saturating_sub(EVENTS_MAX);
    reader.for_each(after, &mut |record| {
        let draft = record.draft;
        let texts = [
            times::text(draft.at),
            draft.kind,
            draft.actor.name,
            draft.actor.role,
            draft.request_id,
            draft.data.get().to_owned(),
        ];
        table.row(&texts.map(Some), &[record.seq, u64::from(draft.schema)]);
        std::ops::ControlFlow::Continue(())
    })?;
    table.finish()
}

fn audit(edge: &Edge) -> Result<Named, Problem> {
    let columns = [
        ("at", false),
        ("principal", false),
        ("role", false),
        ("on_behalf_of", false),
        ("action", false),
        ("object", false),
        ("tool", false),
        ("statement", false),
        ("allowed", false),
        ("code", false),
        ("request_id", false),
        ("receipt", false),
        ("seq", true),
        ("rows", true),
        ("journal_seq", true),
    ];
    let mut table = Builder::new("audit", &columns);
    let filter = AuditFilter {
        limit: LINES_MAX,
        ..AuditFilter::default()
    };
    for line in edge.audit.read_now(&filter)? {
        let entry = line.entry;
        let texts = [
            Some(times::text(line.at)),
            Some(entry.principal),
            Some(entry.role),
            entry.on_behalf_of,
            Some(entry.action),
            entry.objects.into_iter().next(),
            entry.tool,
            entry.statement,
            Some(entry.allowed.to_string()),
            entry.code,
            Some(entry.request_id),
            entry.receipt,
        ];
        let numbers = [
            line.seq,
            entry.rows.unwrap_or(u64::MAX),
            entry.journal_seq.unwrap_or(u64::MAX),
        ];
        table.row(&texts, &numbers);
    }
    table.finish()
}
