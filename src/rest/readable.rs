//! What a caller can ask about: the tables and indexes of its session, described. For listings only; what a
//! statement reads is decided by the session.

use lakehouse_journal::model::catalog::Dataset;
use serde::Serialize;

use super::{
    Edge,
    auth::{May, Needs, Permission},
    problem::Problem,
};
use crate::query::{ColumnDoc, arrow_schema, column_docs};

/// A table that a caller can read.
#[derive(Debug, Clone, Serialize)]
pub struct Table {
    /// Its name in SQL.
    pub name: String,
    /// What it holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Its columns.
    pub columns: Vec<ColumnDoc>,
    /// The column that names a row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// The tables of a caller, in the order of their names.
///
/// # Errors
/// 500 when a schema cannot be read.
pub fn tables<P: Needs>(edge: &Edge, may: &May<P>) -> Result<Vec<Table>, Problem> {
    if !may.also(Permission::ReadData) {
        return Ok(Vec::new());
    }
    let catalog = edge.lake.catalog();
    catalog
        .state
        .datasets
        .values()
        .map(|dataset| of_dataset(dataset))
        .collect()
}

/// The names of the indexes that a caller can search.
pub fn indexes<P: Needs>(edge: &Edge, may: &May<P>) -> Vec<String> {
    if !may.also(Permission::ReadData) {
        return Vec::new();
    }
    edge.lake.catalog().state.indexes.keys().cloned().collect()
}

fn of_dataset(dataset: &Dataset) -> Result<Table, Problem> {
    Ok(Table {
        name: dataset.name.clone(),
        description: Some(dataset.description.clone()).filter(|text| !text.is_empty()),
        columns: column_docs(arrow_schema(&dataset.schema)?.as_ref()),
        key: dataset.key.first().cloned(),
    })
}
