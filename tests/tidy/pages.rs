//! What lies beside the code: no traces of anybody's machine, and the commands that a reader is promised.

use std::fs;

use crate::tree::{committed, read};

#[test]
fn nothing_committed_names_a_machine_or_a_mirror_of_crates() {
    let traces = [
        concat!("/ro", "ot/"),
        concat!("/ho", "me/"),
        concat!("/wo", "rk/"),
        concat!("/Use", "rs/"),
        concat!("replace", "-with"),
        concat!("[regis", "tries"),
        concat!("sparse", "+http"),
    ];
    let mut found = Vec::new();
    for path in committed() {
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        for (number, line) in text.lines().enumerate() {
            for trace in traces {
                if line.contains(trace) {
                    found.push(format!("{}:{}: {trace}", path.display(), number + 1));
                }
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn every_crate_comes_from_the_public_registry() {
    let lock: toml::Table = read("Cargo.lock").unwrap().parse().unwrap();
    let public = "registry+https://github.com/rust-lang/crates.io-index";
    let foreign: Vec<String> = lock["package"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|package| {
            package
                .get("source")
                .is_some_and(|source| source.as_str() != Some(public))
        })
        .map(|package| package["name"].to_string())
        .collect();
    assert!(foreign.is_empty(), "{foreign:?}");
}

#[test]
fn the_readme_has_the_two_commands() {
    let readme = read("README.md").expect("README.md is there");
    for command in ["make demo", "make test"] {
        assert!(readme.contains(command), "README.md shows `{command}`");
    }
    let makefile = read("Makefile").expect("Makefile is there");
    for target in ["demo:", "test:"] {
        assert!(
            makefile.lines().any(|line| line.starts_with(target)),
            "Makefile has `{target}`"
        );
    }
}

#[test]
fn the_gate_runs_what_the_readme_says() {
    let gate = read(".ci/run").expect(".ci/run is there");
    assert!(gate.contains("make test"), ".ci/run calls `make test`");
}
