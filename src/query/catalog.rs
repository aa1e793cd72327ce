//! The names that one session may use: the datasets of a snapshot that the caller may read, and the
//! tables of the schema `system` where they are given. What is not here does not exist for the caller.
//! Built for each request by `session`; it cannot be changed through SQL.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};

use async_trait::async_trait;
use datafusion::{
    catalog::{CatalogProvider, CatalogProviderList, SchemaProvider, TableProvider},
    common::{DataFusionError, Result},
};
use lakehouse_journal::model::{catalog::CatalogState, error::near_names};
use parking_lot::Mutex;

use super::{DatasetTable, QueryError, facts::FactsCache};

/// The catalog that names without one belong to.
pub(super) const CATALOG: &str = "lake";
/// The schema of datasets.
pub(super) const DATASETS: &str = "datasets";
/// The schema of the daemon's own tables.
pub(super) const SYSTEM: &str = "system";

/// Whether a caller may read the dataset of a name.
pub type Visible = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// The tables that a session gave out: plans may scan these and no others.
#[derive(Debug, Default)]
pub struct Readable(Mutex<Vec<Weak<dyn TableProvider>>>);

impl Readable {
    pub(super) fn add(&self, table: &Arc<dyn TableProvider>) {
        self.0.lock().push(Arc::downgrade(table));
    }

    /// Whether this very table was given out.
    pub fn contains(&self, table: &Arc<dyn TableProvider>) -> bool {
        let address = Arc::as_ptr(table).cast::<()>();
        self.0
            .lock()
            .iter()
            .any(|known| known.as_ptr().cast::<()>() == address)
    }
}

/// What the names of one session resolve to.
pub(super) struct Names {
    pub state: Arc<CatalogState>,
    pub visible: Visible,
    pub system: BTreeMap<String, Arc<dyn TableProvider>>,
    pub facts: Arc<FactsCache>,
    pub readable: Arc<Readable>,
}

impl std::fmt::Debug for Names {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Names")
    }
}

impl Names {
    /// The error for a name that does not resolve, with names like it that do.
    pub fn missing(&self, name: &str) -> QueryError {
        let visible: Vec<String> = self
            .state
            .datasets
            .keys()
            .filter(|name| (self.visible)(name))
            .cloned()
            .collect();
        let plain = name.rsplit('.').next().unwrap_or(name);
        let near = near_names(plain, visible.iter())
            .into_iter()
            .map(|name| {
                if needs_quotes(&name) {
                    format!("\"{name}\"")
                } else {
                    name
                }
            })
            .collect();
        QueryError::DatasetNotFound {
            name: name.to_owned(),
            near,
        }
    }

    fn dataset(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let Some(dataset) = self
            .state
            .datasets
            .get(name)
            .filter(|_| (self.visible)(name))
        else {
            return Ok(None);
        };
        let table = DatasetTable::new(Arc::clone(dataset), Arc::clone(&self.facts))
            .map_err(|error| DataFusionError::External(Box::new(error)))?;
        let table: Arc<dyn TableProvider> = Arc::new(table);
        self.readable.add(&table);
        Ok(Some(table))
    }

    fn system(&self, name: &str) -> Option<Arc<dyn TableProvider>> {
        let table = self.system.get(name).cloned()?;
        self.readable.add(&table);
        Some(table)
    }
}

/// Whether SQL must quote the name: it is not all lower case, or has other signs.
fn needs_quotes(name: &str) -> bool {
    !name
        .bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// The catalog list of one session: one catalog.
#[derive(Debug)]
pub(super) struct SessionCatalogs(pub Arc<Names>);

impl CatalogProviderList for SessionCatalogs {
    fn register_catalog(
        &self,
        _: String,
        _: Arc<dyn CatalogProvider>,
    ) -> Option<Arc<dyn CatalogProvider>> {
        None
    }

    fn catalog_names(&self) -> Vec<String> {
        vec![CATALOG.to_owned()]
    }

    fn catalog(&self, name: &str) -> Option<Arc<dyn CatalogProvider>> {
        (name == CATALOG).then(|| Arc::new(SessionCatalog(Arc::clone(&self.0))) as _)
    }
}

#[derive(Debug)]
struct SessionCatalog(Arc<Names>);

impl CatalogProvider for SessionCatalog {
    fn schema_names(&self) -> Vec<String> {
        let mut names = vec![DATASETS.to_owned()];
        if !self.0.system.is_empty() {
            names.push(SYSTEM.to_owned());
        }
        names
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        let system = match name {
            DATASETS => false,
            SYSTEM if !self.0.system.is_empty() => true,
            _ => return None,
        };
        Some(Arc::new(SessionSchema {
            names: Arc::clone(&self.0),
            system,
        }))
    }
}

#[derive(Debug)]
struct SessionSchema {
    names: Arc<Names>,
    system: bool,
}

#[async_trait]
impl SchemaProvider for SessionSchema {
    fn table_names(&self) -> Vec<String> {
        if self.system {
            return self.names.system.keys().cloned().collect();
        }
        let names = self.names.state.datasets.keys();
        names
            .filter(|name| (self.names.visible)(name))
            .cloned()
            .collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        if self.system {
            return Ok(self.names.system(name));
        }
        self.names.dataset(name)
    }

    fn table_exist(&self, name: &str) -> bool {
        if self.system {
            return self.names.system.contains_key(name);
        }
        self.names.state.datasets.contains_key(name) && (self.names.visible)(name)
    }
}
