//! What a caller can ask about: the tables and indexes of its session, described. For listings only; what a
//! statement reads is decided by the session.

use lakehouse_journal::model::catalog::{CatalogState, Index};
use serde::Serialize;

use super::{
    Edge,
    auth::{May, Needs, Permission},
    problem::Problem,
};
use crate::query::{
    ColumnDoc, QueryError, column_docs,
    policy::{Lens, way},
};

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

/// The tables of a caller, in the order of their names. A view that no longer fits its dataset is none.
///
/// # Errors
/// 500 when a schema cannot be read.
pub fn tables<P: Needs>(edge: &Edge, may: &May<P>) -> Result<Vec<Table>, Problem> {
    let catalog = edge.lake.catalog();
    let (state, reader) = (&catalog.state, may.reader());
    let mut names: Vec<&String> = state.datasets.keys().chain(state.views.keys()).collect();
    names.sort_unstable();
    let mut tables = Vec::new();
    for name in names {
        match Lens::of(state, name, &reader, &edge.query.redaction_key()) {
            Ok(Some(lens)) => tables.push(table(&catalog.state, &lens)),
            Ok(None) | Err(QueryError::ViewBroken(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(tables)
}

/// The names of the indexes that a caller can search.
pub fn indexes<P: Needs>(edge: &Edge, may: &May<P>) -> Vec<String> {
    let catalog = edge.lake.catalog();
    let (reader, key) = (may.reader(), edge.query.redaction_key());
    let answers = |index: &Index| {
        let way = way(&catalog.state, index, &reader, None, &key);
        way.is_ok_and(|way| way.is_ok())
    };
    let indexes = catalog.state.indexes.values();
    indexes
        .filter(|index| may.also(Permission::Search) && answers(index))
        .map(|index| index.name.clone())
        .collect()
}

fn table(state: &CatalogState, lens: &Lens) -> Table {
    let view = state.views.get(&lens.name);
    let description = view.map_or(&lens.dataset.description, |view| &view.spec.description);
    let key = lens.dataset.key.first();
    Table {
        name: lens.name.clone(),
        description: Some(description.clone()).filter(|text| !text.is_empty()),
        columns: column_docs(&lens.schema),
        key: key.filter(|column| lens.shows_plain(column)).cloned(),
    }
}
