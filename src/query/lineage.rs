//! Which columns of an answer are row keys, and of which dataset: followed through the plan, so that another
//! name for a column hides nothing from the audit. Pure. Called by `session` once a statement is planned.

use std::collections::BTreeMap;

use arrow::datatypes::DataType;
use datafusion::{
    common::{JoinType, tree_node::TreeNodeRecursion},
    datasource::source_as_provider,
    error::Result,
    logical_expr::{Expr, LogicalPlan, TableScan},
};

use super::{DatasetTable, SafeViewProvider};

/// Columns of an answer that show row keys together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyColumns {
    /// Their positions in the answer, in the order of the key.
    pub columns: Vec<usize>,
    /// Id of the dataset whose keys they are.
    pub dataset: String,
}

/// What is known of the rows behind an answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lineage {
    /// The columns that show row keys.
    pub keys: Vec<KeyColumns>,
    /// Ids of datasets that were read and whose rows the answer does not name.
    pub unnamed: Vec<String>,
}

impl Lineage {
    /// Reads a plan.
    ///
    /// # Errors
    /// When the plan cannot be walked.
    pub fn of(plan: &LogicalPlan) -> Result<Self> {
        // Dataset by id: how many columns its key has.
        let mut read = BTreeMap::new();
        plan.apply_with_subqueries(|node| {
            if let LogicalPlan::TableScan(scan) = node {
                read.extend(keyed(scan).map(|(dataset, key)| (dataset, key.len())));
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        let mut shown: BTreeMap<String, Vec<(usize, usize)>> = BTreeMap::new();
        for column in 0..plan.schema().fields().len() {
            if let Some((dataset, part)) = origin(plan, column) {
                shown.entry(dataset).or_default().push((part, column));
            }
        }
        let mut lineage = Self::default();
        for (dataset, parts) in read {
            let columns = shown.remove(&dataset).unwrap_or_default();
            let keys = whole_keys(parts, &columns);
            if keys.is_empty() {
                lineage.unnamed.push(dataset.clone());
            }
            lineage
                .keys
                .extend(keys.into_iter().map(|columns| KeyColumns {
                    columns,
                    dataset: dataset.clone(),
                }));
        }
        Ok(lineage)
    }
}

/// The keys that columns make up, each a (part of the key, position): every column for itself where the key
/// has one, else the one set of columns that has every part once.
fn whole_keys(parts: usize, columns: &[(usize, usize)]) -> Vec<Vec<usize>> {
    match parts {
        0 => Vec::new(),
        1 => columns.iter().map(|(_, column)| vec![*column]).collect(),
        _ => {
            let of_part = |part: usize| {
                let mut found = columns.iter().filter(|(of, _)| *of == part);
                let only = found.next().map(|(_, column)| *column);
                only.filter(|_| found.next().is_none())
            };
            let whole: Option<Vec<usize>> = (0..parts).map(of_part).collect();
            whole.into_iter().collect()
        }
    }
}

/// The dataset that a scan reads, and the columns that show its row keys.
fn keyed(scan: &TableScan) -> Option<(String, Vec<String>)> {
    let provider = source_as_provider(&scan.source).ok()?;
    if let Some(view) = provider.downcast_ref::<SafeViewProvider>() {
        let lens = view.lens();
        let key = &lens.dataset.key;
        // A key that is not shown as it is names no row.
        let shown = key.iter().all(|column| lens.shows_plain(column));
        let key = if shown { key.clone() } else { Vec::new() };
        return Some((lens.dataset.id.clone(), key));
    }
    let table = provider.downcast_ref::<DatasetTable>()?;
    let dataset = table.dataset();
    Some((dataset.id.clone(), dataset.key.clone()))
}

/// The dataset whose keys this column of a plan shows, and which part of them.
fn origin(plan: &LogicalPlan, column: usize) -> Option<(String, usize)> {
    match plan {
        LogicalPlan::TableScan(scan) => {
            let (dataset, key) = keyed(scan)?;
            let name = scan.projected_schema.field(column).name();
            let part = key.iter().position(|part| part == name)?;
            Some((dataset, part))
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
fn through(input: &LogicalPlan, expr: &Expr) -> Option<(String, usize)> {
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
