//! Long texts as chunks of so many tokens, each beginning with the end of the one before. Builds and
//! refreshes cut here what is embedded, and erasure to know which vectors are still of a text.
//! Pure: the same text has the same chunks as long as `Tokenizer::version` is the same.
//!
//! Every byte of a text is in some chunk. A chunk begins and ends between words, as the tokenizer tells
//! them apart, and never inside of a grapheme: only a word, and then a grapheme, that is longer than a
//! chunk by itself is cut, and never inside of a character.

use std::ops::Range;

use lakehouse_actors::ports::Tokenizer;
use lakehouse_journal::model::catalog::Chunker;
use lakehouse_kernels::wordpiece::{Word, is_cjk, letters_of};
use unicode_segmentation::UnicodeSegmentation;

use super::StaticEmbedder;

/// ASCII letters and digits that are deemed a token: tokenizers in use take about four of English, and
/// fewer of other languages, names and numbers.
const LETTERS_PER_TOKEN: usize = 3;

/// What is not cut: from its first byte to that of the next one.
#[derive(Debug, Clone, Copy)]
struct Piece {
    start: usize,
    tokens: usize,
}

/// The chunks of a text in their order, as ranges of its bytes. An empty text is one, and so is any that
/// has no more tokens than a chunk.
pub fn chunks(text: &str, tokenizer: Tokenizer, chunker: Chunker) -> Vec<Range<usize>> {
    let most = (chunker.tokens as usize).max(1);
    let pieces = pieces(text, tokenizer, most);
    if pieces.is_empty() {
        return std::iter::once(0..text.len()).collect();
    }
    let start_of = |piece: usize| pieces.get(piece).map_or(text.len(), |piece| piece.start);
    let mut found = Vec::new();
    let mut first = 0;
    loop {
        let mut end = first;
        let mut tokens = 0;
        while end < pieces.len() && (end == first || tokens + pieces[end].tokens <= most) {
            tokens += pieces[end].tokens;
            end += 1;
        }
        found.push(start_of(first)..start_of(end));
        let Some(next) = pieces.get(end) else {
            return found;
        };
        // The next chunk holds a piece more than this one, or it would go on for ever.
        let room = (chunker.overlap as usize).min(most.saturating_sub(next.tokens));
        let mut again = end;
        let mut tokens = 0;
        while again > first + 1 && tokens + pieces[again - 1].tokens <= room {
            again -= 1;
            tokens += pieces[again].tokens;
        }
        first = again;
    }
}

/// The pieces of a text: the first begins where it does; none for a text without a word.
fn pieces(text: &str, tokenizer: Tokenizer, most: usize) -> Vec<Piece> {
    let mut pieces = match tokenizer {
        Tokenizer::WordPiece => words(text),
        Tokenizer::Estimated => estimated(text),
    };
    if let Some(first) = pieces.first_mut() {
        first.start = 0;
    }
    if !text.is_ascii() {
        pieces = between_graphemes(text, pieces);
    }
    if pieces.iter().all(|piece| piece.tokens <= most) {
        return pieces;
    }
    let mut cut = Vec::with_capacity(pieces.len());
    for (at, piece) in pieces.iter().enumerate() {
        if piece.tokens <= most {
            cut.push(*piece);
            continue;
        }
        let end = pieces.get(at + 1).map_or(text.len(), |next| next.start);
        let long = &text[piece.start..end];
        cut_up(long, piece.start, tokenizer, most, &mut cut);
    }
    cut
}

fn words(text: &str) -> Vec<Piece> {
    let words = StaticEmbedder::built_in().vocabulary().words_of(text);
    let piece = |Word { start, tokens }| Piece { start, tokens };
    words.into_iter().map(piece).collect()
}

/// Words are runs of letters and digits; every other character is by itself. Blanks belong to what
/// stands before them.
fn estimated(text: &str) -> Vec<Piece> {
    let mut found = Vec::new();
    let mut run: Option<(usize, usize, usize)> = None;
    let piece = |(start, ascii, others): (usize, usize, usize)| Piece {
        start,
        tokens: ascii.div_ceil(LETTERS_PER_TOKEN) + others,
    };
    for (at, c) in text.char_indices() {
        if c.is_alphanumeric() && !is_cjk(c) {
            let (_, ascii, others) = run.get_or_insert((at, 0, 0));
            *(if c.is_ascii() { ascii } else { others }) += 1;
            continue;
        }
        found.extend(run.take().map(piece));
        if !is_blank(c) {
            let tokens = estimate(c);
            found.push(Piece { start: at, tokens });
        }
    }
    found.extend(run.map(piece));
    found
}

fn is_blank(c: char) -> bool {
    c.is_whitespace() || c.is_control()
}

/// Tokens of a character by itself: those that are neither letters nor ASCII are often several.
fn estimate(c: char) -> usize {
    match c {
        _ if is_blank(c) => 0,
        _ if c.is_ascii() || c.is_alphanumeric() => 1,
        _ => 2,
    }
}

/// Those that begin inside of a grapheme are part of the one before.
fn between_graphemes(text: &str, pieces: Vec<Piece>) -> Vec<Piece> {
    let mut starts = text.grapheme_indices(true).map(|(at, _)| at).peekable();
    let mut found: Vec<Piece> = Vec::with_capacity(pieces.len());
    for piece in pieces {
        while starts.next_if(|at| *at < piece.start).is_some() {}
        match found.last_mut() {
            Some(before) if starts.peek() != Some(&piece.start) => before.tokens += piece.tokens,
            _ => found.push(piece),
        }
    }
    found
}

/// A piece that is longer than a chunk, by graphemes; one of those that is longer still, by characters.
fn cut_up(long: &str, start: usize, tokenizer: Tokenizer, most: usize, into: &mut Vec<Piece>) {
    let tokens_of = |c: char| match tokenizer {
        Tokenizer::WordPiece => letters_of(c),
        Tokenizer::Estimated => estimate(c),
    };
    for (at, grapheme) in long.grapheme_indices(true) {
        let tokens = grapheme.chars().map(tokens_of).sum();
        let start = start + at;
        if tokens <= most {
            into.push(Piece { start, tokens });
            continue;
        }
        into.extend(grapheme.char_indices().map(|(at, c)| Piece {
            start: start + at,
            tokens: tokens_of(c),
        }));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOTH: [Tokenizer; 2] = [Tokenizer::WordPiece, Tokenizer::Estimated];

    fn of(tokens: u32, overlap: u32) -> Chunker {
        Chunker { tokens, overlap }
    }

    /// Tokens of a text by itself.
    fn tokens(text: &str, tokenizer: Tokenizer) -> usize {
        let found = match tokenizer {
            Tokenizer::WordPiece => words(text),
            Tokenizer::Estimated => estimated(text),
        };
        found.iter().map(|piece| piece.tokens).sum()
    }

    fn cut(text: &str, tokenizer: Tokenizer, chunker: Chunker) -> Vec<&str> {
        let found = chunks(text, tokenizer, chunker).into_iter();
        found.map(|range| &text[range]).collect()
    }

    /// What must hold of the chunks of any text.
    fn assert_whole(text: &str, tokenizer: Tokenizer, chunker: Chunker) {
        let found = chunks(text, tokenizer, chunker);
        assert_eq!(found.first().map(|range| range.start), Some(0));
        assert_eq!(found.last().map(|range| range.end), Some(text.len()));
        for range in &found {
            assert!(
                text.get(range.clone()).is_some(),
                "{range:?} cuts a character"
            );
            let count = tokens(&text[range.clone()], tokenizer);
            assert!(count <= chunker.tokens as usize, "{count} in {range:?}");
        }
        for pair in found.windows(2) {
            assert!(pair[0].start < pair[1].start && pair[0].end < pair[1].end);
            assert!(pair[1].start <= pair[0].end, "nothing is left out");
            let again = tokens(&text[pair[1].start..pair[0].end], tokenizer);
            assert!(again <= chunker.overlap as usize, "{again} tokens again");
        }
    }

    #[test]
    fn a_short_text_is_one_chunk_and_an_empty_one_too() {
        for tokenizer in BOTH {
            for text in ["", " \n\t", "one two three", "\u{301}"] {
                assert_eq!(cut(text, tokenizer, of(8, 2)), [text]);
            }
        }
    }

    #[test]
    fn chunks_end_between_words_and_begin_with_the_end_of_the_one_before() {
        let text = "a cat and a dog and a bird and a fish swim";
        let found = cut(text, Tokenizer::WordPiece, of(8, 2));
        assert_eq!(
            found,
            ["a cat and a dog and a bird ", "a bird and a fish swim"]
        );
        let found = cut(text, Tokenizer::WordPiece, of(8, 0));
        assert_eq!(found, ["a cat and a dog and a bird ", "and a fish swim"]);
    }

    #[test]
    fn a_word_that_is_longer_than_a_chunk_is_cut_between_characters() {
        let long = "antidisestablishmentarianisticallyquzzxqj".repeat(2);
        let ideographs = "東京".repeat(30);
        for tokenizer in BOTH {
            assert!(tokens(&long, tokenizer) > 8);
            for text in [long.as_str(), &ideographs, &"é".repeat(90)] {
                assert_whole(text, tokenizer, of(8, 3));
            }
        }
    }

    #[test]
    fn a_grapheme_is_cut_only_when_it_is_longer_than_a_chunk() {
        let family = "\u{1F468}\u{200D}\u{1F469}\u{200D}\u{1F467} ";
        let text = family.repeat(40);
        for part in cut(&text, Tokenizer::Estimated, of(32, 8)) {
            assert!(part.starts_with('\u{1F468}'), "{part:?}");
        }
        let accents = format!("a{}", "\u{301}".repeat(100));
        let found = cut(&accents, Tokenizer::Estimated, of(8, 0));
        assert!(found.len() > 10, "{}", found.len());
        assert_whole(&accents, Tokenizer::Estimated, of(8, 0));
    }

    proptest! {
        #[test]
        fn any_text_is_cut_whole(
            text in ".{0,400}",
            tokens in 8_u32..64,
            share in 0_u32..50,
        ) {
            let chunker = of(tokens, (tokens - 1) / 2 * share / 50);
            for tokenizer in BOTH {
                assert_whole(&text, tokenizer, chunker);
            }
        }

        #[test]
        fn words_of_any_script_are_cut_whole(
            words in prop::collection::vec("[a-zA-Z0-9,.!éßñ東京한국ไทย\u{301}\u{1F468}\u{200D}\u{1F1E9}]{1,60}", 0..60),
            tokens in 8_u32..32,
            overlap in 0_u32..4,
        ) {
            let text = words.join(" ");
            for tokenizer in BOTH {
                assert_whole(&text, tokenizer, of(tokens, overlap));
            }
        }
    }
}
