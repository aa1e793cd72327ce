//! The rows of several files as one stream: file after file, or merged by key. A last column says which
//! file each row is from. The job in `super` reads it; how many files are merged at a time is its choice.

use std::sync::Arc;

use arrow::{
    array::{RecordBatch, UInt32Array},
    datatypes::{DataType, Field, Schema, SchemaRef},
};
use datafusion::{
    error::{DataFusionError, Result as EngineResult},
    execution::memory_pool::{MemoryConsumer, MemoryPool, UnboundedMemoryPool},
    physical_expr::{LexOrdering, PhysicalSortExpr, expressions::Column},
    physical_plan::{
        metrics::{BaselineMetrics, ExecutionPlanMetricsSet},
        sorts::streaming_merge::StreamingMergeBuilder,
        stream::RecordBatchStreamAdapter,
    },
};
use futures::{StreamExt, TryStreamExt, stream};
use lakehouse_journal::model::catalog::DataFile;

use crate::engines::{
    data_file::{OpenFile, Rows},
    object_store::Buckets,
};

/// The schema of rows that say which file they are from.
pub(super) fn numbered_schema(read: &Schema) -> SchemaRef {
    let number = Arc::new(Field::new("file number", DataType::UInt32, false));
    let fields = read.fields().iter().cloned().chain([number]);
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// The rows of a file with the file's number.
fn numbered(file: OpenFile, number: u32, schema: SchemaRef) -> EngineResult<Rows> {
    let rows = file.live_rows()?;
    let with_number = move |batch: EngineResult<RecordBatch>| {
        let batch = batch?;
        let mut columns = batch.columns().to_vec();
        let numbers = UInt32Array::from_value(number, batch.num_rows());
        columns.push(Arc::new(numbers));
        Ok(RecordBatch::try_new(Arc::clone(&schema), columns)?)
    };
    Ok(rows.map(with_number).boxed())
}

/// File after file, each in the order of its rows; one is open at a time.
pub(super) fn concatenated(
    buckets: &Arc<Buckets>,
    files: Vec<(u32, Arc<DataFile>)>,
    read: &SchemaRef,
) -> Rows {
    let (buckets, read) = (Arc::clone(buckets), Arc::clone(read));
    let schema = numbered_schema(&read);
    stream::iter(files)
        .then(move |(number, file)| {
            let (buckets, read) = (Arc::clone(&buckets), Arc::clone(&read));
            let schema = Arc::clone(&schema);
            async move {
                let opened = OpenFile::open(&buckets, &file, &read).await;
                let opened = opened.map_err(|error| DataFusionError::External(Box::new(error)))?;
                numbered(opened, number, schema)
            }
        })
        .try_flatten()
        .boxed()
}

/// Files that ascend by `key`, merged so that all of them do. Of rows with one key, that of the file
/// with the smaller number is first.
pub(super) fn merged(
    files: Vec<(u32, OpenFile)>,
    read: &Schema,
    key: &[String],
) -> EngineResult<Rows> {
    let schema = numbered_schema(read);
    let batch_rows = files.iter().map(|(_, file)| file.batch_rows()).min();
    let mut streams = Vec::with_capacity(files.len());
    for (number, file) in files {
        streams.push(numbered(file, number, Arc::clone(&schema))?);
    }
    if streams.len() == 1 {
        return Ok(streams.remove(0));
    }
    let column = |name: &String| -> EngineResult<PhysicalSortExpr> {
        let column = Column::new(name, schema.index_of(name)?);
        Ok(PhysicalSortExpr::new_default(Arc::new(column)))
    };
    let columns = key.iter().map(column).collect::<EngineResult<Vec<_>>>()?;
    let order = LexOrdering::new(columns)
        .ok_or_else(|| DataFusionError::Internal("rows are merged by a key".to_owned()))?;
    let adapt = |rows| Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&schema), rows)) as _;
    // What is open at a time is bounded by its caller, so that a busy pool fails no compaction.
    let unbounded: Arc<dyn MemoryPool> = Arc::new(UnboundedMemoryPool::default());
    let merged = StreamingMergeBuilder::new()
        .with_streams(streams.into_iter().map(adapt).collect())
        .with_schema(Arc::clone(&schema))
        .with_expressions(&order)
        .with_metrics(BaselineMetrics::new(&ExecutionPlanMetricsSet::new(), 0))
        .with_batch_size(batch_rows.unwrap_or(1))
        .with_reservation(MemoryConsumer::new("compaction").register(&unbounded))
        .with_round_robin_tie_breaker(false)
        .build()?;
    Ok(merged.boxed())
}
