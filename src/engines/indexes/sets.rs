//! Sets of slots: which rows of what answers may be shown, and which pass a filter. Remembered beside
//! it until the source changes, so that the same filter asked again costs no query.

use std::sync::Arc;

use lakehouse_journal::{model::catalog::Dataset, record::Seq};
use parking_lot::Mutex;
use roaring::RoaringBitmap;

use crate::engines::vectors::Visible;

/// Sets that are kept beside what answers.
const SETS_MAX: usize = 64;

/// Words of predicates whose answer may change while the source does not.
const UNSTEADY: [&str; 8] = [
    "now",
    "current",
    "today",
    "local",
    "random",
    "uuid",
    "principal",
    "behalf",
];

/// What a set of slots was made of: positions of the source's last tombstone and change of rows.
pub type Position = (Seq, Seq);

/// The position of a dataset.
pub fn position(dataset: &Dataset) -> Position {
    (dataset.last_tombstone_seq(), dataset.rows_seq)
}

/// The slots that may be shown.
#[derive(Debug, Clone)]
pub enum Shown {
    /// Every one.
    All,
    /// Every one but these.
    Except(Arc<RoaringBitmap>),
    /// These.
    Only(Arc<RoaringBitmap>),
}

impl Shown {
    /// Whether a slot may be shown.
    pub fn allows(&self, slot: u64) -> bool {
        self.visible().allows(slot)
    }

    /// As engines take it.
    pub fn visible(&self) -> Visible<'_> {
        match self {
            Self::All => Visible::All,
            Self::Except(hidden) => Visible::Except(hidden),
            Self::Only(only) => Visible::Only(only),
        }
    }

    /// Those of `slots` that may be shown.
    pub fn within(&self, slots: &RoaringBitmap) -> RoaringBitmap {
        match self {
            Self::All => slots.clone(),
            Self::Except(hidden) => slots - hidden.as_ref(),
            Self::Only(only) => slots & only.as_ref(),
        }
    }

    /// The same without these.
    pub fn without(self, slots: &RoaringBitmap) -> Self {
        if slots.is_empty() {
            return self;
        }
        match self {
            Self::All => Self::Except(Arc::new(slots.clone())),
            Self::Except(hidden) => Self::Except(Arc::new(hidden.as_ref() | slots)),
            Self::Only(only) => Self::Only(Arc::new(only.as_ref() - slots)),
        }
    }

    /// As a set of the first `rows` slots.
    pub fn to_set(&self, rows: u64) -> RoaringBitmap {
        let rows = u32::try_from(rows).expect("slots have 32 bits");
        let all = || (0..rows).collect::<RoaringBitmap>();
        match self {
            Self::All => all(),
            Self::Except(hidden) => all() - hidden.as_ref(),
            Self::Only(only) => only.as_ref().clone(),
        }
    }
}

/// Sets by what they were asked with, the newest last.
#[derive(Default)]
pub struct SlotSets(Mutex<Vec<(String, Position, Shown)>>);

impl SlotSets {
    /// The set that was made of the source as it is.
    pub fn get(&self, asked: &str, position: Position) -> Option<Shown> {
        let mut sets = self.0.lock();
        let at = sets
            .iter()
            .position(|(known, of, _)| known == asked && *of == position)?;
        let found = sets.remove(at);
        let shown = found.2.clone();
        sets.push(found);
        Some(shown)
    }

    /// Remembers a set, unless its answer may change by itself.
    pub fn put(&self, asked: String, position: Position, shown: Shown) {
        let lower = asked.to_ascii_lowercase();
        if UNSTEADY.iter().any(|word| lower.contains(word)) {
            return;
        }
        let mut sets = self.0.lock();
        sets.retain(|(known, _, _)| *known != asked);
        if sets.len() == SETS_MAX {
            sets.remove(0);
        }
        sets.push((asked, position, shown));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(slots: &[u32]) -> Shown {
        Shown::Only(Arc::new(slots.iter().copied().collect()))
    }

    #[test]
    fn a_set_is_remembered_until_its_source_changes() {
        let sets = SlotSets::default();
        sets.put("a > 1".to_owned(), (1, 1), set(&[1]));
        assert!(sets.get("a > 1", (1, 1)).is_some_and(|set| set.allows(1)));
        assert!(sets.get("a > 1", (1, 2)).is_none());
        assert!(sets.get("a > 2", (1, 1)).is_none());
    }

    #[test]
    fn a_predicate_on_time_is_not_remembered() {
        let sets = SlotSets::default();
        sets.put("at > now()".to_owned(), (1, 1), set(&[1]));
        assert!(sets.get("at > now()", (1, 1)).is_none());
    }

    #[test]
    fn the_set_that_was_not_asked_for_the_longest_goes() {
        let sets = SlotSets::default();
        for number in 0..SETS_MAX {
            sets.put(format!("a > {number}"), (1, 1), set(&[1]));
        }
        assert!(sets.get("a > 0", (1, 1)).is_some());
        sets.put("b".to_owned(), (1, 1), set(&[1]));
        assert!(sets.get("a > 0", (1, 1)).is_some());
        assert!(sets.get("a > 1", (1, 1)).is_none());
    }

    #[test]
    fn what_is_shown_loses_what_is_taken_away() {
        let gone: RoaringBitmap = [1].into_iter().collect();
        for shown in [
            Shown::All,
            set(&[1, 2]),
            Shown::Except(Arc::new([3].into_iter().collect())),
        ] {
            let rest = shown.without(&gone);
            assert!(!rest.allows(1) && rest.allows(2));
            assert!(!rest.to_set(4).contains(1));
        }
    }
}
