//! Record batches in, as a database hands them out: they go to the writer as they are, without a body
//! that would have to be spelled, kept and read again. `LakeTables` calls it with rows of `PostgreSQL`.

use arrow::array::{ArrayData, RecordBatch};
use arrow::buffer::NullBuffer;
use arrow::datatypes::Schema;

use super::Rewriter;
use crate::engines::ingest::error::IngestError;
use crate::engines::ingest::schema::type_name;
use crate::engines::ingest::source::Received;
use crate::engines::ingest::staging::{Staged, StagingDir};
use crate::engines::ingest::{BLOCK_BYTES, IngestOptions, Ready, Setup, finish, threads};

/// Turns all batches that `next` gives, of columns as `found` has them, into Parquet files. Blocks: call
/// it where blocking is allowed. The source's size and hash are those of its values in memory: the same
/// batches in the same order have the same.
///
/// # Errors
/// Those of `next`, and as [`super::super::ingest_reader`]. Nothing stays in staging.
pub fn ingest_batches(
    found: &Schema,
    mut next: impl FnMut() -> Result<Option<RecordBatch>, IngestError>,
    options: &IngestOptions,
) -> Result<Staged, IngestError> {
    let dir = StagingDir::create(&options.staging)?;
    let threads = threads()?;
    let setup = Setup::new(options, &threads, &dir, BLOCK_BYTES);
    let mut rewriter = Rewriter::new("rows", found, &setup)?;
    let mut hasher = blake3::Hasher::new();
    for field in found.fields() {
        let type_name = type_name(field.data_type());
        for word in [field.name(), &type_name] {
            hasher.update(&word.len().to_le_bytes());
            hasher.update(word.as_bytes());
        }
    }
    let limit_bytes = options.limits.body_bytes_max;
    while let Some(batch) = next()? {
        hasher.update(&batch.num_rows().to_le_bytes());
        for column in batch.columns() {
            hash_values(&column.to_data(), &mut hasher);
        }
        rewriter.push(&batch)?;
        if rewriter.bytes > limit_bytes {
            let what = "table";
            return Err(IngestError::TooLarge { what, limit_bytes });
        }
    }
    let ready = Ready {
        received: Received {
            bytes: rewriter.bytes,
            blake3: hasher.finalize().to_hex().to_string(),
        },
        sink: rewriter.sink,
        schema: rewriter.schema,
    };
    finish(ready, &setup, dir)
}

/// Takes in which values are null, and all values, with their lengths in front.
fn hash_values(data: &ArrayData, hasher: &mut blake3::Hasher) {
    for number in [data.offset(), data.len(), data.null_count()] {
        hasher.update(&number.to_le_bytes());
    }
    let nulls = data.nulls().filter(|nulls| nulls.null_count() > 0);
    for buffer in nulls
        .map(NullBuffer::buffer)
        .into_iter()
        .chain(data.buffers())
    {
        hasher.update(&buffer.len().to_le_bytes());
        hasher.update(buffer);
    }
    for child in data.child_data() {
        hash_values(child, hasher);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, StringArray};

    use super::*;

    fn batch(ids: std::ops::Range<i64>) -> RecordBatch {
        let names = ids
            .clone()
            .map(|id| (id % 3 > 0).then(|| format!("name {id}")));
        let names: StringArray = names.collect();
        let ids = Int64Array::from_iter_values(ids);
        RecordBatch::try_from_iter_with_nullable([
            ("id", Arc::new(ids) as ArrayRef, false),
            ("name", Arc::new(names) as _, true),
        ])
        .expect("two columns of one length")
    }

    /// What comes of these batches, and what is left in the staging directory once it is dropped.
    fn ingested(
        batches: Vec<Result<RecordBatch, IngestError>>,
        change: impl FnOnce(&mut IngestOptions),
    ) -> (Result<(u64, u64, String), IngestError>, usize) {
        let staging = tempfile::tempdir().expect("a directory");
        let mut options = IngestOptions {
            key: vec!["id".to_owned()],
            ..IngestOptions::new(staging.path())
        };
        change(&mut options);
        let mut batches = batches.into_iter();
        let staged = ingest_batches(
            &batch(0..1).schema(),
            || batches.next().transpose(),
            &options,
        );
        let told = staged.map(|staged| (staged.rows, staged.superseded_rows, staged.source_blake3));
        let left = std::fs::read_dir(staging.path()).expect("it is there");
        (told, left.count())
    }

    #[test]
    fn the_same_batches_have_the_same_hash_and_others_another() {
        let hash = |batches: &[std::ops::Range<i64>]| {
            let batches = batches.iter().map(|ids| Ok(batch(ids.clone()))).collect();
            ingested(batches, |_| {}).0.expect("rows").2
        };
        let once = hash(&[0..50, 50..90]);
        assert_eq!(once, hash(&[0..50, 50..90]));
        assert_ne!(once, hash(&[50..90, 0..50]));
        assert_ne!(once, hash(&[0..50, 50..91]));
        assert_ne!(once, hash(&[0..50, 50..89]));
    }

    #[test]
    fn blocks_that_come_in_another_order_and_lie_apart_supersede_nothing() {
        let batches = [50..90, 0..50, 90..95].map(|ids| Ok(batch(ids)));
        let (told, left) = ingested(batches.into(), |_| {});
        let (rows, superseded, _) = told.expect("rows");
        assert_eq!((rows, superseded, left), (95, 0, 0));
        let batches = [50..90, 0..51].map(|ids| Ok(batch(ids)));
        let (told, _) = ingested(batches.into(), |_| {});
        assert_eq!(told.expect("rows").1, 1, "row 50 comes twice");
    }

    #[test]
    fn a_source_that_breaks_and_one_that_is_too_large_leave_nothing() {
        let broken = IngestError::Disconnected(std::io::ErrorKind::UnexpectedEof.into());
        let (told, left) = ingested(vec![Ok(batch(0..50)), Err(broken)], |_| {});
        assert!(
            matches!(told, Err(IngestError::Disconnected(_))),
            "{told:?}"
        );
        assert_eq!(left, 0);
        let (told, left) = ingested(vec![Ok(batch(0..5_000))], |options| {
            options.limits.body_bytes_max = 10_000;
        });
        assert!(
            matches!(told, Err(IngestError::TooLarge { .. })),
            "{told:?}"
        );
        assert_eq!(left, 0);
    }
}
