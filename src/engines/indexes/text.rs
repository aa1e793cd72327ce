//! Searches by words: BM25 over the texts of a generation and of its deltas, and the union with a
//! search by meaning by reciprocal rank fusion.

use std::path::PathBuf;

use roaring::RoaringBitmap;
use tokio::sync::OnceCell;

use super::{live::Live, shown::Shown};
use crate::engines::{
    lance::text::{TextIndex, score},
    vectors::{FileDigest, VectorError, best},
};

/// What the rank of a row counts: 1 / (this + rank), as Cormack, Clarke and Büttcher found it to work
/// for any two rankings (SIGIR 2009).
const FUSION: f32 = 60.0;

/// A generation's texts, opened when they are first asked for.
pub struct LazyText {
    dir: PathBuf,
    files: Vec<FileDigest>,
    opened: OnceCell<Option<TextIndex>>,
}

impl LazyText {
    /// Of the generation in `dir` with these files.
    pub fn new(dir: PathBuf, files: Vec<FileDigest>) -> Self {
        Self {
            dir,
            files,
            opened: OnceCell::new(),
        }
    }

    async fn get(&self) -> Result<Option<&TextIndex>, VectorError> {
        let opened = self
            .opened
            .get_or_try_init(|| TextIndex::open(&self.dir, &self.files))
            .await?;
        Ok(opened.as_ref())
    }
}

impl Live {
    /// The `k` visible rows whose texts the words fit best: slot and score, best first.
    ///
    /// # Errors
    /// `Corrupt` or `Io` when texts cannot be read; `Engine`.
    pub async fn matching(
        &self,
        words: &str,
        k: usize,
        shown: &Shown,
    ) -> Result<Vec<(u64, f32)>, VectorError> {
        if k == 0 {
            return Ok(Vec::new());
        }
        if !cfg!(feature = "lance") {
            return Err(VectorError::Config {
                reason: "this build has no Lance, and full text is Lance's".to_owned(),
            });
        }
        let index = self.base.text.get().await?;
        let rows = self.base.index.rows();
        if index.is_none() && rows > 0 {
            return Err(VectorError::Config {
                reason: "the generation that answers was built before there was full text: build \
                         the index anew"
                    .to_owned(),
            });
        }
        let only: Option<RoaringBitmap> = match (shown, &self.base.chunks) {
            (Shown::All, _) => None,
            (Shown::Except(_) | Shown::Only(_), None) => {
                let end = u32::try_from(rows).expect("slots have 32 bits");
                let mut set = shown.to_set(rows);
                set.remove_range(end..);
                Some(set)
            }
            (Shown::Except(_) | Shown::Only(_), Some(chunks)) => {
                let rows = (0_u32..).zip(chunks.firsts());
                let rows = rows.filter(|(_, first)| shown.allows(u64::from(**first)));
                Some(rows.map(|(row, _)| row).collect())
            }
        };
        let mut hits = match index {
            Some(index) if only.as_ref().is_none_or(|set| !set.is_empty()) => {
                index.search(words, k, only.as_ref()).await?
            }
            _ => Vec::new(),
        };
        if let Some(chunks) = &self.base.chunks {
            // Where texts are cut, they are numbered by row, and a row's slot is that of its first chunk.
            let first = |row: u64| chunks.firsts().get(usize::try_from(row).ok()?).copied();
            hits = hits
                .into_iter()
                .filter_map(|(row, score)| Some((u64::from(first(row)?), score)))
                .collect();
        }
        let texts = self.delta_texts(shown);
        if !texts.is_empty() {
            hits.extend(score(index, words, texts).await?);
        }
        Ok(best(hits, k))
    }

    fn delta_texts(&self, shown: &Shown) -> Vec<(u64, String)> {
        let slots = self.segments.iter().flat_map(|segment| {
            segment
                .slots()
                .filter(|slot| self.row_of(*slot) == *slot)
                .filter_map(|slot| Some((slot, segment.text(slot)?.to_owned())))
        });
        slots.filter(|(slot, _)| shown.allows(*slot)).collect()
    }
}

/// Two rankings as one: a row's score is the sum of what its ranks count, and a row comes once.
pub fn fused(rankings: [&[u64]; 2], k: usize) -> Vec<(u64, f32)> {
    let mut scores: std::collections::BTreeMap<u64, f32> = std::collections::BTreeMap::new();
    for ranking in rankings {
        let mut rank = 0.0;
        for slot in ranking {
            rank += 1.0;
            *scores.entry(*slot).or_default() += 1.0 / (FUSION + rank);
        }
    }
    let mut fused: Vec<(u64, f32)> = scores.into_iter().collect();
    fused.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    fused.truncate(k);
    fused
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_in_both_rankings_comes_once_and_before_others_of_its_rank() {
        let fused = fused([&[7, 1, 2], &[3, 1, 9]], 10);
        let slots: Vec<u64> = fused.iter().map(|(slot, _)| *slot).collect();
        assert_eq!(slots, [1, 3, 7, 2, 9]);
        assert_eq!(super::fused([&[7, 1], &[]], 1).len(), 1);
    }
}
