//! A dataset as a table: the engine's own Parquet scan over the live files of one snapshot, without
//! the rows that are gone. The only way from SQL, search, tools and index builds to rows, so what is
//! visible is decided here and nowhere else.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::{
    catalog::{Session, TableProvider},
    common::{Result, Statistics, project_schema, stats::Precision},
    datasource::{
        TableType,
        listing::PartitionedFile,
        physical_plan::{
            FileGroup, FileScanConfigBuilder, ParquetSource,
            parquet::{CachedParquetFileReaderFactory, ParquetAccessPlan},
        },
        source::DataSourceExec,
        table_schema::TableSchema,
    },
    logical_expr::{Expr, TableProviderFilterPushDown},
    physical_plan::{ExecutionPlan, empty::EmptyExec},
};
use futures::{StreamExt, TryStreamExt};
use lakehouse_journal::model::catalog::{DataFile, Dataset};

use super::{
    QueryError,
    facts::{FOOTER_HINT_BYTES, Facts, FactsCache, object_meta},
    scan::GuardedScan,
    schema::{arrow_schema, read_schema},
    sift::FileRows,
    store::lake_url,
};

/// Footers fetched at a time while a scan is planned.
const FOOTERS_IN_FLIGHT: usize = 16;

/// One snapshot of a dataset as a table.
#[derive(Debug)]
pub struct DatasetTable {
    dataset: Arc<Dataset>,
    schema: SchemaRef,
    facts: Arc<FactsCache>,
}

impl DatasetTable {
    /// The table of this snapshot. `facts` is shared by all tables of an engine.
    ///
    /// # Errors
    /// [`QueryError::Internal`] when the dataset's schema document does not hold a schema.
    pub fn new(dataset: Arc<Dataset>, facts: Arc<FactsCache>) -> Result<Self, QueryError> {
        let schema = read_schema(arrow_schema(&dataset.schema)?.as_ref());
        Ok(Self {
            dataset,
            schema,
            facts,
        })
    }

    /// The snapshot.
    pub fn dataset(&self) -> &Arc<Dataset> {
        &self.dataset
    }

    /// Plans the files to read: all with rows left, or the first that hold `enough` rows.
    async fn files(&self, state: &dyn Session, enough: Option<usize>) -> Result<Planned> {
        let runtime = state.runtime_env();
        let store = runtime.object_store(lake_url())?;
        let facts = Facts {
            store: store.as_ref(),
            footers: runtime.cache_manager.get_file_metadata_cache(),
            cache: &self.facts,
            schema: &self.schema,
            fingerprint: &self.dataset.schema.fingerprint,
        };
        let collect = state.config().collect_statistics();
        let mut wanted = Vec::new();
        let mut rows = 0;
        for file in self.dataset.files.iter().filter(|f| f.live_rows() > 0) {
            rows += file.live_rows();
            wanted.push(Arc::clone(file));
            if enough.is_some_and(|enough| rows >= enough as u64) {
                break;
            }
        }
        let guarded = wanted.iter().any(|file| !file.deleted.is_empty());
        let files: Vec<(PartitionedFile, bool)> = futures::stream::iter(wanted)
            .map(|file| planned(&facts, file, collect, guarded))
            .buffered(FOOTERS_IN_FLIGHT)
            .try_collect()
            .await?;
        Ok(Planned {
            guarded,
            scattered: files.iter().any(|(_, scattered)| *scattered),
            files: files.into_iter().map(|(file, _)| file).collect(),
        })
    }

    fn source(&self, state: &dyn Session) -> Result<ParquetSource> {
        let runtime = state.runtime_env();
        let readers = CachedParquetFileReaderFactory::new(
            runtime.object_store(lake_url())?,
            runtime.cache_manager.get_file_metadata_cache(),
        );
        let table = TableSchema::new(Arc::clone(&self.schema), Vec::new());
        Ok(ParquetSource::new(table)
            .with_table_parquet_options(state.default_table_options().parquet)
            .with_metadata_size_hint(FOOTER_HINT_BYTES)
            .with_parquet_file_reader_factory(Arc::new(readers)))
    }
}

/// The files of a scan.
struct Planned {
    files: Vec<PartitionedFile>,
    /// Whether rows of them are deleted.
    guarded: bool,
    /// Whether some of these rows lie scattered.
    scattered: bool,
}

/// A file with what is known of it, and whether its deleted rows lie scattered.
async fn planned(
    facts: &Facts<'_>,
    file: Arc<DataFile>,
    collect: bool,
    guarded: bool,
) -> Result<(PartitionedFile, bool)> {
    let meta = object_meta(&file);
    let statistics = if collect {
        facts.statistics(&file, &meta).await?
    } else {
        let mut unknown = Statistics::new_unknown(facts.schema);
        unknown.num_rows =
            Precision::Exact(usize::try_from(file.live_rows()).unwrap_or(usize::MAX));
        Arc::new(unknown)
    };
    let mut part = PartitionedFile::new_from_meta(meta.clone()).with_statistics(statistics);
    if !guarded {
        return Ok((part, false));
    }
    let access = facts.access(&file, &meta).await?;
    if let Some(plan) = access.plan {
        part.extensions.insert_arc::<ParquetAccessPlan>(plan);
    }
    let rows = FileRows::new(file, access.groups);
    let scattered = rows.is_scattered();
    part.extensions.insert(rows);
    Ok((part, scattered))
}

/// Files in at most `groups` groups, each with the statistics of its files; and those of all.
fn grouped(
    files: Vec<PartitionedFile>,
    groups: usize,
    schema: &SchemaRef,
) -> Result<(Vec<FileGroup>, Statistics)> {
    let merged = |group: &FileGroup| {
        let parts = group.iter().filter_map(|file| file.statistics.as_deref());
        Statistics::try_merge_iter(parts, schema)
    };
    let all = merged(&FileGroup::new(files.clone()))?;
    let groups = FileGroup::new(files)
        .split_files(groups.max(1))
        .into_iter()
        .map(|group| {
            let statistics = Arc::new(merged(&group)?);
            Ok(group.with_statistics(statistics))
        })
        .collect::<Result<Vec<_>>>()?;
    Ok((groups, all))
}

#[async_trait]
impl TableProvider for DatasetTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let enough = if filters.is_empty() { limit } else { None };
        let planned = self.files(state, enough).await?;
        if planned.files.is_empty() {
            let schema = project_schema(&self.schema, projection)?;
            return Ok(Arc::new(EmptyExec::new(schema)));
        }
        let partitions = state.config().target_partitions();
        let (groups, mut statistics) = grouped(planned.files, partitions, &self.schema)?;
        if enough.is_some() {
            statistics = statistics.to_inexact();
        }
        let scan = FileScanConfigBuilder::new(lake_url(), Arc::new(self.source(state)?))
            .with_file_groups(groups)
            .with_statistics(statistics)
            .with_projection_indices(projection.cloned())?
            .with_limit(limit)
            .build();
        Ok(if planned.guarded {
            // In one partition, rows come in the order of the files.
            GuardedScan::plan(scan, planned.scattered, partitions == 1)
        } else {
            DataSourceExec::from_data_source(scan)
        })
    }

    fn statistics(&self) -> Option<Statistics> {
        let mut known = Statistics::new_unknown(&self.schema);
        let rows = usize::try_from(self.dataset.row_count()).unwrap_or(usize::MAX);
        known.num_rows = Precision::Exact(rows);
        Some(known)
    }
}
