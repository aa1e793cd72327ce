//! What a dataset's rows say and an index does not: the difference by key and text, embedded into a
//! delta, or counted. A row is known by a hash of its key, a text by a hash of itself, so a million of
//! them take some 80 MB; a text that is embedded already is read, compared and forgotten.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use async_trait::async_trait;
use futures::StreamExt;
use lakehouse_actors::{
    PortError,
    ports::{
        Behind, CatchUp, DeltaRows, EmbeddingWork, IndexDeltas, Progress, RefusedRow, TextVector,
    },
};
use lakehouse_journal::{
    model::{
        Fold,
        catalog::{
            Backend, CatalogState, Dataset, EmbeddingSpec, Index, IndexConfig, IndexSpec,
            KeyColumns, ModelIdentity, RefreshCounts,
        },
    },
    record::Seq,
};

use super::{
    LakeIndexes,
    embedding::{Entry, Maker, entries, is_ambiguous, made_of, texts_of},
    source::texts_query,
    visible::dataset_of,
};
use crate::{
    engines::{
        embedder::{
            EmbedderName,
            chunks::row_key,
            store::{TextKey, Used, VectorStore},
        },
        tables::of_query,
    },
    query::SessionTables,
};

/// A difference of more rows than this is built into a generation, where nothing has to be in memory.
const DELTA_ROWS_MAX: usize = 100_000;

/// Half a blake3: rows and texts that differ do so in it.
type Short = [u8; 16];

fn short(text: &str) -> Short {
    let hash = blake3::hash(text.as_bytes());
    let (half, _) = hash.as_bytes().split_at(16);
    half.try_into().expect("half of 32 bytes")
}

/// What an index says: its rows' texts, and which of them were met.
struct Known {
    texts: HashMap<Short, (Short, bool)>,
}

impl Known {
    async fn of(indexes: &LakeIndexes, index: &Index) -> Result<Self, PortError> {
        let mut texts = HashMap::new();
        let mut note = |key: &str, text: Option<&str>| {
            texts.insert(short(key), (short(text.unwrap_or_default()), false));
        };
        indexes.each_row(index, &mut note).await?;
        Ok(Self { texts })
    }

    fn nothing() -> Self {
        Self {
            texts: HashMap::new(),
        }
    }

    /// Whether the index says this of the key; the key is met.
    fn meet(&mut self, entry: &Entry) -> bool {
        match self.texts.get_mut(&short(&entry.key)) {
            Some((text, met)) => {
                *met = true;
                *text == short(&entry.text)
            }
            None => false,
        }
    }

    fn unmeet(&mut self, key: &str) {
        if let Some((_, met)) = self.texts.get_mut(&short(key)) {
            *met = false;
        }
    }

    /// Whether the index says anything of the key.
    fn has(&self, key: &str) -> bool {
        self.texts.contains_key(&short(key))
    }

    fn left(&self) -> usize {
        self.texts.values().filter(|(_, met)| !met).count()
    }
}

/// The difference between rows and an index.
#[derive(Default)]
struct Difference {
    /// New and changed rows, each with its parts.
    changed: Vec<Vec<Entry>>,
    /// As many as there are, when they are not all in `changed`.
    changed_rows: u64,
    unchanged: u64,
    refused: Vec<RefusedRow>,
}

impl LakeIndexes {
    /// Reads every visible row of the dataset and compares it with what is known. With `most`, no
    /// more than so many changed rows are held.
    async fn difference(
        &self,
        dataset: &Arc<Dataset>,
        index: (&str, &KeyColumns),
        maker: &Maker,
        known: &mut Known,
        most: usize,
    ) -> Result<Difference, PortError> {
        let (name, key) = index;
        let (sql, columns) = texts_query(&dataset.name, key, &maker.made.text)?;
        let mut batches = self.rows(SessionTables::of_dataset(dataset), &sql).await?;
        let mut found = Difference::default();
        while let Some(batch) = batches.next().await {
            let batch = batch.map_err(|error| of_query(&error))?;
            let texts = texts_of(&maker.made.text, &batch, columns)?;
            for (key, text) in texts.keys.into_iter().zip(texts.texts) {
                compare(name, &key, text, maker, known, most, &mut found);
            }
            // A large difference is compared for long: others may run.
            tokio::task::yield_now().await;
        }
        Ok(found)
    }

    /// Keys of what the index says and no row does.
    async fn left_keys(&self, index: &Index, known: &Known) -> Result<Vec<String>, PortError> {
        let mut left = Vec::new();
        if known.left() > 0 {
            let mut note = |key: &str, _: Option<&str>| {
                let met = known.texts.get(&short(key)).is_some_and(|(_, met)| *met);
                if !met {
                    left.push(key.to_owned());
                }
            };
            self.each_row(index, &mut note).await?;
        }
        Ok(left)
    }

    /// Embeds a difference; refused rows are left out, and taken out when the index has them.
    async fn delta(
        &self,
        index: &Index,
        maker: &mut Maker,
        mut known: Known,
        mut found: Difference,
        progress: &Progress,
    ) -> Result<CatchUp, PortError> {
        let changed = std::mem::take(&mut found.changed);
        let texts: Vec<String> = changed
            .iter()
            .flatten()
            .map(|entry| entry.text.clone())
            .collect();
        let vectors = maker
            .sender
            .embed(&texts, progress, &mut maker.tally)
            .await?;
        drop(texts);
        let mut vectors = vectors.into_iter();
        let mut rows = DeltaRows::default();
        let (mut embedded, mut refused) = (0, found.refused.len() as u64);
        for row in changed {
            let made: Vec<TextVector> = vectors.by_ref().take(row.len()).collect();
            if made
                .iter()
                .any(|made| matches!(made, TextVector::Refused { .. }))
            {
                refused += 1;
                row.iter().for_each(|entry| known.unmeet(&entry.key));
                continue;
            }
            embedded += 1;
            for (entry, made) in row.into_iter().zip(made) {
                if let TextVector::Vector(vector) = made {
                    rows.keys.push(entry.key);
                    rows.texts.push(entry.text);
                    rows.vectors.extend_from_slice(&vector);
                }
            }
        }
        rows.removed = self.left_keys(index, &known).await?;
        let gone: HashSet<&str> = rows.removed.iter().map(|key| row_key(key).0).collect();
        let written: HashSet<&str> = rows.keys.iter().map(|key| row_key(key).0).collect();
        let removed = gone.difference(&written).count() as u64;
        let identity = &maker.made.model;
        let done = RefreshCounts {
            rows: 0,
            embedded,
            unchanged: found.unchanged,
            removed,
            refused,
            texts_sent: maker.tally.texts_sent,
            provider_calls: maker.tally.calls,
            tokens: maker.tally.tokens,
            models: vec![format!("{}/{}", identity.provider, identity.version)],
        };
        Ok(CatchUp::Delta { rows, done })
    }
}

/// Compares one row with what is known of it.
fn compare(
    index: &str,
    key: &str,
    text: String,
    maker: &Maker,
    known: &mut Known,
    most: usize,
    found: &mut Difference,
) {
    let refuse = |code: &str, reason: &str| RefusedRow {
        index: index.to_owned(),
        key: key.to_owned(),
        code: code.to_owned(),
        reason: reason.to_owned(),
    };
    if is_ambiguous(&maker.made, key) {
        let reason = "a key with a zero character cannot be told from that of a part";
        found.refused.push(refuse("bad_key", reason));
        return;
    }
    let row = entries(&maker.made, key, text);
    // Every part is met, whether an earlier one is new or not.
    let same = row.iter().filter(|entry| known.meet(entry)).count();
    let shorter = known.has(&crate::engines::embedder::chunks::part_key(key, row.len()));
    if same == row.len() && !shorter {
        found.unchanged += 1;
        return;
    }
    if let Some(kept) = &maker.sender.kept {
        let refused = row.iter().find_map(|entry| {
            let key = kept.key(&entry.text);
            if !kept.is_refused(&key) {
                return None;
            }
            kept.get(&[key]).ok()?.pop()?
        });
        if let Some(TextVector::Refused { code, reason }) = refused {
            found.refused.push(refuse(&code, &reason));
            row.iter().for_each(|entry| known.unmeet(&entry.key));
            return;
        }
    }
    found.changed_rows += 1;
    if found.changed.len() < most {
        found.changed.push(row);
    }
}

#[async_trait]
impl EmbeddingWork for LakeIndexes {
    async fn catch_up(
        &self,
        snapshot: &Arc<Fold<CatalogState>>,
        index: &Index,
        progress: &Arc<Progress>,
    ) -> Result<CatchUp, PortError> {
        let dataset = found_dataset(&snapshot.state, index)?;
        let made = made_of(index);
        let mut maker = self.maker(made.clone(), &dataset.id, dataset.last_tombstone_seq())?;
        if maker.made.model != made.model && index.live_generation().is_some_and(is_versioned) {
            // The model under that name is another one today: its vectors go into no old generation.
            return Ok(CatchUp::Rebuild {
                made: Some(maker.made),
            });
        }
        let mut known = Known::of(self, index).await?;
        let name = (index.name.as_str(), &index.spec.key);
        let found = self
            .difference(dataset, name, &maker, &mut known, DELTA_ROWS_MAX + 1)
            .await?;
        if found.changed_rows > DELTA_ROWS_MAX as u64 {
            return Ok(CatchUp::Rebuild { made: None });
        }
        self.delta(index, &mut maker, known, found, progress).await
    }

    async fn behind(
        &self,
        snapshot: &Arc<Fold<CatalogState>>,
        name: &str,
    ) -> Result<Behind, PortError> {
        let mut behind = Behind::default();
        let Some(dataset) = snapshot.state.datasets.get(name) else {
            return Ok(behind);
        };
        for index in snapshot.state.indexes_over(name) {
            if index.spec.vector_column.is_some() {
                continue;
            }
            let mut known = match index.live {
                Some(_) => Known::of(self, index).await?,
                None => Known::nothing(),
            };
            let maker = self.maker(made_of(index), &dataset.id, dataset.last_tombstone_seq())?;
            let named = (index.name.as_str(), &index.spec.key);
            let found = self
                .difference(dataset, named, &maker, &mut known, 0)
                .await?;
            behind.to_embed += found.changed_rows;
            behind.to_remove += known.left() as u64;
            behind.refused.extend(found.refused);
        }
        let wanted = dataset.embedding.as_ref();
        let unserved = wanted.filter(|wanted| {
            let mut over = snapshot.state.indexes_over(name);
            !over.any(|index| index.spec.embeds(wanted))
        });
        if let Some(wanted) = unserved {
            behind.to_embed += self.rows_with_text(dataset, wanted).await?;
        }
        Ok(behind)
    }

    async fn forget_refusals(
        &self,
        snapshot: &Arc<Fold<CatalogState>>,
        name: &str,
    ) -> Result<u64, PortError> {
        let mut forgotten = 0;
        let Some(dataset) = snapshot.state.datasets.get(name) else {
            return Ok(0);
        };
        for index in snapshot.state.indexes_over(name) {
            if index.spec.vector_column.is_some() {
                continue;
            }
            let maker = self.maker(made_of(index), &dataset.id, dataset.last_tombstone_seq())?;
            if let Some(kept) = &maker.sender.kept {
                forgotten += kept.forget_refusals()?;
            }
        }
        Ok(forgotten)
    }

    async fn index_of(
        &self,
        dataset: &Dataset,
        wanted: &EmbeddingSpec,
    ) -> Result<IndexSpec, PortError> {
        let name = EmbedderName {
            provider: wanted.provider.clone(),
            model: wanted.model.clone(),
        };
        let embedder = self.embedding.embedders.find(&name).await?;
        Ok(IndexSpec {
            source: dataset.name.clone(),
            key: wanted.key.clone(),
            text: wanted.text.clone(),
            vector_column: None,
            provider: name.provider,
            model: name.model,
            dimensions: embedder.identity().dimensions,
            chunk: wanted.chunk.or(embedder.limits().chunk),
            backend: wanted.backend.unwrap_or(Backend::Hnsw),
            config: IndexConfig::default(),
            bucket: wanted
                .bucket
                .clone()
                .unwrap_or_else(|| dataset.bucket.clone()),
        })
    }

    fn built(&self, job: &str) -> Option<RefreshCounts> {
        self.embedding.noted(job)
    }

    async fn sweep(
        &self,
        snapshot: &Arc<Fold<CatalogState>>,
        name: &str,
        through: Seq,
    ) -> Result<u64, PortError> {
        let (Some(store), Some(dataset)) =
            (&self.embedding.store, snapshot.state.datasets.get(name))
        else {
            return Ok(0);
        };
        let (files, older) = store.may_hold(&dataset.id, through)?;
        if !older {
            return Ok(files);
        }
        let mut used: HashMap<ModelIdentity, HashSet<TextKey>> = HashMap::new();
        for index in snapshot.state.indexes_over(name) {
            if index.spec.vector_column.is_none() {
                let keep = self.used_texts(store, dataset, index).await?;
                used.entry(keep.0).or_default().extend(keep.1);
            }
        }
        let used: Vec<Used> = used
            .into_iter()
            .map(|(model, texts)| Used { model, texts })
            .collect();
        let (store, id) = (Arc::clone(store), dataset.id.clone());
        tokio::task::spawn_blocking(move || store.keep_only(&id, &used, through))
            .await
            .map_err(|error| super::internal(&error))??;
        Ok(files)
    }

    async fn forget_dropped(&self, catalog: &CatalogState) -> Result<(), PortError> {
        let Some(store) = &self.embedding.store else {
            return Ok(());
        };
        let ids = catalog.datasets.values().map(|dataset| dataset.id.clone());
        store.keep_datasets(&ids.collect())
    }
}

impl LakeIndexes {
    async fn rows_with_text(
        &self,
        dataset: &Arc<Dataset>,
        wanted: &EmbeddingSpec,
    ) -> Result<u64, PortError> {
        let (sql, columns) = texts_query(&dataset.name, &wanted.key, &wanted.text)?;
        let mut batches = self.rows(SessionTables::of_dataset(dataset), &sql).await?;
        let mut rows = 0;
        while let Some(batch) = batches.next().await {
            let batch = batch.map_err(|error| of_query(&error))?;
            rows += texts_of(&wanted.text, &batch, columns)?.keys.len() as u64;
        }
        Ok(rows)
    }

    /// The texts of visible rows, as the store knows them, for the index's model. Works although the
    /// provider is configured no more.
    async fn used_texts(
        &self,
        store: &VectorStore,
        dataset: &Arc<Dataset>,
        index: &Index,
    ) -> Result<(ModelIdentity, HashSet<TextKey>), PortError> {
        let made = made_of(index);
        let mut keep = HashSet::new();
        let key = &index.spec.key;
        let (sql, columns) = texts_query(&dataset.name, key, &made.text)?;
        let mut batches = self.rows(SessionTables::of_dataset(dataset), &sql).await?;
        while let Some(batch) = batches.next().await {
            let batch = batch.map_err(|error| of_query(&error))?;
            let texts = texts_of(&made.text, &batch, columns)?;
            for (key, text) in texts.keys.iter().zip(texts.texts) {
                let row = entries(&made, key, text);
                keep.extend(row.iter().map(|entry| store.key(&made.model, &entry.text)));
            }
        }
        Ok((made.model, keep))
    }
}

/// Whether a generation says which version of its model made it.
fn is_versioned(live: &lakehouse_journal::model::catalog::Generation) -> bool {
    live.made.is_some()
}

fn found_dataset<'a>(
    state: &'a CatalogState,
    index: &Index,
) -> Result<&'a Arc<Dataset>, PortError> {
    dataset_of(state, index)?;
    let found = state.datasets.get(&index.spec.source);
    found.ok_or_else(|| PortError::internal("a dataset that is there is not there"))
}
