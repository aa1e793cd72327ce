//! From a text to its words as BERT's uncased models see them: NFD, accents stripped, lower case,
//! punctuation and CJK ideographs apart, control characters dropped.
//! `StaticEmbedder` reads a text through `for_each_word`; nothing here knows the vocabulary.

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
