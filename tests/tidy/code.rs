//! How a file must look, wherever it is.

use crate::tree::{Source, sources};

/// The longest file, in lines.
const LINES_MAX: usize = 600;
/// Names of files that say nothing of what is in them.
const EMPTY_NAMES: [&str; 6] = ["utils", "util", "helpers", "helper", "common", "manager"];

fn none(what: &str, places: &[String]) {
    assert!(places.is_empty(), "{what}:\n{}", places.join("\n"));
}

fn places(words: &[&str]) -> Vec<String> {
    sources()
        .iter()
        .flat_map(|source| source.places(words))
        .collect()
}

#[test]
fn every_file_opens_by_saying_what_it_owns() {
    let silent: Vec<String> = sources()
        .into_iter()
        .filter(|source| !source.is_test && !source.text.starts_with("//! "))
        .map(|source| source.path)
        .collect();
    none("files that do not open with `//!`", &silent);
}

#[test]
fn no_file_is_longer_than_a_reader_can_hold() {
    let longer: Vec<String> = sources()
        .iter()
        .map(|source| (&source.path, source.text.lines().count()))
        .filter(|(_, lines)| *lines > LINES_MAX)
        .map(|(path, lines)| format!("{path}: {lines} lines"))
        .collect();
    none("files above 600 lines: split them", &longer);
}

#[test]
fn nothing_is_left_to_do_and_nothing_is_unwrapped() {
    none(
        "unwrap outside tests",
        &places(&[".unwrap()", ".unwrap_err()"]),
    );
    none("left to do", &places(&["todo!", "unimplemented!", "dbg!"]));
}

#[test]
fn no_message_bypasses_a_full_mailbox() {
    none("`do_send` drops silently", &places(&[".do_send("]));
}

#[test]
fn a_name_says_what_is_inside() {
    let empty: Vec<String> = sources()
        .into_iter()
        .map(|source| source.path)
        .filter(|path| {
            let mut parts = path.trim_end_matches(".rs").split('/');
            parts.any(|part| EMPTY_NAMES.contains(&part))
        })
        .collect();
    none("names that say nothing", &empty);
}

#[test]
fn tests_are_sentences_and_none_is_left_out() {
    let prefix = concat!("fn test", "_");
    let ignored = concat!("#[ign", "ore");
    let mut found = Vec::new();
    for Source { path, text, .. } in sources() {
        for (number, line) in text.lines().enumerate() {
            let line = line.trim_start();
            if line.starts_with(prefix)
                || line.starts_with(&format!("async {prefix}"))
                || line.starts_with(ignored)
            {
                found.push(format!("{path}:{}: {line}", number + 1));
            }
        }
    }
    none("tests named by prefix, or left out", &found);
}
