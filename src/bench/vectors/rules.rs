//! The rules by which ADR-019 is decided, applied to the figures of one run and to nothing else:
//! where vectors lie at rest, in Parquet with a usearch graph beside it, or in Lance.

use serde_json::{Value, json};

use super::super::report::Series;

/// One backend's row of the table: the seed's five cells, then ours. What was not measured is absent.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Cells {
    pub name: String,
    /// From nothing in memory to the first answer.
    pub cold_ms: f64,
    /// The same by the library alone.
    pub raw_cold_ms: Option<f64>,
    /// The median search at the recall asked for.
    pub search_us: f64,
    /// The same by the library alone.
    pub raw_search_us: Option<f64>,
    /// The recall that it has then.
    pub recall: f64,
    /// Whether that is what was asked for.
    pub recall_reached: bool,
    /// All files.
    pub disk_bytes: u64,
    /// A row by its key: median and p99.
    pub row_us: (f64, f64),
    /// 10,000 rows more, durable.
    pub append_ms: Option<f64>,
    /// The median search right after that.
    pub search_after_append_us: Option<f64>,
    /// Seconds of each build.
    pub builds: Series,
    /// The same by the library alone, in turns with them.
    pub raw_builds: Option<Series>,
    pub peak_bytes: u64,
    /// One row out of every byte.
    pub erase_s: Option<f64>,
    /// Whether its vector is still in a file afterwards.
    pub erased_still_there: Option<bool>,
    /// Bytes in memory when everything that searches touch was touched.
    pub memory_bytes: u64,
    /// The graph's file, where there is one.
    pub graph_bytes: u64,
}

impl Cells {
    pub(super) fn json(&self) -> Value {
        json!({
            "backend": self.name, "cold_load_ms": self.cold_ms, "raw_cold_load_ms": self.raw_cold_ms,
            "search_p50_us": self.search_us, "raw_search_p50_us": self.raw_search_us,
            "recall_at_10": self.recall, "recall_reached": self.recall_reached,
            "disk_bytes": self.disk_bytes, "row_by_key_p50_us": self.row_us.0,
            "row_by_key_p99_us": self.row_us.1, "append_10000_ms": self.append_ms,
            "search_after_append_p50_us": self.search_after_append_us, "build_s": self.builds.json(),
            "raw_build_s": self.raw_builds.as_ref().map(Series::json), "build_peak_bytes": self.peak_bytes,
            "erase_one_row_s": self.erase_s, "erased_row_still_there": self.erased_still_there,
            "memory_bytes": self.memory_bytes, "graph_file_bytes": self.graph_bytes,
        })
    }
}

/// What the rules say of one kind of Lance index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Cold load at least twice as fast, search within 50 %: vectors move to Lance.
    Moves,
    /// Every cell of the seed's table within 50 %: Parquet stays.
    Stays,
    /// Slower by more than 50 % in cold load and in search: the door is closed.
    Closed,
    /// No rule fits: each index is decided for itself.
    NoRule,
}

impl Verdict {
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Moves => "vectors move to Lance",
            Self::Stays => "Parquet stays",
            Self::Closed => "door closed",
            Self::NoRule => "no rule fits: decided per index",
        }
    }
}

/// How much more Lance needs than Parquet with usearch, in each cell of the seed's table. Below 1
/// Lance is ahead.
pub(super) fn ratios(parquet: &Cells, lance: &Cells) -> Vec<(&'static str, f64)> {
    let bytes = super::super::report::float;
    let mut ratios = vec![
        ("cold load", lance.cold_ms / parquet.cold_ms),
        ("search p50", lance.search_us / parquet.search_us),
        (
            "disk size",
            bytes(lance.disk_bytes) / bytes(parquet.disk_bytes),
        ),
        ("row by key", lance.row_us.0 / parquet.row_us.0),
    ];
    if let (Some(ours), Some(theirs)) = (parquet.append_ms, lance.append_ms) {
        ratios.push(("append of 10,000", theirs / ours));
    }
    ratios
}

/// The seed's rules, in its order.
pub(super) fn verdict(parquet: &Cells, lance: &Cells) -> Verdict {
    let ratios = ratios(parquet, lance);
    let (cold, search) = (ratios[0].1, ratios[1].1);
    // A search that does not find enough has no latency to compare.
    let search = if lance.recall_reached {
        search
    } else {
        f64::INFINITY
    };
    if cold <= 0.5 && search <= 1.5 {
        Verdict::Moves
    } else if search <= 1.5 && ratios.iter().all(|(_, r)| (1.0 / 1.5..=1.5).contains(r)) {
        Verdict::Stays
    } else if cold > 1.5 && search > 1.5 {
        Verdict::Closed
    } else {
        Verdict::NoRule
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(cold_ms: f64, search_us: f64, row: f64) -> Cells {
        Cells {
            cold_ms,
            search_us,
            recall_reached: true,
            disk_bytes: 100,
            row_us: (row, row),
            append_ms: Some(10.0),
            ..Cells::default()
        }
    }

    #[test]
    fn the_rules_are_the_seeds() {
        let parquet = cells(100.0, 100.0, 10.0);
        for (lance, expected) in [
            (cells(50.0, 150.0, 99.0), Verdict::Moves),
            (cells(50.0, 151.0, 10.0), Verdict::NoRule),
            (cells(140.0, 140.0, 14.0), Verdict::Stays),
            (cells(140.0, 140.0, 99.0), Verdict::NoRule),
            (cells(151.0, 151.0, 1.0), Verdict::Closed),
            (cells(100.0, 900.0, 10.0), Verdict::NoRule),
        ] {
            assert_eq!(verdict(&parquet, &lance), expected, "{lance:?}");
        }
    }

    #[test]
    fn a_search_that_finds_too_little_never_wins() {
        let parquet = cells(100.0, 100.0, 10.0);
        let mut lance = cells(10.0, 10.0, 10.0);
        lance.recall_reached = false;
        assert_eq!(verdict(&parquet, &lance), Verdict::NoRule);
    }
}
