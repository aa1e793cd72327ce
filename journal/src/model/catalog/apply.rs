//! How events change the catalog's state. Total: an event about something that is not there (it
//! cannot be, as `decide` saw it) changes nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    CatalogState, CompactionPolicy, DataFile, Dataset, DeletionVector, Doomed, ErasedKeys,
    FileEntry, Generation, Index, IngestMode, JournalKeys, KeptTrial, LineageEntry, RefreshPolicy,
    RetainedFile, Scrubbed, TombstoneBatch,
};
use crate::model::{
    Meta,
    event::{
        CatalogEvent, DatasetCreated, DatasetPatched, DeletedRows, FilesCommitted, FilesCompacted,
        FilesPurged, FilesScrubbed, GenerationBuilt, GenerationFailed, GenerationsRetired,
        IndexDefined, RowsTombstoned, Scrub,
    },
};
use crate::record::Seq;

impl CatalogState {
    pub(super) fn apply_event(&mut self, meta: Meta<'_>, event: &CatalogEvent) {
        match event {
            CatalogEvent::DatasetCreated(e) => self.dataset_created(meta, e),
            CatalogEvent::FilesCommitted(e) => self.files_committed(meta, e),
            CatalogEvent::FilesCompacted(e) => self.files_compacted(meta, e),
            CatalogEvent::DatasetPatched(e) => self.dataset_patched(meta, e),
            CatalogEvent::DatasetDropped(e) => self.dataset_dropped(meta, &e.dataset),
            CatalogEvent::FilesScrubbed(e) => self.files_scrubbed(meta, e),
            CatalogEvent::FilesPurged(e) => self.files_purged(meta, e),
            CatalogEvent::ObjectsDeleted(e) => {
                for object in &e.objects {
                    self.doomed.remove(object);
                }
            }
            CatalogEvent::DatasetMoved(e) => self.dataset_moved(meta, e),
            CatalogEvent::FilesRepaired(e) => self.files_repaired(meta, e),
            CatalogEvent::RowsErased(e) => {
                self.change_dataset(&e.dataset, |dataset| dataset.erased_seq = e.through);
            }
            CatalogEvent::RowsTombstoned(e) => {
                self.rows_tombstoned(meta, e);
                self.invalidate_evals(meta.seq, e);
            }
            CatalogEvent::IndexDefined(e) => self.index_defined(meta, e),
            CatalogEvent::GenerationRequested(e) => {
                self.change_index(&e.index, |index| {
                    index.building = Some((e.generation, e.job.clone()));
                    index.building_config.clone_from(&e.config);
                    index.building_model.clone_from(&e.model);
                    index.folding = e.fold;
                });
            }
            CatalogEvent::GenerationBuilt(e) => self.generation_built(meta, e),
            CatalogEvent::GenerationFailed(e) => self.generation_failed(e),
            CatalogEvent::GenerationCorrupted(e) => {
                self.change_index(&e.index, |index| index.corrupt = Some(e.reason.clone()));
            }
            CatalogEvent::IndexDeltaCommitted(e) => self.index_delta_committed(meta, e),
            CatalogEvent::IndexPromoted(e) => self.index_promoted(meta, &e.index, e.generation),
            CatalogEvent::RefreshRequested(e) => self.refresh_requested(meta, e),
            CatalogEvent::RefreshCompleted(e) => self.refresh_completed(meta, e),
            CatalogEvent::RefreshFailed(e) => self.refresh_failed(meta, e),
            CatalogEvent::GenerationsRetired(e) => self.generations_retired(meta, e),
            CatalogEvent::ViewDefined(e) => {
                self.policy_seq = meta.seq;
                self.view_defined(meta, e);
            }
            CatalogEvent::ViewDropped(e) => {
                self.policy_seq = meta.seq;
                self.views.remove(&e.view);
            }
            CatalogEvent::IndexDropped(e) => {
                if let Some(index) = self.indexes.remove(&e.index) {
                    for built in &index.generations {
                        self.doom(meta.seq, &index.spec.bucket, &folder(&built.prefix));
                    }
                    for delta in index.deltas() {
                        self.doom(meta.seq, &index.spec.bucket, &delta.file.key);
                    }
                }
                self.quality_of_dropped(meta.seq, &e.index);
            }
            CatalogEvent::EvalCreated(e) => self.eval_created(meta.at, meta.seq, e),
            CatalogEvent::EvalsRetired(e) => self.evals_retired(meta.seq, &e.evals),
            CatalogEvent::TrialRecorded(e) => {
                let (at, trial) = (meta.at, e.trial.clone());
                let kept = Arc::new(KeptTrial { at, trial });
                self.quality.trials.insert(meta.seq, kept);
            }
            CatalogEvent::IndexSloSet(e) => {
                match e.slo {
                    Some(slo) => self.quality.slos.insert(e.index.clone(), slo),
                    None => self.quality.slos.remove(&e.index),
                };
            }
            CatalogEvent::ProfileSaved(e) => {
                let profile = Arc::new(e.profile.clone());
                self.quality.profiles.insert(e.profile.id.clone(), profile);
            }
            CatalogEvent::ProfileActivated(e) => {
                self.quality.active = Some(e.profile.clone());
            }
        }
    }

    /// Notes an object that nothing points at any more; a folder's key ends in `/`.
    pub(super) fn doom(&mut self, since: Seq, bucket: &str, key: &str) {
        let doomed = Doomed {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            since,
        };
        self.doomed.insert(format!("{bucket}/{key}"), doomed);
    }

    /// Notes a folder that nothing points at any more.
    pub(super) fn doom_folder(&mut self, since: Seq, bucket: &str, prefix: &str) {
        self.doom(since, bucket, &folder(prefix));
    }

    fn dataset_dropped(&mut self, meta: Meta<'_>, name: &str) {
        let Some(dataset) = self.datasets.remove(name) else {
            return;
        };
        for file in dataset.all_files() {
            self.doom(meta.seq, &file.entry.bucket, &file.entry.key);
        }
        self.doom(meta.seq, &dataset.bucket, &dataset.sidecar_key());
    }

    fn files_scrubbed(&mut self, meta: Meta<'_>, event: &FilesScrubbed) {
        let mut gone = Vec::new();
        self.change_dataset(&event.dataset, |dataset| {
            for scrub in &event.scrubs {
                gone.extend(dataset.scrub(meta.seq, scrub));
            }
            dataset.files_seq = meta.seq;
            dataset.note_materialized(meta.seq);
            dataset.updated_at = meta.at;
        });
        for entry in gone {
            self.doom(meta.seq, &entry.bucket, &entry.key);
        }
    }

    fn files_purged(&mut self, meta: Meta<'_>, event: &FilesPurged) {
        let mut gone = Vec::new();
        let files: BTreeSet<&String> = event.files.iter().collect();
        self.change_dataset(&event.dataset, |dataset| {
            for kept in &dataset.retained {
                if files.contains(&kept.file.entry.key) {
                    dataset.history_from = dataset.history_from.max(kept.retired_seq);
                    gone.push(kept.file.entry.clone());
                }
            }
            dataset
                .retained
                .retain(|kept| !files.contains(&kept.file.entry.key));
            let oldest = dataset.history_from;
            dataset.scrubbed = dataset
                .scrubbed
                .iter()
                .filter(|(_, scrubbed)| scrubbed.seq > oldest)
                .map(|(key, scrubbed)| (key.clone(), scrubbed.clone()))
                .collect();
            dataset.files_seq = meta.seq;
        });
        for entry in gone {
            self.doom(meta.seq, &entry.bucket, &entry.key);
        }
    }

    fn generations_retired(&mut self, meta: Meta<'_>, event: &GenerationsRetired) {
        let mut gone = Vec::new();
        self.change_index(&event.index, |index| {
            let bucket = index.spec.bucket.clone();
            let deltas: Vec<String> = index.deltas().map(|delta| delta.file.key.clone()).collect();
            index.generations.retain(|built| {
                let stays = !event.generations.contains(&built.generation);
                if !stays {
                    gone.push((bucket.clone(), folder(&built.prefix)));
                }
                stays
            });
            let unused = deltas.into_iter().filter(|key| !index.has_delta(key));
            gone.extend(unused.map(|key| (bucket.clone(), key)));
        });
        for (bucket, prefix) in gone {
            self.doom(meta.seq, &bucket, &prefix);
        }
    }

    pub(super) fn change_dataset(&mut self, name: &str, change: impl FnOnce(&mut Dataset)) {
        if let Some(dataset) = self.datasets.get_mut(name) {
            change(Arc::make_mut(dataset));
        }
    }

    pub(super) fn change_index(&mut self, name: &str, change: impl FnOnce(&mut Index)) {
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
            proposals: std::collections::BTreeMap::new(),
            min_group_size: None,
            files: Vec::new(),
            files_seq: meta.seq,
            rows_seq: meta.seq,
            materialized_seq: 0,
            erased_seq: 0,
            retained: Vec::new(),
            scrubbed: imbl::OrdMap::new(),
            history_from: meta.seq,
            erased_keys: ErasedKeys::default(),
            journal_keys: JournalKeys::default(),
            compaction: CompactionPolicy::default(),
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
            refresh_policy_at: None,
            refresh_due: None,
            last_refresh: None,
        };
        self.datasets
            .insert(event.dataset.clone(), Arc::new(dataset));
    }

    fn files_committed(&mut self, meta: Meta<'_>, event: &FilesCommitted) {
        let indexed = self.indexes_over(&event.dataset).next().is_some();
        self.change_dataset(&event.dataset, |dataset| {
            dataset.retire(meta, &event.retired);
            delete_rows(dataset, &event.deleted);
            for entry in &event.added {
                dataset.files.push(Arc::new(new_file(entry, meta.seq)));
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
            dataset.propose(&event.proposals);
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
            dataset.retire(meta, &event.retired);
            for entry in &event.added {
                dataset.files.push(Arc::new(new_file(entry, meta.seq)));
            }
            dataset.files_seq = meta.seq;
            dataset.note_materialized(meta.seq);
            dataset.updated_at = meta.at;
        });
    }

    fn dataset_patched(&mut self, meta: Meta<'_>, event: &DatasetPatched) {
        if !event.sensitivity.is_empty() {
            self.policy_seq = meta.seq;
        }
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
            dataset
                .proposals
                .retain(|column, _| !event.sensitivity.contains_key(column));
            dataset.sensitivity.extend(event.sensitivity);
            if let Some(policy) = event.embedding_refresh_policy {
                dataset.embedding_refresh_policy = policy;
                dataset.refresh_policy_at = Some(meta.at);
            }
            if let Some(embedding) = event.embedding {
                dataset.embedding = Some(embedding);
                dataset.embedding_stale_since.get_or_insert(meta.at);
            }
            if let Some(erased_keys) = event.erased_keys {
                dataset.erased_keys = erased_keys;
            }
            if let Some(journal_keys) = event.journal_keys {
                dataset.journal_keys = journal_keys;
            }
            if let Some(compaction) = event.compaction {
                dataset.compaction = compaction;
            }
            if let Some(least) = event.min_group_size {
                dataset.min_group_size = (least > 1).then_some(least);
            }
            dataset.updated_at = meta.at;
        });
    }

    fn rows_tombstoned(&mut self, meta: Meta<'_>, event: &RowsTombstoned) {
        self.change_dataset(&event.dataset, |dataset| {
            erase_rows(dataset, &event.deleted);
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
            dataset.note_materialized(meta.seq);
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
            building_config: None,
            building_model: None,
            folding: false,
            failed: None,
            obstacle: None,
            corrupt: None,
            created_at: meta.at,
        };
        self.indexes.insert(event.index.clone(), Arc::new(index));
    }

    fn generation_built(&mut self, meta: Meta<'_>, event: &GenerationBuilt) {
        self.change_index(&event.index, |index| {
            let deltas = index.carried(event);
            // To a build of the rows themselves, deltas that were taken beside it may lack what
            // changed and changed back: they are found, and say nothing of how current it is.
            let folded = event.folded_through.is_some();
            let rows = deltas.iter().filter(|_| folded);
            let rows = rows.map(|delta| delta.source_seq);
            let rows_seq = rows.chain(event.rows_seq).max();
            index.generations.push(Generation {
                generation: event.generation,
                job: event.job.clone(),
                source_seq: event.source_seq,
                config: index.building_config.take(),
                prefix: event.prefix.clone(),
                files: event.files.clone(),
                vectors: event.vectors,
                rows: event.rows,
                skipped: event.skipped,
                reused: event.reused,
                changed: event.changed,
                making: event.making.clone(),
                build_ms: event.build_ms,
                built_at: meta.at,
                rows_seq,
                deltas,
            });
            index.building = None;
            index.building_model = None;
            index.folding = false;
            index.failed = None;
            index.obstacle = None;
        });
    }

    fn generation_failed(&mut self, event: &GenerationFailed) {
        self.change_index(&event.index, |index| {
            index.building = None;
            index.building_config = None;
            index.building_model = None;
            index.folding = false;
            index.failed = Some((event.job.clone(), event.error.clone()));
            index.obstacle.clone_from(&event.obstacle);
        });
    }

    fn index_promoted(&mut self, meta: Meta<'_>, name: &str, generation: u64) {
        let mut source = None;
        self.change_index(name, |index| {
            index.live = Some(generation);
            index.corrupt = None;
            source = Some(index.spec.source.clone());
            if let Some(config) = index.live_generation().and_then(|live| live.config.clone()) {
                index.take_over(config);
            }
            index.take_model_over();
        });
        if let Some(source) = source {
            self.note_embedded(meta, &source);
        }
    }
}

impl Dataset {
    /// Notes what columns look like that nobody has classified.
    fn propose(&mut self, proposals: &std::collections::BTreeMap<String, super::Proposal>) {
        let new = proposals
            .iter()
            .filter(|(column, _)| !self.sensitivity.contains_key(*column))
            .map(|(column, proposal)| (column.clone(), proposal.clone()));
        self.proposals.extend(new);
    }

    /// Takes files out of the dataset; they are kept for queries of the past.
    fn retire(&mut self, meta: Meta<'_>, keys: &[String]) {
        if keys.is_empty() {
            return;
        }
        let keys: BTreeSet<&String> = keys.iter().collect();
        for file in self.files.iter().filter(|f| keys.contains(&f.entry.key)) {
            self.retained.push(Arc::new(RetainedFile {
                file: file.as_ref().clone(),
                retired_seq: meta.seq,
                retired_at: meta.at,
            }));
        }
        self.files.retain(|file| !keys.contains(&file.entry.key));
    }

    /// Puts the rewritten files in the place of the old one, which is returned.
    fn scrub(&mut self, seq: Seq, scrub: &Scrub) -> Option<FileEntry> {
        let is_it = |file: &DataFile| file.entry.key == scrub.file;
        let files = scrub
            .added
            .iter()
            .map(|entry| (entry.key.clone(), entry.rows));
        let scrubbed = Scrubbed {
            seq,
            removed: scrub.removed.clone(),
            files: files.collect(),
        };
        let old = if let Some(at) = self.files.iter().position(|file| is_it(file)) {
            let old = self.files.remove(at);
            for (index, new) in scrubbed_files(&old, scrub, seq).into_iter().enumerate() {
                self.files.insert(at + index, Arc::new(new));
            }
            old.entry.clone()
        } else {
            let at = self.retained.iter().position(|kept| is_it(&kept.file))?;
            let old = self.retained.remove(at);
            for (index, file) in scrubbed_files(&old.file, scrub, seq)
                .into_iter()
                .enumerate()
            {
                let kept = RetainedFile {
                    file,
                    ..old.as_ref().clone()
                };
                self.retained.insert(at + index, Arc::new(kept));
            }
            old.file.entry.clone()
        };
        self.scrubbed.insert(scrub.file.clone(), scrubbed);
        Some(old)
    }

    /// Notes up to where the live files are without rows deleted for good.
    fn note_materialized(&mut self, seq: Seq) {
        if self.files.iter().all(|file| file.erased.is_empty()) {
            self.materialized_seq = seq;
        }
    }
}

/// A file as it is when it comes in.
fn new_file(entry: &FileEntry, seq: Seq) -> DataFile {
    let mut deleted = entry.superseded.clone();
    deleted.add(&entry.erased);
    DataFile {
        entry: entry.clone(),
        added_seq: seq,
        deleted,
        erased: entry.erased.clone(),
    }
}

/// What stands for a scrubbed file: rows deleted while it was rewritten are deleted there, too.
fn scrubbed_files(old: &DataFile, scrub: &Scrub, seq: Seq) -> Vec<DataFile> {
    let deleted = old.deleted.after_removal_of(&scrub.removed);
    let erased = old.erased.after_removal_of(&scrub.removed);
    let mut start = 0;
    let mut files = Vec::with_capacity(scrub.added.len());
    for entry in &scrub.added {
        files.push(DataFile {
            entry: entry.clone(),
            added_seq: seq,
            deleted: deleted.slice(start, entry.rows),
            erased: erased.slice(start, entry.rows),
        });
        start += entry.rows;
    }
    files
}

/// The folder of a generation, as an object key that ends in `/`.
fn folder(prefix: &str) -> String {
    format!("{}/", prefix.trim_end_matches('/'))
}

/// The positions of rows by the key of their file: there may be thousands of files.
fn by_file(deleted: &[DeletedRows]) -> BTreeMap<&str, &DeletionVector> {
    let rows = deleted.iter();
    rows.map(|rows| (rows.file.as_str(), &rows.positions))
        .collect()
}

/// Marks rows of live and kept files as deleted for good.
fn erase_rows(dataset: &mut Dataset, deleted: &[DeletedRows]) {
    let deleted = by_file(deleted);
    let erase = |file: &mut DataFile, positions: &DeletionVector| {
        file.deleted.add(positions);
        file.erased.add(positions);
    };
    for file in &mut dataset.files {
        if let Some(positions) = deleted.get(file.entry.key.as_str()) {
            erase(Arc::make_mut(file), positions);
        }
    }
    for kept in &mut dataset.retained {
        if let Some(positions) = deleted.get(kept.file.entry.key.as_str()) {
            erase(&mut Arc::make_mut(kept).file, positions);
        }
    }
}

fn delete_rows(dataset: &mut Dataset, deleted: &[DeletedRows]) {
    let deleted = by_file(deleted);
    for file in &mut dataset.files {
        if let Some(positions) = deleted.get(file.entry.key.as_str()) {
            Arc::make_mut(file).deleted.add(positions);
        }
    }
}
