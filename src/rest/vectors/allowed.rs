//! Whether a caller may be answered by an index: only when all that it was built from is seen by them as it
//! is, and by questions about columns that they see. Every route that shows texts or vectors asks here.

use actix_web::http::StatusCode;
use lakehouse_journal::model::catalog::{CatalogState, Index};

use crate::{
    query::{
        Reader,
        policy::{Lens, NoWay, way},
    },
    rest::{Edge, problem::Problem},
};

/// Refuses a caller who does not see all of an index as it is; with a predicate or columns of its rows,
/// also one who does not see these.
///
/// # Errors
/// 404 as for an index that is not there, 403 that says what would help, 409 while it is built anew.
pub fn must_answer(
    edge: &Edge,
    state: &CatalogState,
    index: &Index,
    reader: &Reader,
    filter: Option<&str>,
    columns: &[String],
) -> Result<(), Problem> {
    let key = edge.query.redaction_key();
    let denied = |text: String| Problem::new(StatusCode::FORBIDDEN, "index_denied", text);
    let name = &index.name;
    if let Err(why) = way(state, index, reader, None, &key)? {
        return Err(match why {
            NoWay::Unknown | NoWay::NotThrough(_) => Problem::not_found("index", name),
            NoWay::Hidden(source) => denied(format!(
                "index `{name}` holds text or keys that you do not see as they are in `{source}`; build one over columns that you see"
            )),
            NoWay::Groups(least) => denied(format!(
                "index `{name}` holds rows of which only groups of {least} and more are told"
            )),
            NoWay::Outdated => Problem::new(
                StatusCode::CONFLICT,
                "index_not_ready",
                format!("index `{name}` is being built anew, as what it may show has changed"),
            ),
        });
    }
    let lens = Lens::of(state, &index.spec.source, reader, &key)?;
    let Some(lens) = lens.filter(|lens| !lens.is_clear()) else {
        return Ok(());
    };
    if filter.is_some() {
        let text = format!("`filter`: you do not see every column of `{}`", lens.name);
        return Err(denied(text));
    }
    match columns.iter().find(|column| !lens.shows_plain(column)) {
        Some(column) => Err(denied(format!("`columns`: you do not see `{column}`"))),
        None => Ok(()),
    }
}
