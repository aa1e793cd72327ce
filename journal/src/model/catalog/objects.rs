//! Objects of the lake's own, read as bytes: whether rows that were deleted for good may be in one. Pure;
//! who hands out objects asks, as a deleted row is in no answer from its deletion on.

use std::sync::Arc;

use super::{CatalogState, Dataset, Index};
use crate::record::Seq;

/// What an object of the lake's own is, to somebody who wants its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnObject {
    /// It holds no row that was deleted for good.
    Clean,
    /// It holds such rows, or may, and is about to go.
    HoldsDeletedRows,
    /// No event points at it.
    Unknown,
}

impl CatalogState {
    /// What the object of this key in `datasets/` or `vectors/` is.
    pub fn own_object(&self, bucket: &str, key: &str) -> OwnObject {
        let known = match key.split_once('/') {
            Some(("datasets", rest)) => self.data_object(bucket, key, rest),
            Some(("vectors", rest)) => self.index_object(key, rest),
            _ => None,
        };
        known.unwrap_or_else(|| {
            let mut folders = key.match_indices('/').map(|(at, _)| &key[..=at]);
            let doomed = |key: &str| self.doomed.contains_key(&format!("{bucket}/{key}"));
            if doomed(key) || folders.any(doomed) {
                OwnObject::HoldsDeletedRows
            } else {
                OwnObject::Unknown
            }
        })
    }

    fn data_object(&self, bucket: &str, key: &str, rest: &str) -> Option<OwnObject> {
        let id = rest.split('/').next()?;
        let dataset = self.datasets.values().find(|dataset| dataset.id == id)?;
        if key == dataset.sidecar_key() {
            return Some(OwnObject::Clean);
        }
        let mut files = dataset.all_files();
        let file = files.find(|file| file.entry.key == key && file.entry.bucket == bucket)?;
        Some(if file.erased.is_empty() {
            OwnObject::Clean
        } else {
            OwnObject::HoldsDeletedRows
        })
    }

    fn index_object(&self, key: &str, rest: &str) -> Option<OwnObject> {
        let index = self.indexes.get(rest.split('/').next()?)?;
        let below = |prefix: &str| {
            let rest = key.strip_prefix(prefix);
            rest.is_some_and(|rest| rest.starts_with('/'))
        };
        let mut evals = self.quality.evals.values();
        if let Some(eval) = evals.find(|eval| below(&eval.spec.prefix)) {
            return Some(if eval.invalid_since.is_some() {
                OwnObject::HoldsDeletedRows
            } else {
                OwnObject::Clean
            });
        }
        let built = index.generations.iter();
        let built = built.filter(|built| below(&built.prefix));
        let built = built.map(|built| built.source_seq);
        let deltas = index.deltas().filter(|delta| delta.file.key == key);
        let mut sources = built.chain(deltas.map(|delta| delta.source_seq));
        Some(if sources.next()? < self.last_deletion_under(index) {
            OwnObject::HoldsDeletedRows
        } else {
            OwnObject::Clean
        })
    }

    /// Position of the last deletion of a row that the index may have; of any, when what it is built over
    /// is no dataset.
    fn last_deletion_under(&self, index: &Index) -> Seq {
        let newest = |dataset: &Arc<Dataset>| dataset.last_tombstone_seq();
        let of_any = || self.datasets.values().map(newest).max().unwrap_or(0);
        let source = self.datasets.get(&index.spec.source);
        source.map_or_else(of_any, newest)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            past::tests::scrub,
            tests::{Given, create, define, generation, tombstone},
        },
        *,
    };

    fn is(given: &Given, key: &str) -> OwnObject {
        given.state.own_object("primary", key)
    }

    #[test]
    fn an_object_is_clean_until_a_row_of_it_is_deleted_for_good() {
        let file = "datasets/id-people/f1";
        let mut given = Given::default();
        let steps = [
            create("people", file),
            define("idx", "people"),
            generation("idx", 1, "id-2", 2),
        ];
        for step in &steps {
            given.when(step).expect("allowed");
        }
        assert_eq!(is(&given, file), OwnObject::Clean);
        assert_eq!(is(&given, "vectors/idx/1/graph"), OwnObject::Clean);
        for unknown in [
            "datasets/id-people/f2",
            "datasets/id-others/f1",
            "vectors/idx/2/graph",
            "vectors/none/1/graph",
            "datasets",
        ] {
            assert_eq!(is(&given, unknown), OwnObject::Unknown, "{unknown}");
        }
        let delete = tombstone("people", file, 3, given.seq());
        given.when(&delete).expect("allowed");
        let list = given
            .state
            .datasets
            .get("people")
            .map(|dataset| dataset.sidecar_key());
        assert_eq!(is(&given, &list.expect("there")), OwnObject::Clean);
        assert_eq!(is(&given, file), OwnObject::HoldsDeletedRows);
        assert_eq!(
            is(&given, "vectors/idx/1/graph"),
            OwnObject::HoldsDeletedRows
        );
        let scrub = scrub(&given.state, "people", given.seq());
        given.when(&scrub).expect("allowed");
        assert_eq!(
            is(&given, file),
            OwnObject::HoldsDeletedRows,
            "until it is gone"
        );
    }
}
