//! One token's part of the memory that all queries share: the queries of its holder together may reserve so
//! much, and what they reserve counts for all. Made by the engine; sessions are given it.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use datafusion::{
    common::resources_datafusion_err,
    error::Result,
    execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation},
};

/// A part of a pool.
#[derive(Debug)]
pub struct PartOfPool {
    whole: Arc<dyn MemoryPool>,
    used: AtomicUsize,
    bytes_max: usize,
}

impl PartOfPool {
    /// At most so many bytes of `whole`.
    pub fn new(whole: Arc<dyn MemoryPool>, bytes_max: usize) -> Self {
        Self {
            whole,
            used: AtomicUsize::new(0),
            bytes_max,
        }
    }
}

impl fmt::Display for PartOfPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "part of {} bytes", self.bytes_max)
    }
}

impl MemoryPool for PartOfPool {
    fn name(&self) -> &'static str {
        "part"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.whole.register(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.whole.unregister(consumer);
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.used.fetch_add(additional, Ordering::Relaxed);
        self.whole.grow(reservation, additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.used.fetch_sub(shrink, Ordering::Relaxed);
        self.whole.shrink(reservation, shrink);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        let grown = self
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(additional)
                    .filter(|sum| *sum <= self.bytes_max)
            });
        if grown.is_err() {
            return Err(resources_datafusion_err!(
                "{additional} bytes more than the {} of this token",
                self.bytes_max
            ));
        }
        self.whole
            .try_grow(reservation, additional)
            .inspect_err(|_| {
                self.used.fetch_sub(additional, Ordering::Relaxed);
            })
    }

    fn reserved(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.bytes_max)
    }
}

#[cfg(test)]
mod tests {
    use datafusion::execution::memory_pool::GreedyMemoryPool;

    use super::*;

    #[test]
    fn a_part_ends_before_the_whole_and_counts_for_it() {
        let whole: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(100));
        let part: Arc<dyn MemoryPool> = Arc::new(PartOfPool::new(Arc::clone(&whole), 60));
        let mine = MemoryConsumer::new("mine").register(&part);
        mine.try_grow(50).expect("within the part");
        assert!(mine.try_grow(11).is_err(), "more than the part");
        assert_eq!((part.reserved(), whole.reserved()), (50, 50));
        let other = MemoryConsumer::new("other").register(&whole);
        other.try_grow(50).expect("the rest of the whole");
        assert!(mine.try_grow(5).is_err(), "the whole is used up");
        assert_eq!(part.reserved(), 50, "what failed is not counted");
        drop(mine);
        assert_eq!((part.reserved(), whole.reserved()), (0, 50));
    }
}
