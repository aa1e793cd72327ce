//! Whether a caller may be answered by an index, and what of it: only when all that it was built from is seen
//! by them as it is. Every route that shows texts or vectors asks here.

use std::sync::Arc;

use actix_web::http::StatusCode;
use lakehouse_journal::model::{
    Fold,
    catalog::{CatalogState, Index},
};

use crate::{
    engines::indexes::Sight,
    query::{
        QuerySession, Reader, SessionTables,
        policy::{NoWay, Way, way},
    },
    rest::{
        Edge,
        auth::{May, Needs},
        problem::Problem,
    },
};

/// The way of a caller to an index: what its rows are seen through. Filters and columns are over that.
///
/// # Errors
/// 404 as for an index that is not there, 403 that says what would help, 409 while it is built anew.
pub fn must_answer(
    edge: &Edge,
    state: &CatalogState,
    index: &Index,
    reader: &Reader,
) -> Result<Way, Problem> {
    let denied = |text: String| Problem::new(StatusCode::FORBIDDEN, "index_denied", text);
    let name = &index.name;
    let way = way(state, index, reader, None, &edge.query.redaction_key())?;
    way.map_err(|why| match why {
        NoWay::Unknown | NoWay::NotThrough(_) => Problem::not_found("index", name),
        NoWay::Hidden(source) => denied(format!(
            "index `{name}` holds text or keys that you do not see as they are in `{source}`; an index built over `{source}` would answer you"
        )),
        NoWay::Groups(least) => denied(format!(
            "index `{name}` holds rows of which only groups of {least} and more are told"
        )),
        NoWay::Outdated => Problem::new(
            StatusCode::CONFLICT,
            "index_not_ready",
            format!("index `{name}` is being built anew, as what it may show has changed"),
        ),
    })
}

/// Refuses whoever does not see every row that an index was built from: what is measured is of all of them.
///
/// # Errors
/// As [`must_answer`]; 403 for who is answered through a narrower view only.
pub fn must_show_all(
    edge: &Edge,
    state: &CatalogState,
    index: &Index,
    reader: &Reader,
) -> Result<(), Problem> {
    let way = must_answer(edge, state, index, reader)?;
    if way.through == index.spec.source {
        return Ok(());
    }
    let text = format!(
        "what was measured on index `{}` is of rows that you do not see",
        index.name
    );
    let code = "index_denied";
    Err(Problem::new(StatusCode::FORBIDDEN, code, text))
}

/// Makes the sessions that a caller's rows are read by: of what they see, in their limits, of this name
/// and no other.
pub fn sessions<'a, P: Needs>(
    edge: &'a Edge,
    may: &'a May<P>,
    catalog: &'a Fold<CatalogState>,
    way: &'a Way,
) -> impl Fn() -> QuerySession + Send + Sync + 'a {
    let state = Arc::new(catalog.state.clone());
    let (reader, limits) = (may.reader().and_only(&way.through), may.limits());
    move || {
        let tables = SessionTables::of_reader(Arc::clone(&state), catalog.seq, reader.clone());
        limits.applied_to(edge.query.session(tables))
    }
}

/// What a caller sees of an index's rows.
pub fn sight<'a>(way: &'a Way, session: &'a (dyn Fn() -> QuerySession + Send + Sync)) -> Sight<'a> {
    Sight {
        through: &way.through,
        is_restricted: way.restricted,
        id: way.sight.clone(),
        session,
    }
}
