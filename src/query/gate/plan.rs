//! The gate after planning: a plan consists of query nodes over tables that the session gave out; an
//! agent's of views, of expressions that are known here, and of listed functions. Whatever is not on a
//! list is refused, so that what a new version of the engine brings is refused until somebody looks.

use std::sync::Arc;

use datafusion::{
    catalog::cte_worktable::CteWorkTable,
    common::{
        Result as EngineResult,
        tree_node::{TreeNode, TreeNodeRecursion},
    },
    datasource::{memory::MemorySourceConfig, source::DataSourceExec, source_as_provider},
    logical_expr::{Expr, LogicalPlan, WindowFunctionDefinition},
    physical_plan::{ExecutionPlan, empty::EmptyExec, placeholder_row::PlaceholderRowExec},
};

use crate::query::{
    QueryError, SafeViewProvider, barrier::SecurityBarrierExec, catalog::Readable, functions,
};

/// Lets a plan through that consists of query nodes over readable tables only, subqueries included; a
/// guarded one (an agent's) over views only, and with listed functions only.
///
/// # Errors
/// [`QueryError::NotAllowed`] for any other node.
pub(in crate::query) fn check_plan(
    plan: &LogicalPlan,
    readable: &Readable,
    guarded: bool,
) -> Result<(), QueryError> {
    let mut refused = None;
    let walked: EngineResult<TreeNodeRecursion> = plan.apply_with_subqueries(|node| {
        let guard = || guarded.then(|| refused_to_agents(node)).flatten();
        if let Some(what) = refused_node(node, readable).or_else(guard) {
            refused = Some(what);
            return Ok(TreeNodeRecursion::Stop);
        }
        Ok(TreeNodeRecursion::Continue)
    });
    walked.map_err(|error| QueryError::from_engine(&error, &[]))?;
    refused.map_or(Ok(()), |what| Err(QueryError::NotAllowed(what)))
}

/// What of a node is let in for others and not for agents.
fn refused_to_agents(node: &LogicalPlan) -> Option<String> {
    match node {
        LogicalPlan::RecursiveQuery(_) => return Some("a query that repeats itself".to_owned()),
        LogicalPlan::TableScan(scan) => {
            let view = source_as_provider(&scan.source)
                .is_ok_and(|provider| provider.is::<SafeViewProvider>());
            if !view {
                return Some("a table that is no view".to_owned());
            }
        }
        _ => {}
    }
    let mut refused = None;
    let walked = node.apply_expressions(|expr| {
        expr.apply(|part| {
            if let Some(what) = refused_part(part) {
                refused = Some(what);
                return Ok(TreeNodeRecursion::Stop);
            }
            Ok(TreeNodeRecursion::Continue)
        })
    });
    match walked {
        Ok(_) => refused,
        Err(_) => Some("an expression that cannot be read".to_owned()),
    }
}

/// Only expressions that are known here, and only functions of the lists.
fn refused_part(part: &Expr) -> Option<String> {
    let (known, name) = match part {
        Expr::Alias(_)
        | Expr::Column(_)
        | Expr::Literal(..)
        | Expr::BinaryExpr(_)
        | Expr::Like(_)
        | Expr::SimilarTo(_)
        | Expr::Not(_)
        | Expr::IsNotNull(_)
        | Expr::IsNull(_)
        | Expr::IsTrue(_)
        | Expr::IsFalse(_)
        | Expr::IsUnknown(_)
        | Expr::IsNotTrue(_)
        | Expr::IsNotFalse(_)
        | Expr::IsNotUnknown(_)
        | Expr::Negative(_)
        | Expr::Between(_)
        | Expr::Case(_)
        | Expr::Cast(_)
        | Expr::TryCast(_)
        | Expr::InList(_)
        | Expr::Exists(_)
        | Expr::InSubquery(_)
        | Expr::SetComparison(_)
        | Expr::ScalarSubquery(_)
        | Expr::GroupingSet(_)
        | Expr::Placeholder(_)
        | Expr::OuterReferenceColumn(..)
        | Expr::Unnest(_) => return None,
        Expr::ScalarFunction(call) => (functions::is_scalar(call.name()), call.name()),
        Expr::AggregateFunction(call) => {
            (functions::is_aggregate(call.func.name()), call.func.name())
        }
        Expr::WindowFunction(call) => match &call.fun {
            WindowFunctionDefinition::AggregateUDF(function) => {
                (functions::is_aggregate(function.name()), function.name())
            }
            WindowFunctionDefinition::WindowUDF(function) => {
                (functions::is_window(function.name()), function.name())
            }
        },
        _ => return Some("an expression that is not known".to_owned()),
    };
    (!known).then(|| format!("the function `{name}`"))
}

/// Lets a physical plan through whose rows come out of barriers, or out of the statement itself.
///
/// # Errors
/// [`QueryError::NotAllowed`] for any other source of rows.
pub(in crate::query) fn check_leaves(plan: &Arc<dyn ExecutionPlan>) -> Result<(), QueryError> {
    let children = plan.children();
    if !children.is_empty() {
        return children.into_iter().try_for_each(check_leaves);
    }
    let of_statement = || {
        plan.downcast_ref::<DataSourceExec>()
            .is_some_and(|source| source.data_source().is::<MemorySourceConfig>())
    };
    let known = plan.is::<SecurityBarrierExec>()
        || plan.is::<EmptyExec>()
        || plan.is::<PlaceholderRowExec>()
        || of_statement();
    if known {
        return Ok(());
    }
    Err(QueryError::NotAllowed(format!("rows of `{}`", plan.name())))
}

fn refused_node(node: &LogicalPlan, readable: &Readable) -> Option<String> {
    let what = match node {
        LogicalPlan::Projection(_)
        | LogicalPlan::Filter(_)
        | LogicalPlan::Window(_)
        | LogicalPlan::Aggregate(_)
        | LogicalPlan::Sort(_)
        | LogicalPlan::Join(_)
        | LogicalPlan::Repartition(_)
        | LogicalPlan::Union(_)
        | LogicalPlan::EmptyRelation(_)
        | LogicalPlan::Subquery(_)
        | LogicalPlan::SubqueryAlias(_)
        | LogicalPlan::Limit(_)
        | LogicalPlan::Values(_)
        | LogicalPlan::Distinct(_)
        | LogicalPlan::Unnest(_)
        | LogicalPlan::RecursiveQuery(_) => return None,
        LogicalPlan::TableScan(scan) => {
            let known = source_as_provider(&scan.source).is_ok_and(|provider| {
                provider.is::<CteWorkTable>() || readable.contains(&provider)
            });
            return (!known).then(|| "a table that is no dataset".to_owned());
        }
        LogicalPlan::Statement(_) => "a statement",
        LogicalPlan::Explain(_) | LogicalPlan::Analyze(_) => "EXPLAIN",
        LogicalPlan::Extension(_) => "an extension",
        LogicalPlan::Dml(_) => "a change of rows",
        LogicalPlan::Ddl(_) => "a change of tables",
        LogicalPlan::Copy(_) => "COPY",
        LogicalPlan::DescribeTable(_) => "DESCRIBE",
    };
    Some(what.to_owned())
}
