//! Joins that can be stopped. A join of the engine works through its input without giving the thread
//! back, and a nested loop may do so for minutes within one batch; so every join yields between
//! batches, and the filter of a nested loop looks at a flag. A rule of the physical optimizer, made
//! anew for each query.

use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use arrow::{
    datatypes::{DataType, FieldRef, Schema},
    record_batch::RecordBatch,
};
use datafusion::{
    common::{
        Result,
        config::ConfigOptions,
        tree_node::{Transformed, TreeNode},
    },
    error::DataFusionError,
    logical_expr::ColumnarValue,
    physical_expr::PhysicalExpr,
    physical_optimizer::PhysicalOptimizerRule,
    physical_plan::{
        ExecutionPlan,
        coop::CooperativeExec,
        joins::{
            CrossJoinExec, HashJoinExec, NestedLoopJoinExec, NestedLoopJoinExecBuilder,
            SortMergeJoinExec, utils::JoinFilter,
        },
    },
};

use super::QueryError;

/// Set when nobody waits for the answer any more.
#[derive(Debug, Clone, Default)]
pub struct CancelFlag(Arc<AtomicBool>);

impl CancelFlag {
    /// Asks the query to stop.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it should stop.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Makes the joins of a plan stoppable by `CancelFlag`.
#[derive(Debug)]
pub(super) struct StoppableJoins(pub CancelFlag);

impl PhysicalOptimizerRule for StoppableJoins {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|node| self.stoppable(node))
            .map(|transformed| transformed.data)
    }

    fn name(&self) -> &'static str {
        "stoppable_joins"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

impl StoppableJoins {
    fn stoppable(
        &self,
        node: Arc<dyn ExecutionPlan>,
    ) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
        if let Some(join) = node.downcast_ref::<NestedLoopJoinExec>() {
            let guarded = self.guarded(join)?;
            return Ok(Transformed::yes(Arc::new(CooperativeExec::new(guarded))));
        }
        let joins = node.is::<CrossJoinExec>()
            || node.is::<HashJoinExec>()
            || node.is::<SortMergeJoinExec>();
        if joins {
            return Ok(Transformed::yes(Arc::new(CooperativeExec::new(node))));
        }
        Ok(Transformed::no(node))
    }

    fn guarded(&self, join: &NestedLoopJoinExec) -> Result<Arc<dyn ExecutionPlan>> {
        let filter = join.filter().map(|filter| {
            let guarded = Guarded {
                inner: Arc::clone(filter.expression()),
                flag: self.0.clone(),
            };
            JoinFilter::new(
                Arc::new(guarded),
                filter.column_indices().to_vec(),
                Arc::clone(filter.schema()),
            )
        });
        let guarded = NestedLoopJoinExecBuilder::from(join)
            .with_filter(filter)
            .build()?;
        Ok(Arc::new(guarded))
    }
}

/// An expression that fails once the flag is set.
#[derive(Debug, Clone)]
struct Guarded {
    inner: Arc<dyn PhysicalExpr>,
    flag: CancelFlag,
}

impl PartialEq for Guarded {
    fn eq(&self, other: &Self) -> bool {
        self.inner.eq(&other.inner)
    }
}

impl Eq for Guarded {}

impl Hash for Guarded {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.inner.hash(state);
    }
}

impl fmt::Display for Guarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl PhysicalExpr for Guarded {
    fn data_type(&self, schema: &Schema) -> Result<DataType> {
        self.inner.data_type(schema)
    }

    fn nullable(&self, schema: &Schema) -> Result<bool> {
        self.inner.nullable(schema)
    }

    fn return_field(&self, schema: &Schema) -> Result<FieldRef> {
        self.inner.return_field(schema)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        if self.flag.is_cancelled() {
            return Err(DataFusionError::External(Box::new(QueryError::Cancelled)));
        }
        self.inner.evaluate(batch)
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.inner]
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn PhysicalExpr>>,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        let inner = children.into_iter().next().ok_or_else(|| {
            DataFusionError::Internal("a guarded expression has one child".to_owned())
        })?;
        Ok(Arc::new(Self {
            inner,
            flag: self.flag.clone(),
        }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt_sql(f)
    }
}
