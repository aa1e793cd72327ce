//! The demo's parts that need no daemon: its directory, its questions, its comparison.

use std::{fs, path::Path};

use serde_json::json;

use super::{
    answers::{HITS, SEARCHES, expected_hit},
    data::{Table, tables, wordnet_ndjson},
    *,
};

fn options(data_dir: &Path, fresh: bool) -> Options {
    Options {
        data_dir: data_dir.to_path_buf(),
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        rows: 1_000,
        exit: true,
        fresh,
    }
}

fn prepare(dir: &Path, fresh: bool) -> Result<(Place, Found), String> {
    Place::prepare(&options(dir, fresh)).map_err(|e| e.to_string())
}

#[test]
fn an_empty_or_absent_directory_is_taken() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for place in [dir.path().to_path_buf(), dir.path().join("a/b")] {
        let found = prepare(&place, false).map(|(_, found)| found);
        assert_eq!(found, Ok(Found::Nothing));
        fs::remove_file(place.join("demo.json")).expect("the marker is there");
    }
}

#[test]
fn a_directory_that_no_demo_made_is_never_touched() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    fs::write(dir.path().join("precious"), "data").expect("it can be written");
    for fresh in [false, true] {
        let error = prepare(dir.path(), fresh).expect_err("it is not ours");
        assert!(
            error.contains("is not empty and no demo made it"),
            "{error}"
        );
    }
    assert!(dir.path().join("precious").exists());
}

#[test]
fn a_finished_demo_is_resumed_and_an_unfinished_one_is_not() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (place, _) = prepare(dir.path(), false).expect("it is empty");
    let error = prepare(dir.path(), false).expect_err("it did not come to its end");
    assert!(error.contains("--fresh"), "{error}");
    place.mark_finished().expect("the marker can be written");
    let found = prepare(dir.path(), false).map(|(_, found)| found);
    assert_eq!(found, Ok(Found::Finished { rows: 1_000 }));
}

#[test]
fn fresh_removes_what_a_demo_made_unless_a_daemon_runs_there() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (place, _) = prepare(dir.path(), false).expect("it is empty");
    place.mark_finished().expect("the marker can be written");
    let lock = fs::File::create(dir.path().join("LOCK")).expect("it can be written");
    lock.lock().expect("nobody else holds it");
    let error = prepare(dir.path(), true).expect_err("a daemon holds it");
    assert!(error.contains("a daemon is running"), "{error}");
    drop(lock);
    let found = prepare(dir.path(), true).map(|(_, found)| found);
    assert_eq!(found, Ok(Found::Nothing));
    assert!(!dir.path().join("LOCK").exists());
}

#[test]
fn every_word_that_a_search_must_find_is_in_the_knowledge_base() {
    let mut text = String::new();
    std::io::Read::read_to_string(&mut wordnet_ndjson(), &mut text).expect("it is UTF-8");
    for search in &SEARCHES {
        let has = |line: &&str| {
            let entry: serde_json::Value = serde_json::from_str(line).expect("a line is JSON");
            let lemmas = entry["lemmas"].as_str().unwrap_or_default().to_owned();
            lemmas.split(", ").any(|word| word == search.expected)
        };
        let lines = text.lines().filter(|line| line.contains(search.expected));
        assert!(lines.clone().any(|line| has(&line)), "{}", search.expected);
        assert!(!search.query.contains(search.expected));
    }
}

#[test]
fn a_search_that_misses_the_word_is_a_failure_that_says_what_it_found() {
    let hits: Vec<_> = (0..HITS)
        .map(|n| json!({"row": {"lemmas": format!("word{n}")}}))
        .collect();
    let error = expected_hit(&SEARCHES[0], &hits).expect_err("the word is not there");
    assert!(
        error
            .to_string()
            .contains("\"word0\", \"word1\", \"word2\""),
        "{error}"
    );
    let late: Vec<_> = hits[..3]
        .iter()
        .cloned()
        .chain([json!({"row": {"lemmas": "claustrophobia"}})])
        .collect();
    assert!(expected_hit(&SEARCHES[0], &late).is_err());
    let first = json!({"row": {"lemmas": "other, claustrophobia"}});
    assert!(expected_hit(&SEARCHES[0], &[first]).is_ok());
}

#[test]
fn the_questions_name_tables_and_columns_that_there_are() {
    for (alias, table) in [
        ("t", Table::Timesheets),
        ("p", Table::Placements),
        ("j", Table::Jobs),
        ("c", Table::Clients),
        ("d", Table::Candidates),
    ] {
        let known: Vec<&str> = table.columns().iter().map(|column| column.name).collect();
        for sql in [answers::INDUSTRIES.sql, answers::PEOPLE.sql] {
            for named in columns_of(alias, sql) {
                assert!(known.contains(&named), "{alias}.{named}");
            }
        }
    }
    assert!(tables(1_000).iter().all(|spec| spec.key == "id"));
}

/// The names that stand behind `alias.` in a statement.
fn columns_of<'a>(alias: &str, sql: &'a str) -> Vec<&'a str> {
    let words = sql.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '.'));
    let named = words.filter_map(|word| word.split_once('.'));
    named
        .filter(|(before, _)| *before == alias)
        .map(|(_, name)| name)
        .collect()
}
