//! Canaries: what hidden cells hold, and how to see that an answer shows anything of one, in clear, in any
//! case, backwards, as hex or base64. Pure; the tests of the barrier and those over REST ask it.

/// What hidden texts hold; written in mixed case, looked for in every case.
pub const CANARY: &str = "zQxKanarie";
/// What hidden numbers begin with.
pub const CANARY_NUMBER: &str = "739041586";

/// Whether a text shows anything of a canary: in clear, in any case, backwards, as hex or base64.
pub fn shows_canary(text: &str) -> bool {
    let folded = text.to_lowercase();
    marks().iter().any(|mark| folded.contains(mark.as_str()))
        || base64_marks()
            .iter()
            .any(|mark| text.contains(mark.as_str()))
}

/// In lower case: the canaries, backwards, and their hex.
fn marks() -> Vec<String> {
    let mut marks = Vec::new();
    for canary in [CANARY, CANARY_NUMBER] {
        let plain = canary.to_lowercase();
        marks.push(plain.chars().rev().collect());
        for spelled in [canary.to_owned(), plain.clone(), canary.to_uppercase()] {
            marks.push(hex(&spelled));
        }
        marks.push(plain);
    }
    marks
}

fn hex(text: &str) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = text.bytes().flat_map(|byte| [byte >> 4, byte & 15]);
    digits
        .map(|digit| char::from(DIGITS[usize::from(digit)]))
        .collect()
}

/// What base64 makes of the text canary, wherever in a text it begins.
fn base64_marks() -> Vec<String> {
    let spelled = [
        CANARY.to_owned(),
        CANARY.to_lowercase(),
        CANARY.to_uppercase(),
    ];
    let mut marks = Vec::new();
    for text in spelled {
        for skipped in 0..3 {
            // Whole groups of three bytes are the same letters whatever stands around them.
            let bytes = &text.as_bytes()[skipped..];
            let whole = &bytes[..bytes.len() / 3 * 3];
            marks.push(base64(whole));
        }
    }
    marks
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks_exact(3) {
        let bits = u32::from(group[0]) << 16 | u32::from(group[1]) << 8 | u32::from(group[2]);
        for shift in [18, 12, 6, 0] {
            text.push(char::from(LETTERS[(bits >> shift & 63) as usize]));
        }
    }
    text
}
