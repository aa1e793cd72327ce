//! Rows in several parts: an index over long texts has a vector for each part of a row's text, and a
//! search answers with rows, each by its best part. The parts of a row lie under its key and the
//! numbers after it, without a gap.

use std::collections::HashSet;

use super::{Live, search::SearchHit};
use crate::engines::embedder::chunks::{part_key, row_key};

/// How much deeper a search looks for the first time, so that rows remain when parts are put together.
const DEEPER: usize = 3;

/// How deep a search for `k` rows looks among parts, and how deep when that was not enough.
pub fn depth(k: usize, before: Option<usize>) -> usize {
    before.unwrap_or(k).saturating_mul(DEEPER).max(32)
}

/// Puts the parts of a row together: the best one stands for the row, under the row's key.
pub fn by_row(hits: Vec<SearchHit>, k: usize) -> Vec<SearchHit> {
    let mut seen = HashSet::new();
    let mut rows = Vec::with_capacity(k);
    for hit in hits {
        let key = row_key(&hit.key).0.to_owned();
        if rows.len() < k && seen.insert(key.clone()) {
            rows.push(SearchHit { key, ..hit });
        }
    }
    rows
}

/// The slots of all parts of a row, by whoever finds the slot of a part.
pub fn slots_of<'a>(
    key: &'a str,
    in_parts: bool,
    find: impl Fn(&str) -> Option<u64> + 'a,
) -> impl Iterator<Item = u64> + 'a {
    let last = if in_parts { usize::MAX } else { 1 };
    (0..last).map_while(move |part| {
        if part == 0 {
            find(key)
        } else {
            find(&part_key(key, part))
        }
    })
}

impl Live {
    /// The slots of the newest parts of a row.
    pub(super) fn slots_of_row<'a>(
        &'a self,
        key: &'a str,
        in_parts: bool,
    ) -> impl Iterator<Item = u64> + 'a {
        slots_of(key, in_parts, |key| self.slot_of(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hit(key: &str, score: f32) -> SearchHit {
        SearchHit {
            slot: 0,
            key: key.to_owned(),
            score,
            distance: None,
        }
    }

    #[test]
    fn the_best_part_stands_for_its_row() {
        let hits = vec![
            hit("a\u{0}2", 0.9),
            hit("b", 0.8),
            hit("a", 0.7),
            hit("a\u{0}1", 0.6),
            hit("c\u{0}1", 0.5),
        ];
        let rows = by_row(hits, 3);
        let keys: Vec<&str> = rows.iter().map(|row| row.key.as_str()).collect();
        assert_eq!(keys, ["a", "b", "c"]);
        assert!((rows[0].score - 0.9).abs() < 1e-6);
    }

    #[test]
    fn parts_are_found_until_one_is_missing() {
        let there = ["k", "k\u{0}1", "k\u{0}3"];
        let find = |key: &str| {
            there
                .iter()
                .position(|part| *part == key)
                .map(|at| at as u64)
        };
        assert_eq!(slots_of("k", true, find).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(slots_of("k", false, find).collect::<Vec<_>>(), [0]);
        assert_eq!(slots_of("x", true, find).count(), 0);
    }
}
