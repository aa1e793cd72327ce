//! Everything that is built for a run, and the cells of each backend's row: cold load, disk, rows by
//! key, appends, erasure. The searches come from `contest`.

use std::{fs, path::Path, time::Instant};

use serde_json::{Value, json};

use super::{
    super::{
        BenchError, make_dir,
        report::{Limit, Report, Series, progress},
    },
    Options, append,
    contest::Standing,
    crossover,
    data::{K, Random, Set, clustered},
    engine::{BuildCost, EF, Ours, Raw, spelled},
    filters,
    lance::{self, NPROBES, OnLance},
    rules::Cells,
};
use crate::engines::lance::LanceSearch;

/// Rows of an append.
const APPENDED: usize = 10_000;
/// Rows read by key.
const ROWS_READ: u64 = 500;

/// A graph by the library alone and by the engine, of one number format.
pub(super) struct Pair {
    pub raw: Raw,
    raw_file: std::path::PathBuf,
    /// Seconds of each build.
    raw_builds: Series,
    pub ours: Ours,
    builds: Series,
    peak_bytes: u64,
}

/// One kind of Lance index.
pub(super) struct LanceBuilt {
    pub ours: OnLance,
    cost: BuildCost,
}

pub(super) struct Backends {
    pub hnsw: Vec<Pair>,
    pub lance: Vec<LanceBuilt>,
}

impl Backends {
    pub(super) fn build(options: &Options, set: &Set, dir: &Path) -> Result<Self, BenchError> {
        let mut hnsw = Vec::new();
        for format in &options.quantization {
            let quantization = format.quantization();
            let name = spelled(quantization);
            progress(&format!("vectors: hnsw {name}"));
            let raw_file = make_dir(dir, "raw")?.join(format!("{name}.usearch"));
            let place = dir.join(format!("hnsw-{name}"));
            let (mut raw_builds, mut builds) = (Series::default(), Series::default());
            // In turns, so that what else the machine does meets both.
            for _ in 1..options.builds {
                raw_builds.push(Raw::build(set, quantization, &raw_file)?.1.seconds);
                builds.push(Ours::build(set, quantization, &place, &|_| true)?.1.seconds);
                fs::remove_dir_all(&place).map_err(|error| BenchError::file(&place, error))?;
            }
            let (raw, raw_cost) = Raw::build(set, quantization, &raw_file)?;
            let (ours, cost) = Ours::build(set, quantization, &place, &|_| true)?;
            raw_builds.push(raw_cost.seconds);
            builds.push(cost.seconds);
            hnsw.push(Pair {
                raw,
                raw_file,
                raw_builds,
                ours,
                builds,
                peak_bytes: cost.peak_bytes,
            });
        }
        let mut on_lance = Vec::new();
        if !options.no_lance {
            let runtime = lance::runtime()?;
            for kind in &options.lance {
                let kind = kind.lance();
                let name = lance::spelled(kind);
                progress(&format!("vectors: lance {name}"));
                let place = dir.join(format!("lance-{name}"));
                let (ours, cost) = OnLance::build(set, kind, &place, &runtime)?;
                on_lance.push(LanceBuilt { ours, cost });
            }
        }
        Ok(Self {
            hnsw,
            lance: on_lance,
        })
    }

    /// Each backend's row.
    pub(super) fn cells(
        &self,
        options: &Options,
        set: &Set,
        standings: &[Standing],
        dir: &Path,
    ) -> Result<Vec<Cells>, BenchError> {
        let added = clustered(APPENDED, 0, set.dimensions, options.seed + 1).rows;
        let mut cells = Vec::new();
        for pair in &self.hnsw {
            progress("vectors: cells of a graph");
            cells.push(of_hnsw(pair, options, set, standings, &added, dir)?);
        }
        for built in &self.lance {
            progress("vectors: cells of lance");
            cells.push(of_lance(built, options, set, standings, &added, dir)?);
        }
        Ok(cells)
    }

    /// Filtered searches of each graph and of each Lance index but the flat one.
    pub(super) fn filters(
        &self,
        options: &Options,
        set: &Set,
        standings: &[Standing],
        report: &mut Report,
    ) -> Result<(), BenchError> {
        let (mut figures, mut crossings) = (serde_json::Map::new(), serde_json::Map::new());
        for pair in &self.hnsw {
            let name = format!(
                "engine hnsw {}",
                spelled(pair.ours.index.config().quantization)
            );
            let cheapest = standing(standings, &name)?.setting;
            let (ef, json, worst, lowest) =
                at_every_share(&name, EF, cheapest, options.recall, |ef| {
                    filters::measure(&name, set, options.repeat.min(3), |query, visible| {
                        let found = pair.ours.index.search(query, K, Some(ef), visible)?;
                        Ok((found.hits, found.path))
                    })
                })?;
            report.gate(
                format!("{name}: worst filtered p50"),
                worst,
                Limit::AtMost(5.0),
            );
            report.gate(
                format!("{name}: lowest filtered recall"),
                lowest,
                Limit::AtLeast(0.99),
            );
            figures.insert(name.clone(), json!({ "ef": ef, "shares": json }));
            progress(&format!("vectors: where walk and scan cross, {name}"));
            crossings.insert(name, crossover::measure(&pair.ours, set, ef)?);
        }
        report.set("crossover", crossings.into());
        for built in self.lance.iter().filter(|built| !built.ours.is_flat()) {
            let name = format!("engine lance {}", lance::spelled(built.ours.index.kind()));
            let cheapest = standing(standings, &name)?.setting;
            let few = set.first_queries(50);
            let (nprobes, json, worst, lowest) =
                at_every_share(&name, NPROBES, cheapest, options.recall, |nprobes| {
                    let options = LanceSearch {
                        nprobes: Some(nprobes),
                        ..LanceSearch::default()
                    };
                    filters::measure(&name, &few, 1, |query, visible| {
                        let found = built.ours.search(query, options, visible)?;
                        Ok((found.hits, found.path))
                    })
                })?;
            report.gate(
                format!("{name}: worst filtered p50"),
                worst,
                Limit::AtMost(5.0),
            );
            report.gate(
                format!("{name}: lowest filtered recall"),
                lowest,
                Limit::AtLeast(0.99),
            );
            figures.insert(name, json!({ "nprobes": nprobes, "shares": json }));
        }
        report.set("filters", figures.into());
        Ok(())
    }
}

/// Measures filters at the cheapest of `settings` that finds enough at every share, or at the surest; begins with
/// the one that does without a filter.
fn at_every_share(
    name: &str,
    settings: &[usize],
    cheapest: usize,
    recall: f64,
    mut measure: impl FnMut(usize) -> Result<(Value, f64, f64), BenchError>,
) -> Result<(usize, Value, f64, f64), BenchError> {
    let mut settings = settings.iter().filter(|&&at| at >= cheapest).peekable();
    loop {
        let at = settings.next().copied().unwrap_or(cheapest);
        progress(&format!("vectors: filters, {name}, at {at}"));
        let (json, worst, lowest) = measure(at)?;
        if lowest >= recall || settings.peek().is_none() {
            return Ok((at, json, worst, lowest));
        }
    }
}

fn of_hnsw(
    pair: &Pair,
    options: &Options,
    set: &Set,
    standings: &[Standing],
    added: &[f32],
    dir: &Path,
) -> Result<Cells, BenchError> {
    let quantization = pair.ours.index.config().quantization;
    let format = spelled(quantization);
    let ours = standing(standings, &format!("engine hnsw {format}"))?;
    let raw = standing(standings, &format!("raw usearch {format}"))?;
    let cold = series(options.repeat, || pair.ours.cold(set))?;
    let raw_cold = series(options.repeat, || {
        Raw::cold(&pair.raw_file, quantization, set)
    })?;
    let rows = rows_read(set, |slot| pair.ours.row_us(slot))?;
    let mut appends = Series::default();
    for round in 0..options.repeat {
        let file = dir.join(format!("delta-{format}-{round}.parquet"));
        appends.push(append::write(added, set.dimensions, set.len(), &file)?);
    }
    let after = append::search_us(&pair.ours, set, ours.setting, added)?;
    let clock = Instant::now();
    let place = dir.join(format!("hnsw-{format}-erased"));
    drop(Ours::build(set, quantization, &place, &|slot| slot != 7)?);
    let erase_s = clock.elapsed().as_secs_f64();
    let graph = pair.ours.built.files.iter();
    let graph_bytes = graph.filter(|file| file.name.ends_with(".usearch"));
    Ok(Cells {
        name: format!("parquet + usearch {format}"),
        cold_ms: cold.median(),
        raw_cold_ms: Some(raw_cold.median()),
        search_us: ours.p50.median(),
        raw_search_us: Some(raw.p50.median()),
        recall: ours.recall,
        recall_reached: ours.reached,
        disk_bytes: pair.ours.built.stats.bytes,
        row_us: (rows.quantile(0.5), rows.quantile(0.99)),
        append_ms: Some(appends.median()),
        search_after_append_us: Some(after),
        builds: pair.builds.clone(),
        raw_builds: Some(pair.raw_builds.clone()),
        peak_bytes: pair.peak_bytes,
        erase_s: Some(erase_s),
        erased_still_there: Some(false),
        memory_bytes: pair.ours.index.memory_bytes() as u64,
        graph_bytes: graph_bytes.map(|file| file.bytes).sum(),
    })
}

fn of_lance(
    built: &LanceBuilt,
    options: &Options,
    set: &Set,
    standings: &[Standing],
    added: &[f32],
    dir: &Path,
) -> Result<Cells, BenchError> {
    let kind = lance::spelled(built.ours.index.kind());
    let ours = standing(standings, &format!("engine lance {kind}"))?;
    let raw = standing(standings, &format!("raw lance {kind}"))?;
    let cold = series(options.repeat, || built.ours.cold(set))?;
    let raw_cold = series(options.repeat, || built.ours.raw_cold(set))?;
    let rows = rows_read(set, |slot| built.ours.row_us(slot))?;
    let mut copy = built.ours.copy(&dir.join(format!("lance-{kind}-copy")))?;
    let append_ms = copy.append(added, set.dimensions, set.len())?;
    let after = copy.search_us(set, ours.setting)?;
    let erased = 7;
    let mut copy = built.ours.copy(&dir.join(format!("lance-{kind}-erased")))?;
    let erase_s = copy.erase(erased)?;
    Ok(Cells {
        name: format!("lance {kind}"),
        cold_ms: cold.median(),
        raw_cold_ms: Some(raw_cold.median()),
        search_us: ours.p50.median(),
        raw_search_us: Some(raw.p50.median()),
        recall: ours.recall,
        recall_reached: ours.reached,
        disk_bytes: built.ours.built.stats.bytes,
        row_us: (rows.quantile(0.5), rows.quantile(0.99)),
        append_ms: Some(append_ms),
        search_after_append_us: Some(after),
        builds: [built.cost.seconds].into_iter().collect(),
        raw_builds: None,
        peak_bytes: built.cost.peak_bytes,
        erase_s: Some(erase_s),
        erased_still_there: Some(copy.holds(set.row(erased))?),
        memory_bytes: built.ours.index.memory_bytes(),
        graph_bytes: 0,
    })
}

fn standing<'a>(standings: &'a [Standing], name: &str) -> Result<&'a Standing, BenchError> {
    let found = standings.iter().find(|side| side.name == name);
    found.ok_or_else(|| BenchError::wrong("vectors", format!("`{name}` was not measured")))
}

fn series(
    repeat: u32,
    mut measure: impl FnMut() -> Result<f64, BenchError>,
) -> Result<Series, BenchError> {
    (0..repeat).map(|_| measure()).collect()
}

/// The times of rows read by key, in no order of their slots.
fn rows_read(
    set: &Set,
    mut read: impl FnMut(usize) -> Result<f64, BenchError>,
) -> Result<Series, BenchError> {
    let mut random = Random(7);
    let mut slot = || usize::try_from(random.next() % set.len() as u64).unwrap_or_default();
    (0..ROWS_READ).map(|_| read(slot())).collect()
}
