//! `GET /vectors/hnsw/trials/{idx}/plot.svg`: recall against latency, a point a trial.

use std::collections::BTreeMap;

use actix_web::{HttpResponse, web};
use lakehouse_journal::model::catalog::Trial;
use plotters::{
    chart::ChartBuilder,
    prelude::{Circle, IntoDrawingArea, IntoLogRange, SVGBackend},
    series::LineSeries,
    style::{Color, RGBColor, WHITE},
};

use super::{answering, micros, share};
use crate::rest::{
    Edge,
    auth::{May, ReadData},
    problem::Problem,
};

const SIZE: (u32, u32) = (960, 600);
/// Colours that people who see few of them can tell apart.
const COLOURS: &[RGBColor] = &[
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
];

/// Recall against latency of every trial, one line a graph.
#[utoipa::path(get, path = "/vectors/hnsw/trials/{idx}/plot.svg", tag = "quality", params(("idx" = String, Path)),
    responses((status = 200, description = "image/svg+xml"), (status = 404, body = Problem)))]
pub async fn plot(
    edge: web::Data<Edge>,
    may: May<ReadData>,
    index: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let catalog = edge.lake.catalog();
    answering(&edge, &catalog.state, &may, &index)?;
    let trials = catalog.state.trials_of(&index).map(|(_, kept)| &kept.trial);
    let svg = draw(&index, trials).map_err(|error| Problem::internal(&error))?;
    Ok(HttpResponse::Ok().content_type("image/svg+xml").body(svg))
}

/// The points of each graph, by what it was built as.
fn draw<'a>(index: &str, trials: impl Iterator<Item = &'a Trial>) -> Result<String, String> {
    let mut graphs: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    for trial in trials {
        let config = &trial.config;
        let name = format!(
            "{} M {} ef_construction {}",
            config.quantization.as_deref().unwrap_or("–"),
            config.connectivity.unwrap_or_default(),
            config.ef_construction.unwrap_or_default(),
        );
        let point = (
            share(trial.recall_ppm),
            micros(trial.latency_ns.p50).max(0.1),
        );
        graphs.entry(name).or_default().push(point);
    }
    let points = || graphs.values().flatten();
    let lowest = points().map(|point| point.0).fold(1.0, f64::min);
    let fastest = points().map(|point| point.1).fold(f64::INFINITY, f64::min);
    let slowest = points().map(|point| point.1).fold(1.0, f64::max);
    let fastest = if fastest.is_finite() { fastest } else { 1.0 };
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let failed = |error: &dyn std::fmt::Display| error.to_string();
        area.fill(&WHITE).map_err(|error| failed(&error))?;
        let mut chart = ChartBuilder::on(&area)
            .caption(format!("{index}: recall and latency"), ("sans-serif", 22))
            .margin(16)
            .x_label_area_size(44)
            .y_label_area_size(72)
            .build_cartesian_2d(
                (lowest - 0.01).max(0.0)..1.001,
                (fastest * 0.8..slowest * 1.25).log_scale(),
            )
            .map_err(|error| failed(&error))?;
        chart
            .configure_mesh()
            .x_desc("recall")
            .y_desc("p50, microseconds")
            .draw()
            .map_err(|error| failed(&error))?;
        for (number, (name, points)) in graphs.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            let mut line = points.clone();
            line.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
            chart
                .draw_series(LineSeries::new(line.clone(), &colour))
                .map_err(|error| failed(&error))?
                .label(name.as_str())
                .legend(move |at| Circle::new(at, 4, colour.filled()));
            let dots = line.iter().map(|at| Circle::new(*at, 4, colour.filled()));
            chart.draw_series(dots).map_err(|error| failed(&error))?;
        }
        if !graphs.is_empty() {
            chart
                .configure_series_labels()
                .background_style(WHITE.mix(0.8))
                .draw()
                .map_err(|error| failed(&error))?;
        }
        area.present().map_err(|error| failed(&error))?;
    }
    Ok(svg)
}
