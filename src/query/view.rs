//! A view as a table of a session: its lens planned by itself and put behind the barrier. Of a caller's
//! statement only comparisons that can neither fail nor tell go along, where they prune files, row
//! groups and pages; everything else happens above.

use std::{collections::BTreeSet, sync::Arc};

use arrow::datatypes::{DataType, SchemaRef};
use async_trait::async_trait;
use datafusion::{
    catalog::{Session, TableProvider},
    common::{
        Column, Result, ScalarValue,
        tree_node::{Transformed, TreeNode},
    },
    datasource::{TableType, provider_as_source},
    logical_expr::{
        BinaryExpr, Expr, LogicalPlan, LogicalPlanBuilder, Operator, TableProviderFilterPushDown,
    },
    physical_plan::ExecutionPlan,
};
use parking_lot::Mutex;

use super::{
    DatasetTable, QueryError,
    barrier::{SecurityBarrierExec, told},
    facts::FactsCache,
    policy::Lens,
    visible::{Visible, counted, wanted},
};

/// The name of the dataset in the plan beneath a barrier.
const BASE: &str = "base";

/// A view, or a dataset of which not everything is seen.
#[derive(Debug)]
pub struct SafeViewProvider {
    lens: Lens,
    facts: Arc<FactsCache>,
    plain: BTreeSet<String>,
    barrier: bool,
    joined: Joined,
}

/// The columns that the session's statement joins on, once they are known.
pub(super) type Joined = Arc<Mutex<Option<BTreeSet<String>>>>;

impl SafeViewProvider {
    /// The table of this lens.
    pub fn new(lens: Lens, facts: Arc<FactsCache>) -> Self {
        Self {
            plain: lens.plain_columns(),
            lens,
            facts,
            barrier: true,
            joined: Joined::default(),
        }
    }

    /// The same in a session that says what its statement joins on.
    #[must_use]
    pub(super) fn joined_on(mut self, joined: Joined) -> Self {
        self.joined = joined;
        self
    }

    /// The same without a barrier, so that tests see what it keeps.
    #[cfg(test)]
    #[must_use]
    pub fn without_barrier(mut self) -> Self {
        self.barrier = false;
        self
    }

    /// What it shows, and how.
    pub fn lens(&self) -> &Lens {
        &self.lens
    }

    /// Names of the buckets that its rows lie in.
    pub fn buckets(&self) -> Vec<String> {
        let files = self.lens.dataset.files.iter();
        let mut buckets: Vec<String> = files.map(|file| file.entry.bucket.clone()).collect();
        buckets.sort_unstable();
        buckets.dedup();
        buckets
    }

    /// What it shows, counted for a statement that joins on these columns.
    async fn shown(&self, state: &dyn Session, joined: &BTreeSet<String>) -> Result<Arc<Visible>> {
        let columns = wanted(&self.lens, joined);
        let rows = self.plan(None, &[], None)?;
        let known = &self.facts.counted;
        counted(known, &self.lens, &columns, rows, state)
            .await
            .map_err(|error| told(&self.lens.name, &error, &self.buckets()))
    }

    /// The lens as a plan, with the caller's harmless comparisons above it and nothing else of theirs.
    fn plan(
        &self,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<LogicalPlan> {
        let dataset = Arc::clone(&self.lens.dataset);
        let table = DatasetTable::new(dataset, Arc::clone(&self.facts)).map_err(external)?;
        let source = provider_as_source(Arc::new(table));
        let mut plan = LogicalPlanBuilder::scan(BASE, source, None)?;
        for step in &self.lens.steps {
            if let Some(filter) = &step.filter {
                plan = plan.filter(filter.clone())?;
            }
            let columns = step.columns.iter();
            plan = plan.project(columns.map(|(name, expr)| expr.clone().alias(name)))?;
        }
        for filter in filters {
            plan = plan.filter(unqualified(filter.clone())?)?;
        }
        if let Some(projection) = projection {
            let fields = projection
                .iter()
                .map(|index| self.lens.schema.field(*index));
            let columns = fields.map(|field| Expr::Column(Column::new_unqualified(field.name())));
            plan = plan.project(columns)?;
        }
        match limit {
            None => plan.build(),
            limit => plan.limit(0, limit)?.build(),
        }
    }
}

fn external(error: QueryError) -> datafusion::error::DataFusionError {
    datafusion::error::DataFusionError::External(Box::new(error))
}

fn unqualified(expr: Expr) -> Result<Expr> {
    let plain = expr.transform(|part| match part {
        Expr::Column(column) => {
            let name = Column::new_unqualified(column.name);
            Ok(Transformed::yes(Expr::Column(name)))
        }
        other => Ok(Transformed::no(other)),
    })?;
    Ok(plain.data)
}

#[async_trait]
impl TableProvider for SafeViewProvider {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.lens.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        let answer = |filter: &&Expr| {
            if !self.barrier || is_leakproof(filter, &self.plain, &self.lens.schema) {
                TableProviderFilterPushDown::Exact
            } else {
                TableProviderFilterPushDown::Unsupported
            }
        };
        Ok(filters.iter().map(answer).collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let plan = self.plan(projection, filters, limit)?;
        let inner = state.create_physical_plan(&plan).await?;
        if !self.barrier {
            return Ok(inner);
        }
        let barrier = SecurityBarrierExec::new(&self.lens.name, self.buckets(), inner);
        let joined = self.joined.lock().clone();
        Ok(Arc::new(match joined {
            None => barrier,
            // Of what is told in groups alone, no row may leave a mark on a plan.
            Some(_) if self.lens.min_group_size.is_some() => barrier,
            Some(joined) => {
                let shown = self.shown(state, &joined).await?;
                let narrowed = !filters.is_empty();
                barrier.with_statistics(shown.statistics(&self.lens, projection, narrowed))
            }
        }))
    }
}

/// Whether a comparison may be evaluated on hidden rows: it reads only columns that are shown as they
/// are, it is of like with like, and no value makes it fail.
fn is_leakproof(expr: &Expr, plain: &BTreeSet<String>, schema: &SchemaRef) -> bool {
    let and = |parts: &[&Expr]| parts.iter().all(|part| is_leakproof(part, plain, schema));
    let operand = |expr: &Expr| operand_type(expr, plain, schema);
    let like = |one: &Expr, other: &Expr| match (operand(one), operand(other)) {
        (Some(one), Some(other)) => comparable(&one, &other),
        _ => false,
    };
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => match op {
            Operator::And | Operator::Or => and(&[left, right]),
            Operator::Eq
            | Operator::NotEq
            | Operator::Lt
            | Operator::LtEq
            | Operator::Gt
            | Operator::GtEq => like(left, right),
            _ => false,
        },
        Expr::Not(inner) => and(&[inner]),
        Expr::IsNull(inner) | Expr::IsNotNull(inner) => {
            matches!(inner.as_ref(), Expr::Column(_)) && operand(inner).is_some()
        }
        Expr::Between(between) => {
            like(&between.expr, &between.low) && like(&between.expr, &between.high)
        }
        Expr::InList(list) => list
            .list
            .iter()
            .all(|value| matches!(value, Expr::Literal(..)) && like(&list.expr, value)),
        _ => false,
    }
}

/// The type of a column that is shown as it is, or of a literal.
fn operand_type(expr: &Expr, plain: &BTreeSet<String>, schema: &SchemaRef) -> Option<DataType> {
    match expr {
        Expr::Column(column) if plain.contains(&column.name) => {
            let field = schema.field_with_name(&column.name).ok()?;
            Some(field.data_type().clone())
        }
        Expr::Literal(value, _) => Some(ScalarValue::data_type(value)),
        _ => None,
    }
}

fn comparable(one: &DataType, other: &DataType) -> bool {
    let text = |data_type: &DataType| {
        matches!(
            data_type,
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View
        )
    };
    let single = |data_type: &DataType| {
        data_type.is_integer()
            || data_type.is_floating()
            || matches!(
                data_type,
                DataType::Boolean
                    | DataType::Date32
                    | DataType::Date64
                    | DataType::Timestamp(..)
                    | DataType::Decimal128(..)
            )
    };
    (text(one) && text(other)) || (one == other && single(one))
}
