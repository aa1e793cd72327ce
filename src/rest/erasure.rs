//! What is left of a row that was deleted for good: every place where the lakehouse keeps bytes,
//! looked at now, with a signed receipt when it is in none of them. Decides nothing: the erasure
//! worker takes rows out, this only looks.

use std::{path::Path, sync::Arc};

use actix_web::{HttpResponse, web};
use lakehouse_journal::{
    log::Order,
    model::{
        Fold,
        catalog::{CatalogState, DataFile, Dataset, DeletionVector, TombstoneBatch, row_mark},
    },
    record::{Micros, Record, Seq},
};
use serde_json::{Value, json};

use super::{
    Edge,
    auth::{Delete, May, ReadJournal},
    problem::Problem,
    row_keys::row_name,
    times,
};
use crate::{
    engines::leftovers::written_below,
    engines::receipts::{ErasureReceipt, PlaceChecked, PlaceState, RECEIPT_VERSION},
};

/// Events of a row or a dataset that are read at a time.
const PAGE: usize = 1_000;

/// `/compliance/erasure/…`
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/compliance/erasure/{dataset}", web::post().to(erase))
        .route(
            "/compliance/erasure/{dataset}/{key:.*}",
            web::get().to(show),
        );
}

/// Takes what is left of a dataset's deleted rows out of every place now; answers when nothing is.
#[utoipa::path(post, path = "/compliance/erasure/{dataset}", tag = "compliance",
    params(("dataset" = String, Path)),
    responses((status = 200, description = "{dataset, through, journal_seq}"),
        (status = 404, body = Problem), (status = 503, body = Problem)))]
pub async fn erase(
    edge: web::Data<Edge>,
    _: May<Delete>,
    dataset: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let done = edge.lake.erase(&dataset).await?;
    edge.indexes.forget_dropped(&edge.lake.catalog().state);
    Ok(HttpResponse::Ok().json(json!({
        "dataset": *dataset,
        "through": done.through,
        "journal_seq": done.seq,
    })))
}

/// Every place that may hold a row, with what is there of it now.
#[utoipa::path(get, path = "/compliance/erasure/{dataset}/{key}", tag = "compliance",
    params(("dataset" = String, Path), ("key" = String, Path)),
    responses((status = 200, description = "{key, tombstoned_at, places: [{place, state, checked, detail?}], erased, erased_at, events, signed?}"),
        (status = 404, body = Problem)))]
pub async fn show(
    edge: web::Data<Edge>,
    _: May<ReadJournal>,
    path: web::Path<(String, String)>,
) -> Result<HttpResponse, Problem> {
    let (name, key) = path.into_inner();
    // An erasure that ends meanwhile waits with the removal of files that are looked into here.
    let _pinned = edge.query.pin(edge.lake.catalog().seq);
    let catalog = edge.lake.catalog();
    let dataset = catalog.state.datasets.get(&name).ok_or_else(|| {
        catalog
            .state
            .dataset(&name)
            .err()
            .map_or_else(|| Problem::not_found("dataset", &name), Problem::from)
    })?;
    let key = row_name(dataset, &key)?;
    let row = Row::of(&edge, dataset, &key);
    let places = row.places(&edge, &catalog).await?;
    let absent = places.iter().all(|place| place.state == PlaceState::Absent);
    let erasure = row.erasure(&edge).await?;
    let events = row.events(&edge, erasure.as_ref()).await?;
    let mut answer = json!({
        "dataset": name,
        "key": key,
        "tombstoned_at": times::maybe(row.tombstone.map(|(_, batch)| batch.at)),
        "reason": row.tombstone.map(|(_, batch)| &batch.reason),
        "actor": row.tombstone.map(|(_, batch)| actor(batch)),
        "places": places,
        "erased": absent && erasure.is_some(),
        "erased_at": times::maybe(erasure.as_ref().map(|record| record.draft.at)),
        "events": events,
    });
    if let (true, Some((seq, batch)), Some(erased)) = (absent, row.tombstone, erasure) {
        let receipt = row
            .receipt(&edge, (seq, batch), &erased, places, events)
            .await?;
        answer["signed"] = receipt;
    }
    Ok(HttpResponse::Ok().json(answer))
}

/// A row that is asked about.
struct Row<'a> {
    dataset: &'a Arc<Dataset>,
    key: &'a str,
    /// As it stands in the journal, when that is a hash.
    hashed: Option<String>,
    tombstone: Option<(Seq, &'a TombstoneBatch)>,
}

fn actor(batch: &TombstoneBatch) -> &String {
    batch.on_behalf_of.as_ref().unwrap_or(&batch.actor.name)
}

impl<'a> Row<'a> {
    fn of(edge: &Edge, dataset: &'a Arc<Dataset>, key: &'a str) -> Self {
        let hashed = dataset.has_hashed_keys().then(|| edge.lake.key_hash(key));
        let seq = dataset
            .tombstones
            .get(key)
            .or_else(|| dataset.tombstones.get(hashed.as_ref()?));
        let tombstone = seq.and_then(|seq| Some((*seq, dataset.tombstone_batches.get(seq)?)));
        Self {
            dataset,
            key,
            hashed,
            tombstone,
        }
    }

    /// Every place, looked at now.
    async fn places(
        &self,
        edge: &Edge,
        catalog: &Fold<CatalogState>,
    ) -> Result<Vec<PlaceChecked>, Problem> {
        let live: Vec<&DataFile> = self.dataset.files.iter().map(AsRef::as_ref).collect();
        let kept: Vec<&DataFile> = self
            .dataset
            .retained
            .iter()
            .map(|kept| &kept.file)
            .collect();
        let live_state = self.in_files(edge, &live).await?;
        let kept_state = self.in_files(edge, &kept).await?;
        let footers = worst(live_state, kept_state);
        let (objects, doomed) = self.doomed(catalog);
        let (generations, in_generations) = self.in_generations(edge, catalog).await;
        let (evals, in_evals) = self.in_evals(catalog);
        let (leftovers, in_leftovers) = self.leftovers(edge).await?;
        let (vectors, in_vectors) = self.in_kept_vectors(edge)?;
        let data = &edge.config.data_dir;
        let (staged, in_staging) = self.in_directory(&data.join("staging"));
        let (spilled, in_spill) = self.in_directory(&data.join("tmp").join("spill"));
        let listed = match self.tombstone {
            Some((seq, _)) if seq > self.dataset.erased_seq => PlaceState::Hidden,
            _ => PlaceState::Absent,
        };
        let files = live.len() as u64;
        let every = files + kept.len() as u64;
        let none = "this version keeps none";
        let key_in_journal = if self.hashed.is_some() {
            "never row content; the key stands there as a keyed hash"
        } else {
            "never row content; the key stands there in clear"
        };
        Ok(vec![
            place("data_files", live_state, files, "base and delta files"),
            place(
                "retained_files",
                kept_state,
                kept.len() as u64,
                "files kept for `as_of`",
            ),
            place(
                "parquet_footers",
                footers,
                every,
                "statistics, indexes and bloom filters lie in the files and are written anew with them",
            ),
            place(
                "tombstone_list",
                listed,
                1,
                "the list of deleted rows beside the files",
            ),
            place(
                "objects_to_delete",
                doomed,
                objects,
                "objects that nothing points at any more",
            ),
            place(
                "leftovers",
                in_leftovers,
                leftovers,
                "objects of writes that were never committed",
            ),
            place(
                "index_generations",
                in_generations,
                generations,
                "vectors, texts and keys of every generation",
            ),
            place("lance_versions", PlaceState::Absent, 0, none),
            place(
                "embedding_cache",
                in_vectors,
                vectors,
                "vectors that were paid for, under keyed hashes of their texts",
            ),
            place(
                "evaluation_sets",
                in_evals,
                evals,
                "queries drawn from rows, and the keys of their nearest rows",
            ),
            self.rescue_copies(edge, footers),
            place("staging", in_staging, staged, "work in progress"),
            place(
                "spill",
                in_spill,
                spilled,
                "intermediate results of queries",
            ),
            place(
                "journal_and_archives",
                PlaceState::Absent,
                1,
                key_in_journal,
            ),
        ])
    }

    /// Whether the row lies in files, deleted rows included: read from the files themselves.
    async fn in_files(&self, edge: &Edge, files: &[&DataFile]) -> Result<PlaceState, Problem> {
        if self.dataset.key.is_empty() {
            return Ok(PlaceState::Absent);
        }
        let whole = files.iter().map(|file| {
            Arc::new(DataFile {
                deleted: DeletionVector::default(),
                erased: DeletionVector::default(),
                ..(*file).clone()
            })
        });
        let raw = Arc::new(Dataset {
            files: whole.collect(),
            ..self.dataset.as_ref().clone()
        });
        let keys = [self.key.to_owned()];
        let found = edge.query.resolve_keys(&raw, &raw.key, &keys).await?;
        let mut state = PlaceState::Absent;
        for position in found.found.iter().flat_map(|(_, positions)| positions) {
            let shown = files.iter().any(|file| {
                *file.entry.key == *position.file && !file.deleted.contains(position.row)
            });
            let here = if shown {
                PlaceState::Present
            } else {
                PlaceState::Hidden
            };
            state = worst(state, here);
        }
        Ok(state)
    }

    /// Objects of this dataset, or of indexes, that wait to be deleted.
    fn doomed(&self, catalog: &Fold<CatalogState>) -> (u64, PlaceState) {
        let folder = format!("datasets/{}/", self.dataset.id);
        let waiting =
            catalog.state.doomed.values().filter(|object| {
                object.key.starts_with(&folder) || object.key.starts_with("vectors/")
            });
        match waiting.count() as u64 {
            0 => (0, PlaceState::Absent),
            some => (some, PlaceState::Hidden),
        }
    }

    /// How many of the dataset's files lie in a rescue bucket as well.
    fn rescue_copies(&self, edge: &Edge, files_state: PlaceState) -> PlaceChecked {
        let files = self.dataset.all_files().map(|file| &file.entry);
        let copied = files.filter(|entry| {
            let state = edge.lake.bucket_state(&entry.bucket);
            state.is_some_and(|state| state.rescued.contains_key(&entry.key))
        });
        let count = copied.count() as u64;
        let state = if count > 0 {
            files_state
        } else {
            PlaceState::Absent
        };
        let what = "copies of files in the bucket that answers for theirs";
        place("rescue_copies", state, count, what)
    }

    /// A generation built before the deletion may hold the row; a later one is asked.
    async fn in_generations(&self, edge: &Edge, catalog: &Fold<CatalogState>) -> (u64, PlaceState) {
        let mut state = PlaceState::Absent;
        let mut checked = 0;
        for index in catalog.state.indexes_over(&self.dataset.name) {
            checked += (index.generations.len() + index.deltas().count()) as u64;
            let older = self
                .tombstone
                .is_some_and(|(seq, _)| index.generations_before(seq) > 0);
            let live_has_it = edge.indexes.live_holds(index, self.key).await;
            let here = match (self.tombstone, older, live_has_it) {
                (None, _, true) => PlaceState::Present,
                (Some(_), true, _) | (Some(_), _, true) => PlaceState::Hidden,
                _ => PlaceState::Absent,
            };
            state = worst(state, here);
        }
        (checked, state)
    }

    /// Files of kept vectors: those that were swept after the deletion hold nothing of the row.
    fn in_kept_vectors(&self, edge: &Edge) -> Result<(u64, PlaceState), Problem> {
        let through = self.tombstone.map_or(0, |(seq, _)| seq);
        let (files, older) = edge.indexes.kept_vectors(&self.dataset.id, through)?;
        let state = match (self.tombstone, older) {
            (Some(_), true) => PlaceState::Hidden,
            _ => PlaceState::Absent,
        };
        Ok((files, state))
    }

    /// A set that a deletion has touched may hold the row until it is gone.
    fn in_evals(&self, catalog: &Fold<CatalogState>) -> (u64, PlaceState) {
        let mut state = PlaceState::Absent;
        let mut checked = 0;
        let marks = [Some(self.key), self.hashed.as_deref()].map(|key| key.map(row_mark));
        let sets = catalog.state.quality.evals.values();
        for eval in sets.filter(|eval| eval.spec.source == self.dataset.name) {
            checked += 1;
            let mut held = marks.iter().flatten();
            let here = if !held.any(|mark| eval.spec.rows.contains(*mark)) {
                PlaceState::Absent
            } else if self.tombstone.is_none() {
                PlaceState::Present
            } else {
                PlaceState::Hidden
            };
            state = worst(state, here);
        }
        (checked, state)
    }

    /// Objects in the folders of the dataset and its indexes that no event points at.
    async fn leftovers(&self, edge: &Edge) -> Result<(u64, PlaceState), Problem> {
        let store = edge.store.as_ref();
        let left = edge.lake.leftovers(store, &self.dataset.name).await?;
        let state = if left.objects.is_empty() {
            PlaceState::Absent
        } else {
            PlaceState::Hidden
        };
        Ok((left.looked_at, state))
    }

    /// Files below a directory of the daemon's own that were there before the deletion.
    fn in_directory(&self, dir: &Path) -> (u64, PlaceState) {
        let written = written_below(dir);
        let older = |at: &Option<Micros>| at.is_none_or(|at| self.is_older(at));
        let state = if written.iter().any(older) {
            PlaceState::Hidden
        } else {
            PlaceState::Absent
        };
        (written.len() as u64, state)
    }

    fn is_older(&self, at: Micros) -> bool {
        self.tombstone.is_none_or(|(_, batch)| at < batch.at)
    }

    /// The event that says that the row is in no place any more.
    async fn erasure(&self, edge: &Edge) -> Result<Option<Record>, Problem> {
        let Some((seq, _)) = self.tombstone else {
            return Ok(None);
        };
        let records = history(edge, format!("dataset:{}", self.dataset.name), seq).await?;
        let confirms = |record: &Record| {
            let data: Value = serde_json::from_str(record.draft.data.get()).unwrap_or_default();
            record.draft.kind == "RowsErased" && data["through"].as_u64() >= Some(seq)
        };
        Ok(records.into_iter().find(confirms))
    }

    /// Every event that touched the row, oldest first.
    async fn events(&self, edge: &Edge, erasure: Option<&Record>) -> Result<Vec<Seq>, Problem> {
        let name = &self.dataset.name;
        let mut seqs = Vec::new();
        let hashed = self.hashed.as_deref();
        for key in std::iter::once(self.key).chain(hashed) {
            let records = history(edge, format!("row:{name}:{key}"), 0).await?;
            seqs.extend(records.into_iter().map(|record| record.seq));
        }
        seqs.extend(erasure.map(|record| record.seq));
        seqs.sort_unstable();
        seqs.dedup();
        Ok(seqs)
    }

    async fn receipt(
        &self,
        edge: &Edge,
        (tombstone_seq, batch): (Seq, &TombstoneBatch),
        erased: &Record,
        places: Vec<PlaceChecked>,
        events: Vec<Seq>,
    ) -> Result<Value, Problem> {
        let reader = edge.lake.journal().reader().clone();
        let head = web::block(move || {
            let last = reader.stats().events;
            reader.scan(last.saturating_sub(1), 1)
        })
        .await
        .map_err(|error| Problem::internal(&error))??;
        let head = head
            .first()
            .ok_or_else(|| Problem::internal(&"the journal has no last record"))?;
        let receipt = ErasureReceipt {
            version: RECEIPT_VERSION,
            dataset: self.dataset.name.clone(),
            dataset_id: self.dataset.id.clone(),
            row_key: self.hashed.is_none().then(|| self.key.to_owned()),
            row_key_hash: self.hashed.clone(),
            tombstoned_at: times::text(batch.at),
            tombstone_seq,
            reason: batch.reason.clone(),
            actor: actor(batch).clone(),
            erased_at: times::text(erased.draft.at),
            erased_seq: erased.seq,
            places,
            events,
            journal_seq: head.seq,
            journal_head_hash: blake3::Hash::from_bytes(head.hash).to_hex().to_string(),
            issued_at: times::text(edge.lake.now()),
        };
        let receipt = serde_json::to_value(receipt).map_err(|error| Problem::internal(&error))?;
        let signed = edge
            .receipts
            .sign(&receipt)
            .map_err(|error| Problem::internal(&error))?;
        serde_json::to_value(signed).map_err(|error| Problem::internal(&error))
    }
}

fn place(name: &str, state: PlaceState, checked: u64, detail: &str) -> PlaceChecked {
    PlaceChecked {
        place: name.to_owned(),
        state,
        checked,
        detail: Some(detail.to_owned()),
    }
}

fn worst(one: PlaceState, other: PlaceState) -> PlaceState {
    match (one, other) {
        (PlaceState::Present, _) | (_, PlaceState::Present) => PlaceState::Present,
        (PlaceState::Hidden, _) | (_, PlaceState::Hidden) => PlaceState::Hidden,
        (PlaceState::Absent, PlaceState::Absent) => PlaceState::Absent,
    }
}

/// Every event of a subject after a position, oldest first.
async fn history(edge: &Edge, subject: String, after: Seq) -> Result<Vec<Record>, Problem> {
    let reader = edge.lake.journal().reader().clone();
    let found = web::block(move || {
        let (mut all, mut after) = (Vec::new(), after);
        loop {
            let page = reader.history(&subject, after, PAGE, Order::OldestFirst)?;
            let whole = page.len() == PAGE;
            after = page.last().map_or(after, |record| record.seq);
            all.extend(page);
            if !whole {
                return Ok::<_, lakehouse_journal::log::LogError>(all);
            }
        }
    })
    .await
    .map_err(|error| Problem::internal(&error))?;
    Ok(found?)
}
