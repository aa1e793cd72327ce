//! Compactions of real files in a bucket of a temporary directory: what comes out, where rows went, and
//! what is left behind when it fails.

mod contents;
mod moves;

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, Int64Array, RecordBatch, StringArray},
    compute::concat_batches,
    datatypes::{Int64Type, SchemaRef},
    ipc::writer::StreamWriter,
};
use futures::TryStreamExt;
use lakehouse_actors::ports::{StageOptions, StagedTable};
use lakehouse_journal::model::{
    catalog::{DeletionVector, FileEntry},
    event::DeletedRows,
};
use tempfile::TempDir;

use super::*;
use crate::{
    engines::{
        ingest::{FileFormat, IngestLimits},
        object_store::Bucket,
        tables::FileSource,
    },
    query::{QueryConfig, QueryEngine, testing::dataset},
};

/// A bucket and the tables over it.
struct World {
    dir: TempDir,
    tables: LakeTables,
}

/// Rows of one file, and the positions that are deleted.
type Rows<'a> = (RecordBatch, &'a [u32]);

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let buckets = Arc::new(Buckets::new());
        buckets.register(Bucket::local("primary", dir.path().join("primary")).unwrap());
        let mut config = QueryConfig::new(dir.path().join("spill"));
        config.target_partitions = 2;
        let query = Arc::new(QueryEngine::new(config, Arc::clone(&buckets)).unwrap());
        let staging = dir.path().join("staging");
        let limits = IngestLimits::default();
        let tables = LakeTables::new(staging, limits, buckets, query);
        Self { dir, tables }
    }

    /// Takes rows in as a client's Arrow stream, and puts their file into the bucket.
    async fn publish(&self, rows: &RecordBatch, key: &[&str]) -> FileEntry {
        let staged = self.stage(rows, key).await;
        let mut entries = staged.publish("primary", "d").await.unwrap();
        assert_eq!(entries.len(), 1);
        entries.remove(0)
    }

    async fn stage(&self, rows: &RecordBatch, key: &[&str]) -> Box<dyn StagedTable> {
        let mut stream = StreamWriter::try_new(Vec::new(), rows.schema_ref()).unwrap();
        stream.write(rows).unwrap();
        let bytes = stream.into_inner().unwrap();
        let stage = self.tables.stage(FileSource {
            body: Box::new(std::io::Cursor::new(bytes)),
            format: Some(FileFormat::ArrowIpc),
            file_name: None,
        });
        let options = StageOptions {
            expected: None,
            key: key.iter().map(ToString::to_string).collect(),
            since: None,
            progress: Arc::default(),
        };
        tokio::task::spawn_blocking(move || stage(options))
            .await
            .unwrap()
            .unwrap()
    }

    /// A dataset of these files.
    async fn dataset(&self, key: &[&str], files: &[Rows<'_>]) -> Dataset {
        let mut found = dataset("d", files[0].0.schema_ref());
        found.key = key.iter().map(ToString::to_string).collect();
        for (rows, deleted) in files {
            let entry = self.publish(rows, key).await;
            let deleted = deleted.iter().copied().collect();
            found.files.push(live(entry, deleted));
        }
        found
    }

    async fn compact(&self, before: &Dataset, sizes: Sizes) -> (Dataset, Rewritten) {
        let files: Vec<_> = before.files.clone();
        let rewritten = rewrite(&self.tables, before, &files, Arc::default(), sizes);
        let rewritten = rewritten.await.unwrap();
        let entries = rewritten.staged.publish("primary", "d").await.unwrap();
        let mut after = before.clone();
        let none = DeletionVector::default();
        after.files = entries
            .into_iter()
            .map(|entry| live(entry, none.clone()))
            .collect();
        (after, rewritten)
    }

    /// The visible rows, in the order in which they lie.
    async fn rows(&self, dataset: &Dataset) -> RecordBatch {
        let schema = schema_of(dataset);
        let mut batches: Vec<RecordBatch> = Vec::new();
        for file in &dataset.files {
            let opened = OpenFile::open(&self.tables.buckets, file, &schema).await;
            let rows = opened.unwrap().live_rows().unwrap();
            batches.extend(rows.try_collect::<Vec<_>>().await.unwrap());
        }
        concat_batches(&schema, &batches).unwrap()
    }

    async fn ids(&self, dataset: &Dataset) -> Vec<i64> {
        let rows = self.rows(dataset).await;
        rows["id"].as_primitive::<Int64Type>().values().to_vec()
    }

    fn in_staging(&self) -> usize {
        let entries = std::fs::read_dir(self.dir.path().join("staging")).unwrap();
        entries.count()
    }
}

fn live(entry: FileEntry, deleted: DeletionVector) -> Arc<DataFile> {
    Arc::new(DataFile {
        entry,
        added_seq: 1,
        deleted,
        erased: DeletionVector::default(),
    })
}

fn people(ids: &[i64]) -> RecordBatch {
    let names: StringArray = ids.iter().map(|id| Some(format!("n{id}"))).collect();
    let columns = [
        ("id", Arc::new(Int64Array::from(ids.to_vec())) as ArrayRef),
        ("name", Arc::new(names) as ArrayRef),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true)))
        .unwrap()
}

/// A row group every few rows, and a file for each.
fn small() -> Sizes {
    Sizes {
        layout: Layout {
            group_rows: 7,
            file_bytes: 1,
            ..Layout::default()
        },
        ..Sizes::default()
    }
}

fn same_rows(left: &RecordBatch, right: &RecordBatch) {
    let hashed = |rows: &RecordBatch| {
        let content = Content::new(rows.schema_ref()).unwrap();
        content.add(rows).unwrap();
        content.sum()
    };
    assert_eq!(hashed(left), hashed(right));
}

#[tokio::test]
async fn files_that_ascend_by_key_become_one_that_does() {
    let world = World::new();
    let files: [Rows<'_>; 3] = [
        (people(&[1, 4, 7, 10]), &[1]),
        (people(&[2, 3, 11]), &[]),
        (people(&[5, 6, 12, 13]), &[0, 3]),
    ];
    let before = world.dataset(&["id"], &files).await;
    let (after, rewritten) = world.compact(&before, Sizes::default()).await;
    assert_eq!(world.ids(&after).await, [1, 2, 3, 6, 7, 10, 11, 12]);
    assert_eq!(after.files.len(), 1);
    assert!(after.files[0].entry.sorted_by_key);
    assert_eq!(rewritten.staged.rows(), 8);
    assert_eq!(rewritten.content_hash.len(), 32);
    same_rows(&world.rows(&before).await, &world.rows(&after).await);
}

#[tokio::test]
async fn files_without_an_order_follow_each_other_as_they_are() {
    let world = World::new();
    let files: [Rows<'_>; 2] = [(people(&[4, 5, 6]), &[]), (people(&[9, 2, 3]), &[0])];
    for key in [&["id"][..], &[]] {
        let before = world.dataset(key, &files).await;
        let (after, _) = world.compact(&before, Sizes::default()).await;
        assert_eq!(world.ids(&after).await, [4, 5, 6, 2, 3]);
        assert_eq!(
            after.files.len(),
            1,
            "one file, although the first rows ascend"
        );
        assert!(!after.files[0].entry.sorted_by_key);
    }
}

#[tokio::test]
async fn a_single_file_keeps_the_order_of_its_rows() {
    let world = World::new();
    for (ids, sorted) in [([3, 1, 2, 0], false), ([0, 1, 2, 3], true)] {
        let before = world.dataset(&["id"], &[(people(&ids), &[1])]).await;
        let (after, _) = world.compact(&before, Sizes::default()).await;
        assert_eq!(world.ids(&after).await, [ids[0], ids[2], ids[3]]);
        assert_eq!(after.files[0].entry.sorted_by_key, sorted);
    }
}

#[tokio::test]
async fn keys_of_text_and_of_several_columns_are_merged_in_their_order() {
    let world = World::new();
    let rows = |names: &[&str], ids: &[i64]| {
        let names: ArrayRef = Arc::new(StringArray::from(names.to_vec()));
        let ids: ArrayRef = Arc::new(Int64Array::from(ids.to_vec()));
        RecordBatch::try_from_iter_with_nullable([("name", names, true), ("id", ids, true)])
            .unwrap()
    };
    let files: [Rows<'_>; 2] = [
        (rows(&["a", "b", "b", "é"], &[1, -5, 7, 0]), &[]),
        (rows(&["", "b", "z"], &[0, 6, 1]), &[]),
    ];
    let before = world.dataset(&["name", "id"], &files).await;
    let (after, _) = world.compact(&before, Sizes::default()).await;
    assert_eq!(world.ids(&after).await, [0, 1, -5, 6, 7, 1, 0]);
    assert!(after.files[0].entry.sorted_by_key);
}

#[tokio::test]
async fn more_files_than_memory_is_set_aside_for_become_several_that_ascend() {
    let world = World::new();
    let files: [Rows<'_>; 3] = [
        (people(&[1, 4]), &[]),
        (people(&[2, 5]), &[]),
        (people(&[3, 6]), &[]),
    ];
    let before = world.dataset(&["id"], &files).await;
    let opened = OpenFile::open(&world.tables.buckets, &before.files[0], &schema_of(&before)).await;
    let for_two = Sizes {
        merge_bytes: opened.unwrap().memory_bytes() * 5 / 2,
        ..Sizes::default()
    };
    let (after, _) = world.compact(&before, for_two).await;
    assert_eq!(world.ids(&after).await, [1, 2, 4, 5, 3, 6]);
    assert!(after.files.iter().all(|file| file.entry.sorted_by_key));
}

fn schema_of(dataset: &Dataset) -> SchemaRef {
    read_schema(&arrow_schema(&dataset.schema).unwrap())
}

#[tokio::test]
async fn when_every_row_is_deleted_nothing_is_left() {
    let world = World::new();
    let before = world.dataset(&["id"], &[(people(&[1, 2]), &[0, 1])]).await;
    let (after, rewritten) = world.compact(&before, Sizes::default()).await;
    assert!(after.files.is_empty());
    let asked = asked(&before, &[vec![0, 1]]);
    assert_eq!(rewritten.moved.locate(&asked).await.unwrap(), []);
}

#[tokio::test]
async fn a_damaged_file_stops_it_and_nothing_is_left_in_staging() {
    let world = World::new();
    let ids: Vec<i64> = (0..300_000).collect();
    let before = world
        .dataset(&["id"], &[(people(&ids), &[]), (people(&[-1]), &[])])
        .await;
    let path = world
        .dir
        .path()
        .join("primary")
        .join(&before.files[0].entry.key);
    let mut bytes = std::fs::read(&path).unwrap();
    // The second of two row groups, so that the first is written by then.
    let middle = bytes.len() * 95 / 100;
    bytes[middle..middle + 4_096].fill(0xA5);
    std::fs::write(&path, bytes).unwrap();
    let error = failed(&world, &before, Arc::default()).await;
    assert_eq!(
        (error.kind, error.code.as_str()),
        (ErrorKind::Corrupt, "file_corrupt")
    );
    assert_eq!(world.in_staging(), 0);
}

async fn failed(world: &World, dataset: &Dataset, progress: Arc<Progress>) -> PortError {
    let files: Vec<_> = dataset.files.clone();
    match world.tables.rewrite(dataset, &files, progress).await {
        Ok(done) => panic!("{} rows are rewritten", done.staged.rows()),
        Err(error) => error,
    }
}

#[tokio::test]
async fn one_that_is_cancelled_leaves_nothing_in_staging() {
    let world = World::new();
    let before = world.dataset(&["id"], &[(people(&[1, 2]), &[])]).await;
    let progress = Arc::new(Progress::default());
    progress.cancelled.store(true, Ordering::Relaxed);
    let error = failed(&world, &before, progress).await;
    assert_eq!(error.code, "cancelled");
    assert_eq!(world.in_staging(), 0);
}

#[tokio::test]
async fn files_that_are_not_what_was_read_are_refused() {
    let world = World::new();
    let before = world.dataset(&["id"], &[(people(&[1, 2, 3]), &[])]).await;
    let job = Job {
        buckets: Arc::clone(&world.tables.buckets),
        staging: world.tables.staging.clone(),
        schema: arrow_schema(&before.schema).unwrap(),
        read: schema_of(&before),
        key: before.key.clone(),
        files: before.files.clone(),
        rows: 3,
        progress: Arc::default(),
        stopped: Arc::default(),
        handle: Handle::current(),
        sizes: Sizes::default(),
    };
    let refused = tokio::task::spawn_blocking(move || {
        let (staged, ..) = job.run().unwrap();
        let sum = |ids: &[i64]| {
            let rows = people(ids);
            let content = Content::new(rows.schema_ref()).unwrap();
            content.add(&rows).unwrap();
            content.sum()
        };
        job.compare(sum(&[3, 1, 2]), &staged).unwrap();
        let mut refused = Vec::new();
        for others in [&[1, 2, 4][..], &[1, 2], &[1, 2, 3, 3]] {
            refused.push(job.compare(sum(others), &staged).unwrap_err());
        }
        std::fs::write(&staged.files[0].path, "PAR1").unwrap();
        refused.push(job.compare(sum(&[1, 2, 3]), &staged).unwrap_err());
        refused
    });
    for error in refused.await.unwrap() {
        assert_eq!(
            (error.kind, error.code.as_str()),
            (ErrorKind::Corrupt, "compaction_mismatch")
        );
    }
}

#[tokio::test]
async fn the_log_of_moved_rows_goes_with_its_last_user() {
    let world = World::new();
    let before = world.dataset(&["id"], &[(people(&[1, 2]), &[])]).await;
    let (_, rewritten) = world.compact(&before, Sizes::default()).await;
    let moved = Arc::clone(&rewritten.moved);
    drop(rewritten);
    assert_eq!(world.in_staging(), 0, "it has no name");
    let found = moved.locate(&asked(&before, &[vec![1]])).await.unwrap();
    assert_eq!(found, [std::iter::once(1).collect::<DeletionVector>()]);
    let unknown = DeletedRows {
        file: "another".to_owned(),
        positions: std::iter::once(0).collect(),
    };
    let nowhere = moved.locate(&[unknown]).await.unwrap();
    assert_eq!(nowhere, [DeletionVector::default()]);
}

#[tokio::test]
async fn staged_rows_are_found_by_a_test_of_their_keys_file_by_file() {
    let world = World::new();
    let before = world
        .dataset(&["id"], &[(people(&(0..20).collect::<Vec<_>>()), &[])])
        .await;
    let files: Vec<_> = before.files.clone();
    let rewritten = rewrite(&world.tables, &before, &files, Arc::default(), small());
    let staged = rewritten.await.unwrap().staged;
    staged.load_keys().await.unwrap();
    let found = staged
        .rows_where(Arc::new(|key| key.ends_with('3') || key == "14"))
        .await;
    // Files of 7, 7 and 6 rows: 13 is the last of the second, 14 the first of the third.
    let expected = [[3], [6], [0]].map(|rows| rows.into_iter().collect::<DeletionVector>());
    assert_eq!(found.unwrap(), expected);
    let without_key = world.stage(&people(&[1, 2]), &[]).await;
    without_key.load_keys().await.unwrap();
    let found = without_key.rows_where(Arc::new(|_| true)).await.unwrap();
    assert_eq!(found, [DeletionVector::default()]);
}

fn asked(dataset: &Dataset, positions: &[Vec<u32>]) -> Vec<DeletedRows> {
    let files = dataset.files.iter().zip(positions);
    files
        .map(|(file, positions)| DeletedRows {
            file: file.entry.key.clone(),
            positions: positions.iter().copied().collect(),
        })
        .collect()
}

#[test]
fn a_disk_without_room_is_told_from_a_defect() {
    let full = || std::io::Error::from(std::io::ErrorKind::StorageFull);
    let written = IngestError::Write(parquet::errors::ParquetError::from(full()));
    for error in [
        of_staging(&full()),
        of_ingest(&written),
        IngestError::Staging(full()).into(),
    ] {
        assert_eq!(
            (error.kind, error.code.as_str()),
            (ErrorKind::Unavailable, "disk_full")
        );
    }
    let other = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
    assert_eq!(of_staging(&other).code, "internal");
}
