//! The names that one session may use: the datasets and views of a snapshot that the reader sees, and the
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

use super::{
    DatasetTable, QueryError, Reader, SafeViewProvider,
    facts::FactsCache,
    policy::{Lens, RedactionKey},
    view::Joined,
};

/// The catalog that names without one belong to.
pub(super) const CATALOG: &str = "lake";
/// The schema of datasets.
pub(super) const DATASETS: &str = "datasets";
/// The schema of the daemon's own tables.
pub(super) const SYSTEM: &str = "system";

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
    pub reader: Arc<Reader>,
    pub key: RedactionKey,
    pub system: BTreeMap<String, Arc<dyn TableProvider>>,
    pub facts: Arc<FactsCache>,
    pub given: Arc<Readable>,
    /// What the statement joins on.
    pub joined: Joined,
    /// Whether there is a barrier, so that a test sees what it keeps.
    #[cfg(test)]
    pub barrier: bool,
}

impl std::fmt::Debug for Names {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Names")
    }
}

impl Names {
    /// Whether views lie behind a barrier: always.
    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "tests take the barrier away")]
    pub fn has_barrier(&self) -> bool {
        true
    }

    /// Whether views lie behind a barrier, which a test may take away to see what it keeps.
    #[cfg(test)]
    pub fn has_barrier(&self) -> bool {
        self.barrier
    }

    /// The error for a name that does not resolve, with names like it that do.
    pub fn missing(&self, name: &str) -> QueryError {
        let visible: Vec<String> = self.readable().cloned().collect();
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

    /// The names of datasets and views that there are for the reader.
    fn readable(&self) -> impl Iterator<Item = &String> {
        let datasets = self.state.datasets.keys();
        let views = self.state.views.keys();
        datasets
            .filter(|name| self.reader.sees_dataset(name))
            .chain(views.filter(|name| self.reader.sees_view(name)))
    }

    /// The one place where a name becomes rows: what the reader sees of it, and no more.
    fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let external = |error| DataFusionError::External(Box::new(error));
        let lens = Lens::of(&self.state, name, &self.reader, &self.key).map_err(external)?;
        let Some(lens) = lens else {
            return Ok(None);
        };
        let facts = Arc::clone(&self.facts);
        let table: Arc<dyn TableProvider> = if lens.is_clear() && !self.reader.is_guarded() {
            Arc::new(DatasetTable::new(lens.dataset, facts).map_err(external)?)
        } else {
            self.behind_barrier(lens, facts)
        };
        self.given.add(&table);
        Ok(Some(table))
    }

    #[cfg(not(test))]
    fn behind_barrier(&self, lens: Lens, facts: Arc<FactsCache>) -> Arc<dyn TableProvider> {
        Arc::new(SafeViewProvider::new(lens, facts).joined_on(Arc::clone(&self.joined)))
    }

    #[cfg(test)]
    fn behind_barrier(&self, lens: Lens, facts: Arc<FactsCache>) -> Arc<dyn TableProvider> {
        let view = SafeViewProvider::new(lens, facts).joined_on(Arc::clone(&self.joined));
        Arc::new(if self.barrier {
            view
        } else {
            view.without_barrier()
        })
    }

    fn system(&self, name: &str) -> Option<Arc<dyn TableProvider>> {
        let table = self.system.get(name).cloned()?;
        self.given.add(&table);
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
        self.names.readable().cloned().collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        if self.system {
            return Ok(self.names.system(name));
        }
        self.names.table(name)
    }

    fn table_exist(&self, name: &str) -> bool {
        if self.system {
            return self.names.system.contains_key(name);
        }
        self.names.readable().any(|known| known == name)
    }
}
