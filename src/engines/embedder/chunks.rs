//! Long texts, cut into parts that a model takes. A part is a piece of the text as it stands: cut
//! between words where there is one, and never inside of what a reader sees as one character.
//! Tokens are counted as `WordPiece` counts them, whatever model is asked: close enough for a limit.

use std::ops::Range;

use lakehouse_journal::model::catalog::ChunkSpec;

use super::{
    StaticEmbedder,
    categories::{is_cjk, is_nonspacing_mark, is_punctuation},
    words::for_each_word,
};

/// The longest run of letters that is taken as one word; a longer one may be cut.
const WORD_CHARS_MAX: usize = 64;

/// A piece of a text that is not cut any further, with its tokens.
struct Unit {
    bytes: Range<usize>,
    tokens: u32,
}

/// Where the parts of `text` lie in it, in order; one that is the whole text when that is short
/// enough, and none of a text without words.
pub fn chunks(text: &str, spec: Option<ChunkSpec>) -> Vec<Range<usize>> {
    if text.trim().is_empty() {
        return Vec::new();
    }
    let whole = 0..text.len();
    // A token has a byte at least.
    let Some(spec) = spec.filter(|spec| text.len() > spec.tokens as usize) else {
        return vec![whole];
    };
    // A character is three tokens at most (a Hangul syllable is): so no unit is longer than a part.
    let units = units(text, WORD_CHARS_MAX.min(spec.tokens as usize / 3));
    let tokens: u64 = units.iter().map(|unit| u64::from(unit.tokens)).sum();
    if tokens <= u64::from(spec.tokens) {
        return vec![whole];
    }
    packed(&units, spec)
}

/// Units put together until a part is full; the next begins with the last of them, as far as the
/// overlap allows.
fn packed(units: &[Unit], spec: ChunkSpec) -> Vec<Range<usize>> {
    let mut parts = Vec::new();
    let mut first = 0;
    while first < units.len() {
        let mut last = first;
        let mut tokens = units[first].tokens;
        while let Some(next) = units.get(last + 1)
            && tokens + next.tokens <= spec.tokens
        {
            tokens += next.tokens;
            last += 1;
        }
        parts.push(units[first].bytes.start..units[last].bytes.end);
        if last + 1 == units.len() {
            break;
        }
        let mut next = last + 1;
        let mut shared = 0;
        // Of its units only the first must not be the first again: each part goes on.
        while next > first + 1 && shared + units[next - 1].tokens <= spec.overlap {
            shared += units[next - 1].tokens;
            next -= 1;
        }
        // What is shared and the first new unit fit into a part together, or nothing is shared.
        if shared + units[last + 1].tokens > spec.tokens {
            next = last + 1;
        }
        first = next;
    }
    parts
}

/// The units of a text: words, signs and ideographs, each with the marks that belong to it.
fn units(text: &str, word_chars_max: usize) -> Vec<Unit> {
    let mut units = Vec::new();
    let mut open: Option<Range<usize>> = None;
    let mut chars = 0;
    let mut joined = false;
    let mut word = String::new();
    let mut close = |open: &mut Option<Range<usize>>, units: &mut Vec<Unit>| {
        if let Some(bytes) = open.take() {
            let tokens = tokens(&text[bytes.clone()], &mut word);
            units.push(Unit { bytes, tokens });
        }
    };
    for (at, c) in text.char_indices() {
        let end = at + c.len_utf8();
        if let Some(bytes) = open.as_mut()
            && (joined || clings(c))
        {
            joined = is_joiner(c);
            bytes.end = end;
            chars += 1;
            continue;
        }
        joined = is_joiner(c);
        if c.is_whitespace() || c.is_control() {
            close(&mut open, &mut units);
        } else if is_cjk(c) || is_punctuation(c) || !c.is_alphanumeric() {
            close(&mut open, &mut units);
            open = Some(at..end);
            chars = word_chars_max;
        } else if let Some(bytes) = open.as_mut()
            && chars < word_chars_max
        {
            bytes.end = end;
            chars += 1;
        } else {
            close(&mut open, &mut units);
            open = Some(at..end);
            chars = 1;
        }
    }
    close(&mut open, &mut units);
    units
}

/// Whether a character belongs to the one before it.
fn clings(c: char) -> bool {
    is_nonspacing_mark(c)
        || is_joiner(c)
        || matches!(c, '\u{fe00}'..='\u{fe0f}' | '\u{1f3fb}'..='\u{1f3ff}' | '\u{e0020}'..='\u{e007f}' | '\u{20e3}')
}

/// Whether a character ties the next one to itself.
fn is_joiner(c: char) -> bool {
    c == '\u{200d}'
}

/// Tokens of a unit: its word pieces, one for what is unknown, at least one.
fn tokens(unit: &str, word: &mut String) -> u32 {
    let vocabulary = &StaticEmbedder::built_in().vocabulary;
    let mut pieces = Vec::with_capacity(8);
    let mut count = 0;
    for_each_word(unit, word, |word| {
        count += if vocabulary.split(word, &mut pieces) {
            u32::try_from(pieces.len()).unwrap_or(u32::MAX)
        } else {
            // Other vocabularies may know its letters in parts.
            u32::try_from(word.chars().count().div_ceil(4)).unwrap_or(u32::MAX)
        };
    });
    count.max(1)
}

/// What an index knows a part of a row by: the row's key for the first, the key with the part's
/// number for the others.
pub fn part_key(key: &str, part: usize) -> String {
    if part == 0 {
        key.to_owned()
    } else {
        format!("{key}\u{0}{part}")
    }
}

/// The row's key of a part's, and the part's number.
pub fn row_key(part_key: &str) -> (&str, usize) {
    match part_key.rsplit_once('\u{0}') {
        Some((key, part)) => match part.parse() {
            Ok(part) => (key, part),
            Err(_) => (part_key, 0),
        },
        None => (part_key, 0),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parts(text: &str, tokens: u32, overlap: u32) -> Vec<&str> {
        let ranges = chunks(text, Some(ChunkSpec { tokens, overlap }));
        ranges.into_iter().map(|range| &text[range]).collect()
    }

    #[test]
    fn a_short_text_is_one_part_as_it_stands() {
        assert_eq!(parts("  a cat. ", 8, 2), ["  a cat. "]);
        assert_eq!(chunks(" \n", None), Vec::<Range<usize>>::new());
        let whole = 0..1;
        assert_eq!(chunks("a", None), [whole]);
    }

    #[test]
    fn a_long_text_is_cut_between_words_with_an_overlap() {
        let text = "one two three four five six seven eight nine ten";
        assert_eq!(
            parts(text, 8, 2),
            [
                "one two three four five six seven eight",
                "seven eight nine ten"
            ]
        );
        assert_eq!(
            parts(text, 8, 0),
            ["one two three four five six seven eight", "nine ten"]
        );
    }

    #[test]
    fn what_a_reader_sees_as_one_character_stays_whole() {
        let family = "👨‍👩‍👧";
        let text = format!("{} e\u{301}{}", family.repeat(20), "e\u{301}".repeat(200));
        for part in parts(&text, 8, 0) {
            let first = part.chars().next().expect("not empty");
            assert!(!clings(first), "{part:?} begins inside of a character");
            assert!(!part.ends_with('\u{200d}'), "{part:?} ends inside of one");
        }
    }

    #[test]
    fn a_part_is_found_under_its_row() {
        for (key, part) in [("k", 0), ("k", 7), ("k\u{0}x", 0), ("", 3)] {
            assert_eq!(row_key(&part_key(key, part)), (key, part));
        }
    }

    fn any_text() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            "[a-z]{1,12} ",
            "[\\PC]{0,20}",
            "[a-zA-Z0-9]{60,200}",
            Just("東京タワー".to_owned()),
            Just("e\u{301}\u{302}".to_owned()),
            Just("👨‍👩‍👧🏽".to_owned()),
            Just("\n\n\t".to_owned()),
        ];
        prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn parts_cover_the_text_in_order_and_none_is_too_long(
            text in any_text(),
            tokens in 8_u32..40,
            share in 0_u32..=50,
        ) {
            let spec = ChunkSpec { tokens, overlap: tokens * share / 100 };
            let ranges = chunks(&text, Some(spec));
            let mut covered = 0;
            for range in &ranges {
                // A slice at a place inside of a character would panic here.
                let part = &text[range.clone()];
                prop_assert!(!part.is_empty());
                prop_assert!(range.start <= covered || text[covered..range.start].chars().all(
                    |c| c.is_whitespace() || c.is_control()), "a gap");
                prop_assert!(range.end > covered, "each part goes on");
                if ranges.len() > 1 {
                    let counted = units(part, WORD_CHARS_MAX.min(tokens as usize / 3));
                    let sum: u32 = counted.iter().map(|unit| unit.tokens).sum();
                    prop_assert!(sum <= tokens, "{sum} of {tokens}");
                }
                let first = part.chars().next().unwrap();
                prop_assert!(range.start == 0 || !clings(first));
                covered = range.end;
            }
            let rest = &text[covered..];
            prop_assert!(rest.chars().all(|c| c.is_whitespace() || c.is_control()) );
            prop_assert_eq!(ranges, chunks(&text, Some(spec)));
        }
    }
}
