//! The `OpenAPI` document, generated from the routes' own descriptions.

use actix_web::{HttpResponse, web};
use utoipa::{
    Modify, OpenApi,
    openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
};

use super::{
    access, audit, catalog, compliance, console, deletion, erasure, health, ingest, jobs, journal,
    mcp, places, problem, profiles, quality, query, receipts, schedules, storage, tools, vectors,
    views,
};

/// `/openapi.json`
pub fn routes(config: &mut web::ServiceConfig) {
    config.route("/openapi.json", web::get().to(document));
}

/// Every route that there is.
#[derive(OpenApi)]
#[openapi(
    info(title = "lakehouse", description = "A governed lakehouse: tables, SQL and semantic search behind one journal."),
    paths(
        health::health, health::actors, health::metrics,
        document, console::page,
        catalog::list, catalog::show, catalog::patch, catalog::remove,
        catalog::tombstone, catalog::tombstones, catalog::compact, deletion::delete_where,
        erasure::show, erasure::erase,
        views::define, views::list, views::show, views::remove, views::preview, views::diff,
        ingest::file, ingest::postgres::db,
        jobs::list, jobs::show,
        schedules::list, schedules::run, schedules::pause, schedules::resume,
        query::sql, query::explain,
        vectors::define,
        vectors::define_lance, vectors::list, vectors::show, vectors::remove,
        vectors::build_generation, vectors::promote, vectors::rollback, vectors::row,
        vectors::search, vectors::refresh, vectors::retry, vectors::failures, vectors::last_run, vectors::stale,
        quality::autogen, quality::evals, quality::trial, quality::trials, quality::best,
        quality::plot, quality::tune, quality::cache, quality::set_slo, quality::slo,
        profiles::save, profiles::list, profiles::activate,
        journal::events, journal::history, journal::stream, journal::stats, journal::verify,
        storage::buckets, storage::register, storage::unregister, storage::health,
        storage::objects::list, storage::objects::read, storage::objects::head,
        storage::objects::write, storage::objects::remove,
        storage::errors::list, storage::errors::flush, storage::errors::compact,
        places::move_to, places::resync, places::resync_missing, places::adopt,
        mcp::serve, receipts::show, tools::register, tools::list, tools::remove, tools::call,
        audit::list, audit::verify, audit::subject,
        access::issue, access::list, access::revoke,
        compliance::key,
    ),
    components(schemas(problem::Problem)),
    modifiers(&BearerToken),
    security(("bearer" = []))
)]
pub struct ApiDoc;

struct BearerToken;

impl Modify for BearerToken {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
    }
}

/// This document. Needs no token.
#[utoipa::path(get, path = "/openapi.json", tag = "health", security(()),
    responses((status = 200, description = "OpenAPI")))]
pub async fn document() -> HttpResponse {
    HttpResponse::Ok().json(ApiDoc::openapi())
}
