//! `vector_search('index', 'text', k)` in SQL: the hits of a search as a table of `key`, `score`,
//! `distance` and `text`, the key in the type of its source's column, so that it joins with tables.
//! What the session may not read has no index here. The search itself is the engine's, wired in by the
//! daemon; it runs while the scan is planned.

use std::{
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use arrow::{
    array::{ArrayRef, Float32Array, StringArray},
    datatypes::{DataType, Field, Schema, SchemaRef},
    record_batch::RecordBatch,
};
use async_trait::async_trait;
use datafusion::{
    catalog::{MemTable, Session, TableFunctionArgs, TableFunctionImpl, TableProvider},
    common::{DataFusionError, Result, ScalarValue, plan_err},
    datasource::TableType,
    logical_expr::Expr,
    physical_plan::ExecutionPlan,
};
use lakehouse_actors::PortError;
use lakehouse_journal::{model::catalog::Index, record::Seq};
use parking_lot::Mutex;
use serde_json::Value;

use super::{arrow_schema, catalog::Names, row_key::values};

/// The function's name.
pub(super) const VECTOR_SEARCH: &str = "vector_search";
/// Hits when no number is given.
const K: usize = 10;

/// A row that a search found.
#[derive(Debug, Clone, PartialEq)]
pub struct FoundRow {
    /// Its key, as its column spells it.
    pub key: String,
    /// Larger is better.
    pub score: f32,
    /// How far its vector is.
    pub distance: Option<f32>,
    /// Its text, if it has one.
    pub text: Option<String>,
}

/// The search that `vector_search` ends in.
#[async_trait]
pub trait SqlSearch: Send + Sync {
    /// The rows of an index that a text is nearest to, in this snapshot, best first.
    ///
    /// # Errors
    /// Why there is no answer.
    async fn found(
        &self,
        snapshot: &SearchSnapshot,
        index: &Index,
        text: &str,
        k: usize,
    ) -> std::result::Result<Vec<FoundRow>, PortError>;
}

/// The catalog that a search looks at.
#[derive(Clone)]
pub struct SearchSnapshot {
    /// Its state.
    pub state: Arc<lakehouse_journal::model::catalog::CatalogState>,
    /// Its position.
    pub seq: Seq,
}

/// The table function of one session.
pub(super) struct VectorSearch {
    names: Arc<Names>,
    seq: Seq,
    search: Option<Weak<dyn SqlSearch>>,
    params: Mutex<Vec<Value>>,
    /// The highest parameter that its arguments named.
    named: AtomicUsize,
}

impl VectorSearch {
    pub fn new(names: Arc<Names>, seq: Seq, search: Option<Weak<dyn SqlSearch>>) -> Self {
        Self {
            names,
            seq,
            search,
            params: Mutex::default(),
            named: AtomicUsize::new(0),
        }
    }

    /// The statement's parameters: its arguments may be some of them.
    pub fn given(&self, params: &[Value]) {
        *self.params.lock() = params.to_vec();
    }

    /// The highest parameter that was an argument, from 1.
    pub fn named(&self) -> usize {
        self.named.load(Ordering::Relaxed)
    }

    fn argument(&self, expr: &Expr) -> Result<Value> {
        match expr {
            Expr::Literal(
                ScalarValue::Utf8(Some(text))
                | ScalarValue::LargeUtf8(Some(text))
                | ScalarValue::Utf8View(Some(text)),
                _,
            ) => Ok(text.clone().into()),
            Expr::Literal(ScalarValue::Int64(Some(number)), _) => Ok((*number).into()),
            Expr::Literal(ScalarValue::UInt64(Some(number)), _) => Ok((*number).into()),
            Expr::Placeholder(placeholder) => {
                let number = placeholder.id.trim_start_matches('$').parse::<usize>();
                let number = number.ok().filter(|number| *number > 0);
                let Some(number) = number else {
                    return plan_err!("`{}`: placeholders are `$1`, `$2`, …", placeholder.id);
                };
                self.named.fetch_max(number, Ordering::Relaxed);
                let params = self.params.lock();
                Ok(params.get(number - 1).cloned().unwrap_or(Value::Null))
            }
            _ => plan_err!("{VECTOR_SEARCH} takes an index, a text and a number, as they are"),
        }
    }

    fn index(&self, name: &str) -> Result<(Arc<Index>, DataType)> {
        let state = &self.names.state;
        let found = state.indexes.get(name).and_then(|index| {
            let source = &index.spec.source;
            let dataset = state.datasets.get(source)?;
            let schema = arrow_schema(&dataset.schema).ok()?;
            // The name of a row by several columns is a text.
            let key = match index.spec.key.columns() {
                [column] => schema.field_with_name(column).ok()?.data_type().clone(),
                _ => DataType::Utf8,
            };
            let readable = (self.names.visible)(source);
            readable.then(|| (Arc::clone(index), key))
        });
        // What may not be read is not there.
        found.ok_or_else(|| DataFusionError::Plan(format!("no index `{name}`")))
    }
}

impl fmt::Debug for VectorSearch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VectorSearch")
    }
}

impl TableFunctionImpl for VectorSearch {
    fn call_with_args(&self, args: TableFunctionArgs) -> Result<Arc<dyn TableProvider>> {
        let args = args
            .exprs()
            .iter()
            .map(|arg| self.argument(arg))
            .collect::<Result<Vec<_>>>()?;
        let (index, text, k) = match args.as_slice() {
            [Value::String(index), Value::String(text)] => (index, text, K),
            [Value::String(index), Value::String(text), Value::Number(k)] => {
                let k = k.as_u64().and_then(|k| usize::try_from(k).ok());
                let k = k.filter(|k| *k <= crate::engines::indexes::HITS_MAX);
                let Some(k) = k else {
                    return plan_err!("{VECTOR_SEARCH}: so many rows cannot be found at once");
                };
                (index, text, k)
            }
            _ => return plan_err!("{VECTOR_SEARCH} takes an index, a text and a number of rows"),
        };
        let (index, key) = self.index(index)?;
        let fields = vec![
            Field::new("key", key, true),
            Field::new("score", DataType::Float32, false),
            Field::new("distance", DataType::Float32, true),
            Field::new("text", DataType::Utf8, true),
        ];
        let table: Arc<dyn TableProvider> = Arc::new(SearchTable {
            schema: Arc::new(Schema::new(fields)),
            snapshot: SearchSnapshot {
                state: Arc::clone(&self.names.state),
                seq: self.seq,
            },
            search: self.search.clone(),
            index,
            text: text.clone(),
            k,
        });
        self.names.readable.add(&table);
        Ok(table)
    }
}

/// The hits of one call.
pub(super) struct SearchTable {
    schema: SchemaRef,
    snapshot: SearchSnapshot,
    search: Option<Weak<dyn SqlSearch>>,
    index: Arc<Index>,
    text: String,
    k: usize,
}

impl SearchTable {
    /// The dataset or view whose rows are found.
    pub fn source(&self) -> &str {
        &self.index.spec.source
    }

    async fn rows(&self) -> Result<RecordBatch> {
        let search = self.search.as_ref().and_then(Weak::upgrade);
        let Some(search) = search else {
            return plan_err!("{VECTOR_SEARCH} is not available here");
        };
        let found = search
            .found(&self.snapshot, &self.index, &self.text, self.k)
            .await
            .map_err(|error| DataFusionError::Plan(error.to_string()))?;
        let names: Vec<String> = found.iter().map(|row| row.key.clone()).collect();
        let key = self.schema.field(0).data_type().clone();
        let keys = values(&[key], &names)?.swap_remove(0);
        let columns: Vec<ArrayRef> = vec![
            keys,
            Arc::new(found.iter().map(|row| row.score).collect::<Float32Array>()),
            Arc::new(
                found
                    .iter()
                    .map(|row| row.distance)
                    .collect::<Float32Array>(),
            ),
            Arc::new(
                found
                    .iter()
                    .map(|row| row.text.clone())
                    .collect::<StringArray>(),
            ),
        ];
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }
}

impl fmt::Debug for SearchTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SearchTable")
    }
}

#[async_trait]
impl TableProvider for SearchTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Temporary
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let rows = self.rows().await?;
        let table = MemTable::try_new(Arc::clone(&self.schema), vec![vec![rows]])?;
        table.scan(state, projection, filters, limit).await
    }
}
