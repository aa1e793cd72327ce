//! Numbers for the made-up tables: a short stream of them for every row of every table.
//! The generators call it; a row's stream follows from (seed, stream, row) alone, so any row can be
//! made without the rows before it. `SplitMix64` on wrapping 64-bit integers, no float and no crate:
//! the same bytes on every machine and under every version of the dependencies.

/// Which stream of numbers is drawn; two streams never share numbers.
#[derive(Clone, Copy)]
pub(super) enum Stream {
    Cities = 1,
    Clients,
    Candidates,
    Jobs,
    Placements,
    PlacementWeeks,
    Timesheets,
    Activities,
    Emails,
    Rotations,
    SsnOffset,
}

/// The numbers of one row.
pub(super) struct RowRng(u64);

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// A number as an index. What it is used for has far fewer than 2^32 items.
#[inline]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the numbers are below the lengths of lists in memory"
)]
pub(super) const fn as_index(number: u64) -> usize {
    number as usize
}

/// The same share of `whole` as `part` is of `all`, rounded down.
#[inline]
#[expect(
    clippy::cast_possible_truncation,
    reason = "a share is at most the whole"
)]
pub(super) const fn share(part: u64, all: u64, whole: u64) -> u64 {
    (part as u128 * whole as u128 / all as u128) as u64
}

/// The finaliser of `SplitMix64` (Steele, Lea, Flood: "Fast splittable pseudorandom number generators").
const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl RowRng {
    /// The stream of `row` (from 0).
    pub(super) fn new(seed: u64, stream: Stream, row: u64) -> Self {
        let base = mix(seed.wrapping_add(GOLDEN.wrapping_mul(stream as u64)));
        Self(mix(base.wrapping_add(GOLDEN.wrapping_mul(row))))
    }

    #[inline]
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        mix(self.0)
    }

    /// A number in `0..bound`; 0 where the bound is 0.
    #[inline]
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// A number in `low..=high`.
    #[inline]
    pub(super) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// True in `percent` of 100 cases.
    #[inline]
    pub(super) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of the items, which are not empty.
    #[inline]
    pub(super) fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.index(items.len())]
    }

    /// An index below a length.
    #[inline]
    pub(super) fn index(&mut self, length: usize) -> usize {
        as_index(self.below(length as u64))
    }

    /// One of the words, which are not none.
    #[inline]
    pub(super) fn word(&mut self, words: &[&'static str]) -> &'static str {
        self.pick::<&'static str>(words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_the_same_numbers_wherever_it_is_made() {
        let mut rng = RowRng::new(7, Stream::Jobs, 41);
        assert_eq!(
            [rng.next(), rng.next()],
            [14_424_359_691_601_731_989, 12_549_804_745_866_376_000]
        );
    }

    #[test]
    fn bounds_hold() {
        let mut rng = RowRng::new(1, Stream::Clients, 0);
        for _ in 0..10_000 {
            assert!(rng.below(3) < 3);
            assert!((5..=9).contains(&rng.between(5, 9)));
        }
        assert_eq!(rng.below(0), 0);
    }
}
