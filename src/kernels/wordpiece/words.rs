//! From a text to its words as BERT's uncased models see them: NFD, accents stripped, lower case,
//! punctuation and CJK ideographs apart, control characters dropped.
//! The model and the vocabulary read a text through it; nothing here knows a token.

use unicode_normalization::UnicodeNormalization;

use super::categories::{is_cjk, is_nonspacing_mark, is_other, is_punctuation};

/// What a character does to the word it meets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Dropped,
    Space,
    Alone,
    Letter,
}

/// Calls `visit` with every word of `text`, in order; `word` is the buffer it is built in.
pub fn for_each_word(text: &str, word: &mut String, mut visit: impl FnMut(&str)) {
    word.clear();
    if text.is_ascii() {
        for byte in text.bytes() {
            feed(char::from(byte), ascii_role(byte), word, &mut visit);
        }
    } else {
        for c in text.chars().filter(|&c| !is_dropped(c)).nfd() {
            feed(c, role(c), word, &mut visit);
        }
    }
    flush(word, &mut visit);
}

/// The same words, each with the byte of `text` that it begins at. Marks that a decomposition of the
/// whole text would put into another order are taken where they stand.
pub fn for_each_word_at(text: &str, word: &mut String, mut visit: impl FnMut(&str, usize)) {
    word.clear();
    let mut begins = 0;
    let mut take = |at: usize, c: char| match role(c) {
        Role::Dropped => {}
        Role::Space => flush(word, &mut |word: &str| visit(word, begins)),
        Role::Letter => {
            if word.is_empty() {
                begins = at;
            }
            word.extend(c.to_lowercase());
        }
        Role::Alone => {
            flush(word, &mut |word: &str| visit(word, begins));
            word.push(c);
            flush(word, &mut |word: &str| visit(word, at));
        }
    };
    for (at, c) in text.char_indices().filter(|&(_, c)| !is_dropped(c)) {
        if c.is_ascii() {
            take(at, c);
        } else {
            std::iter::once(c).nfd().for_each(|part| take(at, part));
        }
    }
    // What stands at the end of a text is ended by it.
    take(text.len(), ' ');
}

/// Most letters that `c` is read as: none where it is no part of a word.
pub fn letters_of(c: char) -> usize {
    if is_dropped(c) {
        return 0;
    }
    let letters = |part: char| match role(part) {
        Role::Dropped | Role::Space => 0,
        Role::Letter | Role::Alone => part.to_lowercase().count(),
    };
    std::iter::once(c).nfd().map(letters).sum()
}

fn feed(c: char, role: Role, word: &mut String, visit: &mut impl FnMut(&str)) {
    match role {
        Role::Dropped => {}
        Role::Space => flush(word, visit),
        Role::Letter if c.is_ascii() => word.push(c.to_ascii_lowercase()),
        Role::Letter => word.extend(c.to_lowercase()),
        Role::Alone => {
            flush(word, visit);
            word.push(c);
            flush(word, visit);
        }
    }
}

fn flush(word: &mut String, visit: &mut impl FnMut(&str)) {
    if !word.is_empty() {
        visit(word);
        word.clear();
    }
}

fn ascii_role(byte: u8) -> Role {
    match byte {
        b' ' | b'\t' | b'\n' | b'\r' => Role::Space,
        b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => Role::Letter,
        _ if byte.is_ascii_punctuation() => Role::Alone,
        _ => Role::Dropped,
    }
}

/// Whether `c` is gone before anything else is looked at.
fn is_dropped(c: char) -> bool {
    if c.is_ascii() {
        ascii_role(c as u8) == Role::Dropped
    } else {
        c == '\u{FFFD}' || is_other(c)
    }
}

/// The role of a character that is left after `is_dropped` and has been decomposed.
fn role(c: char) -> Role {
    if c.is_ascii() {
        ascii_role(c as u8)
    } else if c.is_whitespace() {
        Role::Space
    } else if is_nonspacing_mark(c) {
        Role::Dropped
    } else if is_cjk(c) || is_punctuation(c) {
        Role::Alone
    } else {
        Role::Letter
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        let mut found = Vec::new();
        for_each_word(text, &mut String::new(), |word| found.push(word.to_owned()));
        found
    }

    #[test]
    fn words_are_lower_case_and_punctuation_stands_apart() {
        assert_eq!(
            words("Hello, World! it's $5\tok"),
            ["hello", ",", "world", "!", "it", "'", "s", "$", "5", "ok"]
        );
        assert_eq!(
            words("«Straße» – 5€…"),
            ["«", "straße", "»", "–", "5€", "…"]
        );
    }

    #[test]
    fn words_are_the_same_with_their_places_and_those_are_theirs() {
        for text in [
            "Hello, World! it's $5\tok",
            "«Straße» – 5€… Crème BRÛLÉE re\u{301}sume\u{301} İstanbul",
            "東京tower塔 カタ a\u{0}b\u{ad}c\u{fffd} 한국어",
            " \u{1}\t",
            "",
        ] {
            let mut found = Vec::new();
            for_each_word_at(text, &mut String::new(), |word, at| {
                found.push((word.to_owned(), at));
            });
            let places = found.iter().map(|(_, at)| *at).collect::<Vec<_>>();
            assert!(places.is_sorted_by(|a, b| a < b), "{found:?}");
            assert!(places.iter().all(|at| text.is_char_boundary(*at)));
            let found: Vec<String> = found.into_iter().map(|(word, _)| word).collect();
            assert_eq!(found, words(text));
        }
        assert_eq!(letters_of('é') + letters_of(' ') + letters_of('\u{ad}'), 1);
    }

    #[test]
    fn accents_are_stripped_however_they_are_written() {
        assert_eq!(words("Crème BRÛLÉE"), ["creme", "brulee"]);
        assert_eq!(words("re\u{301}sume\u{301}"), words("résumé"));
        assert_eq!(words("İstanbul ΣΟΦΟΣ"), ["istanbul", "σοφοσ"]);
    }

    #[test]
    fn every_cjk_ideograph_is_a_word() {
        assert_eq!(words("東京tower塔"), ["東", "京", "tower", "塔"]);
        assert_eq!(words("カタ"), ["カタ"]);
    }

    #[test]
    fn control_characters_vanish_without_splitting_a_word() {
        assert_eq!(
            words("a\u{0}b\u{7}c d\u{200b}e\u{ad}f\u{fffd}"),
            ["abc", "def"]
        );
        assert_eq!(words("a\u{a0}b\u{3000}c\r\nd"), ["a", "b", "c", "d"]);
        assert!(words(" \u{1}\t").is_empty());
    }
}
