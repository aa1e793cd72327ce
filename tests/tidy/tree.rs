//! The source tree as the rules see it: files by ring, code without comments, and code without its tests.
//! Works on formatted code: an item ends with a brace at the indentation that it began with.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// A source file.
pub struct Source {
    /// Relative to the repository.
    pub path: String,
    /// As it is.
    pub text: String,
    /// Whether all of it is compiled for tests only.
    pub is_test: bool,
}

/// Where the repository is: where it is run, since a program that was built in another checkout may
/// be taken for a fresh one.
pub fn root() -> &'static Path {
    static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
        let running = std::env::var_os("CARGO_MANIFEST_DIR");
        running.map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from)
    });
    &ROOT
}

/// A file's text, or nothing when it is not there.
pub fn read(path: &str) -> Option<String> {
    fs::read_to_string(root().join(path)).ok()
}

/// Every Rust file of the three rings and of the tests.
pub fn sources() -> Vec<Source> {
    let mut paths = Vec::new();
    for ring in ["src", "actors", "journal", "tests"] {
        walk(&root().join(ring), &mut paths);
    }
    paths.push(root().join("build.rs"));
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "rs"));
    let mut sources: Vec<Source> = paths
        .into_iter()
        .map(|path| Source {
            text: fs::read_to_string(&path).unwrap(),
            path: path
                .strip_prefix(root())
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned(),
            is_test: false,
        })
        .collect();
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    mark_tests(&mut sources);
    assert!(
        sources.len() > 50,
        "the tree is found: {} files",
        sources.len()
    );
    sources
}

/// Everything below a directory.
fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                walk(&path, found);
            }
        } else {
            found.push(path);
        }
    }
}

/// Marks what is in a `tests` directory, and modules that a file declares under `#[cfg(test)]`.
fn mark_tests(sources: &mut [Source]) {
    let modules: BTreeSet<String> = sources.iter().flat_map(modules_for_tests).collect();
    for source in sources {
        let mut parts = source.path.split('/');
        let in_tests = parts.any(|part| part == "tests" || part == "benches");
        let declared = modules.iter().any(|module| {
            source.path == format!("{module}.rs") || source.path.starts_with(&format!("{module}/"))
        });
        source.is_test = in_tests || declared;
    }
}

/// Where the modules lie that a file declares for tests only, without the ending.
fn modules_for_tests(source: &Source) -> Vec<String> {
    let path = Path::new(&source.path);
    let (stem, folder) = (
        path.file_stem().unwrap().to_str().unwrap(),
        path.parent().unwrap(),
    );
    let children = match stem {
        "mod" | "lib" | "main" => folder.to_owned(),
        stem => folder.join(stem),
    };
    let mut found = Vec::new();
    let mut lines = source.text.lines().map(str::trim).peekable();
    while let Some(line) = lines.next() {
        if !is_test_attribute(line) {
            continue;
        }
        let mut elsewhere = None;
        while let Some(attribute) = lines.next_if(|next| next.starts_with("#[")) {
            let named = attribute.strip_prefix("#[path = \"");
            elsewhere = elsewhere.or(named.and_then(|rest| rest.strip_suffix(".rs\"]")));
        }
        let item = lines.peek().copied().unwrap_or_default();
        let item = item
            .trim_start_matches("pub(crate) ")
            .trim_start_matches("pub ");
        if let Some(name) = item
            .strip_prefix("mod ")
            .and_then(|rest| rest.strip_suffix(';'))
        {
            let file = elsewhere.map_or_else(|| children.join(name), |file| folder.join(file));
            found.push(file.to_str().unwrap().to_owned());
        }
    }
    found
}

fn is_test_attribute(line: &str) -> bool {
    let line = line.trim();
    line == "#[cfg(test)]"
        || line.starts_with("#[cfg(any(test,")
        || line.starts_with("#[cfg(all(test,")
}

impl Source {
    /// Numbered lines of code that is not for tests, without comments; empty for a test file.
    pub fn code(&self) -> Vec<(usize, String)> {
        if self.is_test {
            return Vec::new();
        }
        let mut kept = Vec::new();
        let mut lines = self.text.lines().enumerate();
        while let Some((number, line)) = lines.next() {
            if is_test_attribute(line) {
                let indent = line.len() - line.trim_start().len();
                skip_item(&mut lines, indent);
                continue;
            }
            kept.push((number + 1, without_comment(line)));
        }
        kept
    }

    /// Places in the code that hold one of these words, as `path:line: word`.
    pub fn places(&self, words: &[&str]) -> Vec<String> {
        let mut found = Vec::new();
        for (number, line) in self.code() {
            for word in words {
                if holds(&line, word) {
                    found.push(format!("{}:{number}: {word}", self.path));
                }
            }
        }
        found
    }
}

/// Skips one item that an attribute stands before.
fn skip_item<'a>(lines: &mut impl Iterator<Item = (usize, &'a str)>, indent: usize) {
    for (_, line) in lines {
        let line = line.trim_end();
        let deep = line.len() - line.trim_start().len() > indent;
        if line.is_empty() || deep || line.trim_start().starts_with("#[") {
            continue;
        }
        if line.ends_with([';', ',', '}']) {
            return;
        }
    }
}

/// The line without a comment at its end; a `//` inside a string is left alone.
fn without_comment(line: &str) -> String {
    let mut in_string = false;
    let mut previous = ' ';
    let bytes: Vec<char> = line.chars().collect();
    for (at, &c) in bytes.iter().enumerate() {
        if c == '"' && previous != '\\' && previous != '\'' {
            in_string = !in_string;
        }
        if !in_string && c == '/' && bytes.get(at + 1) == Some(&'/') {
            return bytes[..at].iter().collect();
        }
        previous = c;
    }
    line.to_owned()
}

/// Whether the word stands in the line; a word that begins or ends with a letter stands alone there.
fn holds(line: &str, word: &str) -> bool {
    let is_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let open = !is_word(word.chars().next()) || !is_word(before);
        let closed = !is_word(word.chars().next_back()) || !is_word(after);
        open && closed
    })
}

/// Every file under version control, or every file of the tree when there is no version control.
pub fn committed() -> Vec<PathBuf> {
    let listed = std::process::Command::new("git")
        .args(["ls-files", "-z"])
        .current_dir(root())
        .output();
    match listed {
        Ok(output) if output.status.success() && !output.stdout.is_empty() => output
            .stdout
            .split(|byte| *byte == 0)
            .filter(|name| !name.is_empty())
            .map(|name| root().join(String::from_utf8_lossy(name).as_ref()))
            .collect(),
        _ => {
            let mut found = Vec::new();
            walk(root(), &mut found);
            found.retain(|path| !path.components().any(|part| part.as_os_str() == ".git"));
            found
        }
    }
}

#[test]
fn tests_and_comments_are_told_from_code() {
    let text = "//! Doc.\nfn a() { x.unwrap() } // y.unwrap()\n#[cfg(test)]\nmod tests {\n    fn b() { z.unwrap() }\n\n    fn d() { z.unwrap() }\n}\nfn c() {}\n";
    let source = Source {
        path: "src/x.rs".to_owned(),
        text: text.to_owned(),
        is_test: false,
    };
    assert_eq!(source.places(&[".unwrap()"]), ["src/x.rs:2: .unwrap()"]);
    assert_eq!(
        source.places(&["c"]).len(),
        1,
        "what follows the tests is code again"
    );
    assert_eq!(
        without_comment("let url = \"http://x\"; // why"),
        "let url = \"http://x\"; "
    );
    assert!(
        holds("rand::random()", "rand") && !holds("operand", "rand") && !holds("random", "rand")
    );
}
