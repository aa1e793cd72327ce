//! Lakes for the tests of this module: a bucket in a temporary directory, datasets in it with row
//! groups as small as a test wants them, and an engine over both.

use std::{sync::Arc, time::Duration};

use arrow::{
    array::{ArrayRef, Int64Array, StringArray},
    datatypes::Schema,
    record_batch::RecordBatch,
};
use datafusion::parquet::{
    arrow::ArrowWriter,
    file::properties::{EnabledStatistics, WriterProperties},
};
use futures::TryStreamExt;
use lakehouse_journal::{
    model::{
        Aggregate, Meta,
        catalog::{CatalogState, DataFile, Dataset, DatasetSpec, DeletionVector, FileEntry},
        event::{CatalogEvent, DatasetCreated},
    },
    record::{Actor, Seq},
};
use serde_json::Value;
use tempfile::TempDir;

use super::{
    JsonRows, QueryConfig, QueryEngine, QueryError, QuerySession, SessionTables, rows_json,
    schema_doc,
};
use crate::engines::object_store::{Bucket, Buckets};

/// A lake that lasts as long as a test.
pub(crate) struct Lake {
    pub folder: TempDir,
    pub buckets: Arc<Buckets>,
    pub engine: QueryEngine,
    pub state: CatalogState,
}

impl Lake {
    /// An empty lake with one bucket, `primary`.
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    /// The same, with other settings.
    pub fn with(change: impl FnOnce(&mut QueryConfig)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let buckets = Arc::new(Buckets::new());
        buckets.register(Bucket::local("primary", folder.path().join("primary")).unwrap());
        let mut config = QueryConfig::new(folder.path().join("spill"));
        config.timeout = Duration::from_secs(20);
        config.target_partitions = 2;
        change(&mut config);
        let engine = QueryEngine::new(config, Arc::clone(&buckets)).unwrap();
        Self {
            folder,
            buckets,
            engine,
            state: CatalogState::default(),
        }
    }

    /// Adds a dataset of one file per batch, and says what is deleted of each.
    pub fn add(&mut self, name: &str, files: &[(RecordBatch, Vec<u32>)], group_rows: usize) {
        let schema = files[0].0.schema();
        let mut dataset = dataset(name, &schema);
        for (batch, deleted) in files {
            let file = self.file(name, batch, group_rows, dataset.files.len());
            dataset.files.push(Arc::new(DataFile {
                entry: file,
                added_seq: 1,
                deleted: deleted.iter().copied().collect::<DeletionVector>(),
                erased: DeletionVector::default(),
            }));
        }
        self.state
            .datasets
            .insert(name.to_owned(), Arc::new(dataset));
    }

    fn file(&self, name: &str, batch: &RecordBatch, group_rows: usize, index: usize) -> FileEntry {
        let properties = WriterProperties::builder()
            .set_max_row_group_row_count(Some(group_rows))
            .set_data_page_row_count_limit((group_rows / 3).max(1))
            .set_write_batch_size((group_rows / 3).max(1))
            .set_statistics_enabled(EnabledStatistics::Page)
            .build();
        let mut bytes = Vec::new();
        let mut writer =
            ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).unwrap();
        writer.write(batch).unwrap();
        writer.close().unwrap();
        let hash = blake3::hash(&bytes).to_hex().to_string();
        let key = format!("datasets/{name}/{index}-{}.parquet", &hash[..16]);
        let staged = self.folder.path().join("staged");
        std::fs::write(&staged, &bytes).unwrap();
        let bucket = self.buckets.get("primary").unwrap();
        bucket.local.unwrap().put_file(&staged, &key).unwrap();
        FileEntry {
            bucket: "primary".to_owned(),
            key,
            rows: batch.num_rows() as u64,
            bytes: bytes.len() as u64,
            blake3: hash,
            sorted_by_key: false,
            superseded: DeletionVector::default(),
            erased: DeletionVector::default(),
        }
    }

    /// A session that sees every dataset.
    pub fn session(&self) -> QuerySession {
        self.session_at(1)
    }

    /// The same, of the catalog at this position of the journal.
    pub fn session_at(&self, seq: Seq) -> QuerySession {
        let tables = SessionTables::all(Arc::new(self.state.clone()), seq);
        self.engine.session(tables)
    }

    /// The JSON answer to a query.
    pub async fn json(&self, sql: &str, params: Vec<Value>) -> Result<JsonRows, QueryError> {
        let stream = self.session().execute(sql, params, Some(10_000)).await?;
        rows_json(stream, 10_000).await
    }

    /// The rows of an answer as one JSON value.
    pub async fn rows(&self, sql: &str) -> Value {
        let answer = self.json(sql, vec![]).await.unwrap();
        serde_json::from_str(answer.rows.get()).unwrap()
    }

    /// What a query fails with.
    pub async fn error(&self, sql: &str) -> QueryError {
        match self.json(sql, vec![]).await {
            Ok(answer) => panic!("{sql} is answered with {} rows", answer.row_count),
            Err(error) => error,
        }
    }

    /// Every batch of an answer.
    pub async fn batches(&self, sql: &str) -> Vec<RecordBatch> {
        let stream = self.session().execute(sql, vec![], None).await.unwrap();
        stream.try_collect().await.unwrap()
    }
}

/// A dataset without files.
pub(crate) fn dataset(name: &str, schema: &Schema) -> Dataset {
    let created = DatasetCreated {
        dataset: name.to_owned(),
        spec: DatasetSpec {
            id: name.to_owned(),
            schema: schema_doc(schema),
            key: vec!["id".to_owned()],
            bucket: "primary".to_owned(),
            owner: String::new(),
        },
    };
    let mut catalog = CatalogState::default();
    let nobody = Actor {
        name: String::new(),
        role: String::new(),
    };
    let meta = Meta {
        seq: 1,
        at: 0,
        actor: &nobody,
    };
    catalog.apply(meta, &CatalogEvent::from(created));
    let made = catalog.datasets.remove(name).expect("it was made");
    made.as_ref().clone()
}

/// Rows `first..first + count`: `id`, `grp` (id % 7), `name` (`n<id>`).
pub(crate) fn people(first: i64, count: i64) -> RecordBatch {
    let ids: Int64Array = (first..first + count).collect();
    let groups: Int64Array = (first..first + count).map(|id| id % 7).collect();
    let names: StringArray = (first..first + count)
        .map(|id| Some(format!("n{id}")))
        .collect();
    RecordBatch::try_from_iter_with_nullable([
        ("id", Arc::new(ids) as ArrayRef, true),
        ("grp", Arc::new(groups) as ArrayRef, true),
        ("name", Arc::new(names) as ArrayRef, true),
    ])
    .unwrap()
}
