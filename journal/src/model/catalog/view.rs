//! AI-safe views: what is shown of a dataset or of another view, and how. A view is a policy, so it is
//! kept whole in its event; the columns and rows themselves are nowhere in it.
//! Pure. `decide` calls the rules here; the edge reads the definitions and makes barriers of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{CatalogState, Dataset, DefineIndex, Index};
use crate::{
    model::{
        Meta, ModelError, Stamp,
        error::{check_name, near_names},
        event::{CatalogEvent, IndexDefined, IndexDropped, ViewDefined, ViewDropped},
    },
    record::{Micros, Seq},
};

#[cfg(test)]
mod tests;

/// Views over views, at most.
const VIEW_DEPTH_MAX: usize = 16;

/// What stands in the place of a value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Redaction {
    /// Nothing.
    Null {},
    /// The value's text with all but its ends as `*`.
    Mask {
        /// Characters shown at the beginning.
        #[serde(default)]
        keep_prefix: u32,
        /// Characters shown at the end.
        #[serde(default)]
        keep_suffix: u32,
    },
    /// A keyed hash that is the same in this column only.
    Hash {},
    /// A keyed hash that is the same in every column of a domain, so that these can be joined.
    Tokenize {
        /// The domain; the column's name when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        domain: Option<String>,
    },
    /// The same for all rows.
    Constant {
        /// It.
        value: Value,
    },
    /// A date cut down to a unit, or a number to its first decimals.
    Truncate {
        /// The unit of a date.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        unit: Option<DateUnit>,
        /// Decimals of a number that are kept.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        decimals: Option<u32>,
    },
    /// The lower end of the interval that a number lies in; for dates, of days since 1970.
    Bucket {
        /// The interval's width.
        width: u64,
    },
}

/// What a date can be cut down to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DateUnit {
    /// Its year.
    Year,
    /// Its quarter.
    Quarter,
    /// Its month.
    Month,
    /// Its day.
    Day,
    /// Its hour.
    Hour,
}

/// A rule for one column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ColumnRedaction {
    /// The column.
    pub column: String,
    /// What is shown instead.
    pub rule: Redaction,
}

/// What a view is made as.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ViewSpec {
    /// The dataset or view that it shows a part of.
    pub base: String,
    /// The columns that it shows, in order. One that the base gets later is not among them.
    pub columns: Vec<String>,
    /// A predicate over the base's columns; a row is shown when it is true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub row_filter: Option<String>,
    /// Columns that are not shown as they are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub redactions: Vec<ColumnRedaction>,
    /// With this, it answers only aggregates over at least so many rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_group_size: Option<u64>,
    /// What it is for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// What columns mean, for readers that are no people.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub meanings: BTreeMap<String, String>,
    /// The base's columns that the filter reads, as found when it was parsed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filter_columns: Vec<String>,
    /// Whether the filter asks who reads, so that the view is another one for each caller.
    #[serde(default)]
    pub per_caller: bool,
}

/// A view.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct View {
    /// Its name.
    pub name: String,
    /// What it is.
    pub spec: ViewSpec,
    /// Position of the event that made it what it is: the version of the policy.
    pub seq: Seq,
    /// When it was made.
    pub created_at: Micros,
    /// When it became what it is.
    pub updated_at: Micros,
    /// Who made it what it is.
    pub defined_by: String,
}

/// Make a view, or another one of an existing.
#[derive(Debug, Clone)]
pub struct DefineView {
    /// Its name.
    pub view: String,
    /// What it is.
    pub spec: ViewSpec,
    /// Whether it may take the place of a view of that name.
    pub replace: bool,
}

/// What a column that is not classified yet looks like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// The class that it should have.
    pub class: super::Sensitivity,
    /// What was found, such as `email`.
    pub found: String,
}

impl View {
    /// The rule of a column.
    pub fn rule(&self, column: &str) -> Option<&Redaction> {
        self.spec.rule(column)
    }

    /// Whether a column is shown as it is in the base.
    pub fn shows_plain(&self, column: &str) -> bool {
        self.spec.columns.iter().any(|c| c == column) && self.rule(column).is_none()
    }
}

impl ViewSpec {
    /// The rule of a column.
    pub fn rule(&self, column: &str) -> Option<&Redaction> {
        self.redactions
            .iter()
            .find(|redaction| redaction.column == column)
            .map(|redaction| &redaction.rule)
    }

    /// Refuses what makes no sense whatever the base is.
    fn check(&self) -> Result<(), ModelError> {
        if self.columns.is_empty() {
            return refuse("columns", "a view shows at least one column".to_owned());
        }
        once("columns", self.columns.iter())?;
        once(
            "column_redactions",
            self.redactions.iter().map(|redaction| &redaction.column),
        )?;
        let shown = self
            .redactions
            .iter()
            .map(|redaction| &redaction.column)
            .chain(self.meanings.keys());
        for column in shown {
            must_be_among(column, &self.columns)?;
        }
        if self.min_group_size.is_some_and(|least| least < 2) {
            let text = "2 or more, or nothing at all".to_owned();
            return refuse("min_group_size", text);
        }
        self.redactions
            .iter()
            .try_for_each(|redaction| redaction.rule.check())
    }
}

impl Redaction {
    fn check(&self) -> Result<(), ModelError> {
        match self {
            Self::Bucket { width: 0 } => refuse("bucket", "`width` must be above 0".to_owned()),
            Self::Truncate { unit, decimals } if unit.is_some() == decimals.is_some() => {
                let text = "exactly one of `unit` (dates) and `decimals` (numbers)".to_owned();
                refuse("truncate", text)
            }
            Self::Constant { value } if value.is_array() || value.is_object() => {
                refuse("constant", "a text, a number or a truth value".to_owned())
            }
            Self::Null {}
            | Self::Mask { .. }
            | Self::Hash {}
            | Self::Tokenize { .. }
            | Self::Constant { .. }
            | Self::Truncate { .. }
            | Self::Bucket { .. } => Ok(()),
        }
    }

    /// The word of the contract.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Null {} => "null",
            Self::Mask { .. } => "mask",
            Self::Hash {} => "hash",
            Self::Tokenize { .. } => "tokenize",
            Self::Constant { .. } => "constant",
            Self::Truncate { .. } => "truncate",
            Self::Bucket { .. } => "bucket",
        }
    }
}

fn refuse(what: &'static str, reason: String) -> Result<(), ModelError> {
    Err(ModelError::Impossible { what, reason })
}

fn once<'a>(what: &'static str, names: impl Iterator<Item = &'a String>) -> Result<(), ModelError> {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            return refuse(what, format!("`{name}` stands there twice"));
        }
    }
    Ok(())
}

fn must_be_among(column: &str, columns: &[String]) -> Result<(), ModelError> {
    if columns.iter().any(|known| known == column) {
        return Ok(());
    }
    Err(ModelError::NotFound {
        what: "column",
        name: column.to_owned(),
        near: near_names(column, columns.iter()),
    })
}

/// What is built on a source.
#[derive(Debug, Default)]
struct Dependents {
    views: Vec<String>,
    indexes: Vec<String>,
}

impl Dependents {
    fn names(self) -> Vec<String> {
        self.views.into_iter().chain(self.indexes).collect()
    }
}

impl CatalogState {
    /// The view of that name.
    ///
    /// # Errors
    /// [`ModelError::NotFound`] with names like it.
    pub fn view(&self, name: &str) -> Result<&Arc<View>, ModelError> {
        self.views.get(name).ok_or_else(|| ModelError::NotFound {
            what: "view",
            name: name.to_owned(),
            near: near_names(name, self.views.keys()),
        })
    }

    /// The views from this name down to the dataset, outermost first; none for a dataset. `None` when
    /// the name is of nothing.
    pub fn views_down<'a>(
        &'a self,
        name: &'a str,
    ) -> Option<(Vec<&'a Arc<View>>, &'a Arc<Dataset>)> {
        let mut views = Vec::new();
        let mut name = name;
        // A dataset and a view never share a name, and the chain of a view has an end.
        while let Some(view) = self.views.get(name) {
            views.push(view);
            name = &view.spec.base;
            if views.len() > VIEW_DEPTH_MAX {
                return None;
            }
        }
        Some((views, self.datasets.get(name)?))
    }

    /// The dataset that a dataset's or view's rows lie in.
    pub fn dataset_under<'a>(&'a self, name: &'a str) -> Option<&'a Arc<Dataset>> {
        self.views_down(name).map(|(_, dataset)| dataset)
    }

    /// The names of the columns of a dataset or view, in order.
    pub fn columns_of(&self, name: &str) -> Option<Vec<String>> {
        if let Some(view) = self.views.get(name) {
            return Some(view.spec.columns.clone());
        }
        let columns = &self.datasets.get(name)?.schema.columns;
        Some(columns.iter().map(|column| column.name.clone()).collect())
    }

    /// Position of the last change of a policy between this name and its dataset; 0 for a dataset. An
    /// index that was built before it may hold what is no longer shown.
    pub fn policy_seq(&self, name: &str) -> Seq {
        self.views_down(name).map_or(0, |(views, _)| {
            views.iter().map(|view| view.seq).max().unwrap_or(0)
        })
    }

    /// The indexes built over a dataset, through views too.
    pub fn indexes_over<'a>(&'a self, dataset: &'a str) -> impl Iterator<Item = &'a Arc<Index>> {
        self.indexes.values().filter(move |index| {
            let source = &index.spec.source;
            source == dataset
                || self
                    .dataset_under(source)
                    .is_some_and(|under| under.name == dataset)
        })
    }

    /// Views and indexes on a dataset or view, whatever lies between.
    fn dependents(&self, name: &str) -> Dependents {
        let mut found = Dependents::default();
        let mut sources = vec![name.to_owned()];
        while let Some(source) = sources.pop() {
            let indexes = self.indexes.values();
            found.indexes.extend(
                indexes
                    .filter(|index| index.spec.source == source)
                    .map(|index| index.name.clone()),
            );
            for view in self.views.values().filter(|v| v.spec.base == source) {
                found.views.push(view.name.clone());
                sources.push(view.name.clone());
            }
        }
        found
    }

    /// The events that remove what is built on `name`; a conflict unless they may go along.
    pub(super) fn drop_dependents(
        &self,
        what: &'static str,
        name: &str,
        cascade: bool,
    ) -> Result<Vec<CatalogEvent>, ModelError> {
        let found = self.dependents(name);
        let is_used = !found.views.is_empty() || !found.indexes.is_empty();
        if is_used && !cascade {
            return Err(ModelError::InUse {
                what,
                name: name.to_owned(),
                by: found.names(),
            });
        }
        let indexes = found.indexes.into_iter();
        let views = found.views.into_iter().rev();
        Ok(indexes
            .map(|index| IndexDropped { index }.into())
            .chain(views.map(|view| ViewDropped { view }.into()))
            .collect())
    }

    pub(super) fn name_is_free(&self, what: &'static str, name: &str) -> Result<(), ModelError> {
        check_name(what, name)?;
        let taken = if self.datasets.contains_key(name) {
            "dataset"
        } else if self.views.contains_key(name) {
            "view"
        } else {
            return Ok(());
        };
        Err(ModelError::Exists {
            what: taken,
            name: name.to_owned(),
        })
    }

    pub(super) fn define_view(
        &self,
        command: &DefineView,
        stamp: &Stamp,
    ) -> Result<Vec<CatalogEvent>, ModelError> {
        let known = self.views.get(&command.view).filter(|_| command.replace);
        if known.is_none() {
            self.name_is_free("view", &command.view)?;
        }
        let spec = &command.spec;
        if known.is_some_and(|view| view.spec == *spec) {
            return Ok(Vec::new());
        }
        spec.check()?;
        self.must_lead_to_a_dataset(&command.view, &spec.base)?;
        let base = self.columns_of(&spec.base).unwrap_or_default();
        for column in spec.columns.iter().chain(&spec.filter_columns) {
            must_be_among(column, &base)?;
        }
        let defined = ViewDefined {
            view: command.view.clone(),
            spec: spec.clone(),
        };
        let mut events = vec![defined.into()];
        if known.is_some() {
            events.extend(self.after_replacement(command, stamp)?);
        }
        Ok(events)
    }

    fn must_lead_to_a_dataset(&self, view: &str, base: &str) -> Result<(), ModelError> {
        let names = self.datasets.keys().chain(self.views.keys());
        let missing = || ModelError::NotFound {
            what: "dataset",
            name: base.to_owned(),
            near: near_names(base, names),
        };
        let (views, _) = self.views_down(base).ok_or_else(missing)?;
        if base == view || views.iter().any(|under| under.name == view) {
            return refuse(
                "base_dataset",
                format!("view `{view}` would stand on itself"),
            );
        }
        let above = self.dependents(view).views.len();
        if views.len() + above >= VIEW_DEPTH_MAX {
            let text = format!("at most {VIEW_DEPTH_MAX} views stand on one another");
            return refuse("base_dataset", text);
        }
        Ok(())
    }

    /// What a new policy means for what is built on the old one: everything that stands on the view
    /// must still find its columns, and every index is built anew, as its texts were read through it.
    fn after_replacement(
        &self,
        command: &DefineView,
        stamp: &Stamp,
    ) -> Result<Vec<CatalogEvent>, ModelError> {
        let in_use = |by: &str| ModelError::InUse {
            what: "view",
            name: command.view.clone(),
            by: vec![by.to_owned()],
        };
        let shows = |column: &String| command.spec.columns.contains(column);
        for over in self.views.values() {
            let mut needs = over.spec.columns.iter().chain(&over.spec.filter_columns);
            if over.spec.base == command.view && !needs.all(shows) {
                return Err(in_use(&over.name));
            }
        }
        let mut events = Vec::new();
        for name in self.dependents(&command.view).indexes {
            let Some(index) = self.indexes.get(&name) else {
                continue;
            };
            let text = index.spec.text.columns().unwrap_or_default();
            let key = index.spec.key.columns();
            let mut needs = text.iter().chain(key).chain(&index.spec.vector_column);
            let direct = index.spec.source == command.view;
            let key_plain = key.iter().all(|column| command.spec.rule(column).is_none());
            if command.spec.per_caller || !key_plain || (direct && !needs.all(shows)) {
                return Err(in_use(&name));
            }
            let mut requested = self.requested(&name, stamp, false)?;
            requested.job = format!("{}-{}", stamp.id, events.len());
            events.push(requested.into());
        }
        Ok(events)
    }

    pub(super) fn drop_view(
        &self,
        name: &str,
        cascade: bool,
    ) -> Result<Vec<CatalogEvent>, ModelError> {
        self.view(name)?;
        let mut events = self.drop_dependents("view", name, cascade)?;
        let view = name.to_owned();
        events.push(ViewDropped { view }.into());
        Ok(events)
    }

    pub(super) fn define_index(
        &self,
        command: &DefineIndex,
        stamp: &Stamp,
    ) -> Result<Vec<CatalogEvent>, ModelError> {
        check_name("index", &command.index)?;
        if self.indexes.contains_key(&command.index) {
            return Err(ModelError::Exists {
                what: "index",
                name: command.index.clone(),
            });
        }
        let spec = &command.spec;
        spec.must_be_cut()?;
        if self.views.contains_key(&spec.source) {
            self.must_suit_view(spec)?;
        } else {
            let dataset = self.dataset(&spec.source)?;
            dataset.must_be_key(&spec.key)?;
            spec.must_fit(dataset)?;
        }
        Ok(vec![
            IndexDefined {
                index: command.index.clone(),
                spec: command.spec.clone(),
                job: stamp.id.clone(),
            }
            .into(),
        ])
    }

    /// An index over a view holds what the view shows, and knows rows by a key that it shows as it is.
    fn must_suit_view(&self, spec: &super::IndexSpec) -> Result<(), ModelError> {
        let (source, key) = (spec.source.as_str(), &spec.key);
        let columns = self.columns_of(source).unwrap_or_default();
        let texts = spec
            .text
            .columns()
            .map_err(|reason| ModelError::Impossible {
                what: "text",
                reason,
            })?;
        let named = texts.iter().chain(key.columns()).chain(&spec.vector_column);
        for column in named {
            must_be_among(column, &columns)?;
        }
        let Some((views, dataset)) = self.views_down(source) else {
            return refuse("source", format!("view `{source}` stands on nothing"));
        };
        dataset.must_be_key(key)?;
        let is_changed = |column: &&String| views.iter().any(|view| view.rule(column).is_some());
        if let Some(column) = key.columns().iter().find(is_changed) {
            let text = format!("view `{source}` does not show `{column}` as it is");
            return refuse("key", text);
        }
        let others = views.iter().any(|view| view.spec.per_caller);
        if others || views.iter().any(|view| view.spec.min_group_size.is_some()) {
            let text = "shows each caller other rows, or tells of groups only";
            return refuse("source", format!("view `{source}` {text}"));
        }
        Ok(())
    }

    pub(super) fn view_defined(&mut self, meta: Meta<'_>, event: &ViewDefined) {
        let created_at = self
            .views
            .get(&event.view)
            .map_or(meta.at, |view| view.created_at);
        let view = View {
            name: event.view.clone(),
            spec: event.spec.clone(),
            seq: meta.seq,
            created_at,
            updated_at: meta.at,
            defined_by: meta.actor.name.clone(),
        };
        self.views.insert(event.view.clone(), Arc::new(view));
    }
}
