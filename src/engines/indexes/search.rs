//! The search: by meaning, by words or by both, over a generation and its deltas, through what the
//! reader may see and what passes a filter. REST, SQL's `vector_search` and tools all end here.

use std::{collections::HashMap, sync::Arc, time::Instant};

use lakehouse_actors::PortError;
use lakehouse_journal::model::{
    ErrorKind, Fold,
    catalog::{CatalogState, Index},
};

use super::{LakeIndexes, Live, of_vector, sets::Shown, text::fused};
use crate::{
    engines::{
        embedder::StaticEmbedder,
        vectors::{Hit, SearchPath, VectorError},
    },
    query::SessionTables,
};

/// Most hits of one search.
pub const HITS_MAX: usize = 10_000;
/// The code of a text that has no vector.
const NO_VECTOR: &str = "text_without_vector";
/// Rows of each ranking that a fusion looks at, at least.
const FUSED_MIN: usize = 100;

/// Through whose eyes a search looks. Rows that the relation does not have are never found, and a
/// filter sees the relation's columns only.
#[derive(Clone)]
pub struct Reader {
    /// What the reader may read.
    pub tables: SessionTables,
    /// Whose rows may be found: the index's source, or a view over it with the same key column.
    pub relation: String,
    /// What decides which rows the relation has for this reader, beside the source's own rows: the
    /// view's version, the principal. The same word, the same rows.
    pub policy: String,
}

impl Reader {
    /// Who may see all rows of the source.
    pub fn everybody(catalog: &Fold<CatalogState>, source: &str) -> Self {
        Self {
            tables: SessionTables::all(Arc::new(catalog.state.clone()), catalog.seq),
            relation: source.to_owned(),
            policy: String::new(),
        }
    }
}

/// How rows are found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SearchMode {
    /// By meaning: the nearest vectors.
    #[default]
    Vector,
    /// By words: BM25 over the texts.
    Text,
    /// By both, their rankings fused.
    Hybrid,
}

/// What a search asks for.
pub struct SearchRequest<'a> {
    /// The text or the vector itself.
    pub query: SearchQuery<'a>,
    /// How rows are found.
    pub mode: SearchMode,
    /// How many hits.
    pub k: usize,
    /// A predicate over the source, already parsed and printed again.
    pub filter: Option<&'a str>,
    /// Candidates looked at.
    pub ef_search: Option<usize>,
    /// Whether to compare every row.
    pub exact: bool,
    /// Through whose eyes; nobody's means that all rows of the source may be found.
    pub reader: Option<&'a Reader>,
}

/// The query of a search.
#[derive(Clone, Copy)]
pub enum SearchQuery<'a> {
    /// A text, embedded like the rows were.
    Text(&'a str),
    /// A vector.
    Vector(&'a [f32]),
}

/// A row that a search found.
#[derive(Debug, Clone, PartialEq)]
pub struct SearchHit {
    /// Its slot in what answered.
    pub slot: u64,
    /// Its key.
    pub key: String,
    /// Larger is better; of the mode's own scale.
    pub score: f32,
    /// How far its vector is, when the search looked at vectors and found it by that.
    pub distance: Option<f32>,
}

/// What a search found.
pub struct Searched {
    /// What answered, for texts and vectors of hits.
    pub live: Arc<Live>,
    /// The hits, best first. No row is among them twice.
    pub hits: Vec<SearchHit>,
    /// `ann`, `exact` or `text`.
    pub path: &'static str,
    /// How long it took, in microseconds.
    pub elapsed_us: u64,
}

impl LakeIndexes {
    /// Searches what answers for `index`: always `k` hits when `k` rows qualify.
    ///
    /// # Errors
    /// `Conflict` while the index is not built, `Invalid` for a bad query, `Unprocessable` for words
    /// where there is no text, `Corrupt` or `Unavailable` when its files are not what was built.
    pub async fn search(
        &self,
        catalog: &Fold<CatalogState>,
        index: &Index,
        request: &SearchRequest<'_>,
    ) -> Result<Searched, PortError> {
        let started = Instant::now();
        let live = self.live(index).await?;
        let shown = self
            .shown(catalog, index, &live, request.reader, request.filter)
            .await?;
        let found = match request.mode {
            SearchMode::Vector => {
                self.by_meaning(index, &live, request, request.k, &shown)
                    .await
            }
            SearchMode::Text => {
                self.by_words(index, &live, request, request.k, &shown)
                    .await
            }
            SearchMode::Hybrid => self.by_both(index, &live, request, &shown).await,
        };
        let (hits, path) = found.map_err(|error| match index.live_generation() {
            Some(generation) => self.told(index, generation, error),
            None => error,
        })?;
        Ok(Searched {
            live,
            hits,
            path,
            elapsed_us: u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX),
        })
    }

    async fn by_meaning(
        &self,
        index: &Index,
        live: &Live,
        request: &SearchRequest<'_>,
        k: usize,
        shown: &Shown,
    ) -> Result<(Vec<SearchHit>, &'static str), PortError> {
        let embedded;
        let vector = match request.query {
            SearchQuery::Vector(vector) => vector,
            SearchQuery::Text(text) => {
                embedded = self.embed(index, text)?;
                &embedded
            }
        };
        let found = live
            .nearest(vector, k, request.ef_search, request.exact, shown.visible())
            .await
            .map_err(|error| of_vector(&error))?;
        let path = match found.path {
            SearchPath::Ann => "ann",
            SearchPath::Exact => "exact",
        };
        let hit = |hit: Hit| SearchHit {
            slot: hit.slot,
            key: hit.key,
            score: hit.score,
            distance: Some(hit.distance),
        };
        Ok((found.hits.into_iter().map(hit).collect(), path))
    }

    async fn by_words(
        &self,
        index: &Index,
        live: &Live,
        request: &SearchRequest<'_>,
        k: usize,
        shown: &Shown,
    ) -> Result<(Vec<SearchHit>, &'static str), PortError> {
        let SearchQuery::Text(words) = request.query else {
            return Err(unprocessable(
                "a search by words needs `query`, not `vector`",
            ));
        };
        if index.spec.text.is_none() {
            return Err(unprocessable(&format!(
                "index `{}` has vectors of a column and no text",
                index.name
            )));
        }
        let found = live.matching(words, k, shown).await;
        let found = found.map_err(|error| match error {
            VectorError::Config { reason } => unprocessable(&reason),
            other => of_vector(&other),
        })?;
        Ok((hits(live, found), "text"))
    }

    async fn by_both(
        &self,
        index: &Index,
        live: &Live,
        request: &SearchRequest<'_>,
        shown: &Shown,
    ) -> Result<(Vec<SearchHit>, &'static str), PortError> {
        let k = request.k;
        let deep = k.max(FUSED_MIN);
        let near = self.by_meaning(index, live, request, deep, shown).await;
        let (near, path) = match near {
            // Words that no model knows are found all the same.
            Err(error) if error.code == NO_VECTOR => (Vec::new(), "text"),
            near => near?,
        };
        let (fitting, _) = self.by_words(index, live, request, deep, shown).await?;
        let slots = |hits: &[SearchHit]| hits.iter().map(|hit| hit.slot).collect::<Vec<u64>>();
        let fused = fused([&slots(&near), &slots(&fitting)], k);
        let mut fused = hits(live, fused);
        let distances = near.iter().map(|near| (near.slot, near.distance));
        let distances: HashMap<u64, Option<f32>> = distances.collect();
        for hit in &mut fused {
            hit.distance = distances.get(&hit.slot).copied().flatten();
        }
        Ok((fused, path))
    }

    /// The vector of a query, made like those of the index were.
    fn embed(&self, index: &Index, text: &str) -> Result<Vec<f32>, PortError> {
        if index.spec.vector_column.is_some() {
            return Err(unprocessable(&format!(
                "index `{}` has vectors of a column: it is searched by `vector`",
                index.name
            )));
        }
        let embed = || StaticEmbedder::built_in().embed(text).map(Vec::from);
        let vector = self
            .cache
            .get(&index.spec.model, text, embed)
            .ok_or_else(|| {
                PortError::new(
                    ErrorKind::Unprocessable,
                    NO_VECTOR,
                    "the text has no word that the embedder knows",
                )
            })?;
        Ok(vector.to_vec())
    }
}

fn hits(live: &Live, found: Vec<(u64, f32)>) -> Vec<SearchHit> {
    let hit = |(slot, score)| SearchHit {
        slot,
        key: live.key_of(slot).unwrap_or_default().to_owned(),
        score,
        distance: None,
    };
    found.into_iter().map(hit).collect()
}

fn unprocessable(text: &str) -> PortError {
    PortError::new(ErrorKind::Unprocessable, "unsupported", text)
}
