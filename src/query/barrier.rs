//! The barrier: the plan node that a view's rows come out of. What lies beneath is planned and done by
//! itself; for everything above, this is a leaf without order or a way in, and with no statistics but
//! those of what it shows. No expression, dynamic filter, limit or sort of a caller gets beneath it, and
//! no error of what is hidden gets out.

use std::{any::Any, fmt, sync::Arc};

use datafusion::{
    common::{DataFusionError, Result, Statistics, config::ConfigOptions},
    execution::{SendableRecordBatchStream, TaskContext},
    physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr},
    physical_plan::{
        DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties,
        execution_plan::{Boundedness, EmissionType, reset_plan_states},
        filter_pushdown::{
            ChildPushdownResult, FilterDescription, FilterPushdownPhase, FilterPushdownPropagation,
        },
        stream::RecordBatchStreamAdapter,
    },
};
use futures::StreamExt;

use super::QueryError;

/// The rows of a view.
#[derive(Debug)]
pub struct SecurityBarrierExec {
    view: String,
    /// Buckets that the rows lie in, for what is told when one does not answer.
    buckets: Vec<String>,
    inner: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
    statistics: Arc<Statistics>,
}

impl SecurityBarrierExec {
    /// A barrier around `inner`, which makes the rows of the view of this name.
    pub fn new(
        view: impl Into<String>,
        buckets: Vec<String>,
        inner: Arc<dyn ExecutionPlan>,
    ) -> Self {
        let partitions = inner.output_partitioning().partition_count();
        let properties = PlanProperties::new(
            EquivalenceProperties::new(inner.schema()),
            Partitioning::UnknownPartitioning(partitions),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Self {
            view: view.into(),
            buckets,
            statistics: Arc::new(Statistics::new_unknown(&inner.schema())),
            inner,
            properties: Arc::new(properties),
        }
    }

    /// With statistics of what it shows. They must follow from nothing that is hidden.
    #[must_use]
    pub fn with_statistics(mut self, statistics: Statistics) -> Self {
        self.statistics = Arc::new(statistics);
        self
    }

    /// What lies beneath, for tests of what is there.
    #[cfg(test)]
    pub fn beneath(&self) -> &Arc<dyn ExecutionPlan> {
        &self.inner
    }
}

/// An error from beneath as it may be told above: that a bucket does not answer is everybody's to know,
/// what a hidden row did is nobody's.
pub(super) fn told(view: &str, error: &DataFusionError, buckets: &[String]) -> DataFusionError {
    let told = match QueryError::from_engine(error, buckets) {
        passes @ (QueryError::Unavailable { .. }
        | QueryError::Missing { .. }
        | QueryError::Corrupt { .. }
        | QueryError::Memory
        | QueryError::Timeout(_)
        | QueryError::Cancelled
        | QueryError::SnapshotExpired
        | QueryError::ViewBroken(_)) => passes,
        hidden => {
            tracing::error!(view, error = %hidden, "a view failed beneath its barrier");
            QueryError::ViewBroken(view.to_owned())
        }
    };
    DataFusionError::External(Box::new(told))
}

impl DisplayAs for SecurityBarrierExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecurityBarrierExec: view={}", self.view)
    }
}

impl ExecutionPlan for SecurityBarrierExec {
    fn name(&self) -> &'static str {
        "SecurityBarrierExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn with_new_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn reset_state(self: Arc<Self>) -> Result<Arc<dyn ExecutionPlan>> {
        let inner = reset_plan_states(Arc::clone(&self.inner))?;
        let statistics = Statistics::clone(&self.statistics);
        let fresh = Self::new(&self.view, self.buckets.clone(), inner);
        Ok(Arc::new(fresh.with_statistics(statistics)))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let (view, buckets) = (self.view.clone(), self.buckets.clone());
        let rows = self
            .inner
            .execute(partition, context)
            .map_err(|error| told(&view, &error, &buckets))?;
        let schema = self.schema();
        let rows = rows.map(move |batch| batch.map_err(|error| told(&view, &error, &buckets)));
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }

    fn partition_statistics(&self, partition: Option<usize>) -> Result<Arc<Statistics>> {
        // How what is shown lies in partitions depends on what is hidden between.
        Ok(match partition {
            None => Arc::clone(&self.statistics),
            Some(_) => Arc::new(Statistics::new_unknown(&self.schema())),
        })
    }

    fn supports_limit_pushdown(&self) -> bool {
        false
    }

    fn gather_filters_for_pushdown(
        &self,
        _: FilterPushdownPhase,
        parent_filters: Vec<Arc<dyn PhysicalExpr>>,
        _: &ConfigOptions,
    ) -> Result<FilterDescription> {
        Ok(FilterDescription::all_unsupported(&parent_filters, &[]))
    }

    fn handle_child_pushdown_result(
        &self,
        _: FilterPushdownPhase,
        result: ChildPushdownResult,
        _: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn ExecutionPlan>>> {
        Ok(FilterPushdownPropagation::all_unsupported(result))
    }

    fn with_new_state(&self, _: Arc<dyn Any + Send + Sync>) -> Option<Arc<dyn ExecutionPlan>> {
        None
    }
}
