//! `vector_search('index', 'text', k)` in SQL: the hits of a search as a table of `key`, `score`,
//! `distance`, `text` and `chunk` (null where texts are not cut), the key in the type of its column, so
//! that it joins with tables. What the session's reader may not search has no index here. Agents search
//! by its own route, which tells the audit the rows; in their sessions there is no such function. The
//! search itself is the engine's, wired in by the daemon; it runs while the scan is planned.

use std::{
    fmt,
    sync::{Arc, Weak},
};

use arrow::{
    array::{ArrayRef, Float32Array, StringArray, StructArray, UInt32Array},
    buffer::NullBuffer,
    datatypes::{DataType, Field, Fields, Schema, SchemaRef},
    record_batch::RecordBatch,
};
use async_trait::async_trait;
use datafusion::{
    catalog::{MemTable, Session, TableFunctionImpl, TableProvider},
    common::{DataFusionError, Result, ScalarValue, plan_err},
    datasource::TableType,
    logical_expr::Expr,
    physical_plan::ExecutionPlan,
};
use lakehouse_actors::{PortError, ports::ChunkSpan};
use lakehouse_journal::{
    model::catalog::{CatalogState, Index},
    record::Seq,
};

use super::{
    Reader,
    catalog::Names,
    policy::{Way, way},
    row_key::values,
    schema::arrow_schema,
};

/// The function's name.
pub(super) const VECTOR_SEARCH: &str = "vector_search";
/// Hits when no number is given.
const K: usize = 10;
/// Most hits of one call.
const K_MAX: usize = 10_000;

/// A row that a search found.
#[derive(Debug, Clone, PartialEq)]
pub struct FoundRow {
    /// Its key, as its column spells it.
    pub key: String,
    /// Larger is better.
    pub score: f32,
    /// How far its vector is.
    pub distance: f32,
    /// Its text, if it has one.
    pub text: Option<String>,
    /// The chunk that it was found by, where texts are cut.
    pub chunk: Option<ChunkSpan>,
}

/// The search that `vector_search` ends in.
#[async_trait]
pub trait SqlSearch: Send + Sync {
    /// The rows of an index that a text is nearest to, as a reader sees them, best first.
    ///
    /// # Errors
    /// Why there is no answer.
    async fn found(
        &self,
        sight: &SearchSight,
        index: &Index,
        text: &str,
        k: usize,
    ) -> std::result::Result<Vec<FoundRow>, PortError>;
}

/// For whom, of what and through what is searched.
#[derive(Clone)]
pub struct SearchSight {
    /// The catalog.
    pub state: Arc<CatalogState>,
    /// Its position.
    pub seq: Seq,
    /// Who reads.
    pub reader: Arc<Reader>,
    /// How the reader comes to the index.
    pub way: Way,
}

/// The table function of one session.
pub(super) struct VectorSearch {
    names: Arc<Names>,
    seq: Seq,
    search: Weak<dyn SqlSearch>,
}

impl VectorSearch {
    pub fn new(names: Arc<Names>, seq: Seq, search: Weak<dyn SqlSearch>) -> Self {
        Self { names, seq, search }
    }

    /// An index that the reader may search, the way to it, and the type of its key.
    fn index(&self, name: &str) -> Result<(Arc<Index>, Way, DataType)> {
        let missing = || DataFusionError::Plan(format!("no index `{name}`"));
        let external = |error| DataFusionError::External(Box::new(error));
        let state = &self.names.state;
        let index = state.indexes.get(name).ok_or_else(missing)?;
        let found = way(state, index, &self.names.reader, None, &self.names.key);
        // What may not be searched is not there.
        let way = found.map_err(external)?.map_err(|_| missing())?;
        let dataset = state.dataset_under(&index.spec.source);
        let dataset = dataset.ok_or_else(missing)?;
        let schema = arrow_schema(&dataset.schema).map_err(external)?;
        // The name of a row by several columns is a text.
        let key = match index.spec.key.columns() {
            [column] => schema.field_with_name(column)?.data_type().clone(),
            _ => DataType::Utf8,
        };
        Ok((Arc::clone(index), way, key))
    }
}

impl fmt::Debug for VectorSearch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VectorSearch")
    }
}

fn text(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Literal(
            ScalarValue::Utf8(Some(text))
            | ScalarValue::LargeUtf8(Some(text))
            | ScalarValue::Utf8View(Some(text)),
            _,
        ) => Some(text),
        _ => None,
    }
}

fn number(expr: &Expr) -> Option<usize> {
    match expr {
        Expr::Literal(ScalarValue::Int64(Some(number)), _) => usize::try_from(*number).ok(),
        Expr::Literal(ScalarValue::UInt64(Some(number)), _) => usize::try_from(*number).ok(),
        _ => None,
    }
}

impl TableFunctionImpl for VectorSearch {
    fn call(&self, args: &[Expr]) -> Result<Arc<dyn TableProvider>> {
        let (index, wanted, k) = match args {
            [index, wanted] => (text(index), text(wanted), Some(K)),
            [index, wanted, k] => (text(index), text(wanted), number(k)),
            _ => (None, None, None),
        };
        let (Some(index), Some(wanted), Some(k)) = (index, wanted, k) else {
            return plan_err!(
                "{VECTOR_SEARCH} takes the name of an index, a text and a number of rows, as they are"
            );
        };
        if k > K_MAX {
            return plan_err!("{VECTOR_SEARCH} finds {K_MAX} rows at most");
        }
        let (index, way, key) = self.index(index)?;
        let fields = vec![
            Field::new("key", key, true),
            Field::new("score", DataType::Float32, false),
            Field::new("distance", DataType::Float32, false),
            Field::new("text", DataType::Utf8, true),
            Field::new("chunk", DataType::Struct(chunk_fields()), true),
        ];
        let table: Arc<dyn TableProvider> = Arc::new(SearchTable {
            schema: Arc::new(Schema::new(fields)),
            sight: SearchSight {
                state: Arc::clone(&self.names.state),
                seq: self.seq,
                reader: Arc::clone(&self.names.reader),
                way,
            },
            search: Weak::clone(&self.search),
            index,
            text: wanted.to_owned(),
            k,
        });
        self.names.given.add(&table);
        Ok(table)
    }
}

/// A chunk as a search over REST has it: its number, its first and last bytes in the text, and what stands
/// there.
fn chunk_fields() -> Fields {
    let number = |name| Field::new(name, DataType::UInt32, true);
    let text = Field::new("text", DataType::Utf8, true);
    Fields::from(vec![number("number"), number("start"), number("end"), text])
}

fn chunks(found: &[FoundRow]) -> Result<StructArray> {
    let number = |of: fn(&ChunkSpan) -> u32| -> ArrayRef {
        let numbers = found.iter().map(|row| row.chunk.as_ref().map(of));
        Arc::new(numbers.collect::<UInt32Array>())
    };
    let text = |row: &FoundRow| {
        let chunk = row.chunk.as_ref()?;
        let there = row
            .text
            .as_ref()?
            .get(chunk.start as usize..chunk.end as usize);
        there.map(str::to_owned)
    };
    let columns = vec![
        number(|chunk| chunk.number),
        number(|chunk| chunk.start),
        number(|chunk| chunk.end),
        Arc::new(found.iter().map(text).collect::<StringArray>()),
    ];
    let there: NullBuffer = found.iter().map(|row| row.chunk.is_some()).collect();
    Ok(StructArray::try_new(chunk_fields(), columns, Some(there))?)
}

/// The hits of one call.
pub(super) struct SearchTable {
    schema: SchemaRef,
    sight: SearchSight,
    search: Weak<dyn SqlSearch>,
    index: Arc<Index>,
    text: String,
    k: usize,
}

impl SearchTable {
    /// The dataset or view whose rows are found.
    pub fn source(&self) -> &str {
        &self.sight.way.through
    }

    async fn rows(&self) -> Result<RecordBatch> {
        let Some(search) = self.search.upgrade() else {
            return plan_err!("{VECTOR_SEARCH} is not available here");
        };
        let found = search
            .found(&self.sight, &self.index, &self.text, self.k)
            .await
            .map_err(|error| DataFusionError::Plan(error.to_string()))?;
        let names: Vec<String> = found.iter().map(|row| row.key.clone()).collect();
        let key = self.schema.field(0).data_type().clone();
        let keys = values(&[key], &names)?.swap_remove(0);
        let number = |of: fn(&FoundRow) -> f32| -> ArrayRef {
            Arc::new(found.iter().map(of).collect::<Float32Array>())
        };
        let texts = found.iter().map(|row| row.text.as_deref());
        let columns = vec![
            keys,
            number(|row| row.score),
            number(|row| row.distance),
            Arc::new(texts.collect::<StringArray>()),
            Arc::new(chunks(&found)?),
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
