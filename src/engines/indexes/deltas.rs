//! Deltas of indexes as the refresh worker knows them: every row that an index answers with, and new
//! rows written beside it. Reading them back is `open`'s.

use std::collections::HashSet;

use async_trait::async_trait;
use lakehouse_actors::{
    PortError,
    ports::{DeltaRows, EachRow, IndexDeltas},
};
use lakehouse_journal::model::{
    ErrorKind,
    catalog::{DeltaFile, Index},
};

use super::{LakeIndexes, config::metric, internal, of_vector};
use crate::engines::{
    buckets::of_bucket,
    vectors::{Chunk, FileDigest, VectorError, at_rest::AtRestWriter, files::seal},
};

/// Rows whose texts are read at a time.
const READ_ROWS: usize = 8_192;
/// The file's name in staging.
const STAGED: &str = "delta.parquet";

#[async_trait]
impl IndexDeltas for LakeIndexes {
    async fn each_row(&self, index: &Index, each: EachRow<'_>) -> Result<(), PortError> {
        let live = self.live(index).await?;
        let there = (0..live.rows()).filter(|slot| {
            !u32::try_from(*slot).is_ok_and(|slot| live.superseded().contains(slot))
        });
        let slots: Vec<u64> = there.collect();
        for part in slots.chunks(READ_ROWS) {
            let texts = live.texts(part).await.map_err(|error| of_vector(&error))?;
            for (slot, text) in part.iter().zip(texts) {
                if let Some(key) = live.key_of(*slot) {
                    each(key, text.as_deref());
                }
            }
        }
        Ok(())
    }

    async fn write_delta(&self, index: &Index, rows: DeltaRows) -> Result<DeltaFile, PortError> {
        check(index, &rows)?;
        let bucket = index.spec.bucket.clone();
        let local = self.local_bucket(&bucket)?;
        let dimensions = index.spec.dimensions as usize;
        let unique = uuid::Uuid::new_v4().simple().to_string();
        let key = format!("vectors/{}/deltas/{unique}.parquet", index.name);
        let work = tempfile::Builder::new()
            .prefix("delta-")
            .tempdir_in(&self.staging)
            .map_err(|error| internal(&error))?;
        tokio::task::spawn_blocking(move || {
            let written = write(work.path(), dimensions, &rows);
            let digest = written.map_err(|error| of_vector(&error))?;
            local
                .put_file(&work.path().join(STAGED), &key)
                .map_err(|error| of_bucket(&bucket, &error))?;
            Ok(DeltaFile {
                key,
                bytes: digest.bytes,
                blake3: digest.blake3,
                rows: rows.keys.len() as u64,
                removed: rows.removed.len() as u64,
            })
        })
        .await
        .map_err(|error| internal(&error))?
    }
}

fn write(
    dir: &std::path::Path,
    dimensions: usize,
    rows: &DeltaRows,
) -> Result<FileDigest, VectorError> {
    let mut writer = AtRestWriter::create(dir, STAGED, dimensions)?;
    let vectors = rows.vectors.chunks_exact(dimensions);
    for (row, (key, vector)) in rows.keys.iter().zip(vectors).enumerate() {
        let text = rows.texts.get(row).map(String::as_str);
        writer.push(key, text, Some(vector))?;
    }
    for key in &rows.removed {
        writer.push(key, None, None)?;
    }
    writer.finish()?;
    seal(dir, STAGED)
}

/// Checks the rows as an engine does at its door.
fn check(index: &Index, rows: &DeltaRows) -> Result<(), PortError> {
    let dimensions = index.spec.dimensions as usize;
    let chunk = Chunk {
        keys: &rows.keys,
        texts: (!rows.texts.is_empty()).then_some(&rows.texts),
        vectors: &rows.vectors,
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
            "bad_delta",
            format!("key `{key}` occurs twice"),
        )),
    }
}
