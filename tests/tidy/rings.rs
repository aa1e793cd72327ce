//! The three rings: dependencies point inward only, and what each ring must not name.

use std::collections::BTreeSet;

use crate::tree::{read, sources};

/// What the actors may stand on: nothing that stores, and nothing that speaks to a network.
const ACTORS_MAY_USE: [&str; 18] = [
    "actix",
    "arc-swap",
    "async-trait",
    "blake3",
    "chrono",
    "chrono-tz",
    "cron",
    "futures",
    "imbl",
    "lakehouse-journal",
    "parking_lot",
    "roaring",
    "serde",
    "serde_json",
    "thiserror",
    "tokio",
    "tracing",
    "uuid",
];
/// What the journal may stand on: no actors, no runtime.
const JOURNAL_MAY_USE: [&str; 16] = [
    "base64",
    "blake3",
    "chrono",
    "crc32fast",
    "imbl",
    "libc",
    "parking_lot",
    "roaring",
    "serde",
    "serde_json",
    "sled",
    "strsim",
    "thiserror",
    "tracing",
    "uuid",
    "zstd",
];

/// What the kernels may stand on.
const KERNELS_MAY_USE: [&str; 7] = [
    "arrow",
    "memmap2",
    "numkong",
    "serde",
    "serde_json",
    "thiserror",
    "unicode-normalization",
];

fn dependencies(manifest: &str) -> BTreeSet<String> {
    let text = read(manifest).unwrap_or_else(|| panic!("{manifest} is there"));
    let manifest: toml::Table = text.parse().unwrap();
    manifest["dependencies"]
        .as_table()
        .unwrap()
        .keys()
        .cloned()
        .collect()
}

fn places_in(ring: &str, words: &[&str]) -> Vec<String> {
    let sources = sources()
        .into_iter()
        .filter(|source| source.path.starts_with(ring));
    sources.flat_map(|source| source.places(words)).collect()
}

#[test]
fn the_journal_stands_on_no_actor_and_no_runtime() {
    let more: Vec<String> = dependencies("journal/Cargo.toml")
        .into_iter()
        .filter(|name| !JOURNAL_MAY_USE.contains(&name.as_str()))
        .collect();
    assert!(more.is_empty(), "the journal may not use {more:?}");
}

#[test]
fn the_kernels_know_nothing_of_the_rings() {
    let more: Vec<String> = dependencies("src/kernels/Cargo.toml")
        .into_iter()
        .filter(|name| !KERNELS_MAY_USE.contains(&name.as_str()))
        .collect();
    assert!(more.is_empty(), "the kernels may not use {more:?}");
    let named = places_in(
        "src/kernels",
        &["std::fs", "std::io", "std::thread", "TcpStream"],
    );
    assert!(
        named.is_empty(),
        "files and connections are the edge's:\n{}",
        named.join("\n")
    );
}

#[test]
fn the_actors_name_no_storage_and_no_http() {
    let more: Vec<String> = dependencies("actors/Cargo.toml")
        .into_iter()
        .filter(|name| !ACTORS_MAY_USE.contains(&name.as_str()))
        .collect();
    assert!(more.is_empty(), "the actors may not use {more:?}");
    let named = places_in(
        "actors/src",
        &["std::fs", "std::net", "tokio::fs", "tokio::net", "SledLog"],
    );
    assert!(
        named.is_empty(),
        "contact with the outside is the edge's:\n{}",
        named.join("\n")
    );
}

#[test]
fn the_model_is_pure() {
    let impure = [
        "std::time",
        "std::fs",
        "std::io",
        "std::net",
        "std::env",
        "std::thread",
        "SystemTime",
        "Instant",
        "rand",
        "HashMap",
        "HashSet",
        "async",
        "await",
        "tokio",
        "sled",
        "Uuid",
        "tracing",
        "Utc::now",
        "Mutex",
        "static mut",
        "LazyLock",
        "OnceLock",
    ];
    let named = places_in("journal/src/model", &impure);
    assert!(
        named.is_empty(),
        "the model has no I/O, clock, chance or hash order:\n{}",
        named.join("\n")
    );
}

#[test]
fn one_file_names_sled() {
    let named: BTreeSet<String> = sources()
        .iter()
        .filter(|source| source.path != "journal/src/log/sled.rs")
        .flat_map(|source| source.places(&["sled::", "use sled"]))
        // A module path of our own that ends in the file's name is no use of the library.
        .filter(|place| !of_our_own(place))
        .collect();
    assert!(
        named.is_empty(),
        "only journal/src/log/sled.rs may name the library: {named:#?}"
    );
    let root: toml::Table = read("Cargo.toml").unwrap().parse().unwrap();
    assert!(
        !root["dependencies"]
            .as_table()
            .unwrap()
            .contains_key("sled"),
        "the edge does not use sled"
    );
}

fn of_our_own(place: &str) -> bool {
    let mut parts = place.splitn(3, ':');
    let (path, line) = (parts.next().unwrap(), parts.next().unwrap());
    let text = read(path).unwrap();
    let line = text
        .lines()
        .nth(line.parse::<usize>().unwrap() - 1)
        .unwrap();
    ["super::sled::", "log::sled::", "self::sled::"]
        .iter()
        .any(|own| line.contains(own))
}

#[test]
fn rest_keeps_no_state_and_never_opens_the_journal() {
    let words = [
        "LazyLock",
        "OnceLock",
        "thread_local!",
        "SledLog",
        "DurableLog",
        "MemoryLog",
        "std::fs",
    ];
    let named = places_in("src/rest", &words);
    assert!(named.is_empty(), "{}", named.join("\n"));
}

#[test]
fn libraries_do_not_speak_anyhow() {
    // The program around the libraries: it ends with a sentence for a person.
    let program = |path: &str| {
        ["src/main.rs", "src/daemon.rs", "build.rs"].contains(&path) || path.starts_with("src/cli/")
    };
    let named: Vec<String> = sources()
        .iter()
        .filter(|source| !program(&source.path))
        .flat_map(|source| source.places(&["anyhow"]))
        .collect();
    assert!(
        named.is_empty(),
        "a library has errors with names:\n{}",
        named.join("\n")
    );
}

/// The names of the actors that the wiring starts: an owner for each kind, and the workers.
fn actors_in_the_code() -> BTreeSet<String> {
    let lake = read("journal/src/model/lake.rs").expect("the owners are named there");
    let (_, owners) = lake
        .split_once("pub enum OwnerId {")
        .expect("`OwnerId` is there");
    let (owners, _) = owners.split_once("\n}").expect("it ends");
    let owners = owners
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with(char::is_uppercase));
    let mut names: BTreeSet<String> = owners
        .map(|line| {
            line.chars()
                .take_while(char::is_ascii_alphanumeric)
                .collect::<String>()
                .to_lowercase()
        })
        .collect();
    let start = read("actors/src/start.rs").expect("the wiring is there");
    for (at, call) in start.match_indices(".worker(") {
        let rest = start[at + call.len()..].trim_start();
        if let Some(name) = rest
            .strip_prefix('"')
            .and_then(|rest| rest.split('"').next())
        {
            names.insert(name.to_owned());
        }
    }
    names
}

/// The names in the first column of the table in ARCHITECTURE.md whose first head is `actor`.
fn actors_on_the_page() -> BTreeSet<String> {
    let page = read("docs/ARCHITECTURE.md").expect("docs/ARCHITECTURE.md is there");
    let first = |line: &str| {
        line.trim_matches('|')
            .split('|')
            .next()
            .unwrap_or("")
            .trim()
            .to_lowercase()
    };
    let mut lines = page
        .lines()
        .skip_while(|line| !(line.starts_with('|') && first(line) == "actor"));
    assert!(
        lines.next().is_some(),
        "docs/ARCHITECTURE.md has a table whose first column is `actor`"
    );
    lines
        .take_while(|line| line.starts_with('|'))
        .filter_map(|line| line.split('|').nth(1)?.split('`').nth(1).map(str::to_owned))
        .collect()
}

#[test]
fn the_actors_on_the_page_are_those_of_the_code() {
    let (code, page) = (actors_in_the_code(), actors_on_the_page());
    assert!(code.len() >= 8, "the code's actors are found: {code:?}");
    assert_eq!(page, code, "left: the page, right: the code");
}
