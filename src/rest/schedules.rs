//! Schedules: what the daemon does by the clock, when it will, and the way to stop and to hurry it.

use actix_web::{HttpResponse, web};
use lakehouse_actors::{ScheduleInfo, ScheduledTask};
use serde_json::{Value, json};

use super::{
    Edge,
    auth::{May, ReadCatalog, Write},
    problem::Problem,
    times,
};

/// `/schedules…`
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/schedules", web::get().to(list))
        .route("/schedules/{name}/run", web::post().to(run))
        .route("/schedules/{name}/pause", web::post().to(pause))
        .route("/schedules/{name}/resume", web::post().to(resume));
}

/// Every schedule: the daemon's own, and those of datasets.
#[utoipa::path(get, path = "/schedules", tag = "schedules",
    responses((status = 200, description = "{items: [{name, task, dataset?, cron, time_zone, paused, last_due_at, next_run_at}], next: null}")))]
pub async fn list(edge: web::Data<Edge>, _: May<ReadCatalog>) -> HttpResponse {
    let items: Vec<Value> = edge.lake.schedules().iter().map(view).collect();
    HttpResponse::Ok().json(json!({ "items": items, "next": null }))
}

/// Does now what a schedule is for; its times stay as they are.
#[utoipa::path(post, path = "/schedules/{name}/run", tag = "schedules", params(("name" = String, Path)),
    responses((status = 202, description = "the schedule"), (status = 404, body = Problem), (status = 422, body = Problem)))]
pub async fn run(
    edge: web::Data<Edge>,
    _: May<Write>,
    name: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let schedule = edge.lake.schedule_named(&name)?;
    edge.lake.carry_out(&schedule.task).await?;
    Ok(HttpResponse::Accepted().json(view(&schedule)))
}

/// Lets a schedule rest, also across restarts.
#[utoipa::path(post, path = "/schedules/{name}/pause", tag = "schedules", params(("name" = String, Path)),
    responses((status = 200, description = "the schedule, with `journal_seq`"), (status = 404, body = Problem)))]
pub async fn pause(
    edge: web::Data<Edge>,
    may: May<Write>,
    name: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    set_paused(&edge, &may, &name, true).await
}

/// Lets a schedule run again; times that passed while it rested are not made up.
#[utoipa::path(post, path = "/schedules/{name}/resume", tag = "schedules", params(("name" = String, Path)),
    responses((status = 200, description = "the schedule, with `journal_seq`"), (status = 404, body = Problem)))]
pub async fn resume(
    edge: web::Data<Edge>,
    may: May<Write>,
    name: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    set_paused(&edge, &may, &name, false).await
}

async fn set_paused(
    edge: &Edge,
    may: &May<Write>,
    name: &str,
    paused: bool,
) -> Result<HttpResponse, Problem> {
    let noted = edge
        .lake
        .pause_schedule(name, paused, may.caller(&[]))
        .await?;
    let mut answer = view(&edge.lake.schedule_named(name)?);
    answer["journal_seq"] = json!(noted.seq);
    Ok(HttpResponse::Ok().json(answer))
}

fn view(schedule: &ScheduleInfo) -> Value {
    let (task, dataset) = match &schedule.task {
        ScheduledTask::SweepOrphans => ("sweep_orphans", None),
        ScheduledTask::Compact { dataset } => ("compact", Some(dataset)),
        ScheduledTask::Refresh { dataset } => ("refresh", Some(dataset)),
    };
    json!({
        "name": schedule.trigger.name,
        "task": task,
        "dataset": dataset,
        "cron": schedule.trigger.cron,
        "time_zone": schedule.trigger.zone.name(),
        "paused": schedule.paused,
        "last_due_at": times::maybe(schedule.last_due),
        "next_run_at": times::maybe(schedule.next_due),
    })
}
