//! Rows that an index does not have because a model has no vector for their text, and the vectors that
//! are kept of texts. Neither is noted anywhere but under the keyed hashes of the texts: both are found by
//! reading the rows.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use arrow::record_batch::RecordBatch;
use futures::StreamExt;
use lakehouse_actors::{
    PortError,
    ports::{Embedder, TextVector},
};
use lakehouse_journal::{
    model::{
        Fold,
        catalog::{CatalogState, Index, ModelIdentity},
    },
    record::Seq,
};

use super::{
    LakeIndexes, Live,
    making::parts_of,
    source::{rows_query, texts_of},
    visible::dataset_of,
};
use crate::{
    engines::{
        embedder::{
            batches::{blank, is_blank},
            store::{Kept, TextKey, Used},
        },
        tables::of_query,
    },
    query::{QueryStream, SessionTables},
};

/// A row that has no vector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedRow {
    /// The row's key.
    pub key: String,
    /// The stable word of the reason.
    pub code: String,
    /// The reason. A provider wrote it: it may hold the row's text.
    pub reason: String,
}

/// Keys and texts of rows.
type Texts = Vec<(String, String)>;

impl LakeIndexes {
    /// Rows that an index does not have, because the model has no vector for their text; so many at most.
    ///
    /// # Errors
    /// When rows or kept vectors cannot be read.
    pub async fn refused_rows(
        &self,
        catalog: &Fold<CatalogState>,
        index: &Index,
        most: usize,
    ) -> Result<Vec<RefusedRow>, PortError> {
        if index.spec.vector_column.is_some() {
            // Nobody is asked for them.
            return Ok(Vec::new());
        }
        let embedder = self.embedder_of(&index.spec)?;
        let kept = self
            .kept(embedder.as_ref(), dataset_of(&catalog.state, index)?)
            .await?;
        let live = match (&kept, index.live) {
            (None, Some(_)) => Some(self.live(index).await?),
            _ => None,
        };
        let mut found = Vec::new();
        let mut rows = self.texts(catalog, catalog.seq, index).await?;
        while let Some(batch) = rows.next().await {
            let texts = read(&batch.map_err(|error| of_query(&error))?, index)?;
            let more = match &kept {
                Some(kept) => refused_before(kept, texts, |text| {
                    parts_of(text, index.spec.chunk, embedder.as_ref())
                }),
                None => refused_now(embedder.as_ref(), live.as_deref(), texts).await?,
            };
            found.extend(more.take(most - found.len()));
            if found.len() == most {
                break;
            }
        }
        Ok(found)
    }

    /// Forgets which texts of a dataset were refused. Returns how many.
    ///
    /// # Errors
    /// `Unavailable` when that cannot be noted.
    pub async fn forget_refusals(
        &self,
        state: &CatalogState,
        dataset: &str,
    ) -> Result<u64, PortError> {
        let mut forgotten = 0;
        let has_text = |index: &&Arc<Index>| index.spec.vector_column.is_none();
        for index in state.indexes_over(dataset).filter(has_text) {
            let embedder = self.embedder_of(&index.spec)?;
            let kept = self.kept(embedder.as_ref(), dataset_of(state, index)?);
            let Some(kept) = kept.await? else { continue };
            let forget = tokio::task::spawn_blocking(move || kept.forget_refusals());
            forgotten += forget
                .await
                .map_err(|error| PortError::internal(error.to_string()))??;
        }
        Ok(forgotten)
    }

    /// Removes kept vectors of texts that no visible row has; see the port.
    pub(super) async fn sweep(
        &self,
        catalog: &Fold<CatalogState>,
        name: &str,
        through: Seq,
    ) -> Result<u64, PortError> {
        let Some(store) = self.embedding.kept.clone() else {
            return Ok(0);
        };
        let Some(dataset) = catalog.state.datasets.get(name) else {
            return Ok(0);
        };
        let (files, _) = store.may_hold(&dataset.id, through)?;
        let mut used: HashMap<ModelIdentity, HashSet<TextKey>> = HashMap::new();
        for index in catalog.state.indexes_over(name) {
            // What nobody here embeds any more goes whole.
            let Ok(embedder) = self.embedder_of(&index.spec) else {
                continue;
            };
            if files == 0 {
                continue;
            }
            let Some(kept) = self.kept(embedder.as_ref(), dataset).await? else {
                continue;
            };
            let keys = used.entry(embedder.identity().clone()).or_default();
            // An erasure waits for this anyway.
            let mut rows = self.texts(catalog, Seq::MAX, index).await?;
            while let Some(batch) = rows.next().await {
                let texts = read(&batch.map_err(|error| of_query(&error))?, index)?;
                let parts = texts
                    .iter()
                    .flat_map(|(_, text)| parts_of(text, index.spec.chunk, embedder.as_ref()));
                keys.extend(parts.map(|text| kept.key(text)));
            }
        }
        let used: Vec<Used> = used
            .into_iter()
            .map(|(model, texts)| Used { model, texts })
            .collect();
        let id = dataset.id.clone();
        tokio::task::spawn_blocking(move || store.keep_only(&id, &used, through))
            .await
            .map_err(|error| PortError::internal(error.to_string()))??;
        Ok(files)
    }

    /// Removes what is kept of datasets that are gone.
    ///
    /// # Errors
    /// `Unavailable` when it cannot be removed.
    pub fn forget_vectors_of_dropped(&self, state: &CatalogState) -> Result<(), PortError> {
        let ids = state.datasets.values().map(|dataset| dataset.id.clone());
        match &self.embedding.kept {
            Some(store) => store.keep_datasets(&ids.collect()),
            None => Ok(()),
        }
    }

    /// Keys and texts of the rows of an index's source.
    async fn texts(
        &self,
        catalog: &Fold<CatalogState>,
        pinned: Seq,
        index: &Index,
    ) -> Result<QueryStream, PortError> {
        let tables = SessionTables::all(Arc::new(catalog.state.clone()), pinned);
        let sql = rows_query(index, &index.spec.source)?;
        self.rows(tables, &sql).await
    }
}

fn read(batch: &RecordBatch, index: &Index) -> Result<Texts, PortError> {
    let (keys, texts) = texts_of(index, batch)?;
    let rows = texts.unwrap_or_default().into_iter().enumerate();
    Ok(rows
        .map(|(row, text)| (keys.value(row).to_owned(), text))
        .collect())
}

/// Rows whose refusal is kept: of their text, or of the first of its chunks that was refused.
fn refused_before(
    kept: &Kept,
    texts: Texts,
    parts: impl Fn(&str) -> Vec<&str>,
) -> std::vec::IntoIter<RefusedRow> {
    let refusal = |text: &str| {
        if is_blank(text) {
            Some(blank())
        } else {
            kept.refusal(&kept.key(text))
        }
    };
    let rows = texts.into_iter().filter_map(|(key, text)| {
        let refused = parts(&text).into_iter().find_map(refusal);
        of_refusal(key, refused?)
    });
    rows.collect::<Vec<_>>().into_iter()
}

/// Rows that are not in the generation and have no vector, as a model says that costs nothing to ask.
async fn refused_now(
    embedder: &dyn Embedder,
    live: Option<&Live>,
    texts: Texts,
) -> Result<std::vec::IntoIter<RefusedRow>, PortError> {
    let Some(live) = live else {
        return Ok(Vec::new().into_iter());
    };
    let absent = texts.into_iter();
    let absent = absent.filter(|(key, _)| live.slot_of(key).is_none());
    let (keys, texts): (Vec<String>, Vec<String>) = absent.unzip();
    let made = embedder.embed(&texts).await?;
    let rows = keys.into_iter().zip(made.vectors);
    let rows = rows.filter_map(|(key, made)| of_refusal(key, made));
    Ok(rows.collect::<Vec<_>>().into_iter())
}

fn of_refusal(key: String, made: TextVector) -> Option<RefusedRow> {
    match made {
        TextVector::Refused { code, reason } => Some(RefusedRow { key, code, reason }),
        TextVector::Vector(_) => None,
    }
}
