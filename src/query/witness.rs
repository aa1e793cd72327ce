//! What sees an answer's rows before its reader does: the audit's place inside of a query. `session` calls it
//! for every batch; when it fails, no further row leaves. Also reads row keys off a batch.

use arrow::array::RecordBatch;
use async_trait::async_trait;

use super::{QueryError, lineage::Lineage, row_key};

/// What a query reads, as its plan says.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The views and datasets as the statement names them, in the order of their names; `system.x` for those.
    pub names: Vec<String>,
    /// The rows behind the answer.
    pub lineage: Lineage,
}

/// Sees each batch before it leaves the query.
#[async_trait]
pub trait Witness: Send + Sync {
    /// Sees a batch. Returns when it may leave.
    ///
    /// # Errors
    /// Why it must not; the query ends with it.
    async fn see(&self, sources: &Sources, batch: &RecordBatch) -> Result<(), QueryError>;
}

/// The row keys that a batch shows, a list for each column of keys: dataset id, and the key of each row.
pub type KeyTexts = Vec<(String, Vec<Option<String>>)>;

/// Reads the row keys off a batch.
///
/// # Errors
/// [`QueryError::Internal`] when a key has no text.
pub fn key_texts(lineage: &Lineage, batch: &RecordBatch) -> Result<KeyTexts, QueryError> {
    let mut all = KeyTexts::new();
    for key in &lineage.keys {
        let columns = key
            .columns
            .iter()
            .map(|column| batch.columns().get(*column).cloned());
        let Some(columns) = columns.collect::<Option<Vec<_>>>() else {
            continue;
        };
        let names = row_key::names(&columns)
            .map_err(|error| QueryError::Internal(format!("a key as text: {error}")))?;
        let texts = names.iter().map(|name| name.map(str::to_owned)).collect();
        all.push((key.dataset.clone(), texts));
    }
    Ok(all)
}
