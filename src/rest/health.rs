//! Health, the supervision tree and metrics.

use std::sync::atomic::{AtomicU64, Ordering};

use actix_web::{HttpResponse, web};
use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::{Registry, Unit},
};
use serde_json::json;

use super::{
    Edge,
    auth::{May, ReadCatalog},
    problem::Problem,
    times,
};

/// `/health`, `/health/actors`, `/metrics`.
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/health", web::get().to(health))
        .route("/health/actors", web::get().to(actors))
        .route("/metrics", web::get().to(metrics));
}

/// Counts of what the daemon did since it started.
#[derive(Debug, Default)]
pub struct Metrics {
    /// SQL statements answered.
    pub queries: AtomicU64,
    /// Searches answered.
    pub searches: AtomicU64,
    /// Rows taken in.
    pub rows_ingested: AtomicU64,
    /// Rows deleted for good.
    pub rows_tombstoned: AtomicU64,
}

/// Whether the daemon is well. Needs no token.
#[utoipa::path(get, path = "/health", tag = "health", security(()),
    responses((status = 200, description = "{status, version, journal: {seq, durable_seq}, embedders: [{provider, state}], uptime_s}")))]
pub async fn health(edge: web::Data<Edge>) -> HttpResponse {
    let stats = edge.lake.journal().reader().stats();
    let embedders = edge.indexes.embedders().health();
    let is_down = embedders.iter().any(|provider| provider.down.is_some());
    // What went wrong is for who has a token: `GET /vectors/stale` tells it.
    let embedders: Vec<_> = embedders
        .iter()
        .map(|provider| {
            let answers = provider.down.is_none();
            let word = if answers { "up" } else { "down" };
            json!({ "provider": provider.provider, "state": word })
        })
        .collect();
    let degraded = edge.lake.degraded() || is_down;
    HttpResponse::Ok().json(json!({
        "status": if degraded { "degraded" } else { "ok" },
        "embedders": embedders,
        "version": env!("CARGO_PKG_VERSION"),
        "journal": { "seq": stats.events, "durable_seq": stats.events },
        "uptime_s": edge.started.elapsed().as_secs(),
    }))
}

/// Every actor with its state, restarts and last error.
#[utoipa::path(get, path = "/health/actors", tag = "health",
    responses((status = 200, description = "the supervision tree"), (status = 401, body = Problem)))]
pub async fn actors(edge: web::Data<Edge>, _: May<ReadCatalog>) -> HttpResponse {
    let actors: Vec<_> = edge
        .lake
        .actors()
        .into_iter()
        .map(|actor| {
            json!({
                "name": actor.name,
                "parent": actor.parent,
                "state": actor.state,
                "restarts": actor.restarts,
                "last_error": actor.last_error,
                "mailbox": actor.mailbox,
                "started_at": times::text(actor.started_at),
            })
        })
        .collect();
    HttpResponse::Ok().json(actors)
}

/// Counters for Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "health",
    responses((status = 200, description = "OpenMetrics text"), (status = 401, body = Problem)))]
pub async fn metrics(edge: web::Data<Edge>, _: May<ReadCatalog>) -> Result<HttpResponse, Problem> {
    let mut registry = Registry::with_prefix("lakehouse");
    let counters = [
        ("queries", "SQL statements answered", &edge.metrics.queries),
        ("searches", "Searches answered", &edge.metrics.searches),
        (
            "rows_ingested",
            "Rows taken in",
            &edge.metrics.rows_ingested,
        ),
        (
            "rows_tombstoned",
            "Rows deleted for good",
            &edge.metrics.rows_tombstoned,
        ),
    ];
    for (name, help, counter) in counters {
        registry.register(
            name,
            help,
            ConstCounter::new(counter.load(Ordering::Relaxed)),
        );
    }
    let stats = edge.lake.journal().reader().stats();
    let memory = i64::try_from(edge.query.memory_reserved_bytes()).unwrap_or(i64::MAX);
    registry.register(
        "journal_events",
        "Durable events",
        ConstCounter::new(stats.events),
    );
    registry.register_with_unit(
        "query_memory",
        "Memory reserved by queries",
        Unit::Bytes,
        ConstGauge::new(memory),
    );
    registry.register(
        "actors_failed",
        "Actors that are left alone",
        ConstGauge::new(i64::from(edge.lake.degraded())),
    );
    let mut text = String::new();
    encode(&mut text, &registry).map_err(|error| Problem::internal(&error))?;
    Ok(HttpResponse::Ok()
        .content_type("application/openmetrics-text; version=1.0.0; charset=utf-8")
        .body(text))
}
