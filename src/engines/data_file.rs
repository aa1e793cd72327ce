//! One data file of a dataset, read row by row and straight from its bucket: all rows but the deleted
//! ones, or only those at given positions. Compaction and the list of deleted rows read through this;
//! it takes part in no query and decides nothing about what is visible.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, RecordBatch},
    compute::{CastOptions, cast_with_options},
    datatypes::{DataType, Field, FieldRef, Schema, SchemaRef},
    error::ArrowError,
};
use datafusion::error::{DataFusionError, Result as EngineResult};
use futures::{StreamExt, stream::BoxStream};
use lakehouse_journal::model::catalog::{DataFile, DeletionVector};
use parquet::{
    arrow::{
        ParquetRecordBatchStreamBuilder, ProjectionMask,
        arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions},
        async_reader::ParquetObjectReader,
    },
    file::metadata::{PageIndexPolicy, RowGroupMetaData},
};
use roaring::RoaringBitmap;

use super::object_store::{Buckets, check_key};
use crate::query::{QueryError, facts::access_plan};

/// Batches of a file, with errors as the engine has them.
pub(super) type Rows = BoxStream<'static, EngineResult<RecordBatch>>;

/// Rows of a batch at most.
const BATCH_ROWS: usize = 8_192;
/// Bytes of a batch that are aimed at.
const BATCH_BYTES: usize = 4 << 20;
/// Bytes of a page at most, with the dictionary that it points into.
const PAGE_BYTES: usize = 2 << 20;
/// Bytes read at the end of a file in the hope that the footer is in them.
const FOOTER_HINT_BYTES: usize = 64 << 10;

/// The type that a column is read as: text and bytes as views, which are merged without a copy, and
/// dictionaries as their values, as those of two files have no keys in common.
pub(super) fn read_type(data_type: &DataType) -> DataType {
    let item = |field: &FieldRef| Arc::new(read_field(field));
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 => DataType::Utf8View,
        DataType::Binary | DataType::LargeBinary => DataType::BinaryView,
        DataType::Dictionary(_, values) => read_type(values),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(item).collect()),
        DataType::List(field) => DataType::List(item(field)),
        DataType::LargeList(field) => DataType::LargeList(item(field)),
        DataType::FixedSizeList(field, size) => DataType::FixedSizeList(item(field), *size),
        other => other.clone(),
    }
}

fn read_field(field: &FieldRef) -> Field {
    let read = read_type(field.data_type());
    field.as_ref().clone().with_data_type(read)
}

/// The schema that rows of a dataset are read in; every column may be null.
pub(super) fn read_schema(schema: &Schema) -> SchemaRef {
    let fields = schema.fields().iter();
    let fields = fields.map(|field| read_field(field).with_nullable(true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// A file whose footer is read and fits what the catalog says of it.
pub(super) struct OpenFile {
    file: Arc<DataFile>,
    reader: ParquetObjectReader,
    metadata: ArrowReaderMetadata,
    /// What its rows are read as.
    schema: SchemaRef,
}

impl OpenFile {
    /// Reads the footer of `file`. Its rows will have the columns of `schema`.
    ///
    /// # Errors
    /// When the bucket does not give it, or it is not what was written.
    pub async fn open(
        buckets: &Buckets,
        file: &Arc<DataFile>,
        schema: &SchemaRef,
    ) -> Result<Self, QueryError> {
        let place = [file.entry.bucket.clone()];
        Self::read_footer(buckets, file, schema)
            .await
            .map_err(|error| QueryError::from_engine(&error, &place))
    }

    async fn read_footer(
        buckets: &Buckets,
        file: &Arc<DataFile>,
        schema: &SchemaRef,
    ) -> EngineResult<Self> {
        let entry = &file.entry;
        let in_store = |error| DataFusionError::from(object_store::Error::from(error));
        let store = buckets.rescued(&entry.bucket).map_err(in_store)?;
        let path = check_key(&entry.key).map_err(in_store)?;
        let mut reader = ParquetObjectReader::new(Arc::new(store), path)
            .with_file_size(entry.bytes)
            .with_footer_size_hint(FOOTER_HINT_BYTES);
        let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Optional);
        let footer = ArrowReaderMetadata::load_async(&mut reader, options.clone()).await?;
        let fields = footer.schema().fields().iter();
        let fields: Vec<Field> = fields.map(read_field).collect();
        let options = options.with_schema(Arc::new(Schema::new(fields)));
        let metadata = ArrowReaderMetadata::try_new(Arc::clone(footer.metadata()), options)?;
        let rows = metadata.metadata().file_metadata().num_rows();
        let complete = u64::try_from(rows) == Ok(entry.rows)
            && schema
                .fields()
                .iter()
                .all(|field| metadata.schema().column_with_name(field.name()).is_some());
        if !complete {
            tracing::error!(
                bucket = entry.bucket,
                key = entry.key,
                "a data file is another one"
            );
            let place = format!("bucket `{}`", entry.bucket);
            return Err(DataFusionError::External(Box::new(QueryError::Corrupt {
                place,
            })));
        }
        Ok(Self {
            file: Arc::clone(file),
            reader,
            metadata,
            schema: Arc::clone(schema),
        })
    }

    /// Bytes that reading it holds at a time, at most: the footer, a row group as it is stored, the
    /// pages that are unpacked and a batch.
    pub fn memory_bytes(&self) -> usize {
        let footer = self.metadata.metadata();
        let size = |bytes: i64| usize::try_from(bytes).unwrap_or_default();
        let group = |group: &RowGroupMetaData| {
            let chunk = |bytes: i64| size(bytes).min(PAGE_BYTES);
            let columns = group.columns().iter();
            let pages: usize = columns
                .map(|chunk_of| chunk(chunk_of.uncompressed_size()))
                .sum();
            size(group.compressed_size()) + pages
        };
        let groups = footer.row_groups().iter().map(group);
        let batch = BATCH_BYTES.min(groups.clone().sum());
        footer.memory_size() + groups.max().unwrap_or_default() + batch
    }

    /// Rows of its batches at most: fewer when rows are long.
    pub fn batch_rows(&self) -> usize {
        let longest = |group: &RowGroupMetaData| {
            let rows = usize::try_from(group.num_rows()).unwrap_or_default();
            usize::try_from(group.total_byte_size()).unwrap_or_default() / rows.max(1)
        };
        let groups = self.metadata.metadata().row_groups().iter();
        let longest = groups.map(longest).max().unwrap_or_default();
        (BATCH_BYTES / longest.max(1)).clamp(1, BATCH_ROWS)
    }

    /// Its rows less the deleted ones, in their order.
    ///
    /// # Errors
    /// When its pages cannot be planned.
    pub fn live_rows(self) -> EngineResult<Rows> {
        let left_out = self.file.deleted.clone();
        self.rows_without(&left_out)
    }

    /// Only its rows at these positions, in their order.
    ///
    /// # Errors
    /// When its pages cannot be planned.
    pub fn rows_at(self, positions: &DeletionVector) -> EngineResult<Rows> {
        let mut others = RoaringBitmap::new();
        others.insert_range(0..u32::try_from(self.file.entry.rows).unwrap_or(u32::MAX));
        others -= positions.bitmap();
        self.rows_without(&DeletionVector::from(others))
    }

    fn rows_without(self, left_out: &DeletionVector) -> EngineResult<Rows> {
        let batch_rows = self.batch_rows();
        let groups = self.metadata.metadata().row_groups();
        let plan = access_plan(left_out, groups.iter().map(RowGroupMetaData::num_rows));
        let wanted = plan.row_group_indexes();
        let selection = plan.into_overall_row_selection(groups)?;
        let names = self
            .schema
            .fields()
            .iter()
            .map(|field| field.name().as_str());
        let columns = names.filter_map(|name| self.metadata.schema().index_of(name).ok());
        let mask = ProjectionMask::roots(self.metadata.parquet_schema(), columns);
        let mut builder =
            ParquetRecordBatchStreamBuilder::new_with_metadata(self.reader, self.metadata)
                .with_projection(mask)
                .with_row_groups(wanted)
                .with_batch_size(batch_rows);
        if let Some(selection) = selection {
            builder = builder.with_row_selection(selection);
        }
        let schema = self.schema;
        let batches = builder.build()?;
        Ok(batches
            .map(move |batch| Ok(in_schema(&batch?, &schema)?))
            .boxed())
    }
}

/// The columns of a batch by name and type.
fn in_schema(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let exact = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    let column = |field: &FieldRef| -> Result<ArrayRef, ArrowError> {
        let index = batch.schema_ref().index_of(field.name())?;
        let found = batch.column(index);
        if found.data_type() == field.data_type() {
            return Ok(Arc::clone(found));
        }
        cast_with_options(found, field.data_type(), &exact)
    };
    let columns = schema.fields().iter().map(column);
    RecordBatch::try_new(Arc::clone(schema), columns.collect::<Result<_, _>>()?)
}
