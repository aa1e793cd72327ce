//! The engine's Parquet scan, guarded: rows that an access plan leaves out stay out.
//! `DataFusion` 54 prunes row groups for a LIMIT by their full row counts and rebuilds the access plan
//! without its selections (`prune_by_limit`), which would bring deleted rows back. A scan opened here
//! never takes that path. Where the rows lie scattered, the scan is sifted (`sift`); everything else is
//! the engine's own.

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

use super::sift::{Sifted, may_be_sifted};

/// A file scan whose files carry access plans.
#[derive(Debug, Clone)]
pub struct GuardedScan {
    inner: Arc<dyn DataSource>,
    /// Whether it may be sifted: rows lie scattered, and neither a limit nor an order was pushed into
    /// the scan.
    siftable: bool,
    /// Whether rows are to come as they lie in the files.
    ordered: bool,
}

impl GuardedScan {
    /// The plan node for `scan`. `scattered` says whether rows that are gone lie scattered, `ordered`
    /// whether the others are to come as they lie in the files.
    pub fn plan(scan: FileScanConfig, scattered: bool, ordered: bool) -> Arc<DataSourceExec> {
        DataSourceExec::from_data_source(Self {
            inner: Arc::new(scan),
            siftable: scattered,
            ordered,
        })
    }

    /// The same scan in another shape.
    fn wrap(&self, inner: Arc<dyn DataSource>) -> Arc<dyn DataSource> {
        Arc::new(Self {
            inner,
            siftable: self.siftable,
            ordered: self.ordered,
        })
    }

    /// The same scan with an order or a limit of its own.
    fn unsifted(&self, inner: Arc<dyn DataSource>) -> Arc<dyn DataSource> {
        Arc::new(Self {
            inner,
            siftable: false,
            ordered: self.ordered,
        })
    }

    /// The scan itself, when it is sifted.
    fn siftable(&self) -> Option<&FileScanConfig> {
        let scan = self.inner.downcast_ref::<FileScanConfig>()?;
        (self.siftable && may_be_sifted(scan)).then_some(scan)
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
        // With a state that partitions share, they share files; without, each reads its own.
        if let Some(scan) = self.siftable()
            && args.sibling_state.is_none()
        {
            return Sifted::open(scan, args.partition, args.context, self.ordered);
        }
        // The opener prunes for a LIMIT only where the order of rows is free.
        let Some(guarded) = self.inner.with_preserve_order(true) else {
            return internal_err!("a scan that cannot be guarded");
        };
        guarded.open_with_args(args)
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
        self.inner
            .with_fetch(limit)
            .map(|inner| self.unsifted(inner))
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
            updated_node: pushed.updated_node.map(|inner| self.wrap(inner)),
        })
    }

    fn try_pushdown_sort(
        &self,
        order: &[PhysicalSortExpr],
    ) -> Result<SortOrderPushdownResult<Arc<dyn DataSource>>> {
        Ok(self
            .inner
            .try_pushdown_sort(order)?
            .map(|inner| self.unsifted(inner)))
    }

    fn with_preserve_order(&self, preserve_order: bool) -> Option<Arc<dyn DataSource>> {
        let inner = self.inner.with_preserve_order(preserve_order)?;
        Some(Arc::new(Self {
            inner,
            siftable: self.siftable,
            ordered: self.ordered || preserve_order,
        }))
    }

    fn with_new_state(&self, state: Arc<dyn Any + Send + Sync>) -> Option<Arc<dyn DataSource>> {
        self.inner
            .with_new_state(state)
            .map(|inner| self.unsifted(inner))
    }

    fn create_sibling_state(&self, config: &ConfigOptions) -> Option<Arc<dyn Any + Send + Sync>> {
        if self.siftable().is_some() {
            return None;
        }
        self.inner.create_sibling_state(config)
    }
}
