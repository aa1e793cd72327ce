//! The least size of groups: of a table that has one, a statement gets aggregates over at least so many
//! rows and nothing else. Checked and built into the plan before it is optimised; called by `session`.
//!
//! A row must not be singled out within a group either, so what lies between the table and the
//! aggregate is columns and harmless comparisons only: no CASE, no join that multiplies rows, no
//! aggregate that shows one row's value.

use std::{collections::BTreeSet, sync::Arc};

use datafusion::{
    common::{
        Column, DFSchema, DataFusionError, Result,
        tree_node::{Transformed, TreeNode},
    },
    datasource::source_as_provider,
    functions_aggregate::expr_fn::count,
    logical_expr::{
        Aggregate, Expr, LogicalPlan, LogicalPlanBuilder, expr::AggregateFunction, lit,
        simplify::SimplifyContext,
    },
    optimizer::simplify_expressions::ExprSimplifier,
};

use super::{QueryError, policy::filter::cannot_fail, view::SafeViewProvider};

/// Aggregates that show no single row's value.
const AGGREGATES: [&str; 8] = [
    "count",
    "sum",
    "avg",
    "stddev",
    "stddev_pop",
    "var",
    "var_pop",
    "approx_distinct",
];

/// Lets a plan tell of enough rows at a time only.
///
/// # Errors
/// [`QueryError::GroupsOnly`] when it tells of single rows.
pub(super) fn enforce(plan: LogicalPlan) -> Result<LogicalPlan, QueryError> {
    if !names_guarded(&plan) {
        return Ok(plan);
    }
    told_in_groups(plan).map_err(|error| QueryError::from_engine(&error, &[]))
}

fn names_guarded(plan: &LogicalPlan) -> bool {
    let mut found = false;
    let _ = plan.apply_with_subqueries(|node| {
        found |= least(node).is_some();
        Ok(datafusion::common::tree_node::TreeNodeRecursion::Continue)
    });
    found
}

/// The least size of groups of a scan.
fn least(node: &LogicalPlan) -> Option<u64> {
    let LogicalPlan::TableScan(scan) = node else {
        return None;
    };
    let provider = source_as_provider(&scan.source).ok()?;
    provider
        .downcast_ref::<SafeViewProvider>()?
        .lens()
        .min_group_size
}

fn told_in_groups(plan: LogicalPlan) -> Result<LogicalPlan> {
    match guard(plan)? {
        (plan, None) => Ok(plan),
        (_, Some(least)) => Err(refused(least)),
    }
}

fn refused(least: u64) -> DataFusionError {
    DataFusionError::External(Box::new(QueryError::GroupsOnly(least)))
}

/// The plan, and the least size of groups when single rows of such a table come out of it.
fn guard(plan: LogicalPlan) -> Result<(LogicalPlan, Option<u64>)> {
    let plan = plan
        .map_subqueries(|inner| Ok(Transformed::yes(told_in_groups(inner)?)))?
        .data;
    if let Some(least) = least(&plan) {
        return Ok((plan, Some(least)));
    }
    let mut beneath: Option<u64> = None;
    let plan = plan
        .map_children(|child| {
            let (child, least) = guard(child)?;
            beneath = beneath.max(least);
            Ok(Transformed::yes(child))
        })?
        .data;
    let Some(least) = beneath else {
        return Ok((plan, None));
    };
    match &plan {
        LogicalPlan::SubqueryAlias(_) => Ok((plan, beneath)),
        LogicalPlan::Projection(projection) if projection.expr.iter().all(is_column) => {
            Ok((plan, beneath))
        }
        LogicalPlan::Filter(filter) if is_harmless(&filter.predicate, filter.input.schema())? => {
            Ok((plan, beneath))
        }
        LogicalPlan::Aggregate(aggregate) if is_telling_groups(aggregate)? => {
            Ok((of_enough_rows(aggregate, least)?, None))
        }
        _ => Err(refused(least)),
    }
}

fn is_column(expr: &Expr) -> bool {
    match expr {
        Expr::Column(_) => true,
        Expr::Alias(alias) => is_column(&alias.expr),
        _ => false,
    }
}

/// Whether a comparison cannot fail on a row; how the engine will type it counts.
fn is_harmless(expr: &Expr, schema: &Arc<DFSchema>) -> Result<bool> {
    let context = SimplifyContext::builder()
        .with_schema(Arc::clone(schema))
        .build();
    let simplifier = ExprSimplifier::new(context);
    let typed = simplifier.coerce(expr.clone(), schema)?;
    let typed = simplifier.simplify(typed)?;
    Ok(cannot_fail(&typed, schema).is_ok())
}

fn is_telling_groups(aggregate: &Aggregate) -> Result<bool> {
    for expr in &aggregate.group_expr {
        let fine = match expr {
            Expr::GroupingSet(_) => false,
            other => is_harmless(other, aggregate.input.schema())?,
        };
        if !fine {
            return Ok(false);
        }
    }
    Ok(aggregate.aggr_expr.iter().all(is_open_aggregate))
}

fn is_open_aggregate(expr: &Expr) -> bool {
    let expr = match expr {
        Expr::Alias(alias) => alias.expr.as_ref(),
        other => other,
    };
    let Expr::AggregateFunction(AggregateFunction { func, params }) = expr else {
        return false;
    };
    let plain = |arg: &Expr| is_column(arg) || matches!(arg, Expr::Literal(..));
    AGGREGATES.contains(&func.name())
        && params.args.iter().all(plain)
        && params.filter.is_none()
        && params.order_by.is_empty()
        && (!params.distinct || func.name() == "count")
}

/// The aggregate without the groups that have too few rows, or too few values of a column that it
/// aggregates: a sum of one value among nulls is that value.
fn of_enough_rows(aggregate: &Aggregate, least: u64) -> Result<LogicalPlan> {
    let mut columns = BTreeSet::new();
    for expr in &aggregate.aggr_expr {
        columns.extend(expr.column_refs().into_iter().cloned());
    }
    let mut counts = vec![count(lit(1_i64))];
    counts.extend(
        columns
            .into_iter()
            .map(|column| count(Expr::Column(column))),
    );
    let name = |index: usize| format!("lakehouse group rows {index}");
    let mut aggregates = aggregate.aggr_expr.clone();
    let numbered = counts.into_iter().enumerate();
    aggregates.extend(numbered.map(|(index, count)| count.alias(name(index))));
    let added = aggregates.len() - aggregate.aggr_expr.len();
    let shown: Vec<Expr> = aggregate
        .schema
        .iter()
        .map(|field| Expr::Column(Column::from(field)))
        .collect();
    let least = i64::try_from(least).unwrap_or(i64::MAX);
    let enough = (0..added)
        .map(|index| Expr::Column(Column::new_unqualified(name(index))).gt_eq(lit(least)))
        .reduce(Expr::and)
        .unwrap_or_else(|| lit(false));
    let counted = Aggregate::try_new(
        Arc::clone(&aggregate.input),
        aggregate.group_expr.clone(),
        aggregates,
    )?;
    LogicalPlanBuilder::from(LogicalPlan::Aggregate(counted))
        .filter(enough)?
        .project(shown)?
        .build()
}
