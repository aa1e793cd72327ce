//! Whether an index may answer a reader: only when everything that it was built from is seen there as it
//! was embedded. Search asks here before it opens anything.

use lakehouse_journal::model::catalog::{CatalogState, Index};

use super::{Lens, RedactionKey};
use crate::query::{QueryError, Reader};

/// The way of a reader to an index.
#[derive(Debug, Clone)]
pub struct Way {
    /// The dataset or view that rows are seen through: filters and columns are over it.
    pub through: String,
    /// Whether rows of the index may be hidden there, so that the allowed ones have to be asked for.
    pub restricted: bool,
    /// What the set of allowed rows depends on, besides the rows themselves.
    pub sight: String,
}

/// Why an index does not answer a reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoWay {
    /// It is over nothing that the reader may know of: there is no such index for them.
    Unknown,
    /// What it holds is not seen as it is; the name is that of the view or dataset.
    Hidden(String),
    /// It was built under an older policy and is being built anew.
    Outdated,
    /// A name that the reader gave is none to see the index through.
    NotThrough(String),
    /// Of what it holds, only groups are told.
    Groups(u64),
}

/// The way of a reader to an index; with `wanted`, through that view.
///
/// # Errors
/// [`QueryError::ViewBroken`] when a definition no longer fits its dataset.
pub fn way(
    state: &CatalogState,
    index: &Index,
    reader: &Reader,
    wanted: Option<&str>,
    key: &RedactionKey,
) -> Result<Result<Way, NoWay>, QueryError> {
    let source = index.spec.source.as_str();
    let mut candidates = candidates(state, source, reader);
    if let Some(wanted) = wanted {
        if candidates.is_empty() {
            return Ok(Err(NoWay::Unknown));
        }
        candidates.retain(|name| name == wanted);
        if candidates.is_empty() {
            return Ok(Err(NoWay::NotThrough(wanted.to_owned())));
        }
    }
    let mut refused = NoWay::Unknown;
    for name in candidates {
        let Some(lens) = Lens::of(state, &name, reader, key)? else {
            continue;
        };
        match served(state, index, &lens, key)? {
            Ok(()) => return Ok(Ok(way_through(state, index, reader, &lens))),
            Err(why) => refused = why,
        }
    }
    if refused == NoWay::Unknown {
        return Ok(Err(refused));
    }
    let outdated = index
        .live_generation()
        .is_some_and(|live| live.oldest_source() < state.policy_seq(source));
    Ok(Err(if outdated { NoWay::Outdated } else { refused }))
}

/// The names that the reader sees and that show rows of `source`: itself, and views that stand on it.
fn candidates(state: &CatalogState, source: &str, reader: &Reader) -> Vec<String> {
    let itself = if state.views.contains_key(source) {
        reader.sees_view(source)
    } else {
        reader.sees_dataset(source)
    };
    let over = state.views.keys().filter(|name| {
        let stands = state.views_down(name).is_some_and(|(views, dataset)| {
            dataset.name == source || views.iter().skip(1).any(|view| view.name == source)
        });
        stands && name.as_str() != source && reader.sees_view(name)
    });
    itself
        .then(|| source.to_owned())
        .into_iter()
        .chain(over.cloned())
        .collect()
}

fn served(
    state: &CatalogState,
    index: &Index,
    lens: &Lens,
    key: &RedactionKey,
) -> Result<Result<(), NoWay>, QueryError> {
    let source = index.spec.source.as_str();
    if let Some(least) = lens.min_group_size {
        return Ok(Err(NoWay::Groups(least)));
    }
    let policy = state.policy_seq(source);
    if index
        .live_generation()
        .is_some_and(|live| live.oldest_source() < policy)
    {
        return Ok(Err(NoWay::Outdated));
    }
    let text = index.spec.text.columns().unwrap_or_default();
    let held = text.iter().chain(index.spec.key.columns());
    let hidden = || Ok(Err(NoWay::Hidden(lens.name.clone())));
    for column in held.chain(&index.spec.vector_column) {
        if !as_in_source(state, lens, source, column) {
            return hidden();
        }
        if lens.shows_plain(column) {
            continue;
        }
        // What is as it is in the dataset must still be so under the reader's ceiling.
        let Some(embedded) = Lens::of(state, source, &Reader::daemon(), key)? else {
            return Ok(Err(NoWay::Unknown));
        };
        if embedded.shows_plain(column) {
            return hidden();
        }
    }
    Ok(Ok(()))
}

/// Whether no view between the lens and the source leaves a column out or changes it.
fn as_in_source(state: &CatalogState, lens: &Lens, source: &str, column: &str) -> bool {
    let Some((views, _)) = state.views_down(&lens.name) else {
        return false;
    };
    views
        .into_iter()
        .take_while(|view| view.name != source)
        .all(|view| view.shows_plain(column))
}

fn way_through(state: &CatalogState, index: &Index, reader: &Reader, lens: &Lens) -> Way {
    let views = state
        .views_down(&lens.name)
        .map_or_else(Vec::new, |(views, _)| views);
    let filtered = views
        .iter()
        .take_while(|view| view.name != index.spec.source)
        .any(|view| view.spec.row_filter.is_some());
    // A view's own rows may have left it since the index was built, so they are asked for as well.
    let of_view = state.views.contains_key(&index.spec.source);
    let per_caller = views.iter().any(|view| view.spec.per_caller);
    let who = if per_caller {
        format!("{:?} {:?}", reader.principal(), reader.whom())
    } else {
        String::new()
    };
    Way {
        through: lens.name.clone(),
        restricted: filtered || of_view,
        sight: format!("{} {} {who}", lens.name, lens.policy_seq),
    }
}
