//! Which rows of a source an index has as they are: by their texts, or by their vectors where these are a
//! column. The refresh embeds the others; a search through a view shows none of them.

use arrow::record_batch::RecordBatch;
use lakehouse_actors::PortError;
use lakehouse_journal::model::catalog::Index;

use super::{
    Live, of_vector,
    source::{texts_of, vectors_of},
};

/// For each row of an answer to `rows_query` the slot that holds it, when it is held as it is.
///
/// # Errors
/// When the index cannot be read, or the source has no vectors where it should.
pub(super) async fn held(
    index: &Index,
    live: &Live,
    batch: &RecordBatch,
) -> Result<Vec<Option<u64>>, PortError> {
    let (keys, texts) = texts_of(index, batch)?;
    let slots: Vec<Option<u64>> = keys.iter().map(|key| live.slot_of(key?)).collect();
    let known: Vec<u64> = slots.iter().flatten().copied().collect();
    let text_of = |row: usize| texts.as_ref().map(|texts| texts[row].as_str());
    let failed = |error| of_vector(&error);
    if index.spec.vector_column.is_none() {
        let mut known = live.texts(&known).await.map_err(failed)?.into_iter();
        let same = |(row, slot): (usize, Option<u64>)| {
            let slot = slot?;
            let has = known.next()?;
            (has.as_deref() == text_of(row)).then_some(slot)
        };
        return Ok(slots.into_iter().enumerate().map(same).collect());
    }
    let vectors = vectors_of(batch)?;
    let mut known = live.stored(&known).await.map_err(failed)?.into_iter();
    let same = |(row, slot): (usize, Option<u64>)| {
        let slot = slot?;
        let has = known.next()?;
        let same = vectors.is(row, &has.vector) && has.text.as_deref() == text_of(row);
        same.then_some(slot)
    };
    Ok(slots.into_iter().enumerate().map(same).collect())
}
