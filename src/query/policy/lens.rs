//! A lens: a dataset as one reader sees it through a view, through views over views, or under the
//! ceiling of their role. Made anew for every session out of today's definitions, whatever the time
//! that is asked about; a column that a definition does not name is not in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::{common::Column, logical_expr::Expr};
use lakehouse_journal::{
    model::catalog::{CatalogState, Dataset, Redaction, Sensitivity, View, ViewSpec},
    record::Seq,
};

use super::{
    filter::compile,
    redact::{RedactionKey, Subject, expression, output_type},
};
use crate::query::{
    QueryError, Reader,
    schema::{arrow_schema, read_schema},
};

/// One layer over what lies beneath: rows left out first, columns shown then.
#[derive(Debug, Clone)]
pub struct LensStep {
    /// The rows that are shown.
    pub filter: Option<Expr>,
    /// The columns, by name, over those beneath.
    pub columns: Vec<(String, Expr)>,
}

/// A dataset as a reader sees it.
#[derive(Debug, Clone)]
pub struct Lens {
    /// The name that was asked for.
    pub name: String,
    /// Where the rows lie.
    pub dataset: Arc<Dataset>,
    /// The layers, innermost first; none for a dataset that is seen as it is.
    pub steps: Vec<LensStep>,
    /// The columns that are seen.
    pub schema: SchemaRef,
    /// With this, only aggregates over at least so many rows are told.
    pub min_group_size: Option<u64>,
    /// Position of the last change of a policy in it; 0 without any view.
    pub policy_seq: Seq,
    /// Seen columns by the column of the dataset that they are, as it is.
    plain: BTreeMap<String, String>,
    /// The least strict class of each seen column that is shown as it is.
    classes: BTreeMap<String, Sensitivity>,
}

impl Lens {
    /// The lens of a reader on a name; nothing when there is no such name for them.
    ///
    /// # Errors
    /// [`QueryError::ViewBroken`] when a definition no longer fits its dataset.
    pub fn of(
        state: &CatalogState,
        name: &str,
        reader: &Reader,
        key: &RedactionKey,
    ) -> Result<Option<Self>, QueryError> {
        let seen = if state.views.contains_key(name) {
            reader.sees_view(name)
        } else {
            reader.sees_dataset(name)
        };
        let Some((views, dataset)) = state.views_down(name).filter(|_| seen) else {
            return Ok(None);
        };
        let mut lens = Self::whole(name, dataset, reader)?;
        for view in views.into_iter().rev() {
            lens.look_through(view, reader, key)?;
        }
        lens.lower_to_ceiling(reader, key);
        Ok(Some(lens))
    }

    fn whole(name: &str, dataset: &Arc<Dataset>, reader: &Reader) -> Result<Self, QueryError> {
        let schema = read_schema(arrow_schema(&dataset.schema)?.as_ref());
        let names = || schema.fields().iter().map(|field| field.name().clone());
        Ok(Self {
            name: name.to_owned(),
            plain: names().map(|column| (column.clone(), column)).collect(),
            classes: names()
                .map(|column| (column.clone(), dataset.class(&column)))
                .collect(),
            dataset: Arc::clone(dataset),
            steps: Vec::new(),
            min_group_size: dataset
                .min_group_size
                .filter(|_| !reader.sees_small_groups()),
            policy_seq: 0,
            schema,
        })
    }

    /// Whether it is the dataset itself, with nothing left out and nothing in the way.
    pub fn is_clear(&self) -> bool {
        self.steps.is_empty() && self.min_group_size.is_none()
    }

    /// Whether a seen column is the dataset's column of that name, as it is.
    pub fn shows_plain(&self, column: &str) -> bool {
        self.plain.get(column).is_some_and(|of| of == column)
    }

    /// The seen columns that are shown as they are.
    pub fn plain_columns(&self) -> BTreeSet<String> {
        self.plain.keys().cloned().collect()
    }

    /// The class of a seen column: of what is redacted, public.
    pub fn class(&self, column: &str) -> Sensitivity {
        let class = self.classes.get(column).copied();
        class.unwrap_or(Sensitivity::Public)
    }

    fn look_through(
        &mut self,
        view: &View,
        reader: &Reader,
        key: &RedactionKey,
    ) -> Result<(), QueryError> {
        let broken = |error: QueryError| {
            tracing::warn!(view = view.name, %error, "a view no longer fits its dataset");
            QueryError::ViewBroken(view.name.clone())
        };
        self.add(&view.spec, reader, key).map_err(broken)?;
        self.policy_seq = self.policy_seq.max(view.seq);
        Ok(())
    }

    fn add(
        &mut self,
        spec: &ViewSpec,
        reader: &Reader,
        key: &RedactionKey,
    ) -> Result<(), QueryError> {
        let filter = match &spec.row_filter {
            Some(text) => Some(compile(text, &self.schema, reader)?.predicate),
            None => None,
        };
        let mut shown = Vec::new();
        for name in &spec.columns {
            let field = self
                .schema
                .field_with_name(name)
                .map_err(|_| QueryError::ColumnNotFound(format!("no column `{name}`")))?;
            shown.push((name.clone(), field.data_type().clone(), spec.rule(name)));
        }
        self.push(filter, shown, key);
        self.min_group_size = self.min_group_size.max(spec.min_group_size);
        Ok(())
    }

    /// Masks what is of a higher class than the reader sees.
    fn lower_to_ceiling(&mut self, reader: &Reader, key: &RedactionKey) {
        let Some(ceiling) = reader.ceiling() else {
            return;
        };
        let hidden = |name: &str| self.class(name) > ceiling.class;
        let fields = self.schema.fields().iter();
        if !fields.clone().any(|field| hidden(field.name())) {
            return;
        }
        let shown = fields
            .map(|field| {
                let rule = hidden(field.name()).then_some(&ceiling.rule);
                (field.name().clone(), field.data_type().clone(), rule)
            })
            .collect();
        self.push(None, shown, key);
    }

    fn push(
        &mut self,
        filter: Option<Expr>,
        shown: Vec<(String, DataType, Option<&Redaction>)>,
        key: &RedactionKey,
    ) {
        let mut columns = Vec::new();
        let mut fields = Vec::new();
        let mut plain = BTreeMap::new();
        let mut classes = BTreeMap::new();
        for (name, data_type, rule) in shown {
            let inner = Expr::Column(Column::new_unqualified(&name));
            let Some(rule) = rule else {
                if let Some(of) = self.plain.get(&name) {
                    plain.insert(name.clone(), of.clone());
                    classes.insert(name.clone(), self.class(&name));
                }
                fields.push(Field::new(&name, data_type, true));
                columns.push((name, inner));
                continue;
            };
            let subject = Subject {
                dataset: &self.dataset.id,
                column: &name,
                data_type: &data_type,
            };
            let output = output_type(rule, &data_type).unwrap_or_else(|_| data_type.clone());
            fields.push(Field::new(&name, output, true));
            let expr = expression(rule, &subject, key, inner);
            columns.push((name, expr));
        }
        self.schema = Arc::new(Schema::new(fields));
        self.plain = plain;
        self.classes = classes;
        self.steps.push(LensStep { filter, columns });
    }
}

/// What a definition is over this base: its columns with their types, what its filter reads, and
/// whether that asks who reads.
pub struct Described {
    /// The columns that are seen.
    pub schema: SchemaRef,
    /// The columns that the filter reads.
    pub filter_columns: Vec<String>,
    /// Whether the filter asks who reads.
    pub per_caller: bool,
}

/// Checks a definition against the base that it names.
///
/// # Errors
/// [`QueryError::Invalid`] for a filter or a rule that does not fit, [`QueryError::DatasetNotFound`]
/// when the base is not there.
pub fn described(
    state: &CatalogState,
    spec: &ViewSpec,
    reader: &Reader,
) -> Result<Described, QueryError> {
    let key = RedactionKey::new([0; 32]);
    let everything = Reader::of_everything(reader.principal(), None);
    let base = Lens::of(state, &spec.base, &everything, &key)?;
    let mut lens = base.ok_or_else(|| QueryError::DatasetNotFound {
        name: spec.base.clone(),
        near: Vec::new(),
    })?;
    for redaction in &spec.redactions {
        if let Ok(field) = lens.schema.field_with_name(&redaction.column) {
            output_type(&redaction.rule, field.data_type()).map_err(|why| {
                QueryError::Invalid(format!("column `{}`: {why}", redaction.column))
            })?;
        }
    }
    let filter = match &spec.row_filter {
        Some(text) => Some(compile(text, &lens.schema, &everything)?),
        None => None,
    };
    lens.add(spec, &everything, &key)?;
    Ok(Described {
        schema: lens.schema,
        filter_columns: filter.as_ref().map_or_else(Vec::new, |f| f.columns.clone()),
        per_caller: filter.is_some_and(|filter| filter.per_caller),
    })
}
