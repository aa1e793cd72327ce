//! Long operations: how far they are.

use actix_web::{HttpResponse, web};
use lakehouse_actors::JobView;
use serde_json::{Value, json};

use super::{
    Edge,
    auth::{May, ReadCatalog},
    problem::Problem,
    times,
};

/// `/jobs…`
pub fn routes(config: &mut web::ServiceConfig) {
    config.route("/jobs", web::get().to(list)).route("/jobs/{id}", web::get().to(show));
}

/// Every job, newest first.
#[utoipa::path(get, path = "/jobs", tag = "jobs",
    responses((status = 200, description = "{items: [job], next: null}")))]
pub async fn list(edge: web::Data<Edge>, _: May<ReadCatalog>) -> HttpResponse {
    let jobs: Vec<Value> = edge.lake.jobs().all().iter().map(view).collect();
    HttpResponse::Ok().json(json!({ "items": jobs, "next": null }))
}

/// One job.
#[utoipa::path(get, path = "/jobs/{id}", tag = "jobs", params(("id" = String, Path)),
    responses((status = 200, description = "{state, done, total, rate_per_s, eta_s, error?}"),
        (status = 404, body = Problem)))]
pub async fn show(
    edge: web::Data<Edge>,
    _: May<ReadCatalog>,
    id: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let job = edge.lake.jobs().find(&id).ok_or_else(|| Problem::not_found("job", &id))?;
    Ok(HttpResponse::Ok().json(view(&job)))
}

fn view(job: &JobView) -> Value {
    let mut value = json!(job);
    value["created_at"] = json!(times::text(job.created_at));
    value
}
