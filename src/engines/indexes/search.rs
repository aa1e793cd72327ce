//! The search: by meaning, by words or by both, over a generation and its deltas, through what the
//! reader may see and what passes a filter. REST and tools end here.

use std::{collections::HashMap, sync::Arc, time::Instant};

use lakehouse_actors::{PortError, ports::ChunkSpan};
use lakehouse_journal::model::{
    ErrorKind, Fold,
    catalog::{CatalogState, Index},
};

use super::{
    LakeIndexes, Live,
    chunks::RowHit,
    of_vector,
    shown::Shown,
    sight::{Sight, slots_where},
    text::fused,
};
use crate::engines::vectors::{SearchPath, VectorError};

/// Most hits of one search.
pub const HITS_MAX: usize = 10_000;
/// The code of a text that has no vector.
const NO_VECTOR: &str = "text_without_vector";
/// Numbers that are compared at most so that an answer depends on nothing but rows that are shown: 200,000
/// rows of 128 dimensions, which takes some 10 ms.
pub const SETTLED_MAX: u64 = 200_000 * 128;
/// Rows of each ranking that a fusion looks at, at least.
const FUSED_MIN: usize = 100;

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
    /// What the caller sees of the rows.
    pub sight: Sight<'a>,
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
    /// The chunk of its text that it was found by, where texts are cut.
    pub chunk: Option<ChunkSpan>,
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
        if request.sight.is_restricted && request.mode != SearchMode::Vector {
            // How rare a word is, is reckoned over all rows, and tells of hidden ones.
            let text = "a search by words is for who sees every row of the index";
            return Err(PortError::new(ErrorKind::Denied, "words_denied", text));
        }
        let live = self.live(index).await?;
        let sight = &request.sight;
        let shown = self.shown(catalog, index, &live, sight).await?;
        let shown = match request.filter {
            None => shown,
            Some(filter) => {
                let passing = slots_where(index, &live, sight, Some(filter)).await?;
                Shown::Only(Arc::new(shown.within(&passing)))
            }
        };
        // What a hidden row does to the graph must not be told by which rows are found.
        let settled = match &shown {
            Shown::Only(_) if sight.is_restricted => {
                let vectors = live.count_shown(&live.vectors_shown(&shown));
                vectors * u64::from(index.spec.dimensions) <= self.settled_max
            }
            _ => false,
        };
        let asked = Looking {
            indexes: self,
            index,
            live: &live,
            request,
            exact: request.exact || settled,
            shown: &shown,
        };
        let found = match request.mode {
            SearchMode::Vector => asked.by_meaning(request.k).await,
            SearchMode::Text => asked.by_words(request.k).await,
            SearchMode::Hybrid => asked.by_both().await,
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
}

/// A search on its way, with what it may find.
struct Looking<'a> {
    indexes: &'a LakeIndexes,
    index: &'a Index,
    live: &'a Live,
    request: &'a SearchRequest<'a>,
    exact: bool,
    shown: &'a Shown,
}

/// Hits, best first, and how they were found.
type Ranked = Result<(Vec<SearchHit>, &'static str), PortError>;

impl Looking<'_> {
    async fn by_meaning(&self, k: usize) -> Ranked {
        let embedded;
        let vector = match self.request.query {
            SearchQuery::Vector(vector) => vector,
            SearchQuery::Text(text) => {
                embedded = self.indexes.query_vector(self.index, text).await?;
                &embedded
            }
        };
        let ef = self.request.ef_search;
        let found = self
            .live
            .nearest(vector, k, ef, self.exact, self.shown)
            .await
            .map_err(|error| of_vector(&error))?;
        let path = match found.path {
            SearchPath::Ann => "ann",
            SearchPath::Exact => "exact",
        };
        // By a graph, hidden rows may decide by which of its chunks a row is found.
        let tells_chunk = self.exact || !self.request.sight.is_restricted;
        let hit = |hit: RowHit| SearchHit {
            slot: hit.slot,
            key: hit.key,
            score: hit.score,
            distance: Some(hit.distance),
            chunk: hit.chunk.filter(|_| tells_chunk),
        };
        Ok((found.hits.into_iter().map(hit).collect(), path))
    }

    async fn by_words(&self, k: usize) -> Ranked {
        let SearchQuery::Text(words) = self.request.query else {
            return Err(unprocessable(
                "a search by words needs `query`, not `vector`",
            ));
        };
        if self.index.spec.text.is_none() {
            return Err(unprocessable(&format!(
                "index `{}` has vectors of a column and no text",
                self.index.name
            )));
        }
        let found = self.live.matching(words, k, self.shown).await;
        let found = found.map_err(|error| match error {
            VectorError::Config { reason } => unprocessable(&reason),
            other => of_vector(&other),
        })?;
        Ok((hits(self.live, found), "text"))
    }

    async fn by_both(&self) -> Ranked {
        let k = self.request.k;
        let deep = k.max(FUSED_MIN);
        let (near, path) = match self.by_meaning(deep).await {
            // Words that no model knows are found all the same.
            Err(error) if error.code == NO_VECTOR => (Vec::new(), "text"),
            near => near?,
        };
        let (fitting, _) = self.by_words(deep).await?;
        let slots = |hits: &[SearchHit]| hits.iter().map(|hit| hit.slot).collect::<Vec<u64>>();
        let mut fused = hits(self.live, fused([&slots(&near), &slots(&fitting)], k));
        let near: HashMap<u64, &SearchHit> = near.iter().map(|near| (near.slot, near)).collect();
        for hit in &mut fused {
            if let Some(near) = near.get(&hit.slot) {
                (hit.distance, hit.chunk) = (near.distance, near.chunk);
            }
        }
        Ok((fused, path))
    }
}

fn hits(live: &Live, found: Vec<(u64, f32)>) -> Vec<SearchHit> {
    let hit = |(slot, score)| SearchHit {
        slot,
        key: live.key_of(slot).unwrap_or_default().to_owned(),
        score,
        distance: None,
        chunk: None,
    };
    found.into_iter().map(hit).collect()
}

fn unprocessable(text: &str) -> PortError {
    PortError::new(ErrorKind::Unprocessable, "unsupported", text)
}
