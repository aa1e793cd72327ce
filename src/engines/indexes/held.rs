//! Which rows of a source an index has as they are: by their texts, or by their vectors where these are a
//! column. The refresh embeds the others, and a build takes over the vectors of these; a search through a
//! view shows none of the others.

use arrow::record_batch::RecordBatch;
use lakehouse_actors::PortError;
use lakehouse_journal::model::catalog::Index;

use super::{
    Live,
    chunks::WholeRow,
    of_vector,
    source::{texts_of, vectors_of},
};

/// A row of a source, as an index has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    /// Not at all.
    Not,
    /// Its key, with another text or another vector.
    Otherwise,
    /// In this slot, as it is.
    In(u64),
}

impl Held {
    /// The slot that holds it as it is.
    pub fn slot(self) -> Option<u64> {
        match self {
            Self::In(slot) => Some(slot),
            Self::Not | Self::Otherwise => None,
        }
    }
}

/// For each row of an answer to `rows_query` whether the index has it as it is.
///
/// # Errors
/// When the index cannot be read, or the source has no vectors where it should.
pub(super) async fn held(
    index: &Index,
    live: &Live,
    batch: &RecordBatch,
) -> Result<Vec<Held>, PortError> {
    let (keys, texts) = texts_of(index, batch)?;
    let slots: Vec<Option<u64>> = keys.iter().map(|key| live.slot_of(key?)).collect();
    let known: Vec<u64> = slots.iter().flatten().copied().collect();
    let text_of = |row: usize| texts.as_ref().map(|texts| texts[row].as_str());
    let failed = |error| of_vector(&error);
    let rows = slots.into_iter().enumerate();
    if index.spec.vector_column.is_none() {
        let mut known = live.texts(&known).await.map_err(failed)?.into_iter();
        let as_it_is = |(row, slot)| of(slot, || known.next().flatten().as_deref() == text_of(row));
        return Ok(rows.map(as_it_is).collect());
    }
    let vectors = vectors_of(batch)?;
    let mut known = live.stored(&known).await.map_err(failed)?.into_iter();
    let as_it_is = |(row, slot)| {
        of(slot, || {
            known.next().is_some_and(|has| {
                vectors.is(row, &has.vector) && has.text.as_deref() == text_of(row)
            })
        })
    };
    Ok(rows.map(as_it_is).collect())
}

/// `same` is asked once for each slot, in their order.
fn of(slot: Option<u64>, same: impl FnOnce() -> bool) -> Held {
    match slot {
        None => Held::Not,
        Some(slot) if same() => Held::In(slot),
        Some(_) => Held::Otherwise,
    }
}

/// What a build takes over of what answers.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// For each row what is held of the same text; empty is nothing for any.
    pub rows: Vec<Option<WholeRow>>,
    /// Rows that were there with another text.
    pub changed: u64,
}

/// What is held of the rows of an answer to `rows_query` that are held as they are.
///
/// # Errors
/// As [`held`].
pub(super) async fn kept(
    index: &Index,
    live: &Live,
    batch: &RecordBatch,
) -> Result<Kept, PortError> {
    let rows = held(index, live, batch).await?;
    let slots: Vec<u64> = rows.iter().filter_map(|row| row.slot()).collect();
    let whole = live.whole(&slots).await;
    let mut whole = whole.map_err(|error| of_vector(&error))?.into_iter();
    let changed = rows.iter().filter(|row| **row == Held::Otherwise).count();
    let as_held = |row: &Held| row.slot().and_then(|_| whole.next());
    Ok(Kept {
        rows: rows.iter().map(as_held).collect(),
        changed: changed as u64,
    })
}

/// What a build takes over whose vectors are made otherwise: nothing.
///
/// # Errors
/// As [`held`].
pub(super) async fn none_kept(
    index: &Index,
    live: &Live,
    batch: &RecordBatch,
) -> Result<Kept, PortError> {
    let rows = held(index, live, batch).await?;
    let changed = rows.iter().filter(|row| **row != Held::Not).count();
    Ok(Kept {
        rows: Vec::new(),
        changed: changed as u64,
    })
}
