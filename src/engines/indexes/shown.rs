//! Which slots may be shown, as a set: all, all but some, or some. Made by `visible` and `sight`, taken
//! by the engines.

use std::sync::Arc;

use roaring::RoaringBitmap;

use crate::engines::vectors::Visible;

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
    #[must_use]
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

#[cfg(test)]
mod tests {
    use super::*;

    fn set(slots: &[u32]) -> Shown {
        Shown::Only(Arc::new(slots.iter().copied().collect()))
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
