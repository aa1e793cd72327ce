//! What stands beside the figures of every benchmark: machine, version, repetitions and gates.
//! The runners fill a [`Report`]; nothing here measures.

use std::{io::Write as _, path::Path, time::Duration};

use serde_json::{Map, Value, json};

use super::BenchError;
use crate::cli::output;

/// Repetitions of one measurement, in the order in which they were made.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Series(Vec<f64>);

impl Series {
    pub(super) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// The middle repetition; of an even number, the mean of the middle two. 0 without any.
    pub(super) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        match sorted.len() {
            0 => 0.0,
            n if n % 2 == 1 => sorted[middle],
            _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
        }
    }

    /// The repetition that the share `part` (0 to 1) of all are not above; 0 without any.
    pub(super) fn quantile(&self, part: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a float saturates, and there are far fewer than 2^53 repetitions"
        )]
        let rank = (part * sorted.len() as f64).ceil() as usize;
        let at = rank.clamp(1, sorted.len().max(1)) - 1;
        sorted.get(at).copied().unwrap_or_default()
    }

    /// The largest repetition: of rates, the one that others on the machine disturbed least.
    pub(super) fn max(&self) -> f64 {
        self.0.iter().copied().fold(0.0, f64::max)
    }

    /// `{median, raw}`.
    pub(super) fn json(&self) -> Value {
        json!({ "median": self.median(), "raw": self.0 })
    }
}

impl FromIterator<f64> for Series {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

/// What a figure is held to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Limit {
    AtLeast(f64),
    AtMost(f64),
}

impl Limit {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtLeast(limit) => value >= limit,
            Self::AtMost(limit) => value <= limit,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtLeast(limit) => format!("≥ {}", number(limit)),
            Self::AtMost(limit) => format!("≤ {}", number(limit)),
        }
    }
}

/// The figures of one run.
pub(super) struct Report {
    figures: Map<String, Value>,
    gates: Vec<(String, f64, Limit)>,
}

impl Report {
    /// A report of the benchmark `name`, which writes to `dir`.
    pub(super) fn new(name: &str, dir: &Path) -> Self {
        let mut figures = Map::new();
        let profile = if cfg!(debug_assertions) {
            "debug"
        } else {
            "release"
        };
        figures.insert("benchmark".into(), json!(name));
        figures.insert("version".into(), json!(env!("CARGO_PKG_VERSION")));
        figures.insert("profile".into(), json!(profile));
        figures.insert("date".into(), json!(now()));
        figures.insert("machine".into(), machine(dir));
        figures.insert("load_average_before".into(), load_average());
        Self {
            figures,
            gates: Vec::new(),
        }
    }

    /// Adds figures under a name.
    pub(super) fn set(&mut self, name: &str, figures: Value) {
        self.figures.insert(name.to_owned(), figures);
    }

    /// Holds a figure to a limit.
    pub(super) fn gate(&mut self, what: impl Into<String>, value: f64, limit: Limit) {
        self.gates.push((what.into(), value, limit));
    }

    /// Prints the gates and returns everything as JSON.
    pub(super) fn finish(mut self) -> Result<Value, BenchError> {
        let (mut rows, mut gates) = (Vec::new(), Vec::new());
        for (what, value, limit) in &self.gates {
            let passed = limit.holds(*value);
            let word = if passed { "yes" } else { "NO" };
            rows.push(vec![
                what.clone(),
                number(*value),
                limit.text(),
                word.to_owned(),
            ]);
            gates.push(json!({
                "what": what, "value": value, "limit": limit.text(), "passed": passed,
            }));
        }
        if !rows.is_empty() {
            print(&output::table(&["gate", "measured", "limit", "met"], &rows))?;
        }
        self.set("gates", json!(gates));
        self.set("load_average_after", load_average());
        Ok(Value::Object(self.figures))
    }
}

/// Prints a table or a line to standard output.
pub(super) fn print(text: &str) -> Result<(), BenchError> {
    Ok(writeln!(std::io::stdout().lock(), "{text}")?)
}

/// Says on standard error what is being done, since it takes a while.
pub(super) fn progress(text: &str) {
    eprintln!("{text}");
}

/// A figure for people: whole from 100 on, else with two decimal places.
pub(super) fn number(value: f64) -> String {
    if value.abs() < 99.995 {
        return format!("{value:.2}");
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a float saturates"
    )]
    let whole = value.round() as u64;
    output::thousands(whole)
}

/// Milliseconds with their fraction.
pub(super) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// A count as a float: exact up to 2^53.
#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
pub(super) fn float(count: u64) -> f64 {
    count as f64
}

fn now() -> String {
    chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

fn machine(dir: &Path) -> Value {
    let cpu = line_of("/proc/cpuinfo", "model name");
    let memory = line_of("/proc/meminfo", "MemTotal");
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease");
    json!({
        "cores": std::thread::available_parallelism().map_or(1, usize::from),
        "cpu": cpu,
        "memory_bytes": memory.as_deref().and_then(kib_in_bytes),
        "kernel": kernel.ok().map(|text| text.trim().to_owned()),
        "os": std::env::consts::OS,
        "arch": std::env::consts::ARCH,
        "file_system": file_system(dir),
    })
}

/// The value behind `name:` in one of the system's tables.
pub(super) fn line_of(file: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim_start().strip_prefix(':')?.trim().to_owned())
}

/// `1024 kB` in bytes.
pub(super) fn kib_in_bytes(text: &str) -> Option<u64> {
    let kib: u64 = text.strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// The type of the file system that holds `dir`: on `tmpfs` a flush costs nothing and proves nothing.
fn file_system(dir: &Path) -> Option<String> {
    let dir = std::fs::canonicalize(dir).ok()?;
    let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
    mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            Some((words.next()?, words.next()?))
        })
        .filter(|(place, _)| dir.starts_with(place))
        // Of two mounts in one place, the later one is seen.
        .max_by_key(|(place, _)| place.len())
        .map(|(_, kind)| kind.to_owned())
}

/// The load of the last minute: what else ran says how far a figure can be trusted.
fn load_average() -> Value {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let minute = text.split(' ').next().and_then(|load| load.parse().ok());
    json!(minute.map(|load: f64| load))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_repetition() {
        let series = |values: &[f64]| values.iter().copied().collect::<Series>().median();
        assert!(series(&[9.0, 1.0, 3.0]).total_cmp(&3.0).is_eq());
        assert!(series(&[4.0, 1.0, 2.0, 9.0]).total_cmp(&3.0).is_eq());
        assert!(series(&[]).total_cmp(&0.0).is_eq());
    }

    #[test]
    fn a_quantile_is_a_repetition_that_was_made() {
        let series: Series = (1..=200).rev().map(f64::from).collect();
        let found = [0.0, 0.5, 0.99, 1.0].map(|part| series.quantile(part));
        assert_eq!(found.map(number), ["1.00", "100", "198", "200"]);
        assert_eq!(number(Series::default().quantile(0.5)), "0.00");
    }

    #[test]
    fn a_missed_gate_is_said_so() {
        let dir = std::env::temp_dir();
        let mut report = Report::new("test", &dir);
        report.gate("ratio", 0.59, Limit::AtLeast(0.6));
        report.gate("seconds", 9.0, Limit::AtMost(10.0));
        let figures = report.finish().expect("standard output takes it");
        let passed: Vec<_> = figures["gates"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|gate| gate["passed"].as_bool())
            .collect();
        assert_eq!(passed, [Some(false), Some(true)]);
        assert_eq!(figures["benchmark"], "test");
    }

    #[test]
    fn sizes_of_the_system_are_in_bytes() {
        assert_eq!(kib_in_bytes("16 kB"), Some(16_384));
        assert_eq!(kib_in_bytes("16 MB"), None);
    }
}
