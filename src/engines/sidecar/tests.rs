//! Lists of deleted rows in a bucket of a temporary directory, read as another engine would.

use std::sync::Arc;

use arrow::array::AsArray as _;
use arrow::{
    array::{ArrayRef, Int64Array, StringArray},
    datatypes::TimeUnit,
};
use lakehouse_journal::record::Actor;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::*;
use crate::{engines::object_store::DurableLocal, query::testing::Lake};

const OBJECT: &str = "datasets/people/people_tombstones.parquet";

struct World {
    lake: Lake,
    sidecar: LakeSidecar,
}

impl World {
    /// `people` in two files, with these rows of each deleted.
    fn new(deleted: [&[u32]; 2]) -> Self {
        let mut lake = Lake::new();
        let file = |ids: &[i64], gone: &[u32]| (people(ids), gone.to_vec());
        let files = [
            file(&[1, 2, 3, 4], deleted[0]),
            file(&[5, 6, 7], deleted[1]),
        ];
        lake.add("people", &files, 2);
        let staging = lake.folder.path().join("staging");
        let buckets = Arc::clone(&lake.buckets);
        let hash: KeyHash = Arc::new(|key| format!("hash of {key}"));
        let sidecar = LakeSidecar::new(staging, buckets, hash);
        Self { lake, sidecar }
    }

    /// The dataset, with these keys deleted for good at a position.
    fn dataset(&self, keys: &[&str], seq: Seq) -> Dataset {
        let mut dataset = self.lake.state.datasets["people"].as_ref().clone();
        for key in keys {
            dataset.tombstones.insert((*key).to_owned(), seq);
        }
        let batch = TombstoneBatch {
            at: 1_700_000_000_000_001,
            actor: Actor {
                name: "token".to_owned(),
                role: "admin".to_owned(),
            },
            on_behalf_of: (seq > 5).then(|| "ada".to_owned()),
            reason: "asked to be forgotten".to_owned(),
            rows: keys.len() as u64,
        };
        dataset.tombstone_batches.insert(seq, batch);
        for file in &mut dataset.files {
            let file = Arc::make_mut(file);
            file.erased = file.deleted.clone();
        }
        dataset
    }

    fn bucket(&self) -> Arc<DurableLocal> {
        self.lake.buckets.get("primary").unwrap().local.unwrap()
    }

    /// (key, actor) of each row; nothing when there is no object.
    fn read(&self) -> Option<Vec<(String, String)>> {
        let file = std::fs::File::open(self.bucket().file(OBJECT).unwrap()).ok()?;
        let rows = ParquetRecordBatchReaderBuilder::try_new(file)
            .unwrap()
            .build()
            .unwrap();
        let mut found = Vec::new();
        for batch in rows {
            let batch = batch.unwrap();
            let column = |name: &str| batch[name].as_string::<i32>().clone();
            let (keys, actors) = (column("row_key"), column("actor"));
            let pairs = keys.iter().zip(&actors);
            found.extend(
                pairs.map(|(key, actor)| (key.unwrap().to_owned(), actor.unwrap().to_owned())),
            );
        }
        Some(found)
    }

    fn leftovers(&self) -> usize {
        let staging = self.lake.folder.path().join("staging");
        std::fs::read_dir(staging).map_or(0, Iterator::count)
            + self.bucket().leftovers().unwrap().len()
    }
}

fn people(ids: &[i64]) -> RecordBatch {
    let names: StringArray = ids.iter().map(|id| Some(format!("n{id}"))).collect();
    let ids: ArrayRef = Arc::new(Int64Array::from(ids.to_vec()));
    RecordBatch::try_from_iter_with_nullable([("id", ids, true), ("name", Arc::new(names), true)])
        .unwrap()
}

fn pair(key: &str, actor: &str) -> (String, String) {
    (key.to_owned(), actor.to_owned())
}

#[tokio::test]
async fn rows_deleted_for_good_and_still_in_files_are_listed_with_who_and_why() {
    let world = World::new([&[0, 2], &[1]]);
    // 3 is gone as a newer row took its place: nobody deleted it.
    let dataset = world.dataset(&["1", "6", "12"], 9);
    world.sidecar.write(&dataset).await.unwrap();
    assert_eq!(world.read().unwrap(), [pair("1", "ada"), pair("6", "ada")]);
    assert_eq!(world.leftovers(), 0);
}

#[tokio::test]
async fn the_columns_are_those_of_the_contract_and_one_entry_is_small() {
    let world = World::new([&[0], &[]]);
    world
        .sidecar
        .write(&world.dataset(&["1"], 5))
        .await
        .unwrap();
    let path = world.bucket().file(OBJECT).unwrap();
    let bytes = std::fs::metadata(&path).unwrap().len();
    assert!(bytes <= 2_048, "{bytes} bytes");
    let file = std::fs::File::open(path).unwrap();
    let mut rows = ParquetRecordBatchReaderBuilder::try_new(file)
        .unwrap()
        .build()
        .unwrap();
    let batch = rows.next().unwrap().unwrap();
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let columns: Vec<(String, DataType)> = batch
        .schema()
        .fields()
        .iter()
        .map(|field| (field.name().clone(), field.data_type().clone()))
        .collect();
    let expected = [
        ("row_key".to_owned(), DataType::Utf8),
        ("deleted_at".to_owned(), time),
        ("actor".to_owned(), DataType::Utf8),
        ("reason".to_owned(), DataType::Utf8),
    ];
    assert_eq!(columns, expected);
    let at = batch["deleted_at"].as_primitive::<arrow::datatypes::TimestampMicrosecondType>();
    assert_eq!(at.value(0), 1_700_000_000_000_001);
    assert_eq!(batch["actor"].as_string::<i32>().value(0), "token");
    assert_eq!(
        batch["reason"].as_string::<i32>().value(0),
        "asked to be forgotten"
    );
}

#[tokio::test]
async fn a_list_takes_the_place_of_the_one_before_and_goes_when_it_would_be_empty() {
    let world = World::new([&[0, 1], &[]]);
    world
        .sidecar
        .write(&world.dataset(&["1"], 3))
        .await
        .unwrap();
    world
        .sidecar
        .write(&world.dataset(&["1", "2"], 6))
        .await
        .unwrap();
    assert_eq!(world.read().unwrap(), [pair("1", "ada"), pair("2", "ada")]);
    let mut compacted = world.dataset(&["1", "2"], 6);
    compacted.files = compacted.files.into_iter().skip(1).collect();
    compacted.files_seq = 7;
    world.sidecar.write(&compacted).await.unwrap();
    assert_eq!(world.read(), None);
    world
        .sidecar
        .write(&compacted)
        .await
        .expect("one that is not there is no error");
    let mut keyless = world.dataset(&[], 8);
    keyless.key.clear();
    world.sidecar.write(&keyless).await.unwrap();
    assert_eq!(world.read(), None);
}

#[tokio::test]
async fn an_older_snapshot_does_not_bring_an_entry_back() {
    let world = World::new([&[0], &[]]);
    let before = world.dataset(&["1"], 3);
    let mut after = before.clone();
    after.files = after.files.into_iter().skip(1).collect();
    after.files_seq = 4;
    world.sidecar.write(&after).await.unwrap();
    world.sidecar.write(&before).await.unwrap();
    assert_eq!(world.read(), None);
}

#[tokio::test]
async fn keys_known_as_hashes_and_keys_spelled_otherwise_are_found() {
    let world = World::new([&[0, 1, 2], &[]]);
    let dataset = world.dataset(&["hash of 1", "002"], 5);
    world.sidecar.write(&dataset).await.unwrap();
    assert_eq!(
        world.read().unwrap(),
        [pair("1", "token"), pair("2", "token")]
    );
}

#[tokio::test]
async fn a_file_that_cannot_be_read_leaves_the_list_as_it_was() {
    let world = World::new([&[0], &[0]]);
    world
        .sidecar
        .write(&world.dataset(&["1", "5"], 5))
        .await
        .unwrap();
    let before = world.read();
    let key = &world.lake.state.datasets["people"].files[1].entry.key;
    std::fs::remove_file(world.bucket().file(key).unwrap()).unwrap();
    let error = world
        .sidecar
        .write(&world.dataset(&["1", "5"], 6))
        .await
        .unwrap_err();
    assert_eq!(error.code, "bucket_unavailable");
    assert_eq!(world.read(), before);
    assert_eq!(world.leftovers(), 0);
}
