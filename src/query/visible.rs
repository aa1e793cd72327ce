//! What a view shows, counted: its rows, and the bounds of columns that a statement joins on. Without
//! them a plan over views is blind, and builds its hash tables from the larger side. They are counted
//! through the view itself, so a plan knows no more than its caller could ask for; and not anew for every
//! commit, as they are estimates.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use arrow::{datatypes::DataType, record_batch::RecordBatch};
use datafusion::{
    catalog::Session,
    common::{
        Column, Result, ScalarValue, Statistics, stats::Precision, tree_node::TreeNodeRecursion,
    },
    functions_aggregate::expr_fn::{count, max, min},
    logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, lit},
    physical_plan::collect,
};
use lakehouse_journal::model::catalog::Dataset;
use parking_lot::Mutex;

use super::policy::Lens;

/// How long a count stands for later states of the rows.
const GOOD_FOR: Duration = Duration::from_mins(1);
/// Counts kept; when there are more, all are let go of.
const COUNTS_KEPT: usize = 4_096;
/// Rows that are taken to pass the comparisons which a caller sends along, one in so many.
const PASSING: usize = 5;

/// The least and the greatest value of a column.
type Bounds = (ScalarValue, ScalarValue);

/// What was counted of a view.
#[derive(Debug, Clone, Default)]
pub(super) struct Visible {
    rows: usize,
    /// By column; of a column without values nothing.
    bounds: BTreeMap<String, Option<Bounds>>,
}

/// A count, the snapshot that it is of, and when it was made.
#[derive(Debug)]
struct Kept {
    of: Weak<Dataset>,
    at: Instant,
    visible: Arc<Visible>,
}

impl Kept {
    /// Whether it may stand for this snapshot. How much of what is hidden has changed must not matter.
    fn serves(&self, dataset: &Arc<Dataset>) -> bool {
        std::ptr::eq(self.of.as_ptr(), Arc::as_ptr(dataset)) || self.at.elapsed() < GOOD_FOR
    }
}

/// What was counted before, by what it depends on besides the rows.
#[derive(Debug, Default)]
pub(super) struct Counted(Mutex<HashMap<String, Kept>>);

impl Counted {
    /// Lets go of everything, as rows are gone for good.
    pub fn forget(&self) {
        self.0.lock().clear();
    }

    fn get(&self, lens: &Lens, columns: &BTreeSet<String>) -> Option<Arc<Visible>> {
        let kept = self.0.lock();
        let found = kept.get(&sight(lens))?;
        let bounds = &found.visible.bounds;
        let all = columns.iter().all(|name| bounds.contains_key(name));
        (all && found.serves(&lens.dataset)).then(|| Arc::clone(&found.visible))
    }

    fn put(&self, lens: &Lens, visible: &Arc<Visible>) {
        let mut kept = self.0.lock();
        if kept.len() >= COUNTS_KEPT {
            kept.clear();
        }
        let counted = Kept {
            of: Arc::downgrade(&lens.dataset),
            at: Instant::now(),
            visible: Arc::clone(visible),
        };
        kept.insert(sight(lens), counted);
    }
}

/// Names the rows that a lens shows of its dataset: the definitions, and the filters as they read for
/// this caller.
fn sight(lens: &Lens) -> String {
    let filters = lens.steps.iter().filter_map(|step| step.filter.as_ref());
    let filters: Vec<String> = filters.map(ToString::to_string).collect();
    let dataset = &lens.dataset.id;
    format!("{dataset} {} {} {filters:?}", lens.name, lens.policy_seq)
}

/// The columns that a statement with joins compares for equality in them, by their bare names.
pub(super) fn joined(plan: &LogicalPlan) -> Result<Option<BTreeSet<String>>> {
    let mut joined: Option<BTreeSet<String>> = None;
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::Join(join) = node {
            let sides = join.on.iter().flat_map(|(left, right)| [left, right]);
            let names = joined.get_or_insert_default();
            names.extend(sides.filter_map(|side| match side {
                Expr::Column(column) => Some(column.name.clone()),
                _ => None,
            }));
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(joined)
}

/// Whether the bounds of a column of this type tell how many different values it has.
fn countable(data_type: &DataType) -> bool {
    data_type.is_integer() || matches!(data_type, DataType::Date32 | DataType::Date64)
}

/// What there is to count for a statement that joins on `joined`: those of the lens's columns that are
/// shown as they are.
pub(super) fn wanted(lens: &Lens, joined: &BTreeSet<String>) -> BTreeSet<String> {
    let fields = lens.schema.fields().iter();
    fields
        .filter(|field| countable(field.data_type()))
        .map(|field| field.name())
        .filter(|name| joined.contains(*name) && lens.shows_plain(name))
        .cloned()
        .collect()
}

/// Counts the rows of `rows`, which are those of the lens, with the bounds of `columns`; or says what was
/// counted before.
///
/// # Errors
/// Those of planning and reading.
pub(super) async fn counted(
    known: &Counted,
    lens: &Lens,
    columns: &BTreeSet<String>,
    rows: LogicalPlan,
    state: &dyn Session,
) -> Result<Arc<Visible>> {
    if let Some(visible) = known.get(lens, columns) {
        return Ok(visible);
    }
    let mut asked = vec![count(lit(1_i64))];
    for name in columns {
        let column = Expr::Column(Column::new_unqualified(name));
        asked.extend([min(column.clone()), max(column)]);
    }
    let plan = LogicalPlanBuilder::from(rows)
        .aggregate(Vec::<Expr>::new(), asked)?
        .build()?;
    let plan = state.create_physical_plan(&plan).await?;
    let answer = collect(plan, state.task_ctx()).await?;
    let visible = Arc::new(read(&answer, columns)?);
    known.put(lens, &visible);
    Ok(visible)
}

fn read(answer: &[RecordBatch], columns: &BTreeSet<String>) -> Result<Visible> {
    let Some(row) = answer.iter().find(|batch| batch.num_rows() > 0) else {
        return Ok(Visible::default());
    };
    let value = |at: usize| ScalarValue::try_from_array(row.column(at), 0);
    let rows = match value(0)? {
        ScalarValue::Int64(Some(rows)) => usize::try_from(rows).unwrap_or_default(),
        _ => 0,
    };
    let mut bounds = BTreeMap::new();
    for (index, name) in columns.iter().enumerate() {
        let (least, greatest) = (value(1 + 2 * index)?, value(2 + 2 * index)?);
        let found = !least.is_null() && !greatest.is_null();
        bounds.insert(name.clone(), found.then_some((least, greatest)));
    }
    Ok(Visible { rows, bounds })
}

impl Visible {
    /// As the statistics of a scan of these columns. They are estimates, whatever they were counted from:
    /// nothing may be answered out of them. `narrowed` says whether comparisons go along.
    pub fn statistics(
        &self,
        lens: &Lens,
        projection: Option<&Vec<usize>>,
        narrowed: bool,
    ) -> Statistics {
        let all: Vec<usize> = (0..lens.schema.fields().len()).collect();
        let shown = projection.unwrap_or(&all);
        let schema = lens
            .schema
            .project(shown)
            .unwrap_or_else(|_| lens.schema.as_ref().clone());
        let mut statistics = Statistics::new_unknown(&schema);
        let rows = if narrowed {
            self.rows.div_ceil(PASSING)
        } else {
            self.rows
        };
        statistics.num_rows = Precision::Inexact(rows);
        for (field, column) in schema
            .fields()
            .iter()
            .zip(&mut statistics.column_statistics)
        {
            if let Some(Some((least, greatest))) = self.bounds.get(field.name())
                && lens.shows_plain(field.name())
            {
                column.min_value = Precision::Inexact(least.clone());
                column.max_value = Precision::Inexact(greatest.clone());
            }
        }
        statistics
    }
}
