//! How events change the catalog's state. Total: an event about something that is not there (it
//! cannot be, as `decide` saw it) changes nothing.

use std::sync::Arc;

use super::{
    CatalogState, DataFile, Dataset, Generation, Index, IngestMode, LineageEntry, RefreshPolicy,
    TombstoneBatch,
};
use crate::model::{
    Meta,
    event::{
        CatalogEvent, DatasetCreated, DatasetPatched, DeletedRows, FilesCommitted, FilesCompacted,
        GenerationBuilt, GenerationFailed, IndexDefined, RowsTombstoned,
    },
};

impl CatalogState {
    pub(super) fn apply_event(&mut self, meta: Meta<'_>, event: &CatalogEvent) {
        match event {
            CatalogEvent::DatasetCreated(e) => self.dataset_created(meta, e),
            CatalogEvent::FilesCommitted(e) => self.files_committed(meta, e),
            CatalogEvent::FilesCompacted(e) => self.files_compacted(meta, e),
            CatalogEvent::DatasetPatched(e) => self.dataset_patched(meta, e),
            CatalogEvent::DatasetDropped(e) => {
                self.datasets.remove(&e.dataset);
            }
            CatalogEvent::RowsTombstoned(e) => self.rows_tombstoned(meta, e),
            CatalogEvent::IndexDefined(e) => self.index_defined(meta, e),
            CatalogEvent::GenerationRequested(e) => {
                self.change_index(&e.index, |index| {
                    index.building = Some((e.generation, e.job.clone()));
                });
            }
            CatalogEvent::GenerationBuilt(e) => self.generation_built(meta, e),
            CatalogEvent::GenerationFailed(e) => self.generation_failed(e),
            CatalogEvent::IndexPromoted(e) => self.index_promoted(meta, &e.index, e.generation),
            CatalogEvent::IndexDropped(e) => {
                self.indexes.remove(&e.index);
            }
        }
    }

    fn change_dataset(&mut self, name: &str, change: impl FnOnce(&mut Dataset)) {
        if let Some(dataset) = self.datasets.get_mut(name) {
            change(Arc::make_mut(dataset));
        }
    }

    fn change_index(&mut self, name: &str, change: impl FnOnce(&mut Index)) {
        if let Some(index) = self.indexes.get_mut(name) {
            change(Arc::make_mut(index));
        }
    }

    fn dataset_created(&mut self, meta: Meta<'_>, event: &DatasetCreated) {
        let spec = event.spec.clone();
        let dataset = Dataset {
            id: spec.id,
            name: event.dataset.clone(),
            schema: spec.schema,
            key: spec.key,
            bucket: spec.bucket,
            owner: spec.owner,
            description: String::new(),
            tags: Vec::new(),
            sensitivity: std::collections::BTreeMap::new(),
            files: imbl::Vector::new(),
            files_seq: meta.seq,
            rows_seq: meta.seq,
            materialized_seq: 0,
            contents: imbl::OrdMap::new(),
            last_content: String::new(),
            lineage: imbl::Vector::new(),
            tombstones: imbl::OrdMap::new(),
            tombstone_batches: imbl::OrdMap::new(),
            created_at: meta.at,
            updated_at: meta.at,
            last_embedded_at: None,
            embedding_stale_since: None,
            embedding_refresh_policy: RefreshPolicy::Manual,
            embedding: None,
        };
        self.datasets
            .insert(event.dataset.clone(), Arc::new(dataset));
    }

    fn files_committed(&mut self, meta: Meta<'_>, event: &FilesCommitted) {
        let indexed = self.indexes_over(&event.dataset).next().is_some();
        self.change_dataset(&event.dataset, |dataset| {
            if !event.retired.is_empty() {
                dataset
                    .files
                    .retain(|file| !event.retired.contains(&file.entry.key));
            }
            delete_rows(dataset, &event.deleted);
            for entry in &event.added {
                dataset.files.push_back(Arc::new(DataFile {
                    entry: entry.clone(),
                    added_seq: meta.seq,
                    deleted: entry.superseded.clone(),
                }));
            }
            if let Some(schema) = &event.schema {
                dataset.schema = schema.clone();
            }
            if event.mode == IngestMode::Replace {
                dataset.contents.clear();
            }
            dataset
                .contents
                .insert(event.source.content_hash.clone(), meta.seq);
            dataset.last_content.clone_from(&event.source.content_hash);
            dataset.lineage.push_back(LineageEntry {
                source: event.source.clone(),
                mode: event.mode,
                rows: event.rows,
                at: meta.at,
                journal_seq: meta.seq,
            });
            dataset.files_seq = meta.seq;
            dataset.rows_seq = meta.seq;
            dataset.updated_at = meta.at;
            if (indexed || dataset.embedding.is_some()) && dataset.embedding_stale_since.is_none() {
                dataset.embedding_stale_since = Some(meta.at);
            }
        });
    }

    fn files_compacted(&mut self, meta: Meta<'_>, event: &FilesCompacted) {
        self.change_dataset(&event.dataset, |dataset| {
            dataset
                .files
                .retain(|file| !event.retired.contains(&file.entry.key));
            for entry in &event.added {
                dataset.files.push_back(Arc::new(DataFile {
                    entry: entry.clone(),
                    added_seq: meta.seq,
                    deleted: entry.superseded.clone(),
                }));
            }
            dataset.files_seq = meta.seq;
            dataset.materialized_seq = event.read_seq;
            dataset.updated_at = meta.at;
        });
    }

    fn dataset_patched(&mut self, meta: Meta<'_>, event: &DatasetPatched) {
        self.change_dataset(&event.dataset, |dataset| {
            let event = event.clone();
            if let Some(description) = event.description {
                dataset.description = description;
            }
            if let Some(owner) = event.owner {
                dataset.owner = owner;
            }
            if let Some(tags) = event.tags {
                dataset.tags = tags;
            }
            dataset.sensitivity.extend(event.sensitivity);
            if let Some(policy) = event.embedding_refresh_policy {
                dataset.embedding_refresh_policy = policy;
            }
            if let Some(embedding) = event.embedding {
                dataset.embedding = Some(embedding);
                dataset.embedding_stale_since.get_or_insert(meta.at);
            }
            dataset.updated_at = meta.at;
        });
    }

    fn rows_tombstoned(&mut self, meta: Meta<'_>, event: &RowsTombstoned) {
        self.change_dataset(&event.dataset, |dataset| {
            delete_rows(dataset, &event.deleted);
            for key in &event.rows {
                dataset.tombstones.insert(key.clone(), meta.seq);
            }
            let batch = TombstoneBatch {
                at: meta.at,
                actor: meta.actor.clone(),
                on_behalf_of: event.on_behalf_of.clone(),
                reason: event.reason.clone(),
                rows: event.rows.len() as u64,
            };
            dataset.tombstone_batches.insert(meta.seq, batch);
            dataset.updated_at = meta.at;
        });
    }

    fn index_defined(&mut self, meta: Meta<'_>, event: &IndexDefined) {
        let index = Index {
            name: event.index.clone(),
            spec: event.spec.clone(),
            generations: Vec::new(),
            live: None,
            building: Some((1, event.job.clone())),
            failed: None,
            created_at: meta.at,
        };
        self.indexes.insert(event.index.clone(), Arc::new(index));
    }

    fn generation_built(&mut self, meta: Meta<'_>, event: &GenerationBuilt) {
        self.change_index(&event.index, |index| {
            index.generations.push(Generation {
                generation: event.generation,
                job: event.job.clone(),
                source_seq: event.source_seq,
                prefix: event.prefix.clone(),
                files: event.files.clone(),
                vectors: event.vectors,
                skipped: event.skipped,
                build_ms: event.build_ms,
                built_at: meta.at,
            });
            index.building = None;
            index.failed = None;
        });
    }

    fn generation_failed(&mut self, event: &GenerationFailed) {
        self.change_index(&event.index, |index| {
            index.building = None;
            index.failed = Some((event.job.clone(), event.error.clone()));
        });
    }

    fn index_promoted(&mut self, meta: Meta<'_>, name: &str, generation: u64) {
        let mut built_from = None;
        self.change_index(name, |index| {
            index.live = Some(generation);
            built_from = index
                .live_generation()
                .map(|generation| (index.spec.source.clone(), generation.source_seq));
        });
        let Some((source, source_seq)) = built_from else {
            return;
        };
        self.change_dataset(&source, |dataset| {
            if dataset.rows_seq <= source_seq {
                dataset.last_embedded_at = Some(meta.at);
                dataset.embedding_stale_since = None;
            }
        });
    }
}

fn delete_rows(dataset: &mut Dataset, deleted: &[DeletedRows]) {
    for rows in deleted {
        for file in dataset
            .files
            .iter_mut()
            .filter(|file| file.entry.key == rows.file)
        {
            Arc::make_mut(file).deleted.add(&rows.positions);
        }
    }
}
