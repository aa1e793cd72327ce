//! A generation on Lance that stands: opened only when every file is the one that was built, then
//! read by key and by slot. `search` holds its searches. A slot is a row's number in the dataset.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Float32Type, UInt64Type};
use lance::Dataset;
use lance::dataset::ProjectionRequest;
use lance::dataset::builder::DatasetBuilder;
use lance::dataset::scanner::RowAddrTreeMap;
use lance::session::Session;
use roaring::RoaringBitmap;

use super::super::vectors::column::Column;
use super::super::vectors::files::{files_below, open_verified, read_all};
use super::super::vectors::spans::CHUNKS_FILE;
use super::super::vectors::{FileDigest, IndexStats, StoredRow, VectorError};
use super::builder::uri;
use super::text::TEXTS;
use super::{
    DATASET, FORMAT, KEY, KEYS_FILE, LanceConfig, LanceKind, MANIFEST_FILE, Manifest, TEXT, VECTOR,
    engine,
};

/// What an index may keep of its partitions, and of its files' footers.
const INDEX_CACHE_BYTES: usize = 2 << 30;
const METADATA_CACHE_BYTES: usize = 256 << 20;

pub(super) const ROW_ID: &str = "_rowid";

/// One generation of a Lance index.
pub struct LanceIndex {
    /// `None` when there are no rows.
    pub(super) dataset: Option<Arc<Dataset>>,
    pub(super) addresses: Addresses,
    keys: Column,
    manifest: Manifest,
}

impl LanceIndex {
    /// Opens the generation in `dir` whose files are `expected`, as the build reported them.
    ///
    /// # Errors
    /// `Corrupt` when a file is missing, too much, or not what was built; `Io`; `Engine`.
    pub async fn open(dir: &Path, expected: &[FileDigest]) -> Result<Self, VectorError> {
        let (dir_owned, expected) = (dir.to_owned(), expected.to_vec());
        let verified = tokio::task::spawn_blocking(move || verify(&dir_owned, &expected));
        let (manifest, keys) = verified.await.map_err(engine)??;
        let mut index = Self {
            dataset: None,
            addresses: Addresses::default(),
            keys,
            manifest,
        };
        if index.manifest.vectors > 0 {
            let session = Session::new(INDEX_CACHE_BYTES, METADATA_CACHE_BYTES, Arc::default());
            let builder =
                DatasetBuilder::from_uri(uri(&dir.join(DATASET))?).with_session(Arc::new(session));
            let dataset = builder.load().await.map_err(engine)?;
            index.addresses = Addresses::of(&dataset)?;
            if index.addresses.rows != index.manifest.vectors {
                return Err(VectorError::corrupt(
                    DATASET,
                    format!("has {} rows", index.addresses.rows),
                ));
            }
            index.dataset = Some(Arc::new(dataset));
        }
        Ok(index)
    }

    /// How many rows there are; slots go from 0 to this.
    pub fn len(&self) -> u64 {
        self.manifest.vectors
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Numbers in a vector.
    pub fn dimensions(&self) -> usize {
        self.manifest.dimensions
    }

    /// How it was built and is searched.
    pub fn config(&self) -> &LanceConfig {
        &self.manifest.config
    }

    /// What stands beside the rows: never `Auto`.
    pub fn kind(&self) -> LanceKind {
        self.manifest.kind
    }

    /// Its measures.
    pub fn stats(&self) -> IndexStats {
        let Manifest {
            vectors,
            build_ms,
            dimensions,
            ref files,
            ..
        } = self.manifest;
        IndexStats {
            vectors,
            bytes: files.iter().map(|file| file.bytes).sum(),
            build_ms,
            dimensions,
        }
    }

    /// Bytes that Lance keeps of the index in its caches.
    pub fn memory_bytes(&self) -> u64 {
        let cached = self
            .dataset
            .as_ref()
            .map_or(0, |dataset| dataset.session().size_bytes());
        cached + self.keys.bytes() as u64
    }

    /// The slot of a key.
    pub fn slot_of(&self, key: &str) -> Option<u64> {
        self.keys.find(key)
    }

    /// The key of a slot.
    pub fn key_of(&self, slot: u64) -> Option<&str> {
        self.keys.get(slot)
    }

    /// The row of a key.
    ///
    /// # Errors
    /// `Engine`.
    pub async fn find(&self, key: &str) -> Result<Option<StoredRow>, VectorError> {
        match self.slot_of(key) {
            Some(slot) => Ok(self.rows(&[slot]).await?.pop()),
            None => Ok(None),
        }
    }

    /// The rows of slots, in the same order. All slots must be below [`Self::len`].
    ///
    /// # Errors
    /// `Engine`.
    pub async fn rows(&self, slots: &[u64]) -> Result<Vec<StoredRow>, VectorError> {
        let batch = self.take(slots, &[KEY, TEXT, VECTOR]).await?;
        let Some(batch) = batch else {
            return Ok(Vec::new());
        };
        let (keys, texts) = (strings(&batch, KEY)?, strings(&batch, TEXT)?);
        let vectors = vectors(&batch)?;
        let row = |(index, (&slot, vector)): (usize, (&u64, &[f32]))| StoredRow {
            slot,
            key: keys.value(index).to_owned(),
            text: texts.is_valid(index).then(|| texts.value(index).to_owned()),
            vector: vector.to_vec(),
        };
        Ok(slots
            .iter()
            .zip(vectors.chunks_exact(self.dimensions()))
            .enumerate()
            .map(row)
            .collect())
    }

    /// Columns of slots, in their order; `None` when there is nothing to take.
    pub(super) async fn take(
        &self,
        slots: &[u64],
        columns: &[&str],
    ) -> Result<Option<RecordBatch>, VectorError> {
        let Some(dataset) = self.dataset.as_ref().filter(|_| !slots.is_empty()) else {
            return Ok(None);
        };
        let projection = ProjectionRequest::from_columns(columns, dataset.schema());
        let batch = dataset.take(slots, projection).await.map_err(engine)?;
        if batch.num_rows() == slots.len() {
            Ok(Some(batch))
        } else {
            Err(engine(format!(
                "{} of {} rows were found",
                batch.num_rows(),
                slots.len()
            )))
        }
    }
}

pub(super) fn row_ids(batch: &RecordBatch) -> Result<&[u64], VectorError> {
    let column = batch
        .column_by_name(ROW_ID)
        .ok_or_else(|| engine("an answer without row ids"))?;
    let ids = column
        .as_primitive_opt::<UInt64Type>()
        .ok_or_else(|| engine("row ids of another type"))?;
    Ok(ids.values())
}

pub(super) fn strings<'a>(
    batch: &'a RecordBatch,
    name: &str,
) -> Result<&'a arrow::array::StringArray, VectorError> {
    let column = batch
        .column_by_name(name)
        .and_then(|column| column.as_string_opt::<i32>());
    column.ok_or_else(|| engine(format!("an answer without `{name}`")))
}

/// The numbers of the vectors, row-major.
pub(super) fn vectors(batch: &RecordBatch) -> Result<&[f32], VectorError> {
    let list = batch
        .column_by_name(VECTOR)
        .and_then(|column| column.as_fixed_size_list_opt());
    let list = list.ok_or_else(|| engine("an answer without `vector`"))?;
    let width = usize::try_from(list.value_length()).map_err(engine)?;
    let numbers = list
        .values()
        .as_primitive_opt::<Float32Type>()
        .ok_or_else(|| engine("vectors of another type"))?;
    Ok(&numbers.values()[list.offset() * width..(list.offset() + list.len()) * width])
}

/// Checks every file, and that there is none besides: Lance takes the newest version that it finds.
fn verify(dir: &Path, expected: &[FileDigest]) -> Result<(Manifest, Column), VectorError> {
    let there = files_below(dir)?;
    // What lies beside the vectors is checked when it is opened.
    let is_beside = |name: &str| name.starts_with(TEXTS) || name == CHUNKS_FILE;
    if let Some(name) = there
        .iter()
        .find(|name| !is_beside(name) && expected.iter().all(|file| file.name != **name))
    {
        return Err(VectorError::corrupt(name, "does not belong to the index"));
    }
    let (mut manifest, mut keys) = (None, None);
    for digest in expected {
        let file = open_verified(dir, digest)?;
        if digest.name == MANIFEST_FILE {
            manifest = Some(read_all(&file, MANIFEST_FILE)?);
        } else if digest.name == KEYS_FILE {
            keys = Some(Column::open(KEYS_FILE, &file)?);
        }
    }
    let manifest =
        manifest.ok_or_else(|| VectorError::corrupt(MANIFEST_FILE, "has no known content"))?;
    let manifest: Manifest = serde_json::from_slice(&manifest)
        .map_err(|error| VectorError::corrupt(MANIFEST_FILE, format!("is no manifest: {error}")))?;
    if manifest.format != FORMAT {
        return Err(VectorError::corrupt(
            MANIFEST_FILE,
            format!("is of format `{}`, not `{FORMAT}`", manifest.format),
        ));
    }
    let keys = keys.ok_or_else(|| VectorError::corrupt(KEYS_FILE, "has no known content"))?;
    if keys.len() as u64 == manifest.vectors {
        Ok((manifest, keys))
    } else {
        let reason = format!("does not hold {} rows", manifest.vectors);
        Err(VectorError::corrupt(KEYS_FILE, reason))
    }
}

/// Lance's row addresses (fragment, offset) as slots: the fragments one after the other.
#[derive(Debug, Default)]
pub struct Addresses {
    /// First slot and number of each fragment, in order of both.
    fragments: Vec<(u64, u64)>,
    pub(super) rows: u64,
}

impl Addresses {
    pub(super) fn of(dataset: &Dataset) -> Result<Self, VectorError> {
        let mut addresses = Self::default();
        for fragment in dataset.fragments().iter() {
            let rows = fragment
                .physical_rows
                .ok_or_else(|| engine("a fragment of unknown size"))?;
            if fragment.deletion_file.is_some() {
                return Err(engine("a fragment with deleted rows"));
            }
            addresses.fragments.push((addresses.rows, fragment.id));
            addresses.rows += rows as u64;
        }
        Ok(addresses)
    }

    /// The slot of a row address.
    pub(super) fn slot(&self, address: u64) -> u64 {
        let fragment = self
            .fragments
            .partition_point(|&(_, id)| id < address >> 32);
        self.fragments[fragment].0 + (address & u64::from(u32::MAX))
    }

    /// The row addresses of slots.
    pub(super) fn tree(&self, slots: &RoaringBitmap) -> RowAddrTreeMap {
        let mut tree = RowAddrTreeMap::new();
        let ends = self
            .fragments
            .iter()
            .skip(1)
            .map(|&(first, _)| first)
            .chain([self.rows]);
        for (&(first, fragment), end) in self.fragments.iter().zip(ends) {
            let offset = |slot| u32::try_from(slot).expect("slots have 32 bits");
            let (first, end) = (offset(first), offset(end));
            let offsets = slots.range(first..end).map(|slot| slot - first).collect();
            tree.insert_bitmap(offset(fragment), offsets);
        }
        tree
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_and_addresses_are_each_others_inverse() {
        let addresses = Addresses {
            fragments: vec![(0, 0), (10, 3), (15, 4)],
            rows: 20,
        };
        let expected = [
            (0, 0),
            (9, 9),
            (10, 3 << 32),
            (14, (3 << 32) + 4),
            (15, 4 << 32),
            (19, (4 << 32) + 4),
        ];
        for (slot, address) in expected {
            let tree = addresses.tree(&RoaringBitmap::from_iter([slot]));
            let found: Vec<u64> = tree.into_addr_iter().collect();
            assert_eq!(
                (found.as_slice(), addresses.slot(address)),
                ([address].as_slice(), u64::from(slot))
            );
        }
    }
}
