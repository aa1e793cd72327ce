//! The engine's Parquet scan, guarded: rows that an access plan leaves out stay out.
//! `DataFusion` 54 prunes row groups for a LIMIT by their full row counts and rebuilds the access plan
//! without its selections (`prune_by_limit`), which would bring deleted rows back. A scan opened here
//! never takes that path. Where the rows lie scattered, a scan that reads everything is sifted instead
//! (`sift`); everything else is the engine's own.

use std::{any::Any, fmt, sync::Arc};

use datafusion::{
    common::{Result, Statistics, config::ConfigOptions, internal_err},
    datasource::{
        physical_plan::FileScanConfig,
        source::{DataSource, DataSourceExec, OpenArgs},
    },
    execution::{SendableRecordBatchStream, TaskContext},
    physical_expr::{
        EquivalenceProperties, LexOrdering, Partitioning, PhysicalExpr, PhysicalSortExpr,
        projection::ProjectionExprs,
    },
    physical_plan::{
        DisplayFormatType, SortOrderPushdownResult, execution_plan::SchedulingType,
        filter_pushdown::FilterPushdownPropagation, metrics::ExecutionPlanMetricsSet,
    },
};

use super::sift::{Sift, Sifted};

/// A file scan whose files carry access plans.
#[derive(Debug, Clone)]
pub struct GuardedScan {
    inner: Arc<dyn DataSource>,
    /// Whether it may be sifted: rows lie scattered, and nothing was pushed into the scan that makes
    /// it leave out or reorder rows of its own.
    siftable: bool,
}

impl GuardedScan {
    /// The plan node for `scan`. `scattered` says whether rows that are gone lie scattered.
    pub fn plan(scan: FileScanConfig, scattered: bool) -> Arc<DataSourceExec> {
        DataSourceExec::from_data_source(Self {
            inner: Arc::new(scan),
            siftable: scattered,
        })
    }

    /// The same scan in another shape, which delivers the same rows in the same order.
    fn wrap(&self, inner: Arc<dyn DataSource>) -> Arc<dyn DataSource> {
        Arc::new(Self {
            inner,
            siftable: self.siftable,
        })
    }

    /// A scan that may leave out rows or deliver them in another order.
    fn unsifted(inner: Arc<dyn DataSource>) -> Arc<dyn DataSource> {
        Arc::new(Self {
            inner,
            siftable: false,
        })
    }

    /// The scan itself, when it delivers every row of its files, file after file: it has no filter
    /// to prune by, no limit, and no order to follow.
    fn whole(&self) -> Option<&FileScanConfig> {
        let scan = self.inner.downcast_ref::<FileScanConfig>()?;
        let whole = self.siftable
            && scan.file_source.filter().is_none()
            && scan.limit.is_none()
            && !scan.partitioned_by_file_group;
        whole.then_some(scan)
    }
}

impl DataSource for GuardedScan {
    fn open(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        self.open_with_args(OpenArgs::new(partition, context))
    }

    fn open_with_args(&self, args: OpenArgs) -> Result<SendableRecordBatchStream> {
        if let Some(scan) = self.whole() {
            let Some((scan, sift)) = Sift::plan(scan, args.partition) else {
                return internal_err!("a file that does not say where its rows lie");
            };
            // Each partition reads its own files, as all partitions of this scan do.
            let rows = ordered(&scan)?.open(args.partition, args.context)?;
            return Ok(Sifted::stream(rows, sift));
        }
        ordered(self.inner.as_ref())?.open_with_args(args)
    }

    fn fmt_as(&self, t: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt_as(t, f)
    }

    fn repartitioned(
        &self,
        target_partitions: usize,
        repartition_file_min_size: usize,
        output_ordering: Option<LexOrdering>,
    ) -> Result<Option<Arc<dyn DataSource>>> {
        let inner = self.inner.repartitioned(
            target_partitions,
            repartition_file_min_size,
            output_ordering,
        )?;
        Ok(inner.map(|inner| self.wrap(inner)))
    }

    fn output_partitioning(&self) -> Partitioning {
        self.inner.output_partitioning()
    }

    fn eq_properties(&self) -> EquivalenceProperties {
        self.inner.eq_properties()
    }

    fn scheduling_type(&self) -> SchedulingType {
        self.inner.scheduling_type()
    }

    fn partition_statistics(&self, partition: Option<usize>) -> Result<Arc<Statistics>> {
        self.inner.partition_statistics(partition)
    }

    fn with_fetch(&self, limit: Option<usize>) -> Option<Arc<dyn DataSource>> {
        self.inner.with_fetch(limit).map(Self::unsifted)
    }

    fn fetch(&self) -> Option<usize> {
        self.inner.fetch()
    }

    fn metrics(&self) -> ExecutionPlanMetricsSet {
        self.inner.metrics()
    }

    fn try_swapping_with_projection(
        &self,
        projection: &ProjectionExprs,
    ) -> Result<Option<Arc<dyn DataSource>>> {
        let inner = self.inner.try_swapping_with_projection(projection)?;
        Ok(inner.map(|inner| self.wrap(inner)))
    }

    fn try_pushdown_filters(
        &self,
        filters: Vec<Arc<dyn PhysicalExpr>>,
        config: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn DataSource>>> {
        let pushed = self.inner.try_pushdown_filters(filters, config)?;
        Ok(FilterPushdownPropagation {
            filters: pushed.filters,
            updated_node: pushed.updated_node.map(Self::unsifted),
        })
    }

    fn try_pushdown_sort(
        &self,
        order: &[PhysicalSortExpr],
    ) -> Result<SortOrderPushdownResult<Arc<dyn DataSource>>> {
        Ok(self.inner.try_pushdown_sort(order)?.map(Self::unsifted))
    }

    fn with_preserve_order(&self, preserve_order: bool) -> Option<Arc<dyn DataSource>> {
        self.inner
            .with_preserve_order(preserve_order)
            .map(|inner| self.wrap(inner))
    }

    fn with_new_state(&self, state: Arc<dyn Any + Send + Sync>) -> Option<Arc<dyn DataSource>> {
        self.inner.with_new_state(state).map(Self::unsifted)
    }

    fn create_sibling_state(&self, config: &ConfigOptions) -> Option<Arc<dyn Any + Send + Sync>> {
        if self.whole().is_some() {
            return None;
        }
        self.inner.create_sibling_state(config)
    }
}

/// A scan whose opener takes rows to be in order: only where their order is free it prunes for a LIMIT.
fn ordered(scan: &dyn DataSource) -> Result<Arc<dyn DataSource>> {
    if let Some(ordered) = scan.with_preserve_order(true) {
        return Ok(ordered);
    }
    internal_err!("a scan that cannot be guarded")
}
