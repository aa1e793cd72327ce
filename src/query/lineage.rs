//! Which columns of an answer are row keys, and of which dataset: followed through the plan, so that another
//! name for a column hides nothing from the audit. Pure. Called by `session` once a statement is planned.

use std::collections::BTreeSet;

use arrow::datatypes::DataType;
use datafusion::{
    common::{JoinType, tree_node::TreeNodeRecursion},
    datasource::source_as_provider,
    error::Result,
    logical_expr::{Expr, LogicalPlan, TableScan},
};

use super::DatasetTable;

/// A column of an answer that shows row keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyColumn {
    /// Its position in the answer.
    pub column: usize,
    /// Id of the dataset whose keys they are.
    pub dataset: String,
}

/// What is known of the rows behind an answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lineage {
    /// The columns that show row keys.
    pub keys: Vec<KeyColumn>,
    /// Ids of datasets that were read and whose rows the answer does not name.
    pub unnamed: Vec<String>,
}

impl Lineage {
    /// Reads a plan.
    ///
    /// # Errors
    /// When the plan cannot be walked.
    pub fn of(plan: &LogicalPlan) -> Result<Self> {
        let mut read = BTreeSet::new();
        plan.apply_with_subqueries(|node| {
            if let LogicalPlan::TableScan(scan) = node {
                read.extend(keyed(scan).map(|(dataset, _)| dataset));
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        let columns = plan.schema().fields().len();
        let keys: Vec<KeyColumn> = (0..columns)
            .filter_map(|column| {
                let dataset = origin(plan, column)?;
                Some(KeyColumn { column, dataset })
            })
            .collect();
        for key in &keys {
            read.remove(&key.dataset);
        }
        Ok(Self {
            keys,
            unnamed: read.into_iter().collect(),
        })
    }
}

/// The dataset that a scan reads, and the column that shows its row keys.
fn keyed(scan: &TableScan) -> Option<(String, Option<String>)> {
    let provider = source_as_provider(&scan.source).ok()?;
    let table = provider.downcast_ref::<DatasetTable>()?;
    let dataset = table.dataset();
    Some((dataset.id.clone(), dataset.key.first().cloned()))
}

/// The dataset whose keys this column of a plan shows.
fn origin(plan: &LogicalPlan, column: usize) -> Option<String> {
    match plan {
        LogicalPlan::TableScan(scan) => {
            let (dataset, key) = keyed(scan)?;
            let name = scan.projected_schema.field(column).name();
            (key.as_ref() == Some(name)).then_some(dataset)
        }
        LogicalPlan::Projection(node) => through(&node.input, node.expr.get(column)?),
        LogicalPlan::Aggregate(node) => through(&node.input, node.group_expr.get(column)?),
        LogicalPlan::Filter(node) => origin(&node.input, column),
        LogicalPlan::Sort(node) => origin(&node.input, column),
        LogicalPlan::Limit(node) => origin(&node.input, column),
        LogicalPlan::SubqueryAlias(node) => origin(&node.input, column),
        LogicalPlan::Distinct(node) => match node {
            datafusion::logical_expr::Distinct::All(input) => origin(input, column),
            datafusion::logical_expr::Distinct::On(on) => {
                through(&on.input, on.select_expr.get(column)?)
            }
        },
        LogicalPlan::Repartition(node) => origin(&node.input, column),
        LogicalPlan::Window(node) => {
            let passed = node.input.schema().fields().len();
            (column < passed).then(|| origin(&node.input, column))?
        }
        LogicalPlan::Join(node) => {
            let left = node.left.schema().fields().len();
            match node.join_type {
                JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => {
                    (column < left).then(|| origin(&node.left, column))?
                }
                JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => {
                    origin(&node.right, column)
                }
                _ if column < left => origin(&node.left, column),
                _ => origin(&node.right, column - left),
            }
        }
        LogicalPlan::Union(node) => {
            let mut origins = node.inputs.iter().map(|input| origin(input, column));
            let first = origins.next()??;
            origins
                .all(|other| other.as_ref() == Some(&first))
                .then_some(first)
        }
        _ => None,
    }
}

/// The same for an expression over an input: a column, by whatever name, also as text.
fn through(input: &LogicalPlan, expr: &Expr) -> Option<String> {
    match expr {
        Expr::Alias(alias) => through(input, &alias.expr),
        Expr::Cast(cast) if is_text(cast.field.data_type()) => through(input, &cast.expr),
        Expr::TryCast(cast) if is_text(cast.field.data_type()) => through(input, &cast.expr),
        Expr::Column(name) => origin(input, input.schema().maybe_index_of_column(name)?),
        _ => None,
    }
}

fn is_text(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View
    )
}
