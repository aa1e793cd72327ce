//! Every word that an error carries for programs is explained in docs/errors.md.

use std::collections::BTreeSet;

use crate::tree::{Source, read, sources};

/// What stands before a code: the makers of errors, and the arms of a function that names them.
const MAKERS: [&str; 3] = ["PortError::new(", "Problem::new(", "Problem::of_kind("];
/// How far behind a maker its code stands.
const REACH: usize = 160;

/// The codes that a file makes.
fn codes(source: &Source) -> BTreeSet<String> {
    let lines: Vec<String> = source.code().into_iter().map(|(_, line)| line).collect();
    let text = lines.join("\n");
    let mut found = BTreeSet::new();
    for maker in MAKERS {
        for (at, _) in text.match_indices(maker) {
            let end = text.len().min(at + REACH);
            let end = (end..=text.len()).find(|end| text.is_char_boundary(*end));
            let call = &text[at..end.unwrap_or(text.len())];
            found.extend(
                words(call.split(';').next().unwrap_or_default())
                    .into_iter()
                    .next(),
            );
        }
    }
    for (at, _) in text.match_indices("fn code(&self)") {
        let body = &text[at..];
        let end = body.find("\n    }").unwrap_or(body.len());
        found.extend(words(&body[..end]));
    }
    found
}

/// The quoted words of a text that look like codes.
fn words(text: &str) -> Vec<String> {
    let is_code =
        |word: &&str| word.len() > 3 && word.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    let quoted = text.split('"').skip(1).step_by(2);
    quoted.filter(is_code).map(str::to_owned).collect()
}

#[test]
fn every_code_of_an_error_is_explained() {
    let page = read("docs/errors.md").expect("docs/errors.md is there");
    let mut missing = BTreeSet::new();
    let mut known = 0;
    for source in sources() {
        // The command line's own errors reach no program over HTTP.
        if source.path.starts_with("src/cli") || source.path.starts_with("src/demo") {
            continue;
        }
        for code in codes(&source) {
            known += 1;
            if !page.contains(&format!("`{code}`")) {
                missing.insert(format!("{}: {code}", source.path));
            }
        }
    }
    assert!(known > 50, "the test sees codes: {known}");
    assert!(missing.is_empty(), "{missing:#?}");
}
