//! `as_of`: the catalog as it was at a position of the journal or at a time, read from the files of
//! today. SQL and search ask here; what of the past may still be seen is the model's to say.

use std::{collections::BTreeMap, sync::Arc};

use actix_web::http::StatusCode;
use lakehouse_journal::{
    model::{
        Fold,
        catalog::{CatalogState, Index},
    },
    record::Seq,
};
use serde_json::Value;

use super::{Edge, problem::Problem, times};
use crate::query::Pinned;

/// The catalog as a request sees it.
pub struct Snapshot {
    /// Datasets and indexes; its position is that of the files, which is always today's.
    pub catalog: Arc<Fold<CatalogState>>,
    /// The position that the answer is of.
    pub as_of: Seq,
    /// Datasets that were there then and whose files of then are no longer kept, with the oldest
    /// position that can be asked for.
    expired: BTreeMap<String, Seq>,
    /// Its files stay until the request is answered.
    _pinned: Pinned,
}

impl Snapshot {
    /// The catalog of now, or as it was.
    ///
    /// # Errors
    /// 400 for what is no position and no time, or one that the journal has not reached.
    pub async fn of(edge: &Edge, as_of: Option<&Value>) -> Result<Self, Problem> {
        // What is erased before this is in no snapshot that is read after it.
        let pinned = edge.query.pin(edge.lake.catalog().seq);
        let now = edge.lake.catalog();
        let Some(as_of) = as_of else {
            let as_of = now.seq;
            return Ok(Self {
                catalog: now,
                as_of,
                expired: BTreeMap::new(),
                _pinned: pinned,
            });
        };
        let as_of = position(edge, as_of).await?;
        let then = edge.lake.catalog_at(as_of).await?;
        let mut past = CatalogState::default();
        let mut expired = BTreeMap::new();
        for (name, dataset) in &now.state.datasets {
            let Some(old) = then.datasets.get(name).filter(|old| old.id == dataset.id) else {
                continue;
            };
            match dataset.as_it_was(old) {
                Ok(dataset) => {
                    past.datasets.insert(name.clone(), Arc::new(dataset));
                }
                Err(oldest) => {
                    expired.insert(name.clone(), oldest);
                }
            }
        }
        // Whatever the time that is asked of, a view is today's policy.
        past.views = now.state.views.clone();
        for (name, index) in &now.state.indexes {
            if let Some(index) = index_then(index, then.indexes.get(name)) {
                past.indexes.insert(name.clone(), Arc::new(index));
            }
        }
        let mut catalog = Fold::default();
        catalog.state = past;
        catalog.seq = now.seq;
        Ok(Self {
            catalog: Arc::new(catalog),
            as_of,
            expired,
            _pinned: pinned,
        })
    }

    /// The problem to answer with when `name` is not there: that it is no longer kept, if so.
    pub fn explain_missing(&self, name: &str, problem: Problem) -> Problem {
        match self.expired.get(name) {
            Some(oldest) => Problem::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "as_of_too_old",
                format!("files of dataset `{name}` are kept from position {oldest} on"),
            ),
            None => problem,
        }
    }
}

/// The index with the generation that answered then, if that is still kept.
fn index_then(now: &Index, then: Option<&Arc<Index>>) -> Option<Index> {
    let answered = then?.live_generation()?;
    let kept = now
        .generations
        .iter()
        .any(|built| built.prefix == answered.prefix);
    kept.then(|| {
        let mut index = Index {
            live: Some(answered.generation),
            ..now.clone()
        };
        for built in &mut index.generations {
            if built.generation == answered.generation {
                built.deltas.retain(|delta| answered.deltas.contains(delta));
                built.rows_seq = answered.rows_seq;
            }
        }
        index
    })
}

/// A number is a position of the journal, a text is a time.
async fn position(edge: &Edge, as_of: &Value) -> Result<Seq, Problem> {
    match as_of {
        Value::Number(number) => number.as_u64().filter(|seq| *seq > 0).ok_or_else(|| {
            Problem::invalid(format!("`as_of`: {number} is no position of the journal"))
        }),
        Value::String(text) => {
            let time = times::parse(text)
                .map_err(|error| Problem::invalid(format!("`as_of`: {}", error.detail)))?;
            let lake = edge.lake.clone();
            let seq = actix_web::web::block(move || lake.seq_at(time))
                .await
                .map_err(|error| Problem::internal(&error))??;
            if seq == 0 {
                let text = format!("`as_of`: the journal begins after {text}");
                return Err(Problem::invalid(text));
            }
            Ok(seq)
        }
        other => Err(Problem::invalid(format!(
            "`as_of` is a position or a time, not `{other}`"
        ))),
    }
}
