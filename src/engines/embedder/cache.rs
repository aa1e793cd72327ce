//! Vectors of texts that were asked for lately, within a budget of bytes: the least lately used goes
//! first. Search asks it before the embedder; erasure empties it, since a query may be a row's text.
//! Texts are known by their hashes only.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use parking_lot::Mutex;
use serde::Serialize;

/// What an entry takes beside its numbers, in bytes: key, stamp and the two maps' places.
const ENTRY_BYTES: usize = 128;

/// What the cache holds and how it did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct CacheStats {
    /// Vectors in it.
    pub entries: u64,
    /// Bytes that they take.
    pub bytes: u64,
    /// The budget.
    pub capacity_bytes: u64,
    /// Texts that were found.
    pub hits: u64,
    /// Texts that had to be embedded.
    pub misses: u64,
    /// Vectors that had to go for others.
    pub evictions: u64,
}

/// What is not in the cache.
pub struct Missing {
    key: blake3::Hash,
    /// How often everything had been forgotten when it was looked for.
    clears: u64,
}

/// An embedding cache.
pub struct EmbeddingCache {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    vectors: HashMap<blake3::Hash, (u64, Arc<[f32]>)>,
    /// Which was used when, the longest ago first.
    order: BTreeMap<u64, blake3::Hash>,
    stamp: u64,
    clears: u64,
    stats: CacheStats,
}

impl EmbeddingCache {
    /// With this budget.
    pub fn new(capacity_bytes: u64) -> Self {
        let stats = CacheStats {
            capacity_bytes,
            ..CacheStats::default()
        };
        let inner = Inner {
            stats,
            ..Inner::default()
        };
        Self {
            inner: Mutex::new(inner),
        }
    }

    /// The vector of a text by a model.
    ///
    /// # Errors
    /// What the vector is to be kept under, when it is not here.
    pub fn find(&self, model: &str, text: &str) -> Result<Arc<[f32]>, Missing> {
        let key = blake3::Hasher::new()
            .update(model.as_bytes())
            .update(&[0])
            .update(text.as_bytes())
            .finalize();
        let mut inner = self.inner.lock();
        let clears = inner.clears;
        inner.find(&key).ok_or(Missing { key, clears })
    }

    /// Keeps a vector, unless everything was forgotten since it was looked for: it may be of a row that
    /// is erased.
    pub fn keep(&self, missing: &Missing, vector: Arc<[f32]>) {
        let mut inner = self.inner.lock();
        if inner.clears == missing.clears {
            inner.keep(missing.key, vector);
        }
    }

    /// Forgets every vector; the counts of hits, misses and evictions stay.
    pub fn clear(&self) {
        let mut inner = self.inner.lock();
        inner.vectors.clear();
        inner.order.clear();
        inner.clears += 1;
        inner.stats.entries = 0;
        inner.stats.bytes = 0;
    }

    /// What it holds and how it did.
    pub fn stats(&self) -> CacheStats {
        self.inner.lock().stats
    }
}

impl Inner {
    fn find(&mut self, key: &blake3::Hash) -> Option<Arc<[f32]>> {
        self.stamp += 1;
        let Some((stamp, vector)) = self.vectors.get_mut(key) else {
            self.stats.misses += 1;
            return None;
        };
        self.order.remove(stamp);
        *stamp = self.stamp;
        self.order.insert(self.stamp, *key);
        self.stats.hits += 1;
        Some(Arc::clone(vector))
    }

    fn keep(&mut self, key: blake3::Hash, vector: Arc<[f32]>) {
        let bytes = bytes_of(&vector);
        if bytes > self.stats.capacity_bytes || self.vectors.contains_key(&key) {
            return;
        }
        while self.stats.bytes + bytes > self.stats.capacity_bytes {
            let Some((_, oldest)) = self.order.pop_first() else {
                return;
            };
            if let Some((_, gone)) = self.vectors.remove(&oldest) {
                self.stats.bytes -= bytes_of(&gone);
                self.stats.entries -= 1;
                self.stats.evictions += 1;
            }
        }
        self.stamp += 1;
        self.order.insert(self.stamp, key);
        self.vectors.insert(key, (self.stamp, vector));
        self.stats.bytes += bytes;
        self.stats.entries += 1;
    }
}

fn bytes_of(vector: &[f32]) -> u64 {
    (size_of_val(vector) + ENTRY_BYTES) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(cache: &EmbeddingCache, text: &str) -> bool {
        match cache.find("m", text) {
            Ok(vector) => {
                assert_eq!(vector.len(), 32);
                false
            }
            Err(missing) => {
                cache.keep(&missing, vec![1.0; 32].into());
                true
            }
        }
    }

    #[test]
    fn a_text_is_embedded_once_until_it_is_forgotten() {
        let cache = EmbeddingCache::new(1 << 20);
        assert!(ask(&cache, "a"));
        assert!(!ask(&cache, "a"));
        assert!(cache.find("other", "a").is_err());
        cache.clear();
        assert_eq!((cache.stats().entries, cache.stats().bytes), (0, 0));
        assert!(ask(&cache, "a"));
        let stats = cache.stats();
        assert_eq!((stats.hits, stats.misses, stats.entries), (1, 3, 1));
    }

    #[test]
    fn a_vector_that_was_under_way_when_all_was_forgotten_is_not_kept() {
        let cache = EmbeddingCache::new(1 << 20);
        let Err(missing) = cache.find("m", "a") else {
            panic!("it is empty")
        };
        cache.clear();
        cache.keep(&missing, vec![1.0; 32].into());
        assert!(cache.find("m", "a").is_err());
    }

    #[test]
    fn the_least_lately_used_goes_and_the_budget_is_kept() {
        let cache = EmbeddingCache::new(3 * (32 * 4 + ENTRY_BYTES as u64));
        for text in ["a", "b", "c"] {
            ask(&cache, text);
        }
        assert!(!ask(&cache, "a"));
        ask(&cache, "d");
        assert!(!ask(&cache, "a"), "it was used lately");
        assert!(ask(&cache, "b"), "it was the oldest");
        let stats = cache.stats();
        assert_eq!((stats.entries, stats.evictions), (3, 2));
        assert!(stats.bytes <= stats.capacity_bytes);
    }
}
