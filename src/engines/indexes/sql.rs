//! The search behind SQL's `vector_search`: the same as REST's, in the snapshot of the statement.

use async_trait::async_trait;
use lakehouse_actors::PortError;
use lakehouse_journal::model::{
    Fold,
    catalog::{CatalogState, Index},
};

use super::{LakeIndexes, SearchMode, SearchQuery, SearchRequest, of_vector};
use crate::query::{FoundRow, SearchSnapshot, SqlSearch};

#[async_trait]
impl SqlSearch for LakeIndexes {
    async fn found(
        &self,
        snapshot: &SearchSnapshot,
        index: &Index,
        text: &str,
        k: usize,
    ) -> Result<Vec<FoundRow>, PortError> {
        let mut catalog: Fold<CatalogState> = Fold::default();
        catalog.state = snapshot.state.as_ref().clone();
        catalog.seq = snapshot.seq;
        let request = SearchRequest {
            query: SearchQuery::Text(text),
            mode: SearchMode::Vector,
            k,
            filter: None,
            ef_search: None,
            exact: false,
            reader: None,
        };
        let found = self.search(&catalog, index, &request).await?;
        let slots: Vec<u64> = found.hits.iter().map(|hit| hit.slot).collect();
        let texts = found.live.texts(&slots).await;
        let texts = texts.map_err(|error| of_vector(&error))?;
        let row = |(hit, text): (super::SearchHit, Option<String>)| FoundRow {
            key: hit.key,
            score: hit.score,
            distance: hit.distance,
            text,
        };
        Ok(found.hits.into_iter().zip(texts).map(row).collect())
    }
}
