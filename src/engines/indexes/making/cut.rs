//! The same for texts that are cut: each chunk is embedded, those of rows that answer already with the
//! same text keep their vectors. A row is there when one of its chunks is; one of which a chunk is refused
//! counts as refused.

use std::ops::Range;

use arrow::{array::StringArray, record_batch::RecordBatch};
use lakehouse_actors::{
    PortError,
    ports::{ChunkSpan, Embedder, Progress, TextVector, Tokenizer},
};
use lakehouse_journal::model::{
    ErrorKind,
    catalog::{Chunker, Cutting, IndexSpec},
};

use super::{Counts, Maker, blocking};
use crate::engines::{
    embedder::chunker::chunks,
    indexes::{chunks::WholeRow, held::Kept, source::Rows},
};

/// Rows of long texts that are embedded, and held in memory with their vectors, at a time.
const ROWS_AT_A_TIME: usize = 256;

/// What the texts of an index are cut with by this model, when they are.
pub(super) fn cutting_of(spec: &IndexSpec, embedder: &dyn Embedder) -> Option<Cutting> {
    spec.chunk.map(|chunk| Cutting {
        tokenizer: embedder.tokens().tokenizer.version().to_owned(),
        chunk,
    })
}

/// Refuses chunks that are longer than a model takes texts.
///
/// # Errors
/// `Unprocessable` with both numbers.
pub fn must_fit_model(chunk: Option<Chunker>, embedder: &dyn Embedder) -> Result<(), PortError> {
    let (Some(chunk), Some(most)) = (chunk, embedder.tokens().most) else {
        return Ok(());
    };
    if chunk.tokens <= most {
        return Ok(());
    }
    let text = format!(
        "`chunk.tokens` is {}, model `{}` takes {most} tokens of a text",
        chunk.tokens,
        embedder.identity().model
    );
    let (kind, code) = (ErrorKind::Unprocessable, "impossible");
    Err(PortError::new(kind, code, text))
}

/// The texts that are embedded for a row's text: its chunks where it is cut, itself where it is not.
pub fn parts_of<'a>(
    text: &'a str,
    chunk: Option<Chunker>,
    embedder: &dyn Embedder,
) -> Vec<&'a str> {
    let Some(chunk) = chunk else {
        return vec![text];
    };
    let parts = chunks(text, embedder.tokens().tokenizer, chunk).into_iter();
    parts.filter_map(|part| text.get(part)).collect()
}

/// A row on its way: its text, where that is cut, and what is held of it.
struct CutRow {
    text: String,
    chunks: Vec<Range<usize>>,
    kept: Option<WholeRow>,
}

impl CutRow {
    /// The vector that is held of a chunk.
    fn kept(&self, chunk: &Range<usize>, dimensions: usize) -> Option<&[f32]> {
        let kept = self.kept.as_ref()?;
        let begins = |held: &ChunkSpan| held.start as usize;
        let at = kept.chunks.binary_search_by_key(&chunk.start, begins);
        let at = at
            .ok()
            .filter(|at| kept.chunks[*at].end as usize == chunk.end)?;
        kept.vectors.get(at * dimensions..(at + 1) * dimensions)
    }
}

impl Maker {
    /// A batch as it is worked on: at once, or in parts where texts are long.
    pub fn portions(&self, batch: &RecordBatch) -> Vec<RecordBatch> {
        if self.cutting.is_none() {
            return vec![batch.clone()];
        }
        let firsts = (0..batch.num_rows()).step_by(ROWS_AT_A_TIME);
        firsts
            .map(|first| {
                let length = ROWS_AT_A_TIME.min(batch.num_rows() - first);
                batch.slice(first, length)
            })
            .collect()
    }

    /// Rows whose texts are cut; see [`Maker::rows`].
    pub(super) async fn cut_rows(
        &mut self,
        keys: &StringArray,
        texts: Vec<String>,
        kept: Kept,
        progress: &Progress,
    ) -> Result<(Rows, Counts), PortError> {
        let dimensions = self.model.dimensions as usize;
        let mut held = kept.rows;
        held.resize(texts.len(), None);
        let rows = texts.into_iter().zip(held).collect();
        let rows = self.cut(rows).await?;
        let mut missing: Vec<String> = Vec::new();
        let mut unmade = 0;
        for row in &rows {
            let before = missing.len();
            let new = row.chunks.iter();
            let new = new.filter(|chunk| row.kept(chunk, dimensions).is_none());
            missing.extend(new.map(|chunk| row.text[chunk.clone()].to_owned()));
            unmade += usize::from(missing.len() > before);
        }
        let made = self.made_or_left_out(&missing, unmade, progress).await?;
        let mut counts = Counts {
            changed: kept.changed,
            ..Counts::default()
        };
        let joined = joined(keys, &rows, dimensions, made, &mut counts);
        self.note_refused(&mut counts);
        Ok((joined, counts))
    }

    /// Cuts texts. Where nobody embeds, the chunks of a text are those that are held of it.
    async fn cut(&self, rows: Vec<(String, Option<WholeRow>)>) -> Result<Vec<CutRow>, PortError> {
        let cutting = self.cutting.as_ref().map(|cutting| cutting.chunk);
        let sender = self.sender.as_ref().ok();
        let with: Option<(Tokenizer, Chunker)> =
            sender.and_then(|sender| Some((sender.embedder.tokens().tokenizer, cutting?)));
        blocking(move || {
            let cut = |(text, kept): (String, Option<WholeRow>)| {
                let chunks = match (with, &kept) {
                    (Some((tokenizer, chunker)), _) => chunks(&text, tokenizer, chunker),
                    (None, Some(kept)) => kept.chunks.iter().map(bytes).collect(),
                    (None, None) => std::iter::once(0..text.len()).collect(),
                };
                CutRow { text, chunks, kept }
            };
            Ok(rows.into_iter().map(cut).collect())
        })
        .await
    }
}

fn bytes(chunk: &ChunkSpan) -> Range<usize> {
    chunk.start as usize..chunk.end as usize
}

/// Rows, each of their chunks with the vector that it keeps or the next one that was made.
fn joined(
    keys: &StringArray,
    rows: &[CutRow],
    dimensions: usize,
    made: Vec<TextVector>,
    counts: &mut Counts,
) -> Rows {
    let mut made = made.into_iter();
    let mut found = Rows::default();
    let mut texts = Vec::with_capacity(rows.len());
    for (at, row) in rows.iter().enumerate() {
        let number = u32::try_from(found.keys.len()).unwrap_or(u32::MAX);
        let (mut there, mut new, mut refused) = (false, false, false);
        for (chunk, nth) in row.chunks.iter().zip(0..) {
            if let Some(vector) = row.kept(chunk, dimensions) {
                found.vectors.extend_from_slice(vector);
            } else if let Some(TextVector::Vector(vector)) = made.next() {
                found.vectors.extend(vector);
                new = true;
            } else {
                refused = true;
                continue;
            }
            there = true;
            // A column of texts has no more bytes than 32 bits count.
            let place = |byte: usize| u32::try_from(byte).unwrap_or(u32::MAX);
            found.chunks.push(ChunkSpan {
                row: number,
                number: nth,
                start: place(chunk.start),
                end: place(chunk.end),
            });
        }
        counts.refused += u64::from(refused);
        if !there {
            counts.skipped += 1;
            continue;
        }
        counts.reused += u64::from(!new);
        found.keys.push(keys.value(at).to_owned());
        texts.push(row.text.clone());
    }
    found.skipped = counts.skipped;
    found.texts = Some(texts);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(text: &str, chunks: &[Range<usize>], kept: Option<WholeRow>) -> CutRow {
        CutRow {
            text: text.to_owned(),
            chunks: chunks.to_vec(),
            kept,
        }
    }

    fn span(row: u32, number: u32, bytes: Range<u32>) -> ChunkSpan {
        ChunkSpan {
            row,
            number,
            start: bytes.start,
            end: bytes.end,
        }
    }

    #[test]
    fn a_chunk_keeps_its_vector_or_has_the_next_one_and_a_row_is_there_by_any_of_them() {
        let keys = StringArray::from(vec!["a", "b", "c"]);
        let held = WholeRow {
            key: "a".to_owned(),
            text: Some("one two".to_owned()),
            vectors: vec![1.0, 2.0],
            chunks: vec![span(0, 0, 0..4), span(0, 1, 4..7)],
        };
        let rows = [
            row("one two", &[0..4, 4..7], Some(held)),
            row("? three", &[0..2, 2..7], None),
            row("?", std::slice::from_ref(&(0..1)), None),
        ];
        let refused = || TextVector::Refused {
            code: "text_refused".to_owned(),
            reason: String::new(),
        };
        let made = vec![refused(), TextVector::Vector(vec![3.0]), refused()];
        let mut counts = Counts::default();
        let found = joined(&keys, &rows, 1, made, &mut counts);
        assert_eq!(found.keys, ["a", "b"]);
        assert_eq!(found.texts.unwrap(), ["one two", "? three"]);
        assert_eq!(found.vectors, [1.0, 2.0, 3.0]);
        let chunks = [span(0, 0, 0..4), span(0, 1, 4..7), span(1, 1, 2..7)];
        assert_eq!(found.chunks, chunks);
        assert_eq!((counts.reused, counts.skipped, counts.refused), (1, 1, 2));
    }

    #[test]
    fn what_is_held_of_other_chunks_is_not_taken_over() {
        let held = WholeRow {
            key: "a".to_owned(),
            text: Some("one two".to_owned()),
            vectors: vec![1.0, 2.0],
            chunks: vec![span(0, 0, 0..4), span(0, 1, 3..7)],
        };
        let row = row("one two", &[0..4, 4..7], Some(held));
        assert_eq!(row.kept(&(0..4), 1), Some(&[1.0][..]));
        assert_eq!(row.kept(&(4..7), 1), None);
    }
}
