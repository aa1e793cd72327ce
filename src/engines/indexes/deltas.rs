//! Deltas of indexes as the refresh worker knows them: what an index lacks of its source's rows, and
//! the files that hold it. Reading them back is `open`'s.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use arrow::{array::UInt64Array, compute::take_record_batch, record_batch::RecordBatch};
use async_trait::async_trait;
use futures::StreamExt;
use lakehouse_actors::{
    PortError,
    ports::{ChunkSpan, DeltaRows, IndexChanges, IndexDeltas, Progress},
};
use lakehouse_journal::model::{
    ErrorKind, Fold,
    catalog::{CatalogState, DeltaFile, Generation, Index},
};
use roaring::RoaringBitmap;
use tempfile::TempDir;

use super::{
    LakeIndexes, Live,
    config::metric,
    held::{Kept, held},
    internal,
    making::Maker,
    of_vector,
    shown::Shown,
    source::{Rows, rows_query},
};
use crate::{
    engines::{
        buckets::{of_bucket, of_store},
        tables::of_query,
        vectors::{
            Chunk, FileDigest, VectorError, at_rest::AtRestWriter, files::seal, spans::Spans,
        },
    },
    query::SessionTables,
};

/// The file's name.
const STAGED: &str = "rows.parquet";

#[async_trait]
impl IndexDeltas for LakeIndexes {
    async fn changes(
        &self,
        catalog: &Fold<CatalogState>,
        index: &Index,
        most: u64,
    ) -> Result<Option<IndexChanges>, PortError> {
        let live = self.live(index).await?;
        let shown = self.not_deleted(catalog, index, &live)?;
        let owned = Arc::new(index.clone());
        let mut maker = self.maker(&catalog.state, index, &index.spec).await?;
        if index.spec.vector_column.is_none() && !maker.takes_over() {
            // Every vector is to be made anew.
            return Ok(None);
        }
        let generation = index.live_generation();
        let vectors_max = generation.map_or(u64::MAX, Generation::delta_vectors_max);
        let mut difference = Difference::default();
        let tables = SessionTables::all(Arc::new(catalog.state.clone()), catalog.seq);
        let mut batches = self
            .rows(tables, &rows_query(index, &index.spec.source)?)
            .await?;
        while let Some(batch) = batches.next().await {
            let batch = batch.map_err(|error| of_query(&error))?;
            for batch in maker.portions(&batch) {
                let against = (live.as_ref(), &shown);
                difference
                    .compare(&owned, &mut maker, against, batch)
                    .await?;
                // A generation says how many rows were refused, a delta does not.
                let too_many =
                    difference.rows.len() as u64 > most || difference.chunks > vectors_max;
                if too_many || maker.has_refusals() {
                    return Ok(None);
                }
            }
        }
        let deleted = self.deleted_rows(catalog, index, &live)?;
        let found = difference.found(&live, &shown, most);
        Ok(found.map(|found| IndexChanges {
            deleted,
            making: Some(maker.making()),
            ..found
        }))
    }

    async fn write_delta(&self, index: &Index, rows: DeltaRows) -> Result<DeltaFile, PortError> {
        check(index, &rows).map_err(unfit)?;
        let bucket = index.spec.bucket.as_str();
        let opened = self
            .buckets
            .get(bucket)
            .map_err(|error| of_bucket(bucket, &error))?;
        let dimensions = index.spec.dimensions as usize;
        let unique = uuid::Uuid::new_v4().simple().to_string();
        // A folder of its own, as a generation has: a cache keeps and drops it by that.
        let key = format!("vectors/{}/delta-{}/{STAGED}", index.name, &unique[..12]);
        let work = tempfile::Builder::new()
            .prefix("delta-")
            .tempdir_in(&self.staging)
            .map_err(|error| internal(&error))?;
        let staged = work.path().join(STAGED);
        let (count, removed) = (rows.keys.len() as u64, rows.removed.len() as u64);
        let vectors = (!rows.chunks.is_empty()).then_some(rows.chunks.len() as u64);
        let digest = tokio::task::spawn_blocking(move || write(work, dimensions, &rows));
        let digest = digest.await.map_err(|error| internal(&error))?;
        let (_work, digest) = digest.map_err(|error| of_vector(&error))?;
        let put = opened.put_file(staged, &key).await;
        put.map_err(|error| of_store(bucket, &error))?;
        Ok(DeltaFile {
            key,
            bytes: digest.bytes,
            blake3: digest.blake3,
            rows: count,
            vectors,
            removed,
        })
    }
}

/// What a snapshot's rows have that an index does not, on the way through them.
#[derive(Default)]
struct Difference {
    /// New and changed rows. Of several rows of one key the last counts, as in a build.
    rows: BTreeMap<String, NewRow>,
    /// How many chunks they have.
    chunks: u64,
    /// Slots of rows that the index has as they are.
    same: RoaringBitmap,
    /// Rows that have no vector.
    skipped: u64,
}

/// A new or changed row.
struct NewRow {
    text: Option<String>,
    vectors: Vec<f32>,
    chunks: Vec<ChunkSpan>,
}

impl Difference {
    /// Takes the next rows of the source in; has those embedded that the index does not have.
    async fn compare(
        &mut self,
        index: &Arc<Index>,
        maker: &mut Maker,
        (live, shown): (&Live, &Shown),
        batch: RecordBatch,
    ) -> Result<(), PortError> {
        let held = held(index, live, &batch).await?;
        let mut changed: Vec<u64> = Vec::new();
        for (held, row) in held.into_iter().zip(0..) {
            match held.slot().filter(|slot| shown.allows(*slot)) {
                Some(slot) => self.same.extend(u32::try_from(slot)),
                None => changed.push(row),
            }
        }
        let changed = take_record_batch(&batch, &UInt64Array::from(changed));
        let changed = changed.map_err(|error| internal(&error))?;
        let nobody_waits = Progress::default();
        let rows = maker.rows(index, changed, Kept::default(), &nobody_waits);
        let (rows, _) = rows.await.map_err(unfit)?;
        self.put(index, rows);
        Ok(())
    }

    fn put(&mut self, index: &Index, rows: Rows) {
        self.skipped += rows.skipped;
        let mut texts = rows.texts.unwrap_or_default().into_iter();
        let mut vectors = rows.vectors.chunks_exact(index.spec.dimensions as usize);
        let mut chunks = rows.chunks.into_iter().peekable();
        for (key, number) in rows.keys.into_iter().zip(0..) {
            let of_row = std::iter::from_fn(|| chunks.next_if(|chunk| chunk.row == number));
            let of_row: Vec<ChunkSpan> = of_row.collect();
            self.chunks += of_row.len() as u64;
            let numbers = vectors.by_ref().take(of_row.len().max(1)).flatten();
            let row = NewRow {
                text: texts.next(),
                vectors: numbers.copied().collect(),
                chunks: of_row,
            };
            self.rows.insert(key, row);
        }
    }

    /// The difference, unless it is more than `most` rows.
    fn found(mut self, live: &Live, shown: &Shown, most: u64) -> Option<IndexChanges> {
        let slot = |key: &str| live.slot_of(key).and_then(|slot| u32::try_from(slot).ok());
        // One of several rows of a key is as the index has it: that one stays.
        self.rows
            .retain(|key, _| !slot(key).is_some_and(|slot| self.same.contains(slot)));
        let mut gone = live.rows_of(shown) - &self.same;
        self.rows
            .keys()
            .filter_map(|key| slot(key))
            .for_each(|slot| {
                gone.remove(slot);
            });
        if self.rows.len() as u64 + gone.len() > most {
            return None;
        }
        let removed = gone.iter().map(u64::from);
        let removed = removed.filter_map(|slot| live.key_of(slot).map(str::to_owned));
        let mut rows = DeltaRows {
            removed: removed.collect(),
            ..DeltaRows::default()
        };
        for ((key, row), number) in self.rows.into_iter().zip(0..) {
            rows.keys.push(key);
            rows.texts.extend(row.text);
            rows.vectors.extend(row.vectors);
            let chunks = row.chunks.into_iter();
            rows.chunks.extend(chunks.map(|chunk| ChunkSpan {
                row: number,
                ..chunk
            }));
        }
        Some(IndexChanges {
            rows,
            unchanged: self.same.len(),
            skipped: self.skipped,
            deleted: 0,
            making: None,
        })
    }
}

/// Writes the file into the directory, and gives both back.
fn write(
    work: TempDir,
    dimensions: usize,
    rows: &DeltaRows,
) -> Result<(TempDir, FileDigest), VectorError> {
    let dir = work.path();
    let vectors = rows.vectors.chunks_exact(dimensions);
    let text = |row: usize| rows.texts.get(row).map(String::as_str);
    let mut writer = if rows.chunks.is_empty() {
        let mut writer = AtRestWriter::create(dir, STAGED, dimensions)?;
        for (row, (key, vector)) in rows.keys.iter().zip(vectors).enumerate() {
            writer.push(key, text(row), Some(vector))?;
        }
        writer
    } else {
        let mut writer = AtRestWriter::create_chunked(dir, STAGED, dimensions)?;
        let mut last = None;
        for (chunk, vector) in rows.chunks.iter().zip(vectors) {
            let row = chunk.row as usize;
            let text = text(row).filter(|_| last != Some(row));
            writer.push_chunk(&rows.keys[row], text, vector, chunk)?;
            last = Some(row);
        }
        writer
    };
    for key in &rows.removed {
        writer.push(key, None, None)?;
    }
    writer.finish()?;
    let digest = seal(dir, STAGED)?;
    Ok((work, digest))
}

/// A row that an index does not take is no fault of who asks for a refresh.
fn unfit(error: PortError) -> PortError {
    match error.kind {
        ErrorKind::Invalid => PortError {
            kind: ErrorKind::Unprocessable,
            ..error
        },
        _ => error,
    }
}

/// Checks the rows as an engine does at its door.
fn check(index: &Index, rows: &DeltaRows) -> Result<(), PortError> {
    let dimensions = index.spec.dimensions as usize;
    let of_vectors: Vec<String>;
    let chunk = if rows.chunks.is_empty() {
        Chunk {
            keys: &rows.keys,
            texts: (!rows.texts.is_empty()).then_some(&rows.texts),
            vectors: &rows.vectors,
        }
    } else {
        let spans = Spans::new(rows.chunks.clone());
        if spans.is_none_or(|spans| spans.rows() != rows.keys.len()) {
            return Err(PortError::internal("chunks that are not of the rows"));
        }
        let of_row = rows.chunks.iter().map(|chunk| chunk.row as usize);
        of_vectors = of_row.map(|row| rows.keys[row].clone()).collect();
        Chunk {
            keys: &of_vectors,
            texts: None,
            vectors: &rows.vectors,
        }
    };
    chunk
        .check(dimensions, metric(&index.spec.config)?)
        .map_err(|error| of_vector(&error))?;
    let mut seen = HashSet::new();
    let keys = rows.keys.iter().chain(&rows.removed);
    match keys.into_iter().find(|key| !seen.insert(key.as_str())) {
        None => Ok(()),
        Some(key) => Err(PortError::new(
            ErrorKind::Invalid,
            "bad_vector",
            format!("key `{key}` occurs twice"),
        )),
    }
}
